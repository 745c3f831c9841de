//! Saved state: each device's own numbered record type, apart from its runtime type.
//!
//! A record is a plain struct declared with [`saved_record!`](crate::saved_record): its name and version go
//! with it, its fields are written in order, little-endian. Reading is bounds-checked everywhere: a record is
//! untrusted input.

use std::fmt;

/// Why a saved record cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The record ends before all fields were read.
    #[error("saved state of {0} is cut short")]
    Truncated(String),
    /// Bytes are left after the last field.
    #[error("saved state of {0} is longer than its version says")]
    TrailingBytes(String),
    /// The record is of another device.
    #[error("saved state is of {found}, not of {expected}")]
    WrongDevice {
        /// Name this device saves under.
        expected: String,
        /// Name in the record.
        found: String,
    },
    /// The record has a version this build does not know.
    #[error("saved state of {device} has version {version}, which is not known here")]
    UnknownVersion {
        /// Device name.
        device: String,
        /// Version in the record.
        version: u32,
    },
    /// A field holds what the device can never be in.
    #[error("saved state of {device}: {field} is out of range")]
    BadValue {
        /// Device name.
        device: &'static str,
        /// Field.
        field: &'static str,
    },
}

/// One device's state as it stands in a stream.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedRecord {
    /// Name of the record type.
    pub name: String,
    /// Version of the record type.
    pub version: u32,
    /// Encoded fields.
    pub data: Vec<u8>,
}

impl fmt::Debug for SavedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedRecord({} v{}, {} bytes)", self.name, self.version, self.data.len())
    }
}

/// Appends fields to a record.
#[derive(Default)]
pub struct Encoder(pub Vec<u8>);

/// Takes fields from a record.
pub struct Decoder<'a>(pub &'a [u8]);

impl Decoder<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

/// A value that can be a field of a record.
pub trait SavedField: Sized {
    /// Appends the value.
    fn encode(&self, to: &mut Encoder);
    /// Takes the value; `None` if the record is too short or holds no such value.
    fn decode(from: &mut Decoder<'_>) -> Option<Self>;
}

macro_rules! integer_field {
    ($($ty:ty),*) => {$(
        impl SavedField for $ty {
            fn encode(&self, to: &mut Encoder) {
                to.0.extend_from_slice(&self.to_le_bytes());
            }
            fn decode(from: &mut Decoder<'_>) -> Option<Self> {
                from.take().map(Self::from_le_bytes)
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64, i64);

impl SavedField for bool {
    fn encode(&self, to: &mut Encoder) {
        to.0.push(u8::from(*self));
    }
    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        match u8::decode(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: SavedField, const N: usize> SavedField for [T; N] {
    fn encode(&self, to: &mut Encoder) {
        self.iter().for_each(|item| item.encode(to));
    }
    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let mut items = Vec::with_capacity(N);
        for _ in 0..N {
            items.push(T::decode(from)?);
        }
        items.try_into().ok()
    }
}

impl<T: SavedField> SavedField for Vec<T> {
    fn encode(&self, to: &mut Encoder) {
        (self.len() as u32).encode(to);
        self.iter().for_each(|item| item.encode(to));
    }
    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let len = u32::decode(from)? as usize;
        // Every item takes at least one byte, so a length beyond the rest is a lie: no allocation for it.
        if len > from.0.len() {
            return None;
        }
        (0..len).map(|_| T::decode(from)).collect()
    }
}

impl<T: SavedField> SavedField for Option<T> {
    fn encode(&self, to: &mut Encoder) {
        self.is_some().encode(to);
        if let Some(value) = self {
            value.encode(to);
        }
    }
    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        if bool::decode(from)? { Some(Some(T::decode(from)?)) } else { Some(None) }
    }
}

/// A numbered record type, declared with [`saved_record!`](crate::saved_record).
pub trait SavedState: SavedField {
    /// Name of the record, stable for ever.
    const NAME: &'static str;
    /// Version of the layout.
    const VERSION: u32;
}

/// Encodes `state` as a record.
pub fn save_record<T: SavedState>(state: &T) -> SavedRecord {
    let mut encoder = Encoder::default();
    state.encode(&mut encoder);
    SavedRecord { name: T::NAME.into(), version: T::VERSION, data: encoder.0 }
}

/// Decodes a record as `T`.
///
/// # Errors
/// The record is another device's, of another version, cut short or too long.
pub fn load_record<T: SavedState>(record: &SavedRecord) -> Result<T, LoadError> {
    if record.name != T::NAME {
        return Err(LoadError::WrongDevice { expected: T::NAME.into(), found: record.name.clone() });
    }
    if record.version != T::VERSION {
        return Err(LoadError::UnknownVersion { device: T::NAME.into(), version: record.version });
    }
    let mut decoder = Decoder(&record.data);
    let state = T::decode(&mut decoder).ok_or_else(|| LoadError::Truncated(T::NAME.into()))?;
    if decoder.0.is_empty() { Ok(state) } else { Err(LoadError::TrailingBytes(T::NAME.into())) }
}

/// A device (or other part) whose state is saved and loaded. The machine is stopped meanwhile.
pub trait StateUnit: Send + Sync {
    /// The state as a record.
    fn save(&self) -> SavedRecord;
    /// Takes on the state in `record`, lines and timers included.
    ///
    /// # Errors
    /// The record is not one of this device's or holds an impossible state; the device is unchanged then.
    fn load(&self, record: &SavedRecord) -> Result<(), LoadError>;
}

/// Declares a saved record: `saved_record! { "name", 1, pub struct FooV1 { a: u8, b: [u32; 4] } }`.
#[macro_export]
macro_rules! saved_record {
    ($name:literal, $version:literal,
     $(#[$meta:meta])* $vis:vis struct $ty:ident { $($(#[$fmeta:meta])* $field:ident : $fty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $ty { $($(#[$fmeta])* pub $field: $fty),* }
        impl $crate::SavedField for $ty {
            fn encode(&self, to: &mut $crate::Encoder) {
                $($crate::SavedField::encode(&self.$field, to);)*
            }
            fn decode(from: &mut $crate::Decoder<'_>) -> Option<Self> {
                Some(Self { $($field: $crate::SavedField::decode(from)?),* })
            }
        }
        impl $crate::SavedState for $ty {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    saved_record! { "inner", 1, struct InnerV1 { x: u16 } }
    saved_record! { "test", 3, struct TestV3 { a: u8, b: [u32; 2], c: Vec<u16>, d: Option<u64>, e: InnerV1 } }

    fn sample() -> TestV3 {
        TestV3 { a: 1, b: [2, 3], c: vec![4, 5, 6], d: Some(7), e: InnerV1 { x: 8 } }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = save_record(&sample());
        assert_eq!(load_record::<TestV3>(&record).unwrap(), sample());
        assert!(matches!(load_record::<InnerV1>(&record), Err(LoadError::WrongDevice { .. })));
    }

    #[test]
    fn a_record_cut_anywhere_is_refused() {
        let record = save_record(&sample());
        for len in 0..record.data.len() {
            let cut = SavedRecord { data: record.data[..len].to_vec(), ..record.clone() };
            assert!(load_record::<TestV3>(&cut).is_err(), "{len} bytes");
        }
        let mut long = record.clone();
        long.data.push(0);
        assert!(matches!(load_record::<TestV3>(&long), Err(LoadError::TrailingBytes(_))));
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        let mut decoder = Decoder(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(Vec::<u64>::decode(&mut decoder), None);
    }
}
