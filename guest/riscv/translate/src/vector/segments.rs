//! Segment loads and stores of whole vectors: blocks of memory, and shuffles of their bytes between blocks and fields.

use rhea_ir::{Lane, Op, Slot, Type, Val};
use rhea_riscv_vector::memory::{Addressing, Transfer};

use crate::vector::emit::Emitter;
use crate::vector::permutes::{BYTES, NONE};

/// Most shuffles that are worth their code.
const MOST: u32 = 64;

/// What one transfer moves.
struct Segments {
    fields: u32,
    /// Pieces of 16 bytes of each field. As many runs of blocks, of `fields` blocks each, hold them.
    pieces: u32,
    /// Binary logarithm of an element's bytes.
    width: u8,
    /// Byte of the state where the first field's data begins, and from one field to the next.
    data: u32,
    field_step: u32,
}

impl Segments {
    fn piece(&self, field: u32, piece: u32) -> Slot {
        Slot { offset: self.data + field * self.field_step + piece * BYTES as u32, ty: Type::V128 }
    }

    /// Which byte of block `block` of a run is byte `at` of the run's piece of `field`; [`NONE`] if it lies in another.
    fn in_block(&self, field: u32, block: u32, at: u8) -> u8 {
        let (element, byte) = (u32::from(at) >> self.width, u32::from(at) & ((1 << self.width) - 1));
        let place = ((element * self.fields + field) << self.width) + byte;
        if place / BYTES as u32 == block { (place % BYTES as u32) as u8 } else { NONE }
    }

    /// Which byte of the run's piece of `field` is byte `at` of block `block`; [`NONE`] if it is another field's.
    fn in_field(&self, field: u32, block: u32, at: u8) -> u8 {
        let place = block * BYTES as u32 + u32::from(at);
        let (element, byte) = (place >> self.width, place & ((1 << self.width) - 1));
        if element % self.fields == field {
            (((element / self.fields) << self.width) + byte) as u8
        } else {
            NONE
        }
    }
}

impl Emitter<'_> {
    /// Translates a transfer that is legal, not masked, begins with element 0, and whose fields are whole vectors; false if
    /// this is not such a one.
    pub(crate) fn segments(&mut self, t: Transfer, rs1: u8, is_load: bool) -> bool {
        let Some(s) = self.blocks(t) else { return false };
        let base = self.x(rs1);
        if is_load {
            self.load_segments(&s, base);
        } else {
            self.store_segments(&s, base);
        }
        true
    }

    fn load_segments(&mut self, s: &Segments, base: Val) {
        // All of it, before a register changes: a fault begins the instruction anew.
        let blocks: Vec<Val> = (0..s.fields * s.pieces)
            .map(|i| {
                let at = self.block_address(base, i);
                self.b.load(Type::V128, at, self.mem)
            })
            .collect();
        for field in 0..s.fields {
            let selectors = self.selectors(s, |block, at| s.in_block(field, block, at));
            for (piece, run) in blocks.chunks(s.fields as usize).enumerate() {
                let value = self.shuffled_together(run, &selectors);
                self.b.put(s.piece(field, piece as u32), value);
            }
        }
    }

    fn store_segments(&mut self, s: &Segments, base: Val) {
        let runs: Vec<Vec<Val>> = (0..s.pieces)
            .map(|piece| (0..s.fields).map(|field| self.b.get(s.piece(field, piece))).collect())
            .collect();
        let mut blocks = vec![Val::NONE; (s.fields * s.pieces) as usize];
        for block in 0..s.fields {
            let selectors = self.selectors(s, |field, at| s.in_field(field, block, at));
            for (piece, run) in runs.iter().enumerate() {
                blocks[piece * s.fields as usize + block as usize] = self.shuffled_together(run, &selectors);
            }
        }
        for (i, value) in blocks.into_iter().enumerate() {
            let at = self.block_address(base, i as u32);
            self.b.store(at, value, self.mem);
        }
    }

    /// For each value of a run what its bytes are selected by; nothing where none is.
    fn selectors(&mut self, s: &Segments, byte: impl Fn(u32, u8) -> u8) -> Vec<Option<Val>> {
        (0..s.fields)
            .map(|i| {
                let is_empty = (0..BYTES as u8).all(|at| byte(i, at) == NONE);
                (!is_empty).then(|| self.selector(|at| byte(i, at)))
            })
            .collect()
    }

    fn shuffled_together(&mut self, run: &[Val], selectors: &[Option<Val>]) -> Val {
        let mut all = None;
        for (value, selector) in run.iter().zip(selectors) {
            let Some(selector) = *selector else { continue };
            let part = self.shuffled(*value, selector);
            all = Some(match all {
                None => part,
                Some(before) => self.op(Op::VOr, Lane::None, before, part),
            });
        }
        all.expect("each byte comes from some value")
    }

    fn block_address(&mut self, base: Val, block: u32) -> Val {
        let at = self.b.lea(base, Val::NONE, 0, u64::from(block) * BYTES);
        self.wrapped(at)
    }

    fn blocks(&self, t: Transfer) -> Option<Segments> {
        let (_, vtype) = self.known.vtype?;
        let bytes = self.elements()? << t.width;
        let fields = u32::from(t.fields);
        if t.addressing != Addressing::UnitStride || t.masked || fields < 2 || !bytes.is_multiple_of(BYTES) {
            return None;
        }
        let pieces = (bytes / BYTES) as u32;
        if pieces == 0 || fields * fields * pieces > MOST {
            return None;
        }
        let emul = t.width as i8 - vtype.sew as i8 + vtype.lmul;
        // The data of a field takes a whole register at least.
        let field_step = (self.config.vlen / 8) << emul.max(0);
        Some(Segments { fields, pieces, width: t.width, data: self.register(t.vd), field_step })
    }
}
