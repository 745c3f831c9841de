//! Firmware that the host's packages do not have.

use std::path::PathBuf;

use crate::debian::Archive;

/// The two banks of EDK2 for RISC-V's board `virt`: code and variables, obtained if need be.
pub fn edk2_riscv64() -> anyhow::Result<[PathBuf; 2]> {
    let folder =
        Archive::new("trixie", "riscv64").package("qemu-efi-riscv64")?.join("usr/share/qemu-efi-riscv64");
    Ok(["CODE", "VARS"].map(|part| folder.join(format!("RISCV_VIRT_{part}.fd"))))
}
