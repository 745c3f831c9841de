//! Encryption of sectors: modes and initialization vectors.
//!
//! Sectors are independent of each other, and most modes' blocks are as well. What can be done together is: up to
//! [`GROUP`] sectors at a time, in buffers on the stack.

use rhea_block::{BlockError, Result};
use zeroize::Zeroizing;

use crate::algorithm::{CipherAlgorithm, CipherMode, HashAlgorithm, IvGenerator};
use crate::block_cipher::{self, Blocks};

/// Bytes of a sector, the unit that has an initialization vector of its own.
pub const SECTOR_SIZE: usize = 512;

/// Sectors worked on together.
const GROUP: usize = 8;

/// The widest block, and initialization vector.
const WIDEST: usize = 16;

/// What a cipher is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CipherSpec {
    pub(crate) algorithm: CipherAlgorithm,
    pub(crate) mode: CipherMode,
    pub(crate) ivgen: IvGenerator,
    pub(crate) ivgen_hash: Option<HashAlgorithm>,
}

impl CipherSpec {
    /// Bytes of the volume's key.
    pub(crate) fn key_bytes(&self) -> usize {
        match self.mode {
            CipherMode::Xts => self.algorithm.key_bytes() * 2,
            _ => self.algorithm.key_bytes(),
        }
    }

    /// The cipher that makes initialization vectors for ESSIV: the volume's, with a key as long as the hash's digest.
    fn essiv_algorithm(&self, hash: HashAlgorithm) -> Result<CipherAlgorithm> {
        let key_bytes = hash.digest_bytes();
        if self.algorithm == CipherAlgorithm::Cast5 {
            let word = self.algorithm.word();
            return Err(BlockError::unsupported(format!("Cipher {word} not supported with essiv")));
        }
        CipherAlgorithm::from_luks(self.algorithm.luks_name(), key_bytes).ok_or_else(|| {
            let name = match self.algorithm.luks_name() {
                "aes" => "AES",
                "serpent" => "Serpent",
                _ => "Twofish",
            };
            BlockError::unsupported(format!("No {name} cipher with key size {key_bytes} available"))
        })
    }

    /// Refuses what does not fit together.
    pub(crate) fn check(&self) -> Result<()> {
        if self.mode == CipherMode::Xts && self.algorithm.block_bytes() != 16 {
            return Err(BlockError::unsupported("Unsupported cipher mode xts"));
        }
        if self.ivgen == IvGenerator::Essiv {
            let hash = self
                .ivgen_hash
                .ok_or_else(|| BlockError::invalid("Hash algorithm must be specified with ESSIV"))?;
            self.essiv_algorithm(hash)?;
        }
        Ok(())
    }
}

/// Encrypts and decrypts sectors in place. Can be used from any thread at once; the key is wiped when it is dropped.
pub struct SectorCipher {
    mode: CipherMode,
    block: usize,
    cipher: Box<dyn Blocks>,
    /// XTS: the cipher of the tweaks.
    tweak: Option<Box<dyn Blocks>>,
    ivgen: IvGenerator,
    essiv: Option<Box<dyn Blocks>>,
}

impl std::fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SectorCipher({}-{})", self.mode.word(), self.ivgen.word())
    }
}

impl SectorCipher {
    /// The cipher of old qcow and qcow2 images (`encryption=aes`, crypt_method 1): AES-128-CBC. The key is the
    /// password itself, cut or filled with zeroes to 16 bytes; the initialization vector is the number of the sector
    /// of the disk (the guest's offset), in 64 bits, little endian.
    pub fn qcow_aes(password: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; 16]);
        let len = password.len().min(16);
        key[..len].copy_from_slice(&password[..len]);
        let spec = CipherSpec {
            algorithm: CipherAlgorithm::Aes128,
            mode: CipherMode::Cbc,
            ivgen: IvGenerator::Plain64,
            ivgen_hash: None,
        };
        Self::new(&spec, &key[..]).expect("AES-128 takes a key of 16 bytes")
    }

    /// A cipher with the volume's key.
    pub(crate) fn new(spec: &CipherSpec, key: &[u8]) -> Result<Self> {
        spec.check()?;
        if key.len() != spec.key_bytes() {
            return Err(BlockError::invalid(format!(
                "the volume's key has {} bytes, where the cipher takes {}",
                key.len(),
                spec.key_bytes()
            )));
        }
        let (data_key, tweak_key) = key.split_at(spec.algorithm.key_bytes());
        let tweak = match spec.mode {
            CipherMode::Xts => Some(block_cipher::new(spec.algorithm, tweak_key)?),
            _ => None,
        };
        let essiv = match (spec.ivgen, spec.ivgen_hash) {
            (IvGenerator::Essiv, Some(hash)) => {
                let mut salt = Zeroizing::new(Vec::new());
                hash.digest_into(&[key], &mut salt);
                Some(block_cipher::new(spec.essiv_algorithm(hash)?, &salt)?)
            }
            _ => None,
        };
        Ok(Self {
            mode: spec.mode,
            block: spec.algorithm.block_bytes(),
            cipher: block_cipher::new(spec.algorithm, data_key)?,
            tweak,
            ivgen: spec.ivgen,
            essiv,
        })
    }

    /// Encrypts whole sectors. `offset`, a multiple of [`SECTOR_SIZE`], is where the first one lies in what the image
    /// encrypts: the disk, the file behind its header, or a qcow2 image, as the format says.
    ///
    /// # Panics
    /// If the offset or the length is not a multiple of [`SECTOR_SIZE`].
    pub fn encrypt(&self, offset: u64, data: &mut [u8]) {
        self.for_groups(offset, data, |this, sector, group| match this.mode {
            CipherMode::Ecb => this.cipher.encrypt(group),
            CipherMode::Cbc => this.encrypt_cbc(sector, group),
            CipherMode::Xts => this.xts(sector, group, |blocks| this.cipher.encrypt(blocks)),
            CipherMode::Ctr => this.ctr(sector, group),
        });
    }

    /// Decrypts whole sectors; the other way round of [`SectorCipher::encrypt`].
    ///
    /// # Panics
    /// If the offset or the length is not a multiple of [`SECTOR_SIZE`].
    pub fn decrypt(&self, offset: u64, data: &mut [u8]) {
        self.for_groups(offset, data, |this, sector, group| match this.mode {
            CipherMode::Ecb => this.cipher.decrypt(group),
            CipherMode::Cbc => this.decrypt_cbc(sector, group),
            CipherMode::Xts => this.xts(sector, group, |blocks| this.cipher.decrypt(blocks)),
            CipherMode::Ctr => this.ctr(sector, group),
        });
    }

    fn for_groups(&self, offset: u64, data: &mut [u8], work: impl Fn(&Self, u64, &mut [u8])) {
        assert!(offset.is_multiple_of(SECTOR_SIZE as u64), "offset {offset} is not a sector's");
        assert!(data.len().is_multiple_of(SECTOR_SIZE), "{} bytes are not whole sectors", data.len());
        let mut sector = offset / SECTOR_SIZE as u64;
        for group in data.chunks_mut(GROUP * SECTOR_SIZE) {
            work(self, sector, group);
            sector += GROUP as u64;
        }
    }

    /// The initialization vectors of the sectors from `sector` on, one after the other in blocks of the cipher's size.
    fn vectors<'a>(&self, sector: u64, sectors: usize, to: &'a mut [u8; GROUP * WIDEST]) -> &'a mut [u8] {
        let vectors = &mut to[..sectors * self.block];
        for (index, vector) in vectors.chunks_mut(self.block).enumerate() {
            let number = sector.wrapping_add(index as u64);
            let number = if self.ivgen == IvGenerator::Plain { number & 0xffff_ffff } else { number };
            vector[..8].copy_from_slice(&number.to_le_bytes());
            vector[8..].fill(0);
        }
        if let Some(essiv) = &self.essiv {
            essiv.encrypt(vectors);
        }
        vectors
    }

    /// CBC encrypts a sector's blocks one after the other; the sectors of a group go side by side.
    fn encrypt_cbc(&self, sector: u64, group: &mut [u8]) {
        let block = self.block;
        let mut chain = [0; GROUP * WIDEST];
        let chain = self.vectors(sector, group.len() / SECTOR_SIZE, &mut chain);
        for at in (0..SECTOR_SIZE).step_by(block) {
            for (data, previous) in group.chunks_mut(SECTOR_SIZE).zip(chain.chunks_mut(block)) {
                xor(previous, &data[at..at + block]);
            }
            self.cipher.encrypt(chain);
            for (data, next) in group.chunks_mut(SECTOR_SIZE).zip(chain.chunks(block)) {
                data[at..at + block].copy_from_slice(next);
            }
        }
    }

    fn decrypt_cbc(&self, sector: u64, group: &mut [u8]) {
        let block = self.block;
        let mut vectors = [0; GROUP * WIDEST];
        let vectors = self.vectors(sector, group.len() / SECTOR_SIZE, &mut vectors);
        let mut encrypted = [0; GROUP * SECTOR_SIZE];
        let encrypted = &mut encrypted[..group.len()];
        encrypted.copy_from_slice(group);
        self.cipher.decrypt(group);
        let sectors = group.chunks_mut(SECTOR_SIZE).zip(encrypted.chunks(SECTOR_SIZE));
        for ((plain, encrypted), vector) in sectors.zip(vectors.chunks(block)) {
            xor(&mut plain[..block], vector);
            xor(&mut plain[block..], &encrypted[..SECTOR_SIZE - block]);
        }
    }

    /// XTS (IEEE 1619): each block is masked before and after with its tweak, the sector's encrypted number times a
    /// power of alpha in GF(2^128).
    fn xts(&self, sector: u64, group: &mut [u8], work: impl Fn(&mut [u8])) {
        let mut vectors = [0; GROUP * WIDEST];
        let vectors = self.vectors(sector, group.len() / SECTOR_SIZE, &mut vectors);
        self.tweak.as_ref().expect("XTS has a second key").encrypt(vectors);
        let mut tweaks = [0; GROUP * SECTOR_SIZE];
        let tweaks = &mut tweaks[..group.len()];
        for (tweaks, vector) in tweaks.chunks_mut(SECTOR_SIZE).zip(vectors.chunks(WIDEST)) {
            let mut tweak = u128::from_le_bytes(vector.try_into().expect("blocks of 16 bytes"));
            for slot in tweaks.chunks_exact_mut(WIDEST) {
                slot.copy_from_slice(&tweak.to_le_bytes());
                // The reduction has no branch: a tweak is a secret.
                tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
            }
        }
        xor(group, tweaks);
        work(group);
        xor(group, tweaks);
    }

    /// Counter mode: the initialization vector is the first counter, a big-endian number.
    fn ctr(&self, sector: u64, group: &mut [u8]) {
        let block = self.block;
        let mut vectors = [0; GROUP * WIDEST];
        let vectors = self.vectors(sector, group.len() / SECTOR_SIZE, &mut vectors);
        let mut stream = [0; GROUP * SECTOR_SIZE];
        let stream = &mut stream[..group.len()];
        for (stream, vector) in stream.chunks_mut(SECTOR_SIZE).zip(vectors.chunks(block)) {
            // An 8-byte counter wraps at 64 bits: kept in the upper half, its carry falls off the top.
            let mut wide = [0; WIDEST];
            wide[..block].copy_from_slice(vector);
            let one = 1u128 << (8 * (WIDEST - block));
            let mut counter = u128::from_be_bytes(wide);
            for slot in stream.chunks_exact_mut(block) {
                slot.copy_from_slice(&counter.to_be_bytes()[..block]);
                counter = counter.wrapping_add(one);
            }
        }
        self.cipher.encrypt(stream);
        xor(group, stream);
    }
}

fn xor(to: &mut [u8], with: &[u8]) {
    to.iter_mut().zip(with).for_each(|(to, with)| *to ^= with);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(algorithm: CipherAlgorithm, mode: CipherMode) -> CipherSpec {
        CipherSpec { algorithm, mode, ivgen: IvGenerator::Plain64, ivgen_hash: None }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn xts_agrees_with_ieee_1619() {
        // Vector 4: data 00 01 … ff twice, sector number 0.
        let key = hex("2718281828459045235360287471352631415926535897932384626433832795");
        let cipher = SectorCipher::new(&spec(CipherAlgorithm::Aes128, CipherMode::Xts), &key).unwrap();
        let mut data: Vec<u8> = (0..512).map(|i| i as u8).collect();
        cipher.encrypt(0, &mut data);
        assert_eq!(data[..32], hex("27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c"));
    }

    #[test]
    fn sectors_do_not_depend_on_the_request_they_come_in() {
        use CipherAlgorithm::*;
        for algorithm in [Aes128, Aes192, Aes256, Cast5, Serpent128, Serpent256, Twofish128, Twofish192] {
            for mode in [CipherMode::Ecb, CipherMode::Cbc, CipherMode::Xts, CipherMode::Ctr] {
                let spec = spec(algorithm, mode);
                if spec.check().is_err() {
                    continue;
                }
                let key: Vec<u8> = (0..spec.key_bytes()).map(|i| (i * 7 + 3) as u8).collect();
                let cipher = SectorCipher::new(&spec, &key).unwrap();
                let plain: Vec<u8> = (0..512 * 19).map(|i| (i / 3) as u8).collect();
                let mut whole = plain.clone();
                cipher.encrypt(512 * 5, &mut whole);
                for (index, sector) in plain.chunks(512).enumerate() {
                    let mut one = sector.to_vec();
                    cipher.encrypt(512 * (5 + index as u64), &mut one);
                    assert_eq!(one, whole[index * 512..][..512], "{algorithm:?} {mode:?} {index}");
                    assert_ne!(one, sector);
                }
                cipher.decrypt(512 * 5, &mut whole);
                assert_eq!(whole, plain, "{algorithm:?} {mode:?}");
            }
        }
    }

    #[test]
    fn essiv_needs_a_hash_as_long_as_a_key() {
        let with = |hash| CipherSpec {
            ivgen: IvGenerator::Essiv,
            ivgen_hash: Some(hash),
            ..spec(CipherAlgorithm::Aes128, CipherMode::Cbc)
        };
        assert!(with(HashAlgorithm::Sha256).check().is_ok());
        let error = with(HashAlgorithm::Sha1).check().unwrap_err();
        assert_eq!(error.to_string(), "No AES cipher with key size 20 available");
    }
}
