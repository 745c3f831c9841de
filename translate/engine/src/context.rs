//! One vCPU as helpers and the guest see it: state, own data, surroundings, and full memory accesses.

use crate::code::Engine;
use crate::env::{Env, PAGE, PageRef, host_cas};
use crate::frame::FrameMemory;
use crate::guest::{Access, Guest, Leave};
use crate::vcpu::{VcpuHandle, VcpuShared};
use rhea_ir::{Builder, HelperInfo, MemFlags, Rmw};
use rhea_memory::AddressSpace;
use std::any::{Any, TypeId};
use std::sync::Arc;

/// Leave reason of the engine's own: a store hit the code of the running unit; execute this instruction alone.
pub const REASON_RESTART: u32 = 0x7fff_fff0;

/// What a vCPU is made of besides the engine.
pub struct VcpuParts {
    /// Its number, from 0.
    pub index: u32,
    /// Physical memory as it sees it.
    pub memory: Arc<AddressSpace>,
    /// I/O ports.
    pub io: Arc<AddressSpace>,
    /// Virtual time in nanoseconds.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The guest's own per-vCPU data.
    pub data: Box<dyn Any + Send>,
}

/// A vCPU.
pub struct VcpuContext {
    pub(crate) env: Env,
    pub(crate) engine: Arc<Engine>,
    pub(crate) guest: &'static dyn Guest,
    data: Box<dyn Any + Send>,
    state_type: TypeId,
    pub(crate) builder: Builder,
    pub(crate) interpreter: rhea_interpreter::Interpreter,
    /// The guest's helper table, for the interpreter.
    pub(crate) helpers: Vec<HelperInfo>,
    /// Units in use by the interpreter tier, by jump-cache index.
    pub(crate) interpreted: Vec<Option<crate::interpret::Cached>>,
    pub(crate) one_insn: bool,
    /// Buffers of lockstep.
    pub(crate) prediction: Box<crate::lockstep::Prediction>,
    /// The guest is to be asked whether it waits, events or not.
    pub(crate) fresh: bool,
    pub(crate) stats: crate::stats::Stats,
}

impl VcpuContext {
    /// A vCPU of `engine` with `state` as its register state.
    ///
    /// # Errors
    /// The host has no memory for the frame.
    pub fn new<S: GuestState>(
        engine: &Arc<Engine>,
        parts: VcpuParts,
        state: S,
    ) -> std::io::Result<Box<Self>> {
        let memory = Arc::new(FrameMemory::new(std::mem::size_of::<S>())?);
        const { assert!(std::mem::align_of::<S>() <= 4096) };
        // SAFETY: the frame has room for an S at `state_ptr`, page aligned; nobody else uses it yet.
        unsafe { memory.state_ptr().cast::<S>().write(state) };
        let shared = Arc::new(VcpuShared::new(parts.index, memory.clone()));
        if !engine.register(&shared) {
            return Err(std::io::Error::other("counting instructions and lockstep work with one vCPU only"));
        }
        let env = Env::new(engine, memory, parts.memory.clone(), parts.io, shared.clone(), parts.clock);
        let weak = Arc::downgrade(&shared);
        parts.memory.on_change(Box::new(move || {
            if let Some(vcpu) = weak.upgrade() {
                vcpu.request(crate::vcpu::request::FLUSH_TLB);
            }
        }));
        let mut cx = Box::new(VcpuContext {
            env,
            engine: engine.clone(),
            guest: engine.guest(),
            data: parts.data,
            state_type: TypeId::of::<S>(),
            builder: Builder::new(),
            interpreter: rhea_interpreter::Interpreter::new(),
            helpers: engine.helpers().to_vec(),
            interpreted: Vec::new(),
            one_insn: false,
            prediction: Box::default(),
            fresh: true,
            stats: crate::stats::Stats::default(),
        });
        cx.env.set_mode(0);
        Ok(cx)
    }

    /// The register state.
    ///
    /// # Panics
    /// If `S` is not the type the vCPU was made with.
    pub fn state<S: 'static>(&mut self) -> &mut S {
        assert_eq!(self.state_type, TypeId::of::<S>(), "guest state type");
        // SAFETY: the state block holds an S (type checked) for as long as the frame lives; the exclusive borrow of
        // self covers it, and translated code does not run meanwhile.
        unsafe { &mut *self.env.memory_block.state_ptr().cast::<S>() }
    }

    /// The guest's own per-vCPU data.
    ///
    /// # Panics
    /// If `P` is not its type.
    #[allow(clippy::expect_used, reason = "a guest asks for its own type")]
    pub fn data<P: 'static>(&mut self) -> &mut P {
        self.data.downcast_mut().expect("guest data type")
    }

    /// The guest's own per-vCPU data, shared.
    pub fn data_ref<P: 'static>(&self) -> Option<&P> {
        self.data.downcast_ref()
    }

    /// State, own data and surroundings, borrowed apart.
    ///
    /// # Panics
    /// If the types are wrong.
    #[allow(clippy::expect_used, reason = "a guest asks for its own type")]
    pub fn parts<S: 'static, P: 'static>(&mut self) -> (&mut S, &mut P, &mut Env) {
        assert_eq!(self.state_type, TypeId::of::<S>(), "guest state type");
        // SAFETY: as in `state`; the state block is apart from everything Env gives out as references.
        let state = unsafe { &mut *self.env.memory_block.state_ptr().cast::<S>() };
        (state, self.data.downcast_mut().expect("guest data type"), &mut self.env)
    }

    /// The surroundings.
    pub fn env(&mut self) -> &mut Env {
        &mut self.env
    }

    /// The engine this vCPU belongs to.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// A handle for other threads.
    pub fn handle(&self) -> VcpuHandle {
        VcpuHandle(self.env.shared.clone())
    }

    /// Counters.
    pub fn stats(&self) -> &crate::stats::Stats {
        &self.stats
    }

    /// Asks to leave the unit when the current helper returns.
    pub fn leave(&mut self, reason: u32) {
        debug_assert!(reason < 1 << 31);
        // SAFETY: the frame belongs to this vCPU, whose thread this is; translated code is inside this helper call.
        unsafe { (*self.env.frame_mut()).leave_reason = reason + 1 };
    }

    /// The reason of a request to leave that has not been taken.
    pub(crate) fn leave_requested(&mut self) -> Option<u32> {
        let frame = self.env.frame_mut();
        // SAFETY: as in `leave`.
        unsafe { (*frame).leave_reason }.checked_sub(1)
    }

    /// Takes a request to leave.
    pub(crate) fn take_leave(&mut self) -> Option<u32> {
        let frame = self.env.frame_mut();
        // SAFETY: as in `leave`.
        let reason = unsafe { std::mem::take(&mut (*frame).leave_reason) };
        reason.checked_sub(1)
    }

    // ---- memory ----

    /// The page behind `vaddr`, walking the guest's tables if need be.
    pub fn page(&mut self, vaddr: u64, access: Access, index: u8) -> Result<PageRef, Leave> {
        self.page_of(vaddr, 1, access, index)
    }

    /// The page behind an access of `len` bytes at `vaddr` that does not leave it.
    #[inline]
    pub(crate) fn page_of(
        &mut self,
        vaddr: u64,
        len: u32,
        access: Access,
        index: u8,
    ) -> Result<PageRef, Leave> {
        if let Some(p) = self.env.page(vaddr, access, index) {
            return Ok(p);
        }
        self.stats.tlb_walks += 1;
        let t = self.guest.tlb_fill(self, vaddr, len, access, index)?;
        Ok(self.env.tlb_insert(vaddr, &t, index))
    }

    fn crosses(vaddr: u64, len: u64) -> bool {
        vaddr % PAGE + len > PAGE
    }

    /// Loads `size` (1, 2, 4, 8) bytes.
    #[inline]
    pub fn load(&mut self, vaddr: u64, size: u32, index: u8) -> Result<u64, Leave> {
        if Self::crosses(vaddr, u64::from(size)) {
            let mut bytes = [0; 8];
            self.load_bytes(vaddr, &mut bytes[..size as usize], index)?;
            return Ok(u64::from_le_bytes(bytes));
        }
        let page = self.page_of(vaddr, size, Access::Read, index)?;
        Ok(self.env.load_at(&page, vaddr, size))
    }

    /// Stores `size` bytes.
    pub fn store(&mut self, vaddr: u64, size: u32, value: u64, index: u8) -> Result<(), Leave> {
        if Self::crosses(vaddr, u64::from(size)) {
            return self.store_bytes(vaddr, &value.to_le_bytes()[..size as usize], index);
        }
        let page = self.page_of(vaddr, size, Access::Write, index)?;
        self.store_in_page(&page, vaddr, size, value);
        self.env.arm_write(&page, index);
        Ok(())
    }

    fn store_in_page(&mut self, page: &PageRef, vaddr: u64, size: u32, value: u64) {
        if page.has_code() && page.is_writable_ram() {
            let host = page.host + (vaddr % PAGE) as usize;
            self.engine.write_code_page(host, size as usize, &mut self.stats, || {
                self.env.store_at(page, vaddr, size, value);
            });
            return;
        }
        self.env.store_at(page, vaddr, size, value);
        self.env.after_store(page, vaddr, size as usize);
    }

    /// The page or the two pages behind `len` bytes: how many bytes lie in the first, what is behind it, and what is
    /// behind the second.
    fn pages_of(
        &mut self,
        vaddr: u64,
        len: usize,
        access: Access,
        index: u8,
    ) -> Result<(usize, PageRef, Option<PageRef>), Leave> {
        let first = (PAGE - vaddr % PAGE).min(len as u64) as usize;
        let page = self.page_of(vaddr, first as u32, access, index)?;
        if first == len {
            return Ok((first, page, None));
        }
        let (next, left) = (vaddr.wrapping_add(first as u64), (len - first) as u32);
        Ok((first, page, Some(self.page_of(next, left, access, index)?)))
    }

    /// Loads bytes, crossing at most one page boundary.
    pub fn load_bytes(&mut self, vaddr: u64, out: &mut [u8], index: u8) -> Result<(), Leave> {
        let (first, page, rest) = self.pages_of(vaddr, out.len(), Access::Read, index)?;
        let (head, tail) = out.split_at_mut(first);
        self.load_part(&page, vaddr, head);
        if let Some(page) = rest {
            self.load_part(&page, vaddr.wrapping_add(first as u64), tail);
        }
        Ok(())
    }

    fn load_part(&mut self, page: &PageRef, vaddr: u64, out: &mut [u8]) {
        if page.host != 0 && out.len() > 16 {
            return crate::host_access::host_read(page.host + (vaddr % PAGE) as usize, out);
        }
        let mut at = vaddr;
        let mut chunks = out.chunks_exact_mut(8);
        for c in &mut chunks {
            c.copy_from_slice(&self.env.load_at(page, at, 8).to_le_bytes());
            at += 8;
        }
        let mut rest = chunks.into_remainder();
        while !rest.is_empty() {
            let size = 1usize << rest.len().ilog2();
            let (now, later) = rest.split_at_mut(size);
            now.copy_from_slice(&self.env.load_at(page, at, size as u32).to_le_bytes()[..size]);
            at += size as u64;
            rest = later;
        }
    }

    /// Stores bytes, crossing at most one page boundary; nothing is stored unless all of it can be.
    pub fn store_bytes(&mut self, vaddr: u64, bytes: &[u8], index: u8) -> Result<(), Leave> {
        let (first, page, rest) = self.pages_of(vaddr, bytes.len(), Access::Write, index)?;
        let (head, tail) = bytes.split_at(first);
        self.store_part(&page, vaddr, head);
        if let Some(page) = rest {
            self.store_part(&page, vaddr.wrapping_add(first as u64), tail);
        }
        Ok(())
    }

    fn store_part(&mut self, page: &PageRef, vaddr: u64, bytes: &[u8]) {
        if bytes.len() > 16 && page.is_writable_ram() && !page.has_code() {
            crate::host_access::host_write(page.host + (vaddr % PAGE) as usize, bytes);
            return self.env.after_store(page, vaddr, bytes.len());
        }
        let (mut at, mut rest) = (vaddr, bytes);
        while !rest.is_empty() {
            let size = 1usize << rest.len().ilog2().min(3);
            let mut value = [0; 8];
            value[..size].copy_from_slice(&rest[..size]);
            self.store_in_page(page, at, size as u32, u64::from_le_bytes(value));
            at += size as u64;
            rest = &rest[size..];
        }
    }

    /// Copies `len` bytes at `vaddr` to byte `at` of the register state. False, without effect, unless the TLB has the
    /// page, all bytes lie in it, and it is RAM; or if the state is shorter.
    pub fn load_to_state(&mut self, vaddr: u64, len: usize, at: usize, index: u8) -> bool {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.env.memory_block.state_len());
        if !inside || Self::crosses(vaddr, len as u64) {
            return false;
        }
        let Some(page) = self.env.page(vaddr, Access::Read, index).filter(|p| p.host != 0) else {
            return false;
        };
        // SAFETY: the range lies in the state block, whose bytes the exclusive borrow of self covers, as in `state`;
        // translated code does not run meanwhile. State types are plain data of which translated code writes any byte.
        let out = unsafe { std::slice::from_raw_parts_mut(self.env.memory_block.state_ptr().add(at), len) };
        crate::host_access::host_read(page.host + (vaddr % PAGE) as usize, out);
        true
    }

    /// Copies the bytes at `vaddr` to `out`. False, without effect, unless the TLB has the page, all bytes lie in it, and it is
    /// RAM.
    pub fn load_ram(&mut self, vaddr: u64, out: &mut [u8], index: u8) -> bool {
        if Self::crosses(vaddr, out.len() as u64) {
            return false;
        }
        let Some(page) = self.env.page(vaddr, Access::Read, index).filter(|p| p.host != 0) else {
            return false;
        };
        crate::host_access::host_read(page.host + (vaddr % PAGE) as usize, out);
        true
    }

    /// Copies `len` bytes at byte `at` of the register state to `vaddr`; as [`VcpuContext::load_to_state`], and false
    /// too where the page does not take writes or holds translated code.
    pub fn store_from_state(&mut self, vaddr: u64, len: usize, at: usize, index: u8) -> bool {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.env.memory_block.state_len());
        if !inside || Self::crosses(vaddr, len as u64) {
            return false;
        }
        let page = self.env.page(vaddr, Access::Write, index);
        let Some(page) = page.filter(|p| p.is_writable_ram() && !p.has_code()) else { return false };
        // SAFETY: as in `load_to_state`.
        let bytes = unsafe { std::slice::from_raw_parts(self.env.memory_block.state_ptr().add(at), len) };
        crate::host_access::host_write(page.host + (vaddr % PAGE) as usize, bytes);
        self.env.after_store(&page, vaddr, len);
        true
    }

    /// Checks that `len` bytes (crossing at most one page boundary) could be stored.
    pub fn probe_write(&mut self, vaddr: u64, len: u32, index: u8) -> Result<(), Leave> {
        let first = (PAGE - vaddr % PAGE).min(u64::from(len)) as u32;
        self.page_of(vaddr, first, Access::Write, index)?;
        if first < len {
            // A fault names the first byte of the second page.
            self.page_of(vaddr.wrapping_add(u64::from(first)), len - first, Access::Write, index)?;
        }
        Ok(())
    }

    /// Reads code bytes at `vaddr`, at most to the end of its page; returns how many. The page is watched for writes
    /// from now on.
    pub fn fetch_bytes(&mut self, vaddr: u64, index: u8, out: &mut [u8]) -> Result<usize, Leave> {
        let page = self.page(vaddr, Access::Fetch, index)?;
        let n = (PAGE - vaddr % PAGE).min(out.len() as u64) as usize;
        if page.host == 0 {
            // Code in device memory: never cached.
            self.env.fetched.push((0, 0));
            for (i, b) in out[..n.min(16)].iter_mut().enumerate() {
                *b = self.env.read_phys(page.phys + (vaddr + i as u64) % PAGE, 1) as u8;
            }
            return Ok(n.min(16));
        }
        if !self.env.fetched.iter().any(|f| f.0 == page.host) {
            let version = self.engine.watch_page(&page);
            self.env.fetched.push((page.host, version));
        }
        // SAFETY: `host + vaddr % PAGE .. + n` lies in one page of a RAM block kept alive by Env; the guest may write
        // it meanwhile, which at worst yields torn bytes: the unit is then dropped by the page's version.
        unsafe {
            let src = (page.host + (vaddr % PAGE) as usize) as *const u8;
            std::ptr::copy_nonoverlapping(src, out.as_mut_ptr(), n);
        }
        Ok(n)
    }

    // ---- accesses as the IR defines them ----

    /// Raises the guest's alignment fault if the access asks for alignment and is not aligned.
    pub(crate) fn check_alignment(
        &mut self,
        vaddr: u64,
        size: u32,
        flags: MemFlags,
        access: Access,
    ) -> Result<(), Leave> {
        if flags.has(MemFlags::ALIGNED) && !vaddr.is_multiple_of(u64::from(size)) {
            let guest = self.guest;
            return Err(guest.unaligned(self, vaddr, access, flags.index()));
        }
        Ok(())
    }

    /// A load that counts as a write for permissions.
    pub(crate) fn load_for_write(&mut self, vaddr: u64, out: &mut [u8], index: u8) -> Result<(), Leave> {
        self.probe_write(vaddr, out.len() as u32, index)?;
        self.load_bytes(vaddr, out, index)
    }

    /// Atomic update of `size` bytes; `update` gives the new value, or `None` to leave memory as it is.
    pub(crate) fn atomic_update(
        &mut self,
        vaddr: u64,
        size: u32,
        index: u8,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Leave> {
        self.probe_write(vaddr, size, index)?;
        if !vaddr.is_multiple_of(u64::from(size)) {
            return self.split_update(vaddr, size, index, update);
        }
        let page = self.page(vaddr, Access::Write, index)?;
        if !page.is_writable_ram() {
            let old = self.env.load_at(&page, vaddr, size);
            if let Some(new) = update(old) {
                self.env.store_at(&page, vaddr, size, new);
            }
            return Ok(old);
        }
        let host = page.host + (vaddr % PAGE) as usize;
        let mut swap = || {
            let mut old = crate::env::host_load(host, size);
            while let Some(new) = update(old) {
                let seen = host_cas(host, size, old, new);
                if seen == old {
                    break;
                }
                old = seen;
            }
            old
        };
        if page.has_code() {
            return Ok(self.engine.write_code_page(host, size as usize, &mut self.stats, swap));
        }
        let old = swap();
        self.env.after_store(&page, vaddr, size as usize);
        self.env.arm_write(&page, index);
        Ok(old)
    }

    /// A locked access that is not naturally aligned ("split lock"): done with every other vCPU out of the way.
    fn split_update(
        &mut self,
        vaddr: u64,
        size: u32,
        index: u8,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Leave> {
        if !self.one_insn {
            return Err(Leave(crate::dispatch::REASON_EXCLUSIVE));
        }
        let mut bytes = [0; 8];
        self.load_bytes(vaddr, &mut bytes[..size as usize], index)?;
        let old = u64::from_le_bytes(bytes);
        if let Some(new) = update(old) {
            self.store_bytes(vaddr, &new.to_le_bytes()[..size as usize], index)?;
        }
        Ok(old)
    }

    /// Atomic compare and swap of 16 bytes; returns the old value. The guest has checked the alignment.
    pub fn atomic_cas128(&mut self, vaddr: u64, index: u8, expected: u128, new: u128) -> Result<u128, Leave> {
        self.probe_write(vaddr, 16, index)?;
        let page = self.page(vaddr, Access::Write, index)?;
        let host = page.host + (vaddr % PAGE) as usize;
        if page.is_writable_ram()
            && !page.has_code()
            && let Some(old) = crate::env::host_cas128(host, expected, new)
        {
            self.env.after_store(&page, vaddr, 16);
            return Ok(old);
        }
        if !self.one_insn {
            return Err(Leave(crate::dispatch::REASON_EXCLUSIVE));
        }
        let mut bytes = [0; 16];
        self.load_bytes(vaddr, &mut bytes, index)?;
        let old = u128::from_le_bytes(bytes);
        if old == expected {
            self.store_bytes(vaddr, &new.to_le_bytes(), index)?;
        }
        Ok(old)
    }
}

/// State types that may be placed in a frame: plain data without destructors.
pub trait GuestState: 'static + Send {}
impl<T: 'static + Send> GuestState for T {}

/// What an atomic operation makes of `old` and `operand` at `size` bytes.
pub(crate) fn rmw_result(op: Rmw, old: u64, operand: u64, size: u32) -> u64 {
    let shift = 64 - 8 * size;
    let signed = |v: u64| (v << shift) as i64;
    let unsigned = |v: u64| v << shift;
    match op {
        Rmw::Xchg => operand,
        Rmw::Add => old.wrapping_add(operand),
        Rmw::Sub => old.wrapping_sub(operand),
        Rmw::And => old & operand,
        Rmw::Or => old | operand,
        Rmw::Xor => old ^ operand,
        Rmw::MinS if signed(old) <= signed(operand) => old,
        Rmw::MaxS if signed(old) >= signed(operand) => old,
        Rmw::MinU if unsigned(old) <= unsigned(operand) => old,
        Rmw::MaxU if unsigned(old) >= unsigned(operand) => old,
        Rmw::MinS | Rmw::MaxS | Rmw::MinU | Rmw::MaxU => operand,
    }
}
