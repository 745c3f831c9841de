//! CPUID (SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).

use crate::X86State;
use crate::control::cr4;
use crate::features::{Feature, word};
use crate::model::{CpuModel, Vendor};
use crate::state::{attr, seg};

/// EAX, EBX, ECX, EDX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the architecture's own")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What CPUID leaf 40000000h returns in EBX, ECX, EDX.
pub const HYPERVISOR_ID: &[u8; 12] = b"RheaRheaRhea";

/// Leaf 1 EDX bits that AMD repeats in 80000001h EDX.
const AMD_ALIASES: u32 = 0x0183_f3ff;
/// XSAVE: legacy area and header.
const XSAVE_BASE: u32 = 512 + 64;
/// XSAVE: the AVX component.
const XSAVE_AVX: u32 = 256;
const OSXSAVE: u32 = 1 << 27;
const LINE: u32 = 64;

/// A cache level for leaves 4 and 8000000xh: all have lines of 64 bytes.
struct Cache {
    /// 1 data, 2 instruction, 3 unified.
    kind: u32,
    level: u32,
    ways: u32,
    sets: u32,
}

const L1D: Cache = Cache { kind: 1, level: 1, ways: 8, sets: 64 };
const L1I: Cache = Cache { kind: 2, level: 1, ways: 8, sets: 64 };
const L2: Cache = Cache { kind: 3, level: 2, ways: 16, sets: 1024 };
const L3: Cache = Cache { kind: 3, level: 3, ways: 16, sets: 16384 };

impl Cache {
    const fn kib(&self) -> u32 {
        self.ways * self.sets * LINE / 1024
    }
}

/// AMD's encoding of associativity in 80000006h.
const fn amd_ways(ways: u32) -> u32 {
    match ways {
        8 => 6,
        16 => 8,
        _ => 0xf,
    }
}

/// Three registers' worth of text.
fn words(text: &[u8; 12]) -> [u32; 3] {
    let word = |i: usize| u32::from_le_bytes([text[i], text[i + 1], text[i + 2], text[i + 3]]);
    [word(0), word(4), word(8)]
}

impl CpuModel {
    /// Executes CPUID. `apic_id` is the processor's initial APIC ID, `apic_enabled` is IA32_APIC_BASE[11].
    pub fn cpuid(
        &self,
        st: &X86State,
        leaf: u32,
        subleaf: u32,
        apic_id: u32,
        apic_enabled: bool,
    ) -> CpuidResult {
        let (level, xlevel) = (self.basic_level(), self.extended_level());
        let hypervisor = self.features.has(Feature::HYPERVISOR);
        match leaf {
            0x4000_0000 if hypervisor => {
                let [ebx, ecx, edx] = words(HYPERVISOR_ID);
                return CpuidResult { eax: 0x4000_0001, ebx, ecx, edx };
            }
            0x4000_0001 if hypervisor => return CpuidResult::default(),
            _ => {}
        }
        if leaf >> 31 != 0 && leaf <= xlevel {
            return self.extended(st, leaf);
        }
        if leaf <= level {
            return self.basic(st, leaf, subleaf, apic_id, apic_enabled);
        }
        // Beyond the end, Intel repeats the highest basic leaf; AMD gives zeros.
        match self.vendor {
            Vendor::Intel => self.basic(st, level, subleaf, apic_id, apic_enabled),
            Vendor::Amd => CpuidResult::default(),
        }
    }

    /// Highest basic leaf: the model's, or what its features need.
    fn basic_level(&self) -> u32 {
        let f = &self.features;
        let needs = |leaf: u32, needed: bool| if needed { leaf } else { 0 };
        let leaf7 = f.word(word::LEAF_7_EBX) | f.word(word::LEAF_7_ECX) | f.word(word::LEAF_7_EDX);
        self.level
            .max(needs(0xd, f.has(Feature::XSAVE)))
            .max(needs(0xb, f.has(Feature::X2APIC)))
            .max(needs(7, leaf7 != 0))
            .max(needs(6, f.word(word::LEAF_6_EAX) != 0))
            .max(needs(5, f.has(Feature::MONITOR)))
    }

    /// Highest extended leaf; 0 if there is none.
    fn extended_level(&self) -> u32 {
        let f = &self.features;
        let needs = |leaf: u32, needed: bool| if needed { leaf } else { 0 };
        let leaf1 = f.word(word::LEAF_80000001_EDX) | f.word(word::LEAF_80000001_ECX);
        self.xlevel
            .max(needs(0x8000_0001, leaf1 != 0))
            .max(needs(0x8000_0007, f.word(word::LEAF_80000007_EDX) != 0))
            .max(needs(0x8000_0008, f.has(Feature::LM)))
    }

    fn basic(&self, st: &X86State, leaf: u32, subleaf: u32, apic_id: u32, apic_enabled: bool) -> CpuidResult {
        let f = &self.features;
        match leaf {
            0 => {
                let [ebx, edx, ecx] = words(self.vendor.id());
                CpuidResult { eax: self.basic_level(), ebx, ecx, edx }
            }
            1 => self.leaf_1(st, apic_id, apic_enabled),
            // Intel: one descriptor, which refers to leaf 4.
            2 if self.vendor == Vendor::Intel => CpuidResult { eax: 0xff01, ..Default::default() },
            4 if self.vendor == Vendor::Intel => self.leaf_4(subleaf),
            5 if f.has(Feature::MONITOR) => CpuidResult { eax: LINE, ebx: LINE, ecx: 3, edx: 0 },
            6 => CpuidResult { eax: f.word(word::LEAF_6_EAX), ..Default::default() },
            7 if subleaf == 0 => CpuidResult {
                eax: 0,
                ebx: f.word(word::LEAF_7_EBX),
                ecx: f.word(word::LEAF_7_ECX),
                edx: f.word(word::LEAF_7_EDX),
            },
            0xb => self.leaf_b(subleaf, apic_id),
            0xd if f.has(Feature::XSAVE) => self.leaf_d(st, subleaf),
            _ => CpuidResult::default(),
        }
    }

    fn leaf_1(&self, st: &X86State, apic_id: u32, apic_enabled: bool) -> CpuidResult {
        let mut ecx = self.features.word(word::LEAF_1_ECX);
        let mut edx = self.features.word(word::LEAF_1_EDX);
        if st.cr[4] & cr4::OSXSAVE != 0 {
            ecx |= OSXSAVE;
        }
        if !apic_enabled {
            edx &= !Feature::APIC.mask();
        }
        let threads = self.topology.threads_per_package();
        let mut ebx = (apic_id & 0xff) << 24;
        if self.features.has(Feature::CLFLUSH) {
            ebx |= (LINE / 8) << 8;
        }
        if threads > 1 {
            ebx |= threads.min(255) << 16;
            edx |= Feature::HT.mask();
        }
        CpuidResult { eax: self.signature(), ebx, ecx, edx }
    }

    fn leaf_4(&self, subleaf: u32) -> CpuidResult {
        let t = &self.topology;
        let (cache, sharing_shift) = match subleaf {
            0 => (L1D, t.core_shift()),
            1 => (L1I, t.core_shift()),
            2 => (L2, t.core_shift()),
            3 => (L3, t.die_shift()),
            _ => return CpuidResult::default(),
        };
        let sharing = ((1u32 << sharing_shift) - 1).min(0xfff);
        let cores = ((1u32 << (t.package_shift() - t.core_shift())) - 1).min(0x3f);
        CpuidResult {
            // Bit 8: self-initializing.
            eax: cores << 26 | sharing << 14 | 1 << 8 | cache.level << 5 | cache.kind,
            ebx: (cache.ways - 1) << 22 | (LINE - 1),
            ecx: cache.sets - 1,
            edx: 0,
        }
    }

    /// Extended topology enumeration.
    fn leaf_b(&self, subleaf: u32, apic_id: u32) -> CpuidResult {
        let t = &self.topology;
        let (eax, ebx, kind) = match subleaf {
            0 => (t.core_shift(), t.threads, 1),
            1 => (t.package_shift(), t.threads_per_package(), 2),
            _ => (0, 0, 0),
        };
        CpuidResult { eax, ebx: ebx & 0xffff, ecx: kind << 8 | subleaf & 0xff, edx: apic_id }
    }

    fn leaf_d(&self, st: &X86State, subleaf: u32) -> CpuidResult {
        let f = &self.features;
        let avx = f.has(Feature::AVX);
        let size = |with_avx: bool| XSAVE_BASE + if with_avx { XSAVE_AVX } else { 0 };
        match subleaf {
            0 => CpuidResult {
                eax: 1 | u32::from(f.has(Feature::SSE)) << 1 | u32::from(avx) << 2,
                ebx: size(st.xcr0 & 4 != 0),
                ecx: size(avx),
                edx: 0,
            },
            1 => {
                let eax = f.word(word::LEAF_D_1_EAX);
                let ebx = if f.has(Feature::XSAVEC) { size(st.xcr0 & 4 != 0) } else { 0 };
                CpuidResult { eax, ebx, ecx: 0, edx: 0 }
            }
            2 if avx => CpuidResult { eax: XSAVE_AVX, ebx: XSAVE_BASE, ecx: 0, edx: 0 },
            _ => CpuidResult::default(),
        }
    }

    fn extended(&self, st: &X86State, leaf: u32) -> CpuidResult {
        let f = &self.features;
        let amd = self.vendor == Vendor::Amd;
        match leaf {
            0x8000_0000 => {
                let [ebx, edx, ecx] = if amd { words(self.vendor.id()) } else { [0; 3] };
                CpuidResult { eax: self.extended_level(), ebx, ecx, edx }
            }
            0x8000_0001 => self.leaf_80000001(st),
            0x8000_0002..=0x8000_0004 => {
                let start = 16 * (leaf - 0x8000_0002) as usize;
                let word = |i: usize| {
                    let b = &self.brand[start + 4 * i..];
                    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
                };
                CpuidResult { eax: word(0), ebx: word(1), ecx: word(2), edx: word(3) }
            }
            0x8000_0005 if amd => CpuidResult {
                // TLBs: 64 entries, fully associative.
                eax: 0xff40_ff40,
                ebx: 0xff40_ff40,
                ecx: L1D.kib() << 24 | L1D.ways << 16 | 1 << 8 | LINE,
                edx: L1I.kib() << 24 | L1I.ways << 16 | 1 << 8 | LINE,
            },
            0x8000_0006 => CpuidResult {
                eax: 0,
                ebx: if amd { 0x4200_4200 } else { 0 },
                ecx: L2.kib() << 16 | amd_ways(L2.ways) << 12 | 1 << 8 | LINE,
                // Size in units of 512 KiB.
                edx: if amd { (L3.kib() / 512) << 18 | amd_ways(L3.ways) << 12 | 1 << 8 | LINE } else { 0 },
            },
            0x8000_0007 => CpuidResult { edx: f.word(word::LEAF_80000007_EDX), ..Default::default() },
            0x8000_0008 => {
                let linear = if f.has(Feature::LM) { 48 } else { 32 };
                let threads = self.topology.threads_per_package();
                let shift = self.topology.package_shift();
                let ecx = if amd && threads > 1 { shift << 12 | (threads - 1) & 0xff } else { 0 };
                let ebx = f.word(word::LEAF_80000008_EBX);
                CpuidResult { eax: linear << 8 | self.physical_bits, ebx, ecx, edx: 0 }
            }
            _ => CpuidResult::default(),
        }
    }

    fn leaf_80000001(&self, st: &X86State) -> CpuidResult {
        let f = &self.features;
        let mut edx = f.word(word::LEAF_80000001_EDX);
        let mut ecx = f.word(word::LEAF_80000001_ECX);
        let mut eax = 0;
        if self.vendor == Vendor::Amd {
            eax = self.signature();
            edx |= f.word(word::LEAF_1_EDX) & AMD_ALIASES;
            if self.topology.threads_per_package() > 1 {
                ecx |= Feature::CMP_LEGACY.mask();
            }
        } else if st.seg[seg::CS].attr & attr::L == 0 {
            // Intel shows SYSCALL only to 64-bit code.
            edx &= !Feature::SYSCALL.mask();
        }
        CpuidResult { eax, ebx: 0, ecx, edx }
    }
}
