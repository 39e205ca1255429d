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

/// What becomes of the value of a key, version 1; the archived form of [`base::Modification`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum Modification<'a> {
    /// Adds to a number, if the sum lies in `min..=max`.
    Add {
        /// What is added.
        delta: i64,
        /// The least sum that may be.
        min: i64,
        /// The greatest sum that may be.
        max: i64,
    },
    /// The lesser of a number and `value`.
    Min {
        /// The other number.
        value: i64,
    },
    /// The greater of a number and `value`.
    Max {
        /// The other number.
        value: i64,
    },
    /// Appends bytes to the value, if it has no more than `len_max` of them then.
    Append {
        /// What is appended.
        #[rkyv(with = InlineAsBox)]
        bytes: &'a [u8],
        /// How long the value may get.
        len_max: u32,
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
