//! The ROM programs on the interpreter and on tier 1. They need gcc and ld: `cargo xtask test` runs them.

use rhea_boot_tests::bare_metal::PROGRAMS;
use rhea_boot_tests::kernels::Emulator;

fn check(name: &str, options: &[&str]) {
    let program = PROGRAMS.iter().find(|p| p.name == name).expect("a program of the list");
    let emulator = Emulator::under_test().unwrap();
    match emulator {
        Emulator::Qemu(_) if !program.holds_on_qemu => eprintln!("{name}: not for this peer"),
        Emulator::Qemu(_) => program.check(&emulator, &[]).unwrap(),
        Emulator::Rhea(_) => program.check(&emulator, options).unwrap(),
    }
}

macro_rules! programs {
    ($($name:ident)*) => {
        mod interpreter {
            $(#[test]
            #[ignore = "needs gcc and ld: run cargo xtask test"]
            fn $name() {
                super::check(stringify!($name), &["-accel", "tcg,tier=interpreter"]);
            })*
        }

        mod baseline {
            $(#[test]
            #[ignore = "needs gcc and ld: run cargo xtask test"]
            fn $name() {
                super::check(stringify!($name), &["-accel", "tcg,tier=baseline"]);
            })*
        }

        #[test]
        fn every_program_is_run() {
            let listed: Vec<&str> = PROGRAMS.iter().map(|p| p.name).collect();
            assert_eq!(listed, [$(stringify!($name)),*]);
        }
    };
}

programs! {
    real_mode protected_mode segment_limits call_gates task_switch paging self_modifying single_step long_mode smp
}
