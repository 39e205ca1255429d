//! How new a span is, wherever it is led.

use crate::convert::Stamp;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

/// What a scan over ranges of several leaders asks every node, and what those answer, version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Newest<'a> {
    /// Names the question on the shard that asks, which does not use it for another one, also after a restart.
    pub asked: Stamp,
    /// What is said.
    pub step: NewestStep<'a>,
}

/// What a [`Newest`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum NewestStep<'a> {
    /// To shard 0 of a node: what of this span does the node lead, and how new is it?
    Ask {
        /// The first key.
        #[rkyv(with = InlineAsBox)]
        start: &'a [u8],
        /// The first key after the span; `None` means the end of the key space.
        #[rkyv(with = Map<InlineAsBox>)]
        end: Option<&'a [u8]>,
    },
    /// To the shard that asked.
    Share {
        /// Of every part that is led under a lease: the hash of its start minus that of its end, modulo 2^64; see
        /// `docs/formats.md`.
        edges: u64,
        /// Every write of these parts that was acknowledged lies at or below.
        newest: Stamp,
    },
}

impl ArchivedNewestStep<'static> {
    /// The span that is asked about.
    #[must_use]
    pub fn span(&self) -> Option<(&[u8], Option<&[u8]>)> {
        match self {
            Self::Ask { start, end } => Some((start, end.as_ref().map(|end| &**end))),
            Self::Share { .. } => None,
        }
    }
}
