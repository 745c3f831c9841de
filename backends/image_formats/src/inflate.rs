//! Decompressing a part of a disk piece by piece: what is stored is never in memory as a whole, for it may be as large as
//! what comes out of it.

use std::io;

use rhea_async_io::unblock;
use rhea_block::{BlockError, BlockNode, Result};

/// Bytes that are read at once.
const PIECE: u64 = 256 << 10;

/// A stream's decoder.
pub(crate) enum Decoder {
    Zlib(flate2::Decompress),
    Bzip2(bzip2::Decompress),
}

/// What comes of some input.
struct Progress {
    consumed: usize,
    produced: usize,
    ended: bool,
}

impl Decoder {
    /// Of a zlib stream (RFC 1950).
    pub(crate) fn zlib() -> Self {
        Self::Zlib(flate2::Decompress::new(true))
    }

    /// Of a bzip2 stream.
    pub(crate) fn bzip2() -> Self {
        Self::Bzip2(bzip2::Decompress::new(false))
    }

    fn feed(&mut self, input: &[u8], out: &mut [u8]) -> io::Result<Progress> {
        let (in_before, out_before) = self.totals();
        let ended = match self {
            Self::Zlib(decoder) => {
                decoder.decompress(input, out, flate2::FlushDecompress::None)? == flate2::Status::StreamEnd
            }
            Self::Bzip2(decoder) => decoder.decompress(input, out)? == bzip2::Status::StreamEnd,
        };
        let (consumed, produced) = self.totals();
        Ok(Progress {
            consumed: (consumed - in_before) as usize,
            produced: (produced - out_before) as usize,
            ended,
        })
    }

    fn totals(&self) -> (u64, u64) {
        match self {
            Self::Zlib(decoder) => (decoder.total_in(), decoder.total_out()),
            Self::Bzip2(decoder) => (decoder.total_in(), decoder.total_out()),
        }
    }
}

/// A stream that is being decompressed.
struct Stream {
    decoder: Decoder,
    out: Vec<u8>,
    filled: usize,
}

impl Stream {
    /// Takes more input; whether all output is there.
    fn take(&mut self, mut input: &[u8]) -> io::Result<bool> {
        while self.filled < self.out.len() {
            let progress = self.decoder.feed(input, &mut self.out[self.filled..])?;
            input = &input[progress.consumed..];
            self.filled += progress.produced;
            if progress.ended && self.filled < self.out.len() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream is too short"));
            }
            if progress.consumed == 0 && progress.produced == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Decompresses a stream of `stored` bytes at `offset` in the file to exactly `len` bytes; what may come after is left.
pub(crate) async fn inflate(
    file: &BlockNode,
    offset: u64,
    stored: u64,
    decoder: Decoder,
    len: usize,
) -> Result<Vec<u8>> {
    let failed = |error| BlockError::new(libc::EIO, format!("it does not decompress: {error}"));
    let mut stream = Stream { decoder, out: vec![0; len], filled: 0 };
    let mut at = 0;
    while at < stored {
        let mut input = vec![0; (stored - at).min(PIECE) as usize];
        file.read_bytes(offset + at, &mut input).await?;
        at += input.len() as u64;
        let (back, whole) = unblock(move || {
            let whole = stream.take(&input);
            (stream, whole)
        })
        .await;
        stream = back;
        if whole.map_err(failed)? {
            return Ok(stream.out);
        }
    }
    match len {
        0 => Ok(stream.out),
        _ => Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream is cut short"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rhea_async_io::block_on;
    use rhea_block::{MemoryNode, OpenFlags};

    use super::*;

    fn of(bytes: Vec<u8>, decoder: Decoder, len: usize) -> Result<Vec<u8>> {
        let stored = bytes.len() as u64;
        let node = BlockNode::anonymous("memory", Box::new(MemoryNode::new(bytes)), OpenFlags::READ_ONLY);
        block_on(inflate(&node, 0, stored, decoder, len))
    }

    /// Longer than a piece however it is stored.
    fn noise() -> Vec<u8> {
        let mut state = 1_u64;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..700_000).map(|_| byte()).collect()
    }

    #[test]
    fn streams_of_several_pieces_come_out_whole() {
        let mut zlib = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::none());
        zlib.write_all(&noise()).unwrap();
        let zlib = zlib.finish().unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::fast());
        bzip2.write_all(&noise()).unwrap();
        let bzip2 = bzip2.finish().unwrap();
        for (bytes, decoder) in [(&zlib, Decoder::zlib as fn() -> Decoder), (&bzip2, Decoder::bzip2)] {
            assert!(bytes.len() as u64 > 2 * PIECE);
            assert_eq!(of(bytes.clone(), decoder(), 700_000).unwrap(), noise());
            // What is asked for is enough, and what follows the stream does no harm.
            let followed = [bytes.as_slice(), &[0x55; 1000]].concat();
            assert_eq!(of(followed, decoder(), 300_000).unwrap(), noise()[..300_000]);
        }
    }

    #[test]
    fn a_stream_that_is_too_short_is_an_error() {
        let mut zlib = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::fast());
        zlib.write_all(&noise()).unwrap();
        let zlib = zlib.finish().unwrap();
        for (bytes, len, says) in [
            (zlib.clone(), 700_001, "the stream is too short"),
            (zlib[..zlib.len() / 2].to_vec(), 700_000, "the stream is cut short"),
            (vec![], 1, "the stream is cut short"),
            (vec![0x55; 100], 1, "does not decompress"),
        ] {
            let error = of(bytes, Decoder::zlib(), len).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
