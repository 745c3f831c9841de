//! The server: exports, listeners, and a task for each client.
//!
//! What a client can make the server do is bounded: the handshake in time and in the size of each option, a session in
//! requests under way and in bytes of their payloads (`transmission`). A client that breaks the protocol is cut off;
//! requests under way end first, so that nothing is left half done by the disconnection.

mod budget;
mod export;
mod negotiation;
mod transmission;
mod workers;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use event_listener::Event;
use futures_util::future::{Either, select};
use parking_lot::Mutex;
use rhea_async_io::Timer;
use rhea_block::{BlockError, Result};
use rhea_block_objects::Authorization;

pub use export::{Export, ExportOptions};

use crate::address::Listener;
use crate::server::workers::Workers;
use crate::stream::Stream;

/// What holds for all clients of a server.
#[derive(Clone)]
pub struct ServerConfig {
    /// Clients must use TLS with these credentials.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Of the clients with TLS, only those whose certificates' subjects are let in here.
    pub authorization: Option<Arc<Authorization>>,
    /// Seconds for the handshake; zero: no limit.
    pub handshake_limit: Duration,
    /// Clients at a time; others wait until one leaves. 0: any number.
    pub max_clients: usize,
    /// Threads that serve clients, the listener's among them. Those beside it are started when there are clients for
    /// them.
    pub threads: usize,
    /// Told of each client that comes, goes or is cut off.
    pub log: Option<Arc<dyn Fn(&str) + Send + Sync>>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            tls: None,
            authorization: None,
            handshake_limit: Duration::from_secs(10),
            max_clients: 0,
            threads: 1,
            log: None,
        }
    }
}

/// Serves exports to clients.
pub struct Server {
    config: ServerConfig,
    exports: Mutex<Vec<Arc<Export>>>,
    clients: AtomicUsize,
    workers: Workers,
    /// Clients have been there that got an export.
    used: AtomicBool,
    stopping: AtomicBool,
    /// Told when a client leaves, or the server is to stop.
    changed: Event,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({} exports, {} clients)", self.exports.lock().len(), self.clients.load(SeqCst))
    }
}

/// The error of a client that breaks the protocol.
fn violation(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Counts a client for as long as it is there.
struct Presence(Arc<Server>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, SeqCst);
        self.0.changed.notify(usize::MAX);
    }
}

impl Server {
    /// A server without exports or listeners.
    pub fn new(config: ServerConfig) -> Arc<Self> {
        Arc::new(Self {
            workers: Workers::new(config.threads),
            config,
            exports: Mutex::default(),
            clients: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            changed: Event::new(),
        })
    }

    /// Offers an export to clients that come from now on.
    pub fn add(&self, export: Arc<Export>) -> Result<()> {
        let mut exports = self.exports.lock();
        if exports.iter().any(|e| e.name == export.name) {
            return Err(BlockError::invalid(format!(
                "NBD server already has export named '{}'",
                export.name
            )));
        }
        exports.push(export);
        Ok(())
    }

    /// Offers an export no more. Clients that have it keep it.
    pub fn remove(&self, name: &str) -> Option<Arc<Export>> {
        let mut exports = self.exports.lock();
        let at = exports.iter().position(|e| e.name == name)?;
        Some(exports.remove(at))
    }

    /// All exports.
    pub fn exports(&self) -> Vec<Arc<Export>> {
        self.exports.lock().clone()
    }

    fn export(&self, name: &str) -> Option<Arc<Export>> {
        self.exports.lock().iter().find(|e| e.name == name).cloned()
    }

    /// Clients connected.
    pub fn clients(&self) -> usize {
        self.clients.load(SeqCst)
    }

    fn log(&self, text: impl FnOnce() -> String) {
        if let Some(log) = &self.config.log {
            log(&text());
        }
    }

    /// Takes clients until the server is stopped, and serves each with a task of its own, on this thread's executor or on
    /// another thread's.
    pub async fn listen(self: &Arc<Self>, listener: Listener) -> io::Result<()> {
        let stopped = self.wait_for(|s| s.stopping.load(SeqCst));
        match select(std::pin::pin!(self.accept_all(&listener)), std::pin::pin!(stopped)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Ok(()),
        }
    }

    async fn accept_all(self: &Arc<Self>, listener: &Listener) -> io::Result<()> {
        loop {
            // Clients beyond the limit wait in the listener's queue.
            self.wait_for(Self::has_room).await;
            match listener.accept().await {
                Ok(stream) => {
                    let presence = self.admit().await;
                    let server = self.clone();
                    self.workers.serve(async move { server.serve_present(stream, presence).await });
                }
                Err(error) => {
                    self.log(|| format!("accept: {error}"));
                    // Out of descriptors, or the client is gone again: both pass.
                    Timer::after(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.config.max_clients == 0 || self.clients.load(SeqCst) < self.config.max_clients
    }

    /// Waits for room for one more client (another listener may have taken it), and counts it.
    async fn admit(self: &Arc<Self>) -> Presence {
        loop {
            let clients = self.clients.load(SeqCst);
            if !self.has_room() {
                self.wait_for(Self::has_room).await;
            } else if self.clients.compare_exchange(clients, clients + 1, SeqCst, SeqCst).is_ok() {
                return Presence(self.clone());
            }
        }
    }

    async fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let listener = self.changed.listen();
            if condition(self) {
                return;
            }
            listener.await;
        }
    }

    /// Serves a client that is connected already, until it leaves.
    pub async fn serve(self: &Arc<Self>, stream: Stream) {
        self.clients.fetch_add(1, SeqCst);
        self.serve_present(stream, Presence(self.clone())).await;
    }

    async fn serve_present(self: &Arc<Self>, stream: Stream, _presence: Presence) {
        let peer = stream.peer();
        self.log(|| format!("{peer} connected"));
        match self.session(stream).await {
            Ok(()) => self.log(|| format!("{peer} left")),
            Err(error) => self.log(|| format!("{peer} cut off: {error}")),
        }
    }

    async fn session(self: &Arc<Self>, stream: Stream) -> io::Result<()> {
        let handshake = negotiation::negotiate(self, stream);
        let limit = async {
            match self.config.handshake_limit {
                Duration::ZERO => std::future::pending().await,
                limit => Timer::after(limit).await,
            };
            io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")
        };
        let stopped = async {
            self.wait_for(|s| s.stopping.load(SeqCst)).await;
            io::Error::new(io::ErrorKind::Interrupted, "the server stops")
        };
        let mut stopped = std::pin::pin!(stopped);
        let limit = std::pin::pin!(limit);
        let ended = select(limit, &mut stopped);
        let settled = match select(std::pin::pin!(handshake), ended).await {
            Either::Left((settled, _)) => settled?,
            Either::Right((error, _)) => return Err(error.factor_first().0),
        };
        let Some((stream, session)) = settled else { return Ok(()) };
        self.used.store(true, SeqCst);
        transmission::run(&Arc::new(stream), session, async {
            stopped.await;
        })
        .await
    }

    /// Waits until a client has used an export and all clients are gone.
    pub async fn unused(&self) {
        self.wait_for(|s| s.used.load(SeqCst) && s.clients.load(SeqCst) == 0).await;
    }

    /// Takes no more clients, takes no more requests of those that are there, and waits until all requests under way
    /// have ended and all clients are gone.
    pub async fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.changed.notify(usize::MAX);
        self.wait_for(|s| s.clients.load(SeqCst) == 0).await;
    }
}
