//! `--daemonize`, `--pidfile` and signals, beside Debian's tool.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn ours() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/qemu-storage-daemon")
}

/// The tools to look at: ours, and Debian's if it is installed.
fn tools() -> Vec<PathBuf> {
    let theirs = PathBuf::from("qemu-storage-daemon");
    match Command::new(&theirs).arg("--version").stdout(Stdio::null()).status() {
        Ok(_) => vec![ours(), theirs],
        Err(_) => {
            eprintln!("skipped: qemu-storage-daemon is not installed");
            vec![ours()]
        }
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-background-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("image"), vec![7; 1 << 20]).unwrap();
        Self(path)
    }

    fn run(&self, tool: &Path, arguments: &str) -> Output {
        // Whoever runs the tests may ignore signals (nohup does), which a program inherits.
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(tool);
        command.current_dir(&self.0).args(arguments.split_whitespace()).stdin(Stdio::null());
        command.output().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SERVE: &str = "--daemonize --pidfile pid --blockdev driver=file,node-name=f,filename=image \
                     --nbd-server addr.type=unix,addr.path=s --export nbd,id=e,node-name=f,writable=on";

/// Whether a process is there, other than as a corpse that nobody has looked at.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_serves_from_the_background_until_a_signal() {
    for signal in ["TERM", "INT", "HUP"] {
        let mut told = vec![];
        for (number, tool) in tools().iter().enumerate() {
            let folder = Folder::new(&format!("{signal}{number}"));
            let output = folder.run(tool, SERVE);
            // The command returns when clients are served and the number is written.
            assert!(output.status.success(), "{output:?}");
            let pid = std::fs::read_to_string(folder.0.join("pid")).unwrap().trim().to_owned();
            assert!(runs(&pid), "{pid}");
            drop(UnixStream::connect(folder.0.join("s")).unwrap());
            assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
            let uri = format!("nbd+unix:///f?socket={}", folder.0.join("s").display());
            rhea_async_io::block_on(async {
                let registry = rhea_block_drivers::registry();
                let node = registry.open(&uri, Some("raw"), rhea_block::OpenFlags::empty()).await.unwrap();
                node.write_bytes(4096, &[9; 512]).await.unwrap();
                node.close().await.unwrap();
            });
            // Nobody else gets the file of the number.
            let second = folder.run(tool, "--pidfile pid");
            assert_eq!(second.status.code(), Some(1), "{second:?}");
            let daemon = folder.run(tool, "--daemonize --pidfile pid");
            assert_eq!(daemon.status.code(), Some(1), "{daemon:?}");
            told.push(error(&second) + &error(&daemon));
            assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
            let begun = Instant::now();
            while runs(&pid) {
                assert!(begun.elapsed() < Duration::from_secs(20), "SIG{signal} does not end it");
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(!folder.0.join("pid").exists());
            assert_eq!(std::fs::read(folder.0.join("image")).unwrap()[4096..4608], [9; 512]);
        }
        assert!(told.iter().all(|text| *text == told[0] && !text.is_empty()), "{told:?}");
    }
}

/// What goes wrong is told by the command itself, with its exit status, before anything goes to the background.
#[test]
fn mistakes_are_told_before_it_leaves() {
    let folder = Folder::new("mistakes");
    let cases = [
        "--daemonize --pidfile /nonexistent/pid",
        "--daemonize --pidfile pid --blockdev driver=file,node-name=f,filename=/nonexistent/image",
        "--daemonize --pidfile pid --blockdev driver=qcow2,node-name=q,file=nobody",
        "--daemonize --pidfile pid --blockdev driver=file,node-name=f,filename=image --export nbd,id=e,node-name=f",
        "--daemonize --pidfile pid --nbd-server addr.type=unix,addr.path=/nonexistent/s",
        "--daemonize --pidfile pid --blockdev driver=file,node-name=f,filename=image \
         --export fuse,id=e,node-name=f,mountpoint=/nonexistent/m",
    ];
    for arguments in cases {
        let told: Vec<String> = tools()
            .iter()
            .map(|tool| {
                let output = folder.run(tool, arguments);
                assert_eq!(output.status.code(), Some(1), "{arguments}: {output:?}");
                assert!(!folder.0.join("pid").exists(), "{arguments}");
                error(&output)
            })
            .collect();
        assert!(told.iter().all(|text| *text == told[0] && !text.is_empty()), "{arguments}: {told:?}");
    }
}
