//! The APIC timer: one-shot, periodic and TSC-deadline (SDM vol. 3, 11.5.4).
//!
//! The counter is never ticked: its value follows from virtual time since it was loaded. The host timer is armed
//! only while an interrupt can come of it, so that a masked timer costs nothing.

use super::{LocalApic, State, spec};

/// Nanoseconds a tick of the timer's input clock takes: the bus runs at 1 GHz.
const TICK_NS: u64 = 1;
/// Shortest period a periodic timer is run at. A guest that asks for less gets this, so that it cannot keep
/// the host busy with nothing else.
const SHORTEST_PERIOD_NS: u64 = 20_000;

/// Divisor that the divide configuration register selects.
fn divisor(divide: u32) -> u64 {
    match divide & 3 | divide >> 1 & 4 {
        7 => 1,
        n => 2 << n,
    }
}

impl State {
    fn timer_mode(&self) -> u32 {
        self.lvt[spec::TIMER] & spec::TIMER_MODE
    }

    /// Nanoseconds from load to zero.
    fn period_ns(&self) -> u64 {
        u64::from(self.initial_count) * divisor(self.divide) * TICK_NS
    }

    /// Virtual time of the next expiry after `now` in the counting modes.
    fn next_expiry(&self, now: u64) -> Option<u64> {
        let period = self.period_ns();
        if period == 0 {
            return None;
        }
        let first = self.count_start.saturating_add(period);
        if now < first {
            return Some(first);
        }
        if self.timer_mode() != spec::TIMER_PERIODIC {
            return None;
        }
        let step = period.max(SHORTEST_PERIOD_NS);
        Some(first.saturating_add(((now - first) / step + 1).saturating_mul(step)))
    }
}

impl LocalApic {
    pub(super) fn current_count(&self, state: &State) -> u32 {
        let period = state.period_ns();
        if period == 0 || state.timer_mode() == spec::TIMER_TSC_DEADLINE {
            return 0;
        }
        let elapsed = self.clock.now().saturating_sub(state.count_start);
        let elapsed = match state.timer_mode() {
            spec::TIMER_PERIODIC => elapsed % period,
            _ => elapsed.min(period),
        };
        ((period - elapsed) / (divisor(state.divide) * TICK_NS)) as u32
    }

    pub(super) fn load_count(&self, state: &mut State, value: u32) {
        if state.timer_mode() == spec::TIMER_TSC_DEADLINE {
            return;
        }
        state.initial_count = value;
        state.count_start = self.clock.now();
        self.rearm(state);
    }

    pub(super) fn set_divide(&self, state: &mut State, divide: u32) {
        // The count so far is kept: the counter goes on from its value at the new rate.
        let now = self.clock.now();
        let elapsed_ticks = now.saturating_sub(state.count_start) / (divisor(state.divide) * TICK_NS);
        state.divide = divide;
        state.count_start = now.saturating_sub(elapsed_ticks.saturating_mul(divisor(divide) * TICK_NS));
        self.rearm(state);
    }

    /// The timer's LVT entry changed from `old`.
    pub(super) fn timer_lvt_changed(&self, state: &mut State, old: u32) {
        let (was, is) = (old & spec::TIMER_MODE, state.timer_mode());
        if was != is && (was == spec::TIMER_TSC_DEADLINE || is == spec::TIMER_TSC_DEADLINE) {
            // Changing to or from TSC-deadline mode disarms the timer.
            state.initial_count = 0;
            state.tsc_deadline = 0;
            self.timer.cancel();
        } else if is != spec::TIMER_TSC_DEADLINE {
            self.rearm(state);
        }
    }

    /// Arms the host timer for the next expiry of the counting modes, if an interrupt comes of it.
    fn rearm(&self, state: &State) {
        let masked = state.lvt[spec::TIMER] & spec::LVT_MASKED != 0;
        match state.next_expiry(self.clock.now()).filter(|_| !masked) {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.cancel(),
        }
    }

    /// The host timer fired.
    pub(super) fn timer_fired(&self) {
        self.update(|state| {
            let lvt = state.lvt[spec::TIMER];
            if state.timer_mode() == spec::TIMER_TSC_DEADLINE {
                // It may have been armed anew since it fired.
                if state.tsc_deadline == 0 || self.timer.deadline().is_some() {
                    return;
                }
                state.tsc_deadline = 0;
            } else {
                let now = self.clock.now();
                if state.initial_count == 0 || now < state.count_start.saturating_add(state.period_ns()) {
                    return;
                }
                self.rearm(state);
            }
            if lvt & spec::LVT_MASKED == 0 {
                state.request(lvt as u8, false);
            }
        });
    }

    /// IA32_TSC_DEADLINE; zero when disarmed.
    pub fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes IA32_TSC_DEADLINE: `deadline` in ticks of the processor's TSC, which reads `tsc_now` and runs at
    /// `tsc_hz`. Zero disarms. Ignored outside TSC-deadline mode.
    pub fn set_tsc_deadline(&self, deadline: u64, tsc_now: u64, tsc_hz: u64) {
        let now = self.clock.now();
        self.update(|state| {
            if state.timer_mode() != spec::TIMER_TSC_DEADLINE {
                return;
            }
            state.tsc_deadline = deadline;
            if deadline == 0 {
                self.timer.cancel();
                return;
            }
            let ticks = deadline.saturating_sub(tsc_now);
            // Rounded up: the handler must find the deadline passed.
            let ns = u128::from(ticks) * 1_000_000_000 / u128::from(tsc_hz.max(1)) + 1;
            self.timer.arm(now.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX)));
        });
    }
}
