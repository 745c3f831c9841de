//! Pointer masking (pointer masking extensions, version 1.0): which upper bits of the address of a load or store are ignored.

use crate::RiscvState;
use crate::state::{Privilege, hstatus, mode, mstatus};

/// PMM of menvcfg, henvcfg, senvcfg and mseccfg.
pub const PMM: u64 = 3 << PMM_SHIFT;
const PMM_SHIFT: u32 = 32;

/// What happens to addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masking {
    /// Upper bits that are ignored: 0, 7 or 16.
    length: u8,
    /// Addresses are virtual: the bits are copies of the highest one that counts. Otherwise they are zero.
    is_virtual: bool,
}

impl Masking {
    /// By the value of a PMM field.
    const fn new(pmm: u64, is_virtual: bool) -> Self {
        let length = match pmm & 3 {
            2 => 7,
            3 => 16,
            _ => return Self { length: 0, is_virtual: false },
        };
        Self { length, is_virtual }
    }

    /// As it stands in a mode word.
    pub const fn of_mode(word: u64) -> Self {
        let field = (word & mode::MASKING) >> mode::MASKING_SHIFT;
        Self::new(field, field & mode::MASKING_VIRTUAL != 0)
    }

    /// The field of a mode word.
    pub(crate) const fn to_mode(self) -> u64 {
        let pmm = match self.length {
            7 => 2,
            16 => 3,
            _ => return 0,
        };
        (pmm | if self.is_virtual { mode::MASKING_VIRTUAL } else { 0 }) << mode::MASKING_SHIFT
    }

    /// Upper bits that are ignored.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether they become copies of the highest bit that counts, and not zeros.
    pub const fn is_virtual(self) -> bool {
        self.is_virtual
    }

    /// An address as memory sees it.
    #[inline]
    pub const fn apply(self, address: u64) -> u64 {
        let shifted = address << self.length;
        if self.is_virtual { (shifted as i64 >> self.length) as u64 } else { shifted >> self.length }
    }
}

impl RiscvState {
    /// Masking of loads and stores under the present state: that of the mode whose rights they have.
    pub fn masking(&self) -> Masking {
        let (privilege, is_virtual) = self.data_privilege();
        let register = match (privilege, is_virtual) {
            (Privilege::Machine, _) => self.m.mseccfg,
            (Privilege::Supervisor, false) => self.m.menvcfg,
            (Privilege::Supervisor, true) => self.h.henvcfg,
            (Privilege::User, _) if self.has(crate::Extension::S) => self.s.senvcfg,
            (Privilege::User, _) => self.m.menvcfg,
        };
        self.masking_by(register >> PMM_SHIFT, privilege, is_virtual)
    }

    /// Masking of HLV and HSV. HLVX has none.
    pub fn hypervisor_masking(&self) -> Masking {
        if self.h.hstatus & hstatus::SPVP != 0 {
            return self.masking_by(self.h.henvcfg >> PMM_SHIFT, Privilege::Supervisor, true);
        }
        let pmm = match self.privilege() {
            Privilege::User => self.h.hstatus >> hstatus::HUPMM_SHIFT,
            _ => self.s.senvcfg >> PMM_SHIFT,
        };
        self.masking_by(pmm, Privilege::User, true)
    }

    fn masking_by(&self, pmm: u64, privilege: Privilege, is_virtual: bool) -> Masking {
        if pmm & 3 == 0 || self.config.xlen == 32 {
            return Masking::default();
        }
        if privilege == Privilege::Machine {
            return Masking::new(pmm, false);
        }
        // MXR is for reading instructions, whose addresses are not masked.
        let (guest, translation) =
            if is_virtual { (self.vs.vsstatus, self.vs.vsatp) } else { (0, self.s.satp) };
        if (self.m.mstatus | guest) & mstatus::MXR != 0 {
            return Masking::default();
        }
        Masking::new(pmm, translation >> 60 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuModel;

    #[test]
    fn bits_become_copies_or_zeros() {
        let address = 0xabff_ffff_1234_5678;
        for (pmm, is_virtual, expected) in [
            (0, true, address),
            (1, true, address),
            (2, true, 0xffff_ffff_1234_5678),
            (2, false, 0x01ff_ffff_1234_5678),
            (3, true, 0xffff_ffff_1234_5678),
            (3, false, 0x0000_ffff_1234_5678),
        ] {
            let masking = Masking::new(pmm, is_virtual);
            assert_eq!(masking.apply(address), expected, "{pmm} {is_virtual}");
            assert_eq!(Masking::of_mode(masking.to_mode()), masking);
        }
        assert_eq!(Masking::new(3, true).apply(0xffff_7000_0000_0000), 0x7000_0000_0000);
    }

    #[test]
    fn each_mode_is_masked_as_the_next_higher_one_says() {
        let mut st = CpuModel::named("rv64").unwrap().reset_state(0, 0);
        (st.m.mseccfg, st.m.menvcfg, st.s.senvcfg, st.h.henvcfg) = (2 << 32, 3 << 32, 2 << 32, 3 << 32);
        (st.s.satp, st.h.hstatus) = (8 << 60, 2 << hstatus::HUPMM_SHIFT);
        for (privilege, is_virtual, length, copies) in
            [(3, 0, 7, false), (1, 0, 16, true), (0, 0, 7, true), (1, 1, 16, false), (0, 1, 7, false)]
        {
            (st.privilege_bits, st.virtualization) = (privilege, is_virtual);
            let masking = st.masking();
            assert_eq!(
                (masking.length(), masking.is_virtual()),
                (length, copies),
                "{privilege} {is_virtual}"
            );
            assert_eq!(Masking::of_mode(st.compute_mode()), masking);
            st.m.mstatus = mstatus::MXR;
            let expected = if privilege == 3 { 7 } else { 0 };
            assert_eq!(st.masking().length(), expected, "MXR {privilege} {is_virtual}");
            st.m.mstatus = 0;
        }
        // MPRV: the mode whose rights count.
        (st.privilege_bits, st.virtualization) = (3, 0);
        st.m.mstatus = mstatus::MPRV | 1 << mstatus::MPP_SHIFT;
        assert_eq!(st.masking(), Masking::new(3, true));
        // The hypervisor's accesses.
        (st.m.mstatus, st.s.senvcfg) = (0, 3 << 32);
        assert_eq!(st.hypervisor_masking(), Masking::new(3, false), "as VU, from machine mode");
        st.privilege_bits = 0;
        assert_eq!(st.hypervisor_masking(), Masking::new(2, false), "as VU, from user mode");
        st.vs.vsatp = 8 << 60;
        st.h.hstatus |= hstatus::SPVP;
        assert_eq!(st.hypervisor_masking(), Masking::new(3, true), "as VS");
    }
}
