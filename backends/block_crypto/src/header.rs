//! The LUKS1 header as it lies on disk (LUKS specification, section 3, figures 1 to 4). All numbers are big endian.
//!
//! ```text
//!   0 magic "LUKS\xba\xbe"   6 version = 1      8 cipher-name[32]    40 cipher-mode[32]  72 hash-spec[32]
//! 104 payload-offset       108 key-bytes      112 mk-digest[20]    132 mk-digest-salt[32]
//! 164 mk-digest-iterations 168 uuid[40]       208 eight key slots of 48 bytes:
//!      0 active  4 iterations  8 salt[32]  40 key-material-offset  44 stripes
//! ```
//! Offsets in the header are in sectors of 512 bytes.

use rhea_block::{BlockError, Result};
use serde_json::{Value, json};

use crate::algorithm::{CipherAlgorithm, CipherMode, HashAlgorithm, IvGenerator};
use crate::sector::{CipherSpec, SECTOR_SIZE};

/// What a header begins with.
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

/// Key slots of a header.
pub const KEY_SLOTS: usize = 8;

/// Bytes of the header without key material.
pub(crate) const HEADER_BYTES: usize = 592;

/// Where key slots begin, and their size.
const SLOTS_AT: usize = 208;
const SLOT_BYTES: usize = 48;

/// Values of a slot's `active`.
const SLOT_ENABLED: u32 = 0x00ac_71f3;
const SLOT_DISABLED: u32 = 0x0000_dead;

/// Stripes of key material: the only number in use.
pub(crate) const STRIPES: u32 = 4000;

/// Key material starts and ends at multiples of so many sectors.
const ALIGN_SECTORS: u32 = 8;

/// The specification asks for at least so many iterations; more than a machine does in some minutes are refused, as
/// nobody could tell the wait from a hang.
pub(crate) const MIN_ITERATIONS: u32 = 1000;
pub(crate) const MAX_ITERATIONS: u32 = 1 << 30;

/// One of a header's key slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// A password opens it.
    pub active: bool,
    /// Iterations of PBKDF2; 0 in a slot that is not active.
    pub iterations: u32,
    /// Salt of PBKDF2.
    pub salt: [u8; 32],
    /// Where its key material lies, in sectors from the header's start.
    pub key_offset_sectors: u32,
    /// Stripes the key is split into.
    pub stripes: u32,
}

/// A LUKS1 header, parsed and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LuksHeader {
    pub(crate) spec: CipherSpec,
    pub(crate) hash: HashAlgorithm,
    /// As in the header: `xts-plain64`, `cbc-essiv:sha256`.
    cipher_mode: String,
    pub(crate) payload_offset_sectors: u32,
    pub(crate) key_bytes: u32,
    pub(crate) digest: [u8; 20],
    pub(crate) digest_salt: [u8; 32],
    pub(crate) digest_iterations: u32,
    uuid: String,
    pub(crate) slots: [KeySlot; KEY_SLOTS],
}

/// Sectors of one slot's key material.
fn material_sectors(key_bytes: u32) -> u32 {
    (key_bytes * STRIPES).div_ceil(SECTOR_SIZE as u32)
}

/// A big-endian number; the header's bytes are all there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the length is N")
}

/// A text field, which ends with a zero.
fn text_at<'a>(bytes: &'a [u8], at: usize, len: usize, field: &str) -> Result<&'a str> {
    let field_bytes = &bytes[at..at + len];
    let end = field_bytes
        .iter()
        .position(|&b| b == 0)
        .ok_or_else(|| BlockError::malformed(format!("LUKS header {field} is not NUL terminated")))?;
    match std::str::from_utf8(&field_bytes[..end]) {
        Ok(text) if text.is_ascii() && !text.chars().any(|c| c.is_ascii_control()) => Ok(text),
        _ => Err(BlockError::malformed(format!("LUKS header {field} is not text"))),
    }
}

/// A word of `cipher-mode` that names something we do not have.
fn not_supported(what: &str, word: &str) -> BlockError {
    BlockError::unsupported(format!("{what} '{word}' not supported"))
}

/// `xts-plain64`, or `cbc-essiv:sha256`.
fn parse_mode(text: &str) -> Result<(CipherMode, IvGenerator, Option<HashAlgorithm>)> {
    let (mode, vector) = text
        .split_once('-')
        .ok_or_else(|| BlockError::malformed(format!("Unexpected cipher mode string format '{text}'")))?;
    let (generator, hash) = match vector.split_once(':') {
        Some((generator, hash)) => (generator, Some(hash)),
        None => (vector, None),
    };
    let mode = CipherMode::lookup(mode).ok_or_else(|| not_supported("Cipher mode", mode))?;
    let hash = match hash {
        Some(word) => Some(HashAlgorithm::lookup(word).ok_or_else(|| not_supported("Hash algorithm", word))?),
        None => None,
    };
    let generator = IvGenerator::lookup(generator).ok_or_else(|| not_supported("IV generator", generator))?;
    Ok((mode, generator, hash))
}

fn check_iterations(of: &str, iterations: u32) -> Result<()> {
    match iterations {
        0 => Err(BlockError::malformed(format!("{of} iteration count is zero"))),
        1..=MAX_ITERATIONS => Ok(()),
        _ => Err(BlockError::malformed(format!("{of} iteration count {iterations} is too large"))),
    }
}

impl LuksHeader {
    /// The header an image begins with. Errors name the field.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEADER_BYTES || bytes[..6] != MAGIC {
            return Err(BlockError::malformed("Volume is not in LUKS format"));
        }
        let version = u16::from_be_bytes(array_at(bytes, 6));
        if version != 1 {
            return Err(BlockError::unsupported(format!("LUKS version {version} is not supported")));
        }
        let cipher_name = text_at(bytes, 8, 32, "cipher name")?;
        let cipher_mode = text_at(bytes, 40, 32, "cipher mode")?;
        let hash_spec = text_at(bytes, 72, 32, "hash spec")?;
        let uuid = text_at(bytes, 168, 40, "uuid")?;
        let key_bytes = u32_at(bytes, 108);
        let (mode, ivgen, ivgen_hash) = parse_mode(cipher_mode)?;
        let halves = if mode == CipherMode::Xts { 2 } else { 1 };
        let algorithm = match CipherAlgorithm::from_luks(cipher_name, (key_bytes / halves) as usize) {
            Some(algorithm) if key_bytes.is_multiple_of(halves) => algorithm,
            _ => {
                let size = key_bytes / halves;
                return Err(BlockError::unsupported(format!(
                    "Algorithm '{cipher_name}' with key size {size} bytes not supported"
                )));
            }
        };
        let spec = CipherSpec { algorithm, mode, ivgen, ivgen_hash };
        spec.check()?;
        let hash =
            HashAlgorithm::lookup(hash_spec).ok_or_else(|| not_supported("Hash algorithm", hash_spec))?;
        let this = Self {
            spec,
            hash,
            cipher_mode: cipher_mode.to_owned(),
            payload_offset_sectors: u32_at(bytes, 104),
            key_bytes,
            digest: array_at(bytes, 112),
            digest_salt: array_at(bytes, 132),
            digest_iterations: u32_at(bytes, 164),
            uuid: uuid.to_owned(),
            slots: parse_slots(bytes)?,
        };
        this.check()?;
        Ok(this)
    }

    /// Refuses a header whose parts overlap, or that would take for ever.
    fn check(&self) -> Result<()> {
        check_iterations("LUKS key", self.digest_iterations)?;
        let header_end = HEADER_BYTES.div_ceil(SECTOR_SIZE) as u64;
        if !self.is_detached() && self.payload_offset() < header_end * SECTOR_SIZE as u64 {
            return Err(BlockError::malformed("LUKS payload is overlapping with the header"));
        }
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.stripes != STRIPES {
                return Err(BlockError::malformed(format!(
                    "Keyslot {index} is corrupted (stripes {} != {STRIPES})",
                    slot.stripes
                )));
            }
            if slot.active {
                check_iterations(&format!("Keyslot {index}"), slot.iterations)?;
            }
            let (start, end) = self.material_range(slot);
            if start < header_end {
                return Err(BlockError::malformed(format!(
                    "Keyslot {index} is overlapping with the LUKS header"
                )));
            }
            if !self.is_detached() && end > u64::from(self.payload_offset_sectors) {
                return Err(BlockError::malformed(format!(
                    "Keyslot {index} is overlapping with the encrypted payload"
                )));
            }
            for (other, earlier) in self.slots[..index].iter().enumerate() {
                let (other_start, other_end) = self.material_range(earlier);
                if start < other_end && other_start < end {
                    return Err(BlockError::malformed(format!(
                        "Keyslots {other} and {index} are overlapping in the header"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The sectors of a slot's key material.
    fn material_range(&self, slot: &KeySlot) -> (u64, u64) {
        let start = u64::from(slot.key_offset_sectors);
        (start, start + u64::from(material_sectors(self.key_bytes)))
    }

    /// Where a slot's key material lies: offset and length in bytes.
    pub(crate) fn material(&self, slot: usize) -> (u64, usize) {
        let (start, end) = self.material_range(&self.slots[slot]);
        (start * SECTOR_SIZE as u64, (end - start) as usize * SECTOR_SIZE)
    }

    /// A header for a new volume; digest, salts and slots' keys are still to be made.
    pub(crate) fn new(spec: CipherSpec, hash: HashAlgorithm, detached: bool, uuid: String) -> Self {
        let key_bytes = spec.key_bytes() as u32;
        let slot_sectors = material_sectors(key_bytes).next_multiple_of(ALIGN_SECTORS);
        let slots = std::array::from_fn(|index| KeySlot {
            active: false,
            iterations: 0,
            salt: [0; 32],
            key_offset_sectors: ALIGN_SECTORS + index as u32 * slot_sectors,
            stripes: STRIPES,
        });
        let end = ALIGN_SECTORS + KEY_SLOTS as u32 * slot_sectors;
        let ivgen = spec.ivgen.word();
        let cipher_mode = match spec.ivgen_hash {
            Some(hash) => format!("{}-{ivgen}:{}", spec.mode.word(), hash.word()),
            None => format!("{}-{ivgen}", spec.mode.word()),
        };
        Self {
            spec,
            hash,
            cipher_mode,
            payload_offset_sectors: if detached { 0 } else { end },
            key_bytes,
            digest: [0; 20],
            digest_salt: [0; 32],
            digest_iterations: 0,
            uuid,
            slots,
        }
    }

    /// The header's own bytes, without key material.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(6, &1u16.to_be_bytes());
        put(8, self.spec.algorithm.luks_name().as_bytes());
        put(40, self.cipher_mode.as_bytes());
        put(72, self.hash.word().as_bytes());
        put(104, &self.payload_offset_sectors.to_be_bytes());
        put(108, &self.key_bytes.to_be_bytes());
        put(112, &self.digest);
        put(132, &self.digest_salt);
        put(164, &self.digest_iterations.to_be_bytes());
        put(168, self.uuid.as_bytes());
        for (index, slot) in self.slots.iter().enumerate() {
            let at = SLOTS_AT + index * SLOT_BYTES;
            let active = if slot.active { SLOT_ENABLED } else { SLOT_DISABLED };
            put(at, &active.to_be_bytes());
            put(at + 4, &slot.iterations.to_be_bytes());
            put(at + 8, &slot.salt);
            put(at + 40, &slot.key_offset_sectors.to_be_bytes());
            put(at + 44, &slot.stripes.to_be_bytes());
        }
        bytes
    }

    /// Bytes from the header's start to the end of its last key slot's material, as a new header is laid out.
    pub(crate) fn area_bytes(&self) -> u64 {
        let ends = self.slots.iter().map(|slot| self.material_range(slot).1);
        let sectors = ends.max().unwrap_or(0).next_multiple_of(u64::from(ALIGN_SECTORS));
        sectors * SECTOR_SIZE as u64
    }

    /// Where the encrypted data begins, in bytes from the header's start; 0 where the header lies in a file of its own.
    pub fn payload_offset(&self) -> u64 {
        u64::from(self.payload_offset_sectors) * SECTOR_SIZE as u64
    }

    /// Whether the header lies apart from the data.
    pub fn is_detached(&self) -> bool {
        self.payload_offset_sectors == 0
    }

    /// The key slots.
    pub fn slots(&self) -> &[KeySlot; KEY_SLOTS] {
        &self.slots
    }

    /// What `info` tells (QAPI's QCryptoBlockInfoLUKS).
    pub fn info(&self) -> Value {
        let slots: Vec<Value> = self
            .slots
            .iter()
            .map(|slot| {
                let offset = u64::from(slot.key_offset_sectors) * SECTOR_SIZE as u64;
                match slot.active {
                    true => json!({
                        "active": true,
                        "iters": slot.iterations,
                        "stripes": slot.stripes,
                        "key-offset": offset,
                    }),
                    false => json!({ "active": false, "key-offset": offset }),
                }
            })
            .collect();
        let mut info = json!({
            "cipher-alg": self.spec.algorithm.word(),
            "cipher-mode": self.spec.mode.word(),
            "ivgen-alg": self.spec.ivgen.word(),
            "hash-alg": self.hash.word(),
            "detached-header": self.is_detached(),
            "payload-offset": self.payload_offset(),
            "master-key-iters": self.digest_iterations,
            "uuid": self.uuid,
            "slots": slots,
        });
        if let (IvGenerator::Essiv, Some(hash)) = (self.spec.ivgen, self.spec.ivgen_hash) {
            info["ivgen-hash-alg"] = hash.word().into();
        }
        info
    }
}

fn parse_slots(bytes: &[u8]) -> Result<[KeySlot; KEY_SLOTS]> {
    let mut slots = Vec::with_capacity(KEY_SLOTS);
    for index in 0..KEY_SLOTS {
        let at = SLOTS_AT + index * SLOT_BYTES;
        let active = match u32_at(bytes, at) {
            SLOT_ENABLED => true,
            SLOT_DISABLED => false,
            other => {
                return Err(BlockError::malformed(format!(
                    "Keyslot {index} state (active/disable) is corrupted ({other:#010x})"
                )));
            }
        };
        slots.push(KeySlot {
            active,
            iterations: u32_at(bytes, at + 4),
            salt: array_at(bytes, at + 8),
            key_offset_sectors: u32_at(bytes, at + 40),
            stripes: u32_at(bytes, at + 44),
        });
    }
    Ok(slots.try_into().expect("as many as there are"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> LuksHeader {
        let spec = CipherSpec {
            algorithm: CipherAlgorithm::Aes256,
            mode: CipherMode::Xts,
            ivgen: IvGenerator::Plain64,
            ivgen_hash: None,
        };
        let uuid = "c0ffee00-0000-4000-8000-000000000000".to_owned();
        let mut header = LuksHeader::new(spec, HashAlgorithm::Sha256, false, uuid);
        header.digest_iterations = 1000;
        header
    }

    #[test]
    fn the_layout_is_qemus() {
        let header = header();
        assert_eq!(header.payload_offset(), 2068480);
        assert_eq!(header.area_bytes(), 2068480);
        let offsets: Vec<u64> = (0..8).map(|slot| header.material(slot).0).collect();
        assert_eq!(offsets, [4096, 262144, 520192, 778240, 1036288, 1294336, 1552384, 1810432]);
        assert_eq!(LuksHeader::parse(&header.to_bytes()).unwrap(), header);
    }

    #[test]
    fn a_malformed_header_is_refused_with_the_fields_name() {
        let cases: [(usize, &[u8], &str); 14] = [
            (0, b"LUCKS", "not in LUKS format"),
            (6, &[0, 2], "version 2"),
            (8, b"rot13\0", "Algorithm 'rot13'"),
            (8, &[b'a'; 32], "cipher name"),
            (40, b"xts\0", "cipher mode"),
            (40, b"xts-benbi\0", "benbi"),
            (40, b"cbc-essiv\0", "key size 64"),
            (72, b"sha0\0", "Hash algorithm 'sha0'"),
            (104, &[0, 0, 0, 1], "payload"),
            (108, &[0xff, 0xff, 0xff, 0xff], "key size"),
            (164, &[0, 0, 0, 0], "LUKS key iteration"),
            (208, &[0, 0, 0, 0], "Keyslot 0"),
            (248, &[0, 0, 2, 0], "Keyslots 0 and 1"),
            (252, &[0xff, 0xff, 0xff, 0xff], "stripes"),
        ];
        for (at, field, expected) in cases {
            let mut bytes = header().to_bytes();
            bytes[at..at + field.len()].copy_from_slice(field);
            let error = LuksHeader::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{at}: {error}");
        }
        assert!(LuksHeader::parse(&header().to_bytes()[..591]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(changes in prop::collection::vec((0usize..592, any::<u8>()), 0..12)) {
            let mut bytes = header().to_bytes();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(parsed) = LuksHeader::parse(&bytes) {
                let _ = parsed.info();
                prop_assert_eq!(LuksHeader::parse(&parsed.to_bytes()).unwrap(), parsed);
            }
        }
    }
}
