//! Random identifiers (RFC 4122, version 4).

use rhea_block::{BlockError, Result};

/// Version 4, all fields in network order.
pub(crate) fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| BlockError::new(libc::EIO, format!("no random numbers: {error}")))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

/// Version 4, the first three fields little-endian, as vdi has them.
pub(crate) fn random_mixed() -> Result<[u8; 16]> {
    let mut bytes = random()?;
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Ok(bytes)
}
