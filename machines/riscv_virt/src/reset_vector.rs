//! The boot ROM: what every hart executes first.
//!
//! Source: OpenSBI documentation, docs/firmware/fw_dynamic.md (the information that fw_dynamic takes, version 2); Linux
//! kernel documentation, arch/riscv/boot.rst (a0: hart ID, a1: device tree).

/// What the ROM hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handover {
    /// 32 or 64.
    pub xlen: u32,
    /// Where the harts go.
    pub entry: u64,
    /// Address of the device tree.
    pub device_tree: u64,
    /// Where firmware goes on, in supervisor mode; 0 if there is nothing.
    pub next: u64,
}

/// `struct fw_dynamic_info`: magic number and version.
const DYNAMIC_MAGIC: u64 = 0x4942_534f;
const DYNAMIC_VERSION: u64 = 2;
/// Supervisor mode.
const NEXT_MODE: u64 = 1;

/// Offsets of the data behind the code.
const ENTRY: u32 = 0x18;
const DEVICE_TREE: u32 = 0x20;
const DYNAMIC: u32 = 0x28;

const T0: u32 = 5;
const A0: u32 = 10;
const A1: u32 = 11;
const A2: u32 = 12;
const MHARTID: u32 = 0xf14;

fn auipc(rd: u32) -> u32 {
    0x17 | rd << 7
}

fn addi(rd: u32, rs1: u32, immediate: u32) -> u32 {
    0x13 | rd << 7 | rs1 << 15 | immediate << 20
}

fn csrr(rd: u32, csr: u32) -> u32 {
    0x73 | rd << 7 | 2 << 12 | csr << 20
}

/// ld on a 64-bit hart, lw on a 32-bit one.
fn load(xlen: u32, rd: u32, rs1: u32, offset: u32) -> u32 {
    0x03 | rd << 7 | (if xlen == 32 { 2 } else { 3 }) << 12 | rs1 << 15 | offset << 20
}

fn jr(rs1: u32) -> u32 {
    0x67 | rs1 << 15
}

/// The ROM's bytes.
pub(crate) fn boot_rom(handover: &Handover) -> Vec<u8> {
    let xlen = handover.xlen;
    let code = [
        auipc(T0),
        addi(A2, T0, DYNAMIC),
        csrr(A0, MHARTID),
        load(xlen, A1, T0, DEVICE_TREE),
        load(xlen, T0, T0, ENTRY),
        jr(T0),
    ];
    let mut rom: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    rom.extend(handover.entry.to_le_bytes());
    rom.extend(handover.device_tree.to_le_bytes());
    // No options; hart 0 is the one to boot on.
    let words = [DYNAMIC_MAGIC, DYNAMIC_VERSION, handover.next, NEXT_MODE, 0, 0];
    for word in words {
        rom.extend(word.to_le_bytes().iter().take(xlen as usize / 8));
    }
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_what_an_assembler_makes_of_it() {
        let rom = boot_rom(&Handover { xlen: 64, entry: 1, device_tree: 2, next: 3 });
        // auipc t0, 0; addi a2, t0, 0x28; csrr a0, mhartid; ld a1, 0x20(t0); ld t0, 0x18(t0); jr t0
        let words: [u32; 6] = [0x0000_0297, 0x0282_8613, 0xf140_2573, 0x0202_b583, 0x0182_b283, 0x0002_8067];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(rom[..24], code);
        assert_eq!(rom.len(), 24 + 16 + 48);
        let narrow = boot_rom(&Handover { xlen: 32, entry: 1, device_tree: 2, next: 3 });
        assert_eq!(narrow[12..16], 0x0202_a583u32.to_le_bytes());
        assert_eq!(narrow[0x28..0x34], [0x4f, 0x53, 0x42, 0x49, 2, 0, 0, 0, 3, 0, 0, 0]);
    }
}
