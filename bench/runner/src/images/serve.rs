//! A running `qemu-nbd`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::process;
use crate::host;

/// Where it listens, in the folder of the images.
pub const SOCKET: &str = "socket";

/// A server; it is ended with the value.
pub struct Server(Child);

impl Server {
    /// Serves a raw image, until told to end, and waits until it can be reached.
    pub fn start(program: &Path, image: &str, folder: &Path) -> anyhow::Result<Self> {
        let socket = folder.join(SOCKET);
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(program);
        command.args(["-f", "raw", "-t", "-k"]).arg(&socket).arg(image).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let mut server = Self(child);
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("{} ended ({status})", program.display());
            }
            if start.elapsed() > Duration::from_secs(20) {
                bail!("{} does not listen", program.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// Processor seconds, and the most bytes that were resident, so far.
    pub fn cost(&self) -> anyhow::Result<(f64, u64)> {
        Ok((host::processor_seconds(self.0.id())?, process::peak(self.0.id())))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
