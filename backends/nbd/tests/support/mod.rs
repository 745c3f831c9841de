//! Servers and folders for tests.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rhea_async_io::block_on;
use rhea_block::{BlockNode, MemoryNode, OpenFlags, Registry};
use rhea_nbd::{Address, Export, ExportOptions, Listener, Server, ServerConfig};

/// A folder that goes away.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rhea-nbd-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server on a thread of its own, at a Unix socket.
pub struct TestServer {
    pub socket: String,
    server: Arc<Server>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestServer {
    pub fn start(socket: &Path, config: ServerConfig, exports: Vec<Arc<Export>>) -> Self {
        let server = Server::new(config);
        exports.into_iter().for_each(|export| server.add(export).unwrap());
        let socket = socket.to_str().unwrap().to_owned();
        let listener = Listener::bind(&Address::Unix { path: socket.clone() }).unwrap().remove(0);
        let serving = server.clone();
        let thread = std::thread::spawn(move || {
            block_on(async {
                serving.listen(listener).await.unwrap();
                serving.stop().await;
            })
        });
        Self { socket, server, thread: Some(thread) }
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket)
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            block_on(self.server.stop());
            thread.join().unwrap();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn memory(bytes: Vec<u8>) -> Arc<BlockNode> {
    BlockNode::anonymous("memory", Box::new(MemoryNode::new(bytes)), OpenFlags::UNMAP)
}

/// Numbers that look random and are the same each time.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub fn export(node: &Arc<BlockNode>, name: &str, writable: bool) -> Arc<Export> {
    let options = ExportOptions { name: name.into(), writable, multi_conn: true, ..Default::default() };
    block_on(Export::new(node.clone(), options)).unwrap()
}

pub fn open(uri: &str, flags: OpenFlags) -> rhea_block::Result<Arc<BlockNode>> {
    let registry: Registry = rhea_block_drivers::registry();
    block_on(registry.open(uri, Some("raw"), flags))
}

/// Whether a program is there; tests that need it say that they are skipped.
pub fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Runs a command to its end and returns what it printed, with its errors behind.
pub fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Runs a command that must succeed.
pub fn must(program: &str, arguments: &[&str]) -> String {
    let (ok, text) = run(program, arguments);
    assert!(ok, "{program} {arguments:?}: {text}");
    text
}

/// Another program that serves until it is dropped.
pub struct OtherServer(std::process::Child);

impl OtherServer {
    /// Starts a program that makes a socket, and waits for it.
    pub fn start(program: &str, arguments: &[&str], socket: &Path) -> Self {
        let child = Command::new(program).args(arguments).spawn().unwrap();
        let mut this = Self(child);
        for _ in 0..400 {
            if std::os::unix::net::UnixStream::connect(socket).is_ok() {
                return this;
            }
            assert!(this.0.try_wait().unwrap().is_none(), "{program} {arguments:?} has ended");
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        panic!("{program} {arguments:?} makes no socket");
    }
}

impl Drop for OtherServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
