//! Options of creating and amending LUKS volumes; the keys are the same for the `luks` format and, behind `encrypt.`, for
//! qcow2.

use std::time::Duration;

use rhea_block::{BlockError, Result, Secrets};
use rhea_options::Options;
use zeroize::Zeroizing;

use crate::algorithm::{CipherAlgorithm, CipherMode, HashAlgorithm, IvGenerator};
use crate::sector::CipherSpec;

/// A password, as passwords of images are: UTF-8 text.
pub(crate) fn password(secrets: &Secrets, id: &str) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = Zeroizing::new(secrets.get(id)?);
    match std::str::from_utf8(&bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(BlockError::invalid(format!("Data from secret {id} is not valid UTF-8"))),
    }
}

/// What a new LUKS volume is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LuksOptions {
    pub(crate) spec: CipherSpec,
    pub(crate) hash: HashAlgorithm,
    pub(crate) iter_time: Duration,
}

/// The default of `iter-time`.
const ITER_TIME: u64 = 2000;

fn take_iter_time(options: &mut Options) -> Result<Option<Duration>> {
    Ok(options.take::<u64>("iter-time")?.map(Duration::from_millis))
}

impl LuksOptions {
    /// Takes `cipher-alg`, `cipher-mode`, `ivgen-alg`, `ivgen-hash-alg`, `hash-alg` and `iter-time` (milliseconds) out of
    /// the options (for qcow2: of the members of `encrypt`). `key-secret` is the caller's, see
    /// [`LuksOptions::password`].
    pub fn take(options: &mut Options) -> Result<Self> {
        let algorithm = match options.take::<String>("cipher-alg")? {
            Some(word) => CipherAlgorithm::from_word(&word)?,
            None => CipherAlgorithm::Aes256,
        };
        let mode = match options.take::<String>("cipher-mode")? {
            Some(word) => CipherMode::from_word(&word)?,
            None => CipherMode::Xts,
        };
        let ivgen = match options.take::<String>("ivgen-alg")? {
            Some(word) => IvGenerator::from_word(&word)?,
            None => IvGenerator::Plain64,
        };
        let mut ivgen_hash = match options.take::<String>("ivgen-hash-alg")? {
            Some(word) => Some(HashAlgorithm::from_word("ivgen-hash-alg", &word)?),
            None => None,
        };
        if ivgen == IvGenerator::Essiv && ivgen_hash.is_none() {
            ivgen_hash = Some(HashAlgorithm::Sha256);
        }
        let hash = match options.take::<String>("hash-alg")? {
            Some(word) => HashAlgorithm::from_word("hash-alg", &word)?,
            None => HashAlgorithm::Sha256,
        };
        let iter_time = take_iter_time(options)?.unwrap_or(Duration::from_millis(ITER_TIME));
        let spec = CipherSpec { algorithm, mode, ivgen, ivgen_hash };
        spec.check()?;
        Ok(Self { spec, hash, iter_time })
    }

    /// The password that `key-secret` refers to: UTF-8 text.
    pub fn password(secrets: &Secrets, key_secret: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
        match key_secret {
            Some(id) => password(secrets, id),
            None => Err(BlockError::invalid("Parameter 'key-secret' is required for cipher")),
        }
    }

    /// Bytes of the header with its key slots: what comes before the encrypted data, and what qcow2 allocates.
    pub fn header_bytes(&self) -> u64 {
        crate::header::LuksHeader::new(self.spec, self.hash, false, String::new()).area_bytes()
    }
}

/// What key slots are to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Hold the key for a password.
    Active,
    /// Be erased.
    Inactive,
}

/// A change of key slots (`qemu-img amend`).
pub struct AmendOptions {
    /// What the slots become.
    pub state: SlotState,
    /// Active: the password to add.
    pub new_secret: Option<Zeroizing<Vec<u8>>>,
    /// Inactive: erase all slots of this password (or check that `keyslot` is one). Not for active.
    pub old_secret: Option<Zeroizing<Vec<u8>>>,
    /// This slot, 0 to 7; else a free one (active), or those of `old_secret` (inactive).
    pub keyslot: Option<u32>,
    /// Processor time of deriving the new slot's key.
    pub iter_time: Duration,
}

impl AmendOptions {
    /// Takes `state`, `new-secret`, `old-secret`, `keyslot` and `iter-time` out of the options (for qcow2: of the members
    /// of `encrypt`).
    pub fn take(options: &mut Options, secrets: &Secrets) -> Result<Self> {
        let state = match options.take::<String>("state")?.as_deref() {
            Some("active") => SlotState::Active,
            Some("inactive") => SlotState::Inactive,
            Some(word) => {
                return Err(BlockError::invalid(format!("Parameter 'state' does not accept value '{word}'")));
            }
            None => return Err(BlockError::invalid("Parameter 'state' is missing")),
        };
        let new_id = options.take::<String>("new-secret")?;
        let old_id = options.take::<String>("old-secret")?;
        let secret = |id: Option<String>| id.map(|id| password(secrets, &id)).transpose();
        Ok(Self {
            state,
            new_secret: secret(new_id)?,
            old_secret: secret(old_id)?,
            keyslot: options.take::<u32>("keyslot")?,
            iter_time: take_iter_time(options)?.unwrap_or(Duration::from_millis(ITER_TIME)),
        })
    }
}
