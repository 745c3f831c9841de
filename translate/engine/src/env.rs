//! What a vCPU sees outside itself: virtual memory through the soft TLB, physical memory, I/O ports, time, and its
//! floating-point environment. Knows nothing of the guest architecture.

use crate::code::Engine;
use crate::float::{FloatEnv, FloatState};
use crate::frame::{Frame, FrameMemory};
use crate::guest::Access;
pub(crate) use crate::host_access::{host_cas, host_cas128, host_load, host_store};
use crate::icount::InstructionCounter;
pub use crate::tlb::{PAGE, PageRef};
use crate::tlb::{PAGE_MASK, Tables};
use crate::trace::{Trace, item};
use crate::vcpu::VcpuShared;
use rhea_memory::{AddressSpace, PAGE_HAS_CODE};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// No usable TLB entry: the guest must walk its page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss;

/// One vCPU's surroundings.
pub struct Env {
    pub(crate) memory_block: Arc<FrameMemory>,
    pub(crate) memory: Arc<AddressSpace>,
    io: Arc<AddressSpace>,
    pub(crate) tables: Tables,
    /// Floating-point environment.
    pub float: FloatState,
    pub(crate) shared: Arc<VcpuShared>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) generation: u64,
    pub(crate) mode: u64,
    pub(crate) secret: u64,
    /// Pages fetched from during the current translation: host address (0 for device memory) and version.
    pub(crate) fetched: Vec<(usize, u64)>,
    engine: Arc<Engine>,
    counter: Option<Arc<InstructionCounter>>,
    /// Instructions executed when the frame's `icount` reaches zero.
    count_end: u64,
}

impl Env {
    pub(crate) fn new(
        engine: &Arc<Engine>,
        memory_block: Arc<FrameMemory>,
        memory: Arc<AddressSpace>,
        io: Arc<AddressSpace>,
        shared: Arc<VcpuShared>,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        let indices = usize::from(engine.guest().layout().mmu_indices).min(crate::frame::MMU_INDICES);
        let mut env = Env {
            memory_block,
            memory,
            io,
            tables: Tables::new(indices, engine.blocks.clone()),
            float: FloatState::default(),
            shared,
            clock,
            generation: 0,
            mode: 0,
            secret: engine.secret(),
            fetched: Vec::new(),
            engine: engine.clone(),
            counter: engine.config().icount.clone(),
            count_end: 0,
        };
        env.new_generation();
        env
    }

    /// Number of this vCPU, from 0.
    pub fn index(&self) -> u32 {
        self.shared.index
    }

    /// Virtual time in nanoseconds.
    pub fn clock_ns(&self) -> u64 {
        self.report_count();
        (self.clock)()
    }

    /// Physical memory as this vCPU sees it.
    pub fn memory(&self) -> &Arc<AddressSpace> {
        &self.memory
    }

    pub(crate) fn frame(&self) -> &Frame {
        self.memory_block.frame()
    }

    pub(crate) fn frame_mut(&mut self) -> *mut Frame {
        self.memory_block.frame_ptr()
    }

    // ---- counted instructions ----

    /// The instruction counter, if instructions are counted.
    pub fn counter(&self) -> Option<&Arc<InstructionCounter>> {
        self.counter.as_ref()
    }

    /// Instructions that may still be executed before time is looked at.
    pub(crate) fn allowance(&self) -> i64 {
        self.frame().icount
    }

    /// Instructions executed so far; whole units count when they are entered.
    fn executed(&self) -> u64 {
        self.count_end.wrapping_sub(self.allowance() as u64)
    }

    /// Tells the counter how far execution has come.
    pub(crate) fn report_count(&self) {
        if let Some(counter) = &self.counter {
            counter.set_executed(self.executed());
        }
    }

    /// Takes `n` instructions off the allowance; false, without effect, if it is too small.
    pub(crate) fn charge(&mut self, n: u32) -> bool {
        if self.counter.is_none() {
            return true;
        }
        let left = self.allowance() - i64::from(n);
        if left >= 0 {
            // SAFETY: the frame belongs to this vCPU, whose thread this is; no translated code runs.
            unsafe { (*self.frame_mut()).icount = left };
        }
        left >= 0
    }

    /// Allows instructions up to the next deadline.
    pub(crate) fn renew_allowance(&mut self) {
        let Some(counter) = &self.counter else { return };
        let executed = self.executed();
        counter.set_executed(executed);
        // At least one, so that execution goes on even if something is always due.
        let allowance = counter.allowance().max(1);
        self.count_end = executed + allowance;
        // SAFETY: as in `charge`; translated code, if it waits for a helper, reads the field anew at each use.
        unsafe { (*self.frame_mut()).icount = allowance as i64 };
    }

    /// Runs device code: with the host's floating-point environment, and with virtual time up to date.
    fn outside<R>(&mut self, f: impl FnOnce(&Self) -> R) -> R {
        self.report_count();
        let mut float = self.float;
        let r = float.with_host_default(|| f(self));
        if self.counter.as_ref().is_some_and(|c| c.deadline_moved()) {
            self.renew_allowance();
        }
        r
    }

    // ---- memory ----

    /// Loads `size` (1, 2, 4, 8) bytes through the TLB, little-endian.
    ///
    /// # Errors
    /// The TLB has no usable entry, or the access crosses a page.
    pub fn load(&mut self, vaddr: u64, size: u32, index: u8) -> Result<u64, Miss> {
        if vaddr % PAGE + u64::from(size) > PAGE {
            return Err(Miss);
        }
        let page = self.page(vaddr, Access::Read, index).ok_or(Miss)?;
        Ok(self.load_at(&page, vaddr, size))
    }

    /// Stores `size` bytes through the TLB.
    ///
    /// # Errors
    /// As [`Env::load`]; also when the page holds translated code: the full store must see to it.
    pub fn store(&mut self, vaddr: u64, size: u32, value: u64, index: u8) -> Result<(), Miss> {
        if vaddr % PAGE + u64::from(size) > PAGE {
            return Err(Miss);
        }
        let page = self.page(vaddr, Access::Write, index).ok_or(Miss)?;
        if page.has_code() {
            return Err(Miss);
        }
        self.store_at(&page, vaddr, size, value);
        self.after_store(&page, vaddr, size as usize);
        Ok(())
    }

    /// After a store within a page that was not known to hold code: code may have been translated from it meanwhile.
    pub(crate) fn after_store(&self, page: &PageRef, vaddr: u64, len: usize) {
        if page.is_writable_ram() {
            // A translator sets the flag and then reads the bytes; we have stored and now read the flag.
            fence(Ordering::SeqCst);
            if page.has_code() {
                self.engine.ram_changed(page.host + (vaddr % PAGE) as usize, len);
            }
        }
    }

    /// Loads within a page that is known.
    #[inline]
    pub(crate) fn load_at(&mut self, page: &PageRef, vaddr: u64, size: u32) -> u64 {
        if page.host != 0 {
            return host_load(page.host + (vaddr % PAGE) as usize, size);
        }
        self.read_phys(page.phys + vaddr % PAGE, size)
    }

    /// Stores within a page that is known (and holds no code, or the caller has seen to it).
    pub(crate) fn store_at(&mut self, page: &PageRef, vaddr: u64, size: u32, value: u64) {
        if page.is_writable_ram() {
            host_store(page.host + (vaddr % PAGE) as usize, size, value);
        } else {
            self.write_phys(page.phys + vaddr % PAGE, size, value);
        }
    }

    /// What `-d` asks for.
    #[inline]
    pub fn trace(&self) -> &Trace {
        &self.engine.config().trace
    }

    /// For `-d unimp` and `-d guest_errors`: an access that nothing answers, a write to memory that takes none.
    #[inline]
    fn note_access(&self, what: &str, space: &AddressSpace, addr: u64, size: u32, written: Option<u64>) {
        if self.trace().has(item::UNIMP | item::GUEST_ERRORS) {
            self.trace().access(self.index(), what, space, addr, size, written);
        }
    }

    /// Reads guest-physical memory or a device, little-endian; ones where nothing answers.
    pub fn read_phys(&mut self, addr: u64, size: u32) -> u64 {
        self.note_access("memory", &self.memory, addr, size, None);
        self.outside(|env| env.memory.read(addr, size as usize))
    }

    /// Writes guest-physical memory or a device.
    pub fn write_phys(&mut self, addr: u64, size: u32, value: u64) {
        self.note_access("memory", &self.memory, addr, size, Some(value));
        self.outside(|env| env.memory.write(addr, size as usize, value));
        if self.shared.wants_flush() {
            self.flush_tlb_all();
        }
    }

    /// Atomically replaces `old` by `new` in RAM at a naturally aligned guest-physical address (4 or 8 bytes). False
    /// if the memory does not hold `old`; true without effect if it is not RAM that takes writes.
    pub fn cas_phys(&mut self, addr: u64, size: u32, old: u64, new: u64) -> bool {
        let (host, flag, writable) = self.resolve(addr & PAGE_MASK);
        if host == 0 || !writable || !addr.is_multiple_of(u64::from(size)) {
            return true;
        }
        let at = host + (addr % PAGE) as usize;
        let done = host_cas(at, size, old, new) == old;
        // SAFETY: a page that is RAM has a flag byte, in a block that the engine keeps alive.
        if unsafe { &*flag }.load(Ordering::SeqCst) & PAGE_HAS_CODE != 0 {
            self.engine.ram_changed(at, size as usize);
        }
        done
    }

    /// Reads an I/O port; ones where nothing answers.
    pub fn io_read(&mut self, port: u16, size: u32) -> u32 {
        self.note_access("port", &self.io, u64::from(port), size, None);
        self.outside(|env| env.io.read(u64::from(port), size as usize) as u32)
    }

    /// Writes an I/O port.
    pub fn io_write(&mut self, port: u16, size: u32, value: u32) {
        self.note_access("port", &self.io, u64::from(port), size, Some(u64::from(value)));
        self.outside(|env| env.io.write(u64::from(port), size as usize, u64::from(value)));
        if self.shared.wants_flush() {
            self.flush_tlb_all();
        }
    }

    // ---- floating point ----

    /// Sets rounding and flush modes of vector and scalar operations.
    pub fn set_float_env(&mut self, env: FloatEnv) {
        self.float.set_env(env);
    }

    /// Sticky flags gathered since the last call (invalid, denormal, zero divide, overflow, underflow, inexact from
    /// bit 0); cleared.
    pub fn take_float_flags(&mut self) -> u32 {
        self.float.take_flags()
    }

    /// Sets precision and rounding control of x87 operations: control word bits 8..=11 in place.
    pub fn set_x87_env(&mut self, control: u32) {
        self.float.set_x87_control(control);
    }

    /// Sticky x87 flags gathered since the last call, in the same bit order; cleared.
    pub fn take_x87_flags(&mut self) -> u32 {
        self.float.take_x87_flags()
    }
}
