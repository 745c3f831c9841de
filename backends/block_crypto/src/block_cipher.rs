//! Block ciphers behind one interface that takes many blocks at once, so that their implementations can work on several
//! in parallel.

use aes::{Aes128, Aes192, Aes256};
use cipher::{Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use rhea_block::{BlockError, Result};

use crate::algorithm::CipherAlgorithm;

/// A cipher with its key.
pub(crate) trait Blocks: Send + Sync {
    /// Encrypts each block in place; the length is a multiple of a block's.
    fn encrypt(&self, blocks: &mut [u8]);
    /// Decrypts each block in place; the length is a multiple of a block's.
    fn decrypt(&self, blocks: &mut [u8]);
}

impl<C: BlockCipherEncrypt + BlockCipherDecrypt + Send + Sync> Blocks for C {
    fn encrypt(&self, blocks: &mut [u8]) {
        self.encrypt_blocks(as_blocks::<C>(blocks));
    }

    fn decrypt(&self, blocks: &mut [u8]) {
        self.decrypt_blocks(as_blocks::<C>(blocks));
    }
}

fn as_blocks<C: BlockCipherEncrypt>(bytes: &mut [u8]) -> &mut [Block<C>] {
    let (blocks, rest) = Array::slice_as_chunks_mut(bytes);
    assert!(rest.is_empty(), "sectors are whole blocks");
    blocks
}

fn keyed<C: Blocks + KeyInit + 'static>(key: &[u8]) -> Result<Box<dyn Blocks>> {
    match C::new_from_slice(key) {
        Ok(cipher) => Ok(Box::new(cipher)),
        Err(_) => Err(BlockError::invalid(format!("a key of {} bytes does not fit the cipher", key.len()))),
    }
}

/// The cipher with a key of its length.
pub(crate) fn new(algorithm: CipherAlgorithm, key: &[u8]) -> Result<Box<dyn Blocks>> {
    if key.len() != algorithm.key_bytes() {
        return Err(BlockError::invalid(format!(
            "cipher {} takes a key of {} bytes, not {}",
            algorithm.word(),
            algorithm.key_bytes(),
            key.len()
        )));
    }
    match algorithm {
        CipherAlgorithm::Aes128 => keyed::<Aes128>(key),
        CipherAlgorithm::Aes192 => keyed::<Aes192>(key),
        CipherAlgorithm::Aes256 => keyed::<Aes256>(key),
        CipherAlgorithm::Cast5 => keyed::<cast5::Cast5>(key),
        CipherAlgorithm::Serpent128 | CipherAlgorithm::Serpent192 | CipherAlgorithm::Serpent256 => {
            keyed::<serpent::Serpent>(key)
        }
        CipherAlgorithm::Twofish128 | CipherAlgorithm::Twofish192 | CipherAlgorithm::Twofish256 => {
            keyed::<twofish::Twofish>(key)
        }
    }
}
