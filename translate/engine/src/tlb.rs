//! The soft TLB, the jump cache and the return stack of one vCPU, as the vCPU's own thread fills and flushes them.
//!
//! Translated code probes the tables in the frame; beside them stands what only Rust needs to know: [`PageRef`]s and
//! which pages a jump-cache entry depends on. Flushes cost what was filled, not the size of the tables.

use crate::env::Env;
use crate::frame::{JUMP_CACHE_BITS, JumpEntry, MMU_INDICES, NO_TAG, TLB_BITS, TLB_ENTRIES};
use crate::guest::{Access, Translation};
use rhea_memory::{AddressSpace, PAGE_HAS_CODE, RamBlock, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};

/// Bytes of a guest page as the engine tracks it.
pub const PAGE: u64 = 4096;
pub(crate) const PAGE_MASK: u64 = !(PAGE - 1);

const JUMP_ENTRIES: usize = 1 << JUMP_CACHE_BITS;
/// Buckets of pages that jump-cache entries lie on.
const JUMP_BUCKETS: usize = 1024;

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
    pub(crate) global: bool,
    pub(crate) page_bits: u8,
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
        // (`Engine::blocks`), valid as AtomicU8.
        unsafe { self.flags.as_ref() }
    }
}

/// A range of guest-physical addresses that is RAM or ROM.
struct RamRange {
    start: u64,
    last: u64,
    host: usize,
    flags: *const AtomicU8,
    writable: bool,
}

/// The pages a jump-cache entry depends on.
#[derive(Clone, Copy, Default)]
struct JumpMeta {
    /// Virtual address of the unit.
    vaddr: u64,
    /// Log2 of the page size its translation comes from; 0 for no entry.
    bits: u8,
    /// The same for a second page that the unit reaches into; 0 if it does not.
    second_bits: u8,
    /// Some page it depends on is not global.
    local: bool,
    /// It is in `Tables::noted`.
    noted: bool,
}

impl JumpMeta {
    fn depends_on(&self, vaddr: u64) -> bool {
        let second = (self.vaddr | (PAGE - 1)).wrapping_add(1);
        self.bits != 0 && self.vaddr >> self.bits == vaddr >> self.bits
            || self.second_bits != 0 && second >> self.second_bits == vaddr >> self.second_bits
    }

    /// The second page, if there is one.
    fn second(&self) -> Option<u64> {
        (self.second_bits != 0).then(|| (self.vaddr | (PAGE - 1)).wrapping_add(1))
    }

    /// The entry depends on pages of 4 KiB only.
    fn is_plain(&self) -> bool {
        self.bits == 12 && matches!(self.second_bits, 0 | 12)
    }
}

/// Which half of the address space an address is in.
fn half(vaddr: u64) -> usize {
    (vaddr >> 63) as usize
}

/// Addresses from the first to the last byte of some pages.
#[derive(Clone, Copy)]
struct Span {
    low: u64,
    high: u64,
}

impl Span {
    const EMPTY: Span = Span { low: u64::MAX, high: 0 };

    fn add(&mut self, vaddr: u64, bits: u8) {
        let size_mask = (1u64 << bits) - 1;
        self.low = self.low.min(vaddr & !size_mask);
        self.high = self.high.max(vaddr | size_mask);
    }

    fn contains(&self, vaddr: u64) -> bool {
        (self.low..=self.high).contains(&vaddr)
    }
}

/// What Rust knows beside the tables in the frame.
pub(crate) struct Tables {
    pages: Vec<PageRef>,
    /// Which entries are in use, one bit each, for each MMU index.
    filled: [[u64; TLB_ENTRIES / 64]; MMU_INDICES],
    /// Where pages larger than 4 KiB have entries.
    large: [Span; MMU_INDICES],
    /// MMU indices that the guest uses.
    indices: usize,
    jumps: Vec<JumpMeta>,
    /// Number of entries of `jumps` that depend on a 4 KiB page and on no larger one, by the page's address modulo the
    /// buckets.
    jump_pages: [u16; JUMP_BUCKETS],
    /// Where the others lie, in the lower and in the upper half of the address space: many guests keep the kernel,
    /// with its large pages, in one of them.
    jump_others: [Span; 2],
    /// Jump-cache entries that `jumps` knows of, each once.
    noted: Vec<u16>,
    /// RAM ranges met since `ram_generation`.
    ram: Vec<RamRange>,
    ram_generation: u64,
    /// See `Engine::blocks`.
    blocks: Arc<parking_lot::Mutex<Vec<Arc<RamBlock>>>>,
}

// SAFETY: the raw pointers in PageRef and RamRange point into RAM blocks kept alive by `blocks`, which any thread may
// access atomically.
unsafe impl Send for Tables {}

impl Tables {
    pub fn new(indices: usize, blocks: Arc<parking_lot::Mutex<Vec<Arc<RamBlock>>>>) -> Self {
        Tables {
            pages: vec![NOTHING; MMU_INDICES * TLB_ENTRIES],
            filled: [[0; TLB_ENTRIES / 64]; MMU_INDICES],
            large: [Span::EMPTY; MMU_INDICES],
            indices,
            jumps: vec![JumpMeta::default(); JUMP_ENTRIES],
            jump_pages: [0; JUMP_BUCKETS],
            jump_others: [Span::EMPTY; 2],
            noted: Vec::new(),
            ram: Vec::new(),
            ram_generation: 0,
            blocks,
        }
    }

    fn bucket(vaddr: u64) -> usize {
        (vaddr >> 12) as usize % JUMP_BUCKETS
    }

    fn forget_jump(&mut self, i: usize) {
        let noted = self.jumps[i].noted;
        let old = std::mem::replace(&mut self.jumps[i], JumpMeta { noted, ..JumpMeta::default() });
        if old.is_plain() {
            for vaddr in std::iter::once(old.vaddr).chain(old.second()) {
                self.jump_pages[Self::bucket(vaddr)] -= 1;
            }
        }
    }

    fn note_jump(&mut self, i: usize, meta: JumpMeta) {
        self.forget_jump(i);
        if !self.jumps[i].noted {
            self.noted.push(i as u16);
        }
        self.jumps[i] = JumpMeta { noted: true, ..meta };
        let pages = [(Some(meta.vaddr), meta.bits), (meta.second(), meta.second_bits)];
        for (vaddr, bits) in pages.into_iter().filter_map(|(vaddr, bits)| Some((vaddr?, bits))) {
            if meta.is_plain() {
                self.jump_pages[Self::bucket(vaddr)] += 1;
            } else {
                self.jump_others[half(vaddr)].add(vaddr, bits);
            }
        }
    }

    /// Looks an address up in the flat view: RAM at `phys` (a page address) as host address, flag byte and whether it
    /// takes writes.
    fn resolve(&mut self, memory: &AddressSpace, phys: u64) -> (usize, *const AtomicU8, bool) {
        let generation = memory.generation();
        if generation != self.ram_generation {
            self.ram.clear();
            self.ram_generation = generation;
        }
        if let Some(r) = self.ram.iter().find(|r| (r.start..=r.last).contains(&phys)) {
            let delta = (phys - r.start) as usize;
            // SAFETY: the range has a flag byte for each of its pages, and `phys` is in it.
            let flags = unsafe { r.flags.add(delta / PAGE as usize) };
            return (r.host + delta, flags, r.writable);
        }
        const NONE: (usize, *const AtomicU8, bool) = (0, std::ptr::null(), false);
        let view = memory.view();
        let Some(range) = view.lookup(phys) else { return NONE };
        let Target::Ram { block, offset, writable, .. } = &range.target else { return NONE };
        // The whole pages within the range.
        let skip = range.start.wrapping_neg() % PAGE;
        if range.len < skip {
            return NONE;
        }
        let (start, pages) = (range.start + skip, (range.len - skip) / PAGE);
        if pages == 0 || phys < start || phys - start >= pages * PAGE || !(offset + skip).is_multiple_of(PAGE)
        {
            return NONE;
        }
        {
            let mut blocks = self.blocks.lock();
            if !blocks.iter().any(|b| Arc::ptr_eq(b, block)) {
                blocks.push(block.clone());
            }
        }
        let at = offset + skip;
        let found = RamRange {
            start,
            last: start + (pages * PAGE - 1),
            host: block.host_ptr() as usize + at as usize,
            flags: block.page_flags(at / PAGE),
            writable: *writable,
        };
        drop(view);
        if self.ram.len() >= 16 {
            self.ram.clear();
        }
        self.ram.push(found);
        self.resolve(memory, phys)
    }
}

fn mix(mut x: u64) -> u64 {
    // The finalizer of MurmurHash3: every input bit reaches every output bit.
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

fn slot(vaddr: u64) -> usize {
    (vaddr >> 12) as usize & (TLB_ENTRIES - 1)
}

impl Env {
    // ---- soft TLB ----

    /// The page behind `vaddr` if the TLB knows it and permits the access.
    pub fn page(&self, vaddr: u64, access: Access, index: u8) -> Option<PageRef> {
        let p = &self.tables.pages[(usize::from(index) << TLB_BITS) | slot(vaddr)];
        (p.vpage == vaddr & PAGE_MASK && p.permits(access)).then_some(*p)
    }

    /// What stands at a guest-physical page: host address (0 if not RAM), flag byte, whether it takes writes.
    pub(crate) fn resolve(&mut self, phys: u64) -> (usize, *const AtomicU8, bool) {
        let memory = &self.memory;
        self.tables.resolve(memory, phys)
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
            page_bits: t.page_bits.min(63),
        };
        if t.page_bits >= 12 {
            self.store_entry(&page, index);
        }
        page
    }

    fn store_entry(&mut self, page: &PageRef, index: u8) {
        let i = usize::from(index);
        debug_assert!(i < self.tables.indices, "MMU index {i} not announced by the guest's layout");
        let slot = slot(page.vpage);
        self.tables.filled[i][slot / 64] |= 1 << (slot % 64);
        self.tables.pages[i << TLB_BITS | slot] = *page;
        if page.page_bits > 12 {
            self.tables.large[i].add(page.vpage, page.page_bits);
        }
        let tables = &self.memory_block.frame().tlb[i];
        let addend = (page.host as u64).wrapping_sub(page.vpage);
        let read = &tables.read[slot];
        let write = &tables.write[slot];
        read.addend.store(addend, Ordering::Relaxed);
        let readable = page.host != 0 && page.perms & READ != 0;
        read.tag.store(if readable { page.vpage } else { NO_TAG }, Ordering::Relaxed);
        // Another thread that sees the new addend sees no tag but the new one.
        write.tag.store(NO_TAG, Ordering::Relaxed);
        write.addend.store(addend, Ordering::Release);
        self.arm_write(page, index);
    }

    /// Lets translated code store to the page directly, if it may.
    pub(crate) fn arm_write(&mut self, page: &PageRef, index: u8) {
        let (i, slot) = (usize::from(index), slot(page.vpage));
        let direct = WRITE | WRITABLE_RAM;
        let tag = &self.memory_block.frame().tlb[i].write[slot].tag;
        if page.perms & direct != direct
            || page.has_code()
            || tag.load(Ordering::Relaxed) == page.vpage
            || self.tables.pages[i << TLB_BITS | slot].vpage != page.vpage
        {
            return;
        }
        tag.store(page.vpage, Ordering::Release);
        // A translator on another thread sets the flag and then looks for such entries; we set the entry and then
        // look at the flag: one of the two sees the other.
        fence(Ordering::SeqCst);
        if page.has_code() {
            tag.store(NO_TAG, Ordering::Relaxed);
        }
    }

    fn clear_entry(&mut self, i: usize, slot: usize) {
        self.tables.filled[i][slot / 64] &= !(1 << (slot % 64));
        self.tables.pages[i << TLB_BITS | slot].vpage = NO_TAG;
        let tables = &self.memory_block.frame().tlb[i];
        tables.read[slot].tag.store(NO_TAG, Ordering::Relaxed);
        tables.write[slot].tag.store(NO_TAG, Ordering::Relaxed);
    }

    /// Clears the entries of an MMU index that `doomed` picks.
    fn clear_entries(&mut self, i: usize, doomed: impl Fn(&PageRef) -> bool) {
        for word in 0..TLB_ENTRIES / 64 {
            let mut bits = self.tables.filled[i][word];
            while bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if doomed(&self.tables.pages[i << TLB_BITS | slot]) {
                    self.clear_entry(i, slot);
                }
            }
        }
    }

    /// Forgets every translation.
    pub fn flush_tlb_all(&mut self) {
        for index in 0..self.tables.indices {
            self.flush_tlb_index(index as u8);
        }
        self.new_generation();
        // Jumps within a page are not looked up: have the dispatcher look at where they lead now.
        self.shared.memory.frame().poll.store(1, Ordering::SeqCst);
    }

    /// Forgets every translation of one MMU index. (Instruction fetches of it are only forgotten by
    /// [`Env::flush_tlb_all`] and the like; use those where fetches matter.)
    pub fn flush_tlb_index(&mut self, index: u8) {
        self.clear_entries(usize::from(index), |_| true);
        self.tables.large[usize::from(index)] = Span::EMPTY;
    }

    /// Forgets every translation that is not global.
    pub fn flush_tlb_nonglobal(&mut self) {
        for i in 0..self.tables.indices {
            self.clear_entries(i, |p| !p.global);
        }
        let mut noted = std::mem::take(&mut self.tables.noted);
        let none = self.never();
        noted.retain(|&j| {
            let i = usize::from(j);
            let meta = self.tables.jumps[i];
            if meta.bits != 0 && !meta.local {
                return true;
            }
            self.frame().jump_cache[i].key.store(none, Ordering::Relaxed);
            self.tables.forget_jump(i);
            self.tables.jumps[i].noted = false;
            false
        });
        self.tables.noted = noted;
        self.clear_return_stack();
    }

    /// Forgets the translation of the page of `vaddr`, global or not, in every MMU index.
    pub fn flush_tlb_page(&mut self, vaddr: u64) {
        let vpage = vaddr & PAGE_MASK;
        for i in 0..self.tables.indices {
            if self.tables.large[i].contains(vaddr) {
                self.clear_entries(i, |p| p.vpage >> p.page_bits == vaddr >> p.page_bits);
            } else if self.tables.pages[i << TLB_BITS | slot(vaddr)].vpage == vpage {
                self.clear_entry(i, slot(vaddr));
            }
        }
        if self.tables.jump_pages[Tables::bucket(vaddr)] != 0
            || self.tables.jump_others[half(vaddr)].contains(vaddr)
        {
            let none = self.never();
            for n in 0..self.tables.noted.len() {
                let i = usize::from(self.tables.noted[n]);
                if self.tables.jumps[i].depends_on(vaddr) {
                    self.frame().jump_cache[i].key.store(none, Ordering::Relaxed);
                    self.tables.forget_jump(i);
                }
            }
        }
        self.clear_return_stack();
    }

    // ---- jump cache and return stack ----

    /// A key that no PC has under the current lookup key, as good as certainly.
    fn never(&self) -> u64 {
        mix(self.secret ^ 0x6e65_7665_7200)
    }

    pub(crate) fn new_generation(&mut self) {
        self.generation += 1;
        for i in std::mem::take(&mut self.tables.noted) {
            self.tables.jumps[usize::from(i)] = JumpMeta::default();
        }
        self.tables.jump_pages.fill(0);
        self.tables.jump_others = [Span::EMPTY; 2];
        self.update_lookup_key();
    }

    fn update_lookup_key(&mut self) {
        let key = mix(self.secret ^ mix(self.generation) ^ mix(self.mode ^ self.secret.rotate_left(17)));
        // SAFETY: the frame belongs to this vCPU, whose thread this is; translated code, if it waits for a helper,
        // reads the key anew at each use.
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
    }

    fn jump_entry(&self, pc: u64) -> (usize, &JumpEntry) {
        let i = rhea_backend_x64::jump_cache_index(pc, JUMP_CACHE_BITS as u8);
        (i, &self.frame().jump_cache[i])
    }

    /// Code for `pc` under the current mode, if the jump cache has it.
    pub(crate) fn cached_code(&self, pc: u64) -> Option<u64> {
        let (_, e) = self.jump_entry(pc);
        (e.key.load(Ordering::Relaxed) == pc ^ self.lookup_key()).then(|| e.code.load(Ordering::Relaxed))
    }

    /// As [`Env::cached_code`], if a direct jump cannot be linked to it since it reaches into a second page.
    pub(crate) fn cached_unlinkable(&self, pc: u64) -> Option<u64> {
        let (i, _) = self.jump_entry(pc);
        if self.tables.jumps[i].second_bits == 0 { None } else { self.cached_code(pc) }
    }

    /// Enters code at `vaddr` for `pc` under the current mode in the jump cache. `page` and `second` are the pages it
    /// depends on; `still` says, after the fact, whether it stands.
    pub(crate) fn cache_code(
        &mut self,
        (pc, vaddr): (u64, u64),
        code: u64,
        page: &PageRef,
        second: Option<&PageRef>,
        still: impl FnOnce() -> bool,
    ) {
        if page.page_bits < 12 || second.is_some_and(|p| p.page_bits < 12) {
            return;
        }
        let key = pc ^ self.lookup_key();
        let none = self.never();
        let (i, e) = self.jump_entry(pc);
        e.key.store(none, Ordering::Relaxed);
        e.code.store(code, Ordering::Relaxed);
        e.key.store(key, Ordering::Release);
        fence(Ordering::SeqCst);
        if !still() {
            e.key.store(none, Ordering::Relaxed);
            return;
        }
        let second_bits = second.map_or(0, |p| p.page_bits);
        let local = !page.global || second.is_some_and(|p| !p.global);
        let bits = page.page_bits;
        self.tables.note_jump(i, JumpMeta { vaddr, bits, second_bits, local, noted: true });
    }
}
