//! The I/O APIC.
//!
//! Source: Intel 82093AA data sheet (order number 290566) and the ICH9 data sheet, section 13.5 (version 20h with
//! the EOI register). Pin polarity is kept but not applied: lines here carry "asserted", not a voltage.

use crate::bus::{ApicBus, DeliveryMode, EoiSink, InterruptMessage};
use parking_lot::Mutex;
use rhea_device::{
    IrqLine, IrqSink, LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Input pins.
pub const PINS: usize = 24;

/// Memory-mapped registers.
mod spec {
    pub const IOREGSEL: u64 = 0x00;
    pub const IOWIN: u64 = 0x10;
    pub const EOI: u64 = 0x40;

    pub const IOAPICID: u8 = 0x00;
    pub const IOAPICVER: u8 = 0x01;
    pub const IOAPICARB: u8 = 0x02;
    pub const IOREDTBL: u8 = 0x10;

    pub const VERSION: u32 = 0x20;

    pub const MASK: u64 = 1 << 16;
    pub const LEVEL: u64 = 1 << 15;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    pub const LOGICAL: u64 = 1 << 11;
    /// Bits of an entry software can write.
    pub const WRITABLE: u64 = 0xff00_0000_0001_ffff & !(REMOTE_IRR | DELIVERY_STATUS);
}

struct State {
    select: u8,
    id: u8,
    /// Input levels, one bit a pin.
    lines: u32,
    /// Redirection table.
    entries: [u64; PINS],
}

impl State {
    fn reset() -> Self {
        Self { select: 0, id: 0, lines: 0, entries: [spec::MASK; PINS] }
    }
}

/// The I/O APIC: 24 pins into the APIC bus.
pub struct IoApic {
    bus: Arc<ApicBus>,
    state: Mutex<State>,
}

impl IoApic {
    /// An I/O APIC on `bus`, all pins masked.
    pub fn new(bus: Arc<ApicBus>) -> Arc<Self> {
        let ioapic = Arc::new(Self { bus: bus.clone(), state: Mutex::new(State::reset()) });
        let sink: Arc<dyn EoiSink> = ioapic.clone();
        bus.add_eoi_sink(Arc::downgrade(&sink));
        ioapic
    }

    /// The line into `pin` (0 to 23).
    pub fn line(self: &Arc<Self>, pin: u32) -> IrqLine {
        if pin as usize >= PINS { IrqLine::unconnected() } else { IrqLine::new(self.clone(), pin) }
    }

    /// Sends the interrupt of `pin`, whose line is asserted. The lock is held: local APICs come after it.
    fn send(&self, entry: &mut u64) {
        let level = *entry & spec::LEVEL != 0;
        let accepted = self.bus.deliver(&InterruptMessage {
            destination: (*entry >> 56) as u32,
            wide: false,
            logical: *entry & spec::LOGICAL != 0,
            mode: DeliveryMode::from_bits((*entry >> 8) as u32),
            vector: *entry as u8,
            level,
        });
        if level && accepted {
            *entry |= spec::REMOTE_IRR;
        }
    }

    /// Sends level-triggered interrupts that are asserted and not yet accepted.
    fn sync(&self, state: &mut State) {
        for pin in 0..PINS {
            let entry = &mut state.entries[pin];
            let ready = *entry & (spec::MASK | spec::REMOTE_IRR) == 0 && *entry & spec::LEVEL != 0;
            if ready && state.lines & 1 << pin != 0 {
                self.send(entry);
            }
        }
    }

    fn read_register(state: &State) -> u32 {
        match state.select {
            spec::IOAPICID | spec::IOAPICARB => u32::from(state.id) << 24,
            spec::IOAPICVER => spec::VERSION | (PINS as u32 - 1) << 16,
            index => match state.entries.get(usize::from(index.wrapping_sub(spec::IOREDTBL) / 2)) {
                Some(entry) if index >= spec::IOREDTBL => (*entry >> (32 * (index & 1))) as u32,
                _ => u32::MAX,
            },
        }
    }

    fn write_register(&self, state: &mut State, value: u32) {
        let index = state.select;
        if index == spec::IOAPICID {
            state.id = (value >> 24) as u8 & 0x0f;
        }
        if index < spec::IOREDTBL {
            return;
        }
        let Some(entry) = state.entries.get_mut(usize::from((index - spec::IOREDTBL) / 2)) else { return };
        let shift = 32 * u32::from(index & 1);
        let writable = spec::WRITABLE & 0xffff_ffff << shift;
        *entry = *entry & !writable | u64::from(value) << shift & writable;
        // An entry switched to edge mode forgets an interrupt it waits the end of.
        if *entry & spec::LEVEL == 0 {
            *entry &= !spec::REMOTE_IRR;
        }
        self.sync(state);
    }
}

impl IrqSink for IoApic {
    fn set_level(&self, pin: u32, level: bool) {
        let mut state = self.state.lock();
        let Some(entry) = state.entries.get(pin as usize).copied() else { return };
        let bit = 1 << pin;
        let rising = level && state.lines & bit == 0;
        state.lines = if level { state.lines | bit } else { state.lines & !bit };
        if entry & spec::LEVEL != 0 {
            self.sync(&mut state);
        } else if rising && entry & spec::MASK == 0 {
            // A masked edge is lost, as the data sheet says.
            self.send(&mut state.entries[pin as usize]);
        }
    }
}

impl EoiSink for IoApic {
    fn eoi(&self, vector: u8) {
        let mut state = self.state.lock();
        for entry in &mut state.entries {
            if *entry as u8 == vector && *entry & spec::LEVEL != 0 {
                *entry &= !spec::REMOTE_IRR;
            }
        }
        self.sync(&mut state);
    }
}

impl MmioHandler for IoApic {
    fn read(&self, offset: u64, _: usize) -> u64 {
        let state = self.state.lock();
        match offset & 0xff {
            spec::IOREGSEL => u64::from(state.select),
            spec::IOWIN => u64::from(Self::read_register(&state)),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        match offset & 0xff {
            spec::IOREGSEL => self.state.lock().select = value as u8,
            spec::IOWIN => self.write_register(&mut self.state.lock(), value as u32),
            spec::EOI => self.eoi(value as u8),
            _ => {}
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

impl Reset for IoApic {
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        *state = State { lines: state.lines, ..State::reset() };
    }
}

rhea_device::saved_record! { "ioapic", 1,
    /// Saved state of the I/O APIC.
    pub struct IoApicSavedV1 {
        /// IOREGSEL.
        select: u8,
        /// APIC ID.
        id: u8,
        /// Input levels.
        lines: u32,
        /// Redirection table.
        entries: [u64; PINS],
    }
}

impl StateUnit for IoApic {
    fn save(&self) -> SavedRecord {
        let s = self.state.lock();
        save_record(&IoApicSavedV1 { select: s.select, id: s.id, lines: s.lines, entries: s.entries })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let IoApicSavedV1 { select, id, lines, entries } = load_record(record)?;
        *self.state.lock() = State { select, id, lines, entries };
        Ok(())
    }
}
