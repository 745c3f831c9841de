//! Counted instructions and virtual time.

use crate::guest::{Cpu, End, State, op};
use crate::machine::{Asm, Machine, TIERS, config, run, run_from};
use rhea_device::{Timer, VirtualClock};
use rhea_engine::{EngineConfig, InstructionCounter, Tier, VcpuContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn machine(tier: Tier, shift: u32) -> (Machine, Arc<InstructionCounter>, Arc<VirtualClock>) {
    let (counter, clock) = InstructionCounter::new(shift, false);
    let mut m = Machine::new(EngineConfig { icount: Some(counter.clone()), ..config(tier) });
    let source = clock.clone();
    m.clock = Arc::new(move || source.now());
    (m, counter, clock)
}

/// A timer that raises the vCPU's event every `period` ns, `times` times.
fn ticker(cx: &mut VcpuContext, clock: &Arc<VirtualClock>, period: u64, times: u64) -> Arc<Timer> {
    let (irq, handle) = (cx.data::<Cpu>().irq.clone(), cx.handle());
    let count = AtomicU64::new(0);
    let weak = Arc::downgrade(clock);
    let timer = Arc::new_cyclic(|me: &std::sync::Weak<Timer>| {
        let me = me.clone();
        clock.timer("tick", move || {
            irq.store(true, Ordering::SeqCst);
            handle.kick();
            if let (Some(me), Some(clock)) = (me.upgrade(), weak.upgrade())
                && count.fetch_add(1, Ordering::SeqCst) + 1 < times
            {
                me.arm(clock.now() + period);
            }
        })
    });
    timer.arm(period);
    timer
}

#[test]
fn time_is_the_number_of_instructions() {
    for tier in TIERS {
        let (m, counter, _clock) = machine(tier, 3);
        m.load(
            0x1000,
            &Asm::new().li(1, 0).li(2, 1000).addi(1, 1, 1).bne(1, 2, 16).insn(op::TIME, 4, 0, 0, 0).exit(),
        );
        let mut cx = m.vcpu(0, 0);
        let r = run_from(&mut cx, 0x1000);
        assert_eq!(r[1], 1000);
        // Units count when they are entered: the last one holds TIME and EXIT.
        assert!((8 * 2000..8 * 2100 * 2).contains(&r[4]), "{}", r[4]);
        assert!(counter.executed() >= 2000);
    }
}

#[test]
fn timers_fire_at_the_same_instruction_every_time() {
    for tier in TIERS {
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (m, _, clock) = machine(tier, 0);
            m.load(0x1000, &Asm::new().li(1, 0).li(2, 200_000).addi(1, 1, 1).bne(1, 2, 16).exit());
            let mut cx = m.vcpu(0, 0);
            let timer = ticker(&mut cx, &clock, 777, 100);
            let r = run_from(&mut cx, 0x1000);
            let taken = cx.data::<Cpu>().taken.load(Ordering::SeqCst);
            assert_eq!((r[1], taken), (200_000, 100));
            assert_eq!(timer.deadline(), None);
            seen.push(cx.env().clock_ns());
        }
        assert!(seen.windows(2).all(|w| w[0] == w[1]), "{seen:?}");
    }
}

#[test]
fn waiting_lets_time_jump_to_the_next_deadline() {
    for tier in TIERS {
        let (m, _, clock) = machine(tier, 0);
        // Ten times: wait for the tick.
        m.load(
            0x1000,
            &Asm::new().li(1, 0).li(2, 10).insn(op::HALT, 0, 0, 0, 0).addi(1, 1, 1).bne(1, 2, 16).exit(),
        );
        let mut cx = m.vcpu(0, 0);
        let _timer = ticker(&mut cx, &clock, 1_000_000_000, 1000);
        let r = run_from(&mut cx, 0x1000);
        assert_eq!(r[1], 10);
        assert!((10_000_000_000..11_000_000_000).contains(&clock.now()), "{}", clock.now());
    }
}

#[test]
fn a_deadline_set_by_another_thread_ends_a_wait_without_one() {
    for tier in TIERS {
        let (m, counter, clock) = machine(tier, 0);
        m.load(0x1000, &Asm::new().li(1, 7).insn(op::HALT, 0, 0, 0, 0).exit());
        let mut cx = m.vcpu(0, 0);
        counter.wake_by(cx.handle());
        let (irq, handle) = (cx.data::<Cpu>().irq.clone(), cx.handle());
        let timer = clock.timer("terminal", move || {
            irq.store(true, Ordering::SeqCst);
            handle.kick();
        });
        let armed = clock.clone();
        std::thread::scope(|threads| {
            threads.spawn(move || {
                // Long enough for the vCPU to be asleep mostly; right in either order.
                std::thread::sleep(std::time::Duration::from_millis(50));
                timer.arm(armed.now() + 1_000_000);
                while timer.deadline().is_some() {
                    std::thread::yield_now();
                }
            });
            assert_eq!(run_from(&mut cx, 0x1000)[1], 7);
        });
        assert!(clock.now() >= 1_000_000);
    }
}

#[test]
fn a_second_vcpu_is_refused() {
    let (m, _, _) = machine(Tier::Interpreter, 0);
    let mut cx = m.vcpu(0, 0x1000);
    m.load(0x1000, &Asm::new().exit());
    assert_eq!(run(&mut cx), End::Exit);
    assert_eq!(cx.state::<State>().pc, 0x1008);
    let io = rhea_memory::AddressSpace::new("io", rhea_memory::Region::container(&m.topology, "io", 1));
    let parts = rhea_engine::context::VcpuParts {
        index: 1,
        memory: m.space.clone(),
        io,
        clock: m.clock.clone(),
        data: Box::new(()),
    };
    assert!(VcpuContext::new(&m.engine, parts, State::default()).is_err());
}
