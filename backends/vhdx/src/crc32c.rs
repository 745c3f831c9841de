//! CRC-32C (Castagnoli), the checksum of everything in a vhdx file that has one.

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: the checksum's change by byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// The checksum of a structure whose own checksum field (4 bytes at `field`) counts as zero.
pub(crate) fn checksum_without(bytes: &[u8], field: usize) -> u32 {
    let before = update(!0, &bytes[..field]);
    let within = update(before, &[0; 4]);
    !update(within, &bytes[field + 4..])
}

fn update(mut value: u32, bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let low = value ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        value = TABLES[7][(low & 0xff) as usize]
            ^ TABLES[6][(low >> 8 & 0xff) as usize]
            ^ TABLES[5][(low >> 16 & 0xff) as usize]
            ^ TABLES[4][(low >> 24) as usize]
            ^ TABLES[3][usize::from(word[4])]
            ^ TABLES[2][usize::from(word[5])]
            ^ TABLES[1][usize::from(word[6])]
            ^ TABLES[0][usize::from(word[7])];
    }
    for &byte in words.remainder() {
        value = value >> 8 ^ TABLES[0][usize::from(value as u8 ^ byte)];
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_algorithm() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(!update(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!update(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!update(!0, &[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn the_field_counts_as_zero() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut zeroed = bytes.clone();
        zeroed[4..8].fill(0);
        assert_eq!(checksum_without(&bytes, 4), !update(!0, &zeroed));
    }
}
