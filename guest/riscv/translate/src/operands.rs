//! How operands are written that are neither registers nor plain numbers.

use std::fmt::{Display, Formatter, Result};

use crate::{Constant, Csr, Exact, FenceSet, Mask, Ordering, Rounding, Upper, Vtype, csr};

impl Display for Csr {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        csr::write(self.0, f)
    }
}

impl Rounding {
    /// The mode in `frm`.
    pub const DYNAMIC: Rounding = Rounding(7);
}

/// Follows the last operand: nothing if the mode is the one in `frm`.
impl Display for Rounding {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self.0 {
            0 => ",rne",
            1 => ",rtz",
            2 => ",rdn",
            3 => ",rup",
            4 => ",rmm",
            7 => "",
            _ => ",reserved",
        })
    }
}

/// Mode 0 is what an assembler writes if nothing is said, and goes without saying.
impl Display for Exact {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            0 => Ok(()),
            7 => f.write_str(",dyn"),
            mode => Rounding(mode).fmt(f),
        }
    }
}

/// Device input and output, memory reads and writes; `0` if there is none.
impl Display for FenceSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0 & 15 == 0 {
            return f.write_str("0");
        }
        let letters = [(8, "i"), (4, "o"), (2, "r"), (1, "w")];
        letters.iter().filter(|(bit, _)| self.0 & bit != 0).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl Ordering {
    /// True if no later access may come before.
    pub const fn acquires(self) -> bool {
        self.0 & 2 != 0
    }

    /// True if no earlier access may come after.
    pub const fn releases(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Follows the mnemonic.
impl Display for Ordering {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match (self.acquires(), self.releases()) {
            (false, false) => "",
            (true, false) => ".aq",
            (false, true) => ".rl",
            (true, true) => ".aqrl",
        })
    }
}

/// The twenty bits as the assembler takes them.
impl Display for Upper {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{:#x}", self.0 as u32 >> 12)
    }
}

impl Constant {
    /// The values that Zfa can load, as C writes floating-point numbers exactly.
    const NAMES: [&'static str; 32] = [
        "-0x1p+0", "min", "0x1p-16", "0x1p-15", "0x1p-8", "0x1p-7", "0x1p-4", "0x1p-3", "0x1p-2", "0x1.4p-2",
        "0x1.8p-2", "0x1.cp-2", "0x1p-1", "0x1.4p-1", "0x1.8p-1", "0x1.cp-1", "0x1p+0", "0x1.4p+0",
        "0x1.8p+0", "0x1.cp+0", "0x1p+1", "0x1.4p+1", "0x1.8p+1", "0x1p+2", "0x1p+3", "0x1p+4", "0x1p+7",
        "0x1p+8", "0x1p+15", "0x1p+16", "inf", "nan",
    ];
}

impl Display for Constant {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(Self::NAMES[usize::from(self.0) % 32])
    }
}

impl Mask {
    /// True if only elements whose bit in v0 is set are worked on.
    pub const fn is_masked(self) -> bool {
        self.0 == 0
    }
}

/// Follows the last operand.
impl Display for Mask {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(if self.is_masked() { ",v0.t" } else { "" })
    }
}

/// `e32,m2,ta,mu`; the number where a part of it is reserved.
impl Display for Vtype {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (group, width) = (self.0 & 7, self.0 >> 3 & 7);
        if self.0 >> 8 != 0 || group == 4 || width > 3 {
            return write!(f, "{}", self.0);
        }
        let group = ["m1", "m2", "m4", "m8", "", "mf8", "mf4", "mf2"][usize::from(group)];
        let tail = if self.0 & 0x40 != 0 { "ta" } else { "tu" };
        let mask = if self.0 & 0x80 != 0 { "ma" } else { "mu" };
        write!(f, "e{},{group},{tail},{mask}", 8 << width)
    }
}
