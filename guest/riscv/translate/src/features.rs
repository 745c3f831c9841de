//! From a hart's extensions to what the decoder asks for.

use rhea_riscv_state::extension::Extension as X;
use rhea_riscv_state::state::HartConfig;

use crate::{Feature, Features, Xlen};

/// Features that are there if any of the listed extensions is. Extensions that only order accesses or promise something
/// about memory have no instructions.
const TABLE: &[(Feature, &[X])] = &[
    (Feature::M, &[X::M]),
    (Feature::Zmmul, &[X::M, X::Zmmul]),
    (Feature::Zaamo, &[X::A, X::Zaamo]),
    (Feature::Zalrsc, &[X::A, X::Zalrsc]),
    (Feature::Zacas, &[X::Zacas]),
    (Feature::Zabha, &[X::Zabha]),
    (Feature::Zawrs, &[X::Zawrs]),
    (Feature::F, &[X::F]),
    (Feature::D, &[X::D]),
    (Feature::Zfh, &[X::Zfh]),
    (Feature::Zfhmin, &[X::Zfh, X::Zfhmin]),
    (Feature::Zfa, &[X::Zfa]),
    (Feature::Zca, &[X::C, X::Zca]),
    (Feature::Zcf, &[X::Zcf]),
    (Feature::Zcd, &[X::Zcd]),
    (Feature::Zcb, &[X::Zcb]),
    (Feature::Zcmop, &[X::Zcmop]),
    (Feature::Zicsr, &[X::Zicsr]),
    (Feature::Zifencei, &[X::Zifencei]),
    (Feature::Zicond, &[X::Zicond]),
    (Feature::Zicbom, &[X::Zicbom]),
    (Feature::Zicboz, &[X::Zicboz]),
    (Feature::Zicbop, &[X::Zicbop]),
    (Feature::Zihintpause, &[X::Zihintpause]),
    (Feature::Zihintntl, &[X::Zihintntl]),
    (Feature::Zimop, &[X::Zimop]),
    (Feature::Zba, &[X::Zba]),
    (Feature::Zbb, &[X::Zbb]),
    (Feature::Zbc, &[X::Zbc]),
    (Feature::Zbs, &[X::Zbs]),
    (Feature::Zbkb, &[X::Zbkb]),
    (Feature::Zbkc, &[X::Zbkc]),
    (Feature::Zbkx, &[X::Zbkx]),
    (Feature::Zknd, &[X::Zknd]),
    (Feature::Zkne, &[X::Zkne]),
    (Feature::Zknh, &[X::Zknh]),
    (Feature::Zksed, &[X::Zksed]),
    (Feature::Zksh, &[X::Zksh]),
    (Feature::Zve32x, &[X::Zve32x]),
    (Feature::Zve64x, &[X::Zve64x]),
    (Feature::Zve32f, &[X::Zve32f]),
    (Feature::Zvbb, &[X::Zvbb]),
    (Feature::Zvkb, &[X::Zvkb, X::Zvbb]),
    (Feature::Zvbc, &[X::Zvbc]),
    (Feature::Zvkg, &[X::Zvkg]),
    (Feature::Zvkned, &[X::Zvkned]),
    (Feature::Zvknha, &[X::Zvknha]),
    (Feature::Zvknhb, &[X::Zvknhb]),
    (Feature::Zvksed, &[X::Zvksed]),
    (Feature::Zvksh, &[X::Zvksh]),
    (Feature::S, &[X::S]),
    (Feature::Svinval, &[X::Svinval]),
    (Feature::H, &[X::H]),
];

/// What the decoder may take for instructions of a hart.
pub fn of(config: &HartConfig) -> Features {
    let xlen = if config.xlen == 32 { Xlen::Rv32 } else { Xlen::Rv64 };
    let there = TABLE.iter().filter(|(_, extensions)| extensions.iter().any(|x| config.has(*x)));
    there.fold(Features::base(xlen), |features, (feature, _)| features.with(*feature))
}
