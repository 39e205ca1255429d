//! What groups and detectors say, to and from the wire. Pure.
//!
//! The wire's types are frozen archives; those of `raft` and `liveness` are the ones that decide. Commands are not copied: they
//! share the buffer that a train was received into.

use base::{Index, RangeId, ReplicaId, Term};
use core::ops::Range;
use raft::{Body, Content, Entry, Epoch, Mark, Message, Payload, ReadToken, Snapshot};
use replica::group::{decode_members, encode_members};
use std::sync::Arc;
use wire::peer as on_wire;

/// A message of a group on its way.
#[derive(Debug)]
pub struct Letter {
    /// The group's range.
    pub(crate) range: RangeId,
    /// Who says it.
    pub(crate) from: ReplicaId,
    /// To whom.
    pub(crate) to: ReplicaId,
    /// What.
    pub(crate) message: Message,
}

/// Makes a train of `letters` and hands it to `send`.
pub(crate) fn with_train<R>(
    liveness: Option<&liveness::Message>,
    letters: &[Letter],
    send: impl FnOnce(&on_wire::Train<'_>) -> R,
) -> R {
    // Whatever the archive points to lies in these, in order: first the bytes of members, then the entries.
    let mut members = Vec::new();
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut note = |membership: &raft::Membership| {
        let start = members.len();
        encode_members(membership, &mut members);
        spans.push(start..members.len());
    };
    for letter in letters {
        match &letter.message.body {
            Body::Append { entries, .. } => entries.iter().for_each(|entry| {
                if let Content::Membership(membership) = &entry.content {
                    note(membership);
                }
            }),
            Body::Snapshot(snapshot) => note(&snapshot.membership),
            _ => {}
        }
    }
    let mut spans = spans.into_iter().map(|span| &members[span]);
    let mut next = || spans.next().expect("one for each that was noted");
    let mut entries = Vec::new();
    let mut snapshots = Vec::new();
    for letter in letters {
        match &letter.message.body {
            Body::Append { entries: these, .. } => {
                entries.extend(these.iter().map(|entry| entry_to_wire(entry, &mut next)));
            }
            Body::Snapshot(_) => snapshots.push(next()),
            _ => {}
        }
    }
    let (mut entries, mut snapshots) = (&entries[..], snapshots.into_iter());
    let messages: Vec<_> = letters
        .iter()
        .map(|letter| {
            let these = match &letter.message.body {
                Body::Append { entries: these, .. } => {
                    let (these, rest) = entries.split_at(these.len());
                    entries = rest;
                    these
                }
                _ => &[],
            };
            let members = match &letter.message.body {
                Body::Snapshot(_) => snapshots.next().expect("one for each snapshot"),
                _ => &[],
            };
            on_wire::GroupMessage {
                range: letter.range.0,
                from: letter.from.0,
                to: letter.to.0,
                term: letter.message.term.0,
                body: body_to_wire(&letter.message.body, these, members),
            }
        })
        .collect();
    send(&on_wire::Train {
        liveness: liveness.map(liveness_to_wire),
        messages: &messages,
    })
}

fn mark_to_wire(mark: Mark) -> on_wire::Mark {
    on_wire::Mark {
        term: mark.term.0,
        index: mark.index.0,
    }
}

fn entry_to_wire<'a>(entry: &'a Entry, members: &mut impl FnMut() -> &'a [u8]) -> on_wire::Entry<'a> {
    on_wire::Entry {
        term: entry.term.0,
        chain: entry.chain,
        content: match &entry.content {
            Content::Empty => on_wire::Content::Empty,
            Content::Command(payload) => on_wire::Content::Command { payload },
            Content::Membership(_) => on_wire::Content::Membership { members: members() },
            Content::Header(checksum) => on_wire::Content::Header { checksum: *checksum },
        },
    }
}

fn body_to_wire<'a>(body: &Body, entries: &'a [on_wire::Entry<'a>], members: &'a [u8]) -> on_wire::Body<'a> {
    match *body {
        Body::Vote { last, pre, transfer } => on_wire::Body::Vote {
            last: mark_to_wire(last),
            pre,
            transfer,
        },
        Body::VoteReply { pre, granted } => on_wire::Body::VoteReply { pre, granted },
        Body::Append { prev, commit, .. } => on_wire::Body::Append {
            prev: mark_to_wire(prev),
            entries,
            commit: commit.0,
        },
        Body::Appended { matched } => on_wire::Body::Appended { matched: matched.0 },
        Body::Refused { prev, conflict, last } => on_wire::Body::Refused {
            prev: prev.0,
            conflict: conflict.map(mark_to_wire),
            last: last.0,
        },
        Body::Heartbeat { commit, round } => on_wire::Body::Heartbeat {
            commit: commit.0,
            round,
        },
        Body::HeartbeatReply { round, rank, support } => on_wire::Body::HeartbeatReply {
            round,
            rank,
            support: support.map(|epoch| epoch.0),
        },
        Body::Read { token } => on_wire::Body::Read { token: token.0 },
        Body::ReadReply { token, index } => on_wire::Body::ReadReply {
            token: token.0,
            index: index.0,
        },
        Body::Snapshot(ref snapshot) => on_wire::Body::Snapshot {
            last: mark_to_wire(snapshot.last),
            chain: snapshot.chain,
            members,
        },
        Body::Campaign => on_wire::Body::Campaign,
        Body::Bound => on_wire::Body::Bound,
        Body::Released => on_wire::Body::Released,
    }
}

fn mark_from_wire(mark: &on_wire::ArchivedMark) -> Mark {
    Mark {
        term: Term(mark.term.to_native()),
        index: Index(mark.index.to_native()),
    }
}

/// Reads a letter. `share` gives the buffer that the train lies in, and where `bytes`, which are a part of it, lie there.
/// `None`: members that cannot be.
pub(crate) fn letter_from_wire(
    message: &on_wire::ArchivedGroupMessage<'static>,
    share: &mut impl FnMut(&[u8]) -> (Arc<[u8]>, Range<usize>),
) -> Option<Letter> {
    use on_wire::ArchivedBody as Wire;
    let body = match &message.body {
        Wire::Vote { last, pre, transfer } => Body::Vote {
            last: mark_from_wire(last),
            pre: *pre,
            transfer: *transfer,
        },
        Wire::VoteReply { pre, granted } => Body::VoteReply {
            pre: *pre,
            granted: *granted,
        },
        Wire::Append {
            prev,
            entries,
            commit,
        } => {
            let prev = mark_from_wire(prev);
            let mut index = prev.index;
            let mut these = Vec::with_capacity(entries.len());
            for entry in entries.iter() {
                index = Index(index.0.checked_add(1)?);
                these.push(Entry {
                    term: Term(entry.term.to_native()),
                    index,
                    chain: entry.chain.to_native(),
                    content: content_from_wire(&entry.content, share)?,
                });
            }
            Body::Append {
                prev,
                entries: these,
                commit: Index(commit.to_native()),
            }
        }
        Wire::Appended { matched } => Body::Appended {
            matched: Index(matched.to_native()),
        },
        Wire::Refused { prev, conflict, last } => Body::Refused {
            prev: Index(prev.to_native()),
            conflict: conflict.as_ref().map(mark_from_wire),
            last: Index(last.to_native()),
        },
        Wire::Heartbeat { commit, round } => Body::Heartbeat {
            commit: Index(commit.to_native()),
            round: round.to_native(),
        },
        Wire::HeartbeatReply { round, rank, support } => Body::HeartbeatReply {
            round: round.to_native(),
            rank: *rank,
            support: support.as_ref().map(|epoch| Epoch(epoch.to_native())),
        },
        Wire::Read { token } => Body::Read {
            token: ReadToken(token.to_native()),
        },
        Wire::ReadReply { token, index } => Body::ReadReply {
            token: ReadToken(token.to_native()),
            index: Index(index.to_native()),
        },
        Wire::Snapshot { last, chain, members } => Body::Snapshot(Snapshot {
            last: mark_from_wire(last),
            chain: chain.to_native(),
            membership: Arc::new(members_from_wire(members)?),
        }),
        Wire::Campaign => Body::Campaign,
        Wire::Bound => Body::Bound,
        Wire::Released => Body::Released,
    };
    Some(Letter {
        range: RangeId(message.range.to_native()),
        from: ReplicaId(message.from.to_native()),
        to: ReplicaId(message.to.to_native()),
        message: Message {
            term: Term(message.term.to_native()),
            body,
        },
    })
}

fn content_from_wire(
    content: &on_wire::ArchivedContent<'static>,
    share: &mut impl FnMut(&[u8]) -> (Arc<[u8]>, Range<usize>),
) -> Option<Content> {
    use on_wire::ArchivedContent as Wire;
    Some(match content {
        Wire::Empty => Content::Empty,
        Wire::Command { payload } => {
            let (owner, range) = share(payload);
            Content::Command(Payload::slice(owner, range))
        }
        Wire::Membership { members } => Content::Membership(Arc::new(members_from_wire(members)?)),
        Wire::Header { checksum } => Content::Header(checksum.to_native()),
    })
}

fn members_from_wire(bytes: &[u8]) -> Option<raft::Membership> {
    let mut input = bytes;
    decode_members(&mut input).filter(|_| input.is_empty())
}

fn liveness_to_wire(message: &liveness::Message) -> on_wire::Liveness {
    let promise = |promise: liveness::Promise| on_wire::Promise {
        epoch: promise.epoch.0,
        until_ns: promise.until_ns,
    };
    on_wire::Liveness {
        session: message.session.0,
        heard: message.heard.0,
        clock_ns: message.clock_ns,
        echo: message.echo.map(|echo| on_wire::Echo {
            clock_ns: echo.clock_ns,
            came_ns: echo.came_ns,
        }),
        ask: message.ask.map(promise),
        answer: message.answer.map(|answer| match answer {
            liveness::Answer::Granted(granted) => on_wire::Answer::Granted(promise(granted)),
            liveness::Answer::Refused { epoch } => on_wire::Answer::Refused { epoch: epoch.0 },
        }),
    }
}

/// Reads what a detector says.
pub(crate) fn liveness_from_wire(message: &on_wire::ArchivedLiveness) -> liveness::Message {
    use liveness::{Answer, Echo, Epoch, Message, Promise, Session};
    let promise = |promise: &on_wire::ArchivedPromise| Promise {
        epoch: Epoch(promise.epoch.to_native()),
        until_ns: promise.until_ns.to_native(),
    };
    Message {
        session: Session(message.session.to_native()),
        heard: Session(message.heard.to_native()),
        clock_ns: message.clock_ns.to_native(),
        echo: message.echo.as_ref().map(|echo| Echo {
            clock_ns: echo.clock_ns.to_native(),
            came_ns: echo.came_ns.to_native(),
        }),
        ask: message.ask.as_ref().map(promise),
        answer: message.answer.as_ref().map(|answer| match answer {
            on_wire::ArchivedAnswer::Granted(granted) => Answer::Granted(promise(granted)),
            on_wire::ArchivedAnswer::Refused { epoch } => Answer::Refused {
                epoch: Epoch(epoch.to_native()),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Membership;

    fn round_trip(
        letters: &[Letter],
        beat: Option<&liveness::Message>,
    ) -> (Vec<Letter>, Option<liveness::Message>) {
        let mut outbox = wire::Outbox::new();
        with_train(beat, letters, |train| outbox.push(base::RequestId(0), train)).expect("it fits a frame");
        let mut reader = wire::FrameReader::new(outbox.len());
        reader.extend(outbox.bytes());
        let frame = reader.next().expect("a frame").expect("a whole one");
        let wire::PeerRef::Train(train) = wire::decode_peer(&frame).expect("a train") else {
            panic!("a train was sent")
        };
        let owner: Arc<[u8]> = frame.payload.into();
        let begin = frame.payload.as_ptr().addr();
        let mut share = |bytes: &[u8]| {
            let at = bytes.as_ptr().addr() - begin;
            (Arc::clone(&owner), at..at + bytes.len())
        };
        let letters = train
            .messages
            .iter()
            .map(|message| letter_from_wire(message, &mut share));
        (
            letters.map(|letter| letter.expect("it was encoded")).collect(),
            train.liveness.as_ref().map(liveness_from_wire),
        )
    }

    fn letter(term: u64, body: Body) -> Letter {
        Letter {
            range: RangeId(5),
            from: ReplicaId(1),
            to: ReplicaId(3),
            message: Message {
                term: Term(term),
                body,
            },
        }
    }

    #[test]
    fn everything_comes_back_as_it_was_sent() {
        let mark = |term, index| Mark {
            term: Term(term),
            index: Index(index),
        };
        let voters = Membership::of_voters([1, 2, 3].map(ReplicaId));
        let contents = [
            Content::Empty,
            Content::Command(Payload::from(b"put".as_slice())),
            Content::Membership(Arc::new(voters.clone())),
            Content::Command(Payload::from(b"".as_slice())),
            Content::Header(0xdead_beef),
        ];
        let mut chain = 7;
        let entries: Vec<_> = (11..)
            .zip(contents)
            .map(|(index, content)| {
                let entry = Entry::new(chain, mark(4, index), content);
                chain = entry.chain;
                entry
            })
            .collect();
        let bodies = [
            Body::Vote {
                last: mark(3, 10),
                pre: true,
                transfer: false,
            },
            Body::VoteReply {
                pre: false,
                granted: true,
            },
            Body::Append {
                prev: mark(3, 10),
                entries: entries.clone(),
                commit: Index(9),
            },
            Body::Append {
                prev: mark(3, 10),
                entries: entries[..2].to_vec(),
                commit: Index(9),
            },
            Body::Appended { matched: Index(12) },
            Body::Refused {
                prev: Index(10),
                conflict: Some(mark(2, 8)),
                last: Index(9),
            },
            Body::Heartbeat {
                commit: Index(9),
                round: 77,
            },
            Body::HeartbeatReply {
                round: 77,
                rank: 2,
                support: Some(Epoch(5)),
            },
            Body::Read { token: ReadToken(8) },
            Body::ReadReply {
                token: ReadToken(8),
                index: Index(12),
            },
            Body::Snapshot(Snapshot {
                last: mark(4, 12),
                chain: 99,
                membership: Arc::new(voters),
            }),
            Body::Campaign,
            Body::Bound,
            Body::Released,
        ];
        let sent: Vec<_> = (4..).zip(bodies).map(|(term, body)| letter(term, body)).collect();
        let beat = liveness::Message {
            session: liveness::Session(1 << 32),
            heard: liveness::Session(2 << 32),
            clock_ns: 1_000,
            echo: Some(liveness::Echo {
                clock_ns: 900,
                came_ns: 950,
            }),
            ask: Some(liveness::Promise {
                epoch: liveness::Epoch(3),
                until_ns: 5_000,
            }),
            answer: Some(liveness::Answer::Refused {
                epoch: liveness::Epoch(4),
            }),
        };
        let (came, came_beat) = round_trip(&sent, Some(&beat));
        assert_eq!(came_beat, Some(beat));
        assert_eq!(came.len(), sent.len());
        for (came, sent) in came.iter().zip(&sent) {
            assert_eq!((came.range, came.from, came.to), (sent.range, sent.from, sent.to));
            assert_eq!(came.message, sent.message);
        }
        let (nothing, none) = round_trip(&[], None);
        assert!(nothing.is_empty() && none.is_none());
    }
}
