//! vpc: Virtual PC's (and Hyper-V's older) disk images, fixed and dynamic. After Microsoft's "Virtual Hard Disk Image
//! Format Specification", version 1.0 (2006).
//!
//! ```text
//! dynamic: copy of the footer (512) | dynamic header (1024) | block allocation table | (bitmap | block)… | footer
//! fixed:   the disk's bytes | footer
//! ```

mod create;
mod fixed;
mod footer;
mod geometry;
mod node;

use async_trait::async_trait;
use rhea_block::{
    BlockError, CreateContext, CreateOption, CreateOptionType, Driver, DriverKind, Node, OpenContext, Result,
    Role,
};
use rhea_options::Options;

use crate::image::ImageNode;
use footer::SizeFrom;

/// The driver of `vpc`.
pub struct Vpc;

#[async_trait]
impl Driver for Vpc {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if start.starts_with(footer::COOKIE) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let size_from = match options.take::<String>("force_size_calc")?.as_deref() {
            None => SizeFrom::Creator,
            Some("chs") => SizeFrom::Geometry,
            Some("current_size") => SizeFrom::CurrentSize,
            Some(other) => {
                return Err(BlockError::invalid(format!("Invalid size calculation algorithm '{other}'")));
            }
        };
        let file = context.open_child(options, "file", Role::File).await?;
        let found = footer::find(&file.node(), size_from).await?;
        if found.at_start {
            let image = node::DynamicImage::open(file, found).await?;
            Ok(Box::new(ImageNode::new(image, context).await?))
        } else {
            Ok(Box::new(fixed::FixedImage::new(file, found)))
        }
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &[
            CreateOption {
                name: "force_size",
                kind: CreateOptionType::Bool,
                help: "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation",
                default: "",
                amendable: false,
            },
            CreateOption {
                name: "size",
                kind: CreateOptionType::Size,
                help: "Virtual disk size",
                default: "",
                amendable: false,
            },
            CreateOption {
                name: "subformat",
                kind: CreateOptionType::Text,
                help: "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
                default: "",
                amendable: false,
            },
        ]
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::create(context, filename, options).await
    }
}
