//! CPU models: what CPUID says, by name.

/// A configured processor model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuModel {
    name: String,
}

impl CpuModel {
    /// The model's name as given to `-cpu`.
    pub fn name(&self) -> &str {
        &self.name
    }
}
