use super::*;
use crate::table::checksum;

fn config(imsic: bool) -> RiscvAcpiConfig {
    let controller = if imsic {
        InterruptController::Aplic { address: 0xd00_0000, size: 0x8000, sources: 96, direct: false }
    } else {
        InterruptController::Plic { address: 0xc00_0000, size: 0x60_0000, sources: 95, priorities: 7 }
    };
    RiscvAcpiConfig {
        harts: 3,
        timebase: 10_000_000,
        isa: "rv64imafdc_zicsr".into(),
        cache_blocks: [64, 0, 64],
        paging: Some(57),
        controller,
        imsic: imsic.then_some(Imsic { address: 0x2800_0000, identities: 255 }),
        serial: (0x1000_0000, 10),
        fw_cfg: (0x1010_0000, 0x18),
        virtio_mmio: vec![(0x1000_1000, 0x1000, 1)],
        pci: RiscvPci {
            ecam: 0x3000_0000,
            ecam_size: 0x1000_0000,
            io: (0x300_0000, 0x1_0000),
            memory32: 0x4000_0000..0x8000_0000,
            memory64: 0x4_0000_0000..0x8_0000_0000,
            lines: [32, 33, 34, 35],
        },
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

const BASE: u64 = 0x9_0000_0000;

/// Does what firmware does with the files: RSDP and tables, as they would stand in memory at [`BASE`].
fn placed(files: &RiscvAcpiFiles) -> (Vec<u8>, Vec<u8>) {
    let (mut rsdp, mut tables) = (files.rsdp.clone(), files.tables.clone());
    let text = |field: &[u8]| String::from_utf8_lossy(field).trim_end_matches('\0').to_owned();
    let mut allocated = Vec::new();
    for command in files.loader.chunks(128) {
        let file = text(&command[4..60]);
        match u32_at(command, 0) {
            1 => {
                allocated.push(file);
                continue;
            }
            2 => {
                assert_eq!((text(&command[60..116]).as_str(), command[120]), (TABLES_FILE, 8));
                let bytes = if file == RSDP_FILE { &mut rsdp } else { &mut tables };
                let at = u32_at(command, 116);
                let value = u64_at(bytes, at) + BASE;
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            3 => {
                let bytes = if file == RSDP_FILE { &mut rsdp } else { &mut tables };
                let (at, start, len) = (u32_at(command, 60), u32_at(command, 64), u32_at(command, 68));
                bytes[at] = checksum(&bytes[start..start + len]);
            }
            other => panic!("command {other}"),
        }
        assert!(allocated.contains(&file), "{file} is placed before it is changed");
    }
    (rsdp, tables)
}

/// Every table by its signature.
fn walk(files: &RiscvAcpiFiles) -> Vec<(String, Vec<u8>)> {
    let (rsdp, tables) = placed(files);
    assert_eq!((checksum(&rsdp[..20]), checksum(&rsdp)), (0, 0));
    let table = |address: u64| {
        let at = (address - BASE) as usize;
        let bytes = tables[at..at + u32_at(&tables, at + 4)].to_vec();
        assert_eq!(checksum(&bytes), 0);
        (String::from_utf8_lossy(&bytes[..4]).into_owned(), bytes)
    };
    let (_, xsdt) = table(u64_at(&rsdp, 24));
    let mut found: Vec<_> = xsdt[36..].chunks(8).map(|entry| table(u64_at(entry, 0))).collect();
    let dsdt = table(u64_at(&found[0].1, FADT_X_DSDT));
    found.push(dsdt);
    found
}

#[test]
fn the_script_makes_valid_tables_of_the_files() {
    for imsic in [false, true] {
        let names: Vec<String> = walk(&build(&config(imsic))).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["FACP", "APIC", "RHCT", "SPCR", "MCFG", "DSDT"]);
    }
}

/// Type and body of each structure of the MADT.
fn structures(imsic: bool) -> Vec<(u8, Vec<u8>)> {
    let tables = walk(&build(&config(imsic)));
    let mut rest = &tables[1].1[44..];
    let mut found = Vec::new();
    while let [kind, len, ..] = *rest {
        found.push((kind, rest[..len.into()].to_vec()));
        rest = &rest[len.into()..];
    }
    found
}

#[test]
fn the_madt_tells_harts_and_controllers() {
    let plic = structures(false);
    assert_eq!(plic.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [0x18, 0x18, 0x18, 0x1b]);
    assert_eq!((u64_at(&plic[2].1, 8), u32_at(&plic[2].1, 20)), (2, 5), "hart 2, context 5");
    assert_eq!(u64_at(&plic[3].1, 24), 0xc00_0000);
    let aia = structures(true);
    assert_eq!(aia.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [0x18, 0x18, 0x18, 0x19, 0x1a]);
    assert_eq!((u64_at(&aia[1].1, 24), u32_at(&aia[1].1, 32)), (0x2800_1000, 0x1000));
    assert_eq!(aia[3].1[12..], [0, 2, 0, 24], "two bits of hart index");
}

#[test]
fn every_hart_refers_to_what_it_is() {
    let rhct = walk(&build(&config(false))).swap_remove(2).1;
    assert_eq!((u64_at(&rhct, 40), u32_at(&rhct, 48), u32_at(&rhct, 52)), (10_000_000, 6, 56));
    let (mut at, mut harts) = (56, 0);
    while at < rhct.len() {
        let (kind, len) = (u16::from_le_bytes([rhct[at], rhct[at + 1]]), usize::from(rhct[at + 2]));
        if kind == 0xffff {
            assert_eq!(u32_at(&rhct, at + 8), harts);
            let kinds: Vec<u8> = (0..3).map(|i| rhct[u32_at(&rhct, at + 12 + 4 * i)]).collect();
            assert_eq!(kinds, [0, 1, 2]);
            harts += 1;
        }
        at += len;
    }
    assert_eq!((at, harts), (rhct.len(), 3));
}

/// Tables that every version of ACPICA's tools knows; those of 2020 know nothing of RISC-V.
const KNOWN: &[&str] = &["FACP", "SPCR", "MCFG", "DSDT"];

/// The compiler of ACPICA takes the tables apart without a complaint. Without it (package acpica-tools) the test says so.
#[test]
fn another_implementation_reads_the_tables() {
    for imsic in [false, true] {
        let tables = walk(&build(&config(imsic)));
        for (name, bytes) in tables.into_iter().filter(|(name, _)| KNOWN.contains(&name.as_str())) {
            let file =
                std::env::temp_dir().join(format!("rhea-acpi-{}-{imsic}-{name}.aml", std::process::id()));
            std::fs::write(&file, &bytes).unwrap();
            let output = std::process::Command::new("iasl").arg("-d").arg(&file).output();
            let text = file.with_extension("dsl");
            let listing = std::fs::read_to_string(&text).unwrap_or_default();
            let _ = (std::fs::remove_file(&file), std::fs::remove_file(&text));
            let Ok(output) = output else {
                eprintln!("skipped: iasl is not installed (package acpica-tools)");
                return;
            };
            let said = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && !said.contains("rror"), "{name}: {said}");
            let complaint =
                ["Invalid", "Unknown", "too long", "****"].iter().find(|word| listing.contains(**word));
            assert!(complaint.is_none() && !listing.is_empty(), "{name}: {listing}");
        }
    }
}
