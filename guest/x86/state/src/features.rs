//! Processor features: one bit each, at its place in CPUID, with the name that `-cpu` uses.
//!
//! A feature that is not implemented has a name too, so that it can be refused by name.

/// CPUID words that consist of feature bits, as indices into [`FeatureSet`].
pub mod word {
    /// CPUID 1.EDX.
    pub const LEAF_1_EDX: usize = 0;
    /// CPUID 1.ECX.
    pub const LEAF_1_ECX: usize = 1;
    /// CPUID 7.0.EBX.
    pub const LEAF_7_EBX: usize = 2;
    /// CPUID 7.0.ECX.
    pub const LEAF_7_ECX: usize = 3;
    /// CPUID 7.0.EDX.
    pub const LEAF_7_EDX: usize = 4;
    /// CPUID 7.1.EAX.
    pub const LEAF_7_1_EAX: usize = 5;
    /// CPUID 0D.1.EAX.
    pub const LEAF_D_1_EAX: usize = 6;
    /// CPUID 6.EAX.
    pub const LEAF_6_EAX: usize = 7;
    /// CPUID 80000001.EDX.
    pub const LEAF_80000001_EDX: usize = 8;
    /// CPUID 80000001.ECX.
    pub const LEAF_80000001_ECX: usize = 9;
    /// CPUID 80000007.EDX.
    pub const LEAF_80000007_EDX: usize = 10;
    /// CPUID 80000008.EBX.
    pub const LEAF_80000008_EBX: usize = 11;
}

/// Number of feature words.
pub const WORDS: usize = 12;

/// One feature: its word and bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Feature(u16);

impl Feature {
    const fn new(word: usize, bit: u32) -> Self {
        Self((word as u16) << 5 | bit as u16)
    }

    /// Index of the CPUID word, see [`word`].
    pub const fn word(self) -> usize {
        (self.0 >> 5) as usize
    }

    /// The bit as a mask within its word.
    pub const fn mask(self) -> u32 {
        1 << (self.0 & 31)
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FeatureSet {
    words: [u32; WORDS],
}

impl FeatureSet {
    /// A set of the listed features.
    pub const fn of(features: &[Feature]) -> Self {
        let mut set = Self { words: [0; WORDS] };
        let mut i = 0;
        while i < features.len() {
            set.words[features[i].word()] |= features[i].mask();
            i += 1;
        }
        set
    }

    /// Whether a feature is in the set.
    #[inline]
    pub const fn has(&self, feature: Feature) -> bool {
        self.words[feature.word()] & feature.mask() != 0
    }

    /// Adds or removes a feature.
    pub fn set(&mut self, feature: Feature, on: bool) {
        let word = &mut self.words[feature.word()];
        *word = if on { *word | feature.mask() } else { *word & !feature.mask() };
    }

    /// One CPUID word of features; see [`word`].
    pub const fn word(&self, index: usize) -> u32 {
        self.words[index]
    }

    /// The features of both sets.
    pub const fn union(mut self, other: Self) -> Self {
        let mut i = 0;
        while i < WORDS {
            self.words[i] |= other.words[i];
            i += 1;
        }
        self
    }

    /// The features of this set that are not in the other.
    pub const fn without(mut self, other: Self) -> Self {
        let mut i = 0;
        while i < WORDS {
            self.words[i] &= !other.words[i];
            i += 1;
        }
        self
    }
}

/// A feature with its names.
#[derive(Clone, Copy, Debug)]
pub struct FeatureName {
    /// The feature.
    pub feature: Feature,
    /// The name `-cpu` uses, as QEMU spells it.
    pub name: &'static str,
    /// Other accepted spellings.
    pub aliases: &'static [&'static str],
    /// Whether it is implemented and can be switched on.
    pub implemented: bool,
}

/// Finds a feature by any of its names.
pub fn find(name: &str) -> Option<&'static FeatureName> {
    NAMES.iter().find(|f| f.name == name || f.aliases.contains(&name))
}

/// The name of a feature.
pub fn name(feature: Feature) -> &'static str {
    NAMES.iter().find(|f| f.feature == feature).map_or("?", |f| f.name)
}

impl Feature {
    /// `fpu`: CPUID 1.EDX[0].
    pub const FPU: Self = Self::new(word::LEAF_1_EDX, 0);
    /// `vme`: CPUID 1.EDX[1].
    pub const VME: Self = Self::new(word::LEAF_1_EDX, 1);
    /// `de`: CPUID 1.EDX[2].
    pub const DE: Self = Self::new(word::LEAF_1_EDX, 2);
    /// `pse`: CPUID 1.EDX[3].
    pub const PSE: Self = Self::new(word::LEAF_1_EDX, 3);
    /// `tsc`: CPUID 1.EDX[4].
    pub const TSC: Self = Self::new(word::LEAF_1_EDX, 4);
    /// `msr`: CPUID 1.EDX[5].
    pub const MSR: Self = Self::new(word::LEAF_1_EDX, 5);
    /// `pae`: CPUID 1.EDX[6].
    pub const PAE: Self = Self::new(word::LEAF_1_EDX, 6);
    /// `mce`: CPUID 1.EDX[7].
    pub const MCE: Self = Self::new(word::LEAF_1_EDX, 7);
    /// `cx8`: CPUID 1.EDX[8].
    pub const CX8: Self = Self::new(word::LEAF_1_EDX, 8);
    /// `apic`: CPUID 1.EDX[9].
    pub const APIC: Self = Self::new(word::LEAF_1_EDX, 9);
    /// `sep`: CPUID 1.EDX[11].
    pub const SEP: Self = Self::new(word::LEAF_1_EDX, 11);
    /// `mtrr`: CPUID 1.EDX[12].
    pub const MTRR: Self = Self::new(word::LEAF_1_EDX, 12);
    /// `pge`: CPUID 1.EDX[13].
    pub const PGE: Self = Self::new(word::LEAF_1_EDX, 13);
    /// `mca`: CPUID 1.EDX[14].
    pub const MCA: Self = Self::new(word::LEAF_1_EDX, 14);
    /// `cmov`: CPUID 1.EDX[15].
    pub const CMOV: Self = Self::new(word::LEAF_1_EDX, 15);
    /// `pat`: CPUID 1.EDX[16].
    pub const PAT: Self = Self::new(word::LEAF_1_EDX, 16);
    /// `pse36`: CPUID 1.EDX[17].
    pub const PSE36: Self = Self::new(word::LEAF_1_EDX, 17);
    /// `pn`: CPUID 1.EDX[18].
    pub const PN: Self = Self::new(word::LEAF_1_EDX, 18);
    /// `clflush`: CPUID 1.EDX[19].
    pub const CLFLUSH: Self = Self::new(word::LEAF_1_EDX, 19);
    /// `ds`: CPUID 1.EDX[21].
    pub const DS: Self = Self::new(word::LEAF_1_EDX, 21);
    /// `acpi`: CPUID 1.EDX[22].
    pub const ACPI: Self = Self::new(word::LEAF_1_EDX, 22);
    /// `mmx`: CPUID 1.EDX[23].
    pub const MMX: Self = Self::new(word::LEAF_1_EDX, 23);
    /// `fxsr`: CPUID 1.EDX[24].
    pub const FXSR: Self = Self::new(word::LEAF_1_EDX, 24);
    /// `sse`: CPUID 1.EDX[25].
    pub const SSE: Self = Self::new(word::LEAF_1_EDX, 25);
    /// `sse2`: CPUID 1.EDX[26].
    pub const SSE2: Self = Self::new(word::LEAF_1_EDX, 26);
    /// `ss`: CPUID 1.EDX[27].
    pub const SS: Self = Self::new(word::LEAF_1_EDX, 27);
    /// `ht`: CPUID 1.EDX[28].
    pub const HT: Self = Self::new(word::LEAF_1_EDX, 28);
    /// `tm`: CPUID 1.EDX[29].
    pub const TM: Self = Self::new(word::LEAF_1_EDX, 29);
    /// `ia64`: CPUID 1.EDX[30].
    pub const IA64: Self = Self::new(word::LEAF_1_EDX, 30);
    /// `pbe`: CPUID 1.EDX[31].
    pub const PBE: Self = Self::new(word::LEAF_1_EDX, 31);
    /// `pni`: CPUID 1.ECX[0].
    pub const SSE3: Self = Self::new(word::LEAF_1_ECX, 0);
    /// `pclmulqdq`: CPUID 1.ECX[1].
    pub const PCLMULQDQ: Self = Self::new(word::LEAF_1_ECX, 1);
    /// `dtes64`: CPUID 1.ECX[2].
    pub const DTES64: Self = Self::new(word::LEAF_1_ECX, 2);
    /// `monitor`: CPUID 1.ECX[3].
    pub const MONITOR: Self = Self::new(word::LEAF_1_ECX, 3);
    /// `ds-cpl`: CPUID 1.ECX[4].
    pub const DS_CPL: Self = Self::new(word::LEAF_1_ECX, 4);
    /// `vmx`: CPUID 1.ECX[5].
    pub const VMX: Self = Self::new(word::LEAF_1_ECX, 5);
    /// `smx`: CPUID 1.ECX[6].
    pub const SMX: Self = Self::new(word::LEAF_1_ECX, 6);
    /// `est`: CPUID 1.ECX[7].
    pub const EST: Self = Self::new(word::LEAF_1_ECX, 7);
    /// `tm2`: CPUID 1.ECX[8].
    pub const TM2: Self = Self::new(word::LEAF_1_ECX, 8);
    /// `ssse3`: CPUID 1.ECX[9].
    pub const SSSE3: Self = Self::new(word::LEAF_1_ECX, 9);
    /// `cid`: CPUID 1.ECX[10].
    pub const CID: Self = Self::new(word::LEAF_1_ECX, 10);
    /// `fma`: CPUID 1.ECX[12].
    pub const FMA: Self = Self::new(word::LEAF_1_ECX, 12);
    /// `cx16`: CPUID 1.ECX[13].
    pub const CX16: Self = Self::new(word::LEAF_1_ECX, 13);
    /// `xtpr`: CPUID 1.ECX[14].
    pub const XTPR: Self = Self::new(word::LEAF_1_ECX, 14);
    /// `pdcm`: CPUID 1.ECX[15].
    pub const PDCM: Self = Self::new(word::LEAF_1_ECX, 15);
    /// `pcid`: CPUID 1.ECX[17].
    pub const PCID: Self = Self::new(word::LEAF_1_ECX, 17);
    /// `dca`: CPUID 1.ECX[18].
    pub const DCA: Self = Self::new(word::LEAF_1_ECX, 18);
    /// `sse4.1`: CPUID 1.ECX[19].
    pub const SSE4_1: Self = Self::new(word::LEAF_1_ECX, 19);
    /// `sse4.2`: CPUID 1.ECX[20].
    pub const SSE4_2: Self = Self::new(word::LEAF_1_ECX, 20);
    /// `x2apic`: CPUID 1.ECX[21].
    pub const X2APIC: Self = Self::new(word::LEAF_1_ECX, 21);
    /// `movbe`: CPUID 1.ECX[22].
    pub const MOVBE: Self = Self::new(word::LEAF_1_ECX, 22);
    /// `popcnt`: CPUID 1.ECX[23].
    pub const POPCNT: Self = Self::new(word::LEAF_1_ECX, 23);
    /// `tsc-deadline`: CPUID 1.ECX[24].
    pub const TSC_DEADLINE: Self = Self::new(word::LEAF_1_ECX, 24);
    /// `aes`: CPUID 1.ECX[25].
    pub const AES: Self = Self::new(word::LEAF_1_ECX, 25);
    /// `xsave`: CPUID 1.ECX[26].
    pub const XSAVE: Self = Self::new(word::LEAF_1_ECX, 26);
    /// `avx`: CPUID 1.ECX[28].
    pub const AVX: Self = Self::new(word::LEAF_1_ECX, 28);
    /// `f16c`: CPUID 1.ECX[29].
    pub const F16C: Self = Self::new(word::LEAF_1_ECX, 29);
    /// `rdrand`: CPUID 1.ECX[30].
    pub const RDRAND: Self = Self::new(word::LEAF_1_ECX, 30);
    /// `hypervisor`: CPUID 1.ECX[31].
    pub const HYPERVISOR: Self = Self::new(word::LEAF_1_ECX, 31);
    /// `fsgsbase`: CPUID 7.0.EBX[0].
    pub const FSGSBASE: Self = Self::new(word::LEAF_7_EBX, 0);
    /// `tsc-adjust`: CPUID 7.0.EBX[1].
    pub const TSC_ADJUST: Self = Self::new(word::LEAF_7_EBX, 1);
    /// `sgx`: CPUID 7.0.EBX[2].
    pub const SGX: Self = Self::new(word::LEAF_7_EBX, 2);
    /// `bmi1`: CPUID 7.0.EBX[3].
    pub const BMI1: Self = Self::new(word::LEAF_7_EBX, 3);
    /// `hle`: CPUID 7.0.EBX[4].
    pub const HLE: Self = Self::new(word::LEAF_7_EBX, 4);
    /// `avx2`: CPUID 7.0.EBX[5].
    pub const AVX2: Self = Self::new(word::LEAF_7_EBX, 5);
    /// `smep`: CPUID 7.0.EBX[7].
    pub const SMEP: Self = Self::new(word::LEAF_7_EBX, 7);
    /// `bmi2`: CPUID 7.0.EBX[8].
    pub const BMI2: Self = Self::new(word::LEAF_7_EBX, 8);
    /// `erms`: CPUID 7.0.EBX[9].
    pub const ERMS: Self = Self::new(word::LEAF_7_EBX, 9);
    /// `invpcid`: CPUID 7.0.EBX[10].
    pub const INVPCID: Self = Self::new(word::LEAF_7_EBX, 10);
    /// `rtm`: CPUID 7.0.EBX[11].
    pub const RTM: Self = Self::new(word::LEAF_7_EBX, 11);
    /// `mpx`: CPUID 7.0.EBX[14].
    pub const MPX: Self = Self::new(word::LEAF_7_EBX, 14);
    /// `avx512f`: CPUID 7.0.EBX[16].
    pub const AVX512F: Self = Self::new(word::LEAF_7_EBX, 16);
    /// `avx512dq`: CPUID 7.0.EBX[17].
    pub const AVX512DQ: Self = Self::new(word::LEAF_7_EBX, 17);
    /// `rdseed`: CPUID 7.0.EBX[18].
    pub const RDSEED: Self = Self::new(word::LEAF_7_EBX, 18);
    /// `adx`: CPUID 7.0.EBX[19].
    pub const ADX: Self = Self::new(word::LEAF_7_EBX, 19);
    /// `smap`: CPUID 7.0.EBX[20].
    pub const SMAP: Self = Self::new(word::LEAF_7_EBX, 20);
    /// `avx512ifma`: CPUID 7.0.EBX[21].
    pub const AVX512IFMA: Self = Self::new(word::LEAF_7_EBX, 21);
    /// `clflushopt`: CPUID 7.0.EBX[23].
    pub const CLFLUSHOPT: Self = Self::new(word::LEAF_7_EBX, 23);
    /// `clwb`: CPUID 7.0.EBX[24].
    pub const CLWB: Self = Self::new(word::LEAF_7_EBX, 24);
    /// `intel-pt`: CPUID 7.0.EBX[25].
    pub const INTEL_PT: Self = Self::new(word::LEAF_7_EBX, 25);
    /// `avx512pf`: CPUID 7.0.EBX[26].
    pub const AVX512PF: Self = Self::new(word::LEAF_7_EBX, 26);
    /// `avx512er`: CPUID 7.0.EBX[27].
    pub const AVX512ER: Self = Self::new(word::LEAF_7_EBX, 27);
    /// `avx512cd`: CPUID 7.0.EBX[28].
    pub const AVX512CD: Self = Self::new(word::LEAF_7_EBX, 28);
    /// `sha-ni`: CPUID 7.0.EBX[29].
    pub const SHA: Self = Self::new(word::LEAF_7_EBX, 29);
    /// `avx512bw`: CPUID 7.0.EBX[30].
    pub const AVX512BW: Self = Self::new(word::LEAF_7_EBX, 30);
    /// `avx512vl`: CPUID 7.0.EBX[31].
    pub const AVX512VL: Self = Self::new(word::LEAF_7_EBX, 31);
    /// `avx512vbmi`: CPUID 7.0.ECX[1].
    pub const AVX512VBMI: Self = Self::new(word::LEAF_7_ECX, 1);
    /// `umip`: CPUID 7.0.ECX[2].
    pub const UMIP: Self = Self::new(word::LEAF_7_ECX, 2);
    /// `pku`: CPUID 7.0.ECX[3].
    pub const PKU: Self = Self::new(word::LEAF_7_ECX, 3);
    /// `waitpkg`: CPUID 7.0.ECX[5].
    pub const WAITPKG: Self = Self::new(word::LEAF_7_ECX, 5);
    /// `avx512vbmi2`: CPUID 7.0.ECX[6].
    pub const AVX512VBMI2: Self = Self::new(word::LEAF_7_ECX, 6);
    /// `gfni`: CPUID 7.0.ECX[8].
    pub const GFNI: Self = Self::new(word::LEAF_7_ECX, 8);
    /// `vaes`: CPUID 7.0.ECX[9].
    pub const VAES: Self = Self::new(word::LEAF_7_ECX, 9);
    /// `vpclmulqdq`: CPUID 7.0.ECX[10].
    pub const VPCLMULQDQ: Self = Self::new(word::LEAF_7_ECX, 10);
    /// `avx512vnni`: CPUID 7.0.ECX[11].
    pub const AVX512VNNI: Self = Self::new(word::LEAF_7_ECX, 11);
    /// `avx512bitalg`: CPUID 7.0.ECX[12].
    pub const AVX512BITALG: Self = Self::new(word::LEAF_7_ECX, 12);
    /// `avx512-vpopcntdq`: CPUID 7.0.ECX[14].
    pub const AVX512_VPOPCNTDQ: Self = Self::new(word::LEAF_7_ECX, 14);
    /// `la57`: CPUID 7.0.ECX[16].
    pub const LA57: Self = Self::new(word::LEAF_7_ECX, 16);
    /// `rdpid`: CPUID 7.0.ECX[22].
    pub const RDPID: Self = Self::new(word::LEAF_7_ECX, 22);
    /// `bus-lock-detect`: CPUID 7.0.ECX[24].
    pub const BUS_LOCK_DETECT: Self = Self::new(word::LEAF_7_ECX, 24);
    /// `cldemote`: CPUID 7.0.ECX[25].
    pub const CLDEMOTE: Self = Self::new(word::LEAF_7_ECX, 25);
    /// `movdiri`: CPUID 7.0.ECX[27].
    pub const MOVDIRI: Self = Self::new(word::LEAF_7_ECX, 27);
    /// `movdir64b`: CPUID 7.0.ECX[28].
    pub const MOVDIR64B: Self = Self::new(word::LEAF_7_ECX, 28);
    /// `sgxlc`: CPUID 7.0.ECX[30].
    pub const SGXLC: Self = Self::new(word::LEAF_7_ECX, 30);
    /// `pks`: CPUID 7.0.ECX[31].
    pub const PKS: Self = Self::new(word::LEAF_7_ECX, 31);
    /// `avx512-4vnniw`: CPUID 7.0.EDX[2].
    pub const AVX512_4VNNIW: Self = Self::new(word::LEAF_7_EDX, 2);
    /// `avx512-4fmaps`: CPUID 7.0.EDX[3].
    pub const AVX512_4FMAPS: Self = Self::new(word::LEAF_7_EDX, 3);
    /// `fsrm`: CPUID 7.0.EDX[4].
    pub const FSRM: Self = Self::new(word::LEAF_7_EDX, 4);
    /// `avx512-vp2intersect`: CPUID 7.0.EDX[8].
    pub const AVX512_VP2INTERSECT: Self = Self::new(word::LEAF_7_EDX, 8);
    /// `md-clear`: CPUID 7.0.EDX[10].
    pub const MD_CLEAR: Self = Self::new(word::LEAF_7_EDX, 10);
    /// `serialize`: CPUID 7.0.EDX[14].
    pub const SERIALIZE: Self = Self::new(word::LEAF_7_EDX, 14);
    /// `tsx-ldtrk`: CPUID 7.0.EDX[16].
    pub const TSX_LDTRK: Self = Self::new(word::LEAF_7_EDX, 16);
    /// `arch-lbr`: CPUID 7.0.EDX[19].
    pub const ARCH_LBR: Self = Self::new(word::LEAF_7_EDX, 19);
    /// `amx-bf16`: CPUID 7.0.EDX[22].
    pub const AMX_BF16: Self = Self::new(word::LEAF_7_EDX, 22);
    /// `avx512-fp16`: CPUID 7.0.EDX[23].
    pub const AVX512_FP16: Self = Self::new(word::LEAF_7_EDX, 23);
    /// `amx-tile`: CPUID 7.0.EDX[24].
    pub const AMX_TILE: Self = Self::new(word::LEAF_7_EDX, 24);
    /// `amx-int8`: CPUID 7.0.EDX[25].
    pub const AMX_INT8: Self = Self::new(word::LEAF_7_EDX, 25);
    /// `spec-ctrl`: CPUID 7.0.EDX[26].
    pub const SPEC_CTRL: Self = Self::new(word::LEAF_7_EDX, 26);
    /// `stibp`: CPUID 7.0.EDX[27].
    pub const STIBP: Self = Self::new(word::LEAF_7_EDX, 27);
    /// `flush-l1d`: CPUID 7.0.EDX[28].
    pub const FLUSH_L1D: Self = Self::new(word::LEAF_7_EDX, 28);
    /// `arch-capabilities`: CPUID 7.0.EDX[29].
    pub const ARCH_CAPABILITIES: Self = Self::new(word::LEAF_7_EDX, 29);
    /// `core-capability`: CPUID 7.0.EDX[30].
    pub const CORE_CAPABILITY: Self = Self::new(word::LEAF_7_EDX, 30);
    /// `ssbd`: CPUID 7.0.EDX[31].
    pub const SSBD: Self = Self::new(word::LEAF_7_EDX, 31);
    /// `sha512`: CPUID 7.1.EAX[0].
    pub const SHA512: Self = Self::new(word::LEAF_7_1_EAX, 0);
    /// `sm3`: CPUID 7.1.EAX[1].
    pub const SM3: Self = Self::new(word::LEAF_7_1_EAX, 1);
    /// `sm4`: CPUID 7.1.EAX[2].
    pub const SM4: Self = Self::new(word::LEAF_7_1_EAX, 2);
    /// `avx-vnni`: CPUID 7.1.EAX[4].
    pub const AVX_VNNI: Self = Self::new(word::LEAF_7_1_EAX, 4);
    /// `avx512-bf16`: CPUID 7.1.EAX[5].
    pub const AVX512_BF16: Self = Self::new(word::LEAF_7_1_EAX, 5);
    /// `cmpccxadd`: CPUID 7.1.EAX[7].
    pub const CMPCCXADD: Self = Self::new(word::LEAF_7_1_EAX, 7);
    /// `fzrm`: CPUID 7.1.EAX[10].
    pub const FZRM: Self = Self::new(word::LEAF_7_1_EAX, 10);
    /// `fsrs`: CPUID 7.1.EAX[11].
    pub const FSRS: Self = Self::new(word::LEAF_7_1_EAX, 11);
    /// `fsrc`: CPUID 7.1.EAX[12].
    pub const FSRC: Self = Self::new(word::LEAF_7_1_EAX, 12);
    /// `fred`: CPUID 7.1.EAX[17].
    pub const FRED: Self = Self::new(word::LEAF_7_1_EAX, 17);
    /// `lkgs`: CPUID 7.1.EAX[18].
    pub const LKGS: Self = Self::new(word::LEAF_7_1_EAX, 18);
    /// `wrmsrns`: CPUID 7.1.EAX[19].
    pub const WRMSRNS: Self = Self::new(word::LEAF_7_1_EAX, 19);
    /// `amx-fp16`: CPUID 7.1.EAX[21].
    pub const AMX_FP16: Self = Self::new(word::LEAF_7_1_EAX, 21);
    /// `avx-ifma`: CPUID 7.1.EAX[23].
    pub const AVX_IFMA: Self = Self::new(word::LEAF_7_1_EAX, 23);
    /// `lam`: CPUID 7.1.EAX[26].
    pub const LAM: Self = Self::new(word::LEAF_7_1_EAX, 26);
    /// `xsaveopt`: CPUID 0D.1.EAX[0].
    pub const XSAVEOPT: Self = Self::new(word::LEAF_D_1_EAX, 0);
    /// `xsavec`: CPUID 0D.1.EAX[1].
    pub const XSAVEC: Self = Self::new(word::LEAF_D_1_EAX, 1);
    /// `xgetbv1`: CPUID 0D.1.EAX[2].
    pub const XGETBV1: Self = Self::new(word::LEAF_D_1_EAX, 2);
    /// `xsaves`: CPUID 0D.1.EAX[3].
    pub const XSAVES: Self = Self::new(word::LEAF_D_1_EAX, 3);
    /// `xfd`: CPUID 0D.1.EAX[4].
    pub const XFD: Self = Self::new(word::LEAF_D_1_EAX, 4);
    /// `arat`: CPUID 6.EAX[2].
    pub const ARAT: Self = Self::new(word::LEAF_6_EAX, 2);
    /// `syscall`: CPUID 80000001.EDX[11].
    pub const SYSCALL: Self = Self::new(word::LEAF_80000001_EDX, 11);
    /// `mp`: CPUID 80000001.EDX[19].
    pub const MP: Self = Self::new(word::LEAF_80000001_EDX, 19);
    /// `nx`: CPUID 80000001.EDX[20].
    pub const NX: Self = Self::new(word::LEAF_80000001_EDX, 20);
    /// `mmxext`: CPUID 80000001.EDX[22].
    pub const MMXEXT: Self = Self::new(word::LEAF_80000001_EDX, 22);
    /// `fxsr-opt`: CPUID 80000001.EDX[25].
    pub const FXSR_OPT: Self = Self::new(word::LEAF_80000001_EDX, 25);
    /// `pdpe1gb`: CPUID 80000001.EDX[26].
    pub const PDPE1GB: Self = Self::new(word::LEAF_80000001_EDX, 26);
    /// `rdtscp`: CPUID 80000001.EDX[27].
    pub const RDTSCP: Self = Self::new(word::LEAF_80000001_EDX, 27);
    /// `lm`: CPUID 80000001.EDX[29].
    pub const LM: Self = Self::new(word::LEAF_80000001_EDX, 29);
    /// `3dnowext`: CPUID 80000001.EDX[30].
    pub const AMD_3DNOWEXT: Self = Self::new(word::LEAF_80000001_EDX, 30);
    /// `3dnow`: CPUID 80000001.EDX[31].
    pub const AMD_3DNOW: Self = Self::new(word::LEAF_80000001_EDX, 31);
    /// `lahf-lm`: CPUID 80000001.ECX[0].
    pub const LAHF_LM: Self = Self::new(word::LEAF_80000001_ECX, 0);
    /// `cmp-legacy`: CPUID 80000001.ECX[1].
    pub const CMP_LEGACY: Self = Self::new(word::LEAF_80000001_ECX, 1);
    /// `svm`: CPUID 80000001.ECX[2].
    pub const SVM: Self = Self::new(word::LEAF_80000001_ECX, 2);
    /// `extapic`: CPUID 80000001.ECX[3].
    pub const EXTAPIC: Self = Self::new(word::LEAF_80000001_ECX, 3);
    /// `cr8legacy`: CPUID 80000001.ECX[4].
    pub const CR8LEGACY: Self = Self::new(word::LEAF_80000001_ECX, 4);
    /// `abm`: CPUID 80000001.ECX[5].
    pub const ABM: Self = Self::new(word::LEAF_80000001_ECX, 5);
    /// `sse4a`: CPUID 80000001.ECX[6].
    pub const SSE4A: Self = Self::new(word::LEAF_80000001_ECX, 6);
    /// `misalignsse`: CPUID 80000001.ECX[7].
    pub const MISALIGNSSE: Self = Self::new(word::LEAF_80000001_ECX, 7);
    /// `3dnowprefetch`: CPUID 80000001.ECX[8].
    pub const PREFETCHW: Self = Self::new(word::LEAF_80000001_ECX, 8);
    /// `osvw`: CPUID 80000001.ECX[9].
    pub const OSVW: Self = Self::new(word::LEAF_80000001_ECX, 9);
    /// `ibs`: CPUID 80000001.ECX[10].
    pub const IBS: Self = Self::new(word::LEAF_80000001_ECX, 10);
    /// `xop`: CPUID 80000001.ECX[11].
    pub const XOP: Self = Self::new(word::LEAF_80000001_ECX, 11);
    /// `skinit`: CPUID 80000001.ECX[12].
    pub const SKINIT: Self = Self::new(word::LEAF_80000001_ECX, 12);
    /// `wdt`: CPUID 80000001.ECX[13].
    pub const WDT: Self = Self::new(word::LEAF_80000001_ECX, 13);
    /// `lwp`: CPUID 80000001.ECX[15].
    pub const LWP: Self = Self::new(word::LEAF_80000001_ECX, 15);
    /// `fma4`: CPUID 80000001.ECX[16].
    pub const FMA4: Self = Self::new(word::LEAF_80000001_ECX, 16);
    /// `tce`: CPUID 80000001.ECX[17].
    pub const TCE: Self = Self::new(word::LEAF_80000001_ECX, 17);
    /// `nodeid-msr`: CPUID 80000001.ECX[19].
    pub const NODEID_MSR: Self = Self::new(word::LEAF_80000001_ECX, 19);
    /// `tbm`: CPUID 80000001.ECX[21].
    pub const TBM: Self = Self::new(word::LEAF_80000001_ECX, 21);
    /// `topoext`: CPUID 80000001.ECX[22].
    pub const TOPOEXT: Self = Self::new(word::LEAF_80000001_ECX, 22);
    /// `perfctr-core`: CPUID 80000001.ECX[23].
    pub const PERFCTR_CORE: Self = Self::new(word::LEAF_80000001_ECX, 23);
    /// `perfctr-nb`: CPUID 80000001.ECX[24].
    pub const PERFCTR_NB: Self = Self::new(word::LEAF_80000001_ECX, 24);
    /// `invtsc`: CPUID 80000007.EDX[8].
    pub const INVTSC: Self = Self::new(word::LEAF_80000007_EDX, 8);
    /// `clzero`: CPUID 80000008.EBX[0].
    pub const CLZERO: Self = Self::new(word::LEAF_80000008_EBX, 0);
    /// `xsaveerptr`: CPUID 80000008.EBX[2].
    pub const XSAVEERPTR: Self = Self::new(word::LEAF_80000008_EBX, 2);
    /// `wbnoinvd`: CPUID 80000008.EBX[9].
    pub const WBNOINVD: Self = Self::new(word::LEAF_80000008_EBX, 9);
    /// `ibpb`: CPUID 80000008.EBX[12].
    pub const IBPB: Self = Self::new(word::LEAF_80000008_EBX, 12);
    /// `ibrs`: CPUID 80000008.EBX[14].
    pub const IBRS: Self = Self::new(word::LEAF_80000008_EBX, 14);
    /// `amd-stibp`: CPUID 80000008.EBX[15].
    pub const AMD_STIBP: Self = Self::new(word::LEAF_80000008_EBX, 15);
    /// `amd-ssbd`: CPUID 80000008.EBX[24].
    pub const AMD_SSBD: Self = Self::new(word::LEAF_80000008_EBX, 24);
    /// `virt-ssbd`: CPUID 80000008.EBX[25].
    pub const VIRT_SSBD: Self = Self::new(word::LEAF_80000008_EBX, 25);
    /// `amd-no-ssb`: CPUID 80000008.EBX[26].
    pub const AMD_NO_SSB: Self = Self::new(word::LEAF_80000008_EBX, 26);
}

const fn entry(
    feature: Feature,
    name: &'static str,
    aliases: &'static [&'static str],
    implemented: bool,
) -> FeatureName {
    FeatureName { feature, name, aliases, implemented }
}

/// Every feature that has a name, in CPUID order.
pub const NAMES: &[FeatureName] = &[
    entry(Feature::FPU, "fpu", &[], true),
    entry(Feature::VME, "vme", &[], true),
    entry(Feature::DE, "de", &[], true),
    entry(Feature::PSE, "pse", &[], true),
    entry(Feature::TSC, "tsc", &[], true),
    entry(Feature::MSR, "msr", &[], true),
    entry(Feature::PAE, "pae", &[], true),
    entry(Feature::MCE, "mce", &[], true),
    entry(Feature::CX8, "cx8", &[], true),
    entry(Feature::APIC, "apic", &[], true),
    entry(Feature::SEP, "sep", &[], true),
    entry(Feature::MTRR, "mtrr", &[], true),
    entry(Feature::PGE, "pge", &[], true),
    entry(Feature::MCA, "mca", &[], true),
    entry(Feature::CMOV, "cmov", &[], true),
    entry(Feature::PAT, "pat", &[], true),
    entry(Feature::PSE36, "pse36", &[], true),
    entry(Feature::PN, "pn", &[], false),
    entry(Feature::CLFLUSH, "clflush", &[], true),
    entry(Feature::DS, "ds", &[], false),
    entry(Feature::ACPI, "acpi", &[], false),
    entry(Feature::MMX, "mmx", &[], true),
    entry(Feature::FXSR, "fxsr", &[], true),
    entry(Feature::SSE, "sse", &[], true),
    entry(Feature::SSE2, "sse2", &[], true),
    entry(Feature::SS, "ss", &[], true),
    entry(Feature::HT, "ht", &[], true),
    entry(Feature::TM, "tm", &[], false),
    entry(Feature::IA64, "ia64", &[], false),
    entry(Feature::PBE, "pbe", &[], false),
    entry(Feature::SSE3, "pni", &["sse3"], true),
    entry(Feature::PCLMULQDQ, "pclmulqdq", &["pclmuldq"], true),
    entry(Feature::DTES64, "dtes64", &[], false),
    entry(Feature::MONITOR, "monitor", &[], true),
    entry(Feature::DS_CPL, "ds-cpl", &["ds_cpl"], false),
    entry(Feature::VMX, "vmx", &[], false),
    entry(Feature::SMX, "smx", &[], false),
    entry(Feature::EST, "est", &[], false),
    entry(Feature::TM2, "tm2", &[], false),
    entry(Feature::SSSE3, "ssse3", &[], true),
    entry(Feature::CID, "cid", &[], false),
    entry(Feature::FMA, "fma", &[], true),
    entry(Feature::CX16, "cx16", &[], true),
    entry(Feature::XTPR, "xtpr", &[], false),
    entry(Feature::PDCM, "pdcm", &[], false),
    entry(Feature::PCID, "pcid", &[], true),
    entry(Feature::DCA, "dca", &[], false),
    entry(Feature::SSE4_1, "sse4.1", &["sse4-1", "sse4_1"], true),
    entry(Feature::SSE4_2, "sse4.2", &["sse4-2", "sse4_2"], true),
    entry(Feature::X2APIC, "x2apic", &[], true),
    entry(Feature::MOVBE, "movbe", &[], true),
    entry(Feature::POPCNT, "popcnt", &[], true),
    entry(Feature::TSC_DEADLINE, "tsc-deadline", &["tsc_deadline"], true),
    entry(Feature::AES, "aes", &[], true),
    entry(Feature::XSAVE, "xsave", &[], true),
    entry(Feature::AVX, "avx", &[], true),
    entry(Feature::F16C, "f16c", &[], true),
    entry(Feature::RDRAND, "rdrand", &[], true),
    entry(Feature::HYPERVISOR, "hypervisor", &[], true),
    entry(Feature::FSGSBASE, "fsgsbase", &[], true),
    entry(Feature::TSC_ADJUST, "tsc-adjust", &["tsc_adjust"], true),
    entry(Feature::SGX, "sgx", &[], false),
    entry(Feature::BMI1, "bmi1", &[], true),
    entry(Feature::HLE, "hle", &[], false),
    entry(Feature::AVX2, "avx2", &[], true),
    entry(Feature::SMEP, "smep", &[], true),
    entry(Feature::BMI2, "bmi2", &[], true),
    entry(Feature::ERMS, "erms", &[], true),
    entry(Feature::INVPCID, "invpcid", &[], true),
    entry(Feature::RTM, "rtm", &[], false),
    entry(Feature::MPX, "mpx", &[], false),
    entry(Feature::AVX512F, "avx512f", &[], false),
    entry(Feature::AVX512DQ, "avx512dq", &[], false),
    entry(Feature::RDSEED, "rdseed", &[], true),
    entry(Feature::ADX, "adx", &[], true),
    entry(Feature::SMAP, "smap", &[], true),
    entry(Feature::AVX512IFMA, "avx512ifma", &[], false),
    entry(Feature::CLFLUSHOPT, "clflushopt", &[], true),
    entry(Feature::CLWB, "clwb", &[], false),
    entry(Feature::INTEL_PT, "intel-pt", &[], false),
    entry(Feature::AVX512PF, "avx512pf", &[], false),
    entry(Feature::AVX512ER, "avx512er", &[], false),
    entry(Feature::AVX512CD, "avx512cd", &[], false),
    entry(Feature::SHA, "sha-ni", &[], true),
    entry(Feature::AVX512BW, "avx512bw", &[], false),
    entry(Feature::AVX512VL, "avx512vl", &[], false),
    entry(Feature::AVX512VBMI, "avx512vbmi", &[], false),
    entry(Feature::UMIP, "umip", &[], true),
    entry(Feature::PKU, "pku", &[], false),
    entry(Feature::WAITPKG, "waitpkg", &[], false),
    entry(Feature::AVX512VBMI2, "avx512vbmi2", &[], false),
    entry(Feature::GFNI, "gfni", &[], false),
    entry(Feature::VAES, "vaes", &[], false),
    entry(Feature::VPCLMULQDQ, "vpclmulqdq", &[], false),
    entry(Feature::AVX512VNNI, "avx512vnni", &[], false),
    entry(Feature::AVX512BITALG, "avx512bitalg", &[], false),
    entry(Feature::AVX512_VPOPCNTDQ, "avx512-vpopcntdq", &[], false),
    entry(Feature::LA57, "la57", &[], false),
    entry(Feature::RDPID, "rdpid", &[], true),
    entry(Feature::BUS_LOCK_DETECT, "bus-lock-detect", &[], false),
    entry(Feature::CLDEMOTE, "cldemote", &[], false),
    entry(Feature::MOVDIRI, "movdiri", &[], false),
    entry(Feature::MOVDIR64B, "movdir64b", &[], false),
    entry(Feature::SGXLC, "sgxlc", &[], false),
    entry(Feature::PKS, "pks", &[], false),
    entry(Feature::AVX512_4VNNIW, "avx512-4vnniw", &[], false),
    entry(Feature::AVX512_4FMAPS, "avx512-4fmaps", &[], false),
    entry(Feature::FSRM, "fsrm", &[], false),
    entry(Feature::AVX512_VP2INTERSECT, "avx512-vp2intersect", &[], false),
    entry(Feature::MD_CLEAR, "md-clear", &[], false),
    entry(Feature::SERIALIZE, "serialize", &[], false),
    entry(Feature::TSX_LDTRK, "tsx-ldtrk", &[], false),
    entry(Feature::ARCH_LBR, "arch-lbr", &[], false),
    entry(Feature::AMX_BF16, "amx-bf16", &[], false),
    entry(Feature::AVX512_FP16, "avx512-fp16", &[], false),
    entry(Feature::AMX_TILE, "amx-tile", &[], false),
    entry(Feature::AMX_INT8, "amx-int8", &[], false),
    entry(Feature::SPEC_CTRL, "spec-ctrl", &[], false),
    entry(Feature::STIBP, "stibp", &[], false),
    entry(Feature::FLUSH_L1D, "flush-l1d", &[], false),
    entry(Feature::ARCH_CAPABILITIES, "arch-capabilities", &[], false),
    entry(Feature::CORE_CAPABILITY, "core-capability", &[], false),
    entry(Feature::SSBD, "ssbd", &[], false),
    entry(Feature::SHA512, "sha512", &[], false),
    entry(Feature::SM3, "sm3", &[], false),
    entry(Feature::SM4, "sm4", &[], false),
    entry(Feature::AVX_VNNI, "avx-vnni", &[], false),
    entry(Feature::AVX512_BF16, "avx512-bf16", &[], false),
    entry(Feature::CMPCCXADD, "cmpccxadd", &[], false),
    entry(Feature::FZRM, "fzrm", &[], false),
    entry(Feature::FSRS, "fsrs", &[], false),
    entry(Feature::FSRC, "fsrc", &[], false),
    entry(Feature::FRED, "fred", &[], false),
    entry(Feature::LKGS, "lkgs", &[], false),
    entry(Feature::WRMSRNS, "wrmsrns", &[], false),
    entry(Feature::AMX_FP16, "amx-fp16", &[], false),
    entry(Feature::AVX_IFMA, "avx-ifma", &[], false),
    entry(Feature::LAM, "lam", &[], false),
    entry(Feature::XSAVEOPT, "xsaveopt", &[], true),
    entry(Feature::XSAVEC, "xsavec", &[], true),
    entry(Feature::XGETBV1, "xgetbv1", &[], true),
    entry(Feature::XSAVES, "xsaves", &[], false),
    entry(Feature::XFD, "xfd", &[], false),
    entry(Feature::ARAT, "arat", &[], true),
    entry(Feature::SYSCALL, "syscall", &[], true),
    entry(Feature::MP, "mp", &[], false),
    entry(Feature::NX, "nx", &["xd"], true),
    entry(Feature::MMXEXT, "mmxext", &[], true),
    entry(Feature::FXSR_OPT, "fxsr-opt", &["fxsr_opt", "ffxsr"], false),
    entry(Feature::PDPE1GB, "pdpe1gb", &[], true),
    entry(Feature::RDTSCP, "rdtscp", &[], true),
    entry(Feature::LM, "lm", &["i64"], true),
    entry(Feature::AMD_3DNOWEXT, "3dnowext", &[], false),
    entry(Feature::AMD_3DNOW, "3dnow", &[], false),
    entry(Feature::LAHF_LM, "lahf-lm", &["lahf_lm"], true),
    entry(Feature::CMP_LEGACY, "cmp-legacy", &["cmp_legacy"], true),
    entry(Feature::SVM, "svm", &[], false),
    entry(Feature::EXTAPIC, "extapic", &[], false),
    entry(Feature::CR8LEGACY, "cr8legacy", &[], false),
    entry(Feature::ABM, "abm", &[], true),
    entry(Feature::SSE4A, "sse4a", &[], false),
    entry(Feature::MISALIGNSSE, "misalignsse", &[], true),
    entry(Feature::PREFETCHW, "3dnowprefetch", &[], true),
    entry(Feature::OSVW, "osvw", &[], false),
    entry(Feature::IBS, "ibs", &[], false),
    entry(Feature::XOP, "xop", &[], false),
    entry(Feature::SKINIT, "skinit", &[], false),
    entry(Feature::WDT, "wdt", &[], false),
    entry(Feature::LWP, "lwp", &[], false),
    entry(Feature::FMA4, "fma4", &[], false),
    entry(Feature::TCE, "tce", &[], false),
    entry(Feature::NODEID_MSR, "nodeid-msr", &["nodeid_msr"], false),
    entry(Feature::TBM, "tbm", &[], false),
    entry(Feature::TOPOEXT, "topoext", &[], false),
    entry(Feature::PERFCTR_CORE, "perfctr-core", &["perfctr_core"], false),
    entry(Feature::PERFCTR_NB, "perfctr-nb", &["perfctr_nb"], false),
    entry(Feature::INVTSC, "invtsc", &[], true),
    entry(Feature::CLZERO, "clzero", &[], false),
    entry(Feature::XSAVEERPTR, "xsaveerptr", &[], false),
    entry(Feature::WBNOINVD, "wbnoinvd", &[], false),
    entry(Feature::IBPB, "ibpb", &[], false),
    entry(Feature::IBRS, "ibrs", &[], false),
    entry(Feature::AMD_STIBP, "amd-stibp", &[], false),
    entry(Feature::AMD_SSBD, "amd-ssbd", &[], false),
    entry(Feature::VIRT_SSBD, "virt-ssbd", &[], false),
    entry(Feature::AMD_NO_SSB, "amd-no-ssb", &[], false),
];
