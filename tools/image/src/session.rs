//! What all commands share: the registry, the user's objects, and how images are opened.

use std::sync::Arc;

use rhea_block::{BlockError, BlockNode, DriverKind, Edge, OpenFlags, Permissions, Registry, Role};
use rhea_options::{Entry, Options};
use rhea_options::{GetoptError, LongOption, Parsed, getopt};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, FailureExt, Outcome};
use crate::json;
use crate::size;

/// Long options without a letter of their own.
pub(crate) mod id {
    pub const IMAGE_OPTS: char = '\u{1}';
    pub const OBJECT: char = '\u{2}';
    pub const OUTPUT: char = '\u{3}';
    pub const TARGET_IMAGE_OPTS: char = '\u{4}';
    pub const FORCE: char = '\u{5}';
    pub const FLUSH_INTERVAL: char = '\u{6}';
    pub const NO_DRAIN: char = '\u{7}';
    pub const PATTERN: char = '\u{8}';
    pub const ADD: char = '\u{9}';
    pub const REMOVE: char = '\u{a}';
    pub const CLEAR: char = '\u{b}';
    pub const ENABLE: char = '\u{c}';
    pub const DISABLE: char = '\u{d}';
    pub const MERGE: char = '\u{e}';
    pub const TARGET_IS_ZERO: char = '\u{f}';
    pub const SALVAGE: char = '\u{10}';
    pub const BITMAPS: char = '\u{11}';
    pub const SKIP_BROKEN: char = '\u{12}';
    pub const SHRINK: char = '\u{13}';
    pub const PREALLOCATION: char = '\u{14}';
    pub const START_OFFSET: char = 's';
    pub const MAX_LENGTH: char = 'l';
}

/// A long option without argument.
pub(crate) const fn flag(name: &'static str, id: char) -> LongOption {
    LongOption { name, takes_argument: false, id }
}

/// A long option with an argument.
pub(crate) const fn valued(name: &'static str, id: char) -> LongOption {
    LongOption { name, takes_argument: true, id }
}

/// How a report is to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Human,
    Json,
}

/// One run of the tool.
pub(crate) struct Session {
    /// What messages begin with.
    pub program: String,
    pub command: &'static str,
    pub registry: Registry,
}

/// An image as the command line names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    /// A file name, or with `image_opts` a list of options.
    pub text: &'a str,
    /// The format, else it is probed.
    pub format: Option<&'a str>,
    pub image_opts: bool,
}

/// An image that the tool has open.
pub(crate) struct Image {
    pub node: Arc<BlockNode>,
    edge: Arc<Edge>,
    /// What to call it in messages and reports.
    pub name: String,
}

impl Image {
    /// Bytes of the disk.
    pub fn length(&self) -> u64 {
        self.node.length()
    }

    /// Writes out what only memory has, and lets go of the image.
    pub async fn close(self) -> Outcome<()> {
        let flushed = self.node.flush().await;
        let closed = self.node.close().await;
        self.edge.set_permissions(Permissions::empty(), Permissions::all()).await?;
        Ok(flushed.and(closed)?)
    }
}

/// Closes images after their work, whether or not it went well: the first failure is the one to tell.
pub(crate) async fn finish<T>(result: Outcome<T>, images: impl IntoIterator<Item = Image>) -> Outcome<T> {
    let mut closed = Ok(());
    for image in images {
        let one = image.close().await;
        closed = closed.and(one);
    }
    let value = result?;
    closed?;
    Ok(value)
}

impl Session {
    /// Takes a command's arguments apart.
    pub fn parse(&self, arguments: &[String], short: &str, long: &[LongOption]) -> Outcome<Parsed> {
        let mut all = vec![flag("help", 'h')];
        all.extend_from_slice(long);
        getopt(arguments, &format!("h{short}"), &all).map_err(|error| self.bad_option(&error))
    }

    /// What the C library says of an unknown option: behind the program's and the command's names.
    fn bad_option(&self, error: &GetoptError) -> Failure {
        let space = if self.command.is_empty() { "" } else { " " };
        eprintln!("{}{space}{}: {error}", self.program, self.command);
        Failure::bad_usage()
    }

    /// Defines the objects of all `--object` options.
    pub fn define_objects(&self, parsed: &Parsed) -> Outcome<()> {
        for (_, text) in parsed.options.iter().filter(|(o, _)| *o == id::OBJECT) {
            crate::objects::define(&self.registry, text.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }

    /// `--output=human|json`
    pub fn output(&self, parsed: &Parsed) -> Outcome<Output> {
        match parsed.argument(id::OUTPUT) {
            None | Some("human") => Ok(Output::Human),
            Some("json") => Ok(Output::Json),
            Some(other) => Err(Failure::usage(format!("--output expects 'human' or 'json' not '{other}'"))),
        }
    }

    /// The format and kind of name that `-f` and `--image-opts` give.
    pub fn name<'a>(&self, parsed: &'a Parsed, text: &'a str) -> Outcome<Name<'a>> {
        let (format, image_opts) = (parsed.argument('f'), parsed.has(id::IMAGE_OPTS));
        match format.is_some() && image_opts {
            true => Err(Failure::new("--image-opts and --format are mutually exclusive")),
            false => Ok(Name { text, format, image_opts }),
        }
    }

    /// Opens an image that was made a moment ago, with those of the options it was made with that it cannot be opened
    /// without: the names of its secrets.
    pub async fn open_made(
        &self,
        filename: &str,
        format: &str,
        made_with: &Options,
        flags: OpenFlags,
    ) -> Outcome<Image> {
        let mut more = Options::default();
        for entry in made_with.entries().iter().filter(|e| e.key.ends_with("key-secret")) {
            more.set(&entry.key, entry.value.as_deref().unwrap_or_default());
        }
        let opened = self.registry.open_with(filename, Some(format), more, flags).await;
        let node = opened.told(format!("Could not open '{filename}'"))?;
        self.hold(node, filename.to_owned()).await.told(format!("Could not open '{filename}'"))
    }

    /// Opens an image. One that may be written to and whose format was guessed to be raw is warned of.
    pub async fn open(&self, name: Name<'_>, flags: OpenFlags) -> Outcome<Image> {
        let opened = self.open_node(name, flags).await;
        let (node, display) = opened.told(format!("Could not open '{}'", name.text))?;
        if node.driver_name() == "raw" && name.format.is_none() && !name.image_opts && !node.is_read_only() {
            self.warn_of_guess(name.text);
        }
        self.hold(node, display).await.told(format!("Could not open '{}'", name.text))
    }

    /// Takes the permissions a tool needs of an image it has opened.
    pub async fn hold(&self, node: Arc<BlockNode>, name: String) -> Outcome<Image> {
        let edge = Edge::new("root", Role::Filtered, node.clone());
        let mut needed = Permissions::CONSISTENT_READ;
        if !node.is_read_only() {
            needed |= Permissions::WRITE | Permissions::WRITE_UNCHANGED | Permissions::RESIZE;
        }
        edge.set_permissions(needed, Permissions::all()).await?;
        Ok(Image { node, edge, name })
    }

    async fn open_node(&self, name: Name<'_>, flags: OpenFlags) -> Outcome<(Arc<BlockNode>, String)> {
        if name.image_opts {
            if !name.text.contains('=') && !name.text.starts_with('{') {
                return Err(Failure::new(format!("Cannot find device='{0}' nor node-name='{0}'", name.text)));
            }
            let options = Options::parse(name.text, None).map_err(BlockError::from)?;
            let node = self.registry.open_node(options.clone(), flags, false).await?;
            let display = self.describe(&node, &options);
            return Ok((node, display));
        }
        let node = self.registry.open(name.text, name.format, flags).await?;
        let display = match name.text.strip_prefix("json:") {
            Some(text) => self.describe(&node, &Options::parse(text, None).map_err(BlockError::from)?),
            None => name.text.to_owned(),
        };
        Ok((node, display))
    }

    fn warn_of_guess(&self, filename: &str) {
        eprintln!(
            "WARNING: Image format was not specified for '{filename}' and probing guessed raw.\n         \
             Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
             Specify the 'raw' format explicitly to remove the restrictions."
        );
    }

    /// A file name for a node opened by options: the file's own, if the options say no more than its name and format
    /// do, else all of them as `json:{…}`.
    fn describe(&self, node: &Arc<BlockNode>, options: &Options) -> String {
        match self.plain_name(node, options) {
            Some(name) => name,
            None => format!("json:{}", json::one_line(&self.strong_options(node, options))),
        }
    }

    /// Options that say how, not what, is opened.
    fn is_weak(key: &str) -> bool {
        const WEAK: [&str; 9] = [
            "driver",
            "node-name",
            "read-only",
            "auto-read-only",
            "force-share",
            "discard",
            "detect-zeroes",
            "locking",
            "aio",
        ];
        WEAK.contains(&key) || key.starts_with("cache.")
    }

    fn plain_name(&self, node: &Arc<BlockNode>, options: &Options) -> Option<String> {
        let child = if node.driver_name() == "blkdebug" { "image" } else { "file" };
        let strong = |e: &&Entry| !Self::is_weak(&e.key) && e.key != "filename" && !e.key.starts_with(child);
        if options.entries().iter().any(|e| strong(&e)) {
            return None;
        }
        if !node.filename().is_empty() && !node.filename().starts_with("json:") && node.edges().is_empty() {
            return Some(node.filename().to_owned());
        }
        let below = node.edges().iter().find(|e| e.name() == child)?.node();
        let below_options = options.clone().take_object(child);
        let name = self.plain_name(&below, &below_options)?;
        if child == "image" {
            return Some(format!("blkdebug::{name}"));
        }
        let kind = self.registry.driver(below.driver_name())?.kind();
        let is_file = kind == DriverKind::Protocol || below.driver_name() == "blkdebug";
        (is_file && !name.is_empty()).then_some(name)
    }

    fn strong_options(&self, node: &Arc<BlockNode>, options: &Options) -> Value {
        let mut object = Map::new();
        object.insert("driver".into(), json!(node.driver_name()));
        for entry in options.entries() {
            if !Self::is_weak(&entry.key) && !entry.key.contains('.') && entry.key != "file" {
                object.insert(entry.key.clone(), json!(entry.value.as_deref().unwrap_or("on")));
            }
        }
        let mut rest = options.clone();
        for edge in node.edges() {
            let mut members = rest.take_object(edge.name());
            if members.get("filename").is_none() && edge.node().edges().is_empty() {
                members.set("filename", edge.node().filename());
            }
            object.insert(edge.name().into(), self.strong_options(&edge.node(), &members));
        }
        Value::Object(object)
    }
}

/// The flags of `-t` or `-T`.
pub(crate) fn cache_flags(mode: &str, refusal: &str) -> Outcome<OpenFlags> {
    OpenFlags::cache(mode).ok_or_else(|| Failure::new(refusal))
}

/// The flags to look at an image, with `-U` or without.
pub(crate) fn read_flags(parsed: &Parsed) -> OpenFlags {
    match parsed.has('U') {
        true => OpenFlags::READ_ONLY | OpenFlags::FORCE_SHARE,
        false => OpenFlags::READ_ONLY,
    }
}

/// The one file name a command takes.
pub(crate) fn one_name(parsed: &Parsed) -> Outcome<&str> {
    match parsed.words.as_slice() {
        [name] => Ok(name),
        _ => Err(Failure::usage("Expecting one image file name")),
    }
}

/// Bytes per second of `-r`.
pub(crate) fn rate_limit(parsed: &Parsed) -> Outcome<Option<u64>> {
    let text = parsed.argument('r');
    text.map(|text| size::size("rate limit", text)).transpose().map(|rate| rate.filter(|r| *r > 0))
}
