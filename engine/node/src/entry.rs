//! Entries of groups, to and from records of the log. Pure.

use log::{EntryKind, Record};
use raft::{Content, Payload};
use replica::group::{decode_members, encode_members};
use std::sync::Arc;

/// What a record's payload says; `None` when it names members that cannot be.
pub(crate) fn content_of(kind: EntryKind, payload: &[u8]) -> Option<Content> {
    Some(match kind {
        EntryKind::Command => Content::Command(Payload::from(payload)),
        EntryKind::Empty => Content::Empty,
        EntryKind::Membership => Content::Membership(Arc::new(decode_members(&mut &*payload)?)),
    })
}

/// The kind and payload of a record with `content`; `members` is where the payload lies when it is made anew.
pub(crate) fn payload_of<'a>(content: &'a Content, members: &'a mut Vec<u8>) -> (EntryKind, &'a [u8]) {
    match content {
        Content::Command(payload) => (EntryKind::Command, payload),
        Content::Empty => (EntryKind::Empty, &[]),
        Content::Membership(membership) => {
            encode_members(membership, members);
            (EntryKind::Membership, members)
        }
        Content::Header(_) => unreachable!("no replica of a node is a witness"),
    }
}

/// The entry in a record, if it is one.
pub(crate) fn entry_of(record: &Record<'_>) -> Option<raft::Entry> {
    match *record {
        Record::Entry {
            index,
            term,
            chain,
            kind,
            payload,
            ..
        } => Some(raft::Entry {
            term,
            index,
            chain,
            content: content_of(kind, payload)?,
        }),
        Record::HardState { .. } | Record::Truncate { .. } | Record::Forget { .. } => None,
    }
}
