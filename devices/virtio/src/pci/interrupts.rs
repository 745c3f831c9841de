//! Interrupts of the PCI transport (section 4.1.5): MSI-X vectors that the driver chose, or the ISR and INTx.

use crate::registers::Interrupts;
use parking_lot::Mutex;
use rhea_pci::FunctionConfig;
use rhea_pci::msi::MsixTable;
use std::sync::Arc;

/// No interrupt.
pub(super) const NO_VECTOR: u16 = 0xffff;
/// ISR: a queue has used buffers.
const ISR_QUEUE: u8 = 1;
/// ISR: the configuration has changed.
const ISR_CONFIG: u8 = 2;

struct State {
    isr: u8,
    config_vector: u16,
    queue_vectors: Vec<u16>,
}

pub(super) struct PciInterrupts {
    config: Arc<FunctionConfig>,
    table: Arc<MsixTable>,
    state: Mutex<State>,
}

impl PciInterrupts {
    pub(super) fn new(config: Arc<FunctionConfig>, table: Arc<MsixTable>) -> Arc<Self> {
        // All vectors but that of the configuration can be queues'.
        let queues = usize::from(table.vectors() - 1);
        let state = State { isr: 0, config_vector: NO_VECTOR, queue_vectors: vec![NO_VECTOR; queues] };
        Arc::new(Self { config, table, state: Mutex::new(state) })
    }

    /// A vector of the table, or none.
    fn good(&self, vector: u16) -> u16 {
        if vector < self.table.vectors() { vector } else { NO_VECTOR }
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.state.lock().config_vector
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.state.lock().config_vector = self.good(vector);
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        self.state.lock().queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(slot) = self.state.lock().queue_vectors.get_mut(usize::from(queue)) {
            *slot = self.good(vector);
        }
    }

    /// Reads the ISR, which clears it.
    pub(super) fn take_isr(&self) -> u8 {
        let mut state = self.state.lock();
        let isr = std::mem::take(&mut state.isr);
        self.config.set_intx(false);
        isr
    }

    fn raise(&self, bit: u8, vector: impl FnOnce(&State) -> u16) {
        let mut state = self.state.lock();
        if self.table.is_enabled() {
            let vector = vector(&state);
            if vector != NO_VECTOR {
                self.table.notify(vector);
            }
        } else {
            state.isr |= bit;
            self.config.set_intx(true);
        }
    }

    pub(super) fn reset(&self) {
        let mut state = self.state.lock();
        state.isr = 0;
        state.config_vector = NO_VECTOR;
        state.queue_vectors.fill(NO_VECTOR);
        self.config.set_intx(false);
    }

    pub(super) fn saved(&self) -> (u8, u16, Vec<u16>) {
        let state = self.state.lock();
        (state.isr, state.config_vector, state.queue_vectors.clone())
    }

    /// Takes on a saved state with as many queues.
    pub(super) fn restore(&self, isr: u8, config_vector: u16, queue_vectors: &[u16]) {
        let mut state = self.state.lock();
        state.isr = isr & (ISR_QUEUE | ISR_CONFIG);
        state.config_vector = self.good(config_vector);
        for (slot, vector) in state.queue_vectors.iter_mut().zip(queue_vectors) {
            *slot = self.good(*vector);
        }
        self.config.set_intx(state.isr != 0);
    }
}

impl Interrupts for PciInterrupts {
    fn used(&self, index: u16) {
        self.raise(ISR_QUEUE, |state| {
            state.queue_vectors.get(usize::from(index)).copied().unwrap_or(NO_VECTOR)
        });
    }

    fn config_changed(&self) {
        self.raise(ISR_CONFIG, |state| state.config_vector);
    }
}
