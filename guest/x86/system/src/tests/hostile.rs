//! Random tables, stacks and operands: nothing panics, and a refused instruction leaves the registers alone.

use rhea_x86_state::X86State;
use rhea_x86_state::flags;
use rhea_x86_state::state::attr;

use crate::exception::Exception;
use crate::interrupt::{SoftwareInterrupt, external, raise, software};
use crate::test_bus::{GDT, IDT, TSS, TestBus, gate, long, protected, sel, system};
use crate::{control, far, flag_instructions, iret, msr, privileged, segment, smm, syscall, task};

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }

    /// Often a valid selector of the test GDT, sometimes anything.
    fn selector(&mut self) -> u16 {
        match self.below(8) {
            0 => self.next() as u16,
            _ => ((self.below(u64::from(sel::LIMIT) / 8 + 2) << 3) | self.below(4)) as u16,
        }
    }

    /// An interesting 64-bit value.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => 1 << self.below(64),
            2 => u64::MAX << self.below(64),
            3 => self.below(0x1_0000),
            4 => 0xffff_fff0 + self.below(32),
            _ => self.selector().into(),
        }
    }
}

/// Gates for all vectors, a call gate, a second task and an LDT.
fn fill(r: &mut Random, bus: &mut TestBus, wide: bool) {
    let step = if wide { 16 } else { 8 };
    let code = if wide { sel::CODE64 } else { sel::CODE0 };
    for v in 0..0x1000 / step {
        let access = [0x8e, 0xee, 0x8f, 0xef, 0x86, 0x85][r.below(6) as usize];
        let selector = if access == 0x85 { sel::TSS2 } else { code };
        bus.put(IDT + v * step, 8, gate(access, selector, 0x5000, 0));
    }
    bus.put(GDT + u64::from(sel::GATE), 8, gate(0xec, code, 0x5000, r.below(8)));
    bus.put(GDT + u64::from(sel::TSS2), 8, system(0xe9, 0x6000, 0x67));
    for register in 0..6 {
        let selector = if register == 1 { sel::CODE3 } else { sel::DATA3 };
        bus.put(0x6048 + 4 * register, 2, selector.into());
    }
}

/// Spoils tables, stack and registers a little.
fn disturb(r: &mut Random, st: &mut X86State, bus: &mut TestBus) {
    for _ in 0..r.below(4) {
        let (base, size) = [(GDT, 0x90), (IDT, 0x1000), (TSS, 0x70), (0x8000, 0x40)][r.below(4) as usize];
        let at = base + r.below(size);
        let value = r.value();
        bus.put(at, 8, value);
    }
    if r.below(2) == 0 {
        // A stack that looks like a return frame.
        let size = [2u8, 4, 8][r.below(3) as usize];
        for i in 0..10 {
            let value = r.value();
            bus.put(0x8000 + i * u64::from(size), size, value);
        }
    }
    match r.below(12) {
        0 => st.gpr[4] = r.value(),
        1 => st.rip = r.value(),
        2 => st.tr.limit = r.below(0x100) as u32,
        3 => st.gdtr.limit = r.below(0x100) as u32,
        4 => st.idtr.limit = r.below(0x400) as u32,
        5 => st.rflags ^= flags::NT,
        6 => st.rflags ^= r.next() & flags::IOPL,
        7 => st.tr.attr ^= r.next() as u32 & (attr::TYPE_MASK | attr::P),
        8 => st.cr[4] ^= r.next() & 3,
        9 => st.ldtr.attr ^= attr::P,
        _ => {}
    }
    st.mode = st.compute_mode();
}

fn one_instruction(r: &mut Random, st: &mut X86State, bus: &mut TestBus) -> Result<(), Exception> {
    let size = [2u8, 4, 8][r.below(3) as usize];
    let (selector, value, next) = (r.selector(), r.value(), r.value());
    match r.below(24) {
        0..=2 => iret::iret(st, bus, size, next),
        3..=4 => far::ret(st, bus, size, value as u16),
        5..=6 => far::call(st, bus, selector, value, size, next),
        7..=8 => far::jump(st, bus, selector, value, size, next),
        9..=10 => software(st, bus, SoftwareInterrupt::IntN(value as u8), next),
        11 => software(st, bus, SoftwareInterrupt::Icebp, next),
        12..=13 => segment::load(st, bus, [0, 2, 3, 4, 5][r.below(5) as usize], selector),
        14 => segment::lldt(st, bus, selector),
        15 => segment::ltr(st, bus, selector),
        16 => segment::lar(st, bus, selector).and(segment::lsl(st, bus, selector)).map(|_| ()),
        17 => control::write_cr(st, bus, r.below(10) as u8, value),
        18 => msr::wrmsr(st, bus, [value as u32, 0xc000_0080 + r.below(5) as u32][r.below(2) as usize], next),
        19 => flag_instructions::popf_value(st, value, size),
        20 => task::check_io(st, bus, value as u16, 1 << r.below(3)),
        21 => syscall::syscall(st, bus, next),
        22 => syscall::sysret(st, bus, size),
        _ => privileged::lgdt(st, value as u16, next, size),
    }
}

#[test]
fn random_machines_neither_panic_nor_change_on_refusal() {
    let mut r = Random(0x9e37_79b9_7f4a_7c15);
    let models = ["max", "Haswell", "pentium3"];
    let (mut refused, mut done, mut shut) = (0, 0, 0);
    for round in 0..5000 {
        let model = models[r.below(3) as usize];
        let ring = if r.below(2) == 0 { 0 } else { 3 };
        let wide = round % 2 == 0 && model != "pentium3";
        let (mut st, mut bus) = if wide { long(model, ring) } else { protected(model, ring) };
        fill(&mut r, &mut bus, wide);
        for _ in 0..12 {
            disturb(&mut r, &mut st, &mut bus);
            let before = st.clone();
            match one_instruction(&mut r, &mut st, &mut bus) {
                Ok(()) => done += 1,
                Err(e) => {
                    refused += 1;
                    // A task switch and AMD's SYSRET fault after they have happened.
                    let happened = st.tr.selector != before.tr.selector || st.cpl() != before.cpl();
                    if !happened {
                        assert_eq!((st.gpr, st.rip, st.seg), (before.gpr, before.rip, before.seg), "{e:?}");
                        assert_eq!(
                            (st.cr, st.efer, st.rflags()),
                            (before.cr, before.efer, before.rflags()),
                            "{e:?}"
                        );
                    }
                    raise(&mut st, &mut bus, e);
                }
            }
            assert_eq!(st.mode, st.compute_mode());
            if r.below(4) == 0 {
                external(&mut st, &mut bus, r.next() as u8);
            }
            if r.below(16) == 0 {
                smm::enter(&mut st, &mut bus);
                if r.below(2) == 0 {
                    let at = 0x3_fe00 + r.below(0x200);
                    let value = r.value();
                    bus.put(at, 8, value);
                }
                let _ = smm::rsm(&mut st, &mut bus);
            }
            if st.shutdown != 0 {
                shut += 1;
                break;
            }
        }
    }
    assert!(refused > 1000 && done > 1000 && shut > 10, "{refused} {done} {shut}");
}
