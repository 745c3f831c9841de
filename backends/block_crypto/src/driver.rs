//! The image format `luks`: opening, probing, creating and measuring.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_block::{
    BlockError, BlockNode, CreateContext, CreateOption, CreateOptionType, Driver, DriverKind, Measure, Node,
    OpenContext, OpenFlags, Preallocation, Result, Role, Truncate,
};
use rhea_options::{Options, Size};

use crate::header::MAGIC;
use crate::luks_options::LuksOptions;
use crate::node::{LuksNode, NodeStorage};
use crate::sector::SECTOR_SIZE;
use crate::volume::LuksVolume;

/// Disks encrypted as a whole, as cryptsetup makes them (LUKS1).
#[derive(Debug, Clone, Copy)]
pub struct LuksDriver;

const fn text(name: &'static str, help: &'static str, amendable: bool) -> CreateOption {
    CreateOption { name, kind: CreateOptionType::Text, help, default: "", amendable }
}

const CREATE_OPTIONS: [CreateOption; 10] = [
    text("cipher-alg", "Name of encryption cipher algorithm", false),
    text("cipher-mode", "Name of encryption cipher mode", false),
    CreateOption {
        name: "detached-header",
        kind: CreateOptionType::Bool,
        help: "Create a detached LUKS header",
        default: "",
        amendable: false,
    },
    text("hash-alg", "Name of encryption hash algorithm", false),
    CreateOption {
        name: "iter-time",
        kind: CreateOptionType::Number,
        help: "Time to spend in PBKDF in milliseconds",
        default: "",
        amendable: true,
    },
    text("ivgen-alg", "Name of IV generator algorithm", false),
    text("ivgen-hash-alg", "Name of IV generator hash algorithm", false),
    text("key-secret", "ID of the secret that provides the keyslot passphrase", false),
    text("preallocation", "Preallocation mode (allowed values: off, falloc, full)", false),
    CreateOption {
        name: "size",
        kind: CreateOptionType::Size,
        help: "Virtual disk size",
        default: "",
        amendable: false,
    },
];

/// The size option, in whole sectors.
fn take_size(options: &mut Options) -> Result<Option<u64>> {
    match options.take::<Size>("size")? {
        None => Ok(None),
        Some(size) => match size.0.checked_next_multiple_of(SECTOR_SIZE as u64) {
            Some(size) => Ok(Some(size)),
            None => Err(BlockError::new(libc::EFBIG, "The requested file size is too large")),
        },
    }
}

fn refuse_others(options: &Options) -> Result<()> {
    match options.entries().first() {
        Some(entry) => Err(BlockError::invalid(format!("Invalid parameter '{}'", entry.key))),
        None => Ok(()),
    }
}

#[async_trait]
impl Driver for LuksDriver {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        let version_1 = start.len() >= 8 && start[..6] == MAGIC && start[6..8] == [0, 1];
        if version_1 { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let key_secret = options.take::<String>("key-secret")?;
        let header = context.open_optional_child(options, "header", Role::Metadata).await?;
        let role = if header.is_some() { Role::Data } else { Role::File };
        let file = context.open_child(options, "file", role).await?;
        // Looking at the header needs no key, and trying one takes its time.
        let password = match context.flags.contains(OpenFlags::NO_IO) {
            true => None,
            false => Some(LuksOptions::password(context.secrets(), key_secret.as_deref())?),
        };
        let volume = match &header {
            Some(header) => LuksVolume::open_detached(&NodeStorage(header.node()), password).await?,
            None => LuksVolume::open(&NodeStorage(file.node()), password).await?,
        };
        if file.node().length() < volume.payload_offset() {
            return Err(BlockError::malformed(format!(
                "the file ends before LUKS header payload-offset {}",
                volume.payload_offset()
            )));
        }
        Ok(Box::new(LuksNode::new(file, header, volume, context.secrets().clone())))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &CREATE_OPTIONS
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
        let size = take_size(&mut options)?;
        let detached = options.take::<bool>("detached-header")?.unwrap_or(false);
        let key_secret = options.take::<String>("key-secret")?;
        let preallocation = match options.take::<String>("preallocation")? {
            None => Preallocation::Off,
            Some(word) => Preallocation::from_word(&word).ok_or_else(|| {
                BlockError::invalid(format!("Parameter 'preallocation' does not accept value '{word}'"))
            })?,
        };
        let luks = LuksOptions::take(&mut options)?;
        refuse_others(&options)?;
        if detached && preallocation != Preallocation::Off {
            return Err(BlockError::invalid("a detached header has no data to preallocate"));
        }
        if preallocation == Preallocation::Metadata {
            return Err(BlockError::unsupported("Unsupported preallocation mode: metadata"));
        }
        // A detached header says nothing of the disk's size: the file with the data does.
        let size = match size {
            Some(size) if !detached => size,
            None if !detached => return Err(BlockError::invalid("Parameter 'size' is missing")),
            _ => 0,
        };
        let password = LuksOptions::password(context.registry.secrets(), key_secret.as_deref())?;
        let formatted = LuksVolume::format(luks, detached, password).await?;
        let length = (formatted.header.len() as u64)
            .checked_add(size)
            .ok_or_else(|| BlockError::new(libc::EFBIG, "The requested file size is too large"))?;
        let file = context.registry.create_file(filename, 0).await?;
        // Room first: a file that is too small shall not look like an image.
        file.truncate(length, Truncate { exact: false, preallocation, zero: false }).await?;
        file.write_bytes(0, &formatted.header).await?;
        file.flush().await
    }

    async fn measure(&self, mut options: Options, source: Option<&Arc<BlockNode>>) -> Result<Measure> {
        let size = take_size(&mut options)?;
        let size = match source {
            Some(source) => source.length().next_multiple_of(SECTOR_SIZE as u64),
            None => size.unwrap_or(0),
        };
        options.take::<String>("preallocation")?;
        let detached = options.take::<bool>("detached-header")?.unwrap_or(false);
        if options.take::<String>("key-secret")?.is_none() {
            return Err(BlockError::invalid("Parameter 'key-secret' is required for cipher"));
        }
        let header = LuksOptions::take(&mut options)?.header_bytes();
        refuse_others(&options)?;
        let bytes = match detached {
            true => header,
            false => header
                .checked_add(size)
                .ok_or_else(|| BlockError::new(libc::EFBIG, "The image size is too large"))?,
        };
        Ok(Measure { required: bytes, fully_allocated: bytes, bitmaps: None })
    }
}
