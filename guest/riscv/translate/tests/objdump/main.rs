//! Decoding and disassembly beside GNU objdump's: the same words, the same texts, and agreement on what is no
//! instruction. Where they differ, `differences.rs` names the reason, and what it does not name fails.
//!
//! Needs Debian's package binutils-riscv64-linux-gnu; without it the tests say so and end. Extensions that the installed
//! version does not know are left out on both sides.

mod differences;
mod elf;
mod peer;

use std::collections::BTreeMap;

use differences::{Difference, reason};
use peer::{Peer, Word};
use rhea_riscv_translate::{ENCODINGS, Features, Instruction, Xlen, decode16, decode32};

/// Words made from each instruction's fixed bits.
const WORDS_EACH: usize = 120;

/// Words with random bits everywhere but in the opcode.
const RANDOM_WORDS: usize = 150_000;

/// Differences shown of each pair of mnemonics.
const SHOWN: usize = 2;

/// Small and good enough to make words; the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn decode(word: Word, features: &Features) -> Option<Instruction> {
    match word {
        Word::Half(half) => decode16(half.into(), features),
        Word::Full(full) => decode32(full, features),
    }
}

/// A 32-bit instruction has ones in its lowest two bits and not in the next three; a 16-bit one ends otherwise.
fn is_full(word: u32) -> bool {
    word & 3 == 3 && word & 0x1f != 0x1f
}

fn words_of_every_instruction(random: &mut Random) -> Vec<Word> {
    let mut words = Vec::new();
    for encoding in ENCODINGS {
        for index in 0..WORDS_EACH {
            let mut operands = random.next() & !encoding.mask;
            // Registers' and immediates' ends are worth more than chance gives them.
            match index {
                0 => operands = 0,
                1 => operands = !encoding.mask,
                2..20 => operands &= random.next(),
                20..40 => operands |= random.next() & !encoding.mask,
                _ => {}
            }
            let word = encoding.value | operands;
            words.push(if encoding.width == 16 { Word::Half(word as u16) } else { Word::Full(word as u32) });
        }
    }
    words
}

fn random_words(random: &mut Random) -> Vec<Word> {
    let mut words: Vec<Word> = (0..=u16::MAX).filter(|half| half & 3 != 3).map(Word::Half).collect();
    words.extend(
        (0..RANDOM_WORDS).map(|_| random.next() as u32 | 3).filter(|word| is_full(*word)).map(Word::Full),
    );
    // Words one bit away from an instruction find what is looked at too little.
    for _ in 0..RANDOM_WORDS {
        let encoding = &ENCODINGS[random.next() as usize % ENCODINGS.len()];
        let operands = random.next() & !encoding.mask;
        let word = (encoding.value | operands) as u32 ^ 1 << (random.next() % 32);
        if encoding.width == 32 && is_full(word) {
            words.push(Word::Full(word));
        }
    }
    words
}

/// Compares and panics with a list of what is not accounted for.
fn compare(xlen: Xlen, words: &[Word]) {
    let Some(peer) = Peer::find() else { return };
    let (features, architecture) = peer.known(xlen);
    let theirs = peer.disassemble(xlen, &architecture, words);
    let (mut accounted, mut instructions) = (BTreeMap::<&str, usize>::new(), 0);
    let mut unaccounted = BTreeMap::<_, Vec<String>>::new();
    for (index, (word, theirs)) in words.iter().zip(&theirs).enumerate() {
        let instruction = decode(*word, &features);
        let address = peer::address(index);
        let ours = instruction.map(|i| i.display(address, xlen.bits()).to_string());
        instructions += usize::from(ours.is_some() && ours == *theirs);
        if ours == *theirs {
            continue;
        }
        let difference =
            Difference { xlen, word: *word, instruction, ours: ours.as_deref(), theirs: theirs.as_deref() };
        match reason(&difference) {
            Some(reason) => *accounted.entry(reason).or_default() += 1,
            None => {
                let pair = (mnemonic(ours.as_deref()), mnemonic(theirs.as_deref()));
                unaccounted
                    .entry(pair)
                    .or_default()
                    .push(format!("{word:x?}: ours {ours:?}, theirs {theirs:?}"));
            }
        }
    }
    println!("{xlen:?} beside {}: {} words, {instructions} instructions alike", peer.version(), words.len());
    for (reason, count) in accounted {
        println!("{count:8}  {reason}");
    }
    let count: usize = unaccounted.values().map(Vec::len).sum();
    let shown = unaccounted.into_values().flat_map(|list| list.into_iter().take(SHOWN)).collect::<Vec<_>>();
    assert!(shown.is_empty(), "{count} differences without a reason:\n{}", shown.join("\n"));
}

fn mnemonic(text: Option<&str>) -> String {
    text.and_then(|text| text.split(' ').next()).unwrap_or("no instruction").to_owned()
}

#[test]
fn every_instruction_reads_as_in_objdump_rv64() {
    compare(Xlen::Rv64, &words_of_every_instruction(&mut Random(64)));
}

#[test]
fn every_instruction_reads_as_in_objdump_rv32() {
    compare(Xlen::Rv32, &words_of_every_instruction(&mut Random(32)));
}

#[test]
fn any_word_reads_as_in_objdump_rv64() {
    compare(Xlen::Rv64, &random_words(&mut Random(6464)));
}

#[test]
fn any_word_reads_as_in_objdump_rv32() {
    compare(Xlen::Rv32, &random_words(&mut Random(3232)));
}
