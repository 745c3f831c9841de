//! The same instructions one by one, by `rhea-riscv-vector`.

use rhea_riscv_state::RiscvState;
use rhea_riscv_translate::vector::{Destination, Source, VectorCall};
use rhea_riscv_vector::memory::{self, Memory, Stop};
use rhea_riscv_vector::{Avl, execute, set_vl};

use crate::machine::{RAM, RAM_LEN};

/// Memory from [`RAM`] on; all else faults.
pub struct Ram<'a>(pub &'a mut RiscvState, pub &'a mut [u8]);

impl Ram<'_> {
    fn range(&self, address: u64, size: u32) -> Result<std::ops::Range<usize>, ()> {
        let at = address.wrapping_sub(RAM);
        let end = at.checked_add(size.into()).filter(|end| *end <= RAM_LEN).ok_or(())?;
        Ok(at as usize..end as usize)
    }
}

impl Memory for Ram<'_> {
    type Fault = ();

    fn state(&mut self) -> &mut RiscvState {
        self.0
    }

    fn load(&mut self, address: u64, size: u32) -> Result<u64, ()> {
        let mut bytes = [0; 8];
        bytes[..size as usize].copy_from_slice(&self.1[self.range(address, size)?]);
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&mut self, address: u64, size: u32, value: u64) -> Result<(), ()> {
        let range = self.range(address, size)?;
        self.1[range].copy_from_slice(&value.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn can_load(&mut self, address: u64, size: u32) -> bool {
        self.range(address, size).is_ok()
    }
}

/// Whether the instruction completes; if not, it traps.
pub fn step(st: &mut RiscvState, ram: &mut [u8], call: VectorCall) -> bool {
    let x = |st: &RiscvState, r: u8| st.x[usize::from(r)];
    match call {
        VectorCall::SetVl { rd, rs1, vtype } => {
            let vl = set_vl(st, Avl::of_registers(rd, rs1, x(st, rs1)), vtype);
            st.set_x(rd.into(), vl);
        }
        VectorCall::SetVlImmediate { rd, avl, vtype } => {
            let vl = set_vl(st, Avl::Elements(avl), vtype);
            st.set_x(rd.into(), vl);
        }
        VectorCall::SetVlRegister { rd, rs1, rs2 } => {
            let avl = Avl::of_registers(rd, rs1, x(st, rs1));
            let vtype = x(st, rs2);
            let vl = set_vl(st, avl, vtype);
            st.set_x(rd.into(), vl);
        }
        VectorCall::Compute { operation, source, destination } => {
            let scalar = match source {
                Source::Vector => 0,
                Source::X(r) => x(st, r),
                Source::F(r) => st.f[usize::from(r)],
                Source::Immediate(value) => value,
            };
            let Ok(result) = execute(st, operation, scalar) else { return false };
            match destination {
                Destination::Vector => {}
                Destination::X(r) => st.set_x(r.into(), result),
                Destination::F(r) => st.f[usize::from(r)] = result,
            }
        }
        VectorCall::Load { transfer, rs1, rs2 } => {
            let (base, stride) = (x(st, rs1), x(st, rs2));
            return match memory::load(&mut Ram(st, ram), transfer, base, stride, memory::Legality::Unknown) {
                Ok(()) => true,
                Err(Stop::Illegal | Stop::Fault(())) => false,
            };
        }
        VectorCall::Store { transfer, rs1, rs2 } => {
            let (base, stride) = (x(st, rs1), x(st, rs2));
            return memory::store(&mut Ram(st, ram), transfer, base, stride, memory::Legality::Unknown)
                .is_ok();
        }
    }
    true
}
