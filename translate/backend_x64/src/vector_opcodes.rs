//! Which host instruction does a vector operation (Intel SDM vol. 2).

use crate::asm::{Map, Pp, VOpcode};
use rhea_ir::{Lane, Op};

pub(crate) const fn p66(op: u8) -> VOpcode {
    VOpcode::new(Pp::P66, Map::M0F, op)
}

pub(crate) const fn p66_38(op: u8) -> VOpcode {
    VOpcode::new(Pp::P66, Map::M0F38, op)
}

pub(crate) const fn p66_3a(op: u8) -> VOpcode {
    VOpcode::new(Pp::P66, Map::M0F3A, op)
}

pub(crate) const XORPS: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0x57);
pub(crate) const MOVAPS: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0x28);
pub(crate) const MOVQ: VOpcode = VOpcode::new(Pp::F3, Map::M0F, 0x7e);
pub(crate) const PSHUFD: VOpcode = p66(0x70);
pub(crate) const PSHUFLW: VOpcode = VOpcode::new(Pp::F2, Map::M0F, 0x70);
pub(crate) const PSHUFHW: VOpcode = VOpcode::new(Pp::F3, Map::M0F, 0x70);
pub(crate) const SHUFPS: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0xc6);
pub(crate) const INSERT_HALF: VOpcode = p66_3a(0x38);
pub(crate) const EXTRACT_HALF: VOpcode = p66_3a(0x39);

/// The opcode for each lane width I8, I16, I32, I64.
pub(crate) fn by_lane(lane: Lane, ops: [Option<VOpcode>; 4]) -> Option<VOpcode> {
    match lane {
        Lane::I8 => ops[0],
        Lane::I16 => ops[1],
        Lane::I32 => ops[2],
        Lane::I64 => ops[3],
        _ => None,
    }
}

/// Instruction for `a` OP `b`, operands in that order, no immediate.
pub(crate) fn binary_opcode(op: Op, lane: Lane) -> Option<VOpcode> {
    let all = |x: [u8; 4]| by_lane(lane, x.map(|o| Some(p66(o))));
    let some = |x: [Option<VOpcode>; 4]| by_lane(lane, x);
    match op {
        Op::VAnd => Some(p66(0xdb)),
        Op::VOr => Some(p66(0xeb)),
        Op::VXor => Some(p66(0xef)),
        Op::VAdd => all([0xfc, 0xfd, 0xfe, 0xd4]),
        Op::VSub => all([0xf8, 0xf9, 0xfa, 0xfb]),
        Op::VAddSatS => some([Some(p66(0xec)), Some(p66(0xed)), None, None]),
        Op::VAddSatU => some([Some(p66(0xdc)), Some(p66(0xdd)), None, None]),
        Op::VSubSatS => some([Some(p66(0xe8)), Some(p66(0xe9)), None, None]),
        Op::VSubSatU => some([Some(p66(0xd8)), Some(p66(0xd9)), None, None]),
        Op::VMul => some([None, Some(p66(0xd5)), Some(p66_38(0x40)), None]),
        Op::VMulHiS => Some(p66(0xe5)),
        Op::VMulHiU => Some(p66(0xe4)),
        Op::VMulHiRoundS => Some(p66_38(0x0b)),
        Op::VMulEvenU => Some(p66(0xf4)),
        Op::VMulEvenS => Some(p66_38(0x28)),
        Op::VMulAddPairs => Some(p66(0xf5)),
        Op::VMulAddPairsUS => Some(p66_38(0x04)),
        Op::VSad => Some(p66(0xf6)),
        Op::VAvgU => some([Some(p66(0xe0)), Some(p66(0xe3)), None, None]),
        Op::VMinS => some([Some(p66_38(0x38)), Some(p66(0xea)), Some(p66_38(0x39)), None]),
        Op::VMinU => some([Some(p66(0xda)), Some(p66_38(0x3a)), Some(p66_38(0x3b)), None]),
        Op::VMaxS => some([Some(p66_38(0x3c)), Some(p66(0xee)), Some(p66_38(0x3d)), None]),
        Op::VMaxU => some([Some(p66(0xde)), Some(p66_38(0x3e)), Some(p66_38(0x3f)), None]),
        Op::VSign => some([Some(p66_38(0x08)), Some(p66_38(0x09)), Some(p66_38(0x0a)), None]),
        Op::VHAdd => some([None, Some(p66_38(0x01)), Some(p66_38(0x02)), None]),
        Op::VHSub => some([None, Some(p66_38(0x05)), Some(p66_38(0x06)), None]),
        Op::VHAddSat => Some(p66_38(0x03)),
        Op::VHSubSat => Some(p66_38(0x07)),
        Op::VCmpEq => some([Some(p66(0x74)), Some(p66(0x75)), Some(p66(0x76)), Some(p66_38(0x29))]),
        Op::VCmpGtS => some([Some(p66(0x64)), Some(p66(0x65)), Some(p66(0x66)), Some(p66_38(0x37))]),
        Op::VShl => some([None, Some(p66(0xf1)), Some(p66(0xf2)), Some(p66(0xf3))]),
        Op::VShr => some([None, Some(p66(0xd1)), Some(p66(0xd2)), Some(p66(0xd3))]),
        Op::VSar => some([None, Some(p66(0xe1)), Some(p66(0xe2)), None]),
        Op::VShlVar => some([None, None, Some(p66_38(0x47)), Some(p66_38(0x47).w())]),
        Op::VShrVar => some([None, None, Some(p66_38(0x45)), Some(p66_38(0x45).w())]),
        Op::VSarVar => some([None, None, Some(p66_38(0x46)), None]),
        Op::VUnpackLo => all([0x60, 0x61, 0x62, 0x6c]),
        Op::VUnpackHi => all([0x68, 0x69, 0x6a, 0x6d]),
        Op::VPackSS => some([None, Some(p66(0x63)), Some(p66(0x6b)), None]),
        Op::VPackUS => some([None, Some(p66(0x67)), Some(p66_38(0x2b)), None]),
        Op::VShuffleBytes => Some(p66_38(0x00)),
        Op::VPermuteIn => some([None, None, Some(p66_38(0x0c)), Some(p66_38(0x0d))]),
        Op::AesEnc => Some(p66_38(0xdc)),
        Op::AesEncLast => Some(p66_38(0xdd)),
        Op::AesDec => Some(p66_38(0xde)),
        Op::AesDecLast => Some(p66_38(0xdf)),
        _ => None,
    }
}

/// Instruction for `a` OP `b` with an immediate byte.
pub(crate) fn binary_imm_opcode(op: Op, lane: Lane) -> Option<VOpcode> {
    match op {
        Op::VAlign => Some(p66_3a(0x0f)),
        Op::VShuffle2 => by_lane(lane, [None, None, Some(SHUFPS), Some(p66(0xc6))]),
        Op::VPermuteHalves => Some(p66_3a(0x46)),
        Op::VBlendImm => by_lane(lane, [None, Some(p66_3a(0x0e)), Some(p66_3a(0x0c)), Some(p66_3a(0x0d))]),
        Op::VMultiSad => Some(p66_3a(0x42)),
        Op::Clmul => Some(p66_3a(0x44)),
        _ => None,
    }
}

/// Instruction for OP `a`, with an immediate where the second field says so.
pub(crate) fn unary_opcode(op: Op, lane: Lane) -> Option<(VOpcode, bool)> {
    match op {
        Op::VAbs => Some((by_lane(lane, [0x1c, 0x1d, 0x1e, 0].map(|o| Some(p66_38(o))))?, false)),
        Op::VShuffle32 => Some((PSHUFD, true)),
        Op::VShuffleLo16 => Some((PSHUFLW, true)),
        Op::VShuffleHi16 => Some((PSHUFHW, true)),
        Op::VPermute64 => Some((p66_3a(0x00).w(), true)),
        Op::VMinPos => Some((p66_38(0x41), false)),
        Op::AesImc => Some((p66_38(0xdb), false)),
        Op::AesKeygen => Some((p66_3a(0xdf), true)),
        _ => None,
    }
}

/// Opcode and /digit of a lane shift by an immediate.
pub(crate) fn shift_imm_opcode(op: Op, lane: Lane) -> Option<(VOpcode, u8)> {
    let group = match lane {
        Lane::I16 => 0x71,
        Lane::I32 => 0x72,
        _ => 0x73,
    };
    let narrow = matches!(lane, Lane::I16 | Lane::I32);
    match op {
        Op::VShlImm if narrow || lane == Lane::I64 => Some((p66(group), 6)),
        Op::VShrImm if narrow || lane == Lane::I64 => Some((p66(group), 2)),
        Op::VSarImm if narrow => Some((p66(group), 4)),
        Op::VShlBytes => Some((p66(0x73), 7)),
        Op::VShrBytes => Some((p66(0x73), 3)),
        _ => None,
    }
}

/// Legacy-only SHA instructions.
pub(crate) fn sha_opcode(op: Op) -> Option<VOpcode> {
    let n38 = |o| Some(VOpcode::new(Pp::None, Map::M0F38, o));
    match op {
        Op::Sha1Rounds => Some(VOpcode::new(Pp::None, Map::M0F3A, 0xcc)),
        Op::Sha1NextE => n38(0xc8),
        Op::Sha1Msg1 => n38(0xc9),
        Op::Sha1Msg2 => n38(0xca),
        Op::Sha256Rounds => n38(0xcb),
        Op::Sha256Msg1 => n38(0xcc),
        Op::Sha256Msg2 => n38(0xcd),
        _ => None,
    }
}
