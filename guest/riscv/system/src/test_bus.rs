//! A small memory, quiet lines and clocks that the test sets.

use std::collections::HashMap;

use rhea_riscv_state::state::{Privilege, mstatus};
use rhea_riscv_state::{CpuModel, InterruptLines, RiscvState};

use crate::bus::SystemBus;
use crate::csr::{self, Effects, Operation, Request};
use crate::exception::Exception;

#[derive(Default)]
pub(crate) struct TestBus {
    /// Words of memory by address; what is absent cannot be accessed.
    pub memory: HashMap<u64, u64>,
    pub lines: InterruptLines,
    pub time: u64,
    pub cycles: u64,
    pub instructions: u64,
    pub entropy: Option<u16>,
    /// Memory reads but does not swap.
    pub read_only: bool,
    /// The next swap fails after another hart stored this.
    pub race: Option<u64>,
    pub swaps: u32,
}

impl SystemBus for TestBus {
    fn read_phys(&mut self, addr: u64, size: u8) -> Option<u64> {
        assert_eq!(addr % u64::from(size), 0);
        self.memory.get(&addr).copied()
    }
    fn cas_phys(&mut self, addr: u64, size: u8, old: u64, new: u64) -> Option<bool> {
        assert_eq!(addr % u64::from(size), 0);
        self.swaps += 1;
        if self.read_only {
            return None;
        }
        if let Some(value) = self.race.take() {
            self.memory.insert(addr, value);
        }
        let word = self.memory.get_mut(&addr)?;
        let same = *word == old;
        if same {
            *word = new;
        }
        Some(same)
    }
    fn lines(&self) -> &InterruptLines {
        &self.lines
    }
    fn time(&mut self) -> u64 {
        self.time
    }
    fn cycles(&mut self) -> u64 {
        self.cycles
    }
    fn instructions(&mut self) -> u64 {
        self.instructions
    }
    fn entropy(&mut self) -> Option<u16> {
        self.entropy
    }
}

/// A hart of `model` and its bus.
pub(crate) fn hart(model: &str) -> (RiscvState, TestBus) {
    let model = CpuModel::parse(model).unwrap_or_else(|e| panic!("{model}: {e}"));
    (model.reset_state(0, 0x8000_0000), TestBus::default())
}

pub(crate) fn set_privilege(st: &mut RiscvState, privilege: Privilege) {
    st.privilege_bits = privilege as u32;
    st.mode = st.compute_mode();
}

/// Floating-point and vector state may be used.
pub(crate) fn units_on(st: &mut RiscvState) {
    st.m.mstatus |= mstatus::FS & 1 << 13 | mstatus::VS & 1 << 9;
    st.mode = st.compute_mode();
}

/// The bits of the instruction in tests.
pub(crate) const BITS: u32 = 0xc0ff_ee73;

pub(crate) fn write(
    st: &mut RiscvState,
    bus: &mut TestBus,
    number: u16,
    operand: u64,
) -> Result<Effects, Exception> {
    let request = Request { operation: Operation::Write, number, operand, writes: true, bits: BITS };
    csr::execute(st, bus, request).map(|(_, effects)| effects)
}

pub(crate) fn read(st: &mut RiscvState, bus: &mut TestBus, number: u16) -> Result<u64, Exception> {
    let request = Request { operation: Operation::Set, number, operand: 0, writes: false, bits: BITS };
    csr::execute(st, bus, request).map(|(value, _)| value)
}

/// Opens everything to the lower modes with one PMP entry.
pub(crate) fn open_pmp(st: &mut RiscvState) {
    st.pmp.cfg[0] = 0x1f;
    st.pmp.addr[0] = (1 << 54) - 1;
}
