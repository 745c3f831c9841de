//! Output of `-d`: what is translated and what runs.

use crate::code::Engine;
use parking_lot::Mutex;
use rhea_ir::Unit;
use rhea_memory::{AddressSpace, Target};
use std::fmt;
use std::io::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to trace; bits of [`Trace::items`].
pub mod item {
    /// Guest code as it is translated.
    pub const IN_ASM: u32 = 1 << 0;
    /// The IR of each unit.
    pub const OP: u32 = 1 << 1;
    /// The IR after optimization (the translator optimizes while it builds, so this is the IR it compiles).
    pub const OP_OPT: u32 = 1 << 2;
    /// Emitted host code.
    pub const OUT_ASM: u32 = 1 << 3;
    /// Exceptions and interrupts.
    pub const INT: u32 = 1 << 4;
    /// Registers before each unit.
    pub const CPU: u32 = 1 << 5;
    /// Each unit as it runs.
    pub const EXEC: u32 = 1 << 6;
    /// Use of what is not implemented.
    pub const UNIMP: u32 = 1 << 7;
    /// What the guest does wrong.
    pub const GUEST_ERRORS: u32 = 1 << 8;
    /// Page-table walks.
    pub const MMU: u32 = 1 << 9;
}

/// Disassembles host code: its address, the guest's mode word, bytes to text lines.
pub type Disassembler = dyn Fn(u64, u64, &[u8]) -> String + Send + Sync;

/// Reports on the guest's doings that are printed in a second: a guest may make as many as it likes.
const REPORTS_A_SECOND: u32 = 1000;

/// Keeps [`Trace::report`] from printing without bound.
#[derive(Debug, Default)]
pub struct ReportLimit(Mutex<Reports>);

#[derive(Debug, Default)]
struct Reports {
    /// When the current second began.
    since: Option<Instant>,
    printed: u32,
    left_out: u64,
}

impl ReportLimit {
    /// Whether a report at `now` is printed, and how many were left out before it that nobody has been told of.
    fn admit(&self, now: Instant) -> (bool, u64) {
        let mut r = self.0.lock();
        if r.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            r.since = Some(now);
            r.printed = 0;
        }
        if r.printed >= REPORTS_A_SECOND {
            r.left_out += 1;
            return (false, 0);
        }
        r.printed += 1;
        (true, std::mem::take(&mut r.left_out))
    }
}

/// A trace: what, where to, and for which code.
#[derive(Clone, Default)]
pub struct Trace {
    /// Bits of [`item`].
    pub items: u32,
    /// Virtual addresses of code of interest; empty for all.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// Where it goes.
    pub sink: Option<Arc<Mutex<Box<dyn Write + Send>>>>,
    /// Host disassembly for `out_asm`; bytes are printed in hexadecimal without it.
    pub host_disassembler: Option<Arc<Disassembler>>,
    /// How many reports were printed lately.
    pub report_limit: Arc<ReportLimit>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:#x}, {:?})", self.items, self.ranges)
    }
}

impl Trace {
    /// Whether any of `items` is traced.
    pub fn has(&self, items: u32) -> bool {
        self.items & items != 0
    }

    /// Whether code at virtual address `vaddr` is of interest.
    pub fn covers(&self, vaddr: u64) -> bool {
        self.ranges.is_empty() || self.ranges.iter().any(|r| r.contains(&vaddr))
    }

    /// Units must not be chained, so that each is seen.
    pub fn needs_each_unit(&self) -> bool {
        self.has(item::EXEC | item::CPU)
    }

    /// Writes a line (the text brings its own line ends). A sink that cannot be written to is ignored.
    pub fn print(&self, text: &str) {
        if let Some(sink) = &self.sink {
            let _ = sink.lock().write_all(text.as_bytes());
        }
    }

    /// Writes a line about what the guest does (`unimp`, `guest_errors`), unless there were too many in this second.
    pub fn report(&self, text: &str) {
        let (printed, left_out) = self.report_limit.admit(Instant::now());
        if left_out > 0 {
            self.print(&format!("({left_out} reports left out)\n"));
        }
        if printed {
            self.print(text);
        }
    }

    /// An access to `addr` of `space`, which is a `what` ("memory", "port"): prints that nothing answers there (`unimp`),
    /// or that it writes memory that takes no writes (`guest_errors`).
    #[cold]
    pub(crate) fn access(
        &self,
        vcpu: u32,
        what: &str,
        space: &AddressSpace,
        addr: u64,
        size: u32,
        written: Option<u64>,
    ) {
        let action = match written {
            Some(value) => format!("write of {value:#x} ({size} bytes) to {what} {addr:#x}"),
            None => format!("read of {size} bytes from {what} {addr:#x}"),
        };
        match space.view().lookup(addr).map(|range| &range.target) {
            None if self.has(item::UNIMP) => {
                self.report(&format!("CPU {vcpu}: unimplemented: {action}: nothing answers there\n"));
            }
            Some(Target::Ram { writable: false, on_write: None, .. })
                if written.is_some() && self.has(item::GUEST_ERRORS) =>
            {
                self.report(&format!("CPU {vcpu}: guest error: {action}, which is read-only\n"));
            }
            _ => {}
        }
    }

    /// Whether translations are traced at all.
    pub(crate) fn traces_units(&self) -> bool {
        self.has(item::IN_ASM | item::OP | item::OP_OPT | item::OUT_ASM)
    }

    /// A unit was translated from `guest_code` into `code` (nothing if it is interpreted).
    pub(crate) fn unit(&self, engine: &Engine, unit: &Unit, mode: u64, guest_code: &[u8], code: &[u8]) {
        let vaddr = engine.guest().fetch_address(unit.pc, mode);
        if !self.covers(vaddr) {
            return;
        }
        if self.has(item::IN_ASM) {
            let text = engine.guest().disassemble(unit.pc, mode, guest_code);
            self.print(&format!("----------------\nIN: {vaddr:#x}\n{text}\n"));
        }
        if self.has(item::OP | item::OP_OPT) {
            self.print(&format!("OP: {vaddr:#x}\n{}\n", rhea_ir::text::print(unit, engine.helpers())));
        }
        if self.has(item::OUT_ASM) && !code.is_empty() {
            let text = match &self.host_disassembler {
                Some(d) => d(code.as_ptr() as u64, mode, code),
                None => code.iter().map(|b| format!("{b:02x}")).collect::<String>(),
            };
            self.print(&format!("OUT: {vaddr:#x} [{} bytes]\n{text}\n", code.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_bounded_in_each_second_and_the_rest_is_counted() {
        let (limit, start) = (ReportLimit::default(), Instant::now());
        let admitted = (0..5000).filter(|_| limit.admit(start).0).count();
        assert_eq!(admitted, REPORTS_A_SECOND as usize);
        assert_eq!(limit.admit(start + Duration::from_secs(1)), (true, 4000));
        assert_eq!(limit.admit(start + Duration::from_secs(1)), (true, 0));
    }
}
