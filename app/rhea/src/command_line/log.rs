//! `-d` and `-dfilter`.

use anyhow::{anyhow, bail};
use rhea_options::{closest, parse_integer};

use super::Builder;
use crate::config::LogItem;

/// Items of QEMU that are not there.
const NOT_YET: &[&str] = &[
    "in_asm_op",
    "op_ind",
    "op_plugin",
    "nochain",
    "pcall",
    "cpu_reset",
    "page",
    "fpu",
    "strace",
    "vpu",
    "invalid_mem",
    "plugin",
    "tid",
    "all",
];

/// `-d ITEM[,ITEM…]`; `none` is nothing.
pub fn take_items(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    for word in text.split(',') {
        match word {
            "help" | "?" => {
                builder.say = Some(list_items());
                return Ok(());
            }
            "none" => {}
            _ => {
                let item = parse_item(word)?;
                if !builder.log.items.contains(&item) {
                    builder.log.items.push(item);
                }
            }
        }
    }
    Ok(())
}

fn parse_item(word: &str) -> anyhow::Result<LogItem> {
    if let Some((item, ..)) = LogItem::ALL.iter().find(|(_, name, _)| *name == word) {
        return Ok(*item);
    }
    if NOT_YET.contains(&word) || word.starts_with("trace:") {
        bail!("log item '{word}' is not implemented yet; use -d help to list those that are");
    }
    Err(match closest(word, LogItem::ALL.iter().map(|(_, name, _)| *name)) {
        Some(near) => anyhow!("no log item '{word}'; did you mean '{near}'?"),
        None => anyhow!("no log item '{word}'; use -d help to list them"),
    })
}

/// The text of `-d help`.
fn list_items() -> String {
    let lines = LogItem::ALL.iter().map(|(_, name, about)| format!("{name:<14} {about}\n"));
    format!("log items (separated by commas):\n{}", lines.collect::<String>())
}

/// `-dfilter RANGE[,RANGE…]`, each `FIRST..LAST`, `START+SIZE` or `END-SIZE`.
pub fn take_ranges(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    for word in text.split(',') {
        let range = parse_range(word)
            .ok_or_else(|| anyhow!("'{word}' is no address range (first..last, start+size or end-size)"))?;
        builder.log.ranges.push(range);
    }
    Ok(())
}

fn parse_range(word: &str) -> Option<(u64, u64)> {
    if let Some((first, last)) = word.split_once("..") {
        let (first, last) = (parse_integer(first)?, parse_integer(last)?);
        return (first <= last).then_some((first, last));
    }
    if let Some((start, size)) = word.split_once('+') {
        let (start, size) = (parse_integer(start)?, parse_integer(size)?);
        return Some((start, start.checked_add(size.checked_sub(1)?)?));
    }
    let (end, size) = word.split_once('-')?;
    let (end, size) = (parse_integer(end)?, parse_integer(size)?);
    Some((end.checked_sub(size.checked_sub(1)?)?, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("0x1000..0x1fff"), Some((0x1000, 0x1fff)));
        assert_eq!(parse_range("0x1000+0x1000"), Some((0x1000, 0x1fff)));
        assert_eq!(parse_range("0x1fff-0x1000"), Some((0x1000, 0x1fff)));
        for bad in ["", "1", "2..1", "1+0", "1-3", "x+1", "0xffffffffffffffff+2"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
