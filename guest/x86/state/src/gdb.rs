//! The processor as a debugger sees it: the target description and its registers (GDB manual, "i386 Features").

use std::fmt::Write;

use crate::X86State;
use crate::features::{Feature, FeatureSet};
use crate::state::seg;

/// Where a register's value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Gpr(usize),
    Rip,
    Flags,
    Selector(usize),
    St(usize),
    Fpu(Fpu),
    Xmm(usize),
    Mxcsr,
    YmmHigh(usize),
    FsBase,
    GsBase,
    KernelGsBase,
    Cr(usize),
    Efer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fpu {
    Control,
    Status,
    Tag,
    CodeSelector,
    CodeOffset,
    DataSelector,
    DataOffset,
    Opcode,
}

/// One register of the description; its number is its index in [`registers`].
#[derive(Clone, Debug)]
pub struct GdbRegister {
    /// Name in the description.
    pub name: String,
    /// Width in bits: 32, 64, 80 or 128.
    pub bits: u32,
    kind: &'static str,
    feature: &'static str,
    place: Place,
}

const CORE: &str = "org.gnu.gdb.i386.core";
const SSE: &str = "org.gnu.gdb.i386.sse";
const AVX: &str = "org.gnu.gdb.i386.avx";
const SEGMENTS: &str = "org.gnu.gdb.i386.segments";
/// Registers that only a system emulator can show.
const SYSTEM: &str = "org.rhea.x86.system";

/// General registers in GDB's order, as indices of `X86State::gpr`.
const GPR_ORDER: [usize; 8] = [0, 3, 1, 2, 6, 7, 5, 4];
const NAMES32: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
const NAMES64: [&str; 8] = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"];

/// The registers of a processor with these features, in the debugger's numbering.
pub fn registers(features: &FeatureSet) -> Vec<GdbRegister> {
    let wide = features.has(Feature::LM);
    let word = if wide { 64 } else { 32 };
    let mut list = Vec::new();
    let mut add = |name: &str, bits, kind, feature, place| {
        list.push(GdbRegister { name: name.into(), bits, kind, feature, place });
    };
    let integer = if wide { "int64" } else { "int32" };
    for i in 0..8 {
        let (name, at) = if wide { (NAMES64[i], GPR_ORDER[i]) } else { (NAMES32[i], i) };
        let kind = if matches!(at, 4 | 5) { "data_ptr" } else { integer };
        add(name, word, kind, CORE, Place::Gpr(at));
    }
    if wide {
        for i in 8..16 {
            add(&format!("r{i}"), 64, "int64", CORE, Place::Gpr(i));
        }
    }
    add(if wide { "rip" } else { "eip" }, word, "code_ptr", CORE, Place::Rip);
    add("eflags", 32, "i386_eflags", CORE, Place::Flags);
    for (name, at) in
        [("cs", seg::CS), ("ss", seg::SS), ("ds", seg::DS), ("es", seg::ES), ("fs", seg::FS), ("gs", seg::GS)]
    {
        add(name, 32, "int32", CORE, Place::Selector(at));
    }
    for i in 0..8 {
        add(&format!("st{i}"), 80, "i387_ext", CORE, Place::St(i));
    }
    for (name, place) in [
        ("fctrl", Fpu::Control),
        ("fstat", Fpu::Status),
        ("ftag", Fpu::Tag),
        ("fiseg", Fpu::CodeSelector),
        ("fioff", Fpu::CodeOffset),
        ("foseg", Fpu::DataSelector),
        ("fooff", Fpu::DataOffset),
        ("fop", Fpu::Opcode),
    ] {
        add(name, 32, "int", CORE, Place::Fpu(place));
    }
    let vectors = if wide { 16 } else { 8 };
    if features.has(Feature::SSE) {
        for i in 0..vectors {
            add(&format!("xmm{i}"), 128, "vec128", SSE, Place::Xmm(i));
        }
        add("mxcsr", 32, "i386_mxcsr", SSE, Place::Mxcsr);
    }
    if features.has(Feature::AVX) {
        for i in 0..vectors {
            add(&format!("ymm{i}h"), 128, "uint128", AVX, Place::YmmHigh(i));
        }
    }
    if wide {
        add("fs_base", 64, "int64", SEGMENTS, Place::FsBase);
        add("gs_base", 64, "int64", SEGMENTS, Place::GsBase);
        add("k_gs_base", 64, "int64", SYSTEM, Place::KernelGsBase);
    }
    for n in [0, 2, 3, 4] {
        add(&format!("cr{n}"), word, integer, SYSTEM, Place::Cr(n));
    }
    if wide {
        add("efer", 64, "int64", SYSTEM, Place::Efer);
    }
    list
}

/// Bits of EFLAGS as the description names them.
const EFLAGS: &[(&str, u32)] = &[
    ("CF", 0),
    ("", 1),
    ("PF", 2),
    ("AF", 4),
    ("ZF", 6),
    ("SF", 7),
    ("TF", 8),
    ("IF", 9),
    ("DF", 10),
    ("OF", 11),
    ("NT", 14),
    ("RF", 16),
    ("VM", 17),
    ("AC", 18),
    ("VIF", 19),
    ("VIP", 20),
    ("ID", 21),
];

const MXCSR: &[(&str, u32)] = &[
    ("IE", 0),
    ("DE", 1),
    ("ZE", 2),
    ("OE", 3),
    ("UE", 4),
    ("PE", 5),
    ("DAZ", 6),
    ("IM", 7),
    ("DM", 8),
    ("ZM", 9),
    ("OM", 10),
    ("UM", 11),
    ("PM", 12),
    ("FZ", 15),
];

fn flags_type(xml: &mut String, id: &str, fields: &[(&str, u32)]) {
    let _ = write!(xml, "<flags id=\"{id}\" size=\"4\">");
    for (name, bit) in fields {
        let _ = write!(xml, "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>");
    }
    xml.push_str("</flags>\n");
}

fn vector_types(xml: &mut String) {
    for (id, kind, count) in [
        ("v4f", "ieee_single", 4),
        ("v2d", "ieee_double", 2),
        ("v16i8", "int8", 16),
        ("v8i16", "int16", 8),
        ("v4i32", "int32", 4),
        ("v2i64", "int64", 2),
    ] {
        let _ = writeln!(xml, "<vector id=\"{id}\" type=\"{kind}\" count=\"{count}\"/>");
    }
    xml.push_str("<union id=\"vec128\">");
    for (name, kind) in [
        ("v4_float", "v4f"),
        ("v2_double", "v2d"),
        ("v16_int8", "v16i8"),
        ("v8_int16", "v8i16"),
        ("v4_int32", "v4i32"),
        ("v2_int64", "v2i64"),
        ("uint128", "uint128"),
    ] {
        let _ = write!(xml, "<field name=\"{name}\" type=\"{kind}\"/>");
    }
    xml.push_str("</union>\n");
}

/// The whole target description, one XML document without inclusions.
pub fn target_xml(features: &FeatureSet) -> String {
    let architecture = if features.has(Feature::LM) { "i386:x86-64" } else { "i386" };
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n");
    let _ = writeln!(xml, "<target version=\"1.0\">\n<architecture>{architecture}</architecture>");
    let mut open = "";
    for (number, r) in registers(features).iter().enumerate() {
        if r.feature != open {
            if !open.is_empty() {
                xml.push_str("</feature>\n");
            }
            open = r.feature;
            let _ = writeln!(xml, "<feature name=\"{open}\">");
            match open {
                CORE => flags_type(&mut xml, "i386_eflags", EFLAGS),
                SSE => {
                    vector_types(&mut xml);
                    flags_type(&mut xml, "i386_mxcsr", MXCSR);
                }
                _ => {}
            }
        }
        let group = if matches!(r.place, Place::Fpu(_)) { " group=\"float\"" } else { "" };
        let _ = writeln!(
            xml,
            "<reg name=\"{}\" bitsize=\"{}\" type=\"{}\" regnum=\"{number}\"{group}/>",
            r.name, r.bits, r.kind
        );
    }
    xml.push_str("</feature>\n</target>\n");
    xml
}

/// The x87 tag word in its full form from the "empty" bits: what is not empty is called valid, as after FXRSTOR.
fn full_tag(empty: u32) -> u32 {
    (0..8).filter(|i| empty >> i & 1 != 0).fold(0, |tag, i| tag | 3 << (2 * i))
}

impl GdbRegister {
    /// Width in bytes.
    pub const fn bytes(&self) -> usize {
        self.bits as usize / 8
    }

    /// The register's value; its low [`GdbRegister::bytes`] bytes count, in little-endian order.
    pub fn read(&self, st: &X86State) -> [u8; 16] {
        let value: u128 = match self.place {
            Place::Gpr(i) => st.gpr[i].into(),
            Place::Rip => st.rip.into(),
            Place::Flags => st.rflags().into(),
            Place::Selector(i) => st.seg[i].selector.into(),
            Place::St(i) => {
                let r = &st.x87[(st.x87_top as usize + i) & 7];
                u128::from(r.significand) | u128::from(r.sign_exponent) << 64
            }
            Place::Fpu(f) => read_fpu(st, f).into(),
            Place::Xmm(i) => u128::from(st.vec[i][0]) | u128::from(st.vec[i][1]) << 64,
            Place::YmmHigh(i) => u128::from(st.vec[i][2]) | u128::from(st.vec[i][3]) << 64,
            Place::Mxcsr => st.mxcsr.into(),
            Place::FsBase => st.seg[seg::FS].base.into(),
            Place::GsBase => st.seg[seg::GS].base.into(),
            Place::KernelGsBase => st.msr.kernel_gs_base.into(),
            Place::Cr(n) => st.cr[n].into(),
            Place::Efer => st.efer.into(),
        };
        value.to_le_bytes()
    }

    /// Sets the register from little-endian bytes. False: it cannot be written (selectors, control registers and EFER
    /// would need the checks of the instructions that load them).
    #[must_use]
    pub fn write(&self, st: &mut X86State, bytes: [u8; 16]) -> bool {
        let value = u128::from_le_bytes(bytes);
        let mask = if self.bits == 32 { 0xffff_ffff } else { u64::MAX };
        let low = value as u64 & mask;
        let high = (value >> 64) as u64;
        match self.place {
            Place::Gpr(i) => st.gpr[i] = low,
            Place::Rip => st.rip = low,
            Place::Flags => {
                // VM changes what segments mean; the debugger cannot enter or leave that mode.
                let vm = crate::flags::VM;
                let kept = st.rflags() & vm;
                st.set_rflags(low & 0x003f_7fd5 & !vm | kept);
                st.mode = st.compute_mode();
            }
            Place::St(i) => {
                let physical = (st.x87_top as usize + i) & 7;
                st.x87[physical].significand = value as u64;
                st.x87[physical].sign_exponent = high as u16;
            }
            Place::Fpu(f) => {
                write_fpu(st, f, low as u32);
                st.mode = st.compute_mode();
            }
            Place::Xmm(i) => [st.vec[i][0], st.vec[i][1]] = [value as u64, high],
            Place::YmmHigh(i) => [st.vec[i][2], st.vec[i][3]] = [value as u64, high],
            Place::Mxcsr => {
                st.mxcsr = low as u32 & 0xffff;
                st.mode = st.compute_mode();
            }
            Place::FsBase => st.seg[seg::FS].base = low,
            Place::GsBase => st.seg[seg::GS].base = low,
            Place::KernelGsBase => st.msr.kernel_gs_base = low,
            Place::Cr(2) => st.cr[2] = low,
            Place::Selector(_) | Place::Cr(_) | Place::Efer => return false,
        }
        true
    }
}

fn read_fpu(st: &X86State, f: Fpu) -> u32 {
    match f {
        Fpu::Control => st.x87_cw,
        Fpu::Status => st.x87_sw & !(7 << 11) | (st.x87_top & 7) << 11,
        Fpu::Tag => full_tag(st.x87_empty),
        Fpu::CodeSelector => st.x87_cs_ds_op[0],
        Fpu::CodeOffset => st.x87_ip as u32,
        Fpu::DataSelector => st.x87_cs_ds_op[1],
        Fpu::DataOffset => st.x87_dp as u32,
        Fpu::Opcode => st.x87_cs_ds_op[2],
    }
}

fn write_fpu(st: &mut X86State, f: Fpu, value: u32) {
    match f {
        Fpu::Control => st.x87_cw = value & 0xffff,
        Fpu::Status => {
            st.x87_sw = value & 0xffff & !(7 << 11);
            st.x87_top = value >> 11 & 7;
        }
        Fpu::Tag => {
            st.x87_empty = (0..8).filter(|i| value >> (2 * i) & 3 == 3).fold(0, |bits, i| bits | 1 << i);
        }
        Fpu::CodeSelector => st.x87_cs_ds_op[0] = value & 0xffff,
        Fpu::CodeOffset => st.x87_ip = value.into(),
        Fpu::DataSelector => st.x87_cs_ds_op[1] = value & 0xffff,
        Fpu::DataOffset => st.x87_dp = value.into(),
        Fpu::Opcode => st.x87_cs_ds_op[2] = value & 0x7ff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CpuModel;

    #[test]
    fn numbering_is_gdbs_own() {
        let m = CpuModel::parse("max").unwrap();
        let names: Vec<String> = registers(m.features()).into_iter().map(|r| r.name).collect();
        let at = |name: &str| names.iter().position(|n| n == name);
        assert_eq!(
            (at("rbx"), at("rsp"), at("rip"), at("eflags"), at("gs")),
            (Some(1), Some(7), Some(16), Some(17), Some(23))
        );
        assert_eq!(
            (at("st0"), at("fctrl"), at("xmm0"), at("mxcsr"), at("ymm0h")),
            (Some(24), Some(32), Some(40), Some(56), Some(57))
        );
        let m = CpuModel::parse("pentium3").unwrap();
        let names: Vec<String> = registers(m.features()).into_iter().map(|r| r.name).collect();
        assert_eq!((names[1].as_str(), names[8].as_str(), names[32].as_str()), ("ecx", "eip", "xmm0"));
    }

    #[test]
    fn what_is_written_is_read_back_or_refused() {
        let m = CpuModel::parse("max").unwrap();
        let mut st = m.reset_state(true);
        for r in registers(m.features()) {
            let bytes = 0x0000_0201_u128.to_le_bytes();
            let before = r.read(&st);
            if r.write(&mut st, bytes) {
                let after = r.read(&st);
                let ones = r.name == "eflags" || r.name == "ftag";
                assert!(ones || after == bytes, "{}", r.name);
            } else {
                assert_eq!(r.read(&st), before, "{}", r.name);
            }
        }
    }

    #[test]
    fn the_description_is_balanced() {
        let m = CpuModel::parse("max").unwrap();
        let xml = target_xml(m.features());
        assert_eq!(xml.matches("<feature ").count(), xml.matches("</feature>").count());
        assert!(xml.contains("<reg name=\"ymm15h\" bitsize=\"128\""));
        assert!(xml.ends_with("</target>\n"));
    }
}
