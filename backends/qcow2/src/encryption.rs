//! Encryption of guest data.
//!
//! Source: the qcow2 specification, "Data encryption": LUKS counts sectors where they lie in the file, the old AES where
//! they lie on the disk. Metadata is never encrypted.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, unblock};
use rhea_block::{BlockError, BlockNode, Result};
use rhea_block_crypto::{HeaderStorage, LuksVolume, SectorCipher};

/// Requests of at least this many bytes are worth a thread of the pool.
const WORTH_A_THREAD: usize = 256 << 10;

enum Method {
    Aes(Box<SectorCipher>),
    Luks(Box<LuksVolume>),
}

/// The cipher of an open image.
#[derive(Clone)]
pub(crate) struct Encryption(Arc<Method>);

impl Encryption {
    pub(crate) fn aes(password: &[u8]) -> Self {
        Self(Arc::new(Method::Aes(Box::new(SectorCipher::qcow_aes(password)))))
    }

    pub(crate) fn luks(volume: LuksVolume) -> Self {
        Self(Arc::new(Method::Luks(Box::new(volume))))
    }

    /// The LUKS volume, for `info` and for changing its key slots.
    pub(crate) fn volume(&self) -> Option<&LuksVolume> {
        match &*self.0 {
            Method::Luks(volume) => Some(volume),
            Method::Aes(_) => None,
        }
    }

    fn cipher(&self) -> Result<&SectorCipher> {
        match &*self.0 {
            Method::Aes(cipher) => Ok(cipher),
            Method::Luks(volume) => volume.cipher(),
        }
    }

    /// Which of the two offsets sectors are counted by.
    fn position(&self, guest: u64, host: u64) -> u64 {
        match &*self.0 {
            Method::Aes(_) => guest,
            Method::Luks(_) => host,
        }
    }

    /// Decrypts what was read from `host` in the file, which is `guest` on the disk.
    pub(crate) async fn decrypt(&self, guest: u64, host: u64, data: &mut IoVector) -> Result<()> {
        let at = self.position(guest, host);
        if data.len() < WORTH_A_THREAD
            && let Some(bytes) = data.as_mut_slice()
        {
            self.cipher()?.decrypt(at, bytes);
            return Ok(());
        }
        let mut bytes = data.to_vec();
        let this = self.clone();
        let bytes = unblock(move || {
            this.cipher()?.decrypt(at, &mut bytes);
            Ok::<_, BlockError>(bytes)
        })
        .await?;
        data.write(0, &bytes);
        Ok(())
    }

    /// Encrypts what will be written to `host`.
    pub(crate) async fn encrypt(&self, guest: u64, host: u64, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let at = self.position(guest, host);
        if bytes.len() < WORTH_A_THREAD {
            self.cipher()?.encrypt(at, &mut bytes);
            return Ok(bytes);
        }
        let this = self.clone();
        unblock(move || {
            this.cipher()?.encrypt(at, &mut bytes);
            Ok(bytes)
        })
        .await
    }
}

/// The LUKS header within an image.
pub(crate) struct HeaderClusters {
    pub(crate) file: Arc<BlockNode>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl HeaderClusters {
    fn place(&self, offset: u64, len: usize) -> Result<u64> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.length => Ok(self.offset + offset),
            _ => Err(BlockError::malformed("Request for data outside of extension header")),
        }
    }
}

#[async_trait]
impl HeaderStorage for HeaderClusters {
    async fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let at = self.place(offset, bytes.len())?;
        self.file.read_bytes(at, bytes).await
    }

    async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = self.place(offset, bytes.len())?;
        self.file.write_bytes(at, bytes).await
    }

    async fn flush(&self) -> Result<()> {
        self.file.flush().await
    }
}
