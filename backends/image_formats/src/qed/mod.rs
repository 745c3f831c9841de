//! qed: QEMU's enhanced disk format. After "QED Image File Format", docs/specs of the QEMU project.
//!
//! ```text
//! header | clusters: L1 table, L2 tables, data
//! ```
//! The L1 table refers to L2 tables, and these to clusters of data; an L2 entry of 1 is a cluster of zeroes. The format
//! allows writing its tables before what they refer to, if a flag in the header asks for a check at the next opening.
//! This driver writes in order, so it never sets the flag; it heeds it.

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

/// The driver of `qed`.
pub struct Qed;

#[async_trait]
impl Driver for Qed {
    fn name(&self) -> &'static str {
        "qed"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if start.len() >= header::LEN && start.starts_with(header::MAGIC) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let file = context.open_child(options, "file", Role::File).await?;
        let image = node::QedImage::open(file, context.backing.clone()).await?;
        Ok(Box::new(ImageNode::new(image, context).await?))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        const fn option(name: &'static str, kind: CreateOptionType, help: &'static str) -> CreateOption {
            CreateOption { name, kind, help, default: "", amendable: false }
        }
        static OPTIONS: [CreateOption; 5] = [
            option("backing_file", CreateOptionType::Text, "File name of a base image"),
            option("backing_fmt", CreateOptionType::Text, "Image format of the base image"),
            CreateOption {
                name: "cluster_size",
                kind: CreateOptionType::Size,
                help: "Cluster size (in bytes)",
                default: "65536",
                amendable: false,
            },
            option("size", CreateOptionType::Size, "Virtual disk size"),
            option("table_size", CreateOptionType::Size, "L1/L2 table size (in clusters)"),
        ];
        &OPTIONS
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::create(context, filename, options).await
    }

    fn supports_backing(&self) -> bool {
        true
    }
}
