//! Images go both ways between the `luks` driver and Debian's qemu-img and qemu-io.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{BlockNode, FileDriver, OpenFlags, Progress, RawDriver, Registry, WriteFlags};
use rhea_block_crypto::LuksDriver;
use rhea_options::Options;

const PASSWORD: &str = "correct horse";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-luks-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(FileDriver);
    registry.add(RawDriver);
    registry.add(LuksDriver);
    registry.secrets().add("s", PASSWORD.into()).unwrap();
    registry.secrets().add("n", b"another".to_vec()).unwrap();
    registry.secrets().add("w", b"wrong".to_vec()).unwrap();
    registry
}

fn create(registry: &Registry, file: &str, options: &str) -> rhea_block::Result<()> {
    let options = Options::parse(options, None).unwrap();
    block_on(registry.create("luks", file, options, &Progress::new()))
}

fn open(registry: &Registry, options: &str) -> rhea_block::Result<Arc<BlockNode>> {
    let options = Options::parse(options, None).unwrap();
    block_on(registry.open_node(options, OpenFlags::empty(), false))
}

fn image(file: &str, secret: &str) -> String {
    format!("driver=luks,key-secret={secret},file.driver=file,file.filename={file}")
}

/// Bytes that are not alike in any two blocks.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn write(node: &Arc<BlockNode>, offset: u64, bytes: &[u8]) {
    block_on(async {
        node.write(offset, &IoVector::from_slice(bytes), WriteFlags::empty()).await.unwrap();
        node.flush().await.unwrap();
    });
}

fn read(node: &Arc<BlockNode>, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    block_on(node.read_bytes(offset, &mut bytes)).unwrap();
    bytes
}

/// Runs one of Debian's tools with the password as secret `s`; `None` if it is not installed.
fn debian(tool: &str, arguments: &[&str]) -> Option<String> {
    let path = Path::new("/usr/bin").join(tool);
    if !path.exists() {
        println!("skipped: {tool} is not installed");
        return None;
    }
    let (command, rest) = match tool {
        "qemu-img" => arguments.split_at(1),
        _ => arguments.split_at(0),
    };
    let secrets =
        ["--object", &format!("secret,id=s,data={PASSWORD}"), "--object", "secret,id=n,data=another"];
    let output = Command::new(path).args(command).args(secrets).args(rest).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

const SIZE: usize = 1 << 20;

const KINDS: [&str; 14] = [
    "",
    "cipher-alg=aes-128",
    "cipher-alg=aes-192",
    "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv",
    "cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha1",
    "cipher-mode=ecb,hash-alg=sha512",
    "cipher-mode=ctr,hash-alg=sha384",
    "cipher-alg=serpent-128,hash-alg=sha224",
    "cipher-alg=serpent-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sm3",
    "cipher-alg=twofish-128,cipher-mode=ctr,hash-alg=ripemd160",
    "cipher-alg=twofish-256,hash-alg=md5",
    "cipher-alg=twofish-192,hash-alg=sm3",
    "cipher-alg=cast5-128,cipher-mode=cbc",
    "cipher-alg=cast5-128,cipher-mode=ctr,ivgen-alg=plain",
];

fn kind(options: &str) -> String {
    let comma = if options.is_empty() { "" } else { "," };
    format!("key-secret=s,iter-time=10{comma}{options}")
}

#[test]
fn debians_tools_read_what_we_write() {
    let folder = Folder::new("ours");
    let registry = registry();
    let data = pattern(SIZE);
    for options in KINDS {
        let file = folder.file("a.luks");
        create(&registry, &file, &format!("size={SIZE},{}", kind(options))).unwrap();
        let node = open(&registry, &image(&file, "s")).unwrap();
        write(&node, 0, &data[..300 << 10]);
        write(&node, 300 << 10, &data[300 << 10..]);
        drop(node);
        let raw = folder.file("a.raw");
        let source = format!("driver=luks,key-secret=s,file.filename={file}");
        if debian("qemu-img", &["convert", "--image-opts", &source, "-O", "raw", &raw]).is_none() {
            return;
        }
        assert!(std::fs::read(&raw).unwrap() == data, "{options}");
    }
}

#[test]
fn we_read_what_debians_tools_write() {
    let folder = Folder::new("theirs");
    let registry = registry();
    let data = pattern(SIZE);
    let raw = folder.file("a.raw");
    std::fs::write(&raw, &data).unwrap();
    // Debian's qemu-img takes seconds of measuring for each image it makes.
    for options in [KINDS[0], KINDS[3]] {
        let file = folder.file("a.luks");
        if debian("qemu-img", &["convert", "-f", "raw", "-O", "luks", "-o", &kind(options), &raw, &file])
            .is_none()
        {
            return;
        }
        let node = open(&registry, &image(&file, "s")).unwrap();
        assert_eq!(node.length(), SIZE as u64);
        assert!(read(&node, 0, SIZE) == data, "{options}");
        assert_eq!(read(&node, 1000, 3000), data[1000..4000], "{options}");
    }
}

#[test]
fn the_wrong_password_and_no_password_are_refused() {
    let folder = Folder::new("password");
    let registry = registry();
    let file = folder.file("a.luks");
    create(&registry, &file, "size=1M,key-secret=s,iter-time=1").unwrap();
    let error = open(&registry, &image(&file, "w")).unwrap_err();
    assert_eq!(error.to_string(), "Invalid password, cannot unlock any keyslot");
    let error = open(&registry, &format!("driver=luks,file.driver=file,file.filename={file}")).unwrap_err();
    assert_eq!(error.to_string(), "Parameter 'key-secret' is required for cipher");
    // To look at the header takes no password.
    let flags = OpenFlags::NO_IO | OpenFlags::READ_ONLY;
    let node = block_on(registry.open(&file, None, flags)).unwrap();
    assert_eq!(node.driver_name(), "luks");
    let info = block_on(node.driver().format_info()).unwrap();
    assert!(info.encrypted);
    assert_eq!(info.specific.unwrap()["data"]["payload-offset"], 2068480);
    assert!(block_on(node.read_bytes(0, &mut [0; 512])).is_err());
}

#[test]
fn key_slots_come_and_go() {
    let folder = Folder::new("amend");
    let registry = registry();
    let file = folder.file("a.luks");
    create(&registry, &file, "size=1M,key-secret=s,iter-time=1").unwrap();
    let node = open(&registry, &image(&file, "s")).unwrap();
    let data = pattern(SIZE);
    write(&node, 0, &data);
    let amend = |node: &Arc<BlockNode>, options: &str, force| {
        let options = Options::parse(options, None).unwrap();
        block_on(node.driver().amend(options, force, &Progress::new()))
    };
    let refused = |options: &str, message: &str| {
        assert_eq!(amend(&node, options, false).unwrap_err().to_string(), message, "{options}");
    };
    refused("new-secret=n", "Parameter 'state' is missing");
    refused("state=active", "'new-secret' is required to activate a keyslot");
    refused("state=inactive,keyslot=5", "Given keyslot 5 is already erased (inactive)");
    refused("state=inactive,old-secret=w", "No keyslots match given (old) password for erase operation");
    refused(
        "state=active,new-secret=n,keyslot=0",
        "Refusing to overwrite active keyslot 0 - please erase it first",
    );
    assert!(amend(&node, "state=inactive,keyslot=0", false).is_err(), "the last password stays");
    amend(&node, "state=active,new-secret=n,iter-time=1,keyslot=7", false).unwrap();
    amend(&node, "state=inactive,old-secret=s", false).unwrap();
    assert!(amend(&node, "state=inactive,old-secret=n", false).is_err(), "the last password stays");
    drop(node);
    assert!(open(&registry, &image(&file, "s")).is_err());
    let node = open(&registry, &image(&file, "n")).unwrap();
    assert!(read(&node, 0, SIZE) == data);
    let debians = format!("driver=luks,key-secret=n,file.filename={file}");
    drop(node);
    let raw = folder.file("a.raw");
    if debian("qemu-img", &["convert", "--image-opts", &debians, "-O", "raw", &raw]).is_some() {
        assert!(std::fs::read(&raw).unwrap() == data);
    }
}

#[test]
fn a_disk_grows_and_shrinks() {
    let folder = Folder::new("resize");
    let registry = registry();
    let file = folder.file("a.luks");
    create(&registry, &file, "size=1000,key-secret=s,iter-time=1,preallocation=full").unwrap();
    let node = open(&registry, &image(&file, "s")).unwrap();
    assert_eq!(node.length(), 1024);
    let how = rhea_block::Truncate { zero: true, ..Default::default() };
    block_on(node.truncate(3 << 20, how)).unwrap();
    assert!(read(&node, 1024, (3 << 20) - 1024).iter().all(|&byte| byte == 0));
    block_on(node.truncate(512, Default::default())).unwrap();
    assert_eq!((node.length(), std::fs::metadata(&file).unwrap().len()), (512, 2068480 + 512));
}

#[test]
fn a_header_may_lie_in_a_file_of_its_own() {
    let folder = Folder::new("detached");
    let registry = registry();
    let (header, payload) = (folder.file("a.header"), folder.file("a.payload"));
    create(&registry, &header, "size=1M,key-secret=s,iter-time=1,detached-header=on").unwrap();
    assert_eq!(std::fs::metadata(&header).unwrap().len(), 2068480);
    std::fs::write(&payload, vec![0; SIZE]).unwrap();
    let options = format!("{},header.driver=file,header.filename={header}", image(&payload, "s"));
    let node = open(&registry, &options).unwrap();
    let data = pattern(SIZE);
    write(&node, 0, &data);
    assert!(read(&node, 0, SIZE) == data);
    let info = block_on(node.driver().format_info()).unwrap();
    assert_eq!(info.specific.unwrap()["data"]["detached-header"], true);
    drop(node);
    // A detached header is not a disk.
    assert!(open(&registry, &image(&header, "s")).is_err());
    let raw = folder.file("a.raw");
    let Some(_) = debian("qemu-img", &["convert", "--image-opts", &options, "-O", "raw", &raw]) else {
        return;
    };
    assert!(std::fs::read(&raw).unwrap() == data);
}
