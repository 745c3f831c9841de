//! qcow: QEMU's first own format, version 1. After "The QCOW Image Format" (M. McLoughlin, 2006).
//!
//! ```text
//! header (48) | backing file's name | L1 table | L2 tables, clusters, compressed clusters
//! ```
//! Tables are big-endian. An L2 entry with the highest bit set is a compressed cluster (raw deflate): its length in the
//! next bits, as many as a cluster's offset has, then where it is.

mod cipher;
mod compression;
mod create;
mod header;
mod node;

use async_trait::async_trait;
use rhea_block::{
    BlockError, CreateContext, CreateOption, CreateOptionType, Driver, DriverKind, Node, OpenContext,
    OpenFlags, Result, Role,
};
use rhea_options::Options;

use crate::image::ImageNode;

/// The driver of `qcow`.
pub struct Qcow;

#[async_trait]
impl Driver for Qcow {
    fn name(&self) -> &'static str {
        "qcow"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if header::is_qcow(start) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let format: Option<String> = options.take("encrypt.format")?;
        if let Some(format) = format.as_deref().filter(|&format| format != "aes" && format != "qcow") {
            return Err(BlockError::invalid(format!(
                "Header reported 'aes' encryption format but options specify '{format}'"
            )));
        }
        let secret: Option<String> = options.take("encrypt.key-secret")?;
        let file = context.open_child(options, "file", Role::File).await?;
        let header = header::Header::read(&file.node()).await?;
        let mut cipher = None;
        if header.encrypted && !context.flags.contains(OpenFlags::NO_IO) {
            let id = secret.ok_or_else(cipher::key_missing)?;
            cipher = Some(cipher::Cipher::new(&context.secrets().get(&id)?));
        } else if !header.encrypted && (format.is_some() || secret.is_some()) {
            return Err(BlockError::invalid(
                "No encryption in image header, but options specified format 'aes'",
            ));
        }
        let backing = context.backing.clone();
        let image = node::QcowImage::open(file, backing, header, cipher).await?;
        Ok(Box::new(ImageNode::new(image, context).await?))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        const fn option(name: &'static str, kind: CreateOptionType, help: &'static str) -> CreateOption {
            CreateOption { name, kind, help, default: "", amendable: false }
        }
        static OPTIONS: [CreateOption; 6] = [
            option("backing_file", CreateOptionType::Text, "File name of a base image"),
            option("backing_fmt", CreateOptionType::Text, "Format of the backing image"),
            option("encrypt.format", CreateOptionType::Text, "Encrypt the image, format choices: 'aes'"),
            option(
                "encrypt.key-secret",
                CreateOptionType::Text,
                "ID of the secret that provides the AES encryption key",
            ),
            option(
                "encryption",
                CreateOptionType::Bool,
                "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
            ),
            option("size", CreateOptionType::Size, "Virtual disk size"),
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
