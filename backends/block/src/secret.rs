//! What the user defines with `--object` and options refer to by id: secrets (`--object secret,id=sec0,…`, then
//! `encrypt.key-secret=sec0`), and objects of other kinds (TLS credentials, throttle groups), which their own crates know.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{BlockError, Result};

/// An object of a kind that the block layer knows nothing of.
type AnyObject = Arc<dyn Any + Send + Sync>;

enum Object {
    Secret(Vec<u8>),
    Other { kind: &'static str, object: AnyObject },
}

/// The user's objects by id. The bytes of secrets are never printed. A clone is another handle of the same objects.
#[derive(Clone, Default)]
pub struct Objects {
    by_id: Arc<Mutex<BTreeMap<String, Object>>>,
}

/// The user's objects, where secrets are what matters.
pub type Secrets = Objects;

impl Objects {
    fn insert(&self, id: &str, object: Object) -> Result<()> {
        match self.by_id.lock().entry(id.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(BlockError::invalid(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            ))),
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(object);
                Ok(())
            }
        }
    }

    /// Adds a secret; an id may be used once.
    pub fn add(&self, id: &str, bytes: Vec<u8>) -> Result<()> {
        self.insert(id, Object::Secret(bytes))
    }

    /// The bytes of a secret.
    pub fn get(&self, id: &str) -> Result<Vec<u8>> {
        match self.by_id.lock().get(id) {
            Some(Object::Secret(bytes)) => Ok(bytes.clone()),
            Some(Object::Other { .. }) => {
                Err(BlockError::invalid(format!("Object with id '{id}' is not a secret")))
            }
            None => Err(BlockError::invalid(format!("No secret with id '{id}'"))),
        }
    }

    /// Adds an object of another kind (`tls-creds-x509`); an id may be used once.
    pub fn add_object(&self, id: &str, kind: &'static str, object: AnyObject) -> Result<()> {
        self.insert(id, Object::Other { kind, object })
    }

    /// The object of an id, if it is of this type; `wanted` is the kind's name in the message if it is not.
    pub fn object<T: Any + Send + Sync>(&self, id: &str, wanted: &str) -> Result<Arc<T>> {
        match self.by_id.lock().get(id) {
            Some(Object::Other { object, .. }) => object
                .clone()
                .downcast()
                .map_err(|_| BlockError::invalid(format!("Object with id '{id}' is not a {wanted} object"))),
            Some(Object::Secret(_)) => {
                Err(BlockError::invalid(format!("Object with id '{id}' is not a {wanted} object")))
            }
            None => Err(BlockError::invalid(format!("No {wanted} object with id '{id}'"))),
        }
    }

    /// The ids and kinds of all objects.
    pub fn list(&self) -> Vec<(String, &'static str)> {
        let kind = |object: &Object| match object {
            Object::Secret(_) => "secret",
            Object::Other { kind, .. } => kind,
        };
        self.by_id.lock().iter().map(|(id, object)| (id.clone(), kind(object))).collect()
    }

    /// Removes an object; whoever uses it keeps it.
    pub fn remove(&self, id: &str) -> Result<()> {
        match self.by_id.lock().remove(id) {
            Some(_) => Ok(()),
            None => Err(BlockError::invalid(format!("object '{id}' not found"))),
        }
    }
}
