//! The DSDT: processors, interrupt controller, serial port, firmware configuration, virtio devices, PCI root bridge.

use super::{InterruptController, RiscvAcpiConfig, RiscvPci};
use crate::dsdt::{Raw, ToRaw, device, eisa_id, name, raw, refs, resources, virtio_mmio};
use crate::table::Table;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Interrupt, Memory32Fixed, ONE, Package, Scope, ZERO,
};

pub(super) fn build(config: &RiscvAcpiConfig) -> Vec<u8> {
    let mut parts: Vec<Raw> = (0..config.harts)
        .map(|uid| device(&format!("C{uid:03X}"), &[name("_HID", &"ACPI0007"), name("_UID", &uid)]))
        .collect();
    parts.push(controller(config.controller));
    let (address, gsi) = config.serial;
    let resources_of_serial = [
        Memory32Fixed::new(true, address, 0x100).to_raw(),
        Interrupt::new(true, false, false, false, gsi).to_raw(),
    ];
    let serial = [name("_HID", &"RSCV0003"), name("_UID", &ZERO), resources("_CRS", &resources_of_serial)];
    parts.push(device("COM0", &serial));
    let (address, size) = config.fw_cfg;
    let registers = Memory32Fixed::new(true, address, size).to_raw();
    let fw_cfg = [
        name("_HID", &"QEMU0002"),
        name("_STA", &0x0bu8),
        name("_CCA", &ONE),
        resources("_CRS", &[registers]),
    ];
    parts.push(device("FWCF", &fw_cfg));
    parts.extend(config.virtio_mmio.iter().enumerate().map(|(index, slot)| virtio_mmio(index, *slot)));
    parts.push(pci_host(&config.pci));
    let mut table = Table::new(b"DSDT", 2);
    table.put(&raw(&Scope::new("_SB_".into(), refs(&parts))).0);
    table.finish()
}

/// The controller as a device; its first GSI is 0.
fn controller(controller: InterruptController) -> Raw {
    let (id, address, size) = match controller {
        InterruptController::Plic { address, size, .. } => ("RSCV0001", address, size),
        InterruptController::Aplic { address, size, .. } => ("RSCV0002", address, size),
    };
    let registers = Memory32Fixed::new(true, address as u32, size).to_raw();
    let parts =
        [name("_HID", &id), name("_UID", &ZERO), name("_GSB", &ZERO), resources("_CRS", &[registers])];
    device("INTC", &parts)
}

fn pci_host(pci: &RiscvPci) -> Raw {
    let (io, ports) = pci.io;
    let not_cached = AddressSpaceCacheable::NotCacheable;
    let memory32 = (pci.memory32.start as u32, (pci.memory32.end - 1) as u32);
    let windows = [
        AddressSpace::<u16>::new_bus_number(0, ((pci.ecam_size >> 20).clamp(1, 256) - 1) as u16).to_raw(),
        AddressSpace::<u32>::new_io(0, (ports - 1) as u32, Some(io as u32)).to_raw(),
        AddressSpace::<u32>::new_memory(not_cached, true, memory32.0, memory32.1, None).to_raw(),
        AddressSpace::<u64>::new_memory(not_cached, true, pci.memory64.start, pci.memory64.end - 1, None)
            .to_raw(),
    ];
    let mut routes = Vec::new();
    for number in 0..32u32 {
        for pin in 0..4u32 {
            let [a, b, c, d] = pci.lines;
            let gsi = match (number + pin) % 4 {
                0 => a,
                1 => b,
                2 => c,
                _ => d,
            };
            routes.push(Package::new(vec![&(number << 16 | 0xffff), &pin, &ZERO, &gsi]).to_raw());
        }
    }
    let parts = [
        name("_HID", &eisa_id("PNP0A08")),
        name("_CID", &eisa_id("PNP0A03")),
        name("_SEG", &ZERO),
        name("_BBN", &ZERO),
        name("_UID", &ZERO),
        name("_CCA", &ONE),
        resources("_CRS", &windows),
        name("_PRT", &Package::new(refs(&routes))),
    ];
    let taken = [Memory32Fixed::new(true, pci.ecam as u32, pci.ecam_size as u32).to_raw()];
    let board =
        device("MBRD", &[name("_HID", &eisa_id("PNP0C02")), name("_UID", &ZERO), resources("_CRS", &taken)]);
    // The configuration space belongs to the board, so that nothing is placed there.
    let mut both = device("PCI0", &parts);
    both.0.extend(board.0);
    both
}
