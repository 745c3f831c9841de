//! OpenSBI and a small kernel on translated harts. Where OpenSBI is not installed the tests say so and end.

use rhea_accel_api::VcpuGroup;
use rhea_accel_translate::riscv::{RiscvSettings, RiscvWiring, create};
use rhea_chardev::{CharReceiver, CharSink, Chardev};
use rhea_riscv_state::CpuModel;
use rhea_riscv_virt::{
    BuildError, Firmware, HartTopology, PowerRequest, RESET_VECTOR, VirtConfig, VirtualClock, build,
};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Keeps what the guest prints.
#[derive(Default)]
struct Screen(Mutex<Vec<u8>>);

impl CharSink for Screen {
    fn write(&self, bytes: &[u8]) -> usize {
        self.0.lock().unwrap().extend_from_slice(bytes);
        bytes.len()
    }
    fn is_open(&self) -> bool {
        true
    }
}

impl Chardev for Screen {
    fn attach(&self, _: Arc<dyn CharReceiver>) {}
    fn accept_input(&self) {}
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

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

/// Runs until the guest asks for something; what, and what it printed.
fn run(name: &'static str, cpu: &str, harts: u32, kernel: &[u8]) -> Option<(PowerRequest, String)> {
    let path: PathBuf = std::env::temp_dir().join(format!("rhea-virt-{name}-{}", std::process::id()));
    std::fs::write(&path, kernel).unwrap();
    let screen = Arc::new(Screen::default());
    let mut config = VirtConfig::new(128 << 20);
    config.cpu = CpuModel::parse(cpu).unwrap();
    config.topology = HartTopology::flat(harts);
    config.firmware = Firmware::OpenSbi;
    config.kernel = Some(path.clone());
    config.serial = Some(screen.clone());
    let clock = VirtualClock::realtime();
    let machine = match build(&config, clock.clone()) {
        Err(BuildError::NoOpenSbi { .. }) => {
            eprintln!("skipped: OpenSBI is not installed (package opensbi)");
            return None;
        }
        machine => machine.unwrap(),
    };
    let time = clock.clone();
    let settings = RiscvSettings {
        name: if config.cpu.config().xlen == 32 { "riscv32" } else { "riscv64" },
        model: Arc::new(config.cpu.clone()),
        engine: Default::default(),
        clock: Arc::new(move || time.now()),
        reset_vector: RESET_VECTOR,
    };
    let wiring = machine.harts.iter().map(|hart| RiscvWiring {
        hart_id: hart.hart_id,
        memory: hart.memory.clone(),
        lines: hart.lines.clone(),
        timer: hart.timer.clone(),
    });
    let vcpus = create(settings, wiring.collect()).unwrap();
    clock.resume();
    vcpus.group.resume();
    let request = machine.power.wait(Some(Duration::from_secs(100)));
    vcpus.group.pause();
    let registers = vcpus.group.registers(0);
    vcpus.group.shut_down();
    let _ = std::fs::remove_file(&path);
    let text = screen.text();
    Some((request.unwrap_or_else(|| panic!("nothing happened\n{text}\n{registers}")), text))
}

#[test]
fn opensbi_starts_a_kernel_that_powers_off() {
    let Some((request, text)) = run("off", "rv64", 1, &kernel(0)) else { return };
    assert_eq!(request, PowerRequest::Shutdown, "{text}");
    assert!(text.contains("OpenSBI v"), "{text}");
    assert!(text.contains("Kernel\n") || text.contains("Kernel\r\n"), "{text}");
}

#[test]
fn opensbi_finds_the_devices_of_the_tree() {
    let Some((request, text)) = run("smp", "rv64", 4, &kernel(1)) else { return };
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
    let Some((request, text)) = run("narrow", "rv32", 1, &kernel(0)) else { return };
    assert_eq!(request, PowerRequest::Shutdown, "{text}");
    assert!(text.contains("Kernel"), "{text}");
}
