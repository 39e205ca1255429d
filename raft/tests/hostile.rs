//! Arbitrary messages: refused, or without harm to what a replica knows of itself; never a panic.

mod fixtures;

use base::{Index, Prng, ReplicaId, Term};
use corelane_raft::{
    Body, Config, Content, Entry, Epoch, Liveness, Mark, Membership, Message, Raft, ReadToken, Ready,
    Restored, Snapshot, Support,
};
use fixtures::{END, Node};
use std::sync::Arc;

/// Mostly small, so that it fits what is there; sometimes at the end of what 64 bits hold.
fn number(prng: &mut Prng) -> u64 {
    match prng.below(12) {
        0 => u64::MAX - prng.below(2),
        1 => u64::MAX / 2 + prng.below(2),
        _ => prng.below(8),
    }
}

fn mark(prng: &mut Prng) -> Mark {
    Mark {
        term: Term(number(prng)),
        index: Index(number(prng)),
    }
}

fn membership(prng: &mut Prng) -> Membership {
    Membership::of_voters((0..prng.below(4)).map(ReplicaId))
}

/// `chain`: of what the receiver has last, so that some are taken.
fn entries(prng: &mut Prng, prev: Mark, mut chain: u32) -> Vec<Entry> {
    let mut last = prev;
    let follows = prng.chance(0.7);
    (0..prng.below(4))
        .map(|_| {
            last = if follows {
                let term = Term(last.term.0.saturating_add(prng.below(2)));
                let index = Index(last.index.0.saturating_add(1));
                Mark { term, index }
            } else {
                mark(prng)
            };
            let content = match prng.below(8) {
                0 => Content::Membership(Arc::new(membership(prng))),
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

fn message(prng: &mut Prng, raft: &Raft) -> Message {
    let now = raft.term();
    let (pre, granted) = (prng.chance(0.5), prng.chance(0.5));
    let body = match prng.below(12) {
        0 => Body::Vote {
            last: mark(prng),
            pre,
            transfer: granted,
        },
        1 => Body::VoteReply { pre, granted },
        2 | 3 => {
            let prev = if pre { raft.last() } else { mark(prng) };
            Body::Append {
                prev,
                entries: entries(prng, prev, raft.last_chain()),
                commit: Index(number(prng)),
            }
        }
        4 => Body::Appended {
            matched: Index(number(prng)),
        },
        5 => Body::Refused {
            prev: Index(number(prng)),
            conflict: pre.then(|| mark(prng)),
            last: Index(number(prng)),
        },
        6 => Body::Heartbeat {
            commit: Index(number(prng)),
            round: number(prng),
        },
        7 => Body::Snapshot(Snapshot {
            last: mark(prng),
            chain: 0,
            membership: Arc::new(membership(prng)),
        }),
        8 => Body::HeartbeatReply {
            round: number(prng),
            rank: 0,
            support: pre.then(|| Epoch(number(prng))),
        },
        9 => Body::Read {
            token: ReadToken(number(prng)),
        },
        10 => Body::ReadReply {
            token: ReadToken(number(prng)),
            index: Index(number(prng)),
        },
        _ => [Body::Campaign, Body::Bound, Body::Released][prng.index(3)].clone(),
    };
    let term = match prng.below(16) {
        0 => Term(number(prng)),
        // As a promised vote has it.
        1 => now.next(),
        _ => now,
    };
    Message { term, body }
}

#[test]
fn arbitrary_messages_do_no_harm() {
    let (mut refused, mut led) = (0, 0);
    for seed in 0..3_000 {
        let mut prng = Prng::new(seed);
        let config = Arc::new(Config {
            liveness: [Liveness::Ticks, Liveness::External][prng.index(2)],
            reads_max: 4,
            uncommitted_bytes_max: 200,
            ..Config::default()
        });
        let mut node = Node::default();
        // Every other group needs nobody else to elect a leader.
        let voters = 1 + 2 * (seed % 2);
        node.disk = Restored::first((1..=voters).map(ReplicaId));
        node.start(ReplicaId(1), &config, Prng::new(seed));
        let mut applied = node.disk.snapshot.last.index;
        for _ in 0..60 {
            let from = ReplicaId(prng.below(6));
            let raft = node.raft.as_mut().expect("it is up");
            match prng.below(16) {
                0 if node.writes.is_empty() => node.compact(applied, applied),
                1 => {
                    let kept = prng.index(node.writes.len() + 1);
                    node.crash(kept);
                    // A disk that gives back less than was acknowledged.
                    if prng.chance(0.2) && node.disk.snapshot.last.index > Index::ZERO {
                        let first = node.disk.snapshot.last.index.0 + 1 + prng.below(3);
                        let _ = node.damage(Index(first), Index(END), prng.chance(0.8));
                    }
                    node.start(ReplicaId(1), &config, Prng::new(seed));
                    applied = node.disk.applied;
                }
                2 => raft.tick(),
                3 => raft.campaign_now(),
                4 => drop(raft.propose([1].as_slice().into())),
                5 => {
                    let epoch = |prng: &mut Prng| prng.chance(0.7).then(|| Epoch(prng.below(3)));
                    let support = Support {
                        given: epoch(&mut prng),
                        received: epoch(&mut prng),
                    };
                    raft.liveness(from, support);
                    let _ = raft.read_index(ReadToken(1));
                }
                6 | 7 => drop(node.persist()),
                _ => {
                    let message = message(&mut prng, raft);
                    refused += u32::from(raft.step(from, message).is_err());
                }
            }
            let raft = node.raft.as_mut().expect("it is up");
            led += u32::from(raft.is_leader());
            raft.assert_invariants();
            let mut ready = Ready::default();
            raft.ready(&mut ready);
            raft.assert_invariants();
            if let Some(last) = ready.committed.last() {
                applied = last.index;
                raft.applied(applied);
            }
            if let Some(snapshot) = &ready.snapshot {
                applied = applied.max(snapshot.last.index);
            }
            for fetch in core::mem::take(&mut ready.fetches) {
                let entries = node.fetch(fetch);
                node.raft.as_mut().expect("it is up").fetched(fetch, entries);
            }
            if let Some(mark) = ready.mark {
                node.writes.push_back((mark, ready));
            }
        }
    }
    assert!(
        refused > 1_000 && led > 1_000,
        "{refused} refused, {led} steps as leader"
    );
}
