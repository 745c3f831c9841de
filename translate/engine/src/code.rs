//! The cache of units, shared by all vCPUs: lookup, insertion, chaining, invalidation, eviction.
//!
//! One mutex (the code lock) protects everything; it is taken to translate, to look a unit up when the vCPU's own
//! jump cache does not know it, to link, and to write to a page that holds code. Lock order: code lock, then the list
//! of vCPUs. Nothing that may wait for a vCPU is called with the code lock held.
//!
//! # Pages
//! A page that code was fetched from has `PAGE_HAS_CODE` set and no entry in any write TLB, so that every store to it
//! comes through [`Engine::write_code_page`]. It bumps the page's version and drops the units whose bytes it hits. A
//! translation notes the versions of the pages it reads and is thrown away if they changed before it is entered.
//!
//! # Memory
//! Code space is a ring of segments, filled one after the other; when it is full the oldest segment is emptied while
//! all vCPUs are outside translated code ([`Engine::exclusive`]). A dropped unit's code stays where it is until then:
//! another vCPU may still be running it, as the architecture allows until it serializes.

use crate::context::VcpuContext;
use crate::env::{PAGE, PageRef};
use crate::frame::{self, Frame};
use crate::guest::{Guest, Leave};
use crate::stats::Stats;
use crate::trace::Trace;
use crate::vcpu::{VcpuShared, request};
use parking_lot::{Condvar, Mutex};
use rhea_backend_x64::{
    Compiler, Features, HelperTarget, Layout, MAX_HOT, MemoryModel, PatchSite, ThunkAddresses,
};
use rhea_host::mapping::DualMapping;
use rhea_ir::{HelperInfo, Unit};
use rhea_memory::{PAGE_HAS_CODE, RamBlock, WriteObserver};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use thiserror::Error;

/// Which tier runs units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Tier 0: the interpreter of the IR.
    Interpreter,
    /// Tier 1: compiled host code.
    Baseline,
}

/// Settings of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Bytes of code space (`tb-size`), at least 1 MiB.
    pub code_bytes: usize,
    /// The tier.
    pub tier: Tier,
    /// Most guest instructions in a unit.
    pub max_insns: u32,
    /// Never chain units: each returns to the dispatcher.
    pub no_chain: bool,
    /// Run each unit in the interpreter first and compare.
    pub lockstep: bool,
    /// Count instructions.
    pub icount: bool,
    /// Where `-d` output goes.
    pub trace: Trace,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            code_bytes: 64 << 20,
            tier: Tier::Baseline,
            max_insns: 64,
            no_chain: false,
            lockstep: false,
            icount: false,
            trace: Trace::default(),
        }
    }
}

/// The engine could not be made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No memory for translated code.
    #[error("cannot map {bytes} bytes for translated code")]
    Map {
        /// Size asked for.
        bytes: usize,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// A multiplicative hasher for keys of a few words.
#[derive(Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(23) ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_usize(&mut self, v: usize) {
        self.write_u64(v as u64);
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<WordHasher>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Host address of the page of the first byte.
    page: usize,
    pc: u64,
    mode: u64,
}

const NO_UNIT: u32 = u32::MAX;

struct Record {
    key: Key,
    /// Offset of the first byte in its page, and bytes covered.
    offset: u32,
    len: u32,
    insns: u32,
    /// Second page, if the unit's bytes reach into it, else 0.
    page2: usize,
    /// Offset in code space and length; length 0 for an interpreted unit.
    code: (usize, usize),
    ir: Option<Arc<Interpreted>>,
    first_site: u32,
    sites: u32,
    incoming: Vec<u32>,
}

/// A unit for the interpreter.
pub(crate) struct Interpreted {
    pub unit: Unit,
    /// Cleared when the unit's code was written.
    pub valid: AtomicBool,
    /// Host address of its first byte.
    pub host: usize,
}

#[derive(Clone, Copy)]
struct Site {
    /// Offset in code space of the jump's displacement, and of its stub.
    displacement: usize,
    stub: usize,
    pc: u64,
    unit: u32,
    linked: u32,
}

#[derive(Default)]
struct CodePage {
    units: Vec<u32>,
    /// One bit for each 64 bytes that some unit covers.
    granules: u64,
    version: u64,
}

struct Segment {
    start: usize,
    end: usize,
    /// (code offset, unit) in order of offset.
    units: Vec<(usize, u32)>,
    /// Jumps that can be linked; identifier `segment << SITE_BITS | index`. They go when the segment is emptied.
    sites: Vec<Site>,
}

struct CodeState {
    map: Map<Key, u32>,
    pages: Map<usize, CodePage>,
    units: Vec<Option<Record>>,
    free_units: Vec<u32>,
    segments: Vec<Segment>,
    current: usize,
    cursor: usize,
    /// Incremented by each eviction: identifiers from before it may have been reused.
    epoch: u64,
    compiler: Compiler,
}

#[derive(Default)]
struct World {
    held: bool,
}

/// The engine of one machine.
pub struct Engine {
    guest: &'static dyn Guest,
    config: EngineConfig,
    secret: u64,
    helpers: Vec<HelperInfo>,
    space: DualMapping,
    thunks: ThunkAddresses,
    code: Mutex<CodeState>,
    vcpus: Mutex<Vec<Arc<VcpuShared>>>,
    world: Mutex<World>,
    world_changed: Condvar,
}

/// A unit to run.
pub(crate) enum Found {
    /// Host address of its code.
    Code {
        address: u64,
        unit: u32,
        /// May be entered in the jump cache under its PC (does not depend on a second page).
        cacheable: bool,
        epoch: u64,
    },
    /// For the interpreter.
    Interpret(Arc<Interpreted>),
}

const SEGMENTS: usize = 8;
const THUNK_BYTES: usize = 16 << 10;
const RETRIES: u32 = 8;
const SITE_BITS: u32 = 20;

impl CodeState {
    fn site(&mut self, id: u32) -> Option<&mut Site> {
        self.segments
            .get_mut((id >> SITE_BITS) as usize)?
            .sites
            .get_mut((id & ((1 << SITE_BITS) - 1)) as usize)
    }
}

fn random_secret() -> u64 {
    use std::hash::BuildHasher;
    // RandomState is seeded from the system's entropy.
    std::collections::hash_map::RandomState::new().hash_one(0x7268_6561_u64)
}

impl Engine {
    /// An engine for `guest`.
    ///
    /// # Errors
    /// No memory for translated code.
    pub fn new(guest: &'static dyn Guest, config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        let bytes = config.code_bytes.max(1 << 20).next_multiple_of(1 << 16);
        let space =
            DualMapping::new(c"rhea-code", bytes).map_err(|source| EngineError::Map { bytes, source })?;
        let base = space.executable() as u64;
        let mut layout = layout(guest, &config);
        let thunk_code = rhea_backend_x64::thunks::emit_thunks(&layout, base);
        let thunks = thunk_code.addresses;
        layout.thunks = thunks;
        assert!(thunk_code.code.len() <= THUNK_BYTES);
        // SAFETY: the writable view is longer than THUNK_BYTES and nothing else uses it yet.
        unsafe {
            std::ptr::copy_nonoverlapping(thunk_code.code.as_ptr(), space.writable(), thunk_code.code.len());
        }
        let targets = guest
            .helpers()
            .iter()
            .map(|h| HelperTarget { info: h.info, address: h.function as usize as u64 })
            .collect();
        let size = (bytes - THUNK_BYTES) / SEGMENTS & !63;
        let segments = (0..SEGMENTS)
            .map(|i| {
                let start = THUNK_BYTES + i * size;
                Segment { start, end: start + size, units: Vec::new(), sites: Vec::new() }
            })
            .collect();
        Ok(Arc::new(Engine {
            guest,
            secret: random_secret(),
            helpers: guest.helpers().iter().map(|h| h.info).collect(),
            thunks,
            code: Mutex::new(CodeState {
                map: Map::default(),
                pages: Map::default(),
                units: Vec::new(),
                free_units: Vec::new(),
                segments,
                current: 0,
                cursor: THUNK_BYTES,
                epoch: 0,
                compiler: Compiler::new(layout, targets),
            }),
            space,
            vcpus: Mutex::new(Vec::new()),
            world: Mutex::new(World::default()),
            world_changed: Condvar::new(),
            config,
        }))
    }

    /// The guest architecture.
    pub fn guest(&self) -> &'static dyn Guest {
        self.guest
    }

    /// Settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    pub(crate) fn secret(&self) -> u64 {
        self.secret
    }

    pub(crate) fn helpers(&self) -> &[HelperInfo] {
        &self.helpers
    }

    pub(crate) fn enter_address(&self) -> u64 {
        self.thunks.enter
    }

    pub(crate) fn register(&self, vcpu: &Arc<VcpuShared>) {
        self.vcpus.lock().push(vcpu.clone());
    }

    // ---- pages ----

    /// Sees to it that stores to the page come through [`Engine::write_code_page`]; returns the page's version.
    pub(crate) fn watch_page(&self, page: &PageRef) -> u64 {
        let mut code = self.code.lock();
        if let Some(flag) = page.flag()
            && flag.fetch_or(PAGE_HAS_CODE, Ordering::SeqCst) & PAGE_HAS_CODE == 0
        {
            fence(Ordering::SeqCst);
            self.drop_write_entries(page.host as u64);
        }
        code.pages.entry(page.host).or_default().version
    }

    /// Empties every write-TLB entry of every vCPU that leads to the host page.
    fn drop_write_entries(&self, host: u64) {
        for vcpu in self.vcpus.lock().iter() {
            for tables in &vcpu.memory.frame().tlb {
                for e in &tables.write {
                    let tag = e.tag.load(Ordering::Relaxed);
                    if tag != frame::NO_TAG && tag.wrapping_add(e.addend.load(Ordering::Relaxed)) == host {
                        e.tag.store(frame::NO_TAG, Ordering::SeqCst);
                    }
                }
            }
        }
    }

    /// Drops the units that `host..host + len` hits (all in one page), then runs `write`, which does the store.
    pub(crate) fn write_code_page<R>(
        &self,
        host: usize,
        len: usize,
        stats: &mut Stats,
        write: impl FnOnce() -> R,
    ) -> R {
        let mut code = self.code.lock();
        stats.invalidated += self.drop_units_in(&mut code, host, len);
        write()
    }

    /// Drops units that overlap a host range within one page; returns how many.
    fn drop_units_in(&self, code: &mut CodeState, host: usize, len: usize) -> u64 {
        let page_host = host & !(PAGE as usize - 1);
        let Some(page) = code.pages.get_mut(&page_host) else { return 0 };
        page.version += 1;
        let at = host - page_host;
        let end = (at + len).min(PAGE as usize);
        if page.granules & granule_mask(at, end) == 0 {
            return 0;
        }
        let hit: Vec<u32> = page
            .units
            .iter()
            .copied()
            .filter(|&u| {
                code.units[u as usize].as_ref().is_some_and(|r| {
                    let (start, stop) = r.range_in(page_host);
                    start < end && at < stop
                })
            })
            .collect();
        for &unit in &hit {
            self.drop_unit(code, unit);
        }
        hit.len() as u64
    }

    /// Whether a store to `host..host + len` hits the unit whose code contains `return_address`, or `current`, and
    /// that unit has more than one instruction: the instruction must then be executed alone.
    pub(crate) fn hits_running_unit(
        &self,
        host: usize,
        len: usize,
        return_address: u64,
        current: Option<&Interpreted>,
    ) -> bool {
        if let Some(i) = current {
            return i.unit.insn_count > 1 && host < i.host + i.unit.len as usize && i.host < host + len;
        }
        let code = self.code.lock();
        let Some(offset) = return_address.checked_sub(self.space.executable() as u64) else { return false };
        let offset = offset as usize;
        let Some(segment) = code.segments.iter().find(|s| (s.start..s.end).contains(&offset)) else {
            return false;
        };
        let after = segment.units.partition_point(|&(start, _)| start <= offset);
        let Some(&(start, unit)) = after.checked_sub(1).and_then(|i| segment.units.get(i)) else {
            return false;
        };
        let Some(r) = code.units.get(unit as usize).and_then(Option::as_ref) else { return true };
        if r.code.0 != start {
            // The running unit was dropped already: its bytes are unknown, so be safe.
            return true;
        }
        let page = host & !(PAGE as usize - 1);
        let at = host - page;
        let (first, stop) = r.range_in(page);
        r.insns > 1 && first < at + len && at < stop
    }

    /// Drops every unit that overlaps `len` bytes of RAM from host address `host` (any number of pages).
    pub fn ram_changed(&self, host: usize, len: usize) {
        let mut code = self.code.lock();
        let mut at = host;
        let end = host + len;
        while at < end {
            let next = ((at | (PAGE as usize - 1)) + 1).min(end);
            self.drop_units_in(&mut code, at, next - at);
            at = next;
        }
    }

    // ---- units ----

    fn drop_unit(&self, code: &mut CodeState, unit: u32) {
        let Some(record) = code.units[unit as usize].take() else { return };
        code.free_units.push(unit);
        code.map.remove(&record.key);
        for page in [record.key.page, record.page2] {
            if page != 0 {
                self.forget_in_page(code, page, unit);
            }
        }
        for &s in &record.incoming {
            if let Some(site) = code.site(s)
                && site.linked == unit
            {
                site.linked = NO_UNIT;
                let (at, to) = (site.displacement, site.stub);
                self.patch(at, to);
            }
        }
        for s in record.first_site..record.first_site + record.sites {
            let Some(site) = code.site(s) else { continue };
            let linked = std::mem::replace(&mut site.linked, NO_UNIT);
            site.unit = NO_UNIT;
            if linked != NO_UNIT
                && let Some(target) = code.units[linked as usize].as_mut()
            {
                target.incoming.retain(|&i| i != s);
            }
        }
        if let Some(ir) = &record.ir {
            ir.valid.store(false, Ordering::Release);
        }
        if record.code.1 != 0 {
            let address = self.space.executable() as u64 + record.code.0 as u64;
            self.forget_jumps(record.key.pc, address);
        }
    }

    fn forget_in_page(&self, code: &mut CodeState, host: usize, unit: u32) {
        let Some(page) = code.pages.get_mut(&host) else { return };
        page.units.retain(|&u| u != unit);
        let mut granules = 0;
        for &u in &page.units {
            if let Some(r) = &code.units[u as usize] {
                let (start, stop) = r.range_in(host);
                granules |= granule_mask(start, stop);
            }
        }
        page.granules = granules;
    }

    /// Takes a unit's code out of every vCPU's jump cache.
    fn forget_jumps(&self, pc: u64, address: u64) {
        let index = rhea_backend_x64::jump_cache_index(pc, frame::JUMP_CACHE_BITS as u8);
        for vcpu in self.vcpus.lock().iter() {
            let e = &vcpu.memory.frame().jump_cache[index];
            if e.code.load(Ordering::Acquire) == address {
                e.key.store(self.never(), Ordering::SeqCst);
            }
        }
    }

    fn never(&self) -> u64 {
        self.secret.rotate_left(32) ^ 0x6e65_7665_7221
    }

    /// Makes the jump whose displacement is at `at` go to `to` (both offsets in code space).
    fn patch(&self, at: usize, to: usize) {
        debug_assert!(at.is_multiple_of(4));
        let displacement = to.wrapping_sub(at + 4) as u32;
        // SAFETY: `at` is a 4-byte aligned offset of a jump displacement that the compiler reported, inside the
        // writable view. Other threads may be executing the jump: an aligned doubleword store changes it atomically.
        unsafe {
            AtomicU32::from_ptr(self.space.writable().add(at).cast()).store(displacement, Ordering::Release);
        }
    }

    /// Finds or makes the unit at `pc` under `mode`.
    pub(crate) fn find_or_translate(
        self: &Arc<Self>,
        cx: &mut VcpuContext,
        pc: u64,
        mode: u64,
    ) -> Result<(Found, PageRef), Leave> {
        let vaddr = self.guest.fetch_address(pc, mode);
        let index = self.guest.fetch_index(mode);
        for _ in 0..RETRIES {
            let page = cx.page(vaddr, crate::guest::Access::Fetch, index)?;
            if page.host == 0 {
                break;
            }
            let key = Key { page: page.host, pc, mode };
            if let Some(found) = self.find(cx, key, vaddr, index)? {
                return Ok((found, page));
            }
            cx.env.fetched.clear();
            let started = std::time::Instant::now();
            let version = self.watch_page(&page);
            let mut builder = std::mem::take(&mut cx.builder);
            builder.start(pc);
            let result = self.guest.translate(cx, &mut builder, pc, mode, self.config.max_insns);
            cx.builder = builder;
            result?;
            let made = self.insert(cx, key, (vaddr % PAGE) as u32, version);
            cx.stats.translate_ns += started.elapsed().as_nanos() as u64;
            match made {
                Insert::Done(found) => return Ok((found, page)),
                Insert::Changed => {}
                Insert::Full => self.make_room(cx),
            }
        }
        let page = cx.page(vaddr, crate::guest::Access::Fetch, index)?;
        Ok((Found::Interpret(self.translate_once(cx, pc, mode, 1, &page)?), page))
    }

    /// Translates without entering the unit in the cache.
    pub(crate) fn translate_once(
        self: &Arc<Self>,
        cx: &mut VcpuContext,
        pc: u64,
        mode: u64,
        max_insns: u32,
        page: &PageRef,
    ) -> Result<Arc<Interpreted>, Leave> {
        cx.env.fetched.clear();
        let mut builder = std::mem::take(&mut cx.builder);
        builder.start(pc);
        let result = self.guest.translate(cx, &mut builder, pc, mode, max_insns);
        let unit = builder.unit.clone();
        cx.builder = builder;
        result?;
        let host =
            if page.host == 0 { 0 } else { page.host + (self.guest.fetch_address(pc, mode) % PAGE) as usize };
        Ok(Arc::new(Interpreted { unit, valid: AtomicBool::new(false), host }))
    }

    fn find(&self, cx: &mut VcpuContext, key: Key, vaddr: u64, index: u8) -> Result<Option<Found>, Leave> {
        let code = self.code.lock();
        let Some(&unit) = code.map.get(&key) else { return Ok(None) };
        let Some(record) = &code.units[unit as usize] else { return Ok(None) };
        let page2 = record.page2;
        if page2 == 0 {
            return Ok(Some(self.found(&code, unit, record)));
        }
        drop(code);
        // The unit's bytes reach into a second page: its mapping must be what it was.
        let second = cx.page((vaddr | (PAGE - 1)).wrapping_add(1), crate::guest::Access::Fetch, index)?;
        let mut code = self.code.lock();
        match code.map.get(&key) {
            Some(&now) if now == unit && second.host == page2 => {
                let Some(record) = &code.units[unit as usize] else { return Ok(None) };
                Ok(Some(self.found(&code, unit, record)))
            }
            Some(&now) => {
                self.drop_unit(&mut code, now);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn found(&self, code: &CodeState, unit: u32, record: &Record) -> Found {
        match &record.ir {
            Some(ir) if record.code.1 == 0 => Found::Interpret(ir.clone()),
            _ => Found::Code {
                address: self.space.executable() as u64 + record.code.0 as u64,
                unit,
                cacheable: record.page2 == 0,
                epoch: code.epoch,
            },
        }
    }

    /// Enters the unit in `cx.builder`, compiling it if the tier says so.
    fn insert(&self, cx: &mut VcpuContext, key: Key, offset: u32, version: u64) -> Insert {
        let unit = &cx.builder.unit;
        debug_assert_eq!(rhea_ir::verify(unit, &self.helpers), Ok(()));
        let second = cx.env.fetched.iter().copied().find(|&p| p != key.page);
        let crosses = offset + unit.len > PAGE as u32;
        let mut guard = self.code.lock();
        let code = &mut *guard;
        if code.pages.get(&key.page).is_none_or(|p| p.version != version) {
            return Insert::Changed;
        }
        if let Some(&unit) = code.map.get(&key)
            && let Some(record) = &code.units[unit as usize]
        {
            return Insert::Done(self.found(code, unit, record));
        }
        let number = code.free_units.pop().unwrap_or(code.units.len() as u32);
        if number as usize == code.units.len() {
            code.units.push(None);
        }
        let mut record = Record {
            key,
            offset,
            len: unit.len,
            insns: unit.insn_count,
            page2: if crosses { second.unwrap_or(0) } else { 0 },
            code: (0, 0),
            ir: None,
            first_site: 0,
            sites: 0,
            incoming: Vec::new(),
        };
        let compiled = match self.config.tier {
            Tier::Baseline => match self.compile(code, unit, number, &mut record) {
                Ok(done) => done,
                Err(Full) => {
                    code.free_units.push(number);
                    return Insert::Full;
                }
            },
            Tier::Interpreter => false,
        };
        if !compiled {
            cx.stats.unsupported += u64::from(self.config.tier == Tier::Baseline);
            let host = key.page + offset as usize;
            record.ir =
                Some(Arc::new(Interpreted { unit: unit.clone(), valid: AtomicBool::new(true), host }));
        }
        self.config.trace.unit(self, unit, key.mode, self.code_bytes_of(&record));
        cx.stats.units += 1;
        cx.stats.translated_insns += u64::from(unit.insn_count);
        cx.stats.code_bytes += record.code.1 as u64;
        for page in [record.key.page, record.page2] {
            if page != 0 {
                let (start, stop) = record.range_in(page);
                let entry = code.pages.entry(page).or_default();
                entry.units.push(number);
                entry.granules |= granule_mask(start, stop);
            }
        }
        code.map.insert(key, number);
        code.units[number as usize] = Some(record);
        match &code.units[number as usize] {
            Some(record) => Insert::Done(self.found(code, number, record)),
            None => Insert::Changed,
        }
    }

    fn code_bytes_of(&self, record: &Record) -> &[u8] {
        // SAFETY: the range was filled by `compile` and is inside the mapping; nobody else changes it but for
        // four-byte patches, which this reader (a trace) tolerates.
        unsafe { std::slice::from_raw_parts(self.space.executable().add(record.code.0), record.code.1) }
    }

    /// Compiles into code space. `Ok(false)`: the back end does not support an operation.
    fn compile(
        &self,
        code: &mut CodeState,
        unit: &Unit,
        number: u32,
        record: &mut Record,
    ) -> Result<bool, Full> {
        let base = self.space.executable() as u64;
        let CodeState { compiler, segments, current, cursor, .. } = code;
        let at = cursor.next_multiple_of(16);
        let segment = &mut segments[*current];
        let first_site = (*current as u32) << SITE_BITS | segment.sites.len() as u32;
        let Ok(compiled) = compiler.compile(unit, base + at as u64, first_site) else { return Ok(false) };
        if at + compiled.code.len() > segment.end
            || segment.sites.len() + compiled.sites.len() >= 1 << SITE_BITS
        {
            return Err(Full);
        }
        // SAFETY: `at..at + len` lies in the current segment (checked), past everything handed out before.
        unsafe {
            std::ptr::copy_nonoverlapping(
                compiled.code.as_ptr(),
                self.space.writable().add(at),
                compiled.code.len(),
            );
        }
        record.code = (at, compiled.code.len());
        record.first_site = first_site;
        record.sites = compiled.sites.len() as u32;
        for (i, s) in compiled.sites.iter().enumerate() {
            let PatchSite { displacement, stub, pc, exit_id } = *s;
            debug_assert_eq!(exit_id, first_site + i as u32);
            segment.sites.push(Site {
                displacement: at + displacement as usize,
                stub: at + stub as usize,
                pc,
                unit: number,
                linked: NO_UNIT,
            });
        }
        segment.units.push((at, number));
        *cursor = at + compiled.code.len();
        Ok(true)
    }

    /// Links the jump `exit` to `unit`, if both still stand and belong together.
    pub(crate) fn link(&self, exit: u32, unit: u32, epoch: u64) {
        let mut code = self.code.lock();
        let code = &mut *code;
        if code.epoch != epoch {
            return;
        }
        let Some(&mut site) = code.site(exit) else { return };
        if site.unit == NO_UNIT || site.linked != NO_UNIT {
            return;
        }
        let Some((page, mode)) = code.units[site.unit as usize].as_ref().map(|r| (r.key.page, r.key.mode))
        else {
            return;
        };
        let Some(target) = code.units.get_mut(unit as usize).and_then(Option::as_mut) else { return };
        let expected = Key { page, pc: site.pc, mode };
        if target.key != expected || target.page2 != 0 || target.code.1 == 0 {
            return;
        }
        target.incoming.push(exit);
        self.patch(site.displacement, target.code.0);
        if let Some(site) = code.site(exit) {
            site.linked = unit;
        }
    }

    // ---- room ----

    /// Moves on to the next segment, emptying it.
    fn make_room(self: &Arc<Self>, cx: &mut VcpuContext) {
        let shared = cx.env.shared.clone();
        self.exclusive(&shared, || {
            let mut guard = self.code.lock();
            let code = &mut *guard;
            code.current = (code.current + 1) % SEGMENTS;
            let segment = &mut code.segments[code.current];
            code.cursor = segment.start;
            let units = std::mem::take(&mut segment.units);
            if units.is_empty() {
                return;
            }
            for (start, unit) in units {
                if code.units[unit as usize].as_ref().is_some_and(|r| r.code.0 == start) {
                    self.drop_unit(code, unit);
                }
            }
            code.segments[code.current].sites.clear();
            code.epoch += 1;
            // Landing stubs in the emptied segment may be on return stacks.
            for vcpu in self.vcpus.lock().iter() {
                for e in &vcpu.memory.frame().return_stack {
                    e.key.store(self.never(), Ordering::Relaxed);
                }
            }
        });
    }

    /// Drops every unit (debugging, machine reset).
    pub fn drop_all(&self) {
        let mut guard = self.code.lock();
        for unit in 0..guard.units.len() as u32 {
            self.drop_unit(&mut guard, unit);
        }
    }

    // ---- the world ----

    /// This vCPU starts executing; waits while another holds the world.
    pub(crate) fn enter_running(&self, vcpu: &VcpuShared) {
        let mut world = self.world.lock();
        while world.held {
            self.world_changed.wait(&mut world);
        }
        vcpu.running.store(true, Ordering::SeqCst);
    }

    /// This vCPU is not executing any more.
    pub(crate) fn leave_running(&self, vcpu: &VcpuShared) {
        let _world = self.world.lock();
        vcpu.running.store(false, Ordering::SeqCst);
        self.world_changed.notify_all();
    }

    /// Runs `f` while no other vCPU executes. Must be called from the dispatcher (not from inside translated code),
    /// with no lock held.
    pub(crate) fn exclusive<R>(&self, vcpu: &VcpuShared, f: impl FnOnce() -> R) -> R {
        let mut world = self.world.lock();
        vcpu.running.store(false, Ordering::SeqCst);
        self.world_changed.notify_all();
        while world.held {
            self.world_changed.wait(&mut world);
        }
        world.held = true;
        let others: Vec<_> = self.vcpus.lock().iter().filter(|v| v.index != vcpu.index).cloned().collect();
        for v in &others {
            v.request(request::PARK);
        }
        while others.iter().any(|v| v.running.load(Ordering::SeqCst)) {
            self.world_changed.wait(&mut world);
        }
        drop(world);
        let result = f();
        let mut world = self.world.lock();
        for v in &others {
            v.withdraw(request::PARK);
        }
        world.held = false;
        vcpu.running.store(true, Ordering::SeqCst);
        self.world_changed.notify_all();
        result
    }
}

struct Full;

enum Insert {
    Done(Found),
    /// The code was written meanwhile.
    Changed,
    /// The current segment has no room.
    Full,
}

impl Record {
    /// The bytes of the unit that lie in the page at host address `page`: offsets from its start.
    fn range_in(&self, page: usize) -> (usize, usize) {
        let end = (self.offset + self.len) as usize;
        let size = PAGE as usize;
        if page == self.key.page {
            (self.offset as usize, end.min(size))
        } else if page == self.page2 && end > size {
            (0, end - size)
        } else {
            (0, 0)
        }
    }
}

fn granule_mask(start: usize, end: usize) -> u64 {
    if start >= end {
        return 0;
    }
    let (first, last) = (start / 64, (end - 1) / 64);
    let upto = if last >= 63 { u64::MAX } else { (1 << (last + 1)) - 1 };
    upto & (u64::MAX << first)
}

impl WriteObserver for Engine {
    fn ram_written(&self, block: &RamBlock, offset: u64, len: u64) {
        self.ram_changed(block.host_ptr() as usize + offset as usize, len as usize);
    }
}

fn layout(guest: &'static dyn Guest, config: &EngineConfig) -> Layout {
    let g = guest.layout();
    let (read, write, stride) = frame::tlb_displacements();
    let at = Frame::displacement;
    Layout {
        features: Features::detect(),
        memory: MemoryModel::SoftTlb { read, write, stride, bits: frame::TLB_BITS as u8 },
        pc: g.pc,
        hot: g.hot.iter().take(MAX_HOT).map(|s| s.offset).collect(),
        frame: rhea_backend_x64::Frame {
            mem_addr: at(offset_of!(Frame, mem_addr)),
            mem_value: at(offset_of!(Frame, mem_value)),
            mem_value2: at(offset_of!(Frame, mem_value2)),
            mem_desc: at(offset_of!(Frame, mem_desc)),
            poll: at(offset_of!(Frame, poll)),
            leave_reason: at(offset_of!(Frame, leave_reason)),
            lookup_key: at(offset_of!(Frame, lookup_key)),
            context: at(offset_of!(Frame, context)),
            jump_cache: at(offset_of!(Frame, jump_cache)),
            jump_cache_bits: frame::JUMP_CACHE_BITS as u8,
            ras: at(offset_of!(Frame, return_stack)),
            ras_top: at(offset_of!(Frame, return_top)),
            ras_bytes: (frame::RETURN_STACK_ENTRIES * 16) as u32,
            icount: config.icount.then(|| at(offset_of!(Frame, icount))),
        },
        thunks: ThunkAddresses::default(),
        memory_function: crate::dispatch::memory_function as *const () as usize as u64,
        spill_bytes: 4096,
        no_chain: config.no_chain || config.lockstep || config.trace.needs_each_unit(),
    }
}
