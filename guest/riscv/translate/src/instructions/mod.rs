//! What each instruction does, a file for each table.

mod a;
mod b;
mod c;
mod crypto;
mod f;
mod i;
mod m;
mod privileged;
mod zi;
