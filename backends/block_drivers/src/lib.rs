//! All block drivers in one registry.

use rhea_block::Registry;

/// A registry with every driver there is.
pub fn registry() -> Registry {
    #[allow(unused_mut, reason = "drivers are added below as they come")]
    let mut registry = Registry::new();
    // Protocols, formats, filters: one line for each driver.
    registry.add(rhea_vhdx::VhdxDriver);
    registry
}
