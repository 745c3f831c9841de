//! Reading a remote file in large pieces, a few of which are kept.
//!
//! A piece begins where a request does and reaches beyond it. Whoever reads within a piece that is on its way waits for
//! it rather than asking again.

use std::sync::Arc;

use async_lock::OnceCell;
use parking_lot::Mutex;
use rhea_async_io::IoVector;
use rhea_block::Result;

/// Pieces kept.
const PIECES: usize = 8;

struct Piece {
    start: u64,
    len: usize,
    bytes: OnceCell<Vec<u8>>,
}

impl Piece {
    fn covers(&self, offset: u64) -> bool {
        self.start <= offset && offset - self.start < self.len as u64
    }
}

/// The pieces of one file.
pub(crate) struct Readahead {
    /// Bytes read beyond what is asked for.
    beyond: usize,
    /// The most recently used last.
    pieces: Mutex<Vec<Arc<Piece>>>,
}

impl Readahead {
    pub(crate) fn new(beyond: usize) -> Self {
        Self { beyond, pieces: Mutex::default() }
    }

    /// The piece with the byte at `offset`: one that is there, or a new one for a request of `len` bytes.
    fn piece(&self, offset: u64, len: usize, length: u64) -> Arc<Piece> {
        let mut pieces = self.pieces.lock();
        let piece = match pieces.iter().position(|piece| piece.covers(offset)) {
            Some(at) => pieces.remove(at),
            None => {
                if pieces.len() >= PIECES {
                    pieces.remove(0);
                }
                let len = (len + self.beyond).min(usize::try_from(length - offset).unwrap_or(usize::MAX));
                Arc::new(Piece { start: offset, len, bytes: OnceCell::new() })
            }
        };
        pieces.push(piece.clone());
        piece
    }

    /// Fills `data` from the file of `length` bytes; `fetch` reads a range of it.
    pub(crate) async fn read<F>(
        &self,
        offset: u64,
        data: &mut IoVector,
        length: u64,
        fetch: impl Fn(u64, usize) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<Vec<u8>>>,
    {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let piece = self.piece(at, data.len() - done, length);
            let fetched = piece.bytes.get_or_try_init(|| fetch(piece.start, piece.len)).await;
            let bytes = match fetched {
                Ok(bytes) => bytes,
                Err(error) => {
                    // Another try starts afresh.
                    self.pieces.lock().retain(|other| !Arc::ptr_eq(other, &piece));
                    return Err(error);
                }
            };
            let from = (at - piece.start) as usize;
            let len = (bytes.len() - from).min(data.len() - done);
            data.write(done, &bytes[from..from + len]);
            done += len;
        }
        Ok(())
    }
}
