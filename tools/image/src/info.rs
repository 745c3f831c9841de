//! `qemu-img info`

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rhea_block::{
    BlockNode, DriverKind, Edge, FormatInfo, OpenFlags, Role, SnapshotInfo, full_backing_filename,
};
use rhea_options::{LongOption, Parsed};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Outcome};
use crate::session::{Name, Output, Session, flag, id, one_name, read_flags, valued};
use crate::{json, size, snapshot};

pub(crate) const SHORT: &str = "f:bU";
pub(crate) const LONG: &[LongOption] = &[
    valued("format", 'f'),
    flag("image-opts", id::IMAGE_OPTS),
    flag("backing-chain", 'b'),
    flag("force-share", 'U'),
    valued("output", id::OUTPUT),
    valued("object", id::OBJECT),
];

pub(crate) async fn run(session: &Session, parsed: &Parsed) -> Outcome<u8> {
    let output = session.output(parsed)?;
    let filename = one_name(parsed)?;
    let name = session.name(parsed, filename)?;
    let reports = collect(session, name, parsed.has('b'), read_flags(parsed)).await?;
    match output {
        Output::Json => {
            let mut values: Vec<Value> = reports;
            let value = if parsed.has('b') { Value::Array(values) } else { values.remove(0) };
            println!("{}", json::pretty(&value));
        }
        Output::Human => {
            let texts: Vec<String> = reports.iter().map(human_image).collect();
            print!("{}", texts.join("\n"));
        }
    }
    Ok(0)
}

/// Describes an image, and with `chain` those behind it.
async fn collect(session: &Session, first: Name<'_>, chain: bool, flags: OpenFlags) -> Outcome<Vec<Value>> {
    let mut reports = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some((first.text.to_owned(), first.format.map(str::to_owned), first.image_opts));
    while let Some((text, format, image_opts)) = next.take() {
        if !seen.insert(text.clone()) {
            return Err(Failure::new(format!("Backing file '{text}' creates an infinite loop.")));
        }
        let name = Name { text: &text, format: format.as_deref(), image_opts };
        let image = session.open(name, flags | OpenFlags::NO_BACKING | OpenFlags::NO_IO).await?;
        reports.push(describe(session, &image.node, &image.name).await?);
        if chain && let Some(backing) = image.node.driver().backing_file() {
            let base = if image.node.filename().is_empty() { &image.name } else { image.node.filename() };
            next = Some((full_backing_filename(base, &backing.filename), backing.format, false));
        }
        image.close().await?;
    }
    Ok(reports)
}

/// Drivers that tell nothing of clusters nor of a clean end.
const WITHOUT_FACTS: [&str; 9] =
    ["parallels", "bochs", "cloop", "dmg", "null-co", "null-aio", "nbd", "http", "https"];

/// What a node says of itself; nodes that only hand on say what their child does.
fn facts(node: &Arc<BlockNode>) -> BoxFuture<'_, Outcome<Option<FormatInfo>>> {
    Box::pin(async move {
        if WITHOUT_FACTS.contains(&node.driver_name()) {
            return Ok(None);
        }
        let own = FormatInfo { specific: None, ..node.driver().format_info().await? };
        let below = match node.driver_name() {
            "raw" => node.file(),
            "blkdebug" => node.edges().first().map(|e| e.node()),
            _ => node.child(Role::Filtered),
        };
        let Some(below) = below else { return Ok(Some(own)) };
        let below = facts(&below).await?;
        Ok(below.map(|below| FormatInfo { cluster_size: below.cluster_size, dirty: below.dirty, ..own }))
    })
}

/// Bytes of storage the node and its files take.
pub(crate) fn allocated_size<'a>(
    session: &'a Session,
    node: &'a Arc<BlockNode>,
) -> BoxFuture<'a, Option<u64>> {
    Box::pin(async move {
        if let Some(size) = node.driver().allocated_size().await {
            return Some(size);
        }
        let kind = session.registry.driver(node.driver_name())?.kind();
        let opaque = ["blkdebug", "blkverify", "quorum"].contains(&node.driver_name());
        if kind == DriverKind::Protocol || opaque {
            return None;
        }
        let mut sum = 0u64;
        let mut children: Vec<Arc<BlockNode>> = shown_children(node).iter().map(|e| e.node()).collect();
        if let Some(below) = node.child(Role::Filtered) {
            children = vec![below];
        }
        for child in children {
            sum = sum.saturating_add(allocated_size(session, &child).await?);
        }
        Some(sum)
    })
}

/// A node as ImageInfo and BlockGraphInfo of the QMP reference.
fn describe<'a>(
    session: &'a Session,
    node: &'a Arc<BlockNode>,
    name: &'a str,
) -> BoxFuture<'a, Outcome<Value>> {
    Box::pin(async move {
        let facts = facts(node).await?;
        let mut report = Map::new();
        let mut put = |key: &str, value: Value| drop(report.insert(key.into(), value));
        put("filename", json!(name));
        put("format", json!(node.driver_name()));
        put("virtual-size", json!(node.length()));
        if let Some(size) = allocated_size(session, node).await {
            put("actual-size", json!(size));
        }
        let own = node.driver().format_info().await?;
        if let Some(facts) = &facts {
            if facts.cluster_size != 0 {
                put("cluster-size", json!(facts.cluster_size));
            }
            put("dirty-flag", json!(facts.dirty));
        }
        if own.encrypted {
            put("encrypted", json!(true));
        }
        if let Some(backing) = node.driver().backing_file() {
            let base = if node.filename().is_empty() { name } else { node.filename() };
            put("full-backing-filename", json!(full_backing_filename(base, &backing.filename)));
            put("backing-filename", json!(backing.filename));
            if let Some(format) = backing.format {
                put("backing-filename-format", json!(format));
            }
        }
        if let Some(snapshots) = node.driver().snapshots() {
            let list = snapshots.list().await?;
            if !list.is_empty() {
                put("snapshots", Value::Array(list.into_iter().map(snapshot_value).collect()));
            }
        }
        let specific = match (own.specific, node.driver_name()) {
            (None, "file" | "host_device") => Some(json!({"type": "file", "data": {}})),
            (specific, _) => specific,
        };
        if let Some(specific) = specific {
            put("format-specific", specific);
        }
        let mut children = Vec::new();
        for edge in shown_children(node) {
            let child = edge.node();
            let info = describe(session, &child, &child_name(&child)).await?;
            children.push(json!({"name": edge.name(), "info": info}));
        }
        put("children", Value::Array(children));
        Ok(Value::Object(report))
    })
}

/// The children a report tells of, in QEMU's order: the youngest first, the file (which was there before all others)
/// last. The data file of a qcow2 image is not among them: QEMU leaves it closed when no data is to be read.
fn shown_children(node: &Arc<BlockNode>) -> Vec<Arc<Edge>> {
    let mut edges: Vec<_> = node
        .edges()
        .into_iter()
        .filter(|e| e.role() != Role::Backing && !(e.role() == Role::Data && node.driver_name() == "qcow2"))
        .collect();
    // By number where the names have one.
    let number = |e: &Arc<Edge>| e.name().rsplit('.').next().and_then(|n| n.parse::<u32>().ok());
    edges.sort_by_key(|e| (e.name() == "file", std::cmp::Reverse(number(e))));
    edges
}

/// A child's file name: its own, or that of its file.
fn child_name(node: &Arc<BlockNode>) -> String {
    let below = node.edges().into_iter().find(|e| e.role() != Role::Backing).map(|e| e.node());
    match (node.driver_name(), node.filename(), below) {
        ("blkdebug", _, Some(image)) => format!("blkdebug::{}", child_name(&image)),
        (_, "", Some(file)) => child_name(&file),
        (_, name, _) => name.to_owned(),
    }
}

fn snapshot_value(snapshot: SnapshotInfo) -> Value {
    let mut value = json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date.0,
        "date-nsec": snapshot.date.1,
        "vm-clock-sec": snapshot.vm_clock_ns / 1_000_000_000,
        "vm-clock-nsec": snapshot.vm_clock_ns % 1_000_000_000,
    });
    if let Some(icount) = snapshot.icount {
        value["icount"] = json!(icount);
    }
    value
}

fn snapshot_of(value: &Value) -> SnapshotInfo {
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    SnapshotInfo {
        id: text("id"),
        name: text("name"),
        vm_state_size: number("vm-state-size"),
        date: (number("date-sec"), number("date-nsec") as u32),
        vm_clock_ns: number("vm-clock-sec") * 1_000_000_000 + number("vm-clock-nsec"),
        icount: value["icount"].as_u64(),
        disk_size: 0,
    }
}

/// An image's report for people.
fn human_image(report: &Value) -> String {
    let mut out = String::new();
    human(report, "", 0, &mut out);
    out
}

fn human(report: &Value, path: &str, level: usize, out: &mut String) {
    let indent = "    ".repeat(level);
    let text = |key: &str| report[key].as_str();
    let number = |key: &str| report[key].as_u64();
    let mut line = |words: String| {
        let _ = writeln!(out, "{indent}{words}");
    };
    let format = text("format").unwrap_or_default();
    let filename = text("filename").unwrap_or_default();
    let length = number("virtual-size").unwrap_or(0);
    let childless = report["children"].as_array().is_none_or(Vec::is_empty);
    // Nodes at the bottom are files rather than images.
    if level > 0 && childless {
        line(format!("filename: {filename}"));
        line(format!("protocol type: {format}"));
        line(format!("file length: {} ({length} bytes)", size::human(length)));
    } else {
        line(format!("image: {filename}"));
        line(format!("file format: {format}"));
        line(format!("virtual size: {} ({length} bytes)", size::human(length)));
    }
    let disk = number("actual-size").map_or("unavailable".into(), size::human);
    line(format!("disk size: {disk}"));
    if report["encrypted"] == json!(true) {
        line("encrypted: yes".into());
    }
    if let Some(cluster) = number("cluster-size") {
        line(format!("cluster_size: {cluster}"));
    }
    if report["dirty-flag"] == json!(true) {
        line("cleanly shut down: no".into());
    }
    if let Some(backing) = text("backing-filename") {
        let full = text("full-backing-filename").unwrap_or(backing);
        match full == backing {
            true => line(format!("backing file: {backing}")),
            false => line(format!("backing file: {backing} (actual path: {full})")),
        }
    }
    if let Some(format) = text("backing-filename-format") {
        line(format!("backing file format: {format}"));
    }
    if let Some(list) = report["snapshots"].as_array() {
        line("Snapshot list:".into());
        line(snapshot::HEADING.into());
        for entry in list {
            line(snapshot::row(&snapshot_of(entry)));
        }
    }
    if let Some(data) = report["format-specific"]["data"].as_object()
        && !data.is_empty()
    {
        line("Format specific information:".into());
        dump_members(data, level + 1, out);
    }
    for child in report["children"].as_array().into_iter().flatten() {
        let path = format!("{path}/{}", child["name"].as_str().unwrap_or_default());
        let _ = writeln!(out, "{indent}Child node '{path}':");
        human(&child["info"], &path, level + 1, out);
    }
}

/// Members, a line each, deeper ones indented.
fn dump_members(object: &Map<String, Value>, level: usize, out: &mut String) {
    json::ordered(object).into_iter().for_each(|(k, v)| dump_entry(&k.replace('-', " "), v, level, out));
}

fn dump_entry(key: &str, value: &Value, level: usize, out: &mut String) {
    let indent = "    ".repeat(level);
    match value {
        Value::Object(object) => {
            let _ = writeln!(out, "{indent}{key}:");
            dump_members(object, level + 1, out);
        }
        Value::Array(items) => {
            let _ = writeln!(out, "{indent}{key}:");
            for (index, item) in items.iter().enumerate() {
                dump_entry(&format!("[{index}]"), item, level + 1, out);
            }
        }
        Value::String(text) => drop(writeln!(out, "{indent}{key}: {text}")),
        other => drop(writeln!(out, "{indent}{key}: {other}")),
    }
}
