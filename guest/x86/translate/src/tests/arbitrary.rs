//! Arbitrary bytes in every mode give units that verify, and never a panic.

use super::translate;
use proptest::prelude::*;
use rhea_x86_state::mode::*;

/// Mode words of the processor's operating modes.
const MODES: [u64; 9] = [
    CS64 | SS32 | LMA | PE | IOPL_OK | OSFXSR | OSXSAVE | AVX | FSGSBASE,
    CS64 | SS32 | LMA | PE | 3 | OSFXSR | OSXSAVE | AVX,
    CS64 | SS32 | LMA | PE | SMAP | IOPL_OK | OSFXSR | OSXSAVE | AVX,
    LMA | PE | CS32 | SS32 | 3 | OSFXSR,
    PE | CS32 | SS32 | IOPL_OK | OSFXSR,
    PE | CS32 | SS32 | CHECK_SEGMENTS | ADD_SEGMENT | 3 | ALIGNMENT_CHECK,
    PE | CHECK_SEGMENTS | ADD_SEGMENT | CHECK_FS | CHECK_GS,
    PE | VM86 | 3 | CHECK_SEGMENTS | ADD_SEGMENT,
    CHECK_SEGMENTS | ADD_SEGMENT | IOPL_OK,
];

/// Bits that may come with any of them.
const EXTRA: [u64; 8] =
    [0, TF, SHADOW, EM, TS | MP, SSE_UNMASKED | X87_UNMASKED, DATA_BREAKPOINTS, CODE_BREAKPOINTS];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn arbitrary_bytes_translate(
        code in proptest::collection::vec(any::<u8>(), 16..48),
        mode in 0..MODES.len(),
        extra in 0..EXTRA.len(),
    ) {
        let mode = MODES[mode] | EXTRA[extra];
        translate(&code, 0x1000, mode, 8);
    }
}

#[test]
fn every_two_byte_opcode_translates_in_every_mode() {
    for prefix in [&[][..], &[0x66], &[0xf2], &[0xf3], &[0x67], &[0xf0], &[0x48], &[0x64]] {
        for opcode in 0..=0x1ffu32 {
            // Every reg field, with a memory operand and with registers.
            for modrm in (0..8).flat_map(|reg| [reg << 3 | 4, 0xc1 | reg << 3]) {
                let mut code = prefix.to_vec();
                if opcode > 0xff {
                    code.push(0x0f);
                }
                code.push(opcode as u8);
                code.extend([modrm, 0x24, 0x05, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
                for mode in [MODES[0], MODES[4], MODES[8]] {
                    translate(&code, 0x1000, mode, 1);
                }
            }
        }
    }
}
