//! Where everything is, and on which interrupt.
//!
//! Source: QEMU documentation, "'virt' Generic Virtual Platform" (RISC-V), and the device tree that it dumps.

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Boot ROM, at whose start the harts come out of reset.
pub const RESET_VECTOR: u64 = 0x1000;
pub const BOOT_ROM_SIZE: u64 = 0xf000;
pub const TEST: u64 = 0x10_0000;
pub const RTC: u64 = 0x10_1000;
/// Software interrupts; the machine timer follows.
pub const CLINT: u64 = 0x200_0000;
pub const CLINT_SIZE: u64 = 0x1_0000;
pub const MTIMER: u64 = 0x200_4000;
pub const SSWI: u64 = 0x2f0_0000;
pub const PLIC: u64 = 0xc00_0000;
/// Size that the PLIC has in the device tree: registers for the contexts of 512 harts.
pub const PLIC_SIZE: u64 = 0x60_0000;
pub const UART: u64 = 0x1000_0000;
pub const UART_SIZE: u64 = 0x100;
/// First of the virtio-mmio transports; each has a page.
pub const VIRTIO: u64 = 0x1000_1000;
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// virtio-mmio transports.
pub const VIRTIO_SLOTS: usize = 8;
pub const FW_CFG: u64 = 0x1010_0000;
pub const FLASH: u64 = 0x2000_0000;
/// Bytes of each of the two flash banks.
pub const FLASH_SIZE: u64 = 32 * MIB;
/// Ports of PCI functions, mapped into memory.
pub const PCI_IO: u64 = 0x300_0000;
pub const PCI_IO_SIZE: u64 = 0x1_0000;
/// Configuration space of 256 buses.
pub const PCI_ECAM: u64 = 0x3000_0000;
pub const PCI_ECAM_SIZE: u64 = 0x1000_0000;
/// Memory of PCI functions that takes 32-bit addresses.
pub const PCI_MEMORY: u64 = 0x4000_0000;
pub const PCI_MEMORY_SIZE: u64 = 0x4000_0000;
/// Start of RAM.
pub const DRAM: u64 = 0x8000_0000;

/// Interrupt of the first virtio-mmio transport.
pub const VIRTIO_IRQ: u32 = 1;
pub const UART_IRQ: u32 = 10;
pub const RTC_IRQ: u32 = 11;
/// First of the four lines that PCI interrupt pins are spread over.
pub const PCI_IRQ: u32 = 32;
/// Highest interrupt number.
pub const IRQS: u32 = 95;

/// Least RAM, in bytes: firmware and its device tree.
pub const RAM_LEAST: u64 = 8 * MIB;

/// Most RAM, in bytes: Sv32 reaches 16 GiB, of which the part above DRAM is RAM; PCI windows lie above.
pub fn ram_most(xlen: u32) -> u64 {
    if xlen == 32 { 10 * GIB } else { 4096 * GIB }
}

/// Highest address for what every kernel must reach soon after its start (32-bit kernels map no more).
pub const REACHABLE_END: u64 = 0xc000_0000;

/// Start and size of the window for PCI memory above RAM.
pub fn pci_high_memory(xlen: u32, ram_size: u64) -> (u64, u64) {
    if xlen == 32 { (12 * GIB, 4 * GIB) } else { ((DRAM + ram_size).next_multiple_of(16 * GIB), 16 * GIB) }
}
