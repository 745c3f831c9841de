//! Anti-forensic splitting of keys (LUKS specification, section 2.4): a key is spread over so many bytes that a disk which
//! keeps a stale copy of a few of them keeps no key.

use rhea_block::{BlockError, Result};
use zeroize::Zeroizing;

use crate::algorithm::HashAlgorithm;

/// Random bytes from the system.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| BlockError::new(libc::EIO, format!("Unable to get random bytes: {error}")))
}

/// Hashes a block piece by piece, each with its number before it.
fn diffuse(hash: HashAlgorithm, block: &mut [u8]) {
    let mut digest = Zeroizing::new(Vec::new());
    for (index, piece) in block.chunks_mut(hash.digest_bytes()).enumerate() {
        digest.clear();
        hash.digest_into(&[&(index as u32).to_be_bytes(), piece], &mut digest);
        let len = piece.len();
        piece.copy_from_slice(&digest[..len]);
    }
}

fn xor(to: &mut [u8], with: &[u8]) {
    to.iter_mut().zip(with).for_each(|(to, with)| *to ^= with);
}

/// Spreads a key over `stripes` times its length.
pub(crate) fn split(hash: HashAlgorithm, key: &[u8], stripes: u32) -> Result<Zeroizing<Vec<u8>>> {
    let mut material = Zeroizing::new(vec![0; key.len() * stripes as usize]);
    let last = material.len() - key.len();
    random(&mut material[..last])?;
    let mut block = Zeroizing::new(vec![0; key.len()]);
    for stripe in material[..last].chunks(key.len()) {
        xor(&mut block, stripe);
        diffuse(hash, &mut block);
    }
    xor(&mut block, key);
    material[last..].copy_from_slice(&block);
    Ok(material)
}

/// Puts the key together again; the material is `stripes` times its length.
pub(crate) fn merge(hash: HashAlgorithm, material: &[u8], key_bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut block = Zeroizing::new(vec![0; key_bytes]);
    let last = material.len() - key_bytes;
    for stripe in material[..last].chunks(key_bytes) {
        xor(&mut block, stripe);
        diffuse(hash, &mut block);
    }
    xor(&mut block, &material[last..]);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_key_merges_back() {
        for (len, stripes) in [(16, 1), (24, 3), (64, 4000), (50, 10)] {
            let key: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let material = split(HashAlgorithm::Sha1, &key, stripes).unwrap();
            assert_eq!(*merge(HashAlgorithm::Sha1, &material, len), key);
        }
    }
}
