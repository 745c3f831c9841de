//! What fuzzing does with arbitrary bytes; ordinary tests do it with a corpus of malformed headers.

use rhea_async_io::block_on;
use rhea_block::{BlockNode, MemoryNode, OpenFlags};
use zeroize::Zeroizing;

use crate::header::{KEY_SLOTS, LuksHeader};
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
        let rounds = |slot: usize| if header.slots[slot].active { header.slots[slot].iterations } else { 0 };
        let most = (0..KEY_SLOTS).map(rounds).chain([header.digest_iterations]).max();
        if most > Some(MAX_ITERATIONS) {
            return;
        }
        if let Ok(volume) = LuksVolume::open(&storage, Some(Zeroizing::new(b"password".to_vec()))).await {
            volume.cipher().expect("opened with its password").decrypt(0, &mut [0; 512]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::open_volume;
    use crate::header::LuksHeader;
    use crate::luks_options::LuksOptions;
    use crate::volume::LuksVolume;
    use rhea_async_io::block_on;
    use rhea_options::Options;
    use zeroize::Zeroizing;

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
