//! What a vCPU sees outside itself: virtual memory through the soft TLB, physical memory, I/O ports, time, and its
//! floating-point environment. Knows nothing of the guest architecture.

use crate::float::{FloatEnv, FloatState};
use crate::frame::{
    Frame, FrameMemory, JumpEntry, MMU_INDICES, NO_TAG, RETURN_STACK_ENTRIES, TLB_BITS, TLB_ENTRIES,
};
use crate::guest::{Access, Translation};
use crate::vcpu::VcpuShared;
use rhea_memory::{AddressSpace, PAGE_HAS_CODE, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Bytes of a guest page as the engine tracks it.
pub const PAGE: u64 = 4096;
const PAGE_MASK: u64 = !(PAGE - 1);

/// No usable TLB entry: the guest must walk its page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss;

/// What stands behind a virtual page.
#[derive(Clone, Copy, Debug)]
pub struct PageRef {
    /// Virtual page address, or [`NO_TAG`].
    pub vpage: u64,
    /// Guest-physical page address.
    pub phys: u64,
    /// Host address of the page if it is RAM (or ROM), else 0.
    pub host: usize,
    /// The page's flag byte if it is RAM, else null.
    flags: *const AtomicU8,
    /// Permitted accesses: bit 0 read, 1 write, 2 fetch, 3 RAM that takes writes.
    perms: u8,
    global: bool,
    page_bits: u8,
}

const READ: u8 = 1;
const WRITE: u8 = 2;
const FETCH: u8 = 4;
const WRITABLE_RAM: u8 = 8;

const NOTHING: PageRef = PageRef {
    vpage: NO_TAG,
    phys: 0,
    host: 0,
    flags: std::ptr::null(),
    perms: 0,
    global: false,
    page_bits: 12,
};

impl PageRef {
    fn permits(&self, access: Access) -> bool {
        let bit = match access {
            Access::Read => READ,
            Access::Write => WRITE,
            Access::Fetch => FETCH,
        };
        self.perms & bit != 0
    }

    /// The page is RAM that stores may go to directly.
    pub fn is_writable_ram(&self) -> bool {
        self.perms & WRITABLE_RAM != 0
    }

    /// Units were translated from the page.
    pub fn has_code(&self) -> bool {
        self.flag().is_some_and(|f| f.load(Ordering::Relaxed) & PAGE_HAS_CODE != 0)
    }

    /// The page's flag byte.
    pub fn flag(&self) -> Option<&AtomicU8> {
        // SAFETY: `flags` is null or points at a flag byte of a RamBlock that the engine keeps alive
        // (`Env::keep`), valid as AtomicU8.
        unsafe { self.flags.as_ref() }
    }
}

/// What the jump cache knows of an entry besides what translated code needs.
#[derive(Clone, Copy)]
struct JumpMeta {
    pc: u64,
}

/// One vCPU's surroundings.
pub struct Env {
    pub(crate) memory_block: Arc<FrameMemory>,
    memory: Arc<AddressSpace>,
    io: Arc<AddressSpace>,
    pages: Vec<PageRef>,
    /// Entries filled since they were last cleared, for each MMU index.
    filled: Vec<Vec<u16>>,
    /// Some entry of the index comes from a page larger than 4 KiB.
    large: [bool; MMU_INDICES],
    jump_meta: Vec<JumpMeta>,
    /// Jump-cache entries on non-global pages.
    nonglobal_jumps: Vec<u16>,
    /// RAM blocks that TLB entries point into stay alive as long as this vCPU.
    kept: Vec<Arc<rhea_memory::RamBlock>>,
    /// Floating-point environment.
    pub float: FloatState,
    pub(crate) shared: Arc<VcpuShared>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) generation: u64,
    pub(crate) mode: u64,
    pub(crate) secret: u64,
    /// Pages fetched from during the current translation (host addresses).
    pub(crate) fetched: Vec<usize>,
}

// SAFETY: the raw pointers in `PageRef` point into RAM blocks kept alive by `kept`, which any thread may access
// atomically.
unsafe impl Send for Env {}

fn mix(mut x: u64) -> u64 {
    // The finalizer of MurmurHash3: every input bit reaches every output bit.
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

impl Env {
    pub(crate) fn new(
        memory_block: Arc<FrameMemory>,
        memory: Arc<AddressSpace>,
        io: Arc<AddressSpace>,
        shared: Arc<VcpuShared>,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
        secret: u64,
    ) -> Self {
        let mut env = Env {
            memory_block,
            memory,
            io,
            pages: vec![NOTHING; MMU_INDICES * TLB_ENTRIES],
            filled: vec![Vec::new(); MMU_INDICES],
            large: [false; MMU_INDICES],
            jump_meta: vec![JumpMeta { pc: 0 }; 1 << crate::frame::JUMP_CACHE_BITS],
            nonglobal_jumps: Vec::new(),
            kept: Vec::new(),
            float: FloatState::default(),
            shared,
            clock,
            generation: 0,
            mode: 0,
            secret,
            fetched: Vec::new(),
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

    // ---- soft TLB ----

    fn slot(vaddr: u64) -> usize {
        (vaddr >> 12) as usize & (TLB_ENTRIES - 1)
    }

    /// The page behind `vaddr` if the TLB knows it and permits the access.
    pub fn page(&self, vaddr: u64, access: Access, index: u8) -> Option<PageRef> {
        let p = &self.pages[(usize::from(index) << TLB_BITS) | Self::slot(vaddr)];
        (p.vpage == vaddr & PAGE_MASK && p.permits(access)).then_some(*p)
    }

    fn keep(&mut self, block: &Arc<rhea_memory::RamBlock>) {
        if !self.kept.iter().any(|b| Arc::ptr_eq(b, block)) {
            self.kept.push(block.clone());
        }
    }

    /// What stands at a guest-physical page.
    fn resolve(&mut self, phys: u64) -> (usize, *const AtomicU8, bool) {
        let view = self.memory.view();
        let Some(range) = view.lookup(phys) else { return (0, std::ptr::null(), false) };
        let delta = phys - range.start;
        if let Target::Ram { block, offset, writable, .. } = &range.target
            && range.len - delta >= PAGE
            && (offset + delta) % PAGE == 0
        {
            let (block, at, writable) = (block.clone(), offset + delta, *writable);
            drop(view);
            self.keep(&block);
            let host = block.host_ptr() as usize + at as usize;
            let flags: *const AtomicU8 = block.page_flags(at / PAGE);
            return (host, flags, writable);
        }
        (0, std::ptr::null(), false)
    }

    /// Remembers a translation of the page of `vaddr` and returns what stands behind it.
    pub fn tlb_insert(&mut self, vaddr: u64, t: &Translation, index: u8) -> PageRef {
        let phys = t.phys & PAGE_MASK;
        let (host, flags, writable) = self.resolve(phys);
        let bit = |c: bool, b: u8| if c { b } else { 0 };
        let page = PageRef {
            vpage: vaddr & PAGE_MASK,
            phys,
            host,
            flags,
            perms: bit(t.read, READ)
                | bit(t.write, WRITE)
                | bit(t.fetch, FETCH)
                | bit(host != 0 && writable, WRITABLE_RAM),
            global: t.global,
            page_bits: t.page_bits,
        };
        if t.page_bits >= 12 {
            self.store_entry(&page, index);
        }
        page
    }

    fn store_entry(&mut self, page: &PageRef, index: u8) {
        let i = usize::from(index);
        let slot = Self::slot(page.vpage);
        if self.pages[i << TLB_BITS | slot].vpage == NO_TAG {
            self.filled[i].push(slot as u16);
        }
        self.pages[i << TLB_BITS | slot] = *page;
        self.large[i] |= page.page_bits > 12;
        let tables = &self.memory_block.frame().tlb[i];
        let addend = (page.host as u64).wrapping_sub(page.vpage);
        let read = &tables.read[slot];
        let write = &tables.write[slot];
        read.addend.store(addend, Ordering::Relaxed);
        let readable = page.host != 0 && page.perms & READ != 0;
        read.tag.store(if readable { page.vpage } else { NO_TAG }, Ordering::Relaxed);
        write.tag.store(NO_TAG, Ordering::Relaxed);
        write.addend.store(addend, Ordering::Relaxed);
        if page.perms & (WRITE | WRITABLE_RAM) == WRITE | WRITABLE_RAM && !page.has_code() {
            write.tag.store(page.vpage, Ordering::Relaxed);
            // A translator on another thread sets the flag and then looks for such entries; we set the entry and
            // then look at the flag: one of the two sees the other.
            fence(Ordering::SeqCst);
            if page.has_code() {
                write.tag.store(NO_TAG, Ordering::Relaxed);
            }
        }
    }

    fn clear_entry(&mut self, i: usize, slot: usize) {
        self.pages[i << TLB_BITS | slot].vpage = NO_TAG;
        let tables = &self.memory_block.frame().tlb[i];
        tables.read[slot].tag.store(NO_TAG, Ordering::Relaxed);
        tables.write[slot].tag.store(NO_TAG, Ordering::Relaxed);
    }

    /// Forgets every translation.
    pub fn flush_tlb_all(&mut self) {
        for index in 0..MMU_INDICES as u8 {
            self.flush_tlb_index(index);
        }
        self.new_generation();
    }

    /// Forgets every translation of one MMU index. (Instruction fetches of it are only forgotten by
    /// [`Env::flush_tlb_all`] and the like; use those where fetches matter.)
    pub fn flush_tlb_index(&mut self, index: u8) {
        let i = usize::from(index);
        let filled = std::mem::take(&mut self.filled[i]);
        for &slot in &filled {
            self.clear_entry(i, usize::from(slot));
        }
        self.filled[i] = filled;
        self.filled[i].clear();
        self.large[i] = false;
    }

    /// Forgets every translation that is not global.
    pub fn flush_tlb_nonglobal(&mut self) {
        for i in 0..MMU_INDICES {
            let mut filled = std::mem::take(&mut self.filled[i]);
            filled.retain(|&slot| {
                let global = self.pages[i << TLB_BITS | usize::from(slot)].global;
                if !global {
                    self.clear_entry(i, usize::from(slot));
                }
                global
            });
            self.filled[i] = filled;
        }
        let jumps = std::mem::take(&mut self.nonglobal_jumps);
        let none = self.never();
        for &j in &jumps {
            self.frame().jump_cache[usize::from(j)].key.store(none, Ordering::Relaxed);
        }
        self.nonglobal_jumps = jumps;
        self.nonglobal_jumps.clear();
        self.clear_return_stack();
    }

    /// Forgets the translation of the page of `vaddr`, global or not, in every MMU index.
    pub fn flush_tlb_page(&mut self, vaddr: u64) {
        let vpage = vaddr & PAGE_MASK;
        for i in 0..MMU_INDICES {
            if self.filled[i].is_empty() {
                continue;
            }
            if self.large[i] {
                self.flush_covering(i, vaddr);
            } else if self.pages[i << TLB_BITS | Self::slot(vaddr)].vpage == vpage {
                self.clear_entry(i, Self::slot(vaddr));
                self.filled[i].retain(|&s| usize::from(s) != Self::slot(vaddr));
            }
        }
        let none = self.never();
        let frame = self.memory_block.frame();
        // The page may be part of a larger one: drop jumps into the whole 1 GiB around rather than ask.
        let any_large = self.large.iter().any(|&l| l);
        let shift = if any_large { 30 } else { 12 };
        for (entry, meta) in frame.jump_cache.iter().zip(&self.jump_meta) {
            if meta.pc >> shift == vaddr >> shift {
                entry.key.store(none, Ordering::Relaxed);
            }
        }
        self.clear_return_stack();
    }

    fn flush_covering(&mut self, i: usize, vaddr: u64) {
        let mut filled = std::mem::take(&mut self.filled[i]);
        filled.retain(|&slot| {
            let p = self.pages[i << TLB_BITS | usize::from(slot)];
            let covered = p.vpage >> p.page_bits == vaddr >> p.page_bits;
            if covered {
                self.clear_entry(i, usize::from(slot));
            }
            !covered
        });
        self.filled[i] = filled;
    }

    // ---- jump cache and return stack ----

    /// A key that no PC has under the current lookup key, as good as certainly.
    fn never(&self) -> u64 {
        mix(self.secret ^ 0x6e65_7665_7200)
    }

    fn new_generation(&mut self) {
        self.generation += 1;
        self.nonglobal_jumps.clear();
        self.update_lookup_key();
    }

    fn update_lookup_key(&mut self) {
        let key = mix(self.secret ^ mix(self.generation) ^ mix(self.mode ^ self.secret.rotate_left(17)));
        // SAFETY: the frame belongs to this vCPU, whose thread this is, and no translated code runs.
        unsafe { (*self.frame_mut()).lookup_key = key };
    }

    /// Sets the mode word that lookups are made under.
    pub(crate) fn set_mode(&mut self, mode: u64) {
        if mode != self.mode {
            self.mode = mode;
            self.update_lookup_key();
        }
    }

    pub(crate) fn lookup_key(&self) -> u64 {
        self.frame().lookup_key
    }

    fn clear_return_stack(&mut self) {
        let none = self.never();
        for e in &self.frame().return_stack {
            e.key.store(none, Ordering::Relaxed);
        }
        const { assert!(RETURN_STACK_ENTRIES.is_power_of_two()) };
    }

    /// Code for `pc` under the current mode, if the jump cache has it.
    pub(crate) fn cached_code(&self, pc: u64) -> Option<u64> {
        let e: &JumpEntry = &self.frame().jump_cache
            [rhea_backend_x64::layout::jump_cache_index(pc, crate::frame::JUMP_CACHE_BITS as u8)];
        (e.key.load(Ordering::Relaxed) == pc ^ self.lookup_key()).then(|| e.code.load(Ordering::Relaxed))
    }

    /// Enters code for `pc` under the current mode in the jump cache.
    pub(crate) fn cache_code(&mut self, pc: u64, code: u64, global: bool) {
        let i = rhea_backend_x64::layout::jump_cache_index(pc, crate::frame::JUMP_CACHE_BITS as u8);
        let key = pc ^ self.lookup_key();
        let none = self.never();
        let e = &self.frame().jump_cache[i];
        e.key.store(none, Ordering::Relaxed);
        e.code.store(code, Ordering::Relaxed);
        e.key.store(key, Ordering::Release);
        self.jump_meta[i].pc = pc;
        if !global {
            if self.nonglobal_jumps.len() >= 1 << crate::frame::JUMP_CACHE_BITS {
                self.nonglobal_jumps.sort_unstable();
                self.nonglobal_jumps.dedup();
            }
            self.nonglobal_jumps.push(i as u16);
        }
    }

    /// Whether the page is global, for [`Env::cache_code`].
    pub(crate) fn is_global(page: &PageRef) -> bool {
        page.global
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
        Ok(())
    }

    /// Loads within a page that is known.
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

    /// Reads guest-physical memory or a device, little-endian; ones where nothing answers.
    pub fn read_phys(&mut self, addr: u64, size: u32) -> u64 {
        let memory = &self.memory;
        self.float.with_host_default(|| memory.read(addr, size as usize))
    }

    /// Writes guest-physical memory or a device.
    pub fn write_phys(&mut self, addr: u64, size: u32, value: u64) {
        let memory = &self.memory;
        self.float.with_host_default(|| memory.write(addr, size as usize, value));
        if self.shared.wants_flush() {
            self.flush_tlb_all();
        }
    }

    /// Atomically replaces `old` by `new` in RAM at a naturally aligned guest-physical address (4 or 8 bytes). False
    /// if the memory does not hold `old`; true without effect if it is not RAM that takes writes.
    pub fn cas_phys(&mut self, addr: u64, size: u32, old: u64, new: u64) -> bool {
        let (host, _, writable) = self.resolve(addr & PAGE_MASK);
        if host == 0 || !writable || !addr.is_multiple_of(u64::from(size)) {
            return true;
        }
        host_cas(host + (addr % PAGE) as usize, size, old, new) == old
    }

    /// Reads an I/O port; ones where nothing answers.
    pub fn io_read(&mut self, port: u16, size: u32) -> u32 {
        let io = &self.io;
        self.float.with_host_default(|| io.read(u64::from(port), size as usize) as u32)
    }

    /// Writes an I/O port.
    pub fn io_write(&mut self, port: u16, size: u32, value: u32) {
        let io = &self.io;
        self.float.with_host_default(|| io.write(u64::from(port), size as usize, u64::from(value)));
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

/// Loads 1, 2, 4 or 8 bytes at a host address inside guest RAM.
pub(crate) fn host_load(host: usize, size: u32) -> u64 {
    // SAFETY: `host..host + size` lies in one page of a RAM block kept alive by the caller's Env; guest RAM is only
    // accessed atomically or by translated code outside the Rust memory model. Unaligned accesses use volatile reads.
    unsafe {
        match size {
            1 => u64::from(AtomicU8::from_ptr(host as *mut u8).load(Ordering::Relaxed)),
            2 if host.is_multiple_of(2) => {
                u64::from(AtomicU16::from_ptr(host as *mut u16).load(Ordering::Relaxed))
            }
            4 if host.is_multiple_of(4) => {
                u64::from(AtomicU32::from_ptr(host as *mut u32).load(Ordering::Relaxed))
            }
            8 if host.is_multiple_of(8) => AtomicU64::from_ptr(host as *mut u64).load(Ordering::Relaxed),
            2 => u64::from((host as *const u16).read_unaligned()),
            4 => u64::from((host as *const u32).read_unaligned()),
            _ => (host as *const u64).read_unaligned(),
        }
    }
}

/// Stores 1, 2, 4 or 8 bytes at a host address inside guest RAM.
pub(crate) fn host_store(host: usize, size: u32, value: u64) {
    // SAFETY: as in `host_load`; the page is RAM that takes writes.
    unsafe {
        match size {
            1 => AtomicU8::from_ptr(host as *mut u8).store(value as u8, Ordering::Relaxed),
            2 if host.is_multiple_of(2) => {
                AtomicU16::from_ptr(host as *mut u16).store(value as u16, Ordering::Relaxed);
            }
            4 if host.is_multiple_of(4) => {
                AtomicU32::from_ptr(host as *mut u32).store(value as u32, Ordering::Relaxed);
            }
            8 if host.is_multiple_of(8) => {
                AtomicU64::from_ptr(host as *mut u64).store(value, Ordering::Relaxed);
            }
            2 => (host as *mut u16).write_unaligned(value as u16),
            4 => (host as *mut u32).write_unaligned(value as u32),
            _ => (host as *mut u64).write_unaligned(value),
        }
    }
}

/// Compares and swaps 1, 2, 4 or 8 bytes at a naturally aligned host address; returns the old value.
pub(crate) fn host_cas(host: usize, size: u32, old: u64, new: u64) -> u64 {
    use Ordering::SeqCst;
    debug_assert!(host.is_multiple_of(size as usize));
    fn either<T: Into<u64>>(r: Result<T, T>) -> u64 {
        r.unwrap_or_else(|v| v).into()
    }
    // SAFETY: as in `host_store`, and aligned as the caller checked.
    unsafe {
        match size {
            1 => either(
                AtomicU8::from_ptr(host as *mut u8).compare_exchange(old as u8, new as u8, SeqCst, SeqCst),
            ),
            2 => either(
                AtomicU16::from_ptr(host as *mut u16)
                    .compare_exchange(old as u16, new as u16, SeqCst, SeqCst),
            ),
            4 => either(
                AtomicU32::from_ptr(host as *mut u32)
                    .compare_exchange(old as u32, new as u32, SeqCst, SeqCst),
            ),
            _ => either(AtomicU64::from_ptr(host as *mut u64).compare_exchange(old, new, SeqCst, SeqCst)),
        }
    }
}

/// Compares and swaps 16 bytes; `None` if the host cannot or the address is not aligned.
#[cfg(target_arch = "x86_64")]
pub(crate) fn host_cas128(host: usize, old: u128, new: u128) -> Option<u128> {
    if !host.is_multiple_of(16) || !std::arch::is_x86_feature_detected!("cmpxchg16b") {
        return None;
    }
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: the processor has the instruction; the address is aligned and inside a page of RAM that takes writes.
    // RBX, which LLVM reserves, is swapped in and out around it.
    unsafe {
        std::arch::asm!(
            "xchg {new_low}, rbx",
            "lock cmpxchg16b [{at}]",
            "mov rbx, {new_low}",
            new_low = inout(reg) new as u64 => _,
            at = in(reg) host,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    Some(u128::from(low) | u128::from(high) << 64)
}

/// Compares and swaps 16 bytes; `None` if the host cannot.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn host_cas128(_: usize, _: u128, _: u128) -> Option<u128> {
    None
}
