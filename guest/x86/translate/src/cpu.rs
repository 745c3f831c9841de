//! A vCPU's own data, and the bus that the privileged semantics see.

use rhea_engine::env::PageRef;
use rhea_engine::{Access, Env, Translation};
use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr4, efer};
use rhea_x86_state::flags;
use rhea_x86_state::mode;
use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::{LocalApicPort, Pending};
use rhea_x86_state::state::gpr;
use rhea_x86_system::bus::{Delivery, Privilege, SystemBus, TlbScope};
use rhea_x86_system::debug::{self, Watch};
use rhea_x86_system::exception::Exception;
use rhea_x86_system::paging::{self, AccessKind};
use std::sync::Arc;

use crate::trace;
use crate::translator::{MMU_SMAP, MMU_SUPERVISOR, MMU_SYSTEM, MMU_USER};

/// What a processor asks of its board, apart from memory, ports and interrupts.
pub trait Board: Send + Sync {
    /// Processor `index` has shut down after a triple fault; the board usually resets the machine.
    fn triple_fault(&self, index: u32);
    /// Processor `index` entered (true) or left system management mode.
    fn smm_changed(&self, index: u32, in_smm: bool);
    /// FERR#: an x87 error waits and CR0.NE is clear (IRQ 13 on a PC).
    fn signal_ferr(&self, index: u32);
}

/// What a vCPU is made of besides memory.
#[derive(Clone)]
pub struct X86CpuConfig {
    /// What CPUID says.
    pub model: Arc<CpuModel>,
    /// Its local APIC.
    pub apic: Arc<dyn LocalApicPort>,
    /// The board.
    pub board: Arc<dyn Board>,
    /// Time-stamp counter frequency in Hz.
    pub tsc_hz: u64,
    /// Seed of the numbers RDRAND gives.
    pub random_seed: u64,
}

/// A vCPU's own data: what is not architectural state.
pub struct X86Cpu {
    /// An exception that a helper or memory access raised, to be delivered when the unit has been left.
    pub pending: Option<Exception>,
    /// Events that [`rhea_engine::Guest::has_events`] lets through: all while the processor runs, those that wake it
    /// while it waits.
    pub wake: Pending,
    /// Breakpoints (DR6 bits) that the instruction at hand has met.
    pub data_hits: u64,
    config: X86CpuConfig,
    random: u64,
}

impl X86Cpu {
    /// Data of a new vCPU.
    pub fn new(config: X86CpuConfig) -> Self {
        let random = config.random_seed;
        X86Cpu { pending: None, wake: Pending::all(), data_hits: 0, config, random }
    }

    /// The CPU model.
    pub fn model(&self) -> &Arc<CpuModel> {
        &self.config.model
    }

    /// Tells the board that an x87 error waits (FERR#).
    pub fn signal_ferr(&self, index: u32) {
        self.config.board.signal_ferr(index);
    }

    /// The local APIC.
    pub fn apic(&self) -> &Arc<dyn LocalApicPort> {
        &self.config.apic
    }
}

/// The bus of one vCPU: its surroundings and its data, borrowed from the context.
pub struct Bus<'a> {
    /// Memory, ports, time.
    pub env: &'a mut Env,
    /// The vCPU's data.
    pub cpu: &'a mut X86Cpu,
}

/// The MMU index of an access with `privilege`.
fn mmu_index(st: &X86State, privilege: Privilege) -> u8 {
    let ring = match privilege {
        Privilege::Supervisor => return MMU_SYSTEM,
        Privilege::Current => st.cpl(),
        Privilege::Ring(ring) => ring,
    };
    if ring == 3 {
        MMU_USER
    } else if st.cr[4] & cr4::SMAP != 0 && st.rflags & flags::AC == 0 {
        MMU_SMAP
    } else {
        MMU_SUPERVISOR
    }
}

/// The access that a TLB miss under `index` is.
fn walk_access(access: Access, index: u8) -> paging::Access {
    paging::Access {
        kind: match access {
            Access::Read => AccessKind::Read,
            Access::Write => AccessKind::Write,
            Access::Fetch => AccessKind::Execute,
        },
        user: index == MMU_USER,
        smap: index == MMU_SMAP || index == MMU_SYSTEM,
    }
}

/// Why a linear address has no translation.
pub enum WalkError {
    /// The page walk says so.
    Fault(Exception),
    /// The address is not canonical: #SS for accesses by way of SS, otherwise #GP.
    NotCanonical,
}

impl Bus<'_> {
    /// Walks the page tables for an access given by linear address and length in bytes, within one page.
    pub fn walk(
        &mut self,
        st: &X86State,
        (linear, len): (u64, u32),
        access: Access,
        index: u8,
    ) -> Result<Translation, WalkError> {
        let found = self.walk_tables(st, (linear, len), access, index);
        trace::walk(self.env, linear, access, index, &found);
        found
    }

    #[inline]
    fn walk_tables(
        &mut self,
        st: &X86State,
        (linear, len): (u64, u32),
        access: Access,
        index: u8,
    ) -> Result<Translation, WalkError> {
        if st.efer & efer::LMA != 0 && !paging::is_canonical(linear) {
            return Err(WalkError::NotCanonical);
        }
        let t = paging::translate(st, self, linear, walk_access(access, index)).map_err(WalkError::Fault)?;
        let mut page_bits = t.page_size_log2;
        if st.mode & mode::DATA_BREAKPOINTS != 0
            && access != Access::Fetch
            && self.watched(st, (linear, len), access)
        {
            page_bits = 0;
        }
        Ok(Translation {
            phys: t.phys,
            read: t.readable,
            write: t.writable_now,
            fetch: t.executable,
            global: t.global,
            page_bits,
        })
    }

    /// Notes the data breakpoints that an access meets with any of its bytes (Intel SDM volume 3, 18.2.5 "Breakpoint
    /// Field Recognition"); whether any lies in its page at all.
    fn watched(&mut self, st: &X86State, (linear, len): (u64, u32), access: Access) -> bool {
        let watch = if access == Access::Write { Watch::Write } else { Watch::Access };
        self.cpu.data_hits |= debug::matching(st, watch, linear, u64::from(len));
        debug::matching(st, Watch::Write, linear & !0xfff, 4096) != 0
    }

    /// Notes the I/O breakpoints that an access to `port` meets.
    pub fn watch_io(&mut self, st: &X86State, port: u16, size: u8) {
        if st.mode & mode::DATA_BREAKPOINTS != 0 {
            self.cpu.data_hits |= debug::matching(st, Watch::Io, u64::from(port), u64::from(size));
        }
    }

    fn page(
        &mut self,
        st: &X86State,
        (linear, len): (u64, u32),
        access: Access,
        index: u8,
    ) -> Result<PageRef, Exception> {
        if let Some(page) = self.env.page(linear, access, index) {
            return Ok(page);
        }
        match self.walk(st, (linear, len), access, index) {
            Ok(t) => Ok(self.env.tlb_insert(linear, &t, index)),
            Err(WalkError::Fault(e)) => Err(e),
            Err(WalkError::NotCanonical) => Err(Exception::gp(0)),
        }
    }

    fn read_part(&mut self, st: &X86State, linear: u64, size: u8, index: u8) -> Result<u64, Exception> {
        if let Ok(v) = self.env.load(linear, u32::from(size), index) {
            return Ok(v);
        }
        let page = self.page(st, (linear, size.into()), Access::Read, index)?;
        Ok(self.env.read_phys(page.phys + (linear & 0xfff), u32::from(size)))
    }

    fn write_part(
        &mut self,
        st: &X86State,
        linear: u64,
        size: u8,
        value: u64,
        index: u8,
    ) -> Result<(), Exception> {
        if self.env.store(linear, u32::from(size), value, index).is_ok() {
            return Ok(());
        }
        let page = self.page(st, (linear, size.into()), Access::Write, index)?;
        if self.env.store(linear, u32::from(size), value, index).is_err() {
            // Watched or holding code: the physical write tells the translator.
            self.env.write_phys(page.phys + (linear & 0xfff), u32::from(size), value);
        }
        Ok(())
    }

    /// CPUID on the general registers.
    pub fn cpuid(&mut self, st: &mut X86State) {
        let apic = &self.cpu.config.apic;
        let enabled = apic.apic_base() & 1 << 11 != 0;
        let (leaf, subleaf) = (st.gpr[gpr::RAX] as u32, st.gpr[gpr::RCX] as u32);
        let r = self.cpu.config.model.cpuid(st, leaf, subleaf, apic.apic_id(), enabled);
        st.gpr[gpr::RAX] = u64::from(r.eax);
        st.gpr[gpr::RBX] = u64::from(r.ebx);
        st.gpr[gpr::RCX] = u64::from(r.ecx);
        st.gpr[gpr::RDX] = u64::from(r.edx);
    }
}

/// Next linear address, wrapped at 32 bits outside long mode's 64-bit addresses.
fn advance(st: &X86State, linear: u64, by: u64) -> u64 {
    let sum = linear.wrapping_add(by);
    if st.efer & efer::LMA != 0 { sum } else { sum & 0xffff_ffff }
}

impl SystemBus for Bus<'_> {
    fn read_linear(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        privilege: Privilege,
    ) -> Result<u64, Exception> {
        let index = mmu_index(st, privilege);
        let room = 4096 - (linear & 0xfff);
        if u64::from(size) <= room {
            return self.read_part(st, linear, size, index);
        }
        let mut value = 0;
        for i in 0..u64::from(size) {
            let at = advance(st, linear, i);
            value |= self.read_part(st, at, 1, index)? << (8 * i);
        }
        Ok(value)
    }

    fn write_linear(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        value: u64,
        privilege: Privilege,
    ) -> Result<(), Exception> {
        let index = mmu_index(st, privilege);
        let room = 4096 - (linear & 0xfff);
        if u64::from(size) <= room {
            return self.write_part(st, linear, size, value, index);
        }
        self.probe_write(st, linear, size, privilege)?;
        for i in 0..u64::from(size) {
            let at = advance(st, linear, i);
            self.write_part(st, at, 1, value >> (8 * i) & 0xff, index)?;
        }
        Ok(())
    }

    fn probe_write(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        privilege: Privilege,
    ) -> Result<(), Exception> {
        let index = mmu_index(st, privilege);
        let first = (4096 - (linear & 0xfff)).min(size.max(1).into()) as u32;
        self.page(st, (linear, first), Access::Write, index)?;
        let last = advance(st, linear, u64::from(size.max(1)) - 1);
        if last & !0xfff != linear & !0xfff {
            self.page(st, (last & !0xfff, u32::from(size) - first), Access::Write, index)?;
        }
        Ok(())
    }

    #[inline]
    fn read_phys(&mut self, addr: u64, size: u8) -> u64 {
        self.env.read_phys(addr, u32::from(size))
    }

    fn write_phys(&mut self, addr: u64, size: u8, value: u64) {
        self.env.write_phys(addr, u32::from(size), value);
    }

    fn cas_phys(&mut self, addr: u64, size: u8, old: u64, new: u64) -> bool {
        self.env.cas_phys(addr, u32::from(size), old, new)
    }

    fn io_read(&mut self, port: u16, size: u8) -> u32 {
        self.env.io_read(port, u32::from(size))
    }

    fn io_write(&mut self, port: u16, size: u8, value: u32) {
        self.env.io_write(port, u32::from(size), value);
    }

    fn flush_tlb(&mut self, scope: TlbScope) {
        trace::flush(self.env, &scope);
        match scope {
            TlbScope::All => self.env.flush_tlb_all(),
            TlbScope::Page(linear) | TlbScope::PageOfPcid { linear, .. } => self.env.flush_tlb_page(linear),
            TlbScope::NonGlobal | TlbScope::Pcid(_) | TlbScope::AddressSpace { .. } => {
                self.env.flush_tlb_nonglobal();
            }
        }
    }

    fn apic(&self) -> &dyn LocalApicPort {
        &*self.cpu.config.apic
    }

    fn cpu_model(&self) -> &CpuModel {
        &self.cpu.config.model
    }

    fn tsc(&mut self) -> u64 {
        let ns = self.env.clock_ns();
        let hz = self.cpu.config.tsc_hz;
        if hz == 1_000_000_000 { ns } else { (u128::from(ns) * u128::from(hz) / 1_000_000_000) as u64 }
    }

    fn tsc_hz(&self) -> u64 {
        self.cpu.config.tsc_hz
    }

    fn random(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
        self.cpu.random = self.cpu.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.cpu.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn delivering(&mut self, st: &X86State, delivery: &Delivery) {
        trace::delivery(self.env, st, delivery);
    }

    fn shutdown(&mut self) {
        trace::triple_fault(self.env);
        self.cpu.config.board.triple_fault(self.env.index());
    }

    fn smm_changed(&mut self, in_smm: bool) {
        self.cpu.config.board.smm_changed(self.env.index(), in_smm);
        self.env.flush_tlb_all();
    }

    fn signal_ferr(&mut self) {
        self.cpu.config.board.signal_ferr(self.env.index());
    }
}
