//! `--list`: what another server offers.

use std::fmt::Write;

use rhea_block::{Objects, Result};
use rhea_nbd::protocol::{HeaderStyle, TransmissionFlags};
use rhea_nbd::{Address, ExportDetails, ListedExport};

use crate::command_line::Config;

/// The names of the flags, in the order of their bits.
const FLAGS: &[(TransmissionFlags, &str)] = &[
    (TransmissionFlags::READ_ONLY, "readonly"),
    (TransmissionFlags::SEND_FLUSH, "flush"),
    (TransmissionFlags::SEND_FUA, "fua"),
    (TransmissionFlags::ROTATIONAL, "rotational"),
    (TransmissionFlags::SEND_TRIM, "trim"),
    (TransmissionFlags::SEND_WRITE_ZEROES, "zeroes"),
    (TransmissionFlags::SEND_DF, "df"),
    (TransmissionFlags::CAN_MULTI_CONN, "multi"),
    (TransmissionFlags::SEND_RESIZE, "resize"),
    (TransmissionFlags::SEND_CACHE, "cache"),
    (TransmissionFlags::SEND_FAST_ZERO, "fast-zero"),
    (TransmissionFlags::BLOCK_STATUS_PAYLOAD, "block-status-payload"),
];

/// Asks the server that the command line tells of.
pub async fn list(config: &Config, objects: &Objects, address: &Address) -> Result<String> {
    let tls = match &config.tls_creds {
        Some(id) => Some(rhea_nbd::client_tls(objects, id, config.tls_hostname.clone(), address)?),
        None => None,
    };
    Ok(text(&rhea_nbd::list(address, tls.as_ref()).await?))
}

fn text(exports: &[ListedExport]) -> String {
    let mut text = format!("exports available: {}\n", exports.len());
    for export in exports {
        let _ = writeln!(text, " export: '{}'", export.name);
        if !export.description.is_empty() {
            let _ = writeln!(text, "  description: {}", export.description);
        }
        if let Some(details) = &export.details {
            write_details(&mut text, details);
        }
    }
    text
}

fn write_details(text: &mut String, details: &ExportDetails) {
    let _ = writeln!(text, "  size:  {}", details.length);
    let names: String = FLAGS
        .iter()
        .filter(|(flag, _)| details.flags.contains(*flag))
        .map(|(_, name)| format!(" {name}"))
        .collect();
    let _ = writeln!(text, "  flags: 0x{:x} ({names} )", details.flags.bits());
    if let Some((minimum, preferred, maximum)) = details.block_sizes {
        let _ = writeln!(text, "  min block: {minimum}\n  opt block: {preferred}\n  max block: {maximum}");
    }
    let bits = if details.style == HeaderStyle::Extended { 64 } else { 32 };
    let _ = writeln!(text, "  transaction size: {bits}-bit");
    if !details.contexts.is_empty() {
        let _ = writeln!(text, "  available meta contexts: {}", details.contexts.len());
        details.contexts.iter().for_each(|name| {
            let _ = writeln!(text, "   {name}");
        });
    }
}
