//! Models, switches and strings.

use crate::extension::{EXTENSIONS, Extension as X, ExtensionSet};
use crate::model::{ModelError, list_extensions, list_models};
use crate::rules::NEEDS;
use crate::state::satp;
use crate::{CpuModel, RiscvState};

fn parse(text: &str) -> CpuModel {
    CpuModel::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refusal(text: &str) -> String {
    CpuModel::parse(text).expect_err(text).to_string()
}

#[test]
fn every_model_is_consistent_and_has_nothing_unimplemented() {
    let models = [64, 32].map(|xlen| list_models(xlen).map(move |(name, _)| (xlen, name)));
    for (xlen, name) in models.into_iter().flatten() {
        let model = CpuModel::parse_for(xlen, name).unwrap();
        assert_eq!(model.config().xlen, xlen);
        for extension in model.extensions().iter() {
            assert!(extension.info().implemented, "{name}: {extension:?}");
        }
        for (extension, needs) in NEEDS {
            assert!(
                !model.extensions().has(*extension) || model.extensions().has(*needs),
                "{name}: {extension:?}"
            );
        }
        if xlen == 64 {
            assert_eq!(CpuModel::named(name).unwrap(), model, "parsing changes nothing");
        }
        let st: RiscvState = model.reset_state(3, 0x1000);
        assert_eq!((st.config.hart_id, st.pc), (3, 0x1000));
    }
}

#[test]
fn every_switch_is_taken_or_refused_with_its_name() {
    for e in EXTENSIONS {
        for model in ["rv64", "rv32", "max"] {
            match CpuModel::parse(&format!("{model},{}=on", e.name)) {
                Ok(m) => assert!(e.implemented && m.extensions().has(e.extension), "{model} {}", e.name),
                Err(error) => {
                    assert!(error.to_string().contains(&format!("'{}'", e.name)), "{error}");
                    let narrow = model == "rv32"
                        && ["svnapot", "svpbmt", "ssu64xl", "smmpm", "smnpm", "ssnpm", "sspm", "supm"]
                            .contains(&e.name);
                    let wide = model != "rv32" && e.name == "zcf";
                    assert!(!e.implemented || narrow || wide, "{model}: {error}");
                }
            }
            if let Ok(m) = CpuModel::parse(&format!("{model},{}=off", e.name)) {
                assert!(!m.extensions().has(e.extension), "{model} {}", e.name);
                for (extension, needs) in NEEDS {
                    assert!(
                        !m.extensions().has(*extension) || m.extensions().has(*needs),
                        "{} {extension:?}",
                        e.name
                    );
                }
            }
        }
    }
    assert!(list_extensions().count() > 50);
}

#[test]
fn an_extension_that_is_not_there_is_refused_by_name() {
    assert_eq!(
        refusal("rv64,zama16b=true"),
        "CPU extension 'zama16b' (misaligned atomicity within 16 bytes) is not implemented"
    );
    assert!(!parse("rv64,zama16b=false").extensions().has(X::Zama16b));
}

#[test]
fn the_augmented_hypervisor_is_the_hypervisor_with_state_enables() {
    let parts = [X::Shcounterenw, X::Shgatpa, X::Shtvala, X::Shvsatpa, X::Shvstvala, X::Shvstvecd];
    let has = |text: &str, x: X| parse(text).extensions().has(x);
    for x in parts {
        assert!(has("rv64", x) && !has("rv64,h=off", x) && !has("max,h=off", x), "{x:?}");
    }
    assert!(!has("rv64", X::Sha) && has("rv64,ssstateen=on", X::Sha));
    assert!(has("rv64,sha=on", X::H) && has("rv64,sha=on", X::Smstateen) && !has("max,s=off", X::H));
    assert_eq!(refusal("rv64,s=off,h=on"), "CPU extension 'h' needs 's'");
}

#[test]
fn what_an_extension_needs_is_refused_when_switched_off_by_name() {
    assert_eq!(refusal("rv64,f=off,d=on"), "CPU extension 'd' needs 'f'");
    assert_eq!(refusal("rv64,d=off,v=on"), "CPU extension 'v' needs 'd'");
    assert_eq!(refusal("rv64,zca=off,c=on"), "CPU extension 'c' needs 'zca'");
    assert_eq!(refusal("rv64,c=on,zcd=off"), "CPU extension 'c' needs 'zcd'");
    assert_eq!(refusal("rv64,s=off,sstc=on"), "CPU extension 'sstc' needs 's'");
    assert_eq!(refusal("rv64,zve64f=off,zve64d=on"), "CPU extension 'zve64d' needs 'zve64f'");
    assert_eq!(refusal("rv64,m=off,g=on"), "CPU extension 'g' needs 'm'");
}

#[test]
fn defaults_go_with_what_they_need() {
    let model = parse("rv64,f=off");
    for x in [X::F, X::D, X::Zfa, X::Zcd, X::G] {
        assert!(!model.extensions().has(x), "{x:?}");
    }
    assert!(model.extensions().has(X::C) && model.extensions().has(X::Zca));
    let model = parse("rv64,c=off");
    assert!(!model.extensions().has(X::Zca) && !model.config().has_compressed());
    let model = parse("rv64,a=off,zaamo=on");
    assert!(model.extensions().has(X::Zaamo) && !model.extensions().has(X::Zalrsc));
    let model = parse("rv64,s=off");
    assert_eq!(model.config().satp_max, satp::BARE);
    assert_eq!(model.mmu_type(), None);
}

#[test]
fn switching_the_whole_off_switches_off_parts_nobody_asked_for() {
    let vectors = |text| parse(text).extensions().has(X::Zve32x);
    assert!(vectors("max") && !vectors("max,v=off") && vectors("max,v=off,zve32x=on"));
    assert!(!parse("max,v=off,zve32x=on").extensions().has(X::Zve64x));
    assert!(!parse("rv64,m=off").extensions().has(X::Zmmul));
    assert!(parse("rv64,m=off,zmmul=on").extensions().has(X::Zmmul));
    assert!(!parse("rv64,zmmul=off").extensions().has(X::M));
    assert!(parse("rv64,c=off,zca=on").config().has_compressed());
    assert!(refusal("rv64,svbare=off").contains("svbare"));
}

/// Any two switches together: a consistent hart, or a refusal that names one of them.
#[test]
fn two_switches_make_a_consistent_hart_or_are_refused() {
    for a in EXTENSIONS.iter().filter(|e| e.implemented) {
        for b in EXTENSIONS.iter().filter(|e| e.implemented && e.extension != a.extension) {
            for (on_a, on_b) in [("on", "on"), ("on", "off"), ("off", "off")] {
                let text = format!("max,{}={on_a},{}={on_b}", a.name, b.name);
                match CpuModel::parse(&text) {
                    Ok(m) => {
                        assert_eq!(m.extensions().has(a.extension), on_a == "on", "{text}");
                        assert_eq!(m.extensions().has(b.extension), on_b == "on", "{text}");
                        for (extension, needs) in NEEDS {
                            let has = m.extensions();
                            assert!(
                                !has.has(*extension) || has.has(*needs),
                                "{text}: {extension:?} {needs:?}"
                            );
                        }
                    }
                    Err(e) => {
                        let e = e.to_string();
                        let named = [a.name, b.name].iter().any(|name| e.contains(&format!("'{name}'")));
                        assert!(named, "{text}: {e}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_asked_for_brings_its_members() {
    let model = parse("rv64,v=true,vlen=256");
    for x in [X::V, X::Zve32x, X::Zve32f, X::Zve64x, X::Zve64f, X::Zve64d] {
        assert!(model.extensions().has(x), "{x:?}");
    }
    assert_eq!(model.config().vlen, 256);
    let model = parse("rv64,zve32x=on,elen=32");
    assert!(!model.extensions().has(X::V) && !model.extensions().has(X::Zve32f));
    assert!(parse("rv64,zkn=on").extensions().has(X::Zbkx));
    assert!(!parse("rv64,zba=off").extensions().has(X::B));
    assert!(parse("rva22s64,zve64d=on").extensions().has(X::Zve32x));
}

#[test]
fn values_out_of_range_and_lone_properties_are_refused() {
    for (text, part) in [
        ("rv64,vlen=100,v=on", "a power of two from 128 to 1024"),
        ("rv64,vlen=2048,v=on", "a power of two from 128 to 1024"),
        ("rv64,vlen=256", "needs vectors"),
        ("rv64,elen=32,v=on", "must be 64"),
        ("rv64,elen=16,v=on", "32 or 64"),
        ("rv64,v=maybe", "on or off"),
        ("rv64,sv32=on", "64-bit"),
        ("rv32,sv39=on", "32-bit"),
        ("rv64,sv48=on,sv39=off", "'sv48' is on, but 'sv39' is off"),
        ("rv64,mmu=off,sv39=on", "'mmu'"),
        ("rv64,mmu=off,svpbmt=on", "'svpbmt' needs paging"),
        ("rv64,zic64b=on,cboz_blocksize=128", "64 bytes"),
        ("rv64,cbom_blocksize=0", "a power of two"),
        ("rv64,num-pmp-regions=17", "0, 16 or 64"),
        ("rv64,pmu-mask=1", "counters 3 to 31"),
        ("rv64,mvendorid=0x100000000", "32-bit"),
        ("rv64,zcf=on", "32-bit harts only"),
        ("rv64,i=off", "'i'"),
        ("rv64,zicsr=off", "zicsr"),
        ("rv64,nonsense=on", "'nonsense'"),
        ("rv64,", "unknown CPU extension or property ''"),
        ("rv65", "unknown CPU model 'rv65'"),
        ("host", "hardware accelerator"),
    ] {
        assert!(refusal(text).contains(part), "{text}: {}", refusal(text));
    }
}

#[test]
fn satp_modes_follow_the_largest_named() {
    for (text, mode) in [
        ("rv64", satp::SV57),
        ("rv64,sv39=on", satp::SV39),
        ("rv64,sv39=on,sv48=on", satp::SV48),
        ("rv64,sv57=off", satp::SV48),
        ("rv64,sv48=off", satp::SV39),
        ("rv64,sv39=off", satp::BARE),
        ("rv32", satp::SV32),
        ("rv32,sv32=off", satp::BARE),
        ("rv64,mmu=off", satp::BARE),
        ("rva22s64,sv57=on", satp::SV57),
    ] {
        assert_eq!(parse(text).config().satp_max, mode, "{text}");
    }
    assert_eq!(parse("rv64").mmu_type().as_deref(), Some("riscv,sv57"));
}

#[test]
fn the_isa_string_is_in_canonical_order() {
    let model = parse("rv64");
    assert_eq!(model.isa_base(), "rv64i");
    let text = model.isa_string();
    assert!(text.starts_with("rv64imafdcbh_zic64b_zicbom_zicbop_zicboz_"), "{text}");
    assert!(
        text.ends_with("_svadu_svvptc_shcounterenw_shgatpa_shtvala_shvsatpa_shvstvala_shvstvecd"),
        "{text}"
    );
    let at = |name: &str| {
        text.split('_').position(|part| part == name).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    for pair in ["zifencei zmmul", "zmmul zaamo", "zawrs zfa", "zfa zca", "zcd zba", "zbs ssccptr"] {
        let (first, second) = pair.split_once(' ').unwrap();
        assert!(at(first) < at(second), "{pair}: {text}");
    }
    let max = parse("max").isa_string();
    assert!(
        max.starts_with("rv64imafdcbvh_") && max.ends_with("_shvstvecd_smepmp_smmpm_smnpm_smstateen"),
        "{max}"
    );
    assert_eq!(parse("rv32").isa_extensions()[..4], ["i", "m", "a", "f"]);
    assert!(!parse("rv64").isa_extensions().contains(&"s"), "modes are not listed");
}

#[test]
fn profiles_tell_what_they_lack() {
    assert_eq!(parse("rv64").profile_gaps().count(), 0);
    assert_eq!(parse("rva22s64").profile_gaps().count(), 0);
    assert_eq!(parse("rva23s64").profile_gaps().count(), 0);
    let gaps: Vec<_> = parse("rva23s64,h=off,ssnpm=off").profile_gaps().map(X::name).collect();
    assert!(["h", "sha", "supm", "ssnpm"].iter().all(|x| gaps.contains(x)), "{gaps:?}");
    assert_eq!(parse("rva22s64,zba=off").profile_gaps().map(X::name).collect::<Vec<_>>(), ["b", "zba"]);
}

#[test]
fn a_translator_can_refuse_what_it_lacks() {
    let model = parse("rv64");
    assert_eq!(model.require_within(model.extensions()), Ok(()));
    let without = model.extensions().without(ExtensionSet::of(&[X::Zfa]));
    assert!(matches!(model.require_within(&without), Err(ModelError::NotImplemented("zfa", _))));
}

#[test]
fn names_are_unique() {
    for (i, e) in EXTENSIONS.iter().enumerate() {
        assert_eq!(e.extension as usize, i);
        assert_eq!(X::find(e.name), Some(e.extension));
    }
}
