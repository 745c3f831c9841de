//! Register accesses: the memory-mapped page, the x2APIC MSRs, and the interrupt command register.

use super::{LocalApic, RegisterFault, State, spec, x2apic_ldr};
use crate::bus::{DeliveryMode, InterruptMessage};
use rhea_memory::{AccessSizes, MmioHandler};

/// Index in the local vector table of the register at `offset`.
fn lvt_index(offset: u32) -> Option<usize> {
    match offset {
        spec::LVT_TIMER..=spec::LVT_ERROR => Some(((offset - spec::LVT_TIMER) >> 4) as usize),
        _ => None,
    }
}

impl LocalApic {
    /// Reads the register at `offset` (a multiple of 16) as 32 bits; `None` if there is none or it cannot be
    /// read.
    fn read_register(&self, state: &State, offset: u32) -> Option<u32> {
        let x2apic = state.x2apic();
        let word = |set: &super::VectorSet| set.0[(offset >> 4 & 7) as usize];
        Some(match offset {
            spec::ID if x2apic => self.config.id,
            spec::ID => u32::from(state.xapic_id) << 24,
            spec::VERSION => spec::VERSION_VALUE,
            spec::TPR => u32::from(state.tpr),
            spec::APR if !x2apic => u32::from(state.ppr()),
            spec::PPR => u32::from(state.ppr()),
            spec::EOI if !x2apic => 0,
            spec::LDR if x2apic => x2apic_ldr(self.config.id),
            spec::LDR => state.ldr,
            spec::DFR if !x2apic => state.dfr,
            spec::SVR => state.svr,
            0x100..=0x170 => word(&state.isr),
            0x180..=0x1f0 => word(&state.tmr),
            0x200..=0x270 => word(&state.irr),
            spec::ESR => state.esr,
            spec::ICR_LOW => state.icr as u32,
            spec::ICR_HIGH if !x2apic => (state.icr >> 32) as u32,
            spec::INITIAL_COUNT => state.initial_count,
            spec::CURRENT_COUNT => self.current_count(state),
            spec::DIVIDE => state.divide,
            _ => state.lvt[lvt_index(offset)?],
        })
    }

    /// Writes the register at `offset`; false if there is none or it cannot be written. The ICR, EOI and the
    /// self IPI are the callers' business: they act outside the lock.
    fn write_register(&self, state: &mut State, offset: u32, value: u32) -> bool {
        match offset {
            spec::ID if !state.x2apic() => state.xapic_id = (value >> 24) as u8,
            spec::TPR => state.tpr = value as u8,
            spec::LDR if !state.x2apic() => state.ldr = value & 0xff00_0000,
            spec::DFR if !state.x2apic() => state.dfr = value | 0x0fff_ffff,
            spec::SVR => {
                state.svr = value & spec::SVR_WRITABLE;
                if state.svr & spec::SVR_ENABLE == 0 {
                    state.lvt.iter_mut().for_each(|lvt| *lvt |= spec::LVT_MASKED);
                }
            }
            spec::ESR => state.esr = std::mem::take(&mut state.errors),
            spec::INITIAL_COUNT => self.load_count(state, value),
            spec::DIVIDE => self.set_divide(state, value & 0xb),
            spec::CURRENT_COUNT => return false,
            _ => match lvt_index(offset) {
                Some(index) => self.write_lvt(state, index, value),
                None => return false,
            },
        }
        true
    }

    fn write_lvt(&self, state: &mut State, index: usize, value: u32) {
        let writable = spec::LVT_WRITABLE[index];
        let old = state.lvt[index];
        let mut new = value & writable | old & spec::LVT_REMOTE_IRR;
        // While disabled by software the mask bits stay set.
        if !state.software_enabled() {
            new |= spec::LVT_MASKED;
        }
        state.lvt[index] = new;
        match index {
            spec::TIMER => self.timer_lvt_changed(state, old),
            spec::LINT0 | spec::LINT1 if new & spec::LVT_LEVEL == 0 => {
                state.lvt[index] &= !spec::LVT_REMOTE_IRR
            }
            spec::LINT0 | spec::LINT1 if state.lint[index - spec::LINT0] => {
                super::lint_asserted(state, index)
            }
            _ => {}
        }
    }

    /// Sends the IPI that a write of the ICR's low half asks for (SDM 11.6.1). No lock is held.
    fn send_ipi(&self, icr: u64, x2apic: bool) {
        let low = icr as u32;
        let (vector, mode) = (low as u8, DeliveryMode::from_bits(low >> 8));
        let level = low & spec::ICR_LEVEL != 0;
        // INIT level de-assert is not supported since the Pentium 4; nothing else has a meaning de-asserted.
        if mode == DeliveryMode::Init && level && low & spec::ICR_ASSERT == 0 {
            return;
        }
        if matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) && vector < 16 {
            self.update(|state| state.error(spec::ESR_SEND_ILLEGAL));
            return;
        }
        let Some(bus) = self.bus.upgrade() else { return };
        let message = InterruptMessage {
            destination: if x2apic { (icr >> 32) as u32 } else { (icr >> 56) as u32 },
            wide: x2apic,
            logical: low & spec::ICR_LOGICAL != 0,
            mode,
            vector,
            // IPIs are edge-triggered whatever the bit says.
            level: false,
        };
        let broadcast = |include_self: bool| {
            for apic in bus.apics() {
                if include_self || !std::ptr::eq(&**apic, self) {
                    apic.accept(&message);
                }
            }
        };
        match low >> 18 & 3 {
            0 => {
                bus.deliver(&message);
            }
            1 => {
                self.accept(&message);
            }
            2 => broadcast(true),
            _ => broadcast(false),
        }
    }

    /// Reads an x2APIC register: MSR `index`, 800h to 8FFh.
    ///
    /// # Errors
    /// Not in x2APIC mode, or no such register, or it is write-only: #GP.
    pub fn read_x2apic(&self, index: u32) -> Result<u64, RegisterFault> {
        let state = self.state.lock();
        if !state.x2apic() {
            return Err(RegisterFault);
        }
        let offset = index.wrapping_sub(0x800) << 4;
        match offset {
            spec::ICR_LOW => Ok(state.icr),
            _ => self.read_register(&state, offset).map(u64::from).ok_or(RegisterFault),
        }
    }

    /// Writes an x2APIC register: MSR `index`, 800h to 8FFh.
    ///
    /// # Errors
    /// Not in x2APIC mode, no such register, read-only, or reserved bits set: #GP.
    pub fn write_x2apic(&self, index: u32, value: u64) -> Result<(), RegisterFault> {
        if !self.state.lock().x2apic() {
            return Err(RegisterFault);
        }
        let offset = index.wrapping_sub(0x800) << 4;
        let writable = match offset {
            spec::TPR => 0xff,
            spec::EOI | spec::ESR => 0,
            spec::SVR => u64::from(spec::SVR_WRITABLE),
            spec::ICR_LOW => 0xffff_ffff_0000_0000 | u64::from(spec::ICR_WRITABLE),
            spec::INITIAL_COUNT => 0xffff_ffff,
            spec::DIVIDE => 0xb,
            spec::SELF_IPI => 0xff,
            _ => {
                u64::from(spec::LVT_WRITABLE[lvt_index(offset).ok_or(RegisterFault)?] | spec::LVT_REMOTE_IRR)
            }
        };
        if value & !writable != 0 {
            return Err(RegisterFault);
        }
        match offset {
            spec::EOI => self.eoi(),
            spec::ICR_LOW => {
                self.state.lock().icr = value;
                self.send_ipi(value, true);
            }
            spec::SELF_IPI if value < 16 => self.update(|state| state.error(spec::ESR_SEND_ILLEGAL)),
            spec::SELF_IPI => self.update(|state| state.request(value as u8, false)),
            _ => {
                self.update(|state| self.write_register(state, offset, value as u32));
            }
        }
        Ok(())
    }
}

impl MmioHandler for LocalApic {
    fn read(&self, offset: u64, _: usize) -> u64 {
        let offset = offset as u32;
        // Registers are the first four bytes of each 16-byte block.
        if offset & 0xf != 0 {
            return 0;
        }
        let value = {
            let state = self.state.lock();
            self.read_register(&state, offset)
        };
        u64::from(value.unwrap_or_else(|| {
            self.update(|state| state.error(spec::ESR_REGISTER));
            0
        }))
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let (offset, value) = (offset as u32, value as u32);
        match offset {
            _ if offset & 0xf != 0 => {}
            spec::EOI => self.eoi(),
            spec::ICR_LOW => {
                let icr = {
                    let mut state = self.state.lock();
                    state.icr = state.icr & !0xffff_ffff | u64::from(value & spec::ICR_WRITABLE);
                    state.icr
                };
                self.send_ipi(icr, false);
            }
            spec::ICR_HIGH => {
                let mut state = self.state.lock();
                state.icr = state.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
            }
            _ => self.update(|state| {
                if !self.write_register(state, offset, value) {
                    state.error(spec::ESR_REGISTER);
                }
            }),
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}
