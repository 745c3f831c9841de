//! Interrupt lines: a device owns a line object and never knows what number the other end gives it.
//!
//! A line carries a level. Setting the level it has already is free. A device sets its lines while it holds its
//! own lock, so that levels arrive in the order the device meant; the sink's lock comes after the device's.

use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The receiving end of interrupt lines: an interrupt controller's pins.
pub trait IrqSink: Send + Sync {
    /// The level of input `pin` changed.
    fn set_level(&self, pin: u32, level: bool);
}

/// Takes message-signalled interrupts.
pub trait MsiSink: Send + Sync {
    /// A 32-bit write of `data` to `address`, as a device's MSI capability was programmed.
    fn send(&self, address: u64, data: u32);
}

enum Ends {
    None,
    One(Arc<dyn IrqSink>, u32),
    Many(Vec<IrqLine>),
}

struct Inner {
    level: AtomicBool,
    ends: Ends,
}

/// One interrupt line as the device that drives it holds it. Clones drive the same line.
#[derive(Clone)]
pub struct IrqLine(Arc<Inner>);

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IrqLine({})", if self.level() { "high" } else { "low" })
    }
}

impl IrqLine {
    fn with(ends: Ends) -> Self {
        Self(Arc::new(Inner { level: AtomicBool::new(false), ends }))
    }

    /// A line into input `pin` of `sink`, low at first.
    pub fn new(sink: Arc<dyn IrqSink>, pin: u32) -> Self {
        Self::with(Ends::One(sink, pin))
    }

    /// A line that ends nowhere.
    pub fn unconnected() -> Self {
        Self::with(Ends::None)
    }

    /// A line that drives all of `lines`.
    pub fn fan_out(lines: Vec<IrqLine>) -> Self {
        Self::with(Ends::Many(lines))
    }

    /// Drives the line high or low.
    pub fn set(&self, level: bool) {
        if self.0.level.swap(level, Ordering::AcqRel) == level {
            return;
        }
        match &self.0.ends {
            Ends::None => {}
            Ends::One(sink, pin) => sink.set_level(*pin, level),
            Ends::Many(lines) => lines.iter().for_each(|line| line.set(level)),
        }
    }

    /// Drives the line high.
    pub fn raise(&self) {
        self.set(true);
    }

    /// Drives the line low.
    pub fn lower(&self) {
        self.set(false);
    }

    /// High, then low: one edge.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// The level last driven.
    pub fn level(&self) -> bool {
        self.0.level.load(Ordering::Acquire)
    }
}

/// Several drivers on one line (wired-OR): the line is high while any driver is.
pub struct SharedLine {
    /// Levels of the drivers, one bit each, and how many there are.
    state: Mutex<(u64, u32)>,
    out: IrqLine,
}

impl SharedLine {
    /// A line that drives `out`, with no driver yet.
    pub fn new(out: IrqLine) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((0, 0)), out })
    }

    /// Adds a driver.
    ///
    /// # Panics
    /// With more than 64 drivers: boards are built by us, not by guests.
    pub fn input(self: &Arc<Self>) -> IrqLine {
        let mut state = self.state.lock();
        let pin = state.1;
        assert!(pin < 64, "more than 64 drivers on a shared line");
        state.1 += 1;
        IrqLine::new(self.clone(), pin)
    }
}

impl IrqSink for SharedLine {
    fn set_level(&self, pin: u32, level: bool) {
        let mut state = self.state.lock();
        let bit = 1u64 << (pin & 63);
        state.0 = if level { state.0 | bit } else { state.0 & !bit };
        // Under the lock, so that two drivers' changes reach the line in the order they were combined.
        self.out.set(state.0 != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool)>>);

    impl IrqSink for Log {
        fn set_level(&self, pin: u32, level: bool) {
            self.0.lock().push((pin, level));
        }
    }

    #[test]
    fn only_changes_reach_the_sink() {
        let log = Arc::new(Log::default());
        let line = IrqLine::new(log.clone(), 3);
        line.set(false);
        line.raise();
        line.raise();
        line.lower();
        assert_eq!(log.0.lock()[..], [(3, true), (3, false)]);
    }

    #[test]
    fn a_shared_line_is_high_while_any_driver_is() {
        let log = Arc::new(Log::default());
        let shared = SharedLine::new(IrqLine::new(log.clone(), 0));
        let lines = [shared.input(), shared.input()];
        lines[0].raise();
        lines[1].raise();
        lines[0].lower();
        assert_eq!(log.0.lock()[..], [(0, true)]);
        lines[1].lower();
        assert_eq!(log.0.lock()[..], [(0, true), (0, false)]);
    }

    #[test]
    fn fan_out_drives_every_end() {
        let log = Arc::new(Log::default());
        let line = IrqLine::fan_out(vec![IrqLine::new(log.clone(), 1), IrqLine::new(log.clone(), 2)]);
        line.pulse();
        assert_eq!(log.0.lock()[..], [(1, true), (2, true), (1, false), (2, false)]);
    }
}
