//! `-c` and `-d`: images as the kernel's devices.

use std::path::Path;
use std::sync::Arc;

use event_listener::Event;
use rhea_async_io::spawn;
use rhea_block::{BlockError, Result};
use rhea_host::nbd_device::NbdDevice;
use rhea_nbd::{Server, Stream};

/// A device that has the image.
pub struct Attached {
    device: Arc<NbdDevice>,
    ended: Arc<(std::sync::atomic::AtomicBool, Event)>,
}

/// Ends the connection of a device, whoever has made it.
pub fn disconnect(name: &str) -> Result<()> {
    let device = NbdDevice::open(Path::new(name))
        .map_err(|error| BlockError::from(error).context(format!("Cannot open {name}")))?;
    device
        .disconnect()
        .map_err(|error| BlockError::from(error).context(format!("Cannot disconnect {name}")))?;
    println!("{name} disconnected");
    Ok(())
}

/// Connects a device to an export of the server.
pub async fn attach(server: &Arc<Server>, name: &str, export: &str) -> Result<Attached> {
    let failed = |error: std::io::Error| BlockError::from(error).context(format!("Failed to open {name}"));
    let device = Arc::new(NbdDevice::open(Path::new(name)).map_err(failed)?);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let serving = server.clone();
    let ours = Stream::from_fd(ours.into())?;
    spawn(async move { serving.serve(ours).await }).detach();
    let (socket, length, flags, block) =
        rhea_nbd::connect_simple(Stream::from_fd(theirs.into())?, export).await?;
    let block = block.max(512);
    device
        .attach(&socket, length, block, flags.bits())
        .map_err(|error| BlockError::from(error).context(format!("Failed to set up {name}")))?;
    let ended = Arc::new((std::sync::atomic::AtomicBool::new(false), Event::new()));
    let (running, telling) = (device.clone(), ended.clone());
    // The kernel works for the device in the calling thread, until it is disconnected.
    std::thread::Builder::new().name("nbd-device".into()).spawn(move || {
        if let Err(error) = running.run() {
            eprintln!("the kernel's NBD client has ended: {error}");
        }
        drop(socket);
        telling.0.store(true, std::sync::atomic::Ordering::SeqCst);
        telling.1.notify(usize::MAX);
    })?;
    Ok(Attached { device, ended })
}

impl Attached {
    /// Waits until the device has no connection any more.
    pub async fn gone(&self) {
        loop {
            let listener = self.ended.1.listen();
            if self.ended.0.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            listener.await;
        }
    }

    /// Has the kernel let go of the device.
    pub fn disconnect(&self) {
        if let Err(error) = self.device.disconnect() {
            eprintln!("cannot disconnect the device: {error}");
        }
    }
}
