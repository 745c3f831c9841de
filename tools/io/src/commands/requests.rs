//! Commands that read, write and discard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rhea_async_io::IoVector;
use rhea_block::{BlockError, BlockNode, WriteFlags};

use super::request_help::{AIO_DETAILS, READ_DETAILS, READV_DETAILS, WRITE_DETAILS, WRITEV_DETAILS};
use super::{Call, Command, MANY, Outcome};
use crate::numbers::{self, MAX_REQUEST};

macro_rules! command {
    ($name:literal, $short:literal, $arguments:literal, $about:literal, $details:expr, $words:expr, $options:literal, $writes:literal, $run:ident) => {
        Command {
            name: $name,
            short: $short,
            arguments: $arguments,
            about: $about,
            details: $details,
            words: $words,
            options: $options,
            without_image: false,
            writes: $writes,
            run: |call| Box::pin($run(call)),
        }
    };
}

pub const COMMANDS: &[Command] = &[
    command!(
        "read",
        "r",
        "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
        "reads a number of bytes at a specified offset",
        READ_DETAILS,
        (2, MANY),
        "bCl:pP:qrs:v",
        false,
        read
    ),
    command!(
        "readv",
        "",
        "[-Cqrv] [-P pattern] off len [len..]",
        "reads a number of bytes at a specified offset",
        READV_DETAILS,
        (2, MANY),
        "CP:qrv",
        false,
        readv
    ),
    command!(
        "write",
        "w",
        "[-bcCfnqruz] [-P pattern | -s source_file] off len",
        "writes a number of bytes at a specified offset",
        WRITE_DETAILS,
        (2, MANY),
        "bcCfnpP:qrs:uz",
        true,
        write
    ),
    command!(
        "writev",
        "",
        "[-Cfqr] [-P pattern] off len [len..]",
        "writes a number of bytes at a specified offset",
        WRITEV_DETAILS,
        (2, MANY),
        "CfqP:r",
        true,
        writev
    ),
    command!(
        "aio_read",
        "",
        "[-Ciqrv] [-P pattern] off len [len..]",
        "asynchronously reads a number of bytes",
        AIO_DETAILS,
        (2, MANY),
        "CP:iqrv",
        false,
        aio_read
    ),
    command!(
        "aio_write",
        "",
        "[-Cfiqruz] [-P pattern] off len [len..]",
        "asynchronously writes a number of bytes",
        AIO_DETAILS,
        (2, MANY),
        "CfiP:qruz",
        true,
        aio_write
    ),
    command!("aio_flush", "", "", "completes all outstanding aio requests", "", (0, 0), "", false, aio_flush),
    command!(
        "discard",
        "d",
        "[-Cq] off len",
        "discards a number of bytes at a specified offset",
        "
 discards a range of bytes from the given offset

 Example:
 'discard 512 1k' - discards 1 kilobyte from 512 bytes into the file

 -C, -- report statistics in a machine parsable format
 -q, -- quiet mode, do not show I/O statistics
",
        (2, MANY),
        "Cq",
        true,
        discard
    ),
];

/// Bytes that a write has unless a pattern is given.
const FILL: u8 = 0xcd;

/// A line that was printed already says why.
struct Said;

type Parsed<T> = Result<T, Said>;

fn number(text: &str) -> Parsed<u64> {
    numbers::parse(text).map_err(|message| {
        println!("{message}");
        Said
    })
}

fn say<T>(message: impl std::fmt::Display) -> Parsed<T> {
    println!("{message}");
    Err(Said)
}

fn request_length(text: &str, unless: bool) -> Parsed<u64> {
    let len = number(text)?;
    match len > MAX_REQUEST && !unless {
        true => say(format!("length cannot exceed {MAX_REQUEST}, given {text}")),
        false => Ok(len),
    }
}

fn pattern(call: &Call<'_>) -> Parsed<Option<u8>> {
    let Some(text) = call.argument('P') else { return Ok(None) };
    let value = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    match value {
        Some(byte) => Ok(Some(byte)),
        None => say(format!("{text} is not a valid pattern byte")),
    }
}

/// How the outcome of a request is told.
#[derive(Clone, Copy)]
struct Report {
    verb: &'static str,
    quiet: bool,
    machine: bool,
}

impl Report {
    fn of(call: &Call<'_>, verb: &'static str) -> Self {
        Self { verb, quiet: call.has('q'), machine: call.has('C') }
    }

    fn print(self, time: Duration, offset: u64, len: u64) {
        if self.quiet {
            return;
        }
        let seconds = time.as_secs_f64().max(1e-9);
        let (bytes, operations) = (len as f64 / seconds, 1.0 / seconds);
        if self.machine {
            println!("{len},1,{},{bytes:.3},{operations:.3}", numbers::machine_time(time));
        } else {
            println!("{} {len}/{len} bytes at offset {offset}", self.verb);
            println!(
                "{}, 1 ops; {} ({}/sec and {operations:.4} ops/sec)",
                numbers::bytes(len as f64),
                numbers::human_time(time),
                numbers::bytes(bytes)
            );
        }
    }
}

fn dump(bytes: &[u8], offset: u64) {
    for (index, line) in bytes.chunks(16).enumerate() {
        let hex: String = line.iter().map(|b| format!(" {b:02x}")).collect();
        let text: String =
            line.iter().map(|b| if b.is_ascii_alphanumeric() { char::from(*b) } else { '.' }).collect();
        // A space between address and bytes, two before the text.
        println!("{:08x}: {hex}  {text}", offset + index as u64 * 16);
    }
}

/// The range of a read that must hold a pattern.
struct Expected {
    byte: u8,
    start: usize,
    len: usize,
}

/// A read, ready to go.
struct Read {
    node: Arc<BlockNode>,
    offset: u64,
    data: IoVector,
    vm_state: bool,
    expected: Option<Expected>,
    show: bool,
    report: Report,
    /// The name in an error.
    what: &'static str,
}

impl Read {
    /// Whether all was well.
    async fn run(mut self) -> bool {
        let began = Instant::now();
        let result = match self.vm_state {
            true => self.node.load_vm_state(self.offset, &mut self.data).await,
            false => match check_range(&self.node, self.offset, self.data.len() as u64) {
                Ok(()) => self.node.read(self.offset, &mut self.data).await,
                error => error,
            },
        };
        let time = began.elapsed();
        if let Err(error) = result {
            println!("{} failed: {error}", self.what);
            return false;
        }
        let bytes = self.data.to_vec();
        let mut good = true;
        if let Some(expected) = &self.expected
            && bytes[expected.start..expected.start + expected.len].iter().any(|b| *b != expected.byte)
        {
            println!(
                "Pattern verification failed at offset {}, {} bytes",
                self.offset + expected.start as u64,
                expected.len
            );
            good = false;
        }
        if !self.report.quiet && self.show {
            dump(&bytes, self.offset);
        }
        self.report.print(time, self.offset, bytes.len() as u64);
        good
    }
}

/// Requests end within the disk; the block layer itself would read zeroes beyond, and let files grow.
fn check_range(node: &BlockNode, offset: u64, len: u64) -> Result<(), BlockError> {
    match offset.checked_add(len).is_some_and(|end| end <= node.length()) {
        true => Ok(()),
        false => Err(BlockError::os(libc::EIO)),
    }
}

/// Writes, and how.
enum Kind {
    Data(IoVector),
    Compressed(IoVector),
    VmState(IoVector),
    Zeroes,
    Discard,
}

struct Write {
    node: Arc<BlockNode>,
    offset: u64,
    len: u64,
    kind: Kind,
    flags: WriteFlags,
    report: Report,
    what: &'static str,
}

impl Write {
    async fn run(self) -> bool {
        let Self { node, offset, len, kind, flags, report, what } = self;
        let began = Instant::now();
        let range = match kind {
            Kind::VmState(_) => Ok(()),
            _ => check_range(&node, offset, len),
        };
        let request = async {
            match &kind {
                Kind::Data(data) => node.write(offset, data, flags).await,
                Kind::Compressed(data) => node.write_compressed(offset, data).await,
                Kind::VmState(data) => node.save_vm_state(offset, data).await,
                Kind::Zeroes => node.write_zeroes(offset, len, flags).await,
                Kind::Discard => node.discard(offset, len).await,
            }
        };
        let result = match range {
            Ok(()) => request.await,
            error => error,
        };
        if let Err(error) = result {
            println!("{what} failed: {error}");
            return false;
        }
        report.print(began.elapsed(), offset, len);
        true
    }
}

/// Memory for a request; with `-m`, where no device takes it as it is.
fn memory(call: &Call<'_>, len: u64) -> IoVector {
    const MISALIGNED: usize = 16;
    match call.session.misalign {
        true => IoVector::zeroed(len as usize + MISALIGNED).split_off(MISALIGNED),
        false => IoVector::zeroed(len as usize),
    }
}

/// A vector of several buffers, as `readv` and `writev` are to use.
fn scattered(call: &Call<'_>, lengths: &[u64], byte: u8) -> IoVector {
    let mut all = IoVector::default();
    for len in lengths {
        let mut part = memory(call, *len);
        part.fill(0..*len as usize, byte);
        all.append(part);
    }
    all
}

fn lengths(words: &[String]) -> Parsed<Vec<u64>> {
    let (mut lengths, mut total) = (Vec::new(), 0);
    for word in words {
        let len = number(word)?;
        if len > MAX_REQUEST {
            return say(format!("Argument '{word}' exceeds maximum size {MAX_REQUEST}"));
        }
        total += len;
        if total > MAX_REQUEST {
            return say(format!("The total number of bytes exceed the maximum size {MAX_REQUEST}"));
        }
        lengths.push(len);
    }
    Ok(lengths)
}

/// Machine state is read and written in whole sectors, and so is what is compressed.
fn whole_sectors(offset: u64, len: u64) -> Parsed<()> {
    for (value, name) in [(offset, "offset"), (len, "count")] {
        if value % 512 != 0 {
            return say(format!("{value} is not a sector-aligned value for '{name}'"));
        }
    }
    Ok(())
}

fn outcome(good: bool) -> Outcome {
    if good { Outcome::Done } else { Outcome::Failed }
}

async fn read(call: Call<'_>) -> Outcome {
    match parse_read(&call) {
        Ok(Some(read)) => outcome(call.session.alongside(read.run()).await),
        Ok(None) => call.usage(),
        Err(Said) => Outcome::Failed,
    }
}

fn parse_read(call: &Call<'_>) -> Parsed<Option<Read>> {
    let (Some(node), [offset, len]) = (call.session.node(), call.words.as_slice()) else { return Ok(None) };
    let byte = pattern(call)?;
    if byte.is_none() && (call.has('l') || call.has('s')) {
        return Ok(None);
    }
    let part = |letter| call.argument(letter).map(number).transpose();
    let (within, of) = (part('s')?, part('l')?);
    let (offset, len) = (number(offset)?, request_length(len, false)?);
    let start = within.unwrap_or(0);
    let count = of.unwrap_or(len.saturating_sub(start));
    if start.checked_add(count).is_none_or(|end| end > len) || (start >= len && len > 0) {
        return say("pattern verification range exceeds end of read data");
    }
    if call.has('b') {
        whole_sectors(offset, len)?;
    }
    Ok(Some(Read {
        node: node.clone(),
        offset,
        data: memory(call, len),
        vm_state: call.has('b'),
        expected: byte.map(|byte| Expected { byte, start: start as usize, len: count as usize }),
        show: call.has('v'),
        report: Report::of(call, "read"),
        what: "read",
    }))
}

fn parse_readv(call: &Call<'_>, what: &'static str) -> Parsed<Option<Read>> {
    let (Some(node), [offset, parts @ ..]) = (call.session.node(), call.words.as_slice()) else {
        return Ok(None);
    };
    if parts.is_empty() {
        return Ok(None);
    }
    let byte = pattern(call)?;
    let offset = number(offset)?;
    let data = scattered(call, &lengths(parts)?, 0xab);
    let len = data.len();
    Ok(Some(Read {
        node: node.clone(),
        offset,
        data,
        vm_state: false,
        expected: byte.map(|byte| Expected { byte, start: 0, len }),
        show: call.has('v'),
        report: Report::of(call, "read"),
        what,
    }))
}

async fn readv(call: Call<'_>) -> Outcome {
    match parse_readv(&call, "readv") {
        Ok(Some(read)) => outcome(call.session.alongside(read.run()).await),
        Ok(None) => call.usage(),
        Err(Said) => Outcome::Failed,
    }
}

async fn write(call: Call<'_>) -> Outcome {
    match parse_write(&call) {
        Ok(Some(write)) => outcome(call.session.alongside(write.run()).await),
        Ok(None) => call.usage(),
        Err(Said) => Outcome::Failed,
    }
}

fn parse_write(call: &Call<'_>) -> Parsed<Option<Write>> {
    let (Some(node), [offset, len]) = (call.session.node(), call.words.as_slice()) else { return Ok(None) };
    let byte = pattern(call)?;
    let zeroes = call.has('z');
    let special = call.has('b') || call.has('c');
    if call.has('b') && zeroes {
        return say("-b and -z cannot be specified at the same time");
    }
    if call.has('f') && special {
        return say("-f and -b or -c cannot be specified at the same time");
    }
    if call.has('n') && !zeroes {
        return say("-n requires -z to be specified");
    }
    if call.has('u') && !zeroes {
        return say("-u requires -z to be specified");
    }
    if usize::from(zeroes) + usize::from(byte.is_some()) + usize::from(call.has('s')) > 1 {
        return say("Only one of -z, -P, and -s can be specified at the same time");
    }
    let unbounded = call.has('n');
    let (offset, text) = (number(offset)?, len);
    let len = number(text)?;
    if len > MAX_REQUEST && !unbounded {
        let unless = if zeroes { " without -n" } else { "" };
        return say(format!("length cannot exceed {MAX_REQUEST}{unless}, given {text}"));
    }
    if special {
        whole_sectors(offset, len)?;
    }
    let mut flags = WriteFlags::empty();
    flags.set(WriteFlags::FUA, call.has('f'));
    flags.set(WriteFlags::NO_FALLBACK, call.has('n'));
    flags.set(WriteFlags::MAY_UNMAP, call.has('u'));
    let kind = if zeroes && !call.has('c') {
        Kind::Zeroes
    } else {
        let data = match call.argument('s') {
            Some(file) => repeated(call, file, len)?,
            None => scattered(call, &[len], if zeroes { 0 } else { byte.unwrap_or(FILL) }),
        };
        match (call.has('b'), call.has('c')) {
            (true, _) => Kind::VmState(data),
            (_, true) => Kind::Compressed(data),
            _ => Kind::Data(data),
        }
    };
    Ok(Some(Write {
        node: node.clone(),
        offset,
        len,
        kind,
        flags,
        report: Report::of(call, "wrote"),
        what: "write",
    }))
}

/// A file's bytes, again and again.
fn repeated(call: &Call<'_>, file: &str, len: u64) -> Parsed<IoVector> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|f| f.take(len).read_to_end(&mut bytes));
    if let Err(error) = read {
        eprintln!("{file}: {}", BlockError::from(error));
        return Err(Said);
    }
    if bytes.is_empty() {
        eprintln!("{file}: file is empty");
        return Err(Said);
    }
    let mut data = memory(call, len);
    let mut at = 0;
    while at < data.len() {
        let piece = bytes.len().min(data.len() - at);
        data.write(at, &bytes[..piece]);
        at += piece;
    }
    Ok(data)
}

fn parse_writev(call: &Call<'_>, what: &'static str) -> Parsed<Option<Write>> {
    let (Some(node), [offset, parts @ ..]) = (call.session.node(), call.words.as_slice()) else {
        return Ok(None);
    };
    if parts.is_empty() {
        return Ok(None);
    }
    let byte = pattern(call)?;
    if call.has('z') && (parts.len() != 1 || byte.is_some()) {
        return say(match byte {
            Some(_) => "-z and -P cannot be specified at the same time",
            None => "-z supports only a single length parameter",
        });
    }
    if call.has('u') && !call.has('z') {
        return say("-u requires -z to be specified");
    }
    let offset = number(offset)?;
    let lengths = lengths(parts)?;
    let mut flags = WriteFlags::empty();
    flags.set(WriteFlags::FUA, call.has('f'));
    flags.set(WriteFlags::MAY_UNMAP, call.has('u'));
    let len = lengths.iter().sum();
    let kind = match call.has('z') {
        true => Kind::Zeroes,
        false => Kind::Data(scattered(call, &lengths, byte.unwrap_or(FILL))),
    };
    Ok(Some(Write { node: node.clone(), offset, len, kind, flags, report: Report::of(call, "wrote"), what }))
}

async fn writev(call: Call<'_>) -> Outcome {
    match parse_writev(&call, "writev") {
        Ok(Some(write)) => outcome(call.session.alongside(write.run()).await),
        Ok(None) => call.usage(),
        Err(Said) => Outcome::Failed,
    }
}

async fn aio_read(call: Call<'_>) -> Outcome {
    match parse_readv(&call, "readv") {
        Ok(Some(_)) if call.has('i') => {
            println!("injecting invalid read request");
            Outcome::Done
        }
        Ok(Some(read)) => {
            // As promised in the help, what becomes of it does not count.
            call.session
                .start(Box::pin(async move {
                    read.run().await;
                }))
                .await;
            Outcome::Done
        }
        Ok(None) => call.usage(),
        Err(Said) => Outcome::Failed,
    }
}

async fn aio_write(call: Call<'_>) -> Outcome {
    match parse_writev(&call, "aio_write") {
        Ok(Some(_)) if call.has('i') => {
            println!("injecting invalid write request");
            Outcome::Done
        }
        Ok(Some(write)) => {
            call.session
                .start(Box::pin(async move {
                    write.run().await;
                }))
                .await;
            Outcome::Done
        }
        Ok(None) => call.usage(),
        Err(Said) => Outcome::Failed,
    }
}

async fn aio_flush(call: Call<'_>) -> Outcome {
    call.session.settle().await;
    Outcome::Done
}

async fn discard(call: Call<'_>) -> Outcome {
    match parse_discard(&call) {
        Ok(Some(request)) => outcome(call.session.alongside(request.run()).await),
        Ok(None) => call.usage(),
        Err(Said) => Outcome::Failed,
    }
}

fn parse_discard(call: &Call<'_>) -> Parsed<Option<Write>> {
    let (Some(node), [offset, len]) = (call.session.node(), call.words.as_slice()) else { return Ok(None) };
    let (offset, len) = (number(offset)?, request_length(len, false)?);
    let flags = WriteFlags::empty();
    let report = Report::of(call, "discard");
    Ok(Some(Write { node: node.clone(), offset, len, kind: Kind::Discard, flags, report, what: "discard" }))
}
