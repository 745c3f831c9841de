//! The node: requests of the block layer as requests of the protocol, over connections that may come and go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_lock::Mutex as AsyncMutex;
use async_trait::async_trait;
use futures_util::future::{Either, select};
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView, Timer};
use rhea_block::{
    BlockError, BlockStatus, FormatInfo, Limits, Node, Result, StatusFlags, Truncate, WriteFlags,
};

use crate::address::Address;
use crate::client::connection::{Connection, Expects, Failure};
use crate::client::handshake::{Agreed, ExportInfo, Wanted, connect};
use crate::client::journal::{Change, Journal};
use crate::protocol::{CommandFlags, HeaderStyle, MAX_PAYLOAD, TransmissionFlags, allocation, command};

/// The pause after a failed attempt to connect.
const RETRY: Duration = Duration::from_secs(1);
/// An attempt to connect (with the handshake) that takes longer has failed.
const ATTEMPT: Duration = Duration::from_secs(30);

/// Where and how to connect.
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) wanted: Wanted,
}

impl Target {
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let attempt = async {
            let stream = self.address.connect().await?;
            connect(stream, &self.wanted).await.map(Connection::new)
        };
        match select(std::pin::pin!(attempt), Timer::after(ATTEMPT)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => {
                Err(BlockError::os(libc::ETIMEDOUT)
                    .context(format!("Failed to connect to '{}'", self.address)))
            }
        }
    }
}

enum Link {
    Up(Arc<Connection>),
    /// Gone since the one time; last tried at the other.
    Down(Instant, Instant),
}

/// An export of a server as a node.
pub(crate) struct NbdNode {
    target: Target,
    /// How long requests wait for a lost connection to come back; zero: not at all.
    delay: Duration,
    /// As of the first connection; later ones must offer the same.
    info: ExportInfo,
    style: HeaderStyle,
    read_only: bool,
    link: Mutex<Link>,
    /// Held while somebody connects anew.
    connecting: AsyncMutex<()>,
    journal: Option<Journal>,
}

impl NbdNode {
    pub(crate) fn new(target: Target, connection: Connection, delay: Duration, read_only: bool) -> Self {
        let info = connection.info().clone();
        let style = connection.style();
        let keeps = !delay.is_zero() && !read_only && info.flags.contains(TransmissionFlags::SEND_FLUSH);
        Self {
            target,
            delay,
            info,
            style,
            read_only,
            link: Mutex::new(Link::Up(Arc::new(connection))),
            connecting: AsyncMutex::new(()),
            journal: keeps.then(Journal::default),
        }
    }

    fn offers(&self, flag: TransmissionFlags) -> bool {
        self.info.flags.contains(flag)
    }

    /// The connection, after waiting for a new one if need be. `EIO`: there is none.
    async fn connection(&self) -> Result<Arc<Connection>> {
        loop {
            let (since, tried) = match &*self.link.lock() {
                Link::Up(connection) => return Ok(connection.clone()),
                Link::Down(since, tried) => (*since, *tried),
            };
            let now = Instant::now();
            let deadline = since + self.delay;
            // When nobody waits any more, a request now and then still looks whether the server is back.
            if now >= deadline && now < tried + RETRY {
                return Err(BlockError::os(libc::EIO));
            }
            let last_chance = deadline.max(now + RETRY);
            let attempt = std::pin::pin!(self.reconnect());
            match select(attempt, Timer::at(last_chance)).await {
                Either::Left((Some(connection), _)) => return Ok(connection),
                Either::Left((None, _)) if Instant::now() < deadline => {}
                _ => return Err(BlockError::os(libc::EIO)),
            }
        }
    }

    /// One attempt to connect anew, after a pause since the last; `None` if it failed.
    async fn reconnect(&self) -> Option<Arc<Connection>> {
        let _one_at_a_time = self.connecting.lock().await;
        let (since, tried) = match &*self.link.lock() {
            Link::Up(connection) => return Some(connection.clone()),
            Link::Down(since, tried) => (*since, *tried),
        };
        if tried > since {
            Timer::at(tried + RETRY).await;
        }
        let connected = self.connect_anew().await;
        let mut link = self.link.lock();
        match connected {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *link = Link::Up(connection.clone());
                Some(connection)
            }
            Err(_) => {
                *link = Link::Down(since, Instant::now());
                None
            }
        }
    }

    async fn connect_anew(&self) -> Result<Connection> {
        let connection = self.target.connect().await?;
        let info = connection.info();
        // Requests were shaped for what the first connection offered.
        let lacks = self.info.flags - info.flags - TransmissionFlags::CAN_MULTI_CONN;
        let same = info.length == self.info.length
            && info.minimum_block <= self.info.minimum_block
            && info.maximum_payload.min(MAX_PAYLOAD) >= self.info.maximum_payload.min(MAX_PAYLOAD)
            && (lacks - TransmissionFlags::READ_ONLY).is_empty()
            && connection.style() >= self.style
            && (self.read_only || !info.flags.contains(TransmissionFlags::READ_ONLY));
        if !same {
            connection.disconnect().await;
            return Err(BlockError::new(libc::EIO, "the export has changed"));
        }
        if let Some(journal) = &self.journal {
            replay(journal, &connection).await?;
        }
        Ok(connection)
    }

    /// A connection has broken.
    fn lost(&self, connection: &Arc<Connection>) {
        let mut link = self.link.lock();
        if matches!(&*link, Link::Up(current) if Arc::ptr_eq(current, connection)) {
            let now = Instant::now();
            *link = Link::Down(now, now);
        }
    }

    /// Does a request, on another connection if one breaks and there is still time.
    async fn request(
        &self,
        flags: CommandFlags,
        command: u16,
        range: (u64, u64),
        payload: Option<&IoView<'_>>,
        mut expects: Expects,
    ) -> (Expects, Result<()>) {
        loop {
            let connection = match self.connection().await {
                Ok(connection) => connection,
                Err(error) => return (expects, Err(error)),
            };
            let result;
            (expects, result) = connection.request(flags, command, range, payload, expects).await;
            match result {
                Ok(()) => return (expects, Ok(())),
                // A server that is about to go is as good as gone.
                Err(Failure::Server(error)) if error.errno() == libc::ESHUTDOWN && !self.delay.is_zero() => {
                    self.lost(&connection);
                    connection.hang_up();
                }
                Err(Failure::Server(error)) => return (expects, Err(error)),
                Err(Failure::Broken) => {
                    self.lost(&connection);
                    if self.delay.is_zero() {
                        return (expects, Err(BlockError::os(libc::EIO)));
                    }
                }
            }
            if let Expects::Data { offset, data, .. } = expects {
                expects = Expects::data(offset, data);
            }
        }
    }

    async fn plain(&self, flags: CommandFlags, command: u16, range: (u64, u64)) -> Result<()> {
        self.request(flags, command, range, None, Expects::Nothing).await.1
    }

    /// Remembers an acknowledged change, and has the server flush when there are too many of them.
    async fn remember(&self, enter: impl FnOnce(&Journal) -> bool) -> Result<()> {
        match &self.journal {
            Some(journal) if enter(journal) => self.flush().await,
            _ => Ok(()),
        }
    }
}

/// A node on a connection that somebody else has made, which does not come back.
pub(crate) struct NodeForTests(NbdNode);

impl NodeForTests {
    pub(crate) fn new(agreed: Agreed) -> Self {
        let address = Address::Unix { path: String::new() };
        let target = Target { address, wanted: Wanted::default() };
        Self(NbdNode::new(target, Connection::new(agreed), Duration::ZERO, false))
    }

    pub(crate) async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.0.read(offset, data).await
    }

    pub(crate) async fn write(&self, offset: u64, data: &IoVector, flags: WriteFlags) -> Result<()> {
        self.0.write(offset, data.view(), flags).await
    }

    pub(crate) async fn block_status(&self, offset: u64, len: u64) -> Result<BlockStatus> {
        self.0.block_status(offset, len, true).await
    }
}

/// Sends the writes again that a server may have lost, and has it keep them this time.
async fn replay(journal: &Journal, connection: &Connection) -> Result<()> {
    let mark = journal.mark();
    let entries = journal.entries();
    if entries.is_empty() {
        return Ok(());
    }
    for entry in entries {
        let (_, result) = match &entry.change {
            Change::Data(data) => {
                let range = (entry.offset, data.len() as u64);
                let view = data.view();
                let flags = CommandFlags::empty();
                connection.request(flags, command::WRITE, range, Some(&view), Expects::Nothing).await
            }
            Change::Zeroes { length, may_unmap } => {
                let mut flags = CommandFlags::empty();
                flags.set(CommandFlags::NO_HOLE, !may_unmap);
                let range = (entry.offset, *length);
                connection.request(flags, command::WRITE_ZEROES, range, None, Expects::Nothing).await
            }
        };
        result.map_err(error_of)?;
    }
    let flags = CommandFlags::empty();
    connection.request(flags, command::FLUSH, (0, 0), None, Expects::Nothing).await.1.map_err(error_of)?;
    journal.flushed(mark);
    Ok(())
}

fn error_of(failure: Failure) -> BlockError {
    match failure {
        Failure::Server(error) => error,
        Failure::Broken => BlockError::os(libc::EIO),
    }
}

#[async_trait]
impl Node for NbdNode {
    fn limits(&self) -> Limits {
        let align = self.info.minimum_block;
        let down = |value: u64| (value / u64::from(align) * u64::from(align)).max(u64::from(align));
        let max_transfer = down(u64::from(self.info.maximum_payload.min(MAX_PAYLOAD)));
        // With 32-bit lengths, as long as they go.
        let max_effect = if self.style == HeaderStyle::Extended { 0 } else { down(u64::from(u32::MAX)) };
        let fua = match self.offers(TransmissionFlags::SEND_FUA) {
            true => WriteFlags::FUA,
            false => WriteFlags::empty(),
        };
        Limits {
            request_alignment: align,
            max_transfer,
            max_write_zeroes: max_effect,
            max_discard: max_effect,
            discard_alignment: align,
            write_zeroes_alignment: align,
            optimal_transfer: match self.info.preferred_block {
                preferred if preferred > align => u64::from(preferred),
                _ => 0,
            },
            native_write: fua,
            native_write_zeroes: fua | WriteFlags::MAY_UNMAP | WriteFlags::NO_FALLBACK,
            ..Limits::default()
        }
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn length(&self) -> u64 {
        // Bytes behind the last whole block cannot be reached.
        self.info.length / u64::from(self.info.minimum_block) * u64::from(self.info.minimum_block)
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let range = (offset, data.len() as u64);
        let expects = Expects::data(offset, data.take());
        let (expects, result) =
            self.request(CommandFlags::empty(), command::READ, range, None, expects).await;
        if let Expects::Data { data: memory, .. } = expects {
            *data = memory;
        }
        result
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let range = (offset, data.len() as u64);
        let mut command_flags = CommandFlags::empty();
        command_flags.set(CommandFlags::FUA, flags.contains(WriteFlags::FUA));
        let (_, result) =
            self.request(command_flags, command::WRITE, range, Some(&data), Expects::Nothing).await;
        result?;
        self.remember(|journal| journal.enter_data(offset, &data)).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        if !self.offers(TransmissionFlags::SEND_WRITE_ZEROES) {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        let fast = flags.contains(WriteFlags::NO_FALLBACK);
        if fast && !self.offers(TransmissionFlags::SEND_FAST_ZERO) {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        let may_unmap = flags.contains(WriteFlags::MAY_UNMAP);
        let mut command_flags = CommandFlags::empty();
        command_flags.set(CommandFlags::FUA, flags.contains(WriteFlags::FUA));
        command_flags.set(CommandFlags::NO_HOLE, !may_unmap);
        command_flags.set(CommandFlags::FAST_ZERO, fast);
        self.plain(command_flags, command::WRITE_ZEROES, (offset, len)).await?;
        self.remember(|journal| journal.enter(offset, Change::Zeroes { length: len, may_unmap })).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        if !self.offers(TransmissionFlags::SEND_TRIM) {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        self.plain(CommandFlags::empty(), command::TRIM, (offset, len)).await
    }

    async fn flush(&self) -> Result<()> {
        // A server without the command has nothing to flush.
        if !self.offers(TransmissionFlags::SEND_FLUSH) || self.read_only {
            return Ok(());
        }
        let mark = self.journal.as_ref().map(Journal::mark);
        self.plain(CommandFlags::empty(), command::FLUSH, (0, 0)).await?;
        if let (Some(journal), Some(mark)) = (&self.journal, mark) {
            journal.flushed(mark);
        }
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64, _want_zero: bool) -> Result<BlockStatus> {
        let known = StatusFlags::ALLOCATED | StatusFlags::OFFSET_VALID;
        let data = BlockStatus { len, flags: known | StatusFlags::DATA, map: None };
        if !self.connection().await?.has_context() {
            return Ok(data);
        }
        let len = match self.style {
            HeaderStyle::Extended => len,
            _ => len.min(
                u64::from(u32::MAX) / u64::from(self.info.minimum_block) * u64::from(self.info.minimum_block),
            ),
        };
        let expects = Expects::Status { length: len, extent: None };
        let (expects, result) =
            self.request(CommandFlags::REQ_ONE, command::BLOCK_STATUS, (offset, len), None, expects).await;
        result?;
        let Expects::Status { extent: Some((len, extent)), .. } = expects else { return Ok(data) };
        let mut flags = known;
        flags.set(StatusFlags::DATA, extent & allocation::HOLE == 0);
        flags.set(StatusFlags::ZERO, extent & allocation::ZERO != 0);
        Ok(BlockStatus { len, flags, map: None })
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if how.exact && length != self.length() {
            return Err(BlockError::unsupported("Cannot resize NBD nodes"));
        }
        match length <= self.length() {
            true => Ok(()),
            false => Err(BlockError::invalid("Cannot grow NBD nodes")),
        }
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo::default())
    }

    async fn close(&self) -> Result<()> {
        let connection = match &*self.link.lock() {
            Link::Up(connection) => connection.clone(),
            Link::Down(..) => return Ok(()),
        };
        connection.disconnect().await;
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
