//! A PCI bus: functions by number, and configuration accesses to them.

use crate::config::Attachment;
use crate::spec;
use parking_lot::RwLock;
use rhea_device::{IrqLine, MsiSink};
use rhea_memory::Region;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Device and function number on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

/// A function on a bus.
pub trait PciFunction: Send + Sync {
    /// Reads `size` (1, 2 or 4) bytes of configuration space at `offset` (below 4096, aligned).
    fn config_read(&self, offset: usize, size: usize) -> u32;
    /// Writes `size` (1, 2 or 4) bytes of configuration space at `offset` (below 4096, aligned).
    fn config_write(&self, offset: usize, size: usize, value: u32);
    /// Interrupt pin it drives, 1 to 4; 0 for none.
    fn interrupt_pin(&self) -> u8;
    /// Connects the function, once, when it is plugged in.
    fn attach(&self, attachment: Attachment);
}

/// Where interrupt pins lead.
pub trait IntxRouter: Send + Sync {
    /// A line for interrupt pin `pin` (1 to 4; 0 for none) of `device`. Asked for once a function is plugged in.
    fn line(&self, device: u8, pin: u8) -> IrqLine;
}

/// A place on the bus cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// Device above 31 or function above 7.
    OutOfRange,
    /// There is a function already.
    Taken,
    /// No device number is free.
    Full,
}

/// Bus 0 of a host.
pub struct PciBus {
    functions: RwLock<BTreeMap<PciAddress, Arc<dyn PciFunction>>>,
    memory: Arc<Region>,
    io: Arc<Region>,
    intx: Arc<dyn IntxRouter>,
    msi: Arc<dyn MsiSink>,
}

impl PciBus {
    /// An empty bus whose functions' BARs go to `memory` and `io`.
    pub fn new(
        memory: Arc<Region>,
        io: Arc<Region>,
        intx: Arc<dyn IntxRouter>,
        msi: Arc<dyn MsiSink>,
    ) -> Arc<Self> {
        Arc::new(Self { functions: RwLock::default(), memory, io, intx, msi })
    }

    /// Plugs `function` in at `address`.
    ///
    /// # Errors
    /// The address is out of range or taken.
    pub fn plug(&self, address: PciAddress, function: Arc<dyn PciFunction>) -> Result<(), SlotError> {
        if address.device > 31 || address.function > 7 {
            return Err(SlotError::OutOfRange);
        }
        let mut functions = self.functions.write();
        if functions.contains_key(&address) {
            return Err(SlotError::Taken);
        }
        function.attach(Attachment {
            memory: self.memory.clone(),
            io: self.io.clone(),
            intx: self.intx.line(address.device, function.interrupt_pin()),
            msi: self.msi.clone(),
        });
        functions.insert(address, function);
        Ok(())
    }

    /// Plugs `function` in as function 0 of the first free device from 1 on; where.
    ///
    /// # Errors
    /// All device numbers are taken.
    pub fn plug_anywhere(&self, function: Arc<dyn PciFunction>) -> Result<PciAddress, SlotError> {
        for device in 1..32 {
            let address = PciAddress { device, function: 0 };
            match self.plug(address, function.clone()) {
                Err(SlotError::Taken) => {}
                result => return result.map(|()| address),
            }
        }
        Err(SlotError::Full)
    }

    /// Functions in order of addresses.
    pub fn functions(&self) -> Vec<(PciAddress, Arc<dyn PciFunction>)> {
        self.functions.read().iter().map(|(address, function)| (*address, function.clone())).collect()
    }

    fn function(&self, bus: u8, devfn: u8) -> Option<Arc<dyn PciFunction>> {
        let address = PciAddress { device: devfn >> 3, function: devfn & 7 };
        if bus != 0 {
            return None;
        }
        self.functions.read().get(&address).cloned()
    }

    /// Configuration read; ones where there is no function.
    pub fn config_read(&self, bus: u8, devfn: u8, offset: usize, size: usize) -> u32 {
        match self.function(bus, devfn) {
            Some(function) if offset < spec::CONFIG_SIZE => function.config_read(offset, size),
            _ => u32::MAX >> (32 - 8 * size.clamp(1, 4)),
        }
    }

    /// Configuration write; dropped where there is no function.
    pub fn config_write(&self, bus: u8, devfn: u8, offset: usize, size: usize, value: u32) {
        if let Some(function) = self.function(bus, devfn).filter(|_| offset < spec::CONFIG_SIZE) {
            function.config_write(offset, size, value);
        }
    }
}
