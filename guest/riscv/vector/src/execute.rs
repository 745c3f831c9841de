//! From an instruction to the function that does it.

use rhea_riscv_state::RiscvState;

use crate::elements::Body;
use crate::operation::{Numbers, Operation, Shape};
use crate::vtype::Vtype;
use crate::{aes, convert, fixed, float, hash, integer, legality, mask, permute, shangmi};

/// The instruction is reserved in this state: an illegal-instruction exception. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal;

/// Does a vector instruction that touches no memory. `scalar` is the first source of scalar forms (see
/// [`Operation::scalar`]). Returns what goes to a scalar register, for the instructions that write one (vmv.x.s,
/// vfmv.f.s, vcpop.m, vfirst.m: the whole register, sign-extended or NaN-boxed), else 0.
///
/// # Errors
/// The instruction is reserved under vtype, vl, vstart or frm.
pub fn execute(st: &mut RiscvState, o: Operation, scalar: u64) -> Result<u64, Illegal> {
    let Some(vt) = Vtype::parse(&st.config, st.vtype) else { return Err(Illegal) };
    if !legality::is_legal(&st.config, st.vtype, &o) || !legality::is_legal_now(st, &o) {
        return Err(Illegal);
    }
    Ok(perform(st, o, scalar, vt))
}

/// As [`execute`] for an instruction that the caller knows to be legal. One that is not does something else, or nothing.
pub fn execute_legal(st: &mut RiscvState, o: Operation, scalar: u64) -> u64 {
    debug_assert!(legality::is_legal(&st.config, st.vtype, &o) && legality::is_legal_now(st, &o));
    Vtype::parse(&st.config, st.vtype).map_or(0, |vt| perform(st, o, scalar, vt))
}

fn perform(st: &mut RiscvState, o: Operation, scalar: u64, vt: Vtype) -> u64 {
    let bytes = st.config.vlen as usize / 8;
    let vlmax = vt.vlmax(&st.config);
    let at = |register: u8| usize::from(register % 32) * bytes;
    let vl = st.vl.min(vlmax) as usize;
    let start = usize::try_from(st.vstart).unwrap_or(usize::MAX);
    st.vstart = 0;
    let floats = o.op.numbers() != Numbers::Integer;
    let scalar = if floats { float::unboxed(scalar, vt.sew) } else { scalar };
    let mut body = Body {
        v: &mut st.v.0,
        d: at(o.vd),
        a: at(o.vs2),
        b: at(o.vs1),
        scalar: o.scalar.then_some(scalar),
        masked: o.masked,
        start: start.min(vl),
        vl,
        vlmax: vlmax as usize,
    };
    let body = &mut body;
    let mut result = 0;
    match o.op.shape() {
        Shape::MaskLogical => mask::logical(body, o.op),
        Shape::MaskScalar => result = mask::count(body, o.op),
        Shape::MaskToMask => mask::before_first(body, o.op),
        Shape::Iota => mask::iota(body, vt.sew),
        Shape::Index => mask::index(body, vt.sew),
        Shape::Whole => permute::whole(body, usize::from(o.vs1) * bytes, start << vt.sew),
        Shape::Scalar => result = permute::scalar(body, o.op, vt.sew, start),
        Shape::Up | Shape::Gather | Shape::Gather16 | Shape::Compress => permute::permute(body, o.op, vt.sew),
        Shape::ElementGroup(_) => group(body, o, vt.sew),
        _ if permute::is_slide(o.op) => permute::permute(body, o.op, vt.sew),
        _ if floats => {
            let mut env = float::environment(st.frm, st.fflags);
            if !float::float(body, o.op, vt.sew, &mut env) {
                convert::convert(body, o.op, vt.sew, &mut env);
            }
            st.fflags |= float::fflags(&env);
        }
        _ => {
            let mut saturated = false;
            if !fixed::fixed(body, o.op, vt.sew, st.vxrm, &mut saturated) {
                integer::integer(body, o.op, vt.sew);
            }
            st.vxsat |= u32::from(saturated);
        }
    }
    result
}

fn group(body: &mut Body<'_>, o: Operation, sew: u8) {
    use crate::operation::Op::*;
    let immediate = o.vs1;
    match o.op {
        Vghsh | Vgmul => hash::ghash(body, o.op),
        Vsha2ms | Vsha2ch | Vsha2cl => hash::sha2(body, o.op, sew),
        Vsm4k | Vsm4rVV | Vsm4rVS => shangmi::sm4(body, o.op, immediate),
        Vsm3me | Vsm3c => shangmi::sm3(body, o.op, immediate),
        _ => aes::aes(body, o.op, immediate),
    }
}
