//! What a virtio block device does with a request, whoever brought it: a queue of one of our machines, or one of another
//! process by vhost-user.
//!
//! A request comes as two [`IoVector`](rhea_async_io::IoVector)s: what the driver has for the device (the header, and the
//! data of a write), and room for what the device has for the driver (the data of a read, and the status byte). Both are
//! the guest's, and so is all they hold: nothing in them is believed.

mod disk;
pub mod spec;

pub use disk::{Disk, DiskOptions};
