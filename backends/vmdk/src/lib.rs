//! The vmdk image format: VMware's "Virtual Disk Format 5.0" and 1.1.
//!
//! * [`descriptor`]: the text that names a disk's extents;
//! * [`sparse`], [`sesparse`]: headers and directories of sparse extents; [`tables`]: their grain tables; [`grain`]: compressed grains;
//! * [`open`], [`create`], [`check`]: what they say; [`image`]: requests, and why a crash does no harm.

mod check;
mod create;
mod descriptor;
mod fuzz;
mod grain;
mod image;
mod open;
mod sesparse;
mod sparse;
mod tables;

use async_trait::async_trait;
use rhea_block::{CreateContext, CreateOption, Driver, DriverKind, Node, OpenContext, Result};
use rhea_options::Options;

pub use fuzz::fuzz_image;

/// The driver `vmdk`.
#[derive(Debug, Default)]
pub struct VmdkDriver;

#[async_trait]
impl Driver for VmdkDriver {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        let magic = start.starts_with(sparse::HOSTED_MAGIC) || start.starts_with(sparse::COWD_MAGIC);
        if magic || descriptor::looks_like_one(start) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        Ok(Box::new(open::open(context, options).await?))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::OPTIONS
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::create(context, filename, options).await
    }

    fn supports_backing(&self) -> bool {
        true
    }
}
