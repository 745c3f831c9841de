//! ACPI tables for the PC boards: RSDP, XSDT, FADT, FACS, MADT, HPET, MCFG and a DSDT in AML.
//!
//! Source: ACPI specification 6.5, chapters 5 (tables) and 6 (device configuration); PCI Firmware specification 3.3
//! for MCFG and _OSC-less host bridges. [`build`] lays all tables out one after the other for a given address;
//! only the FACS, which the operating system writes, stands apart in RAM.

mod dsdt;
mod table;
mod tables;

use std::ops::Range;

/// Fixed power management hardware (ACPI specification, 4.8), ICH9 layout.
#[derive(Clone, Copy, Debug)]
pub struct FixedHardware {
    /// First I/O port of the block.
    pub base: u16,
    /// Ports in the block.
    pub size: u16,
    /// Interrupt of the SCI.
    pub sci: u8,
    /// SMI command port, and the values that switch ACPI mode on and off.
    pub smi_command: (u16, u8, u8),
    /// SLP_TYP of S5.
    pub s5_sleep_type: u8,
}

/// The PCI host bridge.
#[derive(Clone, Debug)]
pub struct PciHost {
    /// Base address of the memory-mapped configuration space.
    pub ecam: u64,
    /// Its size in bytes (1 MiB for each bus).
    pub ecam_size: u64,
    /// Window for memory below 4 GiB.
    pub memory32: Range<u64>,
    /// Window for memory above 4 GiB.
    pub memory64: Range<u64>,
    /// PIRQ (0 to 7 for A to H) of INTA to INTD for each of the 32 devices of bus 0.
    pub routes: [[u8; 4]; 32],
    /// GSI of PIRQ A; the others follow.
    pub first_gsi: u32,
    /// ISA IRQs a PIRQ can be routed to in 8259 mode, as a bit set.
    pub isa_irqs: u16,
}

/// Everything the tables say.
#[derive(Clone, Debug)]
pub struct AcpiConfig {
    /// Local APIC IDs of the processors.
    pub apic_ids: Vec<u32>,
    /// Address of the local APICs.
    pub local_apic: u32,
    /// Address of the I/O APIC.
    pub io_apic: u32,
    /// There is an 8259 pair.
    pub has_8259: bool,
    /// IRQ 0 arrives at I/O APIC input 2.
    pub irq0_is_gsi2: bool,
    /// HPET: address and event timer block ID.
    pub hpet: Option<(u64, u32)>,
    /// PCI host bridge.
    pub pci: Option<PciHost>,
    /// Power management.
    pub power: FixedHardware,
    /// Reset register: port and value.
    pub reset: (u16, u8),
    /// CMOS index of the century, if there is an RTC.
    pub rtc_century: Option<u8>,
    /// Serial ports: first I/O port and ISA IRQ.
    pub serials: Vec<(u16, u8)>,
    /// Virtio devices in memory: address and size of the registers, and GSI (level-triggered).
    pub virtio_mmio: Vec<(u32, u32, u32)>,
    /// Address of the FACS in RAM; 0 if there is none.
    pub facs: u64,
}

/// Tables laid out for one address.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    /// All tables but the FACS.
    pub bytes: Vec<u8>,
    /// Address of the RSDP: the first table.
    pub rsdp: u64,
    /// Contents of the FACS.
    pub facs: Vec<u8>,
}

/// Builds the tables to stand at `address` (a multiple of 16, as the search for the RSDP needs).
///
/// # Panics
/// If the address is not a multiple of 16: boards choose it.
pub fn build(config: &AcpiConfig, address: u64) -> AcpiTables {
    assert!(address.is_multiple_of(16));
    tables::build(config, address)
}

#[cfg(test)]
mod tests;
