//! Which instructions are tested, and in which group.

use std::sync::OnceLock;

use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Mnemonic, OpCodeOperandKind as Kind};

use crate::state::Mode;

/// A family of instructions, tested together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Integer instructions of the 8086 to the Pentium Pro on registers and memory.
    Integer,
    /// BMI1, BMI2, ADX, MOVBE, CRC32, POPCNT, LZCNT, CMPXCHG8B/16B.
    Bits,
    /// String instructions, with and without repeat prefixes.
    String,
    /// Jumps, calls and returns.
    Branch,
    /// x87.
    X87,
    /// MMX, its SSE additions included.
    Mmx,
    /// SSE to SSE4.2, legacy encodings.
    Sse,
    /// AVX, AVX2, FMA, F16C.
    Avx,
    /// AES, PCLMULQDQ, SHA in all encodings.
    Crypto,
    /// FXSAVE, FNSAVE, FNSTENV and what loads their images.
    Save,
    /// What user code may not do.
    Privileged,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 11] = [
        Group::Integer,
        Group::Bits,
        Group::String,
        Group::Branch,
        Group::X87,
        Group::Mmx,
        Group::Sse,
        Group::Avx,
        Group::Crypto,
        Group::Save,
        Group::Privileged,
    ];
}

/// Whether the processor that runs the tests has `feature`, and Rhea has it too.
fn has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    macro_rules! host {
        ($name:tt) => {{
            #[cfg(target_arch = "x86_64")]
            let r = std::arch::is_x86_feature_detected!($name);
            #[cfg(not(target_arch = "x86_64"))]
            let r = true;
            r
        }};
    }
    match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => true,
        F::CMOV | F::CX8 | F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::SSE | F::SSE2 => true,
        F::MULTIBYTENOP | F::PAUSE | F::CLFSH | F::FXSR | F::MSR | F::SYSCALL | F::XSAVE => true,
        F::SSE3 => host!("sse3"),
        F::SSSE3 => host!("ssse3"),
        F::SSE4_1 => host!("sse4.1"),
        F::SSE4_2 => host!("sse4.2"),
        F::CMPXCHG16B => host!("cmpxchg16b"),
        F::POPCNT => host!("popcnt"),
        F::LZCNT => host!("lzcnt"),
        F::MOVBE => host!("movbe"),
        F::BMI1 => host!("bmi1"),
        F::BMI2 => host!("bmi2"),
        F::ADX => host!("adx"),
        F::AES => host!("aes"),
        F::PCLMULQDQ => host!("pclmulqdq"),
        F::SHA => host!("sha"),
        F::AVX => host!("avx"),
        F::AVX2 => host!("avx2"),
        F::FMA => host!("fma"),
        F::F16C => host!("f16c"),
        _ => false,
    }
}

/// Instructions that enter the kernel, depend on what the system has set up, or whose result is not defined.
fn left_out(code: Code, mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    let by_name = matches!(
        mnemonic,
        // The kernel's: system calls, interrupts, and what it virtualizes.
        M::Int | M::Int1 | M::Syscall | M::Sysenter | M::Iret | M::Iretd | M::Iretq | M::Sgdt | M::Sidt | M::Sldt
            | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw | M::Cpuid
            // Depends on what the host has of extended state.
            | M::Xgetbv | M::Xsave | M::Xsave64 | M::Xrstor | M::Xrstor64
            // Segment registers.
            | M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss | M::Arpl
            // Old processors' instructions on x87 and MMX that newer ones ignore.
            | M::Fndisi | M::Fneni | M::Fnsetpm | M::Fdisi | M::Feni | M::Fsetpm | M::Frstpm
            | M::Ud0 | M::Ud1 | M::Reservednop | M::Zero_bytes
    );
    let segment = matches!(mnemonic, M::Mov | M::Push | M::Pop)
        && code.op_code().op_kinds().iter().any(|k| {
            matches!(k, Kind::seg_reg | Kind::es | Kind::cs | Kind::ss | Kind::ds | Kind::fs | Kind::gs)
        });
    // Undocumented x87 aliases that AMD and Intel treat alike today but document nowhere.
    by_name || segment || is_undocumented_x87(code)
}

fn is_undocumented_x87(code: Code) -> bool {
    matches!(
        code,
        Code::Fstp_sti_DFD0
            | Code::Fstp_sti_DFD8
            | Code::Fxch_st0_sti_DDC8
            | Code::Fxch_st0_sti_DFC8
            | Code::Fcom_st0_sti_DCD0
            | Code::Fcomp_st0_sti_DCD8
            | Code::Fcomp_st0_sti_DED0
            | Code::Fstpnce_sti
            | Code::Ffreep_sti
    )
}

/// Instructions that fault in user mode.
fn is_privileged(code: Code) -> bool {
    use Mnemonic as M;
    let control = |k: &Kind| matches!(k, Kind::cr_reg | Kind::dr_reg);
    matches!(
        code.mnemonic(),
        M::Hlt
            | M::In
            | M::Out
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::Rdmsr
            | M::Wrmsr
            | M::Lgdt
            | M::Lidt
            | M::Lldt
            | M::Ltr
            | M::Lmsw
            | M::Clts
            | M::Invd
            | M::Wbinvd
            | M::Invlpg
            | M::Swapgs
            | M::Sysret
            | M::Sysretq
            | M::Xsetbv
    ) || code.mnemonic() == M::Mov && code.op_code().op_kinds().iter().any(control)
}

/// Instructions that store the x87 and SSE state in memory or load it from there.
fn is_save(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Fnsave
            | M::Fsave
            | M::Frstor
            | M::Fnstenv
            | M::Fstenv
            | M::Fldenv
    )
}

/// The group `code` is tested with, if it is tested.
pub fn group(code: Code) -> Option<Group> {
    use CpuidFeature as F;
    let info = code.op_code();
    if !info.is_instruction() || !matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return None;
    }
    let features = code.cpuid_features();
    if !features.iter().all(|&f| has(f)) || left_out(code, code.mnemonic()) {
        return None;
    }
    if is_privileged(code) {
        return Some(Group::Privileged);
    }
    if info.must_be_cpl0() {
        return None;
    }
    if is_save(code.mnemonic()) {
        return Some(Group::Save);
    }
    let any = |list: &[F]| features.iter().any(|f| list.contains(f));
    let uses = |f: fn(Kind) -> bool| info.op_kinds().iter().any(|&k| f(k));
    Some(if any(&[F::AES, F::PCLMULQDQ, F::SHA]) {
        Group::Crypto
    } else if any(&[F::AVX, F::AVX2, F::FMA, F::F16C]) {
        Group::Avx
    } else if any(&[F::FPU, F::FPU287, F::FPU387]) {
        Group::X87
    } else if any(&[F::MMX])
        || any(&[F::SSE, F::SSE2, F::SSSE3])
            && uses(|k| matches!(k, Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem))
    {
        Group::Mmx
    } else if any(&[F::SSE4_2]) && code.mnemonic() == Mnemonic::Crc32 {
        Group::Bits
    } else if any(&[F::SSE, F::SSE2, F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2]) {
        if code.mnemonic() == Mnemonic::Fisttp { Group::X87 } else { Group::Sse }
    } else if any(&[F::BMI1, F::BMI2, F::ADX, F::MOVBE, F::POPCNT, F::LZCNT, F::CMPXCHG16B, F::CX8]) {
        Group::Bits
    } else if uses(|k| matches!(k, Kind::seg_rSI | Kind::es_rDI)) {
        Group::String
    } else if !matches!(
        code.flow_control(),
        FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception
    ) {
        if matches!(
            code.flow_control(),
            FlowControl::ConditionalBranch
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Call
                | FlowControl::IndirectCall
                | FlowControl::Return
        ) && !is_far(code)
        {
            Group::Branch
        } else {
            return None;
        }
    } else {
        Group::Integer
    })
}

fn is_far(code: Code) -> bool {
    code.is_jmp_far()
        || code.is_call_far()
        || code.is_jmp_far_indirect()
        || code.is_call_far_indirect()
        || code.mnemonic() == Mnemonic::Retf
}

/// The instructions of `group` that exist in `mode`.
pub fn codes(group_wanted: Group, mode: Mode) -> &'static [Code] {
    static LISTS: OnceLock<Vec<Vec<Code>>> = OnceLock::new();
    let lists = LISTS.get_or_init(|| {
        let mut lists = vec![Vec::new(); Group::ALL.len() * 2];
        for code in Code::values() {
            if let Some(g) = group(code) {
                let info = code.op_code();
                if info.mode64() {
                    lists[g as usize * 2].push(code);
                }
                if info.mode32() {
                    lists[g as usize * 2 + 1].push(code);
                }
            }
        }
        lists
    });
    &lists[group_wanted as usize * 2 + usize::from(mode == Mode::Compat)]
}
