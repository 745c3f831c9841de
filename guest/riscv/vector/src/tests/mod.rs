//! Unit tests: one of each family by hand, and any state at all for panics. Every instruction is compared with another
//! implementation in `tests/riscv`.

mod families;
mod hostile;
mod moves;

use rhea_riscv_state::{CpuModel, RiscvState};

use crate::{Avl, Illegal, Op, Operation, execute, set_vl};

/// SEW of 8 bits and so on, as vtype has them.
const E8: u64 = 0;
const E16: u64 = 1 << 3;
const E32: u64 = 2 << 3;
const E64: u64 = 3 << 3;

/// A hart with vectors of 128 bits, vtype and vl set.
fn hart(vtype: u64, vl: u64) -> RiscvState {
    let mut st = CpuModel::parse("max").unwrap().reset_state(0, 0);
    assert_eq!(set_vl(&mut st, Avl::Elements(vl), vtype), vl);
    st
}

fn put16(st: &mut RiscvState, register: usize, values: &[u16]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    st.vector_mut(register)[..bytes.len()].copy_from_slice(&bytes);
}

fn get16(st: &RiscvState, register: usize) -> Vec<u16> {
    st.vector(register).chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
}

fn put32(st: &mut RiscvState, register: usize, values: &[u32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    st.vector_mut(register)[..bytes.len()].copy_from_slice(&bytes);
}

fn get32(st: &RiscvState, register: usize) -> Vec<u32> {
    st.vector(register).chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// `op v3, v2, v1`.
fn vv(op: Op) -> Operation {
    Operation { op, vd: 3, vs1: 1, vs2: 2, masked: false, scalar: false }
}

/// `op v3, v2, x`.
fn vx(op: Op) -> Operation {
    Operation { scalar: true, ..vv(op) }
}

fn run(st: &mut RiscvState, o: Operation) -> u64 {
    execute(st, o, 0).unwrap()
}

fn run_with(st: &mut RiscvState, o: Operation, scalar: u64) -> u64 {
    execute(st, o, scalar).unwrap()
}

fn refused(st: &mut RiscvState, o: Operation) -> bool {
    execute(st, o, 0) == Err(Illegal)
}
