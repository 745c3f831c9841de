//! One instruction on a hart of ours.

use rhea_engine::Tier;

use crate::machine::{Machine, RAM, STOP};
use crate::server::{PAGE, PAGE_LEN, State};

/// Where the instruction is, and the handler of exceptions: not at the memory's beginning, which random stores do hit.
const CODE: u64 = RAM + 0x3_4560;
const HANDLER: u64 = CODE + 0x100;

/// A hart that executes single instructions.
pub struct Ours(Machine);

fn lui_x31(value: u64) -> u32 {
    (value as u32) & 0xffff_f000 | 31 << 7 | 0x37
}

/// `sw zero, 0(x31)`, and a loop until the hart has stopped.
const STORE: [u32; 2] = [31 << 15 | 2 << 12 | 0x23, 0x6f];

impl Ours {
    pub fn new(cpu: &str, tier: Tier, lockstep: bool) -> Ours {
        let mut machine = Machine::new(cpu, tier, lockstep);
        let handler = [lui_x31(STOP), STORE[0], STORE[1]];
        machine.write(HANDLER, &handler.map(u32::to_le_bytes).concat());
        machine.state().m.mtvec = HANDLER;
        Ours(machine)
    }

    /// Executes the instruction, which must not jump.
    pub fn ask(&mut self, s: &State) -> State {
        let code = [s.word as u32, lui_x31(STOP), STORE[0], STORE[1]];
        self.0.write(CODE, &code.map(u32::to_le_bytes).concat());
        self.0.write(PAGE, &s.page);
        self.0.gather_flags();
        let st = self.0.state();
        for i in 1..32 {
            st.set_x(i, s.x[i]);
        }
        st.f = s.f;
        st.fflags = s.fcsr as u32 & 31;
        st.frm = (s.fcsr >> 5) as u32 & 7;
        (st.m.mcause, st.m.mtval, st.m.mepc) = (u64::MAX, 0, 0);
        st.reservation = rhea_riscv_state::state::NO_RESERVATION;
        self.0.load_rounding();
        self.0.run(CODE);
        self.0.gather_flags();
        let page = self.0.read(PAGE, PAGE_LEN);
        let st = self.0.state();
        State {
            word: match st.m.mcause {
                u64::MAX => 0,
                2 => 4,
                3 => 5,
                _ => 11,
            },
            fcsr: u64::from(st.frm << 5 | st.fflags),
            x: st.x,
            f: st.f,
            page,
            cause: Some(st.m.mcause.wrapping_mul(31).wrapping_add(st.m.mtval).wrapping_add(st.m.mepc)),
        }
    }
}
