//! ACPI tables for RISC-V boards: RSDP, XSDT, FADT (hardware-reduced), MADT, RHCT, SPCR, MCFG and a DSDT, with the script by
//! which firmware places them.
//!
//! Source: ACPI specification 6.6 for FADT, MADT (RINTC, IMSIC, APLIC, PLIC) and RHCT; RISC-V BRS specification 1.0 for the
//! device IDs RSCV0001 to RSCV0003; Microsoft, "Serial Port Console Redirection Table", revision 4. The script's commands
//! are those of EDK2's QemuLoader.h.

use crate::table::{HEADER_SIZE, Table};
use crate::tables::mcfg;
use std::ops::Range;

mod dsdt;
mod script;
#[cfg(test)]
mod tests;

use script::Script;

/// File in the firmware configuration device that holds the RSDP.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// File that holds all other tables.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// File that holds the script.
pub const LOADER_FILE: &str = "etc/table-loader";

/// The controller of devices' interrupts. GSIs are its sources.
#[derive(Clone, Copy, Debug)]
pub enum InterruptController {
    /// A PLIC; the context of hart n's supervisor mode is 2 n + 1.
    Plic {
        /// Address of its registers.
        address: u64,
        /// Their size in bytes.
        size: u32,
        /// Highest source.
        sources: u16,
        /// Highest priority.
        priorities: u16,
    },
    /// The supervisor-level domain of an APLIC.
    Aplic {
        /// Address of its registers.
        address: u64,
        /// Their size in bytes.
        size: u32,
        /// Highest source.
        sources: u16,
        /// It delivers directly to the harts, and not by messages.
        direct: bool,
    },
}

/// Supervisor-level interrupt files, one page a hart.
#[derive(Clone, Copy, Debug)]
pub struct Imsic {
    /// Address of the first.
    pub address: u64,
    /// Highest identity.
    pub identities: u16,
}

/// The PCI host.
#[derive(Clone, Debug)]
pub struct RiscvPci {
    /// Configuration space of bus 0.
    pub ecam: u64,
    /// Its size in bytes.
    pub ecam_size: u64,
    /// Where I/O ports are mapped, and how many there are.
    pub io: (u64, u64),
    /// Window for memory below 4 GiB.
    pub memory32: Range<u64>,
    /// Window for memory above.
    pub memory64: Range<u64>,
    /// GSIs of the four lines; pin p (0 to 3) of device d is on line (d + p) mod 4.
    pub lines: [u32; 4],
}

/// Everything the tables say.
#[derive(Clone, Debug)]
pub struct RiscvAcpiConfig {
    /// Harts; their IDs and processor UIDs are 0 and up.
    pub harts: u32,
    /// Frequency of `time` in Hz.
    pub timebase: u64,
    /// The ISA string.
    pub isa: String,
    /// Bytes of cache blocks for management, prefetch and zeroing; 0 where there are no such instructions.
    pub cache_blocks: [u32; 3],
    /// Largest page tables: 39, 48 or 57 bits; nothing without paging of that kind.
    pub paging: Option<u8>,
    /// Interrupt controller.
    pub controller: InterruptController,
    /// Interrupt files.
    pub imsic: Option<Imsic>,
    /// Serial port (16550): address and GSI.
    pub serial: (u32, u32),
    /// Firmware configuration device: address and size.
    pub fw_cfg: (u32, u32),
    /// Virtio devices in memory: address, size and GSI.
    pub virtio_mmio: Vec<(u32, u32, u32)>,
    /// PCI host.
    pub pci: RiscvPci,
}

/// The files for the firmware configuration device.
#[derive(Clone, Debug)]
pub struct RiscvAcpiFiles {
    /// Contents of [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// Contents of [`TABLES_FILE`].
    pub tables: Vec<u8>,
    /// Contents of [`LOADER_FILE`].
    pub loader: Vec<u8>,
}

/// Offset of X_DSDT in the FADT.
const FADT_X_DSDT: usize = 140;
/// Bytes of a FADT of revision 6.
const FADT_SIZE: usize = 276;
/// Offset of the checksum in a table.
const CHECKSUM: usize = 9;

/// Builds the files.
pub fn build(config: &RiscvAcpiConfig) -> RiscvAcpiFiles {
    let mut script = Script::default();
    script.allocate(RSDP_FILE, 16, true);
    script.allocate(TABLES_FILE, 64, false);
    let mut tables = Vec::new();
    let dsdt = add(&mut tables, dsdt::build(config));
    let fadt_at = add(&mut tables, fadt());
    put_pointer(&mut tables, &mut script, fadt_at + FADT_X_DSDT, dsdt);
    sum(&mut tables, &mut script, fadt_at, FADT_SIZE);
    let serial = spcr(config.serial.0, config.serial.1);
    let others = [madt(config), rhct(config), serial, mcfg(config.pci.ecam, config.pci.ecam_size)];
    let mut listed = vec![fadt_at];
    listed.extend(others.into_iter().map(|table| add(&mut tables, table)));
    let mut xsdt = Table::new(b"XSDT", 1);
    listed.iter().for_each(|_| _ = xsdt.u64(0));
    let xsdt = xsdt.finish();
    let len = xsdt.len();
    let xsdt_at = add(&mut tables, xsdt);
    for (index, table) in listed.into_iter().enumerate() {
        put_pointer(&mut tables, &mut script, xsdt_at + HEADER_SIZE + 8 * index, table);
    }
    sum(&mut tables, &mut script, xsdt_at, len);
    let rsdp = rsdp(xsdt_at as u64);
    script.add_pointer((RSDP_FILE, 24), TABLES_FILE, 8);
    script.add_checksum(RSDP_FILE, 8, 0, 20);
    script.add_checksum(RSDP_FILE, 32, 0, 36);
    RiscvAcpiFiles { rsdp, tables, loader: script.finish() }
}

/// Appends a table at the next multiple of 16; its offset.
fn add(tables: &mut Vec<u8>, table: Vec<u8>) -> usize {
    tables.resize(tables.len().next_multiple_of(16), 0);
    let at = tables.len();
    tables.extend(table);
    at
}

/// Writes the offset `target` at `at`, to which the script adds the tables' address.
fn put_pointer(tables: &mut [u8], script: &mut Script, at: usize, target: usize) {
    if let Some(field) = tables.get_mut(at..at + 8) {
        field.copy_from_slice(&(target as u64).to_le_bytes());
    }
    script.add_pointer((TABLES_FILE, at as u32), TABLES_FILE, 8);
}

/// Leaves a table's checksum to the script.
fn sum(tables: &mut [u8], script: &mut Script, at: usize, len: usize) {
    if let Some(byte) = tables.get_mut(at + CHECKSUM) {
        *byte = 0;
    }
    script.add_checksum(TABLES_FILE, (at + CHECKSUM) as u32, at as u32, len as u32);
}

/// The RSDP with zeros for checksums.
fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0RHEA  \x02".to_vec();
    rsdp.extend(0u32.to_le_bytes());
    rsdp.extend(36u32.to_le_bytes());
    rsdp.extend(xsdt.to_le_bytes());
    rsdp.extend([0; 4]);
    rsdp
}

/// FADT (5.2.9): hardware-reduced, so that nearly everything is zero.
fn fadt() -> Vec<u8> {
    const HARDWARE_REDUCED: u32 = 1 << 20;
    let mut t = Table::new(b"FACP", 6);
    t.put(&[0; 112 - HEADER_SIZE]).u32(HARDWARE_REDUCED);
    // Reset register and value, ARM boot flags; minor version.
    t.put(&[0; 15]).u8(6);
    t.put(&[0; FADT_SIZE - 132]);
    debug_assert_eq!(t.len(), FADT_SIZE);
    t.finish()
}

/// MADT (5.2.12).
fn madt(config: &RiscvAcpiConfig) -> Vec<u8> {
    let mut t = Table::new(b"APIC", 7);
    t.u32(0).u32(0);
    for hart in 0..config.harts {
        // The controller's number in bits 31:24; of a PLIC the context, of an APLIC the hart index within it.
        let external = match config.controller {
            InterruptController::Plic { .. } => 2 * hart + 1,
            InterruptController::Aplic { direct: true, .. } => hart,
            InterruptController::Aplic { .. } => 0,
        };
        let (file, size) =
            config.imsic.map_or((0, 0), |imsic| (imsic.address + 0x1000 * u64::from(hart), 0x1000));
        t.u8(0x18).u8(36).u8(1).u8(0).u32(1).u64(hart.into()).u32(hart).u32(external).u64(file).u32(size);
    }
    if let Some(imsic) = config.imsic {
        let hart_bits = config.harts.next_power_of_two().trailing_zeros() as u8;
        // Guests' files would have as many identities: a number below 63 is not legal even where there are none.
        t.u8(0x19).u8(16).u8(1).u8(0).u32(0).u16(imsic.identities).u16(imsic.identities);
        t.u8(0).u8(hart_bits).u8(0).u8(24);
    }
    match config.controller {
        InterruptController::Plic { address, size, sources, priorities } => {
            t.u8(0x1b).u8(36).u8(1).u8(0).u64(0).u16(sources).u16(priorities);
            t.u32(0).u32(size).u64(address).u32(0);
        }
        InterruptController::Aplic { address, size, sources, direct } => {
            let idcs = if direct { config.harts as u16 } else { 0 };
            t.u8(0x1a).u8(36).u8(1).u8(0).u32(0).u64(0).u16(idcs).u16(sources);
            t.u32(0).u64(address).u32(size);
        }
    }
    t.finish()
}

/// RHCT (5.2.37): what the harts are.
fn rhct(config: &RiscvAcpiConfig) -> Vec<u8> {
    const NODES: usize = 56;
    let mut nodes: Vec<Vec<u8>> = Vec::new();
    let node = |kind: u16, len: usize, body: &[u8]| {
        let mut node = kind.to_le_bytes().to_vec();
        node.extend((len as u16).to_le_bytes());
        node.extend(1u16.to_le_bytes());
        node.extend(body);
        node.resize(len, 0);
        node
    };
    let mut isa = (config.isa.len() as u16 + 1).to_le_bytes().to_vec();
    isa.extend(config.isa.bytes());
    isa.push(0);
    nodes.push(node(0, (6 + isa.len()).next_multiple_of(2), &isa));
    if config.cache_blocks.iter().any(|size| *size != 0) {
        let log = |size: u32| if size == 0 { 0 } else { size.trailing_zeros() as u8 };
        let [management, prefetch, zero] = config.cache_blocks.map(log);
        nodes.push(node(1, 10, &[0, management, prefetch, zero]));
    }
    if let Some(kind) = config.paging.and_then(|bits| [39, 48, 57].iter().position(|known| *known == bits)) {
        nodes.push(node(2, 8, &[0, kind as u8]));
    }
    // Every hart refers to all nodes so far.
    let mut offsets = Vec::new();
    let mut at = NODES;
    for node in &nodes {
        offsets.push(at as u32);
        at += node.len();
    }
    let shared = nodes.len();
    for hart in 0..config.harts {
        let mut body = (shared as u16).to_le_bytes().to_vec();
        body.extend(hart.to_le_bytes());
        offsets.iter().for_each(|offset| body.extend(offset.to_le_bytes()));
        nodes.push(node(0xffff, 6 + body.len(), &body));
    }
    let mut t = Table::new(b"RHCT", 1);
    t.u32(0).u64(config.timebase).u32(nodes.len() as u32).u32(NODES as u32);
    nodes.iter().for_each(|node| _ = t.put(node));
    t.finish()
}

/// SPCR, revision 4: the console's port.
fn spcr(address: u32, gsi: u32) -> Vec<u8> {
    const OFFSET_OF_NAME: u16 = 88;
    let name = b"\\_SB_.COM0\0";
    let mut t = Table::new(b"SPCR", 4);
    // A 16550 that its address structure describes: memory, 8 bits wide, byte accesses.
    t.u8(0x12).put(&[0; 3]).put(&[0, 8, 0, 1]).u64(address.into());
    // The interrupt is a GSI of a RISC-V controller; 115200 baud, no parity, one stop bit.
    t.u8(0x10).u8(0).u32(gsi).u8(7).u8(0).u8(1).u8(0).u8(3).u8(0);
    // No PCI device; no flags, segment.
    t.u16(0xffff).u16(0xffff).u8(0).u8(0).u8(0).u32(0).u8(0);
    // Clock unknown, no precise baud rate, the name in the namespace.
    t.u32(0).u32(0).u16(name.len() as u16).u16(OFFSET_OF_NAME);
    debug_assert_eq!(t.len(), usize::from(OFFSET_OF_NAME));
    t.put(name);
    t.finish()
}
