use super::*;
use rhea_device::ClockSource;

struct StandingStill;

impl ClockSource for StandingStill {
    fn now_ns(&self) -> u64 {
        0
    }
    fn deadline_changed(&self, _: Option<u64>) {}
}

fn clock() -> std::sync::Arc<VirtualClock> {
    VirtualClock::driven(std::sync::Arc::new(StandingStill))
}

#[test]
fn nothing_to_boot_is_said() {
    let config = PcConfig::new(PcKind::Q35, 64 << 20);
    assert!(matches!(build(&config, clock()), Err(BuildError::NothingToBoot)));
}
