//! Looks for differences by hand: `explore GROUP [CASES-PER-INSTRUCTION [SEED [CODE-PREFIX [TIERS]]]]`.
//!
//! `GROUP` is a group's name or `all`, or `prefix`, or `stream` or `loop` with a length in place of the code prefix; `TIERS` some of `i` (interpreter) and `b` (baseline).

use rhea_engine::Tier;
use rhea_lockstep_tests::catalogue::{self, Group};
use rhea_lockstep_tests::compare::{Lockstep, Tally, sweep_code, sweep_loops, sweep_prefixes, sweep_streams};
use rhea_lockstep_tests::state::Mode;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let arg = |i: usize| args.get(i).map(String::as_str);
    let wanted = arg(1).unwrap_or("all");
    let count = arg(2).and_then(|v| v.parse().ok()).unwrap_or(20);
    let seed = arg(3).and_then(|v| v.parse().ok()).unwrap_or(1);
    let prefix = arg(4).unwrap_or("");
    let tiers: Vec<Tier> = arg(5)
        .unwrap_or("i")
        .chars()
        .filter(|c| matches!(c, 'i' | 'b'))
        .map(|c| if c == 'b' { Tier::Baseline } else { Tier::Interpreter })
        .collect();
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let mut sides = Lockstep::new(&tiers);
    if wanted == "prefix" {
        let mut tally = Tally::default();
        for mode in [Mode::Long, Mode::Compat] {
            sweep_prefixes(&mut sides, mode, count, seed, &mut tally);
        }
        println!("{}", tally.describe(400));
        return;
    }
    if wanted == "stream" || wanted == "loop" {
        let length = prefix.parse().unwrap_or(8);
        for groups in [
            &[Group::Integer][..],
            &[Group::Integer, Group::Bits],
            &[Group::X87, Group::Integer],
            &[Group::Mmx, Group::Sse, Group::Integer],
            &[Group::Avx, Group::Sse, Group::Integer],
            &[Group::Integer, Group::Bits, Group::X87, Group::Sse, Group::Avx, Group::Crypto],
        ] {
            let mut tally = Tally::default();
            for mode in [Mode::Long, Mode::Compat] {
                let sweep = if wanted == "loop" { sweep_loops } else { sweep_streams };
                sweep(&mut sides, groups, mode, length, count, seed, &mut tally);
            }
            println!("==== {groups:?}\n{}", tally.describe(400));
        }
        return;
    }
    for group in Group::ALL {
        if wanted != "all" && format!("{group:?}") != wanted {
            continue;
        }
        let mut tally = Tally::default();
        for mode in [Mode::Long, Mode::Compat] {
            for (i, &code) in catalogue::codes(group, mode).iter().enumerate() {
                if format!("{code:?}").starts_with(prefix) {
                    sweep_code(&mut sides, code, mode, count, seed ^ (i as u64) << 32, &mut tally);
                }
            }
        }
        println!("==== {group:?}\n{}", tally.describe(400));
        for (tier, rhea) in sides.tiers() {
            let s = rhea.stats();
            println!("{tier:?}: {} units, {} not compiled", s.units, s.unsupported);
        }
    }
}
