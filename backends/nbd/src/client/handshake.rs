//! The client's side of the handshake.
//!
//! A server is not trusted: the length of each of its replies and their number are bounded.

use std::sync::Arc;

use rhea_block::{BlockError, Result, ResultExt};

use crate::protocol::{
    ClientFlags, EXPORT_NAME_PADDING, Fields, HandshakeFlags, HeaderStyle, INIT_MAGIC, MAX_PAYLOAD,
    MAX_STRING, OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, TransmissionFlags, info, option, reply,
    valid_string,
};
use crate::stream::Stream;
use crate::tls::TlsSession;

/// Bytes of the longest reply to an option: two strings and a little.
const MAX_REPLY: u32 = 2 * MAX_STRING as u32 + 64;
/// Replies to one option (`NBD_OPT_LIST`: exports).
const MAX_REPLIES: usize = 100_000;

/// TLS as a client.
#[derive(Clone)]
pub struct ClientTls {
    /// The credentials.
    pub config: Arc<rustls::ClientConfig>,
    /// The name in the server's certificate.
    pub hostname: String,
}

/// What is asked of the server.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) export: String,
    /// The metadata context for block status.
    pub(crate) context: String,
    pub(crate) tls: Option<ClientTls>,
}

/// What is known of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExportInfo {
    pub(crate) length: u64,
    pub(crate) flags: TransmissionFlags,
    pub(crate) description: String,
    pub(crate) minimum_block: u32,
    pub(crate) preferred_block: u32,
    pub(crate) maximum_payload: u32,
    /// The server has told the three sizes above.
    pub(crate) has_sizes: bool,
}

/// What the handshake has settled.
pub(crate) struct Agreed {
    pub(crate) stream: Stream,
    pub(crate) style: HeaderStyle,
    pub(crate) info: ExportInfo,
    /// The id of the metadata context, if the server has it.
    pub(crate) context: Option<u32>,
}

/// A reply to an option.
pub(crate) struct OptionReply {
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// A connection in its handshake.
pub(crate) struct Handshake {
    stream: Option<Stream>,
    no_zeroes: bool,
    pub(crate) fixed: bool,
    pub(crate) style: HeaderStyle,
}

fn broken(what: &str) -> BlockError {
    BlockError::new(libc::EINVAL, format!("NBD server: {what}"))
}

fn option_name(option: u32) -> &'static str {
    match option {
        option::EXPORT_NAME => "export name",
        option::ABORT => "abort",
        option::LIST => "list",
        option::STARTTLS => "starttls",
        option::INFO => "info",
        option::GO => "go",
        option::STRUCTURED_REPLY => "structured reply",
        option::LIST_META_CONTEXT => "list meta context",
        option::SET_META_CONTEXT => "set meta context",
        option::EXTENDED_HEADERS => "extended headers",
        _ => "<unknown>",
    }
}

/// The error that a server's refusal of an option stands for.
pub(crate) fn refusal(option: u32, reply: &OptionReply) -> BlockError {
    let of = format!("option {option} ({})", option_name(option));
    let text = match reply.kind {
        reply::ERR_UNSUP => format!("Unsupported {of}"),
        reply::ERR_POLICY => format!("Denied by server for {of}"),
        reply::ERR_INVALID => format!("Invalid parameters for {of}"),
        reply::ERR_PLATFORM => format!("Server lacks support for {of}"),
        reply::ERR_TLS_REQD => format!("Server requires TLS for {of}"),
        reply::ERR_UNKNOWN => "Requested export not available".into(),
        reply::ERR_SHUTDOWN => "Server shutting down before requested operation".into(),
        reply::ERR_BLOCK_SIZE_REQD => format!("Server requires INFO_BLOCK_SIZE for {of}"),
        reply::ERR_TOO_BIG => format!("Request or reply too large for {of}"),
        reply::ERR_EXT_HEADER_REQD => format!("Server requires extended headers for {of}"),
        other => format!("Unknown error code 0x{other:x} when asking for {of}"),
    };
    let error = BlockError::new(libc::EINVAL, text);
    match (reply.kind, valid_string(&reply.data)) {
        (reply::ERR_TLS_REQD, _) => error.with_hint("Did you forget a valid tls-creds?"),
        (_, Some(text)) if !text.is_empty() => error.with_hint(format!("server reported: {text}")),
        _ => error,
    }
}

/// Connects an export: the whole handshake.
pub(crate) async fn connect(stream: Stream, wanted: &Wanted) -> Result<Agreed> {
    let (handshake, oldstyle) = Handshake::greet(stream).await?;
    if let Some(info) = oldstyle {
        if wanted.tls.is_some() {
            return Err(broken("Server does not support STARTTLS"));
        }
        if !wanted.export.is_empty() {
            return Err(broken("Server does not support non-empty export names"));
        }
        let stream = handshake.stream.expect("the handshake owns the stream");
        return Ok(Agreed { stream, style: HeaderStyle::Simple, info, context: None });
    }
    let mut handshake = handshake;
    if let Some(tls) = &wanted.tls {
        handshake.start_tls(tls).await?;
    }
    handshake.negotiate_style().await?;
    let mut context = None;
    if handshake.style >= HeaderStyle::Structured && !wanted.context.is_empty() {
        context = handshake.set_context(&wanted.export, &wanted.context).await?;
    }
    let info = match handshake.info(option::GO, &wanted.export).await? {
        Some(info) => info,
        None => handshake.export_name(&wanted.export).await?,
    };
    let style = handshake.style;
    Ok(Agreed { stream: handshake.into_stream(), style, info, context })
}

/// Connects an export for somebody who knows simple replies only, such as the kernel's client; returns the connected
/// socket, the export's length in bytes, its transmission flags and its smallest block.
pub async fn connect_simple(
    stream: Stream,
    export: &str,
) -> Result<(std::os::fd::OwnedFd, u64, TransmissionFlags, u32)> {
    let (handshake, _) = Handshake::greet(stream).await?;
    let info = match handshake.info(option::GO, export).await? {
        Some(info) => info,
        None => handshake.export_name(export).await?,
    };
    let fd =
        handshake.into_stream().into_fd().map_err(|_| broken("a connection with TLS cannot be handed on"))?;
    Ok((fd, info.length, info.flags, info.minimum_block))
}

impl Handshake {
    /// Exchanges greetings. An oldstyle server tells of its only export at once.
    pub(crate) async fn greet(stream: Stream) -> Result<(Self, Option<ExportInfo>)> {
        let failed = "Failed to read initial magic";
        let mut greeting = [0; 16];
        stream.recv_exact(&mut greeting).await.map_err(lost).context(failed)?;
        let mut fields = Fields::new(&greeting);
        if fields.u64() != Some(INIT_MAGIC) {
            return Err(BlockError::invalid("Bad initial magic received"));
        }
        let mut this =
            Self { stream: Some(stream), no_zeroes: false, fixed: false, style: HeaderStyle::Simple };
        match fields.u64() {
            Some(OLDSTYLE_MAGIC) => {
                let mut facts = [0; 8 + 4 + EXPORT_NAME_PADDING];
                this.receive(&mut facts).await?;
                let mut fields = Fields::new(&facts);
                let (length, flags) = (fields.u64().unwrap_or(0), fields.u32().unwrap_or(0));
                let info = ExportInfo::new(length, TransmissionFlags::from_bits_retain(flags as u16));
                info.check()?;
                Ok((this, Some(info)))
            }
            Some(OPTION_MAGIC) => {
                let mut flags = [0; 2];
                this.receive(&mut flags).await?;
                let flags = HandshakeFlags::from_bits_truncate(u16::from_be_bytes(flags));
                let mut answer = ClientFlags::empty();
                answer.set(ClientFlags::FIXED_NEWSTYLE, flags.contains(HandshakeFlags::FIXED_NEWSTYLE));
                answer.set(ClientFlags::NO_ZEROES, flags.contains(HandshakeFlags::NO_ZEROES));
                this.fixed = flags.contains(HandshakeFlags::FIXED_NEWSTYLE);
                this.no_zeroes = flags.contains(HandshakeFlags::NO_ZEROES);
                this.send(&answer.bits().to_be_bytes()).await?;
                Ok((this, None))
            }
            _ => Err(BlockError::invalid("Bad server magic received")),
        }
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("the handshake owns the stream")
    }

    fn into_stream(self) -> Stream {
        self.stream.expect("the handshake owns the stream")
    }

    async fn receive(&self, bytes: &mut [u8]) -> Result<()> {
        self.stream().recv_exact(bytes).await.map_err(lost)
    }

    async fn send(&self, bytes: &[u8]) -> Result<()> {
        self.stream().send_all(bytes).await.map_err(lost)
    }

    pub(crate) async fn send_option(&self, option: u32, data: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(16 + data.len());
        message.extend(OPTION_MAGIC.to_be_bytes());
        message.extend(option.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.send(&message).await
    }

    pub(crate) async fn reply(&self, option: u32) -> Result<OptionReply> {
        let mut header = [0; 20];
        self.receive(&mut header).await?;
        let mut fields = Fields::new(&header);
        if fields.u64() != Some(OPTION_REPLY_MAGIC) {
            return Err(broken("Unexpected option reply magic"));
        }
        if fields.u32() != Some(option) {
            return Err(broken("Unexpected option type in a reply"));
        }
        let (kind, length) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(u32::MAX));
        if length > MAX_REPLY {
            return Err(broken(&format!("option reply of {length} bytes is too long")));
        }
        let mut data = vec![0; length as usize];
        self.receive(&mut data).await?;
        Ok(OptionReply { kind, data })
    }

    /// All replies up to the final acknowledgement; each other goes to `take`.
    pub(crate) async fn replies(
        &self,
        option: u32,
        mut take: impl FnMut(OptionReply) -> Result<()>,
    ) -> Result<Result<(), OptionReply>> {
        for _ in 0..MAX_REPLIES {
            let reply = self.reply(option).await?;
            match reply.kind {
                reply::ACK => return Ok(Ok(())),
                kind if kind & reply::ERROR != 0 => return Ok(Err(reply)),
                _ => take(reply)?,
            }
        }
        Err(broken("too many replies to an option"))
    }

    /// An option that is acknowledged or refused.
    async fn simple_option(&self, option: u32) -> Result<Result<(), OptionReply>> {
        self.send_option(option, &[]).await?;
        self.replies(option, |_| Err(broken("Unexpected reply type"))).await
    }

    pub(crate) async fn start_tls(&mut self, tls: &ClientTls) -> Result<()> {
        if !self.fixed {
            return Err(broken("Server does not support STARTTLS"));
        }
        if let Err(refused) = self.simple_option(option::STARTTLS).await? {
            return Err(refusal(option::STARTTLS, &refused));
        }
        let stream = self.stream.take().expect("the handshake owns the stream");
        let socket = stream.into_socket().map_err(|_| broken("TLS twice"))?;
        let session = TlsSession::connect(socket, tls.config.clone(), &tls.hostname)
            .await
            .map_err(|error| BlockError::new(libc::EIO, format!("TLS handshake failed: {error}")))?;
        self.stream = Some(session.into());
        Ok(())
    }

    /// Extended headers if the server has them, else structured replies, else neither.
    pub(crate) async fn negotiate_style(&mut self) -> Result<()> {
        if !self.fixed {
            return Ok(());
        }
        for (option, style) in [
            (option::EXTENDED_HEADERS, HeaderStyle::Extended),
            (option::STRUCTURED_REPLY, HeaderStyle::Structured),
        ] {
            match self.simple_option(option).await? {
                Ok(()) => {
                    self.style = style;
                    break;
                }
                Err(refused) if refused.kind == reply::ERR_TLS_REQD => return Err(refusal(option, &refused)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn context_option(export: &str, query: Option<&str>) -> Vec<u8> {
        let mut data = (export.len() as u32).to_be_bytes().to_vec();
        data.extend(export.as_bytes());
        data.extend(u32::from(query.is_some()).to_be_bytes());
        if let Some(query) = query {
            data.extend((query.len() as u32).to_be_bytes());
            data.extend(query.as_bytes());
        }
        data
    }

    /// Selects a metadata context; `None` if the server does not have it.
    async fn set_context(&self, export: &str, context: &str) -> Result<Option<u32>> {
        let option = option::SET_META_CONTEXT;
        self.send_option(option, &Self::context_option(export, Some(context))).await?;
        let mut found = None;
        let end = self
            .replies(option, |reply| {
                let (id, name) = parse_context(&reply)?;
                if name != context || found.replace(id).is_some() {
                    return Err(broken("a metadata context that was not asked for"));
                }
                Ok(())
            })
            .await?;
        Ok(end.ok().and(found))
    }

    /// The metadata contexts of an export; empty if the server does not tell.
    pub(crate) async fn list_contexts(&self, export: &str) -> Result<Vec<String>> {
        let option = option::LIST_META_CONTEXT;
        self.send_option(option, &Self::context_option(export, None)).await?;
        let mut names = Vec::new();
        let end = self
            .replies(option, |reply| {
                names.push(parse_context(&reply)?.1);
                Ok(())
            })
            .await?;
        Ok(if end.is_ok() { names } else { Vec::new() })
    }

    /// `NBD_OPT_INFO` or `NBD_OPT_GO`; `None` if the server does not know the option.
    pub(crate) async fn info(&self, option: u32, export: &str) -> Result<Option<ExportInfo>> {
        if !self.fixed {
            return Ok(None);
        }
        let mut data = (export.len() as u32).to_be_bytes().to_vec();
        data.extend(export.as_bytes());
        let kinds: &[u16] = match option {
            option::GO => &[info::BLOCK_SIZE],
            _ => &[info::BLOCK_SIZE, info::DESCRIPTION],
        };
        data.extend((kinds.len() as u16).to_be_bytes());
        kinds.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
        self.send_option(option, &data).await?;
        let mut found = ExportInfo::new(0, TransmissionFlags::empty());
        let mut complete = false;
        let end = self
            .replies(option, |reply| {
                if reply.kind != reply::INFO {
                    return Err(broken("Unexpected reply type"));
                }
                complete |= found.learn(&reply.data)?;
                Ok(())
            })
            .await?;
        match end {
            Ok(()) if complete => {
                found.check()?;
                Ok(Some(found))
            }
            Ok(()) => Err(broken("Incomplete export information")),
            Err(refused) if refused.kind == reply::ERR_UNSUP && self.style != HeaderStyle::Extended => {
                Ok(None)
            }
            Err(refused) => Err(refusal(option, &refused)),
        }
    }

    async fn export_name(&self, export: &str) -> Result<ExportInfo> {
        self.send_option(option::EXPORT_NAME, export.as_bytes()).await?;
        let mut facts = [0; 10];
        // A server that does not have it just goes away.
        self.receive(&mut facts)
            .await
            .map_err(|_| BlockError::new(libc::EINVAL, "Requested export not available"))?;
        if !self.no_zeroes {
            self.receive(&mut [0; EXPORT_NAME_PADDING]).await?;
        }
        let mut fields = Fields::new(&facts);
        let (length, flags) = (fields.u64().unwrap_or(0), fields.u16().unwrap_or(0));
        let info = ExportInfo::new(length, TransmissionFlags::from_bits_retain(flags));
        info.check()?;
        Ok(info)
    }

    /// Leaves in good order.
    pub(crate) async fn abort(self) {
        if self.fixed && self.send_option(option::ABORT, &[]).await.is_ok() {
            let _ = self.reply(option::ABORT).await;
        }
        self.stream().shutdown();
    }
}

fn parse_context(reply: &OptionReply) -> Result<(u32, String)> {
    let mut fields = Fields::new(&reply.data);
    let id = fields.u32().filter(|_| reply.kind == reply::META_CONTEXT);
    let name = valid_string(fields.rest());
    match (id, name) {
        (Some(id), Some(name)) if name.len() <= MAX_STRING => Ok((id, name.to_owned())),
        _ => Err(broken("malformed metadata context")),
    }
}

fn lost(error: std::io::Error) -> BlockError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            BlockError::new(libc::EIO, "Unexpected end-of-file before all data were read")
        }
        _ => error.into(),
    }
}

impl ExportInfo {
    fn new(length: u64, flags: TransmissionFlags) -> Self {
        Self {
            length,
            flags,
            description: String::new(),
            minimum_block: 1,
            preferred_block: 4096,
            maximum_payload: MAX_PAYLOAD,
            has_sizes: false,
        }
    }

    /// Takes in one `NBD_REP_INFO`; true if it was the one that must be there.
    fn learn(&mut self, data: &[u8]) -> Result<bool> {
        let mut fields = Fields::new(data);
        let malformed = || broken("malformed export information");
        match fields.u16().ok_or_else(malformed)? {
            info::EXPORT if data.len() == 12 => {
                self.length = fields.u64().ok_or_else(malformed)?;
                self.flags = TransmissionFlags::from_bits_retain(fields.u16().ok_or_else(malformed)?);
                return Ok(true);
            }
            info::BLOCK_SIZE if data.len() == 14 => {
                self.minimum_block = fields.u32().ok_or_else(malformed)?;
                self.preferred_block = fields.u32().ok_or_else(malformed)?;
                self.maximum_payload = fields.u32().ok_or_else(malformed)?;
                self.has_sizes = true;
            }
            info::DESCRIPTION => {
                self.description = valid_string(fields.rest()).ok_or_else(malformed)?.to_owned();
            }
            info::EXPORT | info::BLOCK_SIZE => return Err(malformed()),
            _ => {}
        }
        Ok(false)
    }

    fn check(&self) -> Result<()> {
        if self.length > rhea_block::MAX_LENGTH {
            return Err(broken(&format!("export size {} is too large", self.length)));
        }
        let minimum = self.minimum_block;
        if !minimum.is_power_of_two() || minimum > 65536 {
            return Err(broken(&format!(
                "server minimum block size {minimum} is not a power of two up to 64k"
            )));
        }
        if !self.preferred_block.is_power_of_two() || self.preferred_block < minimum {
            return Err(broken(&format!(
                "server preferred block size {} is not valid",
                self.preferred_block
            )));
        }
        if self.maximum_payload < minimum {
            return Err(broken(&format!("server maximum block size {} is not valid", self.maximum_payload)));
        }
        Ok(())
    }
}
