//! Segment and gate descriptors: fetching from GDT and LDT, and their fields (SDM vol. 3, 3.4.5, 3.5 and 7.11).

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, efer};
use rhea_x86_state::flags;
use rhea_x86_state::state::{Segment, attr};

use crate::bus::{Privilege, SystemBus};
use crate::exception::Exception;

/// System-segment and gate types (SDM vol. 3, table 3-2).
pub mod system_type {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const TSS16_AVAILABLE: u32 = 1;
    pub const LDT: u32 = 2;
    pub const TSS16_BUSY: u32 = 3;
    pub const CALL_GATE16: u32 = 4;
    pub const TASK_GATE: u32 = 5;
    pub const INTERRUPT_GATE16: u32 = 6;
    pub const TRAP_GATE16: u32 = 7;
    pub const TSS32_AVAILABLE: u32 = 9;
    pub const TSS32_BUSY: u32 = 11;
    pub const CALL_GATE32: u32 = 12;
    pub const INTERRUPT_GATE32: u32 = 14;
    pub const TRAP_GATE32: u32 = 15;
}

/// The attribute bits of a descriptor that [`Segment::attr`] keeps.
const ATTR_MASK: u32 = 0x00f0_ff00;

/// Requestor's privilege level of a selector.
#[inline]
pub const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// A null selector: index 0 in the GDT, any RPL.
#[inline]
pub const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// The error code that names a selector.
#[inline]
pub const fn selector_code(selector: u16) -> u32 {
    selector as u32 & 0xfffc
}

/// Protected mode other than virtual-8086.
#[inline]
pub fn is_protected(st: &X86State) -> bool {
    st.cr[0] & cr0::PE != 0 && st.rflags & flags::VM == 0
}

/// Virtual-8086 mode.
#[inline]
pub fn is_vm86(st: &X86State) -> bool {
    st.cr[0] & cr0::PE != 0 && st.rflags & flags::VM != 0
}

/// Long mode is active (64-bit or compatibility mode).
#[inline]
pub fn is_long(st: &X86State) -> bool {
    st.efer & efer::LMA != 0
}

/// 64-bit mode.
#[inline]
pub fn is_code64(st: &X86State) -> bool {
    is_long(st) && st.seg[rhea_x86_state::state::seg::CS].attr & attr::L != 0
}

/// The first eight bytes of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Both doublewords, the first in the low half.
    pub raw: u64,
    /// Linear address it was read from.
    pub linear: u64,
}

impl Descriptor {
    /// Second doubleword.
    #[inline]
    pub const fn high(&self) -> u32 {
        (self.raw >> 32) as u32
    }

    /// Type field, 0..=15.
    #[inline]
    pub const fn kind(&self) -> u32 {
        self.high() >> 8 & 0xf
    }

    /// A system descriptor or gate rather than code or data.
    #[inline]
    pub const fn is_system(&self) -> bool {
        self.high() & attr::S == 0
    }

    /// Descriptor privilege level.
    #[inline]
    pub const fn dpl(&self) -> u8 {
        (self.high() >> attr::DPL_SHIFT & 3) as u8
    }

    /// Present bit.
    #[inline]
    pub const fn present(&self) -> bool {
        self.high() & attr::P != 0
    }

    /// A code segment.
    #[inline]
    pub const fn is_code(&self) -> bool {
        self.high() & (attr::S | attr::CODE) == attr::S | attr::CODE
    }

    /// A conforming code segment.
    #[inline]
    pub const fn is_conforming(&self) -> bool {
        self.high() & (attr::S | attr::CODE | attr::EC) == attr::S | attr::CODE | attr::EC
    }

    /// A writable data segment.
    #[inline]
    pub const fn is_writable_data(&self) -> bool {
        self.high() & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW
    }

    /// A data segment or a readable code segment.
    #[inline]
    pub const fn is_readable(&self) -> bool {
        self.high() & attr::S != 0 && self.high() & (attr::CODE | attr::RW) != attr::CODE
    }

    /// Segment base, 32 bits.
    #[inline]
    pub const fn base(&self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000
    }

    /// Segment limit in bytes, scaled.
    #[inline]
    pub const fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff) as u32 | self.high() & 0xf_0000;
        if self.high() & attr::G != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// The segment register that a load of this descriptor gives.
    #[inline]
    pub const fn segment(&self, selector: u16) -> Segment {
        Segment {
            base: self.base(),
            limit: self.limit(),
            attr: self.high() & ATTR_MASK,
            selector,
            reserved: [0; 3],
        }
    }

    /// A gate's selector.
    #[inline]
    pub const fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// A 32-bit gate's offset.
    #[inline]
    pub const fn gate_offset(&self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000
    }
}

/// Reads the descriptor of a selector that is not null. `None`: it is outside its table.
#[inline]
pub fn fetch(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
) -> Result<Option<Descriptor>, Exception> {
    let index = u32::from(selector & 0xfff8);
    let (base, limit) = if selector & 4 == 0 {
        (st.gdtr.base, st.gdtr.limit)
    } else if st.ldtr.attr & attr::P != 0 {
        (st.ldtr.base, st.ldtr.limit)
    } else {
        return Ok(None);
    };
    if index + 7 > limit {
        return Ok(None);
    }
    let linear = truncate(st, base.wrapping_add(u64::from(index)));
    let raw = bus.read_linear(st, linear, 8, Privilege::Supervisor)?;
    Ok(Some(Descriptor { raw, linear }))
}

/// Reads a descriptor or raises #GP(selector).
#[inline]
pub fn fetch_or_gp(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    ext: u32,
) -> Result<Descriptor, Exception> {
    match fetch(st, bus, selector)? {
        Some(d) => Ok(d),
        None => Err(Exception::gp(selector_code(selector) | ext)),
    }
}

/// Reads the upper eight bytes of a 16-byte system descriptor in long mode. `None`: outside the table.
pub fn fetch_upper(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    lower: &Descriptor,
) -> Result<Option<u64>, Exception> {
    let limit = if selector & 4 == 0 { st.gdtr.limit } else { st.ldtr.limit };
    if u32::from(selector & 0xfff8) + 15 > limit {
        return Ok(None);
    }
    Ok(Some(bus.read_linear(st, lower.linear.wrapping_add(8), 8, Privilege::Supervisor)?))
}

/// Sets the accessed bit of a code or data descriptor in memory if it is clear.
#[inline]
pub fn mark_accessed(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    descriptor: &mut Descriptor,
) -> Result<(), Exception> {
    if descriptor.high() & attr::A == 0 {
        descriptor.raw |= u64::from(attr::A) << 32;
        let byte = descriptor.raw >> 40 & 0xff;
        let linear = truncate(st, descriptor.linear.wrapping_add(5));
        bus.write_linear(st, linear, 1, byte, Privilege::Supervisor)?;
    }
    Ok(())
}

/// A linear address as wide as the mode has it: 32 bits outside long mode.
#[inline]
pub fn truncate(st: &X86State, linear: u64) -> u64 {
    if is_long(st) { linear } else { linear & 0xffff_ffff }
}
