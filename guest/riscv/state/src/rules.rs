//! What extensions need, bring along and exclude, as the specifications' chapters for each say.

use crate::extension::{Extension, Extension as X};

/// `.0` needs `.1`: asking for the first with the second switched off is refused; switching the second off takes the
/// first along where it was only a default.
pub(crate) const NEEDS: &[(Extension, Extension)] = &[
    (X::M, X::I),
    (X::M, X::Zmmul),
    (X::A, X::I),
    (X::C, X::I),
    (X::F, X::Zicsr),
    (X::D, X::F),
    (X::S, X::U),
    (X::V, X::D),
    (X::V, X::Zve64d),
    (X::Zve32x, X::Zicsr),
    (X::Zve32f, X::Zve32x),
    (X::Zve32f, X::F),
    (X::Zve64x, X::Zve32x),
    (X::Zve64f, X::Zve64x),
    (X::Zve64f, X::Zve32f),
    (X::Zve64d, X::Zve64f),
    (X::Zve64d, X::D),
    (X::Zfa, X::F),
    (X::Zfh, X::Zfhmin),
    (X::Zfhmin, X::F),
    (X::Zacas, X::Zaamo),
    (X::Zawrs, X::Zalrsc),
    (X::Zcf, X::Zca),
    (X::Zcf, X::F),
    (X::Zcd, X::Zca),
    (X::Zcd, X::D),
    (X::Zicntr, X::Zicsr),
    (X::Zihpm, X::Zicsr),
    (X::Zihpm, X::Zicntr),
    (X::Zkr, X::Zicsr),
    (X::Zic64b, X::Zicbom),
    (X::Sstc, X::S),
    (X::Sscofpmf, X::S),
    (X::Sscofpmf, X::Zihpm),
    (X::Sscounterenw, X::S),
    (X::Sscounterenw, X::Zihpm),
    (X::Ssccptr, X::S),
    (X::Sstvala, X::S),
    (X::Sstvecd, X::S),
    (X::Ssu64xl, X::S),
    (X::Smstateen, X::U),
    (X::Ssstateen, X::S),
    (X::Ssstateen, X::Smstateen),
    (X::Svade, X::S),
    (X::Svadu, X::S),
    (X::Svbare, X::S),
    (X::Svinval, X::S),
    (X::Svnapot, X::S),
    (X::Svpbmt, X::S),
];

/// Asking for `.0` asks for each of `.1` that was not switched off by name.
pub(crate) const BRINGS: &[(Extension, &[Extension])] = &[
    (X::G, &[X::I, X::M, X::A, X::F, X::D, X::Zicsr, X::Zifencei]),
    (X::M, &[X::Zmmul]),
    (X::A, &[X::Zaamo, X::Zalrsc]),
    (X::B, &[X::Zba, X::Zbb, X::Zbs]),
    (X::F, &[X::Zicsr]),
    (X::D, &[X::F]),
    (X::C, &[X::Zca]),
    (X::V, &[X::Zve64d, X::D]),
    (X::Zve64d, &[X::Zve64f]),
    (X::Zve64f, &[X::Zve64x, X::Zve32f]),
    (X::Zve64x, &[X::Zve32x]),
    (X::Zve32f, &[X::Zve32x]),
    (X::Zfh, &[X::Zfhmin]),
    (X::Zcf, &[X::Zca]),
    (X::Zcd, &[X::Zca]),
    (X::Zk, &[X::Zkn, X::Zkr, X::Zkt]),
    (X::Zkn, &[X::Zbkb, X::Zbkc, X::Zbkx, X::Zkne, X::Zknd, X::Zknh]),
    (X::Zic64b, &[X::Zicbom]),
    (X::Ssstateen, &[X::Smstateen]),
    (X::Smstateen, &[X::Ssstateen]),
];

/// Groups that stand for exactly their members: one that lacks a member is not there, one that has all is.
pub(crate) const GROUPS: &[(Extension, &[Extension])] = &[
    (X::A, &[X::Zaamo, X::Zalrsc]),
    (X::B, &[X::Zba, X::Zbb, X::Zbs]),
    (X::Zkn, &[X::Zbkb, X::Zbkc, X::Zbkx, X::Zkne, X::Zknd, X::Zknh]),
    (X::Zk, &[X::Zkn, X::Zkr, X::Zkt]),
];

/// Switching `.0` off by name switches off each of `.1` that was not asked for.
pub(crate) const PARTS: &[(Extension, &[Extension])] = &[
    (X::M, &[X::Zmmul]),
    (X::C, &[X::Zca, X::Zcf, X::Zcd]),
    (X::V, &[X::Zve64d, X::Zve64f, X::Zve64x, X::Zve32f, X::Zve32x]),
];
