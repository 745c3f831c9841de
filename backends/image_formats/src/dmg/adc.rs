//! Apple Data Compression: literals, and copies of what came before at up to 64 KiB.

/// Decompresses to exactly `len` bytes; `None`: the data is not so.
pub(super) fn decompress(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(len);
    let mut rest = bytes;
    while out.len() < len {
        let (&first, after) = rest.split_first()?;
        let (count, distance);
        if first & 0x80 != 0 {
            let count = usize::from(first & 0x7f) + 1;
            out.extend_from_slice(after.get(..count)?);
            rest = &after[count..];
            continue;
        } else if first & 0x40 != 0 {
            count = usize::from(first & 0x3f) + 4;
            distance = usize::from(u16::from_be_bytes([*after.first()?, *after.get(1)?])) + 1;
            rest = &after[2..];
        } else {
            count = usize::from(first >> 2) + 3;
            distance = (usize::from(first & 3) << 8 | usize::from(*after.first()?)) + 1;
            rest = &after[1..];
        }
        let from = out.len().checked_sub(distance)?;
        for i in from..from + count {
            // The copy may overlap what it makes.
            out.push(out[i]);
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_copies() {
        // "abc", then 9 bytes from 3 back (short form), then 4 from 1 back (long form).
        let bytes = [0x82, b'a', b'b', b'c', 6 << 2, 2, 0x40, 0, 0];
        assert_eq!(decompress(&bytes, 16).as_deref(), Some(&b"abcabcabcabccccc"[..]));
        assert_eq!(decompress(&bytes, 17), None);
        assert_eq!(decompress(&[0x00, 0x05], 3), None, "from before the start");
        assert_eq!(decompress(&[0x85, 1], 3), None, "cut short");
    }
}
