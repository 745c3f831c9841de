//! An address space: one master's sight of the region graph, and accesses through it.

use crate::block::{PAGE_HAS_CODE, RamBlock};
use crate::bus::all_ones;
use crate::region::{Region, render};
use crate::view::{FlatView, Target};
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Is told of writes to RAM that holds translated code, when they do not come from translated code itself.
pub trait WriteObserver: Send + Sync {
    /// `len` bytes at `offset` of `block` were written by a device or the loader.
    fn ram_written(&self, block: &RamBlock, offset: u64, len: u64);
}

/// A block access that left what answers in the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing answers at guest address {address:#x}")]
pub struct AccessError {
    /// First address nothing answers at.
    pub address: u64,
}

type Listener = Arc<dyn Fn() + Send + Sync>;

/// One master's address space over a root region: guest physical memory of a vCPU or a device, or I/O ports.
pub struct AddressSpace {
    name: String,
    root: Arc<Region>,
    view: ArcSwap<FlatView>,
    generation: AtomicU64,
    listeners: Mutex<Vec<Listener>>,
}

impl std::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AddressSpace({})", self.name)
    }
}

impl AddressSpace {
    /// An address space that shows `root`.
    pub fn new(name: impl Into<String>, root: Arc<Region>) -> Arc<Self> {
        let topology = root.topology().clone();
        let space = Arc::new(Self {
            name: name.into(),
            root,
            view: ArcSwap::from_pointee(FlatView::default()),
            generation: AtomicU64::new(0),
            listeners: Mutex::default(),
        });
        topology.attach(&space);
        space
    }

    /// Name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root region.
    pub fn root(&self) -> &Arc<Region> {
        &self.root
    }

    /// The map as it is now. Cheap; hold it for one access, not longer.
    pub fn view(&self) -> Guard<Arc<FlatView>> {
        self.view.load()
    }

    /// Counts map changes: a mapping remembered from an older generation is stale.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds a listener that runs after each change of this space's map, on the thread that made it. It may be
    /// called with a device's lock held, so it must not call into devices.
    pub fn on_change(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.listeners.lock().push(Arc::from(listener));
    }

    /// Sets who is told of writes to pages with [`PAGE_HAS_CODE`]. One observer serves all address spaces of
    /// a machine.
    pub fn set_write_observer(&self, observer: Arc<dyn WriteObserver>) {
        self.root.topology().observer.store(Some(Arc::new(observer)));
    }

    /// Renders the map again; true if it differs. The topology's lock is held.
    pub(crate) fn render(&self) -> bool {
        let view = render(&self.root);
        if view.same(&self.view.load()) {
            return false;
        }
        self.view.store(Arc::new(view));
        self.generation.fetch_add(1, Ordering::AcqRel);
        true
    }

    pub(crate) fn notify(&self) {
        let listeners = self.listeners.lock().clone();
        listeners.iter().for_each(|listener| listener());
    }

    /// Reads `size` (1 to 8) bytes, little-endian. Where nothing answers, ones are read.
    pub fn read(&self, addr: u64, size: usize) -> u64 {
        if let Some(value) = self.read_within(addr, size) {
            return value;
        }
        // The access leaves its range: byte by byte, each to whatever answers there.
        (0..size.min(8))
            .rev()
            .fold(0, |value, i| value << 8 | self.read_within(addr.wrapping_add(i as u64), 1).unwrap_or(0xff))
    }

    /// Reads inside one range; `None` if the access leaves it.
    fn read_within(&self, addr: u64, size: usize) -> Option<u64> {
        let view = self.view.load();
        let Some(range) = view.lookup(addr) else {
            let end = addr.checked_add(size as u64)?;
            return view.next_start(addr).is_none_or(|next| next >= end).then(|| all_ones(size));
        };
        let delta = addr - range.start;
        match &range.target {
            Target::Ram { block, offset, .. } => {
                (range.len - delta >= size as u64).then(|| block.read(offset + delta, size))
            }
            // The handler may change the map meanwhile: the guard only keeps the old one alive.
            Target::Mmio(mmio) => mmio.read(delta, size),
        }
    }

    /// Writes the low `size` (1 to 8) bytes of `value`. Where nothing answers, the write is dropped.
    pub fn write(&self, addr: u64, size: usize, value: u64) {
        if self.write_within(addr, size, value).is_some() {
            return;
        }
        for i in 0..size.min(8) {
            let _ = self.write_within(addr.wrapping_add(i as u64), 1, (value >> (8 * i)) & 0xff);
        }
    }

    fn write_within(&self, addr: u64, size: usize, value: u64) -> Option<()> {
        let view = self.view.load();
        let Some(range) = view.lookup(addr) else {
            let end = addr.checked_add(size as u64)?;
            return view.next_start(addr).is_none_or(|next| next >= end).then_some(());
        };
        let delta = addr - range.start;
        match &range.target {
            Target::Ram { block, offset, writable, on_write } => {
                if range.len - delta < size as u64 {
                    return None;
                }
                if *writable {
                    block.write(offset + delta, size, value);
                    self.report(block, offset + delta, size as u64);
                } else if let Some(mmio) = on_write {
                    return mmio.write(delta, size, value);
                }
                Some(())
            }
            Target::Mmio(mmio) => mmio.write(delta, size, value),
        }
    }

    pub(crate) fn report(&self, block: &RamBlock, offset: u64, len: u64) {
        // A translator sets the flag and then reads the bytes; we wrote the bytes and now read the flag. With a fence
        // on each side, one of the two sees the other.
        fence(Ordering::SeqCst);
        if block.any_page_flag(offset, len, PAGE_HAS_CODE)
            && let Some(observer) = &*self.root.topology().observer.load()
        {
            observer.ram_written(block, offset, len);
        }
    }

    /// Copies guest memory out. Device registers are read as the device allows.
    ///
    /// # Errors
    /// Nothing answers at some address; bytes before it have been copied.
    pub fn read_bytes(&self, addr: u64, out: &mut [u8]) -> Result<(), AccessError> {
        let (mut at, mut done) = (addr, 0);
        while done < out.len() {
            let view = self.view.load();
            let range = view.lookup(at).ok_or(AccessError { address: at })?;
            let delta = at - range.start;
            let n = (range.len - delta).min((out.len() - done) as u64) as usize;
            match &range.target {
                Target::Ram { block, offset, .. } => {
                    block.read_bytes(offset + delta, &mut out[done..done + n]);
                }
                Target::Mmio(mmio) => {
                    for (i, chunk) in out[done..done + n].chunks_mut(8).enumerate() {
                        let size = chunk.len();
                        let value = mmio.read(delta + 8 * i as u64, size).unwrap_or(u64::MAX);
                        chunk.copy_from_slice(&value.to_le_bytes()[..size]);
                    }
                }
            }
            done += n;
            at = at.wrapping_add(n as u64);
        }
        Ok(())
    }

    /// Copies bytes into guest memory. ROM drops them; devices take them.
    ///
    /// # Errors
    /// Nothing answers at some address; bytes before it have been written.
    pub fn write_bytes(&self, addr: u64, data: &[u8]) -> Result<(), AccessError> {
        let (mut at, mut done) = (addr, 0);
        while done < data.len() {
            let view = self.view.load();
            let range = view.lookup(at).ok_or(AccessError { address: at })?;
            let delta = at - range.start;
            let n = (range.len - delta).min((data.len() - done) as u64) as usize;
            let part = &data[done..done + n];
            match &range.target {
                Target::Ram { block, offset, writable: true, .. } => {
                    block.write_bytes(offset + delta, part);
                    self.report(block, offset + delta, n as u64);
                }
                Target::Ram { on_write: None, .. } => {}
                Target::Ram { on_write: Some(mmio), .. } | Target::Mmio(mmio) => {
                    for (i, chunk) in part.chunks(8).enumerate() {
                        let mut bytes = [0; 8];
                        bytes[..chunk.len()].copy_from_slice(chunk);
                        let _ = mmio.write(delta + 8 * i as u64, chunk.len(), u64::from_le_bytes(bytes));
                    }
                }
            }
            done += n;
            at = at.wrapping_add(n as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::tests::Probe;
    use crate::region::Topology;
    use std::sync::atomic::AtomicU32;

    fn ram(topology: &Arc<Topology>, name: &str, size: u64) -> (Arc<RamBlock>, Arc<Region>) {
        let block = Arc::new(RamBlock::new(name, size).unwrap());
        (block.clone(), Region::ram(topology, block))
    }

    #[test]
    fn priorities_aliases_and_clipping_make_a_flat_map() {
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 20);
        let (block, region) = ram(&topology, "ram", 0x10000);
        root.add(0, &region);
        let probe = Arc::new(Probe::new(1, 8));
        let mmio = Region::mmio(&topology, "dev", 0x1000, probe.clone());
        root.add_with_priority(0x2000, &mmio, 1);
        let alias = Region::alias(&topology, "high", &region, 0x1000, 0x3000);
        root.add(0xff000, &alias);
        let space = AddressSpace::new("test", root.clone());

        let view = space.view();
        let map: Vec<(u64, u64)> = view.ranges().iter().map(|r| (r.start, r.len)).collect();
        assert_eq!(map, [(0, 0x2000), (0x2000, 0x1000), (0x3000, 0xd000), (0xff000, 0x1000)]);
        assert!(view.lookup(0x10000).is_none());
        space.write(0xff010, 4, 0x1234_5678);
        assert_eq!(block.read(0x1010, 4), 0x1234_5678);
        mmio.set_enabled(false);
        assert_eq!(space.view().ranges().len(), 2, "the RAM around the hidden device is one range again");
    }

    #[test]
    fn accesses_cross_ranges_and_holes() {
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 20);
        let (a, low) = ram(&topology, "a", 0x1000);
        let (b, high) = ram(&topology, "b", 0x1000);
        root.add(0, &low);
        root.add(0x1000, &high);
        let space = AddressSpace::new("test", root);
        space.write(0xffe, 4, 0xddcc_bbaa);
        assert_eq!((a.read(0xffe, 2), b.read(0, 2)), (0xbbaa, 0xddcc));
        assert_eq!(space.read(0xffe, 4), 0xddcc_bbaa);
        space.write(0x1ffe, 4, 0x1122_3344);
        assert_eq!(space.read(0x1ffe, 4), 0xffff_3344);
        assert_eq!(space.read(0x9000, 8), u64::MAX);
        assert_eq!(space.write_bytes(0x1ffe, &[1, 2, 3]), Err(AccessError { address: 0x2000 }));
        assert_eq!(space.read(u64::MAX, 8), 0xff, "the access wraps to address zero");
    }

    #[test]
    fn a_device_gets_the_whole_access_though_another_overlaps_its_middle() {
        let topology = Topology::new();
        let ports = Region::container(&topology, "io", 1 << 16);
        let config = Arc::new(Probe::new(1, 4));
        let reset = Arc::new(Probe::new(1, 1));
        ports.add(0xcf8, &Region::mmio(&topology, "config", 4, config.clone()));
        ports.add_with_priority(0xcf9, &Region::mmio(&topology, "reset", 1, reset.clone()), 1);
        let io = AddressSpace::new("io", ports);
        io.write(0xcf8, 4, 0x8000_0000);
        io.write(0xcf9, 1, 6);
        assert_eq!(config.log.lock()[..], [('w', 0, 4, 0x8000_0000)]);
        assert_eq!(reset.log.lock()[..], [('w', 0, 1, 6)]);
    }

    #[test]
    fn rom_drops_writes_and_rom_device_gets_them() {
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 20);
        let block = Arc::new(RamBlock::new("rom", 0x1000).unwrap());
        block.write(0, 4, 0xfeed);
        let probe = Arc::new(Probe::new(1, 8));
        root.add(0, &Region::rom(&topology, block.clone()));
        root.add(0x1000, &Region::rom_device(&topology, block, probe.clone()));
        let space = AddressSpace::new("test", root);
        space.write(0, 4, 1);
        space.write(0x1000, 4, 2);
        assert_eq!((space.read(0, 4), space.read(0x1000, 4)), (0xfeed, 0xfeed));
        assert_eq!(probe.log.lock()[..], [('w', 0, 4, 2)]);
    }

    #[test]
    fn a_change_notifies_only_the_spaces_it_touches_and_once() {
        let topology = Topology::new();
        let system = Region::container(&topology, "system", 1 << 32);
        let (_, region) = ram(&topology, "ram", 0x10000);
        system.add(0, &region);
        let cpu = |n: u32| {
            let root = Region::container(&topology, format!("cpu{n}"), 1 << 32);
            root.add(0, &system);
            let apic = Region::mmio(&topology, "apic", 0x1000, Arc::new(Probe::new(4, 4)));
            root.add_with_priority(0xfee0_0000, &apic, 10);
            let space = AddressSpace::new("cpu", root.clone());
            let count = Arc::new(AtomicU32::new(0));
            let counter = count.clone();
            space.on_change(Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }));
            (root, apic, space, count)
        };
        let (root0, apic0, space0, count0) = cpu(0);
        let (_, _, space1, count1) = cpu(1);
        let before = space0.generation();
        root0.move_child(&apic0, 0xfed0_0000);
        assert!(space0.view().lookup(0xfed0_0010).is_some());
        assert!(space0.view().lookup(0xfee0_0010).is_none());
        assert!(space1.view().lookup(0xfee0_0010).is_some());
        assert_eq!(space0.generation(), before + 1);
        topology.transaction(|| {
            region.set_enabled(false);
            apic0.set_enabled(false);
        });
        assert_eq!((count0.load(Ordering::Relaxed), count1.load(Ordering::Relaxed)), (2, 1));
    }

    #[test]
    fn writes_to_pages_with_code_are_reported() {
        struct Seen(Mutex<Vec<(u64, u64)>>);
        impl WriteObserver for Seen {
            fn ram_written(&self, _: &RamBlock, offset: u64, len: u64) {
                self.0.lock().push((offset, len));
            }
        }
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 20);
        let (block, region) = ram(&topology, "ram", 0x4000);
        root.add(0, &region);
        let space = AddressSpace::new("test", root);
        let seen = Arc::new(Seen(Mutex::default()));
        space.set_write_observer(seen.clone());
        block.page_flags(1).store(PAGE_HAS_CODE, Ordering::Relaxed);
        space.write(0x100, 4, 1);
        space.write(0x1ffc, 4, 1);
        space.write_bytes(0xff0, &[0; 32]).unwrap();
        assert_eq!(seen.0.lock()[..], [(0x1ffc, 4), (0xff0, 32)]);
    }
}
