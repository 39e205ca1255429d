//! Frames on their way out: archived straight into one contiguous buffer, so that a loop turn is one send.
//!
//! ```text
//!   buf   ░░░░░░░░░░░░░░░░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
//!         0            sent│                    │len
//!                          └── bytes(): waits to be sent
//! ```
#![deny(clippy::indexing_slicing)]

use crate::frame::{FRAME_ALIGN, HEADER_BYTES, Header, Kind};
use base::{RequestId, limits};
use rkyv::Serialize;
use rkyv::api::serialize_using;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Serializer, Writer};
use rkyv::util::AlignedVec;

/// An outbox that has been drained keeps at most this much memory.
const KEEP_BYTES: usize = 64 << 10;
/// Scratch for archiving lists, kept between messages.
const SCRATCH_BYTES: usize = 1024;

/// The serializer that messages are written with.
pub type FrameSerializer<'a> = Strategy<Serializer<PayloadWriter<'a>, ArenaHandle<'a>, ()>, Failure>;

/// A message that can be sent: an archivable struct with its kind.
pub trait Message: for<'a> Serialize<FrameSerializer<'a>> {
    /// The kind in the header.
    const KIND: Kind;

    /// For a reply: whether it is the last one of its request. Only pages of a scan are not.
    fn is_last(&self) -> bool {
        true
    }
}

/// The message does not fit a frame; nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message of {bytes} bytes is longer than a frame may be ({max})")]
pub struct EncodeError {
    /// The payload's bytes; the longest that fits 32 bits if there are more.
    pub bytes: u32,
    /// The limit.
    pub max: u32,
}

/// The longest payload that is sent.
const PAYLOAD_MAX: u32 = {
    assert!(limits::FRAME_BYTES_MAX < u32::MAX as usize);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        limits::FRAME_BYTES_MAX as u32
    }
};

/// Appends an archive to a buffer; positions count from the start of the payload, which the receiver aligns.
pub struct PayloadWriter<'a> {
    buf: &'a mut Vec<u8>,
    base: usize,
}

impl Positional for PayloadWriter<'_> {
    #[inline]
    fn pos(&self) -> usize {
        self.buf.len() - self.base
    }
}

impl Writer<Failure> for PayloadWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buf.extend_from_slice(bytes);
        Ok(())
    }
}

/// Frames waiting to be sent on one connection.
#[derive(Default)]
pub struct Outbox {
    buf: Vec<u8>,
    /// Bytes of `buf` that have been sent.
    sent: usize,
    scratch: Arena,
}

impl core::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Outbox").field("unsent", &self.len()).finish()
    }
}

impl Outbox {
    /// An empty outbox. Holds no buffer until the first message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one frame.
    ///
    /// # Errors
    /// [`EncodeError`] when the archive is longer than [`limits::FRAME_BYTES_MAX`]; the outbox is unchanged.
    pub fn push<M: Message>(&mut self, request: RequestId, message: &M) -> Result<(), EncodeError> {
        self.push_flagged(request, 0, message)
    }

    /// Appends one frame with flags, such as [`crate::frame::FLAG_MISROUTED`].
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_flagged<M: Message>(
        &mut self,
        request: RequestId,
        flags: u8,
        message: &M,
    ) -> Result<(), EncodeError> {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; HEADER_BYTES]);
        let base = start + HEADER_BYTES;
        let writer = PayloadWriter {
            buf: &mut self.buf,
            base,
        };
        let mut serializer = Serializer::new(writer, self.scratch.acquire(), ());
        let archived = serialize_using::<_, Failure>(message, &mut serializer);
        let length = u32::try_from(self.buf.len() - base).unwrap_or(u32::MAX);
        if archived.is_err() || length > PAYLOAD_MAX {
            self.buf.truncate(start);
            return Err(EncodeError {
                bytes: length,
                max: PAYLOAD_MAX,
            });
        }
        let frame = self.buf.split_at_mut(start).1;
        let (head, payload) = frame.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&Header::encode(M::KIND, flags, length, request, payload));
        let padded = start + crate::frame::frame_bytes(payload.len());
        self.buf.resize(padded, 0);
        debug_assert!((padded - start).is_multiple_of(FRAME_ALIGN));
        if self.scratch.capacity() > SCRATCH_BYTES * 64 {
            self.scratch = Arena::new();
        }
        Ok(())
    }

    /// Appends whole frames that another outbox encoded.
    pub fn push_frames(&mut self, frames: &[u8]) {
        debug_assert!(
            frames.len().is_multiple_of(FRAME_ALIGN),
            "whole frames are padded"
        );
        self.buf.extend_from_slice(frames);
    }

    /// What waits to be sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buf.split_at(self.sent).1
    }

    /// How many bytes wait to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len() - self.sent
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the first `bytes` of [`Self::bytes`]: they have been sent.
    ///
    /// # Panics
    /// When fewer bytes wait.
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "sent {bytes} bytes of {}", self.len());
        self.sent += bytes;
        if self.is_empty() {
            self.clear();
        } else if self.sent > self.buf.len() / 2 && self.sent >= KEEP_BYTES {
            // At least as much was sent as is moved, so that moving costs a constant per byte.
            self.buf.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Forgets everything that waits.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.sent = 0;
        if self.buf.capacity() > KEEP_BYTES {
            self.buf.shrink_to(KEEP_BYTES);
        }
    }
}

/// One frame by itself, in a buffer that [`crate::Frame`] can be read from in place. For tests, tools and fuzzers.
///
/// # Errors
/// As [`Outbox::push`].
pub fn encode_one<M: Message>(request: RequestId, message: &M) -> Result<AlignedVec<16>, EncodeError> {
    let mut outbox = Outbox::new();
    outbox.push(request, message)?;
    let mut aligned = AlignedVec::with_capacity(outbox.len());
    aligned.extend_from_slice(outbox.bytes());
    Ok(aligned)
}
