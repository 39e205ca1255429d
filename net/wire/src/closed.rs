//! Up to when the ranges that a shard leads take no more writes.

use crate::convert::Stamp;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// Ranges that one [`Closed`] names at most; what concerns more of them takes several.
pub const CLOSED_RANGES_MAX: usize = 4096;

/// Up to when the ranges that the sender leads take no more writes, for those that the receiver has replicas of, version 1.
/// Messages of one series build on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Closed<'a> {
    /// Names the series: a timestamp of whoever sends it, greater than those of all its series before.
    pub series: Stamp,
    /// What is said.
    pub step: ClosedStep<'a>,
}

/// What a [`Closed`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum ClosedStep<'a> {
    /// Of the sender's series.
    Next {
        /// From 0, without gaps. With the first one the list is empty before.
        number: u64,
        /// Changes of the list, [`CLOSED_RANGES_MAX`] at most.
        #[rkyv(with = InlineAsBox)]
        ranges: &'a [ClosedRange],
        /// After the changes: no entry of a range on the list that comes after the one that it is listed with has a timestamp at or
        /// below this, or ever will. `None` when more changes follow first.
        closed: Option<Stamp>,
    },
    /// Something of the receiver's series is missing here: it begins another one.
    Again,
}

/// A change of the list of a series, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Debug))]
pub struct ClosedRange {
    /// The range.
    pub range: u64,
    /// The index of the last entry that it may have at or below what is closed; zero takes the range off the list.
    pub index: u64,
}
