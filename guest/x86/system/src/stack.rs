//! A stack under construction: pushes and pops with limit checks, committed to RSP only when all has gone well.

use rhea_x86_state::X86State;
use rhea_x86_state::state::{Segment, attr, gpr, seg};

use crate::bus::{Privilege, SystemBus};
use crate::descriptor::is_code64;
use crate::exception::Exception;
use crate::paging::is_canonical;

/// Whether `size` bytes at `offset` lie inside a segment (SDM vol. 3, 6.3). Present is the caller's business.
#[inline]
pub fn within_limit(segment: &Segment, offset: u64, size: u64) -> bool {
    let last = offset + (size - 1);
    let limit = u64::from(segment.limit);
    if segment.attr & (attr::CODE | attr::EC) == attr::EC {
        let top = if segment.attr & attr::DB != 0 { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

/// A stack: the current one or a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    segment: Segment,
    /// Stack pointer; only the bits in `mask` count.
    sp: u64,
    mask: u64,
    privilege: Privilege,
    /// Error code of the #SS that an access outside the stack raises.
    code: u32,
}

impl Stack {
    /// The current stack, at the current privilege level.
    #[inline]
    pub fn current(st: &X86State) -> Self {
        let segment = st.seg[seg::SS];
        let mask = if is_code64(st) { u64::MAX } else { stack_mask(&segment) };
        Self { segment, sp: st.gpr[gpr::RSP], mask, privilege: Privilege::Current, code: 0 }
    }

    /// A stack of 16 or 32 bits in `segment`, accessed as at `ring`.
    #[inline]
    pub fn new(segment: Segment, sp: u64, ring: u8, code: u32) -> Self {
        Self { segment, sp, mask: stack_mask(&segment), privilege: Privilege::Ring(ring), code }
    }

    /// A 64-bit stack, accessed as at `ring`.
    #[inline]
    pub fn new64(sp: u64, ring: u8, code: u32) -> Self {
        Self { segment: Segment::default(), sp, mask: u64::MAX, privilege: Privilege::Ring(ring), code }
    }

    #[inline]
    fn linear(&self, sp: u64, size: u64) -> Result<u64, Exception> {
        if self.mask == u64::MAX {
            return if is_canonical(sp) { Ok(sp) } else { Err(Exception::ss(self.code)) };
        }
        let offset = sp & self.mask;
        if self.segment.attr & attr::P == 0 || !within_limit(&self.segment, offset, size) {
            return Err(Exception::ss(self.code));
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Pushes `size` bytes of `value`.
    #[inline]
    pub fn push(
        &mut self,
        st: &mut X86State,
        bus: &mut dyn SystemBus,
        size: u8,
        value: u64,
    ) -> Result<(), Exception> {
        let sp = self.sp.wrapping_sub(u64::from(size));
        let linear = self.linear(sp, u64::from(size))?;
        bus.write_linear(st, linear, size, value, self.privilege)?;
        self.sp = sp;
        Ok(())
    }

    /// Pops `size` bytes.
    #[inline]
    pub fn pop(&mut self, st: &mut X86State, bus: &mut dyn SystemBus, size: u8) -> Result<u64, Exception> {
        let linear = self.linear(self.sp, u64::from(size))?;
        let value = bus.read_linear(st, linear, size, self.privilege)?;
        self.sp = self.sp.wrapping_add(u64::from(size));
        Ok(value)
    }

    /// Reads `size` bytes `above` bytes above the stack pointer.
    pub fn peek(
        &self,
        st: &mut X86State,
        bus: &mut dyn SystemBus,
        size: u8,
        above: u64,
    ) -> Result<u64, Exception> {
        let linear = self.linear(self.sp.wrapping_add(above), u64::from(size))?;
        bus.read_linear(st, linear, size, self.privilege)
    }

    /// Moves the stack pointer up.
    #[inline]
    pub fn release(&mut self, bytes: u64) {
        self.sp = self.sp.wrapping_add(bytes);
    }

    /// Rounds the stack pointer down to 16 bytes (interrupts in long mode).
    #[inline]
    pub fn align16(&mut self) {
        self.sp &= !0xf;
    }

    /// Stores the stack pointer: SP, ESP or RSP according to the stack's own width.
    #[inline]
    pub fn commit(&self, st: &mut X86State) {
        store_sp(st, self.sp, self.mask);
    }
}

/// 0xffff or 0xffff_ffff by the B bit.
#[inline]
pub fn stack_mask(segment: &Segment) -> u64 {
    if segment.attr & attr::DB != 0 { 0xffff_ffff } else { 0xffff }
}

/// Stores the bits of `sp` that a stack of width `mask` has; a 32-bit stack clears the upper half.
#[inline]
pub fn store_sp(st: &mut X86State, sp: u64, mask: u64) {
    let rsp = &mut st.gpr[gpr::RSP];
    *rsp = match mask {
        0xffff => *rsp & !0xffff | sp & 0xffff,
        _ => sp & mask,
    };
}
