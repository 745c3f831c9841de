//! The graph of regions, and how it is rendered into a flat view.
//!
//! A region may stand in several containers (the system container stands in every vCPU's root). Where children
//! overlap, the higher priority wins, and of equals the one added last. A child is clipped to its parent.
//!
//! Every change goes through the [`Topology`], which renders the address spaces again. Rendering happens under
//! the topology's lock; change listeners run after it is released.

use crate::block::RamBlock;
use crate::bus::MmioHandler;
use crate::space::{AddressSpace, WriteObserver};
use crate::view::{FlatRange, FlatView, MmioTarget, Target};
use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, ReentrantMutex};
use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};

/// Deepest nesting of containers and aliases; deeper is a cycle or a bug, and is not mapped.
const MAX_DEPTH: u32 = 32;

/// Owner of a machine's regions and of the address spaces that show them.
pub struct Topology {
    /// Serializes changes. Re-entrant so that a transaction may call the ordinary methods.
    changes: ReentrantMutex<Changes>,
    pub(crate) observer: ArcSwapOption<Arc<dyn WriteObserver>>,
}

#[derive(Default)]
struct Changes {
    depth: Cell<u32>,
    dirty: Cell<bool>,
    spaces: RefCell<Vec<Weak<AddressSpace>>>,
}

impl Topology {
    /// An empty topology.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { changes: ReentrantMutex::default(), observer: ArcSwapOption::empty() })
    }

    /// Runs `body` with the map held still: all changes it makes appear together, once, when it returns.
    pub fn transaction<R>(&self, body: impl FnOnce() -> R) -> R {
        let changes = self.changes.lock();
        changes.depth.set(changes.depth.get() + 1);
        let result = body();
        changes.depth.set(changes.depth.get() - 1);
        if changes.depth.get() > 0 || !changes.dirty.replace(false) {
            return result;
        }
        let mut changed = Vec::new();
        changes.spaces.borrow_mut().retain(|weak| match weak.upgrade() {
            Some(space) => {
                if space.render() {
                    changed.push(space);
                }
                true
            }
            None => false,
        });
        drop(changes);
        changed.iter().for_each(|space| space.notify());
        result
    }

    fn change(&self, body: impl FnOnce()) {
        self.transaction(|| {
            body();
            self.changes.lock().dirty.set(true);
        });
    }

    pub(crate) fn attach(&self, space: &Arc<AddressSpace>) {
        let changes = self.changes.lock();
        changes.spaces.borrow_mut().push(Arc::downgrade(space));
        space.render();
    }
}

#[derive(Clone)]
struct Child {
    offset: u64,
    priority: i32,
    region: Arc<Region>,
}

enum Kind {
    Container,
    Ram { block: Arc<RamBlock>, writable: bool, on_write: Option<Arc<dyn MmioHandler>> },
    Mmio(Arc<dyn MmioHandler>),
    Alias { target: Arc<Region>, offset: u64 },
}

struct State {
    enabled: bool,
    size: u64,
    /// Highest priority first; of equals, last added first.
    children: Vec<Child>,
}

/// A node of the region graph.
pub struct Region {
    topology: Arc<Topology>,
    name: String,
    kind: Kind,
    state: Mutex<State>,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({})", self.name)
    }
}

impl Region {
    fn new(topology: &Arc<Topology>, name: impl Into<String>, size: u64, kind: Kind) -> Arc<Self> {
        let state = Mutex::new(State { enabled: true, size, children: Vec::new() });
        Arc::new(Self { topology: topology.clone(), name: name.into(), kind, state })
    }

    /// A region that only holds others. `size` in bytes.
    pub fn container(topology: &Arc<Topology>, name: impl Into<String>, size: u64) -> Arc<Self> {
        Self::new(topology, name, size, Kind::Container)
    }

    /// Guest RAM: the whole of `block`.
    pub fn ram(topology: &Arc<Topology>, block: Arc<RamBlock>) -> Arc<Self> {
        let (name, size) = (block.name().to_owned(), block.size());
        Self::new(topology, name, size, Kind::Ram { block, writable: true, on_write: None })
    }

    /// Memory the guest can read and execute; its writes are dropped.
    pub fn rom(topology: &Arc<Topology>, block: Arc<RamBlock>) -> Arc<Self> {
        let (name, size) = (block.name().to_owned(), block.size());
        Self::new(topology, name, size, Kind::Ram { block, writable: false, on_write: None })
    }

    /// Memory whose reads come from `block` and whose writes go to `handler` (flash).
    pub fn rom_device(
        topology: &Arc<Topology>,
        block: Arc<RamBlock>,
        handler: Arc<dyn MmioHandler>,
    ) -> Arc<Self> {
        let (name, size) = (block.name().to_owned(), block.size());
        Self::new(topology, name, size, Kind::Ram { block, writable: false, on_write: Some(handler) })
    }

    /// Device registers over `size` bytes.
    pub fn mmio(
        topology: &Arc<Topology>,
        name: impl Into<String>,
        size: u64,
        handler: Arc<dyn MmioHandler>,
    ) -> Arc<Self> {
        Self::new(topology, name, size, Kind::Mmio(handler))
    }

    /// `size` bytes of `target` from `offset` on, seen in a second place.
    pub fn alias(
        topology: &Arc<Topology>,
        name: impl Into<String>,
        target: &Arc<Region>,
        offset: u64,
        size: u64,
    ) -> Arc<Self> {
        Self::new(topology, name, size, Kind::Alias { target: target.clone(), offset })
    }

    /// Name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// The topology this region belongs to.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Places `child` at `offset` with priority 0.
    pub fn add(&self, offset: u64, child: &Arc<Region>) {
        self.add_with_priority(offset, child, 0);
    }

    /// Places `child` at `offset`; where children overlap the higher priority wins.
    pub fn add_with_priority(&self, offset: u64, child: &Arc<Region>, priority: i32) {
        self.topology.change(|| {
            let children = &mut self.state.lock().children;
            let at = children.partition_point(|other| other.priority > priority);
            children.insert(at, Child { offset, priority, region: child.clone() });
        });
    }

    /// Takes `child` out again. Nothing happens if it is not there.
    pub fn remove(&self, child: &Arc<Region>) {
        self.topology.change(|| self.state.lock().children.retain(|c| !Arc::ptr_eq(&c.region, child)));
    }

    /// Moves `child` to `offset`.
    pub fn move_child(&self, child: &Arc<Region>, offset: u64) {
        self.topology.change(|| {
            for c in &mut self.state.lock().children {
                if Arc::ptr_eq(&c.region, child) {
                    c.offset = offset;
                }
            }
        });
    }

    /// Shows or hides the region (with all it holds) wherever it stands.
    pub fn set_enabled(&self, enabled: bool) {
        self.topology.change(|| self.state.lock().enabled = enabled);
    }

    /// True when the region is shown.
    pub fn is_enabled(&self) -> bool {
        self.state.lock().enabled
    }

    /// Changes the size of a container, alias or device region. RAM keeps its block's size as upper bound.
    pub fn set_size(&self, size: u64) {
        self.topology.change(|| self.state.lock().size = size);
    }
}

/// Addresses as signed wide integers: an alias places its target below zero.
type Wide = i128;

/// Renders the graph under `root` into a flat view.
pub(crate) fn render(root: &Arc<Region>) -> FlatView {
    let mut ranges = Vec::new();
    render_region(&mut ranges, root, 0, (0, Wide::from(u64::MAX)), 0);
    FlatView::new(ranges)
}

/// Adds what `region`, based at `base`, shows within `clip` (first and last address) where nothing is yet.
fn render_region(out: &mut Vec<FlatRange>, region: &Arc<Region>, base: Wide, clip: (Wide, Wide), depth: u32) {
    let (enabled, size, children) = {
        let state = region.state.lock();
        (state.enabled, state.size, state.children.clone())
    };
    if !enabled || size == 0 || depth > MAX_DEPTH {
        return;
    }
    let clip = (clip.0.max(base), clip.1.min(base + Wide::from(size) - 1));
    if clip.0 > clip.1 {
        return;
    }
    for child in &children {
        render_region(out, &child.region, base + Wide::from(child.offset), clip, depth + 1);
    }
    match &region.kind {
        Kind::Container => {}
        Kind::Alias { target, offset } => {
            render_region(out, target, base - Wide::from(*offset), clip, depth + 1);
        }
        Kind::Mmio(handler) => fill(out, clip, |start| {
            Target::Mmio(MmioTarget {
                handler: handler.clone(),
                offset: (start - base) as u64,
                region_size: size,
            })
        }),
        Kind::Ram { block, writable, on_write } => {
            let clip = (clip.0, clip.1.min(base + Wide::from(block.size()) - 1));
            fill(out, clip, |start| Target::Ram {
                block: block.clone(),
                offset: (start - base) as u64,
                writable: *writable,
                on_write: on_write.as_ref().map(|handler| MmioTarget {
                    handler: handler.clone(),
                    offset: (start - base) as u64,
                    region_size: size,
                }),
            });
        }
    }
}

/// Puts a target into the gaps that `out` leaves in `clip`, keeping `out` sorted.
fn fill(out: &mut Vec<FlatRange>, clip: (Wide, Wide), target: impl Fn(Wide) -> Target) {
    let mut at = clip.0;
    let mut index = out.partition_point(|range| Wide::from(range.last()) < at);
    while at <= clip.1 {
        let gap_end = out.get(index).map_or(clip.1, |next| clip.1.min(Wide::from(next.start) - 1));
        if at <= gap_end {
            let range = FlatRange { start: at as u64, len: (gap_end - at + 1) as u64, target: target(at) };
            out.insert(index, range);
            index += 1;
        }
        let Some(next) = out.get(index) else { return };
        at = Wide::from(next.last()) + 1;
        index += 1;
    }
}
