//! Receiving headers and payloads: headers through a small buffer, long payloads straight into their memory.

use std::io;

use rhea_async_io::IoVector;

use crate::stream::Stream;

/// Bytes received at a time where headers are expected. Small requests and replies come several at a time; of a long
/// payload, no more than this is copied.
const BUFFER: usize = 16 << 10;

/// The received bytes that were not looked at yet.
pub(crate) struct Receiver {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Messages taken out since bytes were last received.
    taken: usize,
    /// The last bytes received were all there were.
    drained: bool,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0, taken: 0, drained: false }
    }

    fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Waits until so many bytes (few) are in the buffer, and shows them without taking them out; `None` if the stream
    /// ends before the first. Nothing is lost if the future is dropped.
    pub(crate) async fn peek(&mut self, stream: &Stream, length: usize) -> io::Result<Option<&[u8]>> {
        while self.end - self.start < length {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            // Only one message was there last time: most likely the next comes in answer to ours, and looking for it
            // already is in vain.
            if self.drained && self.taken == 1 && self.end == 0 {
                stream.readable().await?;
            }
            let room = self.buffer.len() - self.end;
            let received = stream.recv(&mut self.buffer[self.end..]).await?;
            self.drained = received < room;
            self.taken = 0;
            match received {
                0 if self.end == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.end += count,
            }
        }
        Ok(Some(&self.buffer[self.start..self.start + length]))
    }

    /// Takes out bytes that were shown.
    pub(crate) fn consume(&mut self, length: usize) {
        self.taken += 1;
        self.advance(length);
    }

    fn advance(&mut self, length: usize) {
        assert!(length <= self.end - self.start, "consumed more than was there");
        self.start += length;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Receives a header of so many bytes; `None` if the stream ends before it.
    pub(crate) async fn header(&mut self, stream: &Stream, length: usize) -> io::Result<Option<&[u8]>> {
        if self.peek(stream, length).await?.is_none() {
            return Ok(None);
        }
        let start = self.start;
        // The bytes stay where they are until the next call.
        self.start += length;
        self.taken += 1;
        Ok(Some(&self.buffer[start..start + length]))
    }

    /// Fills all of `data`.
    pub(crate) async fn payload(&mut self, stream: &Stream, data: &mut IoVector) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            done += self.some_payload(stream, data, done..data.len()).await?;
        }
        Ok(())
    }

    /// Receives some bytes into a part of `data`, at least one. Nothing is lost if the future is dropped.
    pub(crate) async fn some_payload(
        &mut self,
        stream: &Stream,
        data: &mut IoVector,
        part: std::ops::Range<usize>,
    ) -> io::Result<usize> {
        let buffered = self.buffered();
        if !buffered.is_empty() {
            let count = buffered.len().min(part.len());
            data.write(part.start, &buffered[..count]);
            self.advance(count);
            return Ok(count);
        }
        self.drained = false;
        let count = match data.as_mut_slice() {
            Some(bytes) => stream.recv(&mut bytes[part]).await?,
            None => {
                (self.start, self.end) = (0, 0);
                let room = part.len().min(self.buffer.len());
                let count = stream.recv(&mut self.buffer[..room]).await?;
                data.write(part.start, &self.buffer[..count]);
                count
            }
        };
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
    }
}
