//! Machine state in snapshots: what is saved behind the disk goes to the snapshot that is made next, and comes back when it
//! is applied, whoever of us and of Debian's tools does which.

mod side_by_side;

use std::io::Write as _;
use std::process::{Command, Stdio};

use rhea_async_io::{IoVector, block_on};
use rhea_block::{BlockNode, OpenFlags, Repair, Result, SnapshotInfo, Truncate};
use side_by_side::{Folder, check, open, with};

fn sound(folder: &Folder, path: &str) {
    let (_, out, err) = folder.run("qemu-img", &["check", "-f", "qcow2", path]);
    assert!(err.is_empty() && out.starts_with("No errors"), "{err}{out}");
    let ours = check(path, Repair::default()).unwrap();
    assert_eq!((ours.corruptions, ours.leaks, ours.check_errors), (0, 0, 0), "{:?}", ours.messages);
}

/// Bytes that tell where they are.
fn state(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9).to_le_bytes()[2] ^ seed).collect()
}

/// Saves machine state in pieces of odd lengths, and makes a snapshot that has it.
async fn save(node: &BlockNode, name: &str, bytes: &[u8]) -> String {
    let mut at = 0;
    for piece in bytes.chunks(70_001) {
        node.save_vm_state(at, &IoVector::from_slice(piece)).await.unwrap();
        at += piece.len() as u64;
    }
    let info =
        SnapshotInfo { name: name.into(), vm_state_size: at, vm_clock_ns: 1_000_000, ..Default::default() };
    node.driver().snapshots().unwrap().create(&info).await.unwrap()
}

async fn load(node: &BlockNode, len: usize) -> Result<Vec<u8>> {
    let mut data = IoVector::zeroed(len);
    node.load_vm_state(0, &mut data).await?;
    Ok(data.to_vec())
}

async fn apply(node: &BlockNode, id: &str) {
    node.driver().snapshots().unwrap().apply(id).await.unwrap();
}

#[test]
fn state_comes_back_with_its_snapshot() {
    let Some(folder) = Folder::new() else { return };
    for options in
        ["", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "compat=0.10", "refcount_bits=64"]
    {
        let path = folder.image("disk", options, "3M", &["write -P 1 0 1M"]);
        let (first, second) = (state(1, 300_000), state(2, 1_000_000));
        let (a, b) = with(&path, OpenFlags::UNMAP, async |node| {
            let a = save(node, "first", &first).await;
            node.write_bytes(0, &[2; 4096]).await.unwrap();
            let b = save(node, "second", &second).await;
            // The state went to the snapshot: the disk has none of its own.
            assert!(load(node, 1000).await.unwrap().iter().all(|&byte| byte == 0), "{options}");
            (a, b)
        });
        sound(&folder, &path);
        let list = folder.theirs("qemu-img", &["snapshot", "-l", &path]);
        let sizes: Vec<Vec<&str>> =
            list.lines().skip(2).map(|l| l.split_whitespace().take(4).collect()).collect();
        assert_eq!(sizes, [["1", "first", "293", "KiB"], ["2", "second", "977", "KiB"]], "{options}");
        // Applied by them, read by us.
        folder.theirs("qemu-img", &["snapshot", "-a", "first", &path]);
        with(&path, OpenFlags::UNMAP, async |node| {
            assert!(load(node, first.len()).await.unwrap() == first, "{options}: first");
            apply(node, &b).await;
            assert!(load(node, second.len()).await.unwrap() == second, "{options}: second");
            let mut disk = [0; 4097];
            node.read_bytes(0, &mut disk).await.unwrap();
            assert!(disk[..4096] == [2; 4096] && disk[4096] == 1, "{options}");
        });
        // A state that is overwritten is another; the snapshots keep theirs.
        with(&path, OpenFlags::UNMAP, async |node| {
            save(node, "third", &state(3, 200_000)).await;
            apply(node, &a).await;
            assert!(load(node, first.len()).await.unwrap() == first, "{options}: first, again");
        });
        sound(&folder, &path);
        folder.theirs("qemu-img", &["snapshot", "-d", "first", &path]);
        with(&path, OpenFlags::UNMAP, async |node| {
            apply(node, &b).await;
            assert!(load(node, second.len()).await.unwrap() == second, "{options}: second, again");
            for snapshot in node.driver().snapshots().unwrap().list().await.unwrap() {
                node.driver().snapshots().unwrap().delete(&snapshot.id).await.unwrap();
            }
        });
        sound(&folder, &path);
    }
}

#[test]
fn state_of_their_machines_is_read_and_kept() {
    let Some(folder) = Folder::new() else { return };
    let machine = ["qemu-system-x86_64", "qemu-system-xtensa", "qemu-system-riscv64"]
        .into_iter()
        .find(|m| Command::new(m).arg("-version").stdout(Stdio::null()).status().is_ok());
    let Some(machine) = machine else { return println!("skipped: no qemu-system is installed") };
    let path = folder.image("disk", "", "3M", &["write -P 1 0 1M"]);
    let monitor = |commands: &str| {
        let mut child = Command::new(machine)
            .args(["-M", "none", "-m", "4M", "-nodefaults", "-display", "none", "-monitor", "stdio"])
            .args(["-drive", &format!("if=none,file={path},format=qcow2")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !out.contains("Error"), "{out}");
    };
    monitor("savevm one\nsavevm two\nquit\n");
    let snapshots = with(&path, OpenFlags::READ_ONLY, async |node| {
        node.driver().snapshots().unwrap().list().await.unwrap()
    });
    let saved = with(&path, OpenFlags::UNMAP, async |node| {
        apply(node, &snapshots[0].id).await;
        let saved = load(node, snapshots[0].vm_state_size as usize).await.unwrap();
        node.write_bytes(0, &[7; 4096]).await.unwrap();
        save(node, "ours", &saved).await;
        node.driver().snapshots().unwrap().delete(&snapshots[0].id).await.unwrap();
        saved
    });
    // The mark of a stream of machine state, at its place.
    assert!(saved.starts_with(b"QEVM"), "{:x?}", &saved[..16]);
    sound(&folder, &path);
    // They go on from the state that went through our hands, and from the one that stayed.
    monitor("loadvm ours\nloadvm two\nloadvm ours\nquit\n");
    sound(&folder, &path);
    let mut disk = [0; 4096];
    block_on(open(&path, OpenFlags::READ_ONLY).unwrap().read_bytes(0, &mut disk)).unwrap();
    assert_eq!(disk, [7; 4096]);
}

#[test]
fn a_disk_that_grows_and_state_do_not_meet() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "cluster_size=4k", "2M", &["write -P 1 0 2M"]);
    let bytes = state(5, 100_000);
    with(&path, OpenFlags::UNMAP, async |node| {
        let id = save(node, "small", &bytes).await;
        node.truncate(9 << 20, Truncate { exact: true, ..Truncate::default() }).await.unwrap();
        // Where the state was, the larger disk is.
        let mut grown = vec![9; 7 << 20];
        node.read_bytes(2 << 20, &mut grown).await.unwrap();
        assert!(grown.iter().all(|&byte| byte == 0));
        node.write_bytes(2 << 20, &vec![3; 7 << 20]).await.unwrap();
        save(node, "large", &state(6, 5000)).await;
        apply(node, &id).await;
        assert_eq!(node.length(), 2 << 20);
        assert!(load(node, bytes.len()).await.unwrap() == bytes);
    });
    sound(&folder, &path);
    with(&path, OpenFlags::UNMAP, async |node| {
        apply(node, "2").await;
        assert!(load(node, 5000).await.unwrap() == state(6, 5000));
    });
    assert!(folder.contents(&path, None)[2 << 20..] == vec![3; 7 << 20]);
}

#[test]
fn state_that_cannot_be_is_refused() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "1M", &[]);
    with(&path, OpenFlags::READ_ONLY, async |node| {
        let data = IoVector::zeroed(512);
        assert_eq!(node.save_vm_state(0, &data).await.unwrap_err().errno(), libc::EPERM);
    });
    with(&path, OpenFlags::UNMAP, async |node| {
        let data = IoVector::zeroed(512);
        // Beyond what can be named at all, and beyond any disk.
        let beyond = [(u64::MAX, libc::EIO), (rhea_block::MAX_LENGTH, libc::EIO), (1 << 62, libc::EFBIG)];
        for (offset, errno) in beyond {
            assert_eq!(node.save_vm_state(offset, &data).await.unwrap_err().errno(), errno, "{offset:x}");
        }
        // Where nothing is, there are zeroes.
        let mut data = IoVector::from_slice(&[1; 512]);
        node.load_vm_state(1 << 50, &mut data).await.unwrap();
        assert_eq!(data.to_vec(), [0; 512]);
        assert!(node.load_vm_state(u64::MAX, &mut data).await.is_err());
        let data = IoVector::zeroed(512);
        // Beyond what an L1 table can name.
        assert_eq!(node.save_vm_state(1 << 55, &data).await.unwrap_err().errno(), libc::EFBIG);
    });
    sound(&folder, &path);
}
