//! Cases of several instructions: one after the other, or in loops with branches and calls.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess};

use crate::catalogue::Group;
use crate::encode::{decode, instruction};
use crate::generate::{Case, Shaper, number, shaper};
use crate::place;
use crate::random::Random;
use crate::state::Mode;

/// Instructions that follow each other, as they are chosen.
struct Body {
    code: Vec<u8>,
    instructions: Vec<Instruction>,
    /// Flags that may be undefined at the end (iced's bits).
    undefined: u32,
    /// Registers that nothing may write.
    kept: u16,
    /// Flags that were undefined stay so: what follows may be skipped.
    conditional: bool,
}

impl Body {
    fn end(&self) -> u64 {
        place::START + self.code.len() as u64
    }

    /// Adds an instruction of `groups`, if the one drawn fits.
    fn add(&mut self, s: &mut Shaper<'_>, draw: &mut Random, groups: &[Group]) -> bool {
        let group = draw.pick(groups);
        let bytes = instruction(draw, group, s.mode);
        let insn = decode(&bytes, self.end(), s.mode);
        // FWAIT and another instruction are two.
        if insn.len() != bytes.len()
            || insn.rflags_read() & self.undefined != 0
            || insn.is_ip_rel_memory_operand()
            || insn.flow_control() != FlowControl::Next
            || insn.is_string_instruction()
            || crate::undefined::only_alone(&insn)
            || written_by(&mut s.info, &insn) & self.kept != 0
        {
            return false;
        }
        let before = s.fixed;
        s.suit(&insn);
        if !s.point(&insn) {
            s.fixed |= before;
            return false;
        }
        s.written |= written_by(&mut s.info, &insn);
        let certain = !self.conditional && !crate::undefined::is_shift(&insn);
        let modified = if certain { insn.rflags_modified() } else { 0 };
        self.undefined = self.undefined & !modified | insn.rflags_undefined();
        self.push(&bytes, s.mode);
        true
    }

    /// Adds bytes as they are.
    fn push(&mut self, bytes: &[u8], mode: Mode) {
        let ip = self.end();
        self.code.extend(bytes);
        self.instructions.extend(Decoder::with_ip(mode.bitness(), bytes, ip, DecoderOptions::NONE));
    }

    fn case(self, s: Shaper<'_>, loops: bool) -> Case {
        let Shaper { mode, state, data, .. } = s;
        Case { mode, code: self.code, instructions: self.instructions, state, data, loops }
    }
}

fn body(kept: u16) -> Body {
    Body { code: Vec::new(), instructions: Vec::new(), undefined: 0, kept, conditional: false }
}

/// General registers that `insn` may write, by number.
fn written_by(info: &mut InstructionInfoFactory, insn: &Instruction) -> u16 {
    let writes = [OpAccess::Write, OpAccess::CondWrite, OpAccess::ReadWrite, OpAccess::ReadCondWrite];
    let used = info.info(insn).used_registers();
    used.iter()
        .filter(|u| writes.contains(&u.access()))
        .filter_map(|u| number(u.register()))
        .fold(0, |all, n| all | 1 << n)
}

/// A case of up to `length` instructions of `groups`, one after the other. None reads a flag that an earlier one left
/// undefined.
pub fn stream(random: &mut Random, groups: &[Group], mode: Mode, length: usize) -> Case {
    let mut draw = Random::new(random.bits());
    let mut s = shaper(random, mode);
    let mut b = body(0);
    for _ in 0..20 * length {
        if b.instructions.len() < length {
            b.add(&mut s, &mut draw, groups);
        }
    }
    b.case(s, false)
}

/// A loop of a few rounds over instructions of `groups`, with branches over some of them and calls between: what
/// leads from unit to unit.
pub fn looped(random: &mut Random, groups: &[Group], mode: Mode, length: usize) -> Case {
    const RCX: u16 = 1 << 1;
    const RSP: u16 = 1 << 4;
    let mut draw = Random::new(random.bits());
    let mut s = shaper(random, mode);
    let rounds = 2 + draw.below(6);
    s.set(1, rounds);
    s.set(4, place::DATA + 0x1800);
    s.fixed |= RCX | RSP;
    let mut b = body(RCX | RSP);
    // CMP EAX, EAX: every flag is defined at the start of each round.
    const DEFINE: [u8; 2] = [0x39, 0xc0];
    b.push(&DEFINE, mode);
    for _ in 0..length {
        match draw.below(6) {
            0 if b.undefined == 0 => {
                // A branch over the next few instructions.
                let at = b.code.len();
                b.push(&[0x70 | draw.below(16) as u8, 0], mode);
                b.conditional = true;
                let mut any = false;
                for _ in 0..20 {
                    if b.code.len() < at + 30 && (!any || draw.one_in(3)) {
                        any |= b.add(&mut s, &mut draw, groups);
                    }
                }
                b.conditional = false;
                b.code[at + 1] = (b.code.len() - at - 2) as u8;
            }
            1 => {
                // CALL over a jump to a RET, which comes back to that jump, over the RET.
                b.push(&[0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3], mode);
            }
            _ => {
                for _ in 0..20 {
                    if b.add(&mut s, &mut draw, groups) {
                        break;
                    }
                }
            }
        }
    }
    b.push(&DEFINE, mode);
    // DEC ECX; JNZ to the start.
    let back = -(b.code.len() as i32 + 8);
    b.push(&[0xff, 0xc9], mode);
    let mut jump = vec![0x0f, 0x85];
    jump.extend(back.to_le_bytes());
    b.push(&jump, mode);
    // Displacements were filled in after decoding.
    b.instructions =
        Decoder::with_ip(mode.bitness(), &b.code, place::START, DecoderOptions::NONE).iter().collect();
    b.case(s, true)
}
