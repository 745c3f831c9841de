//! `--nbd-server`: the one NBD server that all exports of the type `nbd` go by.

use std::sync::Arc;

use rhea_async_io::spawn;
use rhea_block::{BlockError, Registry, Result};
use rhea_nbd::{Address, Listener, Server, ServerConfig};
use rhea_options::Options;

use crate::exports::refuse_others;

/// Clients at a time, unless told otherwise.
const MAX_CONNECTIONS: u32 = 100;

/// Threads that serve clients.
const MAX_THREADS: usize = 4;

/// The server, listening.
pub struct NbdServer {
    server: Arc<Server>,
}

impl NbdServer {
    /// Starts to listen as the options say.
    pub fn start(mut options: Options, registry: &Registry) -> Result<Self> {
        let mut address = options.take_object("addr");
        if address.is_empty() {
            return Err(BlockError::invalid("Parameter 'addr' is missing"));
        }
        let address = {
            let taken = Address::take("addr", &mut address)?;
            refuse_others(&address)?;
            taken
        };
        let mut config = ServerConfig {
            max_clients: options.take::<u32>("max-connections")?.unwrap_or(MAX_CONNECTIONS) as usize,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
            ..ServerConfig::default()
        };
        if let Some(limit) = options.take::<u32>("handshake-max-seconds")? {
            config.handshake_limit = std::time::Duration::from_secs(limit.into());
        }
        if let Some(id) = options.take::<String>("tls-creds")? {
            config.tls = Some(rhea_nbd::server_tls(registry.objects(), &id)?);
        }
        if let Some(id) = options.take::<String>("tls-authz")? {
            if config.tls.is_none() {
                return Err(BlockError::invalid("tls-authz needs tls-creds"));
            }
            config.authorization = Some(rhea_block_objects::authorization(registry.objects(), &id)?);
        }
        refuse_others(&options)?;
        let server = Server::new(config);
        for listener in Listener::bind(&address)? {
            let server = server.clone();
            spawn(async move { server.listen(listener).await }).detach();
        }
        Ok(Self { server })
    }

    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }
}
