//! Reset.

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Power-on: all state returns to what the data sheet gives for power-up.
    Cold,
    /// System reset while powered: state a battery or a resume well holds is kept.
    Warm,
}

/// A device that can be reset. The machine calls it with the vCPUs stopped.
pub trait Reset: Send + Sync {
    /// Puts the device in its reset state and its lines at their reset levels.
    fn reset(&self, kind: ResetKind);
}
