//! The bare-metal RISC-V programs on both tiers, with 64 and 32 bits. They need Debian's cross compiler: `cargo xtask test` runs
//! them. With `RHEA_TEST_PEER` they run on QEMU instead, where all but the checks named in the list have to hold too.

use rhea_boot_tests::kernels::Emulator;
use rhea_boot_tests::riscv_programs::PROGRAMS;

const INTERPRETER: &[&str] = &["-accel", "tcg,tier=interpreter"];
const BASELINE: &[&str] = &["-accel", "tcg,tier=baseline"];

fn check(name: &str, xlen: u32, options: &[&str]) {
    let program = PROGRAMS.iter().find(|p| p.name == name).expect("a program of the list");
    let emulator = Emulator::under_test().unwrap();
    let options = if matches!(emulator, Emulator::Qemu(_)) { &[] } else { options };
    program.check(&emulator, xlen, options).unwrap();
}

macro_rules! programs {
    ($($name:ident)*) => {
        programs!(interpreter64, 64, INTERPRETER, $($name)*);
        programs!(interpreter32, 32, INTERPRETER, $($name)*);
        programs!(baseline64, 64, BASELINE, $($name)*);
        programs!(baseline32, 32, BASELINE, $($name)*);

        #[test]
        fn every_program_is_run() {
            let listed: Vec<&str> = PROGRAMS.iter().map(|p| p.name).collect();
            assert_eq!(listed, [$(stringify!($name)),*]);
        }
    };
    ($tier:ident, $xlen:literal, $options:ident, $($name:ident)*) => {
        mod $tier {
            $(#[test]
            #[ignore = "needs riscv64-linux-gnu-gcc: run cargo xtask test"]
            fn $name() {
                super::check(stringify!($name), $xlen, super::$options);
            })*
        }
    };
}

programs! {
    jumps whole_words exceptions interrupts paging protection csrs unit_state code_changes atomics cache_blocks
}

/// A setting under which every program of at most so many harts has to hold; what the peer does not know is not for it.
fn check_all(setting: &str, harts: u32) {
    for program in PROGRAMS.iter().filter(|p| p.harts <= harts) {
        for xlen in [64, 32] {
            check(program.name, xlen, &["-accel", &format!("tcg,{setting}")]);
        }
    }
}

#[test]
#[ignore = "needs riscv64-linux-gnu-gcc: run cargo xtask test"]
fn programs_hold_with_each_instruction_by_itself() {
    check_all("one-insn-per-tb=on", 4);
}

#[test]
#[ignore = "needs riscv64-linux-gnu-gcc: run cargo xtask test"]
fn programs_hold_with_little_room_for_code() {
    check_all("tb-size=1", 4);
}

#[test]
#[ignore = "needs riscv64-linux-gnu-gcc: run cargo xtask test"]
fn programs_hold_in_lockstep() {
    // Lockstep is for one hart.
    check_all("lockstep=on", 1);
}

#[test]
#[ignore = "needs riscv64-linux-gnu-gcc: run cargo xtask test"]
fn programs_hold_with_one_thread_for_all_harts() {
    check_all("thread=single", 4);
}
