//! Secrets that options refer to by id (`--object secret,id=sec0,…`, then `encrypt.key-secret=sec0`).

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::{BlockError, Result};

/// The user's secrets by id. Their bytes are never printed.
#[derive(Default)]
pub struct Secrets {
    by_id: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Secrets {
    /// Adds a secret; an id may be used once.
    pub fn add(&self, id: &str, bytes: Vec<u8>) -> Result<()> {
        match self.by_id.lock().entry(id.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(BlockError::invalid(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            ))),
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(bytes);
                Ok(())
            }
        }
    }

    /// The bytes of a secret.
    pub fn get(&self, id: &str) -> Result<Vec<u8>> {
        self.by_id
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| BlockError::invalid(format!("No secret with id '{id}'")))
    }
}
