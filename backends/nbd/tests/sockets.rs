//! Sockets that others have opened for a server, of each family.

mod support;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rhea_async_io::block_on;
use rhea_block::OpenFlags;
use rhea_nbd::{Address, Listener, Server, ServerConfig};
use rhea_options::Options;
use support::{Folder, export, memory, noise};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_LOCAL, VsockAddr, VsockListener};

const SIZE: usize = 64 << 10;

/// Serves a disk at a listener and reads it through the driver with these options.
fn served_and_read(listener: Listener, options: &[(&str, &str)]) -> rhea_block::Result<Vec<u8>> {
    let server = Server::new(ServerConfig::default());
    server.add(export(&memory(noise(SIZE, 1)), "", false)).unwrap();
    let serving = server.clone();
    let thread = std::thread::spawn(move || {
        block_on(async {
            serving.listen(listener).await.unwrap();
            serving.stop().await;
        })
    });
    let mut all = Options::default();
    all.set("driver", "nbd");
    options.iter().for_each(|(key, value)| all.set(key, value));
    let read = block_on(async {
        let node = rhea_block_drivers::registry().open_node(all, OpenFlags::READ_ONLY, true).await?;
        let mut bytes = vec![0; SIZE];
        node.read_bytes(0, &mut bytes).await?;
        node.close().await?;
        Ok(bytes)
    });
    block_on(server.stop());
    thread.join().unwrap();
    read
}

#[test]
fn a_tcp_socket_opened_by_others() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let listener = Listener::from_fd(OwnedFd::from(socket)).unwrap();
    let options = [("server.type", "inet"), ("server.host", "127.0.0.1"), ("server.port", &port)];
    assert_eq!(served_and_read(listener, &options).unwrap(), noise(SIZE, 1));
}

#[test]
fn a_unix_socket_opened_by_others() {
    let folder = Folder::new();
    let path = folder.text("s");
    let listener = Listener::from_fd(OwnedFd::from(UnixListener::bind(&path).unwrap())).unwrap();
    let options = [("server.type", "unix"), ("server.path", &path)];
    assert_eq!(served_and_read(listener, &options).unwrap(), noise(SIZE, 1));
    assert!(std::path::Path::new(&path).exists(), "who has opened it removes it");
}

#[test]
fn what_is_no_socket_is_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Listener::from_fd(file.into()).is_err());
}

#[test]
fn a_vsock_socket_by_its_address_and_opened_by_others() {
    const PORT: u32 = 10_809;
    let address = VsockAddr::new(VMADDR_CID_ANY, PORT);
    let socket = match VsockListener::bind(&address) {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("skipped: this kernel has no vsock sockets: {error}");
            return;
        }
    };
    let opened = Listener::from_fd(socket.into()).unwrap();
    let port = PORT.to_string();
    let local = VMADDR_CID_LOCAL.to_string();
    let options = [("server.type", "vsock"), ("server.cid", &local), ("server.port", &port)];
    match served_and_read(opened, &options) {
        Ok(bytes) => assert_eq!(bytes, noise(SIZE, 1)),
        // Listening works; who could connect is only another machine.
        Err(error) if [libc::ENODEV, libc::ETIMEDOUT, libc::ECONNRESET].contains(&error.errno()) => {
            eprintln!("skipped: this kernel has no vsock loopback: {error}");
            assert!(error.to_string().contains("Failed to connect to 'vsock:1:10809'"), "{error}");
        }
        Err(error) => panic!("{error}"),
    }
    let bound = Listener::bind(&Address::Vsock { cid: VMADDR_CID_ANY, port: PORT }).unwrap();
    assert_eq!(bound.len(), 1);
}
