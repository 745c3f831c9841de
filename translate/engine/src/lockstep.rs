//! Each compiled unit against the interpreter (`lockstep=on`).
//!
//! The unit runs in the interpreter first, on a copy of the register state, with its stores kept aside and its loads
//! noted; then its compiled code runs for real, and state, stored memory and sticky floating-point flags are compared.
//! A unit that touches anything but RAM, writes to a page with code, or calls a helper with effects, runs only once,
//! compiled: a device must not see an access twice.
//!
//! # Why the interpreter's run leaves no trace
//! It writes to the copy and to the buffer only. Page walks do happen: they may set accessed and dirty bits and fill
//! the TLB, which the compiled code is about to do in the same order. A fault it meets is recorded in the guest's own
//! data, and is recorded again, the same, by the compiled code.
//!
//! # What may differ without a defect
//! Memory that a device or another thread writes at the same time. If a mismatch is found and a location that the unit
//! loaded has another value than the interpreter saw, the unit is not held against the compiler.

use crate::code::Engine;
use crate::context::VcpuContext;
use crate::env::PAGE;
use crate::guest::{Access, Leave};
use crate::host_access::host_load;
use crate::interpret::Interpreted;
use rhea_interpreter::{FloatUnit, Machine, Outcome};
use rhea_ir::{Exit, MemFlags, SlotAccess};
use rhea_softfloat::{Env as SoftEnv, Flags};
use std::fmt::Write;

/// Why the interpreter's run ended early.
enum Halt {
    /// The unit faults.
    Leave(Leave),
    /// The unit cannot be run twice.
    Once,
}

impl From<Leave> for Halt {
    fn from(leave: Leave) -> Self {
        Halt::Leave(leave)
    }
}

/// What the interpreter says the unit does.
#[derive(Default)]
struct Expected {
    /// Reason for leaving to the guest, if it does.
    leave: Option<u32>,
    state: Vec<u8>,
    /// Bytes stored, by host address, the newest last.
    stores: Vec<(usize, u8)>,
    /// Bytes loaded that the unit had not stored itself, by host address.
    loads: Vec<(usize, u8)>,
    /// Sticky flags raised: vector and x87.
    flags: [u32; 2],
}

impl Expected {
    /// What the unit has stored at a host address.
    fn stored(&self, host: usize) -> Option<u8> {
        self.stores.iter().rev().find(|&&(at, _)| at == host).map(|&(_, byte)| byte)
    }
}

/// The copy of a vCPU that the interpreter works on.
struct Shadow<'a> {
    cx: &'a mut VcpuContext,
    expected: Expected,
}

impl Shadow<'_> {
    /// Host addresses of the `len` bytes at `vaddr`, which may cross into another page.
    fn bytes(
        &mut self,
        vaddr: u64,
        len: u64,
        access: Access,
        index: u8,
    ) -> Result<[(usize, usize); 2], Halt> {
        let first = (PAGE - vaddr % PAGE).min(len);
        let mut parts = [(0, 0); 2];
        for (part, (at, len)) in
            parts.iter_mut().zip([(vaddr, first), (vaddr.wrapping_add(first), len - first)])
        {
            if len == 0 {
                continue;
            }
            let page = self.cx.page(at, access, index)?;
            if page.host == 0 || access == Access::Write && (!page.is_writable_ram() || page.has_code()) {
                return Err(Halt::Once);
            }
            *part = (page.host + (at % PAGE) as usize, len as usize);
        }
        Ok(parts)
    }

    fn read(&mut self, parts: [(usize, usize); 2], out: &mut [u8]) {
        let places = parts.into_iter().flat_map(|(host, len)| host..host + len);
        for (to, host) in out.iter_mut().zip(places) {
            *to = match self.expected.stored(host) {
                Some(stored) => stored,
                None => {
                    let byte = host_load(host, 1) as u8;
                    self.expected.loads.push((host, byte));
                    byte
                }
            };
        }
    }

    fn write(&mut self, parts: [(usize, usize); 2], bytes: &[u8]) {
        let places = parts.into_iter().flat_map(|(host, len)| host..host + len);
        self.expected.stores.extend(places.zip(bytes.iter().copied()));
    }
}

impl Machine for Shadow<'_> {
    type Stop = Halt;

    fn state(&mut self) -> &mut [u8] {
        &mut self.expected.state
    }

    fn set_pc(&mut self, pc: u64) {
        put_pc(self.cx, &mut self.expected.state, pc);
    }

    fn load(&mut self, address: u64, flags: MemFlags, buffer: &mut [u8]) -> Result<(), Halt> {
        let write = flags.has(MemFlags::FOR_WRITE);
        let access = if write { Access::Write } else { Access::Read };
        let len = buffer.len() as u64;
        self.cx.check_alignment(address, len as u32, flags, access)?;
        if write {
            self.bytes(address, len, Access::Write, flags.index())?;
        }
        let parts = self.bytes(address, len, Access::Read, flags.index())?;
        self.read(parts, buffer);
        Ok(())
    }

    fn store(&mut self, address: u64, flags: MemFlags, bytes: &[u8]) -> Result<(), Halt> {
        self.cx.check_alignment(address, bytes.len() as u32, flags, Access::Write)?;
        let parts = self.bytes(address, bytes.len() as u64, Access::Write, flags.index())?;
        self.write(parts, bytes);
        Ok(())
    }

    fn atomic_update(
        &mut self,
        address: u64,
        size: u32,
        flags: MemFlags,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Halt> {
        self.cx.check_alignment(address, size, flags, Access::Write)?;
        if !address.is_multiple_of(u64::from(size)) {
            // Compiled code leaves, for the instruction to be executed alone.
            return Err(Halt::Once);
        }
        let parts = self.bytes(address, u64::from(size), Access::Write, flags.index())?;
        let mut bytes = [0; 8];
        self.read(parts, &mut bytes[..size as usize]);
        let old = u64::from_le_bytes(bytes);
        if let Some(new) = update(old) {
            self.write(parts, &new.to_le_bytes()[..size as usize]);
        }
        Ok(old)
    }

    fn fence(&mut self) {}

    fn call(&mut self, id: u32, a: [u64; 4]) -> Result<u64, Halt> {
        let helper = self.cx.guest.helpers()[id as usize];
        if !helper.info.pure || helper.info.writes != SlotAccess::None {
            return Err(Halt::Once);
        }
        if helper.info.reads == SlotAccess::None {
            return Ok((helper.function)(self.cx, a[0], a[1], a[2], a[3]));
        }
        // It reads the state: for its time the copy stands where the state is.
        self.cx.state_bytes().swap_with_slice(&mut self.expected.state);
        let result = (helper.function)(self.cx, a[0], a[1], a[2], a[3]);
        self.cx.state_bytes().swap_with_slice(&mut self.expected.state);
        Ok(result)
    }

    fn float_environment(&mut self, unit: FloatUnit) -> SoftEnv {
        self.cx.soft_environment(unit)
    }

    fn raise(&mut self, unit: FloatUnit, flags: Flags) {
        let which = match unit {
            FloatUnit::Vector => 0,
            FloatUnit::X87 => 1,
        };
        self.expected.flags[which] |= u32::from(flags.bits());
    }
}

fn put_pc(cx: &VcpuContext, state: &mut [u8], pc: u64) {
    let slot = cx.guest.layout().pc;
    let (at, size) = (slot.offset as usize, slot.ty.bytes() as usize);
    state[at..at + size].copy_from_slice(&pc.to_le_bytes()[..size]);
}

/// What is needed to tell whether compiled code did what the interpreter did. Reused from unit to unit.
#[derive(Default)]
pub(crate) struct Prediction {
    expected: Expected,
    /// State before the unit.
    start: Vec<u8>,
    /// Sticky flags before the unit.
    flags: [u32; 2],
}

impl VcpuContext {
    /// Runs `unit` in the interpreter on the side. `None` if it can only be run once.
    pub(crate) fn predict(&mut self, unit: &Interpreted) -> Option<Box<Prediction>> {
        let Prediction { mut expected, mut start, .. } = *std::mem::take(&mut self.prediction);
        start.clear();
        start.extend_from_slice(self.state_bytes());
        expected.state.clone_from(&start);
        expected.leave = None;
        expected.stores.clear();
        expected.loads.clear();
        expected.flags = [0; 2];
        let engine = self.engine.clone();
        let mut interpreter = std::mem::take(&mut self.interpreter);
        let mut shadow = Shadow { cx: self, expected };
        let outcome = interpreter.run(&unit.unit, engine.helpers(), &mut shadow);
        let mut expected = shadow.expected;
        self.interpreter = interpreter;
        match outcome {
            Outcome::Exit { number, pc } => {
                if let Exit::Leave { reason, .. } = unit.unit.exits[number as usize] {
                    expected.leave = Some(reason);
                }
                if let Some(pc) = pc {
                    put_pc(self, &mut expected.state, pc);
                }
            }
            Outcome::Stop { stop: Halt::Leave(Leave(reason)), .. } => expected.leave = Some(reason),
            Outcome::Stop { stop: Halt::Once, .. } => {
                *self.prediction = Prediction { expected, start, flags: [0; 2] };
                return None;
            }
        }
        let flags = [self.env.float.take_flags(), self.env.float.take_x87_flags()];
        let mut prediction = std::mem::take(&mut self.prediction);
        *prediction = Prediction { expected, start, flags };
        Some(prediction)
    }

    /// Compares what the compiled `unit` has done (if it `ran`), before its leave reason is looked at.
    ///
    /// # Errors
    /// Everything about the difference as text.
    pub(crate) fn compare(
        &mut self,
        unit: &Interpreted,
        mode: u64,
        prediction: &Prediction,
        ran: bool,
    ) -> Result<(), String> {
        let raised = [self.env.float.take_flags(), self.env.float.take_x87_flags()];
        self.env.float.raise(prediction.flags[0] | raised[0]);
        self.env.float.raise_x87(prediction.flags[1] | raised[1]);
        if !ran {
            return Ok(());
        }
        let expected = &prediction.expected;
        let leave = self.leave_requested();
        let mut text = String::new();
        // Writing to a String cannot fail.
        if leave != expected.leave {
            let _ = writeln!(text, "  leaves with {:?} / {leave:?}", expected.leave);
        }
        for (name, i) in [("vector", 0), ("x87", 1)] {
            if raised[i] != expected.flags[i] {
                let _ = writeln!(
                    text,
                    "  {name} floating-point flags {:#x} / {:#x}",
                    expected.flags[i], raised[i]
                );
            }
        }
        let state = self.state_bytes();
        let same = state == expected.state;
        for (i, (e, s)) in expected.state.chunks(8).zip(state.chunks(8)).enumerate() {
            if same {
                break;
            }
            if e != s {
                let _ = writeln!(text, "  state+{:#x}: {} / {}", 8 * i, hex(e), hex(s));
            }
        }
        for &(host, byte) in &expected.stores {
            if expected.stored(host) != Some(byte) {
                continue;
            }
            let now = host_load(host, 1) as u8;
            if now != byte {
                let _ = writeln!(text, "  memory at host {host:#x}: {byte:02x} / {now:02x}");
            }
        }
        let raced =
            |&(host, seen): &(usize, u8)| expected.stored(host).is_none() && host_load(host, 1) as u8 != seen;
        if text.is_empty() || expected.loads.iter().any(raced) {
            return Ok(());
        }
        Err(self.divergence(unit, mode, prediction, &text))
    }

    fn divergence(
        &mut self,
        unit: &Interpreted,
        mode: u64,
        prediction: &Prediction,
        differences: &str,
    ) -> String {
        let guest = self.guest;
        let engine = self.engine.clone();
        let first = (unit.unit.len as usize).min(PAGE as usize - unit.host % PAGE as usize);
        let mut code: Vec<u8> = (unit.host..unit.host + first).map(|h| host_load(h, 1) as u8).collect();
        if unit.page2 != 0 {
            let rest = unit.unit.len as usize - first;
            code.extend((unit.page2..unit.page2 + rest).map(|h| host_load(h, 1) as u8));
        }
        let mut text = format!(
            "lockstep: the unit at {:#x} (mode {mode:#x}) differs, interpreter / compiled code:\n{differences}",
            unit.unit.pc
        );
        let _ = write!(text, "guest code:\n{}", guest.disassemble(unit.unit.pc, mode, &code));
        let _ = write!(text, "IR:\n{}", rhea_ir::text::print(&unit.unit, engine.helpers()));
        let compiled = self.state_bytes().to_vec();
        for (name, state) in [
            ("before", &prediction.start),
            ("after, interpreter", &prediction.expected.state),
            ("after, compiled", &compiled),
        ] {
            self.state_bytes().copy_from_slice(state);
            let _ = write!(text, "{name}:\n{}", guest.dump(self));
        }
        text
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|b| format!("{b:02x}")).collect()
}

impl Engine {
    /// Says what differed and ends the process: nothing that the guest does from here on means anything.
    pub(crate) fn diverged(&self, text: &str) -> ! {
        eprint!("{text}");
        self.config().trace.print(text);
        std::process::exit(1)
    }
}
