//! The ROM programs on the interpreter and on tier 1. They need gcc and ld: `cargo xtask test` runs them.

use rhea_boot_tests::bare_metal::{COUNTED_TIME, GOOD_STATUS, PROGRAMS, Program};
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

/// What `program` says; it must leave with the status of success.
fn said(program: &Program, options: &[&str]) -> String {
    let (status, said) = program.run(&Emulator::under_test().unwrap(), options).unwrap();
    assert_eq!(status.code(), Some(GOOD_STATUS), "{options:?}: {said}");
    said
}

#[test]
#[ignore = "needs gcc and ld: run cargo xtask test"]
fn counted_time_is_the_same_in_each_run() {
    for shift in [0, 3, 6] {
        let run = |sleep: &str, tier: &str| {
            let icount = format!("shift={shift},sleep={sleep}");
            said(&COUNTED_TIME, &["-icount", &icount, "-accel", &format!("tcg,tier={tier}")])
        };
        let first = run("on", "baseline");
        let numbers: Vec<u64> = first.lines().map(|l| u64::from_str_radix(l, 16).unwrap()).collect();
        // Two instructions a round of the loop, and a few around it; one takes 2^shift ticks of 1 ns.
        assert_eq!(numbers[0], numbers[1], "{first}");
        assert!((100_000..100_010).contains(&(numbers[0] >> shift)), "{first}");
        // HLT takes as long as the timer's 10 ms.
        assert!((9_990_000..10_100_000).contains(&numbers[2]), "{first}");
        for (sleep, tier) in [("on", "baseline"), ("off", "baseline"), ("off", "interpreter")] {
            assert_eq!(run(sleep, tier), first, "sleep={sleep} on {tier}");
        }
    }
}

#[test]
#[ignore = "needs gcc and ld: run cargo xtask test"]
fn programs_hold_with_unusual_translator_settings() {
    for setting in ["one-insn-per-tb=on", "tb-size=1", "lockstep=on", "thread=single"] {
        for name in ["real_mode", "protected_mode", "paging", "long_mode", "self_modifying"] {
            check(name, &["-accel", &format!("tcg,{setting}")]);
        }
    }
}

/// Runs a program with `-d items` and gives the log.
fn log(name: &str, items: &str, more: &[&str]) -> String {
    let program = PROGRAMS.iter().find(|p| p.name == name).expect("a program of the list");
    let file = rhea_boot_tests::target_dir().join(format!("log-{name}-{items}-{}", std::process::id()));
    let path = file.to_str().unwrap();
    said(program, &[&["-d", items, "-D", path], more].concat());
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    text
}

#[test]
#[ignore = "needs gcc and ld: run cargo xtask test"]
fn each_log_item_shows_what_it_says() {
    if matches!(Emulator::under_test().unwrap(), Emulator::Qemu(_)) {
        return;
    }
    let faults = log("paging", "int", &[]);
    assert!(
        faults.lines().any(|l| l.contains("v=0e e=0002 i=0 cpl=0") && l.contains("CR2=0000000000030004"))
    );
    let walks = log("paging", "mmu", &[]);
    assert!(walks.contains("mmu: flush") && walks.contains("fault v=0e") && walks.contains(": physical 0x"));
    let guest_code = log("long_mode", "in_asm", &[]);
    assert!(guest_code.contains("IN: 0xfffffff0\n") && guest_code.contains("mov %cr0, %eax"), "{guest_code}");
    let host_code = log("long_mode", "out_asm", &[]);
    assert!(host_code.contains("OUT: 0xfffffff0 [") && !host_code.contains("(bad)"), "{host_code}");
    let units = log("real_mode", "exec,cpu", &["-dfilter", "0xfffffff0+16"]);
    assert_eq!(units.lines().filter(|l| l.starts_with("Trace 0: 0xfffffff0 ")).count(), 1, "{units}");
    assert_eq!(units.matches("Trace").count(), 1, "{units}");
    assert!(units.contains("RIP=000000000000fff0"), "{units}");
}
