//! Software interrupts of RISC-V harts: the MSWI and SSWI devices of the ACLINT.
//!
//! Source: RISC-V ACLINT specification 1.0-rc4, chapters 3 (MSWI) and 4 (SSWI). The MSWI device is also the start of a
//! SiFive CLINT.

use parking_lot::Mutex;
use rhea_device::{IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Bytes of either device's register window.
pub const SWI_SIZE: u64 = 0x4000;

/// One register msip for each hart, whose bit 0 is the level of its machine software interrupt.
pub struct Mswi {
    lines: Vec<IrqLine>,
    levels: Mutex<Vec<bool>>,
}

impl Mswi {
    /// A device that drives one line for each hart.
    pub fn new(lines: Vec<IrqLine>) -> Arc<Self> {
        let levels = Mutex::new(vec![false; lines.len()]);
        Arc::new(Self { lines, levels })
    }

    fn sync(&self, levels: &[bool]) {
        self.lines.iter().zip(levels).for_each(|(line, level)| line.set(*level));
    }
}

impl MmioHandler for Mswi {
    fn read(&self, offset: u64, _: usize) -> u64 {
        self.levels.lock().get((offset / 4) as usize).copied().unwrap_or(false).into()
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let mut levels = self.levels.lock();
        let index = (offset / 4) as usize;
        if let (Some(level), Some(line)) = (levels.get_mut(index), self.lines.get(index)) {
            *level = value & 1 != 0;
            line.set(*level);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

impl Reset for Mswi {
    fn reset(&self, _: ResetKind) {
        let mut levels = self.levels.lock();
        levels.fill(false);
        self.sync(&levels);
    }
}

rhea_device::saved_record! { "riscv-mswi", 1,
    /// Saved state of the machine software interrupts.
    pub struct MswiSavedV1 {
        /// Level for each hart.
        levels: Vec<bool>,
    }
}

impl StateUnit for Mswi {
    fn save(&self) -> SavedRecord {
        save_record(&MswiSavedV1 { levels: self.levels.lock().clone() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: MswiSavedV1 = load_record(record)?;
        let mut levels = self.levels.lock();
        if saved.levels.len() != levels.len() {
            return Err(LoadError::BadValue { device: "riscv-mswi", field: "number of harts" });
        }
        *levels = saved.levels;
        self.sync(&levels);
        Ok(())
    }
}

/// One register setssip for each hart: writing 1 gives an edge, after which the hart itself keeps its supervisor
/// software interrupt pending. The device has no state.
pub struct Sswi {
    lines: Vec<IrqLine>,
}

impl Sswi {
    /// A device that gives edges on one line for each hart.
    pub fn new(lines: Vec<IrqLine>) -> Arc<Self> {
        Arc::new(Self { lines })
    }
}

impl MmioHandler for Sswi {
    fn read(&self, _: u64, _: usize) -> u64 {
        0
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        if let Some(line) = self.lines.get((offset / 4) as usize).filter(|_| value & 1 != 0) {
            line.pulse();
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_device::IrqSink;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn msip_is_the_level_of_its_hart() {
        let lines = vec![IrqLine::unconnected(), IrqLine::unconnected()];
        let mswi = Mswi::new(lines.clone());
        mswi.write(4, 4, 0xffff_fffe);
        assert!(!lines[1].level(), "only bit 0 counts");
        mswi.write(4, 4, 1);
        assert_eq!((lines[0].level(), lines[1].level(), mswi.read(4, 4)), (false, true, 1));
        let record = mswi.save();
        mswi.reset(ResetKind::Warm);
        assert!(!lines[1].level());
        mswi.load(&record).unwrap();
        assert!(lines[1].level());
        assert!(Mswi::new(vec![]).load(&record).is_err());
        mswi.write(8, 4, 1);
        mswi.write(SWI_SIZE - 4, 4, 1);
        assert_eq!((mswi.read(8, 4), mswi.read(SWI_SIZE - 4, 4)), (0, 0));
    }

    #[derive(Default)]
    struct Edges(AtomicU32);

    impl IrqSink for Edges {
        fn set_level(&self, _: u32, level: bool) {
            self.0.fetch_add(u32::from(level), Ordering::Relaxed);
        }
    }

    #[test]
    fn setssip_gives_an_edge_each_time_and_reads_zero() {
        let edges = Arc::new(Edges::default());
        let sswi = Sswi::new(vec![IrqLine::unconnected(), IrqLine::new(edges.clone(), 0)]);
        [(4, 1), (4, 1), (4, 0), (0, 1), (8, 1)].iter().for_each(|(at, value)| sswi.write(*at, 4, *value));
        assert_eq!((edges.0.load(Ordering::Relaxed), sswi.read(4, 4)), (2, 0));
    }
}
