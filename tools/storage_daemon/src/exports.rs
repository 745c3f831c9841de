//! `--export`: what is offered, and its end.

use std::path::PathBuf;

use rhea_block::{BlockError, BlockNode, Registry, Result};
use rhea_block_exports::{
    AllowOther, FuseExport, FuseOptions, VhostUserBlkExport, VhostUserBlkOptions, VhostUserSocket,
};
use rhea_nbd::{Export, ExportOptions};
use rhea_options::{OnOffAuto, Options, Size};
use std::sync::Arc;

use crate::nbd_server::NbdServer;

enum Kind {
    Nbd(Arc<Export>),
    Fuse(FuseExport),
    VhostUserBlk(VhostUserBlkExport),
}

/// All exports, by their ids.
#[derive(Default)]
pub struct Exports {
    exports: Vec<(String, Kind)>,
}

/// A parameter that must be there.
pub fn required(options: &mut Options, key: &str) -> Result<String> {
    options.take::<String>(key)?.ok_or_else(|| BlockError::invalid(format!("Parameter '{key}' is missing")))
}

/// Refuses what nobody took.
pub fn refuse_others(options: &Options) -> Result<()> {
    match options.entries().first() {
        Some(entry) => Err(BlockError::invalid(format!("Parameter '{}' is unexpected", entry.key))),
        None => Ok(()),
    }
}

/// What all kinds of exports have.
struct Common {
    id: String,
    node: Arc<BlockNode>,
    node_name: String,
    writable: bool,
    writethrough: bool,
}

impl Common {
    fn take(options: &mut Options, registry: &Registry, exports: &Exports) -> Result<Self> {
        let id = required(options, "id")?;
        let well_formed = id.starts_with(|c: char| c.is_ascii_alphabetic())
            && id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !well_formed {
            return Err(BlockError::invalid("Invalid block export id"));
        }
        if exports.exports.iter().any(|(other, _)| *other == id) {
            return Err(BlockError::invalid(format!("Block export id '{id}' is already in use")));
        }
        let node_name = required(options, "node-name")?;
        let node = registry.find(&node_name).ok_or_else(|| {
            BlockError::invalid(format!("Cannot find device='' nor node-name='{node_name}'"))
        })?;
        for key in ["iothread", "fixed-iothread"] {
            if options.take::<String>(key)?.is_some() {
                return Err(BlockError::unsupported(format!(
                    "Parameter '{key}' is not supported: exports have threads of their own"
                )));
            }
        }
        let writable = options.take("writable")?.unwrap_or(false);
        let writethrough = options.take("writethrough")?.unwrap_or(false);
        Ok(Self { id, node, node_name, writable, writethrough })
    }
}

impl Exports {
    /// Makes the export that the options describe.
    pub async fn add(
        &mut self,
        mut options: Options,
        registry: &Registry,
        nbd: Option<&NbdServer>,
    ) -> Result<()> {
        let kind = required(&mut options, "type")?;
        if !["nbd", "fuse", "vhost-user-blk", "vduse-blk"].contains(&kind.as_str()) {
            return Err(BlockError::invalid(format!("Parameter 'type' does not accept value '{kind}'")));
        }
        if kind == "vduse-blk" {
            return Err(BlockError::unsupported("exports of type 'vduse-blk' are not supported"));
        }
        let common = Common::take(&mut options, registry, self)?;
        let id = common.id.clone();
        let export = match kind.as_str() {
            "nbd" => Kind::Nbd(nbd_export(common, options, nbd).await?),
            "fuse" => Kind::Fuse(fuse_export(common, options).await?),
            _ => Kind::VhostUserBlk(vhost_user_export(common, options).await?),
        };
        self.exports.push((id, export));
        Ok(())
    }

    /// Ends all exports, the last first; NBD clients are gone by now. The first error is returned, all are printed.
    pub async fn stop(self, program: &str) -> Result<()> {
        let mut result = Ok(());
        for (id, export) in self.exports.into_iter().rev() {
            let ended = match export {
                Kind::Nbd(export) => {
                    let flushed = match export.is_writable() {
                        true => export.node().flush().await,
                        false => Ok(()),
                    };
                    flushed.and(export.release().await)
                }
                Kind::Fuse(export) => export.stop().await,
                Kind::VhostUserBlk(export) => export.stop().await,
            };
            if let Err(error) = ended {
                eprintln!("{program}: export '{id}': {error}");
                result = result.and(Err(error));
            }
        }
        result
    }
}

async fn nbd_export(common: Common, mut options: Options, nbd: Option<&NbdServer>) -> Result<Arc<Export>> {
    let name = options.take::<String>("name")?.unwrap_or(common.node_name);
    let description = options.take::<String>("description")?.unwrap_or_default();
    let bitmaps = options.take_members::<String>("bitmaps")?;
    let allocation_depth = options.take("allocation-depth")?.unwrap_or(false);
    refuse_others(&options)?;
    let nbd = nbd.ok_or_else(|| BlockError::invalid("NBD server not running"))?;
    let export = Export::new(
        common.node,
        ExportOptions {
            name,
            description,
            writable: common.writable,
            writethrough: common.writethrough,
            multi_conn: true,
            allocation_depth,
            bitmaps,
            ..ExportOptions::default()
        },
    )
    .await?;
    if let Err(error) = nbd.server().add(export.clone()) {
        export.release().await?;
        return Err(error);
    }
    Ok(export)
}

async fn fuse_export(common: Common, mut options: Options) -> Result<FuseExport> {
    let mountpoint = PathBuf::from(required(&mut options, "mountpoint")?);
    let growable = options.take("growable")?.unwrap_or(false);
    let allow_other = match options.take::<OnOffAuto>("allow-other")? {
        None | Some(OnOffAuto::Auto) => AllowOther::Auto,
        Some(OnOffAuto::On) => AllowOther::On,
        Some(OnOffAuto::Off) => AllowOther::Off,
    };
    refuse_others(&options)?;
    let (writable, writethrough) = (common.writable, common.writethrough);
    FuseExport::start(
        common.node,
        FuseOptions { mountpoint, writable, growable: growable && writable, allow_other, writethrough },
    )
    .await
}

async fn vhost_user_export(common: Common, mut options: Options) -> Result<VhostUserBlkExport> {
    let mut address = options.take_object("addr");
    if address.is_empty() {
        return Err(BlockError::invalid("Parameter 'addr' is missing"));
    }
    let socket = match rhea_nbd::Address::take("addr", &mut address)? {
        rhea_nbd::Address::Unix { path } => VhostUserSocket::Path(path.into()),
        rhea_nbd::Address::Fd { number } => {
            VhostUserSocket::Listening(rhea_host::descriptors::take_inherited(number)?)
        }
        _ => return Err(BlockError::invalid("Only socket address types 'unix' and 'fd' are supported")),
    };
    refuse_others(&address)?;
    let logical_block_size = options.take::<Size>("logical-block-size")?.map_or(512, |size| size.0);
    let queues = options.take::<u16>("num-queues")?.unwrap_or(1);
    refuse_others(&options)?;
    VhostUserBlkExport::start(
        common.node,
        VhostUserBlkOptions {
            id: common.id,
            socket,
            writable: common.writable,
            // Beyond 32 bits it is no valid size either.
            logical_block_size: u32::try_from(logical_block_size).unwrap_or(0),
            queues,
            writethrough: common.writethrough,
        },
    )
    .await
}
