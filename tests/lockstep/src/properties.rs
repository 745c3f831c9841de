//! What must hold for any input: the bodies of the fuzz targets in `fuzz/`, and of tests that feed them from a seed.

use std::sync::OnceLock;

use rhea_backend_x64::{Compiler, Features, HelperTarget, Layout, MAX_HOT, MemoryModel, ThunkAddresses};
use rhea_engine::frame;
use rhea_ir::{Builder, HelperInfo, Unit};
use rhea_options::{Options, parse_integer, parse_size};
use rhea_x86_state::mode;
use rhea_x86_state::model::CpuModel;
use rhea_x86_translate::features::InstructionSet;
use rhea_x86_translate::{helpers, slots, unit};

/// Where compiled code would lie, and its thunks.
const BASE: u64 = 0x10_0000;

/// The frame layout of the engine, with thunks at made-up addresses.
fn layout(features: Features) -> Layout {
    let (read, write, stride) = frame::tlb_displacements();
    Layout {
        features,
        memory: MemoryModel::SoftTlb { read, write, stride, bits: frame::TLB_BITS as u8 },
        pc: slots::RIP,
        hot: (0..MAX_HOT).map(|i| slots::gpr(i).offset).collect(),
        frame: frame::backend_frame(false),
        bias: frame::BIAS,
        thunks: ThunkAddresses::default(),
        memory_function: BASE,
        longest_insn: unit::MAX_LENGTH as u32,
        spill_bytes: 4096,
        no_chain: false,
    }
}

/// The x86 front end and the back end for two kinds of host.
pub struct X86 {
    sets: [InstructionSet; 2],
    infos: Vec<HelperInfo>,
    compilers: [Compiler; 2],
    builder: Builder,
}

impl Default for X86 {
    fn default() -> Self {
        let targets = || {
            let address = |h: &rhea_engine::Helper| HelperTarget { info: h.info, address: BASE };
            helpers::table().iter().map(address).collect::<Vec<_>>()
        };
        let compiler = |features| {
            let mut layout = layout(features);
            layout.thunks = rhea_backend_x64::emit_thunks(&layout, BASE).addresses;
            Compiler::new(layout, targets())
        };
        let small = CpuModel::named("qemu64").expect("a model");
        X86 {
            sets: [InstructionSet::all(), InstructionSet::of(small.features())],
            infos: helpers::infos(),
            compilers: [compiler(Features::detect()), compiler(Features::default())],
            builder: Builder::new(),
        }
    }
}

/// A mode word that a processor can be in, from arbitrary bits.
fn mode_word(bits: u64) -> u64 {
    let long = mode::PE | mode::LMA;
    let base = match bits & 7 {
        0 => mode::IOPL_OK,
        1 => mode::PE,
        2 => mode::PE | mode::CS32 | mode::SS32,
        3 => mode::PE | mode::VM86 | mode::CPL,
        4 => long,
        5 => long | mode::CS32 | mode::SS32,
        _ => long | mode::CS64 | mode::SS32,
    };
    let code64 = base & mode::CS64 != 0;
    let mut free = mode::EM
        | mode::TS
        | mode::MP
        | mode::OSFXSR
        | mode::AVX
        | mode::SMM
        | mode::SSE_UNMASKED
        | mode::X87_UNMASKED
        | mode::TF
        | mode::SHADOW
        | mode::DATA_BREAKPOINTS
        | mode::CODE_BREAKPOINTS
        | mode::IOPL_OK
        | mode::OSXSAVE
        | mode::FSGSBASE;
    if base & mode::PE != 0 && base & mode::VM86 == 0 {
        free |= mode::CPL | mode::SMAP | mode::ALIGNMENT_CHECK | mode::UMIP | mode::NO_PCE;
    }
    if !code64 {
        free |= mode::ADD_SEGMENT | mode::CHECK_SEGMENTS | 0xffff_ffff << mode::CS_BASE_SHIFT;
    }
    // Rare bits come together seldom: half of the words have none.
    let rare =
        if bits >> 8 & 1 != 0 { bits.rotate_left(21) } else { mode::OSFXSR | mode::AVX | mode::OSXSAVE };
    base | rare & free
}

impl X86 {
    /// Any bytes under any mode: they translate, the unit is well formed, prints and parses back, and compiles.
    ///
    /// The first ten bytes choose the mode, the processor and the host; the rest is code.
    ///
    /// # Panics
    /// If something of that does not hold.
    pub fn translates(&mut self, data: &[u8]) {
        let Some((head, code)) = data.split_first_chunk::<10>() else { return };
        let bits =
            u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]);
        let word = mode_word(bits);
        let pc = match head[8] & 3 {
            0 => 0x7c00,
            1 => 0xfff0,
            2 if word & mode::CS64 != 0 => 0xffff_ffff_ffff_ff00,
            2 => 0xffff_fff0,
            _ => 0x40_0000 + u64::from(head[8]),
        } & if word & (mode::CS32 | mode::CS64) == 0 { 0xffff } else { u64::MAX };
        let set = &self.sets[usize::from(head[9] & 1)];
        let most = 1 + u32::from(head[9] >> 2);
        self.builder.start(pc);
        if unit::translate(set, &mut self.builder, code, pc, word, most).is_err() {
            assert!(code.len() < unit::MAX_LENGTH, "more bytes are wanted than an instruction can have");
            return;
        }
        let unit = &self.builder.unit;
        let text = || rhea_ir::text::print(unit, &self.infos);
        assert_eq!(rhea_ir::verify(unit, &self.infos), Ok(()), "mode {word:#x}\n{}", text());
        assert!(unit.len as usize <= code.len() && unit.len > 0 && unit.insn_count <= most);
        let printed = text();
        match rhea_ir::parser::parse(&printed, &self.infos) {
            Ok(again) => assert_eq!(rhea_ir::text::print(&again, &self.infos), printed),
            Err(e) => panic!("{e}\n{printed}"),
        }
        // What a back end does not support it says; the engine then interprets the unit.
        let _ = self.compilers[usize::from(head[9] >> 1 & 1)].compile(unit, BASE + 0x1_0000, 0).is_ok();
    }
}

/// Any text is a unit or an error; a unit that the verifier accepts prints, parses back to the same, and compiles.
///
/// # Panics
/// If that does not hold.
pub fn ir_text(text: &str) {
    static INFOS: OnceLock<Vec<HelperInfo>> = OnceLock::new();
    let infos = INFOS.get_or_init(helpers::infos);
    let Ok(unit) = rhea_ir::parser::parse(text, infos) else { return };
    if rhea_ir::verify(&unit, infos).is_err() {
        return;
    }
    same_again(&unit, infos);
}

fn same_again(unit: &Unit, infos: &[HelperInfo]) {
    let printed = rhea_ir::text::print(unit, infos);
    match rhea_ir::parser::parse(&printed, infos) {
        Ok(again) => assert_eq!(rhea_ir::text::print(&again, infos), printed),
        Err(e) => panic!("{e}\n{printed}"),
    }
}

/// Any text is options or an error; what was parsed prints and parses back.
///
/// # Panics
/// If that does not hold.
pub fn options_text(text: &str) {
    let _ = parse_size(text, 1 << 20);
    let _ = parse_integer(text);
    let _ = Options::parse(text, Some("implied"));
    if let Ok(options) = Options::parse(text, None)
        && !text.starts_with('{')
    {
        let printed = options.to_string();
        assert_eq!(Options::parse(&printed, None).ok().map(|o| o.to_string()), Some(printed));
    }
}
