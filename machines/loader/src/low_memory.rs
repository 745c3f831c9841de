//! Where the loader's own structures lie below 640 KiB. A kernel reads them before it uses that memory itself.

/// Page tables for the 64-bit entry: PML4, PDPT and four page directories that map 4 GiB one to one.
pub const PAGE_TABLES: u64 = 0x9000;
/// Bytes of page tables.
pub(crate) const PAGE_TABLES_SIZE: u64 = 6 * 0x1000;
/// struct boot_params.
pub(crate) const ZERO_PAGE: u64 = 0x1_0000;
/// struct hvm_start_info with its module list and memory map.
pub(crate) const START_INFO: u64 = 0x1_1000;
/// Command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes for the command line with its terminating zero.
pub(crate) const COMMAND_LINE_SPACE: usize = 0x1_0000;
/// First address above the structures.
pub(crate) const END: u64 = COMMAND_LINE + COMMAND_LINE_SPACE as u64;

/// Identity map of the first 4 GiB in 2 MiB pages. Accessed and dirty bits are set beforehand.
pub(crate) fn page_tables() -> Vec<u8> {
    const PRESENT_WRITABLE_ACCESSED: u64 = 0x23;
    const LARGE_DIRTY: u64 = 0xc0;
    let mut entries = vec![0u64; PAGE_TABLES_SIZE as usize / 8];
    entries[0] = (PAGE_TABLES + 0x1000) | PRESENT_WRITABLE_ACCESSED;
    for gib in 0..4u64 {
        entries[512 + gib as usize] = (PAGE_TABLES + 0x2000 + gib * 0x1000) | PRESENT_WRITABLE_ACCESSED;
        for page in 0..512u64 {
            let address = gib << 30 | page << 21;
            entries[1024 + (gib * 512 + page) as usize] = address | PRESENT_WRITABLE_ACCESSED | LARGE_DIRTY;
        }
    }
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}
