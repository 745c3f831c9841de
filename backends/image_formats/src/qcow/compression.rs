//! Compressed clusters: raw deflate with a window of 4 KiB.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use rhea_block::{BlockError, Result};

const WINDOW_BITS: u8 = 12;

/// Compresses a cluster; `None`: that would not make it shorter.
pub(super) fn compress(cluster: &[u8]) -> Option<Vec<u8>> {
    let mut state = Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
    let mut out = vec![0; cluster.len() - 1];
    match state.compress(cluster, &mut out, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => {
            out.truncate(state.total_out() as usize);
            Some(out)
        }
        _ => None,
    }
}

/// Decompresses a cluster of `len` bytes.
pub(super) fn decompress(bytes: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut state = Decompress::new(false);
    let mut out = vec![0; len];
    let ended = state.decompress(bytes, &mut out, FlushDecompress::Finish);
    // What follows the data in its sector may be anything; a cluster's data must all be there.
    match ended {
        Ok(_) if state.total_out() == len as u64 => Ok(out),
        _ => Err(BlockError::new(libc::EIO, "a compressed cluster does not decompress to a cluster")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_come_back() {
        let cluster: Vec<u8> = (0..65536u32).map(|i| ((i * i) >> 9) as u8).collect();
        let short = compress(&cluster).expect("it repeats itself");
        assert!(short.len() < cluster.len());
        assert_eq!(decompress(&short, cluster.len()).unwrap(), cluster);
        assert!(decompress(&short[..short.len() / 2], cluster.len()).is_err());
        assert!(decompress(&[0xff; 100], 4096).is_err());
    }
}
