//! Operations on whole registers against `rhea-riscv-vector`, in random states.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use proptest::prelude::Rng;
use proptest::test_runner::TestRng;
use rhea_interpreter::{FloatUnit, Interpreter, Machine, Outcome as Ran};
use rhea_ir::{Builder, Exit, HelperInfo, MemFlags, Op, Target};
use rhea_riscv_state::{CpuModel, RiscvState};
use rhea_riscv_vector::memory::{self, Memory};
use rhea_riscv_vector::{Avl, Vtype, execute, set_vl};
use rhea_softfloat::{Env, Flags};

use super::call::{Destination, Source, VectorCall};
use super::dispatch::Outcome;
use super::emit::Rounding;
use super::emit::{Emitter, Known};
use crate::{ENCODINGS, Features, Xlen, decode32};

/// Where the machine has memory.
const BASE: u64 = 0x10_0000;
const LEN: usize = 0x3000;

/// A hart as bytes, as slots see it.
struct Hart {
    bytes: Vec<u8>,
    memory: Vec<u8>,
    env: Env,
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

impl Hart {
    fn of(st: &RiscvState, memory: &[u8]) -> Hart {
        let mut bytes = vec![0; size_of::<RiscvState>()];
        for i in 0..32 {
            put(&mut bytes, offset_of!(RiscvState, x) + 8 * i, st.x[i]);
            put(&mut bytes, offset_of!(RiscvState, f) + 8 * i, st.f[i]);
        }
        put(&mut bytes, offset_of!(RiscvState, vl), st.vl);
        put(&mut bytes, offset_of!(RiscvState, vtype), st.vtype);
        put(&mut bytes, offset_of!(RiscvState, vstart), st.vstart);
        for (i, bits) in st.canonical_nan.iter().enumerate() {
            put(&mut bytes, offset_of!(RiscvState, canonical_nan) + 8 * i, *bits);
        }
        let v = offset_of!(RiscvState, v);
        bytes[v..v + st.v.0.len()].copy_from_slice(&st.v.0);
        let env = environment(st.frm);
        Hart { bytes, memory: memory.to_vec(), env }
    }
}

fn environment(frm: u32) -> Env {
    use rhea_softfloat::Rounding::{Down, NearestEven, TowardZero, Up};
    let rounding = [NearestEven, TowardZero, Down, Up][frm as usize & 3];
    Env { rounding, ..Env::SSE }
}

impl Machine for Hart {
    type Stop = u64;

    fn state(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn set_pc(&mut self, _: u64) {}

    fn load(&mut self, address: u64, _: MemFlags, buffer: &mut [u8]) -> Result<(), u64> {
        let at = address.wrapping_sub(BASE) as usize;
        buffer.copy_from_slice(self.memory.get(at..at.saturating_add(buffer.len())).ok_or(address)?);
        Ok(())
    }

    fn store(&mut self, address: u64, _: MemFlags, bytes: &[u8]) -> Result<(), u64> {
        let at = address.wrapping_sub(BASE) as usize;
        self.memory.get_mut(at..at.saturating_add(bytes.len())).ok_or(address)?.copy_from_slice(bytes);
        Ok(())
    }

    fn atomic_update(
        &mut self,
        address: u64,
        _: u32,
        _: MemFlags,
        _: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        Err(address)
    }

    fn fence(&mut self) {}

    fn call(&mut self, _: u32, _: [u64; 4]) -> Result<u64, u64> {
        unreachable!("units with calls are not run")
    }

    fn float_environment(&mut self, _: FloatUnit) -> Env {
        self.env
    }

    fn raise(&mut self, _: FloatUnit, flags: Flags) {
        self.env.flags |= flags;
    }
}

/// The hart with its memory, for the general functions.
struct General<'a>(&'a mut RiscvState, &'a mut Vec<u8>);

impl Memory for General<'_> {
    type Fault = u64;

    fn state(&mut self) -> &mut RiscvState {
        self.0
    }

    fn load(&mut self, address: u64, size: u32) -> Result<u64, u64> {
        let at = address.wrapping_sub(BASE) as usize;
        let bytes = self.1.get(at..at.saturating_add(size as usize)).ok_or(address)?;
        Ok(bytes.iter().rev().fold(0, |value, b| value << 8 | u64::from(*b)))
    }

    fn store(&mut self, address: u64, size: u32, value: u64) -> Result<(), u64> {
        let at = address.wrapping_sub(BASE) as usize;
        let bytes = self.1.get_mut(at..at.saturating_add(size as usize)).ok_or(address)?;
        bytes.copy_from_slice(&value.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn can_load(&mut self, address: u64, size: u32) -> bool {
        self.load(address, size).is_ok()
    }
}

fn fflags(flags: Flags) -> u32 {
    let order = [Flags::INEXACT, Flags::UNDERFLOW, Flags::OVERFLOW, Flags::DIVIDE_BY_ZERO, Flags::INVALID];
    (0..5).filter(|i| flags.contains(order[*i])).fold(0, |bits, i| bits | 1 << i)
}

/// What the general functions make of the call.
fn general(st: &mut RiscvState, ram: &mut Vec<u8>, call: VectorCall) -> Result<(), ()> {
    match call {
        VectorCall::Compute { operation, source, destination } => {
            let scalar = match source {
                Source::Vector => 0,
                Source::X(r) => st.x[usize::from(r)],
                Source::F(r) => st.f[usize::from(r)],
                Source::Immediate(value) => value,
            };
            let result = execute(st, operation, scalar).map_err(|_| ())?;
            match destination {
                Destination::Vector => {}
                Destination::X(r) => st.set_x(r.into(), result),
                Destination::F(r) => st.f[usize::from(r)] = result,
            }
            Ok(())
        }
        VectorCall::Load { transfer, rs1, rs2 } => {
            let (base, stride) = (st.x[usize::from(rs1)], st.x[usize::from(rs2)]);
            memory::load(&mut General(st, ram), transfer, base, stride, memory::Legality::Unknown)
                .map_err(|_| ())
        }
        VectorCall::Store { transfer, rs1, rs2 } => {
            let (base, stride) = (st.x[usize::from(rs1)], st.x[usize::from(rs2)]);
            memory::store(&mut General(st, ram), transfer, base, stride, memory::Legality::Unknown)
                .map_err(|_| ())
        }
        VectorCall::SetVl { rd, rs1, vtype } => {
            let vl = set_vl(st, Avl::of_registers(rd, rs1, st.x[usize::from(rs1)]), vtype);
            st.set_x(rd.into(), vl);
            Ok(())
        }
        VectorCall::SetVlImmediate { rd, avl, vtype } => {
            let vl = set_vl(st, Avl::Elements(avl), vtype);
            st.set_x(rd.into(), vl);
            Ok(())
        }
        VectorCall::SetVlRegister { .. } => Err(()),
    }
}

fn element(r: &mut TestRng, sew: u8) -> u64 {
    const DOUBLES: [u64; 10] = [
        0,
        1 << 63,
        0x3ff0_0000_0000_0000,
        0xc008_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        0x7ff8_0000_0000_0001,
        0x7ff4_0000_0000_0001,
        1,
        0x7fef_ffff_ffff_ffff,
    ];
    const SINGLES: [u64; 10] = [
        0,
        0x8000_0000,
        0x3f80_0000,
        0xc040_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0001,
        0x7fa0_0001,
        1,
        0x7f7f_ffff,
    ];
    let bits = r.next_u64();
    match (bits % 8, sew) {
        // Mostly numbers of like magnitude, so that not every group has a NaN.
        (0..=4, 2) => (bits >> 8) & 0x807f_ffff | (124 + (bits >> 40) % 6) << 23,
        (0..=4, 3) => bits & 0x800f_ffff_ffff_ff00 | (1020 + (bits >> 40) % 6) << 52,
        (5, 2) if bits >> 60 < 4 => SINGLES[(bits >> 20) as usize % 10],
        (5, 3) if bits >> 60 < 4 => DOUBLES[(bits >> 20) as usize % 10],
        (6, _) => bits >> 20 & 3,
        _ => r.next_u64(),
    }
}

fn random_hart(r: &mut TestRng, vlen: u32) -> (RiscvState, Vec<u8>) {
    let mut st = CpuModel::parse(&format!("max,vlen={vlen}")).unwrap().reset_state(0, 0);
    let vtype = loop {
        let vtype = r.next_u64() & 0xff;
        if Vtype::parse(&st.config, vtype).is_some() {
            break vtype;
        }
    };
    set_vl(&mut st, Avl::Max, vtype);
    let sew = (vtype >> 3 & 3) as u8;
    let bytes = 4 * vlen as usize;
    let mut at = 0;
    while at < bytes {
        let value = element(r, sew).to_le_bytes();
        st.v.0[at..at + (1 << sew)].copy_from_slice(&value[..1 << sew]);
        at += 1 << sew;
    }
    for i in 1..32 {
        st.x[i] = if r.next_u32().is_multiple_of(2) { BASE + r.next_u64() % 0x1400 } else { element(r, sew) };
        st.f[i] = element(r, sew) | if sew == 3 { 0 } else { u64::MAX << (8 << sew) };
    }
    st.frm = r.next_u32() % 4;
    let ram = (0..LEN).map(|_| r.next_u32() as u8).collect();
    (st, ram)
}

/// A word of an encoding, its registers such that they fit groups more often than not.
fn random_word(r: &mut TestRng, mask: u64, value: u64, vtype: u64) -> u32 {
    let mut word = r.next_u32();
    let group = if vtype & 7 < 4 { 1u32 << (vtype & 7) } else { 1 };
    for field in [7, 15, 20] {
        word &= !((group.max(if r.next_u32().is_multiple_of(2) { 2 * group } else { group }).min(8) - 1)
            << field);
    }
    if !r.next_u32().is_multiple_of(3) {
        word |= 1 << 25;
    }
    (u64::from(word) & !mask | value) as u32
}

/// How often a name was translated to operations, to a helper, and left for the general functions.
type Counts = BTreeMap<&'static str, [u32; 3]>;

fn one(r: &mut TestRng, name: &'static str, mask: u64, value: u64, counts: &mut Counts) {
    let vlen = [128, 256, 128, 1024][r.next_u32() as usize % 4];
    let (mut st, mut ram) = random_hart(r, vlen);
    let word = random_word(r, mask, value, st.vtype);
    let Some(call) = decode32(word, &Features::everything(Xlen::Rv64)).and_then(VectorCall::of) else {
        return;
    };
    let mut builder = Builder::new();
    builder.start(0x1000);
    builder.insn(0x1000, 4);
    let mut known = Known { inline: true, ..Known::at_start(Some(st.vtype)) };
    let outcome = Emitter {
        masking: Default::default(),
        b: &mut builder,
        config: &st.config,
        mem: MemFlags::new(0),
        pc: 0x1000,
        next_pc: 0x1004,
        bits: word,
        rounding: Rounding::Host,
        known: &mut known,
    }
    .call(call);
    let (before, memory) = (st.clone(), ram.clone());
    let expected = general(&mut st, &mut ram, call);
    if outcome == Outcome::Illegal {
        assert_eq!(expected, Err(()), "{name} {word:#x}: illegal without reason");
        return;
    }
    if !builder.is_ended() {
        builder.exit(Exit::Jump(Target::Static(0x1004)));
    }
    let unit = &builder.unit;
    let count = counts.entry(name).or_default();
    if unit.insts.iter().any(|i| i.op == Op::Call) {
        count[1] += 1;
        return;
    }
    rhea_ir::verify(unit, &[])
        .unwrap_or_else(|e| panic!("{name}: {e:?}\n{}", rhea_ir::text::print(unit, &[])));
    let text = || {
        let instruction = decode32(word, &Features::everything(Xlen::Rv64)).unwrap();
        format!("{} vtype {:#x} vlen {vlen} frm {}", instruction.display(0, 64), before.vtype, before.frm)
    };
    let mut hart = Hart::of(&before, &memory);
    let ran = Interpreter::new().run(unit, &[] as &[HelperInfo], &mut hart);
    let v = offset_of!(RiscvState, v);
    match ran {
        Ran::Exit { number, .. } => {
            if unit.exits[number as usize] == Exit::Jump(Target::Static(0x1001)) {
                count[2] += 1;
                assert_eq!(hart.bytes[v..v + st.v.0.len()], before.v.0, "{}: changed before it left", text());
                assert_eq!(fflags(hart.env.flags) & !st.fflags, 0, "{}: flags", text());
                return;
            }
        }
        Ran::Stop { .. } => {
            assert_eq!(expected, Err(()), "{}: a fault", text());
            return;
        }
    }
    count[0] += 1;
    assert_eq!(expected, Ok(()), "{}: legal without reason", text());
    let step = vlen as usize / 8;
    for i in 0..32 {
        let range = i * step..(i + 1) * step;
        let (ours, theirs) = (&hart.bytes[v..][range.clone()], &st.v.0[range.clone()]);
        assert_eq!(
            ours,
            theirs,
            "{}: v{i}, before {:02x?}\n{}",
            text(),
            &before.v.0[range],
            rhea_ir::text::print(unit, &[])
        );
        assert_eq!(get(&hart.bytes, 8 * i), st.x[i], "{}: x{i}", text());
        assert_eq!(get(&hart.bytes, offset_of!(RiscvState, f) + 8 * i), st.f[i], "{}: f{i}", text());
    }
    assert_eq!(fflags(hart.env.flags), st.fflags, "{}: flags", text());
    assert_eq!(get(&hart.bytes, offset_of!(RiscvState, vl)), st.vl, "{}: vl", text());
    let vxsat = get(&hart.bytes, offset_of!(RiscvState, vxsat)) as u32;
    assert_eq!(vxsat, st.vxsat, "{}: vxsat", text());
    assert_eq!(get(&hart.bytes, offset_of!(RiscvState, vtype)), st.vtype, "{}: vtype", text());
    assert!(hart.memory == ram, "{}: memory", text());
}

#[test]
fn operations_on_whole_registers_do_what_the_general_functions_do() {
    let mut r = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let rounds = std::env::var("RHEA_VECTOR_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut counts = Counts::new();
    for e in ENCODINGS.iter().filter(|e| {
        matches!(e.value & 0x7f, 0x57)
            || matches!(e.value & 0x7f, 0x07 | 0x27) && matches!(e.value >> 12 & 7, 0 | 5 | 6 | 7)
    }) {
        for _ in 0..rounds {
            one(&mut r, e.name, e.mask, e.value, &mut counts);
        }
    }
    if std::env::var("RHEA_VECTOR_COUNTS").is_ok() {
        for (name, [inline, helper, left]) in &counts {
            eprintln!("{name:16} {inline:5} {helper:5} {left:5}");
        }
    }
    for name in [
        "vadd.vv",
        "vsub.vx",
        "vmul.vv",
        "vmacc.vx",
        "vmseq.vx",
        "vfadd.vv",
        "vfmacc.vf",
        "vle32.v",
        "vse8.v",
        "vwmacc.vv",
        "vfredosum.vs",
        "vfwredusum.vs",
        "vfredmax.vs",
        "vadc.vvm",
        "vmsbc.vxm",
        "vsadd.vv",
        "vssubu.vx",
        "vsra.vv",
        "vlseg.e8.v",
        "vsseg.e16.v",
        "vlm.v",
        "vwredsum.vs",
        "vror.vi",
        "vclz.v",
        "vbrev.v",
        "vmsif.m",
        "vfncvt.f.f.w",
        "vfncvt.rtz.x.f.w",
        "vnsra.wv",
    ] {
        assert!(counts[name][0] > 0, "{name} is never translated to operations");
    }
}
