//! What `-d` shows.

use crate::machine::{Asm, Machine, TIERS, config, run_from};
use parking_lot::Mutex;
use rhea_engine::EngineConfig;
use rhea_engine::trace::{Trace, item};
use std::io::Write;
use std::sync::Arc;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn traced(tier: rhea_engine::Tier, items: u32, ranges: Vec<std::ops::RangeInclusive<u64>>) -> String {
    let sink = Sink::default();
    let out: Box<dyn Write + Send> = Box::new(sink.clone());
    let trace = Trace { items, ranges, sink: Some(Arc::new(Mutex::new(out))), ..Trace::default() };
    let m = Machine::new(EngineConfig { trace, ..config(tier) });
    m.load(0x1000, &Asm::new().li(1, 0x1234).j(0x1000 - 8));
    m.load(0x2000, &Asm::new().exit());
    run_from(&mut m.vcpu(0, 0), 0x1000);
    let bytes = sink.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn guest_code_and_units_are_shown_once_as_they_are_translated() {
    for tier in TIERS {
        let text = traced(tier, item::IN_ASM | item::OP, vec![]);
        assert!(text.contains("IN: 0x1000\n0x0000000000001000:  0101000034120000"), "{text}");
        assert_eq!(text.matches("OP: 0x").count(), 2, "{text}");
    }
}

#[test]
fn each_unit_is_shown_as_it_runs_within_the_ranges_asked_for() {
    for tier in TIERS {
        assert_eq!(traced(tier, item::EXEC, vec![0x2000..=0x2fff]), "Trace 0: 0x2000 mode 0x0\n");
    }
}
