//! Pages that code was translated from, and writes to them.
//!
//! A watched page has `PAGE_HAS_CODE` set and no entry in any write table, so that every store to it comes through
//! [`Engine::write_code_page`]. Each such write gives the page a new version and drops the units whose bytes it hits; a
//! translation that read the page under another version is thrown away. Versions are never used twice, so a page that
//! was forgotten and watched again differs from what it was.
//!
//! A page stops being watched once its units are gone and it is written all the same (it is data now), or by
//! [`Engine::forget_empty_pages`], which bounds the table.
//!
//! # What a racing store may do
//! A store that found its write entry before another vCPU watched the page may land after that vCPU has read the
//! bytes. Stores in Rust look at the flag again after they have stored; stores of translated code do not, so bytes
//! that are first translated at the very moment another processor writes them, without synchronization, may be
//! translated as they were before.

use crate::code::{CodeState, Engine};
use crate::env::{PAGE, PageRef};
use crate::frame;
use crate::interpret::Interpreted;
use crate::stats::Stats;
use rhea_memory::{PAGE_HAS_CODE, RamBlock, WriteObserver};
use std::sync::atomic::{AtomicU8, Ordering, fence};

/// Writes to a watched page without units before it counts as data.
const QUIET_WRITES: u32 = 8;
const PAGE_BYTES: usize = PAGE as usize;

/// A page's flag byte.
struct Flag(*const AtomicU8);

// SAFETY: the byte belongs to a RamBlock that the engine keeps alive (`Engine::blocks`) and is only accessed
// atomically.
unsafe impl Send for Flag {}

/// A watched page.
pub(crate) struct CodePage {
    units: Vec<u32>,
    /// One bit for each 64 bytes that some unit covers.
    granules: u64,
    pub version: u64,
    flag: Flag,
    /// Writes while it had no units.
    quiet: u32,
}

impl CodePage {
    fn unwatch(&self) {
        // SAFETY: see `Flag`.
        if let Some(flag) = unsafe { self.flag.0.as_ref() } {
            flag.fetch_and(!PAGE_HAS_CODE, Ordering::SeqCst);
        }
    }
}

impl CodeState {
    /// Notes that `unit` covers `start..stop` of the page at `host`.
    pub(crate) fn cover(&mut self, host: usize, unit: u32, (start, stop): (usize, usize)) {
        if let Some(page) = self.pages.get_mut(&host) {
            page.units.push(unit);
            page.granules |= granule_mask(start, stop);
            page.quiet = 0;
        }
    }

    /// Takes `unit` off the page at `host`.
    pub(crate) fn uncover(&mut self, host: usize, unit: u32) {
        let Some(page) = self.pages.get_mut(&host) else { return };
        page.units.retain(|&u| u != unit);
        let mut granules = 0;
        for &u in &page.units {
            if let Some(r) = &self.units[u as usize] {
                let (start, stop) = r.range_in(host);
                granules |= granule_mask(start, stop);
            }
        }
        page.granules = granules;
    }

    fn new_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }
}

impl Engine {
    /// Sees to it that stores to the page come through [`Engine::write_code_page`]; returns the page's version.
    pub(crate) fn watch_page(&self, page: &PageRef) -> u64 {
        let mut code = self.code.lock();
        if let Some(known) = code.pages.get(&page.host) {
            return known.version;
        }
        let version = code.new_version();
        let flag = Flag(page.flag().map_or(std::ptr::null(), std::ptr::from_ref));
        let entry = CodePage { units: Vec::new(), granules: 0, version, flag, quiet: 0 };
        code.pages.insert(page.host, entry);
        if let Some(flag) = page.flag() {
            flag.fetch_or(PAGE_HAS_CODE, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            self.drop_write_entries(page.host as u64);
        }
        version
    }

    /// Empties every write-TLB entry of every vCPU that leads to the host page.
    fn drop_write_entries(&self, host: u64) {
        let indices = usize::from(self.guest().layout().mmu_indices).min(frame::MMU_INDICES);
        for vcpu in self.vcpus.lock().iter() {
            for tables in &vcpu.memory.frame().tlb[..indices] {
                for e in &tables.write {
                    let tag = e.tag.load(Ordering::Acquire);
                    if tag.wrapping_add(e.addend.load(Ordering::Relaxed)) == host && tag != frame::NO_TAG {
                        e.tag.store(frame::NO_TAG, Ordering::SeqCst);
                    }
                }
            }
        }
    }

    /// Drops the units that `host..host + len` hits (all in one page), then runs `write`, which does the store.
    pub(crate) fn write_code_page<R>(
        &self,
        host: usize,
        len: usize,
        stats: &mut Stats,
        write: impl FnOnce() -> R,
    ) -> R {
        let mut code = self.code.lock();
        stats.invalidated += self.drop_units_in(&mut code, host, len);
        write()
    }

    /// Drops units that overlap a host range within one page; returns how many.
    fn drop_units_in(&self, code: &mut CodeState, host: usize, len: usize) -> u64 {
        let page_host = host & !(PAGE_BYTES - 1);
        if !code.pages.contains_key(&page_host) {
            return 0;
        }
        let version = code.new_version();
        let Some(page) = code.pages.get_mut(&page_host) else { return 0 };
        page.version = version;
        let (at, end) = (host - page_host, (host - page_host + len).min(PAGE_BYTES));
        let mut hit = Vec::new();
        if page.granules & granule_mask(at, end) != 0 {
            hit.extend(page.units.iter().copied().filter(|&u| {
                code.units[u as usize].as_ref().is_some_and(|r| {
                    let (start, stop) = r.range_in(page_host);
                    start < end && at < stop
                })
            }));
        }
        for &unit in &hit {
            self.drop_unit(code, unit);
        }
        if let Some(page) = code.pages.get_mut(&page_host)
            && page.units.is_empty()
        {
            page.quiet += 1;
            if page.quiet >= QUIET_WRITES || len >= PAGE_BYTES {
                page.unwatch();
                code.pages.remove(&page_host);
            }
        }
        hit.len() as u64
    }

    /// Stops watching pages that hold no unit.
    pub(crate) fn forget_empty_pages(code: &mut CodeState) {
        code.pages.retain(|_, page| {
            if page.units.is_empty() {
                page.unwatch();
            }
            !page.units.is_empty()
        });
    }

    /// Whether a store to `host..host + len` hits the unit whose code contains `return_address`, or `current`, and
    /// that unit has more than one instruction: the instruction must then be executed alone.
    pub(crate) fn hits_running_unit(
        &self,
        host: usize,
        len: usize,
        return_address: u64,
        current: Option<&Interpreted>,
    ) -> bool {
        if let Some(i) = current {
            return i.unit.insn_count > 1 && i.covers(host, len);
        }
        let code = self.code.lock();
        let Some(offset) = return_address.checked_sub(self.code_base()) else { return false };
        let offset = offset as usize;
        let Some(segment) = code.segments.iter().find(|s| (s.start..s.end).contains(&offset)) else {
            return false;
        };
        let after = segment.units.partition_point(|&(start, _)| start <= offset);
        let Some(&(start, unit)) = after.checked_sub(1).and_then(|i| segment.units.get(i)) else {
            return false;
        };
        let Some(r) = code.units.get(unit as usize).and_then(Option::as_ref) else { return true };
        if r.code.0 != start {
            // The running unit was dropped already: its bytes are unknown, so be safe.
            return true;
        }
        let page = host & !(PAGE_BYTES - 1);
        let at = host - page;
        let (first, stop) = r.range_in(page);
        r.insns > 1 && first < at + len && at < stop
    }

    /// Drops every unit that overlaps `len` bytes of RAM from host address `host` (any number of pages).
    pub fn ram_changed(&self, host: usize, len: usize) {
        let mut code = self.code.lock();
        let mut at = host;
        let end = host + len;
        while at < end {
            let next = ((at | (PAGE_BYTES - 1)) + 1).min(end);
            self.drop_units_in(&mut code, at, next - at);
            at = next;
        }
    }
}

impl WriteObserver for Engine {
    fn ram_written(&self, block: &RamBlock, offset: u64, len: u64) {
        self.ram_changed(block.host_ptr() as usize + offset as usize, len as usize);
    }
}

fn granule_mask(start: usize, end: usize) -> u64 {
    if start >= end {
        return 0;
    }
    let (first, last) = (start / 64, (end - 1) / 64);
    let upto = if last >= 63 { u64::MAX } else { (1 << (last + 1)) - 1 };
    upto & (u64::MAX << first)
}

#[cfg(test)]
mod tests {
    use super::granule_mask;

    #[test]
    fn granules_cover_the_bytes_and_no_more() {
        assert_eq!(granule_mask(0, 1), 1);
        assert_eq!(granule_mask(63, 65), 3);
        assert_eq!(granule_mask(64, 64), 0);
        assert_eq!(granule_mask(4032, 4096), 1 << 63);
        assert_eq!(granule_mask(0, 4096), u64::MAX);
    }
}
