//! What the ACPI tables say of the board.

use crate::TIMEBASE;
use crate::config::{Aia, BuildError, VirtConfig};
use crate::memory_map as map;
use rhea_acpi::riscv::{self, Imsic, InterruptController, RiscvAcpiConfig, RiscvPci};
use rhea_firmware_devices::{FwCfgContents, FwCfgItem};
use rhea_interrupt::imsic::IMSIC_IDENTITIES;
use rhea_riscv_state::Extension;

/// Adds the tables and the script that places them.
pub(crate) fn add_files(contents: &mut FwCfgContents, config: &VirtConfig) -> Result<(), BuildError> {
    let files = riscv::build(&description(config));
    for (name, bytes) in [
        (riscv::RSDP_FILE, files.rsdp),
        (riscv::TABLES_FILE, files.tables),
        (riscv::LOADER_FILE, files.loader),
    ] {
        contents.file(name, FwCfgItem::Bytes(bytes))?;
    }
    Ok(())
}

fn description(config: &VirtConfig) -> RiscvAcpiConfig {
    let model = config.cpu_model();
    let settings = model.config();
    let block = |extension, size| if model.extensions().has(extension) { size } else { 0 };
    let size = rhea_interrupt::aplic::aplic_size(config.topology.harts.into()) as u32;
    let (address, sources) = (map::APLIC_S, map::APLIC_SOURCES as u16);
    let controller = match config.aia {
        Aia::None => InterruptController::Plic {
            address: map::PLIC,
            size: map::PLIC_SIZE as u32,
            sources: map::IRQS as u16,
            priorities: 7,
        },
        Aia::Aplic => InterruptController::Aplic { address, size, sources, direct: true },
        Aia::AplicImsic => InterruptController::Aplic { address, size, sources, direct: false },
    };
    let (high, high_size) = map::pci_high_memory(settings.xlen, config.ram_size);
    let slot = |index: u32| {
        let address = map::VIRTIO as u32 + index * map::VIRTIO_STRIDE as u32;
        (address, map::VIRTIO_STRIDE as u32, map::VIRTIO_IRQ + index)
    };
    RiscvAcpiConfig {
        harts: config.topology.harts,
        timebase: TIMEBASE,
        isa: model.isa_string(),
        cache_blocks: [
            block(Extension::Zicbom, settings.cbom_block),
            block(Extension::Zicbop, settings.cbop_block),
            block(Extension::Zicboz, settings.cboz_block),
        ],
        paging: model.mmu_type().and_then(|name| name.strip_prefix("riscv,sv")?.parse().ok()),
        controller,
        imsic: (config.aia == Aia::AplicImsic)
            .then_some(Imsic { address: map::IMSIC_S, identities: IMSIC_IDENTITIES as u16 }),
        serial: (map::UART as u32, map::UART_IRQ),
        fw_cfg: (map::FW_CFG as u32, rhea_firmware_devices::fw_cfg::MMIO_SIZE as u32),
        virtio_mmio: (0..map::VIRTIO_SLOTS as u32).map(slot).collect(),
        pci: RiscvPci {
            ecam: map::PCI_ECAM,
            ecam_size: map::PCI_ECAM_SIZE,
            io: (map::PCI_IO, map::PCI_IO_SIZE),
            memory32: map::PCI_MEMORY..map::PCI_MEMORY + map::PCI_MEMORY_SIZE,
            memory64: high..high + high_size,
            lines: [0, 1, 2, 3].map(|line| map::PCI_IRQ + line),
        },
    }
}
