//! `null`: output vanishes, input never comes.

use std::sync::Arc;

use crate::{CharReceiver, CharSink, Chardev};

/// The back end that discards everything.
#[derive(Debug, Default)]
pub struct NullChardev;

impl CharSink for NullChardev {
    fn write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn is_open(&self) -> bool {
        true
    }
}

impl Chardev for NullChardev {
    fn attach(&self, _receiver: Arc<dyn CharReceiver>) {}

    fn accept_input(&self) {}
}
