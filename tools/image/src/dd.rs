//! `qemu-img dd`

use rhea_async_io::IoVector;
use rhea_block::{OpenFlags, WriteFlags};
use rhea_options::Options;
use rhea_options::{LongOption, Parsed};

use crate::creation::Known;
use crate::failure::{Failure, FailureExt, Outcome};
use crate::progress::Meter;
use crate::session::{Image, Session, finish, flag, id, read_flags, valued};
use crate::{create, size};

pub(crate) const SHORT: &str = "f:O:U";
pub(crate) const LONG: &[LongOption] = &[
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("output-format", 'O'),
    flag("force-share", 'U'),
    valued("object", id::OBJECT),
];

/// Bytes moved at a time, in whole blocks; a longer block is moved as one.
const PIECE: u64 = 2 << 20;

/// What the operands ask for, in blocks of `bs` bytes.
struct Operands<'a> {
    input: &'a str,
    output: &'a str,
    bs: u64,
    count: Option<u64>,
    skip: u64,
}

fn operands(words: &[String]) -> Outcome<Operands<'_>> {
    let (mut input, mut output, mut bs, mut count, mut skip) = (None, None, 512, None, 0);
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let unknown = || Failure::new(format!("unrecognized operand {key}"));
        if !word.contains('=') {
            return Err(unknown());
        }
        match key {
            "if" => input = Some(value),
            "of" => output = Some(value),
            "bs" => bs = size::number("bs", value, 1, i32::MAX as u64)?,
            "count" => count = Some(size::size("count", value)?),
            "skip" => skip = size::size("skip", value)?,
            _ => return Err(unknown()),
        }
    }
    match (input, output) {
        (Some(input), Some(output)) => Ok(Operands { input, output, bs, count, skip }),
        _ => Err(Failure::new("Must specify both input and output files")),
    }
}

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let wanted = operands(&parsed.words)?;
    let input = session.open(session.name(parsed, wanted.input)?, read_flags(parsed)).await?;
    let result = copy(session, parsed, &wanted, &input).await;
    finish(result, [input]).await
}

async fn copy(session: &Session, parsed: &Parsed, wanted: &Operands<'_>, input: &Image) -> Outcome<u8> {
    let format = parsed.argument('O').unwrap_or("raw");
    if session.registry.driver(format).is_none() {
        return Err(Failure::new("Unknown file format"));
    }
    create::refuse_overwriting(&input.node, wanted.output)
        .told(format!("{}: error while creating output image", wanted.output))?;
    let known = Known::new(&session.registry, format, Some(wanted.output))?;
    let end = match wanted.count {
        Some(count) => input.length().min(count.saturating_add(wanted.skip).saturating_mul(wanted.bs)),
        None => input.length(),
    };
    let from = wanted.skip.saturating_mul(wanted.bs);
    let len = end.saturating_sub(from);
    let mut options = Options::default();
    options.set("size", &len.to_string());
    create::make(session, format, wanted.output, known.for_driver(&options)?, known.has("cluster_size"))
        .await
        .told(format!("{}: error while creating output image", wanted.output))?;
    if from > input.length() {
        eprintln!("{}: {}: cannot skip to specified offset", session.program, wanted.input);
    }
    let output = session.open_made(wanted.output, format, &options, OpenFlags::UNMAP).await?;
    let meter = Meter::start(false);
    let result = move_blocks(wanted, input, &output, from, len, &meter).await;
    finish(result, [output]).await?;
    Ok(0)
}

async fn move_blocks(
    wanted: &Operands<'_>,
    input: &Image,
    output: &Image,
    from: u64,
    len: u64,
    meter: &Meter,
) -> Outcome<()> {
    let piece = (PIECE / wanted.bs).max(1) * wanted.bs;
    let mut done = 0;
    while done < len {
        let now = piece.min(len - done);
        let mut data = IoVector::zeroed(now as usize);
        input.node.read(from + done, &mut data).await.told("error while reading from input image file")?;
        let written = output.node.write(done, &data, WriteFlags::empty()).await;
        written.told("error while writing to output image file")?;
        done += now;
        meter.advance(done, len)?;
    }
    Ok(())
}
