//! Cases: instructions, and start states in which they do something worth comparing.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
    Register,
};

use crate::catalogue::{Group, group};
use crate::encode::{branch_lands_well, data_address, decode, instruction};
use crate::place;
use crate::random::Random;
use crate::state::{AC, FLAGS, Mode, State};

/// Instructions, and what to run them on.
#[derive(Clone, Debug)]
pub struct Case {
    /// Mode they run in.
    pub mode: Mode,
    /// Their bytes.
    pub code: Vec<u8>,
    /// The same, decoded.
    pub instructions: Vec<Instruction>,
    /// Registers at the start.
    pub state: State,
    /// The writable data at the start.
    pub data: Vec<u8>,
    /// Instructions may run more than once, or not at all.
    pub loops: bool,
}

/// A case of one instruction with prefixes that it may not need, or not bear.
pub fn prefixed(random: &mut Random, mode: Mode) -> Case {
    const PREFIXES: [u8; 12] = [0x66, 0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0xf0, 0x48, 0x41];
    loop {
        let group_drawn = random.pick(&Group::ALL);
        let mut code = instruction(random, group_drawn, mode);
        for _ in 0..1 + random.below(3) {
            let prefix = random.pick(&PREFIXES);
            if mode == Mode::Long || prefix & 0xf0 != 0x40 {
                code.insert(0, if prefix & 0xf0 == 0x40 { 0x40 | random.below(16) as u8 } else { prefix });
            }
        }
        let insn = decode(&code, place::START, mode);
        let tested = match insn.code() {
            // Longer ones would not be told from instructions of more than 15 bytes.
            Code::INVALID => code.len() < 15,
            other => group(other).is_some_and(|g| g != Group::Branch && g != Group::Privileged),
        };
        if tested
            && (insn.len() == code.len() || insn.code() == Code::INVALID)
            && branch_lands_well(&code, mode)
        {
            return case_for(random, code, mode);
        }
    }
}

fn random_state(random: &mut Random, mode: Mode) -> State {
    let mut s = State { rflags: random.bits() & (FLAGS & !0x400) | 2, ..State::default() };
    if random.one_in(8) {
        s.rflags |= 0x400;
    }
    for r in &mut s.gpr {
        *r = random.integer();
    }
    for v in s.vec.iter_mut().flatten() {
        *v = random.lane64();
    }
    let x = &mut s.x87;
    x.in_use = match random.below(4) {
        0 => random.bits() as u8,
        1 => 0xff,
        _ => 0,
    };
    let top = random.below(8) as u16;
    if x.in_use == 0 {
        // A stack of some depth.
        let depth = random.below(8) as u16;
        for i in 0..depth {
            x.in_use |= 1 << ((top + i) & 7);
        }
    }
    x.status = top << 11 | random.bits() as u16 & 0x473f;
    x.control = 0x7f | random.pick(&[0u16, 0x200, 0x300, 0x300, 0x300]) | (random.below(4) as u16) << 10;
    if random.one_in(2) {
        x.control &= !0xc00;
    }
    for st in &mut x.st {
        *st = random.extended();
    }
    s.mxcsr = 0x1f80 | random.bits() as u32 & 0x3f;
    if random.one_in(2) {
        s.mxcsr |= random.bits() as u32 & 0xe040;
    }
    if random.one_in(12) {
        // Overflow and underflow stay masked: unmasked, they are raised without the precision exception, and
        // underflow by exact results too, which Rhea does not model.
        s.mxcsr &= !(random.bits() as u32 & 0x1380);
    }
    if random.one_in(12) {
        x.control &= !(random.bits() as u16 & 0x27);
    }
    if x.status & !x.control & 0x3f != 0 {
        if random.one_in(2) {
            x.status &= !0x3f;
        } else {
            x.status |= 0x8080;
        }
    }
    if mode == Mode::Compat {
        for r in &mut s.gpr {
            *r = u64::from(*r as u32);
        }
        s.gpr[8..].fill(0);
        s.vec[8..].fill([0; 4]);
    }
    s
}

/// Number of a general register.
pub(crate) fn number(r: Register) -> Option<usize> {
    (r.is_gpr()).then(|| r.full_register().number())
}

/// Builds a case out of instructions that need no state of each other's making.
pub(crate) struct Shaper<'a> {
    pub random: &'a mut Random,
    pub mode: Mode,
    pub state: State,
    pub data: Vec<u8>,
    /// Registers whose start value some instruction relies on.
    pub fixed: u16,
    /// Registers that an instruction so far wrote.
    pub written: u16,
    pub info: InstructionInfoFactory,
}

impl Shaper<'_> {
    pub fn set(&mut self, n: usize, value: u64) {
        if (self.fixed | self.written) >> n & 1 == 0 {
            self.state.gpr[n] = if self.mode == Mode::Compat { u64::from(value as u32) } else { value };
        }
    }

    fn free(&self, n: usize) -> bool {
        (self.fixed | self.written) >> n & 1 == 0
    }

    /// Gives registers that address memory values by which the access lands in the data. False if that cannot be.
    pub fn point(&mut self, insn: &Instruction) -> bool {
        let used: Vec<_> = self.info.info(insn).used_memory().to_vec();
        let mut all = true;
        for m in used {
            if m.base() == Register::RIP || m.base() == Register::EIP {
                continue;
            }
            let size = (m.memory_size().size() as u64).max(1);
            let target = data_address(self.random, size);
            let index = m.index();
            if index.is_vector_register() {
                let n = index.number();
                for lane in &mut self.state.vec[n] {
                    let small = |r: &mut Random| r.below(0x200) as i64 - 0x100;
                    *lane = if insn.mnemonic_is_dword_vsib() {
                        u64::from(small(self.random) as u32) << 32 | u64::from(small(self.random) as u32)
                    } else {
                        small(self.random) as u64
                    };
                }
                if let Some(b) = number(m.base()) {
                    if !self.free(b) {
                        all = false;
                        continue;
                    }
                    self.set(b, target.wrapping_sub(m.displacement()));
                    self.fixed |= 1 << b;
                }
                continue;
            }
            let index_number = number(index).filter(|_| index.is_gpr32() || index.is_gpr64());
            if let Some(b) = number(m.base()) {
                let mut value = target.wrapping_sub(m.displacement());
                if index == Register::AL {
                    value = target.wrapping_sub(self.state.gpr[0] & 0xff);
                } else if let Some(i) = index_number {
                    let v = self.state.gpr[i];
                    value = value.wrapping_sub(v.wrapping_mul(m.scale() as u64));
                    self.fixed |= 1 << i;
                }
                if !self.free(b) {
                    all = false;
                    continue;
                }
                if m.base().is_gpr32() && self.mode == Mode::Long {
                    value = value & 0xffff_ffff | self.random.bits() << 32;
                }
                self.set(b, value);
                self.fixed |= 1 << b;
            } else if let Some(i) = index_number {
                let value = target.wrapping_sub(m.displacement()) / m.scale() as u64;
                if !self.free(i) {
                    all = false;
                    continue;
                }
                self.set(i, value);
                self.fixed |= 1 << i;
            }
        }
        all
    }

    /// Values that make particular instructions do more than fault.
    pub fn suit(&mut self, insn: &Instruction) {
        use Mnemonic as M;
        match insn.mnemonic() {
            M::Div | M::Idiv if !self.random.one_in(4) => {
                let v = if self.random.one_in(2) { 0 } else { self.random.below(300) };
                let negative = insn.mnemonic() == M::Idiv && self.random.one_in(2);
                self.set(2, if negative { u64::MAX } else { v });
                if insn.op0_kind() != OpKind::Memory && insn.op0_register().size() == 1 {
                    let low = self.state.gpr[0] & !0xff00 | v << 8 & 0xff00;
                    self.set(0, low);
                }
            }
            M::Shl | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
                if self.random.one_in(2) =>
            {
                let v = self.state.gpr[1] & !0xff | self.random.below(70);
                self.set(1, v);
            }
            M::Bt | M::Bts | M::Btr | M::Btc if insn.op0_kind() == OpKind::Memory => {
                if let Some(n) =
                    (insn.op1_kind() == OpKind::Register).then(|| number(insn.op1_register())).flatten()
                {
                    let v = (self.random.below(0x4000) as i64 - 0x2000) as u64;
                    self.set(n, v);
                    self.fixed |= 1 << n;
                }
            }
            M::Cmpxchg if self.random.one_in(2) && insn.op0_kind() == OpKind::Register => {
                if let Some(n) = number(insn.op0_register()) {
                    let v = self.state.gpr[n];
                    self.set(0, v);
                }
            }
            M::Bextr | M::Bzhi | M::Rorx | M::Sarx | M::Shlx | M::Shrx => {
                if insn.op_count() > 2
                    && let Some(n) =
                        (insn.op2_kind() == OpKind::Register).then(|| number(insn.op2_register())).flatten()
                    && self.random.one_in(2)
                {
                    let v = self.random.below(70) | self.random.below(70) << 8;
                    self.set(n, v);
                }
            }
            _ => {}
        }
        if insn.is_string_instruction() {
            let n = self.random.below(20);
            self.set(1, n);
            self.fixed |= 1 << 1;
        }
        if matches!(insn.mnemonic(), M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz) {
            let n = self.random.below(3);
            self.set(1, n);
        }
        self.suit_memory(insn);
    }

    /// Memory contents for compare-and-exchange, indirect jumps, returns and conversions.
    fn suit_memory(&mut self, insn: &Instruction) {
        use Mnemonic as M;
        let target = place::START + 2 * self.random.below(40) + insn.len() as u64;
        match insn.flow_control() {
            FlowControl::IndirectBranch | FlowControl::IndirectCall if self.random.one_in(8) => {}
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if insn.op0_kind() == OpKind::Register {
                    if let Some(n) = number(insn.op0_register()) {
                        self.set(n, target);
                    }
                } else {
                    self.write_operand(insn, target);
                }
            }
            FlowControl::Return if !self.random.one_in(8) => {
                let rsp = self.state.gpr[4];
                self.write(rsp, &target.to_le_bytes()[..if self.mode == Mode::Long { 8 } else { 4 }]);
            }
            _ => {}
        }
        match insn.mnemonic() {
            M::Cmpxchg if insn.op0_kind() == OpKind::Memory && self.random.one_in(2) => {
                let v = self.state.gpr[0];
                self.write_operand(insn, v);
            }
            M::Cmpxchg8b | M::Cmpxchg16b if self.random.one_in(2) => {
                let (a, d) = (self.state.gpr[0], self.state.gpr[2]);
                if insn.mnemonic() == M::Cmpxchg8b {
                    self.write_operand(insn, a & 0xffff_ffff | d << 32);
                } else if let Some(at) = self.address_of(insn) {
                    self.write(at, &a.to_le_bytes());
                    self.write(at.wrapping_add(8), &d.to_le_bytes());
                }
            }
            _ => {}
        }
        let extended =
            matches!(insn.memory_size(), iced_x86::MemorySize::Float80 | iced_x86::MemorySize::Bcd);
        if extended && let Some(at) = self.address_of(insn) {
            let (m, e) = self.random.extended();
            let mut bytes = m.to_le_bytes().to_vec();
            bytes.extend(e.to_le_bytes());
            if insn.mnemonic() == M::Fbld {
                for b in &mut bytes {
                    *b = (self.random.below(10) * 16 + self.random.below(10)) as u8;
                }
            }
            self.write(at, &bytes);
        }
    }

    fn address_of(&self, insn: &Instruction) -> Option<u64> {
        insn.virtual_address(0, 0, |r, _, _| {
            if r.is_segment_register() {
                return Some(0);
            }
            let n = number(r)?;
            let v = self.state.gpr[n];
            Some(if r.is_gpr32() { u64::from(v as u32) } else { v })
        })
    }

    fn write_operand(&mut self, insn: &Instruction, value: u64) {
        if let Some(at) = self.address_of(insn) {
            self.write(at, &value.to_le_bytes());
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        if let Some(offset) = at.checked_sub(place::DATA)
            && let Some(to) = self.data.get_mut(offset as usize..).and_then(|d| d.get_mut(..bytes.len()))
        {
            to.copy_from_slice(bytes);
        }
    }
}

trait DwordVsib {
    fn mnemonic_is_dword_vsib(&self) -> bool;
}

impl DwordVsib for Instruction {
    fn mnemonic_is_dword_vsib(&self) -> bool {
        use Mnemonic as M;
        matches!(self.mnemonic(), M::Vgatherdps | M::Vgatherdpd | M::Vpgatherdd | M::Vpgatherdq)
    }
}

pub(crate) fn shaper<'a>(random: &'a mut Random, mode: Mode) -> Shaper<'a> {
    let state = random_state(random, mode);
    let mut data = vec![0u8; place::DATA_LEN];
    for c in data.chunks_exact_mut(8) {
        c.copy_from_slice(&random.lane64().to_le_bytes());
    }
    Shaper { random, mode, state, data, fixed: 0, written: 0, info: InstructionInfoFactory::new() }
}

/// A start state for the one instruction `code`.
pub fn case_for(random: &mut Random, code: Vec<u8>, mode: Mode) -> Case {
    // FSTCW and the like are FWAIT and another instruction.
    let instructions: Vec<_> =
        Decoder::with_ip(mode.bitness(), &code, place::START, DecoderOptions::NONE).iter().collect();
    let insn = instructions[instructions.len() - 1];
    let mut s = shaper(random, mode);
    s.suit(&insn);
    s.point(&insn);
    s.suit_memory(&insn);
    if s.random.one_in(64) {
        s.state.rflags |= AC;
    }
    let (state, data) = (s.state, s.data);
    Case { mode, code, instructions, state, data, loops: false }
}

/// A case of one instruction of `group`.
pub fn single(random: &mut Random, group: Group, mode: Mode) -> Case {
    let code = instruction(random, group, mode);
    case_for(random, code, mode)
}
