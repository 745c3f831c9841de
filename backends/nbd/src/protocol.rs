//! The wire format: numbers and headers of the NBD protocol.
//!
//! Source: the NBD project's `doc/proto.md`, and its branch `extension-ext-header` for extended headers. All numbers are
//! big-endian.

use bitflags::bitflags;

/// The port the protocol is registered for.
pub const DEFAULT_PORT: u16 = 10809;

/// First greeting of every server: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second greeting of a newstyle server, and the start of each option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second greeting of an oldstyle server.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// The start of each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The start of each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The start of each request where extended headers were negotiated.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// The start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The start of a structured reply's chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// The start of an extended reply's chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of the longest string (export names, descriptions, contexts, messages).
pub const MAX_STRING: usize = 4096;
/// Bytes of the longest payload that both sides here handle; the protocol asks for at least that.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Bytes of zeroes behind the reply to `NBD_OPT_EXPORT_NAME` where the client did not decline them.
pub const EXPORT_NAME_PADDING: usize = 124;

bitflags! {
    /// What the server says of itself before negotiation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options may be unknown without the end of the world.
        const FIXED_NEWSTYLE = 1 << 0;
        /// No padding behind the reply to `NBD_OPT_EXPORT_NAME`, if the client agrees.
        const NO_ZEROES = 1 << 1;
    }
}

bitflags! {
    /// What the client says of itself before negotiation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// The client knows fixed newstyle negotiation.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The client wants no padding.
        const NO_ZEROES = 1 << 1;
    }
}

bitflags! {
    /// What the server offers for an export.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1 << 0;
        /// Requests that change the export are refused.
        const READ_ONLY = 1 << 1;
        /// `NBD_CMD_FLUSH`.
        const SEND_FLUSH = 1 << 2;
        /// `NBD_CMD_FLAG_FUA`.
        const SEND_FUA = 1 << 3;
        /// Seeking is slow.
        const ROTATIONAL = 1 << 4;
        /// `NBD_CMD_TRIM`.
        const SEND_TRIM = 1 << 5;
        /// `NBD_CMD_WRITE_ZEROES`.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// `NBD_CMD_FLAG_DF`.
        const SEND_DF = 1 << 7;
        /// Several connections see each other's writes after a flush.
        const CAN_MULTI_CONN = 1 << 8;
        /// `NBD_CMD_RESIZE` (an experiment nobody serves).
        const SEND_RESIZE = 1 << 9;
        /// `NBD_CMD_CACHE`.
        const SEND_CACHE = 1 << 10;
        /// `NBD_CMD_FLAG_FAST_ZERO`.
        const SEND_FAST_ZERO = 1 << 11;
        /// `NBD_CMD_BLOCK_STATUS` may name the contexts it wants.
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
        const _ = !0;
    }
}

bitflags! {
    /// Flags of a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct CommandFlags: u16 {
        /// The data is on stable storage before the reply.
        const FUA = 1 << 0;
        /// Zeroes take storage.
        const NO_HOLE = 1 << 1;
        /// One chunk of data, not several.
        const DF = 1 << 2;
        /// One extent per context.
        const REQ_ONE = 1 << 3;
        /// Zeroes, but only if quicker than data.
        const FAST_ZERO = 1 << 4;
        /// The header's length is that of a payload that follows.
        const PAYLOAD_LEN = 1 << 5;
        const _ = !0;
    }
}

/// The options of the handshake (`NBD_OPT_…`).
pub mod option {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options (`NBD_REP_…`).
pub mod reply {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR + 1;
    pub const ERR_POLICY: u32 = ERROR + 2;
    pub const ERR_INVALID: u32 = ERROR + 3;
    pub const ERR_PLATFORM: u32 = ERROR + 4;
    pub const ERR_TLS_REQD: u32 = ERROR + 5;
    pub const ERR_UNKNOWN: u32 = ERROR + 6;
    pub const ERR_SHUTDOWN: u32 = ERROR + 7;
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR + 8;
    pub const ERR_TOO_BIG: u32 = ERROR + 9;
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR + 10;
}

/// Kinds of information in `NBD_REP_INFO` (`NBD_INFO_…`).
pub mod info {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Requests (`NBD_CMD_…`).
pub mod command {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Chunks of structured and extended replies (`NBD_REPLY_TYPE_…`).
pub mod chunk {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The bit of all errors.
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT + 1;
    pub const ERROR_OFFSET: u16 = ERROR_BIT + 2;
    /// The flag of a reply's last chunk.
    pub const FLAG_DONE: u16 = 1;
}

/// Bits of the context `base:allocation`.
pub mod allocation {
    /// No storage is allocated.
    pub const HOLE: u64 = 1;
    /// Reads as zeroes.
    pub const ZERO: u64 = 2;
}

/// Error numbers on the wire (`NBD_E…`).
pub mod errno {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const ENOMEM: u32 = 12;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;
    pub const ESHUTDOWN: u32 = 108;

    /// The wire's number of a system error; what the protocol has no number for is `EINVAL`.
    pub fn to_wire(system: i32) -> u32 {
        match system {
            0 => 0,
            libc::EPERM | libc::EROFS => EPERM,
            libc::EIO => EIO,
            libc::ENOMEM => ENOMEM,
            libc::EDQUOT | libc::EFBIG | libc::ENOSPC => ENOSPC,
            libc::EOVERFLOW => EOVERFLOW,
            libc::ENOTSUP => ENOTSUP,
            libc::ESHUTDOWN => ESHUTDOWN,
            _ => EINVAL,
        }
    }

    /// The system's number of an error on the wire; unknown ones are `EINVAL`, as the protocol asks.
    pub fn from_wire(wire: u32) -> i32 {
        match wire {
            EPERM => libc::EPERM,
            EIO => libc::EIO,
            ENOMEM => libc::ENOMEM,
            ENOSPC => libc::ENOSPC,
            EOVERFLOW => libc::EOVERFLOW,
            ENOTSUP => libc::ENOTSUP,
            ESHUTDOWN => libc::ESHUTDOWN,
            _ => libc::EINVAL,
        }
    }
}

/// How the messages of a session look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum HeaderStyle {
    /// Simple replies only.
    #[default]
    Simple,
    /// Replies in chunks.
    Structured,
    /// Requests with 64-bit lengths, and replies in chunks with 32-byte headers.
    Extended,
}

impl HeaderStyle {
    /// Bytes of a request's header.
    pub fn request_length(self) -> usize {
        if self == Self::Extended { 32 } else { 28 }
    }
}

/// A request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Flags.
    pub flags: CommandFlags,
    /// One of [`command`].
    pub command: u16,
    /// The client's mark, repeated in replies.
    pub cookie: u64,
    /// First byte of the export.
    pub offset: u64,
    /// Bytes of the export, or of the payload.
    pub length: u64,
}

impl Request {
    /// The header's bytes: 28, or 32 where headers are extended.
    pub fn encode(&self, style: HeaderStyle) -> ([u8; 32], usize) {
        let mut bytes = [0; 32];
        let extended = style == HeaderStyle::Extended;
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        bytes[0..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.bits().to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        if extended {
            bytes[24..32].copy_from_slice(&self.length.to_be_bytes());
        } else {
            let length = u32::try_from(self.length).expect("requests are cut to 32-bit lengths");
            bytes[24..28].copy_from_slice(&length.to_be_bytes());
        }
        (bytes, style.request_length())
    }

    /// Reads a header of [`HeaderStyle::request_length`] bytes; `None` if the magic number is wrong.
    pub fn decode(style: HeaderStyle, bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let extended = style == HeaderStyle::Extended;
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if fields.u32()? != magic {
            return None;
        }
        Some(Self {
            flags: CommandFlags::from_bits_retain(fields.u16()?),
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: if extended { fields.u64()? } else { u64::from(fields.u32()?) },
        })
    }
}

/// The header of a reply, of any style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// All of it, but for the data of a successful read.
    Simple {
        /// Of [`errno`], 0 for success.
        error: u32,
        /// The request's.
        cookie: u64,
    },
    /// A chunk, with `length` bytes of payload.
    Chunk {
        /// [`chunk::FLAG_DONE`]
        flags: u16,
        /// Of [`chunk`].
        kind: u16,
        /// The request's.
        cookie: u64,
        /// Bytes that follow.
        length: u64,
    },
}

impl Reply {
    /// Bytes of the header that starts with this magic number, in a session of this style; `None` if it may not appear.
    pub fn header_length(style: HeaderStyle, magic: u32) -> Option<usize> {
        match magic {
            SIMPLE_REPLY_MAGIC if style != HeaderStyle::Extended => Some(16),
            STRUCTURED_REPLY_MAGIC if style == HeaderStyle::Structured => Some(20),
            EXTENDED_REPLY_MAGIC if style == HeaderStyle::Extended => Some(32),
            _ => None,
        }
    }

    /// Reads a whole header.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        Some(match fields.u32()? {
            SIMPLE_REPLY_MAGIC => Self::Simple { error: fields.u32()?, cookie: fields.u64()? },
            STRUCTURED_REPLY_MAGIC => Self::Chunk {
                flags: fields.u16()?,
                kind: fields.u16()?,
                cookie: fields.u64()?,
                length: u64::from(fields.u32()?),
            },
            EXTENDED_REPLY_MAGIC => {
                let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
                let _offset = fields.u64()?;
                Self::Chunk { flags, kind, cookie, length: fields.u64()? }
            }
            _ => return None,
        })
    }
}

/// Reads big-endian fields one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes; `None` if there are not so many.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string behind its 32-bit length: valid UTF-8 without NUL, at most [`MAX_STRING`] bytes.
    pub fn string(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        if len > MAX_STRING {
            return None;
        }
        valid_string(self.bytes(len)?)
    }
}

/// A string as the protocol allows it: UTF-8 without NUL.
pub fn valid_string(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back() {
        for (style, length) in [(HeaderStyle::Simple, 28), (HeaderStyle::Extended, 32)] {
            let request = Request {
                flags: CommandFlags::FUA | CommandFlags::DF,
                command: command::WRITE,
                cookie: 0x0102_0304_0506_0708,
                offset: 1 << 40,
                length: 0xffff_ffff,
            };
            let (bytes, len) = request.encode(style);
            assert_eq!(len, length);
            assert_eq!(Request::decode(style, &bytes[..len]), Some(request));
            assert_eq!(Request::decode(style, &bytes[..len - 1]), None);
            let other = if length == 28 { HeaderStyle::Extended } else { HeaderStyle::Structured };
            assert_eq!(Request::decode(other, &bytes), None);
        }
    }

    #[test]
    fn strings_are_checked() {
        let field = |bytes: &[u8]| {
            let mut all = (bytes.len() as u32).to_be_bytes().to_vec();
            all.extend(bytes);
            Fields::new(&all).string().map(str::to_owned)
        };
        assert_eq!(field(b"abc").as_deref(), Some("abc"));
        assert_eq!(field(b"a\0c"), None);
        assert_eq!(field(b"\xff"), None);
        assert_eq!(field(&[b'a'; MAX_STRING + 1]), None);
        assert_eq!(Fields::new(&[0xff, 0xff, 0xff, 0xff, 1]).string(), None);
    }

    #[test]
    fn errors_pass_over_the_wire() {
        for system in [libc::EPERM, libc::EIO, libc::ENOSPC, libc::ENOTSUP, libc::ESHUTDOWN] {
            assert_eq!(errno::from_wire(errno::to_wire(system)), system);
        }
        assert_eq!(errno::to_wire(libc::EFBIG), errno::ENOSPC);
        assert_eq!(errno::from_wire(4711), libc::EINVAL);
    }
}
