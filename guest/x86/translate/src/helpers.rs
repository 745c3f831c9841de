//! The helper table: Rust functions that translated code calls, and what the translator must know of each.

use rhea_ir::{HelperInfo, SlotAccess, Type};

/// A helper's number, in table order.
macro_rules! helper_infos {
    ($( $(#[doc = $doc:expr])* $id:ident = $name:literal ( $($param:ident),* ) -> $result:ident,
        reads $reads:expr, writes $writes:expr, exits $exits:literal, pure $pure:literal; )*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "numbers only")]
        enum Number { $( $id, )* COUNT_ }
        $( $(#[doc = $doc])* pub const $id: u32 = Number::$id as u32; )*
        /// Number of helpers of this table; those of the vector instructions follow.
        pub const COUNT: u32 = Number::COUNT_ as u32;
        /// Descriptions, by number.
        pub static INFOS: [HelperInfo; COUNT as usize] = [ $( HelperInfo {
            name: $name, params: &[$(Type::$param),*], result: Type::$result,
            reads: $reads, writes: $writes, may_exit: $exits, pure: $pure,
        }, )* ];
    };
}

const NONE: SlotAccess = SlotAccess::None;

helper_infos! {
    /// The six arithmetic flags of a flag record (op, dst, src, src2).
    COMPUTE_FLAGS = "compute_flags"(I32, I64, I64, I64) -> I64, reads NONE, writes NONE, exits false, pure true;
    /// Checks an access to a segment outside 64-bit mode (segment | bytes << 8 | write << 24, offset); #GP or #SS.
    CHECK_SEGMENT = "check_segment"(I32, I64) -> Void, reads NONE, writes NONE, exits true, pure false;
}

/// Description of helper `id`.
pub fn info(id: u32) -> &'static HelperInfo {
    match INFOS.get(id as usize) {
        Some(info) => info,
        None => &crate::vector_helpers::INFOS[(id - COUNT) as usize],
    }
}
