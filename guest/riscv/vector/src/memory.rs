//! Loads and stores (vector specification, "Vector Loads and Stores").

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::HartConfig;

use crate::elements::{Element, File, bit, by_sew};
use crate::execute::Illegal;
use crate::legality::{self, Registers};
use crate::vtype::{Vtype, elements};

/// A hart with its memory, by virtual address.
pub trait Memory {
    /// Why an access failed; the implementation has noted the exception.
    type Fault;

    /// The hart's registers.
    fn state(&mut self) -> &mut RiscvState;

    /// Loads `size` (1, 2, 4 or 8) bytes, little-endian.
    ///
    /// # Errors
    /// The access faults.
    fn load(&mut self, address: u64, size: u32) -> Result<u64, Self::Fault>;

    /// Stores `size` bytes.
    ///
    /// # Errors
    /// The access faults.
    fn store(&mut self, address: u64, size: u32, value: u64) -> Result<(), Self::Fault>;

    /// Whether a load would succeed, for what may fail without a trap. Notes no exception.
    fn can_load(&mut self, address: u64, size: u32) -> bool;

    /// Loads a run of elements of `size` bytes each at once if that is the same as one by one; false, without effect,
    /// if it is not, or might fault.
    fn load_run(&mut self, address: u64, size: u32, out: &mut [u8]) -> bool {
        let _ = (address, size, out);
        false
    }

    /// Loads elements of `size` bytes one after the other for as long as nothing can go wrong: `next` tells the address of
    /// each and the byte of the vector registers where it goes. True if `next` has no more; else the last one told has not
    /// been loaded.
    fn load_elements(
        &mut self,
        size: u32,
        next: &mut impl FnMut(&RiscvState) -> Option<(u64, usize)>,
    ) -> bool {
        let _ = size;
        next(self.state()).is_none()
    }

    /// As [`Memory::load_elements`], a store.
    fn store_elements(
        &mut self,
        size: u32,
        next: &mut impl FnMut(&RiscvState) -> Option<(u64, usize)>,
    ) -> bool {
        let _ = size;
        next(self.state()).is_none()
    }

    /// As [`Memory::load_run`], to byte `at` of the vector registers; false where a buffer is needed.
    fn load_registers(&mut self, address: u64, size: u32, at: usize, len: usize) -> bool {
        let _ = (address, size, at, len);
        false
    }

    /// As [`Memory::load_registers`], a store.
    fn store_registers(&mut self, address: u64, size: u32, at: usize, len: usize) -> bool {
        let _ = (address, size, at, len);
        false
    }

    /// As [`Memory::load_run`], a store.
    fn store_run(&mut self, address: u64, size: u32, bytes: &[u8]) -> bool {
        let _ = (address, size, bytes);
        false
    }
}

/// Which element is next.
struct Cursor {
    i: usize,
    field: usize,
    count: usize,
    fields: usize,
    masked: bool,
    /// Element `i` has been told, and is done when the next is asked for.
    told: bool,
}

impl Cursor {
    /// The next active element, its address and its byte of the vector registers.
    fn next(&mut self, st: &RiscvState, places: &Places) -> Option<(u64, usize)> {
        if std::mem::replace(&mut self.told, true) {
            self.field += 1;
            if self.field == self.fields {
                (self.i, self.field) = (self.i + 1, 0);
            }
        }
        if self.field == 0 && self.masked {
            while self.i < self.count && !bit(&st.v.0, 0, self.i) {
                self.i += 1;
            }
        }
        let more = self.i < self.count;
        more.then(|| (places.address(&st.v.0, self.i, self.field), places.register(self.i, self.field)))
    }

    /// Goes on with element `i`.
    fn go_on(&mut self, i: usize) {
        (self.i, self.field, self.told) = (i, 0, false);
    }
}

/// How the addresses of elements follow from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// One after the other.
    UnitStride,
    /// As `UnitStride`; only a fault at element 0 is taken, one at a later element cuts vl.
    FaultOnlyFirst,
    /// A number of bytes apart, which is handed to [`load`] and [`store`].
    Strided,
    /// At the offsets in vs2, whose width is the instruction's; data has SEW.
    Indexed,
    /// Mask registers: as many bytes as vl elements have bits.
    Mask,
    /// Whole registers, whatever vtype and vl are.
    Whole,
}

/// A load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// How elements are addressed.
    pub addressing: Addressing,
    /// Binary logarithm of the width in the instruction, in bytes, 0 to 3.
    pub width: u8,
    /// Fields of a segment, or whole registers, 1 to 8.
    pub fields: u8,
    /// First register of the data (vd or vs3).
    pub vd: u8,
    /// Registers of indices.
    pub vs2: u8,
    /// Only elements whose bit in v0 is set are moved.
    pub masked: bool,
}

impl Transfer {
    /// A bit beside those of [`Transfer::to_bits`]: the transfer is known to be legal.
    pub const LEGAL: u64 = 1 << 32;

    /// As one number, to be passed on by translated code.
    pub const fn to_bits(self) -> u64 {
        self.addressing as u64
            | (self.width as u64 & 3) << 3
            | ((self.fields as u64 - 1) & 7) << 5
            | (self.vd as u64 & 31) << 8
            | (self.vs2 as u64 & 31) << 13
            | (self.masked as u64) << 18
    }

    /// From [`Transfer::to_bits`].
    pub const fn from_bits(bits: u64) -> Transfer {
        Transfer {
            addressing: match bits & 7 {
                0 => Addressing::UnitStride,
                1 => Addressing::FaultOnlyFirst,
                2 => Addressing::Strided,
                3 => Addressing::Indexed,
                4 => Addressing::Mask,
                _ => Addressing::Whole,
            },
            width: (bits >> 3 & 3) as u8,
            fields: (bits >> 5 & 7) as u8 + 1,
            vd: (bits >> 8 & 31) as u8,
            vs2: (bits >> 13 & 31) as u8,
            masked: bits >> 18 & 1 != 0,
        }
    }
}

/// Why a load or store did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop<F> {
    /// It is reserved in this state; nothing has changed.
    Illegal,
    /// An element faulted; vstart is its number, elements before it are done.
    Fault(F),
}

impl<F> From<Illegal> for Stop<F> {
    fn from(Illegal: Illegal) -> Self {
        Stop::Illegal
    }
}

/// What a transfer comes to under vtype.
#[derive(Clone, Copy)]
struct Plan {
    /// Binary logarithm of an element's bytes.
    width: u8,
    /// Registers from one field to the next.
    registers: u8,
    fields: u8,
    /// Elements of each field.
    count: usize,
}

/// Whether vtype allows the transfer, whatever vl and vstart are. `is_load`: overlaps matter.
pub fn is_legal(config: &HartConfig, vtype: u64, t: &Transfer, is_load: bool) -> bool {
    plan(config, vtype, 0, t, is_load).is_ok()
}

fn plan(config: &HartConfig, vtype: u64, vl: u64, t: &Transfer, is_load: bool) -> Result<Plan, Illegal> {
    if 8u32 << t.width > config.elen && t.addressing != Addressing::Whole {
        return Err(Illegal);
    }
    if t.addressing == Addressing::Whole {
        let fits =
            t.fields.is_power_of_two() && t.vd.is_multiple_of(t.fields) && 8u32 << t.width <= config.elen;
        let count = ((config.vlen as usize / 8) >> t.width) * usize::from(t.fields);
        let plan = Plan { width: t.width, registers: t.fields, fields: 1, count };
        return if fits { Ok(plan) } else { Err(Illegal) };
    }
    let vt = Vtype::parse(config, vtype).ok_or(Illegal)?;
    let vl = vl.min(vt.vlmax(config));
    if t.addressing == Addressing::Mask {
        return Ok(Plan { width: 0, registers: 1, fields: 1, count: vl.div_ceil(8) as usize });
    }
    let indexed = t.addressing == Addressing::Indexed;
    let of_width = Registers {
        first: if indexed { t.vs2 } else { t.vd },
        emul: t.width as i8 - vt.sew as i8 + vt.lmul,
        eew: t.width as i8,
    };
    let data = if indexed { Registers { first: t.vd, emul: vt.lmul, eew: vt.sew as i8 } } else { of_width };
    if !data.is_aligned() || !of_width.is_aligned() {
        return Err(Illegal);
    }
    let all = data.count() * t.fields;
    let fits = all <= 8 && t.vd + all <= 32;
    let width = if indexed { vt.sew } else { t.width };
    debug_assert!(vl <= elements(config, width, data.emul));
    let result = Plan { width, registers: data.count(), fields: t.fields, count: vl as usize };
    if !t.masked && !indexed {
        // No other register takes part.
        return if fits { Ok(result) } else { Err(Illegal) };
    }
    let mask_is_kept = !(is_load && t.masked && t.vd == 0);
    let indices_are_kept = !(indexed && is_load)
        || if t.fields == 1 { data.may_overlap(of_width) } else { !overlaps(t.vd, all, of_width) };
    let mask = t.masked.then_some(Registers::mask(0));
    let sources = [indexed.then_some(of_width), mask, if is_load { None } else { Some(data) }];
    let sources_agree = (0..t.fields).all(|field| {
        let [indices, mask, data] = sources;
        let data = data.map(|d| Registers { first: d.first + field * d.count(), ..d });
        legality::sources_agree(&[indices, mask, data])
    });
    if fits && mask_is_kept && indices_are_kept && sources_agree { Ok(result) } else { Err(Illegal) }
}

/// What [`plan`] says of a transfer that is legal and not of whole registers; nothing if vtype is none.
fn legal_plan(st: &RiscvState, t: &Transfer) -> Option<Plan> {
    if t.addressing == Addressing::Whole {
        return plan(&st.config, st.vtype, st.vl, t, false).ok();
    }
    let vt = Vtype::parse(&st.config, st.vtype)?;
    let vl = st.vl.min(vt.vlmax(&st.config)) as usize;
    if t.addressing == Addressing::Mask {
        return Some(Plan { width: 0, registers: 1, fields: 1, count: vl.div_ceil(8) });
    }
    let width = if t.addressing == Addressing::Indexed { vt.sew } else { t.width };
    let emul = width as i8 - vt.sew as i8 + vt.lmul;
    Some(Plan { width, registers: 1 << emul.clamp(0, 3), fields: t.fields, count: vl })
}

fn overlaps(first: u8, count: u8, other: Registers) -> bool {
    first < other.first + other.count() && other.first < first + count
}

/// Where elements are, in memory and in registers.
struct Places {
    base: u64,
    stride: u64,
    /// Byte offset of the indices, and the binary logarithm of their bytes.
    indices: Option<(usize, u8)>,
    mask: u64,
    /// Byte offset of the data, and from one field to the next.
    d: usize,
    field_step: usize,
    width: u8,
    fields: usize,
}

impl Places {
    fn new(st: &RiscvState, t: &Transfer, plan: &Plan, base: u64, stride: u64) -> Places {
        let bytes = st.config.vlen as usize / 8;
        let segment = u64::from(plan.fields) << plan.width;
        Places {
            base,
            stride: if t.addressing == Addressing::Strided { stride } else { segment },
            indices: (t.addressing == Addressing::Indexed)
                .then(|| (usize::from(t.vs2 % 32) * bytes, t.width)),
            mask: st.config.mask(),
            d: usize::from(t.vd % 32) * bytes,
            field_step: usize::from(plan.registers) * bytes,
            width: plan.width,
            fields: usize::from(plan.fields),
        }
    }

    fn size(&self) -> u32 {
        1 << self.width
    }

    /// Bytes of so many segments.
    fn total(&self, count: usize) -> usize {
        (count * self.fields) << self.width
    }

    fn cursor(&self, t: &Transfer, start: usize, count: usize) -> Cursor {
        Cursor { i: start, field: 0, count, fields: self.fields, masked: t.masked, told: false }
    }

    fn address(&self, v: &File, i: usize, field: usize) -> u64 {
        let offset = match self.indices {
            None => self.stride.wrapping_mul(i as u64),
            Some((at, width)) => by_sew!(width, I => I::load(v, at + i * I::BYTES)),
        };
        self.base.wrapping_add(offset).wrapping_add((field as u64) << self.width) & self.mask
    }

    fn register(&self, i: usize, field: usize) -> usize {
        self.d + field * self.field_step + (i << self.width)
    }
}

/// Most bytes that one run moves. Runs do not cross pages.
const RUN: usize = 256;
const PAGE: u64 = 4096;
/// Fewer bytes are moved by elements: a run has its own cost.
const LONG: usize = 64;
/// The same for loads of which some elements are inactive.
const LONG_MASKED: usize = 16;

/// Segments from element `i` on that lie one after the other within a page.
fn run_length(places: &Places, first: u64, i: usize, count: usize) -> usize {
    let segment = places.fields << places.width;
    let in_page = (PAGE - first % PAGE) as usize / segment;
    (count - i).min(in_page).min(RUN / segment)
}

/// Whether segments follow each other in memory.
fn is_contiguous(t: &Transfer) -> bool {
    !matches!(t.addressing, Addressing::Strided | Addressing::Indexed)
}

/// Loads the segments from element `i` on, as many as are in one run; how many, none if it has to be by elements.
fn load_segments<M: Memory>(
    m: &mut M,
    t: &Transfer,
    places: &Places,
    i: usize,
    count: usize,
) -> Option<usize> {
    let address = places.address(&m.state().v.0, i, 0);
    let n = run_length(places, address, i, count);
    let mut buffer = [0; RUN];
    let bytes = &mut buffer[..(n * places.fields) << places.width];
    if n == 0 {
        return Some(0);
    }
    if !m.load_run(address, places.size(), bytes) {
        return None;
    }
    let v = &mut m.state().v.0;
    by_sew!(places.width, E => {
        for k in 0..n {
            if t.masked && !bit(v, 0, i + k) {
                continue;
            }
            for field in 0..places.fields {
                let value = E::load(bytes, (k * places.fields + field) * E::BYTES);
                E::store(v, places.register(i + k, field), value);
            }
        }
    });
    Some(n)
}

/// Stores the segments from element `i` on, all of which are active; as [`load_segments`].
fn store_segments<M: Memory>(m: &mut M, places: &Places, i: usize, count: usize) -> Option<usize> {
    let address = places.address(&m.state().v.0, i, 0);
    let n = run_length(places, address, i, count);
    let mut buffer = [0; RUN];
    let bytes = &mut buffer[..(n * places.fields) << places.width];
    let v = &m.state().v.0;
    by_sew!(places.width, E => {
        for k in 0..n {
            for field in 0..places.fields {
                let value = E::load(v, places.register(i + k, field));
                E::store(bytes, (k * places.fields + field) * E::BYTES, value);
            }
        }
    });
    if n == 0 || m.store_run(address, places.size(), bytes) { Some(n) } else { None }
}

/// Bytes of a transfer that is legal, begins with element 0, is not masked and moves one run of memory; the most common
/// kind.
fn plain_bytes(st: &RiscvState, t: &Transfer) -> Option<usize> {
    let one_run = t.addressing == Addressing::UnitStride && !t.masked && t.fields == 1 && st.vstart == 0;
    let vt = Vtype::parse(&st.config, st.vtype).filter(|_| one_run && 8 << t.width <= st.config.elen)?;
    let data = Registers { first: t.vd, emul: t.width as i8 - vt.sew as i8 + vt.lmul, eew: t.width as i8 };
    let vl = st.vl.min(vt.vlmax(&st.config)) as usize;
    data.is_aligned().then_some(vl << t.width)
}

/// Moves the bytes of [`plain_bytes`] in runs; false if an access needs to be done by its elements. What has been moved
/// by then may be moved again.
fn plain<M: Memory>(
    m: &mut M,
    t: &Transfer,
    (base, total): (u64, usize),
    mut run: impl FnMut(&mut M, u64, usize, usize) -> bool,
) -> bool {
    let mask = m.state().config.mask();
    let first = usize::from(t.vd % 32) * (m.state().config.vlen as usize / 8);
    let mut done = 0;
    while done < total {
        let address = base.wrapping_add(done as u64) & mask;
        let in_page = (PAGE - address % PAGE) as usize >> t.width << t.width;
        let bytes = (total - done).min(in_page).min(RUN);
        if bytes == 0 || !run(m, address, first + done, bytes) {
            return false;
        }
        done += bytes;
    }
    true
}

/// Who has seen to it that a transfer is legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legality {
    /// The caller, by [`is_legal`].
    Known,
    /// Nobody.
    Unknown,
}

fn begin(
    st: &mut RiscvState,
    t: &Transfer,
    is_load: bool,
    legality: Legality,
) -> Result<(Plan, usize), Illegal> {
    let plan = match legality {
        Legality::Known => legal_plan(st, t).ok_or(Illegal)?,
        Legality::Unknown => plan(&st.config, st.vtype, st.vl, t, is_load)?,
    };
    let start = usize::try_from(st.vstart).unwrap_or(usize::MAX).min(plan.count);
    st.vstart = 0;
    Ok((plan, start))
}

/// Does a load. `base` is rs1, `stride` rs2 of strided ones.
///
/// # Errors
/// The instruction is reserved, or an element faulted.
pub fn load<M: Memory>(
    m: &mut M,
    t: Transfer,
    base: u64,
    stride: u64,
    legality: Legality,
) -> Result<(), Stop<M::Fault>> {
    if let Some(total) = plain_bytes(m.state(), &t) {
        let done = plain(m, &t, (base, total), |m, address, at, bytes| {
            if m.load_registers(address, 1 << t.width, at, bytes) {
                return true;
            }
            let mut buffer = [0; RUN];
            let buffer = &mut buffer[..bytes];
            let loaded = m.load_run(address, 1 << t.width, buffer);
            if loaded && let Some(out) = m.state().v.0.get_mut(at..at + bytes) {
                out.copy_from_slice(buffer);
            }
            loaded
        });
        if done {
            return Ok(());
        }
    }
    let (plan, start) = begin(m.state(), &t, true, legality)?;
    let places = Places::new(m.state(), &t, &plan, base, stride);
    // One by one, elements that may be inactive are the slower.
    let long = if t.masked { LONG_MASKED } else { LONG };
    let mut contiguous = is_contiguous(&t) && places.total(plan.count - start) >= long;
    let mut cursor = places.cursor(&t, start, plan.count);
    loop {
        while contiguous && cursor.field == 0 && cursor.i < plan.count {
            match load_segments(m, &t, &places, cursor.i, plan.count) {
                // The next one crosses pages.
                Some(0) => break,
                Some(n) => cursor.go_on(cursor.i + n),
                None => contiguous = false,
            }
        }
        if m.load_elements(places.size(), &mut |st| cursor.next(st, &places)) {
            return Ok(());
        }
        let (i, field) = (cursor.i, cursor.field);
        let address = places.address(&m.state().v.0, i, field);
        let cuts = t.addressing == Addressing::FaultOnlyFirst && i != 0;
        if cuts && !m.can_load(address, places.size()) {
            m.state().vl = i as u64;
            return Ok(());
        }
        let value = match m.load(address, places.size()) {
            Ok(value) => value,
            Err(fault) => {
                m.state().vstart = i as u64;
                return Err(Stop::Fault(fault));
            }
        };
        let at = places.register(i, field);
        by_sew!(places.width, E => E::store(&mut m.state().v.0, at, value));
    }
}

/// Does a store. `base` is rs1, `stride` rs2 of strided ones.
///
/// # Errors
/// The instruction is reserved, or an element faulted.
pub fn store<M: Memory>(
    m: &mut M,
    t: Transfer,
    base: u64,
    stride: u64,
    legality: Legality,
) -> Result<(), Stop<M::Fault>> {
    if let Some(total) = plain_bytes(m.state(), &t) {
        let done = plain(m, &t, (base, total), |m, address, at, bytes| {
            if m.store_registers(address, 1 << t.width, at, bytes) {
                return true;
            }
            let mut buffer = [0; RUN];
            let buffer = &mut buffer[..bytes];
            if let Some(from) = m.state().v.0.get(at..at + bytes) {
                buffer.copy_from_slice(from);
            }
            m.store_run(address, 1 << t.width, buffer)
        });
        if done {
            return Ok(());
        }
    }
    let (plan, start) = begin(m.state(), &t, false, legality)?;
    let places = Places::new(m.state(), &t, &plan, base, stride);
    let mut contiguous = is_contiguous(&t) && !t.masked && places.total(plan.count - start) >= LONG;
    let mut cursor = places.cursor(&t, start, plan.count);
    loop {
        while contiguous && cursor.field == 0 && cursor.i < plan.count {
            match store_segments(m, &places, cursor.i, plan.count) {
                Some(0) => break,
                Some(n) => cursor.go_on(cursor.i + n),
                None => contiguous = false,
            }
        }
        if m.store_elements(places.size(), &mut |st| cursor.next(st, &places)) {
            return Ok(());
        }
        let (i, field) = (cursor.i, cursor.field);
        let address = places.address(&m.state().v.0, i, field);
        let at = places.register(i, field);
        let value = by_sew!(places.width, E => E::load(&m.state().v.0, at));
        if let Err(fault) = m.store(address, places.size(), value) {
            m.state().vstart = i as u64;
            return Err(Stop::Fault(fault));
        }
    }
}
