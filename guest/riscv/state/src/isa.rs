//! The ISA string and the properties of a device tree's CPU node that tell it (`riscv,isa`, `riscv,isa-base`,
//! `riscv,isa-extensions`; binding "riscv/extensions"), in the order of the unprivileged specification's
//! "ISA Extension Naming Conventions".

use crate::CpuModel;
use crate::extension::{Class, Extension, Extension as X};

/// Single letters after the base.
const LETTERS: &str = "mafdqcbvph";
/// Categories of Z-prefixed extensions, in the order of the related single letters.
const CATEGORIES: &str = "imafdqlcbkjtvph";

/// Sorts a word by prefix, category and alphabet.
fn rank(name: &str) -> (usize, usize, &str) {
    let second = name.chars().nth(1).unwrap_or_default();
    if name.starts_with('z') {
        return (0, CATEGORIES.find(second).unwrap_or(CATEGORIES.len()), name);
    }
    let prefixes = ["su", "ss", "sv", "sh", "sm"];
    let prefix = prefixes.iter().position(|p| name.starts_with(p)).unwrap_or(prefixes.len());
    (1 + prefix, 0, name)
}

impl CpuModel {
    /// `rv32i` or `rv64i`.
    pub fn isa_base(&self) -> &'static str {
        if self.config().xlen == 32 { "rv32i" } else { "rv64i" }
    }

    /// The names of all extensions in canonical order, `i` first.
    pub fn isa_extensions(&self) -> Vec<&'static str> {
        let of = |class| self.extensions().iter().filter(move |e: &Extension| e.info().class == class);
        let mut letters: Vec<_> = of(Class::Letter).filter(|e| *e != X::I).map(Extension::name).collect();
        letters.sort_by_key(|name| LETTERS.find(*name));
        let mut words: Vec<_> = of(Class::Word).map(Extension::name).collect();
        words.sort_by_key(|name| rank(name));
        let mut all = vec!["i"];
        all.extend(letters);
        all.extend(words);
        all
    }

    /// The whole string, such as `rv64imafdc_zicsr_zifencei`.
    pub fn isa_string(&self) -> String {
        let mut text = self.isa_base().to_owned();
        for name in self.isa_extensions().into_iter().skip(1) {
            if name.len() > 1 {
                text.push('_');
            }
            text.push_str(name);
        }
        text
    }

    /// The device tree's `mmu-type`; nothing without paging.
    pub fn mmu_type(&self) -> Option<String> {
        let max = self.config().satp_max;
        (max != crate::state::satp::BARE).then(|| format!("riscv,{}", crate::state::satp::name(max)))
    }
}
