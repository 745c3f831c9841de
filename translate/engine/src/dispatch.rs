//! The loop of one vCPU: find a unit, run it, see why it returned.

use crate::code::{Found, Interpreted, Tier};
use crate::context::{REASON_RESTART, VcpuContext};
use crate::guest::{Access, Leave, Next};
use crate::interpret::{Cached, Ended, update_for};
use crate::trace::item;
use crate::vcpu::request;
use rhea_backend_x64::ReturnKind;
use rhea_backend_x64::layout::descriptor::{self, Kind};
use rhea_ir::{MemFlags, Type};
use std::sync::atomic::Ordering;

/// Leave reason of the engine's own: the instruction needs all other vCPUs out of the way.
pub const REASON_EXCLUSIVE: u32 = 0x7fff_fff1;

/// Why [`VcpuContext::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// [`request::STOP`].
    Requested,
}

/// What runs next.
enum Turn {
    /// Whatever the PC says.
    Normal,
    /// A jump that may be linked once its target is known.
    Link(u32),
    /// One instruction alone.
    One,
    /// One instruction with no other vCPU running.
    Exclusive,
}

impl VcpuContext {
    /// Runs until asked to stop. The calling thread is the vCPU's.
    pub fn run(&mut self) -> Stop {
        let engine = self.engine.clone();
        let shared = self.env.shared.clone();
        engine.enter_running(&shared);
        self.env.float.load();
        let mut turn = Turn::Normal;
        let stop = loop {
            if shared.memory.frame().poll.load(Ordering::Relaxed) != 0
                && let Some(stop) = self.poll(&mut turn)
            {
                break stop;
            }
            turn = self.step(turn);
        };
        self.env.float.unload();
        engine.leave_running(&shared);
        stop
    }

    /// Sees to requests and events.
    fn poll(&mut self, turn: &mut Turn) -> Option<Stop> {
        let shared = self.env.shared.clone();
        shared.memory.frame().poll.store(0, Ordering::SeqCst);
        if shared.pending() & request::FLUSH_TLB != 0 && shared.wants_flush() {
            self.env.flush_tlb_all();
        }
        if shared.pending() & request::STOP != 0 {
            shared.withdraw(request::STOP);
            return Some(Stop::Requested);
        }
        if shared.pending() & request::PARK != 0 {
            self.park();
            *turn = Turn::Normal;
        }
        if matches!(turn, Turn::Normal | Turn::Link(_)) {
            *turn = self.events(std::mem::replace(turn, Turn::Normal));
        }
        None
    }

    fn park(&mut self) {
        let engine = self.engine.clone();
        let shared = self.env.shared.clone();
        self.env.float.unload();
        engine.leave_running(&shared);
        engine.enter_running(&shared);
        self.env.float.load();
    }

    /// Lets the guest take events that wait.
    fn events(&mut self, turn: Turn) -> Turn {
        let guest = self.guest;
        if !guest.has_events(self) {
            return turn;
        }
        match guest.poll_events(self) {
            // The PC may have changed, so a link in the making is off.
            Next::Run => Turn::Normal,
            next => self.after(next),
        }
    }

    fn after(&mut self, next: Next) -> Turn {
        match next {
            Next::Run => self.events(Turn::Normal),
            Next::RunOne => Turn::One,
            Next::Wait => {
                self.wait();
                Turn::Normal
            }
        }
    }

    /// Sleeps until something happens to this vCPU.
    fn wait(&mut self) {
        let engine = self.engine.clone();
        let shared = self.env.shared.clone();
        let guest = self.guest;
        let frame = shared.memory.clone();
        self.env.float.unload();
        engine.leave_running(&shared);
        loop {
            if frame.frame().poll.load(Ordering::SeqCst) != 0 && shared.pending() != 0
                || guest.has_events(self)
            {
                break;
            }
            shared.sleep();
        }
        engine.enter_running(&shared);
        self.env.float.load();
        // Events are looked at by the poll that follows.
        frame.frame().poll.store(1, Ordering::SeqCst);
    }

    /// Runs one unit (or a chain of them).
    fn step(&mut self, turn: Turn) -> Turn {
        let guest = self.guest;
        self.stats.dispatches += 1;
        let pc = guest.pc(self);
        let mode = guest.mode(self);
        self.env.set_mode(mode);
        let trace = &self.engine.config().trace;
        if trace.items != 0 && trace.has(item::EXEC | item::CPU) && trace.covers(pc) {
            self.trace_unit(pc, mode);
        }
        let result = match turn {
            Turn::Normal => self.run_normal(pc, mode, None),
            Turn::Link(exit) => self.run_normal(pc, mode, Some(exit)),
            Turn::One => self.run_one(pc, mode),
            Turn::Exclusive => {
                let engine = self.engine.clone();
                let shared = self.env.shared.clone();
                engine.exclusive(&shared, || {
                    self.one_insn = true;
                    let r = self.run_one(pc, mode);
                    self.one_insn = false;
                    r
                })
            }
        };
        match result {
            Ok(turn) => turn,
            Err(Leave(reason)) => self.after_leave(reason),
        }
    }

    /// The registers as text.
    pub fn dump(&mut self) -> String {
        let guest = self.guest;
        guest.dump(self)
    }

    fn trace_unit(&mut self, pc: u64, mode: u64) {
        let trace = self.engine.config().trace.clone();
        if trace.has(item::EXEC) {
            trace.print(&format!("Trace {}: {pc:#x} mode {mode:#x}\n", self.env.index()));
        }
        if trace.has(item::CPU) {
            let guest = self.guest;
            let text = guest.dump(self);
            trace.print(&text);
        }
    }

    fn after_leave(&mut self, reason: u32) -> Turn {
        match reason {
            REASON_RESTART => Turn::One,
            REASON_EXCLUSIVE => Turn::Exclusive,
            _ => {
                let guest = self.guest;
                let next = guest.handle_leave(self, reason);
                self.after(next)
            }
        }
    }

    fn run_one(&mut self, pc: u64, mode: u64) -> Result<Turn, Leave> {
        let guest = self.guest;
        let engine = self.engine.clone();
        let page = self.page(guest.fetch_address(pc, mode), Access::Fetch, guest.fetch_index(mode))?;
        let unit = engine.translate_once(self, pc, mode, 1, &page)?;
        Ok(self.run_interpreted(&unit))
    }

    fn run_interpreted(&mut self, unit: &Interpreted) -> Turn {
        match self.interpret(unit) {
            Ended::Next => Turn::Normal,
            Ended::Leave(reason) => self.after_leave(reason),
        }
    }

    fn run_normal(&mut self, pc: u64, mode: u64, link: Option<u32>) -> Result<Turn, Leave> {
        if self.engine.config().tier == Tier::Interpreter {
            return self.run_cached_interpreted(pc, mode);
        }
        if link.is_none()
            && let Some(code) = self.env.cached_code(pc)
        {
            return Ok(self.enter(code));
        }
        let engine = self.engine.clone();
        self.stats.lookups += 1;
        let (found, page) = engine.find_or_translate(self, pc, mode)?;
        match found {
            Found::Code { address, unit, cacheable, epoch } => {
                if cacheable {
                    self.env.cache_code(pc, address, crate::env::Env::is_global(&page));
                }
                if let Some(exit) = link {
                    engine.link(exit, unit, epoch);
                }
                Ok(self.enter(address))
            }
            Found::Interpret(unit) => Ok(self.run_interpreted(&unit)),
        }
    }

    fn run_cached_interpreted(&mut self, pc: u64, mode: u64) -> Result<Turn, Leave> {
        let bits = crate::frame::JUMP_CACHE_BITS;
        let index = rhea_backend_x64::jump_cache_index(pc, bits as u8);
        let key = pc ^ self.env.lookup_key();
        if self.interpreted.is_empty() {
            self.interpreted.resize_with(1 << bits, || None);
        }
        if let Some(c) = &self.interpreted[index]
            && c.key == key
            && self.env.cached_code(pc) == Some(1)
            && c.unit.valid.load(Ordering::Acquire)
        {
            let unit = c.unit.clone();
            return Ok(self.run_interpreted(&unit));
        }
        let engine = self.engine.clone();
        self.stats.lookups += 1;
        let (found, page) = engine.find_or_translate(self, pc, mode)?;
        let Found::Interpret(unit) = found else { return Ok(Turn::Normal) };
        if unit.host % 4096 + unit.unit.len as usize <= 4096 {
            // The jump cache entry is what TLB flushes drop; its code is never jumped to in this tier.
            self.env.cache_code(pc, 1, crate::env::Env::is_global(&page));
            self.interpreted[index] = Some(Cached { key, unit: unit.clone() });
        }
        Ok(self.run_interpreted(&unit))
    }

    /// Enters translated code.
    fn enter(&mut self, code: u64) -> Turn {
        let enter = self.engine.enter_address();
        let state = self.env.memory_block.state_ptr() as u64;
        // SAFETY: `enter` is the thunk that the back end emitted for this signature; `code` is the entry of a unit
        // that stands (found under the lock or in this vCPU's jump cache; emptying segments waits until this vCPU is
        // outside translated code). Translated code works on the frame behind `state` and on guest RAM by TLB
        // entries, and calls back with the context pointer stored in the frame, which is `self`: no reference to
        // self or the frame is held across the call.
        let returned = unsafe {
            let enter: extern "sysv64" fn(u64, u64) -> u64 = std::mem::transmute(enter as usize);
            enter(code, state)
        };
        match ReturnKind::decode(returned) {
            (ReturnKind::Leave, _) => match self.take_leave() {
                Some(reason) => self.after_leave(reason),
                None => Turn::Normal,
            },
            (ReturnKind::Poll, _) => {
                self.stats.polls += 1;
                Turn::Normal
            }
            (ReturnKind::Lookup, _) => {
                self.stats.jump_misses += 1;
                Turn::Normal
            }
            (ReturnKind::Chain, exit) => {
                self.stats.chains += 1;
                Turn::Link(exit)
            }
        }
    }

    /// A memory access that the inline TLB probe did not satisfy.
    fn slow_access(&mut self, return_address: u64) -> Result<(), Leave> {
        self.stats.slow_accesses += 1;
        let frame = self.env.frame_mut();
        // SAFETY: the frame is this vCPU's; translated code waits in the memory thunk.
        let (addr, desc, value, value2) =
            unsafe { ((*frame).mem_addr, (*frame).mem_desc as u32, (*frame).mem_value, (*frame).mem_value2) };
        let Some((flags, ty, kind, rmw)) = descriptor::decode(desc) else {
            unreachable!("descriptor {desc:#x} was not made by the back end")
        };
        let size = ty.bytes();
        let index = flags.index();
        let write = kind != Kind::Load || flags.has(MemFlags::FOR_WRITE);
        self.check_alignment(addr, size, flags, if write { Access::Write } else { Access::Read })?;
        if write && kind != Kind::Load {
            self.check_self_modification(addr, u64::from(size), index, return_address, None)?;
        }
        match kind {
            Kind::Load => {
                let mut out = [0u8; 32];
                let n = size as usize;
                if write {
                    self.load_for_write(addr, &mut out[..n], index)?;
                } else if n <= 8 {
                    let v = self.load(addr, size, index)?;
                    out[..8].copy_from_slice(&v.to_le_bytes());
                } else {
                    self.load_bytes(addr, &mut out[..n], index)?;
                }
                let mut words = [0u64; 4];
                for (w, c) in words.iter_mut().zip(out.chunks_exact(8)) {
                    *w = u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]);
                }
                self.set_value(words);
            }
            Kind::Store if size <= 8 => self.store(addr, size, value[0], index)?,
            Kind::Store => {
                let mut bytes = [0u8; 32];
                for (c, w) in bytes.chunks_exact_mut(8).zip(value) {
                    c.copy_from_slice(&w.to_le_bytes());
                }
                self.store_bytes(addr, &bytes[..size as usize], index)?;
            }
            Kind::Rmw | Kind::Cas => {
                debug_assert!(matches!(ty, Type::I8 | Type::I16 | Type::I32 | Type::I64));
                let swap = |v: u64| if flags.has(MemFlags::BIG_ENDIAN) { swap_bytes(v, size) } else { v };
                let mut update = update_for(kind == Kind::Cas, rmw, ty, value[0], value2);
                let old = self.atomic_update(addr, size, index, &mut |old| update(swap(old)).map(swap))?;
                self.set_value([swap(old), 0, 0, 0]);
            }
        }
        Ok(())
    }

    fn set_value(&mut self, words: [u64; 4]) {
        let frame = self.env.frame_mut();
        // SAFETY: as in `slow_access`.
        unsafe { (*frame).mem_value = words };
    }
}

fn swap_bytes(v: u64, size: u32) -> u64 {
    v.swap_bytes() >> (64 - 8 * size)
}

/// Called by translated code for an access its inline TLB probe did not satisfy; zero when done.
pub(crate) extern "sysv64" fn memory_function(context: *mut VcpuContext, return_address: u64) -> u32 {
    // SAFETY: the frame's `context` field is the address of the boxed VcpuContext whose thread this is; `enter`, up
    // the stack, holds no reference to it across the call.
    let cx = unsafe { &mut *context };
    match cx.slow_access(return_address) {
        Ok(()) => 0,
        Err(Leave(reason)) => {
            cx.leave(reason);
            1
        }
    }
}
