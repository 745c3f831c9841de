//! The vhdx image format: [MS-VHDX], revision 7 and before.
//!
//! * [`layout`]: the structures at fixed places (headers, region table, metadata);
//! * [`log`]: the log in the file and its replay;
//! * [`bat`]: the block allocation table and its cache;
//! * [`journal`]: how metadata is changed, and why a crash at any moment does no harm;
//! * [`image`]: requests; [`create`], [`check`]: what they say.
//!
//! Dynamic and fixed images with sectors of 512 or 4096 bytes are read and written. Differencing images are refused.

mod bat;
mod check;
mod crc32c;
mod create;
mod fuzz;
mod image;
mod journal;
mod layout;
mod log;

use async_trait::async_trait;
use rhea_block::{CreateContext, CreateOption, Driver, DriverKind, Node, OpenContext, Result};
use rhea_options::Options;

pub use fuzz::fuzz_image;

/// The driver `vhdx`.
#[derive(Debug, Default)]
pub struct VhdxDriver;

#[async_trait]
impl Driver for VhdxDriver {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if start.starts_with(layout::FILE_SIGNATURE) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        Ok(Box::new(image::Image::open(context, options).await?))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::OPTIONS
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::create(context, filename, options).await
    }
}
