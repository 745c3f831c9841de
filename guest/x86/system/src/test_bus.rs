//! A flat 4 MiB of memory and a quiet APIC, for unit tests.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::{ApicFault, LocalApicPort, Pending};
use rhea_x86_state::state::{Segment, attr, gpr, seg};
use rhea_x86_state::{X86State, control::cr0, control::cr4, control::efer};

use crate::bus::{Privilege, SystemBus, TlbScope};
use crate::exception::Exception;
use crate::paging::{self, Access, AccessKind};

pub(crate) const SIZE: usize = 4 << 20;
/// Where the tests keep their tables.
pub(crate) const GDT: u64 = 0x1000;
pub(crate) const IDT: u64 = 0x2000;
pub(crate) const TSS: u64 = 0x3000;
pub(crate) const LDT: u64 = 0x4000;
pub(crate) const PAGE_TABLES: u64 = 0x10_0000;

#[derive(Default)]
pub(crate) struct TestApic {
    pub pending: AtomicU64,
    pub vector: AtomicU8,
    pub tpr: AtomicU8,
    pub deadline: AtomicU64,
}

impl TestApic {
    fn take(&self, what: Pending) -> bool {
        let bit = u64::from(what.bits());
        self.pending.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }
}

impl LocalApicPort for TestApic {
    fn pending(&self) -> Pending {
        Pending::from_bits_truncate(self.pending.load(Ordering::Relaxed) as u32)
    }
    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.take(Pending::INTERRUPT).then(|| self.vector.load(Ordering::Relaxed))
    }
    fn take_nmi(&self) -> bool {
        self.take(Pending::NMI)
    }
    fn take_smi(&self) -> bool {
        self.take(Pending::SMI)
    }
    fn take_init(&self) -> bool {
        self.take(Pending::INIT)
    }
    fn take_sipi(&self) -> Option<u8> {
        self.take(Pending::SIPI).then(|| self.vector.load(Ordering::Relaxed))
    }
    fn tpr(&self) -> u8 {
        self.tpr.load(Ordering::Relaxed)
    }
    fn set_tpr(&self, value: u8) {
        self.tpr.store(value, Ordering::Relaxed);
    }
    fn apic_base(&self) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&self, _value: u64) -> Result<(), ApicFault> {
        Ok(())
    }
    fn read_x2apic(&self, _index: u32) -> Result<u64, ApicFault> {
        Err(ApicFault)
    }
    fn write_x2apic(&self, _index: u32, _value: u64) -> Result<(), ApicFault> {
        Err(ApicFault)
    }
    fn tsc_deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }
    fn set_tsc_deadline(&self, deadline: u64, _tsc_now: u64, _tsc_hz: u64) {
        self.deadline.store(deadline, Ordering::Relaxed);
    }
    fn init_reset(&self) {}
    fn apic_id(&self) -> u32 {
        0
    }
    fn is_bsp(&self) -> bool {
        true
    }
}

pub(crate) struct TestBus {
    pub memory: Vec<u8>,
    pub apic: TestApic,
    pub model: CpuModel,
    pub tsc: u64,
    pub flushes: Vec<TlbScope>,
    pub shutdowns: u32,
    pub ports: Vec<(u16, u8, u32)>,
    /// The next compare-and-swap fails after this value was written in its place (a racing processor).
    pub race: Option<u64>,
}

impl TestBus {
    pub fn new(model: &str) -> Self {
        Self {
            memory: vec![0; SIZE],
            apic: TestApic::default(),
            model: CpuModel::parse(model).unwrap(),
            tsc: 1000,
            flushes: Vec::new(),
            shutdowns: 0,
            ports: Vec::new(),
            race: None,
        }
    }

    pub fn get(&self, at: u64, size: u8) -> u64 {
        let mut value = 0;
        for i in (0..u64::from(size)).rev() {
            let byte = self.memory.get((at + i) as usize).copied().unwrap_or(0xff);
            value = value << 8 | u64::from(byte);
        }
        value
    }

    pub fn put(&mut self, at: u64, size: u8, value: u64) {
        for i in 0..u64::from(size) {
            if let Some(byte) = self.memory.get_mut((at + i) as usize) {
                *byte = (value >> (8 * i)) as u8;
            }
        }
    }

    /// Translates every byte of an access.
    fn translate(
        &mut self,
        st: &X86State,
        linear: u64,
        size: u8,
        access: Access,
    ) -> Result<Vec<u64>, Exception> {
        (0..u64::from(size))
            .map(|i| paging::translate(st, self, linear.wrapping_add(i), access).map(|t| t.phys))
            .collect()
    }
}

impl SystemBus for TestBus {
    fn read_linear(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        privilege: Privilege,
    ) -> Result<u64, Exception> {
        let access = Access::new(st, AccessKind::Read, privilege);
        let bytes = self.translate(st, linear, size, access)?;
        Ok(bytes.iter().rev().fold(0, |value, at| value << 8 | self.get(*at, 1)))
    }
    fn write_linear(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        value: u64,
        privilege: Privilege,
    ) -> Result<(), Exception> {
        let access = Access::new(st, AccessKind::Write, privilege);
        for (i, at) in self.translate(st, linear, size, access)?.into_iter().enumerate() {
            self.put(at, 1, value >> (8 * i) & 0xff);
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
        let access = Access::new(st, AccessKind::Write, privilege);
        self.translate(st, linear, size, access).map(|_| ())
    }
    fn read_phys(&mut self, addr: u64, size: u8) -> u64 {
        assert_eq!(addr % u64::from(size), 0);
        self.get(addr, size)
    }
    fn write_phys(&mut self, addr: u64, size: u8, value: u64) {
        assert_eq!(addr % u64::from(size), 0);
        self.put(addr, size, value);
    }
    fn cas_phys(&mut self, addr: u64, size: u8, old: u64, new: u64) -> bool {
        if let Some(value) = self.race.take() {
            self.put(addr, size, value);
            return false;
        }
        let same = self.get(addr, size) == old;
        if same {
            self.put(addr, size, new);
        }
        same
    }
    fn io_read(&mut self, port: u16, size: u8) -> u32 {
        self.ports.push((port, size, 0));
        0
    }
    fn io_write(&mut self, port: u16, size: u8, value: u32) {
        self.ports.push((port, size, value));
    }
    fn flush_tlb(&mut self, scope: TlbScope) {
        self.flushes.push(scope);
    }
    fn apic(&self) -> &dyn LocalApicPort {
        &self.apic
    }
    fn cpu_model(&self) -> &CpuModel {
        &self.model
    }
    fn tsc(&mut self) -> u64 {
        self.tsc
    }
    fn tsc_hz(&self) -> u64 {
        1_000_000_000
    }
    fn random(&mut self) -> u64 {
        0x1234_5678_9abc_def0
    }
    fn shutdown(&mut self) {
        self.shutdowns += 1;
    }
    fn smm_changed(&mut self, _in_smm: bool) {}
    fn signal_ferr(&mut self) {}
}

/// Selectors of the test GDT.
pub(crate) mod sel {
    pub const CODE0: u16 = 0x08;
    pub const DATA0: u16 = 0x10;
    pub const CODE3: u16 = 0x18 | 3;
    pub const DATA3: u16 = 0x20 | 3;
    pub const CODE64: u16 = 0x28;
    pub const CODE64_3: u16 = 0x30 | 3;
    pub const TSS: u16 = 0x38; // and 0x40 in long mode
    pub const GATE: u16 = 0x48; // and 0x50 in long mode
    pub const LDT: u16 = 0x58; // and 0x60
    pub const TSS2: u16 = 0x68; // and 0x70
    pub const CONFORMING: u16 = 0x78;
    pub const ABSENT: u16 = 0x80;
    pub const READ_ONLY: u16 = 0x88;
    pub const LIMIT: u32 = 0x8f;
}

/// A code or data descriptor with 4 GiB limit; `kind` is the access byte, `width` the flags nibble (G D L AVL).
pub(crate) fn flat(kind: u64, width: u64) -> u64 {
    0xffff | kind << 40 | 0xf << 48 | width << 52
}

/// A system descriptor.
pub(crate) fn system(kind: u64, base: u64, limit: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | kind << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// A gate's first eight bytes.
pub(crate) fn gate(access: u64, selector: u16, offset: u64, count: u64) -> u64 {
    offset & 0xffff | u64::from(selector) << 16 | count << 32 | access << 40 | (offset >> 16 & 0xffff) << 48
}

fn load_flat(st: &mut X86State, register: usize, selector: u16, a: u32) {
    st.seg[register] = Segment { base: 0, limit: u32::MAX, attr: a | attr::G, selector, reserved: [0; 3] };
}

/// 32-bit protected mode without paging at `ring` (0 or 3), tables at their places, TSS32 in TR.
pub(crate) fn protected(model: &str, ring: u8) -> (X86State, TestBus) {
    let mut bus = TestBus::new(model);
    let mut st = bus.model.reset_state(true);
    let g = |bus: &mut TestBus, s: u16, d: u64| bus.put(GDT + u64::from(s & !7), 8, d);
    g(&mut bus, sel::CODE0, flat(0x9b, 0xc));
    g(&mut bus, sel::DATA0, flat(0x93, 0xc));
    g(&mut bus, sel::CODE3, flat(0xfb, 0xc));
    g(&mut bus, sel::DATA3, flat(0xf3, 0xc));
    g(&mut bus, sel::CODE64, flat(0x9b, 0xa));
    g(&mut bus, sel::CODE64_3, flat(0xfb, 0xa));
    g(&mut bus, sel::TSS, system(0x8b, TSS, 0x2067));
    g(&mut bus, sel::LDT, system(0x82, LDT, 0xff));
    g(&mut bus, sel::CONFORMING, flat(0x9f, 0xc));
    g(&mut bus, sel::ABSENT, flat(0x13, 0xc));
    g(&mut bus, sel::READ_ONLY, flat(0x91, 0xc));
    st.gdtr.base = GDT;
    st.gdtr.limit = sel::LIMIT;
    st.idtr.base = IDT;
    st.idtr.limit = 0xfff;
    st.tr = Segment { base: TSS, limit: 0x2067, attr: 0x8b00, selector: sel::TSS, reserved: [0; 3] };
    st.cr[0] = cr0::PE | cr0::ET | cr0::NE;
    let dpl = u32::from(ring) << attr::DPL_SHIFT;
    let (code, data) = if ring == 0 { (sel::CODE0, sel::DATA0) } else { (sel::CODE3, sel::DATA3) };
    let data_attr = attr::P | attr::S | attr::RW | attr::A | attr::DB | dpl;
    for register in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
        load_flat(&mut st, register, data, data_attr);
    }
    load_flat(&mut st, seg::CS, code, data_attr | attr::CODE);
    st.gpr[gpr::RSP] = 0x8000;
    st.rip = 0x5000;
    // SS0:ESP0 of the TSS.
    bus.put(TSS + 4, 4, 0x9000);
    bus.put(TSS + 8, 2, u64::from(sel::DATA0));
    bus.put(TSS + 0x66, 2, 0x68);
    st.mode = st.compute_mode();
    (st, bus)
}

/// 64-bit mode at `ring`, the first 1 GiB mapped one to one with user 2 MiB pages, RSP0 9000h, IST1 a000h.
pub(crate) fn long(model: &str, ring: u8) -> (X86State, TestBus) {
    let (mut st, mut bus) = protected(model, ring);
    bus.put(PAGE_TABLES, 8, (PAGE_TABLES + 0x1000) | 7);
    bus.put(PAGE_TABLES + 0x1000, 8, (PAGE_TABLES + 0x2000) | 7);
    for i in 0..512 {
        bus.put(PAGE_TABLES + 0x2000 + 8 * i, 8, i << 21 | 0x87);
    }
    bus.put(TSS + 4, 8, 0x9000);
    bus.put(TSS + 0x24, 8, 0xa000);
    bus.put(GDT + u64::from(sel::TSS) + 8, 8, 0);
    st.cr[3] = PAGE_TABLES;
    st.cr[4] |= cr4::PAE;
    st.cr[0] |= cr0::PG | cr0::WP;
    st.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
    let cs = if ring == 0 { sel::CODE64 } else { sel::CODE64_3 };
    let cs_attr = st.seg[seg::CS].attr & !attr::DB | attr::L;
    load_flat(&mut st, seg::CS, cs, cs_attr);
    st.mode = st.compute_mode();
    (st, bus)
}
