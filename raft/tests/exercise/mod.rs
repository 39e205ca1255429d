//! Arbitrary inputs of one replica, as bytes say: messages, acknowledged writes, fetches, crashes, damage, ticks. Whatever they are,
//! nothing panics, no invariant breaks, and what is kept is bounded.

#[path = "../fixtures/mod.rs"]
mod fixtures;

use base::{Index, Prng, ReplicaId, Term};
use corelane_raft::{
    Body, Config, Content, Entry, Epoch, Liveness, Mark, Membership, Message, Raft, ReadToken, Ready,
    Restored, Snapshot, Support,
};
use fixtures::{END, Node};
use std::sync::Arc;

/// Mostly small, so that it fits what is there; sometimes at the end of what 64 bits hold.
fn number(choices: &mut Choices<'_>) -> u64 {
    match choices.below(12) {
        0 => u64::MAX - choices.below(2),
        1 => u64::MAX / 2 + choices.below(2),
        _ => choices.below(8),
    }
}

fn mark(choices: &mut Choices<'_>) -> Mark {
    Mark {
        term: Term(number(choices)),
        index: Index(number(choices)),
    }
}

fn membership(choices: &mut Choices<'_>) -> Membership {
    Membership::of_voters((0..choices.below(4)).map(ReplicaId))
}

/// `chain`: of what the receiver has last, so that some are taken.
fn entries(choices: &mut Choices<'_>, prev: Mark, mut chain: u32) -> Vec<Entry> {
    let mut last = prev;
    let follows = !choices.once_in(3);
    (0..choices.below(4))
        .map(|_| {
            last = if follows {
                let term = Term(last.term.0.saturating_add(choices.below(2)));
                let index = Index(last.index.0.saturating_add(1));
                Mark { term, index }
            } else {
                mark(choices)
            };
            let content = match choices.below(8) {
                0 => Content::Membership(Arc::new(membership(choices))),
                1 => Content::Command([7; 9].as_slice().into()),
                2 => Content::Header(7),
                _ => Content::Empty,
            };
            let entry = Entry::new(chain, last, content);
            chain = entry.chain;
            entry
        })
        .collect()
}

fn message(choices: &mut Choices<'_>, raft: &Raft) -> Message {
    let now = raft.term();
    let (pre, granted) = (choices.once_in(2), choices.once_in(2));
    let body = match choices.below(12) {
        0 => Body::Vote {
            last: mark(choices),
            pre,
            transfer: granted,
        },
        1 => Body::VoteReply { pre, granted },
        2 | 3 => {
            let prev = if pre { raft.last() } else { mark(choices) };
            Body::Append {
                prev,
                entries: entries(choices, prev, raft.last_chain()),
                commit: Index(number(choices)),
            }
        }
        4 => Body::Appended {
            matched: Index(number(choices)),
        },
        5 => Body::Refused {
            prev: Index(number(choices)),
            conflict: pre.then(|| mark(choices)),
            last: Index(number(choices)),
        },
        6 => Body::Heartbeat {
            commit: Index(number(choices)),
            round: number(choices),
        },
        7 => Body::Snapshot(Snapshot {
            last: mark(choices),
            chain: 0,
            membership: Arc::new(membership(choices)),
        }),
        8 => Body::HeartbeatReply {
            round: number(choices),
            rank: 0,
            support: pre.then(|| Epoch(number(choices))),
        },
        9 => Body::Read {
            token: ReadToken(number(choices)),
        },
        10 => Body::ReadReply {
            token: ReadToken(number(choices)),
            index: Index(number(choices)),
        },
        _ => [Body::Campaign, Body::Bound, Body::Released][choices.index(3)].clone(),
    };
    let term = match choices.below(16) {
        0 => Term(number(choices)),
        // As a promised vote has it.
        1 => now.next(),
        _ => now,
    };
    Message { term, body }
}

/// Decides by bytes; by zeros when they are over.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// A number below `bound`, which is at most 256.
    fn below(&mut self, bound: u64) -> u64 {
        u64::from(self.byte()) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// True once in `bound` times.
    fn once_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// What happened.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    /// Messages refused as malformed.
    pub(crate) refused: u32,
    /// Steps as leader.
    pub(crate) led: u32,
}

/// Feeds one replica what `data` says.
pub(crate) fn messages(data: &[u8]) -> Seen {
    let choices = &mut Choices(data);
    let mut seen = Seen::default();
    let config = Arc::new(Config {
        liveness: [Liveness::Ticks, Liveness::External][choices.index(2)],
        reads_max: 4,
        uncommitted_bytes_max: 200,
        ..Config::default()
    });
    let mut node = Node::default();
    let me = ReplicaId(1);
    // Every other group needs nobody else to elect a leader.
    let voters = 1 + 2 * choices.below(2);
    node.disk = Restored::first((1..=voters).map(ReplicaId));
    node.start(me, &config, Prng::new(7));
    let mut applied = node.disk.applied;
    while !choices.0.is_empty() {
        let from = ReplicaId(choices.below(6));
        let raft = node.raft.as_mut().expect("it is up");
        match choices.below(16) {
            0 if node.writes.is_empty() => {
                raft.applied(applied);
                node.compact(applied, applied);
            }
            1 => {
                let kept = choices.index(node.writes.len() + 1);
                node.crash(kept);
                // A disk that gives back less than was acknowledged.
                if choices.once_in(5) && node.disk.snapshot.last.index > Index::ZERO {
                    let first = node.disk.snapshot.last.index.0 + 1 + choices.below(3);
                    let _ = node.damage(Index(first), Index(END), !choices.once_in(5));
                }
                node.start(me, &config, Prng::new(7));
                applied = node.disk.applied;
            }
            2 => raft.tick(),
            3 => raft.campaign_now(),
            4 => drop(raft.propose([1].as_slice().into())),
            5 => {
                let epoch =
                    |choices: &mut Choices<'_>| Some(Epoch(choices.below(3))).filter(|epoch| epoch.0 > 0);
                let support = Support {
                    given: epoch(choices),
                    received: epoch(choices),
                };
                raft.liveness(from, support);
                let _ = raft.read_index(ReadToken(1));
            }
            6 | 7 => drop(node.persist()),
            _ => {
                let message = message(choices, raft);
                seen.refused += u32::from(raft.step(from, message).is_err());
            }
        }
        let raft = node.raft.as_mut().expect("it is up");
        seen.led += u32::from(raft.is_leader());
        raft.assert_invariants();
        let mut ready = Ready::default();
        raft.ready(&mut ready);
        raft.assert_invariants();
        if let Some(last) = raft.entries(&ready.committed).next_back() {
            applied = last.index;
            raft.applied(applied);
        }
        if let Some(snapshot) = &ready.snapshot {
            applied = applied.max(snapshot.last.index);
        }
        let fetches = core::mem::take(&mut ready.fetches);
        node.write(ready);
        for fetch in fetches {
            let entries = node.fetch(fetch);
            node.raft.as_mut().expect("it is up").fetched(fetch, entries);
        }
    }
    seen
}
