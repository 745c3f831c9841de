//! A connection to a server in the transmission phase: many requests at a time, by any number of tasks.
//!
//! No task of its own reads the replies. Of those that wait for one, one *leads*: it receives, hands replies to whom they
//! belong, and when it has its own, leaves the lead to another. What was received so far is kept in [`Incoming`], so that
//! a leader that is given up loses nothing.
//!
//! Likewise a request that is given up while it is being sent leaves its rest to the next sender; its reply is received
//! and thrown away.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Poll, Waker};

use async_lock::{Mutex as AsyncMutex, MutexGuard, Semaphore, SemaphoreGuardArc};
use futures_util::future::{Either, poll_fn, select};
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView};
use rhea_block::BlockError;

use crate::client::handshake::{Agreed, ExportInfo};
use crate::protocol::{
    CommandFlags, Fields, HeaderStyle, MAX_STRING, Reply, Request, chunk, command, errno, valid_string,
};
use crate::receive::Receiver;
use crate::stream::Stream;

/// Requests under way at a time; more wait.
const MAX_REQUESTS: usize = 64;
/// Bytes of the longest payload of a chunk that is not data: a message and some fields, or a few extents.
const MAX_SMALL_CHUNK: u64 = 8192;

/// Why a request has failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection is gone; whether the request took effect is unknown.
    Broken,
    /// The server has refused it.
    Server(BlockError),
}

/// What a reply brings besides success.
#[derive(Default)]
pub(crate) enum Expects {
    /// Nothing.
    #[default]
    Nothing,
    /// Data for all of a range.
    Data { offset: u64, data: IoVector, covered: Covered },
    /// The status of the start of a range.
    Status { length: u64, extent: Option<(u64, u64)> },
}

impl Expects {
    pub(crate) fn data(offset: u64, data: IoVector) -> Self {
        Self::Data { offset, data, covered: Covered::default() }
    }
}

/// Which parts of a read have arrived, as disjoint ranges in order.
#[derive(Default)]
pub(crate) struct Covered(Vec<(u64, u64)>);

impl Covered {
    /// Enters a range; false if some of it was there already.
    fn add(&mut self, start: u64, end: u64) -> bool {
        let at = self.0.partition_point(|&(_, e)| e <= start);
        if self.0.get(at).is_some_and(|&(s, _)| s < end) {
            return false;
        }
        // Chunks mostly come in order: then this stays one range.
        let joins_before = at > 0 && self.0[at - 1].1 == start;
        let joins_after = self.0.get(at).is_some_and(|&(s, _)| s == end);
        match (joins_before, joins_after) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = end,
            (false, true) => self.0[at].0 = start,
            (false, false) => self.0.insert(at, (start, end)),
        }
        true
    }

    fn is_whole(&self, start: u64, end: u64) -> bool {
        self.0 == [(start, end)]
    }
}

/// A request whose reply has not been taken yet.
struct Slot {
    expects: Expects,
    error: Option<BlockError>,
    done: bool,
    waker: Option<Waker>,
    abandoned: bool,
    _permit: SemaphoreGuardArc,
}

#[derive(Default)]
struct Slots {
    next: u64,
    by_cookie: HashMap<u64, Slot>,
    broken: bool,
}

/// What has been received of the present message.
struct Incoming {
    receiver: Receiver,
    /// The data that is arriving, taken out of its slot.
    data: Option<ArrivingData>,
}

struct ArrivingData {
    cookie: u64,
    data: IoVector,
    at: usize,
    end: usize,
    /// The reply ends with this data.
    last: bool,
}

/// A connection in the transmission phase.
pub(crate) struct Connection {
    stream: Stream,
    style: HeaderStyle,
    info: ExportInfo,
    context: Option<u32>,
    slots: Mutex<Slots>,
    incoming: AsyncMutex<Incoming>,
    /// Held while a request is sent; the rest of one that was given up halfway.
    outgoing: AsyncMutex<Vec<u8>>,
    permits: Arc<Semaphore>,
}

/// The server has broken the protocol.
fn violation(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("NBD server: {what}"))
}

impl Connection {
    pub(crate) fn new(agreed: Agreed) -> Self {
        let incoming = Incoming { receiver: Receiver::new(), data: None };
        Self {
            stream: agreed.stream,
            style: agreed.style,
            info: agreed.info,
            context: agreed.context,
            slots: Mutex::default(),
            incoming: AsyncMutex::new(incoming),
            outgoing: AsyncMutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }
    }

    pub(crate) fn info(&self) -> &ExportInfo {
        &self.info
    }

    pub(crate) fn style(&self) -> HeaderStyle {
        self.style
    }

    /// Whether block status can be asked for.
    pub(crate) fn has_context(&self) -> bool {
        self.context.is_some()
    }

    /// Whether the connection is of no more use.
    pub(crate) fn is_broken(&self) -> bool {
        self.slots.lock().broken
    }

    /// Marks the connection as gone and wakes everybody who waits on it. For the leader, or when no request is under way:
    /// no request's memory may be away from it.
    fn break_off(&self) {
        let wakers: Vec<Waker> = {
            let mut slots = self.slots.lock();
            slots.broken = true;
            slots.by_cookie.values_mut().filter_map(|slot| slot.waker.take()).collect()
        };
        self.stream.shutdown();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the connection under the requests that go on; they find it broken.
    pub(crate) fn hang_up(&self) {
        self.stream.shutdown();
    }

    /// Says goodbye, when no request is under way.
    pub(crate) async fn disconnect(&self) {
        let request =
            Request { flags: CommandFlags::empty(), command: command::DISC, cookie: 0, offset: 0, length: 0 };
        let (header, len) = request.encode(self.style);
        if !self.is_broken() {
            let outgoing = self.outgoing.lock().await;
            if outgoing.is_empty() {
                let _ = self.stream.send_all(&header[..len]).await;
            }
        }
        self.break_off();
    }

    /// Sends a request and waits for its reply. The memory of `expects` comes back in any case.
    pub(crate) async fn request(
        &self,
        flags: CommandFlags,
        command: u16,
        (offset, length): (u64, u64),
        payload: Option<&IoView<'_>>,
        expects: Expects,
    ) -> (Expects, Result<(), Failure>) {
        let permit = self.permits.acquire_arc().await;
        let cookie = {
            let mut slots = self.slots.lock();
            if slots.broken {
                return (expects, Err(Failure::Broken));
            }
            let cookie = slots.next;
            slots.next += 1;
            let slot =
                Slot { expects, error: None, done: false, waker: None, abandoned: false, _permit: permit };
            slots.by_cookie.insert(cookie, slot);
            cookie
        };
        let mut pending = PendingRequest { connection: self, cookie, sent: false, taken: false };
        let mut flags = flags;
        if payload.is_some() && self.style == HeaderStyle::Extended {
            flags |= CommandFlags::PAYLOAD_LEN;
        }
        let request = Request { flags, command, cookie, offset, length };
        if self.send(&request, payload, &mut pending).await.is_err() {
            // Whoever leads finds the end of the stream and tells everybody.
            self.stream.shutdown();
        }
        let slot = self.wait(cookie).await;
        pending.taken = true;
        let result = match slot.error {
            _ if !slot.done => Err(Failure::Broken),
            Some(error) => Err(Failure::Server(error)),
            None => Ok(()),
        };
        (slot.expects, result)
    }

    async fn send(
        &self,
        request: &Request,
        payload: Option<&IoView<'_>>,
        pending: &mut PendingRequest<'_>,
    ) -> io::Result<()> {
        let (header, len) = request.encode(self.style);
        let bytes = payload.map(|view| view.contiguous());
        let bytes = bytes.as_deref().unwrap_or(&[]);
        let mut outgoing = self.outgoing.lock().await;
        while !outgoing.is_empty() {
            let count = self.send_some(&[IoSlice::new(&outgoing)], pending.cookie).await?;
            outgoing.drain(..count);
        }
        let mut frame = Frame { header: &header[..len], bytes, sent: 0, outgoing };
        while frame.sent < frame.len() {
            let (head, tail) = frame.rest();
            let count = self.send_some(&[IoSlice::new(head), IoSlice::new(tail)], pending.cookie).await?;
            frame.sent += count;
            pending.sent = true;
        }
        while !self.stream.try_flush()? {
            self.writable(pending.cookie).await?;
        }
        Ok(())
    }

    async fn send_some(&self, slices: &[IoSlice<'_>], cookie: u64) -> io::Result<usize> {
        loop {
            match self.stream.try_send(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable(cookie).await?,
                other => return other,
            }
        }
    }

    /// Waits until the socket takes more. A server may itself wait until it gets rid of replies, so that they are
    /// received meanwhile.
    async fn writable(&self, cookie: u64) -> io::Result<()> {
        let receiving = std::pin::pin!(async {
            let mut leader = self.lead(cookie).await;
            loop {
                if let Err(error) = leader.step().await {
                    return error;
                }
            }
        });
        match select(std::pin::pin!(self.stream.writable()), receiving).await {
            Either::Left((result, _)) => result,
            Either::Right((error, _)) => {
                self.break_off();
                Err(error)
            }
        }
    }

    /// Waits for the lead, unless somebody else has it.
    async fn lead(&self, cookie: u64) -> Leader<'_> {
        poll_fn(|cx| {
            if let Some(slot) = self.slots.lock().by_cookie.get_mut(&cookie) {
                slot.waker = Some(cx.waker().clone());
            }
            match self.try_lead() {
                Some(leader) => Poll::Ready(leader),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn try_lead(&self) -> Option<Leader<'_>> {
        let incoming = self.incoming.try_lock()?;
        Some(Leader { connection: self, incoming: Some(incoming) })
    }

    /// Waits until the reply to a request is complete or the connection breaks, and takes the request's slot.
    async fn wait(&self, cookie: u64) -> Slot {
        // The waker is left before the lead is tried: whoever gives up the lead later will see it.
        let next = poll_fn(|cx| {
            if let Some(slot) = self.take_finished(cookie, Some(cx.waker())) {
                return Poll::Ready(Either::Left(slot));
            }
            match self.try_lead() {
                Some(leader) => Poll::Ready(Either::Right(leader)),
                None => Poll::Pending,
            }
        })
        .await;
        let mut leader = match next {
            Either::Left(slot) => return slot,
            Either::Right(leader) => leader,
        };
        loop {
            if let Some(slot) = self.take_finished(cookie, None) {
                return slot;
            }
            if leader.step().await.is_err() {
                self.break_off();
            }
        }
    }

    fn take_finished(&self, cookie: u64, waker: Option<&Waker>) -> Option<Slot> {
        let mut slots = self.slots.lock();
        let broken = slots.broken;
        let slot = slots.by_cookie.get_mut(&cookie).expect("a request's slot is its own");
        if slot.done || broken {
            return slots.by_cookie.remove(&cookie);
        }
        slot.waker = waker.cloned();
        None
    }

    /// Wakes one of those that wait, to take the lead.
    fn promote(&self) {
        let waker = self.slots.lock().by_cookie.values_mut().find_map(|slot| slot.waker.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The reply to a request is complete.
    fn finish(&self, slots: &mut Slots, cookie: u64) -> io::Result<()> {
        let slot = slots.by_cookie.get_mut(&cookie).ok_or_else(|| violation("reply to no request"))?;
        if slot.error.is_none() {
            match &slot.expects {
                Expects::Nothing => {}
                Expects::Data { offset, data, covered } => {
                    if !covered.is_whole(*offset, *offset + data.len() as u64) {
                        return Err(violation("the reply to a read lacks data"));
                    }
                }
                Expects::Status { extent, .. } => {
                    if extent.is_none() {
                        return Err(violation("no reply to a block status request"));
                    }
                }
            }
        }
        slot.done = true;
        if slot.abandoned {
            slots.by_cookie.remove(&cookie);
        } else if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
        Ok(())
    }
}

/// Cleans up after a request that is given up.
struct PendingRequest<'a> {
    connection: &'a Connection,
    cookie: u64,
    /// The server knows of it, or of a part of it.
    sent: bool,
    taken: bool,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        if !self.taken {
            let mut slots = self.connection.slots.lock();
            match slots.by_cookie.get_mut(&self.cookie) {
                Some(slot) if self.sent && !slot.done => {
                    slot.abandoned = true;
                    slot.waker = None;
                }
                _ => {
                    slots.by_cookie.remove(&self.cookie);
                }
            }
        }
        // Perhaps this one was woken to lead, and does not any more: then it is somebody else's turn.
        if self.connection.incoming.try_lock().is_some() {
            self.connection.promote();
        }
    }
}

/// A request on its way out.
struct Frame<'a> {
    header: &'a [u8],
    bytes: &'a [u8],
    sent: usize,
    outgoing: MutexGuard<'a, Vec<u8>>,
}

impl Frame<'_> {
    fn len(&self) -> usize {
        self.header.len() + self.bytes.len()
    }

    fn rest(&self) -> (&[u8], &[u8]) {
        let head = &self.header[self.sent.min(self.header.len())..];
        (head, &self.bytes[self.sent.saturating_sub(self.header.len())..])
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        if self.sent > 0 && self.sent < self.len() {
            let (head, tail) = self.rest();
            let rest = [head, tail].concat();
            self.outgoing.extend(rest);
        }
    }
}

/// The one who receives.
struct Leader<'a> {
    connection: &'a Connection,
    incoming: Option<MutexGuard<'a, Incoming>>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.incoming = None;
        self.connection.promote();
    }
}

impl Leader<'_> {
    /// Receives and hands on one message, or a part of its data. Nothing is lost if the future is dropped. After an
    /// error, requests have their memory back, and the connection is to be broken off.
    async fn step(&mut self) -> io::Result<()> {
        let result = self.receive().await;
        if result.is_err() {
            self.give_back();
        }
        result
    }

    async fn receive(&mut self) -> io::Result<()> {
        let connection = self.connection;
        let incoming = &mut **self.incoming.as_mut().expect("held until dropped");
        if let Some(arriving) = &mut incoming.data {
            let part = arriving.at..arriving.end;
            arriving.at +=
                incoming.receiver.some_payload(&connection.stream, &mut arriving.data, part).await?;
            if arriving.at == arriving.end {
                let last = arriving.last;
                let cookie = arriving.cookie;
                self.give_back();
                if last {
                    connection.finish(&mut connection.slots.lock(), cookie)?;
                }
            }
            return Ok(());
        }
        let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let magic = incoming.receiver.peek(&connection.stream, 4).await?.ok_or_else(eof)?;
        let magic = u32::from_be_bytes(magic.try_into().expect("four bytes"));
        let length = Reply::header_length(connection.style, magic)
            .ok_or_else(|| violation(&format!("unexpected reply magic 0x{magic:08x}")))?;
        let header = incoming.receiver.peek(&connection.stream, length).await?.ok_or_else(eof)?;
        match Reply::decode(header).expect("the magic number is known") {
            Reply::Simple { error, cookie } => {
                incoming.receiver.consume(length);
                incoming.data = connection.simple_reply(error, cookie)?;
            }
            Reply::Chunk { flags, kind, cookie, length: payload } => {
                let last = flags & chunk::FLAG_DONE != 0;
                if kind == chunk::OFFSET_DATA {
                    let bytes =
                        incoming.receiver.peek(&connection.stream, length + 8).await?.ok_or_else(eof)?;
                    let offset = u64::from_be_bytes(bytes[length..].try_into().expect("eight bytes"));
                    let arriving = connection.data_chunk(cookie, offset, payload, last)?;
                    incoming.receiver.consume(length + 8);
                    incoming.data = Some(arriving);
                } else {
                    if payload > MAX_SMALL_CHUNK {
                        return Err(violation(&format!("a chunk of type {kind} with {payload} bytes")));
                    }
                    let whole = length + payload as usize;
                    let bytes = incoming.receiver.peek(&connection.stream, whole).await?.ok_or_else(eof)?;
                    connection.small_chunk(cookie, kind, &bytes[length..], last)?;
                    incoming.receiver.consume(whole);
                }
            }
        }
        Ok(())
    }

    /// Puts memory that data was arriving in back into its slot.
    fn give_back(&mut self) {
        let incoming = self.incoming.as_mut().expect("held until dropped");
        if let Some(arriving) = incoming.data.take()
            && let Some(slot) = self.connection.slots.lock().by_cookie.get_mut(&arriving.cookie)
            && let Expects::Data { data, .. } = &mut slot.expects
        {
            *data = arriving.data;
        }
    }
}

impl Connection {
    fn simple_reply(&self, error: u32, cookie: u64) -> io::Result<Option<ArrivingData>> {
        let mut slots = self.slots.lock();
        let slot = slots.by_cookie.get_mut(&cookie).ok_or_else(|| violation("reply to no request"))?;
        if slot.done {
            return Err(violation("two replies to a request"));
        }
        if error != 0 {
            slot.error = Some(BlockError::os(errno::from_wire(error)));
        } else if let Expects::Data { offset, data, covered } = &mut slot.expects {
            if self.style != HeaderStyle::Simple {
                return Err(violation("a simple reply to a read"));
            }
            let end = data.len();
            covered.add(*offset, *offset + end as u64);
            return Ok(Some(ArrivingData { cookie, data: data.take(), at: 0, end, last: true }));
        }
        self.finish(&mut slots, cookie)?;
        Ok(None)
    }

    fn data_chunk(&self, cookie: u64, from: u64, payload: u64, last: bool) -> io::Result<ArrivingData> {
        let mut slots = self.slots.lock();
        let slot = slots.by_cookie.get_mut(&cookie).ok_or_else(|| violation("reply to no request"))?;
        let Expects::Data { offset, data, covered } = &mut slot.expects else {
            return Err(violation("data for a request that asked for none"));
        };
        let length = payload.checked_sub(8).filter(|&l| l > 0 && !slot.done);
        let range = length.and_then(|length| range_within(*offset, data.len(), from, length));
        let Some((at, end)) = range else {
            return Err(violation("data outside of what was asked for"));
        };
        if !covered.add(from, from + (end - at) as u64) {
            return Err(violation("data that was sent already"));
        }
        Ok(ArrivingData { cookie, data: data.take(), at, end, last })
    }

    fn small_chunk(&self, cookie: u64, kind: u16, payload: &[u8], last: bool) -> io::Result<()> {
        let mut slots = self.slots.lock();
        let slot = slots.by_cookie.get_mut(&cookie).ok_or_else(|| violation("reply to no request"))?;
        if slot.done {
            return Err(violation("two replies to a request"));
        }
        let mut fields = Fields::new(payload);
        match kind {
            chunk::NONE if last && payload.is_empty() => {}
            chunk::OFFSET_HOLE => {
                let Expects::Data { offset, data, covered } = &mut slot.expects else {
                    return Err(violation("a hole for a request that asked for no data"));
                };
                let (from, length) = (fields.u64(), fields.u32());
                let range = match (from, length) {
                    (Some(from), Some(length)) if payload.len() == 12 && length > 0 => {
                        range_within(*offset, data.len(), from, u64::from(length))
                    }
                    _ => None,
                };
                let Some((at, end)) = range else { return Err(violation("a malformed hole")) };
                if !covered.add(*offset + at as u64, *offset + end as u64) {
                    return Err(violation("data that was sent already"));
                }
                data.fill(at..end, 0);
            }
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                let extended = kind == chunk::BLOCK_STATUS_EXT;
                let Expects::Status { length, extent } = &mut slot.expects else {
                    return Err(violation("block status that was not asked for"));
                };
                let found = parse_extent(payload, extended, self.context)
                    .filter(|_| extended == (self.style == HeaderStyle::Extended) && extent.is_none());
                let Some((bytes, flags)) = found else { return Err(violation("malformed block status")) };
                *extent = Some((bytes.min(*length), flags));
            }
            kind if kind & chunk::ERROR_BIT != 0 => {
                let error = parse_error(payload).ok_or_else(|| violation("a malformed error"))?;
                slot.error.get_or_insert(error);
            }
            _ => return Err(violation(&format!("an unexpected chunk of type {kind}"))),
        }
        if last {
            self.finish(&mut slots, cookie)?;
        }
        Ok(())
    }
}

/// Where a piece of data lies in the memory of a read: its start and end.
fn range_within(offset: u64, len: usize, from: u64, length: u64) -> Option<(usize, usize)> {
    let at = from.checked_sub(offset)?;
    let end = at.checked_add(length)?;
    (end <= len as u64).then_some((at as usize, end as usize))
}

/// The first extent of a block status chunk for our context.
fn parse_extent(payload: &[u8], extended: bool, context: Option<u32>) -> Option<(u64, u64)> {
    let mut fields = Fields::new(payload);
    if fields.u32()? != context? {
        return None;
    }
    let (length, flags) = if extended {
        let count = fields.u32()? as usize;
        if fields.rest().len() != count.checked_mul(16)? {
            return None;
        }
        (fields.u64()?, fields.u64()?)
    } else {
        if !fields.rest().len().is_multiple_of(8) {
            return None;
        }
        (u64::from(fields.u32()?), u64::from(fields.u32()?))
    };
    (length > 0).then_some((length, flags))
}

fn parse_error(payload: &[u8]) -> Option<BlockError> {
    let mut fields = Fields::new(payload);
    let number = fields.u32().filter(|&e| e != 0)?;
    let length = usize::from(fields.u16()?);
    let message = fields.bytes(length).filter(|_| length <= MAX_STRING)?;
    let error = BlockError::os(errno::from_wire(number));
    Some(match valid_string(message) {
        Some(text) if !text.is_empty() => error.with_hint(format!("server reported: {text}")),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_covered_is_known_exactly() {
        let mut c = Covered::default();
        assert!(c.add(10, 20) && c.add(30, 40));
        assert!(!c.add(15, 16) && !c.add(0, 11) && !c.add(19, 30) && !c.add(0, 100));
        assert!(c.add(20, 30));
        assert!(c.is_whole(10, 40));
        assert!(c.add(5, 10) && c.add(40, 41));
        assert!(c.is_whole(5, 41) && !c.is_whole(5, 42));
    }

    #[test]
    fn extents_of_other_contexts_or_sizes_are_refused() {
        let mut chunk = vec![0, 0, 0, 7];
        chunk.extend([0, 0, 0x10, 0, 0, 0, 0, 3]);
        assert_eq!(parse_extent(&chunk, false, Some(7)), Some((0x1000, 3)));
        assert_eq!(parse_extent(&chunk, false, Some(8)), None);
        assert_eq!(parse_extent(&chunk[..11], false, Some(7)), None);
        assert_eq!(parse_extent(&chunk, true, Some(7)), None);
    }
}
