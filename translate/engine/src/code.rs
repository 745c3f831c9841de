//! The cache of units, shared by all vCPUs: lookup, insertion, chaining, invalidation, eviction.
//!
//! One mutex (the code lock) protects everything; it is taken to translate, to look a unit up when the vCPU's own
//! jump cache does not know it, to link, and to write to a page that holds code. Lock order: code lock, then the list
//! of vCPUs. Nothing that may wait for a vCPU is called with the code lock held.
//!
//! Pages and writes to them are in [`crate::pages`], stopping all vCPUs in [`crate::world`].
//!
//! # Memory
//! Code space is a ring of segments, filled one after the other; when it is full the oldest segment is emptied while
//! all vCPUs are outside translated code (`Engine::exclusive`). A dropped unit's code stays where it is until then:
//! another vCPU may still be running it, as the architecture allows until it serializes. Nothing leads into or out of
//! it any more: jumps to it and its own jumps (landing stubs on return stacks included) go to the dispatcher.
//! Units kept as IR are bounded by the size of code space too, the oldest going first.
//!
//! # Jump caches
//! A vCPU enters an address in its jump cache after it has let go of the code lock. `Engine::drops` counts dropped
//! units: the dropper counts and then takes the address out of all jump caches, the vCPU enters it and then looks at
//! the count, so that one of the two sees the other.

use crate::context::VcpuContext;
use crate::env::{PAGE, PageRef};
use crate::frame;
use crate::guest::{Access, Guest, Leave};
use crate::icount::InstructionCounter;
pub(crate) use crate::interpret::Interpreted;
use crate::pages::CodePage;
use crate::trace::Trace;
use crate::vcpu::VcpuShared;
use crate::world::World;
use parking_lot::{Condvar, Mutex};
use rhea_backend_x64::{
    Compiler, Features, HelperTarget, Layout, MAX_HOT, MemoryModel, PatchSite, ThunkAddresses,
};
use rhea_host::mapping::DualMapping;
use rhea_ir::{HelperInfo, Inst, Unit};
use rhea_memory::RamBlock;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;
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
    /// vCPUs take turns: never do two of them execute at a time (`thread=single`).
    pub take_turns: bool,
    /// Never chain units: each returns to the dispatcher.
    pub no_chain: bool,
    /// Run each unit in the interpreter first and compare.
    pub lockstep: bool,
    /// Units that start outside this range of PCs are interpreted: for finding the unit that is compiled wrongly.
    pub baseline_range: Option<RangeInclusive<u64>>,
    /// Counts instructions and turns them into virtual time. Engines that count run one vCPU.
    pub icount: Option<Arc<InstructionCounter>>,
    /// Where `-d` output goes.
    pub trace: Trace,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            code_bytes: 64 << 20,
            tier: Tier::Baseline,
            max_insns: 64,
            take_turns: false,
            no_chain: false,
            lockstep: false,
            baseline_range: None,
            icount: None,
            trace: Trace::default(),
        }
    }
}

/// The engine could not be made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// No thread to time the vCPUs' turns.
    #[error("cannot make a thread")]
    Thread(#[source] std::io::Error),
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

pub(crate) struct Record {
    key: Key,
    /// No two units have the same.
    serial: u64,
    /// Offset of the first byte in its page, and bytes covered.
    offset: u32,
    len: u32,
    pub insns: u32,
    /// Second page, if the unit's bytes reach into it, else 0.
    page2: usize,
    /// Offset in code space and length; length 0 for an interpreted unit.
    pub code: (usize, usize),
    ir: Option<Arc<Interpreted>>,
    first_site: u32,
    sites: u32,
    incoming: Vec<u32>,
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

pub(crate) struct Segment {
    pub start: usize,
    pub end: usize,
    /// (code offset, unit) in order of offset.
    pub units: Vec<(usize, u32)>,
    /// Jumps that can be linked; identifier `segment << SITE_BITS | index`. They go when the segment is emptied.
    sites: Vec<Site>,
}

pub(crate) struct CodeState {
    map: Map<Key, u32>,
    pub pages: Map<usize, CodePage>,
    /// The newest version given to a page.
    pub versions: u64,
    pub units: Vec<Option<Record>>,
    free_units: Vec<u32>,
    serials: u64,
    /// Units kept as IR, oldest first: number, serial and approximate bytes. Some may be gone.
    interpreted: VecDeque<(u32, u64, usize)>,
    interpreted_bytes: usize,
    pub segments: Vec<Segment>,
    current: usize,
    cursor: usize,
    /// Incremented by each eviction: identifiers from before it may have been reused.
    epoch: u64,
    compiler: Compiler,
}

/// The engine of one machine.
pub struct Engine {
    guest: &'static dyn Guest,
    config: EngineConfig,
    secret: u64,
    helpers: Vec<HelperInfo>,
    space: DualMapping,
    thunks: ThunkAddresses,
    pub(crate) code: Mutex<CodeState>,
    /// Units dropped so far.
    drops: AtomicU64,
    pub(crate) vcpus: Mutex<Vec<Arc<VcpuShared>>>,
    pub(crate) world: Mutex<World>,
    pub(crate) world_changed: Condvar,
    /// RAM blocks that units were made from or TLB entries point into; they live as long as the engine.
    pub(crate) blocks: Arc<Mutex<Vec<Arc<RamBlock>>>>,
}

/// A unit to run.
pub(crate) enum Found {
    /// Host address of its code.
    Code {
        address: u64,
        unit: u32,
        /// Its bytes reach into a second page, whose mapping has been checked.
        crosses: bool,
        epoch: u64,
        /// `Engine::drops` when it was found.
        drops: u64,
        /// Its IR, in lockstep.
        ir: Option<Arc<Interpreted>>,
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
        let size = ((bytes - THUNK_BYTES) / SEGMENTS) & !63;
        let segments = (0..SEGMENTS)
            .map(|i| {
                let start = THUNK_BYTES + i * size;
                Segment { start, end: start + size, units: Vec::new(), sites: Vec::new() }
            })
            .collect();
        let engine = Arc::new(Engine {
            guest,
            secret: random_secret(),
            helpers: guest.helpers().iter().map(|h| h.info).collect(),
            thunks,
            code: Mutex::new(CodeState {
                map: Map::default(),
                pages: Map::default(),
                versions: 0,
                units: Vec::new(),
                free_units: Vec::new(),
                serials: 0,
                interpreted: VecDeque::new(),
                interpreted_bytes: 0,
                segments,
                current: 0,
                cursor: THUNK_BYTES,
                epoch: 0,
                compiler: Compiler::new(layout, targets),
            }),
            space,
            drops: AtomicU64::new(0),
            blocks: Arc::default(),
            vcpus: Mutex::new(Vec::new()),
            world: Mutex::new(World::default()),
            world_changed: Condvar::new(),
            config,
        });
        if engine.config.take_turns {
            let weak = Arc::downgrade(&engine);
            std::thread::Builder::new()
                .name("turns".into())
                .spawn(move || Engine::time_turns(weak))
                .map_err(EngineError::Thread)?;
        }
        Ok(engine)
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

    /// Target PC of the jump `exit`, just taken by a vCPU that still counts as running.
    pub(crate) fn site_pc(&self, exit: u32) -> u64 {
        match self.code.lock().site(exit) {
            Some(site) => site.pc,
            None => unreachable!("exit {exit:#x} is of a segment that was emptied while its code ran"),
        }
    }

    pub(crate) fn enter_address(&self) -> u64 {
        self.thunks.enter
    }

    /// Adds a vCPU; false if there cannot be another.
    pub(crate) fn register(&self, vcpu: &Arc<VcpuShared>) -> bool {
        let mut vcpus = self.vcpus.lock();
        let alone = self.config.icount.is_some() || self.config.lockstep;
        let room = !alone || vcpus.is_empty();
        if room {
            vcpus.push(vcpu.clone());
        }
        room
    }

    /// First address of translated code.
    pub(crate) fn code_base(&self) -> u64 {
        self.space.executable() as u64
    }

    /// Units dropped so far.
    pub(crate) fn drops(&self) -> u64 {
        self.drops.load(Ordering::SeqCst)
    }

    // ---- units ----

    pub(crate) fn drop_unit(&self, code: &mut CodeState, unit: u32) {
        let Some(record) = code.units[unit as usize].take() else { return };
        code.free_units.push(unit);
        code.map.remove(&record.key);
        for page in [record.key.page, record.page2] {
            if page != 0 {
                code.uncover(page, unit);
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
            let (at, to) = (site.displacement, site.stub);
            site.unit = NO_UNIT;
            if linked != NO_UNIT {
                // A landing stub may still be on a return stack: it must not lead to what the target was.
                self.patch(at, to);
                if let Some(target) = code.units[linked as usize].as_mut() {
                    target.incoming.retain(|&i| i != s);
                }
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

    /// Takes a unit's code out of every vCPU's jump cache.
    fn forget_jumps(&self, pc: u64, address: u64) {
        let index = rhea_backend_x64::jump_cache_index(pc, frame::JUMP_CACHE_BITS as u8);
        self.drops.fetch_add(1, Ordering::SeqCst);
        for vcpu in self.vcpus.lock().iter() {
            let e = &vcpu.memory.frame().jump_cache[index];
            if e.code.load(Ordering::Acquire) == address {
                e.key.store(self.never(), Ordering::SeqCst);
            }
        }
    }

    pub(crate) fn never(&self) -> u64 {
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
        &self,
        cx: &mut VcpuContext,
        pc: u64,
        mode: u64,
    ) -> Result<(Found, PageRef), Leave> {
        let vaddr = self.guest.fetch_address(pc, mode);
        let index = self.guest.fetch_index(mode);
        for _ in 0..RETRIES {
            let page = cx.page(vaddr, Access::Fetch, index)?;
            if page.host == 0 {
                break;
            }
            let key = Key { page: page.host, pc, mode };
            if let Some(found) = self.find(cx, key, vaddr, index)? {
                return Ok((found, page));
            }
            let started = Instant::now();
            let made = self.translate_and_insert(cx, key, (vaddr % PAGE) as u32);
            cx.stats.translate_ns += started.elapsed().as_nanos() as u64;
            match made? {
                Insert::Done(found) => return Ok((found, page)),
                Insert::Changed => {}
                Insert::Full(segment) => self.make_room(cx, segment),
                Insert::Unkept => break,
            }
        }
        let page = cx.page(vaddr, Access::Fetch, index)?;
        Ok((Found::Interpret(self.translate_once(cx, pc, mode, 1, &page)?), page))
    }

    fn translate_and_insert(&self, cx: &mut VcpuContext, key: Key, offset: u32) -> Result<Insert, Leave> {
        self.translate(cx, key.pc, key.mode, self.config.max_insns)?;
        Ok(self.insert(cx, key, offset))
    }

    /// Translates into `cx.builder`.
    fn translate(&self, cx: &mut VcpuContext, pc: u64, mode: u64, max_insns: u32) -> Result<(), Leave> {
        cx.env.fetched.clear();
        let mut builder = std::mem::take(&mut cx.builder);
        builder.start(pc);
        let result = self.guest.translate(cx, &mut builder, pc, mode, max_insns);
        cx.builder = builder;
        result
    }

    /// Translates without entering the unit in the cache.
    pub(crate) fn translate_once(
        &self,
        cx: &mut VcpuContext,
        pc: u64,
        mode: u64,
        max_insns: u32,
        page: &PageRef,
    ) -> Result<Arc<Interpreted>, Leave> {
        self.translate(cx, pc, mode, max_insns)?;
        let offset = (self.guest.fetch_address(pc, mode) % PAGE) as usize;
        let host = if page.host == 0 { 0 } else { page.host + offset };
        Ok(Arc::new(Interpreted::new(cx.builder.unit.clone(), host, 0, false)))
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
        let second = cx.page((vaddr | (PAGE - 1)).wrapping_add(1), Access::Fetch, index)?;
        let mut code = self.code.lock();
        let Some(&unit) = code.map.get(&key) else { return Ok(None) };
        match &code.units[unit as usize] {
            Some(record) if record.page2 == second.host => Ok(Some(self.found(&code, unit, record))),
            _ => {
                self.drop_unit(&mut code, unit);
                Ok(None)
            }
        }
    }

    fn found(&self, code: &CodeState, unit: u32, record: &Record) -> Found {
        match &record.ir {
            Some(ir) if record.code.1 == 0 => Found::Interpret(ir.clone()),
            _ => Found::Code {
                address: self.code_base() + record.code.0 as u64,
                unit,
                crosses: record.page2 != 0,
                epoch: code.epoch,
                drops: self.drops.load(Ordering::Relaxed),
                ir: record.ir.clone(),
            },
        }
    }

    /// Enters the unit in `cx.builder`, compiling it if the tier says so.
    fn insert(&self, cx: &mut VcpuContext, key: Key, offset: u32) -> Insert {
        let unit = &cx.builder.unit;
        debug_assert_eq!(rhea_ir::verify(unit, &self.helpers), Ok(()));
        let page2 = if offset + unit.len > PAGE as u32 {
            // Code in device memory, or one page seen twice in a row, is not kept.
            match cx.env.fetched.iter().find(|f| f.0 != key.page) {
                Some(&(host, _)) if host != 0 => host,
                _ => return Insert::Unkept,
            }
        } else {
            0
        };
        let mut guard = self.code.lock();
        let code = &mut *guard;
        let unchanged = |&(host, version): &(usize, u64)| {
            code.pages.get(&host).is_some_and(|p| p.version == version) || host == 0
        };
        if !cx.env.fetched.iter().any(|f| f.0 == key.page) || !cx.env.fetched.iter().all(unchanged) {
            return Insert::Changed;
        }
        if let Some(&unit) = code.map.get(&key)
            && let Some(record) = &code.units[unit as usize]
            && record.page2 == page2
        {
            return Insert::Done(self.found(code, unit, record));
        }
        if let Some(&stale) = code.map.get(&key) {
            self.drop_unit(code, stale);
        }
        let number = code.free_units.pop().unwrap_or(code.units.len() as u32);
        if number as usize == code.units.len() {
            code.units.push(None);
        }
        code.serials += 1;
        let mut record = Record {
            key,
            serial: code.serials,
            offset,
            len: unit.len,
            insns: unit.insn_count,
            page2,
            code: (0, 0),
            ir: None,
            first_site: 0,
            sites: 0,
            incoming: Vec::new(),
        };
        let tier = if self.compiles(key.pc) { Tier::Baseline } else { Tier::Interpreter };
        let compiled = match tier {
            Tier::Baseline => match self.compile(code, unit, number, &mut record) {
                Ok(done) => done,
                Err(Full) => {
                    code.free_units.push(number);
                    return Insert::Full(code.current);
                }
            },
            Tier::Interpreter => false,
        };
        cx.stats.unsupported += u64::from(!compiled && tier == Tier::Baseline);
        if !compiled || self.config.lockstep {
            record.ir =
                Some(Arc::new(Interpreted::new(unit.clone(), key.page + offset as usize, page2, true)));
        }
        if self.config.trace.traces_units() {
            let guest_code = record.guest_code();
            self.config.trace.unit(self, unit, key.mode, &guest_code, self.code_bytes_of(&record));
        }
        cx.stats.units += 1;
        cx.stats.translated_insns += u64::from(unit.insn_count);
        cx.stats.code_bytes += record.code.1 as u64;
        let bytes = unit.insts.len() * size_of::<Inst>() + 512;
        self.enter_record(code, number, record, bytes)
    }

    /// Whether units at `pc` are compiled.
    fn compiles(&self, pc: u64) -> bool {
        self.config.tier == Tier::Baseline
            && self.config.baseline_range.as_ref().is_none_or(|range| range.contains(&pc))
    }

    /// Enters a finished unit in the tables.
    fn enter_record(&self, code: &mut CodeState, number: u32, record: Record, ir_bytes: usize) -> Insert {
        for page in [record.key.page, record.page2] {
            if page != 0 {
                code.cover(page, number, record.range_in(page));
            }
        }
        code.map.insert(record.key, number);
        let done = Insert::Done(self.found(code, number, &record));
        let kept_as_ir = record.ir.is_some().then_some(record.serial);
        code.units[number as usize] = Some(record);
        if let Some(serial) = kept_as_ir {
            code.interpreted.push_back((number, serial, ir_bytes));
            code.interpreted_bytes += ir_bytes;
            while code.interpreted_bytes > self.config.code_bytes
                && let Some((unit, serial, bytes)) = code.interpreted.pop_front()
            {
                code.interpreted_bytes -= bytes;
                if code.units[unit as usize].as_ref().is_some_and(|r| r.serial == serial) {
                    self.drop_unit(code, unit);
                }
                if code.interpreted.len().is_multiple_of(1024) {
                    Self::forget_empty_pages(code);
                }
            }
        }
        done
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
        if compiled.code.len() > segment.end - segment.start {
            return Ok(false);
        }
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
        let Some(source) = code.units[site.unit as usize].as_ref().map(|r| r.key) else { return };
        let Some(target) = code.units.get_mut(unit as usize).and_then(Option::as_mut) else { return };
        // The same virtual page, not just the same memory: its mapping is what the source was entered by.
        let (from, to) = (self.guest.fetch_address(source.pc, source.mode), target.vaddr(self.guest));
        if from / PAGE != to / PAGE {
            return;
        }
        let expected = Key { pc: site.pc, ..source };
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

    /// Moves on from segment `full` to the next, emptying it.
    fn make_room(&self, cx: &mut VcpuContext, full: usize) {
        let shared = cx.env.shared.clone();
        self.exclusive(&shared, || {
            let mut guard = self.code.lock();
            let code = &mut *guard;
            if code.current != full {
                // Another vCPU was faster.
                return;
            }
            code.current = (code.current + 1) % SEGMENTS;
            let segment = &mut code.segments[code.current];
            code.cursor = segment.start;
            let units = std::mem::take(&mut segment.units);
            if units.is_empty() {
                return;
            }
            cx.stats.evictions += 1;
            for (start, unit) in units {
                if code.units[unit as usize].as_ref().is_some_and(|r| r.code.0 == start) {
                    self.drop_unit(code, unit);
                }
            }
            code.segments[code.current].sites.clear();
            code.epoch += 1;
            Self::forget_empty_pages(code);
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
}

struct Full;

enum Insert {
    Done(Found),
    /// The code was written meanwhile.
    Changed,
    /// This segment has no room.
    Full(usize),
    /// Not a unit that can be kept.
    Unkept,
}

impl Record {
    /// Virtual address of the first byte.
    fn vaddr(&self, guest: &dyn Guest) -> u64 {
        guest.fetch_address(self.key.pc, self.key.mode)
    }

    /// The guest code it was made from, as memory holds it now.
    fn guest_code(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for page in [self.key.page, self.page2] {
            let (start, stop) = self.range_in(page);
            bytes.extend((start..stop).map(|at| crate::env::host_load(page + at, 1) as u8));
        }
        bytes
    }

    /// The bytes of the unit that lie in the page at host address `page`: offsets from its start.
    pub(crate) fn range_in(&self, page: usize) -> (usize, usize) {
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

fn layout(guest: &'static dyn Guest, config: &EngineConfig) -> Layout {
    let g = guest.layout();
    let (read, write, stride) = frame::tlb_displacements();
    Layout {
        features: Features::detect(),
        memory: MemoryModel::SoftTlb { read, write, stride, bits: frame::TLB_BITS as u8 },
        pc: g.pc,
        hot: g.hot.iter().take(MAX_HOT).map(|s| s.offset).collect(),
        frame: frame::backend_frame(config.icount.is_some()),
        bias: frame::BIAS,
        thunks: ThunkAddresses::default(),
        memory_function: crate::dispatch::memory_function as *const () as usize as u64,
        longest_insn: g.longest_insn,
        spill_bytes: 4096,
        no_chain: config.no_chain || config.lockstep || config.trace.needs_each_unit(),
    }
}
