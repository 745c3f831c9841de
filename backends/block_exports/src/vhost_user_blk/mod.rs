//! A disk for a virtual machine of another process: the vhost-user protocol over a Unix socket, a virtio block device
//! behind it. Data goes straight between the machine's memory and the disk.
//!
//! Two kinds of threads: rust-vmm's crates take the protocol's messages on one thread and the queues' notifications on
//! another; the requests themselves are tasks on an executor of the export. A machine is one client; when it goes, the
//! next may come.

mod device;
mod memory;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rhea_block::{BlockError, BlockNode, Result};
use rhea_virtio_disk::{Disk, DiskOptions};
use vhost::vhost_user::Listener;
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::hold::Hold;
use device::Device;

/// Requests of a queue at a time, as the machine may configure.
const MAX_QUEUE: usize = 1024;
/// Queues of a device.
const MAX_QUEUES: u16 = 64;

/// Where machines connect.
#[derive(Debug)]
pub enum VhostUserSocket {
    /// A path in the file system, made by us.
    Path(PathBuf),
    /// A socket that listens already.
    Listening(OwnedFd),
}

/// What [`VhostUserBlkExport::start`] is told.
#[derive(Debug)]
pub struct VhostUserBlkOptions {
    /// The export's id, which the machine sees as the disk's serial number.
    pub id: String,
    /// Where machines connect.
    pub socket: VhostUserSocket,
    /// The machine may write.
    pub writable: bool,
    /// Bytes of a block: a power of two from 512 to 2 MiB.
    pub logical_block_size: u32,
    /// Queues, from 1.
    pub queues: u16,
    /// Every write is on stable storage before it is acknowledged.
    pub writethrough: bool,
}

/// A disk offered to virtual machines.
pub struct VhostUserBlkExport {
    device: Arc<Device>,
    hold: Hold,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    path: Option<PathBuf>,
}

/// What the serving thread and the export share.
#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    /// Ends the present connection.
    connection: Mutex<Option<ShutdownHandle>>,
}

impl std::fmt::Debug for VhostUserBlkExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VhostUserBlkExport({})", self.device.disk.options().id)
    }
}

impl VhostUserBlkExport {
    /// Starts to take machines.
    pub async fn start(node: Arc<BlockNode>, options: VhostUserBlkOptions) -> Result<Self> {
        let block_size = options.logical_block_size;
        if !block_size.is_power_of_two() || !(512..=2 << 20).contains(&block_size) {
            return Err(BlockError::invalid(
                "parameter logical-block-size must be a power of 2 between 512 and 2097152",
            ));
        }
        if options.queues == 0 {
            return Err(BlockError::invalid("num-queues must be greater than 0"));
        }
        if options.queues > MAX_QUEUES {
            return Err(BlockError::invalid(format!("num-queues must be at most {MAX_QUEUES}")));
        }
        let (mut listener, path) = match options.socket {
            VhostUserSocket::Listening(socket) => {
                (std::os::unix::net::UnixListener::from(socket).into(), None)
            }
            VhostUserSocket::Path(path) => {
                remove_old_socket(&path);
                let failed = |error| {
                    let error = match error {
                        vhost::vhost_user::Error::SocketError(error) => BlockError::from(error),
                        other => BlockError::new(libc::EIO, other.to_string()),
                    };
                    error.context(format!("Failed to bind socket to {}", path.display()))
                };
                (Listener::new(&path, false).map_err(failed)?, Some(path))
            }
        };
        let hold = Hold::take(node, "vhost-user-blk", options.writable, false, options.writethrough).await?;
        let disk = Disk::new(DiskOptions {
            edge: hold.edge().clone(),
            writable: options.writable,
            writethrough: options.writethrough,
            block_size,
            id: options.id,
        });
        let device = Arc::new(Device::new(disk, options.queues)?);
        let shared = Arc::new(Shared::default());
        let (serving, until) = (device.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("vhost-user".into())
            .spawn(move || serve(&serving, &until, &mut listener))?;
        Ok(Self { device, hold, shared, thread: Some(thread), path })
    }

    /// Lets the machine go, and waits for the requests under way.
    pub async fn stop(mut self) -> Result<()> {
        self.end();
        self.device.idle().await;
        let flushed = match self.hold.writable {
            true => self.hold.node().flush().await,
            false => Ok(()),
        };
        flushed.and(self.hold.release().await)
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        if let Some(connection) = self.shared.connection.lock().take() {
            connection.shutdown();
        }
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
        if let Some(path) = self.path.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for VhostUserBlkExport {
    fn drop(&mut self) {
        self.end();
    }
}

fn remove_old_socket(path: &std::path::Path) {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}

/// Takes one machine after the other.
fn serve(device: &Arc<Device>, shared: &Shared, listener: &mut Listener) {
    while !shared.stopping.load(SeqCst) {
        // A client that waits stays in the queue even if it goes away: to accept it takes no time.
        if has_client(listener)
            && let Err(error) = serve_machine(device, shared, listener)
        {
            eprintln!("vhost-user-blk export '{}': {error}", device.disk.options().id);
        }
    }
}

/// Waits for a client, for a short time.
fn has_client(listener: &Listener) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd structure.
    unsafe { libc::poll(&mut poll, 1, 100) == 1 }
}

fn serve_machine(
    device: &Arc<Device>,
    shared: &Shared,
    listener: &mut Listener,
) -> std::result::Result<(), vhost_user_backend::Error> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    device.reset();
    let mut daemon = VhostUserDaemon::new("vhost-user-blk".into(), device.clone(), memory)?;
    daemon.start(listener)?;
    *shared.connection.lock() = daemon.shutdown_handle();
    if shared.stopping.load(SeqCst) {
        daemon.request_shutdown();
    }
    let result = daemon.wait();
    *shared.connection.lock() = None;
    for handler in daemon.get_epoll_handlers() {
        handler.send_exit_event();
    }
    drop(daemon);
    // Its memory stays mapped until then.
    rhea_async_io::block_on(device.idle());
    match result {
        Err(vhost_user_backend::Error::HandleRequest(
            vhost::vhost_user::Error::Disconnected | vhost::vhost_user::Error::PartialMessage,
        )) => Ok(()),
        other => other,
    }
}
