//! What fuzzers call: a peer that says whatever the bytes are. Each returns when the session has ended; the property is
//! that it does, without a panic.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use rhea_async_io::{IoVector, Timer, block_on, spawn};
use rhea_block::{BlockNode, MemoryNode, OpenFlags, WriteFlags};

use crate::client::{NodeForTests, Wanted, connect};
use crate::protocol::{INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, info, option, reply};
use crate::{Export, ExportOptions, Server, ServerConfig, Stream};

/// Bytes of the disk.
const SIZE: usize = 64 << 10;
/// No session lasts so long: all its input is there at the start.
const LIMIT: Duration = Duration::from_secs(30);

fn message(magic: u64, fields: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    fields.iter().for_each(|field| bytes.extend(field.to_be_bytes()));
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// A socket whose other end has said these bytes and then nothing more.
fn peer_that_says(bytes: Vec<u8>) -> Option<(Stream, std::thread::JoinHandle<()>)> {
    let (ours, mut theirs) = UnixStream::pair().ok()?;
    let speaker = std::thread::spawn(move || {
        let _ = theirs.set_write_timeout(Some(LIMIT));
        let _ = theirs.set_read_timeout(Some(LIMIT));
        let mut listening = theirs.try_clone();
        // The answers must go somewhere, or both would wait.
        let listener = std::thread::spawn(move || {
            if let Ok(listening) = &mut listening {
                let _ = std::io::copy(listening, &mut std::io::sink());
            }
        });
        let _ = theirs.write_all(&bytes);
        let _ = theirs.shutdown(std::net::Shutdown::Write);
        let _ = listener.join();
    });
    Some((Stream::from_fd(ours.into()).ok()?, speaker))
}

async fn ends(what: &str, session: impl Future<Output = ()>) {
    if let Either::Right(_) = select(std::pin::pin!(session), Timer::after(LIMIT)).await {
        panic!("{what} does not end");
    }
}

/// A client of our server. The first byte says how far the handshake goes in good order before the other bytes follow.
pub fn client_says(bytes: &[u8]) {
    let (&start, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut said = Vec::new();
    if start & 1 != 0 {
        said.extend(3_u32.to_be_bytes());
    }
    if start & 2 != 0 {
        let style = if start & 4 != 0 { option::EXTENDED_HEADERS } else { option::STRUCTURED_REPLY };
        said.extend(message(OPTION_MAGIC, &[style], &[]));
        let query = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
        said.extend(message(OPTION_MAGIC, &[option::SET_META_CONTEXT], query));
    }
    if start & 8 != 0 {
        said.extend(message(OPTION_MAGIC, &[option::GO], &[0; 6]));
    }
    said.extend(rest);
    let Some((stream, speaker)) = peer_that_says(said) else { return };
    block_on(ends("a session of the server", async move {
        let node = BlockNode::anonymous("memory", Box::new(MemoryNode::new(vec![1; SIZE])), OpenFlags::UNMAP);
        let options = ExportOptions { writable: true, allocation_depth: true, ..ExportOptions::default() };
        let Ok(export) = Export::new(node, options).await else { return };
        let server = Server::new(ServerConfig::default());
        if server.add(export).is_ok() {
            server.serve(stream).await;
        }
    }));
    let _ = speaker.join();
}

/// A server of our client. The first byte says how far the handshake goes in good order before the other bytes follow.
pub fn server_says(bytes: &[u8]) {
    let (&start, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut said = Vec::new();
    if start & 1 != 0 {
        said.extend(INIT_MAGIC.to_be_bytes());
        said.extend(OPTION_MAGIC.to_be_bytes());
        said.extend(3_u16.to_be_bytes());
    }
    if start & 2 != 0 {
        let extended = start & 4 != 0;
        let refused = if extended { reply::ACK } else { reply::ERR_UNSUP };
        said.extend(message(OPTION_REPLY_MAGIC, &[option::EXTENDED_HEADERS, refused], &[]));
        let mut structured = extended;
        if !extended {
            structured = start & 8 != 0;
            let kind = if structured { reply::ACK } else { reply::ERR_UNSUP };
            said.extend(message(OPTION_REPLY_MAGIC, &[option::STRUCTURED_REPLY, kind], &[]));
        }
        if structured {
            let context = b"\0\0\0\x07base:allocation";
            said.extend(message(
                OPTION_REPLY_MAGIC,
                &[option::SET_META_CONTEXT, reply::META_CONTEXT],
                context,
            ));
            said.extend(message(OPTION_REPLY_MAGIC, &[option::SET_META_CONTEXT, reply::ACK], &[]));
        }
    }
    if start & 16 != 0 {
        let mut facts = info::EXPORT.to_be_bytes().to_vec();
        facts.extend((SIZE as u64).to_be_bytes());
        facts.extend(0x1fed_u16.to_be_bytes());
        said.extend(message(OPTION_REPLY_MAGIC, &[option::GO, reply::INFO], &facts));
        said.extend(message(OPTION_REPLY_MAGIC, &[option::GO, reply::ACK], &[]));
    }
    said.extend(rest);
    let Some((stream, speaker)) = peer_that_says(said) else { return };
    block_on(ends("a session of the client", async move {
        let wanted = Wanted { context: "base:allocation".into(), ..Wanted::default() };
        let Ok(agreed) = connect(stream, &wanted).await else { return };
        let node = Arc::new(NodeForTests::new(agreed));
        let reading = node.clone();
        let reads = spawn(async move {
            let mut data = IoVector::zeroed(4096);
            let _ = reading.read(0, &mut data).await;
            assert_eq!(data.len(), 4096, "a failed read gives the memory back");
        });
        let _ = node.write(512, &IoVector::zeroed(1024), WriteFlags::empty()).await;
        let _ = node.block_status(0, SIZE as u64).await;
        reads.await;
    }));
    let _ = speaker.join();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that look like messages now and then.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            Just(vec![0x25, 0x60, 0x95, 0x13]),
            Just(vec![0x21, 0xe4, 0x1c, 0x71]),
            Just(vec![0x66, 0x8e, 0x33, 0xef]),
            Just(vec![0x6e, 0x8a, 0x27, 0x8c]),
            Just(vec![0x67, 0x44, 0x66, 0x98]),
            Just(OPTION_MAGIC.to_be_bytes().to_vec()),
            Just(OPTION_REPLY_MAGIC.to_be_bytes().to_vec()),
            Just(vec![0; 8]),
            (0_u8..12).prop_map(|b| vec![0, 0, 0, b]),
            (0_u8..12).prop_map(|b| vec![0, b]),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        (any::<u8>(), prop::collection::vec(word, 0..40)).prop_map(|(start, words)| {
            let mut bytes = vec![start];
            bytes.extend(words.concat());
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn whatever_a_client_says_the_session_ends(bytes in messages()) {
            client_says(&bytes);
        }

        #[test]
        fn whatever_a_server_says_the_session_ends(bytes in messages()) {
            server_says(&bytes);
        }
    }
}
