//! The handshake: options until the client has chosen an export.

use std::io;
use std::sync::Arc;

use crate::protocol::{
    ClientFlags, EXPORT_NAME_PADDING, Fields, HandshakeFlags, HeaderStyle, INIT_MAGIC, MAX_STRING,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, TransmissionFlags, info, option, reply, valid_string,
};
use crate::server::export::Export;
use crate::server::{Server, violation};
use crate::stream::Stream;
use crate::tls::TlsSession;

/// Bytes of the longest option that is looked at; more than enough for a name and hundreds of queries.
const MAX_OPTION: u32 = 256 << 10;
/// Bytes of the longest option that is skipped with an error; beyond it the client is cut off.
const MAX_SKIPPED: u32 = 32 << 20;

/// What the handshake has settled.
pub(crate) struct Session {
    pub(crate) export: Arc<Export>,
    pub(crate) style: HeaderStyle,
    /// Indices into the export's contexts, which are also their ids.
    pub(crate) contexts: Vec<u32>,
    pub(crate) flags: TransmissionFlags,
}

/// Talks to a client until it goes over to transmission; `None`: it has left in good order.
pub(crate) async fn negotiate(server: &Server, stream: Stream) -> io::Result<Option<(Stream, Session)>> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(INIT_MAGIC.to_be_bytes());
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    let offered = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    greeting.extend(offered.bits().to_be_bytes());
    stream.send_all(&greeting).await?;
    let mut flags = [0; 4];
    stream.recv_exact(&mut flags).await?;
    let flags =
        ClientFlags::from_bits(u32::from_be_bytes(flags)).ok_or_else(|| violation("unknown client flags"))?;
    let mut negotiation = Negotiation {
        server,
        stream: Some(stream),
        fixed: flags.contains(ClientFlags::FIXED_NEWSTYLE),
        no_zeroes: flags.contains(ClientFlags::NO_ZEROES),
        style: HeaderStyle::Simple,
        selected: None,
    };
    loop {
        match negotiation.one_option().await? {
            Next::Option => {}
            Next::Leave => return Ok(None),
            Next::Transmission(session) => {
                return Ok(Some((
                    negotiation.stream.take().expect("the handshake owns the stream"),
                    session,
                )));
            }
        }
    }
}

enum Next {
    Option,
    Leave,
    Transmission(Session),
}

struct Negotiation<'a> {
    server: &'a Server,
    /// Absent only while TLS is put on it.
    stream: Option<Stream>,
    fixed: bool,
    no_zeroes: bool,
    style: HeaderStyle,
    /// The contexts selected last, and the export they are of.
    selected: Option<(String, Vec<u32>)>,
}

impl Negotiation<'_> {
    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("the handshake owns the stream")
    }

    async fn reply(&self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(20 + data.len());
        message.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        message.extend(option.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.stream().send_all(&message).await
    }

    async fn refuse(&self, option: u32, kind: u32, why: &str) -> io::Result<Next> {
        let end = why.floor_char_boundary(MAX_STRING);
        self.reply(option, kind, &why.as_bytes()[..end]).await?;
        Ok(Next::Option)
    }

    async fn skip(&self, mut length: u32) -> io::Result<()> {
        let mut scratch = [0; 4096];
        while length > 0 {
            let piece = length.min(scratch.len() as u32);
            self.stream().recv_exact(&mut scratch[..piece as usize]).await?;
            length -= piece;
        }
        Ok(())
    }

    async fn one_option(&mut self) -> io::Result<Next> {
        let mut header = [0; 16];
        self.stream().recv_exact(&mut header).await?;
        let mut fields = Fields::new(&header);
        let (magic, option, length) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(OPTION_MAGIC), Some(option), Some(length)) = (magic, option, length) else {
            return Err(violation("bad magic number of an option"));
        };
        if !self.fixed && option != option::EXPORT_NAME {
            return Err(violation("an option that needs fixed newstyle negotiation"));
        }
        if length > MAX_SKIPPED {
            return Err(violation("an option of unreasonable length"));
        }
        if length > MAX_OPTION {
            if option == option::EXPORT_NAME {
                return Err(violation("an export name of unreasonable length"));
            }
            self.skip(length).await?;
            return self.refuse(option, reply::ERR_TOO_BIG, "option too long").await;
        }
        let mut data = vec![0; length as usize];
        self.stream().recv_exact(&mut data).await?;
        if self.server.config.tls.is_some() && !self.stream().is_encrypted() {
            return self.before_tls(option, &data).await;
        }
        match option {
            option::EXPORT_NAME => self.export_name(&data).await,
            option::ABORT => {
                // The client may be gone already; it need not hear our answer.
                let _ = self.reply(option, reply::ACK, &[]).await;
                Ok(Next::Leave)
            }
            option::LIST => self.list(&data).await,
            option::STARTTLS => {
                let (kind, why) = match self.server.config.tls {
                    _ if !data.is_empty() => (reply::ERR_INVALID, "option has unexpected data"),
                    Some(_) => (reply::ERR_INVALID, "TLS already enabled"),
                    None => (reply::ERR_POLICY, "TLS not configured"),
                };
                self.refuse(option, kind, why).await
            }
            option::INFO | option::GO => self.info(option, &data).await,
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => self.style(option, &data).await,
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, &data).await,
            _ => self.refuse(option, reply::ERR_UNSUP, &format!("Unsupported option {option}")).await,
        }
    }

    /// A server with TLS tells nothing before.
    async fn before_tls(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        match option {
            option::EXPORT_NAME => Err(violation("an export asked for without TLS")),
            option::ABORT => {
                let _ = self.reply(option, reply::ACK, &[]).await;
                Ok(Next::Leave)
            }
            option::STARTTLS if !data.is_empty() => {
                self.refuse(option, reply::ERR_INVALID, "option has unexpected data").await
            }
            option::STARTTLS => {
                self.reply(option, reply::ACK, &[]).await?;
                let config = self.server.config.tls.clone().expect("TLS is configured");
                let stream = self.stream.take().expect("the handshake owns the stream");
                let socket = stream.into_socket().map_err(|_| violation("TLS twice"))?;
                let session = TlsSession::accept(socket, config).await?;
                if let Some(authorization) = &self.server.config.authorization {
                    let name = session.peer_name().ok_or_else(|| violation("no certificate to go by"))?;
                    if !authorization.is_allowed(&name).unwrap_or(false) {
                        return Err(violation(format!("'{name}' is not authorized")));
                    }
                }
                self.stream = Some(session.into());
                // Nothing that was said in the clear counts.
                self.style = HeaderStyle::Simple;
                self.selected = None;
                Ok(Next::Option)
            }
            _ => {
                let why = format!("Option 0x{option:x} not permitted before TLS");
                self.refuse(option, reply::ERR_TLS_REQD, &why).await
            }
        }
    }

    fn session(&mut self, export: Arc<Export>) -> Session {
        let contexts = match self.selected.take() {
            Some((name, contexts)) if name == export.name => contexts,
            _ => Vec::new(),
        };
        let flags = self.flags(&export);
        Session { export, style: self.style, contexts, flags }
    }

    fn flags(&self, export: &Export) -> TransmissionFlags {
        let mut flags = export.flags();
        flags.set(TransmissionFlags::SEND_DF, self.style >= HeaderStyle::Structured);
        flags.set(TransmissionFlags::BLOCK_STATUS_PAYLOAD, self.style == HeaderStyle::Extended);
        flags
    }

    async fn export_name(&mut self, data: &[u8]) -> io::Result<Next> {
        if self.style == HeaderStyle::Extended {
            return Err(violation("NBD_OPT_EXPORT_NAME after extended headers"));
        }
        let name = valid_string(data).filter(|n| n.len() <= MAX_STRING);
        let export = name.and_then(|name| self.server.export(name));
        let Some(export) = export else { return Err(violation("an unknown export")) };
        let mut message = export.length().to_be_bytes().to_vec();
        message.extend(self.flags(&export).bits().to_be_bytes());
        if !self.no_zeroes {
            message.resize(message.len() + EXPORT_NAME_PADDING, 0);
        }
        self.stream().send_all(&message).await?;
        Ok(Next::Transmission(self.session(export)))
    }

    async fn list(&self, data: &[u8]) -> io::Result<Next> {
        if !data.is_empty() {
            return self.refuse(option::LIST, reply::ERR_INVALID, "option has unexpected data").await;
        }
        for export in self.server.exports() {
            let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
            entry.extend(export.name.as_bytes());
            entry.extend(export.description.as_bytes());
            self.reply(option::LIST, reply::SERVER, &entry).await?;
        }
        self.reply(option::LIST, reply::ACK, &[]).await?;
        Ok(Next::Option)
    }

    async fn info(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        let mut fields = Fields::new(data);
        let parsed = (|| {
            let name = fields.string()?;
            let count = fields.u16()?;
            let kinds: Option<Vec<u16>> = (0..count).map(|_| fields.u16()).collect();
            fields.rest().is_empty().then_some((name, kinds?))
        })();
        let Some((name, kinds)) = parsed else {
            return self.refuse(option, reply::ERR_INVALID, "malformed option").await;
        };
        let Some(export) = self.server.export(name) else {
            return self.refuse(option, reply::ERR_UNKNOWN, &format!("export '{name}' not present")).await;
        };
        if kinds.contains(&info::NAME) {
            self.reply(option, reply::INFO, &[&info::NAME.to_be_bytes(), export.name.as_bytes()].concat())
                .await?;
        }
        if !export.description.is_empty() {
            let description = [&info::DESCRIPTION.to_be_bytes(), export.description.as_bytes()].concat();
            self.reply(option, reply::INFO, &description).await?;
        }
        let (mut minimum, preferred, maximum) = export.block_sizes();
        if !kinds.contains(&info::BLOCK_SIZE) {
            // A client that does not ask does not promise to heed them.
            minimum = 1;
        }
        let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [minimum, preferred, maximum] {
            sizes.extend(size.to_be_bytes());
        }
        self.reply(option, reply::INFO, &sizes).await?;
        let mut facts = info::EXPORT.to_be_bytes().to_vec();
        facts.extend(export.length().to_be_bytes());
        facts.extend(self.flags(&export).bits().to_be_bytes());
        self.reply(option, reply::INFO, &facts).await?;
        self.reply(option, reply::ACK, &[]).await?;
        match option {
            option::GO => Ok(Next::Transmission(self.session(export))),
            _ => Ok(Next::Option),
        }
    }

    async fn style(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        if !data.is_empty() {
            return self.refuse(option, reply::ERR_INVALID, "option has unexpected data").await;
        }
        let wanted = match option {
            option::EXTENDED_HEADERS => HeaderStyle::Extended,
            _ => HeaderStyle::Structured,
        };
        if self.style == HeaderStyle::Extended && wanted == HeaderStyle::Structured {
            let why = "extended headers already negotiated";
            return self.refuse(option, reply::ERR_EXT_HEADER_REQD, why).await;
        }
        if self.style == wanted {
            return self.refuse(option, reply::ERR_INVALID, "already negotiated").await;
        }
        self.style = wanted;
        self.reply(option, reply::ACK, &[]).await?;
        Ok(Next::Option)
    }

    async fn contexts(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        let listing = option == option::LIST_META_CONTEXT;
        if !listing {
            // A new selection replaces the old one even if it fails.
            self.selected = None;
        }
        if self.style == HeaderStyle::Simple {
            let why = "request option without structured replies negotiated";
            return self.refuse(option, reply::ERR_INVALID, why).await;
        }
        let mut fields = Fields::new(data);
        let parsed = (|| {
            let name = fields.string()?.to_owned();
            let count = fields.u32()?;
            let mut queries = Vec::new();
            for _ in 0..count {
                // Each takes four bytes of the option at least: the count cannot run away.
                let length = fields.u32()? as usize;
                let query = fields.bytes(length)?;
                // A query too long or not text is none of ours.
                queries.extend((length <= MAX_STRING).then(|| valid_string(query)).flatten());
            }
            fields.rest().is_empty().then_some((name, count, queries))
        })();
        let Some((name, count, queries)) = parsed else {
            return self.refuse(option, reply::ERR_INVALID, "malformed option").await;
        };
        let Some(export) = self.server.export(&name) else {
            return self.refuse(option, reply::ERR_UNKNOWN, &format!("export '{name}' not present")).await;
        };
        let mut selected = Vec::new();
        for (id, context) in export.contexts.iter().enumerate() {
            let wanted = queries.iter().any(|q| context.matches(q, listing)) || (listing && count == 0);
            if wanted {
                let id = id as u32;
                let shown = if listing { 0 } else { id };
                let entry = [&shown.to_be_bytes(), context.name().as_bytes()].concat();
                self.reply(option, reply::META_CONTEXT, &entry).await?;
                selected.push(id);
            }
        }
        if !listing {
            self.selected = Some((name, selected));
        }
        self.reply(option, reply::ACK, &[]).await?;
        Ok(Next::Option)
    }
}
