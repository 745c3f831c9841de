//! CSR instructions: who may access which register, and what comes of it (unprivileged specification, "Zicsr";
//! privileged specification, "Control and Status Registers (CSRs)").
//!
//! Every register is a row of one table ([`crate::csr_table`]): number, name, whether the hart has it, when it may be
//! accessed, how it is read and written, and which bits can be set. What the row does not say is the same for all: the
//! lowest privilege is in bits 9:8 of the number (2 there is that of the hypervisor extension: supervisor mode with V=0),
//! and bits 11:10 of a read-only one are set. While V=1 the numbers of many supervisor registers name those of virtual
//! supervisor mode.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::csr as number;
use rhea_riscv_state::state::{HartConfig, Privilege, mstatus};

use crate::bus::{SystemBus, TlbScope};
use crate::csr_table::TABLE;
use crate::exception::Exception;
use crate::interrupt::{VTI, bit};

/// What the vCPU has to do after a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Translations to be forgotten.
    pub flush: Option<TlbScope>,
    /// An interrupt may have become deliverable.
    pub interrupts: bool,
    /// `stimecmp`, or whether it counts, changed: the wake-up is to be armed anew.
    pub timer: bool,
}

/// Nothing to do.
pub(crate) const NOTHING: Effects = Effects { flush: None, interrupts: false, timer: false };

/// The three operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// CSRRW.
    Write,
    /// CSRRS.
    Set,
    /// CSRRC.
    Clear,
}

/// One CSR instruction.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Its operation.
    pub operation: Operation,
    /// Number of the CSR.
    pub number: u16,
    /// Value of rs1, or the immediate.
    pub operand: u64,
    /// CSRRS and CSRRC with x0 or an immediate of 0 do not write; anything else does.
    pub writes: bool,
    /// The instruction, for the trap value.
    pub bits: u32,
}

/// Whether a register may be accessed, beyond the privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// An illegal instruction.
    Illegal,
    /// A virtual instruction: only the hypervisor is in the way.
    Virtual,
}

impl Gate {
    /// Illegal unless `machine` allows it, virtual unless `hypervisor`, which counts only while V=1, does.
    pub(crate) const fn of(st: &RiscvState, machine: bool, hypervisor: bool) -> Self {
        match (machine, !st.is_virtual() || hypervisor) {
            (false, _) => Self::Illegal,
            (true, false) => Self::Virtual,
            (true, true) => Self::Open,
        }
    }
}

pub(crate) type Allowed = fn(&RiscvState, u16) -> Gate;
pub(crate) type Read = fn(&mut RiscvState, &mut dyn SystemBus, u16) -> u64;
pub(crate) type Write = fn(&mut RiscvState, &mut dyn SystemBus, u16, u64) -> Effects;

/// How a register is kept.
pub(crate) enum Store {
    /// One field, with nothing to it but the mask.
    Plain(fn(&mut RiscvState) -> &mut u64),
    /// Functions of the index within the row. The value written is masked already.
    Special(Read, Write),
    /// Reads only, or writes without effect.
    Fixed(Read),
}

/// One register, or a run of them.
pub(crate) struct Row {
    /// Number of the first.
    pub first: u16,
    /// How many.
    pub count: u16,
    /// Name; of a run, `#` stands for the index plus `base`.
    pub name: &'static str,
    pub base: u16,
    pub exists: fn(&HartConfig, u16) -> bool,
    /// What must hold beyond the privilege.
    pub allowed: Allowed,
    pub store: Store,
    /// Bits that can be set by a write.
    pub legal: fn(&RiscvState) -> u64,
}

/// The row of a CSR that the hart has, and the index within it.
fn find(config: &HartConfig, csr: u16) -> Option<(&'static Row, u16)> {
    let row = TABLE.iter().find(|row| csr >= row.first && csr - row.first < row.count)?;
    let index = csr - row.first;
    (row.exists)(config, index).then_some((row, index))
}

/// The number of the register that takes the place of a supervisor register while V=1.
const fn virtual_number(csr: u16) -> u16 {
    match csr {
        number::SSTATUS
        | number::SIE
        | number::STVEC
        | number::SIEH
        | number::SSCRATCH
        | number::SEPC
        | number::SCAUSE
        | number::STVAL
        | number::SIP
        | number::STIMECMP
        | number::STIMECMPH
        | number::SISELECT
        | number::SIREG
        | number::SIPH
        | number::STOPEI
        | number::SATP
        | number::STOPI => csr + (number::VSSTATUS - number::SSTATUS),
        _ => csr,
    }
}

/// Whether the present mode may execute a request of `row`.
fn gate(st: &mut RiscvState, row: &Row, index: u16, request: &Request) -> Gate {
    let lowest = request.number >> 8 & 3;
    let read_only = request.number >> 10 == 3;
    let bare_seed = request.number == number::SEED && !request.writes;
    if request.writes && read_only || bare_seed {
        return Gate::Illegal;
    }
    // hvictl keeps the guest from what would withdraw one of its interrupts.
    let timer = matches!(request.number, number::STIMECMP | number::STIMECMPH);
    if timer && request.writes && st.is_virtual() && st.h.hvictl & VTI != 0 {
        return match (row.allowed)(st, index) {
            Gate::Open => Gate::Virtual,
            other => other,
        };
    }
    match (lowest, st.privilege()) {
        (0, _) | (_, Privilege::Machine) => (row.allowed)(st, index),
        (1, Privilege::Supervisor) => (row.allowed)(st, index),
        (2, Privilege::Supervisor) if !st.is_virtual() => (row.allowed)(st, index),
        (1 | 2, _) if st.is_virtual() => match allowed_to_hypervisor(st, row, index) {
            Gate::Open => Gate::Virtual,
            _ => Gate::Illegal,
        },
        _ => Gate::Illegal,
    }
}

/// Whether supervisor mode with V=0 could access a register, TVM aside: then a virtual mode's attempt is a virtual
/// instruction (privileged specification, "Virtual-Instruction exception").
fn allowed_to_hypervisor(st: &mut RiscvState, row: &Row, index: u16) -> Gate {
    let (privilege, status) = (st.privilege_bits, st.m.mstatus);
    (st.privilege_bits, st.virtualization) = (Privilege::Supervisor as u32, 0);
    st.m.mstatus &= !mstatus::TVM;
    let gate = (row.allowed)(st, index);
    (st.privilege_bits, st.virtualization, st.m.mstatus) = (privilege, 1, status);
    gate
}

/// Executes a CSR instruction and returns the register's old value, zero-extended from XLEN.
///
/// # Errors
/// Illegal instruction: no such register, not at this privilege or not now, or a write to a read-only one. Virtual
/// instruction where only the hypervisor can have it.
pub fn execute(
    st: &mut RiscvState,
    bus: &mut dyn SystemBus,
    mut request: Request,
) -> Result<(u64, Effects), Exception> {
    let (row, mut index) = find(&st.config, request.number).ok_or(Exception::illegal(request.bits))?;
    match gate(st, row, index, &request) {
        Gate::Open => {}
        Gate::Illegal => return Err(Exception::illegal(request.bits)),
        Gate::Virtual => return Err(Exception::virtual_instruction(request.bits)),
    }
    let mut row = row;
    if st.is_virtual() && virtual_number(request.number) != request.number {
        request.number = virtual_number(request.number);
        (row, index) = find(&st.config, request.number).ok_or(Exception::illegal(request.bits))?;
    }
    let old = read_row(row, index, st, bus);
    if !request.writes {
        return Ok((old, NOTHING));
    }
    let base = modified(st, request.number, old);
    let new = match request.operation {
        Operation::Write => request.operand,
        Operation::Set => base | request.operand,
        Operation::Clear => base & !request.operand,
    };
    let effects = write_row(row, index, st, bus, new);
    Ok((old, effects))
}

/// What set and clear start from: of mip, SEIP as software wrote it, without the line ("Machine Interrupt (mip and mie)
/// Registers").
fn modified(st: &RiscvState, csr: u16, read: u64) -> u64 {
    if csr == number::MIP { read & !bit::SEI | st.m.mip & bit::SEI } else { read }
}

fn read_row(row: &Row, index: u16, st: &mut RiscvState, bus: &mut dyn SystemBus) -> u64 {
    let value = match row.store {
        Store::Plain(field) => *field(st),
        Store::Special(read, _) | Store::Fixed(read) => read(st, bus, index),
    };
    value & st.config.mask()
}

fn write_row(row: &Row, index: u16, st: &mut RiscvState, bus: &mut dyn SystemBus, value: u64) -> Effects {
    let value = value & (row.legal)(st) & st.config.mask();
    let effects = match row.store {
        Store::Plain(field) => {
            *field(st) = value;
            NOTHING
        }
        Store::Special(_, write) => write(st, bus, index, value),
        Store::Fixed(_) => NOTHING,
    };
    st.mode = st.compute_mode();
    effects
}

/// A register's value whatever the privilege, for a debugger; nothing if the hart has none, or reading it would use it
/// up.
pub fn peek(st: &mut RiscvState, bus: &mut dyn SystemBus, csr: u16) -> Option<u64> {
    let (row, index) = find(&st.config, csr)?;
    (csr != number::SEED).then(|| read_row(row, index, st, bus))
}

/// Writes a register whatever the privilege, for a debugger; nothing if that cannot be.
pub fn poke(st: &mut RiscvState, bus: &mut dyn SystemBus, csr: u16, value: u64) -> Option<Effects> {
    let (row, index) = find(&st.config, csr)?;
    if csr >> 10 == 3 {
        return None;
    }
    // Some registers change relative to what was read, as an instruction that writes has always read.
    if csr != number::SEED {
        read_row(row, index, st, bus);
    }
    Some(write_row(row, index, st, bus, value))
}

/// Names and numbers of the registers that a hart has.
pub fn list(config: &HartConfig) -> impl Iterator<Item = (String, u16)> {
    TABLE.iter().flat_map(move |row| {
        (0..row.count)
            .filter(move |index| (row.exists)(config, *index))
            .map(move |index| (row.name.replace('#', &(row.base + index).to_string()), row.first + index))
    })
}

#[cfg(test)]
pub(crate) fn legal_bits(st: &RiscvState, csr: u16) -> Option<u64> {
    find(&st.config, csr).map(|(row, _)| (row.legal)(st) & st.config.mask())
}
