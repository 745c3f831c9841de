//! What one hart is connected to.

use rhea_device::{IrqLine, IrqSink};
use rhea_memory::AddressSpace;
use rhea_riscv_state::InterruptLines;
use rhea_riscv_state::platform::{HartTimer, Lines};
use rhea_timer::{MtimeAlarm, Mtimer};
use std::sync::Arc;

/// What one hart needs of the machine.
#[derive(Clone)]
pub struct VirtHart {
    /// mhartid.
    pub hart_id: u64,
    /// Physical memory as it sees it.
    pub memory: Arc<AddressSpace>,
    /// Its interrupt lines.
    pub lines: Arc<InterruptLines>,
    /// Its supervisor timer.
    pub timer: Arc<dyn HartTimer>,
}

/// mtime as one hart has it.
struct Mtime {
    mtimer: Arc<Mtimer>,
    alarm: Arc<MtimeAlarm>,
}

impl HartTimer for Mtime {
    fn time(&self) -> u64 {
        self.mtimer.mtime()
    }

    fn arm(&self, at: Option<u64>) {
        self.alarm.set(at);
    }
}

/// The supervisor timer behind `lines`.
pub(crate) fn timer(mtimer: &Arc<Mtimer>, lines: &Arc<InterruptLines>) -> Arc<dyn HartTimer> {
    let woken = lines.clone();
    let alarm = mtimer.alarm(move || woken.wake());
    Arc::new(Mtime { mtimer: mtimer.clone(), alarm })
}

/// A hart's lines as a sink whose pins are the bits of mip.
struct LineSink(Arc<InterruptLines>);

impl IrqSink for LineSink {
    fn set_level(&self, pin: u32, level: bool) {
        self.0.set(Lines::from_bits_truncate(1u64.checked_shl(pin).unwrap_or(0)), level);
    }
}

/// A line into one of the interrupts of a hart.
pub(crate) fn line(lines: &Arc<InterruptLines>, which: Lines) -> IrqLine {
    IrqLine::new(Arc::new(LineSink(lines.clone())), which.bits().trailing_zeros())
}

/// A hart's supervisor software interrupt: it takes edges.
struct EdgeSink(Arc<InterruptLines>);

impl IrqSink for EdgeSink {
    fn set_level(&self, _: u32, level: bool) {
        if level {
            self.0.post_supervisor_software();
        }
    }
}

/// A line whose edges are supervisor software interrupts of a hart.
pub(crate) fn supervisor_software(lines: &Arc<InterruptLines>) -> IrqLine {
    IrqLine::new(Arc::new(EdgeSink(lines.clone())), 0)
}
