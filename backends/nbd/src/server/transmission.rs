//! The transmission phase: requests come in, each is served independently of the others, replies go out as they are
//! ready.
//!
//! A request that can be served without waiting is served at once, in the course of receiving; the others go on as tasks
//! of their own.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use async_lock::Mutex as AsyncMutex;
use futures_util::future::{Either, select};
use futures_util::poll;
use rhea_async_io::{IoVector, Timer, spawn, take_turns};
use rhea_block::{BlockError, WriteFlags};

use crate::protocol::{
    CommandFlags, EXTENDED_REPLY_MAGIC, Fields, HeaderStyle, MAX_PAYLOAD, MAX_STRING, Request,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, TransmissionFlags, chunk, command, errno,
};
use crate::receive::Receiver;
use crate::server::budget::{Budget, Outbox, Share};
use crate::server::negotiation::Session;
use crate::server::violation;
use crate::stream::Stream;

/// Extents in one reply; the protocol asks for no more than 2^20.
const MAX_EXTENTS: usize = 1 << 16;
/// Reads from this length on are looked through for holes, which need not be sent.
const SPARSE_READ: u64 = 64 << 10;
/// Bytes read at a time where a request may be answered in pieces, so that it holds no more memory than this.
const PIECE: u64 = 1 << 20;
/// Replies that a client does not take are given up so long after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Serves a client until it leaves or `stop` is ready. Requests under way have ended when this returns.
pub(super) async fn run(
    stream: &Arc<Stream>,
    session: Session,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let connection = Arc::new(Connection {
        stream: stream.clone(),
        session,
        sending: AsyncMutex::new(()),
        budget: Arc::default(),
        outbox: Outbox::default(),
    });
    // A request of which a part has arrived is forgotten with the future.
    let result = match select(Box::pin(connection.receive()), std::pin::pin!(stop)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Ok(()),
    };
    // Replies to requests sent before NBD_CMD_DISC may still be wanted; a client that does not take them is not waited for.
    if result.is_ok() {
        select(std::pin::pin!(connection.budget.idle()), Timer::after(GRACE)).await;
    }
    stream.shutdown();
    connection.budget.idle().await;
    result
}

struct Connection {
    stream: Arc<Stream>,
    session: Session,
    /// Held while a message is sent.
    sending: AsyncMutex<()>,
    budget: Arc<Budget>,
    outbox: Outbox,
}

/// What is wrong with a request: an error number of the wire, and why.
type Refusal = (u32, String);

impl Connection {
    async fn receive(self: &Arc<Self>) -> io::Result<()> {
        let mut receiver = Receiver::new();
        let style = self.session.style;
        loop {
            let header = receiver.header(&self.stream, style.request_length()).await?;
            let Some(header) = header else { return Ok(()) };
            let request =
                Request::decode(style, header).ok_or_else(|| violation("bad magic number of a request"))?;
            if request.command == command::DISC {
                return Ok(());
            }
            let payload = self.payload_length(&request)?;
            let share = self.budget.take(self.cost(&request, payload)).await;
            let mut data = IoVector::scratch(payload as usize);
            if payload > 0 {
                receiver.payload(&self.stream, &mut data).await?;
            }
            let mut serving = Box::pin(self.clone().serve(request, data, share));
            if poll!(serving.as_mut()).is_pending() {
                spawn(serving).detach();
            }
            take_turns(0).await;
        }
    }

    /// Bytes of payload that follow the header.
    fn payload_length(&self, request: &Request) -> io::Result<u32> {
        // With extended headers a write should say so, but QEMU 10.0 forgets it where it sets FUA.
        let follows = request.command == command::WRITE
            || (self.session.style == HeaderStyle::Extended
                && request.flags.contains(CommandFlags::PAYLOAD_LEN));
        match u32::try_from(request.length) {
            _ if !follows => Ok(0),
            Ok(length) if length <= MAX_PAYLOAD => Ok(length),
            _ => Err(violation(format!("a payload of {} bytes", request.length))),
        }
    }

    /// Bytes the request will hold.
    fn cost(&self, request: &Request, payload: u32) -> u64 {
        match request.command {
            command::READ => request.length.min(u64::from(MAX_PAYLOAD)),
            command::BLOCK_STATUS | command::CACHE => 1 << 20,
            _ => u64::from(payload),
        }
    }

    async fn serve(self: Arc<Self>, request: Request, data: IoVector, _share: Share) {
        let result = match self.check(&request, &data) {
            Ok(()) => self.execute(&request, &data).await,
            Err((error, why)) => self.reply_error(&request, error, &why).await,
        };
        if result.is_err() {
            // The client cannot be told any more; the receiving side finds the end of the stream.
            self.stream.shutdown();
        }
    }

    /// Checks a request against what was negotiated, before anything happens.
    fn check(&self, request: &Request, data: &IoVector) -> Result<(), Refusal> {
        use CommandFlags as F;
        let session = &self.session;
        let refuse = |error, why: &str| Err((error, why.to_owned()));
        let extended = session.style == HeaderStyle::Extended;
        let with_payload = if extended { F::PAYLOAD_LEN } else { F::empty() };
        let allowed = F::FUA
            | match request.command {
                command::READ if session.flags.contains(TransmissionFlags::SEND_DF) => F::DF,
                command::WRITE => with_payload,
                command::WRITE_ZEROES => F::NO_HOLE | F::FAST_ZERO,
                command::BLOCK_STATUS => F::REQ_ONE | with_payload,
                _ => F::empty(),
            };
        if request.command > command::BLOCK_STATUS {
            return refuse(errno::EINVAL, "invalid request type");
        }
        if !(request.flags - allowed).is_empty() {
            return refuse(errno::EINVAL, "unsupported flags for the command");
        }
        let changes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if changes && !session.export.is_writable() {
            return refuse(errno::EPERM, "Export is read-only");
        }
        let in_memory = matches!(request.command, command::READ | command::CACHE);
        if in_memory && request.length > u64::from(MAX_PAYLOAD) {
            return refuse(errno::EINVAL, "len is larger than max len");
        }
        let length = match request.command {
            command::FLUSH => return Ok(()),
            command::BLOCK_STATUS => match self.status_request(request, data) {
                Ok((length, _)) if length > 0 => length,
                Ok(_) => return refuse(errno::EINVAL, "need non-zero length"),
                Err(refusal) => return Err(refusal),
            },
            _ => request.length,
        };
        if !session.export.contains(request.offset, length) {
            let error = match request.command {
                command::WRITE | command::WRITE_ZEROES => errno::ENOSPC,
                _ => errno::EINVAL,
            };
            return refuse(error, "operation past EOF");
        }
        Ok(())
    }

    /// The length and the contexts that a block status request asks for.
    fn status_request(&self, request: &Request, data: &IoVector) -> Result<(u64, Vec<u32>), Refusal> {
        let session = &self.session;
        if session.contexts.is_empty() {
            return Err((errno::EINVAL, "CMD_BLOCK_STATUS not negotiated".into()));
        }
        if !request.flags.contains(CommandFlags::PAYLOAD_LEN) {
            return Ok((request.length, session.contexts.clone()));
        }
        let malformed = || (errno::EINVAL, "malformed payload of a block status request".to_owned());
        let length = data.len();
        // Each context at most once: longer is wrong.
        if length < 12 || !length.is_multiple_of(4) || length > 8 + 4 * session.contexts.len() {
            return Err(malformed());
        }
        let bytes = data.to_vec();
        let mut fields = Fields::new(&bytes);
        let length = fields.u64().ok_or_else(malformed)?;
        let mut contexts = Vec::new();
        while let Some(id) = fields.u32() {
            if !session.contexts.contains(&id) || contexts.contains(&id) {
                return Err(malformed());
            }
            contexts.push(id);
        }
        Ok((length, contexts))
    }

    async fn execute(&self, request: &Request, data: &IoVector) -> io::Result<()> {
        let export = &self.session.export;
        let (offset, length) = (request.offset, request.length);
        let fua = request.flags.contains(CommandFlags::FUA);
        let (done, what) = match request.command {
            command::READ => return self.read(request).await,
            command::BLOCK_STATUS => return self.block_status(request, data).await,
            _ if length == 0 && request.command != command::FLUSH => (Ok(()), ""),
            command::WRITE => (export.write(offset, data, fua).await, "writing to file failed"),
            command::FLUSH => (export.flush().await, "flush failed"),
            command::TRIM => (export.trim(offset, length, fua).await, "discard failed"),
            command::CACHE => (self.cache(offset, length).await, "caching data failed"),
            _ => {
                let mut flags = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
                flags.set(WriteFlags::MAY_UNMAP, !request.flags.contains(CommandFlags::NO_HOLE));
                flags.set(WriteFlags::NO_FALLBACK, request.flags.contains(CommandFlags::FAST_ZERO));
                (export.write_zeroes(offset, length, flags).await, "writing to file failed")
            }
        };
        match done {
            Ok(()) => self.reply_done(request).await,
            Err(error) => self.reply_failure(request, &error, what).await,
        }
    }

    async fn cache(&self, offset: u64, length: u64) -> rhea_block::Result<()> {
        let mut data = IoVector::scratch(length.min(PIECE) as usize);
        let mut at = 0;
        while at < length {
            if length - at < data.len() as u64 {
                data.split_off((length - at) as usize);
            }
            self.session.export.read(offset + at, &mut data).await?;
            at += data.len() as u64;
        }
        Ok(())
    }

    async fn read(&self, request: &Request) -> io::Result<()> {
        let (offset, length) = (request.offset, request.length);
        if length == 0 {
            return self.reply_done(request).await;
        }
        let structured = self.session.style >= HeaderStyle::Structured;
        let whole = !structured || request.flags.contains(CommandFlags::DF) || length < SPARSE_READ;
        let mut at = offset;
        let end = offset + length;
        while at < end {
            let (piece, zero) = match whole {
                true => (length, false),
                false => match self.session.export.zeroes(at, end - at).await {
                    Ok((bytes, true)) => (bytes, true),
                    Ok((bytes, false)) => (bytes.min(PIECE), false),
                    Err(error) => {
                        return self.reply_failure(request, &error, "unable to check for holes").await;
                    }
                },
            };
            let last = at + piece == end;
            if zero {
                let mut payload = at.to_be_bytes().to_vec();
                payload.extend((piece as u32).to_be_bytes());
                self.send_chunk(request, last, chunk::OFFSET_HOLE, &payload).await?;
            } else {
                self.outbox.room().await;
                let mut data = IoVector::scratch(piece as usize);
                if let Err(error) = self.session.export.read(at, &mut data).await {
                    return self.reply_failure(request, &error, "reading from file failed").await;
                }
                let _unsent = self.outbox.put(piece);
                self.send_data(request, at, &data, last).await?;
            }
            at += piece;
        }
        Ok(())
    }

    async fn block_status(&self, request: &Request, data: &IoVector) -> io::Result<()> {
        let Ok((length, ids)) = self.status_request(request, data) else { unreachable!("checked before") };
        let export = &self.session.export;
        let max = if request.flags.contains(CommandFlags::REQ_ONE) { 1 } else { MAX_EXTENTS };
        let extended = self.session.style == HeaderStyle::Extended;
        for (index, &id) in ids.iter().enumerate() {
            let context = &export.contexts[id as usize];
            let extents = match export.extents(context, request.offset, length, max).await {
                Ok(extents) => extents,
                Err(error) => {
                    return self.reply_failure(request, &error, "can't get block status").await;
                }
            };
            let mut payload = Vec::with_capacity(8 + extents.len() * 16);
            payload.extend(id.to_be_bytes());
            if extended {
                payload.extend((extents.len() as u32).to_be_bytes());
            }
            for extent in &extents {
                if extended {
                    payload.extend(extent.length.to_be_bytes());
                    payload.extend(extent.flags.to_be_bytes());
                } else {
                    // No longer than the request, whose length has 32 bits.
                    payload.extend((extent.length as u32).to_be_bytes());
                    payload.extend((extent.flags as u32).to_be_bytes());
                }
            }
            let kind = if extended { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS };
            self.send_chunk(request, index + 1 == ids.len(), kind, &payload).await?;
        }
        Ok(())
    }

    async fn reply_done(&self, request: &Request) -> io::Result<()> {
        match self.session.style {
            HeaderStyle::Simple => self.send(&mut [IoSlice::new(&simple_header(request, 0))]).await,
            _ => self.send_chunk(request, true, chunk::NONE, &[]).await,
        }
    }

    async fn reply_failure(&self, request: &Request, error: &BlockError, what: &str) -> io::Result<()> {
        self.reply_error(request, errno::to_wire(error.errno()), &format!("{what}: {error}")).await
    }

    async fn reply_error(&self, request: &Request, error: u32, why: &str) -> io::Result<()> {
        if self.session.style == HeaderStyle::Simple {
            return self.send(&mut [IoSlice::new(&simple_header(request, error))]).await;
        }
        let why = &why.as_bytes()[..why.floor_char_boundary(MAX_STRING)];
        let mut payload = error.to_be_bytes().to_vec();
        payload.extend((why.len() as u16).to_be_bytes());
        payload.extend(why);
        self.send_chunk(request, true, chunk::ERROR, &payload).await
    }

    async fn send_chunk(&self, request: &Request, last: bool, kind: u16, payload: &[u8]) -> io::Result<()> {
        let (header, len) = self.chunk_header(request, last, kind, payload.len() as u64);
        self.send(&mut [IoSlice::new(&header[..len]), IoSlice::new(payload)]).await
    }

    /// Sends what was read, without a copy where the memory lies in one piece.
    async fn send_data(&self, request: &Request, offset: u64, data: &IoVector, last: bool) -> io::Result<()> {
        let view = data.view();
        let bytes = view.contiguous();
        if self.session.style == HeaderStyle::Simple {
            let header = simple_header(request, 0);
            return self.send(&mut [IoSlice::new(&header), IoSlice::new(&bytes)]).await;
        }
        let (header, len) = self.chunk_header(request, last, chunk::OFFSET_DATA, 8 + bytes.len() as u64);
        let offset = offset.to_be_bytes();
        self.send(&mut [IoSlice::new(&header[..len]), IoSlice::new(&offset), IoSlice::new(&bytes)]).await
    }

    fn chunk_header(&self, request: &Request, last: bool, kind: u16, length: u64) -> ([u8; 32], usize) {
        let mut header = [0; 32];
        let extended = self.session.style == HeaderStyle::Extended;
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        header[0..4].copy_from_slice(&magic.to_be_bytes());
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&request.cookie.to_be_bytes());
        if extended {
            header[16..24].copy_from_slice(&request.offset.to_be_bytes());
            header[24..32].copy_from_slice(&length.to_be_bytes());
            (header, 32)
        } else {
            header[16..20].copy_from_slice(&(length as u32).to_be_bytes());
            (header, 20)
        }
    }

    async fn send(&self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let _one_at_a_time = self.sending.lock().await;
        self.stream.send_vectored(slices).await
    }
}

fn simple_header(request: &Request, error: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    header[4..8].copy_from_slice(&error.to_be_bytes());
    header[8..16].copy_from_slice(&request.cookie.to_be_bytes());
    header
}
