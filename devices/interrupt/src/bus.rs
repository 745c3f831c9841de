//! The path interrupt messages take between I/O APIC, MSI writers and local APICs.
//!
//! Source: Intel SDM vol. 3, sections 11.5 to 11.11 (message formats, destination modes, MSI).

use crate::lapic::LocalApic;
use parking_lot::Mutex;
use rhea_device::MsiSink;
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Delivery mode of an interrupt message (SDM vol. 3, 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To all addressed processors, with the vector given.
    Fixed,
    /// To the one of the addressed processors that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Reserved by the architecture.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI (only from an ICR).
    StartUp,
    /// The vector comes from the 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    /// From the three-bit field.
    pub fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// Destination field: 8 bits, or 32 if `wide`.
    pub destination: u32,
    /// The destination is an x2APIC one of 32 bits.
    pub wide: bool,
    /// Logical destination mode.
    pub logical: bool,
    /// Delivery mode.
    pub mode: DeliveryMode,
    /// Vector.
    pub vector: u8,
    /// Level-triggered: EOI is broadcast to the I/O APICs.
    pub level: bool,
}

/// Hears the EOI of level-triggered interrupts.
pub trait EoiSink: Send + Sync {
    /// `vector` was ended.
    fn eoi(&self, vector: u8);
}

/// All local APICs of a machine and what talks to them.
#[derive(Default)]
pub struct ApicBus {
    apics: OnceLock<Box<[Arc<LocalApic>]>>,
    eoi_sinks: Mutex<Vec<Weak<dyn EoiSink>>>,
    /// Where the last lowest-priority arbitration ended, so that equals take turns.
    last: AtomicUsize,
}

impl ApicBus {
    /// A bus with no APIC on it yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Connects the processors' APICs, once.
    ///
    /// # Panics
    /// When called twice: the board is wired once.
    pub fn connect(&self, apics: Vec<Arc<LocalApic>>) {
        assert!(self.apics.set(apics.into()).is_ok(), "APIC bus connected twice");
    }

    /// Adds an I/O APIC to hear EOIs.
    pub fn add_eoi_sink(&self, sink: Weak<dyn EoiSink>) {
        self.eoi_sinks.lock().push(sink);
    }

    /// The local APICs, in order of processors.
    pub fn apics(&self) -> &[Arc<LocalApic>] {
        self.apics.get().map_or(&[], |apics| apics)
    }

    /// Delivers `message` to the processors it addresses; true if any accepted it.
    pub fn deliver(&self, message: &InterruptMessage) -> bool {
        let matching = self.apics().iter().filter(|apic| apic.matches(message));
        if message.mode == DeliveryMode::LowestPriority {
            return self.deliver_lowest(message);
        }
        matching.fold(false, |any, apic| apic.accept(message) | any)
    }

    fn deliver_lowest(&self, message: &InterruptMessage) -> bool {
        let apics = self.apics();
        let turn = self.last.load(Ordering::Relaxed) + 1;
        let candidates = (0..apics.len()).map(|i| (i + turn) % apics.len());
        let best = candidates
            .filter(|&i| apics[i].matches(message) && apics[i].accepts_fixed())
            .min_by_key(|&i| apics[i].arbitration_priority());
        let Some(best) = best else { return false };
        self.last.store(best, Ordering::Relaxed);
        apics[best].accept(message)
    }

    /// Tells the I/O APICs of the end of a level-triggered interrupt.
    pub(crate) fn broadcast_eoi(&self, vector: u8) {
        let sinks = self.eoi_sinks.lock().clone();
        sinks.iter().filter_map(Weak::upgrade).for_each(|sink| sink.eoi(vector));
    }

    /// Registers behind FEE00000h as devices see it: a 32-bit write is an MSI. 1 MiB.
    pub fn msi_window(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(MsiWindow(self.clone()))
    }
}

impl MsiSink for ApicBus {
    /// SDM vol. 3, 11.11: message address and data formats. Writes elsewhere than FEEx_xxxxh are dropped.
    fn send(&self, address: u64, data: u32) {
        if address >> 20 != 0xfee {
            return;
        }
        let level = data & 1 << 15 != 0;
        if level && data & 1 << 14 == 0 {
            return; // level deassert
        }
        self.deliver(&InterruptMessage {
            destination: (address >> 12) as u32 & 0xff,
            wide: false,
            logical: address & 4 != 0,
            mode: DeliveryMode::from_bits(data >> 8),
            vector: data as u8,
            level,
        });
    }
}

struct MsiWindow(Arc<ApicBus>);

impl MmioHandler for MsiWindow {
    fn read(&self, _: u64, _: usize) -> u64 {
        u64::from(u32::MAX)
    }
    fn write(&self, offset: u64, _: usize, value: u64) {
        self.0.send(0xfee0_0000 + offset, value as u32);
    }
    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}
