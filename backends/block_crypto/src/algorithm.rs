//! The words for ciphers, modes, initialization vectors and hashes, in options and in LUKS headers.

use std::time::Duration;

use digest::Digest;
use rhea_block::{BlockError, Result};

/// A block cipher with its key's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherAlgorithm {
    /// AES, 16-byte key.
    Aes128,
    /// AES, 24-byte key.
    Aes192,
    /// AES, 32-byte key.
    Aes256,
    /// CAST5, 16-byte key; blocks of 8 bytes.
    Cast5,
    /// Serpent, 16-byte key.
    Serpent128,
    /// Serpent, 24-byte key.
    Serpent192,
    /// Serpent, 32-byte key.
    Serpent256,
    /// Twofish, 16-byte key.
    Twofish128,
    /// Twofish, 24-byte key.
    Twofish192,
    /// Twofish, 32-byte key.
    Twofish256,
}

/// `(algorithm, option word, LUKS name, key bytes)`
const CIPHERS: [(CipherAlgorithm, &str, &str, usize); 10] = [
    (CipherAlgorithm::Aes128, "aes-128", "aes", 16),
    (CipherAlgorithm::Aes192, "aes-192", "aes", 24),
    (CipherAlgorithm::Aes256, "aes-256", "aes", 32),
    (CipherAlgorithm::Cast5, "cast5-128", "cast5", 16),
    (CipherAlgorithm::Serpent128, "serpent-128", "serpent", 16),
    (CipherAlgorithm::Serpent192, "serpent-192", "serpent", 24),
    (CipherAlgorithm::Serpent256, "serpent-256", "serpent", 32),
    (CipherAlgorithm::Twofish128, "twofish-128", "twofish", 16),
    (CipherAlgorithm::Twofish192, "twofish-192", "twofish", 24),
    (CipherAlgorithm::Twofish256, "twofish-256", "twofish", 32),
];

/// Words QEMU knows for ciphers that are not here; they are refused as QEMU's build without them does.
const ABSENT_CIPHERS: [&str; 3] = ["des", "3des", "sm4"];

fn bad_value(key: &str, word: &str) -> BlockError {
    BlockError::invalid(format!("Parameter '{key}' does not accept value '{word}'"))
}

impl CipherAlgorithm {
    fn row(self) -> &'static (Self, &'static str, &'static str, usize) {
        CIPHERS.iter().find(|row| row.0 == self).expect("every algorithm has a row")
    }

    /// The word in options (`aes-256`).
    pub fn word(self) -> &'static str {
        self.row().1
    }

    /// From the word in options.
    pub fn from_word(word: &str) -> Result<Self> {
        match CIPHERS.iter().find(|row| row.1 == word) {
            Some(row) => Ok(row.0),
            None if ABSENT_CIPHERS.contains(&word) => {
                Err(BlockError::unsupported(format!("Algorithm '{word}' not supported")))
            }
            None => Err(bad_value("cipher-alg", word)),
        }
    }

    /// The name in LUKS headers (`aes`).
    pub fn luks_name(self) -> &'static str {
        self.row().2
    }

    /// From the name in a LUKS header and the key's length, `None` if there is no such cipher.
    pub fn from_luks(name: &str, key_bytes: usize) -> Option<Self> {
        CIPHERS.iter().find(|row| row.2 == name && row.3 == key_bytes).map(|row| row.0)
    }

    /// Bytes of the key.
    pub fn key_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of a block: 16, or 8 for CAST5.
    pub fn block_bytes(self) -> usize {
        if self == Self::Cast5 { 8 } else { 16 }
    }
}

/// How blocks of a sector are chained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherMode {
    /// Each block for itself. Shows which blocks are alike: for old images only.
    Ecb,
    /// Cipher block chaining.
    Cbc,
    /// XEX with two keys (IEEE 1619); the key is twice as long. Blocks of 16 bytes only.
    Xts,
    /// Counter mode.
    Ctr,
}

const MODES: [(CipherMode, &str); 4] =
    [(CipherMode::Ecb, "ecb"), (CipherMode::Cbc, "cbc"), (CipherMode::Xts, "xts"), (CipherMode::Ctr, "ctr")];

impl CipherMode {
    /// The word in options and headers.
    pub fn word(self) -> &'static str {
        MODES.iter().find(|row| row.0 == self).expect("every mode has a row").1
    }

    /// From the word, `None` if there is no such mode.
    pub fn lookup(word: &str) -> Option<Self> {
        MODES.iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// From the word in options.
    pub fn from_word(word: &str) -> Result<Self> {
        Self::lookup(word).ok_or_else(|| bad_value("cipher-mode", word))
    }
}

/// How a sector's number becomes its initialization vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IvGenerator {
    /// The low 32 bits of the number, little endian.
    Plain,
    /// The number in 64 bits, little endian.
    Plain64,
    /// As [`IvGenerator::Plain64`], then encrypted with the hash of the volume's key.
    Essiv,
}

const IV_GENERATORS: [(IvGenerator, &str); 3] =
    [(IvGenerator::Plain, "plain"), (IvGenerator::Plain64, "plain64"), (IvGenerator::Essiv, "essiv")];

impl IvGenerator {
    /// The word in options and headers.
    pub fn word(self) -> &'static str {
        IV_GENERATORS.iter().find(|row| row.0 == self).expect("every generator has a row").1
    }

    /// From the word, `None` if there is no such generator.
    pub fn lookup(word: &str) -> Option<Self> {
        IV_GENERATORS.iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// From the word in options.
    pub fn from_word(word: &str) -> Result<Self> {
        Self::lookup(word).ok_or_else(|| bad_value("ivgen-alg", word))
    }
}

/// A hash, for key derivation, key splitting and ESSIV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// MD5, 16 bytes.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160, 20 bytes.
    Ripemd160,
    /// SM3, 32 bytes.
    Sm3,
}

const HASHES: [(HashAlgorithm, &str); 8] = [
    (HashAlgorithm::Md5, "md5"),
    (HashAlgorithm::Sha1, "sha1"),
    (HashAlgorithm::Sha224, "sha224"),
    (HashAlgorithm::Sha256, "sha256"),
    (HashAlgorithm::Sha384, "sha384"),
    (HashAlgorithm::Sha512, "sha512"),
    (HashAlgorithm::Ripemd160, "ripemd160"),
    (HashAlgorithm::Sm3, "sm3"),
];

/// Runs the expression with `$hash` naming the implementation of a [`HashAlgorithm`].
macro_rules! with_hash {
    ($algorithm:expr, $hash:ident => $body:expr) => {
        match $algorithm {
            HashAlgorithm::Md5 => {
                type $hash = md5::Md5;
                $body
            }
            HashAlgorithm::Sha1 => {
                type $hash = sha1::Sha1;
                $body
            }
            HashAlgorithm::Sha224 => {
                type $hash = sha2::Sha224;
                $body
            }
            HashAlgorithm::Sha256 => {
                type $hash = sha2::Sha256;
                $body
            }
            HashAlgorithm::Sha384 => {
                type $hash = sha2::Sha384;
                $body
            }
            HashAlgorithm::Sha512 => {
                type $hash = sha2::Sha512;
                $body
            }
            HashAlgorithm::Ripemd160 => {
                type $hash = ripemd::Ripemd160;
                $body
            }
            HashAlgorithm::Sm3 => {
                type $hash = sm3::Sm3;
                $body
            }
        }
    };
}

impl HashAlgorithm {
    /// The word in options and headers.
    pub fn word(self) -> &'static str {
        HASHES.iter().find(|row| row.0 == self).expect("every hash has a row").1
    }

    /// From the word, `None` if there is no such hash.
    pub fn lookup(word: &str) -> Option<Self> {
        HASHES.iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// From the word in the option `key`.
    pub fn from_word(key: &str, word: &str) -> Result<Self> {
        Self::lookup(word).ok_or_else(|| bad_value(key, word))
    }

    /// Bytes of a digest.
    pub fn digest_bytes(self) -> usize {
        with_hash!(self, H => <H as Digest>::output_size())
    }

    /// Appends the digest of the parts, one after the other, to `to`.
    pub(crate) fn digest_into(self, parts: &[&[u8]], to: &mut Vec<u8>) {
        with_hash!(self, H => {
            let mut hash = H::new();
            parts.iter().for_each(|part| hash.update(part));
            to.extend_from_slice(&hash.finalize());
        });
    }

    /// PBKDF2 with HMAC (RFC 8018). Takes its time: not for an executor's thread.
    pub(crate) fn derive(self, password: &[u8], salt: &[u8], iterations: u32, to: &mut [u8]) {
        with_hash!(self, H => pbkdf2::pbkdf2_hmac::<H>(password, salt, iterations, to));
    }

    /// How many iterations of PBKDF2 for `key_bytes` this machine does in a second of processor time. Takes less than
    /// a tenth of a second: not for an executor's thread.
    pub(crate) fn iterations_per_second(self, key_bytes: usize) -> u64 {
        let mut key = vec![0; key_bytes];
        let mut iterations: u32 = 1 << 12;
        loop {
            let start = processor_time();
            self.derive(b"password", b"0123456789abcdef0123456789abcdef", iterations, &mut key);
            let taken = processor_time().saturating_sub(start);
            if taken >= Duration::from_millis(25) || iterations >= 1 << 30 {
                let nanoseconds = taken.as_nanos().max(1);
                return (u128::from(iterations) * 1_000_000_000 / nanoseconds).min(u128::from(u64::MAX))
                    as u64;
            }
            iterations *= 2;
        }
    }
}

/// Processor time of this thread, which other work on the machine does not change.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.max(0) as u64, now.tv_nsec.max(0) as u32)
}
