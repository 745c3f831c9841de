//! The extensions by name: one row each, with the property that `-cpu` uses.
//!
//! An extension that is not implemented has a row too, so that it can be refused by name.

/// Where an extension stands in the ISA string (unprivileged specification, "ISA Extension Naming Conventions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One letter, part of the first component.
    Letter,
    /// Several letters; its own component.
    Word,
    /// A mode of the hart (M, S, U) or a group of others: not in the string.
    Unlisted,
}

/// What is known of an extension.
#[derive(Clone, Copy, Debug)]
pub struct ExtensionInfo {
    /// Which.
    pub extension: Extension,
    /// Its name: the property of `-cpu`, and its part of the ISA string.
    pub name: &'static str,
    /// Its place in the ISA string.
    pub class: Class,
    /// It can be switched on.
    pub implemented: bool,
    /// What it is, in a few words.
    pub summary: &'static str,
}

macro_rules! extensions {
    ($($variant:ident $name:literal $class:ident $implemented:ident $summary:literal)*) => {
        /// An extension of the instruction set or of the privileged architecture.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each row says what it is")]
        pub enum Extension { $(#[doc = $summary] $variant,)* }

        /// Every extension, by discriminant.
        pub const EXTENSIONS: &[ExtensionInfo] = &[$(ExtensionInfo {
            extension: Extension::$variant,
            name: $name,
            class: Class::$class,
            implemented: extensions!(@ $implemented),
            summary: $summary,
        },)*];
    };
    (@ yes) => { true };
    (@ no) => { false };
}

extensions! {
    I "i" Letter yes "base integer instructions"
    E "e" Letter no "base integer instructions with 16 registers"
    M "m" Letter yes "integer multiplication and division"
    A "a" Letter yes "atomic instructions"
    F "f" Letter yes "single-precision floating point"
    D "d" Letter yes "double-precision floating point"
    C "c" Letter yes "compressed instructions"
    B "b" Letter yes "bit manipulation (Zba, Zbb, Zbs)"
    V "v" Letter yes "vector instructions"
    H "h" Letter yes "hypervisor"
    G "g" Unlisted yes "IMAFD, Zicsr and Zifencei together"
    S "s" Unlisted yes "supervisor mode"
    U "u" Unlisted yes "user mode"
    Zicbom "zicbom" Word yes "cache-block management"
    Zicbop "zicbop" Word yes "cache-block prefetch"
    Zicboz "zicboz" Word yes "cache-block zero"
    Ziccamoa "ziccamoa" Word yes "main memory supports every AMO of A"
    Ziccif "ziccif" Word yes "main memory supports atomic instruction fetch"
    Zicclsm "zicclsm" Word yes "main memory supports misaligned accesses"
    Ziccrse "ziccrse" Word yes "main memory supports eventual success of LR/SC"
    Zicfilp "zicfilp" Word no "landing pads"
    Zicfiss "zicfiss" Word no "shadow stack"
    Zicntr "zicntr" Word yes "base counters and timer"
    Zicond "zicond" Word yes "integer conditional operations"
    Zicsr "zicsr" Word yes "CSR instructions"
    Zifencei "zifencei" Word yes "instruction-fetch fence"
    Zihintntl "zihintntl" Word yes "non-temporal locality hints"
    Zihintpause "zihintpause" Word yes "pause hint"
    Zihpm "zihpm" Word yes "hardware performance counters"
    Zimop "zimop" Word yes "may-be-operations"
    Zic64b "zic64b" Word yes "cache blocks of 64 bytes"
    Zmmul "zmmul" Word yes "integer multiplication only"
    Za64rs "za64rs" Word yes "reservation sets of at most 64 bytes"
    Zaamo "zaamo" Word yes "atomic memory operations"
    Zabha "zabha" Word yes "byte and halfword atomics"
    Zacas "zacas" Word yes "atomic compare-and-swap"
    Zalrsc "zalrsc" Word yes "load-reserved and store-conditional"
    Zama16b "zama16b" Word no "misaligned atomicity within 16 bytes"
    Zawrs "zawrs" Word yes "wait on reservation set"
    Zfa "zfa" Word yes "additional floating-point instructions"
    Zfbfmin "zfbfmin" Word no "BF16 conversions"
    Zfh "zfh" Word yes "half-precision floating point"
    Zfhmin "zfhmin" Word yes "half-precision conversions"
    Zfinx "zfinx" Word no "floating point in integer registers"
    Zdinx "zdinx" Word no "double-precision floating point in integer registers"
    Zca "zca" Word yes "compressed instructions without floating point"
    Zcb "zcb" Word yes "additional compressed instructions"
    Zcd "zcd" Word yes "compressed double-precision loads and stores"
    Zcf "zcf" Word yes "compressed single-precision loads and stores"
    Zcmop "zcmop" Word yes "compressed may-be-operations"
    Zcmp "zcmp" Word no "compressed push and pop"
    Zcmt "zcmt" Word no "compressed table jumps"
    Zba "zba" Word yes "address generation"
    Zbb "zbb" Word yes "basic bit manipulation"
    Zbc "zbc" Word yes "carry-less multiplication"
    Zbkb "zbkb" Word yes "bit manipulation for cryptography"
    Zbkc "zbkc" Word yes "carry-less multiplication for cryptography"
    Zbkx "zbkx" Word yes "crossbar permutations"
    Zbs "zbs" Word yes "single-bit instructions"
    Zk "zk" Word yes "standard scalar cryptography (Zkn, Zkr, Zkt)"
    Zkn "zkn" Word yes "NIST algorithms"
    Zknd "zknd" Word yes "AES decryption"
    Zkne "zkne" Word yes "AES encryption"
    Zknh "zknh" Word yes "SHA-2 hash functions"
    Zkr "zkr" Word yes "entropy source"
    Zks "zks" Word yes "ShangMi algorithms"
    Zksed "zksed" Word yes "SM4 block cipher"
    Zksh "zksh" Word yes "SM3 hash function"
    Zkt "zkt" Word yes "data-independent execution latency"
    Ztso "ztso" Word no "total store ordering"
    Zvbb "zvbb" Word yes "vector bit manipulation"
    Zvbc "zvbc" Word yes "vector carry-less multiplication"
    Zve32f "zve32f" Word yes "vectors of 32-bit integers and floats"
    Zve32x "zve32x" Word yes "vectors of 32-bit integers"
    Zve64d "zve64d" Word yes "vectors of 64-bit integers and doubles"
    Zve64f "zve64f" Word yes "vectors of 64-bit integers and floats"
    Zve64x "zve64x" Word yes "vectors of 64-bit integers"
    Zvfh "zvfh" Word yes "vector half-precision floating point"
    Zvfhmin "zvfhmin" Word yes "vector half-precision conversions"
    Zvkb "zvkb" Word yes "vector bit manipulation for cryptography"
    Zvkg "zvkg" Word yes "vector GHASH"
    Zvkn "zvkn" Word yes "vector NIST algorithms"
    Zvknc "zvknc" Word yes "vector NIST algorithms with carry-less multiplication"
    Zvkned "zvkned" Word yes "vector AES"
    Zvkng "zvkng" Word yes "vector NIST algorithms with GHASH"
    Zvknha "zvknha" Word yes "vector SHA-256"
    Zvknhb "zvknhb" Word yes "vector SHA-512 and SHA-256"
    Zvks "zvks" Word yes "vector ShangMi algorithms"
    Zvksc "zvksc" Word yes "vector ShangMi algorithms with carry-less multiplication"
    Zvksed "zvksed" Word yes "vector SM4"
    Zvksg "zvksg" Word yes "vector ShangMi algorithms with GHASH"
    Zvksh "zvksh" Word yes "vector SM3"
    Zvkt "zvkt" Word yes "vector data-independent execution latency"
    Supm "supm" Word yes "pointer masking for user mode"
    Smaia "smaia" Word yes "advanced interrupt architecture, machine level"
    Smepmp "smepmp" Word yes "PMP enhancements"
    Smstateen "smstateen" Word yes "state enable, machine level"
    Smcntrpmf "smcntrpmf" Word no "filtering of cycle and instret"
    Smcsrind "smcsrind" Word no "indirect CSRs, machine level"
    Smdbltrp "smdbltrp" Word no "double traps, machine level"
    Smmpm "smmpm" Word yes "pointer masking for machine mode"
    Smnpm "smnpm" Word yes "pointer masking, set by machine mode"
    Smrnmi "smrnmi" Word no "resumable non-maskable interrupts"
    Ssaia "ssaia" Word yes "advanced interrupt architecture, supervisor level"
    Ssccfg "ssccfg" Word no "supervisor counter configuration"
    Ssccptr "ssccptr" Word yes "main memory supports page-table reads"
    Sscofpmf "sscofpmf" Word yes "counter overflow and filtering"
    Sscounterenw "sscounterenw" Word yes "scounteren is writable for every counter"
    Sscsrind "sscsrind" Word no "indirect CSRs, supervisor level"
    Ssdbltrp "ssdbltrp" Word no "double traps, supervisor level"
    Ssnpm "ssnpm" Word yes "pointer masking, set by supervisor mode"
    Sspm "sspm" Word yes "pointer masking for supervisor mode"
    Ssstateen "ssstateen" Word yes "state enable, supervisor view"
    Sstc "sstc" Word yes "supervisor timer compare"
    Sstvala "sstvala" Word yes "stval holds the faulting address"
    Sstvecd "sstvecd" Word yes "stvec supports direct mode"
    Ssu64xl "ssu64xl" Word yes "UXL can be 64"
    Sha "sha" Word yes "augmented hypervisor"
    Shcounterenw "shcounterenw" Word yes "hcounteren is writable for every counter"
    Shgatpa "shgatpa" Word yes "hgatp has every mode that satp has"
    Shtvala "shtvala" Word yes "htval holds the faulting guest physical address"
    Shvsatpa "shvsatpa" Word yes "vsatp has every mode that satp has"
    Shvstvala "shvstvala" Word yes "vstval holds the faulting address"
    Shvstvecd "shvstvecd" Word yes "vstvec supports direct mode"
    Svade "svade" Word yes "page faults where A or D is clear"
    Svadu "svadu" Word yes "hardware update of A and D"
    Svbare "svbare" Unlisted yes "satp mode Bare"
    Svinval "svinval" Word yes "fine-grained invalidation of translations"
    Svnapot "svnapot" Word yes "NAPOT translation contiguity"
    Svpbmt "svpbmt" Word yes "page-based memory types"
    Svvptc "svvptc" Word yes "valid entries become visible in bounded time"
}

impl Extension {
    /// What is known of it.
    pub fn info(self) -> &'static ExtensionInfo {
        &EXTENSIONS[self as usize]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The extension of this name.
    pub fn find(name: &str) -> Option<Self> {
        EXTENSIONS.iter().find(|e| e.name == name).map(|e| e.extension)
    }
}

/// A set of extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExtensionSet {
    bits: [u64; WORDS],
}

/// Words of a set.
const WORDS: usize = EXTENSIONS.len().div_ceil(64);

impl ExtensionSet {
    /// A set of the listed extensions.
    pub const fn of(extensions: &[Extension]) -> Self {
        let mut set = Self { bits: [0; WORDS] };
        let mut i = 0;
        while i < extensions.len() {
            let at = extensions[i] as usize;
            set.bits[at / 64] |= 1 << (at % 64);
            i += 1;
        }
        set
    }

    /// Whether an extension is in the set.
    #[inline]
    pub const fn has(&self, extension: Extension) -> bool {
        let at = extension as usize;
        self.bits[at / 64] >> (at % 64) & 1 != 0
    }

    /// Adds or removes an extension.
    pub const fn set(&mut self, extension: Extension, on: bool) {
        let at = extension as usize;
        let bit = 1 << (at % 64);
        self.bits[at / 64] = if on { self.bits[at / 64] | bit } else { self.bits[at / 64] & !bit };
    }

    /// The extensions of both sets.
    pub const fn union(mut self, other: Self) -> Self {
        let mut i = 0;
        while i < WORDS {
            self.bits[i] |= other.bits[i];
            i += 1;
        }
        self
    }

    /// The extensions of this set that are not in the other.
    pub const fn without(mut self, other: Self) -> Self {
        let mut i = 0;
        while i < WORDS {
            self.bits[i] &= !other.bits[i];
            i += 1;
        }
        self
    }

    /// Its members, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Extension> {
        EXTENSIONS.iter().map(|e| e.extension).filter(move |e| self.has(*e))
    }
}
