//! Loads and stores.

use super::*;
use crate::memory::{Addressing, Legality, Memory, Stop, Transfer, load, store};

/// Memory from address 0; what is behind its end faults.
struct Ram<'a>(Vec<u8>, &'a mut RiscvState);

impl Memory for Ram<'_> {
    type Fault = u64;

    fn state(&mut self) -> &mut RiscvState {
        self.1
    }

    fn load(&mut self, address: u64, size: u32) -> Result<u64, u64> {
        let bytes = self.0.get(address as usize..(address + u64::from(size)) as usize).ok_or(address)?;
        Ok(bytes.iter().rev().fold(0, |value, b| value << 8 | u64::from(*b)))
    }

    fn store(&mut self, address: u64, size: u32, value: u64) -> Result<(), u64> {
        let range = address as usize..(address + u64::from(size)) as usize;
        let bytes = self.0.get_mut(range).ok_or(address)?;
        bytes.copy_from_slice(&value.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn can_load(&mut self, address: u64, size: u32) -> bool {
        self.load(address, size).is_ok()
    }
}

fn transfer(addressing: Addressing, width: u8) -> Transfer {
    Transfer { addressing, width, fields: 1, vd: 4, vs2: 2, masked: false }
}

#[test]
fn a_fault_leaves_vstart_at_its_element() {
    let mut st = hart(E16, 8);
    let mut ram = Ram((0..10).collect(), &mut st);
    let t = transfer(Addressing::UnitStride, 1);
    assert_eq!(load(&mut ram, t, 0, 0, Legality::Unknown), Err(Stop::Fault(10)));
    assert_eq!((ram.1.vstart, get16(ram.1, 4)[4]), (5, 0x0908));
    ram.0.resize(16, 7);
    assert_eq!(load(&mut ram, t, 0, 0, Legality::Unknown), Ok(()));
    assert_eq!((ram.1.vstart, get16(ram.1, 4)[5]), (0, 0x0707));
}

#[test]
fn fault_only_first_cuts_vl() {
    let mut st = hart(E16, 8);
    let mut ram = Ram((0..10).collect(), &mut st);
    let t = transfer(Addressing::FaultOnlyFirst, 1);
    assert_eq!(load(&mut ram, t, 4, 0, Legality::Unknown), Ok(()));
    assert_eq!((ram.1.vl, ram.1.vstart), (3, 0));
    assert_eq!(load(&mut ram, t, 10, 0, Legality::Unknown), Err(Stop::Fault(10)));
    assert_eq!(ram.1.vl, 3);
}

#[test]
fn segments_strides_and_indices_find_their_elements() {
    let mut st = hart(E8, 4);
    let mut ram = Ram((0..64).collect(), &mut st);
    let t = Transfer { fields: 3, ..transfer(Addressing::UnitStride, 0) };
    load(&mut ram, t, 1, 0, Legality::Unknown).unwrap();
    assert_eq!((&ram.1.vector(4)[..4], &ram.1.vector(6)[..4]), (&[1, 4, 7, 10][..], &[3, 6, 9, 12][..]));
    load(&mut ram, transfer(Addressing::Strided, 0), 32, (-8i64) as u64, Legality::Unknown).unwrap();
    assert_eq!(ram.1.vector(4)[..4], [32, 24, 16, 8]);
    put16(ram.1, 2, &[5, 40, 0, 63]);
    load(&mut ram, transfer(Addressing::Indexed, 1), 0, 0, Legality::Unknown).unwrap();
    assert_eq!(ram.1.vector(4)[..4], [5, 40, 0, 63]);
    ram.1.vector_mut(0)[0] = 0b0110;
    let t = Transfer { masked: true, ..transfer(Addressing::Indexed, 1) };
    store(&mut ram, Transfer { vd: 6, ..t }, 0, 0, Legality::Unknown).unwrap();
    assert_eq!((ram.0[5], ram.0[40], ram.0[0], ram.0[63]), (5, 6, 9, 63));
}

#[test]
fn masks_and_whole_registers_have_their_own_lengths() {
    let mut st = hart(E8, 9);
    let mut ram = Ram((1..=64).collect(), &mut st);
    load(&mut ram, transfer(Addressing::Mask, 0), 0, 0, Legality::Unknown).unwrap();
    assert_eq!(ram.1.vector(4)[..3], [1, 2, 0]);
    let whole = Transfer { fields: 4, ..transfer(Addressing::Whole, 3) };
    load(&mut ram, whole, 0, 0, Legality::Unknown).unwrap();
    assert_eq!(ram.1.vector(7)[15], 64);
    set_vl(ram.1, Avl::Max, 1 << 63);
    store(&mut ram, Transfer { width: 0, ..whole }, 0, 0, Legality::Unknown).unwrap();
    let odd = Transfer { vd: 6, ..whole };
    assert_eq!(load(&mut ram, odd, 0, 0, Legality::Unknown), Err(Stop::Illegal));
    assert_eq!(load(&mut ram, transfer(Addressing::Mask, 0), 0, 0, Legality::Unknown), Err(Stop::Illegal));
}

#[test]
fn transfers_survive_being_numbers() {
    use Addressing::{FaultOnlyFirst, Indexed, Mask, Strided, UnitStride, Whole};
    for addressing in [UnitStride, FaultOnlyFirst, Strided, Indexed, Mask, Whole] {
        for (width, fields, masked) in [(0, 1, true), (3, 8, false), (2, 5, true)] {
            let t = Transfer { addressing, width, fields, vd: 30, vs2: 13, masked };
            assert_eq!(Transfer::from_bits(t.to_bits()), t);
        }
    }
}
