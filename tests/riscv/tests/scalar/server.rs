//! The peer: `qemu-riscv64` or `qemu-riscv32` running `server.S`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rhea_riscv_translate::Xlen;

/// Where the page of memory is.
pub const PAGE: u64 = 0x8008_0000;
/// Its length.
pub const PAGE_LEN: usize = 4096;

/// What goes in, and, with another word, comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The instruction; in an answer the number of the signal it ended with, 0 for none.
    pub word: u64,
    pub fcsr: u64,
    pub x: [u64; 32],
    pub f: [u64; 32],
    pub page: Vec<u8>,
    /// mcause and mtval together, where they can be seen.
    pub cause: Option<u64>,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running peer.
pub struct Server {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    directory: PathBuf,
    /// Whether registers have 32 bits.
    narrow: bool,
}

impl Server {
    /// Starts one; nothing, with a word why, if the tools are not there.
    pub fn start(xlen: Xlen) -> Option<Server> {
        let bits = xlen.bits();
        let emulator = format!("qemu-riscv{bits}");
        for (program, package) in [
            ("riscv64-linux-gnu-as", "binutils-riscv64-linux-gnu"),
            ("riscv64-linux-gnu-ld", "binutils-riscv64-linux-gnu"),
            (&emulator, "qemu-user"),
        ] {
            if Command::new(program).arg("--version").output().is_err() {
                eprintln!("skipped: there is no {program} (package {package})");
                return None;
            }
        }
        let directory =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scalar{bits}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        std::fs::write(path("server.S"), include_str!("server.S")).unwrap();
        let (march, abi, narrow) =
            (format!("-march=rv{bits}gc"), if bits == 64 { "lp64d" } else { "ilp32d" }, bits == 32);
        let mut assemble = vec![march.as_str(), "-mabi", abi];
        if narrow {
            assemble.extend(["--defsym", "RV32=1"]);
        }
        let (object, source) = (path("server.o"), path("server.S"));
        assemble.extend(["-o", &object, &source]);
        run("riscv64-linux-gnu-as", &assemble);
        let mut arguments = [
            "-m",
            &format!("elf{bits}lriscv"),
            "--no-warn-rwx-segments",
            "-o",
            &path("server"),
            &path("server.o"),
        ]
        .map(str::to_owned)
        .to_vec();
        // Small numbers are likely addresses of random stores, which must not meet the program.
        let at = |offset: u64| 0x5ad0_0000 + offset;
        let sections = [
            ("text", at(0)),
            ("slot", at(0x1_0000)),
            ("data", at(0x2_0000)),
            ("bss", at(0x3_0000)),
            ("page", PAGE),
        ];
        for (name, at) in sections {
            arguments.push(format!("--section-start=.{name}={at:#x}"));
        }
        run("riscv64-linux-gnu-ld", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = Command::new(&emulator)
            .args(["-cpu", "max"])
            .arg(directory.join("server"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Server { child, input, output, directory, narrow })
    }

    /// Executes one instruction.
    pub fn ask(&mut self, s: &State) -> State {
        let words = [s.word, s.fcsr].into_iter().chain(s.x).chain(s.f);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.extend(&s.page);
        self.input.write_all(&bytes).unwrap();
        self.output.read_exact(&mut bytes).unwrap();
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..][..8].try_into().unwrap());
        State {
            // SIGBUS is for addresses that are none at all, and for misaligned atomic accesses.
            word: if word(0) == 7 { 11 } else { word(0) },
            fcsr: word(1),
            // As our harts keep 32-bit registers.
            x: std::array::from_fn(|i| if self.narrow { word(2 + i) as i32 as u64 } else { word(2 + i) }),
            f: std::array::from_fn(|i| word(34 + i)),
            page: bytes[8 * 66..].to_vec(),
            cause: None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
