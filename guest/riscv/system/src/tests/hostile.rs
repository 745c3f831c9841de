//! Whatever a guest does, in whatever order: no panic, and a state that is legal.

use proptest::prelude::*;
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::platform::Lines;
use rhea_riscv_state::state::Privilege;

use crate::csr::{self, Operation, Request};
use crate::exception::{Cause, Exception};
use crate::paging::{self, Access, AccessKind};
use crate::privileged::{self, CacheBlock};
use crate::test_bus::{BITS, TestBus, hart, units_on};
use crate::{interrupt, trap};

const MODELS: [&str; 4] =
    ["max,num-pmp-regions=64", "rv32,v=on,sscofpmf=on", "rv64,c=off", "rv64,s=off,u=off"];

/// One step, by the instruction's kind.
fn step(
    st: &mut RiscvState,
    bus: &mut TestBus,
    (kind, number, a, b): (u8, u16, u64, u64),
) -> Result<(), Exception> {
    bus.time = bus.time.wrapping_add(b);
    bus.cycles = bus.cycles.wrapping_add(a);
    bus.instructions = bus.instructions.wrapping_add(b);
    let index = (b & 7) as u8;
    match kind {
        0..=9 => {
            let operation = [Operation::Write, Operation::Set, Operation::Clear][usize::from(kind) % 3];
            let request = Request { operation, number, operand: a, writes: b & 1 == 0, bits: BITS };
            csr::execute(st, bus, request).map(|_| ())
        }
        10 => trap::mret(st, bus, BITS),
        11 => trap::sret(st, bus, BITS),
        12 => privileged::wfi(st, BITS),
        13 => privileged::sfence_vma(st, Some(a), Some(b), BITS).map(|_| ()),
        14 => privileged::cache_block(st, CacheBlock::Zero, BITS).map(|_| ()),
        15 => Err(privileged::ecall(st)),
        16 => {
            bus.lines.set(Lines::from_bits_truncate(a), b & 1 == 0);
            Ok(())
        }
        17 => {
            bus.memory.insert(a & 0xffff_fff8, b);
            Ok(())
        }
        18 => {
            privileged::hfence(st, privileged::HypervisorFence::Physical, Some(a), Some(b), BITS).map(|_| ())
        }
        _ => {
            let access = Access::new(
                st,
                [AccessKind::Read, AccessKind::Write, AccessKind::Execute][index as usize % 3],
                index,
            );
            paging::translate(st, bus, a & st.config.mask(), 1 + (b & 7), access).map(|_| ())
        }
    }
}

/// CSR numbers that the hart has, most of the time.
fn numbers() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..0x1010, 0x300u16..0x3f0, 0x100u16..0x190, 0x200u16..0x290, 0x600u16..0x690]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_order_of_instructions_leaves_a_legal_hart(
        model in 0usize..MODELS.len(),
        steps in prop::collection::vec((0u8..20, numbers(), any::<u64>(), any::<u64>()), 1..120),
    ) {
        let (mut st, mut bus) = hart(MODELS[model]);
        units_on(&mut st);
        let lowest = if model == 3 { Privilege::Machine } else { Privilege::User };
        for one in steps {
            if let Err(exception) = step(&mut st, &mut bus, one) {
                let bits = matches!(exception.cause, Cause::IllegalInstruction | Cause::VirtualInstruction);
                prop_assert!(!bits || exception.value == u64::from(BITS));
                trap::raise(&mut st, &mut bus, exception);
                prop_assert_eq!(st.pc & 3, 0, "a handler is aligned");
            }
            interrupt::poll(&mut st, &mut bus);
            prop_assert_eq!(st.mode, st.compute_mode());
            prop_assert!(!st.is_virtual() || st.privilege() != Privilege::Machine && st.has(Extension::H));
            prop_assert!(st.privilege() >= lowest && st.privilege_bits != 2);
            prop_assert_eq!(st.pc & !st.config.mask(), 0);
            let low = if st.config.has_compressed() { 1 } else { 3 };
            prop_assert_eq!(st.pc & low, 0);
        }
    }
}
