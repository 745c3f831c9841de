//! What fuzzing does with arbitrary bytes; ordinary tests do it with a corpus of malformed headers.

use std::sync::{Arc, OnceLock};

use rhea_async_io::block_on;
use rhea_block::{BlockNode, MemoryNode, NodeParts, OpenFlags, Progress, Registry, Repair, Result, Truncate};
use rhea_options::Options;
use zeroize::Zeroizing;

use crate::driver::LuksDriver;
use crate::header::{HEADER_BYTES, KEY_SLOTS, LuksHeader};
use crate::luks_options::LuksOptions;
use crate::node::NodeStorage;
use crate::volume::LuksVolume;

/// Work of one password on one slot beyond which the header is only looked at.
const MAX_ITERATIONS: u32 = 2000;

/// Opens the bytes as a LUKS volume: without a password, with the password `password`, and, if that opens it, decrypts
/// a sector. A header that asks for much work is not tried with a password.
pub fn open_volume(bytes: &[u8]) {
    let memory = Box::new(MemoryNode::new(bytes.to_vec()));
    let storage = NodeStorage(BlockNode::anonymous("memory", memory, OpenFlags::READ_ONLY));
    block_on(async {
        let Ok(volume) = LuksVolume::open(&storage, None).await else {
            assert!(LuksVolume::open_detached(&storage, None).await.is_err() || bytes[104..108] == [0; 4]);
            return;
        };
        let _ = volume.info();
        let header = LuksHeader::parse(bytes).expect("it has been opened");
        assert_eq!(LuksHeader::parse(&header.to_bytes()).as_ref(), Ok(&header));
        if !is_quick(bytes) {
            return;
        }
        if let Ok(volume) = LuksVolume::open(&storage, Some(Zeroizing::new(b"password".to_vec()))).await {
            volume.cipher().expect("opened with its password").decrypt(0, &mut [0; 512]);
        }
    });
}

/// What the templates' ciphers are.
const TEMPLATES: [&str; 3] = [
    "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha1",
    "cipher-alg=aes-256",
    "cipher-alg=cast5-128,cipher-mode=ctr,ivgen-alg=plain,hash-alg=sha512",
];

/// Bytes of the templates' disks.
const DISK: usize = 16 << 10;

/// Volumes that the password `password` opens at once.
fn templates() -> &'static [Vec<u8>] {
    static TEMPLATES_MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    TEMPLATES_MADE.get_or_init(|| {
        let make = |options: &&str| {
            let mut options = Options::parse(options, None).expect("options");
            let options = LuksOptions::take(&mut options).expect("ciphers that there are");
            let made = LuksVolume::make(&options, false, b"password", |_, _| 1).expect("a volume");
            let mut image = made.header;
            image.resize(image.len() + DISK, 0x5a);
            image
        };
        TEMPLATES.iter().map(make).collect()
    })
}

/// The bytes as a volume: as they are if the first is odd; else each 8 of them change four bytes of a valid one.
fn volume_of(bytes: &[u8]) -> Vec<u8> {
    let Some((&first, rest)) = bytes.split_first() else { return vec![] };
    if first & 1 == 1 {
        return rest.to_vec();
    }
    let mut image = templates()[usize::from(first >> 1) % TEMPLATES.len()].clone();
    for change in rest.chunks_exact(8) {
        // The header, the first slot's key material, and the file's end, which may be cut.
        let at = usize::from(u16::from_le_bytes([change[2], change[3]]));
        match change[0] % 4 {
            2 => image.get_mut(4096 + at..).unwrap_or_default(),
            3 => {
                image.truncate(image.len().saturating_sub(at * usize::from(change[1])));
                continue;
            }
            _ => image.get_mut(at % HEADER_BYTES..).unwrap_or_default(),
        }
        .iter_mut()
        .zip(&change[4..8])
        .for_each(|(byte, new)| *byte = *new);
    }
    image
}

/// Whether trying a password on this is quick. What is no header is refused at once.
fn is_quick(bytes: &[u8]) -> bool {
    let Ok(header) = LuksHeader::parse(bytes) else { return true };
    let rounds = |slot: usize| if header.slots[slot].active { header.slots[slot].iterations } else { 0 };
    let most = (0..KEY_SLOTS).map(rounds).chain([header.digest_iterations]).max();
    most <= Some(MAX_ITERATIONS)
}

async fn open_disk(image: &[u8], flags: OpenFlags, header: Option<&[u8]>) -> Result<Arc<BlockNode>> {
    let mut registry = Registry::new();
    registry.add(LuksDriver);
    registry.secrets().add("s", b"password".to_vec())?;
    let mut options = Options::default();
    options.set("driver", "luks");
    options.set("key-secret", "s");
    let files = [("file", Some(image)), ("header", header)];
    for (name, bytes) in files.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
        let file = BlockNode::new(NodeParts {
            name: name.into(),
            driver_name: "memory",
            filename: String::new(),
            flags,
            node: Box::new(MemoryNode::new(bytes.to_vec())),
            backing: Arc::default(),
        });
        registry.remember(&file)?;
        options.set(name, name);
    }
    registry.open_node(options, flags, false).await
}

/// Takes any bytes for a volume and opens, reads, writes, resizes and amends it: whatever they are, the outcome is an
/// error or a disk, never a panic, a hang or memory without bound. Says whether there was a disk.
pub fn fuzz_volume(bytes: &[u8]) -> bool {
    let image = volume_of(bytes);
    if bytes.first().is_some_and(|first| first & 8 != 0) {
        open_volume(&image);
    }
    if !is_quick(&image) {
        return false;
    }
    block_on(async {
        // One way of opening at a time, as each tries the password.
        let (flags, header) = match bytes.first().map_or(0, |first| first >> 4) % 3 {
            0 => (OpenFlags::empty(), None),
            1 => (OpenFlags::READ_ONLY, None),
            _ => (OpenFlags::empty(), Some(&image[..])),
        };
        let Ok(disk) = open_disk(&image, flags, header).await else { return false };
        let length = disk.length();
        let mut data = vec![0; 5000.min(length) as usize];
        for at in [0, length / 2, length.saturating_sub(5000)] {
            let len = data.len().min((length - at) as usize);
            let _ = disk.read_bytes(at, &mut data[..len]).await;
            let _ = disk.block_status(at, length - at, true).await;
            let _ = disk.write_bytes(at, &data[..len]).await;
        }
        let _ = disk.driver().format_info().await;
        let _ = disk.driver().check(Repair::default()).await;
        let _ = disk.truncate(length / 2 + 700, Truncate::default()).await;
        for change in ["state=inactive,old-secret=s", "state=inactive,keyslot=0"] {
            let options = Options::parse(change, None).expect("options");
            let _ = disk.driver().amend(options, true, &Progress::new()).await;
        }
        let _ = disk.close().await;
        true
    })
}

#[cfg(test)]
mod tests {
    use super::{fuzz_volume, open_volume};
    use crate::header::LuksHeader;
    use crate::luks_options::LuksOptions;
    use crate::volume::LuksVolume;
    use rhea_async_io::block_on;
    use rhea_options::Options;
    use zeroize::Zeroizing;

    #[test]
    fn the_templates_open_and_their_changes_arrive() {
        for template in [0, 2, 4] {
            assert!(fuzz_volume(&[template]), "{template}");
            // The digest, and the first slot's key material.
            assert!(!fuzz_volume(&[template, 0, 0, 112, 0, 1, 2, 3, 4]), "{template}");
            assert!(!fuzz_volume(&[template, 2, 0, 7, 0, 1, 2, 3, 4]), "{template}");
            assert!(!fuzz_volume(&[template, 3, 0xff, 0xff, 0xff, 1, 2, 3, 4]), "{template}");
        }
    }

    #[test]
    fn malformed_volumes_do_no_harm() {
        let mut options = Options::parse("iter-time=0,cipher-alg=aes-128,cipher-mode=cbc", None).unwrap();
        let options = LuksOptions::take(&mut options).unwrap();
        let password = Zeroizing::new(b"password".to_vec());
        let formatted = block_on(LuksVolume::format(options, false, password)).unwrap();
        let header = formatted.header;
        open_volume(&header);
        // Cut anywhere, and every field set to what hurts: nothing, one, everything, and the sign.
        for len in [0, 1, 6, 8, 104, 208, 591, 592, 4096, 5000] {
            open_volume(&header[..len]);
        }
        let fields = (6..592).step_by(2).filter(|at| !(8..104).contains(at) && !(112..164).contains(at));
        for at in fields {
            for value in [[0; 4], [0, 0, 0, 1], [0xff; 4], [0x80, 0, 0, 0], [0x7f, 0xff, 0xff, 0xff]] {
                let mut bytes = header[..8192].to_vec();
                bytes[at..at + 4].copy_from_slice(&value);
                if LuksHeader::parse(&bytes).is_ok_and(|header| header.digest_iterations > 1000) {
                    continue;
                }
                open_volume(&bytes);
            }
        }
    }
}
