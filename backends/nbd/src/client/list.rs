//! What a server has to offer (`qemu-nbd --list`).

use rhea_block::{BlockError, Result};

use crate::address::Address;
use crate::client::handshake::{ClientTls, ExportInfo, Handshake, refusal};
use crate::protocol::{Fields, HeaderStyle, TransmissionFlags, option, reply, valid_string};

/// An export of a server.
#[derive(Debug, Clone)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// A line for people; empty if there is none.
    pub description: String,
    /// What the server tells of it beyond, if it does.
    pub details: Option<ExportDetails>,
}

/// What a server tells of an export.
#[derive(Debug, Clone)]
pub struct ExportDetails {
    /// Bytes.
    pub length: u64,
    /// What can be done with it.
    pub flags: TransmissionFlags,
    /// Minimum block, preferred block and maximum payload, if the server tells.
    pub block_sizes: Option<(u32, u32, u32)>,
    /// The metadata contexts.
    pub contexts: Vec<String>,
    /// How requests would look.
    pub style: HeaderStyle,
}

impl ExportDetails {
    fn new(info: ExportInfo, contexts: Vec<String>, style: HeaderStyle) -> Self {
        Self {
            length: info.length,
            flags: info.flags,
            block_sizes: info.has_sizes.then_some((
                info.minimum_block,
                info.preferred_block,
                info.maximum_payload,
            )),
            contexts,
            style,
        }
    }
}

/// Asks a server for its exports.
pub async fn list(address: &Address, tls: Option<&ClientTls>) -> Result<Vec<ListedExport>> {
    let stream = address.connect().await?;
    let (mut handshake, oldstyle) = Handshake::greet(stream).await?;
    if let Some(info) = oldstyle {
        let details = ExportDetails::new(info, Vec::new(), HeaderStyle::Simple);
        return Ok(vec![ListedExport {
            name: String::new(),
            description: String::new(),
            details: Some(details),
        }]);
    }
    if let Some(tls) = tls {
        handshake.start_tls(tls).await?;
    }
    if !handshake.fixed {
        return Err(BlockError::invalid("Server does not support export lists"));
    }
    handshake.negotiate_style().await?;
    let mut exports = Vec::new();
    handshake.send_option(option::LIST, &[]).await?;
    let end = handshake
        .replies(option::LIST, |reply| {
            let mut fields = Fields::new(&reply.data);
            let name = fields.string().filter(|_| reply.kind == reply::SERVER);
            let (Some(name), Some(description)) = (name, valid_string(fields.rest())) else {
                return Err(BlockError::invalid("NBD server: malformed entry of the list of exports"));
            };
            exports.push(ListedExport { name: name.into(), description: description.into(), details: None });
            Ok(())
        })
        .await?;
    if let Err(refused) = end {
        return Err(refusal(option::LIST, &refused));
    }
    for export in &mut exports {
        // Old servers do not tell.
        let Some(info) = handshake.info(option::INFO, &export.name).await? else { break };
        if !info.description.is_empty() {
            export.description.clone_from(&info.description);
        }
        let contexts = match handshake.style {
            HeaderStyle::Simple => Vec::new(),
            _ => handshake.list_contexts(&export.name).await?,
        };
        export.details = Some(ExportDetails::new(info, contexts, handshake.style));
    }
    handshake.abort().await;
    Ok(exports)
}
