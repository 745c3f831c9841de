//! Sets of features that are asked for together.

use crate::{Feature, Features};

/// The width of integer registers and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xlen {
    /// RV32.
    Rv32,
    /// RV64.
    Rv64,
}

impl Xlen {
    /// In bits.
    pub const fn bits(self) -> u32 {
        match self {
            Xlen::Rv32 => 32,
            Xlen::Rv64 => 64,
        }
    }
}

impl Features {
    /// The base instruction set alone.
    pub const fn base(xlen: Xlen) -> Features {
        match xlen {
            Xlen::Rv32 => Features::NONE.with(Feature::Rv32),
            Xlen::Rv64 => Features::NONE.with(Feature::Rv64),
        }
    }

    /// Every extension that the tables know.
    pub fn everything(xlen: Xlen) -> Features {
        let extensions = Feature::ALL.iter().filter(|f| !matches!(f, Feature::Rv32 | Feature::Rv64));
        extensions.fold(Features::base(xlen), |features, extension| features.with(*extension))
    }
}
