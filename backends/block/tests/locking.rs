//! Two that use the same image keep each other out: in one process, and beside Debian's tools.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rhea_async_io::block_on;
use rhea_block::{BlockNode, Edge, OpenFlags, Permissions, Progress, Registry, Result, Role};
use rhea_options::Options;
use support::{Folder, registry};

const USE: Permissions = Permissions::CONSISTENT_READ.union(Permissions::WRITE);

/// Opens a file and takes permissions for it, as a tool does.
fn hold(
    registry: &Registry,
    path: &str,
    flags: OpenFlags,
    needed: Permissions,
    shared: Permissions,
) -> Result<(Arc<BlockNode>, Arc<Edge>)> {
    block_on(async {
        let node = registry.open(path, Some("raw"), flags).await?;
        let edge = Edge::new("root", Role::Filtered, node.clone());
        edge.set_permissions(needed, shared).await?;
        Ok((node, edge))
    })
}

fn create(registry: &Registry, path: &str) -> Result<()> {
    let options = Options::parse("size=1M", None).expect("options");
    block_on(registry.create("raw", path, options, &Progress::new()))
}

/// One test at a time: a process that another test starts holds copies of our descriptors, and with them our locks, until
/// it has become another program.
static ALONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

#[test]
fn writers_that_do_not_share_exclude_each_other() {
    let _alone = ALONE.lock();
    let folder = Folder::new("exclude");
    let registry = registry();
    let path = folder.path("a.raw");
    create(&registry, &path).unwrap();
    let readers = Permissions::all() - Permissions::WRITE - Permissions::RESIZE;
    let (node, edge) = hold(&registry, &path, OpenFlags::empty(), USE, readers).unwrap();
    let error = hold(&registry, &path, OpenFlags::empty(), USE, readers).unwrap_err();
    assert!(error.to_string().ends_with("Failed to get \"write\" lock"), "{error}");
    assert_eq!(error.hint(), Some(format!("Is another process using the image [{path}]?").as_str()));
    let reads = Permissions::CONSISTENT_READ;
    let error = hold(&registry, &path, OpenFlags::READ_ONLY, reads, readers).unwrap_err();
    assert!(error.to_string().ends_with("Failed to get shared \"write\" lock"), "{error}");
    hold(&registry, &path, OpenFlags::READ_ONLY, reads, Permissions::all()).unwrap();
    hold(&registry, &path, OpenFlags::READ_ONLY | OpenFlags::FORCE_SHARE, reads, readers).unwrap();
    // Nor is it emptied under its user.
    assert!(create(&registry, &path).is_err());
    // Reopened, the image is still held.
    block_on(async {
        edge.set_permissions(reads, readers).await.unwrap();
        node.reopen(OpenFlags::READ_ONLY, Options::default()).await.unwrap();
        assert!(node.write_bytes(0, b"x").await.is_err());
    });
    assert!(hold(&registry, &path, OpenFlags::empty(), USE, Permissions::all()).is_err());
    block_on(async {
        node.reopen(OpenFlags::empty(), Options::default()).await.unwrap();
        edge.set_permissions(USE, readers).await.unwrap();
        node.write_bytes(0, b"x").await.unwrap();
    });
    assert!(hold(&registry, &path, OpenFlags::empty(), USE, Permissions::all()).is_err());
    // Given back, it is free.
    block_on(edge.set_permissions(Permissions::empty(), Permissions::all())).unwrap();
    hold(&registry, &path, OpenFlags::empty(), USE, readers).unwrap();
    drop((node, edge));
    create(&registry, &path).unwrap();
}

fn has_tools() -> bool {
    let found = Command::new("qemu-io").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: qemu-io is not installed");
    }
    found
}

fn run(command: &[&str]) -> (bool, String) {
    let output = Command::new(command[0]).args(&command[1..]).output().expect("the tool starts");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Debian's `qemu-io`, with an image open.
struct Holder(Child);

impl Holder {
    fn new(arguments: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        let input = child.stdin.as_mut().expect("piped");
        input.write_all(b"length\n").expect("it reads commands");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("an answer");
        assert!(!line.is_empty(), "it has the image open");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn we_and_debians_tools_keep_each_other_out() {
    if !has_tools() {
        return;
    }
    let _alone = ALONE.lock();
    let folder = Folder::new("debian");
    let registry = registry();
    let path = folder.path("a.qcow2");
    assert!(run(&["qemu-img", "create", "-q", "-f", "qcow2", &path, "1M"]).0);
    let readers = Permissions::all() - Permissions::WRITE - Permissions::RESIZE;
    let reads = Permissions::CONSISTENT_READ;
    {
        let _holder = Holder::new(&[&path]);
        let error = hold(&registry, &path, OpenFlags::empty(), USE, readers).unwrap_err();
        assert!(error.to_string().ends_with("Failed to get \"write\" lock"), "{error}");
        let error = hold(&registry, &path, OpenFlags::READ_ONLY, reads, readers).unwrap_err();
        assert!(error.to_string().ends_with("Failed to get shared \"write\" lock"), "{error}");
        hold(&registry, &path, OpenFlags::READ_ONLY | OpenFlags::FORCE_SHARE, reads, readers).unwrap();
        assert!(create(&registry, &path).is_err());
    }
    {
        let _holder = Holder::new(&["-r", &path]);
        assert!(hold(&registry, &path, OpenFlags::empty(), USE, readers).is_err());
        hold(&registry, &path, OpenFlags::READ_ONLY, reads, readers).unwrap();
    }
    let ours = hold(&registry, &path, OpenFlags::empty(), USE | Permissions::RESIZE, readers).unwrap();
    let (done, text) = run(&["qemu-io", "-c", "quit", &path]);
    assert!(!done && text.contains("Failed to get \"write\" lock"), "{text}");
    let (done, text) = run(&["qemu-img", "info", &path]);
    assert!(!done && text.contains("Failed to get shared \"write\" lock"), "{text}");
    assert!(run(&["qemu-img", "info", "-U", &path]).0);
    drop(ours);
    let ours = hold(&registry, &path, OpenFlags::READ_ONLY, reads, readers).unwrap();
    assert!(!run(&["qemu-io", "-c", "quit", &path]).0);
    assert!(run(&["qemu-img", "info", &path]).0);
    drop(ours);
    assert!(run(&["qemu-io", "-c", "quit", &path]).0);
}
