//! TLS credentials by the id of the user's object.

use rhea_block::{BlockError, Registry, Result};

use crate::address::Address;
use crate::client::ClientTls;

/// The credentials of a client.
pub(crate) fn client(
    _registry: &Registry,
    id: &str,
    _hostname: Option<String>,
    _address: &Address,
) -> Result<ClientTls> {
    Err(BlockError::invalid(format!("No TLS credentials with id '{id}'")))
}
