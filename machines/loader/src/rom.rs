//! The boot ROM: machine code that takes a processor from its reset state to a kernel's entry.
//!
//! At reset the processor runs in real mode at FFFFFFF0h (SDM vol. 3, 10.1.4). The code lies in the last 4 KiB
//! below 4 GiB, which the board also shows in the last 4 KiB below 1 MiB.
//!
//! It does what firmware must have done and no more: initialize the 8259 pair with all inputs masked, program the
//! local APIC's LINT0 as ExtINT and LINT1 as NMI, load a flat GDT with the selectors of the Linux boot protocol (10h code, 18h data), and enter.

use crate::Entry;
use crate::low_memory::PAGE_TABLES;

/// Bytes the code takes at the end of the ROM.
pub const BOOT_ROM_CODE_SIZE: usize = 0x1000;

/// Physical address of the first byte of the code.
const BASE: u32 = 0xffff_f000;
/// Offsets in the code page.
const GDT_AT: usize = 0x000;
const GDTR_AT: usize = 0x030;
const REAL_MODE_AT: usize = 0x040;
const PROTECTED_AT: usize = 0x080;
const RESET_AT: usize = 0xff0;

/// Selector of the 32-bit code used on the way to long mode.
const TRANSITION_CODE: u16 = 0x08;
/// __BOOT_CS and __BOOT_DS.
const BOOT_CODE: u16 = 0x10;
const BOOT_DATA: u16 = 0x18;

/// Flat descriptors, accessed bit set: the GDT is in ROM. 4 GiB limit, base 0.
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
/// An available 32-bit TSS at 0 with the least limit: PVH asks for a loaded task register.
const TSS: u64 = 0x0000_8900_0000_0067;

/// Machine code being written.
struct Code(Vec<u8>);

impl Code {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn imm32(&mut self, opcode: &[u8], value: u32) -> &mut Self {
        self.put(opcode).put(&value.to_le_bytes())
    }

    /// mov al, value; out port, al.
    fn out(&mut self, port: u8, value: u8) -> &mut Self {
        self.put(&[0xb0, value, 0xe6, port])
    }

    /// mov dword [address], value, in 32-bit code.
    fn store(&mut self, address: u32, value: u32) -> &mut Self {
        self.imm32(&[0xc7, 0x05], address).put(&value.to_le_bytes())
    }
}

/// The last [`BOOT_ROM_CODE_SIZE`] bytes of the ROM for `entry`.
pub fn boot_rom(entry: &Entry) -> Vec<u8> {
    let mut rom = vec![0xf4; BOOT_ROM_CODE_SIZE]; // hlt
    let mut place = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    let boot_code = if matches!(entry, Entry::Linux64 { .. }) { CODE64 } else { CODE32 };
    let gdt: Vec<u8> = [0, CODE32, boot_code, DATA, TSS].iter().flat_map(|d| d.to_le_bytes()).collect();
    place(GDT_AT, &gdt);
    let mut gdtr = (gdt.len() as u16 - 1).to_le_bytes().to_vec();
    gdtr.extend_from_slice(&(BASE + GDT_AT as u32).to_le_bytes());
    place(GDTR_AT, &gdtr);
    place(REAL_MODE_AT, &real_mode());
    place(PROTECTED_AT, &protected_mode(entry));
    // Reset vector: jmp near to the real-mode code, within the 64 KiB of CS.
    let displacement = (REAL_MODE_AT as i32 - (RESET_AT as i32 + 3)) as i16;
    let [low, high] = displacement.to_le_bytes();
    place(RESET_AT, &[0xe9, low, high]);
    rom
}

/// Real mode, CS base FFFF0000h: to protected mode.
fn real_mode() -> Vec<u8> {
    let mut code = Code(Vec::new());
    let [low, high] = (0xf000 + GDTR_AT as u16).to_le_bytes();
    code.put(&[0xfa, 0xfc]) // cli; cld
        .put(&[0x2e, 0x66, 0x0f, 0x01, 0x16, low, high]) // lgdt cs:[GDTR], 32-bit base
        .put(&[0x0f, 0x20, 0xc0]) // mov eax, cr0
        .imm32(&[0x66, 0x25], 0x9fff_ffff) // and eax, not (CD | NW): caches on
        .put(&[0x66, 0x83, 0xc8, 0x01]) // or eax, PE
        .put(&[0x0f, 0x22, 0xc0]) // mov cr0, eax
        .imm32(&[0x66, 0xea], BASE + PROTECTED_AT as u32) // jmp far, 32-bit offset
        .put(&TRANSITION_CODE.to_le_bytes());
    code.0
}

/// 32-bit protected mode, flat: to the kernel.
fn protected_mode(entry: &Entry) -> Vec<u8> {
    let mut code = Code(Vec::new());
    code.imm32(&[0xb8], BOOT_DATA.into()) // mov eax, data selector
        .put(&[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]) // mov ds, ax; mov es, ax; mov ss, ax
        .put(&[0x8e, 0xe0, 0x8e, 0xe8]) // mov fs, ax; mov gs, ax
        .imm32(&[0xbc], 0x9000) // mov esp: a stack nobody needs, below the page tables
        .store(0xfee0_00f0, 0x0000_01ff) // SVR: enabled, spurious vector FFh
        .store(0xfee0_0350, 0x0000_0700) // LINT0: ExtINT
        .store(0xfee0_0360, 0x0000_0400); // LINT1: NMI
    // 8259: ICW1 (ICW4 follows), vectors 08h and 70h, cascade on input 2, 8086 mode, all masked.
    for (port, base, cascade) in [(0x20, 0x08, 4), (0xa0, 0x70, 2)] {
        code.out(port, 0x11).out(port + 1, base).out(port + 1, cascade).out(port + 1, 1).out(port + 1, 0xff);
    }
    let clear = [0x31, 0xdb, 0x31, 0xed, 0x31, 0xff, 0x31, 0xd2]; // xor ebx, ebp, edi, edx with themselves
    code.put(&clear);
    match *entry {
        Entry::Linux64 { entry, zero_page } => long_mode(&mut code, entry, zero_page),
        Entry::Linux32 { entry, zero_page } => {
            code.imm32(&[0xbe], zero_page); // mov esi
            far_jump(&mut code, entry);
        }
        Entry::Pvh { entry, start_info } => {
            code.put(&[0x66, 0xb8, 0x20, 0x00, 0x0f, 0x00, 0xd8]); // mov ax, 20h; ltr ax
            code.imm32(&[0xbb], start_info); // mov ebx
            far_jump(&mut code, entry);
        }
    }
    code.0
}

/// jmp far to the boot code segment.
fn far_jump(code: &mut Code, target: u32) {
    code.imm32(&[0xea], target).put(&BOOT_CODE.to_le_bytes());
}

/// Switches to long mode with the identity map and jumps to the kernel.
fn long_mode(code: &mut Code, entry: u32, zero_page: u32) {
    code.put(&[0x0f, 0x20, 0xe0]) // mov eax, cr4
        .put(&[0x83, 0xc8, 0x20]) // or eax, PAE
        .put(&[0x0f, 0x22, 0xe0]) // mov cr4, eax
        .imm32(&[0xb8], PAGE_TABLES as u32) // mov eax
        .put(&[0x0f, 0x22, 0xd8]) // mov cr3, eax
        .imm32(&[0xb9], 0xc000_0080) // mov ecx, IA32_EFER
        .put(&[0x0f, 0x32]) // rdmsr
        .imm32(&[0x0d], 0x100) // or eax, LME
        .put(&[0x0f, 0x30]) // wrmsr
        .put(&[0x0f, 0x20, 0xc0]) // mov eax, cr0
        .imm32(&[0x0d], 0x8000_0000) // or eax, PG
        .put(&[0x0f, 0x22, 0xc0]); // mov cr0, eax
    // The code segment becomes a 64-bit one at the next instruction.
    let next = BASE + PROTECTED_AT as u32 + code.0.len() as u32 + 7;
    far_jump(code, next);
    code.imm32(&[0xbe], zero_page) // mov esi (clears the upper half of rsi)
        .imm32(&[0xb8], entry) // mov eax
        .put(&[0xff, 0xe0]); // jmp rax
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_parts_do_not_overlap_and_the_vector_reaches_them() {
        for entry in [
            Entry::Linux64 { entry: 0x10_0200, zero_page: 0x1_0000 },
            Entry::Linux32 { entry: 0x10_0000, zero_page: 0x1_0000 },
            Entry::Pvh { entry: 0x100_0000, start_info: 0x1_1000 },
        ] {
            assert!(REAL_MODE_AT + real_mode().len() <= PROTECTED_AT);
            assert!(PROTECTED_AT + protected_mode(&entry).len() <= RESET_AT);
            let rom = boot_rom(&entry);
            assert_eq!(rom.len(), BOOT_ROM_CODE_SIZE);
            let displacement = i16::from_le_bytes([rom[RESET_AT + 1], rom[RESET_AT + 2]]);
            assert_eq!((RESET_AT as i32 + 3 + i32::from(displacement)) as usize, REAL_MODE_AT);
            assert_eq!(rom[REAL_MODE_AT], 0xfa);
        }
    }
}
