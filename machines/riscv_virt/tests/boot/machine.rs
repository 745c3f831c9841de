//! A machine that runs on translated harts, and what it prints.

use rhea_accel_api::VcpuGroup;
use rhea_accel_translate::Vcpus;
use rhea_accel_translate::riscv::{RiscvSettings, RiscvWiring, create};
use rhea_chardev::{CharReceiver, CharSink, Chardev};
use rhea_engine::EngineConfig;
use rhea_riscv_virt::{BuildError, PowerRequest, RESET_VECTOR, VirtConfig, VirtMachine, VirtualClock, build};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longest wait before a test counts as failed.
const PATIENCE: Duration = Duration::from_secs(100);

/// Keeps what the guest prints.
#[derive(Default)]
pub struct Screen {
    bytes: Mutex<Vec<u8>>,
    more: Condvar,
    receiver: Mutex<Option<Arc<dyn CharReceiver>>>,
}

impl CharSink for Screen {
    fn write(&self, bytes: &[u8]) -> usize {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        self.more.notify_all();
        bytes.len()
    }
    fn is_open(&self) -> bool {
        true
    }
}

impl Chardev for Screen {
    fn attach(&self, receiver: Arc<dyn CharReceiver>) {
        *self.receiver.lock().unwrap() = Some(receiver);
    }
    fn accept_input(&self) {}
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

/// A file in the temporary folder, removed on drop.
pub struct TempFile(pub PathBuf);

impl TempFile {
    pub fn new(contents: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rhea-virt-boot-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, contents).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file of a package, or a word about what is missing.
pub fn installed(path: &str, package: &str) -> Option<PathBuf> {
    let found = Path::new(path).is_file();
    if !found {
        eprintln!("skipped: '{path}' is not there (package {package})");
    }
    found.then(|| path.into())
}

/// A machine that runs.
pub struct Machine {
    screen: Arc<Screen>,
    /// How much of what was printed has been waited for.
    seen: Mutex<usize>,
    pub machine: VirtMachine,
    vcpus: Vcpus,
}

impl Machine {
    /// Builds and starts it; nothing without OpenSBI where that is wanted.
    pub fn start(config: VirtConfig) -> Option<Self> {
        Self::start_with(config, EngineConfig::default())
    }

    /// The same with an engine of choice.
    pub fn start_with(mut config: VirtConfig, engine: EngineConfig) -> Option<Self> {
        let screen = Arc::new(Screen::default());
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
            model: Arc::new(machine.cpu.clone()),
            engine,
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
        Some(Self { screen, seen: Mutex::new(0), machine, vcpus })
    }

    /// Waits until the guest asks for something; what, and what it has printed.
    pub fn request(&self) -> (PowerRequest, String) {
        let request = self.machine.power.wait(Some(PATIENCE));
        self.vcpus.group.pause();
        (request.unwrap_or_else(|| self.give_up("a request")), self.screen.text())
    }

    /// Waits until the guest has printed `text` after what was waited for before.
    pub fn expect(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        let mut bytes = self.screen.bytes.lock().unwrap();
        let mut seen = self.seen.lock().unwrap();
        loop {
            let new = bytes.get(*seen..).unwrap_or_default();
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                *seen += at + text.len();
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(bytes);
                self.give_up(text);
            }
            bytes = self.screen.more.wait_timeout(bytes, left).unwrap().0;
        }
    }

    /// Types a line.
    pub fn type_line(&self, line: &str) {
        let receiver = self.screen.receiver.lock().unwrap().clone().unwrap();
        let end = Instant::now() + PATIENCE;
        for byte in line.bytes().chain([b'\r']) {
            while receiver.can_receive() == 0 {
                assert!(Instant::now() < end, "the guest does not read\n{}", self.screen.text());
                std::thread::sleep(Duration::from_millis(1));
            }
            receiver.receive(&[byte]);
        }
    }

    fn give_up(&self, what: &str) -> ! {
        self.vcpus.group.pause();
        panic!("waited for {what} in vain\n{}\n{}", self.screen.text(), self.vcpus.group.registers(0));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vcpus.group.shut_down();
    }
}
