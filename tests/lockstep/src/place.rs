//! Where code and data lie, on the host and in the guest alike.

/// The page of the instructions: readable and executable by user code.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of the code page.
pub const CODE_LEN: usize = 0x1000;
/// Data: readable and writable, not executable. Nothing is mapped below.
pub const DATA: u64 = 0x1001_0000;
/// Bytes of writable data.
pub const DATA_LEN: usize = 0x3000;
/// A page that may only be read, right behind the data. Nothing is mapped behind it.
pub const READ_ONLY: u64 = DATA + DATA_LEN as u64;
/// Bytes of the read-only page.
pub const READ_ONLY_LEN: usize = 0x1000;
/// Where an instruction under test starts: far enough from the page's start for branches to go backward.
pub const START: u64 = CODE + 0x800;

/// The byte at `offset` of the read-only page.
pub const fn read_only_byte(offset: usize) -> u8 {
    (offset as u32).wrapping_mul(0x9e37_79b1).rotate_left(11) as u8
}

/// What fills the code page around the instructions: UD2, so that execution stops where they end.
pub const FILLER: [u8; 2] = [0x0f, 0x0b];

/// The code page with `code` at [`START`].
///
/// # Panics
/// If `code` does not fit.
pub fn code_page(code: &[u8]) -> Vec<u8> {
    let mut page: Vec<u8> = FILLER.iter().copied().cycle().take(CODE_LEN).collect();
    let at = (START - CODE) as usize;
    page[at..at + code.len()].copy_from_slice(code);
    // UD2 must stand right behind the code, whatever its length.
    for (i, b) in page[at + code.len()..].iter_mut().enumerate() {
        *b = FILLER[i % 2];
    }
    page
}
