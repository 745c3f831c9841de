//! The tool as a process: exports of all kinds, mistakes, the end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-storage-{}-{name}", std::process::id()));
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

fn tool() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/qemu-storage-daemon")
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

struct Daemon {
    child: Child,
    pid_file: String,
}

impl Daemon {
    fn start(folder: &Folder, arguments: &[&str]) -> Self {
        let pid_file = folder.text("pid");
        let child = Command::new(tool()).args(arguments).args(["--pidfile", &pid_file]).spawn().unwrap();
        let mut this = Self { child, pid_file };
        // Written when everything is set up.
        for _ in 0..500 {
            if Path::new(&this.pid_file).exists() {
                return this;
            }
            assert!(this.child.try_wait().unwrap().is_none(), "it has ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it is not ready");
    }

    fn stop(mut self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success());
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!Path::new(&self.pid_file).exists());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn image(folder: &Folder) -> String {
    let path = folder.text("image");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    path
}

#[test]
fn a_node_is_exported_over_nbd() {
    let folder = Folder::new("nbd");
    let (image, socket) = (image(&folder), folder.text("s"));
    let file = format!("driver=file,node-name=f,filename={image}");
    let server = format!("addr.type=unix,addr.path={socket}");
    let daemon = Daemon::start(
        &folder,
        &[
            "--blockdev",
            &file,
            "--blockdev",
            "raw,node-name=disk,file=f",
            "--nbd-server",
            &server,
            "--export",
            "nbd,id=e,node-name=disk,name=x,writable=on,description=a disk",
        ],
    );
    let registry = rhea_block_drivers::registry();
    rhea_async_io::block_on(async {
        for _ in 0..2 {
            let uri = format!("nbd+unix:///x?socket={socket}");
            let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
            assert_eq!(node.length(), 1 << 20);
            node.write_bytes(8192, &[3; 512]).await.unwrap();
            node.close().await.unwrap();
        }
    });
    daemon.stop();
    assert!(!Path::new(&socket).exists());
    assert_eq!(std::fs::read(&image).unwrap()[8192..8704], [3; 512]);
}

#[test]
fn a_node_is_exported_as_a_file() {
    if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        eprintln!("skipped: /dev/fuse cannot be opened");
        return;
    }
    let folder = Folder::new("fuse");
    let (image, mountpoint) = (image(&folder), folder.text("mounted"));
    std::fs::write(&mountpoint, b"").unwrap();
    let file = format!("driver=file,node-name=f,filename={image}");
    let export = format!("fuse,id=e,node-name=f,mountpoint={mountpoint},writable=on");
    let daemon = Daemon::start(&folder, &["--blockdev", &file, "--export", &export]);
    assert_eq!(std::fs::read(&mountpoint).unwrap(), vec![7; 1 << 20]);
    {
        let mounted = std::fs::File::options().write(true).open(&mountpoint).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&mounted, &[5; 600], 1000).unwrap();
        mounted.sync_all().unwrap();
    }
    daemon.stop();
    assert_eq!(std::fs::read(&mountpoint).unwrap(), b"");
    assert_eq!(std::fs::read(&image).unwrap()[1000..1600], [5; 600]);
}

/// A boot sector that reads the second sector of its disk and prints the text in it to the first serial port, then
/// writes it to the third.
fn boot_sector() -> Vec<u8> {
    let mut code = vec![
        0xfa, // cli
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // mov ds, es, ss = ax
        0xbc, 0x00, 0x7c, // mov sp, 0x7c00
        0xbb, 0x00, 0x7e, // mov bx, 0x7e00
        0xb8, 0x01, 0x02, // mov ax, 0x0201: read one sector
        0xb9, 0x02, 0x00, // mov cx, 2: the second
        0x30, 0xf6, // xor dh, dh
        0xcd, 0x13, // int 0x13
        0xbb, 0x00, 0x7e, // mov bx, 0x7e00
        0xb8, 0x01, 0x03, // mov ax, 0x0301: write one sector
        0xb9, 0x03, 0x00, // mov cx, 3: the third
        0x30, 0xf6, // xor dh, dh
        0xcd, 0x13, // int 0x13
        0xbe, 0x00, 0x7e, // mov si, 0x7e00
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xac, // lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz +3
        0xee, // out dx, al
        0xeb, 0xf8, // jmp lodsb
        0xba, 0x01, 0x05, // mov dx, 0x501
        0xee, // out dx, al: isa-debug-exit
        0xf4, // hlt
    ];
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code
}

#[test]
fn a_machine_boots_from_vhost_user_blk() {
    if !installed("qemu-system-x86_64") {
        return;
    }
    let folder = Folder::new("vhost");
    let (image, socket, serial) = (folder.text("image"), folder.text("s"), folder.text("serial"));
    let mut bytes = boot_sector();
    bytes.extend(b"hello from the disk\0");
    bytes.resize(1 << 20, 0);
    std::fs::write(&image, &bytes).unwrap();
    let file = format!("driver=file,node-name=f,filename={image}");
    let export = format!("vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={socket},writable=on");
    let daemon = Daemon::start(&folder, &["--blockdev", &file, "--export", &export]);
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-m", "64"])
        .args(["-object", "memory-backend-memfd,id=m,size=64M,share=on", "-machine", "q35,memory-backend=m"])
        .args(["-chardev", &format!("socket,id=c,path={socket}")])
        .args(["-device", "vhost-user-blk-pci,chardev=c,bootindex=0"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=2"])
        .args(["-serial", &format!("file:{serial}")])
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while machine.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(60) {
            let _ = machine.kill();
            let _ = machine.wait();
            panic!("the machine does not end: {:?}", std::fs::read_to_string(&serial));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = std::fs::read_to_string(&serial).unwrap();
    assert!(text.contains("hello from the disk"), "{text:?}");
    daemon.stop();
    let after = std::fs::read(&image).unwrap();
    assert!(after[1024..1536] == after[512..1024]);
}

#[test]
fn mistakes_read_as_with_debians_tool() {
    let folder = Folder::new("mistakes");
    let image = image(&folder);
    let file = format!("driver=file,node-name=f,filename={image}");
    let server = format!("addr.type=unix,addr.path={}", folder.text("s"));
    let (bad_mount, folder_mount) = (
        format!("type=fuse,id=e,node-name=f,mountpoint={}", folder.text("none")),
        format!("type=fuse,id=e,node-name=f,mountpoint={}", folder.0.display()),
    );
    let vhost = format!("type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={}", folder.text("v"));
    let (queues, block) = (format!("{vhost},num-queues=0"), format!("{vhost},logical-block-size=100"));
    let blockdev = ["--blockdev", file.as_str()];
    let file_read_only = format!("{file},read-only=on");
    let vhost_writable = format!("{vhost},writable=on");
    let read_only = ["--blockdev", &file_read_only, "--nbd-server", server.as_str()];
    let nbd = ["--blockdev", file.as_str(), "--nbd-server", server.as_str()];
    let cases: Vec<Vec<&str>> = vec![
        vec!["--foo"],
        vec!["x"],
        vec!["--blockdev", "foo"],
        vec!["--blockdev", "driver=file,filename=/nonexistent"],
        vec!["--blockdev", "driver=file,node-name=f,filename=/nonexistent"],
        [&blockdev[..], &["--export", "type=nbd,id=e,node-name=f"]].concat(),
        [&nbd[..], &["--export", "type=nbd,id=e,node-name=g"]].concat(),
        [&nbd[..], &["--nbd-server", &server]].concat(),
        [&nbd[..], &["--export", "nbd,id=e,node-name=f", "--export", "nbd,id=e,node-name=f,name=z"]].concat(),
        [&nbd[..], &["--export", "nbd,id=e,node-name=f", "--export", "nbd,id=e2,node-name=f"]].concat(),
        [&nbd[..], &["--export", "type=foo,id=e,node-name=f"]].concat(),
        [&nbd[..], &["--export", "type=nbd,id=e,node-name=f,foo=1"]].concat(),
        [&blockdev[..], &["--export", "type=nbd,id=1e,node-name=f"]].concat(),
        [&blockdev[..], &["--export", "type=nbd,node-name=f"]].concat(),
        [&blockdev[..], &["--export", "type=nbd,id=e"]].concat(),
        [&blockdev[..], &["--export", &bad_mount]].concat(),
        [&blockdev[..], &["--export", &folder_mount]].concat(),
        [&blockdev[..], &["--export", &queues]].concat(),
        [&blockdev[..], &["--export", &block]].concat(),
        [
            &blockdev[..],
            &["--export", "type=vhost-user-blk,id=e,node-name=f,addr.type=inet,addr.host=x,addr.port=1"],
        ]
        .concat(),
        [&blockdev[..], &["--export", "type=vhost-user-blk,id=e,node-name=f"]].concat(),
        vec!["--chardev", "foo,id=c"],
        vec!["--chardev", "null"],
        vec!["--monitor", "foo"],
        vec!["--object", "foo,id=x"],
        vec!["--pidfile", "/nonexistent/x"],
        vec!["--blockdev", "help"],
        vec!["--nbd-server", "help"],
        vec!["--nbd-server", "addr.type=unix"],
        vec!["--nbd-server", "addr.path=/x"],
        vec!["--export", "help"],
        vec!["--export", "nbd,help"],
        vec!["--monitor", "help"],
        vec!["--blockdev", "driver=nbd,node-name=n,server.type=unix"],
        vec!["--blockdev", "driver=nbd,node-name=n,server.path=/x"],
        [&blockdev[..], &["--export", "type=vhost-user-blk,id=e,node-name=f,addr.type=unix"]].concat(),
        [&read_only[..], &["--export", "type=nbd,id=e,node-name=f,writable=on"]].concat(),
        [&read_only[..], &["--export", &vhost_writable]].concat(),
    ];
    let oracle = installed("qemu-storage-daemon");
    for arguments in cases {
        let text = |program: &Path| {
            let output = Command::new(program).args(&arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        };
        let ours = text(&tool());
        if oracle {
            assert_eq!(ours, text(Path::new("qemu-storage-daemon")), "{arguments:?}");
        }
    }
}
