//! Golden IR of one instruction of each family, and what must hold for any bytes.

use rhea_ir::text::print;
use rhea_ir::{Builder, HelperInfo, verify};
use rhea_x86_state::mode;

use crate::features::InstructionSet;
use crate::{helpers, unit};

const LONG: u64 =
    mode::PE | mode::LMA | mode::CS64 | mode::SS32 | mode::OSFXSR | mode::AVX | mode::OSXSAVE | 3;
const FLAT32: u64 = mode::PE | mode::CS32 | mode::SS32 | mode::OSFXSR | mode::AVX | mode::OSXSAVE;

fn infos() -> Vec<HelperInfo> {
    helpers::infos()
}

fn translate(code: &[u8], mode_word: u64) -> Builder {
    let mut b = Builder::new();
    b.start(0x1000);
    let mut bytes = code.to_vec();
    bytes.resize(code.len() + 16, 0xcc);
    let set = InstructionSet::all();
    unit::translate(&set, &mut b, &bytes, 0x1000, mode_word, 1).expect("enough bytes");
    verify(&b.unit, &infos()).expect("valid IR");
    b
}

/// IR of the one instruction at the start of `code`, without its frame.
fn ir(code: &[u8], mode_word: u64) -> String {
    let text = print(&translate(code, mode_word).unit, &infos());
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("insn")).map(str::trim).collect();
    lines[..lines.len() - 1].join("\n")
}

#[track_caller]
fn golden(code: &[u8], expected: &str) {
    let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    assert_eq!(ir(code, LONG), expected.join("\n"), "\n{}", ir(code, LONG));
}

#[test]
fn legacy_sse_keeps_the_upper_half_and_vex_zeroes_it() {
    golden(
        &[0x66, 0x0f, 0xfc, 0xc1],
        "%1 = get.v128 #0x240\n%2 = get.v128 #0x220\n%3 = vadd.v128.i8 %2, %1\nput.v128 %3 #0x220",
    );
    golden(
        &[0xc5, 0xf1, 0xfc, 0xc2],
        "%1 = get.v128 #0x260\n%2 = get.v128 #0x240\n%3 = vadd.v128.i8 %2, %1\n%4 = vresize.v256 %3\nput.v256 %4 #0x220",
    );
    golden(
        &[0xc5, 0xfd, 0xfc, 0x06],
        "%1 = get.i64 #0x30\n%2 = load.v256 %1\n%3 = get.v256 #0x220\n%4 = vadd.v256.i8 %3, %2\nput.v256 %4 #0x220",
    );
}

#[test]
fn legacy_sse_memory_operands_are_aligned_but_for_scalars() {
    golden(
        &[0x0f, 0x58, 0x06],
        "%1 = get.i64 #0x30\n%2 = load.v128 %1 aux=16\n%3 = get.v128 #0x220\n%4 = fadd.v128.f32 %3, %2\nput.v128 %4 #0x220",
    );
    golden(
        &[0xf2, 0x0f, 0x58, 0x06],
        "%1 = get.i64 #0x30\n%2 = load.f64 %1\n%3 = vresize.v128 %2\n%4 = get.v128 #0x220\n%5 = fadd.v128.s64 %4, %3\nput.v128 %5 #0x220",
    );
}

#[test]
fn mmx_turns_the_stack_over_and_fills_exponents() {
    golden(
        &[0x0f, 0xfc, 0xc1],
        "%1 = get.i64 #0x1b0
        %2 = vfrom_int.v128 %1
        %3 = get.i64 #0x1a0
        %4 = vfrom_int.v128 %3
        %5 = vadd.v128.i8 %4, %2
        %6 = vextract.i64.i64 %5
        %7 = const.i32 #0x0
        put.i32 %7 #0x188
        put.i32 %7 #0x18c
        put.i64 %6 #0x1a0
        %11 = const.i64 #0xffff
        put.i64 %11 #0x1a8",
    );
}

#[test]
fn zeroing_idioms_do_not_read_the_register() {
    golden(&[0x66, 0x0f, 0xef, 0xc0], "%1 = get.v128 #0x220\n%2 = const.v128 #0x0\nput.v128 %2 #0x220");
}

#[test]
fn unmasked_exceptions_are_checked_before_the_write() {
    let text = ir(&[0xf2, 0x0f, 0x58, 0xc1], LONG | mode::SSE_UNMASKED);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[2..],
        ["call sse_begin()", "%4 = fadd.v128.s64 %2, %1", "call sse_check()", "put.v128 %4 #0x220"]
    );
}

#[test]
fn x87_add_checks_tags_once_and_works_on_the_extended_format() {
    let text = ir(&[0xd8, 0xc1], LONG);
    assert_eq!(text.matches("exit_if").count(), 1, "{text}");
    assert_eq!(text.matches("get_indexed.f80").count(), 2, "{text}");
    assert!(text.contains("xadd.f80"), "{text}");
}

/// Every entry of `golden.txt`: a comment with the instruction, its bytes behind `>`, and its IR up to an empty line.
#[test]
fn each_family_gives_the_recorded_operations() {
    let recorded = include_str!("golden.txt");
    let mut now = String::new();
    for entry in recorded.split("\n\n").map(str::trim).filter(|e| !e.is_empty()) {
        let mut lines = entry.lines();
        let (title, bytes) = (lines.next().expect("a title"), lines.next().expect("bytes"));
        let code: Vec<u8> = bytes
            .trim_start_matches("> ")
            .split(' ')
            .map(|b| u8::from_str_radix(b, 16).expect("hexadecimal bytes"))
            .collect();
        now += &format!("{title}\n{bytes}\n{}\n\n", ir(&code, LONG));
    }
    let differs = recorded.lines().zip(now.lines()).find(|(a, b)| a != b);
    assert!(recorded == now, "first difference (recorded, now): {differs:?}; all of it now:\n{now}");
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Prefixes and opcode bytes that lead into the maps of this module.
const LEADS: [&[u8]; 16] = [
    &[0x0f],
    &[0x66, 0x0f],
    &[0xf2, 0x0f],
    &[0xf3, 0x0f],
    &[0x0f, 0x38],
    &[0x66, 0x0f, 0x38],
    &[0x66, 0x48, 0x0f, 0x38],
    &[0x66, 0x0f, 0x3a],
    &[0x66, 0x48, 0x0f, 0x3a],
    &[0xc5],
    &[0xc4],
    &[0x67, 0xc4],
    &[0xf3, 0x48, 0x0f],
    &[0xf2, 0x48, 0x0f],
    &[0x64, 0x66, 0x0f],
    &[0x67, 0x0f],
];

#[test]
fn any_bytes_give_valid_ir() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let set = InstructionSet::all();
    let infos = infos();
    let mut b = Builder::new();
    let modes = [
        LONG,
        LONG | mode::SSE_UNMASKED | mode::X87_UNMASKED,
        LONG | mode::TS,
        FLAT32,
        FLAT32 | mode::CHECK_SEGMENTS | mode::ADD_SEGMENT,
        mode::OSFXSR,
        FLAT32 & !mode::OSFXSR | mode::EM,
    ];
    for round in 0..60_000 {
        let mut code = Vec::new();
        for _ in 0..4 {
            let r = random.next();
            if r & 3 == 0 {
                code.push(0xd8 | (r >> 8 & 7) as u8);
            } else {
                code.extend_from_slice(LEADS[(r >> 8 & 15) as usize]);
                if r & 0x10000 != 0 && code.ends_with(&[0xc4]) {
                    code.extend_from_slice(&[0xe1 + (r >> 20 & 1) as u8, (r >> 24) as u8]);
                }
            }
            for _ in 0..3 {
                code.push(random.next() as u8);
            }
        }
        let first = iced_x86::Decoder::new(64, &code, 0).decode();
        if first.mnemonic() == iced_x86::Mnemonic::Mov {
            continue;
        }
        code.resize(48, 0x90);
        let mode_word = modes[round % modes.len()];
        b.start(0x1000);
        unit::translate(&set, &mut b, &code, 0x1000, mode_word, 1).expect("enough bytes");
        if let Err(e) = verify(&b.unit, &infos) {
            panic!("{code:02x?} in mode {mode_word:#x}: {e:?}\n{}", print(&b.unit, &infos));
        }
    }
}
