//! What a board drives a hart with: interrupt lines, from any thread.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;

bitflags! {
    /// Interrupts that come from outside the hart, each at its bit in mip (privileged specification, "Machine
    /// Interrupt (mip and mie) Registers").
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Lines: u64 {
        /// Machine software interrupt (CLINT, ACLINT MSWI).
        const MSIP = 1 << 3;
        /// Machine timer interrupt (CLINT, ACLINT MTIMER).
        const MTIP = 1 << 7;
        /// Supervisor external interrupt (PLIC, APLIC, IMSIC); joined with the software-written SEIP.
        const SEIP = 1 << 9;
        /// Machine external interrupt.
        const MEIP = 1 << 11;
    }
}

/// Supervisor software interrupt pending, in mip.
const SSIP: u64 = 1 << 1;

/// Called when a line of a hart rises, or something else happened that it should look at.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// The machine's real-time counter as one hart has it: the `time` CSR, and the compare register of the supervisor timer that
/// is part of the hart (Sstc).
pub trait HartTimer: Send + Sync {
    /// mtime.
    fn time(&self) -> u64;

    /// Calls the hart's [`InterruptLines::wake`] once mtime reaches `at`, in the place of what was armed before; soon, if
    /// it has. `None`: never.
    fn arm(&self, at: Option<u64>);
}

/// The interrupt lines of one hart. The board's devices set levels from any thread; the hart reads them between units.
#[derive(Default)]
pub struct InterruptLines {
    levels: AtomicU64,
    /// Edges that the hart has not taken over yet, by their bits in mip.
    edges: AtomicU64,
    wake: OnceLock<Wake>,
}

impl std::fmt::Debug for InterruptLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("InterruptLines").field(&self.levels()).finish()
    }
}

impl InterruptLines {
    /// All lines low, nobody to wake.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects the vCPU. False: there is one already, and it stays.
    pub fn connect(&self, wake: Wake) -> bool {
        self.wake.set(wake).is_ok()
    }

    /// Sets lines high or low. Whoever raises one that was low wakes the hart, after the level can be seen.
    pub fn set(&self, lines: Lines, high: bool) {
        if high {
            let before = self.levels.fetch_or(lines.bits(), Ordering::AcqRel);
            if before & lines.bits() != lines.bits() {
                self.wake();
            }
        } else {
            self.levels.fetch_and(!lines.bits(), Ordering::AcqRel);
        }
    }

    /// Gives an edge to the supervisor software interrupt (ACLINT SSWI): the hart sets its SSIP, which software clears.
    pub fn post_supervisor_software(&self) {
        self.edges.fetch_or(SSIP, Ordering::AcqRel);
        self.wake();
    }

    /// Edges that came, by their bits in mip.
    #[inline]
    pub fn edges(&self) -> u64 {
        self.edges.load(Ordering::Acquire)
    }

    /// Takes the edges over: the hart now keeps these bits of mip itself.
    #[inline]
    pub fn take_edges(&self) -> u64 {
        // Mostly there is none: reading disturbs no other processor.
        if self.edges() == 0 { 0 } else { self.edges.swap(0, Ordering::AcqRel) }
    }

    /// Wakes the hart, for instance because its timer came due.
    pub fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// The lines that are high.
    #[inline]
    pub fn levels(&self) -> Lines {
        Lines::from_bits_truncate(self.levels.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn a_rising_line_wakes_and_a_steady_or_falling_one_does_not() {
        let lines = InterruptLines::new();
        lines.set(Lines::MTIP, true);
        let woken = Arc::new(AtomicU32::new(0));
        let count = woken.clone();
        assert!(lines.connect(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })));
        assert!(!lines.connect(Box::new(|| ())));
        lines.set(Lines::MTIP, true);
        lines.set(Lines::MTIP, false);
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        lines.set(Lines::MEIP | Lines::SEIP, true);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!(lines.levels(), Lines::MEIP | Lines::SEIP);
    }

    #[test]
    fn an_edge_waits_until_it_is_taken_over() {
        let lines = InterruptLines::new();
        assert_eq!(lines.take_edges(), 0);
        lines.post_supervisor_software();
        lines.post_supervisor_software();
        assert_eq!((lines.edges(), lines.take_edges(), lines.take_edges()), (2, 2, 0));
        assert_eq!(lines.levels(), Lines::empty());
    }

    #[test]
    fn the_hart_that_was_woken_sees_the_level() {
        let lines = Arc::new(InterruptLines::new());
        let (sender, receiver) = std::sync::mpsc::channel();
        let seen = Arc::downgrade(&lines);
        lines.connect(Box::new(move || {
            let levels = seen.upgrade().map(|l| l.levels());
            sender.send(levels).unwrap();
        }));
        let board = lines.clone();
        std::thread::spawn(move || board.set(Lines::MSIP, true)).join().unwrap();
        assert_eq!(receiver.recv().unwrap(), Some(Lines::MSIP));
    }
}
