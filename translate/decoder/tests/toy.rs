//! The golden output at work.

mod generated {
    include!("golden/toy.rs.txt");
}

use generated::*;

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, ".s{}", self.0)
    }
}

const SLOW: Features = Features::NONE.with(Feature::Wide);
const FAST: Features = SLOW.with(Feature::Fast);

fn text(word: u32, features: &Features) -> Option<String> {
    decode16(word, features).map(|instruction| instruction.display(0x100, 16).to_string())
}

#[test]
fn words_become_text() {
    assert_eq!(text(0b0000_0000_0000_0110, &SLOW).as_deref(), Some("add r1, r2"));
    assert_eq!(text(0b0001_1111_1111_0100, &SLOW).as_deref(), Some("mov r1, -2"));
    assert_eq!(text(0b0001_0000_0001_0101, &SLOW), None);
    assert_eq!(text(0b0001_0000_0001_0101, &FAST).as_deref(), Some("mov.q r1, 2"));
    assert_eq!(text(0b0100_0111_1001_0111, &SLOW).as_deref(), Some("load.s3 r1, [r1 * 8]"));
    assert_eq!(text(0b0100_0111_1000_0111, &SLOW), None, "r0 cannot be an address");
    assert_eq!(text(0xf000, &SLOW), None);
}

#[test]
fn targets_count_from_the_instruction_and_wrap() {
    assert_eq!(text(0b0010_0000_0001_0000, &SLOW).as_deref(), Some("jump 0x180"));
    assert_eq!(text(0b0010_1000_0000_0000, &SLOW).as_deref(), Some("jump 0x0"));
    assert_eq!(text(0b0010_0000_0000_0000, &SLOW).as_deref(), Some("halt"));
    let back = decode16(0b0010_1000_0000_0000, &SLOW).map(|jump| jump.display(0, 16).to_string());
    assert_eq!(back.as_deref(), Some("jump 0xff00"));
}

#[test]
fn wide_words_have_a_decoder_of_their_own() {
    assert_eq!(decode32(0xe123_4567, &SLOW), Some(Instruction::Big(Big { long: 0x123_4567 })));
    assert_eq!(decode32(0xe123_4567, &SLOW.without(Feature::Wide)), None);
}

#[test]
fn words_of_64_bits_have_fields_beyond_32() {
    let text = |word| decode64(word, &SLOW).map(|i| i.display(0, 64).to_string());
    assert_eq!(text(0xff05_1234_5678_9aff).as_deref(), Some("prefixed 0x123456789a, -8, 63, -31"));
    assert_eq!(text(0x7ffd_ffff_ffff_ff00).as_deref(), Some("prefixed 0xffffffffff, 260096, 1, 31"));
    assert_eq!(text(0x7ffe_ffff_ffff_ff00), None);
}

/// Tells which method was called.
struct Called;

impl Translator for Called {
    type Output = String;
}

impl TranslateToy for Called {
    fn add(&mut self, a: Rr) -> String {
        format!("add {} {}", a.rd, a.rs)
    }

    fn mov(&mut self, a: Ri) -> String {
        format!("mov {}", a.imm)
    }

    fn movq(&mut self, a: Ri) -> String {
        format!("movq {}", a.imm)
    }

    fn jump(&mut self, a: Jump) -> String {
        format!("jump {}", a.far)
    }

    fn halt(&mut self) -> String {
        "halt".to_owned()
    }

    fn load(&mut self, a: Load) -> String {
        format!("load {}", a.scale)
    }

    fn prefixed(&mut self, a: Prefixed) -> String {
        format!("prefixed {}", a.far_address)
    }

    fn big(&mut self, a: Big) -> String {
        format!("big {}", a.long)
    }
}

#[test]
fn one_tables_methods_can_be_called_alone() {
    let call = |word| decode16(word, &SLOW).and_then(|instruction| instruction.translate_toy(&mut Called));
    assert_eq!(call(0x2000).as_deref(), Some("halt"));
    assert_eq!(call(0b0011_0000_0000_1000), None, "what stands for another is none of the table's own");
}

#[test]
fn an_instruction_calls_its_method_or_that_of_what_it_stands_for() {
    let call = |word| decode16(word, &SLOW).map(|instruction| instruction.translate(&mut Called));
    assert_eq!(call(0x2000).as_deref(), Some("halt"));
    assert_eq!(call(0b0000_0000_0000_0110).as_deref(), Some("add r1 r2"));
    assert_eq!(call(0b0011_0000_0000_1000).as_deref(), Some("add r2 r2"), "dup stands for add");
    let (rd, rs) = (Reg(2), Reg(2));
    assert_eq!(Instruction::Dup(One { rd }).expanded(), Instruction::Add(Rr { rd, rs }));
    assert_eq!(Instruction::Halt.expanded(), Instruction::Halt);
}

#[test]
fn encodings_are_listed() {
    assert!(ENCODINGS.iter().all(|encoding| encoding.value & !encoding.mask == 0));
    assert_eq!(
        ENCODINGS.iter().filter(|encoding| encoding.width == 32).map(|e| e.name).collect::<Vec<_>>(),
        ["big"]
    );
    assert_eq!(Feature::ALL.iter().map(|f| f.name()).collect::<Vec<_>>(), ["wide", "fast"]);
    assert_eq!(decode16(0x2000, &SLOW).map(|i| i.name()), Some("halt"));
}
