//! `qemu-img check`

use rhea_block::{CheckResult, OpenFlags, Repair};
use rhea_options::{LongOption, Parsed};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, FailureExt, Outcome};
use crate::json;
use crate::session::{Image, Output, Session, cache_flags, finish, flag, id, one_name, read_flags, valued};

pub(crate) const SHORT: &str = "qf:T:Ur:";
pub(crate) const LONG: &[LongOption] = &[
    flag("quiet", 'q'),
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    valued("cache", 'T'),
    flag("force-share", 'U'),
    valued("output", id::OUTPUT),
    valued("repair", 'r'),
    valued("object", id::OBJECT),
];

/// Exit statuses beyond 0 (all is well) and 1 (could not check).
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NO_CHECK: u8 = 63;

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let repair = match parsed.argument('r') {
        None => Repair::default(),
        Some("leaks") => Repair { leaks: true, errors: false },
        Some("all") => Repair { leaks: true, errors: true },
        Some(other) => {
            return Err(Failure::usage(format!("--repair (-r) expects 'leaks' or 'all' not '{other}'")));
        }
    };
    let output = session.output(parsed)?;
    let name = session.name(parsed, one_name(parsed)?)?;
    let cache = parsed.argument('T').unwrap_or("writeback");
    let mut flags = cache_flags(cache, &format!("Invalid source cache option: {cache}"))? | OpenFlags::CHECK;
    if repair == Repair::default() {
        flags |= read_flags(parsed);
    } else {
        flags |= OpenFlags::UNMAP;
        if parsed.has('U') {
            return Err(Failure::new(format!(
                "Could not open '{}': force-share=on can only be used with read-only images",
                name.text
            )));
        }
    }
    let image = session.open(name, flags).await?;
    let quiet = parsed.has('q');
    let result = examine(&image, name.text, repair, output, quiet).await;
    finish(result, [image]).await
}

async fn check_once(image: &Image, repair: Repair) -> Outcome<CheckResult> {
    match image.node.driver().check(repair).await {
        Ok(result) => {
            // What is wrong is said even if nothing else is.
            result.messages.iter().for_each(|message| eprintln!("{message}"));
            Ok(result)
        }
        Err(error) if error.is_unsupported() => {
            Err(Failure::new("This image format does not support checks").with_status(NO_CHECK))
        }
        Err(error) => Err(error).told("Check failed"),
    }
}

/// `named`: as the command line names the image.
async fn examine(image: &Image, named: &str, repair: Repair, output: Output, quiet: bool) -> Outcome<u8> {
    let mut result = check_once(image, repair).await?;
    let fixed = (result.leaks_fixed, result.corruptions_fixed);
    if fixed != (0, 0) {
        if output == Output::Human && !quiet {
            println!(
                "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n\
                 Double checking the fixed image now...",
                fixed.0, fixed.1
            );
        }
        image.node.flush().await?;
        result = check_once(image, Repair::default()).await?;
        (result.leaks_fixed, result.corruptions_fixed) = fixed;
    }
    if !quiet {
        match output {
            Output::Human => print!("{}", human(&result)),
            Output::Json => println!("{}", json::pretty(&report(image, named, &result))),
        }
    }
    Ok(match &result {
        r if r.corruptions != 0 => CORRUPT,
        r if r.leaks != 0 => LEAKS,
        r if r.check_errors != 0 => 1,
        _ => 0,
    })
}

fn human(result: &CheckResult) -> String {
    let mut text = String::new();
    if result.corruptions == 0 && result.leaks == 0 && result.check_errors == 0 {
        text += "No errors were found on the image.\n";
    } else {
        if result.corruptions != 0 {
            text += &format!(
                "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
                result.corruptions
            );
        }
        if result.leaks != 0 {
            text += &format!(
                "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
                result.leaks
            );
        }
        if result.check_errors != 0 {
            text += &format!("\n{} internal errors have occurred during the check.\n", result.check_errors);
        }
    }
    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
    if result.total_clusters != 0 && result.allocated_clusters != 0 {
        text += &format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            result.allocated_clusters,
            result.total_clusters,
            percent(result.allocated_clusters, result.total_clusters),
            percent(result.fragmented_clusters, result.allocated_clusters),
            percent(result.compressed_clusters, result.allocated_clusters),
        );
    }
    if result.image_end_offset != 0 {
        text += &format!("Image end offset: {}\n", result.image_end_offset);
    }
    text
}

/// ImageCheck of the QMP reference.
fn report(image: &Image, named: &str, result: &CheckResult) -> Value {
    let mut report = Map::new();
    report.insert("filename".into(), json!(named));
    report.insert("format".into(), json!(image.node.driver_name()));
    report.insert("check-errors".into(), json!(result.check_errors));
    let optional = [
        ("image-end-offset", result.image_end_offset),
        ("corruptions", result.corruptions),
        ("leaks", result.leaks),
        ("corruptions-fixed", result.corruptions_fixed),
        ("leaks-fixed", result.leaks_fixed),
        ("total-clusters", result.total_clusters),
        ("allocated-clusters", result.allocated_clusters),
        ("fragmented-clusters", result.fragmented_clusters),
        ("compressed-clusters", result.compressed_clusters),
    ];
    for (key, value) in optional {
        if value != 0 {
            report.insert(key.into(), json!(value));
        }
    }
    Value::Object(report)
}
