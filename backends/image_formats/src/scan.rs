//! Going through a whole table, which may be long and lie in a hole of the file: what is not there is not read.

use std::sync::Arc;

use rhea_block::{BlockNode, Result, ResultExt, StatusFlags};

use crate::tables::Table;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// A part of a table.
pub(crate) enum Part<'a> {
    /// So many bytes of zeroes.
    Zeroes(u64),
    /// What was read.
    Bytes(&'a [u8]),
}

/// Reads a table from its start to its end.
pub(crate) struct Scan {
    file: Arc<BlockNode>,
    table: Table,
    at: u64,
    bytes: Vec<u8>,
}

impl Scan {
    /// A table that lies within the file, or as much of it as does. Its entries are of 8 bytes at most.
    pub(crate) fn new(file: Arc<BlockNode>, table: Table) -> Self {
        Self { file, table, at: 0, bytes: Vec::new() }
    }

    /// The next part, and where it starts in the table; parts start at multiples of 8 bytes.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Part<'_>)>> {
        let (at, rest) = (self.at, self.table.len - self.at);
        if rest == 0 {
            return Ok(None);
        }
        let zeroes = self.zeroes(rest).await;
        if zeroes != 0 {
            self.at += zeroes;
            return Ok(Some((at, Part::Zeroes(zeroes))));
        }
        self.bytes.resize(rest.min(PIECE) as usize, 0);
        let file = &self.file;
        file.read_bytes(self.table.offset + at, &mut self.bytes)
            .await
            .context("Could not read the image's tables")?;
        self.at += self.bytes.len() as u64;
        Ok(Some((at, Part::Bytes(&self.bytes))))
    }

    /// How much of what follows is a hole of the file. Short tables are just read.
    async fn zeroes(&self, rest: u64) -> u64 {
        if self.table.len <= PIECE {
            return 0;
        }
        match self.file.block_status(self.table.offset + self.at, rest, true).await {
            Ok(status) if status.flags.contains(StatusFlags::ZERO) && status.len >= rest => rest,
            Ok(status) if status.flags.contains(StatusFlags::ZERO) => status.len / 8 * 8,
            _ => 0,
        }
    }
}
