//! `blkdebug`: requests that fail, when and where a test wants them to.
//!
//! Rules come from options (`inject-error.0.event=…`) or a configuration file with sections `[inject-error]` and
//! `[set-state]`. A rule is armed when its event happens in its state; the next request that matches then fails.

mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_lock::Semaphore;
use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, Driver, DriverKind, Edge, Limits, Node, OpenContext, Result, Role, Truncate,
    WriteFlags,
};
use rhea_options::Options;

use crate::filter::{Filter, FilterNode};
use rules::{Alignments, IoType, Rules};

pub use rules::EVENTS;

/// The driver `blkdebug`, with the file names `blkdebug:[CONFIG]:IMAGE`.
pub struct BlkdebugDriver;

/// A request held at a breakpoint.
struct Suspended {
    tag: String,
    go: Arc<Semaphore>,
}

#[derive(Default)]
struct Breakpoints {
    /// `(event, tag)`
    set: Vec<(String, String)>,
    suspended: Vec<Suspended>,
}

/// The filter. Tools reach it through [`rhea_block::BlockNode::downcast`] for breakpoints.
pub struct Blkdebug {
    child: Arc<Edge>,
    rules: Mutex<Rules>,
    alignments: Alignments,
    breakpoints: Mutex<Breakpoints>,
    /// Released each time a request is suspended.
    held: Semaphore,
    requests: AtomicU64,
    /// Told of each request that is held, by its tag.
    announce: Mutex<Option<fn(&str)>>,
}

#[async_trait]
impl Driver for BlkdebugDriver {
    fn name(&self) -> &'static str {
        "blkdebug"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        &["blkdebug"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let rest = filename.strip_prefix("blkdebug:").unwrap_or(filename);
        let Some((config, image)) = rest.split_once(':') else {
            return Err(BlockError::invalid("blkdebug requires both config file and image path"));
        };
        let mut options = Options::default();
        if !config.is_empty() {
            options.set("config", config);
        }
        options.set("x-image", image);
        Ok(options)
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let rules = Rules::take(options)?;
        let alignments = Alignments::take(options)?;
        if let Some(image) = options.take::<String>("x-image")? {
            for entry in context.registry.protocol_options(&image)?.entries() {
                options.set(&format!("image.{}", entry.key), entry.value.as_deref().unwrap_or("on"));
            }
        }
        let child = context.open_child(options, "image", Role::File).await?;
        alignments.check()?;
        Ok(Box::new(FilterNode(Blkdebug {
            child,
            rules: Mutex::new(rules),
            alignments,
            breakpoints: Mutex::default(),
            held: Semaphore::new(0),
            requests: AtomicU64::new(0),
            announce: Mutex::default(),
        })))
    }
}

impl Blkdebug {
    /// Fails if a rule wants this request to.
    fn check(&self, offset: u64, len: u64, kind: IoType) -> Result<()> {
        self.requests.fetch_add(1, Relaxed);
        match self.rules.lock().error_for(offset, len, kind) {
            None => Ok(()),
            Some(errno) => Err(BlockError::os(errno)),
        }
    }

    /// Holds the next request that comes to the event, under a tag.
    pub fn set_breakpoint(&self, event: &str, tag: &str) -> Result<()> {
        if !EVENTS.contains(&event) {
            return Err(BlockError::os(libc::ENOENT));
        }
        self.breakpoints.lock().set.push((event.into(), tag.into()));
        Ok(())
    }

    /// Takes breakpoints of a tag away, and lets the requests held under it go.
    pub fn remove_breakpoint(&self, tag: &str) -> Result<()> {
        let mut all = self.breakpoints.lock();
        let before = all.set.len() + all.suspended.len();
        all.set.retain(|(_, t)| t != tag);
        all.suspended.retain(|s| {
            if s.tag == tag {
                s.go.add_permits(1);
            }
            s.tag != tag
        });
        match before == all.set.len() + all.suspended.len() {
            true => Err(BlockError::os(libc::ENOENT)),
            false => Ok(()),
        }
    }

    /// Lets a request held under a tag go.
    pub fn resume(&self, tag: &str) -> Result<()> {
        let mut all = self.breakpoints.lock();
        match all.suspended.iter().position(|s| s.tag == tag) {
            Some(at) => {
                all.suspended.remove(at).go.add_permits(1);
                Ok(())
            }
            None => Err(BlockError::os(libc::ENOENT)),
        }
    }

    /// From now on, `announce` is called with the tag of each request that is held.
    pub fn announce_held(&self, announce: fn(&str)) {
        *self.announce.lock() = Some(announce);
    }

    /// Whether a request is held under a tag.
    pub fn is_suspended(&self, tag: &str) -> bool {
        self.breakpoints.lock().suspended.iter().any(|s| s.tag == tag)
    }

    /// Waits until a request is held under a tag.
    pub async fn wait_suspended(&self, tag: &str) {
        while !self.is_suspended(tag) {
            self.held.acquire().await.forget();
        }
    }
}

#[async_trait]
impl Filter for Blkdebug {
    fn child(&self) -> &Arc<Edge> {
        &self.child
    }

    fn limits(&self) -> Limits {
        self.alignments.apply(Limits { max_transfer: 0, ..self.child.node().limits() })
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.check(offset, data.len() as u64, IoType::Read)?;
        self.child.node().read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.check(offset, data.len() as u64, IoType::Write)?;
        self.child.node().write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let unit = u64::from(self.alignments.write_zeroes.max(1));
        if !offset.is_multiple_of(unit) || !len.is_multiple_of(unit) {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        self.check(offset, len, IoType::WriteZeroes)?;
        self.child.node().write_zeroes(offset, len, flags).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len, IoType::Discard)?;
        self.child.node().discard(offset, len).await
    }

    async fn flush(&self) -> Result<()> {
        self.check(0, 0, IoType::Flush)?;
        self.child.node().flush().await
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.check(offset, len, IoType::BlockStatus)?;
        self.child.node().block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        self.child.node().truncate(length, how).await
    }

    fn wants_debug_events(&self) -> bool {
        true
    }

    async fn debug_event(&self, event: &'static str) {
        self.rules.lock().happen(event);
        let go = {
            let mut all = self.breakpoints.lock();
            all.set.iter().position(|(e, _)| e == event).map(|at| {
                let (_, tag) = all.set.remove(at);
                let go = Arc::new(Semaphore::new(0));
                if let Some(announce) = *self.announce.lock() {
                    announce(&tag);
                }
                all.suspended.push(Suspended { tag, go: go.clone() });
                go
            })
        };
        if let Some(go) = go {
            self.held.add_permits(1);
            go.acquire().await.forget();
        }
    }
}
