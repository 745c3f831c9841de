//! What `rhea-decoder` makes of the tables.

include!(concat!(env!("OUT_DIR"), "/instructions.rs"));
