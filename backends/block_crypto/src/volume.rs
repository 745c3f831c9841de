//! Opening, formatting and amending LUKS volumes.
//!
//! Crash safety of [`LuksVolume::amend`]: a new slot's key material is on stable storage before the header says that the
//! slot is active. A slot that is erased loses its key material first: a crash in between leaves a slot that no password
//! opens, but never a key that was to be gone.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_async_io::unblock;
use rhea_block::{BlockError, Result, ResultExt};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::algorithm::HashAlgorithm;
use crate::header::{HEADER_BYTES, KEY_SLOTS, LuksHeader, MAX_ITERATIONS, MIN_ITERATIONS, STRIPES};
use crate::luks_options::{AmendOptions, LuksOptions, SlotState};
use crate::sector::{CipherSpec, SECTOR_SIZE, SectorCipher};
use crate::split;

/// Where a LUKS header lies. Offsets count from the header's start; what lies beyond the storage's end reads as zeroes.
#[async_trait]
pub trait HeaderStorage: Send + Sync {
    /// Reads bytes of the header or its key material.
    async fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()>;
    /// Writes bytes of the header or its key material.
    async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Everything written is on stable storage when this ends.
    async fn flush(&self) -> Result<()>;
}

/// An open LUKS volume.
pub struct LuksVolume {
    header: Mutex<LuksHeader>,
    /// Held by whoever changes key slots.
    amending: async_lock::Mutex<()>,
    unlocked: Option<Unlocked>,
}

struct Unlocked {
    key: Zeroizing<Vec<u8>>,
    cipher: SectorCipher,
}

/// A new volume, still to be written.
pub struct FormattedLuks {
    /// The header and all key material: what lies before the data (or, detached, makes up the header's file).
    pub header: Vec<u8>,
    /// The volume, open.
    pub volume: LuksVolume,
}

/// What unlocking a slot takes, apart from its key material.
#[derive(Clone)]
struct SlotWork {
    spec: CipherSpec,
    hash: HashAlgorithm,
    key_bytes: usize,
    salt: [u8; 32],
    iterations: u32,
}

impl SlotWork {
    fn of(header: &LuksHeader, slot: usize) -> Self {
        Self {
            spec: header.spec,
            hash: header.hash,
            key_bytes: header.key_bytes as usize,
            salt: header.slots[slot].salt,
            iterations: header.slots[slot].iterations,
        }
    }

    fn cipher(&self, password: &[u8]) -> Result<SectorCipher> {
        let mut key = Zeroizing::new(vec![0; self.key_bytes]);
        self.hash.derive(password, &self.salt, self.iterations, &mut key);
        SectorCipher::new(&self.spec, &key)
    }

    /// The key that the material gives with this password: right or wrong.
    fn unlock(&self, password: &[u8], mut material: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>> {
        self.cipher(password)?.decrypt(0, &mut material);
        let used = self.key_bytes * STRIPES as usize;
        Ok(split::merge(self.hash, &material[..used], self.key_bytes))
    }

    /// Key material for this password.
    fn lock(&self, password: &[u8], key: &[u8]) -> Result<Vec<u8>> {
        let mut material = split::split(self.hash, key, STRIPES)?;
        // What a key leaves of the last sector is random, as all the rest looks.
        let used = material.len();
        material.resize(used.next_multiple_of(SECTOR_SIZE), 0);
        split::random(&mut material[used..])?;
        self.cipher(password)?.encrypt(0, &mut material);
        Ok(std::mem::take(&mut *material))
    }
}

/// Whether this is the volume's key.
fn is_key(header: &LuksHeader, key: &[u8]) -> bool {
    let mut digest = [0; 20];
    header.hash.derive(key, &header.digest_salt, header.digest_iterations, &mut digest);
    // Without an early end: the time tells nothing.
    digest.iter().zip(&header.digest).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Tries a password on a slot.
async fn unlock_slot(
    storage: &dyn HeaderStorage,
    header: &LuksHeader,
    slot: usize,
    password: &Zeroizing<Vec<u8>>,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let (offset, len) = header.material(slot);
    let mut material = Zeroizing::new(vec![0; len]);
    storage.read(offset, &mut material).await.context("Failed to read key material")?;
    let (header, password) = (header.clone(), password.clone());
    unblock(move || {
        let key = SlotWork::of(&header, slot).unlock(&password, material)?;
        Ok(is_key(&header, &key).then_some(key))
    })
    .await
}

/// Tries a password on all slots.
async fn unlock_any(
    storage: &dyn HeaderStorage,
    header: &LuksHeader,
    password: &Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>> {
    for slot in (0..KEY_SLOTS).filter(|&slot| header.slots[slot].active) {
        if let Some(key) = unlock_slot(storage, header, slot, password).await? {
            return Ok(key);
        }
    }
    Err(BlockError::new(libc::EPERM, "Invalid password, cannot unlock any keyslot"))
}

/// Iterations that take so long on this machine.
fn iterations(hash: HashAlgorithm, key_bytes: usize, time: Duration, share: u64) -> u32 {
    let per_second = u128::from(hash.iterations_per_second(key_bytes));
    let wanted = per_second * time.as_millis() / 1000 / u128::from(share);
    wanted.clamp(MIN_ITERATIONS.into(), MAX_ITERATIONS.into()) as u32
}

/// A random UUID (RFC 9562, version 4).
fn random_uuid() -> Result<String> {
    let mut bytes = [0; 16];
    split::random(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

impl LuksVolume {
    /// Opens a volume with a password, or without one just to look at the header, which lies before the data.
    pub async fn open(storage: &dyn HeaderStorage, password: Option<Zeroizing<Vec<u8>>>) -> Result<Self> {
        let header = Self::read_header(storage).await?;
        if header.is_detached() {
            return Err(BlockError::malformed("LUKS payload is overlapping with the header"));
        }
        Self::open_header(storage, header, password).await
    }

    /// Opens a volume whose header lies apart from its data.
    pub async fn open_detached(
        storage: &dyn HeaderStorage,
        password: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Self> {
        let header = Self::read_header(storage).await?;
        Self::open_header(storage, header, password).await
    }

    async fn read_header(storage: &dyn HeaderStorage) -> Result<LuksHeader> {
        let mut bytes = vec![0; HEADER_BYTES];
        storage.read(0, &mut bytes).await.context("Unable to read LUKS header")?;
        LuksHeader::parse(&bytes)
    }

    async fn open_header(
        storage: &dyn HeaderStorage,
        header: LuksHeader,
        password: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Self> {
        let unlocked = match password {
            None => None,
            Some(password) => {
                let key = unlock_any(storage, &header, &password).await?;
                Some(Unlocked { cipher: SectorCipher::new(&header.spec, &key)?, key })
            }
        };
        Ok(Self { header: Mutex::new(header), amending: async_lock::Mutex::new(()), unlocked })
    }

    /// Makes a new volume with a random key, opened by a password (in slot 0). `detached`: the header lies in a file of
    /// its own, and the data in another from its start. Takes as long as `iter-time` says, off the executor.
    pub async fn format(
        options: LuksOptions,
        detached: bool,
        password: Zeroizing<Vec<u8>>,
    ) -> Result<FormattedLuks> {
        unblock(move || {
            let (hash, time) = (options.hash, options.iter_time);
            Self::make(&options, detached, &password, |bytes, share| iterations(hash, bytes, time, share))
        })
        .await
    }

    /// The work of [`LuksVolume::format`]. `count` says how many iterations a key of so many bytes takes if it has that
    /// share of the time (one over the number).
    pub(crate) fn make(
        options: &LuksOptions,
        detached: bool,
        password: &[u8],
        count: impl Fn(usize, u64) -> u32,
    ) -> Result<FormattedLuks> {
        let &LuksOptions { spec, hash, .. } = options;
        let mut header = LuksHeader::new(spec, hash, detached, random_uuid()?);
        let mut key = Zeroizing::new(vec![0; spec.key_bytes()]);
        split::random(&mut key)?;
        // The volume key is checked once for each slot tried.
        header.digest_iterations = count(header.digest.len(), KEY_SLOTS as u64);
        split::random(&mut header.digest_salt)?;
        hash.derive(&key, &header.digest_salt, header.digest_iterations, &mut header.digest);
        header.slots[0].active = true;
        header.slots[0].iterations = count(key.len(), 1);
        split::random(&mut header.slots[0].salt)?;
        let material = SlotWork::of(&header, 0).lock(password, &key)?;
        let mut bytes = header.to_bytes();
        bytes.resize(header.area_bytes() as usize, 0);
        let (offset, len) = header.material(0);
        bytes[offset as usize..][..len].copy_from_slice(&material);
        let unlocked = Some(Unlocked { cipher: SectorCipher::new(&spec, &key)?, key });
        let volume = Self { header: Mutex::new(header), amending: async_lock::Mutex::new(()), unlocked };
        Ok(FormattedLuks { header: bytes, volume })
    }

    /// The cipher of the data; an error if the volume was opened without a password.
    pub fn cipher(&self) -> Result<&SectorCipher> {
        match &self.unlocked {
            Some(unlocked) => Ok(&unlocked.cipher),
            None => Err(locked()),
        }
    }

    /// Where the data begins, in bytes from the header's start; 0 if the header is detached.
    pub fn payload_offset(&self) -> u64 {
        self.header.lock().payload_offset()
    }

    /// Whether the header lies in a file of its own.
    pub fn is_detached(&self) -> bool {
        self.header.lock().is_detached()
    }

    /// Bytes from the header's start to the end of its key slots.
    pub fn header_bytes(&self) -> u64 {
        self.header.lock().area_bytes()
    }

    /// What `info` tells (QAPI's QCryptoBlockInfoLUKS).
    pub fn info(&self) -> Value {
        self.header.lock().info()
    }

    /// Adds or erases passwords. Without `force`, the last password cannot be erased, nor an active slot overwritten.
    pub async fn amend(&self, storage: &dyn HeaderStorage, options: AmendOptions, force: bool) -> Result<()> {
        let _alone = self.amending.lock().await;
        match options.state {
            SlotState::Active => self.add_key(storage, options, force).await,
            SlotState::Inactive => self.erase_keys(storage, options, force).await,
        }
    }

    async fn add_key(&self, storage: &dyn HeaderStorage, options: AmendOptions, force: bool) -> Result<()> {
        let AmendOptions { new_secret, old_secret, keyslot, iter_time, .. } = options;
        if old_secret.is_some() {
            return Err(BlockError::invalid("'old-secret' must not be given when activating keyslots"));
        }
        let password = new_secret
            .ok_or_else(|| BlockError::invalid("'new-secret' is required to activate a keyslot"))?;
        let mut header = self.header.lock().clone();
        let slot = match keyslot {
            Some(slot) => {
                let slot = checked_slot(slot)?;
                if header.slots[slot].active && !force {
                    return Err(BlockError::invalid(format!(
                        "Refusing to overwrite active keyslot {slot} - please erase it first"
                    )));
                }
                slot
            }
            None => header
                .slots
                .iter()
                .position(|slot| !slot.active)
                .ok_or_else(|| BlockError::invalid("Can't add a keyslot - all keyslots are in use"))?,
        };
        let key = match &self.unlocked {
            Some(unlocked) => unlocked.key.clone(),
            None => return Err(locked()),
        };
        if header.slots[slot].active {
            // Forced: erased first, so that a crash does not leave an old salt with new material.
            self.erase(storage, &mut header, slot).await?;
        }
        let hash = header.hash;
        let work = {
            let key_bytes = key.len();
            header.slots[slot].iterations = unblock(move || iterations(hash, key_bytes, iter_time, 1)).await;
            split::random(&mut header.slots[slot].salt)?;
            SlotWork::of(&header, slot)
        };
        let material = unblock(move || work.lock(&password, &key)).await?;
        storage.write(header.material(slot).0, &material).await.context("Unable to write key material")?;
        storage.flush().await?;
        header.slots[slot].active = true;
        self.write_header(storage, header).await
    }

    async fn erase_keys(
        &self,
        storage: &dyn HeaderStorage,
        options: AmendOptions,
        force: bool,
    ) -> Result<()> {
        if options.new_secret.is_some() {
            return Err(BlockError::invalid("'new-secret' must not be given when erasing keyslots"));
        }
        let mut header = self.header.lock().clone();
        let active = header.slots.iter().filter(|slot| slot.active).count();
        let doomed = match (options.keyslot, &options.old_secret) {
            (Some(slot), old) => {
                let slot = checked_slot(slot)?;
                if !header.slots[slot].active {
                    return Err(BlockError::invalid(format!(
                        "Given keyslot {slot} is already erased (inactive)"
                    )));
                }
                if let Some(old) = old
                    && unlock_slot(storage, &header, slot, old).await?.is_none()
                {
                    return Err(BlockError::invalid(format!(
                        "Given keyslot {slot} doesn't contain the given old password for erase operation"
                    )));
                }
                if active == 1 && !force {
                    return Err(BlockError::invalid(format!(
                        "Attempt to erase the only active keyslot {slot} which will erase all the data in the \
                         image irreversibly - refusing operation"
                    )));
                }
                vec![slot]
            }
            (None, Some(old)) => {
                let mut found = vec![];
                for slot in (0..KEY_SLOTS).filter(|&slot| header.slots[slot].active) {
                    if unlock_slot(storage, &header, slot, old).await?.is_some() {
                        found.push(slot);
                    }
                }
                if found.is_empty() {
                    return Err(BlockError::invalid(
                        "No keyslots match given (old) password for erase operation",
                    ));
                }
                if found.len() == active && !force {
                    return Err(BlockError::invalid(
                        "All the active keyslots match the (old) password that was given and erasing them \
                         will erase all the data in the image irreversibly - refusing operation",
                    ));
                }
                found
            }
            (None, None) => {
                return Err(BlockError::invalid(
                    "To erase keyslot(s), either explicit keyslot index or the password currently contained in \
                     them must be given",
                ));
            }
        };
        for slot in doomed {
            self.erase(storage, &mut header, slot).await?;
        }
        Ok(())
    }

    /// Overwrites a slot's key material with random bytes, several times, then says so in the header.
    async fn erase(&self, storage: &dyn HeaderStorage, header: &mut LuksHeader, slot: usize) -> Result<()> {
        const PASSES: usize = 8;
        let (offset, len) = header.material(slot);
        let mut noise = vec![0; len];
        for _ in 0..PASSES {
            split::random(&mut noise)?;
            storage.write(offset, &noise).await.context("Unable to erase key material")?;
            // Each pass shall reach the storage, not only the last.
            storage.flush().await?;
        }
        header.slots[slot].active = false;
        header.slots[slot].iterations = 0;
        header.slots[slot].salt = [0; 32];
        self.write_header(storage, header.clone()).await
    }

    async fn write_header(&self, storage: &dyn HeaderStorage, header: LuksHeader) -> Result<()> {
        storage.write(0, &header.to_bytes()).await.context("Unable to write LUKS header")?;
        *self.header.lock() = header;
        storage.flush().await
    }
}

fn locked() -> BlockError {
    BlockError::new(libc::EPERM, "the volume was opened without its key")
}

fn checked_slot(slot: u32) -> Result<usize> {
    match usize::try_from(slot) {
        Ok(slot) if slot < KEY_SLOTS => Ok(slot),
        _ => Err(BlockError::invalid(format!(
            "Invalid keyslot {slot} specified, must be between 0 and {}",
            KEY_SLOTS - 1
        ))),
    }
}
