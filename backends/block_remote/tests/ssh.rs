//! The ssh driver against OpenSSH's server, run as the user who runs the tests.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rhea_async_io::{block_on, spawn};
use rhea_block::{BlockNode, OpenFlags, Progress, RawDriver, Registry, Truncate};
use rhea_block_remote::{SshDriver, SshPlaces};
use rhea_options::Options;

struct Server {
    folder: PathBuf,
    port: u16,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(command: &mut Command) {
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
}

impl Server {
    /// `None` if the server is not installed.
    fn start(name: &str) -> Option<Self> {
        let program = Path::new("/usr/sbin/sshd");
        if !program.exists() {
            println!("skipped: sshd is not installed");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("rhea-ssh-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let _ = std::fs::create_dir_all("/run/sshd");
        for (kind, name) in
            [("ed25519", "host"), ("ed25519", "user"), ("rsa", "user_rsa"), ("ed25519", "stranger")]
        {
            run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(folder.join(name)));
        }
        let public = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        std::fs::write(folder.join("authorized"), public("user.pub") + &public("user_rsa.pub")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = folder.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {path}/host\nAuthorizedKeysFile {path}/authorized\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n\
             Subsystem sftp internal-sftp\n"
        );
        std::fs::write(folder.join("config"), config).unwrap();
        std::fs::write(folder.join("known"), format!("[127.0.0.1]:{port} {}", public("host.pub"))).unwrap();
        let process = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(folder.join("config"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { folder, port, process };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        panic!("sshd does not answer");
    }

    fn registry(&self, known: &str, identity: &str) -> Registry {
        let mut registry = Registry::new();
        registry.add(SshDriver::with_places(SshPlaces {
            known_hosts: vec![self.folder.join(known)],
            identities: vec![self.folder.join(identity)],
            agent: None,
        }));
        registry.add(RawDriver);
        registry
    }

    fn user() -> String {
        String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
    }

    fn url(&self, file: &str) -> String {
        format!("ssh://{}@127.0.0.1:{}{}/{file}", Self::user(), self.port, self.folder.display())
    }

    fn open(&self, registry: &Registry, file: &str, flags: OpenFlags) -> rhea_block::Result<Arc<BlockNode>> {
        let options = registry.protocol_options(&self.url(file)).unwrap();
        block_on(registry.open_node(options, flags, true))
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn files_are_created_written_and_read() {
    let Some(server) = Server::start("files") else { return };
    let registry = server.registry("known", "user");
    let options = Options::parse("size=3M", None).unwrap();
    block_on(registry.create("raw", &server.url("disk"), options, &Progress::new())).unwrap();
    let local = server.folder.join("disk");
    assert_eq!(std::fs::metadata(&local).unwrap().len(), 3 << 20);
    let node = server.open(&registry, "disk", OpenFlags::empty()).unwrap();
    let data = pattern(5 << 20);
    block_on(async {
        let writes: Vec<_> = data
            .chunks(700_001)
            .enumerate()
            .map(|(i, piece)| {
                let (node, piece) = (node.clone(), piece.to_vec());
                spawn(async move { node.write_bytes(i as u64 * 700_001, &piece).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap();
        }
        node.flush().await.unwrap();
    });
    assert!(std::fs::read(&local).unwrap() == data);
    let mut bytes = vec![0; data.len() - 77];
    block_on(node.read_bytes(77, &mut bytes)).unwrap();
    assert!(bytes == data[77..]);
    block_on(node.truncate(1000, Truncate::default())).unwrap();
    assert_eq!(std::fs::metadata(&local).unwrap().len(), 1000);
    let rsa = server.registry("known", "user_rsa");
    let node = server.open(&rsa, "disk", OpenFlags::READ_ONLY).unwrap();
    assert_eq!(node.exact_length(), 1000);
    let missing = server.open(&registry, "none", OpenFlags::READ_ONLY).unwrap_err();
    assert_eq!(missing.errno(), 2, "{missing}");
}

#[test]
fn strangers_are_refused() {
    let Some(server) = Server::start("strangers") else { return };
    std::fs::write(server.folder.join("disk"), pattern(1000)).unwrap();
    let refused = |known: &str, identity: &str| {
        let registry = server.registry(known, identity);
        server.open(&registry, "disk", OpenFlags::READ_ONLY).unwrap_err().to_string()
    };
    assert!(refused("known", "stranger").contains("failed to authenticate"));
    assert!(refused("unknown", "user").contains("no host key"));
    let stranger = std::fs::read_to_string(server.folder.join("stranger.pub")).unwrap();
    std::fs::write(server.folder.join("changed"), format!("[127.0.0.1]:{} {stranger}", server.port)).unwrap();
    assert!(refused("changed", "user").contains("possible attack"));
    let known = std::fs::read_to_string(server.folder.join("known")).unwrap();
    std::fs::write(server.folder.join("revoked"), format!("{known}@revoked {known}")).unwrap();
    assert!(refused("revoked", "user").contains("revoked"));

    // Without known hosts: by the fingerprint, or unchecked.
    let output = Command::new("ssh-keygen")
        .args(["-l", "-E", "md5", "-f"])
        .arg(server.folder.join("host.pub"))
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let fingerprint = output.split_whitespace().nth(1).unwrap().strip_prefix("MD5:").unwrap().to_owned();
    let registry = server.registry("unknown", "user");
    let open = |check: &str| {
        let mut options = registry.protocol_options(&server.url("disk")).unwrap();
        options.set("host_key_check", check);
        block_on(registry.open_node(options, OpenFlags::READ_ONLY, true))
    };
    assert!(open("no").is_ok());
    assert!(open(&format!("md5:{fingerprint}")).is_ok());
    let other = fingerprint.replace(['0', '1', '2', '3'], "f");
    assert!(open(&format!("md5:{other}")).unwrap_err().to_string().contains("fingerprint does not match"));
}

#[test]
fn a_server_that_goes_away_is_noticed() {
    let Some(mut server) = Server::start("away") else { return };
    std::fs::write(server.folder.join("disk"), pattern(100_000)).unwrap();
    let registry = server.registry("known", "user");
    let node = server.open(&registry, "disk", OpenFlags::empty()).unwrap();
    block_on(node.write_bytes(0, &[1; 512])).unwrap();
    // The process that serves this connection, not only the one that accepts others.
    let parent = server.process.id().to_string();
    let children = Command::new("pgrep").args(["-P", &parent]).output().unwrap();
    for child in String::from_utf8(children.stdout).unwrap().split_whitespace() {
        run(Command::new("kill").arg("-9").arg(child));
    }
    server.process.kill().unwrap();
    assert!(block_on(node.write_bytes(512, &[1; 512])).is_err());
    assert!(block_on(node.flush()).is_err());
}
