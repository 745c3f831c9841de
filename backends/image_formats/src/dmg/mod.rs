//! dmg: Apple's disk images (UDIF), read-only. After "Demystifying the DMG File Format" (J. Levin).
//!
//! ```text
//! data fork | property list (XML) or resource fork with the block tables | koly trailer (512)
//! ```
//! A block table (`mish`) lists chunks: the sectors they are, and where and how their data is stored. All numbers are
//! big-endian. Supported are chunks of zeroes, raw, and compressed by ADC, zlib, bzip2 and LZFSE; LZMA is refused by name
//! when such a chunk is read.

mod adc;
mod chunks;
mod node;
mod trailer;

use async_trait::async_trait;
use rhea_block::{Driver, DriverKind, Node, OpenContext, Result, Role};
use rhea_options::Options;

use crate::read_only::check_read_only;

/// The driver of `dmg`.
pub struct Dmg;

#[async_trait]
impl Driver for Dmg {
    fn name(&self) -> &'static str {
        "dmg"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, _: &[u8], filename: &str) -> u32 {
        // What tells such an image is at its end.
        if filename.ends_with(".dmg") { 2 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        check_read_only(context)?;
        let file = context.open_child(options, "file", Role::File).await?;
        Ok(Box::new(node::DmgImage::open(file).await?))
    }
}
