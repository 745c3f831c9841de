//! Drivers, and the registry that opens and creates images by them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rhea_options::Options;
use serde_json::Value;

use crate::graph::{BackingSlot, BlockNode, Edge, NodeParts, Role};
use crate::node::Node;
use crate::options::OpenFlags;
use crate::permission::Permissions;
use crate::progress::Progress;
use crate::secret::{Objects, Secrets};
use crate::{BlockError, Result, ResultExt};

/// Bytes from an image's start that probing looks at.
pub const PROBE_LENGTH: usize = 2048;

/// What a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// At the bottom: a file, a device, a server.
    Protocol,
    /// Makes a disk of a file.
    Format,
    /// Shows another node, changed.
    Filter,
}

/// The type of a creation option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOptionType {
    /// Any text.
    Text,
    /// `on` or `off`.
    Bool,
    /// A number.
    Number,
    /// Bytes, with a unit's letter.
    Size,
}

/// An option of `qemu-img create -o`, as `-o help` lists it.
#[derive(Debug, Clone, Copy)]
pub struct CreateOption {
    /// The key.
    pub name: &'static str,
    /// What it takes.
    pub kind: CreateOptionType,
    /// One line for the help text.
    pub help: &'static str,
    /// The default the help text shows; empty: none.
    pub default: &'static str,
    /// Whether `amend` takes it.
    pub amendable: bool,
}

/// What `measure` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Bytes for the data at hand.
    pub required: u64,
    /// Bytes if every part of the disk is written.
    pub fully_allocated: u64,
    /// Bytes for the source's persistent bitmaps, where the format keeps them.
    pub bitmaps: Option<u64>,
}

/// What a driver is given to open a node.
pub struct OpenContext<'a> {
    /// Opens the children.
    pub registry: &'a Registry,
    /// How to open.
    pub flags: OpenFlags,
    /// The name the node is opened by, if there is one.
    pub filename: &'a str,
    /// The backing file, which the block layer puts here after the driver's `open`.
    pub backing: Arc<BackingSlot>,
    /// Nobody named the format: the image's contents told it.
    pub probed: bool,
}

impl OpenContext<'_> {
    /// The secrets the user has defined.
    pub fn secrets(&self) -> &Secrets {
        self.registry.secrets()
    }

    /// Whether the disk will be written.
    pub fn writable(&self) -> bool {
        !self.flags.contains(OpenFlags::READ_ONLY)
    }

    /// Opens the child `name`: the member options `name.…`, or the node the option `name` refers to by its node name,
    /// or, for `file`, this context's file name. With permissions to read at once; those of the parents follow.
    pub async fn open_child(&self, options: &mut Options, name: &str, role: Role) -> Result<Arc<Edge>> {
        match self.open_optional_child(options, name, role).await? {
            Some(edge) => Ok(edge),
            None => Err(missing_child(name)),
        }
    }

    /// Like [`OpenContext::open_child`], for a child without metadata: others may write to it meanwhile, as far as the
    /// node's own parents let them.
    pub async fn open_sharing_child(
        &self,
        options: &mut Options,
        name: &str,
        role: Role,
    ) -> Result<Arc<Edge>> {
        let node = self.open_child_node(options, name, role).await?.ok_or_else(|| missing_child(name))?;
        let edge = Edge::new(name, role, node);
        let mut needed = Permissions::CONSISTENT_READ;
        if self.writable() && !edge.node().is_read_only() {
            needed |= Permissions::WRITE;
        }
        edge.set_permissions(needed, Permissions::all()).await?;
        Ok(edge)
    }

    /// Like [`OpenContext::open_child`], but `None` if no option tells of the child (and it is not `file`).
    pub async fn open_optional_child(
        &self,
        options: &mut Options,
        name: &str,
        role: Role,
    ) -> Result<Option<Arc<Edge>>> {
        let Some(node) = self.open_child_node(options, name, role).await? else { return Ok(None) };
        let edge = Edge::new(name, role, node);
        self.hold(&edge).await?;
        Ok(Some(edge))
    }

    async fn open_child_node(
        &self,
        options: &mut Options,
        name: &str,
        role: Role,
    ) -> Result<Option<Arc<BlockNode>>> {
        let flags = match role {
            Role::Filtered => self.flags,
            Role::Backing => self.flags.for_backing(),
            _ => self.flags.for_file(),
        };
        let reference = options.take::<String>(name)?;
        let mut members = options.take_object(name);
        match reference {
            Some(reference) => self.registry.find(&reference).map(Some).ok_or_else(|| {
                BlockError::invalid(format!("Cannot find device='{reference}' nor node-name='{reference}'"))
            }),
            None => {
                if members.is_empty() {
                    if name != "file" || self.filename.is_empty() {
                        return Ok(None);
                    }
                    members = self.registry.protocol_options(self.filename)?;
                }
                let protocol = matches!(role, Role::File | Role::Data | Role::Metadata);
                self.registry.open_node(members, flags, protocol).await.map(Some)
            }
        }
    }

    /// Takes what the child is needed for right away: the driver reads it while it opens, and writes if it may.
    pub async fn hold(&self, edge: &Edge) -> Result<()> {
        let mut needed = Permissions::CONSISTENT_READ;
        if self.writable() && edge.role() != Role::Backing && !edge.node().is_read_only() {
            needed |= Permissions::WRITE | Permissions::RESIZE;
        }
        let shared = match self.flags.contains(OpenFlags::FORCE_SHARE) {
            true => Permissions::all(),
            false => crate::permission::for_child(edge.role(), needed, Permissions::all()).1,
        };
        edge.set_permissions(needed, shared).await
    }
}

/// What a driver is given to create an image.
pub struct CreateContext<'a> {
    /// Opens and creates files.
    pub registry: &'a Registry,
    /// How far it has come (preallocation takes its time).
    pub progress: &'a Progress,
}

/// A block driver: the way to open, create and recognize one kind of node.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Its name (`qcow2`), as in `-f`, `driver=` and `info`.
    fn name(&self) -> &'static str;

    /// What it is.
    fn kind(&self) -> DriverKind;

    /// How sure the driver is, 0 to 100, that an image that starts so (with up to [`PROBE_LENGTH`] bytes) is its own.
    fn probe(&self, start: &[u8], filename: &str) -> u32 {
        let _ = (start, filename);
        0
    }

    /// For protocols: the prefixes of file names (`nbd` for `nbd:…` and `nbd://…`), and how such a name becomes options.
    fn protocol_prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// For protocols: the options that a file name stands for (without `driver`).
    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let mut options = Options::default();
        options.set("filename", filename);
        Ok(options)
    }

    /// Opens a node. Takes the options it knows out of `options`; what is left over is refused by the block layer.
    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>>;

    /// The options of [`Driver::create`]; empty: the driver cannot create images.
    fn create_options(&self) -> &'static [CreateOption] {
        &[]
    }

    /// Creates an image named `filename`: its file by the protocol, then the format in it. The options are checked
    /// against [`Driver::create_options`] and contain `size`, except where a backing file gives it.
    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        let _ = (context, filename, options);
        Err(BlockError::unsupported(format!(
            "Format driver '{}' does not support image creation",
            self.name()
        )))
    }

    /// How much storage an image with these creation options would take; `source` is the image it would be converted
    /// from, else `size` is among the options.
    async fn measure(&self, options: Options, source: Option<&Arc<BlockNode>>) -> Result<Measure> {
        let _ = (options, source);
        Err(BlockError::unsupported(format!(
            "Block driver '{}' does not support size measurement",
            self.name()
        )))
    }

    /// Whether images of this format can have backing files.
    fn supports_backing(&self) -> bool {
        false
    }
}

/// All drivers, the open nodes by name, and the user's objects: what `-blockdev`, `--object` and file names refer to.
#[derive(Default)]
pub struct Registry {
    drivers: Vec<Arc<dyn Driver>>,
    /// Nodes somebody may refer to by name; kept until [`Registry::forget`].
    nodes: Mutex<BTreeMap<String, Arc<BlockNode>>>,
    objects: Objects,
}

impl Registry {
    /// A registry without drivers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver. The order is that of help texts.
    pub fn add(&mut self, driver: impl Driver + 'static) {
        self.drivers.push(Arc::new(driver));
    }

    /// All drivers.
    pub fn drivers(&self) -> &[Arc<dyn Driver>] {
        &self.drivers
    }

    /// The driver of a name.
    pub fn driver(&self, name: &str) -> Option<&Arc<dyn Driver>> {
        self.drivers.iter().find(|d| d.name() == name)
    }

    fn require(&self, name: &str) -> Result<&Arc<dyn Driver>> {
        self.driver(name).ok_or_else(|| {
            let error = BlockError::invalid(format!("Unknown driver '{name}'"));
            match rhea_options::closest(name, self.drivers.iter().map(|d| d.name())) {
                Some(near) => error.with_hint(format!("Did you mean '{near}'?")),
                None => error,
            }
        })
    }

    /// The user's secrets: [`Registry::objects`].
    pub fn secrets(&self) -> &Secrets {
        &self.objects
    }

    /// What the user has defined with `--object`.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The node of a name.
    pub fn find(&self, node_name: &str) -> Option<Arc<BlockNode>> {
        self.nodes.lock().get(node_name).cloned()
    }

    /// Keeps a node so that others can refer to it by its name.
    pub fn remember(&self, node: &Arc<BlockNode>) -> Result<()> {
        match self.nodes.lock().entry(node.name().to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => {
                Err(BlockError::invalid(format!("Duplicate nodes with node-name='{}'", node.name())))
            }
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(node.clone());
                Ok(())
            }
        }
    }

    /// Gives up a node kept by [`Registry::remember`].
    pub fn forget(&self, node_name: &str) -> Option<Arc<BlockNode>> {
        self.nodes.lock().remove(node_name)
    }

    /// The kept nodes, by name.
    pub fn nodes(&self) -> Vec<Arc<BlockNode>> {
        self.nodes.lock().values().cloned().collect()
    }

    /// The protocol prefix of a file name (`nbd` of `nbd://host`); `None` for plain paths, and for paths that merely
    /// have a colon behind a slash.
    pub fn protocol_of(filename: &str) -> Option<&str> {
        let at = filename.find([':', '/'])?;
        (filename.as_bytes()[at] == b':' && at > 0).then(|| &filename[..at])
    }

    /// The options, with `driver`, of the protocol node that a file name stands for.
    pub fn protocol_options(&self, filename: &str) -> Result<Options> {
        if let Some(json) = filename.strip_prefix("json:") {
            return Ok(Options::parse(json, None)?);
        }
        let driver = match Self::protocol_of(filename) {
            None if std::fs::metadata(filename).is_ok_and(|m| is_device(&m)) => {
                self.require("host_device")?
            }
            None => self.require("file")?,
            Some(prefix) => self
                .drivers
                .iter()
                .find(|d| d.protocol_prefixes().contains(&prefix))
                .ok_or_else(|| BlockError::invalid(format!("Unknown protocol '{prefix}'")))?,
        };
        let mut options = driver.parse_filename(filename)?;
        options.set("driver", driver.name());
        Ok(options)
    }

    /// Opens an image by its name: `format` says what it is, else it is probed.
    pub async fn open(
        &self,
        filename: &str,
        format: Option<&str>,
        flags: OpenFlags,
    ) -> Result<Arc<BlockNode>> {
        self.open_with(filename, format, Options::default(), flags).await
    }

    /// Like [`Registry::open`], with more options of the format (and, as `file.…`, of its file).
    pub async fn open_with(
        &self,
        filename: &str,
        format: Option<&str>,
        more: Options,
        flags: OpenFlags,
    ) -> Result<Arc<BlockNode>> {
        let mut options = Options::default();
        if let Some(json) = filename.strip_prefix("json:") {
            if !json.trim_start().starts_with('{') {
                let found =
                    BlockError::invalid(format!("JSON parse error, expecting an object, not '{json}'"));
                return Err(found.context("Could not parse the JSON options"));
            }
            options = Options::parse(json, None)
                .map_err(BlockError::from)
                .context("Could not parse the JSON options")?;
        } else {
            let protocol = self.protocol_options(filename)?;
            for entry in protocol.entries() {
                options.set(&format!("file.{}", entry.key), entry.value.as_deref().unwrap_or("on"));
            }
        }
        options.merge(more);
        if let Some(format) = format {
            if options.get("driver").is_some_and(|driver| driver != format) {
                return Err(BlockError::invalid("Driver specified twice"));
            }
            options.set("driver", format);
        }
        self.open_named(options, flags, false, filename).await
    }

    /// Opens a node by its options, as `-blockdev` and `--image-opts` give them. Without `driver`, the format is probed
    /// (`protocol` false), or `file` is meant (`protocol` true).
    pub async fn open_node(
        &self,
        options: Options,
        flags: OpenFlags,
        protocol: bool,
    ) -> Result<Arc<BlockNode>> {
        self.open_named(options, flags, protocol, "").await
    }

    fn open_named<'a>(
        &'a self,
        options: Options,
        flags: OpenFlags,
        protocol: bool,
        filename: &'a str,
    ) -> BoxFuture<'a, Result<Arc<BlockNode>>> {
        Box::pin(crate::open::open_node(self, options, flags, protocol, filename))
    }

    /// Creates an image. `options` are those of `-o` with `size`, `backing_file` and `backing_fmt` merged in, checked
    /// here against the driver's.
    pub async fn create(
        &self,
        format: &str,
        filename: &str,
        options: Options,
        progress: &Progress,
    ) -> Result<()> {
        let driver = self
            .driver(format)
            .ok_or_else(|| BlockError::invalid(format!("Unknown file format '{format}'")))?;
        let known = driver.create_options();
        if known.is_empty() {
            return Err(BlockError::unsupported(format!(
                "Format driver '{format}' does not support image creation"
            )));
        }
        for entry in options.entries() {
            if !known.iter().any(|k| k.name == entry.key) {
                let error = BlockError::invalid(format!("Invalid parameter '{}'", entry.key));
                return Err(match rhea_options::closest(&entry.key, known.iter().map(|k| k.name)) {
                    Some(near) => error.with_hint(format!("Did you mean '{near}'?")),
                    None => error,
                });
            }
        }
        driver.create(&CreateContext { registry: self, progress }, filename, options).await
    }

    /// Creates the file an image will lie in, by the protocol its name asks for, and opens it for writing.
    pub async fn create_file(&self, filename: &str, size: u64) -> Result<Arc<BlockNode>> {
        let options = self.protocol_options(filename)?;
        let name = options.get("driver").unwrap_or("file").to_owned();
        let driver = self.require(&name)?;
        let mut create = Options::default();
        create.set("size", &size.to_string());
        let progress = Progress::new();
        driver.create(&CreateContext { registry: self, progress: &progress }, filename, create).await?;
        self.open_node(options, OpenFlags::UNMAP, true).await
    }

    /// The format an image's start tells of; `raw` if none knows it.
    pub fn probe(&self, start: &[u8], filename: &str) -> &'static str {
        probe_among(&self.drivers, start, filename)
    }
}

/// The format an image's start tells of; `raw` if none of the drivers knows it.
pub(crate) fn probe_among(drivers: &[Arc<dyn Driver>], start: &[u8], filename: &str) -> &'static str {
    let formats = drivers.iter().filter(|d| d.kind() == DriverKind::Format);
    let mut found = (0, "raw");
    for (score, driver) in formats.map(|d| (d.probe(start, filename), d)) {
        if score > found.0 {
            found = (score, driver.name());
        }
    }
    found.1
}

fn is_device(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_block_device() || metadata.file_type().is_char_device()
}

fn missing_child(name: &str) -> BlockError {
    BlockError::invalid(format!("A block device must be specified for \"{name}\""))
}

pub(crate) fn node_of(
    driver_name: &'static str,
    name: String,
    filename: String,
    flags: OpenFlags,
    node: Box<dyn Node>,
    backing: Arc<BackingSlot>,
) -> Arc<BlockNode> {
    BlockNode::new(NodeParts { name, driver_name, filename, flags, node, backing })
}

/// The value of a JSON option as the text the option would have on a command line.
pub fn option_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        other => other.to_string(),
    }
}
