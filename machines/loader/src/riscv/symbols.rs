//! Symbols of an ELF file, by name.
//!
//! Source: System V ABI (gABI chapter 4, "Sections", "Symbol Table").

use crate::blob::{Fields, read_at};
use std::fs::File;

const SHT_SYMTAB: u32 = 2;
/// Largest symbol or string table that is looked at, in bytes.
const TABLE_MAX: u64 = 64 << 20;

/// Offsets of fields in a 64-bit or a 32-bit file.
struct Layout {
    wide: bool,
}

struct Section {
    kind: u32,
    offset: u64,
    size: u64,
    link: u32,
}

impl Layout {
    fn word(&self, bytes: &[u8], at_wide: usize, at_narrow: usize) -> Option<u64> {
        if self.wide { bytes.u64_at(at_wide) } else { bytes.u32_at(at_narrow).map(u64::from) }
    }

    fn section(&self, bytes: &[u8]) -> Option<Section> {
        Some(Section {
            kind: bytes.u32_at(4)?,
            offset: self.word(bytes, 24, 16)?,
            size: self.word(bytes, 32, 20)?,
            link: bytes.u32_at(if self.wide { 40 } else { 24 })?,
        })
    }
}

/// The values of symbols by name. Nothing for those that are not there, and where the tables are malformed: symbols are
/// a convenience, the program loads without.
pub(crate) fn find<const N: usize>(
    file: &File,
    len: u64,
    head: &[u8],
    wide: bool,
    names: [&[u8]; N],
) -> [Option<u64>; N] {
    values(file, len, head, &Layout { wide }, names).unwrap_or([None; N])
}

fn values<const N: usize>(
    file: &File,
    len: u64,
    head: &[u8],
    layout: &Layout,
    names: [&[u8]; N],
) -> Option<[Option<u64>; N]> {
    let table = layout.word(head, 40, 32)?;
    let (size, count) = if layout.wide { (58, 60) } else { (46, 48) };
    let (size, count) = (usize::from(head.u16_at(size)?), usize::from(head.u16_at(count)?));
    let read = |offset: u64, size: u64| {
        let inside = offset.checked_add(size)? <= len && size <= TABLE_MAX;
        if inside { read_at(file, offset, size as usize).ok() } else { None }
    };
    if size < if layout.wide { 64 } else { 40 } {
        return None;
    }
    let headers = read(table, (size * count) as u64)?;
    let sections: Vec<Section> = headers.chunks_exact(size).filter_map(|h| layout.section(h)).collect();
    let symbols = sections.iter().find(|section| section.kind == SHT_SYMTAB)?;
    let strings = sections.get(symbols.link as usize)?;
    let (symbols, strings) = (read(symbols.offset, symbols.size)?, read(strings.offset, strings.size)?);
    let mut found = [None; N];
    for symbol in symbols.chunks_exact(if layout.wide { 24 } else { 16 }) {
        let name = symbol.u32_at(0)? as usize;
        let rest = strings.get(name..).unwrap_or_default();
        for (wanted, value) in names.iter().zip(&mut found) {
            if rest.strip_prefix(*wanted).is_some_and(|rest| rest.first() == Some(&0)) {
                *value = layout.word(symbol, 8, 4);
            }
        }
    }
    Some(found)
}
