//! The configuration space of one function: header, base address registers, capabilities, interrupts.

use crate::msi::{MsixTable, msi_spec, msix_spec};
use crate::spec;
use parking_lot::Mutex;
use rhea_device::{IrqLine, LoadError, MsiSink};
use rhea_memory::Region;
use std::sync::{Arc, OnceLock};

/// Who a function is.
#[derive(Clone, Copy, Debug)]
pub struct FunctionIdentity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class code: base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor and device ID.
    pub subsystem: (u16, u16),
    /// Interrupt pin, 1 to 4 for INTA to INTD; 0 for none.
    pub interrupt_pin: u8,
}

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// 32-bit memory.
    Memory32,
    /// 64-bit memory; takes two registers.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// A base address register and the region behind it.
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Registers or memory; its size must be a power of two (at least 4 for ports, 16 for memory).
    pub region: Arc<Region>,
}

/// What a function is connected to when it is plugged in.
#[derive(Clone)]
pub struct Attachment {
    /// Container for memory BARs.
    pub memory: Arc<Region>,
    /// Container for I/O BARs.
    pub io: Arc<Region>,
    /// The line its interrupt pin drives.
    pub intx: IrqLine,
    /// Takes MSI and MSI-X messages.
    pub msi: Arc<dyn MsiSink>,
}

struct Space {
    bytes: Vec<u8>,
    /// Bits software can write.
    writable: Vec<u8>,
    /// Bits that a written one clears.
    clearable: Vec<u8>,
    /// Address at which each BAR is mapped now.
    mapped: [Option<u64>; 6],
    intx: bool,
}

impl Space {
    fn get(&self, offset: usize, size: usize) -> u32 {
        (0..size)
            .rev()
            .fold(0, |value, i| value << 8 | u32::from(self.bytes.get(offset + i).copied().unwrap_or(0)))
    }

    fn set(&mut self, offset: usize, size: usize, value: u32) {
        self.bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn command(&self) -> u16 {
        self.get(spec::COMMAND, 2) as u16
    }
}

/// Configuration space of one function.
pub struct FunctionConfig {
    space: Mutex<Space>,
    reset_bytes: OnceLock<Vec<u8>>,
    bars: [OnceLock<Bar>; 6],
    attachment: OnceLock<Attachment>,
    msi: Option<usize>,
    msix: Option<(usize, Arc<MsixTable>)>,
    next_capability: usize,
    last_link: usize,
}

impl FunctionConfig {
    /// A type 0 header for `identity` with nothing else.
    pub fn new(identity: FunctionIdentity) -> Self {
        let (size, zero) = (spec::CONFIG_SIZE, || vec![0u8; spec::CONFIG_SIZE]);
        debug_assert_eq!(size, zero().len());
        let mut space =
            Space { bytes: zero(), writable: zero(), clearable: zero(), mapped: [None; 6], intx: false };
        space.set(spec::VENDOR_ID, 2, identity.vendor.into());
        space.set(spec::DEVICE_ID, 2, identity.device.into());
        let [base, sub, interface] = identity.class;
        space.set(spec::REVISION, 4, u32::from_be_bytes([base, sub, interface, identity.revision]));
        space.set(spec::SUBSYSTEM_VENDOR_ID, 2, identity.subsystem.0.into());
        space.set(spec::SUBSYSTEM_ID, 2, identity.subsystem.1.into());
        space.set(spec::INTERRUPT_PIN, 1, identity.interrupt_pin.into());
        space.writable[spec::COMMAND..][..2].copy_from_slice(&spec::COMMAND_WRITABLE.to_le_bytes());
        space.clearable[spec::STATUS..][..2].copy_from_slice(&spec::STATUS_CLEARABLE.to_le_bytes());
        space.writable[spec::CACHE_LINE_SIZE] = 0xff;
        space.writable[spec::INTERRUPT_LINE] = 0xff;
        Self {
            space: Mutex::new(space),
            reset_bytes: OnceLock::new(),
            bars: Default::default(),
            attachment: OnceLock::new(),
            msi: None,
            msix: None,
            next_capability: 0x40,
            last_link: spec::CAPABILITIES,
        }
    }

    /// Marks the function as one of several of its device.
    pub fn multifunction(self) -> Self {
        self.space.lock().bytes[spec::HEADER_TYPE] |= spec::HEADER_MULTIFUNCTION;
        self
    }

    /// Lets software write the bits of `mask` at `offset`, which start as `value`.
    ///
    /// # Panics
    /// If the register lies outside the space (also below): devices are built by us.
    pub fn with_register(self, offset: usize, value: &[u8], mask: &[u8]) -> Self {
        {
            let mut space = self.space.lock();
            space.bytes[offset..offset + value.len()].copy_from_slice(value);
            space.writable[offset..offset + mask.len()].copy_from_slice(mask);
        }
        self
    }

    /// Adds base address register `index`.
    ///
    /// # Panics
    /// If the size is no power of two, or the index is taken or out of range.
    pub fn with_bar(self, index: usize, bar: Bar) -> Self {
        let size = bar.region.size();
        assert!(size.is_power_of_two());
        let (flags, least) = match bar.kind {
            BarKind::Io => (1, 4),
            BarKind::Memory32 => (0, 16),
            BarKind::Memory64 { prefetchable } => (4 | u32::from(prefetchable) << 3, 16),
        };
        assert!(size >= least);
        let mask = !(size - 1);
        let wide = matches!(bar.kind, BarKind::Memory64 { .. });
        {
            let mut space = self.space.lock();
            let offset = spec::BAR0 + 4 * index;
            space.set(offset, 4, flags);
            let low = if bar.kind == BarKind::Io { mask as u32 & 0xffff_fffc } else { mask as u32 & !0xf };
            space.writable[offset..offset + 4].copy_from_slice(&low.to_le_bytes());
            if wide {
                space.writable[offset + 4..offset + 8].copy_from_slice(&((mask >> 32) as u32).to_le_bytes());
            }
        }
        assert!(
            self.bars[index].set(bar).is_ok() && (!wide || index < 5 && self.bars[index + 1].get().is_none())
        );
        self
    }

    /// Adds a capability with `body` after its ID and link, of which software can write the bits of `mask`;
    /// its offset.
    ///
    /// # Panics
    /// If the first 256 bytes are full.
    pub fn add_capability(&mut self, id: u8, body: &[u8], mask: &[u8]) -> usize {
        let at = self.next_capability;
        let mut space = self.space.lock();
        assert!(at + 2 + body.len() <= spec::LEGACY_CONFIG_SIZE);
        space.bytes[at] = id;
        space.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
        space.writable[at + 2..at + 2 + mask.len()].copy_from_slice(mask);
        space.bytes[self.last_link] = at as u8;
        let status = space.get(spec::STATUS, 2) | u32::from(spec::STATUS_CAPABILITIES);
        space.set(spec::STATUS, 2, status);
        drop(space);
        self.last_link = at + 1;
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Adds MSI with 2^`order` vectors (order 0 to 5).
    pub fn with_msi(mut self, order: u8) -> Self {
        let mut body = [0u8; msi_spec::SIZE - 2];
        let mut mask = [0u8; msi_spec::SIZE - 2];
        let control = msi_spec::CAPABLE | u16::from(order.min(5)) << 1;
        body[..2].copy_from_slice(&control.to_le_bytes());
        mask[..2].copy_from_slice(&(msi_spec::ENABLE | msi_spec::MULTIPLE_ENABLED).to_le_bytes());
        mask[msi_spec::ADDRESS - 2..][..4].copy_from_slice(&0xffff_fffcu32.to_le_bytes());
        mask[msi_spec::ADDRESS + 2..][..4].fill(0xff);
        mask[msi_spec::DATA - 2..][..2].fill(0xff);
        mask[msi_spec::MASK - 2..][..4].fill(0xff);
        self.msi = Some(self.add_capability(spec::CAP_MSI, &body, &mask));
        self
    }

    /// Adds MSI-X whose table lies in BAR `bar` at `offset`, the pending bits behind it. The owner maps the
    /// table there.
    pub fn with_msix(mut self, table: Arc<MsixTable>, bar: u8, offset: u32) -> Self {
        let mut body = [0u8; msix_spec::SIZE - 2];
        body[..2].copy_from_slice(&(table.vectors() - 1).to_le_bytes());
        body[msix_spec::TABLE - 2..][..4].copy_from_slice(&(offset | u32::from(bar)).to_le_bytes());
        let pending = offset + table.table_size() as u32;
        body[msix_spec::PENDING - 2..][..4].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        let mask = (msix_spec::ENABLE | msix_spec::FUNCTION_MASK).to_le_bytes();
        let at = self.add_capability(spec::CAP_MSIX, &body, &mask);
        self.msix = Some((at, table));
        self
    }

    /// Connects the function, once. Called by the bus when it is plugged in.
    pub fn attach(&self, attachment: Attachment) {
        let _ = self.reset_bytes.set(self.space.lock().bytes.clone());
        let _ = self.attachment.set(attachment);
    }

    /// Interrupt pin, 1 to 4; 0 for none.
    pub fn interrupt_pin(&self) -> u8 {
        self.space.lock().bytes[spec::INTERRUPT_PIN]
    }

    /// Reads `size` (1, 2 or 4) bytes. Outside the space, zero.
    pub fn read(&self, offset: usize, size: usize) -> u32 {
        let mut space = self.space.lock();
        if offset < 8 {
            // The status bit follows the pin.
            let (bit, asserted) = (u32::from(spec::STATUS_INTERRUPT), space.intx);
            let status = space.get(spec::STATUS, 2) & !bit | if asserted { bit } else { 0 };
            space.set(spec::STATUS, 2, status);
        }
        space.get(offset, size)
    }

    /// Writes `size` (1, 2 or 4) bytes where they can be written.
    pub fn write(&self, offset: usize, size: usize, value: u32) {
        let mut space = self.space.lock();
        for (i, byte) in value.to_le_bytes().into_iter().take(size).enumerate() {
            let Some(old) = space.bytes.get(offset + i).copied() else { break };
            let (writable, clearable) = (space.writable[offset + i], space.clearable[offset + i]);
            space.bytes[offset + i] = (old & !writable | byte & writable) & !(byte & clearable);
        }
        let touches = |start: usize, len: usize| offset < start + len && offset + size > start;
        if touches(spec::COMMAND, 2) || touches(spec::BAR0, 24) {
            self.map_bars(&mut space);
        }
        if touches(spec::COMMAND, 2) {
            self.drive_intx(&space);
        }
        if let Some(at) = self.msi.filter(|at| touches(*at, msi_spec::SIZE)) {
            self.deliver_pending_msi(&mut space, at);
            self.drive_intx(&space);
        }
        if let Some((at, table)) = self.msix.as_ref().filter(|(at, _)| touches(*at, msix_spec::SIZE)) {
            let control = space.get(at + msix_spec::CONTROL, 2) as u16;
            table.set_control(control & msix_spec::ENABLE != 0, control & msix_spec::FUNCTION_MASK != 0);
            self.drive_intx(&space);
        }
    }

    /// Address that BAR `index` decodes now, if it does.
    fn bar_address(&self, space: &Space, index: usize, bar: &Bar) -> Option<u64> {
        let low = u64::from(space.get(spec::BAR0 + 4 * index, 4));
        let (address, wanted, limit) = match bar.kind {
            BarKind::Io => (low & !3, spec::COMMAND_IO, 1 << 16),
            BarKind::Memory32 => (low & !0xf, spec::COMMAND_MEMORY, 1 << 32),
            BarKind::Memory64 { .. } => {
                let high = u64::from(space.get(spec::BAR0 + 4 * index + 4, 4));
                (low & !0xf | high << 32, spec::COMMAND_MEMORY, 1 << 52)
            }
        };
        let fits = address.checked_add(bar.region.size()).is_some_and(|end| end <= limit);
        // Zero is where an unassigned register points; all ones while it is sized.
        (space.command() & wanted != 0 && address != 0 && fits).then_some(address)
    }

    /// Maps, moves and unmaps BARs after a change of the registers.
    fn map_bars(&self, space: &mut Space) {
        let Some(attachment) = self.attachment.get() else { return };
        for index in 0..6 {
            let Some(bar) = self.bars[index].get() else { continue };
            let wanted = self.bar_address(space, index, bar);
            if wanted == space.mapped[index] {
                continue;
            }
            let container = if bar.kind == BarKind::Io { &attachment.io } else { &attachment.memory };
            container.topology().transaction(|| {
                container.remove(&bar.region);
                if let Some(address) = wanted {
                    container.add_with_priority(address, &bar.region, 1);
                }
            });
            space.mapped[index] = wanted;
        }
    }

    fn message_enabled(&self, space: &Space) -> bool {
        let msi =
            self.msi.is_some_and(|at| space.get(at + msi_spec::CONTROL, 2) as u16 & msi_spec::ENABLE != 0);
        msi || self.msix.as_ref().is_some_and(|(_, table)| table.is_enabled())
    }

    fn drive_intx(&self, space: &Space) {
        let Some(attachment) = self.attachment.get() else { return };
        let open = space.command() & spec::COMMAND_INTX_DISABLE == 0 && !self.message_enabled(space);
        attachment.intx.set(space.intx && open);
    }

    /// Drives the interrupt pin.
    pub fn set_intx(&self, level: bool) {
        let mut space = self.space.lock();
        space.intx = level;
        self.drive_intx(&space);
    }

    /// True while the function may act as bus master.
    pub fn is_bus_master(&self) -> bool {
        self.space.lock().command() & spec::COMMAND_MASTER != 0
    }

    /// True while MSI or MSI-X is enabled.
    pub fn uses_messages(&self) -> bool {
        self.message_enabled(&self.space.lock())
    }

    /// Signals `vector` by MSI-X or MSI, whichever is enabled; false if neither is.
    pub fn notify(&self, vector: u16) -> bool {
        if let Some((_, table)) = self.msix.as_ref().filter(|(_, table)| table.is_enabled()) {
            table.notify(vector);
            return true;
        }
        let Some(at) = self.msi else { return false };
        let mut space = self.space.lock();
        let control = space.get(at + msi_spec::CONTROL, 2) as u16;
        if control & msi_spec::ENABLE == 0 {
            return false;
        }
        let pending = space.get(at + msi_spec::PENDING, 4) | 1 << (vector & 31);
        space.set(at + msi_spec::PENDING, 4, pending);
        self.deliver_pending_msi(&mut space, at);
        true
    }

    /// Sends MSI vectors that are pending and not masked.
    fn deliver_pending_msi(&self, space: &mut Space, at: usize) {
        let Some(attachment) = self.attachment.get() else { return };
        let control = space.get(at + msi_spec::CONTROL, 2) as u16;
        let ready = space.get(at + msi_spec::PENDING, 4) & !space.get(at + msi_spec::MASK, 4);
        if control & msi_spec::ENABLE == 0 || ready == 0 {
            return;
        }
        let address = u64::from(space.get(at + msi_spec::ADDRESS, 4))
            | u64::from(space.get(at + msi_spec::ADDRESS + 4, 4)) << 32;
        let data = space.get(at + msi_spec::DATA, 2);
        let vectors = 1u32 << ((control & msi_spec::MULTIPLE_ENABLED) >> 4).min(5);
        for vector in (0..32).filter(|vector| ready & 1 << vector != 0) {
            // With fewer vectors enabled than offered, the low bits wrap.
            attachment.msi.send(address, data & !(vectors - 1) | vector & (vectors - 1));
        }
        let pending = space.get(at + msi_spec::PENDING, 4) & !ready;
        space.set(at + msi_spec::PENDING, 4, pending);
    }

    /// Returns to the reset state: registers, mappings, interrupts.
    pub fn reset(&self) {
        let mut space = self.space.lock();
        if let Some(bytes) = self.reset_bytes.get() {
            space.bytes.clone_from(bytes);
        }
        space.intx = false;
        self.map_bars(&mut space);
        if let Some((_, table)) = &self.msix {
            table.reset();
        }
        self.drive_intx(&space);
    }

    /// The space's bytes, for saved state.
    pub fn saved_bytes(&self) -> Vec<u8> {
        self.space.lock().bytes.clone()
    }

    /// Takes on saved bytes: only what software can write is taken.
    ///
    /// # Errors
    /// The length is wrong, or fixed bits differ (another device).
    pub fn restore_bytes(&self, device: &'static str, bytes: &[u8]) -> Result<(), LoadError> {
        let mut space = self.space.lock();
        let bad = LoadError::BadValue { device, field: "configuration space" };
        if bytes.len() != space.bytes.len() {
            return Err(bad);
        }
        let identity = spec::VENDOR_ID..spec::COMMAND;
        if bytes[identity.clone()] != space.bytes[identity] {
            return Err(bad);
        }
        for (i, byte) in bytes.iter().enumerate() {
            let kept = space.writable[i] | space.clearable[i];
            space.bytes[i] = space.bytes[i] & !kept | byte & kept;
        }
        self.map_bars(&mut space);
        if let Some((at, table)) = &self.msix {
            let control = space.get(at + msix_spec::CONTROL, 2) as u16;
            table.set_control(control & msix_spec::ENABLE != 0, control & msix_spec::FUNCTION_MASK != 0);
        }
        self.drive_intx(&space);
        Ok(())
    }
}
