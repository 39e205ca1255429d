//! The parts of requests: operations and conditions of a [`crate::request::Write`], the moment of a read.

use crate::convert::Stamp;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

/// One mutation of a [`crate::request::Write`], version 1; the archived form of [`base::api::WriteOp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum Op<'a> {
    /// Sets `key` to `value`.
    Put {
        /// The key.
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
        /// The value.
        #[rkyv(with = InlineAsBox)]
        value: &'a [u8],
    },
    /// Removes `key`.
    Delete {
        /// The key.
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
    },
    /// Removes every key in `[start, end)`; `None` reaches to the end of the range's span.
    DeleteRange {
        /// The first key removed.
        #[rkyv(with = InlineAsBox)]
        start: &'a [u8],
        /// The first key kept.
        #[rkyv(with = Map<InlineAsBox>)]
        end: Option<&'a [u8]>,
    },
}

/// What must hold for a [`crate::request::Write`], version 1; the archived form of [`base::api::Condition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum Condition<'a> {
    /// The key has no value.
    Absent {
        /// The key looked at.
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
    },
    /// The key has exactly this value.
    Equals {
        /// The key looked at.
        #[rkyv(with = InlineAsBox)]
        key: &'a [u8],
        /// The value expected.
        #[rkyv(with = InlineAsBox)]
        value: &'a [u8],
    },
}

/// The moment that a read shows, version 1; the archived form of [`base::api::ReadAt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub enum ReadAt {
    /// Now: every write that was answered before.
    Newest,
    /// A timestamp.
    At {
        /// Which one.
        ts: Stamp,
    },
    /// So many milliseconds before the server's clock.
    Ago {
        /// How many.
        ms: u32,
    },
    /// As late as the server can show without asking anybody, and at most so many milliseconds before its clock.
    Within {
        /// How many.
        ms: u32,
    },
}
