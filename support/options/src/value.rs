//! Typed values: switches, integers, sizes, names.

use std::path::PathBuf;

use crate::{Entry, OptionError};

/// A type that one value of an option can have.
pub trait OptionValue: Sized {
    /// What the user is told to write, as a phrase that fits after "expects".
    fn expected() -> String;

    /// The type in a help text: `<size>`, `on|off`.
    fn placeholder() -> String;

    /// Reads the text; `None` when it does not fit.
    fn from_text(text: &str) -> Option<Self>;

    /// The meaning of the key without a value; `None` when it needs one.
    fn when_bare() -> Option<Self> {
        None
    }

    /// Reads an entry, naming its key in errors.
    fn from_entry(entry: &Entry) -> Result<Self, OptionError> {
        match &entry.value {
            Some(value) => Self::from_text(value).ok_or_else(|| OptionError::Invalid {
                key: entry.key.clone(),
                value: value.clone(),
                expected: Self::expected(),
            }),
            None => Self::when_bare()
                .ok_or_else(|| OptionError::NoValue { key: entry.key.clone(), expected: Self::expected() }),
        }
    }
}

impl OptionValue for bool {
    fn expected() -> String {
        "'on' or 'off'".into()
    }

    fn placeholder() -> String {
        "on|off".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "on" | "yes" | "true" | "y" => Some(true),
            "off" | "no" | "false" | "n" => Some(false),
            _ => None,
        }
    }

    fn when_bare() -> Option<Self> {
        Some(true)
    }
}

/// A switch that may be left to Rhea.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOffAuto {
    /// Rhea decides.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

impl OptionValue for OnOffAuto {
    fn expected() -> String {
        "'on', 'off' or 'auto'".into()
    }

    fn placeholder() -> String {
        "on|off|auto".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            _ => bool::from_text(text).map(|on| if on { Self::On } else { Self::Off }),
        }
    }
}

impl OptionValue for String {
    fn expected() -> String {
        "a text".into()
    }

    fn placeholder() -> String {
        "<str>".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl OptionValue for PathBuf {
    fn expected() -> String {
        "a file name".into()
    }

    fn placeholder() -> String {
        "<file>".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }
}

/// Reads a non-negative integer: decimal, `0x` hexadecimal, or octal with a leading zero, as C's `strtoull` base 0.
pub fn parse_integer(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Reads a size in bytes: an integer or a decimal fraction with a suffix B, K, M, G, T, P or E (powers of 1024, either
/// case). Without a suffix the number counts units of `unit` bytes.
pub fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let is_hex = text.starts_with("0x") || text.starts_with("0X");
    // In hexadecimal B and E are digits, so that only the suffixes beyond them can be told apart.
    let suffix =
        text.chars().last().filter(|c| c.is_ascii_alphabetic() && !(is_hex && c.is_ascii_hexdigit()));
    let (number, scale) = match suffix {
        None => (text, unit),
        Some(letter) => {
            let power = "BKMGTPE".find(letter.to_ascii_uppercase())? as u32;
            (&text[..text.len() - 1], 1 << (10 * power))
        }
    };
    match number.split_once('.') {
        None if is_hex => parse_integer(number)?.checked_mul(scale),
        None => parse_decimal(number)?.checked_mul(scale),
        Some((whole, fraction)) => {
            if fraction.is_empty() || fraction.len() > 18 {
                return None;
            }
            let ten = 10u128.pow(fraction.len() as u32);
            let value = u128::from(parse_decimal(whole)?) * ten + u128::from(parse_decimal(fraction)?);
            u64::try_from(value.checked_mul(u128::from(scale))? / ten).ok()
        }
    }
}

fn parse_decimal(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

macro_rules! integer_values {
    ($($type:ty),*) => {$(
        impl OptionValue for $type {
            fn expected() -> String {
                format!("a number from 0 to {}", <$type>::MAX)
            }

            fn placeholder() -> String {
                "<num>".into()
            }

            fn from_text(text: &str) -> Option<Self> {
                parse_integer(text)?.try_into().ok()
            }
        }
    )*};
}

integer_values!(u8, u16, u32, u64);

/// A size in bytes; a number without a suffix counts bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

impl OptionValue for Size {
    fn expected() -> String {
        "a size (such as 512M or 4G)".into()
    }

    fn placeholder() -> String {
        "<size>".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        parse_size(text, 1).map(Self)
    }
}

/// A size in bytes; a number without a suffix counts MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct MebiSize(pub u64);

impl OptionValue for MebiSize {
    fn expected() -> String {
        "a size (such as 512M or 4G; a plain number counts MiB)".into()
    }

    fn placeholder() -> String {
        "<size>".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        parse_size(text, 1 << 20).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512", 1 << 20), Some(512 << 20));
        assert_eq!(parse_size("512", 1), Some(512));
        assert_eq!(parse_size("1G", 1), Some(1 << 30));
        assert_eq!(parse_size("1.5g", 1), Some(3 << 29));
        assert_eq!(parse_size("0x1000", 1), Some(4096));
        assert_eq!(parse_size("0xB", 1), Some(11));
        assert_eq!(parse_size("7E", 1), Some(7 << 60));
        for bad in ["", "G", "-1G", "1X", "1GG", "1.", ".5", "16E", "99999999999999999999", "1 G", "+1"] {
            assert_eq!(parse_size(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn integers() {
        assert_eq!(parse_integer("10"), Some(10));
        assert_eq!(parse_integer("0x1f"), Some(31));
        assert_eq!(parse_integer("010"), Some(8));
        assert_eq!(parse_integer("0"), Some(0));
        for bad in ["", "0x", "09", "+1", "-1", "0x-1", "1a"] {
            assert_eq!(parse_integer(bad), None, "{bad}");
        }
        assert_eq!(u8::from_text("256"), None);
    }

    #[test]
    fn a_bare_switch_is_on_and_a_bare_number_is_refused() {
        let bare = Entry { key: "k".into(), value: None };
        assert_eq!(bool::from_entry(&bare), Ok(true));
        assert!(u32::from_entry(&bare).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse_size(&text, 1 << 20);
            let _ = parse_integer(&text);
        }

        #[test]
        fn no_number_like_text_panics(text in "[0-9xX.+BKMGTPEe-]{0,24}") {
            let _ = parse_size(&text, 1 << 20);
            let _ = parse_integer(&text);
        }

        #[test]
        fn every_size_in_bytes_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&bytes.to_string(), 1), Some(bytes));
            prop_assert_eq!(parse_size(&format!("{bytes:#x}"), 1), Some(bytes));
        }
    }
}
