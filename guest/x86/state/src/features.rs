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

macro_rules! implemented {
    (yes) => {
        true
    };
    (no) => {
        false
    };
}

/// Defines a constant for each feature, and the table of names. A line is: bit, constant, name, "yes" if implemented,
/// other spellings.
macro_rules! features {
    ($($word:ident { $($bit:literal $constant:ident $name:literal $implemented:ident [$($alias:literal)*];)* })*) => {
        impl Feature {
            $($(
                #[doc = concat!("The feature `", $name, "`.")]
                pub const $constant: Self = Self::new(word::$word, $bit);
            )*)*
        }

        /// Every feature that has a name, in CPUID order.
        pub const NAMES: &[FeatureName] = &[$($(
            FeatureName {
                feature: Feature::$constant,
                name: $name,
                aliases: &[$($alias),*],
                implemented: implemented!($implemented),
            },
        )*)*];
    };
}

features! {
    LEAF_1_EDX {
        0 FPU "fpu" yes [];
        1 VME "vme" yes [];
        2 DE "de" yes [];
        3 PSE "pse" yes [];
        4 TSC "tsc" yes [];
        5 MSR "msr" yes [];
        6 PAE "pae" yes [];
        7 MCE "mce" yes [];
        8 CX8 "cx8" yes [];
        9 APIC "apic" yes [];
        11 SEP "sep" yes [];
        12 MTRR "mtrr" yes [];
        13 PGE "pge" yes [];
        14 MCA "mca" yes [];
        15 CMOV "cmov" yes [];
        16 PAT "pat" yes [];
        17 PSE36 "pse36" yes [];
        18 PN "pn" no [];
        19 CLFLUSH "clflush" yes [];
        21 DS "ds" no [];
        22 ACPI "acpi" no [];
        23 MMX "mmx" yes [];
        24 FXSR "fxsr" yes [];
        25 SSE "sse" yes [];
        26 SSE2 "sse2" yes [];
        27 SS "ss" yes [];
        28 HT "ht" yes [];
        29 TM "tm" no [];
        30 IA64 "ia64" no [];
        31 PBE "pbe" no [];
    }
    LEAF_1_ECX {
        0 SSE3 "pni" yes ["sse3"];
        1 PCLMULQDQ "pclmulqdq" yes ["pclmuldq"];
        2 DTES64 "dtes64" no [];
        3 MONITOR "monitor" yes [];
        4 DS_CPL "ds-cpl" no ["ds_cpl"];
        5 VMX "vmx" no [];
        6 SMX "smx" no [];
        7 EST "est" no [];
        8 TM2 "tm2" no [];
        9 SSSE3 "ssse3" yes [];
        10 CID "cid" no [];
        12 FMA "fma" yes [];
        13 CX16 "cx16" yes [];
        14 XTPR "xtpr" no [];
        15 PDCM "pdcm" no [];
        17 PCID "pcid" yes [];
        18 DCA "dca" no [];
        19 SSE4_1 "sse4.1" yes ["sse4-1" "sse4_1"];
        20 SSE4_2 "sse4.2" yes ["sse4-2" "sse4_2"];
        21 X2APIC "x2apic" yes [];
        22 MOVBE "movbe" yes [];
        23 POPCNT "popcnt" yes [];
        24 TSC_DEADLINE "tsc-deadline" yes ["tsc_deadline"];
        25 AES "aes" yes [];
        26 XSAVE "xsave" yes [];
        28 AVX "avx" yes [];
        29 F16C "f16c" yes [];
        30 RDRAND "rdrand" yes [];
        31 HYPERVISOR "hypervisor" yes [];
    }
    LEAF_7_EBX {
        0 FSGSBASE "fsgsbase" yes [];
        1 TSC_ADJUST "tsc-adjust" yes ["tsc_adjust"];
        2 SGX "sgx" no [];
        3 BMI1 "bmi1" yes [];
        4 HLE "hle" no [];
        5 AVX2 "avx2" yes [];
        7 SMEP "smep" yes [];
        8 BMI2 "bmi2" yes [];
        9 ERMS "erms" yes [];
        10 INVPCID "invpcid" yes [];
        11 RTM "rtm" no [];
        14 MPX "mpx" no [];
        16 AVX512F "avx512f" no [];
        17 AVX512DQ "avx512dq" no [];
        18 RDSEED "rdseed" yes [];
        19 ADX "adx" yes [];
        20 SMAP "smap" yes [];
        21 AVX512IFMA "avx512ifma" no [];
        23 CLFLUSHOPT "clflushopt" yes [];
        24 CLWB "clwb" no [];
        25 INTEL_PT "intel-pt" no [];
        26 AVX512PF "avx512pf" no [];
        27 AVX512ER "avx512er" no [];
        28 AVX512CD "avx512cd" no [];
        29 SHA "sha-ni" yes [];
        30 AVX512BW "avx512bw" no [];
        31 AVX512VL "avx512vl" no [];
    }
    LEAF_7_ECX {
        1 AVX512VBMI "avx512vbmi" no [];
        2 UMIP "umip" yes [];
        3 PKU "pku" no [];
        5 WAITPKG "waitpkg" no [];
        6 AVX512VBMI2 "avx512vbmi2" no [];
        8 GFNI "gfni" no [];
        9 VAES "vaes" no [];
        10 VPCLMULQDQ "vpclmulqdq" no [];
        11 AVX512VNNI "avx512vnni" no [];
        12 AVX512BITALG "avx512bitalg" no [];
        14 AVX512_VPOPCNTDQ "avx512-vpopcntdq" no [];
        16 LA57 "la57" no [];
        22 RDPID "rdpid" yes [];
        24 BUS_LOCK_DETECT "bus-lock-detect" no [];
        25 CLDEMOTE "cldemote" no [];
        27 MOVDIRI "movdiri" no [];
        28 MOVDIR64B "movdir64b" no [];
        30 SGXLC "sgxlc" no [];
        31 PKS "pks" no [];
    }
    LEAF_7_EDX {
        2 AVX512_4VNNIW "avx512-4vnniw" no [];
        3 AVX512_4FMAPS "avx512-4fmaps" no [];
        4 FSRM "fsrm" no [];
        8 AVX512_VP2INTERSECT "avx512-vp2intersect" no [];
        10 MD_CLEAR "md-clear" no [];
        14 SERIALIZE "serialize" no [];
        16 TSX_LDTRK "tsx-ldtrk" no [];
        19 ARCH_LBR "arch-lbr" no [];
        22 AMX_BF16 "amx-bf16" no [];
        23 AVX512_FP16 "avx512-fp16" no [];
        24 AMX_TILE "amx-tile" no [];
        25 AMX_INT8 "amx-int8" no [];
        26 SPEC_CTRL "spec-ctrl" no [];
        27 STIBP "stibp" no [];
        28 FLUSH_L1D "flush-l1d" no [];
        29 ARCH_CAPABILITIES "arch-capabilities" no [];
        30 CORE_CAPABILITY "core-capability" no [];
        31 SSBD "ssbd" no [];
    }
    LEAF_7_1_EAX {
        0 SHA512 "sha512" no [];
        1 SM3 "sm3" no [];
        2 SM4 "sm4" no [];
        4 AVX_VNNI "avx-vnni" no [];
        5 AVX512_BF16 "avx512-bf16" no [];
        7 CMPCCXADD "cmpccxadd" no [];
        10 FZRM "fzrm" no [];
        11 FSRS "fsrs" no [];
        12 FSRC "fsrc" no [];
        17 FRED "fred" no [];
        18 LKGS "lkgs" no [];
        19 WRMSRNS "wrmsrns" no [];
        21 AMX_FP16 "amx-fp16" no [];
        23 AVX_IFMA "avx-ifma" no [];
        26 LAM "lam" no [];
    }
    LEAF_D_1_EAX {
        0 XSAVEOPT "xsaveopt" yes [];
        1 XSAVEC "xsavec" yes [];
        2 XGETBV1 "xgetbv1" yes [];
        3 XSAVES "xsaves" no [];
        4 XFD "xfd" no [];
    }
    LEAF_6_EAX {
        2 ARAT "arat" yes [];
    }
    LEAF_80000001_EDX {
        11 SYSCALL "syscall" yes [];
        19 MP "mp" no [];
        20 NX "nx" yes ["xd"];
        22 MMXEXT "mmxext" yes [];
        25 FXSR_OPT "fxsr-opt" no ["fxsr_opt" "ffxsr"];
        26 PDPE1GB "pdpe1gb" yes [];
        27 RDTSCP "rdtscp" yes [];
        29 LM "lm" yes ["i64"];
        30 AMD_3DNOWEXT "3dnowext" no [];
        31 AMD_3DNOW "3dnow" no [];
    }
    LEAF_80000001_ECX {
        0 LAHF_LM "lahf-lm" yes ["lahf_lm"];
        1 CMP_LEGACY "cmp-legacy" yes ["cmp_legacy"];
        2 SVM "svm" no [];
        3 EXTAPIC "extapic" no [];
        4 CR8LEGACY "cr8legacy" no [];
        5 ABM "abm" yes [];
        6 SSE4A "sse4a" no [];
        7 MISALIGNSSE "misalignsse" yes [];
        8 PREFETCHW "3dnowprefetch" yes [];
        9 OSVW "osvw" no [];
        10 IBS "ibs" no [];
        11 XOP "xop" no [];
        12 SKINIT "skinit" no [];
        13 WDT "wdt" no [];
        15 LWP "lwp" no [];
        16 FMA4 "fma4" no [];
        17 TCE "tce" no [];
        19 NODEID_MSR "nodeid-msr" no ["nodeid_msr"];
        21 TBM "tbm" no [];
        22 TOPOEXT "topoext" no [];
        23 PERFCTR_CORE "perfctr-core" no ["perfctr_core"];
        24 PERFCTR_NB "perfctr-nb" no ["perfctr_nb"];
    }
    LEAF_80000007_EDX {
        8 INVTSC "invtsc" yes [];
    }
    LEAF_80000008_EBX {
        0 CLZERO "clzero" no [];
        2 XSAVEERPTR "xsaveerptr" no [];
        9 WBNOINVD "wbnoinvd" no [];
        12 IBPB "ibpb" no [];
        14 IBRS "ibrs" no [];
        15 AMD_STIBP "amd-stibp" no [];
        24 AMD_SSBD "amd-ssbd" no [];
        25 VIRT_SSBD "virt-ssbd" no [];
        26 AMD_NO_SSB "amd-no-ssb" no [];
    }
}
