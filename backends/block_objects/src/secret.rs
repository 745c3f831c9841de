//! `secret`: bytes given on the command line or in a file, as they are or in base64, plain or encrypted with another secret.

use std::io::Read;

use aes::Aes256;
use base64::Engine;
use cipher::{Array, BlockCipherDecrypt, KeyInit};
use rhea_block::{BlockError, Objects, Result};
use rhea_options::Options;
use zeroize::Zeroizing;

use crate::bad_value;

/// Secrets are passwords and keys; a file beyond this is a mistake.
const MAX_BYTES: u64 = 16 << 20;

/// AES's block.
const BLOCK: usize = 16;

/// Takes the properties of a secret and returns its bytes.
pub(crate) fn take(options: &mut Options, objects: &Objects) -> Result<Vec<u8>> {
    let data = options.take::<String>("data")?;
    let file = options.take::<String>("file")?;
    let format = options.take::<String>("format")?;
    let key_id = options.take::<String>("keyid")?;
    let iv = options.take::<String>("iv")?;
    let input = match (data, file) {
        (Some(_), Some(_)) => {
            return Err(BlockError::invalid("'file' and 'data' are mutually exclusive"));
        }
        (Some(data), None) => Zeroizing::new(data.into_bytes()),
        (None, Some(file)) => read_file(&file)?,
        (None, None) => return Err(BlockError::invalid("Either 'file' or 'data' must be provided")),
    };
    let bytes = match format.as_deref() {
        None | Some("raw") => input,
        Some("base64") => decode_base64(&input)?,
        Some(word) => return Err(bad_value("format", word)),
    };
    match key_id {
        Some(key_id) => decrypt(&Zeroizing::new(objects.get(&key_id)?), iv.as_deref(), &bytes),
        None if iv.is_some() => Err(BlockError::invalid("'iv' is only for a secret that 'keyid' decrypts")),
        None => Ok(bytes.to_vec()),
    }
}

fn read_file(name: &str) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: std::io::Error| {
        let reason = BlockError::from(error);
        BlockError::new(
            reason.errno(),
            format!("Unable to read {name}: Failed to open file “{name}”: {reason}"),
        )
    };
    let file = std::fs::File::open(name).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(BlockError::new(
            libc::EFBIG,
            format!("Unable to read {name}: it is too long for a secret"),
        ));
    }
    Ok(bytes)
}

fn decode_base64(text: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    // Files end with a new line, and encoders put them in between.
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(text.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect());
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    if !text.iter().all(known) {
        return Err(BlockError::invalid("Base64 data contains invalid characters"));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(&*text);
    decoded.map(Zeroizing::new).map_err(|_| BlockError::invalid("Base64 data is not valid"))
}

/// AES-256 in CBC mode, with padding of PKCS #7 (RFC 5652, section 6.3).
fn decrypt(key: &[u8], iv: Option<&str>, bytes: &[u8]) -> Result<Vec<u8>> {
    let cipher =
        Aes256::new_from_slice(key).map_err(|_| BlockError::invalid("Key should be 32 bytes in length"))?;
    let iv = iv.ok_or_else(|| BlockError::invalid("IV is required to decrypt secret"))?;
    let iv = decode_base64(iv.as_bytes())?;
    if iv.len() != BLOCK {
        return Err(BlockError::invalid(format!("IV should be 16 bytes in length not {}", iv.len())));
    }
    if !bytes.len().is_multiple_of(BLOCK) {
        return Err(BlockError::invalid(format!(
            "Length {} must be a multiple of block size {BLOCK}",
            bytes.len()
        )));
    }
    let mut plain = Zeroizing::new(bytes.to_vec());
    cipher.decrypt_blocks(Array::slice_as_chunks_mut(&mut plain).0);
    let before = iv.iter().chain(bytes);
    plain.iter_mut().zip(before).for_each(|(plain, before)| *plain ^= before);
    let padding = usize::from(plain.last().copied().unwrap_or(0));
    let bad = !(1..=BLOCK).contains(&padding)
        || padding > plain.len()
        || plain[plain.len() - padding..].iter().any(|&byte| usize::from(byte) != padding);
    if bad {
        return Err(BlockError::invalid(format!(
            "Incorrect number of padding bytes ({padding}) found on decrypted data"
        )));
    }
    Ok(plain[..plain.len() - padding].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::add_object;

    #[test]
    fn data_comes_plain_or_in_base64() {
        let objects = Objects::default();
        add_object(&objects, "secret,id=a,data=p,,q").unwrap();
        add_object(&objects, "secret,id=b,data=YWJj,format=base64").unwrap();
        add_object(&objects, "secret,id=c,data=").unwrap();
        assert_eq!(objects.get("a").unwrap(), b"p,q");
        assert_eq!(objects.get("b").unwrap(), b"abc");
        assert_eq!(objects.get("c").unwrap(), b"");
        assert_eq!(objects.get("d").unwrap_err().to_string(), "No secret with id 'd'");
    }

    #[test]
    fn files_are_read() {
        let path = std::env::temp_dir().join(format!("rhea-secret-{}", std::process::id()));
        std::fs::write(&path, "YWJj\n").unwrap();
        let objects = Objects::default();
        add_object(&objects, &format!("secret,id=a,file={}", path.display())).unwrap();
        add_object(&objects, &format!("secret,id=b,format=base64,file={}", path.display())).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(objects.get("a").unwrap(), b"YWJj\n");
        assert_eq!(objects.get("b").unwrap(), b"abc");
        let gone = add_object(&objects, "secret,id=c,file=/nope").unwrap_err();
        assert_eq!(
            gone.to_string(),
            "Unable to read /nope: Failed to open file “/nope”: No such file or directory"
        );
    }

    #[test]
    fn another_secret_decrypts() {
        let objects = Objects::default();
        add_object(&objects, "secret,id=k,data=01234567890123456789012345678901").unwrap();
        // printf hunter2 | openssl enc -aes-256-cbc -K 3031…31 -iv 30313233343536373839303132333435 -a
        let encrypted =
            "secret,id=s,format=base64,keyid=k,iv=MDEyMzQ1Njc4OTAxMjM0NQ==,data=IVLs7DlyF7JlKzlVO+CHzw==";
        add_object(&objects, encrypted).unwrap();
        assert_eq!(objects.get("s").unwrap(), b"hunter2");
    }

    #[test]
    fn mistakes_are_told() {
        let objects = Objects::default();
        add_object(&objects, "secret,id=k,data=01234567890123456789012345678901").unwrap();
        add_object(&objects, "secret,id=short,data=0123").unwrap();
        let cases = [
            ("", "Either 'file' or 'data' must be provided"),
            ("data=a,file=b", "'file' and 'data' are mutually exclusive"),
            ("data=a,format=foo", "Parameter 'format' does not accept value 'foo'"),
            ("data=Y!,format=base64", "Base64 data contains invalid characters"),
            ("data=a,keyid=none", "No secret with id 'none'"),
            ("data=a,keyid=short,iv=YWJj", "Key should be 32 bytes in length"),
            ("data=a,keyid=k", "IV is required to decrypt secret"),
            ("data=a,keyid=k,iv=YWJj", "IV should be 16 bytes in length not 3"),
            ("data=a,keyid=k,iv=MDEyMzQ1Njc4OTAxMjM0NQ==", "Length 1 must be a multiple of block size 16"),
            (
                "data=,keyid=k,iv=MDEyMzQ1Njc4OTAxMjM0NQ==",
                "Incorrect number of padding bytes (0) found on decrypted data",
            ),
        ];
        for (text, message) in cases {
            let error = add_object(&objects, &format!("secret,id=x,{text}")).unwrap_err();
            assert_eq!(error.to_string(), message, "{text}");
        }
    }
}
