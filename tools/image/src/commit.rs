//! `qemu-img commit`: the data of an image goes into a backing file.

use rhea_block::{OpenFlags, full_backing_filename};
use rhea_block_jobs::{Commit, Control, JobKind};
use rhea_options::{LongOption, Parsed};

use crate::failure::{Failure, FailureExt, Outcome};
use crate::progress::Meter;
use crate::session::{Image, Name, Session, cache_flags, finish, flag, id, one_name, rate_limit, valued};

pub(crate) const SHORT: &str = "qf:t:b:dpr:";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    flag("progress", 'p'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("cache", 't'),
    flag("drop", 'd'),
    valued("base", 'b'),
    valued("rate", 'r'),
    valued("object", id::OBJECT),
];

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let rate = rate_limit(parsed)?;
    let name = session.name(parsed, one_name(parsed)?)?;
    let cache = parsed.argument('t').unwrap_or("writeback");
    let flags = cache_flags(cache, &format!("Invalid cache option: {cache}"))? | OpenFlags::UNMAP;
    let images = open_chain(session, name, flags, parsed.argument('b')).await?;
    let meter = Meter::start(parsed.has('p') && !parsed.has('q'));
    let drop_data = !parsed.has('d') && !parsed.has('b');
    let result = commit(&images, drop_data, rate, &meter).await;
    finish(result, images).await?;
    meter.end();
    if !parsed.has('q') {
        println!("Image committed.");
    }
    Ok(0)
}

/// Opens an image and those behind it down to the one that is committed to, which is the last, and open for writing
/// with all that is behind it.
async fn open_chain(
    session: &Session,
    name: Name<'_>,
    flags: OpenFlags,
    base: Option<&str>,
) -> Outcome<Vec<Image>> {
    let mut images = vec![session.open(name, flags | OpenFlags::NO_BACKING).await?];
    match open_behind(session, &mut images, flags, base).await {
        Ok(()) => Ok(images),
        Err(failure) => {
            let failed: Outcome<()> = finish(Err(failure), images).await;
            failed.map(|()| Vec::new())
        }
    }
}

async fn open_behind(
    session: &Session,
    images: &mut Vec<Image>,
    flags: OpenFlags,
    base: Option<&str>,
) -> Outcome<()> {
    let top = images[0].name.clone();
    let missing = |base: &str| Failure::new(format!("Did not find '{base}' in the backing chain of '{top}'"));
    loop {
        let above = &images[images.len() - 1];
        let Some(backing) = above.node.driver().backing_file() else {
            return Err(match base {
                Some(base) => missing(base),
                None => Failure::new("Image does not have a backing file"),
            });
        };
        let filename = full_backing_filename(above.node.filename(), &backing.filename);
        let is_base = base.is_none_or(|base| base == filename || base == backing.filename);
        if !is_base && images.len() > 200 {
            return Err(missing(base.unwrap_or_default()));
        }
        let how = match is_base {
            true => flags,
            false => (flags | OpenFlags::READ_ONLY | OpenFlags::NO_BACKING) - OpenFlags::UNMAP,
        };
        let opened = session.registry.open(&filename, backing.format.as_deref(), how).await;
        let node = opened.told("Could not open backing file").told(format!("Could not open '{top}'"))?;
        above.node.set_backing(Some(node.clone())).await?;
        images.push(session.hold(node, filename).await?);
        if is_base {
            return Ok(());
        }
    }
}

async fn commit(images: &[Image], empty_top: bool, rate: Option<u64>, meter: &Meter) -> Outcome<()> {
    let (top, base) = (&images[0].node, &images[images.len() - 1].node);
    let control = Control::new("commit", JobKind::Commit);
    control.set_speed(rate.unwrap_or(0));
    let job = Commit { top: top.clone(), base: base.clone(), empty_top };
    let committed = meter.watch(control.progress(), || control.cancel(), job.run(&control)).await;
    committed.told("Block job failed")?;
    meter.complete();
    Ok(())
}
