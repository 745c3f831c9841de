//! parallels: Parallels Desktop's expanding images (`.hds`). After "Parallels Expandable Image File Format",
//! docs/interop of the QEMU project, and the description of the format extension there.
//!
//! ```text
//! header (64) | BAT: a u32 for each cluster of the disk | clusters
//! ```
//! An entry of 0 is a cluster without data. In images with the older magic, entries count sectors; in those with the newer
//! one, clusters. A field of the header says that somebody has the image open for writing (or had, and died).

mod bitmap;
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

/// The driver of `parallels`.
pub struct Parallels;

#[async_trait]
impl Driver for Parallels {
    fn name(&self) -> &'static str {
        "parallels"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if header::is_parallels(start) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let file = context.open_child(options, "file", Role::File).await?;
        let backing = context.backing.clone();
        let image = node::ParallelsImage::open(file, backing, !context.writable()).await?;
        Ok(Box::new(ImageNode::new(image, context).await?))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &[
            CreateOption {
                name: "cluster_size",
                kind: CreateOptionType::Size,
                help: "Parallels image cluster size",
                default: "1048576",
                amendable: false,
            },
            CreateOption {
                name: "size",
                kind: CreateOptionType::Size,
                help: "Virtual disk size",
                default: "",
                amendable: false,
            },
        ]
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::create(context, filename, options).await
    }
}
