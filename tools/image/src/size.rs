//! Numbers and sizes on the command line, and sizes for people.

use crate::failure::{Failure, Outcome};

/// Why a number cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberError {
    Syntax,
    Range,
}

/// Reads a size: an integer or decimal fraction with a suffix B, K, M, G, T, P or E (powers of 1024), or a hexadecimal
/// integer. `bare` is what a number without suffix counts.
fn parse(text: &str, bare: u64) -> Result<u64, NumberError> {
    use NumberError::{Range, Syntax};
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Syntax);
        }
        let value = u64::from_str_radix(hex, 16).map_err(|_| Range)?;
        return value.checked_mul(bare).ok_or(Range);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let scale = match suffix.len() {
        0 => bare,
        1 => match "BKMGTPE".find(&suffix.to_ascii_uppercase()) {
            Some(power) => 1 << (10 * power),
            None => return Err(Syntax),
        },
        _ => return Err(Syntax),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(Syntax);
    }
    let whole: u64 = whole.parse().map_err(|_| Range)?;
    let bytes = u128::from(whole) * u128::from(scale);
    // Eighteen digits tell more than a byte even of an exabyte's parts.
    let digits = &fraction[..fraction.len().min(18)];
    let part = u128::from(digits.parse::<u64>().map_err(|_| Syntax)?);
    if part != 0 && scale == 1 {
        return Err(Syntax);
    }
    let bytes = bytes + part * u128::from(scale) / 10u128.pow(digits.len() as u32);
    u64::try_from(bytes).map_err(|_| Range)
}

/// Reads the number an option calls `what`, in a range; a suffix counts powers of 1024.
pub(crate) fn number(what: &str, text: &str, min: u64, max: u64) -> Outcome<u64> {
    match parse(text, 1) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        Ok(_) | Err(NumberError::Range) => Err(Failure::new(match max {
            u64::MAX => format!("Invalid {what} specified. Must be greater than or equal to {min}."),
            _ => format!("Invalid {what} specified. Must be between {min} and {max}."),
        })),
        Err(NumberError::Syntax) => Err(Failure::new(format!("Invalid {what} specified: '{text}'."))),
    }
}

/// Reads a size of anything: 0 to the largest signed number.
pub(crate) fn size(what: &str, text: &str) -> Outcome<u64> {
    number(what, text, 0, i64::MAX as u64)
}

/// The value of a size option such as `cluster_size`, in the words of QEMU's option parser.
pub(crate) fn option_size(key: &str, text: &str) -> Outcome<u64> {
    parse(text, 1).map_err(|error| match error {
        NumberError::Syntax => {
            Failure::new(format!("Parameter '{key}' expects a non-negative number below 2^64")).with_hint(
                "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
            )
        }
        NumberError::Range => Failure::new(format!("Value '{text}' is out of range for parameter '{key}'")),
    })
}

/// A size with three significant digits and a unit, as C's `%0.3g` prints it: `1.31 MiB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // From 1000 of a unit on the next one reads better: three digits would not do.
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 || v == 0.0 => 2,
        _ => 3,
    };
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    if text == "1000" {
        text = "1e+03".into();
    }
    format!("{text} {}B", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_observed() {
        let expected = [
            (0, "0 B"),
            (512, "512 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (197_120, "192 KiB"),
            (983_552, "960 KiB"),
            (1_022_976, "999 KiB"),
            (1_024_000, "0.977 MiB"),
            (1_047_552, "0.999 MiB"),
            (1_376_256, "1.31 MiB"),
            (3_117_056, "2.97 MiB"),
            (4 << 40, "4 TiB"),
        ];
        for (bytes, text) in expected {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn numbers_are_taken_with_units_and_refused_with_reasons() {
        assert_eq!(parse("1.5G", 1), Ok(3 << 29));
        assert_eq!(parse("64k", 1), Ok(65536));
        assert_eq!(parse("0x10", 1), Ok(16));
        assert_eq!(parse("8E", 1), Ok(8 << 60));
        assert_eq!(parse("16E", 1), Err(NumberError::Range));
        assert_eq!(parse("99999999999999999999", 1), Err(NumberError::Range));
        for wrong in ["", "x", "10X", "-5", "1.2.3", "1..", ".5", "1kk", "0x", "0xg", "+1"] {
            assert_eq!(parse(wrong, 1), Err(NumberError::Syntax), "{wrong}");
        }
    }
}
