//! vtype and vl (vector specification, "Vector type register" and "Configuration-Setting Instructions").

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::{HartConfig, VILL};

/// A legal vtype, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vtype {
    /// Binary logarithm of SEW in bytes, 0 to 3.
    pub sew: u8,
    /// Binary logarithm of LMUL, -3 to 3.
    pub lmul: i8,
}

impl Vtype {
    /// Takes vtype apart; nothing if the hart does not support it (vill). A fraction of a register is supported if it
    /// holds an element.
    pub const fn parse(config: &HartConfig, vtype: u64) -> Option<Vtype> {
        let (field, sew) = ((vtype & 7) as i8, (vtype >> 3 & 7) as u8);
        let lmul = if field < 4 { field } else { field - 8 };
        if vtype >> 8 != 0 || field == 4 || sew > 3 || (8 << sew) > config.elen {
            return None;
        }
        let parsed = Vtype { sew, lmul };
        if parsed.vlmax(config) == 0 { None } else { Some(parsed) }
    }

    /// SEW in bits.
    pub const fn sew_bits(self) -> u32 {
        8 << self.sew
    }

    /// Elements of a group.
    pub const fn vlmax(self, config: &HartConfig) -> u64 {
        elements(config, self.sew, self.lmul)
    }
}

/// Elements of `8 << width` bits in a group of `2^lmul` registers.
pub(crate) const fn elements(config: &HartConfig, width: u8, lmul: i8) -> u64 {
    // Widest first: 1,024 bits and eight registers are 1,024 elements of 8 bits.
    (config.vlen as u64 / 8) << 3 >> width >> (3 - lmul)
}

/// What vl is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Avl {
    /// As many elements, or as many as there are.
    Elements(u64),
    /// As many as there are.
    Max,
    /// As before, as far as there are as many.
    Keep,
}

impl Avl {
    /// What vsetvli and vsetvl ask for with these registers (vector specification, "AVL encoding").
    pub const fn of_registers(rd: u8, rs1: u8, value: u64) -> Avl {
        match (rd, rs1) {
            (0, 0) => Avl::Keep,
            (_, 0) => Avl::Max,
            _ => Avl::Elements(value),
        }
    }
}

/// vsetvli, vsetivli, vsetvl: sets vtype and vl and returns vl. An unsupported vtype sets vill and clears vl. Where
/// the specification leaves a choice, vl is the smaller of AVL and VLMAX.
pub fn set_vl(st: &mut RiscvState, avl: Avl, vtype: u64) -> u64 {
    st.vstart = 0;
    let Some(parsed) = Vtype::parse(&st.config, vtype) else {
        (st.vtype, st.vl) = (VILL, 0);
        return 0;
    };
    let max = parsed.vlmax(&st.config);
    let wanted = match avl {
        // A 32-bit hart's registers are kept sign-extended.
        Avl::Elements(n) => n & st.config.mask(),
        Avl::Max => max,
        Avl::Keep => st.vl,
    };
    st.vtype = vtype;
    st.vl = wanted.min(max);
    st.vl
}
