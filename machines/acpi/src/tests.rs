use super::*;
use crate::table::checksum;

fn q35(cpus: u32) -> AcpiConfig {
    AcpiConfig {
        apic_ids: (0..cpus).collect(),
        local_apic: 0xfee0_0000,
        io_apic: 0xfec0_0000,
        has_8259: true,
        irq0_is_gsi2: true,
        hpet: Some((0xfed0_0000, 0x8086_a201)),
        pci: Some(PciHost {
            ecam: 0xb000_0000,
            ecam_size: 256 << 20,
            memory32: 0xc000_0000..0xfec0_0000,
            memory64: 0x1_4000_0000..0x80_0000_0000,
            routes: [[4, 5, 6, 7]; 32],
            first_gsi: 16,
            isa_irqs: 0x0c20,
        }),
        power: FixedHardware { base: 0x600, size: 128, sci: 9, smi_command: (0xb2, 2, 3), s5_sleep_type: 0 },
        reset: (0xcf9, 6),
        rtc_century: Some(0x32),
        serials: vec![(0x3f8, 4)],
        virtio_mmio: vec![(0xfeb0_0000, 0x200, 16)],
        facs: 0x7fff_0000,
    }
}

fn microvm() -> AcpiConfig {
    AcpiConfig { pci: None, hpet: None, ..q35(2) }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Walks from the RSDP to every table and checks lengths and checksums; the signatures found.
fn walk(tables: &AcpiTables) -> Vec<String> {
    let bytes = &tables.bytes;
    assert_eq!(&bytes[..8], b"RSD PTR ");
    assert_eq!((checksum(&bytes[..20]), checksum(&bytes[..36])), (0, 0));
    let at = |address: u64| (address - tables.rsdp) as usize;
    let table = |address: u64| {
        let start = at(address);
        let len = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap()) as usize;
        let table = &bytes[start..start + len];
        assert_eq!(checksum(table), 0);
        table
    };
    let xsdt = table(u64_at(bytes, 24));
    let mut found = Vec::new();
    for entry in xsdt[36..].chunks_exact(8) {
        let listed = table(u64_at(entry, 0));
        found.push(String::from_utf8_lossy(&listed[..4]).into_owned());
        if listed.starts_with(b"FACP") {
            assert_eq!(listed.len(), 276);
            assert_eq!(&table(u64_at(listed, 140))[..4], b"DSDT");
        }
    }
    found
}

#[test]
fn every_table_is_reached_and_sums_to_zero() {
    assert_eq!(walk(&build(&q35(4), 0xe_0000)), ["FACP", "APIC", "HPET", "MCFG"]);
    assert_eq!(walk(&build(&microvm(), 0xe_0000)), ["FACP", "APIC"]);
}

#[test]
fn many_processors_fit_the_rom() {
    let tables = build(&q35(255), 0xe_0000);
    walk(&tables);
    assert!(tables.bytes.len() < 0x1_f000, "{} bytes", tables.bytes.len());
}

/// Writes the tables to a folder named by RHEA_ACPI_OUT, to be looked at with iasl.
#[test]
fn tables_can_be_written_out() {
    let Some(folder) = std::env::var_os("RHEA_ACPI_OUT").map(std::path::PathBuf::from) else { return };
    for (name, config) in [("q35", q35(2)), ("microvm", microvm())] {
        let tables = build(&config, 0xe_0000);
        let mut at = 48;
        while at + 8 <= tables.bytes.len() {
            let len = u32::from_le_bytes(tables.bytes[at + 4..at + 8].try_into().unwrap()) as usize;
            let signature = String::from_utf8_lossy(&tables.bytes[at..at + 4]).into_owned();
            std::fs::write(folder.join(format!("{name}-{signature}.aml")), &tables.bytes[at..at + len])
                .unwrap();
            at = (at + len).next_multiple_of(16);
        }
    }
}
