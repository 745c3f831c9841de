//! Accesses that touch memory lane by lane: masked moves and gathers. Helpers do them, on registers by number.

use iced_x86::{OpKind, Register};
use rhea_ir::{Type, Val};
use rhea_x86_state::state::{gpr, seg};

use crate::operand::{Place, gpr_part, segment_index};
use crate::translator::Translator;
use crate::vector_helpers as vh;

/// VMASKMOVPS/PD, VPMASKMOVD/Q: lanes whose mask has its sign bit set are loaded (others zero) or stored.
fn masked(t: &mut Translator<'_>, lane_bytes: u64) {
    let store = t.is_memory(0);
    let (data, mask) = if store { (2, 1) } else { (0, 1) };
    let (data, mask) = (t.insn.op_register(data), t.insn.op_register(mask));
    let bytes = data.size() as u32;
    let addr = t.effective_address(bytes, store);
    let control = vh::pack_masked(data.number(), mask.number(), bytes as u64, lane_bytes, store);
    let control = t.c64(control | u64::from(t.mem.index()) << 56);
    t.helper(vh::MASKED_MOVE, &[control, addr]);
    t.forget_wide();
}

/// VMASKMOVPS, VPMASKMOVD.
pub(super) fn masked_doubleword(t: &mut Translator<'_>) {
    masked(t, 4);
}

/// VMASKMOVPD, VPMASKMOVQ.
pub(super) fn masked_quadword(t: &mut Translator<'_>) {
    masked(t, 8);
}

/// MASKMOVQ, MASKMOVDQU: bytes whose mask has its top bit set are stored at DS:rDI.
pub(super) fn masked_bytes(t: &mut Translator<'_>) {
    let (data, mask) = (t.insn.op1_register(), t.insn.op2_register());
    let bits = match t.insn.op0_kind() {
        OpKind::MemorySegDI => 16,
        OpKind::MemorySegEDI => 32,
        _ => 64,
    };
    let rdi = t.gpr(gpr::RDI);
    let offset = t.wrap(rdi, bits);
    let segment = segment_index(t.insn.memory_segment()).unwrap_or(seg::DS);
    let bytes = if data.is_mm() { 8 } else { 16 };
    let addr = t.linear(Place { segment, offset }, bytes, true);
    let data_quads = quads(t, data);
    let mask_quads = quads(t, mask);
    for (i, q) in data_quads.into_iter().chain(mask_quads).enumerate() {
        t.b.put(crate::slots::scratch(i), q);
    }
    if data.is_mm() {
        t.enter_mmx();
    }
    let index = t.c64(u64::from(t.mem.index()) << 56 | u64::from(bytes));
    t.helper(vh::MASKED_BYTES, &[index, addr]);
}

fn quads(t: &mut Translator<'_>, register: Register) -> [Val; 2] {
    let v = t.read_vector_register(register);
    [t.b.vextract(rhea_ir::Lane::I64, v, 0), t.b.vextract(rhea_ir::Lane::I64, v, 1)]
}

/// VGATHER*, VPGATHER*: #UD where two of destination, index and mask are the same register.
fn gather(t: &mut Translator<'_>, lane_bytes: u64) {
    let (data, mask) = (t.insn.op0_register(), t.insn.op2_register());
    let index = t.insn.memory_index();
    let (d, m, x) = (data.number(), mask.number(), index.number());
    if d == m || d == x || m == x {
        return t.undefined();
    }
    let bits = gather_address_bits(t);
    let base = match gpr_part(t.insn.memory_base()) {
        Some(part) => t.gpr(part.index),
        None => t.c64(0),
    };
    let base = t.b.lea(base, Val::NONE, 0, t.insn.memory_displacement64());
    let segment = segment_index(t.insn.memory_segment()).unwrap_or(seg::DS);
    let segment_base = if t.is64() && segment != seg::FS && segment != seg::GS {
        t.c64(0)
    } else {
        t.b.get(crate::slots::segment_base(segment))
    };
    let index_bytes = if is_quadword_index(t) { 8 } else { 4 };
    let control = vh::pack_gather(vh::Gather {
        data: d,
        mask: m,
        index: x,
        lane_bytes,
        index_bytes,
        data_bytes: data.size() as u64,
        index_register_bytes: index.size() as u64,
        scale: t.insn.memory_index_scale().trailing_zeros(),
        address_bits: bits,
    });
    let control = t.c64(control | u64::from(t.mem.index()) << 56);
    // Segment limits outside 64-bit mode are checked element by element by the helper, which knows the segment.
    let segment = t.b.iconst(Type::I32, segment as u64);
    t.helper(vh::GATHER, &[control, base, segment_base, segment]);
    t.forget_wide();
}

fn is_quadword_index(t: &Translator<'_>) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(t.insn.mnemonic(), M::Vgatherqps | M::Vgatherqpd | M::Vpgatherqd | M::Vpgatherqq)
}

fn gather_address_bits(t: &Translator<'_>) -> u32 {
    let base = t.insn.memory_base();
    if base != Register::None {
        return base.size() as u32 * 8;
    }
    match t.insn.memory_displ_size() {
        8 => 64,
        _ if t.is64() => 64,
        _ => 32,
    }
}

/// VGATHER?PS, VPGATHER?D.
pub(super) fn gather_doubleword(t: &mut Translator<'_>) {
    gather(t, 4);
}

/// VGATHER?PD, VPGATHER?Q.
pub(super) fn gather_quadword(t: &mut Translator<'_>) {
    gather(t, 8);
}
