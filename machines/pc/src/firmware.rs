//! The ACPI tables of the boards, for a kernel that is booted without firmware.

use crate::board::{FIRST_PIRQ_GSI, PM_BASE, SCI_IRQ, SERIAL_PORTS};
use crate::boot::FirmwareTables;
use crate::config::{PcConfig, PcKind};
use crate::memory_map::{self as map, RamSplit};
use crate::virtio;
use rhea_acpi::{AcpiConfig, FixedHardware, PciHost};
use rhea_chipset::pm;
use rhea_loader::Blob;
use rhea_pci::pirq;
use rhea_timer::{hpet, rtc};

/// Most bytes of PCI memory above 4 GiB.
const PCI_MEMORY64_MOST: u64 = 64 * map::GIB;

/// Tables for `config`, to stand at `address`.
pub fn tables(config: &PcConfig, split: RamSplit, address: u64) -> FirmwareTables {
    let q35 = config.kind == PcKind::Q35;
    let power = FixedHardware {
        base: PM_BASE as u16,
        size: pm::PM_IO_SIZE as u16,
        sci: SCI_IRQ as u8,
        smi_command: (0xb2, pm::ACPI_ENABLE, pm::ACPI_DISABLE),
        s5_sleep_type: pm::S5_SLEEP_TYPE,
    };
    let facs = if split.low > map::MIB + map::ACPI_NVS_SIZE { split.usable_low() } else { 0 };
    let topology = config.topology;
    let acpi = AcpiConfig {
        apic_ids: (0..topology.cpus).map(|index| topology.apic_id(index)).collect(),
        local_apic: map::MSI as u32,
        io_apic: map::IOAPIC as u32,
        has_8259: true,
        irq0_is_gsi2: true,
        hpet: q35.then_some((map::HPET, hpet::BLOCK_ID)),
        pci: q35.then(|| pci_host(config, split)),
        power,
        reset: (0xcf9, 6),
        rtc_century: Some(rtc::CENTURY_INDEX),
        serials: SERIAL_PORTS[..config.serials.len()]
            .iter()
            .map(|(port, irq)| (*port as u16, *irq as u8))
            .collect(),
        virtio_mmio: if q35 { Vec::new() } else { virtio::occupied_slots(config) },
        facs,
    };
    let built = rhea_acpi::build(&acpi, address);
    let blobs = if facs == 0 { Vec::new() } else { vec![Blob::bytes("FACS", facs, built.facs)] };
    FirmwareTables { rsdp: built.rsdp, rom: built.bytes, blobs }
}

fn pci_host(config: &PcConfig, split: RamSplit) -> PciHost {
    let start = (4 * map::GIB + split.high).next_multiple_of(map::GIB);
    let limit = 1u64 << config.physical_address_bits.clamp(32, 52);
    let end = (start + PCI_MEMORY64_MOST).min(limit).max(start);
    PciHost {
        ecam: map::ECAM,
        ecam_size: map::ECAM_SIZE,
        memory32: map::PCI_MMIO..map::PCI_MMIO_END,
        memory64: start..end,
        routes: pirq::ROUTES,
        first_gsi: FIRST_PIRQ_GSI as u32,
        isa_irqs: pirq::ROUTABLE & (1 << 5 | 1 << 10 | 1 << 11),
    }
}
