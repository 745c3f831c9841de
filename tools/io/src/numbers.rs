//! Numbers as `qemu-io` reads and prints them.

use std::time::Duration;

/// Bytes in one request at most; the length of a disk is not so bounded.
pub const MAX_REQUEST: u64 = 2_147_483_136;

const UNITS: [(char, u32); 6] = [('k', 10), ('m', 20), ('g', 30), ('t', 40), ('p', 50), ('e', 60)];

/// A number with an optional unit: decimal, `0x…` or `0…`, then `b`, `k`, `M`, `G`, `T`, `P` or `E`; a decimal fraction may
/// stand before a unit. The error is a line to print.
pub fn parse(text: &str) -> Result<u64, String> {
    let bad = || format!("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}");
    let large = || format!("Parsing error: argument too large -- {text}");
    if text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(large());
    }
    let (number, shift) = match text.chars().last().map(|c| c.to_ascii_lowercase()) {
        Some('b') if !is_hex(text) => (&text[..text.len() - 1], 0),
        Some(unit) => match UNITS.iter().find(|(c, _)| *c == unit) {
            Some((_, shift)) if !(is_hex(text) && unit == 'e') => (&text[..text.len() - 1], *shift),
            _ => (text, 0),
        },
        None => return Err(bad()),
    };
    let value = if is_hex(number) {
        u128::from_str_radix(&number[2..], 16).map_err(|_| bad())? << shift
    } else if let Some((whole, fraction)) = number.split_once('.') {
        scaled_fraction(whole, fraction, shift).ok_or_else(bad)?
    } else if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
        let digits = number.trim_start_matches('0');
        if digits.len() > 20 {
            return Err(large());
        }
        let parsed: u128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| bad())? };
        parsed << shift
    } else {
        return Err(bad());
    };
    // Offsets are signed 64-bit numbers below.
    match u64::try_from(value) {
        Ok(value) if value <= i64::MAX as u64 => Ok(value),
        _ => Err(large()),
    }
}

fn is_hex(text: &str) -> bool {
    text.len() > 2 && (text.starts_with("0x") || text.starts_with("0X"))
}

/// `whole.fraction` times a power of two, rounded down.
fn scaled_fraction(whole: &str, fraction: &str, shift: u32) -> Option<u128> {
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty()
        || !digits(whole)
        || !digits(fraction)
        || shift == 0
        || fraction.len() > 18
        || whole.len() > 19
    {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let numerator: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some((whole << shift) + ((numerator << shift) / 10u128.pow(fraction.len() as u32)))
}

/// Bytes for people: `4 KiB`, `1.500 MiB`.
pub fn bytes(value: f64) -> String {
    const NAMES: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < NAMES.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.3}");
    // Whole numbers lose their fraction, others keep all of it.
    format!("{} {}", text.strip_suffix(".000").unwrap_or(&text), NAMES[unit])
}

/// A duration as `-C` prints it: `0:00:01.50`.
pub fn machine_time(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{}:{:02}:{:02}.{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        time.subsec_millis() / 10
    )
}

/// A duration for people: `01.50 sec`.
pub fn human_time(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:02}.{:02} sec", time.as_secs(), time.subsec_millis() / 10),
        _ => machine_time(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(parse("64k"), Ok(65536));
        assert_eq!(parse("0x10"), Ok(16));
        assert_eq!(parse("1.5M"), Ok(1536 << 10));
        assert_eq!(parse("512b"), Ok(512));
        assert_eq!(parse("0x1e"), Ok(30));
        assert_eq!(parse("-1"), Err("Parsing error: argument too large -- -1".into()));
        assert_eq!(parse("8E"), Err("Parsing error: argument too large -- 8E".into()));
        assert!(parse("").is_err() && parse("k").is_err() && parse("-5").is_err() && parse("1.5").is_err());
    }

    #[test]
    fn printed_as_qemu_io_prints() {
        assert_eq!(bytes(4096.0), "4 KiB");
        assert_eq!(bytes(1572865.0), "1.500 MiB");
        assert_eq!(bytes(1025.0), "1.001 KiB");
        assert_eq!(bytes(0.0), "0 bytes");
        assert_eq!(human_time(Duration::from_millis(1234)), "01.23 sec");
        assert_eq!(machine_time(Duration::from_secs(3661)), "1:01:01.00");
    }
}
