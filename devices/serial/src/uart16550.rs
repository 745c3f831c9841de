//! The 16550A UART.
//!
//! Source: National Semiconductor PC16550D data sheet. Eight ports; the input clock is 1.8432 MHz.
//!
//! The line has no speed towards the host: a byte is sent as soon as the back end takes it. Times that the data
//! sheet measures in characters (the receive time-out) follow the programmed divisor.

use parking_lot::Mutex;
use rhea_chardev::{CharReceiver, Chardev};
use rhea_device::{
    IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, Timer, VirtualClock, load_record,
    save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// Registers and their bits.
mod spec {
    pub const DATA: u64 = 0;
    pub const IER: u64 = 1;
    pub const IIR_FCR: u64 = 2;
    pub const LCR: u64 = 3;
    pub const MCR: u64 = 4;
    pub const LSR: u64 = 5;
    pub const MSR: u64 = 6;

    pub const IER_RX: u8 = 0x01;
    pub const IER_TX: u8 = 0x02;
    pub const IER_LINE: u8 = 0x04;
    pub const IER_MODEM: u8 = 0x08;

    pub const IIR_NONE: u8 = 0x01;
    pub const IIR_LINE: u8 = 0x06;
    pub const IIR_RX: u8 = 0x04;
    pub const IIR_TIMEOUT: u8 = 0x0c;
    pub const IIR_TX: u8 = 0x02;
    pub const IIR_MODEM: u8 = 0x00;
    pub const IIR_FIFO: u8 = 0xc0;

    pub const FCR_ENABLE: u8 = 0x01;
    pub const FCR_CLEAR_RX: u8 = 0x02;
    pub const FCR_CLEAR_TX: u8 = 0x04;

    pub const LCR_DLAB: u8 = 0x80;

    pub const MCR_DTR: u8 = 0x01;
    pub const MCR_RTS: u8 = 0x02;
    pub const MCR_OUT1: u8 = 0x04;
    pub const MCR_OUT2: u8 = 0x08;
    pub const MCR_LOOP: u8 = 0x10;

    pub const LSR_DR: u8 = 0x01;
    pub const LSR_OE: u8 = 0x02;
    pub const LSR_BI: u8 = 0x10;
    pub const LSR_THRE: u8 = 0x20;
    pub const LSR_TEMT: u8 = 0x40;
    pub const LSR_FIFO_ERROR: u8 = 0x80;
    /// Bits that raise the line status interrupt.
    pub const LSR_ERRORS: u8 = 0x1e;

    pub const MSR_CTS: u8 = 0x10;
    pub const MSR_DSR: u8 = 0x20;
    pub const MSR_RI: u8 = 0x40;
    pub const MSR_DCD: u8 = 0x80;
    /// Ring indicator: only the trailing edge counts.
    pub const MSR_TERI: u8 = 0x04;

    pub const FIFO_SIZE: usize = 16;
    /// Receive trigger levels by FCR bits 7:6.
    pub const TRIGGERS: [usize; 4] = [1, 4, 8, 14];
    pub const CLOCK_HZ: u64 = 1_843_200;
}

/// How long to wait before bytes the back end did not take are offered again.
const RETRY_NS: u64 = 1_000_000;

#[derive(Clone, Debug)]
struct State {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// Delta bits of the modem status register.
    msr_delta: u8,
    scratch: u8,
    divisor: u16,
    /// Error bits of the line status register.
    line_errors: u8,
    rx: VecDeque<u8>,
    /// The oldest byte of `rx` is a break.
    break_at_head: bool,
    tx: VecDeque<u8>,
    /// The transmitter-empty interrupt waits to be seen.
    thre_pending: bool,
    /// Bytes below the trigger level have waited for four character times.
    timed_out: bool,
}

impl State {
    fn new() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            msr_delta: 0,
            scratch: 0,
            divisor: 12,
            line_errors: 0,
            rx: VecDeque::with_capacity(spec::FIFO_SIZE),
            break_at_head: false,
            tx: VecDeque::with_capacity(spec::FIFO_SIZE),
            thre_pending: false,
            timed_out: false,
        }
    }

    fn fifo(&self) -> bool {
        self.fcr & spec::FCR_ENABLE != 0
    }

    fn loopback(&self) -> bool {
        self.mcr & spec::MCR_LOOP != 0
    }

    fn rx_capacity(&self) -> usize {
        if self.fifo() { spec::FIFO_SIZE } else { 1 }
    }

    fn trigger(&self) -> usize {
        if self.fifo() { spec::TRIGGERS[usize::from(self.fcr >> 6)] } else { 1 }
    }

    fn lsr(&self) -> u8 {
        let mut lsr = self.line_errors;
        if !self.rx.is_empty() {
            lsr |= spec::LSR_DR;
        }
        if self.break_at_head {
            lsr |= spec::LSR_BI | if self.fifo() { spec::LSR_FIFO_ERROR } else { 0 };
        }
        if self.tx.is_empty() {
            lsr |= spec::LSR_THRE | spec::LSR_TEMT;
        }
        lsr
    }

    /// Modem inputs: the other end is always there and ready, or the outputs in loopback.
    fn modem_inputs(&self) -> u8 {
        if !self.loopback() {
            return spec::MSR_CTS | spec::MSR_DSR | spec::MSR_DCD;
        }
        let wire = |out: u8, input: u8| if self.mcr & out != 0 { input } else { 0 };
        wire(spec::MCR_RTS, spec::MSR_CTS)
            | wire(spec::MCR_DTR, spec::MSR_DSR)
            | wire(spec::MCR_OUT1, spec::MSR_RI)
            | wire(spec::MCR_OUT2, spec::MSR_DCD)
    }

    /// The interrupt that the identification register shows: the highest-priority one enabled.
    fn interrupt(&self) -> u8 {
        let errors = self.lsr() & spec::LSR_ERRORS != 0;
        if self.ier & spec::IER_LINE != 0 && errors {
            spec::IIR_LINE
        } else if self.ier & spec::IER_RX != 0 && self.rx.len() >= self.trigger() {
            spec::IIR_RX
        } else if self.ier & spec::IER_RX != 0 && self.timed_out && !self.rx.is_empty() {
            spec::IIR_TIMEOUT
        } else if self.ier & spec::IER_TX != 0 && self.thre_pending {
            spec::IIR_TX
        } else if self.ier & spec::IER_MODEM != 0 && self.msr_delta != 0 {
            spec::IIR_MODEM
        } else {
            spec::IIR_NONE
        }
    }

    /// Nanoseconds of four characters: start, data, parity and stop bits at the programmed speed.
    fn four_characters_ns(&self) -> u64 {
        let bits = 2 + u64::from(self.lcr & 3) + 5 + u64::from(self.lcr >> 3 & 1);
        4 * bits * 16 * u64::from(self.divisor.max(1)) * 1_000_000_000 / spec::CLOCK_HZ
    }

    fn push_rx(&mut self, byte: u8) {
        if self.rx.len() < self.rx_capacity() {
            self.rx.push_back(byte);
        } else {
            // With the FIFO full the new byte is lost; without FIFO it replaces the old one.
            self.line_errors |= spec::LSR_OE;
            if !self.fifo() {
                self.rx.clear();
                self.rx.push_back(byte);
            }
        }
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & spec::FCR_ENABLE != 0;
        if toggled || value & spec::FCR_CLEAR_RX != 0 {
            self.rx.clear();
            self.break_at_head = false;
            self.timed_out = false;
        }
        if (toggled || value & spec::FCR_CLEAR_TX != 0) && !self.tx.is_empty() {
            self.tx.clear();
            self.thre_pending = true;
        }
        self.fcr = if value & spec::FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_inputs();
        self.mcr = value & 0x1f;
        let changed = before ^ self.modem_inputs();
        let mut delta = changed >> 4;
        // The ring indicator counts only when it ends.
        if self.modem_inputs() & spec::MSR_RI != 0 {
            delta &= !spec::MSR_TERI;
        }
        self.msr_delta |= delta;
    }
}

/// A 16550A serial port.
pub struct Uart16550 {
    irq: IrqLine,
    /// OUT2 lets the interrupt through, as on a PC's serial card.
    out2_gates: bool,
    clock: Arc<VirtualClock>,
    backend: Arc<dyn Chardev>,
    /// Receive time-out.
    timeout: Timer,
    /// Offers unsent bytes again.
    retry: Timer,
    state: Mutex<State>,
}

impl Uart16550 {
    /// A port on `backend` that drives `irq` while OUT2 is set, as it is wired on a PC.
    pub fn new(clock: &Arc<VirtualClock>, irq: IrqLine, backend: Arc<dyn Chardev>) -> Arc<Self> {
        Self::wired(clock, irq, backend, true)
    }

    /// A port on `backend` that drives `irq` directly, as on boards where OUT2 leads nowhere.
    pub fn ungated(clock: &Arc<VirtualClock>, irq: IrqLine, backend: Arc<dyn Chardev>) -> Arc<Self> {
        Self::wired(clock, irq, backend, false)
    }

    fn wired(
        clock: &Arc<VirtualClock>,
        irq: IrqLine,
        backend: Arc<dyn Chardev>,
        out2_gates: bool,
    ) -> Arc<Self> {
        let uart = Arc::new_cyclic(|weak: &Weak<Self>| {
            let timer = |act: fn(&Self, &mut State)| {
                let weak = weak.clone();
                clock.timer("UART", move || {
                    if let Some(uart) = weak.upgrade() {
                        let mut state = uart.state.lock();
                        act(&uart, &mut state);
                        uart.sync(&state);
                    }
                })
            };
            Self {
                irq,
                out2_gates,
                clock: clock.clone(),
                backend: backend.clone(),
                timeout: timer(|_, state| state.timed_out = !state.rx.is_empty()),
                retry: timer(Self::drain),
                state: Mutex::new(State::new()),
            }
        });
        backend.attach(uart.clone());
        uart
    }

    fn sync(&self, state: &State) {
        // In loopback the pin OUT2 is off.
        let gated = self.out2_gates && state.mcr & (spec::MCR_OUT2 | spec::MCR_LOOP) != spec::MCR_OUT2;
        self.irq.set(state.interrupt() != spec::IIR_NONE && !gated);
    }

    /// Starts the receive time-out, or stops it when nothing waits for it.
    fn restart_timeout(&self, state: &mut State) {
        state.timed_out = false;
        if state.fifo() && !state.rx.is_empty() && state.rx.len() < state.trigger() {
            self.timeout.arm(self.clock.now() + state.four_characters_ns());
        } else {
            self.timeout.cancel();
        }
    }

    /// Hands waiting bytes to the back end.
    fn drain(&self, state: &mut State) {
        while !state.tx.is_empty() {
            let bytes = state.tx.make_contiguous();
            let taken = self.backend.write(bytes).min(bytes.len());
            if taken == 0 {
                self.retry.arm(self.clock.now() + RETRY_NS);
                return;
            }
            state.tx.drain(..taken);
        }
        state.thre_pending = true;
    }

    fn transmit(&self, state: &mut State, byte: u8) {
        state.thre_pending = false;
        if state.loopback() {
            state.push_rx(byte);
            self.restart_timeout(state);
            state.thre_pending = true;
            return;
        }
        let capacity = if state.fifo() { spec::FIFO_SIZE } else { 1 };
        if state.tx.len() >= capacity {
            // The guest wrote without looking at THRE: the byte in the holding register is overwritten.
            state.tx.pop_back();
        }
        state.tx.push_back(byte);
        if state.tx.len() == 1 || self.retry.deadline().is_none() {
            self.drain(state);
        }
    }

    fn read_register(&self, state: &mut State, offset: u64) -> u8 {
        let dlab = state.lcr & spec::LCR_DLAB != 0;
        match offset {
            spec::DATA if dlab => state.divisor as u8,
            spec::IER if dlab => (state.divisor >> 8) as u8,
            spec::DATA => {
                let byte = state.rx.pop_front().unwrap_or(0);
                state.break_at_head = false;
                self.restart_timeout(state);
                byte
            }
            spec::IER => state.ier,
            spec::IIR_FCR => {
                let interrupt = state.interrupt();
                if interrupt == spec::IIR_TX {
                    state.thre_pending = false;
                }
                interrupt | if state.fifo() { spec::IIR_FIFO } else { 0 }
            }
            spec::LCR => state.lcr,
            spec::MCR => state.mcr,
            spec::LSR => {
                let lsr = state.lsr();
                state.line_errors = 0;
                state.break_at_head = false;
                lsr
            }
            spec::MSR => state.modem_inputs() | std::mem::take(&mut state.msr_delta),
            _ => state.scratch,
        }
    }

    fn write_register(&self, state: &mut State, offset: u64, value: u8) {
        let dlab = state.lcr & spec::LCR_DLAB != 0;
        match offset {
            spec::DATA if dlab => state.divisor = state.divisor & 0xff00 | u16::from(value),
            spec::IER if dlab => state.divisor = state.divisor & 0xff | u16::from(value) << 8,
            spec::DATA => self.transmit(state, value),
            spec::IER => {
                // Enabling the transmitter interrupt while the register is empty raises it.
                if value & !state.ier & spec::IER_TX != 0 && state.tx.is_empty() {
                    state.thre_pending = true;
                }
                state.ier = value & 0x0f;
            }
            spec::IIR_FCR => {
                state.write_fcr(value);
                self.restart_timeout(state);
            }
            spec::LCR => state.lcr = value,
            spec::MCR => state.write_mcr(value),
            spec::LSR | spec::MSR => {}
            _ => state.scratch = value,
        }
    }
}

impl MmioHandler for Uart16550 {
    fn read(&self, offset: u64, _: usize) -> u64 {
        let offset = offset & 7;
        let mut state = self.state.lock();
        let value = self.read_register(&mut state, offset);
        self.sync(&state);
        let room = offset == spec::DATA && state.rx.is_empty();
        drop(state);
        if room {
            self.backend.accept_input();
        }
        u64::from(value)
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let offset = offset & 7;
        let mut state = self.state.lock();
        self.write_register(&mut state, offset, value as u8);
        self.sync(&state);
        let room = matches!(offset, spec::IIR_FCR | spec::MCR) && state.rx.is_empty();
        drop(state);
        if room {
            self.backend.accept_input();
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl CharReceiver for Uart16550 {
    fn can_receive(&self) -> usize {
        let state = self.state.lock();
        if state.loopback() { 0 } else { state.rx_capacity().saturating_sub(state.rx.len()) }
    }

    fn receive(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        bytes.iter().for_each(|byte| state.push_rx(*byte));
        self.restart_timeout(&mut state);
        self.sync(&state);
    }

    fn receive_break(&self) {
        let mut state = self.state.lock();
        if state.rx.is_empty() {
            state.push_rx(0);
            state.break_at_head = true;
        }
        self.restart_timeout(&mut state);
        self.sync(&state);
    }
}

impl Reset for Uart16550 {
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        *state = State::new();
        self.timeout.cancel();
        self.retry.cancel();
        self.sync(&state);
        drop(state);
        self.backend.accept_input();
    }
}

rhea_device::saved_record! { "uart16550", 1,
    /// Saved state of a serial port.
    pub struct UartSavedV1 {
        /// IER, FCR, LCR, MCR, modem deltas, scratch, line errors.
        registers: [u8; 7],
        /// Divisor latch.
        divisor: u16,
        /// Received bytes not yet read.
        rx: Vec<u8>,
        /// Bytes not yet taken by the back end.
        tx: Vec<u8>,
        /// Break at head, THRE interrupt pending, receive time-out passed.
        flags: [bool; 3],
    }
}

impl StateUnit for Uart16550 {
    fn save(&self) -> SavedRecord {
        let s = self.state.lock();
        save_record(&UartSavedV1 {
            registers: [s.ier, s.fcr, s.lcr, s.mcr, s.msr_delta, s.scratch, s.line_errors],
            divisor: s.divisor,
            rx: s.rx.iter().copied().collect(),
            tx: s.tx.iter().copied().collect(),
            flags: [s.break_at_head, s.thre_pending, s.timed_out],
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: UartSavedV1 = load_record(record)?;
        if saved.rx.len() > spec::FIFO_SIZE || saved.tx.len() > spec::FIFO_SIZE {
            return Err(LoadError::BadValue { device: "uart16550", field: "FIFO length" });
        }
        let [ier, fcr, lcr, mcr, msr_delta, scratch, line_errors] = saved.registers;
        let [break_at_head, thre_pending, timed_out] = saved.flags;
        let mut state = self.state.lock();
        *state = State {
            ier: ier & 0x0f,
            fcr,
            lcr,
            mcr: mcr & 0x1f,
            msr_delta,
            scratch,
            divisor: saved.divisor,
            line_errors: line_errors & spec::LSR_ERRORS,
            rx: saved.rx.into(),
            break_at_head,
            tx: saved.tx.into(),
            thre_pending,
            timed_out: false,
        };
        self.restart_timeout(&mut state);
        state.timed_out = timed_out;
        if !state.tx.is_empty() {
            self.retry.arm(self.clock.now());
        }
        self.sync(&state);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
