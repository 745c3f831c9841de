//! Decoding a run of instructions into one unit.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic};
use rhea_ir::{Builder, Cond, Exit, Type};
use rhea_x86_state::mode;

use crate::features::InstructionSet;
use crate::reasons::{self, vector};
use crate::slots;
use crate::translator::Translator;

/// Longest instruction (SDM vol. 2, 2.3.11).
pub const MAX_LENGTH: usize = 15;

/// `code` ended within the first instruction: more bytes are needed to decode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedMoreBytes;

/// Translates from `pc` under `mode_word` into `b`, which has been started there: at least one instruction and at
/// most `max_insns`, out of `code`, the bytes at `pc` (up to the end of its page, or further for an instruction that
/// crosses it). Sets the unit's length.
pub fn translate(
    set: &InstructionSet,
    b: &mut Builder,
    code: &[u8],
    pc: u64,
    mode_word: u64,
    max_insns: u32,
) -> Result<(), NeedMoreBytes> {
    let bitness = if mode_word & mode::CS64 != 0 {
        64
    } else if mode_word & mode::CS32 != 0 {
        32
    } else {
        16
    };
    let mut decoder = Decoder::with_ip(bitness, code, pc, DecoderOptions::NONE);
    let mut t = Translator::new(b, mode_word);
    let limit = if t.single() { 1 } else { max_insns.max(1) };
    let mut insn = Instruction::default();
    let mut done = 0;
    let mut len = 0;
    while done < limit {
        decoder.decode_out(&mut insn);
        if insn.code() == Code::INVALID {
            if decoder.last_error() == DecoderError::NoMoreBytes {
                if done == 0 {
                    return Err(NeedMoreBytes);
                }
                break;
            }
            len = decoder.position().max(len + 1);
            t.start_invalid(insn, decoder.position() - (insn.ip() - pc) as usize);
            break;
        }
        len = decoder.position();
        done += 1;
        t.start_insn(insn);
        if set.has(insn.code()) {
            t.instruction();
        } else {
            t.without_feature();
        }
        if t.is_ended() {
            break;
        }
        if t.in_shadow {
            t.look_at_events();
        }
    }
    if !t.is_ended() {
        t.finish_unit();
    }
    b.unit.len = len as u32;
    Ok(())
}

impl Translator<'_> {
    /// Bytes that are no instruction: #UD, or #GP(0) when they are too many.
    fn start_invalid(&mut self, insn: Instruction, consumed: usize) {
        self.start_insn(insn);
        if consumed >= MAX_LENGTH { self.raise(vector::GP) } else { self.undefined() }
    }

    /// An instruction that the model does not have: #UD, but for those whose encoding means something older without
    /// the feature (a prefix that is then ignored).
    fn without_feature(&mut self) {
        match self.insn.mnemonic() {
            Mnemonic::Tzcnt | Mnemonic::Lzcnt => self.scan_for_count(),
            Mnemonic::Wbnoinvd => self.instruction(),
            _ => self.undefined(),
        }
    }

    /// Ends a unit that no instruction ended.
    fn finish_unit(&mut self) {
        if !self.shadow_next {
            return self.end_after();
        }
        // The instruction after STI is in another unit: the state has to say so. (1 would hold off debug traps too.)
        let two = self.b.iconst(Type::I32, 2);
        self.b.put(slots::INTERRUPT_SHADOW, two);
        self.leave_after();
    }

    /// The instruction after STI is complete: leaves if an event waited for IF. (A new one makes the engine look.)
    fn look_at_events(&mut self) {
        self.in_shadow = false;
        let waits = self.b.get(slots::EVENTS_WAIT);
        let waits = self.b.icmp_imm(Cond::Ne, waits, 0);
        let exit = Exit::Leave { reason: reasons::RESUME, pc: Some(self.next_pc) };
        self.b.exit_if(waits, exit);
    }

    /// Translates the instruction at hand.
    fn instruction(&mut self) {
        if !self.integer() && !self.vector() {
            self.undefined();
        }
    }
}
