//! Every user instruction that the host has, alone and in streams: host processor, interpreter and compiled code from
//! the same state to the same state.
//!
//! `RHEA_LOCKSTEP_CASES` multiplies the number of cases. To look into a failure, or for more of its kind, see
//! `examples/explore.rs`.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use rhea_engine::Tier;
use rhea_lockstep_tests::catalogue::Group;
use rhea_lockstep_tests::compare::{
    Lockstep, Tally, cases, sweep, sweep_loops, sweep_prefixes, sweep_streams,
};
use rhea_lockstep_tests::state::Mode;

const TIERS: [Tier; 2] = [Tier::Interpreter, Tier::Baseline];

fn every_instruction(group: Group, per_code: usize) {
    let mut sides = Lockstep::new(&TIERS);
    let mut tally = Tally::default();
    for mode in [Mode::Long, Mode::Compat] {
        sweep(&mut sides, group, mode, cases(per_code), 0x5eed, &mut tally);
    }
    assert!(tally.run > 0);
    assert_eq!(tally.failed, 0, "{}", tally.describe(5));
    for (tier, rhea) in sides.tiers() {
        assert!(tier == Tier::Interpreter || rhea.stats().unsupported == 0, "the back end refused units");
    }
}

fn loops(groups: &[Group], length: usize, count: usize) {
    let mut sides = Lockstep::new(&TIERS);
    let mut tally = Tally::default();
    for mode in [Mode::Long, Mode::Compat] {
        sweep_loops(&mut sides, groups, mode, length, cases(count), 0x5eed, &mut tally);
    }
    assert_eq!(tally.failed, 0, "{}", tally.describe(5));
}

fn streams(groups: &[Group], length: usize, count: usize) {
    let mut sides = Lockstep::new(&TIERS);
    let mut tally = Tally::default();
    for mode in [Mode::Long, Mode::Compat] {
        sweep_streams(&mut sides, groups, mode, length, cases(count), 0x5eed, &mut tally);
    }
    assert_eq!(tally.failed, 0, "{}", tally.describe(5));
}

#[test]
fn integer_instructions() {
    every_instruction(Group::Integer, 10);
}

#[test]
fn bit_instructions() {
    every_instruction(Group::Bits, 30);
}

#[test]
fn string_instructions() {
    every_instruction(Group::String, 60);
}

#[test]
fn branches() {
    every_instruction(Group::Branch, 20);
}

#[test]
fn x87_instructions() {
    every_instruction(Group::X87, 20);
}

#[test]
fn mmx_instructions() {
    every_instruction(Group::Mmx, 15);
}

#[test]
fn sse_instructions() {
    every_instruction(Group::Sse, 15);
}

#[test]
fn avx_instructions() {
    every_instruction(Group::Avx, 8);
}

#[test]
fn crypto_instructions() {
    every_instruction(Group::Crypto, 30);
}

#[test]
fn streams_of_integer_instructions() {
    streams(&[Group::Integer, Group::Bits], 24, 800);
}

#[test]
fn streams_of_x87_instructions() {
    streams(&[Group::X87, Group::Integer], 16, 400);
}

#[test]
fn streams_of_vector_instructions() {
    streams(&[Group::Mmx, Group::Sse, Group::Avx, Group::Crypto, Group::Integer], 24, 400);
}

#[test]
fn loops_of_integer_instructions() {
    loops(&[Group::Integer, Group::Bits], 20, 600);
}

#[test]
fn loops_of_floating_point_instructions() {
    loops(&[Group::X87, Group::Sse, Group::Avx, Group::Mmx, Group::Integer], 20, 400);
}

#[test]
fn instructions_that_save_and_restore_state() {
    every_instruction(Group::Save, 60);
}

#[test]
fn privileged_instructions() {
    every_instruction(Group::Privileged, 10);
}

#[test]
fn instructions_with_needless_prefixes() {
    let mut sides = Lockstep::new(&TIERS);
    let mut tally = Tally::default();
    for mode in [Mode::Long, Mode::Compat] {
        sweep_prefixes(&mut sides, mode, cases(4_000), 0x5eed, &mut tally);
    }
    assert_eq!(tally.failed, 0, "{}", tally.describe(5));
}
