//! State of a range on its way to a replica that the log does not reach any more.

use crate::train::Mark;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

/// A step of a range's state on its way to a replica that the log does not reach any more, version 1. The receiver asks for
/// what it lacks, piece by piece; each side gives up when it hears nothing for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub struct Transfer<'a> {
    /// The range.
    pub range: u64,
    /// The sender of this message: a replica of the range.
    pub from: u64,
    /// Its receiver.
    pub to: u64,
    /// The last entry that the state covers: with the range it names the transfer.
    pub last: Mark,
    /// What it says.
    pub step: TransferStep<'a>,
}

/// What a [`Transfer`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize)]
pub enum TransferStep<'a> {
    /// The sender does not have this state any more.
    Gone,
    /// The leader has this state for the receiver.
    Offer {
        /// The leader's term.
        term: u64,
        /// The chain up to the last entry covered.
        chain: u32,
        /// Who takes part as of there, as in the log.
        #[rkyv(with = InlineAsBox)]
        members: &'a [u8],
        /// What the state is made of, as in the storage.
        #[rkyv(with = InlineAsBox)]
        description: &'a [u8],
    },
    /// The receiver wants bytes of a file.
    Want {
        /// The file, as the description names it.
        file: u64,
        /// From where.
        offset: u64,
    },
    /// Here they are.
    Piece {
        /// The file.
        file: u64,
        /// Where they begin.
        offset: u64,
        /// The bytes.
        #[rkyv(with = InlineAsBox)]
        bytes: &'a [u8],
    },
    /// The receiver wants nothing any more.
    Done {
        /// Whether it has the state, or else the log must do, or another state.
        installed: bool,
    },
    /// The group has removed the receiver, as of `last` at the latest.
    Removed,
    /// The sender is damaged and takes part in nothing any more: the group is to replace it. Every node is told, and `to` only names
    /// the node.
    Damaged,
    /// The receiver, which was damaged, was replaced, or the group wants nothing more of its node.
    Settled,
    /// To the leader of a range that is to be merged with its left neighbour: it hands leadership over to the sender.
    Yield,
    /// From the leader of a range that is to absorb its right neighbour: both are to be on one shard of the receiver's node, and on its
    /// disk. For a merge that is under way, the right neighbour frozen.
    Gather {
        /// The right neighbour.
        right: u64,
        /// The merge: the index of the Expect entry in the range's log; zero when it has not begun.
        merge: u64,
    },
    /// They are.
    Gathered {
        /// The right neighbour.
        right: u64,
        /// The merge.
        merge: u64,
    },
    /// From a replica of the right neighbour, which is frozen: what has become of the merge? `to` only names the node.
    AskFate {
        /// The right neighbour.
        right: u64,
        /// The merge.
        merge: u64,
    },
    /// It was refused. `from` only names the node.
    Refused {
        /// The merge.
        merge: u64,
    },
}
