//! The DSDT: processors, sleep state, power button, PCI root bridge with its interrupt routing, legacy devices.

use crate::table::Table;
use crate::{AcpiConfig, PciHost};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed,
    Method, Name, ONE, OpRegion, OpRegionSpace, Or, Package, Path, ResourceTemplate, Return, Scope, Store,
    ZERO,
};
use acpi_tables::{Aml, AmlSink};

/// Finished AML that can stand where an object is wanted.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn raw(object: &dyn Aml) -> Raw {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    Raw(bytes)
}

fn refs(parts: &[Raw]) -> Vec<&dyn Aml> {
    parts.iter().map(|part| part as &dyn Aml).collect()
}

fn name(path: &str, value: &dyn Aml) -> Raw {
    raw(&Name::new(path.into(), value))
}

fn device(path: &str, parts: &[Raw]) -> Raw {
    raw(&Device::new(path.into(), refs(parts)))
}

fn eisa_id(id: &str) -> EISAName {
    EISAName::new(id)
}

fn resources(path: &str, parts: &[Raw]) -> Raw {
    name(path, &ResourceTemplate::new(refs(parts)))
}

fn io(base: u16, len: u8) -> Raw {
    raw(&IO::new(base, base, 1, len))
}

fn irq(number: u8) -> Raw {
    // IRQ descriptor without flags: edge, active high, exclusive (6.4.2.1).
    let [low, high] = (1u16 << (number & 15)).to_le_bytes();
    Raw(vec![0x22, low, high])
}

/// Letters for names: "C000", "LNKA".
fn path(name: &str) -> Path {
    Path::new(name)
}

pub(crate) fn build(config: &AcpiConfig) -> Vec<u8> {
    let mut parts = processors(config);
    if let Some(pci) = &config.pci {
        parts.push(pci_host(config, pci));
    } else {
        parts.extend(legacy_devices(config));
    }
    if let Some((base, _)) = config.hpet {
        parts.push(hpet(base));
    }
    parts.extend(config.virtio_mmio.iter().enumerate().map(|(index, slot)| virtio_mmio(index, *slot)));
    parts.push(motherboard(config));
    let mut top = vec![sleep_state(config.power.s5_sleep_type)];
    if config.pci.is_some() {
        // The operating system tells whether it uses the I/O APIC.
        top.push(name("PICF", &ZERO));
        let store = Store::new(&path("PICF"), &Arg(0)).to_raw();
        top.push(raw(&Method::new("_PIC".into(), 1, false, refs(&[store]))));
    }
    top.push(raw(&Scope::new("_SB_".into(), refs(&parts))));
    let mut table = Table::new(b"DSDT", 2);
    top.iter().for_each(|part| _ = table.put(&part.0));
    table.finish()
}

trait ToRaw: Aml {
    fn to_raw(&self) -> Raw
    where
        Self: Sized,
    {
        raw(self)
    }
}

impl<T: Aml> ToRaw for T {}

fn sleep_state(s5: u8) -> Raw {
    name("_S5_", &Package::new(vec![&s5, &s5, &ZERO, &ZERO]))
}

/// A processor device for each local APIC; _UID is the MADT's.
fn processors(config: &AcpiConfig) -> Vec<Raw> {
    (0..config.apic_ids.len())
        .map(|uid| {
            let parts = [name("_HID", &"ACPI0007"), name("_UID", &(uid as u32))];
            device(&format!("C{uid:03X}"), &parts)
        })
        .collect()
}

fn hpet(base: u64) -> Raw {
    let registers = Memory32Fixed::new(true, base as u32, 0x400).to_raw();
    device("HPET", &[name("_HID", &eisa_id("PNP0103")), name("_UID", &ZERO), resources("_CRS", &[registers])])
}

/// A virtio device; the ID is the one its drivers look for.
fn virtio_mmio(index: usize, (address, size, gsi): (u32, u32, u32)) -> Raw {
    let registers = Memory32Fixed::new(true, address, size).to_raw();
    let interrupt = Interrupt::new(true, false, false, false, gsi).to_raw();
    let parts = [
        name("_HID", &"LNRO0005"),
        name("_UID", &(index as u32)),
        // Devices read and write memory coherently (6.2.17).
        name("_CCA", &ONE),
        resources("_CRS", &[registers, interrupt]),
    ];
    device(&format!("VR{index:02}"), &parts)
}

/// Ports and memory that belong to the board itself, so that nothing is placed there.
fn motherboard(config: &AcpiConfig) -> Raw {
    let mut taken = vec![io(config.power.base, config.power.size as u8), io(0xb2, 2)];
    taken.push(io(0x4d0, 2));
    if let Some(pci) = &config.pci {
        taken.push(Memory32Fixed::new(true, pci.ecam as u32, pci.ecam_size as u32).to_raw());
    }
    taken.push(Memory32Fixed::new(true, config.local_apic, 0x10_0000).to_raw());
    device("MBRD", &[name("_HID", &eisa_id("PNP0C02")), name("_UID", &ZERO), resources("_CRS", &taken)])
}

/// Serial ports and the real-time clock.
fn legacy_devices(config: &AcpiConfig) -> Vec<Raw> {
    let mut devices: Vec<Raw> = config
        .serials
        .iter()
        .enumerate()
        .map(|(index, (port, number))| {
            let parts = [
                name("_HID", &eisa_id("PNP0501")),
                name("_UID", &(index as u32 + 1)),
                resources("_CRS", &[io(*port, 8), irq(*number)]),
            ];
            device(&format!("COM{}", index + 1), &parts)
        })
        .collect();
    if config.rtc_century.is_some() {
        let parts = [name("_HID", &eisa_id("PNP0B00")), resources("_CRS", &[io(0x70, 8), irq(8)])];
        devices.push(device("RTC_", &parts));
    }
    devices
}

/// The PCI root bridge with its windows, interrupt routing and the LPC bridge below it.
fn pci_host(config: &AcpiConfig, pci: &PciHost) -> Raw {
    let mut windows = vec![
        AddressSpace::<u16>::new_bus_number(0, ((pci.ecam_size >> 20).clamp(1, 256) - 1) as u16).to_raw(),
        io(0xcf8, 8),
        AddressSpace::<u16>::new_io(0, 0xcf7, None).to_raw(),
        AddressSpace::<u16>::new_io(0xd00, 0xffff, None).to_raw(),
        AddressSpace::<u32>::new_memory(AddressSpaceCacheable::NotCacheable, true, 0xa_0000, 0xb_ffff, None)
            .to_raw(),
        AddressSpace::<u32>::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            pci.memory32.start as u32,
            (pci.memory32.end - 1) as u32,
            None,
        )
        .to_raw(),
    ];
    if !pci.memory64.is_empty() {
        let (first, last) = (pci.memory64.start, pci.memory64.end - 1);
        let window =
            AddressSpace::<u64>::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None);
        windows.push(window.to_raw());
    }
    let mut parts = vec![
        name("_HID", &eisa_id("PNP0A08")),
        name("_CID", &eisa_id("PNP0A03")),
        name("_ADR", &ZERO),
        name("_SEG", &ZERO),
        name("_BBN", &ZERO),
        name("_UID", &ZERO),
        resources("_CRS", &windows),
        lpc_bridge(config),
    ];
    parts.extend((0..8).map(|pirq| link(pirq, pci.isa_irqs)));
    parts.extend(routing(pci));
    device("PCI0", &parts)
}

/// The LPC bridge at 1F.0 with its PIRQ registers (ICH9 data sheet, 13.1.16) and the legacy devices behind it.
fn lpc_bridge(config: &AcpiConfig) -> Raw {
    let region = OpRegion::new("PIRQ".into(), OpRegionSpace::PCIConfig, &0x60u8, &0x0cu8).to_raw();
    let register = |pirq: usize| {
        let mut name = *b"PRQA";
        name[3] += pirq as u8;
        FieldEntry::Named(name, 8)
    };
    let mut entries: Vec<FieldEntry> = (0..4).map(register).collect();
    entries.push(FieldEntry::Reserved(32));
    entries.extend((4..8).map(register));
    let (access, lock, update) = (FieldAccessType::Byte, FieldLockRule::NoLock, FieldUpdateRule::Preserve);
    let field = Field::new("PIRQ".into(), access, lock, update, entries).to_raw();
    let mut parts = vec![name("_ADR", &0x001f_0000u32), region, field];
    parts.extend(legacy_devices(config));
    device("LPC_", &parts)
}

/// Interrupt link device of one PIRQ, for 8259 mode.
fn link(pirq: u8, isa_irqs: u16) -> Raw {
    let letter = char::from(b'A' + pirq);
    let register = format!("\\_SB_.PCI0.LPC_.PRQ{letter}");
    let register = || path(&register);
    let disabled = 0x80u8;
    // Extended interrupt descriptor: consumer, level, active low, shared; one number, filled in by _CRS.
    let template = |numbers: &[u8]| {
        let mut bytes = vec![0x89];
        bytes.extend_from_slice(&(2 + 4 * numbers.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&[0x0d, numbers.len() as u8]);
        numbers.iter().for_each(|n| bytes.extend_from_slice(&u32::from(*n).to_le_bytes()));
        Raw(bytes)
    };
    let possible: Vec<u8> = (0..16).filter(|irq| isa_irqs & 1 << irq != 0).collect();
    let status = [
        If::new(&And::new(&ZERO, &register(), &disabled), vec![&Return::new(&0x09u8)]).to_raw(),
        Return::new(&0x0bu8).to_raw(),
    ];
    let disable = [Or::new(&register(), &register(), &disabled).to_raw()];
    let current = [
        name("BUF0", &ResourceTemplate::new(refs(&[template(&[0])]))),
        CreateDWordField::new(&path("IRQW"), &path("BUF0"), &5u8).to_raw(),
        And::new(&path("IRQW"), &register(), &0x0fu8).to_raw(),
        Return::new(&path("BUF0")).to_raw(),
    ];
    let set = [
        CreateDWordField::new(&path("IRQW"), &Arg(0), &5u8).to_raw(),
        Store::new(&Local(0), &path("IRQW")).to_raw(),
        And::new(&register(), &Local(0), &0x0fu8).to_raw(),
    ];
    let parts = [
        name("_HID", &eisa_id("PNP0C0F")),
        name("_UID", &(pirq + 1)),
        resources("_PRS", &[template(&possible)]),
        Method::new("_STA".into(), 0, false, refs(&status)).to_raw(),
        Method::new("_DIS".into(), 0, false, refs(&disable)).to_raw(),
        Method::new("_CRS".into(), 0, true, refs(&current)).to_raw(),
        Method::new("_SRS".into(), 1, true, refs(&set)).to_raw(),
    ];
    device(&format!("LNK{letter}"), &parts)
}

/// _PRT: fixed GSIs with the I/O APIC, the link devices without.
fn routing(pci: &PciHost) -> [Raw; 3] {
    let table = |entry: &dyn Fn(u32, u8, u8) -> Raw| {
        let mut entries = Vec::new();
        for (number, pins) in pci.routes.iter().enumerate() {
            for (pin, pirq) in pins.iter().enumerate() {
                entries.push(entry((number as u32) << 16 | 0xffff, pin as u8, *pirq));
            }
        }
        entries
    };
    let apic = table(&|address, pin, pirq| {
        let gsi = pci.first_gsi + u32::from(pirq);
        Package::new(vec![&address, &pin, &ZERO, &gsi]).to_raw()
    });
    let pic = table(&|address, pin, pirq| {
        let link = path(&format!("LNK{}", char::from(b'A' + pirq)));
        Package::new(vec![&address, &pin, &link, &ZERO]).to_raw()
    });
    let choose = [
        If::new(&Equal::new(&path("PICF"), &ONE), vec![&Return::new(&path("PRTA"))]).to_raw(),
        Else::new(vec![&Return::new(&path("PRTP"))]).to_raw(),
    ];
    [
        name("PRTA", &package(&apic)),
        name("PRTP", &package(&pic)),
        Method::new("_PRT".into(), 0, false, refs(&choose)).to_raw(),
    ]
}

/// A package of up to 255 elements.
fn package(entries: &[Raw]) -> Raw {
    Package::new(refs(entries)).to_raw()
}
