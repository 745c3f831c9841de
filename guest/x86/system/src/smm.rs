//! System management mode: entry on SMI and RSM (SDM vol. 3, chapter 32; AMD APM vol. 2, chapter 10).
//!
//! Two save-area layouts exist here: AMD64's for models with long mode (software for PCs knows it from emulators, and
//! Intel's 64-bit map is only partly documented), and the 32-bit map of the Pentium for those without.

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, cr4, dr7, efer};
use rhea_x86_state::features::Feature;
use rhea_x86_state::flags;
use rhea_x86_state::state::{DescriptorTable, Segment, attr, seg};

use crate::bus::{SystemBus, TlbScope};
use crate::exception::Exception;
use crate::paging;

/// SMM revision identifiers: bit 17 is SMBASE relocation; auto-halt restart is always there, I/O restart is not.
const REVISION_AMD64: u64 = 0x2_0064;
const REVISION_32: u64 = 0x2_0000;
/// Attributes of a segment in SMM: a flat writable data segment of DPL 0.
const SMM_ATTR: u32 = attr::P | attr::S | attr::RW | attr::A | attr::G;

/// Offsets from SMBASE + 8000h, where the AMD64 map (APM vol. 2, table 10-1) starts counting at FE00h.
mod amd64 {
    pub const SEGMENTS: u64 = 0xfe00; // ES CS SS DS FS GS GDTR LDTR IDTR TR, 16 bytes each
    pub const AUTO_HALT: u64 = 0xfec9;
    pub const EFER: u64 = 0xfed0;
    pub const REVISION: u64 = 0xfefc;
    pub const SMBASE: u64 = 0xff00;
    pub const CR4: u64 = 0xff48;
    pub const CR3: u64 = 0xff50;
    pub const CR0: u64 = 0xff58;
    pub const DR7: u64 = 0xff60;
    pub const DR6: u64 = 0xff68;
    pub const RFLAGS: u64 = 0xff70;
    pub const RIP: u64 = 0xff78;
    /// R15 first, down to RAX at fff8h.
    pub const R15: u64 = 0xff80;
}

/// The 32-bit map (SDM vol. 3, table 32-1).
mod map32 {
    pub const CR0: u64 = 0xfffc;
    pub const CR3: u64 = 0xfff8;
    pub const EFLAGS: u64 = 0xfff4;
    pub const EIP: u64 = 0xfff0;
    /// General registers in encoding order.
    pub const EAX: u64 = 0xffd0;
    pub const DR6: u64 = 0xffcc;
    pub const DR7: u64 = 0xffc8;
    pub const TR: u64 = 0xffc4;
    pub const LDTR: u64 = 0xffc0;
    /// Selectors in encoding order.
    pub const ES: u64 = 0xffa8;
    pub const AUTO_HALT: u64 = 0xff02;
    pub const REVISION: u64 = 0xfefc;
    pub const SMBASE: u64 = 0xfef8;
    // The hidden parts live in the map's reserved area, in an order of our own.
    pub const HIDDEN: u64 = 0xff04;
    pub const GDTR: u64 = 0xfe94;
    pub const IDTR: u64 = 0xfe9c;
    pub const CR4: u64 = 0xfea4;
}

/// SMBASE must leave the save area aligned.
pub(crate) fn is_valid_smbase(value: u64) -> bool {
    value >> 32 == 0 && value & 0xff == 0
}

/// The save area as memory.
struct Area<'a> {
    bus: &'a mut dyn SystemBus,
    base: u64,
}

impl Area<'_> {
    fn put(&mut self, offset: u64, size: u8, value: u64) {
        let address = self.base.wrapping_add(offset) & 0xffff_ffff;
        self.bus.write_phys(address, size, value);
    }

    fn get(&mut self, offset: u64, size: u8) -> u64 {
        let address = self.base.wrapping_add(offset) & 0xffff_ffff;
        self.bus.read_phys(address, size)
    }

    fn put_segment(&mut self, offset: u64, s: &Segment) {
        self.put(offset, 2, u64::from(s.selector));
        self.put(offset + 2, 2, u64::from(s.attr >> 8 & 0xf0ff));
        self.put(offset + 4, 4, u64::from(s.limit));
        self.put(offset + 8, 8, s.base);
    }

    fn get_segment(&mut self, offset: u64) -> Segment {
        Segment {
            selector: self.get(offset, 2) as u16,
            attr: (self.get(offset + 2, 2) as u32 & 0xf0ff) << 8,
            limit: self.get(offset + 4, 4) as u32,
            base: self.get(offset + 8, 8),
            reserved: [0; 3],
        }
    }

    fn put_table(&mut self, offset: u64, t: &DescriptorTable) {
        self.put(offset + 4, 4, u64::from(t.limit));
        self.put(offset + 8, 8, t.base);
    }

    fn get_table(&mut self, offset: u64) -> DescriptorTable {
        let limit = self.get(offset + 4, 4) as u32 & 0xffff;
        DescriptorTable { base: self.get(offset + 8, 8), limit, reserved: 0 }
    }
}

/// Takes an SMI: saves the state at SMBASE and starts the handler at SMBASE + 8000h.
pub fn enter(st: &mut X86State, bus: &mut dyn SystemBus) {
    st.smm = 1;
    st.smm_nmi_blocked = st.nmi_blocked;
    st.nmi_blocked = 1;
    bus.smm_changed(true);
    bus.flush_tlb(TlbScope::All);
    let base = st.smbase;
    let mut area = Area { bus, base };
    if st.features.has(Feature::LM) {
        save_amd64(st, &mut area);
    } else {
        save_32(st, &mut area);
    }
    st.halted = 0;
    st.set_rflags(2);
    st.rip = 0x8000;
    st.interrupt_shadow = 0;
    st.cr[0] &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
    st.cr[4] = 0;
    st.efer = 0;
    st.dr[7] = dr7::FIXED_ONES;
    for s in &mut st.seg {
        *s = Segment { base: 0, limit: u32::MAX, attr: SMM_ATTR, selector: 0, reserved: [0; 3] };
    }
    st.seg[seg::CS].selector = (base >> 4) as u16;
    st.seg[seg::CS].base = base;
    st.mode = st.compute_mode();
}

fn save_amd64(st: &X86State, a: &mut Area<'_>) {
    for (i, s) in st.seg.iter().enumerate() {
        a.put_segment(amd64::SEGMENTS + 16 * i as u64, s);
    }
    a.put_table(amd64::SEGMENTS + 0x60, &st.gdtr);
    a.put_segment(amd64::SEGMENTS + 0x70, &st.ldtr);
    a.put_table(amd64::SEGMENTS + 0x80, &st.idtr);
    a.put_segment(amd64::SEGMENTS + 0x90, &st.tr);
    a.put(amd64::AUTO_HALT, 1, u64::from(st.halted));
    a.put(amd64::EFER, 8, st.efer);
    a.put(amd64::REVISION, 4, REVISION_AMD64);
    a.put(amd64::SMBASE, 4, st.smbase);
    a.put(amd64::CR4, 8, st.cr[4]);
    a.put(amd64::CR3, 8, st.cr[3]);
    a.put(amd64::CR0, 8, st.cr[0]);
    a.put(amd64::DR7, 8, st.dr[7]);
    a.put(amd64::DR6, 8, st.dr[6]);
    a.put(amd64::RFLAGS, 8, st.rflags());
    a.put(amd64::RIP, 8, st.rip);
    for (i, value) in st.gpr.iter().enumerate() {
        a.put(amd64::R15 + 8 * (15 - i as u64), 8, *value);
    }
}

fn save_32(st: &X86State, a: &mut Area<'_>) {
    a.put(map32::CR0, 4, st.cr[0]);
    a.put(map32::CR3, 4, st.cr[3]);
    a.put(map32::CR4, 4, st.cr[4]);
    a.put(map32::EFLAGS, 4, st.rflags());
    a.put(map32::EIP, 4, st.rip);
    for i in 0..8 {
        a.put(map32::EAX + 4 * i as u64, 4, st.gpr[i]);
    }
    a.put(map32::DR6, 4, st.dr[6]);
    a.put(map32::DR7, 4, st.dr[7]);
    a.put(map32::TR, 4, u64::from(st.tr.selector));
    a.put(map32::LDTR, 4, u64::from(st.ldtr.selector));
    for (i, s) in st.seg.iter().chain([&st.ldtr, &st.tr]).enumerate() {
        let i = i as u64;
        if i < 6 {
            a.put(map32::ES + 4 * i, 4, u64::from(s.selector));
        }
        a.put(map32::HIDDEN + 12 * i, 4, s.base);
        a.put(map32::HIDDEN + 12 * i + 4, 4, u64::from(s.limit));
        a.put(map32::HIDDEN + 12 * i + 8, 4, u64::from(s.attr));
    }
    for (at, t) in [(map32::GDTR, &st.gdtr), (map32::IDTR, &st.idtr)] {
        a.put(at, 4, t.base);
        a.put(at + 4, 4, u64::from(t.limit));
    }
    a.put(map32::AUTO_HALT, 2, u64::from(st.halted));
    a.put(map32::REVISION, 4, REVISION_32);
    a.put(map32::SMBASE, 4, st.smbase);
}

/// What RSM reads before anything is changed.
struct Saved {
    seg: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: DescriptorTable,
    idtr: DescriptorTable,
    efer: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    dr6: u64,
    dr7: u64,
    rflags: u64,
    rip: u64,
    gpr: [u64; 16],
    auto_halt: bool,
    smbase: u64,
}

fn read_amd64(a: &mut Area<'_>) -> Saved {
    let mut seg = [Segment::default(); 6];
    for (i, s) in seg.iter_mut().enumerate() {
        *s = a.get_segment(amd64::SEGMENTS + 16 * i as u64);
    }
    let mut gpr = [0; 16];
    for (i, value) in gpr.iter_mut().enumerate() {
        *value = a.get(amd64::R15 + 8 * (15 - i as u64), 8);
    }
    Saved {
        seg,
        gdtr: a.get_table(amd64::SEGMENTS + 0x60),
        ldtr: a.get_segment(amd64::SEGMENTS + 0x70),
        idtr: a.get_table(amd64::SEGMENTS + 0x80),
        tr: a.get_segment(amd64::SEGMENTS + 0x90),
        efer: a.get(amd64::EFER, 8),
        cr0: a.get(amd64::CR0, 8),
        cr3: a.get(amd64::CR3, 8),
        cr4: a.get(amd64::CR4, 8),
        dr6: a.get(amd64::DR6, 8),
        dr7: a.get(amd64::DR7, 8),
        rflags: a.get(amd64::RFLAGS, 8),
        rip: a.get(amd64::RIP, 8),
        gpr,
        auto_halt: a.get(amd64::AUTO_HALT, 1) & 1 != 0,
        smbase: a.get(amd64::SMBASE, 4),
    }
}

fn read_32(a: &mut Area<'_>) -> Saved {
    let mut all = [Segment::default(); 8];
    for (i, s) in all.iter_mut().enumerate() {
        let i = i as u64;
        let selector_at = match i {
            0..=5 => map32::ES + 4 * i,
            6 => map32::LDTR,
            _ => map32::TR,
        };
        *s = Segment {
            selector: a.get(selector_at, 4) as u16,
            base: a.get(map32::HIDDEN + 12 * i, 4),
            limit: a.get(map32::HIDDEN + 12 * i + 4, 4) as u32,
            attr: a.get(map32::HIDDEN + 12 * i + 8, 4) as u32 & 0x00f0_ff00,
            reserved: [0; 3],
        };
    }
    let mut gpr = [0; 16];
    for (i, value) in gpr.iter_mut().take(8).enumerate() {
        *value = a.get(map32::EAX + 4 * i as u64, 4);
    }
    let mut table = |at: u64| DescriptorTable {
        base: a.get(at, 4),
        limit: a.get(at + 4, 4) as u32 & 0xffff,
        reserved: 0,
    };
    let (gdtr, idtr) = (table(map32::GDTR), table(map32::IDTR));
    let [es, cs, ss, ds, fs, gs, ldtr, tr] = all;
    Saved {
        seg: [es, cs, ss, ds, fs, gs],
        ldtr,
        tr,
        gdtr,
        idtr,
        efer: 0,
        cr0: a.get(map32::CR0, 4),
        cr3: a.get(map32::CR3, 4),
        cr4: a.get(map32::CR4, 4),
        dr6: a.get(map32::DR6, 4),
        dr7: a.get(map32::DR7, 4),
        rflags: a.get(map32::EFLAGS, 4),
        rip: a.get(map32::EIP, 4),
        gpr,
        auto_halt: a.get(map32::AUTO_HALT, 2) & 1 != 0,
        smbase: a.get(map32::SMBASE, 4),
    }
}

impl Saved {
    /// The combinations of control bits that put the processor into shutdown (SDM vol. 3, 32.4.2).
    fn is_valid(&self, st: &X86State) -> bool {
        let long = self.efer & efer::LME != 0 && self.cr0 & cr0::PG != 0;
        let paging_without_pe = self.cr0 & cr0::PG != 0 && self.cr0 & cr0::PE == 0;
        let nw_without_cd = self.cr0 & cr0::NW != 0 && self.cr0 & cr0::CD == 0;
        let efer_defined = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        !paging_without_pe
            && !nw_without_cd
            && self.cr0 >> 32 == 0
            && self.cr4 & !crate::control::cr4_defined(&st.features) == 0
            && self.efer & !efer_defined == 0
            && (self.efer & efer::LMA != 0) == long
            && (!long || self.cr4 & cr4::PAE != 0)
            && (self.efer == 0 || st.features.has(Feature::LM))
            && self.cr3 >> st.physical_bits == 0
            && is_valid_smbase(self.smbase)
    }
}

/// RSM: restores the interrupted state. #UD outside SMM. A save area that describes an impossible state is a shutdown.
pub fn rsm(st: &mut X86State, bus: &mut dyn SystemBus) -> Result<(), Exception> {
    if st.smm == 0 {
        return Err(Exception::ud());
    }
    let mut area = Area { bus: &mut *bus, base: st.smbase };
    let saved = if st.features.has(Feature::LM) { read_amd64(&mut area) } else { read_32(&mut area) };
    let mut pdpte = st.pdpte;
    let mut valid = saved.is_valid(st);
    let pae_paging = saved.cr0 & cr0::PG != 0 && saved.cr4 & cr4::PAE != 0 && saved.efer & efer::LMA == 0;
    if valid && pae_paging {
        match paging::load_pdptes(st, bus, saved.cr3) {
            Ok(entries) => pdpte = entries,
            Err(_) => valid = false,
        }
    }
    if !valid {
        st.shutdown = 1;
        bus.shutdown();
        return Ok(());
    }
    restore(st, &saved);
    st.pdpte = pdpte;
    st.smm = 0;
    st.nmi_blocked = st.smm_nmi_blocked;
    bus.smm_changed(false);
    bus.flush_tlb(TlbScope::All);
    st.mode = st.compute_mode();
    Ok(())
}

fn restore(st: &mut X86State, saved: &Saved) {
    st.seg = saved.seg;
    st.ldtr = saved.ldtr;
    st.tr = saved.tr;
    st.gdtr = saved.gdtr;
    st.idtr = saved.idtr;
    st.efer = saved.efer;
    st.cr[0] = saved.cr0 | cr0::ET;
    st.cr[3] = saved.cr3;
    st.cr[4] = saved.cr4;
    st.dr[6] = saved.dr6;
    st.dr[7] = saved.dr7 & 0xffff_ffff | dr7::FIXED_ONES;
    let long = saved.efer & efer::LMA != 0;
    let vm = if long { flags::VM } else { 0 };
    st.set_rflags(saved.rflags & 0x003f_7fd7 & !vm);
    for (i, s) in st.seg.iter_mut().enumerate() {
        if !long || i < seg::FS {
            s.base &= 0xffff_ffff;
        }
    }
    // CPL 3 goes with virtual-8086 mode whatever the area says.
    if st.rflags & flags::VM != 0 {
        st.seg[seg::SS].attr |= attr::DPL_MASK;
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    st.rip = saved.rip & mask;
    let count = if st.features.has(Feature::LM) { 16 } else { 8 };
    st.gpr[..count].copy_from_slice(&saved.gpr[..count]);
    st.smbase = saved.smbase;
    st.halted = u32::from(saved.auto_halt);
    st.interrupt_shadow = 0;
}
