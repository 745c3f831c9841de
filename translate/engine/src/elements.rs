//! Elements of vectors, moved one by one between memory and the register state without asking the TLB for each of them.

use crate::context::VcpuContext;
use crate::env::{PAGE, PageRef, host_load, host_store};
use crate::guest::Access;

/// The page that the last element was in, and which of its bytes have been stored to.
struct Current {
    page: PageRef,
    first: u64,
    end: u64,
}

impl VcpuContext {
    /// Loads elements of `size` (1, 2, 4 or 8) bytes. `next` tells the address of each and the byte of the state where it
    /// goes, until it has no more. Returns false at the first one that is not in one page of RAM that the TLB has, or that
    /// does not fit the state: that one has not been loaded.
    ///
    /// # Panics
    /// If `S` is not the type the vCPU was made with.
    pub fn load_elements<S: 'static>(
        &mut self,
        size: u32,
        index: u8,
        mut next: impl FnMut(&S) -> Option<(u64, usize)>,
    ) -> bool {
        let mut current: Option<PageRef> = None;
        while let Some((vaddr, at)) = next(self.state::<S>()) {
            if !self.is_inside(vaddr, at, size) {
                return false;
            }
            let page = match current {
                Some(page) if page.vpage == vaddr - vaddr % PAGE => page,
                _ => match self.env.page(vaddr, Access::Read, index) {
                    Some(page) if page.host != 0 => page,
                    _ => return false,
                },
            };
            current = Some(page);
            let value = host_load(page.host + (vaddr % PAGE) as usize, size).to_le_bytes();
            // SAFETY: `is_inside`: the range lies in the state block, whose bytes the exclusive borrow of self covers;
            // translated code does not run meanwhile. State types are plain data of which translated code writes any byte.
            unsafe {
                let to = self.env.memory_block.state_ptr().add(at);
                std::ptr::copy_nonoverlapping(value.as_ptr(), to, size as usize);
            }
        }
        true
    }

    /// Stores elements, as [`VcpuContext::load_elements`]; returns false also where a page holds translated code.
    ///
    /// # Panics
    /// If `S` is not the type the vCPU was made with.
    pub fn store_elements<S: 'static>(
        &mut self,
        size: u32,
        index: u8,
        mut next: impl FnMut(&S) -> Option<(u64, usize)>,
    ) -> bool {
        let mut current: Option<Current> = None;
        let done = loop {
            let Some((vaddr, at)) = next(self.state::<S>()) else { break true };
            if !self.is_inside(vaddr, at, size) {
                break false;
            }
            let is_same = current.as_ref().is_some_and(|c| c.page.vpage == vaddr - vaddr % PAGE);
            if !is_same {
                self.stored(current.take());
                let page = self.env.page(vaddr, Access::Write, index);
                let Some(page) = page.filter(|p| p.is_writable_ram() && !p.has_code()) else { break false };
                current = Some(Current { page, first: vaddr, end: vaddr });
            }
            let Some(now) = &mut current else { break false };
            let mut value = [0; 8];
            // SAFETY: as in `load_elements`.
            unsafe {
                let from = self.env.memory_block.state_ptr().add(at);
                std::ptr::copy_nonoverlapping(from, value.as_mut_ptr(), size as usize);
            }
            host_store(now.page.host + (vaddr % PAGE) as usize, size, u64::from_le_bytes(value));
            (now.first, now.end) = (now.first.min(vaddr), now.end.max(vaddr + u64::from(size)));
        };
        self.stored(current);
        done
    }

    /// Code may have been translated meanwhile from what was stored to.
    fn stored(&self, to: Option<Current>) {
        if let Some(Current { page, first, end }) = to {
            self.env.after_store(&page, first, (end - first) as usize);
        }
    }

    /// Whether an element is in one page of memory, and in the state.
    fn is_inside(&self, vaddr: u64, at: usize, size: u32) -> bool {
        let state = at.checked_add(size as usize).is_some_and(|end| end <= self.env.memory_block.state_len());
        state && matches!(size, 1 | 2 | 4 | 8) && vaddr % PAGE + u64::from(size) <= PAGE
    }
}
