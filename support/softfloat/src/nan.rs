//! Which NaN comes out.

use crate::env::{Env, Flags, NanRule};
use crate::format::{Float, INTEGER_BIT, Kind, QUIET_BIT, Unpacked, quiet_nan};

/// The NaN an invalid operation creates.
pub(crate) fn default_nan<F: Float>(env: &Env) -> F {
    let negative = matches!(env.nan_rule, NanRule::Sse | NanRule::X87);
    quiet_nan(negative, INTEGER_BIT | QUIET_BIT)
}

/// Raises invalid and delivers the default NaN.
pub(crate) fn invalid<F: Float>(env: &mut Env) -> F {
    env.raise(Flags::INVALID);
    default_nan(env)
}

/// The result of an operation of which at least one operand is a NaN or unsupported. The operands come in the order
/// in which the architecture prefers them.
pub(crate) fn propagate<F: Float>(env: &mut Env, operands: &[Unpacked]) -> F {
    let mut kinds = operands.iter().map(|operand| operand.kind);
    if kinds.any(|kind| matches!(kind, Kind::SignalingNan | Kind::Unsupported)) {
        env.raise(Flags::INVALID);
    }
    if operands.iter().any(|operand| operand.kind == Kind::Unsupported) {
        return default_nan(env);
    }
    let first = |kind: Kind| operands.iter().find(|operand| operand.kind == kind);
    let chosen = match env.nan_rule {
        NanRule::Canonical => None,
        NanRule::Sse => operands.iter().find(|operand| operand.is_nan()),
        NanRule::Arm => first(Kind::SignalingNan).or_else(|| first(Kind::QuietNan)),
        NanRule::X87 => {
            let wanted = if first(Kind::QuietNan).is_some() { Kind::QuietNan } else { Kind::SignalingNan };
            operands.iter().filter(|operand| operand.kind == wanted).max_by_key(|nan| (nan.sig, !nan.sign))
        }
    };
    match chosen {
        Some(nan) => quiet_nan(nan.sign, nan.sig),
        None => default_nan(env),
    }
}
