//! `qemu-img map`

use std::fmt::Write as _;
use std::io::Write as _;

use rhea_block::StatusFlags;
use rhea_options::{LongOption, Parsed};

use crate::failure::{Failure, FailureExt, Outcome};
use crate::session::{Image, Output, Session, finish, flag, id, one_name, read_flags, valued};
use crate::{chain, size};

pub(crate) const SHORT: &str = "f:s:l:U";
pub(crate) const LONG: &[LongOption] = &[
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("start-offset", id::START_OFFSET),
    valued("max-length", id::MAX_LENGTH),
    valued("output", id::OUTPUT),
    flag("force-share", 'U'),
    valued("object", id::OBJECT),
];

/// A stretch of the disk all of whose bytes are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Stretch {
    start: u64,
    len: u64,
    depth: usize,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    /// Where the bytes lie.
    offset: Option<u64>,
    file: Option<String>,
}

impl Stretch {
    /// Whether another stretch goes on where this one ends, with the same kind of bytes.
    fn goes_on_with(&self, next: &Self) -> bool {
        self.zero == next.zero
            && self.data == next.data
            && self.compressed == next.compressed
            && self.present == next.present
            && self.depth == next.depth
            && self.file == next.file
            && self.offset.map(|offset| offset + self.len) == next.offset
    }
}

/// Prints stretches as they come, those that belong together as one.
struct Printer {
    output: Output,
    text: String,
    pending: Stretch,
    any: bool,
}

impl Printer {
    fn take(&mut self, next: Stretch) -> Outcome<()> {
        if self.pending.len != 0 && self.pending.goes_on_with(&next) {
            self.pending.len += next.len;
            return Ok(());
        }
        if self.pending.len != 0 {
            self.print(false)?;
        }
        self.pending = next;
        Ok(())
    }

    fn print(&mut self, last: bool) -> Outcome<()> {
        let s = &self.pending;
        match self.output {
            Output::Human => {
                if s.data && s.offset.is_none() {
                    return Err(Failure::new("File contains external, encrypted or compressed clusters."));
                }
                if let (true, false, Some(offset)) = (s.data, s.zero, s.offset) {
                    let file = s.file.as_deref().unwrap_or_default();
                    let hex = |value: u64| if value == 0 { "0".into() } else { format!("{value:#x}") };
                    let (start, len, at) = (hex(s.start), hex(s.len), hex(offset));
                    let _ = writeln!(self.text, "{start:<15} {len:<15} {at:<15} {file}");
                }
            }
            Output::Json => {
                self.text.push(if self.any { ' ' } else { '[' });
                self.text.truncate(self.text.len() - usize::from(self.any));
                let _ = write!(
                    self.text,
                    "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": {}",
                    s.start, s.len, s.depth, s.present, s.zero, s.data, s.compressed
                );
                if let Some(offset) = s.offset {
                    let _ = write!(self.text, ", \"offset\": {offset}");
                }
                self.text.push_str(if last { "}]\n" } else { "},\n" });
            }
        }
        self.any = true;
        if self.text.len() > 1 << 16 || last {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(self.text.as_bytes());
        let _ = out.flush();
        self.text.clear();
    }
}

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let output = session.output(parsed)?;
    let number = |id: char, what: &str| parsed.argument(id).map(|text| size::size(what, text)).transpose();
    let start = number(id::START_OFFSET, "start offset")?.unwrap_or(0);
    let max = number(id::MAX_LENGTH, "max length")?;
    let name = session.name(parsed, one_name(parsed)?)?;
    let image = session.open(name, read_flags(parsed)).await?;
    let mut printer = Printer { output, text: String::new(), pending: Stretch::default(), any: false };
    if output == Output::Human {
        printer.text = format!("{:<15} {:<15} {:<15} {}\n", "Offset", "Length", "Mapped to", "File");
    }
    let result = walk(&image, start, max, &mut printer).await;
    if output == Output::Human || result.is_ok() {
        printer.flush();
    }
    finish(result.map(|()| 0), [image]).await
}

async fn walk(image: &Image, start: u64, max: Option<u64>, printer: &mut Printer) -> Outcome<()> {
    let length = image.length();
    let end = max.map_or(length, |max| start.saturating_add(max).min(length));
    let mut at = start;
    printer.pending.start = start;
    while at < end {
        let (status, depth) =
            chain::status(&image.node, at, end - at).await.told("Failed to read image metadata")?;
        let len = status.len;
        let (offset, file) = match (status.flags.contains(StatusFlags::OFFSET_VALID), status.map) {
            (true, Some((node, offset))) => (Some(offset), Some(node.filename().to_owned())),
            _ => (None, None),
        };
        printer.take(Stretch {
            start: at,
            len,
            depth,
            present: status.flags.contains(StatusFlags::ALLOCATED),
            zero: status.flags.contains(StatusFlags::ZERO),
            data: status.flags.contains(StatusFlags::DATA),
            compressed: status.flags.contains(StatusFlags::COMPRESSED),
            offset,
            file,
        })?;
        at += len;
    }
    if printer.pending.len != 0 || printer.output == Output::Json {
        printer.print(true)?;
    }
    Ok(())
}
