//! The fuzz targets fed from a seed: what they check is in `rhea_lockstep_tests::properties`.

use rhea_lockstep_tests::catalogue::Group;
use rhea_lockstep_tests::compare::cases;
use rhea_lockstep_tests::encode::instruction;
use rhea_lockstep_tests::properties::{X86, ir_text, options_text};
use rhea_lockstep_tests::random::Random;
use rhea_lockstep_tests::state::Mode;

fn head(random: &mut Random) -> Vec<u8> {
    let mut data = random.bits().to_le_bytes().to_vec();
    data.extend(&random.bits().to_le_bytes()[..2]);
    data
}

#[test]
fn random_bytes_translate() {
    let mut x86 = X86::default();
    let mut random = Random::new(1);
    for _ in 0..cases(10_000) {
        let mut data = head(&mut random);
        for _ in 0..random.below(40) {
            // Prefixes and the two-byte escape are what leads far.
            data.push(if random.one_in(4) {
                random.pick(&[0x0f, 0x66, 0xf2, 0xf3, 0x48, 0xc4, 0xc5, 0xf0, 0x67, 0x2e, 0x65, 0x41])
            } else {
                random.bits() as u8
            });
        }
        x86.translates(&data);
    }
}

#[test]
fn damaged_instructions_translate() {
    let mut x86 = X86::default();
    let mut random = Random::new(2);
    for _ in 0..cases(10_000) {
        let mut data = head(&mut random);
        let mode = random.pick(&[Mode::Long, Mode::Compat]);
        for _ in 0..1 + random.below(8) {
            let group = random.pick(&Group::ALL);
            let mut code = instruction(&mut random, group, mode);
            if random.one_in(3) {
                let at = random.below(code.len() as u64) as usize;
                code[at] ^= 1 << random.below(8);
            }
            data.extend(code);
        }
        x86.translates(&data);
    }
}

#[test]
fn damaged_ir_text_is_parsed_or_refused() {
    let mut random = Random::new(3);
    let helpers = rhea_x86_translate::helpers::infos();
    let set = rhea_x86_translate::features::InstructionSet::all();
    let word = rhea_x86_state::mode::PE
        | rhea_x86_state::mode::LMA
        | rhea_x86_state::mode::CS64
        | rhea_x86_state::mode::OSFXSR
        | rhea_x86_state::mode::AVX;
    let mut builder = rhea_ir::Builder::new();
    for _ in 0..cases(4_000) {
        let group = random.pick(&Group::ALL);
        let code = instruction(&mut random, group, Mode::Long);
        builder.start(0x1000);
        rhea_x86_translate::unit::translate(&set, &mut builder, &code, 0x1000, word, 4).expect("whole");
        let mut text = rhea_ir::text::print(&builder.unit, &helpers).into_bytes();
        for _ in 0..random.below(6) {
            let at = random.below(text.len() as u64) as usize;
            match random.below(3) {
                0 => text[at] = random.pick(b"%0123456789#x,.= \nabcefgimnoprstuv"),
                1 => drop(text.remove(at)),
                _ => text.insert(at, random.pick(b"%09fx#,. \n")),
            }
        }
        ir_text(&String::from_utf8_lossy(&text));
    }
}

#[test]
fn damaged_options_are_parsed_or_refused() {
    const PIECES: [&str; 18] = [
        "a", "id", "file", "=", ",", ",,", ".", "0", "1", "-1", "{", "}", "\"", ":", "[", "]", "\\u00e9",
        "on",
    ];
    let mut random = Random::new(4);
    for _ in 0..cases(20_000) {
        let mut text = String::new();
        for _ in 0..random.below(24) {
            text.push_str(random.pick(&PIECES));
        }
        options_text(&text);
    }
}
