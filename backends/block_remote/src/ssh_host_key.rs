//! Whether a server's key is the one it should have (`host-key-check`).

use std::io::BufRead;
use std::path::PathBuf;

use md5::{Digest, Md5};
use rhea_block::{BlockError, Result};
use rhea_options::Options;
use russh::keys::{Algorithm, HashAlg, PublicKey};
use sha1::Sha1;
use sha2::Sha256;

/// What is asked of the server's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostKeyCheck {
    /// Nothing.
    None,
    /// That it is known.
    KnownHosts,
    /// That it has this fingerprint.
    Hash { kind: HashKind, digest: Vec<u8> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashKind {
    Md5,
    Sha1,
    Sha256,
}

impl HashKind {
    fn from_word(word: &str) -> Result<Self> {
        match word {
            "md5" => Ok(Self::Md5),
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            _ => Err(BlockError::invalid(format!("host-key-check.type does not accept value '{word}'"))),
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => Md5::digest(bytes).to_vec(),
            Self::Sha1 => Sha1::digest(bytes).to_vec(),
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
        }
    }
}

/// A fingerprint in hexadecimal digits, with colons or without.
fn parse_hash(kind: HashKind, text: &str) -> Result<HostKeyCheck> {
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    let invalid = || BlockError::invalid(format!("host key fingerprint '{text}' is not valid"));
    if !digits.is_ascii() || digits.len() != kind.digest(b"").len() * 2 {
        return Err(invalid());
    }
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    let digest: std::result::Result<Vec<u8>, _> = bytes.collect();
    Ok(HostKeyCheck::Hash { kind, digest: digest.map_err(|_| invalid())? })
}

impl HostKeyCheck {
    /// Takes `host-key-check.mode`, `.type` and `.hash`, or their old form `host_key_check`.
    pub(crate) fn take(options: &mut Options) -> Result<Self> {
        let old = options.take::<String>("host_key_check")?;
        let mut members = options.take_object("host-key-check");
        let mode = members.take::<String>("mode")?;
        let kind = members.take::<String>("type")?;
        let hash = members.take::<String>("hash")?;
        if let Some(entry) = members.entries().first() {
            return Err(BlockError::invalid(format!(
                "Parameter 'host-key-check.{}' is unexpected",
                entry.key
            )));
        }
        match (old.as_deref(), mode.as_deref()) {
            (Some(_), Some(_)) => {
                Err(BlockError::invalid("host_key_check and host-key-check exclude each other"))
            }
            (Some("no"), None) | (None, Some("none")) => Ok(Self::None),
            (Some("yes"), None) | (None, Some("known_hosts")) => Ok(Self::KnownHosts),
            (Some(old), None) => match old.split_once(':') {
                Some((kind, hash)) => parse_hash(HashKind::from_word(kind)?, hash),
                None => Err(BlockError::invalid(format!("unknown host_key_check setting ({old})"))),
            },
            (None, Some("hash")) => {
                let missing =
                    |key| BlockError::invalid(format!("Parameter 'host-key-check.{key}' is missing"));
                let kind = HashKind::from_word(&kind.ok_or_else(|| missing("type"))?)?;
                parse_hash(kind, &hash.ok_or_else(|| missing("hash"))?)
            }
            (None, Some(mode)) => {
                Err(BlockError::invalid(format!("host-key-check.mode does not accept value '{mode}'")))
            }
            (None, None) if kind.is_some() || hash.is_some() => {
                Err(BlockError::invalid("Parameter 'host-key-check.mode' is missing"))
            }
            (None, None) => Ok(Self::KnownHosts),
        }
    }

    /// The keys' algorithms to ask the server for first: those its known keys have.
    pub(crate) fn preferred(&self, host: &str, port: u16, known_hosts: &[PathBuf]) -> Vec<Algorithm> {
        let mut preferred = Vec::new();
        if *self == Self::KnownHosts {
            for path in known_hosts {
                for (_, key) in
                    russh::keys::known_hosts::known_host_keys_path(host, port, path).unwrap_or_default()
                {
                    match key.algorithm() {
                        Algorithm::Rsa { .. } => preferred.extend(
                            [HashAlg::Sha512, HashAlg::Sha256]
                                .map(|hash| Algorithm::Rsa { hash: Some(hash) }),
                        ),
                        other => preferred.push(other),
                    }
                }
            }
        }
        preferred
    }

    /// Fails with the reason if this is not the key that the server should have.
    pub(crate) fn check(
        &self,
        key: &PublicKey,
        host: &str,
        port: u16,
        known_hosts: &[PathBuf],
    ) -> Result<()> {
        let refused = |why: String| Err(BlockError::new(libc::EPERM, why));
        match self {
            Self::None => Ok(()),
            Self::Hash { kind, digest } => {
                let bytes = key.to_bytes().map_err(|error| BlockError::new(libc::EIO, error.to_string()))?;
                match kind.digest(&bytes) == *digest {
                    true => Ok(()),
                    false => refused("remote host key fingerprint does not match host_key_check".into()),
                }
            }
            Self::KnownHosts => {
                if known_hosts.iter().any(|path| is_revoked(path, key)) {
                    return refused(format!("the host key of '{host}' has been revoked"));
                }
                let mut known = false;
                for path in known_hosts {
                    match russh::keys::known_hosts::check_known_hosts_path(host, port, key, path) {
                        Ok(matches) => known |= matches,
                        Err(russh::keys::Error::KeyChanged { line }) => {
                            return refused(format!(
                                "host key does not match the one in {} line {line}; this may be a possible attack",
                                path.display()
                            ));
                        }
                        Err(error) => return refused(format!("cannot read {}: {error}", path.display())),
                    }
                }
                match known {
                    true => Ok(()),
                    false => refused(format!("no host key of '{host}' was found in known_hosts")),
                }
            }
        }
    }
}

/// Whether a file of known hosts says of the key, for whatever host, that it must not be used any more.
fn is_revoked(path: &PathBuf, key: &PublicKey) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    let lines = std::io::BufReader::new(file).lines();
    lines.map_while(std::result::Result::ok).any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("@revoked")
            && words.nth(2).is_some_and(|text| {
                russh::keys::parse_public_key_base64(text)
                    .is_ok_and(|revoked| revoked.key_data() == key.key_data())
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<HostKeyCheck> {
        HostKeyCheck::take(&mut Options::parse(text, None).unwrap())
    }

    #[test]
    fn both_forms_of_the_option_mean_the_same() {
        assert_eq!(take("").unwrap(), HostKeyCheck::KnownHosts);
        assert_eq!(take("host_key_check=no").unwrap(), take("host-key-check.mode=none").unwrap());
        let hash = "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff";
        let plain = hash.replace(':', "");
        assert_eq!(
            take(&format!("host_key_check=md5:{hash}")).unwrap(),
            take(&format!("host-key-check.mode=hash,host-key-check.type=md5,host-key-check.hash={plain}"))
                .unwrap()
        );
        for bad in [
            "host_key_check=maybe",
            "host_key_check=md5:00",
            "host-key-check.mode=hash",
            "host-key-check.mode=foo",
            "host-key-check.type=md5",
            "host_key_check=no,host-key-check.mode=none",
            "host_key_check=md5:éééééééééééééééé",
        ] {
            assert!(take(bad).is_err(), "{bad}");
        }
    }
}
