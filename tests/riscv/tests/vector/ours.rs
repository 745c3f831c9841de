//! The same request, done by `rhea-riscv-vector`.

use rhea_riscv_state::{CpuModel, RiscvState};
use rhea_riscv_translate::vector::{Destination, Source, VectorCall};
use rhea_riscv_translate::{Features, Xlen, decode32};
use rhea_riscv_vector::memory::{self, Memory, Stop};
use rhea_riscv_vector::{Avl, execute, set_vl};

use crate::server::{Answer, PAGE, PAGE_LEN, Request};

const SIGILL: u64 = 4;
const SIGSEGV: u64 = 11;

/// The page; all else faults.
struct Page<'a>(&'a mut [u8], &'a mut RiscvState);

impl Page<'_> {
    fn range(&self, address: u64, size: u32) -> Result<std::ops::Range<usize>, ()> {
        let at = address.wrapping_sub(PAGE);
        let end = at.checked_add(size.into()).filter(|end| *end <= PAGE_LEN as u64).ok_or(())?;
        Ok(at as usize..end as usize)
    }
}

impl Memory for Page<'_> {
    type Fault = ();

    fn state(&mut self) -> &mut RiscvState {
        self.1
    }

    fn load(&mut self, address: u64, size: u32) -> Result<u64, ()> {
        let mut bytes = [0; 8];
        bytes[..size as usize].copy_from_slice(&self.0[self.range(address, size)?]);
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&mut self, address: u64, size: u32, value: u64) -> Result<(), ()> {
        let range = self.range(address, size)?;
        self.0[range].copy_from_slice(&value.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn can_load(&mut self, address: u64, size: u32) -> bool {
        self.range(address, size).is_ok()
    }

    fn load_run(&mut self, address: u64, _: u32, out: &mut [u8]) -> bool {
        let Ok(range) = self.range(address, out.len() as u32) else { return false };
        out.copy_from_slice(&self.0[range]);
        true
    }

    fn store_run(&mut self, address: u64, _: u32, bytes: &[u8]) -> bool {
        let Ok(range) = self.range(address, bytes.len() as u32) else { return false };
        self.0[range].copy_from_slice(bytes);
        true
    }
}

/// A hart, and what instructions it decodes.
pub struct Ours {
    model: CpuModel,
    features: Features,
}

impl Ours {
    pub fn new(vlen: u32) -> Ours {
        let model = CpuModel::parse(&format!("max,vlen={vlen}")).unwrap();
        Ours { model, features: Features::everything(Xlen::Rv64) }
    }

    pub fn ask(&self, r: &Request) -> Answer {
        let mut st = self.model.reset_state(0, 0);
        st.v.0[..r.registers.len()].copy_from_slice(&r.registers);
        set_vl(&mut st, Avl::Elements(r.avl), r.vtype);
        (st.vstart, st.vxrm, st.vxsat) = (r.vstart, r.vcsr as u32 >> 1, r.vcsr as u32 & 1);
        (st.frm, st.fflags) = (r.fcsr as u32 >> 5, r.fcsr as u32 & 31);
        (st.x[10], st.x[11], st.f[10]) = (r.a0, r.a1, r.fa0);
        let mut page = r.page.clone();
        let signal = step(&mut st, &self.features, r.word, &mut page);
        Answer {
            signal,
            vtype: st.vtype,
            vl: st.vl,
            vstart: st.vstart,
            vcsr: u64::from(st.vxrm << 1 | st.vxsat),
            fcsr: u64::from(st.frm << 5 | st.fflags),
            a2: st.x[12],
            fa2: st.f[12],
            registers: st.v.0[..r.registers.len()].to_vec(),
            page,
        }
    }
}

fn step(st: &mut RiscvState, features: &Features, word: u32, page: &mut [u8]) -> u64 {
    let Some(call) = decode32(word, features).and_then(VectorCall::of) else { return SIGILL };
    let outcome = |r: Result<(), Stop<()>>| match r {
        Ok(()) => 0,
        Err(Stop::Illegal) => SIGILL,
        Err(Stop::Fault(())) => SIGSEGV,
    };
    match call {
        VectorCall::SetVl { rd, rs1, vtype } => {
            let vl = set_vl(st, Avl::of_registers(rd, rs1, st.x[usize::from(rs1)]), vtype);
            st.set_x(rd.into(), vl);
        }
        VectorCall::SetVlImmediate { rd, avl, vtype } => {
            let vl = set_vl(st, Avl::Elements(avl), vtype);
            st.set_x(rd.into(), vl);
        }
        VectorCall::SetVlRegister { rd, rs1, rs2 } => {
            let avl = Avl::of_registers(rd, rs1, st.x[usize::from(rs1)]);
            let vl = set_vl(st, avl, st.x[usize::from(rs2)]);
            st.set_x(rd.into(), vl);
        }
        VectorCall::Compute { operation, source, destination } => {
            let scalar = match source {
                Source::Vector => 0,
                Source::X(r) => st.x[usize::from(r)],
                Source::F(r) => st.f[usize::from(r)],
                Source::Immediate(value) => value,
            };
            let Ok(result) = execute(st, operation, scalar) else { return SIGILL };
            match destination {
                Destination::Vector => {}
                Destination::X(r) => st.set_x(r.into(), result),
                Destination::F(r) => st.f[usize::from(r)] = result,
            }
        }
        VectorCall::Load { transfer, rs1, rs2 } => {
            let (base, stride) = (st.x[usize::from(rs1)], st.x[usize::from(rs2)]);
            return outcome(memory::load(
                &mut Page(page, st),
                transfer,
                base,
                stride,
                memory::Legality::Unknown,
            ));
        }
        VectorCall::Store { transfer, rs1, rs2 } => {
            let (base, stride) = (st.x[usize::from(rs1)], st.x[usize::from(rs2)]);
            return outcome(memory::store(
                &mut Page(page, st),
                transfer,
                base,
                stride,
                memory::Legality::Unknown,
            ));
        }
    }
    0
}
