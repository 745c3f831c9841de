//! The page walk: linear to physical, for every paging mode but 5-level (SDM vol. 3, chapter 5).
//!
//! This is what happens on every TLB miss, so it is generic over the bus (reads of page-table entries inline into the
//! caller's) and allocates nothing. Accessed and dirty bits are set with compare-and-swap, so that a concurrent change
//! of an entry by another processor is never lost: when the swap fails the entry is read and judged again.

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, cr4, efer};
use rhea_x86_state::features::Feature;
use rhea_x86_state::flags;

use crate::bus::{Privilege, SystemBus};
use crate::exception::{Exception, pf};

/// Page-table entry bits (SDM vol. 3, 5.5).
pub mod pte {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const P: u64 = 1 << 0;
    pub const RW: u64 = 1 << 1;
    pub const US: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const XD: u64 = 1 << 63;
}

/// How often a lost race for an accessed or dirty bit is run again before the bit is left to the winner.
const CAS_ATTEMPTS: u32 = 64;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write, or a read-modify-write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// An access as the walk sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// A user-mode access (CPL 3 and not implicit).
    pub user: bool,
    /// A supervisor data access to which SMAP applies (CR4.SMAP is looked at by the walk itself): implicit, or
    /// RFLAGS.AC is clear. Ignored for user accesses.
    pub smap: bool,
}

impl Access {
    /// The access that `privilege` means in the present state.
    #[inline]
    pub fn new(st: &X86State, kind: AccessKind, privilege: Privilege) -> Self {
        let ring = match privilege {
            Privilege::Current => st.cpl(),
            Privilege::Ring(ring) => ring,
            Privilege::Supervisor => return Self { kind, user: false, smap: true },
        };
        Self { kind, user: ring == 3, smap: st.rflags & flags::AC == 0 }
    }
}

/// A successful walk. The permissions are those of accesses with the same `user` and `smap` as the one walked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the byte.
    pub phys: u64,
    /// Data may be read.
    pub readable: bool,
    /// Data may be written without another walk: permitted, and the dirty bit is set.
    pub writable_now: bool,
    /// Instructions may be fetched.
    pub executable: bool,
    /// U/S of the page is "user" at all levels.
    pub user: bool,
    /// A global page (with CR4.PGE).
    pub global: bool,
    /// 12, 21, 22 or 30; 12 without paging.
    pub page_size_log2: u8,
}

/// Whether an address is canonical: bits 63..=47 are all equal.
#[inline]
pub const fn is_canonical(linear: u64) -> bool {
    ((linear as i64) << 16 >> 16) as u64 == linear
}

/// Walks the page tables for one byte. `linear` is canonical (long mode) or below 4 GiB.
///
/// On success the accessed bits are set, and for a write the dirty bit. Errors are #PF with its error code.
#[inline]
pub fn translate<B: SystemBus + ?Sized>(
    st: &X86State,
    bus: &mut B,
    linear: u64,
    access: Access,
) -> Result<Translation, Exception> {
    if st.cr[0] & cr0::PG == 0 {
        return Ok(Translation {
            phys: linear & 0xffff_ffff,
            readable: true,
            writable_now: true,
            executable: true,
            user: true,
            global: false,
            page_size_log2: 12,
        });
    }
    let walk = Walk::new(st, linear, access);
    let long = st.efer & efer::LMA != 0;
    if long || st.cr[4] & cr4::PAE != 0 { walk.wide(st, bus, long) } else { walk.narrow(st, bus) }
}

/// What stays the same through one walk.
struct Walk {
    linear: u64,
    access: Access,
    nxe: bool,
    smep: bool,
    smap: bool,
    wp: bool,
    pge: bool,
    /// XD is reported in the error code: EFER.NXE with PAE paging, or CR4.SMEP.
    report_fetch: bool,
}

impl Walk {
    #[inline]
    fn new(st: &X86State, linear: u64, access: Access) -> Self {
        let cr4v = st.cr[4];
        let nxe = st.efer & efer::NXE != 0 && cr4v & cr4::PAE != 0;
        let smep = cr4v & cr4::SMEP != 0;
        Self {
            linear,
            access,
            nxe,
            smep,
            smap: cr4v & cr4::SMAP != 0 && access.smap,
            wp: st.cr[0] & cr0::WP != 0,
            pge: cr4v & cr4::PGE != 0,
            report_fetch: nxe || smep,
        }
    }

    #[cold]
    fn fault(&self, code: u32) -> Exception {
        let mut code = code;
        if self.access.kind == AccessKind::Write {
            code |= pf::W;
        }
        if self.access.user {
            code |= pf::U;
        }
        if self.access.kind == AccessKind::Execute && self.report_fetch {
            code |= pf::ID;
        }
        Exception::pf(self.linear, code)
    }

    /// What a page with the combined `rights` (RW and US anded, XD ored over all levels) permits:
    /// (read, write, execute).
    #[inline]
    fn permissions(&self, rights: u64) -> (bool, bool, bool) {
        let user_page = rights & pte::US != 0;
        let rw = rights & pte::RW != 0;
        let execute = !(self.nxe && rights & pte::XD != 0);
        if self.access.user {
            (user_page, user_page && rw, user_page && execute)
        } else {
            let data = !(user_page && self.smap);
            (data, data && (rw || !self.wp), execute && !(user_page && self.smep))
        }
    }

    /// Judges a leaf entry and sets its accessed and dirty bits. `None`: the entry changed meanwhile.
    #[inline]
    fn leaf<B: SystemBus + ?Sized>(
        &self,
        bus: &mut B,
        at: u64,
        size: u8,
        entry: u64,
        rights: u64,
        phys: u64,
        page_size_log2: u8,
        attempts: &mut u32,
    ) -> Result<Option<Translation>, Exception> {
        let (readable, writable, executable) = self.permissions(rights);
        let allowed = match self.access.kind {
            AccessKind::Read => readable,
            AccessKind::Write => writable,
            AccessKind::Execute => executable,
        };
        if !allowed {
            return Err(self.fault(pf::P));
        }
        let mut want = entry | pte::A;
        if self.access.kind == AccessKind::Write {
            want |= pte::D;
        }
        if want != entry && !bus.cas_phys(at, size, entry, want) {
            *attempts += 1;
            if *attempts < CAS_ATTEMPTS {
                return Ok(None);
            }
        }
        Ok(Some(Translation {
            phys,
            readable,
            writable_now: writable && want & pte::D != 0,
            executable,
            user: rights & pte::US != 0,
            global: self.pge && entry & pte::G != 0,
            page_size_log2,
        }))
    }

    /// 4-level (`long`) and PAE paging: entries of 8 bytes.
    #[inline]
    fn wide<B: SystemBus + ?Sized>(
        &self,
        st: &X86State,
        bus: &mut B,
        long: bool,
    ) -> Result<Translation, Exception> {
        const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
        let linear = self.linear;
        let mut reserved = ADDRESS & !((1u64 << st.physical_bits) - 1);
        if !self.nxe {
            reserved |= pte::XD;
        }
        let (mut table, mut shift) = if long {
            (st.cr[3] & ADDRESS, 39)
        } else {
            // Bits 62:52 are reserved in PAE entries; the PDPTEs were checked when they were loaded.
            reserved |= 0x7ff0_0000_0000_0000;
            let pdpte = st.pdpte[(linear >> 30 & 3) as usize];
            if pdpte & pte::P == 0 {
                return Err(self.fault(0));
            }
            (pdpte & ADDRESS, 21)
        };
        let mut rights = pte::RW | pte::US;
        let mut attempts = 0;
        loop {
            let at = table | (linear >> shift & 0x1ff) << 3;
            let entry = bus.read_phys(at, 8);
            if entry & pte::P == 0 {
                return Err(self.fault(0));
            }
            if entry & reserved != 0 {
                return Err(self.fault(pf::P | pf::RSVD));
            }
            let combined = rights & entry | (rights | entry) & pte::XD;
            let large = shift > 12 && entry & pte::PS != 0;
            if large || shift == 12 {
                let offset = (1u64 << shift) - 1;
                if large {
                    let unsupported = shift == 39 || (shift == 30 && !st.features.has(Feature::PDPE1GB));
                    // Bit 12 of a large page's entry is PAT; the address bits above it are reserved.
                    if unsupported || entry & offset & ADDRESS & !0x1000 != 0 {
                        return Err(self.fault(pf::P | pf::RSVD));
                    }
                }
                let phys = entry & ADDRESS & !offset | linear & offset;
                match self.leaf(bus, at, 8, entry, combined, phys, shift as u8, &mut attempts)? {
                    Some(t) => return Ok(t),
                    None => continue,
                }
            }
            if entry & pte::A == 0 && !bus.cas_phys(at, 8, entry, entry | pte::A) {
                attempts += 1;
                if attempts < CAS_ATTEMPTS {
                    continue;
                }
            }
            rights = combined;
            table = entry & ADDRESS;
            shift -= 9;
        }
    }

    /// 32-bit paging: entries of 4 bytes, 4 MiB pages with CR4.PSE, 40-bit addresses in them with PSE-36.
    fn narrow<B: SystemBus + ?Sized>(&self, st: &X86State, bus: &mut B) -> Result<Translation, Exception> {
        let linear = self.linear;
        let mut attempts = 0;
        loop {
            let at = st.cr[3] & 0xffff_f000 | (linear >> 22 & 0x3ff) << 2;
            let pde = bus.read_phys(at, 4);
            if pde & pte::P == 0 {
                return Err(self.fault(0));
            }
            if pde & pte::PS != 0 && st.cr[4] & cr4::PSE != 0 {
                let high_bits =
                    if st.features.has(Feature::PSE36) { st.physical_bits.min(40) - 32 } else { 0 };
                let high = pde >> 13 & 0x1ff;
                if high >> high_bits != 0 {
                    return Err(self.fault(pf::P | pf::RSVD));
                }
                let phys = high << 32 | pde & 0xffc0_0000 | linear & 0x3f_ffff;
                match self.leaf(bus, at, 4, pde, pde, phys, 22, &mut attempts)? {
                    Some(t) => return Ok(t),
                    None => continue,
                }
            }
            if pde & pte::A == 0 && !bus.cas_phys(at, 4, pde, pde | pte::A) {
                attempts += 1;
                if attempts < CAS_ATTEMPTS {
                    continue;
                }
            }
            let at = pde & 0xffff_f000 | (linear >> 12 & 0x3ff) << 2;
            let entry = bus.read_phys(at, 4);
            if entry & pte::P == 0 {
                return Err(self.fault(0));
            }
            let phys = entry & 0xffff_f000 | linear & 0xfff;
            if let Some(t) = self.leaf(bus, at, 4, entry, entry & pde, phys, 12, &mut attempts)? {
                return Ok(t);
            }
        }
    }
}

/// Reads the PAE page-directory-pointer table that `cr3` names. #GP(0) if a present entry has reserved bits set
/// (SDM vol. 3, 5.4.1).
pub fn load_pdptes<B: SystemBus + ?Sized>(
    st: &X86State,
    bus: &mut B,
    cr3: u64,
) -> Result<[u64; 4], Exception> {
    // Reserved: 2:1, 8:5 and everything above the physical-address width.
    let reserved = 0x1e6 | !((1u64 << st.physical_bits) - 1);
    let mut entries = [0; 4];
    for (i, entry) in entries.iter_mut().enumerate() {
        *entry = bus.read_phys((cr3 & 0xffff_ffe0) + 8 * i as u64, 8);
        if *entry & pte::P != 0 && *entry & reserved != 0 {
            return Err(Exception::gp(0));
        }
    }
    Ok(entries)
}
