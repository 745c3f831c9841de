//! The tool as a process: serving, listing, ending.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-nbd-tool-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn text(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The tool: the example beside the test.
fn tool() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/qemu-nbd")
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(tool()).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

struct Serving(Child);

impl Serving {
    fn start(arguments: &[&str], socket: &str) -> Self {
        let child = Command::new(tool()).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut this = Self(child);
        wait_for(Path::new(socket), || this.0.try_wait().unwrap().is_none());
        this
    }

    fn terminate(&mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    }

    fn ended(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(path: &Path, mut alive: impl FnMut() -> bool) {
    for _ in 0..500 {
        if path.exists() {
            return;
        }
        assert!(alive(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{} does not appear", path.display());
}

fn image(folder: &Folder) -> String {
    let path = folder.text("image");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    path
}

#[test]
fn it_serves_until_the_last_client_has_left() {
    let folder = Folder::new("serves");
    let (image, socket) = (image(&folder), folder.text("s"));
    let mut serving =
        Serving::start(&["-f", "raw", "-x", "a", "-D", "a line", "-k", &socket, &image], &socket);
    // Looking at the list is no use of an export.
    let (status, text) = run(&["-L", "-k", &socket]);
    assert_eq!(status, 0, "{text}");
    assert_eq!(
        text,
        "exports available: 1\n export: 'a'\n  description: a line\n  size:  1048576\n  \
         flags: 0x1ced ( flush fua trim zeroes df cache fast-zero block-status-payload )\n  \
         min block: 1\n  opt block: 4096\n  max block: 33554432\n  transaction size: 64-bit\n  \
         available meta contexts: 1\n   base:allocation\n"
    );
    let registry = rhea_block_drivers::registry();
    let uri = format!("nbd+unix:///a?socket={socket}");
    rhea_async_io::block_on(async {
        let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
        node.write_bytes(4096, &[9; 512]).await.unwrap();
        node.close().await.unwrap();
    });
    assert_eq!(serving.ended(), 0);
    assert!(!Path::new(&socket).exists());
    assert_eq!(std::fs::read(&image).unwrap()[4096..4608], [9; 512]);
}

#[test]
fn it_ends_in_good_order_when_told() {
    let folder = Folder::new("ends");
    let (image, socket, pid) = (image(&folder), folder.text("s"), folder.text("pid"));
    let arguments = ["-t", "-f", "raw", "-o", "512", "--pid-file", &pid, "-k", &socket, &image];
    let mut serving = Serving::start(&arguments, &socket);
    let registry = rhea_block_drivers::registry();
    let uri = format!("nbd+unix:///?socket={socket}");
    rhea_async_io::block_on(async {
        for _ in 0..2 {
            let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
            assert_eq!(node.length(), (1 << 20) - 512);
            node.write_bytes(0, &[1; 512]).await.unwrap();
            node.close().await.unwrap();
        }
    });
    assert_eq!(std::fs::read_to_string(&pid).unwrap().trim(), serving.0.id().to_string());
    serving.terminate();
    assert_eq!(serving.ended(), 0);
    assert!(!Path::new(&socket).exists() && !Path::new(&pid).exists());
    assert_eq!(std::fs::read(&image).unwrap()[512..1024], [1; 512]);
}

#[test]
fn it_goes_to_the_background_when_clients_are_served() {
    let folder = Folder::new("fork");
    let (image, socket, pid) = (image(&folder), folder.text("s"), folder.text("pid"));
    let (status, text) = run(&["--fork", "-t", "-f", "raw", "--pid-file", &pid, "-k", &socket, &image]);
    assert_eq!((status, text.as_str()), (0, ""));
    let (status, text) = run(&["--list", "-k", &socket]);
    assert!(status == 0 && text.contains("export: ''"), "{text}");
    let number = std::fs::read_to_string(&pid).unwrap();
    assert!(Command::new("kill").arg(number.trim()).status().unwrap().success());
    let begun = Instant::now();
    while Path::new(&pid).exists() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    // What fails before is told, and is the status.
    let (status, text) = run(&["--fork", "-f", "raw", "-k", &socket, &folder.text("none")]);
    assert_eq!(status, 1);
    assert!(text.contains("Could not open") && text.contains("No such file or directory"), "{text}");
}

#[test]
fn mistakes_read_as_with_debians_tool() {
    let folder = Folder::new("mistakes");
    let image = image(&folder);
    let cases: &[&[&str]] = &[
        &["-r"],
        &["/nonexistent"],
        &["-k", "x", "--fork", "f"],
        &["-L", "x"],
        &["-d"],
        &["-d", "/nonexistent/nbd0"],
        &["-f", "raw", "-c", "/nonexistent/nbd0", &image],
        &["-f", "raw", "-r", "-k", "/nonexistent/x", &image],
        &["--shared=-1", "x"],
        &["--foo"],
        &["-b", "a", "b", "c"],
        &["--tls-creds=x", &image],
        &["-x", "a", "-L"],
        &["--cache=foo", "x"],
        &["--aio=foo", "x"],
        &["--discard=x", "y"],
        &["--detect-zeroes=x", "y"],
        &["-o", "-1", "-f", "raw", "-r", &image],
        &["-o", "1G", "-f", "raw", "-r", &image],
        &["-o", "2000000", "-f", "raw", "-r", &image],
        &["-B", "foo", "-f", "raw", "-r", &image],
        &["-f", "foo", "x"],
        &["-l", "foo", "-f", "raw", &image],
        &["-n", "--cache=none", "x"],
        &["--object", "foo,id=x", "x"],
        &["--image-opts", "-f", "raw", "x"],
        &["--handshake-limit=x", "y"],
        &["-c", "a", "--tls-creds", "b", "x"],
        &["-L", "-k", "/nonexistent/socket"],
        &["-L", "--tls-hostname=foo", "-p", "1"],
        &["--list", "-b", "127.0.0.1", "-p", "1"],
    ];
    let oracle = installed("qemu-nbd");
    for arguments in cases {
        let (status, text) = run(arguments);
        assert_eq!(status, 1, "{arguments:?}: {text}");
        if oracle {
            let output = Command::new("qemu-nbd").args(*arguments).output().unwrap();
            let theirs = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(text, theirs, "{arguments:?}");
        }
    }
}

#[test]
fn what_is_written_to_a_snapshot_is_gone_afterwards() {
    let folder = Folder::new("snapshot");
    let (image, socket) = (image(&folder), folder.text("s"));
    let mut serving = Serving::start(&["-s", "-f", "raw", "-k", &socket, &image], &socket);
    let registry = rhea_block_drivers::registry();
    let uri = format!("nbd+unix:///?socket={socket}");
    rhea_async_io::block_on(async {
        let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
        node.write_bytes(4096, &[9; 512]).await.unwrap();
        let mut back = vec![0; 1024];
        node.read_bytes(3584, &mut back).await.unwrap();
        assert_eq!(back, [[7; 512], [9; 512]].concat());
        node.close().await.unwrap();
    });
    let status = serving.ended();
    let mut text = String::new();
    serving.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((status, text.as_str()), (0, ""));
    assert_eq!(std::fs::read(&image).unwrap(), vec![7; 1 << 20]);
}
