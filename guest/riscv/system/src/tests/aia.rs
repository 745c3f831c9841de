//! CSRs of the advanced interrupt architecture.

use std::sync::{Arc, Mutex};

use rhea_riscv_state::csr as n;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::platform::{InterruptFile, Lines};
use rhea_riscv_state::state::Privilege;
use rhea_riscv_state::{CpuModel, RiscvState};

use crate::csr;
use crate::exception::Exception;
use crate::interrupt;
use crate::test_bus::{BITS, TestBus, hart, read, set_privilege, write};

const ILLEGAL: Exception = Exception::illegal(BITS);

/// A file that logs what is written.
#[derive(Default)]
struct File {
    top: u32,
    log: Mutex<Vec<(u32, u32, u32)>>,
}

impl InterruptFile for File {
    fn top(&self) -> u32 {
        self.top
    }
    fn claim(&self, identity: u32) {
        self.log.lock().unwrap().push((0, 0, identity));
    }
    fn read(&self, select: u32) -> u32 {
        0x1000 + select
    }
    fn write(&self, select: u32, old: u32, new: u32) {
        self.log.lock().unwrap().push((select, old, new));
    }
}

fn aia_hart(name: &str) -> (RiscvState, TestBus, [Arc<File>; 2]) {
    let model = CpuModel::parse(name).unwrap().with(Extension::Smaia).with(Extension::Ssaia);
    let bus = TestBus::default();
    let files = [7, 9].map(|top| Arc::new(File { top, ..File::default() }));
    let [machine, supervisor] = files.clone();
    assert!(bus.lines.connect_files(machine, supervisor));
    (model.reset_state(0, 0x1000), bus, files)
}

#[test]
fn a_hart_without_it_has_none_of_its_registers() {
    let (mut st, mut bus) = hart("rv64");
    for csr in [n::MISELECT, n::MIREG, n::MTOPEI, n::MTOPI, n::MVIEN, n::SISELECT, n::STOPI] {
        assert_eq!(read(&mut st, &mut bus, csr), Err(ILLEGAL), "{csr:#x}");
    }
}

#[test]
fn the_register_of_a_file_is_selected_and_written_by_what_changed() {
    let (mut st, mut bus, [machine, supervisor]) = aia_hart("rv64");
    write(&mut st, &mut bus, n::MISELECT, 0xc0).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MIREG), Ok(0x10c1_0000_10c0));
    write(&mut st, &mut bus, n::MIREG, 0x55).unwrap();
    assert_eq!(machine.log.lock().unwrap()[..], [(0xc0, 0x10c0, 0x55), (0xc1, 0x10c1, 0)]);
    for select in [0x00, 0x2f, 0x31, 0x40, 0x81, 0x100] {
        write(&mut st, &mut bus, n::MISELECT, select).unwrap();
        assert_eq!(read(&mut st, &mut bus, n::MIREG), Err(ILLEGAL), "{select:#x}");
    }
    write(&mut st, &mut bus, n::MISELECT, 0x30).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MIREG), Ok(0), "fixed priorities");
    write(&mut st, &mut bus, n::SISELECT, 0x70).unwrap();
    set_privilege(&mut st, Privilege::Supervisor);
    write(&mut st, &mut bus, n::SIREG, 1).unwrap();
    assert_eq!(supervisor.log.lock().unwrap()[..], [(0x70, 0x1070, 1)]);
    let (mut st, mut bus, _) = aia_hart("rv32");
    write(&mut st, &mut bus, n::MISELECT, 0x81).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MIREG), Ok(0x1081));
}

#[test]
fn a_claim_is_of_what_the_instruction_read() {
    let (mut st, mut bus, [machine, supervisor]) = aia_hart("rv64");
    assert_eq!(read(&mut st, &mut bus, n::MTOPEI), Ok(7 << 16 | 7));
    assert!(machine.log.lock().unwrap().is_empty(), "reading claims nothing");
    write(&mut st, &mut bus, n::STOPEI, 0).unwrap();
    assert_eq!(supervisor.log.lock().unwrap()[..], [(0, 0, 9)]);
}

#[test]
fn the_top_interrupt_is_the_first_that_is_enabled_for_the_mode() {
    let (mut st, mut bus, _) = aia_hart("rv64");
    bus.lines.set(Lines::MTIP | Lines::SEIP | Lines::MEIP, true);
    write(&mut st, &mut bus, n::MIE, 1 << 7 | 1 << 9).unwrap();
    write(&mut st, &mut bus, n::MIDELEG, 1 << 9).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MTOPI), Ok(7 << 16 | 1), "MEI is not enabled");
    assert_eq!(read(&mut st, &mut bus, n::STOPI), Ok(9 << 16 | 1));
    bus.lines.set(Lines::MTIP | Lines::SEIP, false);
    assert_eq!((read(&mut st, &mut bus, n::MTOPI), read(&mut st, &mut bus, n::STOPI)), (Ok(0), Ok(0)));
}

#[test]
fn mvip_is_a_view_of_mip() {
    let (mut st, mut bus, _) = aia_hart("rv64");
    bus.lines.set(Lines::SEIP, true);
    assert_eq!(read(&mut st, &mut bus, n::MVIP), Ok(0), "SEIP as software wrote it");
    write(&mut st, &mut bus, n::MVIP, u64::MAX).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MVIP), Ok(1 << 1 | 1 << 5 | 1 << 9));
    bus.lines.set(Lines::SEIP, false);
    assert_eq!(interrupt::pending(&st, &mut bus), 1 << 1 | 1 << 5 | 1 << 9);
}

#[test]
fn mstateen_hides_it_from_lower_modes() {
    let (mut st, mut bus, _) = aia_hart("max");
    write(&mut st, &mut bus, n::SISELECT, 0x70).unwrap();
    set_privilege(&mut st, Privilege::Supervisor);
    for csr in [n::SISELECT, n::SIREG, n::STOPEI, n::STOPI] {
        assert_eq!(read(&mut st, &mut bus, csr), Err(ILLEGAL), "{csr:#x}");
    }
    csr::poke(&mut st, &mut bus, n::MSTATEEN0, 7 << 58).unwrap();
    for csr in [n::SISELECT, n::SIREG, n::STOPEI, n::STOPI] {
        assert!(read(&mut st, &mut bus, csr).is_ok(), "{csr:#x}");
    }
}
