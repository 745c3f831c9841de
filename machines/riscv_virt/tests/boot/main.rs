//! Firmware and small kernels on translated harts. Where a package is not installed its tests say so and end.

mod machine;

use machine::{Machine, TempFile, installed};
use rhea_riscv_state::CpuModel;
use rhea_riscv_virt::{Firmware, FlashConfig, HartTopology, PowerRequest, VirtConfig};

/// addi rd, x0, value
fn li(rd: u32, value: u32) -> u32 {
    0x13 | rd << 7 | value << 20
}

const ECALL: u32 = 0x73;
const A0: u32 = 10;
const A1: u32 = 11;
const A6: u32 = 16;
const A7: u32 = 17;

/// A kernel that prints "Kernel" through the console extension of old and asks SBI's system reset extension to power off
/// (or to reset: type 1).
fn kernel(reset_type: u32) -> Vec<u8> {
    let mut code = Vec::new();
    for character in b"Kernel\n" {
        code.extend([li(A7, 1), li(A0, u32::from(*character)), ECALL]);
    }
    // a7 = 53525354h "SRST": lui and addi.
    code.extend([0x5352_5000 | A7 << 7 | 0x37, 0x354 << 20 | A7 << 15 | A7 << 7 | 0x13]);
    code.extend([li(A6, 0), li(A0, reset_type), li(A1, 0), ECALL, 0x6f]);
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Runs a kernel on OpenSBI until it asks for something; what, and what it printed.
fn run(cpu: &str, harts: u32, kernel: &[u8]) -> Option<(PowerRequest, String)> {
    let kernel = TempFile::new(kernel);
    let mut config = VirtConfig::new(128 << 20);
    config.cpu = CpuModel::parse(cpu).unwrap();
    config.topology = HartTopology::flat(harts);
    config.kernel = Some(kernel.0.clone());
    Some(Machine::start(config)?.request())
}

#[test]
fn opensbi_starts_a_kernel_that_powers_off() {
    let Some((request, text)) = run("rv64", 1, &kernel(0)) else { return };
    assert_eq!(request, PowerRequest::Shutdown, "{text}");
    assert!(text.contains("OpenSBI v"), "{text}");
    assert!(text.contains("Kernel\n") || text.contains("Kernel\r\n"), "{text}");
}

#[test]
fn opensbi_finds_the_devices_of_the_tree() {
    let Some((request, text)) = run("rv64", 4, &kernel(1)) else { return };
    assert_eq!(request, PowerRequest::Reset, "{text}");
    let fact = |name: &str| {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(fact("Platform HART Count"), "4");
    assert_eq!(fact("Platform IPI Device"), "aclint-mswi");
    assert_eq!(fact("Platform Timer Device"), "aclint-mtimer @ 10000000Hz");
    assert_eq!(fact("Platform Console Device"), "uart8250");
    assert_eq!(fact("Platform Reboot Device"), "syscon-reboot");
    assert_eq!(fact("Platform Shutdown Device"), "syscon-poweroff");
}

#[test]
fn a_32_bit_hart_boots_too() {
    let Some((request, text)) = run("rv32", 1, &kernel(0)) else { return };
    assert_eq!(request, PowerRequest::Shutdown, "{text}");
    assert!(text.contains("Kernel"), "{text}");
}

#[test]
fn a_kernel_in_flash_is_entered_by_opensbi() {
    let mut contents = kernel(0);
    contents.resize(32 << 20, 0xff);
    let mut config = VirtConfig::new(128 << 20);
    config.flash[0] = Some(FlashConfig { contents, store: None, read_only: true });
    let Some(machine) = Machine::start(config) else { return };
    let (request, text) = machine.request();
    assert_eq!(request, PowerRequest::Shutdown, "{text}");
    assert!(text.contains("Kernel"), "{text}");
}

/// U-Boot comes to its prompt, finds the PCI host and the flash banks, and powers off.
fn u_boot(config: VirtConfig) {
    let Some(machine) = Machine::start(config) else { return };
    machine.expect("Hit any key");
    machine.type_line("");
    machine.expect("=> ");
    machine.type_line("pci");
    machine.expect("1b36");
    machine.expect("=> ");
    machine.type_line("flinfo");
    machine.expect("Bank # 2");
    machine.expect("=> ");
    machine.type_line("poweroff");
    let (request, text) = machine.request();
    assert_eq!(request, PowerRequest::Shutdown, "{text}");
    assert!(text.contains("CFI conformant"), "{text}");
}

#[test]
fn u_boot_in_supervisor_mode() {
    let Some(kernel) = installed("/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin", "u-boot-qemu") else {
        return;
    };
    let mut config = VirtConfig::new(256 << 20);
    config.kernel = Some(kernel);
    u_boot(config);
}

#[test]
fn u_boot_in_machine_mode() {
    let Some(firmware) = installed("/usr/lib/u-boot/qemu-riscv64/u-boot.bin", "u-boot-qemu") else { return };
    let mut config = VirtConfig::new(256 << 20);
    config.firmware = Firmware::File(firmware);
    u_boot(config);
}

/// Prints "hi" and ends with status 3, through the host-target interface.
const HTIF_PROGRAM: &str = r#"
    .globl _start
_start:
    la t0, tohost
    li t1, 0x0101000000000000 + 'h'
    sd t1, 0(t0)
    li t1, 0x0101000000000000 + 'i'
    sd t1, 0(t0)
    li t1, 3 << 1 | 1
    sd t1, 0(t0)
1:  j 1b
    .section .tohost, "aw", @progbits
    .balign 64
    .globl tohost, fromhost
tohost: .dword 0
    .balign 64
fromhost: .dword 0
"#;

#[test]
fn a_test_program_prints_and_ends_through_the_host_target_interface() {
    let (source, program) = (TempFile::new(HTIF_PROGRAM.as_bytes()), TempFile::new(b""));
    let compiled = std::process::Command::new("riscv64-linux-gnu-gcc")
        .args([
            "-x",
            "assembler",
            "-march=rv64i",
            "-mabi=lp64",
            "-nostdlib",
            "-static",
            "-Wl,-N,--build-id=none,-Ttext=0x80000000",
            "-o",
        ])
        .args([&program.0, &source.0])
        .output();
    let Ok(output) = compiled else {
        eprintln!("skipped: there is no cross compiler (package gcc-riscv64-linux-gnu)");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut config = VirtConfig::new(64 << 20);
    config.firmware = Firmware::None;
    config.kernel = Some(program.0.clone());
    let Some(machine) = Machine::start(config) else { return };
    assert_eq!(machine.request(), (PowerRequest::DebugExit(3), "hi".to_owned()));
}
