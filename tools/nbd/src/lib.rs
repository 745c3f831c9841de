//! `qemu-nbd`: serves a disk image to NBD clients, lists what other servers offer, and attaches images to the kernel's
//! NBD devices.

mod command_line;
mod device;
mod help;
mod image;
mod listing;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use event_listener::Event;
use futures_util::future::{Either, select};
use rhea_async_io::{block_on, spawn};
use rhea_block::{BlockError, Registry, Result};
use rhea_host::daemon::{self, Forked, PidFile, Readiness};
use rhea_host::descriptors;
use rhea_nbd::{Address, Export, ExportOptions, Listener, Server, ServerConfig};

use crate::command_line::{Config, Parsed};
use crate::image::Image;

/// Threads that serve clients: beyond a few, what they share is in the way.
const MAX_THREADS: usize = 4;

/// Runs the tool and returns its exit status.
pub fn run(program: &str, arguments: &[String]) -> u8 {
    let config = match command_line::parse(program, arguments) {
        Ok(Parsed::Run(config)) => *config,
        Ok(Parsed::Say(text)) => {
            print!("{text}");
            return 0;
        }
        Err(text) => {
            eprintln!("{text}");
            return 1;
        }
    };
    match start(program, &config) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{program}: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("{hint}");
            }
            1
        }
    }
}

fn start(program: &str, config: &Config) -> Result<u8> {
    if config.disconnect {
        device::disconnect(config.file.as_deref().unwrap_or_default())?;
        return Ok(0);
    }
    let activated = activation(config)?;
    let readiness = match config.fork || (config.device.is_some() && !config.verbose) {
        true => match daemon::fork().map_err(|error| BlockError::from(error).context("Failed to fork"))? {
            Forked::Parent(status) => return Ok(status),
            Forked::Child(readiness) => Some(readiness),
        },
        false => None,
    };
    let registry = rhea_block_drivers::registry();
    for text in &config.objects {
        if let Some(help) = rhea_block_objects::object_help(text) {
            print!("{help}");
            return Ok(0);
        }
        rhea_block_objects::add_object(registry.objects(), text)?;
    }
    if config.list {
        let address = address(config)?;
        print!("{}", block_on(listing::list(config, registry.objects(), &address))?);
        return Ok(0);
    }
    // Before other threads start, so that they leave these signals alone.
    let stop = Arc::new(Stop::default());
    let signalled = stop.clone();
    rhea_host::signals::watch(move |_| signalled.set())?;
    block_on(serve(program, config, &registry, activated, readiness, &stop))?;
    Ok(0)
}

/// The wish to end.
#[derive(Default)]
struct Stop {
    wanted: AtomicBool,
    event: Event,
}

impl Stop {
    fn set(&self) {
        self.wanted.store(true, SeqCst);
        self.event.notify(usize::MAX);
    }

    async fn wait(&self) {
        loop {
            let listener = self.event.listen();
            if self.wanted.load(SeqCst) {
                return;
            }
            listener.await;
        }
    }
}

/// The socket that a service manager has opened for us, if it has.
fn activation(config: &Config) -> Result<Option<OwnedFd>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    let Some(count) = number("LISTEN_FDS").filter(|&count| count > 0) else { return Ok(None) };
    let refuse = |text: &str| Err(BlockError::invalid(text));
    if config.list {
        return refuse("List mode is incompatible with socket activation");
    }
    if config.socket.is_some() {
        return refuse("Unix socket can't be set when using socket activation");
    }
    if config.port.is_some() {
        return refuse("TCP port number can't be set when using socket activation");
    }
    if config.bind.is_some() {
        return refuse("The interface can't be set when using socket activation");
    }
    if count > 1 {
        return refuse("qemu-nbd does not support socket activation with LISTEN_FDS > 1");
    }
    Ok(Some(descriptors::take_inherited(descriptors::LISTEN_FDS_START)?))
}

fn address(config: &Config) -> Result<Address> {
    match &config.socket {
        Some(path) => Ok(Address::Unix { path: path.clone() }),
        None => config.inet().map_err(BlockError::invalid),
    }
}

fn listeners(config: &Config, activated: Option<OwnedFd>) -> Result<Vec<Listener>> {
    match activated {
        Some(socket) => Ok(vec![Listener::from_fd(socket)?]),
        // The kernel's client comes by a socket of its own.
        None if config.device.is_some() && config.socket.is_none() => Ok(Vec::new()),
        None => Listener::bind(&address(config)?),
    }
}

fn server_config(program: &str, config: &Config, registry: &Registry) -> Result<ServerConfig> {
    let mut server = ServerConfig {
        handshake_limit: Duration::from_secs(config.handshake_limit.into()),
        max_clients: config.shared,
        threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
        ..ServerConfig::default()
    };
    if let Some(id) = &config.tls_creds {
        let tls = rhea_nbd::server_tls(registry.objects(), id);
        server.tls = Some(tls.map_err(|error| error.context("Failed to get TLS creds"))?);
    }
    if let Some(id) = &config.tls_authz {
        server.authorization = Some(rhea_block_objects::authorization(registry.objects(), id)?);
    }
    if config.verbose {
        let program = program.to_owned();
        server.log = Some(Arc::new(move |text| eprintln!("{program}: {text}")));
    }
    Ok(server)
}

async fn serve(
    program: &str,
    config: &Config,
    registry: &Registry,
    activated: Option<OwnedFd>,
    readiness: Option<Readiness>,
    stop: &Stop,
) -> Result<()> {
    let server = Server::new(server_config(program, config, registry)?);
    let image = Image::open(registry, config).await?;
    let exported = offer(&server, config, &image).await;
    let result = match exported {
        Ok(()) => serve_open(config, &server, activated, readiness, stop).await,
        Err(error) => Err(error),
    };
    server.stop().await;
    for export in server.exports() {
        // What fails here fails again when the image is closed.
        let _ = export.release().await;
    }
    let closed = image.close().await;
    result.and(closed)
}

async fn offer(server: &Server, config: &Config, image: &Image) -> Result<()> {
    let length = image.node.length();
    if config.offset > length {
        return Err(BlockError::invalid(format!(
            "Offset ({}) cannot be greater than size of the containing file ({length})",
            config.offset
        )));
    }
    let export = Export::new(
        image.node.clone(),
        ExportOptions {
            name: config.export_name.clone(),
            description: config.description.clone(),
            writable: !image.node.is_read_only(),
            offset: config.offset,
            length: None,
            writethrough: false,
            multi_conn: config.shared != 1,
            allocation_depth: config.allocation_depth,
            bitmaps: config.bitmap.iter().cloned().collect(),
        },
    )
    .await?;
    server.add(export)
}

async fn serve_open(
    config: &Config,
    server: &Arc<Server>,
    activated: Option<OwnedFd>,
    readiness: Option<Readiness>,
    stop: &Stop,
) -> Result<()> {
    let listeners = listeners(config, activated)?;
    let attached = match &config.device {
        Some(name) => Some(device::attach(server, name, &config.export_name).await?),
        None => None,
    };
    let _pid_file = match &config.pid_file {
        Some(path) => Some(PidFile::create(Path::new(path)).map_err(BlockError::invalid)?),
        None => None,
    };
    for listener in listeners {
        let server = server.clone();
        spawn(async move { server.listen(listener).await }).detach();
    }
    if let Some(readiness) = readiness {
        if config.fork {
            std::env::set_current_dir("/")?;
        }
        readiness.tell()?;
    }
    if config.verbose
        && let Some(name) = &config.device
    {
        eprintln!("NBD device {name} is now connected to {}", config.file.as_deref().unwrap_or_default());
    }
    let enough = async {
        match &attached {
            Some(device) => device.gone().await,
            None if config.persistent => std::future::pending().await,
            None => server.unused().await,
        }
    };
    match select(std::pin::pin!(enough), std::pin::pin!(stop.wait())).await {
        Either::Left(_) => {}
        Either::Right(_) => {
            if let Some(device) = &attached {
                device.disconnect();
            }
        }
    }
    Ok(())
}
