//! The old encryption: AES-128 in CBC mode, the password as the key.

use std::sync::Arc;

use rhea_async_io::{IoVector, unblock};
use rhea_block::BlockError;
use rhea_block_crypto::SectorCipher;

/// Requests at least this long are encrypted by another thread.
const LARGE: usize = 64 << 10;

pub(super) struct Cipher(Arc<SectorCipher>);

impl Cipher {
    pub(super) fn new(password: &[u8]) -> Self {
        Self(Arc::new(SectorCipher::qcow_aes(password)))
    }

    /// Encrypts (or decrypts) whole sectors of the disk's `offset` in place.
    pub(super) async fn apply(&self, encrypt: bool, offset: u64, data: &mut IoVector) {
        let mut bytes = data.to_vec();
        let cipher = self.0.clone();
        let work = move || {
            match encrypt {
                true => cipher.encrypt(offset, &mut bytes),
                false => cipher.decrypt(offset, &mut bytes),
            }
            bytes
        };
        let done = if data.len() >= LARGE { unblock(work).await } else { work() };
        data.write(0, &done);
    }
}

pub(super) fn key_missing() -> BlockError {
    BlockError::invalid("Parameter 'encrypt.key-secret' is required for cipher")
}
