//! Saved state of a local APIC.

use super::{LocalApic, State, VectorSet, pending, spec};
use rhea_device::{LoadError, SavedRecord, StateUnit, load_record, save_record};
use std::sync::atomic::Ordering;

rhea_device::saved_record! { "local-apic", 1,
    /// A local APIC's registers and pending events.
    pub struct LocalApicSavedV1 {
        /// IA32_APIC_BASE.
        base: u64,
        /// xAPIC ID.
        xapic_id: u8,
        /// Task priority.
        tpr: u8,
        /// LDR, DFR, SVR, latched ESR, errors since.
        control: [u32; 5],
        /// ISR, TMR, IRR.
        vectors: [[u32; 8]; 3],
        /// ICR.
        icr: u64,
        /// Local vector table.
        lvt: [u32; spec::LVT_COUNT],
        /// Divide configuration and initial count.
        timer: [u32; 2],
        /// Nanoseconds since the counter was loaded.
        count_age: u64,
        /// IA32_TSC_DEADLINE.
        tsc_deadline: u64,
        /// Nanoseconds until the TSC deadline, when armed.
        deadline_in: Option<u64>,
        /// Levels of LINT0 and LINT1.
        lint: [bool; 2],
        /// ExtINT message waiting.
        extint_message: bool,
        /// Vector of the last start-up IPI.
        sipi_vector: u8,
        /// Pending NMI, SMI, INIT and start-up bits.
        pending: u32,
    }
}

impl StateUnit for LocalApic {
    fn save(&self) -> SavedRecord {
        let s = self.state.lock();
        let now = self.clock.now();
        save_record(&LocalApicSavedV1 {
            base: s.base,
            xapic_id: s.xapic_id,
            tpr: s.tpr,
            control: [s.ldr, s.dfr, s.svr, s.esr, s.errors],
            vectors: [s.isr.0, s.tmr.0, s.irr.0],
            icr: s.icr,
            lvt: s.lvt,
            timer: [s.divide, s.initial_count],
            count_age: now.saturating_sub(s.count_start),
            tsc_deadline: s.tsc_deadline,
            deadline_in: self
                .timer
                .deadline()
                .filter(|_| s.tsc_deadline != 0)
                .map(|deadline| deadline.saturating_sub(now)),
            lint: s.lint,
            extint_message: s.extint_message,
            sipi_vector: s.sipi_vector,
            pending: self.pending() & !pending::INTERRUPT,
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: LocalApicSavedV1 = load_record(record)?;
        if saved.pending & !(pending::NMI | pending::SMI | pending::INIT | pending::SIPI) != 0 {
            return Err(LoadError::BadValue { device: "local-apic", field: "pending" });
        }
        let now = self.clock.now();
        let [ldr, dfr, svr, esr, errors] = saved.control;
        let [isr, tmr, irr] = saved.vectors.map(VectorSet);
        self.timer.cancel();
        self.pending.store(saved.pending, Ordering::Release);
        self.update(|state| {
            *state = State {
                base: saved.base,
                xapic_id: saved.xapic_id,
                tpr: saved.tpr,
                ldr,
                dfr,
                svr,
                isr,
                tmr,
                irr,
                errors,
                esr,
                icr: saved.icr,
                lvt: saved.lvt,
                divide: saved.timer[0],
                initial_count: saved.timer[1],
                count_start: now.saturating_sub(saved.count_age),
                tsc_deadline: saved.tsc_deadline,
                lint: saved.lint,
                extint_message: saved.extint_message,
                sipi_vector: saved.sipi_vector,
            };
            let lvt = state.lvt[spec::TIMER];
            match saved.deadline_in {
                Some(ns) => self.timer.arm(now.saturating_add(ns)),
                None => self.timer_lvt_changed(state, lvt),
            }
        });
        self.report_base();
        Ok(())
    }
}
