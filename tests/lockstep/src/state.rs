//! The register state of user code, and how a run ended.

use std::fmt::Write as _;

/// Which of the two user modes the instructions run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// 64-bit mode.
    Long,
    /// Compatibility mode with a 32-bit code segment.
    Compat,
}

impl Mode {
    /// Width of the mode, as a decoder asks for it.
    pub const fn bitness(self) -> u32 {
        match self {
            Mode::Long => 64,
            Mode::Compat => 32,
        }
    }
}

/// RFLAGS bits that are set up and compared: the arithmetic flags and DF.
pub const FLAGS: u64 = 0xcd5;
/// RFLAGS.AC.
pub const AC: u64 = 1 << 18;

/// The x87 state in FXSAVE's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct X87 {
    /// Control word.
    pub control: u16,
    /// Status word, TOP included.
    pub status: u16,
    /// Bit i is set when physical register i is in use (FXSAVE's abridged tag word).
    pub in_use: u8,
    /// ST(0) to ST(7): significand, then sign and exponent.
    pub st: [(u64, u16); 8],
}

/// Registers of user code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS; only [`FLAGS`] counts.
    pub rflags: u64,
    /// YMM0 to YMM15.
    pub vec: [[u64; 4]; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 and MMX.
    pub x87: X87,
}

impl Default for State {
    fn default() -> Self {
        State {
            gpr: [0; 16],
            rip: crate::place::START,
            rflags: 2,
            vec: [[0; 4]; 16],
            mxcsr: 0x1f80,
            x87: X87 { control: 0x37f, ..X87::default() },
        }
    }
}

/// An exception that ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Vector (SDM vol. 3, table 6-1).
    pub vector: u8,
    /// Error code, zero for vectors that have none.
    pub error_code: u32,
    /// CR2, for page faults; else zero.
    pub address: u64,
}

/// State after a run. Every run ends in an exception: that of UD2 behind the last instruction, if not an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Registers.
    pub state: State,
    /// The writable data.
    pub data: Vec<u8>,
    /// What ended it.
    pub trap: Trap,
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

impl State {
    /// The registers in a few lines: the general ones, and vector and x87 registers as asked.
    pub fn describe(&self, vectors: &[usize], x87: bool) -> String {
        let mut s = String::new();
        for (i, v) in self.gpr.iter().enumerate() {
            let _ = write!(s, "{:>4}={v:016x}{}", NAMES[i], if i % 4 == 3 { "\n" } else { " " });
        }
        let _ = writeln!(s, " rip={:x} rflags={:x} mxcsr={:x}", self.rip, self.rflags & FLAGS, self.mxcsr);
        for &i in vectors {
            let v = &self.vec[i];
            let _ = writeln!(s, " ymm{i:<2}={:016x}_{:016x}_{:016x}_{:016x}", v[3], v[2], v[1], v[0]);
        }
        let x = &self.x87;
        if !x87 {
            return s;
        }
        let _ = writeln!(s, " cw={:04x} sw={:04x} in_use={:02x}", x.control, x.status, x.in_use);
        for (i, (m, e)) in x.st.iter().enumerate() {
            let _ = write!(s, " st{i}={e:04x}_{m:016x}{}", if i % 4 == 3 { "\n" } else { " " });
        }
        s
    }
}

/// The differences between two outcomes, one a line; empty when they agree.
pub fn differences(left: &Ended, right: &Ended) -> String {
    let mut s = String::new();
    let (a, b) = (&left.state, &right.state);
    if left.trap != right.trap {
        let _ = writeln!(s, "  trap: {:x?} / {:x?}", left.trap, right.trap);
    }
    if a.rip != b.rip {
        let _ = writeln!(s, "  rip: {:x} / {:x}", a.rip, b.rip);
    }
    for (name, (x, y)) in NAMES.iter().zip(a.gpr.iter().zip(&b.gpr)) {
        if x != y {
            let _ = writeln!(s, "  {name}: {x:016x} / {y:016x}");
        }
    }
    if a.rflags != b.rflags {
        let _ = writeln!(
            s,
            "  rflags: {:04x} / {:04x} (differ: {})",
            a.rflags,
            b.rflags,
            flag_names(a.rflags ^ b.rflags)
        );
    }
    for i in 0..16 {
        if a.vec[i] != b.vec[i] {
            let (x, y) = (a.vec[i], b.vec[i]);
            let _ = writeln!(
                s,
                "  ymm{i}: {:016x}_{:016x}_{:016x}_{:016x}\n      / {:016x}_{:016x}_{:016x}_{:016x}",
                x[3], x[2], x[1], x[0], y[3], y[2], y[1], y[0]
            );
        }
    }
    if a.mxcsr != b.mxcsr {
        let _ = writeln!(s, "  mxcsr: {:04x} / {:04x}", a.mxcsr, b.mxcsr);
    }
    let (x, y) = (&a.x87, &b.x87);
    if (x.control, x.status, x.in_use) != (y.control, y.status, y.in_use) {
        let _ = writeln!(
            s,
            "  x87 cw {:04x} / {:04x} sw {:04x} / {:04x} in_use {:02x} / {:02x}",
            x.control, y.control, x.status, y.status, x.in_use, y.in_use
        );
    }
    for i in 0..8 {
        if x.st[i] != y.st[i] {
            let ((m, e), (n, f)) = (x.st[i], y.st[i]);
            let _ = writeln!(s, "  st{i}: {e:04x}_{m:016x} / {f:04x}_{n:016x}");
        }
    }
    let mut listed = 0;
    for (i, (p, q)) in left.data.chunks(8).zip(right.data.chunks(8)).enumerate() {
        if p != q && listed < 8 {
            let _ = writeln!(s, "  [{:x}]: {p:02x?} / {q:02x?}", crate::place::DATA + 8 * i as u64);
            listed += 1;
        }
    }
    s
}

fn flag_names(bits: u64) -> String {
    [(0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (10, "DF"), (11, "OF"), (18, "AC")]
        .iter()
        .filter(|(i, _)| bits >> i & 1 != 0)
        .map(|(_, n)| *n)
        .collect::<Vec<_>>()
        .join(" ")
}
