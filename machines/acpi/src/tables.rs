//! The fixed tables and their layout.

use crate::dsdt;
use crate::table::{HEADER_SIZE, Table, checksum};
use crate::{AcpiConfig, AcpiTables};

/// Bytes of an RSDP of revision 2.
const RSDP_SIZE: usize = 36;
/// Bytes of a FACS.
const FACS_SIZE: usize = 64;
/// Bytes of a FADT of revision 6.
const FADT_SIZE: usize = 276;

pub(crate) fn build(config: &AcpiConfig, address: u64) -> AcpiTables {
    let mut layout = Layout { address, bytes: vec![0; RSDP_SIZE] };
    let dsdt = layout.add(dsdt::build(config));
    let mut listed = vec![layout.add(fadt(config, dsdt)), layout.add(madt(config))];
    if let Some((base, id)) = config.hpet {
        listed.push(layout.add(hpet(base, id)));
    }
    if let Some(pci) = &config.pci {
        listed.push(layout.add(mcfg(pci.ecam, pci.ecam_size)));
    }
    let mut xsdt = Table::new(b"XSDT", 1);
    listed.iter().for_each(|table| _ = xsdt.u64(*table));
    let xsdt = layout.add(xsdt.finish());
    layout.bytes[..RSDP_SIZE].copy_from_slice(&rsdp(xsdt));
    AcpiTables { bytes: layout.bytes, rsdp: address, facs: facs() }
}

struct Layout {
    address: u64,
    bytes: Vec<u8>,
}

impl Layout {
    /// Appends a table at the next multiple of 16; its address.
    fn add(&mut self, table: Vec<u8>) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = self.address + self.bytes.len() as u64;
        self.bytes.extend_from_slice(&table);
        address
    }
}

fn rsdp(xsdt: u64) -> [u8; RSDP_SIZE] {
    let mut rsdp = [0; RSDP_SIZE];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(b"RHEA  ");
    rsdp[15] = 2;
    rsdp[20..24].copy_from_slice(&(RSDP_SIZE as u32).to_le_bytes());
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

fn facs() -> Vec<u8> {
    let mut facs = vec![0; FACS_SIZE];
    facs[..4].copy_from_slice(b"FACS");
    facs[4..8].copy_from_slice(&(FACS_SIZE as u32).to_le_bytes());
    facs[32] = 2; // version
    facs
}

/// IAPC_BOOT_ARCH bits.
mod boot_arch {
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    pub const NO_VGA: u16 = 1 << 2;
    pub const NO_CMOS_RTC: u16 = 1 << 5;
}

/// Fixed feature flags.
mod fadt_flags {
    pub const WBINVD: u32 = 1 << 0;
    pub const PROC_C1: u32 = 1 << 2;
    pub const NO_FIXED_SLEEP_BUTTON: u32 = 1 << 5;
    pub const NO_FIXED_RTC: u32 = 1 << 6;
    pub const RESET_REGISTER: u32 = 1 << 10;
}

/// FADT (ACPI specification, 5.2.9), revision 6.5.
fn fadt(config: &AcpiConfig, dsdt: u64) -> Vec<u8> {
    use {boot_arch as arch, fadt_flags as flag};
    let pm = &config.power;
    // Event, control, timer and GPE0 registers of the ICH9's block.
    let [event, control, timer, gpe] = [pm.base, pm.base + 4, pm.base + 8, pm.base + 0x20];
    let smi = pm.smi_command;
    let mut boot = arch::NO_VGA;
    boot |= if config.has_8259 { arch::LEGACY_DEVICES } else { 0 };
    boot |= if config.rtc_century.is_none() { arch::NO_CMOS_RTC } else { 0 };
    let flags = flag::WBINVD
        | flag::PROC_C1
        | flag::NO_FIXED_SLEEP_BUTTON
        | flag::NO_FIXED_RTC
        | flag::RESET_REGISTER;

    let mut t = Table::new(b"FACP", 6);
    t.u32(u32::try_from(config.facs).unwrap_or(0)).u32(u32::try_from(dsdt).unwrap_or(0));
    t.u8(0).u8(0); // reserved; unspecified profile
    t.u16(pm.sci.into()).u32(smi.0.into()).u8(smi.1).u8(smi.2).u8(0).u8(0);
    t.u32(event.into()).u32(0).u32(control.into()).u32(0).u32(0).u32(timer.into()).u32(gpe.into()).u32(0);
    t.u8(4).u8(2).u8(0).u8(4).u8(16).u8(0).u8(0).u8(0);
    t.u16(0x0fff).u16(0x0fff); // C2 and C3 latencies: not supported
    t.u16(0).u16(0).u8(0).u8(0).u8(0).u8(0).u8(config.rtc_century.unwrap_or(0));
    t.u16(boot).u8(0).u32(flags);
    t.port(config.reset.0, 8).u8(config.reset.1).u16(0).u8(5);
    // With the 32-bit fields above in use, the 64-bit FACS address is zero (5.2.9, X_FIRMWARE_CTRL).
    t.u64(0).u64(dsdt);
    t.port(event, 32).port(0, 0).port(control, 16).port(0, 0).port(0, 0).port(timer, 32);
    t.port(gpe, 128).port(0, 0).port(0, 0).port(0, 0).u64(0);
    debug_assert_eq!(t.len(), FADT_SIZE);
    t.finish()
}

/// MADT (ACPI specification, 5.2.12).
fn madt(config: &AcpiConfig) -> Vec<u8> {
    let mut t = Table::new(b"APIC", 5);
    t.u32(config.local_apic).u32(u32::from(config.has_8259));
    for (uid, apic_id) in config.apic_ids.iter().enumerate() {
        match u8::try_from(*apic_id) {
            Ok(id) if id != 0xff => t.u8(0).u8(8).u8(uid as u8).u8(id).u32(1),
            // Processor local x2APIC.
            _ => t.u8(9).u8(16).u16(0).u32(*apic_id).u32(1).u32(uid as u32),
        };
    }
    t.u8(1).u8(12).u8(0).u8(0).u32(config.io_apic).u32(0);
    // Interrupt source override: bus ISA, source, GSI, flags.
    if config.irq0_is_gsi2 {
        t.u8(2).u8(10).u8(0).u8(0).u32(2).u16(0);
    }
    // The SCI: active high, level-triggered.
    let sci = config.power.sci;
    t.u8(2).u8(10).u8(0).u8(sci).u32(sci.into()).u16(0x000d);
    // Local APIC NMI: all processors, LINT1.
    t.u8(4).u8(6).u8(0xff).u16(0).u8(1);
    t.finish()
}

/// HPET table (IA-PC HPET specification 1.0a, section 3.2.4).
fn hpet(base: u64, block_id: u32) -> Vec<u8> {
    let mut t = Table::new(b"HPET", 1);
    t.u32(block_id).put(&[0, 64, 0, 0]).u64(base);
    // Number, minimum tick in periodic mode, no page protection.
    t.u8(0).u16(0x80).u8(0);
    t.finish()
}

/// MCFG (PCI Firmware specification 3.3, section 4.1.2).
pub(crate) fn mcfg(base: u64, size: u64) -> Vec<u8> {
    let mut t = Table::new(b"MCFG", 1);
    let buses = (size >> 20).clamp(1, 256);
    t.u64(0).u64(base).u16(0).u8(0).u8((buses - 1) as u8).u32(0);
    t.finish()
}

const _: () = assert!(HEADER_SIZE == 36);
