//! The graph: nodes with names, and the edges between them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::bitmap::DirtyBitmap;
use crate::drain::{Drained, Gate};
use crate::node::Node;
use crate::options::OpenFlags;
use crate::permission::Permissions;
use crate::tracked::TrackedRequests;
use crate::{BlockError, Result};

/// What a child is to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The file with the format's metadata, and mostly its data.
    File,
    /// A file with data only.
    Data,
    /// Another file with metadata.
    Metadata,
    /// The file that holds what this image does not.
    Backing,
    /// The node a filter stands before.
    Filtered,
}

/// An edge of the graph: a parent's hold of a child. The child can be exchanged while requests go on (requests under way
/// end on the old one).
pub struct Edge {
    name: String,
    role: Role,
    node: ArcSwap<BlockNode>,
    permissions: Mutex<(Permissions, Permissions)>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edge({}: {:?} -> {})", self.name, self.role, self.node.load().name())
    }
}

impl Edge {
    /// Holds a node, needing and sharing nothing in particular yet; [`Edge::set_permissions`] follows.
    pub fn new(name: impl Into<String>, role: Role, node: Arc<BlockNode>) -> Arc<Self> {
        let edge = Arc::new(Self {
            name: name.into(),
            role,
            node: ArcSwap::new(node.clone()),
            permissions: Mutex::new((Permissions::empty(), Permissions::all())),
        });
        node.parents.lock().push(Arc::downgrade(&edge));
        edge
    }

    /// The child's name among its siblings (`file`, `backing`, `extents.0`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the child is to its parent.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The child.
    pub fn node(&self) -> Arc<BlockNode> {
        self.node.load_full()
    }

    /// `(needed, shared)`
    pub fn permissions(&self) -> (Permissions, Permissions) {
        *self.permissions.lock()
    }

    /// Changes what the parent needs of the child and lets others do with it, all the way down. On an error nothing has
    /// changed.
    pub async fn set_permissions(&self, needed: Permissions, shared: Permissions) -> Result<()> {
        let before = std::mem::replace(&mut *self.permissions.lock(), (needed, shared));
        let node = self.node();
        if let Err(error) = node.refresh_permissions().await {
            *self.permissions.lock() = before;
            // Back to what was granted before.
            let _ = node.refresh_permissions().await;
            return Err(error);
        }
        Ok(())
    }

    /// Puts another node in the child's place, with the same permissions.
    pub async fn replace(self: &Arc<Self>, node: Arc<BlockNode>) -> Result<()> {
        node.parents.lock().push(Arc::downgrade(self));
        let old = self.node.swap(node.clone());
        old.remove_parent(self);
        if let Err(error) = node.refresh_permissions().await {
            node.remove_parent(self);
            old.parents.lock().push(Arc::downgrade(self));
            self.node.store(old.clone());
            let _ = old.refresh_permissions().await;
            return Err(error);
        }
        old.refresh_permissions().await
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let node = self.node.load_full();
        node.parents.lock().retain(|p| p.strong_count() > 0);
    }
}

/// A node of the graph: an open image, a file below one, or a filter. Its requests are in [`crate::request`].
pub struct BlockNode {
    name: String,
    driver_name: &'static str,
    /// The name the node was opened by; empty if there is none.
    filename: String,
    pub(crate) flags: Mutex<OpenFlags>,
    pub(crate) read_only: AtomicBool,
    node: Box<dyn Node>,
    /// For answers that name the node itself.
    pub(crate) this: Weak<BlockNode>,
    backing: Arc<BackingSlot>,
    pub(crate) parents: Mutex<Vec<Weak<Edge>>>,
    pub(crate) gate: Gate,
    pub(crate) tracked: TrackedRequests,
    pub(crate) bitmaps: Mutex<Vec<Arc<Mutex<DirtyBitmap>>>>,
    pub(crate) has_bitmaps: AtomicBool,
}

/// The backing file of a node, shared by the node and its driver. Empty: nothing is behind the image.
pub type BackingSlot = ArcSwapOption<Edge>;

impl std::fmt::Debug for BlockNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockNode({}, {})", self.name, self.driver_name)
    }
}

static NEXT_NAME: AtomicU64 = AtomicU64::new(100);

/// What a node is made of; see [`BlockNode::new`].
pub struct NodeParts {
    /// The user's name for it; empty: one is made up (`#block123`).
    pub name: String,
    /// The driver.
    pub driver_name: &'static str,
    /// What it was opened by, for messages and `info`.
    pub filename: String,
    /// How it is open.
    pub flags: OpenFlags,
    /// The driver's part.
    pub node: Box<dyn Node>,
    /// The slot that the driver was given in its [`OpenContext`](crate::OpenContext).
    pub backing: Arc<BackingSlot>,
}

impl BlockNode {
    /// Puts a driver's node into the graph.
    pub fn new(parts: NodeParts) -> Arc<Self> {
        let NodeParts { name, driver_name, filename, flags, node, backing } = parts;
        let name = match name.as_str() {
            "" => format!("#block{:03}", NEXT_NAME.fetch_add(1, Relaxed)),
            _ => name,
        };
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            name,
            driver_name,
            filename,
            read_only: AtomicBool::new(flags.contains(OpenFlags::READ_ONLY)),
            flags: Mutex::new(flags),
            node,
            backing,
            parents: Mutex::default(),
            gate: Gate::default(),
            tracked: TrackedRequests::default(),
            bitmaps: Mutex::default(),
            has_bitmaps: AtomicBool::new(false),
        })
    }

    /// A node for tests and for jobs' own filters: no name, no file name, no backing file.
    pub fn anonymous(driver_name: &'static str, node: Box<dyn Node>, flags: OpenFlags) -> Arc<Self> {
        Self::new(NodeParts {
            name: String::new(),
            driver_name,
            filename: String::new(),
            flags,
            node,
            backing: Arc::default(),
        })
    }

    /// The node's name, unique in the process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver's name (`qcow2`).
    pub fn driver_name(&self) -> &'static str {
        self.driver_name
    }

    /// What it was opened by; empty for nodes that no file name describes.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// How it is open.
    pub fn flags(&self) -> OpenFlags {
        *self.flags.lock()
    }

    /// Whether requests that change the disk are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Relaxed)
    }

    /// The driver's part of the node.
    pub fn driver(&self) -> &dyn Node {
        &*self.node
    }

    /// The driver's part, if it is of this type.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.node.as_any().downcast_ref()
    }

    /// Records writes in a bitmap from now on.
    pub fn add_bitmap(&self, bitmap: DirtyBitmap) -> Arc<Mutex<DirtyBitmap>> {
        let bitmap = Arc::new(Mutex::new(bitmap));
        self.bitmaps.lock().push(bitmap.clone());
        self.has_bitmaps.store(true, Relaxed);
        bitmap
    }

    /// Records writes in a bitmap no longer.
    pub fn remove_bitmap(&self, bitmap: &Arc<Mutex<DirtyBitmap>>) {
        let mut all = self.bitmaps.lock();
        all.retain(|b| !Arc::ptr_eq(b, bitmap));
        self.has_bitmaps.store(!all.is_empty(), Relaxed);
    }

    /// The bitmap of a name.
    pub fn find_bitmap(&self, name: &str) -> Option<Arc<Mutex<DirtyBitmap>>> {
        self.bitmaps.lock().iter().find(|b| b.lock().name() == name).cloned()
    }

    /// Puts another node in this one's place for every parent but those that are the other node's own edges. Requests
    /// that wait for the drain to end go to the other node.
    pub async fn replace_with(self: &Arc<Self>, drained: &Drained, other: &Arc<BlockNode>) -> Result<()> {
        let own = other.edges();
        let parents: Vec<Arc<Edge>> = self.parents.lock().iter().filter_map(Weak::upgrade).collect();
        let mut moved: Vec<Arc<Edge>> = Vec::new();
        for edge in parents {
            if own.iter().any(|o| Arc::ptr_eq(o, &edge)) {
                continue;
            }
            if let Err(error) = edge.replace(other.clone()).await {
                for edge in moved {
                    let _ = edge.replace(self.clone()).await;
                }
                return Err(error);
            }
            moved.push(edge);
        }
        self.gate.send_waiting(drained, other);
        Ok(())
    }

    /// The edge to the backing file.
    pub fn backing_edge(&self) -> Option<Arc<Edge>> {
        self.backing.load_full()
    }

    /// The backing file's node.
    pub fn backing(&self) -> Option<Arc<BlockNode>> {
        self.backing.load().as_ref().map(|edge| edge.node())
    }

    /// Puts a node behind this one (or nothing), without a word in the image's header. Refuses a loop.
    pub async fn set_backing(self: &Arc<Self>, node: Option<Arc<BlockNode>>) -> Result<()> {
        let old = match node {
            None => self.backing.swap(None),
            Some(node) => {
                if node.reaches(self) {
                    return Err(BlockError::invalid(format!(
                        "Making '{}' a backing child of '{}' would create a cycle",
                        node.name, self.name
                    )));
                }
                let edge = Edge::new("backing", Role::Backing, node);
                let (needed, shared) = self.parents_permissions()?;
                let (needed, shared) = self.node.child_permissions(&edge, needed, shared);
                edge.set_permissions(needed, shared).await?;
                self.backing.swap(Some(edge))
            }
        };
        if let Some(old) = old {
            old.set_permissions(Permissions::empty(), Permissions::all()).await?;
        }
        Ok(())
    }

    /// All children, the backing file last.
    pub fn edges(&self) -> Vec<Arc<Edge>> {
        let mut edges = self.node.children();
        edges.extend(self.backing.load_full());
        edges
    }

    /// The child of a role, the first if there are several.
    pub fn child(&self, role: Role) -> Option<Arc<BlockNode>> {
        self.edges().into_iter().find(|e| e.role() == role).map(|e| e.node())
    }

    /// The file that holds the format's metadata.
    pub fn file(&self) -> Option<Arc<BlockNode>> {
        self.child(Role::File)
    }

    /// The node itself, or, below filters, the first that is none.
    pub fn skip_filters(self: &Arc<Self>) -> Arc<BlockNode> {
        let mut node = self.clone();
        while let Some(below) = node.child(Role::Filtered) {
            node = below;
        }
        node
    }

    /// Whether another node is this one or below it.
    pub fn reaches(&self, other: &BlockNode) -> bool {
        std::ptr::eq(self, other) || self.edges().iter().any(|e| e.node().reaches(other))
    }

    fn remove_parent(&self, edge: &Edge) {
        self.parents.lock().retain(|p| p.strong_count() > 0 && !std::ptr::eq(p.as_ptr(), edge));
    }

    /// What all parents need, and what all of them let others do; an error if the two conflict.
    pub fn parents_permissions(&self) -> Result<(Permissions, Permissions)> {
        let parents: Vec<Arc<Edge>> = self.parents.lock().iter().filter_map(Weak::upgrade).collect();
        let (mut needed, mut shared) = (Permissions::empty(), Permissions::all());
        for (index, edge) in parents.iter().enumerate() {
            let (need, share) = edge.permissions();
            if let Some(other) = parents[..index].iter().find(|o| {
                let (other_need, other_share) = o.permissions();
                !(need - other_share).is_empty() || !(other_need - share).is_empty()
            }) {
                let (other_need, other_share) = other.permissions();
                let conflict = (need - other_share) | (other_need - share);
                return Err(BlockError::new(
                    libc::EPERM,
                    format!(
                        "Permission conflict on node '{}': permissions '{}' are both required by '{}' and unshared by '{}'",
                        self.name,
                        conflict.names(),
                        if (need - other_share).is_empty() { other.name() } else { edge.name() },
                        if (need - other_share).is_empty() { edge.name() } else { other.name() },
                    ),
                ));
            }
            needed |= need;
            shared &= share;
        }
        if self.is_read_only()
            && needed.intersects(Permissions::WRITE | Permissions::WRITE_UNCHANGED | Permissions::RESIZE)
        {
            return Err(BlockError::new(libc::EPERM, "Block node is read-only"));
        }
        Ok((needed, shared))
    }

    /// Brings the children's permissions, and the locks at the bottom, in line with what the parents need.
    pub fn refresh_permissions(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (needed, shared) = self.parents_permissions()?;
            self.node.set_permissions(needed, shared).await?;
            for edge in self.edges() {
                let (needed, mut shared) = self.node.child_permissions(&edge, needed, shared);
                if edge.node().flags().contains(OpenFlags::FORCE_SHARE) {
                    shared = Permissions::all();
                }
                if edge.permissions() != (needed, shared) {
                    edge.set_permissions(needed, shared).await?;
                }
            }
            Ok(())
        })
    }

    /// Goes on with other flags and options, or fails and stays as it was. A change between read-only and writable takes
    /// the children along: before the node when it becomes writable, after it when it becomes read-only.
    pub fn reopen(&self, flags: OpenFlags, options: rhea_options::Options) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _drained = self.drain().await;
            let before = self.flags();
            let read_only = flags.contains(OpenFlags::READ_ONLY);
            if read_only {
                self.node.flush().await?;
            }
            let files: Vec<_> = self.node.children();
            if !read_only {
                self.reopen_files(&files, flags).await?;
            }
            self.read_only.store(read_only, Relaxed);
            if let Err(error) = self.node.reopen(flags, options).await {
                self.read_only.store(before.contains(OpenFlags::READ_ONLY), Relaxed);
                return Err(error);
            }
            *self.flags.lock() = flags;
            if read_only {
                self.reopen_files(&files, flags).await?;
            }
            Ok(())
        })
    }

    async fn reopen_files(&self, files: &[Arc<Edge>], flags: OpenFlags) -> Result<()> {
        for edge in files {
            let node = edge.node();
            let wanted = match edge.role() {
                Role::Filtered => flags,
                _ => flags.for_file(),
            };
            if node.flags() != wanted {
                node.reopen(wanted, rhea_options::Options::default()).await?;
            }
        }
        Ok(())
    }

    /// Ends the node: waits for its requests, writes out what only memory has, and does the same for the children that
    /// nobody else holds.
    pub fn close(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let _drained = self.drain().await;
            let mut result = self.node.close().await;
            let mut edges = self.edges();
            self.backing.store(None);
            let children: Vec<_> = edges.iter().map(|e| e.node()).collect();
            for edge in edges.drain(..) {
                let _ = edge.set_permissions(Permissions::empty(), Permissions::all()).await;
            }
            for child in children {
                let others = child.parents.lock().iter().filter_map(Weak::upgrade).any(|p| {
                    let (needed, _) = p.permissions();
                    !needed.is_empty()
                });
                if !others {
                    let closed = child.close().await;
                    result = result.and(closed);
                }
            }
            result
        })
    }
}
