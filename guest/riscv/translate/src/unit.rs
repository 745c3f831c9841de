//! Decoding a run of instructions into one unit.

use rhea_ir::Builder;
use rhea_riscv_state::state::HartConfig;

use crate::translator::UnitTranslator;
use crate::{Features, decode16, decode32};

/// Longest instruction in bytes.
pub const MAX_LENGTH: usize = 4;

/// `code` ended within the first instruction: more bytes are needed to decode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedMoreBytes;

/// Translates from `pc` under `mode_word` into `b`, which has been started there: at least one instruction and at
/// most `max_insns`, out of `code`, the bytes at `pc` (up to the end of its page, or further for an instruction that
/// crosses it). Sets the unit's length. `vtype` is what is in force now; bit 0 of `pc`
/// asks for a translation that assumes nothing of it.
///
/// # Errors
/// `code` is too short for the first instruction.
pub fn translate(
    (config, features): (&HartConfig, &Features),
    b: &mut Builder,
    code: &[u8],
    pc: u64,
    (mode_word, vtype): (u64, u64),
    max_insns: u32,
) -> Result<(), NeedMoreBytes> {
    let mut t = UnitTranslator::new(b, config, mode_word, (pc & 1 == 0).then_some(vtype));
    let mut at = 0;
    for done in 0..max_insns.max(1) {
        let Some((bits, len)) = fetch(&code[at..]) else {
            if done == 0 {
                return Err(NeedMoreBytes);
            }
            break;
        };
        t.start((pc & !1).wrapping_add(at as u64) & config.mask(), len as u32, bits);
        at += len;
        let instruction = if len == 2 { decode16(bits, features) } else { decode32(bits, features) };
        match instruction {
            Some(instruction) => instruction.translate(&mut t),
            None => t.illegal(),
        }
        if t.is_ended() {
            break;
        }
    }
    if !t.is_ended() {
        t.jump(t.next_pc);
    }
    b.unit.len = at as u32;
    Ok(())
}

/// The first instruction's bits and length. Encodings of more than 32 bits are none that a hart here has: their first
/// 32 bits are illegal (unprivileged specification, "Expanded Instruction-Length Encoding").
pub(crate) fn fetch(code: &[u8]) -> Option<(u32, usize)> {
    match *code {
        [a, b, ..] if a & 3 != 3 => Some((u32::from(u16::from_le_bytes([a, b])), 2)),
        [a, b, c, d, ..] => Some((u32::from_le_bytes([a, b, c, d]), 4)),
        _ => None,
    }
}
