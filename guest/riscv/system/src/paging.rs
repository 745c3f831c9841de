//! The page walk: virtual to physical for Sv32, Sv39, Sv48 and Sv57 (privileged specification, "Virtual Address
//! Translation Process"), with Svnapot, Svpbmt and Svadu, and the PMP check of the walk and of its result.
//!
//! This is what happens on every TLB miss, so it is generic over the bus and allocates nothing. A and D are set with
//! compare-and-swap; when the swap fails the entry is read and judged again.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{Privilege, mmu, mstatus, satp};

use crate::bus::SystemBus;
use crate::exception::{Cause, Exception};
use crate::pmp;

/// Page-table entry bits.
pub mod pte {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const V: u64 = 1 << 0;
    pub const R: u64 = 1 << 1;
    pub const W: u64 = 1 << 2;
    pub const X: u64 = 1 << 3;
    pub const U: u64 = 1 << 4;
    pub const G: u64 = 1 << 5;
    pub const A: u64 = 1 << 6;
    pub const D: u64 = 1 << 7;
    pub const PPN_SHIFT: u32 = 10;
    /// Physical page number of a 64-bit entry.
    pub const PPN: u64 = ((1 << 44) - 1) << PPN_SHIFT;
    pub const RESERVED: u64 = 0x7f << 54;
    pub const PBMT: u64 = 3 << 61;
    pub const N: u64 = 1 << 63;
}

/// Menvcfg.ADUE: hardware sets A and D.
pub const ADUE: u64 = 1 << 61;
/// Menvcfg.PBMTE: Svpbmt is in force.
pub const PBMTE: u64 = 1 << 62;

/// How often a lost race for A or D is run again before the access is told to try again later (by a page fault, which
/// is what a walk that finds the bit clear may always raise).
const CAS_ATTEMPTS: u32 = 64;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Load or LR.
    Read,
    /// Store, SC, AMO, or cache-block zero.
    Write,
    /// Instruction fetch.
    Execute,
}

impl AccessKind {
    const fn page_fault(self) -> Cause {
        match self {
            Self::Read => Cause::LoadPageFault,
            Self::Write => Cause::StorePageFault,
            Self::Execute => Cause::InstructionPageFault,
        }
    }

    const fn access_fault(self) -> Cause {
        match self {
            Self::Read => Cause::LoadAccess,
            Self::Write => Cause::StoreAccess,
            Self::Execute => Cause::InstructionAccess,
        }
    }
}

/// With whose rights an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// Effective privilege: MPRV has been looked at.
    pub privilege: Privilege,
    /// Supervisor accesses may reach user pages.
    pub sum: bool,
}

impl Access {
    /// An access under an MMU index ([`mmu`]).
    pub const fn new(kind: AccessKind, index: u8) -> Self {
        let (privilege, sum) = match index {
            mmu::USER => (Privilege::User, false),
            mmu::SUPERVISOR => (Privilege::Supervisor, false),
            mmu::SUPERVISOR_SUM => (Privilege::Supervisor, true),
            _ => (Privilege::Machine, false),
        };
        Self { kind, privilege, sum }
    }
}

/// A successful walk. The permissions are those of accesses under the same MMU index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte.
    pub phys: u64,
    /// Data may be read.
    pub read: bool,
    /// Data may be written without another walk: permitted, and D is set.
    pub write: bool,
    /// Instructions may be fetched.
    pub execute: bool,
    /// A global mapping.
    pub global: bool,
    /// Log2 of the block that the translation is the same for: the page, or less where a PMP entry begins or ends in
    /// it. Below 12 it is good for this one access only.
    pub page_bits: u8,
}

/// How a mode of satp splits an address.
struct Format {
    levels: u32,
    /// Bits of an index at one level.
    index_bits: u32,
    entry: u8,
    /// Bits of a virtual address.
    width: u32,
}

fn format(mode: u32) -> Option<Format> {
    let (levels, index_bits, entry, width) = match mode {
        satp::SV32 => (2, 10, 4, 32),
        satp::SV39 => (3, 9, 8, 39),
        satp::SV48 => (4, 9, 8, 48),
        satp::SV57 => (5, 9, 8, 57),
        _ => return None,
    };
    Some(Format { levels, index_bits, entry, width })
}

/// The mode that satp holds.
pub const fn satp_mode(st: &RiscvState) -> u32 {
    if st.config.xlen == 32 { (st.s.satp >> 31) as u32 & 1 } else { (st.s.satp >> 60) as u32 }
}

/// What a leaf says.
struct Leaf {
    entry: u64,
    phys: u64,
    bits: u8,
}

/// Walks the page tables for an access of `len` bytes at `vaddr` that stays within one page of 4 KiB.
///
/// # Errors
/// The page fault or access fault of the access, with `vaddr` as its value.
#[inline]
pub fn translate<B: SystemBus + ?Sized>(
    st: &RiscvState,
    bus: &mut B,
    vaddr: u64,
    len: u64,
    access: Access,
) -> Result<Translation, Exception> {
    let format = if access.privilege == Privilege::Machine { None } else { format(satp_mode(st)) };
    let Some(format) = format else {
        let all = Translation {
            phys: vaddr & st.config.mask(),
            read: true,
            write: true,
            execute: true,
            global: false,
            page_bits: 12,
        };
        return protect(st, all, len, access, vaddr);
    };
    let walk = Walk { st, access, vaddr, format };
    for _ in 0..CAS_ATTEMPTS {
        if let Some(found) = walk.run(bus)? {
            return protect(st, found, len, access, vaddr);
        }
    }
    Err(walk.page_fault())
}

/// Applies PMP to the result of a walk.
fn protect(
    st: &RiscvState,
    mut found: Translation,
    len: u64,
    access: Access,
    vaddr: u64,
) -> Result<Translation, Exception> {
    let may = pmp::permission(st, access.privilege, found.phys, len);
    found.read &= may.read;
    found.write &= may.write;
    found.execute &= may.execute;
    found.page_bits = pmp::uniform_bits(st, found.phys, found.page_bits);
    let allowed = match access.kind {
        AccessKind::Read => may.read,
        AccessKind::Write => may.write,
        AccessKind::Execute => may.execute,
    };
    if allowed { Ok(found) } else { Err(Exception::at(access.kind.access_fault(), vaddr)) }
}

struct Walk<'a> {
    st: &'a RiscvState,
    access: Access,
    vaddr: u64,
    format: Format,
}

impl Walk<'_> {
    fn page_fault(&self) -> Exception {
        Exception::at(self.access.kind.page_fault(), self.vaddr)
    }

    fn access_fault(&self) -> Exception {
        Exception::at(self.access.kind.access_fault(), self.vaddr)
    }

    /// Upper bits of an address must all equal the highest translated one.
    fn canonical(&self) -> bool {
        let unused = 64 - self.format.width;
        self.format.entry == 4 || ((self.vaddr << unused) as i64 >> unused) as u64 == self.vaddr
    }

    /// One attempt; `None` when another hart changed an entry in between.
    fn run<B: SystemBus + ?Sized>(&self, bus: &mut B) -> Result<Option<Translation>, Exception> {
        if !self.canonical() {
            return Err(self.page_fault());
        }
        let ppn_bits = if self.format.entry == 4 { 22 } else { 44 };
        let mut table = (self.st.s.satp & ((1 << ppn_bits) - 1)) << 12;
        let mut global = false;
        for level in (0..self.format.levels).rev() {
            let shift = 12 + level * self.format.index_bits;
            let index = self.vaddr >> shift & ((1 << self.format.index_bits) - 1);
            let at = table + index * u64::from(self.format.entry);
            let entry = self.read(bus, at)?;
            self.check(entry)?;
            global |= entry & pte::G != 0;
            if entry & (pte::R | pte::X) == 0 {
                // A pointer: A, D, U and the memory type are reserved.
                let reserved =
                    pte::A | pte::D | pte::U | if self.format.entry == 8 { pte::N | pte::PBMT } else { 0 };
                if entry & reserved != 0 {
                    return Err(self.page_fault());
                }
                table = self.ppn(entry) << 12;
                continue;
            }
            let leaf = self.leaf(entry, level, shift)?;
            return self.finish(bus, at, leaf, global);
        }
        Err(self.page_fault())
    }

    /// Reads an entry; page tables are read with the rights of supervisor mode.
    fn read<B: SystemBus + ?Sized>(&self, bus: &mut B, at: u64) -> Result<u64, Exception> {
        if !pmp::permission(self.st, Privilege::Supervisor, at, self.format.entry.into()).read {
            return Err(self.access_fault());
        }
        bus.read_phys(at, self.format.entry).ok_or_else(|| self.access_fault())
    }

    fn ppn(&self, entry: u64) -> u64 {
        if self.format.entry == 4 {
            entry >> pte::PPN_SHIFT & 0x3f_ffff
        } else {
            (entry & pte::PPN) >> pte::PPN_SHIFT
        }
    }

    /// What is wrong with an entry at any level.
    fn check(&self, entry: u64) -> Result<(), Exception> {
        let mut bad = entry & pte::V == 0 || entry & (pte::R | pte::W) == pte::W;
        if self.format.entry == 8 {
            bad |= entry & pte::RESERVED != 0;
            bad |= entry & pte::N != 0 && !self.st.has(Extension::Svnapot);
            let types = self.st.has(Extension::Svpbmt) && self.st.m.menvcfg & PBMTE != 0;
            bad |= entry & pte::PBMT != 0 && (!types || entry & pte::PBMT == pte::PBMT);
        }
        if bad { Err(self.page_fault()) } else { Ok(()) }
    }

    /// The address that a leaf at `level` gives, and the size of its page.
    fn leaf(&self, entry: u64, level: u32, shift: u32) -> Result<Leaf, Exception> {
        let mut ppn = self.ppn(entry);
        let mut bits = shift;
        if self.format.entry == 8 && entry & pte::N != 0 {
            // Svnapot: 64 KiB pages only (ppn[3:0] = 1000).
            if level != 0 || ppn & 0xf != 8 {
                return Err(self.page_fault());
            }
            bits = 16;
            ppn &= !0xf;
        } else if ppn & ((1 << (shift - 12)) - 1) != 0 {
            return Err(self.page_fault());
        }
        let offset = self.vaddr & ((1 << bits) - 1);
        Ok(Leaf { entry, phys: ppn << 12 | offset, bits: bits as u8 })
    }

    fn finish<B: SystemBus + ?Sized>(
        &self,
        bus: &mut B,
        at: u64,
        leaf: Leaf,
        global: bool,
    ) -> Result<Option<Translation>, Exception> {
        let (read, write, execute) = self.rights(leaf.entry);
        let allowed = match self.access.kind {
            AccessKind::Read => read,
            AccessKind::Write => write,
            AccessKind::Execute => execute,
        };
        if !allowed {
            return Err(self.page_fault());
        }
        let mut needs = pte::A;
        if self.access.kind == AccessKind::Write {
            needs |= pte::D;
        }
        let updated = leaf.entry | needs;
        if updated != leaf.entry {
            if self.st.m.menvcfg & ADUE == 0 {
                return Err(self.page_fault());
            }
            // The update is a store with the rights of supervisor mode.
            if !pmp::permission(self.st, Privilege::Supervisor, at, self.format.entry.into()).write {
                return Err(self.access_fault());
            }
            match bus.cas_phys(at, self.format.entry, leaf.entry, updated) {
                Some(true) => (),
                Some(false) => return Ok(None),
                None => return Err(self.access_fault()),
            }
        }
        Ok(Some(Translation {
            phys: leaf.phys,
            read,
            write: write && updated & pte::D != 0,
            execute,
            global,
            page_bits: leaf.bits,
        }))
    }

    /// What the access's mode may do by a leaf's bits.
    fn rights(&self, entry: u64) -> (bool, bool, bool) {
        let user_page = entry & pte::U != 0;
        let (data, fetch) = match self.access.privilege {
            Privilege::User => (user_page, user_page),
            _ => (!user_page || self.access.sum, !user_page),
        };
        let mxr = self.st.m.mstatus & mstatus::MXR != 0;
        let readable = entry & pte::R != 0 || mxr && entry & pte::X != 0;
        (data && readable, data && entry & pte::W != 0, fetch && entry & pte::X != 0)
    }
}
