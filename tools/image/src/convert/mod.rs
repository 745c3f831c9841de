//! `qemu-img convert`
//!
//! [`run`] takes the command line apart, opens the sources and makes the target; [`copy`] moves the data; bitmaps follow
//! at the end, when the target has its contents.

mod copy;
mod source;

use rhea_block::{BlockError, BlockNode, OpenFlags, PersistentBitmaps};
use rhea_options::Options;
use rhea_options::{LongOption, Parsed};

use crate::create::{is_new_file, option_words, refuse_overwriting};
use crate::creation::{self, Known};
use crate::failure::{Failure, FailureExt, Outcome};
use crate::progress::Meter;
use crate::session::{Image, Name, Session, cache_flags, finish, flag, id, rate_limit, read_flags, valued};
use crate::{measure, size};
use copy::{Copier, Order};
use source::Sources;

pub(crate) const SHORT: &str = "f:T:O:t:o:B:F:cnS:Um:Cr:Wpql:";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    flag("progress", 'p'),
    valued("source-format", 'f'),
    flag("source-image-opts", id::IMAGE_OPTS),
    flag("image-opts", id::IMAGE_OPTS),
    valued("source-snapshot", 'l'),
    valued("source-cache", 'T'),
    valued("target-format", 'O'),
    flag("target-image-opts", id::TARGET_IMAGE_OPTS),
    valued("target-options", 'o'),
    flag("compress", 'c'),
    valued("target-cache", 't'),
    valued("backing", 'B'),
    valued("backing-format", 'F'),
    flag("no-create", 'n'),
    flag("target-is-zero", id::TARGET_IS_ZERO),
    valued("sparse-size", 'S'),
    flag("bitmaps", id::BITMAPS),
    flag("skip-broken-bitmaps", id::SKIP_BROKEN),
    flag("force-share", 'U'),
    valued("rate", 'r'),
    valued("parallel", 'm'),
    flag("copy-range-offloading", 'C'),
    flag("salvage", id::SALVAGE),
    flag("oob-writes", 'W'),
    valued("object", id::OBJECT),
];

/// Formats that keep compressed data.
const COMPRESSING: [&str; 3] = ["qcow2", "qcow", "vmdk"];

/// Zeroes of this many bytes are not stored, unless `-S` says otherwise.
const SPARSE: u64 = 4096;
/// Pieces under way at a time.
const LANES: usize = 8;
/// The largest `-S`.
const MAX_SPARSE: u64 = 16 << 20;

/// What the command line asks for.
struct Wanted<'a> {
    sources: Vec<Name<'a>>,
    target: &'a str,
    format: Option<&'a str>,
    /// Zeroes at least this long are not stored; 0: all is.
    sparse: u64,
    lanes: Option<usize>,
    rate: Option<u64>,
    no_create: bool,
    compress: bool,
    offload: bool,
    source_flags: OpenFlags,
    target_flags: OpenFlags,
    options: Vec<&'a str>,
    parsed: &'a Parsed,
}

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let words = option_words(parsed);
    if creation::wants_help(&words) {
        let target = (parsed.words.len() > 1).then(|| parsed.words.last().map(String::as_str)).flatten();
        creation::print_help(&session.registry, parsed.argument('O').unwrap_or("raw"), target)?;
        return Ok(0);
    }
    let wanted = wanted(parsed, words)?;
    let meter = Meter::start(parsed.has('p') && !parsed.has('q'));
    let mut sources = Vec::new();
    let result = async {
        for name in &wanted.sources {
            sources.push(session.open(*name, wanted.source_flags).await?);
        }
        convert(session, &wanted, &sources, &meter).await
    }
    .await;
    finish(result, sources).await
}

fn wanted<'a>(parsed: &'a Parsed, options: Vec<&'a str>) -> Outcome<Wanted<'a>> {
    let sparse = sparse_size(parsed)?;
    let coroutines = parsed.argument('m').map(|text| size::number("number of coroutines", text, 1, 16));
    let lanes = coroutines.transpose()?.map(|lanes| lanes as usize);
    let rate = rate_limit(parsed)?;
    let has = |option: char| parsed.has(option);
    let fail = |condition: bool, message: &str| match condition {
        true => Err(Failure::new(message)),
        false => Ok(()),
    };
    fail(has(id::TARGET_IMAGE_OPTS) && !has('n'), "--target-image-opts requires use of -n flag")?;
    fail(has(id::SKIP_BROKEN) && !has(id::BITMAPS), "Use of --skip-broken-bitmaps requires --bitmaps")?;
    fail(has('n') && !options.is_empty(), "-o has no effect when skipping image creation")?;
    fail(has('C') && has('S'), "Cannot enable copy offloading when -S is used")?;
    fail(has('C') && has('c'), "Cannot enable copy offloading when -c is used")?;
    fail(has(id::TARGET_IS_ZERO) && !has('n'), "--target-is-zero requires use of -n flag")?;
    fail(has(id::SALVAGE) && has('C'), "Cannot use copy offloading in salvaging mode")?;
    let image_opts = has(id::IMAGE_OPTS);
    fail(image_opts && has('f'), "--image-opts and --format are mutually exclusive")?;
    fail(has(id::TARGET_IMAGE_OPTS) && has('O'), "--image-opts and --format are mutually exclusive")?;
    let (Some((target, names)), true) = (parsed.words.split_last(), parsed.words.len() > 1) else {
        return Err(Failure::new("Must specify image file name"));
    };
    let format = parsed.argument('f');
    let sources = names.iter().map(|text| Name { text, format, image_opts }).collect::<Vec<_>>();
    fail(has('l') && sources.len() > 1, "No support for concatenating multiple snapshot")?;
    let source_cache = parsed.argument('T').unwrap_or("writeback");
    let source_cache = cache_flags(source_cache, &format!("Invalid source cache option: {source_cache}"))?;
    let target_cache = parsed.argument('t').unwrap_or("unsafe");
    let target_cache = cache_flags(target_cache, &format!("Invalid cache option: {target_cache}"))?;
    Ok(Wanted {
        sources,
        target,
        format: parsed.argument('O'),
        sparse,
        lanes,
        rate,
        no_create: has('n'),
        compress: has('c'),
        offload: has('C'),
        source_flags: read_flags(parsed) | source_cache,
        target_flags: target_cache | OpenFlags::UNMAP,
        options,
        parsed,
    })
}

fn sparse_size(parsed: &Parsed) -> Outcome<u64> {
    let Some(text) = parsed.argument('S') else { return Ok(SPARSE) };
    let bytes = size::size("buffer size for sparse output", text)?;
    if !bytes.is_multiple_of(512) || bytes > MAX_SPARSE {
        return Err(Failure::new(format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to {MAX_SPARSE}. \
             Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    Ok(bytes)
}

async fn convert(session: &Session, wanted: &Wanted<'_>, sources: &[Image], meter: &Meter) -> Outcome<u8> {
    if let Some(snapshot) = wanted.parsed.argument('l') {
        measure::load_snapshot(&sources[0], snapshot).await?;
    }
    let joined = Sources::new(sources);
    let bitmaps = wanted.parsed.has(id::BITMAPS);
    if bitmaps {
        check_bitmaps(sources, wanted.parsed.has(id::SKIP_BROKEN)).await?;
    }
    let made = match wanted.no_create {
        true => None,
        false => Some(create_target(session, wanted, sources, joined.length()).await?),
    };
    let target = open_target(session, wanted, made.as_ref()).await;
    let result = match target {
        Err(failure) => Err(failure),
        Ok(target) => {
            let copied =
                fill_target(&session.program, wanted, sources, joined, &target, made.as_ref(), meter).await;
            finish(copied, [target]).await
        }
    };
    // A target that nobody had before is of no use half-written, if it was the user who stopped us.
    if let (Err(failure), Some(made)) = (&result, &made)
        && failure.interrupted
        && made.is_new
    {
        let _ = std::fs::remove_file(wanted.target.strip_prefix("file:").unwrap_or(wanted.target));
    }
    result.map(|()| 0)
}

/// What is known of a target that was made by us.
struct Made {
    /// There was no such file before.
    is_new: bool,
    has_backing: bool,
    /// What it was made with.
    options: Options,
}

async fn create_target(
    session: &Session,
    wanted: &Wanted<'_>,
    sources: &[Image],
    length: u64,
) -> Outcome<Made> {
    let format = wanted.format.unwrap_or("raw");
    let known = Known::new(&session.registry, format, Some(wanted.target))?;
    let mut options = known.parse(&wanted.options)?;
    if options.get("size").is_none() {
        options.set("size", &length.to_string());
    }
    let backing = wanted.parsed.argument('B').map(str::to_owned);
    let backing = backing.or_else(|| options.get("backing_file").map(str::to_owned));
    if backing.is_some() && sources.len() > 1 {
        return Err(Failure::new(
            "Having a backing file for the target makes no sense when concatenating multiple input images",
        ));
    }
    set_backing(wanted, &known, &mut options, backing.as_deref(), format)?;
    check_compression(wanted, format, &options)?;
    let is_new = is_new_file(wanted.target);
    let named = format!("{}: error while converting {format}", wanted.target);
    for source in sources {
        refuse_overwriting(&source.node, wanted.target).told(&named)?;
    }
    let made = crate::create::make(
        session,
        format,
        wanted.target,
        known.for_driver(&options)?,
        known.has("cluster_size"),
    );
    made.await.told(named)?;
    Ok(Made { is_new, has_backing: backing.is_some(), options })
}

fn set_backing(
    wanted: &Wanted<'_>,
    known: &Known,
    options: &mut Options,
    backing: Option<&str>,
    format: &str,
) -> Outcome<()> {
    let Some(backing) = backing else {
        if let Some(backing_format) = wanted.parsed.argument('F') {
            if !known.has("backing_fmt") {
                let message = format!("Backing file format not supported for file format '{format}'");
                return Err(Failure::new(message));
            }
            options.set("backing_fmt", backing_format);
        }
        return Ok(());
    };
    if !known.has("backing_file") {
        return Err(Failure::new(format!("Backing file not supported for file format '{format}'")));
    }
    options.set("backing_file", backing);
    if let Some(backing_format) = wanted.parsed.argument('F') {
        options.set("backing_fmt", backing_format);
    }
    match options.get("backing_fmt") {
        None => Err(Failure::new("Use of backing file requires explicit backing format")),
        Some(_) => Ok(()),
    }
}

fn check_compression(wanted: &Wanted<'_>, format: &str, options: &Options) -> Outcome<()> {
    if !wanted.compress {
        return Ok(());
    }
    if !COMPRESSING.contains(&format) {
        return Err(Failure::new("Compression not supported for this file format"));
    }
    let encrypted = options.get("encryption") == Some("on") || options.get("encrypt.format").is_some();
    if encrypted {
        return Err(Failure::new("Compression and encryption not supported at the same time"));
    }
    if options.get("preallocation").is_some_and(|mode| mode != "off") {
        return Err(Failure::new("Compression and preallocation not supported at the same time"));
    }
    Ok(())
}

async fn open_target(session: &Session, wanted: &Wanted<'_>, made: Option<&Made>) -> Outcome<Image> {
    if let Some(made) = made {
        let format = wanted.format.unwrap_or("raw");
        return session.open_made(wanted.target, format, &made.options, wanted.target_flags).await;
    }
    let image_opts = wanted.parsed.has(id::TARGET_IMAGE_OPTS);
    let format = if image_opts { None } else { Some(wanted.format.unwrap_or("raw")) };
    session.open(Name { text: wanted.target, format, image_opts }, wanted.target_flags).await
}

/// Pieces under way at a time, unless `-m` says otherwise. Compression keeps all cores busy.
fn default_lanes(compress: bool) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if compress { LANES.max(2 * cores) } else { LANES }
}

async fn fill_target(
    program: &str,
    wanted: &Wanted<'_>,
    sources: &[Image],
    joined: Sources,
    target: &Image,
    made: Option<&Made>,
    meter: &Meter,
) -> Outcome<()> {
    let length = joined.length();
    let info = target.node.driver().format_info().await?;
    if target.length() < length {
        if made.is_some() && target.node.limits().growable {
            // A disk whose end is no whole sector.
        } else {
            return Err(Failure::new("output file is smaller than input file"));
        }
    }
    if wanted.no_create && wanted.compress && !COMPRESSING.contains(&target.node.driver_name()) {
        return Err(Failure::new("Compression not supported for this file format"));
    }
    if wanted.parsed.has(id::BITMAPS) {
        bitmaps_of_target(&target.node)?;
    }
    let has_backing = made
        .map_or_else(|| wanted.parsed.has('B') || target.node.backing().is_some(), |made| made.has_backing);
    let is_zero = match made {
        Some(_) => info.unallocated_is_zero && !has_backing && wanted.sparse != 0,
        None => wanted.parsed.has(id::TARGET_IS_ZERO),
    };
    let compress = wanted.compress || info.needs_compressed_writes;
    if compress && !info.cluster_size.is_power_of_two() {
        return Err(Failure::new("invalid cluster size"));
    }
    let order = match () {
        () if info.needs_compressed_writes => Order::Ended,
        () if wanted.parsed.has('W') => Order::Any,
        () => Order::Started,
    };
    let copier = Copier {
        sources: joined,
        target: target.node.clone(),
        // Only what the source's own layer holds is copied onto a backing file given on purpose.
        keeps_backing: has_backing && (wanted.parsed.has('B') || made.is_some()),
        is_zero,
        sparse: wanted.sparse,
        cluster: compress.then_some(info.cluster_size),
        order,
        offload: wanted.offload,
        salvage: wanted.parsed.has(id::SALVAGE),
        quiet: wanted.parsed.has('q'),
        lanes: wanted.lanes.unwrap_or_else(|| default_lanes(compress)),
        rate: wanted.rate,
        program: program.to_owned(),
    };
    copier.run(meter).await?;
    if wanted.parsed.has(id::BITMAPS) {
        copy_bitmaps(program, &sources[0].node, &target.node).await?;
    }
    target.node.flush().await?;
    meter.complete();
    Ok(())
}

/// Whether the bitmaps of the source can be copied; before anything is made.
async fn check_bitmaps(sources: &[Image], skip_broken: bool) -> Outcome<()> {
    if sources.len() > 1 {
        return Err(Failure::new("Copying bitmaps only possible with single source"));
    }
    let Some(bitmaps) = sources[0].node.driver().bitmaps().filter(|bitmaps| bitmaps.can_be_there()) else {
        return Err(Failure::new("Source lacks bitmap support"));
    };
    // QEMU looks at the last one first.
    match bitmaps.list().await?.iter().rev().find(|bitmap| bitmap.inconsistent) {
        Some(broken) if !skip_broken => {
            Err(Failure::new(format!("Cannot copy inconsistent bitmap '{}'", broken.name))
                .with_hint("Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it"))
        }
        _ => Ok(()),
    }
}

/// Copies all bitmaps but broken ones, which were refused before if they may not be skipped.
async fn copy_bitmaps(program: &str, from: &BlockNode, to: &BlockNode) -> Outcome<()> {
    let Some(source) = from.driver().bitmaps() else {
        return Err(Failure::new("Source lacks bitmap support"));
    };
    let target = bitmaps_of_target(to)?;
    let (broken, whole): (Vec<_>, Vec<_>) =
        source.list().await?.into_iter().partition(|bitmap| bitmap.inconsistent);
    for bitmap in broken.iter().rev() {
        eprintln!("{program}: warning: Skipping inconsistent bitmap '{}'", bitmap.name);
    }
    for info in whole {
        if from.length() != to.length() {
            return Err(Failure::new(format!(
                "Failed to populate bitmap {}: Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                info.name,
                to.length(),
                from.length()
            )));
        }
        copy_bitmap(source, target, &info.name).await?;
    }
    Ok(())
}

fn bitmaps_of_target(target: &BlockNode) -> Outcome<&dyn PersistentBitmaps> {
    target.driver().bitmaps().ok_or_else(|| {
        Failure::new(format!("Format driver '{}' does not support bitmaps", target.driver_name()))
    })
}

async fn copy_bitmap(
    source: &dyn PersistentBitmaps,
    target: &dyn PersistentBitmaps,
    name: &str,
) -> Outcome<()> {
    let bitmap = source.load(name).await.told(format!("Failed to populate bitmap {name}"))?;
    let stored: Result<(), BlockError> = target.store(&bitmap).await;
    stored.told(format!("Failed to create bitmap {name}"))
}
