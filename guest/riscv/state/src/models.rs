//! The named models. What each starts from is a fact of QEMU's models and of the profiles' documents.

use crate::extension::{Extension as X, ExtensionSet};
use crate::state::satp;

/// A model before properties change it.
pub(crate) struct ModelDefinition {
    pub name: &'static str,
    pub summary: &'static str,
    pub xlen: u32,
    pub extensions: ExtensionSet,
    /// Largest mode of satp.
    pub satp: u32,
    /// What the profile asks for; empty where the model is none.
    pub profile: ExtensionSet,
}

/// Modes and single letters that every model has.
const BASE: ExtensionSet = ExtensionSet::of(&[
    X::I,
    X::M,
    X::A,
    X::F,
    X::D,
    X::C,
    X::S,
    X::U,
    X::Svbare,
    X::Zicsr,
    X::Zifencei,
    X::Zmmul,
    X::Zaamo,
    X::Zalrsc,
    X::Zca,
    X::Zcd,
    X::Zicntr,
    X::Zihpm,
]);

/// Properties of the memory and of the privileged architecture that hold here whatever the model.
const ALWAYS: ExtensionSet = ExtensionSet::of(&[
    X::Ziccamoa,
    X::Ziccif,
    X::Zicclsm,
    X::Ziccrse,
    X::Za64rs,
    X::Ssccptr,
    X::Sscounterenw,
    X::Sstvala,
    X::Sstvecd,
]);

const GENERIC: ExtensionSet = BASE.union(ALWAYS).union(ExtensionSet::of(&[
    X::Zicbom,
    X::Zicbop,
    X::Zicboz,
    X::Zic64b,
    X::Zihintntl,
    X::Zihintpause,
    X::Zawrs,
    X::Zfa,
    X::Zba,
    X::Zbb,
    X::Zbc,
    X::Zbs,
    X::B,
    X::H,
    X::Shcounterenw,
    X::Shgatpa,
    X::Shtvala,
    X::Shvsatpa,
    X::Shvstvala,
    X::Shvstvecd,
    X::Sstc,
    X::Svadu,
    X::Svvptc,
]));

const MAX: ExtensionSet = GENERIC.union(ExtensionSet::of(&[
    X::V,
    X::Zve64d,
    X::Zve64f,
    X::Zve64x,
    X::Zve32f,
    X::Zve32x,
    X::Zicond,
    X::Zimop,
    X::Zabha,
    X::Zacas,
    X::Zcb,
    X::Zcmop,
    X::Zfh,
    X::Zfhmin,
    X::Zbkb,
    X::Zbkc,
    X::Zbkx,
    X::Zk,
    X::Zkn,
    X::Zknd,
    X::Zkne,
    X::Zknh,
    X::Zkr,
    X::Zkt,
    X::Zvbb,
    X::Zvbc,
    X::Zvfh,
    X::Zvfhmin,
    X::Zvkb,
    X::Zvkg,
    X::Zvkned,
    X::Zvknha,
    X::Zvknhb,
    X::Zvksed,
    X::Zvksh,
    X::Zvkt,
    X::Sha,
    X::Smstateen,
    X::Ssstateen,
    X::Sscofpmf,
    X::Svade,
    X::Svinval,
    X::Svnapot,
    X::Svpbmt,
]));

/// RVA22S64 (RISC-V profiles, "RVA22S64 Profile") with what RVA22U64 asks for.
const RVA22: ExtensionSet = BASE.union(ALWAYS).union(ExtensionSet::of(&[
    X::Zihintpause,
    X::Zba,
    X::Zbb,
    X::Zbs,
    X::B,
    X::Zic64b,
    X::Zicbom,
    X::Zicbop,
    X::Zicboz,
    X::Zfhmin,
    X::Zkt,
    X::Svade,
    X::Svpbmt,
    X::Svinval,
]));

/// RVA23S64 (RISC-V profiles, "RVA23S64 Profile") with what RVA23U64 asks for.
const RVA23_PROFILE: ExtensionSet = RVA22.union(ExtensionSet::of(&[
    X::V,
    X::Zve64d,
    X::Zve64f,
    X::Zve64x,
    X::Zve32f,
    X::Zve32x,
    X::Zvfhmin,
    X::Zvbb,
    X::Zvkb,
    X::Zvkt,
    X::Zihintntl,
    X::Zicond,
    X::Zimop,
    X::Zcmop,
    X::Zcb,
    X::Zfa,
    X::Zawrs,
    X::Supm,
    X::Svnapot,
    X::Sstc,
    X::Sscofpmf,
    X::Ssnpm,
    X::Ssu64xl,
    X::H,
    X::Sha,
    X::Ssstateen,
    X::Shcounterenw,
    X::Shgatpa,
    X::Shtvala,
    X::Shvsatpa,
    X::Shvstvala,
    X::Shvstvecd,
]));

/// What Ssstateen is the supervisor's view of.
const RVA23_MACHINE: ExtensionSet = ExtensionSet::of(&[X::Smstateen]);

const RVA23_MISSING: ExtensionSet = ExtensionSet::of(&[X::Supm, X::Ssnpm]);

/// All models; the first is the default of 64-bit machines.
pub(crate) const MODELS: &[ModelDefinition] = &[
    ModelDefinition {
        name: "rv64",
        summary: "generic 64-bit hart",
        xlen: 64,
        extensions: GENERIC.union(ExtensionSet::of(&[X::Ssu64xl])),
        satp: satp::SV57,
        profile: ExtensionSet::of(&[]),
    },
    ModelDefinition {
        name: "rv32",
        summary: "generic 32-bit hart",
        xlen: 32,
        extensions: GENERIC.union(ExtensionSet::of(&[X::Zcf])),
        satp: satp::SV32,
        profile: ExtensionSet::of(&[]),
    },
    ModelDefinition {
        name: "max",
        summary: "64-bit hart with every implemented extension",
        xlen: 64,
        extensions: MAX.union(ExtensionSet::of(&[X::Ssu64xl])),
        satp: satp::SV57,
        profile: ExtensionSet::of(&[]),
    },
    ModelDefinition {
        name: "max",
        summary: "32-bit hart with every implemented extension",
        xlen: 32,
        extensions: MAX
            .union(ExtensionSet::of(&[X::Zcf]))
            .without(ExtensionSet::of(&[X::Svnapot, X::Svpbmt])),
        satp: satp::SV32,
        profile: ExtensionSet::of(&[]),
    },
    ModelDefinition {
        name: "rva22s64",
        summary: "the RVA22S64 profile",
        xlen: 64,
        extensions: RVA22,
        satp: satp::SV39,
        profile: RVA22,
    },
    ModelDefinition {
        name: "rva23s64",
        summary: "the RVA23S64 profile, as far as it is implemented",
        xlen: 64,
        extensions: RVA23_PROFILE.union(RVA23_MACHINE).without(RVA23_MISSING),
        satp: satp::SV39,
        profile: RVA23_PROFILE,
    },
];
