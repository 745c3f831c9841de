//! Where objdump says something else, and why.

use rhea_riscv_translate::{Instruction, Xlen};

use crate::peer::Word;

/// What both say of a word.
pub struct Difference<'a> {
    pub xlen: Xlen,
    pub word: Word,
    pub instruction: Option<Instruction>,
    pub ours: Option<&'a str>,
    pub theirs: Option<&'a str>,
}

/// The reason for a difference, if it has one.
pub fn reason(difference: &Difference<'_>) -> Option<&'static str> {
    match (difference.ours, difference.theirs) {
        (None, Some(theirs)) => reserved(difference, theirs),
        (Some(ours), theirs) => {
            spelled(ours, theirs.unwrap_or_default()).or_else(|| too_strict(difference, ours))
        }
        (None, None) => None,
    }
}

/// Words that the manual reserves and objdump prints.
fn reserved(difference: &Difference<'_>, theirs: &str) -> Option<&'static str> {
    let word = match difference.word {
        Word::Half(half) => u32::from(half),
        Word::Full(full) => full,
    };
    let (mnemonic, operands) = theirs.split_once(' ').unwrap_or((theirs, ""));
    let vector = matches!(difference.word, Word::Full(_)) && mnemonic.starts_with('v');
    let (vd, vs1, vs2) = (word >> 7 & 31, word >> 15 & 31, word >> 20 & 31);
    if vector && vd == 0 && (operands.ends_with(",v0.t") || operands.ends_with(",v0")) {
        return Some("reserved: a masked result in the mask's register");
    }
    if vector && overlaps(mnemonic, vd, vs1, vs2) {
        return Some("reserved: a result that overlaps a source");
    }
    if vector && misplaced(mnemonic, vd, vs2) {
        return Some("reserved: a register group that begins at no multiple of its size");
    }
    if mnemonic.starts_with('f') && operands.ends_with(",unknown") {
        return Some("reserved: rounding mode 5 or 6");
    }
    if mnemonic.starts_with("amocas.") && (vd | vs2) % 2 == 1 {
        return Some("reserved: a pair of registers that begins at an odd one");
    }
    let shifts = ["slli", "srli", "srai", "rori", "bclri", "bexti", "binvi", "bseti"];
    let shift = shifts.contains(&mnemonic.trim_start_matches("c."));
    if difference.xlen == Xlen::Rv32 && shift && distance(operands).is_some_and(|distance| distance >= 32) {
        return Some("reserved: an RV32 shift by 32 or more");
    }
    if difference.xlen == Xlen::Rv32 && vector && mnemonic.ends_with("ei64.v") {
        return Some("reserved: RV32 indices of 64 bits");
    }
    match (mnemonic, operands) {
        ("aes64ks1i", _) => Some("reserved: an AES round beyond the tenth"),
        ("c.addi16sp", "sp,0") => Some("reserved: c.addi16sp with nothing to add"),
        ("c.unimp", _) => Some("sixteen zeros: no instruction, which objdump gives a name"),
        ("uret" | "hret" | "sfence.vm" | "dret", _) => {
            Some("instructions of drafts or of debug mode, which we do not have")
        }
        _ => None,
    }
}

/// True where the result must not be a source too, but is.
fn overlaps(mnemonic: &str, vd: u32, vs1: u32, vs2: u32) -> bool {
    let names =
        ["vrgather", "vslideup", "vslide1up", "vfslide1up", "vmsbf", "vmsif", "vmsof", "viota", "vcompress"];
    let both = ["vrgather.vv", "vrgatherei16.vv", "vcompress.vm"];
    let wide = mnemonic.starts_with("vw") || mnemonic.starts_with("vfw");
    let extended = mnemonic.starts_with("vzext") || mnemonic.starts_with("vsext");
    let vector_sources = mnemonic.ends_with(".vv") || mnemonic.ends_with(".wv");
    let second =
        names.iter().any(|name| mnemonic.starts_with(name)) || extended || (wide && !mnemonic.contains(".w"));
    let first = both.contains(&mnemonic) || (wide && vector_sources);
    (vd == vs2 && second) || (vd == vs1 && first)
}

/// True for whole registers that begin where no group of that many does.
fn misplaced(mnemonic: &str, vd: u32, vs2: u32) -> bool {
    [2, 4, 8].into_iter().any(|size| {
        let memory = mnemonic.starts_with(&format!("vl{size}re")) || mnemonic == format!("vs{size}r.v");
        let moved = mnemonic == format!("vmv{size}r.v");
        ((memory || moved) && !vd.is_multiple_of(size)) || (moved && !vs2.is_multiple_of(size))
    })
}

fn distance(operands: &str) -> Option<u32> {
    u32::from_str_radix(operands.rsplit_once(",0x")?.1, 16).ok()
}

/// The same, spelled otherwise.
fn spelled(ours: &str, theirs: &str) -> Option<&'static str> {
    if ours.replace('0', "unknown") == theirs.replace('0', "unknown") && ours.starts_with("fence ") {
        return Some("an empty side of a fence: objdump calls it unknown");
    }
    if let Some(shift) = ours.strip_suffix(",0x0") {
        let names = ["c.slli", "c.srli", "c.srai"];
        if names.iter().any(|name| theirs == shift.replacen(name, &format!("{name}64"), 1)) {
            return Some("a compressed shift by nothing, a hint: objdump gives it RV128's name");
        }
    }
    let immediate = ours.strip_prefix("c.nop").map(|rest| if rest.is_empty() { "0" } else { rest.trim() });
    if immediate.is_some_and(|immediate| theirs == format!("c.addi zero,{immediate}")) {
        return Some("c.nop: objdump calls it c.addi");
    }
    unnamed_register(ours, theirs)
}

/// A register that one of the two only has a number for.
fn unnamed_register(ours: &str, theirs: &str) -> Option<&'static str> {
    let parts = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let (ours, theirs) = (parts(ours), parts(theirs));
    let alike = ours.len() == 3
        && theirs.len() == 3
        && ours[0].starts_with("csrr")
        && ours[0] == theirs[0]
        && ours[2] == theirs[2];
    let numbered = theirs[1..].first().is_some_and(|name| name.starts_with("0x"));
    let unknown = ours.get(1).is_some_and(|name| name.starts_with("0x"));
    match (alike, numbered, unknown) {
        (true, true, false) => Some("a control register that is newer than objdump"),
        (true, false, true) => Some("a control register of drafts or of debug mode"),
        _ => None,
    }
}

/// Instructions that objdump takes for none.
fn too_strict(difference: &Difference<'_>, ours: &str) -> Option<&'static str> {
    if difference.theirs.is_some() {
        return None;
    }
    match difference.instruction? {
        Instruction::Fence(_) | Instruction::FenceTso | Instruction::FenceI => {
            Some("a fence's unused bits: processors ignore them, objdump wants zeros")
        }
        _ if ["fcvt.d.s", "fcvt.d.w", "fcvt.d.wu", "fcvt.d.h", "fcvt.s.h"]
            .contains(&ours.split(' ').next()?) =>
        {
            Some("a conversion that never rounds: objdump wants mode 0")
        }
        _ => None,
    }
}
