//! The pair of 8259A programmable interrupt controllers of a PC, with the edge/level registers of the chipset.
//!
//! Source: Intel 8259A data sheet (order number 231468); ELCR from the ICH9 data sheet, section 13.6.
//! Ports: master 20h-21h, slave A0h-A1h, ELCR 4D0h-4D1h. The slave's INT drives the master's IR2.

use crate::lapic::ExtIntSource;
use parking_lot::Mutex;
use rhea_device::{
    IrqLine, IrqSink, LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Master input that the slave is cascaded on.
const CASCADE: u8 = 2;
/// Inputs that cannot be level-triggered on a PC: timer, keyboard, cascade on the master; RTC, FPU on the slave.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// Where a chip is in its initialization sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Expect {
    /// Operating.
    #[default]
    Ready,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, Debug, Default)]
struct Chip {
    /// Interrupt request register.
    irr: u8,
    /// Interrupt mask register (OCW1).
    imr: u8,
    /// In-service register.
    isr: u8,
    /// Input levels.
    lines: u8,
    /// Inputs that are level-triggered.
    elcr: u8,
    /// Vector base (ICW2), low three bits zero.
    base: u8,
    /// Lowest-priority input is `rotation - 1`.
    rotation: u8,
    expect: Expect,
    /// ICW4 will follow (ICW1 bit 0).
    wants_icw4: bool,
    /// Single chip (ICW1 bit 1): no ICW3.
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    poll: bool,
    /// Reads of the even port give ISR instead of IRR.
    read_isr: bool,
}

impl Chip {
    /// Priority of the highest-priority set bit of `bits` (0 is highest), 8 if none.
    fn priority(&self, bits: u8) -> u8 {
        (0..8).find(|p| bits & 1 << ((p + self.rotation) & 7) != 0).unwrap_or(8)
    }

    fn input(&self, priority: u8) -> u8 {
        (priority + self.rotation) & 7
    }

    /// The input the chip asks INTA for, if any.
    fn request(&self, is_master: bool) -> Option<u8> {
        let priority = self.priority(self.irr & !self.imr);
        if priority == 8 {
            return None;
        }
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        // Special fully nested mode: the slave may interrupt its own service.
        if self.special_fully_nested && is_master {
            serving &= !(1 << CASCADE);
        }
        (priority < self.priority(serving)).then(|| self.input(priority))
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        let was = self.lines & bit != 0;
        if level {
            self.lines |= bit;
            if self.elcr & bit != 0 || !was {
                self.irr |= bit;
            }
        } else {
            self.lines &= !bit;
            // The request must stay high until INTA; an edge that goes away is a spurious interrupt (IR7).
            self.irr &= !bit;
        }
    }

    /// INTA: puts `input` in service.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.rotation = (input + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.icw1(value);
        } else if value & 0x08 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    fn icw1(&mut self, value: u8) {
        let (lines, elcr) = (self.lines, self.elcr);
        *self = Self { lines, elcr, irr: lines & elcr, expect: Expect::Icw2, ..Self::default() };
        self.wants_icw4 = value & 1 != 0;
        self.single = value & 2 != 0;
    }

    fn ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            // Non-specific EOI, with or without rotation.
            command @ (0b001 | 0b101) => {
                let priority = self.priority(self.isr);
                if priority < 8 {
                    let input = self.input(priority);
                    self.isr &= !(1 << input);
                    if command == 0b101 {
                        self.rotation = (input + 1) & 7;
                    }
                }
            }
            0b011 => self.isr &= !(1 << level),
            0b111 => {
                self.isr &= !(1 << level);
                self.rotation = (level + 1) & 7;
            }
            0b110 => self.rotation = (level + 1) & 7,
            0b100 => self.rotate_on_auto_eoi = true,
            0b000 => self.rotate_on_auto_eoi = false,
            _ => {} // 010: no operation
        }
    }

    fn ocw3(&mut self, value: u8) {
        self.poll = value & 4 != 0;
        if value & 2 != 0 {
            self.read_isr = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expect = match self.expect {
            Expect::Ready => {
                self.imr = value;
                Expect::Ready
            }
            Expect::Icw2 => {
                self.base = value & 0xf8;
                match (self.single, self.wants_icw4) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Ready,
                }
            }
            Expect::Icw3 if self.wants_icw4 => Expect::Icw4,
            Expect::Icw3 => Expect::Ready,
            Expect::Icw4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                Expect::Ready
            }
        };
    }
}

/// Both chips; index 0 is the master.
struct State {
    chips: [Chip; 2],
}

impl State {
    /// Recomputes the cascade and returns the level of the master's INT output.
    fn sync(&mut self) -> bool {
        let slave = self.chips[1].request(false).is_some();
        // The cascade is a level: it stays requested while the slave asks.
        let bit = 1 << CASCADE;
        let master = &mut self.chips[0];
        master.irr = if slave { master.irr | bit } else { master.irr & !bit };
        master.request(true).is_some()
    }

    /// The INTA cycle: vector of the interrupt taken, or the spurious one of IR7.
    fn acknowledge(&mut self) -> u8 {
        self.sync();
        let Some(input) = self.chips[0].request(true) else { return self.chips[0].base | 7 };
        self.chips[0].acknowledge(input);
        if input != CASCADE {
            return self.chips[0].base | input;
        }
        match self.chips[1].request(false) {
            Some(input) => {
                self.chips[1].acknowledge(input);
                self.chips[1].base | input
            }
            None => self.chips[1].base | 7,
        }
    }
}

/// The 8259A pair.
pub struct PicPair {
    out: IrqLine,
    state: Mutex<State>,
}

impl PicPair {
    /// A pair whose INTR output drives `out` (LINT0 of the local APICs).
    pub fn new(out: IrqLine) -> Arc<Self> {
        Arc::new(Self { out, state: Mutex::new(State { chips: Default::default() }) })
    }

    /// The line into IR `irq` (0 to 15; IR2 is the cascade and goes nowhere).
    pub fn line(self: &Arc<Self>, irq: u32) -> IrqLine {
        if irq == u32::from(CASCADE) || irq > 15 {
            return IrqLine::unconnected();
        }
        IrqLine::new(self.clone(), irq)
    }

    /// Registers of the master (`false`) or the slave (`true`), two ports each.
    pub fn ports(self: &Arc<Self>, slave: bool) -> Arc<dyn MmioHandler> {
        Arc::new(ChipPorts { pair: self.clone(), chip: usize::from(slave) })
    }

    /// The edge/level control registers, two ports.
    pub fn elcr_ports(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(ElcrPorts(self.clone()))
    }

    fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let level = state.sync();
        self.out.set(level);
        result
    }
}

impl ExtIntSource for PicPair {
    fn acknowledge(&self) -> u8 {
        self.update(State::acknowledge)
    }
}

impl IrqSink for PicPair {
    fn set_level(&self, pin: u32, level: bool) {
        self.update(|state| state.chips[usize::from(pin >= 8)].set_line((pin & 7) as u8, level));
    }
}

struct ChipPorts {
    pair: Arc<PicPair>,
    chip: usize,
}

impl MmioHandler for ChipPorts {
    fn read(&self, offset: u64, _: usize) -> u64 {
        let index = self.chip;
        self.pair.update(|state| {
            let chip = &mut state.chips[index];
            if std::mem::take(&mut chip.poll) {
                // Poll command: the read is the INTA.
                return match chip.request(index == 0) {
                    Some(input) => {
                        chip.acknowledge(input);
                        u64::from(0x80 | input)
                    }
                    None => 0,
                };
            }
            u64::from(match (offset, chip.read_isr) {
                (0, false) => chip.irr,
                (0, true) => chip.isr,
                _ => chip.imr,
            })
        })
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        self.pair.update(|state| {
            let chip = &mut state.chips[self.chip];
            if offset == 0 { chip.write_command(value as u8) } else { chip.write_data(value as u8) }
        });
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

struct ElcrPorts(Arc<PicPair>);

impl MmioHandler for ElcrPorts {
    fn read(&self, offset: u64, _: usize) -> u64 {
        u64::from(self.0.state.lock().chips[(offset & 1) as usize].elcr)
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let index = (offset & 1) as usize;
        self.0.update(|state| {
            let chip = &mut state.chips[index];
            chip.elcr = value as u8 & ELCR_MASK[index];
            chip.irr |= chip.lines & chip.elcr;
        });
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for PicPair {
    fn reset(&self, _: ResetKind) {
        self.update(|state| {
            for chip in &mut state.chips {
                *chip = Chip { lines: chip.lines, ..Chip::default() };
            }
        });
    }
}

rhea_device::saved_record! { "i8259-pair", 1,
    /// Saved state of the pair: for each chip the registers, then the mode bits.
    pub struct PicSavedV1 {
        /// irr, imr, isr, lines, elcr, base, rotation, place in the initialization sequence.
        registers: [[u8; 8]; 2],
        /// wants_icw4, single, auto_eoi, rotate_on_auto_eoi, special_fully_nested, special_mask, poll, read_isr.
        modes: [[bool; 8]; 2],
    }
}

impl StateUnit for PicPair {
    fn save(&self) -> SavedRecord {
        let state = self.state.lock();
        let registers = |c: &Chip| {
            let expect = match c.expect {
                Expect::Ready => 0,
                Expect::Icw2 => 2,
                Expect::Icw3 => 3,
                Expect::Icw4 => 4,
            };
            [c.irr, c.imr, c.isr, c.lines, c.elcr, c.base, c.rotation, expect]
        };
        let modes = |c: &Chip| {
            [
                c.wants_icw4,
                c.single,
                c.auto_eoi,
                c.rotate_on_auto_eoi,
                c.special_fully_nested,
                c.special_mask,
                c.poll,
                c.read_isr,
            ]
        };
        save_record(&PicSavedV1 {
            registers: [registers(&state.chips[0]), registers(&state.chips[1])],
            modes: [modes(&state.chips[0]), modes(&state.chips[1])],
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: PicSavedV1 = load_record(record)?;
        let chip = |i: usize| {
            let [irr, imr, isr, lines, elcr, base, rotation, expect] = saved.registers[i];
            let m = saved.modes[i];
            let expect = match expect {
                0 => Expect::Ready,
                2 => Expect::Icw2,
                3 => Expect::Icw3,
                4 => Expect::Icw4,
                _ => return Err(LoadError::BadValue { device: "i8259-pair", field: "expect" }),
            };
            if rotation > 7 {
                return Err(LoadError::BadValue { device: "i8259-pair", field: "rotation" });
            }
            Ok(Chip {
                irr,
                imr,
                isr,
                lines,
                elcr,
                base,
                rotation,
                expect,
                wants_icw4: m[0],
                single: m[1],
                auto_eoi: m[2],
                rotate_on_auto_eoi: m[3],
                special_fully_nested: m[4],
                special_mask: m[5],
                poll: m[6],
                read_isr: m[7],
            })
        };
        let chips = [chip(0)?, chip(1)?];
        self.update(|state| state.chips = chips);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Initializes both chips as a PC BIOS does, all inputs open.
    fn pair() -> (Arc<PicPair>, Arc<dyn MmioHandler>, Arc<dyn MmioHandler>) {
        let pair = PicPair::new(IrqLine::unconnected());
        let (master, slave) = (pair.ports(false), pair.ports(true));
        for (port, base, icw3) in [(&master, 0x08, 4), (&slave, 0x70, 2)] {
            port.write(0, 1, 0x11);
            port.write(1, 1, base);
            port.write(1, 1, icw3);
            port.write(1, 1, 1);
            port.write(1, 1, 0);
        }
        (pair, master, slave)
    }

    #[test]
    fn an_edge_is_taken_once_and_nests_by_priority() {
        let (pair, master, _) = pair();
        let (irq0, irq4) = (pair.line(0), pair.line(4));
        irq4.raise();
        assert!(pair.out.level());
        assert_eq!(pair.acknowledge(), 0x0c);
        assert!(!pair.out.level(), "edge: still high is no new request");
        irq0.raise();
        assert!(pair.out.level(), "IR0 is above IR4");
        assert_eq!(pair.acknowledge(), 0x08);
        irq4.lower();
        irq4.raise();
        assert!(!pair.out.level(), "IR4 is in service");
        master.write(0, 1, 0x20);
        master.write(0, 1, 0x20);
        assert_eq!(pair.acknowledge(), 0x0c);
    }

    #[test]
    fn the_slave_comes_through_the_cascade() {
        let (pair, master, slave) = pair();
        let irq8 = pair.line(8);
        irq8.raise();
        assert_eq!(pair.acknowledge(), 0x70);
        slave.write(0, 1, 0x0b);
        assert_eq!(slave.read(0, 1), 1, "in service");
        slave.write(0, 1, 0x20);
        master.write(0, 1, 0x20);
        master.write(0, 1, 0x0b);
        assert_eq!((slave.read(0, 1), master.read(0, 1)), (0, 0));
    }

    #[test]
    fn masked_requests_wait_and_vanished_ones_are_spurious() {
        let (pair, master, _) = pair();
        let irq3 = pair.line(3);
        master.write(1, 1, 0xff);
        irq3.raise();
        assert!(!pair.out.level());
        master.write(1, 1, 0xf7);
        assert!(pair.out.level());
        irq3.lower();
        assert_eq!(pair.acknowledge(), 0x0f);
    }

    #[test]
    fn a_level_input_asks_again_after_eoi() {
        let (pair, master, slave) = pair();
        pair.elcr_ports().write(1, 1, 0xff);
        assert_eq!(pair.elcr_ports().read(1, 1), 0xde);
        let irq10 = pair.line(10);
        irq10.raise();
        assert_eq!(pair.acknowledge(), 0x72);
        slave.write(0, 1, 0x62);
        master.write(0, 1, 0x62);
        assert_eq!(pair.acknowledge(), 0x72, "still high");
        irq10.lower();
        slave.write(0, 1, 0x20);
        master.write(0, 1, 0x20);
        assert!(!pair.out.level());
    }

    #[test]
    fn saved_state_comes_back() {
        let (pair, master, _) = pair();
        pair.line(4).raise();
        master.write(1, 1, 0x10);
        let record = pair.save();
        let other = PicPair::new(IrqLine::unconnected());
        other.load(&record).unwrap();
        assert_eq!(other.save(), record);
        let mut bad = record.clone();
        bad.data[7] = 9;
        assert!(other.load(&bad).is_err());
    }
}
