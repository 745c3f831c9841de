//! The incoming-MSI controller: an interrupt file, which takes messages as writes to a page of memory and keeps which
//! identities are pending and enabled.
//!
//! Source: RISC-V Advanced Interrupt Architecture 1.0, chapter 3. A hart has a file for machine level and one for supervisor
//! level; it reaches their registers through its CSRs.

use parking_lot::Mutex;
use rhea_device::{
    IrqLine, LoadError, MsiSink, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Highest identity.
pub const IMSIC_IDENTITIES: u32 = 255;
/// Bytes of a file's page.
pub const IMSIC_PAGE: u64 = 0x1000;

const WORDS: usize = (IMSIC_IDENTITIES as usize + 1) / 32;

mod spec {
    /// Registers of the page.
    pub const SETEIPNUM_LE: u64 = 0;
    pub const SETEIPNUM_BE: u64 = 4;

    /// Registers by number, as indirect CSRs select them.
    pub const EIDELIVERY: u32 = 0x70;
    pub const EITHRESHOLD: u32 = 0x72;
    pub const EIP: u32 = 0x80;
    pub const EIE: u32 = 0xc0;
    pub const END: u32 = 0x100;
}

#[derive(Clone, Debug, Default)]
struct State {
    delivery: bool,
    threshold: u32,
    pending: [u32; WORDS],
    enabled: [u32; WORDS],
}

impl State {
    /// The lowest identity that is pending and enabled and below the threshold; 0 if there is none.
    fn top(&self) -> u32 {
        let words = self.pending.iter().zip(&self.enabled).map(|(pending, enabled)| pending & enabled);
        let first = (0u32..).zip(words).find(|(_, word)| *word != 0);
        let identity = first.map_or(0, |(index, word)| 32 * index + word.trailing_zeros());
        if self.threshold != 0 && identity >= self.threshold { 0 } else { identity }
    }

    fn word(&mut self, select: u32) -> Option<&mut u32> {
        match select {
            spec::EIP..spec::EIE => self.pending.get_mut((select - spec::EIP) as usize),
            spec::EIE..spec::END => self.enabled.get_mut((select - spec::EIE) as usize),
            _ => None,
        }
    }

    fn post(&mut self, identity: u32) {
        let bit = 1 << (identity % 32);
        if let Some(word) = self.pending.get_mut(identity as usize / 32).filter(|_| identity != 0) {
            *word |= bit;
        }
    }
}

/// One interrupt file.
pub struct InterruptFile {
    line: IrqLine,
    state: Mutex<State>,
}

impl InterruptFile {
    /// A file that drives an external interrupt of a hart.
    pub fn new(line: IrqLine) -> Arc<Self> {
        Arc::new(Self { line, state: Mutex::default() })
    }

    fn sync(&self, state: &State) {
        self.line.set(state.delivery && state.top() != 0);
    }

    /// A message came.
    pub fn post(&self, identity: u32) {
        let mut state = self.state.lock();
        state.post(identity);
        self.sync(&state);
    }

    /// The identity that would be claimed; 0 if there is none. It is also its priority.
    pub fn top(&self) -> u32 {
        self.state.lock().top()
    }

    /// Clears the pending bit of an identity.
    pub fn claim(&self, identity: u32) {
        let mut state = self.state.lock();
        if let Some(word) = state.pending.get_mut(identity as usize / 32) {
            *word &= !(1 << (identity % 32));
        }
        self.sync(&state);
    }

    /// Reads 32 bits of a register by its number (70h to FFh); 0 where there is none.
    pub fn read(&self, select: u32) -> u32 {
        let mut state = self.state.lock();
        match select {
            spec::EIDELIVERY => state.delivery.into(),
            spec::EITHRESHOLD => state.threshold,
            _ => state.word(select).map_or(0, |word| *word),
        }
    }

    /// Writes 32 bits of a register. Of bit maps, only the bits change in which `old`, what was read, and `new` differ: a
    /// message that comes in between is not lost.
    pub fn write(&self, select: u32, old: u32, new: u32) {
        let mut state = self.state.lock();
        match select {
            spec::EIDELIVERY => state.delivery = new == 1,
            spec::EITHRESHOLD => state.threshold = new & IMSIC_IDENTITIES,
            _ => {
                // There is no identity 0.
                let there = if select == spec::EIP || select == spec::EIE { !1 } else { u32::MAX };
                if let Some(word) = state.word(select) {
                    *word = (*word & !(old & !new) | new & !old) & there;
                }
            }
        }
        self.sync(&state);
    }
}

impl MmioHandler for InterruptFile {
    fn read(&self, _: u64, _: usize) -> u64 {
        0
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        match offset {
            spec::SETEIPNUM_LE => self.post(value as u32),
            spec::SETEIPNUM_BE => self.post((value as u32).swap_bytes()),
            _ => {}
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

impl Reset for InterruptFile {
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        *state = State::default();
        self.sync(&state);
    }
}

rhea_device::saved_record! { "imsic-file", 1,
    /// Saved state of a file.
    pub struct InterruptFileSavedV1 {
        /// eidelivery.
        delivery: bool,
        /// eithreshold.
        threshold: u32,
        /// Pending bits.
        pending: [u32; WORDS],
        /// Enable bits.
        enabled: [u32; WORDS],
    }
}

impl StateUnit for InterruptFile {
    fn save(&self) -> SavedRecord {
        let State { delivery, threshold, pending, enabled } = *self.state.lock();
        save_record(&InterruptFileSavedV1 { delivery, threshold, pending, enabled })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let InterruptFileSavedV1 { delivery, threshold, pending, enabled } = load_record(record)?;
        let zero = |map: &[u32; WORDS]| map.first().is_some_and(|word| word & 1 != 0);
        if threshold > IMSIC_IDENTITIES || zero(&pending) || zero(&enabled) {
            return Err(LoadError::BadValue { device: "imsic-file", field: "identities" });
        }
        let mut state = self.state.lock();
        *state = State { delivery, threshold, pending, enabled };
        self.sync(&state);
        Ok(())
    }
}

/// A row of files, a page each: messages from devices that name addresses are taken to them. Messages to anywhere else are
/// dropped: nothing but a file is ever reached this way.
pub struct ImsicRows {
    rows: Vec<(u64, Vec<Arc<InterruptFile>>)>,
}

impl ImsicRows {
    /// Rows by the address of their first page.
    pub fn new(rows: Vec<(u64, Vec<Arc<InterruptFile>>)>) -> Arc<Self> {
        Arc::new(Self { rows })
    }
}

impl MsiSink for ImsicRows {
    fn send(&self, address: u64, data: u32) {
        for (base, files) in &self.rows {
            let Some(offset) = address.checked_sub(*base) else { continue };
            let file = usize::try_from(offset / IMSIC_PAGE).ok().and_then(|index| files.get(index));
            if let Some(file) = file {
                MmioHandler::write(file.as_ref(), offset % IMSIC_PAGE, 4, data.into());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file() -> (Arc<InterruptFile>, IrqLine) {
        let line = IrqLine::unconnected();
        (InterruptFile::new(line.clone()), line)
    }

    #[test]
    fn a_message_is_pending_until_it_is_claimed() {
        let (file, line) = file();
        file.write(spec::EIDELIVERY, 0, 1);
        file.write(spec::EIE + 1, 0, 1 << 3 | 1 << 9);
        MmioHandler::write(file.as_ref(), 0, 4, 41);
        MmioHandler::write(file.as_ref(), 4, 4, u64::from(35u32.swap_bytes()));
        assert!(line.level());
        assert_eq!((file.top(), file.read(spec::EIP + 1)), (35, 1 << 3 | 1 << 9));
        file.write(spec::EITHRESHOLD, 0, 35);
        assert!(!line.level(), "only identities below the threshold");
        file.write(spec::EITHRESHOLD, 0, 0);
        file.claim(35);
        assert_eq!(file.top(), 41);
        file.claim(41);
        assert!(!line.level());
    }

    #[test]
    fn a_message_between_reading_and_writing_is_not_lost() {
        let (file, _) = file();
        file.post(5);
        let old = file.read(spec::EIP);
        file.post(6);
        file.write(spec::EIP, old, 0);
        assert_eq!(file.read(spec::EIP), 1 << 6);
        file.write(spec::EIP, 0, 1);
        file.post(0);
        file.post(256);
        assert_eq!(file.read(spec::EIP), 1 << 6, "no such identities");
    }

    #[test]
    fn messages_reach_files_and_nothing_else() {
        let (a, b) = (file().0, file().0);
        let rows = ImsicRows::new(vec![(0x2400_0000, vec![a.clone(), b.clone()])]);
        for (address, data) in
            [(0x2400_0000, 3), (0x2400_1000, 4), (0x2400_2000, 5), (0x2400_0008, 6), (0, 7)]
        {
            rows.send(address, data);
        }
        assert_eq!((a.read(spec::EIP), b.read(spec::EIP)), (1 << 3, 1 << 4));
    }

    proptest! {
        #[test]
        fn hostile_accesses_do_no_harm(steps in prop::collection::vec((any::<u32>(), 0u32..0x110, any::<u32>(), any::<u32>()), 1..60)) {
            let (file, line) = file();
            for (identity, select, old, new) in steps {
                file.post(identity % 300);
                file.write(select, old, new);
                file.claim(identity % 512);
                let record = file.save();
                file.load(&record).unwrap();
                prop_assert_eq!(line.level(), file.read(spec::EIDELIVERY) == 1 && file.top() != 0);
                prop_assert_eq!(file.read(spec::EIP) & 1, 0);
            }
        }
    }
}
