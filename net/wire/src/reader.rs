//! Frames on their way in: received into one aligned, bounded buffer and read where they lie.
//!
//! ```text
//!   buf   ░░░░░░░░░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓·············
//!         0     start│           end│            │len
//!                    └── next()     └── spare(): receive here
//! ```
//!
//! Invariants:
//! - `start` is a multiple of 16, so that every payload is aligned for in-place access.
//! - The buffer grows only when it is full of bytes that have arrived: announcing a long frame costs the peer that frame.
#![deny(clippy::indexing_slicing)]

use crate::frame::{FRAME_ALIGN, Frame, FrameError, HEADER_BYTES, Header, frame_bytes};
use base::limits;
use rkyv::util::AlignedVec;

/// What a reader holds when it holds little: room for a batch of small requests.
const BASE_BYTES: usize = 16 << 10;
/// A buffer longer than this is not kept when it is empty.
const KEEP_BYTES: usize = 4 * BASE_BYTES;
/// Receiving pays off only with so much room.
const SPARE_BYTES_MIN: usize = 2 << 10;

/// The memory that a reader receives into, while no reader uses it.
#[derive(Debug)]
pub struct FrameBuffer(AlignedVec<FRAME_ALIGN>);

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub struct FrameReader {
    buf: AlignedVec<FRAME_ALIGN>,
    start: usize,
    end: usize,
    payload_max: u32,
}

impl FrameReader {
    /// A reader that refuses payloads longer than `payload_max`. Holds no buffer until the first [`Self::spare`].
    #[must_use]
    pub fn new(payload_max: usize) -> Self {
        let mut reader = Self {
            buf: AlignedVec::new(),
            start: 0,
            end: 0,
            payload_max: 0,
        };
        reader.set_payload_max(payload_max);
        reader
    }

    /// Changes the longest payload accepted, for frames that [`Self::next`] has not looked at yet.
    ///
    /// # Panics
    /// When it is more than [`limits::FRAME_BYTES_MAX`].
    pub fn set_payload_max(&mut self, payload_max: usize) {
        assert!(
            payload_max <= limits::FRAME_BYTES_MAX,
            "{payload_max} bytes are more than a frame may have"
        );
        self.payload_max = u32::try_from(payload_max).expect("the limit of a frame fits 32 bits");
    }

    /// Room to receive into; never empty. Whatever is received is announced by [`Self::filled`].
    ///
    /// # Panics
    /// When the buffer is full of whole frames: [`Self::next`] must have given `None` or an error before.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buf.len() > KEEP_BYTES {
                self.buf = AlignedVec::new();
            }
        }
        if self.buf.len() - self.end < SPARE_BYTES_MIN && self.start > 0 {
            self.buf.as_mut_slice().copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buf.len() - self.end < SPARE_BYTES_MIN {
            let len = (self.buf.len() * 2).max(BASE_BYTES).min(self.bytes_max());
            self.buf.resize(len, 0);
        }
        // What `next` leaves behind is shorter than the longest frame, and the buffer may be longer than that.
        assert!(
            self.end < self.buf.len(),
            "{} bytes of whole frames were not taken out",
            self.end - self.start
        );
        self.buf.as_mut_slice().split_at_mut(self.end).1
    }

    /// Takes the buffer away when nothing is unread in it: a connection that waits needs none. `None` when something is
    /// unread, or there is no buffer that is worth keeping.
    pub fn take_buffer(&mut self) -> Option<FrameBuffer> {
        if self.start < self.end || self.buf.is_empty() || self.buf.len() > KEEP_BYTES {
            return None;
        }
        self.start = 0;
        self.end = 0;
        Some(FrameBuffer(core::mem::take(&mut self.buf)))
    }

    /// Lends a buffer, unless there is one.
    pub fn lend_buffer(&mut self, buffer: FrameBuffer) {
        if self.buf.is_empty() {
            self.buf = buffer.0;
        }
    }

    /// Whether [`Self::spare`] would have to allocate.
    #[must_use]
    pub fn has_buffer(&self) -> bool {
        !self.buf.is_empty()
    }

    /// Takes in the first `bytes` of what [`Self::spare`] gave.
    ///
    /// # Panics
    /// When it gave less.
    pub fn filled(&mut self, bytes: usize) {
        assert!(
            bytes <= self.buf.len() - self.end,
            "{bytes} bytes do not fit the spare room"
        );
        self.end += bytes;
    }

    /// Takes in `bytes` by copying them: for what another reader left over, which may have had more room than this one would
    /// make for itself.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buf.as_mut_slice().copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let end = self.end + bytes.len();
        if self.buf.len() < end {
            self.buf.resize(end, 0);
        }
        let room = self
            .buf
            .as_mut_slice()
            .split_at_mut(end)
            .0
            .split_at_mut(self.end)
            .1;
        room.copy_from_slice(bytes);
        self.end = end;
    }

    /// The next whole frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameError`]: the stream is of no further use, and every later call says the same.
    #[expect(
        clippy::should_implement_trait,
        reason = "the frame borrows the reader, which an Iterator cannot express"
    )]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        Ok(self.next_flagged()?.map(|(_, frame)| frame))
    }

    /// As [`Self::next`], with the flags of the header: only replies have some.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn next_flagged(&mut self) -> Result<Option<(u8, Frame<'_>)>, FrameError> {
        let unread = self.buf.as_slice().split_at(self.end).0.split_at(self.start).1;
        let Some((header, frame)) = look(unread, self.payload_max)? else {
            return Ok(None);
        };
        self.start += frame_bytes(frame.payload.len());
        Ok(Some((header.flags, frame)))
    }

    /// What [`Self::next`] would give, without stepping over it.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn peek(&self) -> Result<Option<Frame<'_>>, FrameError> {
        Ok(look(self.unread(), self.payload_max)?.map(|(_, frame)| frame))
    }

    /// Whether part of a frame has arrived and the rest is missing. Meaningful after [`Self::next`] gave `None`.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.end
    }

    /// Bytes that have arrived and were not handed out: they belong to whoever takes the connection over.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.buf.as_slice().split_at(self.end).0.split_at(self.start).1
    }

    /// Memory held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.buf.capacity()
    }

    /// The most memory that the buffer may need: the longest frame, and room for the start of the next ones.
    fn bytes_max(&self) -> usize {
        frame_bytes(self.payload_max as usize) + BASE_BYTES
    }
}

/// The frame at the start of `unread`, if it is whole.
fn look(unread: &[u8], payload_max: u32) -> Result<Option<(Header, Frame<'_>)>, FrameError> {
    let Some((head, rest)) = unread.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let header = Header::decode(head, payload_max)?;
    let length = header.length as usize;
    let total = frame_bytes(length);
    if unread.len() < total {
        return Ok(None);
    }
    let (payload, rest) = rest.split_at(length);
    let padding = rest.split_at(total - HEADER_BYTES - length).0;
    header.check(payload)?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err(FrameError::NonzeroPadding);
    }
    let frame = Frame {
        kind: header.kind,
        request: header.request,
        payload,
    };
    Ok(Some((header, frame)))
}
