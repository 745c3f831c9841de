//! Machine code as text, in the AT&T syntax of the GNU assembler (what `-d` prints).

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use rhea_x86_state::mode;
use std::fmt::Write;

/// Bytes of an instruction that are shown on its line; most have fewer.
const SHOWN: usize = 10;

/// Width of code under a mode word: 16, 32 or 64 bits.
pub fn code_bits(word: u64) -> u32 {
    if word & mode::CS64 != 0 {
        64
    } else if word & mode::CS32 != 0 {
        32
    } else {
        16
    }
}

/// One line an instruction: address, bytes, text. `bits` is 16, 32 or 64; the first byte is at `pc`. What is no
/// instruction, and what is cut off at the end, shows as `(bad)`.
pub fn disassemble(bits: u32, pc: u64, code: &[u8]) -> String {
    let mut decoder = Decoder::with_ip(bits, code, pc, DecoderOptions::NONE);
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_uppercase_hex(false);
    let (mut out, mut text) = (String::new(), String::new());
    while decoder.can_decode() {
        let start = decoder.position();
        let insn = decoder.decode();
        let bytes = &code[start..decoder.position()];
        text.clear();
        formatter.format(&insn, &mut text);
        let hex: String = bytes.iter().take(SHOWN).map(|b| format!("{b:02x} ")).collect();
        let more = if bytes.len() > SHOWN { "…" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "0x{:08x}:  {:<31} {text}", insn.ip(), hex + more);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_has_its_line() {
        let text = disassemble(64, 0x1000, &[0x48, 0x89, 0xe5, 0x0f, 0x05, 0xeb, 0xfe]);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["0x00001000:", "48", "89", "e5", "mov", "%rsp,", "%rbp"]);
        assert_eq!(lines[1], ["0x00001003:", "0f", "05", "syscall"]);
        assert_eq!(lines[2], ["0x00001005:", "eb", "fe", "jmp", "0x1005"]);
    }

    #[test]
    fn width_decides_and_rubbish_ends() {
        assert!(disassemble(16, 0, &[0xb8, 1, 2]).contains("$0x201, %ax"));
        assert!(disassemble(32, 0, &[0xb8, 1, 2, 0, 0]).contains("$0x201, %eax"));
        assert!(disassemble(64, 0, &[0x0f, 0xff, 0x48]).contains("(bad)"));
        assert_eq!(disassemble(64, 0, &[]), "");
    }

    #[test]
    fn the_mode_word_says_how_wide() {
        assert_eq!((code_bits(0), code_bits(mode::CS32), code_bits(mode::CS64 | mode::LMA)), (16, 32, 64));
    }
}
