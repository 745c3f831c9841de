//! The open image and what goes on with it.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rhea_block::{
    BlockError, BlockNode, Edge, OpenFlags, Permissions, Registry, Role, TemporaryFile, warn_of_guess,
};
use rhea_options::Options;

/// How an image is to be opened.
#[derive(Debug, Clone)]
pub struct HowToOpen {
    /// Cache mode, discard, AIO, read-only…
    pub flags: OpenFlags,
    /// The format, if told.
    pub format: Option<String>,
    /// The driver's options.
    pub options: Options,
    /// Write to a temporary overlay.
    pub snapshot: bool,
}

impl HowToOpen {
    /// What holds unless something else is asked for: discards reach the storage, and every write is followed by a flush, so
    /// that a command's outcome tells of the tables as well.
    pub fn new() -> Self {
        Self {
            flags: OpenFlags::UNMAP | OpenFlags::WRITE_THROUGH,
            format: None,
            options: Options::default(),
            snapshot: false,
        }
    }
}

/// A request that goes on by itself; it reports by printing.
pub type Pending = futures_util::future::LocalBoxFuture<'static, ()>;

/// What the commands work on.
pub struct Session {
    /// `qemu-io`, for messages.
    pub program: String,
    /// Drivers and nodes.
    pub registry: Arc<Registry>,
    /// Requests' memory is not aligned as direct I/O needs it.
    pub misalign: bool,
    image: Option<Open>,
    pending: FuturesUnordered<Pending>,
}

struct Open {
    node: Arc<BlockNode>,
    edge: Arc<Edge>,
    temporary: Option<TemporaryFile>,
}

impl Session {
    /// Nothing is open.
    pub fn new(program: &str, registry: Arc<Registry>) -> Self {
        Self {
            program: program.into(),
            registry,
            misalign: false,
            image: None,
            pending: FuturesUnordered::new(),
        }
    }

    /// The open image.
    pub fn node(&self) -> Option<&Arc<BlockNode>> {
        self.image.as_ref().map(|open| &open.node)
    }

    /// Opens an image; `name` may be empty if the options tell all.
    pub async fn open(&mut self, name: &str, how: &HowToOpen) -> Result<(), BlockError> {
        let mut flags = how.flags;
        let mut temporary = None;
        if how.snapshot {
            flags |= OpenFlags::READ_ONLY;
        }
        let mut node = self.open_node(name, how, flags).await?;
        let guessed = how.format.is_none() && how.options.get("driver").is_none();
        if guessed && !how.snapshot && node.driver_name() == "raw" && !node.is_read_only() {
            warn_of_guess(node.filename());
        }
        if how.snapshot {
            // Nobody shares the overlay, whoever shares what is below.
            let (overlay, file) = self.registry.overlay(&node, how.flags - OpenFlags::FORCE_SHARE).await?;
            node = overlay;
            temporary = Some(file);
        }
        if how.flags.contains(OpenFlags::COPY_ON_READ) {
            node = rhea_block_filters::copy_on_read(node).await?;
        }
        let mut needed = Permissions::CONSISTENT_READ;
        if !node.is_read_only() {
            needed |= Permissions::WRITE | Permissions::RESIZE;
        }
        let shared = match how.flags.contains(OpenFlags::FORCE_SHARE) {
            true => Permissions::all(),
            false => Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED,
        };
        let edge = Edge::new("qemu-io", Role::File, node.clone());
        edge.set_permissions(needed, shared).await?;
        self.image = Some(Open { node, edge, temporary });
        Ok(())
    }

    async fn open_node(
        &self,
        name: &str,
        how: &HowToOpen,
        flags: OpenFlags,
    ) -> Result<Arc<BlockNode>, BlockError> {
        let mut options = how.options.clone();
        if let Some(format) = &how.format {
            options.set("driver", format);
        }
        if name.is_empty() {
            return self.registry.open_node(options, flags, false).await;
        }
        if options.is_empty() || (options.entries().len() == 1 && how.format.is_some()) {
            return self.registry.open(name, how.format.as_deref(), flags).await;
        }
        let format = options.take::<String>("driver")?;
        self.registry.open_with(name, format.as_deref(), options, flags).await
    }

    /// Goes on with other flags and options; what we need of the image follows.
    pub async fn reopen(&mut self, flags: OpenFlags, options: Options) -> Result<(), BlockError> {
        self.settle().await;
        let Some(Open { node, edge, .. }) = &self.image else { return Ok(()) };
        let (before, shared) = edge.permissions();
        let reading = Permissions::CONSISTENT_READ;
        if flags.contains(OpenFlags::READ_ONLY) {
            edge.set_permissions(reading, shared).await?;
        }
        let reopened = node.reopen(flags, options).await;
        let needed = match &reopened {
            Ok(()) if flags.contains(OpenFlags::READ_ONLY) => reading,
            Ok(()) => reading | Permissions::WRITE | Permissions::RESIZE,
            Err(_) => before,
        };
        edge.set_permissions(needed, shared).await?;
        reopened
    }

    /// Closes the image, after its requests.
    pub async fn close(&mut self) -> Result<(), BlockError> {
        self.settle().await;
        let Some(Open { node, edge, temporary }) = self.image.take() else { return Ok(()) };
        edge.set_permissions(Permissions::empty(), Permissions::all()).await?;
        let flushed = match node.is_read_only() {
            true => Ok(()),
            // The disk went away while a request was under way, and that was told then.
            false => {
                node.flush().await.or_else(|e| if e.errno() == libc::ENOMEDIUM { Ok(()) } else { Err(e) })
            }
        };
        drop(edge);
        let closed = node.close().await;
        drop(temporary);
        flushed.and(closed)
    }

    /// Sets a request going; it makes progress while commands run.
    pub async fn start(&mut self, request: Pending) {
        self.pending.push(request);
        // Begun here and now; what is ready at once ends at once.
        futures_util::future::poll_fn(|context| {
            let _ = self.pending.poll_next_unpin(context);
            std::task::Poll::Ready(())
        })
        .await;
    }

    /// Waits for all requests set going.
    pub async fn settle(&mut self) {
        while self.pending.next().await.is_some() {}
    }

    /// Runs a command's future while requests set going make progress.
    pub async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        match self.while_pending(&mut work).await {
            Some(value) => value,
            None => work.await,
        }
    }

    /// Runs a future for as long as it can be requests set going that it waits for; `None`: all have ended, and it has not.
    pub async fn while_pending<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            if self.pending.is_empty() {
                return futures_util::future::poll_immediate(work).await;
            }
            match futures_util::future::select(work, self.pending.next()).await {
                futures_util::future::Either::Left((value, _)) => return Some(value),
                futures_util::future::Either::Right((_, unfinished)) => work = unfinished,
            }
        }
    }
}
