//! Stack faults, unmasked exceptions, decimals, classes, environments; and no state or bytes that panic.

use super::*;
use crate::x87::decode::decode;

fn machine() -> X86State {
    let mut st = X86State::reset();
    st.cr[0] = 1;
    initialize(&mut st);
    st
}

#[track_caller]
fn run(st: &mut X86State, code: &[u8], memory: &mut Memory) -> Result<(), Pending> {
    let insn = iced_x86::Decoder::new(64, code, iced_x86::DecoderOptions::NONE).decode();
    let d = decode(&insn).expect("an x87 instruction");
    assert_eq!(Decoded::unpack(d.pack()), d);
    execute(st, d, Pointers::default(), memory)
}

#[track_caller]
fn all(st: &mut X86State, codes: &[&[u8]]) {
    for c in codes {
        run(st, c, &mut Memory::default()).unwrap();
    }
}

const FLD1: &[u8] = &[0xd9, 0xe8];
const FLDZ: &[u8] = &[0xd9, 0xee];
const FLDPI: &[u8] = &[0xd9, 0xeb];
const FDIVP: &[u8] = &[0xde, 0xf9];

#[test]
fn nine_pushes_overflow_the_stack() {
    let mut st = machine();
    all(&mut st, &[FLD1; 9]);
    assert_eq!(st.x87_sw & (IE | SF | C1), IE | SF | C1);
    assert_eq!(st.x87[st.x87_top as usize].sign_exponent, 0xffff);
    assert_eq!(st.x87_empty, 0);
}

#[test]
fn an_unmasked_division_by_zero_stops_and_is_pending() {
    let mut st = machine();
    all(&mut st, &[FLD1, FLDZ]);
    set_control_word(&mut st, 0x37b);
    all(&mut st, &[FDIVP]);
    assert_eq!(st.x87_top, 6, "nothing was popped");
    assert_eq!(status_word(&st) & 0x80bf, 0x8084);
    assert_eq!(run(&mut st, FLD1, &mut Memory::default()), Err(Pending));
    // FNSTSW does not wait, FNCLEX clears.
    all(&mut st, &[&[0xdf, 0xe0], &[0xdb, 0xe2], FLD1]);
    assert_eq!(st.gpr[0] & 0x80ff, 0x8084);
}

#[test]
fn decimal_stores_round_trip() {
    let mut st = machine();
    let mut m = Memory::default();
    m.set_int(0, 8, (-1234567890123i64) as u64);
    run(&mut st, &[0xdf, 0x28], &mut m).unwrap(); // fild qword
    run(&mut st, &[0xdf, 0x30], &mut m).unwrap(); // fbstp
    assert_eq!(m.stored, 10);
    assert_eq!(&m.bytes[..10], &[0x23, 0x01, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0x80]);
    run(&mut st, &[0xdf, 0x20], &mut m).unwrap(); // fbld
    run(&mut st, &[0xdf, 0x38], &mut m).unwrap(); // fistp qword
    assert_eq!(m.int(0, 8) as i64, -1234567890123);
}

#[test]
fn examine_tells_classes_apart() {
    let mut st = machine();
    all(&mut st, &[&[0xd9, 0xe5]]);
    assert_eq!(st.x87_sw & (C3 | C2 | C0), C3 | C0, "empty");
    all(&mut st, &[FLDZ, &[0xd9, 0xe0], &[0xd9, 0xe5]]);
    assert_eq!(st.x87_sw & (C3 | C2 | C1 | C0), C3 | C1, "-0");
    all(&mut st, &[FLDPI, &[0xd9, 0xe5]]);
    assert_eq!(st.x87_sw & (C3 | C2 | C1 | C0), C2);
}

#[test]
fn saving_and_restoring_brings_everything_back() {
    for (save, restore) in
        [([0xdd, 0x30].as_slice(), [0xdd, 0x20].as_slice()), (&[0x66, 0xdd, 0x30], &[0x66, 0xdd, 0x20])]
    {
        let mut st = machine();
        all(&mut st, &[FLDPI, FLD1, FLDZ]);
        set_control_word(&mut st, 0x27f);
        let before = st.clone();
        let mut m = Memory::default();
        run(&mut st, save, &mut m).unwrap();
        assert_eq!(st.x87_empty, 0xff);
        run(&mut st, restore, &mut m).unwrap();
        assert_eq!((st.x87, st.x87_top, st.x87_empty), (before.x87, before.x87_top, before.x87_empty));
        assert_eq!((st.x87_cw, st.x87_sw), (before.x87_cw, before.x87_sw));
    }
}

#[test]
fn any_x87_bytes_execute_on_any_state() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut st = machine();
    for _ in 0..20_000 {
        let r = next();
        let code = [0xd8 | r as u8 & 7, (r >> 8) as u8, 0, 0, 0, 0, 0, 0];
        let insn = iced_x86::Decoder::new(64, &code, iced_x86::DecoderOptions::NONE).decode();
        let Some(d) = decode(&insn) else { continue };
        let mut m = Memory::default();
        for b in &mut m.bytes {
            *b = next() as u8;
        }
        if r >> 20 & 7 == 0 {
            st.x87_empty = (r >> 32) as u32 & 0xff;
            st.x87_cw = (r >> 40) as u32 & 0xf3f | 0x40;
        }
        let _ = execute(&mut st, d, Pointers::default(), &mut m);
        st.x87_sw &= !(ES | EXCEPTIONS);
        assert!(st.x87_top < 8 && st.x87_empty < 256 && m.stored <= MEMORY_BYTES);
    }
}
