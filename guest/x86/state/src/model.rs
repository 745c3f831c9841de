//! CPU models: what CPUID says, by name.

/// Whose processor the model is: the vendors' architectures differ in a few instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// "GenuineIntel".
    Intel,
    /// "AuthenticAMD".
    #[default]
    Amd,
}

impl Vendor {
    /// The twelve bytes that CPUID leaf 0 returns in EBX, EDX, ECX.
    pub const fn id(self) -> &'static [u8; 12] {
        match self {
            Self::Intel => b"GenuineIntel",
            Self::Amd => b"AuthenticAMD",
        }
    }

    /// SYSCALL and SYSRET exist outside 64-bit mode (AMD APM vol. 3).
    pub const fn has_legacy_syscall(self) -> bool {
        matches!(self, Self::Amd)
    }

    /// SYSENTER and SYSEXIT exist in long mode (Intel SDM vol. 2).
    pub const fn has_long_sysenter(self) -> bool {
        matches!(self, Self::Intel)
    }
}

/// A configured processor model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuModel {
    name: String,
    vendor: Vendor,
}

impl CpuModel {
    /// The model's name as given to `-cpu`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The vendor.
    pub const fn vendor(&self) -> Vendor {
        self.vendor
    }
}
