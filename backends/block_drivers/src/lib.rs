//! All block drivers in one registry.

use rhea_block::{FileDriver, HostDeviceDriver, NullDriver, RawDriver, Registry};
use rhea_block_crypto::LuksDriver;
use rhea_block_remote::{FtpDriver, HttpDriver, SshDriver};

/// A registry with every driver there is.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    // Protocols, formats, filters: one line for each driver.
    registry.add(FileDriver);
    registry.add(HostDeviceDriver);
    registry.add(NullDriver::CO);
    registry.add(NullDriver::AIO);
    registry.add(rhea_nbd::NbdDriver);
    registry.add(RawDriver);
    registry.add(rhea_qcow2::Qcow2Driver);
    registry.add(rhea_vhdx::VhdxDriver);
    registry.add(rhea_vmdk::VmdkDriver);
    registry.add(LuksDriver);
    registry.add(rhea_block_filters::ThrottleDriver);
    registry.add(rhea_block_filters::CopyOnReadDriver);
    registry.add(rhea_block_filters::CompressDriver);
    registry.add(rhea_block_filters::PreallocateDriver);
    registry.add(rhea_block_filters::QuorumDriver);
    registry.add(rhea_block_filters::BlkdebugDriver);
    registry.add(rhea_block_filters::BlkverifyDriver);
    registry.add(HttpDriver::HTTP);
    registry.add(HttpDriver::HTTPS);
    registry.add(FtpDriver::FTP);
    registry.add(FtpDriver::FTPS);
    rhea_image_formats::register(&mut registry);
    registry.add(SshDriver::default());
    registry
}
