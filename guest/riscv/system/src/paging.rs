//! The page walk: virtual to physical for Sv32, Sv39, Sv48 and Sv57 (privileged specification, "Virtual Address
//! Translation Process"), with Svnapot, Svpbmt and Svadu, and the PMP check of the walk and of its result.
//!
//! With the hypervisor extension, what virtual modes access goes through two stages ("Two-Stage Address Translation"): the
//! tables of vsatp, whose own addresses are guest physical ones, and those of hgatp (Sv32x4 to Sv57x4), whose root is
//! four times as large. Both are the same [`Walk`], of different [`Stage`]s.
//!
//! This is what happens on every TLB miss, so it is generic over the bus and allocates nothing. A and D are set with
//! compare-and-swap; when the swap fails the entry is read and judged again.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{HartConfig, Privilege, mmu, mstatus, satp};

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

    const fn guest_page_fault(self) -> Cause {
        match self {
            Self::Read => Cause::LoadGuestPageFault,
            Self::Write => Cause::StoreGuestPageFault,
            Self::Execute => Cause::InstructionGuestPageFault,
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
    /// V is 1 for it: there are two stages.
    pub is_virtual: bool,
    /// HLVX: it needs execute permission in the place of read permission.
    pub hlvx: bool,
}

impl Access {
    /// An access under an MMU index ([`mmu`]).
    pub fn new(st: &RiscvState, kind: AccessKind, index: u8) -> Self {
        let hlvx = index == mmu::HYPERVISOR_EXECUTE;
        let index = if hlvx { st.hypervisor_index() } else { index };
        let (privilege, sum) = match index {
            mmu::USER | mmu::VIRTUAL_USER => (Privilege::User, false),
            mmu::SUPERVISOR | mmu::VIRTUAL_SUPERVISOR => (Privilege::Supervisor, false),
            mmu::SUPERVISOR_SUM | mmu::VIRTUAL_SUPERVISOR_SUM => (Privilege::Supervisor, true),
            _ => (Privilege::Machine, false),
        };
        let is_virtual = (mmu::VIRTUAL_USER..mmu::HYPERVISOR_EXECUTE).contains(&index);
        Self { kind, privilege, sum, is_virtual, hlvx }
    }

    /// The exception of an access to `vaddr` that physical memory does not allow.
    pub fn access_fault(&self, vaddr: u64) -> Exception {
        Exception::at(self.kind.access_fault(), vaddr).of_guest(self.is_virtual)
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
    /// Log2 of the page whose fence forgets the translation. Below 12, where a PMP entry begins or ends in the page of
    /// 4 KiB, it is good for this one access only.
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

/// The mode that a value of satp, vsatp or hgatp holds.
pub(crate) const fn mode_of(config: &HartConfig, value: u64) -> u32 {
    if config.xlen == 32 { (value >> 31) as u32 & 1 } else { (value >> 60) as u32 }
}

/// The mode that satp holds.
pub const fn satp_mode(st: &RiscvState) -> u32 {
    mode_of(&st.config, st.s.satp)
}

/// What a leaf says.
struct Leaf {
    entry: u64,
    phys: u64,
    bits: u8,
}

/// Which translation a walk is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The only one: satp.
    Single,
    /// The first of two: vsatp.
    Guest,
    /// The second: hgatp, for an access of the guest itself or of a walk of its tables.
    Second(Use),
}

/// What the second stage translates an address for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// What the first stage gave for the access.
    Access,
    /// The first stage reads an entry.
    TableRead,
    /// The first stage sets A or D.
    TableWrite,
}

/// Walks the page tables for an access of `len` bytes at `vaddr` that stays within one page of 4 KiB.
///
/// # Errors
/// The page fault, guest page fault or access fault of the access, with `vaddr` as its value.
#[inline]
pub fn translate<B: SystemBus + ?Sized>(
    st: &RiscvState,
    bus: &mut B,
    vaddr: u64,
    len: u64,
    access: Access,
) -> Result<Translation, Exception> {
    if access.is_virtual {
        return translate_virtual(st, bus, vaddr, len, access);
    }
    let format = if access.privilege == Privilege::Machine { None } else { format(satp_mode(st)) };
    let found = match format {
        None => unchanged(st, vaddr),
        Some(format) => Walk::first(st, access, vaddr, format, Stage::Single).repeat(bus)?,
    };
    protect(st, found, len, access, vaddr)
}

/// An address that no table translates.
fn unchanged(st: &RiscvState, address: u64) -> Translation {
    let phys = address & st.config.mask();
    Translation { phys, read: true, write: true, execute: true, global: false, page_bits: 12 }
}

/// Both stages.
fn translate_virtual<B: SystemBus + ?Sized>(
    st: &RiscvState,
    bus: &mut B,
    vaddr: u64,
    len: u64,
    access: Access,
) -> Result<Translation, Exception> {
    let mut found = match format(mode_of(&st.config, st.vs.vsatp)) {
        None => unchanged(st, vaddr),
        Some(format) => Walk::first(st, access, vaddr, format, Stage::Guest).repeat(bus)?,
    };
    if let Some(second) = second_stage(st, access, vaddr, found.phys, Use::Access) {
        let host = second.repeat(bus)?;
        found = Translation {
            phys: host.phys,
            read: found.read && host.read,
            write: found.write && host.write,
            execute: found.execute && host.execute,
            global: found.global,
            // A fence for the address forgets all of the page of the first stage; one for the second forgets everything.
            page_bits: found.page_bits,
        };
    }
    let mut found = protect(st, found, len, access, vaddr)?;
    if access.hlvx {
        // Good for this access only: the next may have other rights under the same index.
        found.page_bits = 2;
    }
    Ok(found)
}

/// The walk of the second stage for a guest physical address; nothing where hgatp says Bare.
fn second_stage(st: &RiscvState, access: Access, vaddr: u64, address: u64, why: Use) -> Option<Walk<'_>> {
    let format = format(mode_of(&st.config, st.h.hgatp))?;
    // The walk's own accesses have the kind that they have, not the original one.
    let (kind, hlvx) = match why {
        Use::Access => (access.kind, access.hlvx),
        Use::TableRead => (AccessKind::Read, false),
        Use::TableWrite => (AccessKind::Write, false),
    };
    let (original, stage) = (access.kind, Stage::Second(why));
    Some(Walk { st, access: Access { kind, hlvx, ..access }, original, vaddr, address, format, stage })
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
    if pmp::uniform_bits(st, found.phys, 12) < 12 {
        found.page_bits = 2;
    }
    let allowed = match access.kind {
        AccessKind::Read => may.read,
        AccessKind::Write => may.write,
        AccessKind::Execute => may.execute,
    };
    if allowed { Ok(found) } else { Err(access.access_fault(vaddr)) }
}

struct Walk<'a> {
    st: &'a RiscvState,
    /// The rights that entries are judged by.
    access: Access,
    /// The kind of the access that all this is for: what faults are called by.
    original: AccessKind,
    /// The address of that access.
    vaddr: u64,
    /// What is translated: `vaddr`, or a guest physical address.
    address: u64,
    format: Format,
    stage: Stage,
}

impl<'a> Walk<'a> {
    /// A walk for the access's own address.
    const fn first(st: &'a RiscvState, access: Access, vaddr: u64, format: Format, stage: Stage) -> Self {
        Self { st, access, original: access.kind, vaddr, address: vaddr, format, stage }
    }

    /// Runs until no other hart gets in between.
    fn repeat<B: SystemBus + ?Sized>(&self, bus: &mut B) -> Result<Translation, Exception> {
        for _ in 0..CAS_ATTEMPTS {
            if let Some(found) = self.run(bus)? {
                return Ok(found);
            }
        }
        Err(self.page_fault())
    }

    fn page_fault(&self) -> Exception {
        let Stage::Second(why) = self.stage else {
            return Exception::at(self.original.page_fault(), self.vaddr).of_guest(self.access.is_virtual);
        };
        // Pseudoinstructions: a read or write of XLEN bits by the walk of the first stage.
        let instruction = match (why, self.format.entry) {
            (Use::Access, _) => 0,
            (Use::TableRead, 4) => 0x2000,
            (Use::TableRead, _) => 0x3000,
            (Use::TableWrite, 4) => 0x2020,
            (Use::TableWrite, _) => 0x3020,
        };
        let fault = Exception::at(self.original.guest_page_fault(), self.vaddr).of_guest(true);
        Exception { guest_physical: self.address, instruction, ..fault }
    }

    fn access_fault(&self) -> Exception {
        Access { kind: self.original, ..self.access }.access_fault(self.vaddr)
    }

    /// Upper bits of an address must all equal the highest translated one; those of a guest physical one, which is two
    /// bits wider, must be zero.
    fn canonical(&self) -> bool {
        if let Stage::Second(_) = self.stage {
            return self.address >> (self.format.width + 2) == 0;
        }
        let unused = 64 - self.format.width;
        self.format.entry == 4 || ((self.address << unused) as i64 >> unused) as u64 == self.address
    }

    /// Address of the root table.
    fn root(&self) -> u64 {
        let ppn_bits = if self.format.entry == 4 { 22 } else { 44 };
        let register = match self.stage {
            Stage::Single => self.st.s.satp,
            Stage::Guest => self.st.vs.vsatp,
            // Its lowest two bits are zero: the root is aligned to its four pages.
            Stage::Second(_) => self.st.h.hgatp,
        };
        (register & ((1 << ppn_bits) - 1)) << 12
    }

    /// One attempt; `None` when another hart changed an entry in between.
    fn run<B: SystemBus + ?Sized>(&self, bus: &mut B) -> Result<Option<Translation>, Exception> {
        if !self.canonical() {
            return Err(self.page_fault());
        }
        let mut table = self.root();
        let mut global = false;
        for level in (0..self.format.levels).rev() {
            let shift = 12 + level * self.format.index_bits;
            let widened = matches!(self.stage, Stage::Second(_)) && level + 1 == self.format.levels;
            let index_bits = self.format.index_bits + if widened { 2 } else { 0 };
            let index = self.address >> shift & ((1 << index_bits) - 1);
            let at = table + index * u64::from(self.format.entry);
            let (entry, at) = self.read(bus, at)?;
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

    /// The physical address of an entry: of the first of two stages, what the second makes of it.
    fn entry_address<B: SystemBus + ?Sized>(&self, bus: &mut B, at: u64, why: Use) -> Result<u64, Exception> {
        if self.stage != Stage::Guest {
            return Ok(at);
        }
        let access = Access { kind: self.original, ..self.access };
        match second_stage(self.st, access, self.vaddr, at, why) {
            Some(walk) => Ok(walk.repeat(bus)?.phys),
            None => Ok(at),
        }
    }

    /// Reads an entry, and tells its address too; page tables are read with the rights of supervisor mode.
    fn read<B: SystemBus + ?Sized>(&self, bus: &mut B, at: u64) -> Result<(u64, u64), Exception> {
        let host = self.entry_address(bus, at, Use::TableRead)?;
        if !pmp::permission(self.st, Privilege::Supervisor, host, self.format.entry.into()).read {
            return Err(self.access_fault());
        }
        let entry = bus.read_phys(host, self.format.entry).ok_or_else(|| self.access_fault())?;
        Ok((entry, at))
    }

    fn ppn(&self, entry: u64) -> u64 {
        if self.format.entry == 4 {
            entry >> pte::PPN_SHIFT & 0x3f_ffff
        } else {
            (entry & pte::PPN) >> pte::PPN_SHIFT
        }
    }

    /// Whether a bit of menvcfg is set for this stage: for the first of two it is henvcfg's, which menvcfg's allows.
    fn configured(&self, bit: u64) -> bool {
        let virtual_bits = if self.stage == Stage::Guest { self.st.h.henvcfg } else { u64::MAX };
        self.st.m.menvcfg & virtual_bits & bit != 0
    }

    /// What is wrong with an entry at any level.
    fn check(&self, entry: u64) -> Result<(), Exception> {
        let mut bad = entry & pte::V == 0 || entry & (pte::R | pte::W) == pte::W;
        if self.format.entry == 8 {
            bad |= entry & pte::RESERVED != 0;
            bad |= entry & pte::N != 0 && !self.st.has(Extension::Svnapot);
            let types = self.st.has(Extension::Svpbmt) && self.configured(PBMTE);
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
        let offset = self.address & ((1 << bits) - 1);
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
            if !self.configured(ADUE) {
                return Err(self.page_fault());
            }
            // The update is a store with the rights of supervisor mode.
            let host = self.entry_address(bus, at, Use::TableWrite)?;
            if !pmp::permission(self.st, Privilege::Supervisor, host, self.format.entry.into()).write {
                return Err(self.access_fault());
            }
            match bus.cas_phys(host, self.format.entry, leaf.entry, updated) {
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

    /// What the access's mode may do by a leaf's bits. The second stage takes every access for one of user mode.
    fn rights(&self, entry: u64) -> (bool, bool, bool) {
        let user_page = entry & pte::U != 0;
        let (data, fetch) = match (self.stage, self.access.privilege) {
            (Stage::Second(_), _) | (_, Privilege::User) => (user_page, user_page),
            _ => (!user_page || self.access.sum, !user_page),
        };
        let executable = entry & pte::X != 0;
        let readable = if self.access.hlvx {
            executable
        } else {
            // MXR of vsstatus is for the first of two stages, that of mstatus for each.
            let guest = if self.stage == Stage::Guest { self.st.vs.vsstatus } else { 0 };
            let mxr = (self.st.m.mstatus | guest) & mstatus::MXR != 0;
            entry & pte::R != 0 || mxr && executable
        };
        (data && readable, data && entry & pte::W != 0, fetch && executable)
    }
}
