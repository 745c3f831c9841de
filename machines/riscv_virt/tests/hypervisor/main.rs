//! The hypervisor extension on a bare machine: the same program prints the same on both tiers and in QEMU. Without a cross
//! compiler (package gcc-riscv64-linux-gnu) or `qemu-system-riscv64` (package qemu-system-misc) the tests say so and end.

#[path = "../boot/machine.rs"]
#[allow(dead_code, reason = "shared with the boot tests, which use more of it")]
mod machine;

use machine::{Machine, TempFile};
use rhea_engine::{EngineConfig, Tier};
use rhea_riscv_state::CpuModel;
use rhea_riscv_virt::{Firmware, PowerRequest, VirtConfig};
use std::path::Path;
use std::process::Command;

/// Compiles a program of this folder; nothing without a compiler.
fn compile(source: &str, more: &[&str]) -> Option<TempFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hypervisor");
    let program = TempFile::new(b"");
    let width = if source.contains("32") {
        ["-march=rv32imac_zicsr", "-mabi=ilp32"]
    } else {
        ["-march=rv64gc", "-mabi=lp64d"]
    };
    let options = "-O1 -fno-toplevel-reorder -mcmodel=medany -ffreestanding -fno-builtin \
                   -fno-pic -no-pie -nostdlib -static -Wl,-N,--build-id=none,-Ttext=0x80000000,-e,_start";
    let compiled = Command::new("riscv64-linux-gnu-gcc")
        .args(width)
        .args(options.split_whitespace())
        .args(more)
        .arg("-o")
        .args([&program.0, &folder.join(source)])
        .output();
    let Ok(output) = compiled else {
        eprintln!("skipped: there is no cross compiler (package gcc-riscv64-linux-gnu)");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// What a program prints on a machine of ours.
fn ours(program: &TempFile, cpu: &str, tier: Tier) -> String {
    let mut config = VirtConfig::new(128 << 20);
    config.cpu = CpuModel::parse(cpu).unwrap();
    config.firmware = Firmware::None;
    config.kernel = Some(program.0.clone());
    // Compiled units are run by the interpreter too, and the results compared.
    let lockstep = tier == Tier::Baseline;
    let machine = Machine::start_with(config, EngineConfig { tier, lockstep, ..EngineConfig::default() });
    let (request, text) = machine.expect("no firmware is needed").request();
    assert_eq!(request, PowerRequest::Shutdown, "{text}");
    text
}

/// What it prints in QEMU; nothing if that is not installed.
fn theirs(program: &TempFile, cpu: &str) -> Option<String> {
    let name = if cpu.starts_with("rv32") { "qemu-system-riscv32" } else { "qemu-system-riscv64" };
    let output = Command::new(name)
        .args([
            "-M", "virt", "-bios", "none", "-m", "128", "-display", "none", "-serial", "stdio", "-cpu", cpu,
        ])
        .arg("-kernel")
        .arg(&program.0)
        .output();
    match output {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => {
            eprintln!("skipped: {name} is not installed (package qemu-system-misc)");
            None
        }
    }
}

/// Fails with the first lines that differ.
fn compare(what: &str, ours: &str, theirs: &str) {
    let (mine, other): (Vec<_>, Vec<_>) = (ours.lines().collect(), theirs.lines().collect());
    let differ = (0..mine.len().max(other.len())).filter(|i| mine.get(*i) != other.get(*i));
    let lines: Vec<String> = differ
        .take(40)
        .map(|i| format!("{i}: ours   {:?}\n{i}: theirs {:?}", mine.get(i), other.get(i)))
        .collect();
    assert!(lines.is_empty(), "{what}\n{}", lines.join("\n"));
}

fn check(source: &str, cpu: &str) {
    let Some(program) = compile(source, &[]) else { return };
    let compiled = ours(&program, cpu, Tier::Baseline);
    assert!(compiled.ends_with("end\n"), "{compiled}");
    compare("the tiers", &compiled, &ours(&program, cpu, Tier::Interpreter));
    let Some(peer) = theirs(&program, cpu) else { return };
    compare("the peer", &compiled, &peer);
}

#[test]
fn traps_translation_and_interrupts_of_a_guest() {
    check("hypervisor.c", "rv64");
}

#[test]
fn a_guest_of_32_bits() {
    check("hypervisor32.c", "rv32");
}

#[test]
fn pointers_are_masked_below_machine_mode() {
    check("pointer_masking.c", "rv64,smnpm=true,ssnpm=true");
}

/// QEMU 10 is no measure here: it does not take PMM of mseccfg back, and masks vectors otherwise.
#[test]
fn pointers_are_masked_in_machine_mode() {
    let Some(program) = compile("pointer_masking_machine.c", &[]) else { return };
    for tier in [Tier::Baseline, Tier::Interpreter] {
        let text = ours(&program, "rv64,v=true,smmpm=true,ssnpm=true", tier);
        let expected = " mseccfg=0 fault=80 fault=80 fault=20000 fault=20000\n \
                        mseccfg=0 fault=80 fault=80 fault=20000 fault=20000\n \
                        mseccfg=2 fault=80 fault=80 loaded=2222 vector=1111\n \
                        mseccfg=3 fault=80 fault=80 loaded=2222 vector=1111\n \
                        lower=2222\nend\n";
        assert_eq!(text, expected, "{tier:?}");
    }
}

#[test]
fn pointers_are_masked_for_guests() {
    let Some(program) = compile("pointer_masking.c", &["-DALONE"]) else { return };
    for tier in [Tier::Baseline, Tier::Interpreter] {
        let text = ours(&program, "rv64,smnpm=true,ssnpm=true", tier);
        let (_, text) = text.split_once("alone\n").expect("what QEMU is not asked");
        // Without addresses of the data: ok or the cause, line by line.
        let outcomes = text.lines().filter_map(|line| line.split_once(": ")).map(|(what, how)| {
            let mode = what.split(' ').take(2).collect::<Vec<_>>().join(" ");
            let how = how.split_whitespace().take(2).filter(|word| *word != "M").take(1).collect::<String>();
            format!("{mode} {how}")
        });
        let outcomes: Vec<String> = outcomes.collect();
        // By PMLEN 7 and 16: Bare, Sv39, HLV, HSV (whose tag is longer than 7 bits), and with MXR.
        let expected = [
            "VS load ok=2222",
            "VS load ok=2222",
            "HS hlv_d ok=1111",
            "HS hsv_d cause=f",
            "VS load cause=d",
            "VS load ok=2222",
            "VS load ok=2222",
            "HS hlv_d ok=1111",
            "HS hsv_d ok=0",
            "VS load cause=d",
        ];
        assert_eq!(outcomes, expected, "{tier:?}");
    }
}
