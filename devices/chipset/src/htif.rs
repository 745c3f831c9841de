//! The host-target interface: two words of memory, `tohost` and `fromhost`, by which a test program prints and ends.
//!
//! Source: RISC-V "Host-Target Interface" as the proxy kernel (riscv-pk, machine/htif.c) and riscv-tests use it. A command
//! has a device in bits 63:56, a command in bits 55:48 and a payload below. Device 0: an odd payload ends the run with
//! the status above bit 0; an even one is the address of a system call's number and arguments, of which `write` (to
//! standard output and error) and `exit` are served here, and all others answered with ENOSYS. Device 1, command 1:
//! prints a character; command 0 (read one) is never answered.

use parking_lot::Mutex;
use rhea_chardev::CharSink;
use rhea_device::{
    LoadError, PowerControl, PowerRequest, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record,
};
use rhea_memory::{AccessSizes, AddressSpace, MmioHandler, Target};
use std::sync::{Arc, Weak};

/// Bytes of each of the two words.
pub const WORD_SIZE: u64 = 8;

const DEVICE_SYSTEM: u64 = 0;
const DEVICE_CONSOLE: u64 = 1;
const CONSOLE_WRITE: u64 = 1;
const SYSCALL_WRITE: u64 = 64;
const SYSCALL_EXIT: u64 = 93;
const ENOSYS: i64 = 38;
const EFAULT: i64 = 14;
/// Most bytes that one `write` prints; the rest is for the next.
const WRITE_MAX: u64 = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    to_host: u64,
    from_host: u64,
}

/// The interface.
pub struct Htif {
    console: Arc<dyn CharSink>,
    power: Arc<PowerControl>,
    /// Guest memory, which holds this device.
    memory: Weak<AddressSpace>,
    state: Mutex<State>,
}

/// What a command asks of the device.
enum Answer {
    None,
    /// This in `fromhost`.
    From(u64),
}

impl Htif {
    /// An interface that prints to `console` and ends the run through `power`.
    pub fn new(
        console: Arc<dyn CharSink>,
        power: Arc<PowerControl>,
        memory: &Arc<AddressSpace>,
    ) -> Arc<Self> {
        Arc::new(Self { console, power, memory: Arc::downgrade(memory), state: Mutex::default() })
    }

    /// The registers of `tohost`.
    pub fn to_host(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(ToHost(self.clone()))
    }

    /// The registers of `fromhost`.
    pub fn from_host(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(FromHost(self.clone()))
    }

    fn carry_out(&self, command: u64) -> Answer {
        let (device, action, payload) = (command >> 56, command >> 48 & 0xff, command & 0xffff_ffff_ffff);
        match (device, action) {
            (DEVICE_SYSTEM, 0) if payload & 1 != 0 => {
                self.power.request(PowerRequest::DebugExit((payload >> 1) as u32));
                Answer::None
            }
            (DEVICE_SYSTEM, 0) if payload != 0 => self.system_call(payload),
            (DEVICE_CONSOLE, CONSOLE_WRITE) => {
                self.console.write(&[payload as u8]);
                Answer::From(command & !0xffff_ffff_ffff)
            }
            _ => Answer::None,
        }
    }

    fn system_call(&self, at: u64) -> Answer {
        let Some(memory) = self.memory.upgrade() else { return Answer::None };
        if !is_ram(&memory, at, 32) {
            return Answer::None;
        }
        let argument = |index: u64| memory.read(at + 8 * index, 8);
        let result = match argument(0) {
            SYSCALL_EXIT => {
                self.power.request(PowerRequest::DebugExit(argument(1) as u32));
                return Answer::None;
            }
            SYSCALL_WRITE if matches!(argument(1), 1 | 2) => self.print(&memory, argument(2), argument(3)),
            _ => -ENOSYS,
        };
        memory.write(at, 8, result as u64);
        Answer::From(1)
    }

    fn print(&self, memory: &AddressSpace, start: u64, len: u64) -> i64 {
        let len = len.min(WRITE_MAX);
        if !is_ram(memory, start, len) {
            return -EFAULT;
        }
        let mut bytes = vec![0; len as usize];
        match memory.read_bytes(start, &mut bytes) {
            Ok(()) => self.console.write(&bytes) as i64,
            Err(_) => -EFAULT,
        }
    }

    fn command(&self, state: &mut State) {
        let command = std::mem::take(&mut state.to_host);
        if let Answer::From(value) = self.carry_out(command) {
            state.from_host = value;
        }
    }
}

/// Whether `len` bytes from `start` on are RAM in one piece.
fn is_ram(memory: &AddressSpace, start: u64, len: u64) -> bool {
    let view = memory.view();
    view.lookup(start).is_some_and(|range| {
        let inside = start.checked_add(len).is_some_and(|end| end - 1 <= range.last() || len == 0);
        inside && matches!(range.target, Target::Ram { writable: true, .. })
    })
}

fn half(value: u64, offset: u64, size: usize) -> u64 {
    if size == 8 { value } else { value >> (8 * (offset & 4)) & 0xffff_ffff }
}

fn merge(old: u64, offset: u64, size: usize, value: u64) -> u64 {
    if size == 8 {
        return value;
    }
    let shift = 8 * (offset & 4);
    old & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift
}

struct ToHost(Arc<Htif>);

impl MmioHandler for ToHost {
    fn read(&self, offset: u64, size: usize) -> u64 {
        half(self.0.state.lock().to_host, offset, size)
    }

    /// A 32-bit program writes the low half first: the high half gives the command.
    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.0.state.lock();
        state.to_host = merge(state.to_host, offset, size, value);
        if size == 8 || offset == 4 {
            self.0.command(&mut state);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 4, max: 8 }
    }
}

struct FromHost(Arc<Htif>);

impl MmioHandler for FromHost {
    fn read(&self, offset: u64, size: usize) -> u64 {
        half(self.0.state.lock().from_host, offset, size)
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.0.state.lock();
        state.from_host = merge(state.from_host, offset, size, value);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 4, max: 8 }
    }
}

impl Reset for Htif {
    fn reset(&self, _: ResetKind) {
        *self.state.lock() = State::default();
    }
}

rhea_device::saved_record! { "htif", 1,
    /// Saved state of the interface.
    pub struct HtifSavedV1 {
        /// Low half of a command that waits for its high half.
        to_host: u64,
        /// Answer.
        from_host: u64,
    }
}

impl StateUnit for Htif {
    fn save(&self) -> SavedRecord {
        let State { to_host, from_host } = *self.state.lock();
        save_record(&HtifSavedV1 { to_host, from_host })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let HtifSavedV1 { to_host, from_host } = load_record(record)?;
        *self.state.lock() = State { to_host, from_host };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_memory::{RamBlock, Region, Topology};

    #[derive(Default)]
    struct Screen(Mutex<Vec<u8>>);

    impl CharSink for Screen {
        fn write(&self, bytes: &[u8]) -> usize {
            self.0.lock().extend_from_slice(bytes);
            bytes.len()
        }
        fn is_open(&self) -> bool {
            true
        }
    }

    struct Rig {
        memory: Arc<AddressSpace>,
        screen: Arc<Screen>,
        power: Arc<PowerControl>,
    }

    /// RAM with `tohost` at 100h and `fromhost` at 108h.
    fn rig() -> Rig {
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 20);
        root.add(0, &Region::ram(&topology, Arc::new(RamBlock::new("ram", 0x4000).unwrap())));
        let memory = AddressSpace::new("test", root.clone());
        let (screen, power) = (Arc::new(Screen::default()), Arc::new(PowerControl::new()));
        let htif = Htif::new(screen.clone(), power.clone(), &memory);
        root.add_with_priority(0x100, &Region::mmio(&topology, "tohost", 8, htif.to_host()), 1);
        root.add_with_priority(0x108, &Region::mmio(&topology, "fromhost", 8, htif.from_host()), 1);
        Rig { memory, screen, power }
    }

    #[test]
    fn an_odd_payload_ends_the_run() {
        let rig = rig();
        rig.memory.write(0x100, 8, 0);
        assert_eq!(rig.power.take(), None);
        rig.memory.write(0x100, 8, 7);
        assert_eq!(rig.power.take(), Some(PowerRequest::DebugExit(3)));
        rig.memory.write(0x100, 4, 1);
        assert_eq!(rig.power.take(), None, "the high half is to come");
        rig.memory.write(0x104, 4, 0);
        assert_eq!(rig.power.take(), Some(PowerRequest::DebugExit(0)));
    }

    #[test]
    fn characters_and_system_calls_print() {
        let rig = rig();
        rig.memory.write(0x100, 8, 0x0101_0000_0000_0041);
        assert_eq!((rig.memory.read(0x108, 8), rig.memory.read(0x100, 8)), (0x0101 << 48, 0));
        rig.memory.write_bytes(0x300, b"hello").unwrap();
        for (index, value) in [64, 1, 0x300, 5].into_iter().enumerate() {
            rig.memory.write(0x200 + 8 * index as u64, 8, value);
        }
        rig.memory.write(0x100, 8, 0x200);
        assert_eq!((rig.memory.read(0x108, 8), rig.memory.read(0x200, 8)), (1, 5));
        assert_eq!(rig.screen.0.lock()[..], *b"Ahello");
        rig.memory.write(0x200, 8, 1234);
        rig.memory.write(0x100, 8, 0x200);
        assert_eq!(rig.memory.read(0x200, 8) as i64, -38);
    }

    #[test]
    fn hostile_addresses_are_not_followed() {
        let rig = rig();
        // Arguments in the device itself, behind RAM, and nowhere.
        for at in [0x100, 0xf8, 0x3ff0, 0x1_0000, 0xffff_ffff_fff0] {
            rig.memory.write(0x100, 8, at);
            assert_eq!(rig.memory.read(0x108, 8), 0, "{at:#x}");
        }
        for (start, len) in [(0x100, 8), (0x3fff, 2), (u64::MAX, 1), (0, u64::MAX)] {
            for (index, value) in [64, 1, start, len].into_iter().enumerate() {
                rig.memory.write(0x200 + 8 * index as u64, 8, value);
            }
            rig.memory.write(0x100, 8, 0x200);
        }
        assert!(rig.screen.0.lock().len() <= WRITE_MAX as usize);
    }
}
