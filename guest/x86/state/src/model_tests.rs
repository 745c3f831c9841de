//! CPU models: what `-cpu` accepts, and what CPUID answers for each.

use crate::control::cr4;
use crate::cpuid::CpuidResult;
use crate::features::{Feature as F, NAMES};
use crate::model::{CpuModel, ModelError, list_features, list_models};
use crate::state::{attr, gpr, seg};
use crate::topology::CpuTopology;

fn model(argument: &str) -> CpuModel {
    CpuModel::parse(argument).unwrap()
}

fn cpuid(m: &CpuModel, leaf: u32, subleaf: u32) -> CpuidResult {
    m.cpuid(&m.reset_state(true), leaf, subleaf, 0, true)
}

#[test]
fn every_model_has_only_implemented_features_with_their_prerequisites() {
    for (name, _) in list_models() {
        let m = model(name);
        for f in NAMES {
            assert!(f.implemented || !m.features().has(f.feature), "{name} has {}", f.name);
            if m.features().has(f.feature) && f.feature != F::HYPERVISOR {
                let same = CpuModel::parse(&format!("{name},+{}", f.name));
                assert!(
                    same.is_ok_and(|s| s.features() == m.features()),
                    "{name} lacks what {} needs",
                    f.name
                );
            }
        }
        assert_eq!(CpuModel::named(name).unwrap().features(), m.features(), "{name}: nothing is dropped");
    }
}

#[test]
fn max_has_everything_but_monitor() {
    let m = model("max");
    for name in list_features() {
        let automatic = ["monitor", "ht", "ss", "cmp-legacy"].contains(&name);
        let f = crate::features::find(name).unwrap().feature;
        assert!(automatic || m.features().has(f), "max lacks {name}");
    }
}

#[test]
fn signatures_and_levels_per_model() {
    // name, vendor, leaf 0 EAX, leaf 1 EAX, 80000000h EAX
    let table: &[(&str, &[u8; 12], u32, u32, u32)] = &[
        ("qemu64", b"AuthenticAMD", 0xd, 0x0006_0fb1, 0x8000_0008),
        ("qemu32", b"GenuineIntel", 4, 0x663, 0x8000_0004),
        ("max", b"AuthenticAMD", 0xd, 0x0006_0fb1, 0x8000_0008),
        ("kvm64", b"GenuineIntel", 0xd, 0xf61, 0x8000_0008),
        ("Nehalem", b"GenuineIntel", 0xb, 0x0001_06a3, 0x8000_0008),
        ("Westmere", b"GenuineIntel", 0xb, 0x0002_06c1, 0x8000_0008),
        ("SandyBridge", b"GenuineIntel", 0xd, 0x0002_06a1, 0x8000_0008),
        ("IvyBridge", b"GenuineIntel", 0xd, 0x0003_06a9, 0x8000_0008),
        ("Haswell", b"GenuineIntel", 0xd, 0x0003_06c1, 0x8000_0008),
        ("Broadwell", b"GenuineIntel", 0xd, 0x0003_06d2, 0x8000_0008),
    ];
    for &(name, vendor, level, signature, xlevel) in table {
        let m = model(name);
        let r = cpuid(&m, 0, 0);
        let id: Vec<u8> = [r.ebx, r.edx, r.ecx].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!((r.eax, &id[..]), (level, &vendor[..]), "{name}");
        assert_eq!(cpuid(&m, 1, 0).eax, signature, "{name}");
        assert_eq!(cpuid(&m, 0x8000_0000, 0).eax, xlevel, "{name}");
        assert_eq!(m.reset_state(true).gpr[gpr::RDX], u64::from(signature));
    }
}

#[test]
fn feature_words_per_model() {
    // name, 1.ECX, 1.EDX, 7.EBX, 80000001h.ECX, 80000001h.EDX as 64-bit code sees them
    let table: &[(&str, u32, u32, u32, u32, u32)] = &[
        ("qemu64", 0x8000_2001, 0x078b_fbfd, 0, 1, 0x2193_fbfd),
        ("Nehalem", 0x8098_2201, 0x078b_fbff, 0, 1, 0x2010_0800),
        ("Haswell", 0xf7fa_3203, 0x078b_fbff, 0x0000_07a9, 0x21, 0x2810_0800),
    ];
    for &(name, ecx1, edx1, ebx7, ecx8, edx8) in table {
        let m = model(name);
        let mut st = m.reset_state(true);
        st.seg[seg::CS].attr |= attr::L;
        let get = |leaf| m.cpuid(&st, leaf, 0, 0, true);
        assert_eq!((get(1).ecx, get(1).edx), (ecx1, edx1), "{name}: {:#x} {:#x}", get(1).ecx, get(1).edx);
        assert_eq!(get(7).ebx, ebx7, "{name}: {:#x}", get(7).ebx);
        let r = get(0x8000_0001);
        assert_eq!((r.ecx, r.edx), (ecx8, edx8), "{name}: {:#x} {:#x}", r.ecx, r.edx);
    }
}

#[test]
fn features_are_switched_by_every_spelling() {
    let m = model("max,-avx2,x2apic=off,+monitor,sse4_2=on,phys-bits=46");
    assert!(!m.features().has(F::AVX2) && !m.features().has(F::X2APIC));
    assert!(m.features().has(F::MONITOR) && m.features().has(F::SSE4_2));
    assert_eq!(cpuid(&m, 0x8000_0008, 0).eax, 0x302e);
    assert_eq!(cpuid(&m, 5, 0).eax, 64);
    assert!(model("qemu64,avx=on,xsave=on,ssse3,sse4.1,sse4.2").features().has(F::AVX));
}

#[test]
fn switching_a_feature_off_takes_its_dependents_along() {
    let m = model("max,-xsave");
    assert!(![F::AVX, F::AVX2, F::FMA, F::F16C, F::XSAVEOPT].iter().any(|f| m.features().has(*f)));
    assert_eq!(cpuid(&m, 0xd, 0), CpuidResult::default());
    let both = CpuModel::parse("max,-avx,+avx2");
    assert_eq!(both, Err(ModelError::Missing { feature: "avx2", needs: "avx" }));
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    assert_eq!(CpuModel::parse("max,+avx512f"), Err(ModelError::NotImplemented("avx512f")));
    assert!(CpuModel::parse("max,-avx512f").is_ok());
    assert_eq!(CpuModel::parse("max,+warp"), Err(ModelError::UnknownProperty("warp".into())));
    assert_eq!(CpuModel::parse("z80"), Err(ModelError::UnknownModel("z80".into())));
    assert_eq!(CpuModel::parse("host"), Err(ModelError::Host));
    assert!(matches!(CpuModel::parse("max,sse=maybe"), Err(ModelError::BadValue { .. })));
    assert!(matches!(CpuModel::parse("max,phys-bits=64"), Err(ModelError::BadValue { .. })));
    assert!(matches!(CpuModel::parse("max,xlevel=7"), Err(ModelError::BadValue { .. })));
}

#[test]
fn features_raise_the_levels_they_need() {
    let m = model("qemu32,+smep");
    assert_eq!(cpuid(&m, 0, 0).eax, 7);
    assert_ne!(cpuid(&m, 7, 0).ebx, 0);
    let m = model("pentium3,+nx");
    assert_eq!(cpuid(&m, 0x8000_0000, 0).eax, 0x8000_0001);
}

#[test]
fn leaves_beyond_the_end_follow_the_vendor() {
    assert_eq!(cpuid(&model("max"), 0x20, 0), CpuidResult::default());
    let haswell = model("Haswell");
    assert_eq!(cpuid(&haswell, 0x20, 0), cpuid(&haswell, 0xd, 0));
}

#[test]
fn dynamic_bits_follow_the_state() {
    let m = model("Haswell");
    let mut st = m.reset_state(true);
    assert_eq!(m.cpuid(&st, 1, 0, 0, true).ecx & 1 << 27, 0);
    st.cr[4] |= cr4::OSXSAVE;
    assert_ne!(m.cpuid(&st, 1, 0, 0, true).ecx & 1 << 27, 0);
    assert_eq!(m.cpuid(&st, 1, 0, 0, false).edx & 1 << 9, 0, "the APIC is off");
    assert_eq!(m.cpuid(&st, 0xd, 0, 0, true).ebx, 576);
    st.xcr0 = 7;
    assert_eq!(m.cpuid(&st, 0xd, 0, 0, true).ebx, 832);
    assert_eq!(m.cpuid(&st, 0x8000_0001, 0, 0, true).edx & 1 << 11, 0, "SYSCALL shows in 64-bit mode");
    st.seg[seg::CS].attr |= attr::L;
    assert_ne!(m.cpuid(&st, 0x8000_0001, 0, 0, true).edx & 1 << 11, 0);
}

#[test]
fn topology_shows_in_the_leaves_of_both_vendors() {
    let t = CpuTopology { sockets: 2, dies: 1, cores: 3, threads: 2 };
    let m = model("Haswell").with_topology(t).unwrap();
    let st = m.reset_state(false);
    let leaf1 = m.cpuid(&st, 1, 0, 9, true);
    assert_eq!((leaf1.ebx >> 24, leaf1.ebx >> 16 & 0xff, leaf1.edx >> 28 & 1), (9, 6, 1));
    let smt = m.cpuid(&st, 0xb, 0, 9, true);
    assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (1, 2, 0x100, 9));
    let core = m.cpuid(&st, 0xb, 1, 9, true);
    assert_eq!((core.eax, core.ebx, core.ecx), (3, 6, 0x201));
    assert_eq!(m.cpuid(&st, 0xb, 2, 9, true).ecx, 2);
    let l1 = m.cpuid(&st, 4, 0, 9, true);
    assert_eq!((l1.eax >> 26, l1.eax >> 14 & 0xfff, l1.eax & 0x1f), (3, 1, 1));
    assert_eq!(m.cpuid(&st, 4, 4, 9, true).eax & 0x1f, 0);
    assert_eq!(st.wait_for_sipi, 1);

    let m = model("max").with_topology(t).unwrap();
    let st = m.reset_state(true);
    assert_eq!(m.cpuid(&st, 0x8000_0001, 0, 0, true).ecx & 2, 2);
    assert_eq!(m.cpuid(&st, 0x8000_0008, 0, 0, true).ecx, 3 << 12 | 5);
}

#[test]
fn impossible_topologies_are_refused() {
    let t = |sockets, cores| CpuTopology { sockets, dies: 1, cores, threads: 1 };
    assert!(model("max").with_topology(t(0, 1)).is_err());
    assert!(model("qemu64").with_topology(t(2, 130)).is_err());
    assert!(model("max").with_topology(t(2, 130)).is_ok());
    assert!(model("max").with_topology(t(u32::MAX, u32::MAX)).is_err());
}

#[test]
fn brand_and_hypervisor_are_text() {
    let m = model("Nehalem,model-id=Some CPU");
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .map(|leaf| cpuid(&m, leaf, 0))
        .flat_map(|r| [r.eax, r.ebx, r.ecx, r.edx])
        .flat_map(u32::to_le_bytes)
        .collect();
    assert!(bytes.starts_with(b"Some CPU\0"));
    let r = cpuid(&m, 0x4000_0000, 0);
    assert_eq!((r.eax, &r.ebx.to_le_bytes()), (0x4000_0001, b"Rhea"));
    let bare = model("Nehalem,-hypervisor");
    assert_eq!(cpuid(&bare, 0x4000_0000, 0), cpuid(&bare, 0xb, 0));
}
