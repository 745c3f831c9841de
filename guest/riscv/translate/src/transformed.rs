//! What htinst and mtinst tell of an access that trapped: the transformed instruction (privileged specification,
//! "Transformed Instruction or Pseudoinstruction for mtinst or htinst").

use rhea_riscv_state::RiscvState;

use crate::{Features, Instruction, decode16};

const LOAD: u32 = 0x03;
const LOAD_FP: u32 = 0x07;
const STORE: u32 = 0x23;
const STORE_FP: u32 = 0x27;
const AMO: u32 = 0x2f;
const SYSTEM: u32 = 0x73;

/// Bits of fields.
const RD: u32 = 0x1f << 7;
const FUNCT3: u32 = 7 << 12;
const RS2: u32 = 0x1f << 20;
const RS1_SHIFT: u32 = 15;
const RS1: u32 = 0x1f << RS1_SHIFT;
const OPCODE: u32 = 0x7f;

/// The transformation of the load or store whose bits are given, the fault of which is told at `address`; zero for any
/// other instruction. `st` is as it was before the instruction.
pub fn transformed(st: &RiscvState, features: &Features, bits: u32, address: u64) -> u64 {
    let is_compressed = bits & 3 != 3;
    let Some(word) = (if is_compressed { expand(bits, features) } else { Some(bits) }) else { return 0 };
    let immediate_load = (word as i32 >> 20) as u64;
    let immediate_store = ((word & 0xfe00_0000) as i32 >> 20) as u64 | u64::from(word >> 7 & 31);
    let (kept, immediate) = match (word & OPCODE, word >> 12 & 7) {
        (LOAD, _) | (LOAD_FP, 1..=4) => (RD | FUNCT3 | OPCODE, immediate_load),
        (STORE, _) | (STORE_FP, 1..=4) => (RS2 | FUNCT3 | OPCODE, immediate_store),
        (AMO, _) | (SYSTEM, 4) => (!RS1, 0),
        _ => return 0,
    };
    let base = st.x[(word >> RS1_SHIFT & 31) as usize];
    // Not zero where the fault is in the second part of an access that crosses a page.
    let first = st.masking().apply(base.wrapping_add(immediate));
    let offset = address.wrapping_sub(first) & st.config.mask();
    let offset = if offset < 32 { (offset as u32) << RS1_SHIFT } else { 0 };
    // Bit 1 tells that the instruction was a compressed one.
    let length = if is_compressed { !2 } else { !0 };
    u64::from((word & kept | offset) & length)
}

/// The instruction of 32 bits that a compressed load or store stands for.
fn expand(bits: u32, features: &Features) -> Option<u32> {
    let load = |opcode: u32, funct3: u32, rd: u8, rs1: u8, imm: i32| {
        (imm as u32) << 20 | u32::from(rs1) << RS1_SHIFT | funct3 << 12 | u32::from(rd) << 7 | opcode
    };
    let store = |opcode: u32, funct3: u32, rs2: u8, rs1: u8, imm: i32| {
        let imm = imm as u32;
        let (high, low) = ((imm & 0xfe0) << 20, (imm & 31) << 7);
        high | low | u32::from(rs2) << 20 | u32::from(rs1) << RS1_SHIFT | funct3 << 12 | opcode
    };
    Some(match decode16(bits, features)?.expanded() {
        Instruction::Lh(a) => load(LOAD, 1, a.rd.0, a.rs1.0, a.imm),
        Instruction::Lw(a) => load(LOAD, 2, a.rd.0, a.rs1.0, a.imm),
        Instruction::Ld(a) => load(LOAD, 3, a.rd.0, a.rs1.0, a.imm),
        Instruction::Lbu(a) => load(LOAD, 4, a.rd.0, a.rs1.0, a.imm),
        Instruction::Lhu(a) => load(LOAD, 5, a.rd.0, a.rs1.0, a.imm),
        Instruction::Flw(a) => load(LOAD_FP, 2, a.fd.0, a.rs1.0, a.imm),
        Instruction::Fld(a) => load(LOAD_FP, 3, a.fd.0, a.rs1.0, a.imm),
        Instruction::Sb(a) => store(STORE, 0, a.rs2.0, a.rs1.0, a.imm_s),
        Instruction::Sh(a) => store(STORE, 1, a.rs2.0, a.rs1.0, a.imm_s),
        Instruction::Sw(a) => store(STORE, 2, a.rs2.0, a.rs1.0, a.imm_s),
        Instruction::Sd(a) => store(STORE, 3, a.rs2.0, a.rs1.0, a.imm_s),
        Instruction::Fsw(a) => store(STORE_FP, 2, a.fs2.0, a.rs1.0, a.imm_s),
        Instruction::Fsd(a) => store(STORE_FP, 3, a.fs2.0, a.rs1.0, a.imm_s),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Xlen;
    use rhea_riscv_state::CpuModel;

    #[test]
    fn operands_that_a_hypervisor_needs_stay_and_the_others_go() {
        let mut st = CpuModel::named("rv64").unwrap().reset_state(0, 0);
        st.x[10] = 0x1000;
        let features = Features::everything(Xlen::Rv64);
        for (bits, address, expected) in [
            (0xff45_3683, 0xff4, 0x0000_3683),  // ld a3, -12(a0)
            (0xff45_3683, 0x1000, 0x0006_3683), // its second part: twelve bytes on
            (0xfeb5_2a23, 0xff4, 0x00b0_2023),  // sw a1, -12(a0)
            (0x00b5_35af, 0x1000, 0x00b0_35af), // amoadd.d a1, a1, (a0)
            (0x6c05_4573, 0x1000, 0x6c00_4573), // hlv.d a0, (a0)
            (0x0005_2507, 0x1000, 0x0000_2507), // flw fa0, 0(a0)
            (0x0205_6507, 0x1000, 0),           // vle32.v v10, (a0)
            (0x00a5_0533, 0x1000, 0),           // add a0, a0, a0
            (0x6508, 0x1008, 0x0000_3501),      // c.ld a0, 8(a0)
            (0xc14c, 0x1004, 0x00b0_2021),      // c.sw a1, 4(a0)
            (0x852a, 0x1000, 0),                // c.mv a0, a0
        ] {
            assert_eq!(transformed(&st, &features, bits, address), expected, "{bits:#x}");
        }
    }
}
