//! The table of CPU models. Names, signatures and features are those QEMU gives under the same names, less what is
//! not implemented here.

use crate::features::{Feature as F, FeatureSet};
use crate::model::Vendor;

/// One model.
pub(crate) struct ModelDefinition {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub vendor: Vendor,
    pub family: u32,
    pub model: u32,
    pub stepping: u32,
    /// Brand string of CPUID 80000002h to 80000004h.
    pub brand: &'static str,
    pub level: u32,
    pub xlevel: u32,
    pub features: FeatureSet,
}

/// (feature, what it needs).
pub(crate) const PREREQUISITES: &[(F, F)] = &[
    (F::SSE, F::FXSR),
    (F::SSE2, F::SSE),
    (F::SSE3, F::SSE2),
    (F::SSSE3, F::SSE3),
    (F::SSE4_1, F::SSSE3),
    (F::SSE4_2, F::SSE4_1),
    (F::AES, F::SSE2),
    (F::PCLMULQDQ, F::SSE2),
    (F::SHA, F::SSE2),
    (F::XSAVEOPT, F::XSAVE),
    (F::XSAVEC, F::XSAVE),
    (F::XGETBV1, F::XSAVE),
    (F::AVX, F::XSAVE),
    (F::AVX, F::SSE4_2),
    (F::AVX2, F::AVX),
    (F::FMA, F::AVX),
    (F::F16C, F::AVX),
    (F::LM, F::PAE),
    (F::LM, F::SSE2),
    (F::LM, F::CX8),
    (F::NX, F::PAE),
    (F::PDPE1GB, F::LM),
    (F::PCID, F::LM),
    (F::LAHF_LM, F::LM),
    (F::CX16, F::LM),
    (F::X2APIC, F::APIC),
    (F::TSC_DEADLINE, F::APIC),
    (F::TSC_ADJUST, F::TSC),
    (F::RDTSCP, F::TSC),
    (F::INVTSC, F::TSC),
    (F::MCA, F::MCE),
];

const I486: FeatureSet = FeatureSet::of(&[F::FPU, F::VME, F::PSE]);

const PENTIUM: FeatureSet =
    I486.union(FeatureSet::of(&[F::DE, F::TSC, F::MSR, F::MCE, F::CX8, F::MMX, F::APIC]));

const PENTIUM2: FeatureSet = PENTIUM.union(FeatureSet::of(&[
    F::PAE,
    F::SEP,
    F::MTRR,
    F::PGE,
    F::MCA,
    F::CMOV,
    F::PAT,
    F::PSE36,
    F::FXSR,
]));

const PENTIUM3: FeatureSet = PENTIUM2.union(FeatureSet::of(&[F::SSE]));

/// What a Pentium Pro had, and MMX, FXSR, PAT, SSE, SSE2 with it.
const PPRO: FeatureSet = FeatureSet::of(&[
    F::FPU,
    F::DE,
    F::PSE,
    F::TSC,
    F::MSR,
    F::MCE,
    F::CX8,
    F::PGE,
    F::CMOV,
    F::PAT,
    F::FXSR,
    F::MMX,
    F::SSE,
    F::SSE2,
    F::PAE,
    F::SEP,
    F::APIC,
]);

const PPRO_PLUS: FeatureSet = PPRO.union(FeatureSet::of(&[F::MTRR, F::CLFLUSH, F::MCA, F::PSE36]));

const QEMU64: FeatureSet =
    PPRO_PLUS.union(FeatureSet::of(&[F::SSE3, F::CX16, F::LM, F::SYSCALL, F::NX, F::LAHF_LM]));

const KVM64: FeatureSet =
    PPRO_PLUS.union(FeatureSet::of(&[F::VME, F::SSE3, F::CX16, F::LM, F::SYSCALL, F::NX]));

const NEHALEM: FeatureSet =
    KVM64.union(FeatureSet::of(&[F::POPCNT, F::SSE4_2, F::SSE4_1, F::SSSE3, F::LAHF_LM]));

const WESTMERE: FeatureSet = NEHALEM.union(FeatureSet::of(&[F::AES, F::PCLMULQDQ, F::ARAT]));

const SANDY_BRIDGE: FeatureSet =
    WESTMERE.union(FeatureSet::of(&[F::AVX, F::XSAVE, F::XSAVEOPT, F::TSC_DEADLINE, F::X2APIC, F::RDTSCP]));

const IVY_BRIDGE: FeatureSet =
    SANDY_BRIDGE.union(FeatureSet::of(&[F::F16C, F::RDRAND, F::FSGSBASE, F::SMEP, F::ERMS]));

const HASWELL: FeatureSet = IVY_BRIDGE.union(FeatureSet::of(&[
    F::FMA,
    F::MOVBE,
    F::PCID,
    F::ABM,
    F::BMI1,
    F::AVX2,
    F::BMI2,
    F::INVPCID,
]));

const BROADWELL: FeatureSet = HASWELL.union(FeatureSet::of(&[F::RDSEED, F::ADX, F::SMAP, F::PREFETCHW]));

/// Everything implemented but MONITOR: MWAIT returns at once, so a guest that idles with it would spin.
const MAX: FeatureSet = BROADWELL.union(FeatureSet::of(&[
    F::TSC_ADJUST,
    F::CLFLUSHOPT,
    F::SHA,
    F::UMIP,
    F::RDPID,
    F::XSAVEC,
    F::XGETBV1,
    F::MMXEXT,
    F::PDPE1GB,
    F::MISALIGNSSE,
    F::INVTSC,
]));

const fn model(
    name: &'static str,
    vendor: Vendor,
    (family, model, stepping): (u32, u32, u32),
    brand: &'static str,
    (level, xlevel): (u32, u32),
    features: FeatureSet,
) -> ModelDefinition {
    ModelDefinition { name, aliases: &[], vendor, family, model, stepping, brand, level, xlevel, features }
}

/// All models; the first is the default.
pub(crate) const MODELS: &[ModelDefinition] = &[
    model("qemu64", Vendor::Amd, (15, 107, 1), "Rhea Virtual CPU", (0xd, 0x8000_0008), QEMU64),
    model(
        "qemu32",
        Vendor::Intel,
        (6, 6, 3),
        "Rhea Virtual CPU",
        (4, 0x8000_0004),
        PPRO.union(FeatureSet::of(&[F::SSE3])),
    ),
    model("max", Vendor::Amd, (15, 107, 1), "Rhea Virtual CPU with every feature", (0xd, 0x8000_0008), MAX),
    model("kvm64", Vendor::Intel, (15, 6, 1), "Common KVM processor", (0xd, 0x8000_0008), KVM64),
    model(
        "kvm32",
        Vendor::Intel,
        (15, 6, 1),
        "Common 32-bit KVM processor",
        (5, 0x8000_0008),
        PPRO_PLUS.union(FeatureSet::of(&[F::VME, F::SSE3])),
    ),
    model("486", Vendor::Intel, (4, 8, 0), "", (1, 0), I486),
    model("pentium", Vendor::Intel, (5, 4, 3), "", (1, 0), PENTIUM),
    model("pentium2", Vendor::Intel, (6, 5, 2), "", (2, 0), PENTIUM2),
    model("pentium3", Vendor::Intel, (6, 8, 3), "", (3, 0), PENTIUM3),
    model(
        "Nehalem",
        Vendor::Intel,
        (6, 26, 3),
        "Intel Core i7 9xx (Nehalem Class Core i7)",
        (0xb, 0x8000_0008),
        NEHALEM,
    ),
    model(
        "Westmere",
        Vendor::Intel,
        (6, 44, 1),
        "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
        (0xb, 0x8000_0008),
        WESTMERE,
    ),
    model(
        "SandyBridge",
        Vendor::Intel,
        (6, 42, 1),
        "Intel Xeon E312xx (Sandy Bridge)",
        (0xd, 0x8000_0008),
        SANDY_BRIDGE,
    ),
    model(
        "IvyBridge",
        Vendor::Intel,
        (6, 58, 9),
        "Intel Xeon E3-12xx v2 (Ivy Bridge)",
        (0xd, 0x8000_0008),
        IVY_BRIDGE,
    ),
    ModelDefinition {
        aliases: &["Haswell-noTSX"],
        ..model(
            "Haswell",
            Vendor::Intel,
            (6, 60, 1),
            "Intel Core Processor (Haswell, no TSX)",
            (0xd, 0x8000_0008),
            HASWELL,
        )
    },
    ModelDefinition {
        aliases: &["Broadwell-noTSX"],
        ..model(
            "Broadwell",
            Vendor::Intel,
            (6, 61, 2),
            "Intel Core Processor (Broadwell, no TSX)",
            (0xd, 0x8000_0008),
            BROADWELL,
        )
    },
];
