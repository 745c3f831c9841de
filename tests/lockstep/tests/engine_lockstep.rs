//! The engine's own lockstep mode: it runs instructions as it does without, and does not cry wolf.

use rhea_engine::{EngineConfig, Tier, VcpuContext};
use rhea_lockstep_tests::catalogue::Group;
use rhea_lockstep_tests::compare::{Lockstep, Tally, cases, sweep_streams};
use rhea_lockstep_tests::place;
use rhea_lockstep_tests::rhea::Rhea;
use rhea_lockstep_tests::state::Mode;

const GROUPS: [Group; 6] = [Group::Integer, Group::Bits, Group::X87, Group::Sse, Group::Avx, Group::String];

#[test]
fn units_run_in_lockstep_as_they_do_without() {
    let config = EngineConfig { lockstep: true, code_bytes: 1 << 20, ..EngineConfig::default() };
    let mut sides = Lockstep::of(vec![
        (Tier::Interpreter, Rhea::new(Tier::Interpreter)),
        (Tier::Baseline, Rhea::with_config(config)),
    ]);
    let mut tally = Tally::default();
    for mode in [Mode::Long, Mode::Compat] {
        sweep_streams(&mut sides, &GROUPS, mode, 12, cases(300), 0x10c2, &mut tally);
    }
    assert_eq!(tally.failed, 0, "{}", tally.describe(3));
}

#[test]
fn only_units_in_the_range_are_compiled() {
    let run = |range| {
        let config = EngineConfig { baseline_range: range, code_bytes: 1 << 20, ..EngineConfig::default() };
        let mut rhea = Rhea::with_config(config);
        let e = rhea.run(Mode::Long, &[0x48, 0xff, 0xc0], &Default::default(), &vec![0; place::DATA_LEN]);
        assert_eq!(e.state.gpr[0], 1);
        rhea.stats().code_bytes
    };
    assert_eq!(run(Some(0..=0xfff)), 0);
    assert_ne!(run(Some(place::CODE..=place::CODE + 0xfff)), 0);
    assert_ne!(run(None), 0);
}

/// Set for the process that is to find a difference.
const DIVERGES: &str = "RHEA_LOCKSTEP_TEST_DIVERGES";

/// Answers differently each time: as if the compiled code called something else than the interpreter.
extern "C" fn fickle(_: &mut VcpuContext, _: u64, _: u64, _: u64, _: u64) -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static CALLS: AtomicU64 = AtomicU64::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed) & 1
}

#[test]
fn a_difference_is_told_and_ends_the_process() {
    if std::env::var_os(DIVERGES).is_some() {
        let config = EngineConfig { lockstep: true, code_bytes: 1 << 20, ..EngineConfig::default() };
        let mut rhea = Rhea::with_helpers(config, |helpers| {
            for h in helpers.iter_mut().filter(|h| h.info.pure) {
                h.function = fickle;
            }
        });
        // SETBE AL, of flags that the unit does not know.
        rhea.run(Mode::Long, &[0x0f, 0x96, 0xc0], &Default::default(), &vec![0; place::DATA_LEN]);
        panic!("nothing was noticed");
    }
    let this = std::env::current_exe().expect("the test's own program");
    let output = std::process::Command::new(this)
        .args(["--exact", "a_difference_is_told_and_ends_the_process", "--nocapture"])
        .env(DIVERGES, "1")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    for expected in ["lockstep: the unit at 0x10000800", "state+0x0:", "guest code:", "compute_flags", "RAX="]
    {
        assert!(told.contains(expected), "{expected} is missing in:\n{told}");
    }
}
