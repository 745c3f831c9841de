//! The peer: `qemu-riscv64` running `server.S`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const ASSEMBLER: &str = "riscv64-linux-gnu-as";
const LINKER: &str = "riscv64-linux-gnu-ld";
const EMULATOR: &str = "qemu-riscv64";

/// Where the page of memory is.
pub const PAGE: u64 = 0x20_0000;
/// Its length.
pub const PAGE_LEN: usize = 4096;
const HEAD: usize = 10;

/// What goes in.
#[derive(Clone, Debug)]
pub struct Request {
    pub word: u32,
    pub vtype: u64,
    pub avl: u64,
    pub vstart: u64,
    pub vcsr: u64,
    pub fcsr: u64,
    pub a0: u64,
    pub a1: u64,
    pub fa0: u64,
    pub registers: Vec<u8>,
    pub page: Vec<u8>,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of the signal it ended with; 0 for none.
    pub signal: u64,
    pub vtype: u64,
    pub vl: u64,
    pub vstart: u64,
    pub vcsr: u64,
    pub fcsr: u64,
    pub a2: u64,
    pub fa2: u64,
    pub registers: Vec<u8>,
    pub page: Vec<u8>,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Assembles the server; nothing, with a word why, if the tools are not there.
fn program() -> Option<PathBuf> {
    for (program, package) in [
        (ASSEMBLER, "binutils-riscv64-linux-gnu"),
        (LINKER, "binutils-riscv64-linux-gnu"),
        (EMULATOR, "qemu-user"),
    ] {
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("skipped: there is no {program} (package {package})");
            return None;
        }
    }
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("vector-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (source, object, binary) = (path("server.S"), path("server.o"), path("server"));
    std::fs::write(&source, include_str!("server.S")).unwrap();
    run(ASSEMBLER, &["-march=rv64gcv", "-o", &object, &source]);
    let sections =
        [("text", 0x1_0000), ("page", PAGE), ("slot", 0x30_0000), ("data", 0x40_0000), ("bss", 0x50_0000)];
    let mut arguments = vec!["--no-warn-rwx-segments".to_owned(), "-o".to_owned(), binary.clone(), object];
    arguments.extend(sections.iter().map(|(name, at)| format!("--section-start=.{name}={at:#x}")));
    run(LINKER, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    Some(directory)
}

/// A running peer.
pub struct Server {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    directory: PathBuf,
    register_bytes: usize,
}

impl Server {
    /// Starts one with vector registers of `vlen` bits; nothing if the tools are not there.
    pub fn start(vlen: u32) -> Option<Server> {
        let directory = program()?;
        let mut child = Command::new(EMULATOR)
            .args(["-cpu", &format!("max,vlen={vlen}")])
            .arg(directory.join("server"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Server { child, input, output, directory, register_bytes: 4 * vlen as usize })
    }

    /// Executes one instruction; nothing if the peer breaks down over it.
    pub fn ask(&mut self, r: &Request) -> Option<Answer> {
        let head = [u64::from(r.word), r.vtype, r.avl, r.vstart, r.vcsr, r.fcsr, r.a0, r.a1, r.fa0, 0];
        let mut bytes: Vec<u8> = head.iter().flat_map(|d| d.to_le_bytes()).collect();
        bytes.extend(&r.registers);
        bytes.extend(&r.page);
        self.input.write_all(&bytes).ok()?;
        self.output.read_exact(&mut bytes).ok()?;
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..][..8].try_into().unwrap());
        let registers = bytes[8 * HEAD..][..self.register_bytes].to_vec();
        let page = bytes[8 * HEAD + self.register_bytes..].to_vec();
        Some(Answer {
            // SIGBUS is for addresses that are none at all.
            signal: if word(0) == 7 { 11 } else { word(0) },
            vtype: word(1),
            vl: word(2),
            vstart: word(3),
            vcsr: word(4),
            fcsr: word(5),
            a2: word(6),
            fa2: word(7),
            registers,
            page,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
