//! vdi: VirtualBox's disk images, dynamic and static. After VirtualBox's public headers (VDICore.h) as documented in
//! "All about VDIs" (forums.virtualbox.org).
//!
//! ```text
//! header (512) | block map: a u32 for each MiB of the disk | blocks of 1 MiB
//! ```
//! The map says which block of the file holds a block of the disk. The header counts the blocks in the file; the next
//! new block has that number. So the count must never be behind the map: it is written first.

mod check;
mod create;
mod header;
mod node;

use async_trait::async_trait;
use rhea_block::{
    CreateContext, CreateOption, CreateOptionType, Driver, DriverKind, Node, OpenContext, Result, Role,
};
use rhea_options::Options;

use crate::image::ImageNode;

/// The driver of `vdi`.
pub struct Vdi;

#[async_trait]
impl Driver for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if header::is_vdi(start) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let file = context.open_child(options, "file", Role::File).await?;
        Ok(Box::new(ImageNode::new(node::VdiImage::open(file).await?, context).await?))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &[
            CreateOption {
                name: "size",
                kind: CreateOptionType::Size,
                help: "Virtual disk size",
                default: "",
                amendable: false,
            },
            CreateOption {
                name: "static",
                kind: CreateOptionType::Bool,
                help: "VDI static (pre-allocated) image",
                default: "off",
                amendable: false,
            },
        ]
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::create(context, filename, options).await
    }
}
