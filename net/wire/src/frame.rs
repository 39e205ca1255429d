//! The frame: a fixed header, a payload, and padding.
//!
//! ```text
//!   0      1        2      3       4          8          12        16                16+length      multiple of 16
//!   ┌──────┬────────┬──────┬───────┬──────────┬──────────┬──────────┬──────────────────┬──────────────┐
//!   │magic │version │ kind │ flags │ length   │ request  │ CRC-32C  │ payload (rkyv)   │ zero padding │
//!   └──────┴────────┴──────┴───────┴──────────┴──────────┴──────────┴──────────────────┴──────────────┘
//! ```
//!
//! The checksum covers the first 12 bytes and the payload. Padding makes every frame of a 16-aligned buffer start aligned,
//! so that archives are read in place; it is not counted in `length` and must be zero.
#![deny(clippy::indexing_slicing)]

use base::{RequestId, checksum, limits};

/// The first byte of every frame.
pub const MAGIC: u8 = 0xc7;
/// The version of the frame header and of every message kind below.
pub const VERSION: u8 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 16;
/// Frames start at multiples of this, relative to the first byte of the connection.
pub const FRAME_ALIGN: usize = 16;
/// Flag of a reply: the request came to a shard that does not serve its key and was passed on. It was answered all the same;
/// a client that looks at the range map will be served faster.
pub const FLAG_MISROUTED: u8 = 0x01;
/// The longest payload accepted before the hello: enough for the hello itself.
pub const HELLO_BYTES_MAX: usize = 1024;

const _: () = assert!(HEADER_BYTES.is_multiple_of(FRAME_ALIGN));
const _: () = assert!(HELLO_BYTES_MAX < limits::FRAME_BYTES_MAX);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $byte:literal,)*) => {
        /// What a frame's payload is. The numbers are frozen; 0x40 to 0x7f are for messages between nodes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $byte,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this number, if there is one.
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The kind's name, as in `docs/formats.md`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

kinds! {
    /// [`crate::request::Hello`]: the first frame of a connection.
    Hello = 0x01,
    /// [`crate::request::Get`].
    Get = 0x02,
    /// [`crate::request::Put`].
    Put = 0x03,
    /// [`crate::request::Write`].
    Write = 0x04,
    /// [`crate::request::Scan`].
    Scan = 0x05,
    /// [`crate::request::ScanCredit`].
    ScanCredit = 0x06,
    /// [`crate::request::ScanCancel`].
    ScanCancel = 0x07,
    /// [`crate::request::RangeMap`].
    RangeMap = 0x08,
    /// [`crate::request::Split`].
    Split = 0x09,
    /// [`crate::request::Move`].
    Move = 0x0a,
    /// [`crate::request::Status`].
    Status = 0x0b,
    /// [`crate::request::Echo`].
    Echo = 0x0c,
    /// [`crate::request::DiskWrite`].
    DiskWrite = 0x0d,
    /// [`crate::request::Place`].
    Place = 0x0e,
    /// [`crate::request::Explain`].
    Explain = 0x0f,
    /// [`crate::request::Stand`].
    Stand = 0x10,
    /// [`crate::request::SetPolicy`].
    SetPolicy = 0x11,
    /// [`crate::request::Policies`].
    Policies = 0x12,
    /// [`crate::request::Transact`].
    Transact = 0x13,
    /// [`crate::request::Merge`].
    Merge = 0x14,
    /// [`crate::request::Modify`].
    Modify = 0x15,
    /// [`crate::peer::PeerHello`]: the first frame of a connection between shards.
    PeerHello = 0x40,
    /// [`crate::peer::Train`].
    Train = 0x41,
    /// [`crate::peer::Transfer`].
    Transfer = 0x42,
    /// [`crate::peer::Roster`].
    Roster = 0x43,
    /// [`crate::peer::Placing`].
    Placing = 0x44,
    /// [`crate::peer::Closed`].
    Closed = 0x45,
    /// [`crate::peer::Newest`].
    Newest = 0x46,
    /// [`crate::reply::HelloReply`].
    HelloReply = 0x81,
    /// [`crate::reply::GetReply`].
    GetReply = 0x82,
    /// [`crate::reply::WriteReply`].
    WriteReply = 0x83,
    /// [`crate::reply::ConditionFailed`].
    ConditionFailed = 0x84,
    /// [`crate::reply::ScanPage`].
    ScanPage = 0x85,
    /// [`crate::reply::RangeMapReply`].
    RangeMapReply = 0x88,
    /// [`crate::reply::SplitReply`].
    SplitReply = 0x89,
    /// [`crate::reply::MoveReply`].
    MoveReply = 0x8a,
    /// [`crate::reply::StatusReply`].
    StatusReply = 0x8b,
    /// [`crate::reply::EchoReply`].
    EchoReply = 0x8c,
    /// [`crate::reply::DiskWriteReply`].
    DiskWriteReply = 0x8d,
    /// [`crate::reply::PlaceReply`].
    PlaceReply = 0x8e,
    /// [`crate::reply::ExplainReply`].
    ExplainReply = 0x8f,
    /// [`crate::reply::StandReply`].
    StandReply = 0x90,
    /// [`crate::reply::SetPolicyReply`].
    SetPolicyReply = 0x91,
    /// [`crate::reply::PoliciesReply`].
    PoliciesReply = 0x92,
    /// [`crate::reply::TransactReply`].
    TransactReply = 0x93,
    /// [`crate::reply::MergeReply`].
    MergeReply = 0x94,
    /// [`crate::reply::ModifyReply`].
    ModifyReply = 0x95,
    /// [`crate::reply::StaleReply`].
    StaleReply = 0xa2,
    /// [`crate::reply::ErrorReply`].
    ErrorReply = 0xff,
}

impl Kind {
    /// The number in the header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// Whether a server sends it to a client.
    #[must_use]
    pub const fn is_reply(self) -> bool {
        self.byte() & 0x80 != 0
    }

    /// Whether shards of a cluster send it to each other.
    #[must_use]
    pub const fn is_peer(self) -> bool {
        self.byte() & 0xc0 == 0x40
    }
}

/// One frame, in the buffer that it was received into. Header, checksum and padding are checked; the payload's structure is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The request that it belongs to.
    pub request: RequestId,
    /// The archive. 16-aligned when the frame comes from a [`crate::FrameReader`].
    pub payload: &'a [u8],
}

/// The bytes are not a frame. Nothing after them can be trusted: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte is not [`MAGIC`]: the peer does not speak this protocol.
    #[error("not a corelane frame: first byte {found:#04x}, expected {MAGIC:#04x}")]
    BadMagic {
        /// The byte found.
        found: u8,
    },
    /// The header's version is not one that this build speaks.
    #[error("frame version {found} is not supported, this side speaks {VERSION}")]
    UnknownVersion {
        /// The version found.
        found: u8,
    },
    /// The kind is not known in this version.
    #[error("unknown frame kind {found:#04x}")]
    UnknownKind {
        /// The kind found.
        found: u8,
    },
    /// A flag is set that this version does not define for this kind.
    #[error("unknown frame flags {found:#04x}")]
    UnknownFlags {
        /// The flags found.
        found: u8,
    },
    /// The payload is longer than this connection may send now.
    #[error("frame of {length} bytes is longer than the limit of {max}")]
    TooLong {
        /// The length announced.
        length: u32,
        /// The limit.
        max: u32,
    },
    /// The checksum does not match.
    #[error("frame checksum {found:#010x}, expected {expected:#010x}")]
    BadChecksum {
        /// What the header carries.
        found: u32,
        /// What the bytes give.
        expected: u32,
    },
    /// A padding byte is not zero.
    #[error("frame padding is not zero")]
    NonzeroPadding,
}

impl FrameError {
    /// A stable name for counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BadMagic { .. } => "bad_magic",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::UnknownKind { .. } => "unknown_kind",
            Self::UnknownFlags { .. } => "unknown_flags",
            Self::TooLong { .. } => "too_long",
            Self::BadChecksum { .. } => "bad_checksum",
            Self::NonzeroPadding => "nonzero_padding",
        }
    }
}

/// A header whose fields are in range; the checksum is still to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// `FLAG_…`, or zero.
    pub flags: u8,
    /// Payload bytes.
    pub length: u32,
    /// The request.
    pub request: RequestId,
    /// The checksum that the sender computed.
    pub crc: u32,
    /// The checksum of the first 12 bytes.
    crc_start: u32,
}

impl Header {
    /// Reads a header. The length is at most `payload_max`.
    ///
    /// # Errors
    /// [`FrameError`], for everything that the header alone can tell.
    pub fn decode(bytes: &[u8; HEADER_BYTES], payload_max: u32) -> Result<Self, FrameError> {
        let [
            magic,
            version,
            kind,
            flags,
            l0,
            l1,
            l2,
            l3,
            r0,
            r1,
            r2,
            r3,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        if magic != MAGIC {
            return Err(FrameError::BadMagic { found: magic });
        }
        if version != VERSION {
            return Err(FrameError::UnknownVersion { found: version });
        }
        let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind { found: kind })?;
        let known = if kind.is_reply() { FLAG_MISROUTED } else { 0 };
        if flags & !known != 0 {
            return Err(FrameError::UnknownFlags { found: flags });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > payload_max {
            return Err(FrameError::TooLong {
                length,
                max: payload_max,
            });
        }
        let request = RequestId(u32::from_le_bytes([r0, r1, r2, r3]));
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        let crc_start = checksum::crc32c(bytes.split_at(12).0);
        Ok(Self {
            kind,
            flags,
            length,
            request,
            crc,
            crc_start,
        })
    }

    /// Compares the checksum with `payload`.
    ///
    /// # Errors
    /// [`FrameError::BadChecksum`].
    pub fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        let expected = checksum::extend(self.crc_start, payload);
        if self.crc == expected {
            Ok(())
        } else {
            Err(FrameError::BadChecksum {
                found: self.crc,
                expected,
            })
        }
    }

    /// The bytes of a header for `payload`.
    #[must_use]
    pub(crate) fn encode(
        kind: Kind,
        flags: u8,
        length: u32,
        request: RequestId,
        payload: &[u8],
    ) -> [u8; HEADER_BYTES] {
        let [l0, l1, l2, l3] = length.to_le_bytes();
        let [r0, r1, r2, r3] = request.0.to_le_bytes();
        let start = [MAGIC, VERSION, kind.byte(), flags, l0, l1, l2, l3, r0, r1, r2, r3];
        let mut header = [0; HEADER_BYTES];
        let (head, tail) = header.split_at_mut(12);
        head.copy_from_slice(&start);
        tail.copy_from_slice(&checksum::extend(checksum::crc32c(&start), payload).to_le_bytes());
        header
    }
}

/// Bytes that a frame with a payload of `length` bytes takes, padding included.
#[must_use]
pub const fn frame_bytes(length: usize) -> usize {
    (HEADER_BYTES + length).next_multiple_of(FRAME_ALIGN)
}
