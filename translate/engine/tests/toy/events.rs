//! Events, waiting and stopping.

use crate::guest::{Cpu, End, State, op};
use crate::machine::{Asm, Machine, TIERS, config, run, run_from};
use rhea_engine::request;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After this time something was lost: a loaded host is slow, but not that slow.
const LOST: Duration = Duration::from_secs(120);

#[test]
fn a_tight_loop_is_left_after_a_kick() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // For ever.
        m.load(0x1000, &Asm::new().addi(1, 1, 1).j(-8));
        let mut cx = m.vcpu(0, 0x1000);
        let (irq, taken) = (cx.data::<Cpu>().irq.clone(), cx.data::<Cpu>().taken.clone());
        let handle = cx.handle();
        let thread = std::thread::spawn(move || {
            cx.run();
            cx
        });
        for n in 1..=200 {
            let start = Instant::now();
            irq.store(true, Ordering::SeqCst);
            handle.kick();
            while taken.load(Ordering::SeqCst) < n {
                assert!(start.elapsed() < LOST, "the event was lost");
                std::thread::yield_now();
            }
        }
        handle.request(request::STOP);
        assert!(thread.join().unwrap().state::<State>().r[1] > 0);
    }
}

#[test]
fn no_wake_up_is_lost() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().insn(op::HALT, 0, 0, 0, 0).addi(1, 1, 1).j(-16));
        let mut cx = m.vcpu(0, 0x1000);
        let (irq, taken) = (cx.data::<Cpu>().irq.clone(), cx.data::<Cpu>().taken.clone());
        let handle = cx.handle();
        let thread = std::thread::spawn(move || {
            cx.run();
            cx
        });
        for n in 1..=3000 {
            irq.store(true, Ordering::SeqCst);
            handle.kick();
            let start = Instant::now();
            while taken.load(Ordering::SeqCst) < n {
                assert!(start.elapsed() < LOST, "wake-up {n} was lost");
                std::hint::spin_loop();
            }
        }
        handle.request(request::STOP);
        let mut cx = thread.join().unwrap();
        assert!(cx.state::<State>().r[1] <= 3000, "it never went on without an event");
    }
}

#[test]
fn a_waiting_vcpu_still_waits_after_stop_and_resume() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().insn(op::HALT, 0, 0, 0, 0).li(1, 5).exit());
        let mut cx = m.vcpu(0, 0x1000);
        for _ in 0..3 {
            let handle = cx.handle();
            let kicker = std::thread::spawn(move || {
                // A kick and a flush that bring no event, then the stop.
                handle.kick();
                handle.request(request::FLUSH_TLB);
                std::thread::sleep(Duration::from_millis(5));
                handle.request(request::STOP);
            });
            cx.run();
            kicker.join().unwrap();
            assert_eq!(cx.state::<State>().r[1], 0);
        }
        // An event that comes while it is stopped is not forgotten.
        cx.data::<Cpu>().irq.store(true, Ordering::SeqCst);
        cx.handle().kick();
        assert_eq!(run(&mut cx), End::Exit);
        assert_eq!(cx.state::<State>().r[1], 5);
    }
}

#[test]
fn stop_and_resume_race_with_running() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().li(2, 3000).call(0x1000 - 8).bne(1, 2, 8).exit());
        m.load(0x2008, &Asm::new());
        m.load(0x2000, &Asm::new().addi(1, 1, 1).ret());
        let mut cx = m.vcpu(0, 0x1000);
        let handle = cx.handle();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = done.clone();
        let stopper = std::thread::spawn(move || {
            while !flag.load(Ordering::SeqCst) {
                handle.request(request::STOP);
                std::thread::yield_now();
            }
        });
        let start = Instant::now();
        while cx.data::<Cpu>().end.is_none() {
            cx.run();
            assert!(start.elapsed() < LOST);
        }
        done.store(true, Ordering::SeqCst);
        stopper.join().unwrap();
        assert_eq!(cx.state::<State>().r[1], 3000);
    }
}

#[test]
fn flush_requests_from_outside_do_no_harm() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(
            0x1000,
            &Asm::new()
                .li(1, 0)
                .li(2, 100_000)
                .li(5, 0x9000)
                .st(3, 1, 5, 0)
                .addi(1, 1, 1)
                .bne(1, 2, 24)
                .exit(),
        );
        let mut cx = m.vcpu(0, 0);
        let handle = cx.handle();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = done.clone();
        let flusher = std::thread::spawn(move || {
            while !flag.load(Ordering::SeqCst) {
                handle.request(request::FLUSH_TLB);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        assert_eq!(run_from(&mut cx, 0x1000)[1], 100_000);
        done.store(true, Ordering::SeqCst);
        flusher.join().unwrap();
        assert_eq!(m.space.read(0x9000, 8), 99_999);
    }
}
