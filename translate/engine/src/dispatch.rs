//! The loop of one vCPU: find a unit, run it, see why it returned.

use crate::code::{Engine, Found, Interpreted, Tier};
use crate::context::{REASON_RESTART, VcpuContext};
use crate::env::{PAGE, PageRef};
use crate::guest::{Access, Leave, Next};
use crate::interpret::{Cached, Ended, update_for};
use crate::trace::item;
use crate::vcpu::{VcpuShared, request};
use rhea_backend_x64::ReturnKind;
use rhea_backend_x64::layout::descriptor::{self, Kind};
use rhea_ir::{MemFlags, Type};
use std::sync::atomic::Ordering;
use std::time::Instant;

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
    /// No more instructions than may be executed now.
    Few,
    /// One instruction alone.
    One,
    /// One instruction with no other vCPU running.
    Exclusive,
}

impl Turn {
    /// One instruction that nothing may come before.
    fn is_alone(&self) -> bool {
        matches!(self, Turn::One | Turn::Exclusive)
    }
}

impl VcpuContext {
    /// Runs until asked to stop. The calling thread is the vCPU's.
    pub fn run(&mut self) -> Stop {
        let engine = self.engine.clone();
        let shared = self.env.shared.clone();
        engine.enter_running(&shared);
        self.env.float.load();
        // What came while the vCPU was stopped is looked at first, and whether it waits at all.
        self.fresh = true;
        shared.memory.frame().poll.store(1, Ordering::SeqCst);
        let mut turn = Turn::Normal;
        let stop = loop {
            if self.env.counter().is_some() && self.env.allowance() <= 0 {
                self.new_slice();
            }
            if shared.memory.frame().poll.load(Ordering::Relaxed) != 0 {
                if let Some(stop) = self.poll(&mut turn) {
                    break stop;
                }
                if shared.memory.frame().poll.load(Ordering::Relaxed) != 0 && !turn.is_alone() {
                    continue;
                }
            }
            turn = self.step(&engine, turn);
        };
        self.env.float.unload();
        engine.leave_running(&shared);
        stop
    }

    /// The counted instructions have brought time to a deadline: runs what is due and allows more.
    fn new_slice(&mut self) {
        self.env.report_count();
        if let Some(counter) = self.env.counter().cloned() {
            self.env.float.with_host_default(|| counter.run_due());
        }
        self.env.renew_allowance();
    }

    /// Sees to requests and events.
    fn poll(&mut self, turn: &mut Turn) -> Option<Stop> {
        let shared = self.env.shared.clone();
        shared.memory.frame().poll.store(0, Ordering::SeqCst);
        if shared.wants_flush() {
            self.env.flush_tlb_all();
        }
        if shared.pending() & request::STOP != 0 {
            shared.withdraw(request::STOP);
            return Some(Stop::Requested);
        }
        if shared.pending() & (request::PARK | request::YIELD) != 0 {
            shared.withdraw(request::YIELD);
            self.park();
        }
        if turn.is_alone() {
            // Events wait until that instruction is done.
            shared.memory.frame().poll.store(1, Ordering::SeqCst);
        } else {
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
        if !std::mem::take(&mut self.fresh) && !guest.has_events(self) {
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
        self.env.float.unload();
        engine.leave_running(&shared);
        while !guest.has_events(self) && shared.pending() & request::STOP == 0 {
            if shared.wants_flush() {
                self.env.flush_tlb_all();
            }
            self.idle(&shared);
        }
        engine.enter_running(&shared);
        self.env.float.load();
        // If the guest still waits when it runs again, it says so.
        self.fresh = true;
        shared.memory.frame().poll.store(1, Ordering::SeqCst);
    }

    /// Sleeps until kicked, or lets time jump to the next deadline if it is counted.
    fn idle(&mut self, shared: &VcpuShared) {
        self.env.report_count();
        let Some(counter) = self.env.counter().cloned() else {
            shared.sleep();
            return;
        };
        counter.set_waiting(true);
        let Some(time) = counter.idle_time() else {
            shared.sleep();
            counter.set_waiting(false);
            return;
        };
        let start = Instant::now();
        let kicked = !time.is_zero() && shared.sleep_for(time);
        counter.set_waiting(false);
        counter.skip(kicked.then(|| start.elapsed()));
        counter.run_due();
    }

    /// Runs one unit (or a chain of them).
    fn step(&mut self, engine: &Engine, turn: Turn) -> Turn {
        let guest = self.guest;
        self.stats.dispatches += 1;
        let pc = guest.pc(self);
        let mode = guest.mode(self);
        self.env.set_mode(mode);
        let trace = &engine.config().trace;
        if trace.has(item::EXEC | item::CPU) {
            self.trace_unit(guest.fetch_address(pc, mode), mode);
        }
        let result = match turn {
            Turn::Normal => self.run_normal(engine, pc, mode, None),
            Turn::Link(exit) => self.run_normal(engine, pc, mode, Some(exit)),
            Turn::Few => {
                let most = self.env.allowance().clamp(1, i64::from(engine.config().max_insns));
                self.run_alone(engine, pc, mode, most as u32)
            }
            Turn::One => self.run_alone(engine, pc, mode, 1),
            Turn::Exclusive => {
                let shared = self.env.shared.clone();
                engine.exclusive(&shared, || {
                    self.one_insn = true;
                    let r = self.run_alone(engine, pc, mode, 1);
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

    #[cold]
    fn trace_unit(&mut self, vaddr: u64, mode: u64) {
        let engine = self.engine.clone();
        let trace = &engine.config().trace;
        if !trace.covers(vaddr) {
            return;
        }
        if trace.has(item::EXEC) {
            trace.print(&format!("Trace {}: {vaddr:#x} mode {mode:#x}\n", self.env.index()));
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

    /// Runs at most `most` instructions as a unit that is not kept.
    fn run_alone(&mut self, engine: &Engine, pc: u64, mode: u64, most: u32) -> Result<Turn, Leave> {
        let guest = self.guest;
        let page = self.page(guest.fetch_address(pc, mode), Access::Fetch, guest.fetch_index(mode))?;
        let unit = engine.translate_once(self, pc, mode, most, &page)?;
        Ok(self.run_interpreted(&unit))
    }

    fn run_interpreted(&mut self, unit: &Interpreted) -> Turn {
        match self.interpret(unit) {
            Ended::Next => Turn::Normal,
            Ended::Short => Turn::Few,
            Ended::Leave(reason) => self.after_leave(reason),
        }
    }

    fn run_normal(&mut self, engine: &Engine, pc: u64, mode: u64, link: Option<u32>) -> Result<Turn, Leave> {
        if engine.config().tier == Tier::Interpreter {
            return self.run_cached_interpreted(engine, pc, mode);
        }
        if engine.config().lockstep {
            return self.run_lockstep(engine, pc, mode);
        }
        let cached = if link.is_none() { self.env.cached_code(pc) } else { self.env.cached_unlinkable(pc) };
        if let Some(code) = cached {
            return Ok(self.enter(code));
        }
        self.stats.lookups += 1;
        let (found, page) = engine.find_or_translate(self, pc, mode)?;
        match found {
            Found::Code { address, unit, crosses, epoch, drops, .. } => {
                self.remember(engine, (pc, mode), address, &page, crosses, drops);
                if let Some(exit) = link {
                    engine.link(exit, unit, epoch);
                }
                Ok(self.enter(address))
            }
            Found::Interpret(unit) => Ok(self.run_interpreted(&unit)),
        }
    }

    /// Runs one unit in the interpreter, on the side, and then compiled, and compares.
    fn run_lockstep(&mut self, engine: &Engine, pc: u64, mode: u64) -> Result<Turn, Leave> {
        self.stats.lookups += 1;
        let (found, _) = engine.find_or_translate(self, pc, mode)?;
        let (address, unit) = match found {
            Found::Code { address, ir: Some(unit), .. } => (address, unit),
            Found::Code { address, .. } => return Ok(self.enter(address)),
            Found::Interpret(unit) => return Ok(self.run_interpreted(&unit)),
        };
        let prediction = self.predict(&unit);
        let returned = self.call_code(address);
        // With too small an allowance of instructions the unit has not run.
        let ran =
            !matches!(ReturnKind::decode(returned), (ReturnKind::Poll, _)) || self.env.counter().is_none();
        if let Some(p) = prediction {
            if let Err(text) = self.compare(&unit, mode, &p, ran) {
                engine.diverged(&text);
            }
            self.prediction = p;
        }
        Ok(self.returned(returned))
    }

    /// Enters an address that was just found in the jump cache.
    fn remember(
        &mut self,
        engine: &Engine,
        (pc, mode): (u64, u64),
        code: u64,
        page: &PageRef,
        crosses: bool,
        drops: u64,
    ) {
        let guest = self.guest;
        let vaddr = guest.fetch_address(pc, mode);
        let second = if crosses {
            let next = (vaddr | (PAGE - 1)).wrapping_add(1);
            let Some(second) = self.env.page(next, Access::Fetch, guest.fetch_index(mode)) else { return };
            Some(second)
        } else {
            None
        };
        self.env.cache_code((pc, vaddr), code, page, second.as_ref(), || engine.drops() == drops);
    }

    fn run_cached_interpreted(&mut self, engine: &Engine, pc: u64, mode: u64) -> Result<Turn, Leave> {
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
        self.stats.lookups += 1;
        let (found, page) = engine.find_or_translate(self, pc, mode)?;
        let Found::Interpret(unit) = found else { return Ok(Turn::Normal) };
        if unit.valid.load(Ordering::Acquire) {
            // The jump cache entry is what TLB flushes drop; its code is never jumped to in this tier.
            self.remember(engine, (pc, mode), 1, &page, unit.page2 != 0, engine.drops());
            self.interpreted[index] = Some(Cached { key, unit: unit.clone() });
        }
        Ok(self.run_interpreted(&unit))
    }

    /// Runs translated code.
    fn enter(&mut self, code: u64) -> Turn {
        let returned = self.call_code(code);
        self.returned(returned)
    }

    /// Enters translated code; gives what it returns.
    fn call_code(&mut self, code: u64) -> u64 {
        let enter = self.engine.enter_address();
        let state = self.env.memory_block.state_ptr() as u64;
        // SAFETY: the frame belongs to this vCPU, whose thread this is, and no translated code runs. Each entry stores
        // a pointer made from this very borrow: what helpers do through it counts as done through `self`.
        unsafe { (*self.env.frame_mut()).context = std::ptr::from_mut(self) as u64 };
        // SAFETY: `enter` is the thunk that the back end emitted for this signature; `code` is the entry of a unit
        // that stands (found under the lock or in this vCPU's jump cache; emptying segments waits until this vCPU is
        // outside translated code). Translated code works on the frame behind `state` and on guest RAM by TLB
        // entries, and calls back with the context pointer stored in the frame, which is `self`: no reference to
        // self or the frame is held across the call.
        let returned = unsafe {
            let enter: extern "sysv64" fn(u64, u64) -> u64 = std::mem::transmute(enter as usize);
            enter(code, state)
        };
        if let (ReturnKind::Chain, exit) = ReturnKind::decode(returned) {
            // Stubs of direct jumps leave the PC to us. The site stands: sites go only when their segment is emptied,
            // under exclusion, which waits for this vCPU to stop running; and it has not stopped since the jump.
            let pc = self.engine.site_pc(exit);
            self.put_pc(pc);
        }
        returned
    }

    /// Sees why translated code came back.
    fn returned(&mut self, returned: u64) -> Turn {
        match ReturnKind::decode(returned) {
            (ReturnKind::Leave, _) => match self.take_leave() {
                Some(reason) => self.after_leave(reason),
                None => Turn::Normal,
            },
            // Without a request, the allowance was too small for the next unit.
            (ReturnKind::Poll, _) if self.env.frame().poll.load(Ordering::Relaxed) == 0 => Turn::Few,
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
            unsafe { ((*frame).mem_addr, (*frame).mem_desc, (*frame).mem_value, (*frame).mem_value2) };
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
