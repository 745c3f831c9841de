//! TLS credentials by the id of the user's object.

use std::sync::Arc;

use rhea_block::{BlockError, Objects, Result};

use crate::address::Address;
use crate::client::ClientTls;

/// The TLS of a client: with the credentials of an id, and the name that the server's certificate must have (else that of
/// the address).
pub fn client_tls(
    objects: &Objects,
    id: &str,
    hostname: Option<String>,
    address: &Address,
) -> Result<ClientTls> {
    let credentials = rhea_block_objects::tls_credentials(objects, id)?;
    let config = credentials.client_config()?;
    let hostname = match hostname.or_else(|| address.host().map(str::to_owned)) {
        Some(hostname) => hostname,
        // Nobody looks at it.
        None if !credentials.verifies_peer() => "localhost".into(),
        None => {
            return Err(BlockError::invalid(
                "No hostname to check the server's certificate against; tls-hostname gives one",
            ));
        }
    };
    Ok(ClientTls { config, hostname })
}

/// The TLS of a server: with the credentials of an id.
pub fn server_tls(objects: &Objects, id: &str) -> Result<Arc<rustls::ServerConfig>> {
    rhea_block_objects::tls_credentials(objects, id)?.server_config()
}
