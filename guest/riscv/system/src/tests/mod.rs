//! Each rule of the specification that this crate carries out, by area.

mod aia;
mod csr;
mod events;
mod hostile;
mod hypervisor;
mod paging;
mod pmp;
