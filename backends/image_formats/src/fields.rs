//! Numbers as headers and tables store them.

macro_rules! fields {
    ($($get:ident $put:ident $number:ty, $from:ident, $to:ident;)*) => {
        $(
            pub(crate) fn $get(bytes: &[u8], at: usize) -> $number {
                let mut field = [0; size_of::<$number>()];
                field.copy_from_slice(&bytes[at..at + size_of::<$number>()]);
                <$number>::$from(field)
            }

            #[allow(dead_code, reason = "one set of names for both directions")]
            pub(crate) fn $put(bytes: &mut [u8], at: usize, value: $number) {
                bytes[at..at + size_of::<$number>()].copy_from_slice(&value.$to());
            }
        )*
    };
}

fields! {
    le32 put_le32 u32, from_le_bytes, to_le_bytes;
    le64 put_le64 u64, from_le_bytes, to_le_bytes;
    be16 put_be16 u16, from_be_bytes, to_be_bytes;
    be32 put_be32 u32, from_be_bytes, to_be_bytes;
    be64 put_be64 u64, from_be_bytes, to_be_bytes;
}
