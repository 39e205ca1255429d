//! What a leader knows of one peer.
//!
//! ```text
//!              refused                      the entries it needs are gone
//!   Replicate ─────────► Probe ───────────────────────────────────────────► Snapshot
//!       ▲                  │ │                                                  │
//!       └──── appended ────┘ └◄─────────────────── installed, or failed ────────┘
//! ```
//! - *Probe*: one message at a time, until it is known where the logs part.
//! - *Replicate*: `next` runs ahead of what is acknowledged, up to a window of messages and bytes.
//! - *Snapshot*: nothing is sent until the state has arrived or failed.

use crate::config::Config;
use crate::message::Epoch;
use base::{Index, ReplicaId};
use core::mem;
use std::collections::VecDeque;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sending {
    /// `waits`: a probe is under way.
    Probe {
        waits: bool,
    },
    Replicate,
    /// Up to this index.
    Snapshot(Index),
}

#[derive(Debug, Clone, Copy, Hash)]
struct Sent {
    last: Index,
    bytes: usize,
}

/// A peer that has everything and knows it, in little memory. Zero is no epoch.
#[derive(Debug, Clone)]
pub(crate) struct Quiet {
    id: ReplicaId,
    round: u64,
    /// The round that told it of the last commit.
    told: u64,
    fortified: u64,
    active: bool,
    pub(crate) acknowledged: bool,
    rank: u8,
}

impl Quiet {
    pub(crate) fn fortified_of(&self, id: ReplicaId) -> Option<Epoch> {
        (self.id == id && self.fortified > 0).then_some(Epoch(self.fortified))
    }
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Progress {
    pub(crate) id: ReplicaId,
    /// Known to be in the peer's log, durably.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    pub(crate) sending: Sending,
    /// Messages that are not acknowledged, oldest first.
    in_flight: VecDeque<Sent>,
    in_flight_bytes: usize,
    /// Entries from `next` on were asked for from disk.
    pub(crate) fetching: bool,
    /// Heard of since the last check of the quorum.
    pub(crate) active: bool,
    /// Something was acknowledged since the last sign of life.
    pub(crate) acknowledged: bool,
    /// Signs of life in a row without an acknowledgement of what is under way.
    unmoved: u32,
    /// The latest round of heartbeats that it answered.
    pub(crate) round: u64,
    /// The latest commit index that a heartbeat told it, and the first round that did.
    told: (Index, u64),
    /// What it is known to know as committed.
    pub(crate) knows: Index,
    /// It follows as long as its node supports this one's at this epoch.
    pub(crate) fortified: Option<Epoch>,
    /// Its place among those who would lead.
    pub(crate) rank: u8,
}

impl Progress {
    pub(crate) fn new(id: ReplicaId, next: Index) -> Self {
        Self {
            id,
            matched: Index::ZERO,
            next,
            sending: Sending::Probe { waits: false },
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            fetching: false,
            active: true,
            acknowledged: false,
            unmoved: 0,
            round: 0,
            told: (Index::ZERO, 0),
            knows: Index::ZERO,
            fortified: None,
            rank: 0,
        }
    }

    /// Whether a message may be sent now.
    pub(crate) fn may_send(&self, config: &Config) -> bool {
        match self.sending {
            Sending::Probe { waits } => !waits,
            Sending::Replicate => {
                !self.fetching
                    && self.in_flight.len() < config.in_flight_max
                    && (self.in_flight.is_empty() || self.in_flight_bytes < config.in_flight_bytes_max)
            }
            Sending::Snapshot(_) => false,
        }
    }

    /// Entries up to `last` were sent.
    pub(crate) fn sent(&mut self, last: Index, bytes: usize) {
        match self.sending {
            Sending::Probe { .. } => self.sending = Sending::Probe { waits: true },
            Sending::Replicate => {
                self.in_flight.push_back(Sent { last, bytes });
                self.in_flight_bytes += bytes;
                self.next = last.next();
            }
            Sending::Snapshot(_) => unreachable!("nothing is sent meanwhile"),
        }
    }

    /// The peer has everything up to `matched`. Says whether that is news.
    pub(crate) fn appended(&mut self, matched: Index) -> bool {
        let news = matched > self.matched;
        self.acknowledged |= news;
        self.matched = self.matched.max(matched);
        if self.next <= self.matched {
            self.next = self.matched.next();
            self.fetching = false;
        }
        while let Some(sent) = self.in_flight.front().filter(|sent| sent.last <= self.matched) {
            self.in_flight_bytes -= sent.bytes;
            self.in_flight.pop_front();
        }
        match self.sending {
            Sending::Probe { .. } => {
                self.sending = Sending::Replicate;
                self.next = self.matched.next();
            }
            Sending::Snapshot(index) if self.matched >= index => self.probe(self.matched.next()),
            Sending::Snapshot(_) | Sending::Replicate => {}
        }
        news
    }

    /// The peer lacks `prev`; `next` is a better guess. Says whether that is taken.
    pub(crate) fn refused(&mut self, prev: Index, next: Index) -> bool {
        let expected = match self.sending {
            Sending::Probe { .. } => prev.next() == self.next,
            // Whatever is acknowledged was not refused: the refusal is old. So it is of what is yet to be sent, or made up.
            Sending::Replicate => self.matched < prev && prev < self.next,
            Sending::Snapshot(_) => false,
        };
        if expected {
            self.probe(next.max(self.matched.next()));
        }
        expected
    }

    /// The peer answered a heartbeat. A probe goes again; so does the window, if nothing of it was acknowledged since as many such answers
    /// as `resend_answers` says although entries up to `last` are outstanding: then a message was lost, or the peer's disk is slow.
    pub(crate) fn lives(&mut self, last: Index, resend_answers: u32) {
        let moved = mem::take(&mut self.acknowledged);
        match self.sending {
            Sending::Probe { .. } => self.probe(self.next),
            Sending::Replicate if self.matched < last && !moved && !self.fetching => {
                self.unmoved += 1;
                if self.unmoved >= resend_answers {
                    self.probe(self.matched.next());
                }
            }
            Sending::Replicate | Sending::Snapshot(_) => self.unmoved = 0,
        }
    }

    /// A heartbeat of `round` tells it what is committed, as far as it has that.
    pub(crate) fn tell(&mut self, committed: Index, round: u64) -> Index {
        let commit = committed.min(self.matched);
        if commit > self.told.0 {
            self.told = (commit, round);
        }
        commit
    }

    /// Whether it has, or could be told, that everything up to `index` is committed, and was not.
    pub(crate) fn is_untold(&self, index: Index) -> bool {
        self.matched >= index && self.told.0 < index
    }

    /// It answered a heartbeat of `round`.
    pub(crate) fn answered(&mut self, round: u64) {
        self.round = self.round.max(round);
        if self.told.1 > 0 && round >= self.told.1 {
            self.knows = self.told.0;
        }
    }

    /// Back to one message at a time.
    pub(crate) fn probe(&mut self, next: Index) {
        self.next = next;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.fetching = false;
        self.unmoved = 0;
        self.sending = Sending::Probe { waits: false };
    }

    /// Back to one message at a time, the first one when the peer has answered a heartbeat.
    pub(crate) fn probe_later(&mut self) {
        self.probe(self.next);
        self.sending = Sending::Probe { waits: true };
    }

    /// What is under way to it may not arrive: all of it goes again, the first message when the peer has answered a heartbeat. Says
    /// whether there is anything.
    pub(crate) fn lost(&mut self) -> bool {
        let is_sent = !self.in_flight.is_empty();
        if is_sent {
            self.next = self.matched.next();
            self.probe_later();
        }
        is_sent
    }

    /// Whether no answer to entries, a probe or a state is waited for, nor entries from disk.
    pub(crate) fn has_nothing_under_way(&self) -> bool {
        !self.fetching && self.in_flight.is_empty() && self.sending != Sending::Probe { waits: true }
    }

    /// The peer in little memory, if it has everything up to `last` and knows that this is committed.
    pub(crate) fn quiet(&self, last: Index) -> Option<Quiet> {
        let is_quiet = self.sending == Sending::Replicate
            && self.matched == last
            && self.next == last.next()
            && self.knows == last
            && self.told.0 == last;
        is_quiet.then(|| Quiet {
            id: self.id,
            round: self.round,
            told: self.told.1,
            fortified: self.fortified.map_or(0, |epoch| epoch.0),
            active: self.active,
            acknowledged: self.acknowledged,
            rank: self.rank,
        })
    }

    /// The peer again, of a log that ends at `last`.
    pub(crate) fn of_quiet(quiet: &Quiet, last: Index) -> Self {
        Self {
            matched: last,
            sending: Sending::Replicate,
            active: quiet.active,
            acknowledged: quiet.acknowledged,
            round: quiet.round,
            told: (last, quiet.told),
            knows: last,
            fortified: quiet.fortified_of(quiet.id),
            rank: quiet.rank,
            ..Self::new(quiet.id, last.next())
        }
    }

    /// Up to where it has the log, or will when the state has come that is being sent. Who has not answered this leader yet, and may be
    /// about to, may have as much as the log that begins after `start` can bring on.
    pub(crate) fn has_or_gets(&self, start: Index) -> Index {
        match self.sending {
            Sending::Snapshot(index) => index.max(self.matched),
            Sending::Probe { .. } if self.matched == Index::ZERO && self.active => start,
            Sending::Probe { .. } | Sending::Replicate => self.matched,
        }
    }

    /// Gives back what an idle peer does not need.
    pub(crate) fn shrink(&mut self) {
        self.in_flight.shrink_to_fit();
    }

    pub(crate) fn assert_invariants(&self, last: Index) {
        assert!(self.matched < self.next, "{self:?}");
        assert!(self.matched <= last, "{self:?}");
        if let Sending::Snapshot(index) = self.sending {
            assert!(index > self.matched, "{self:?}");
        }
        let bytes: usize = self.in_flight.iter().map(|sent| sent.bytes).sum();
        assert!(bytes == self.in_flight_bytes, "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_being_sent_state_will_have_the_log_up_to_there() {
        let mut peer = Progress::new(ReplicaId(2), Index(1));
        assert_eq!(peer.has_or_gets(Index(7)), Index(7), "it is asked");
        peer.active = false;
        assert_eq!(peer.has_or_gets(Index(7)), Index::ZERO);
        peer.sending = Sending::Snapshot(Index(40));
        assert_eq!(peer.has_or_gets(Index(7)), Index(40));
        peer.matched = Index(60);
        peer.sending = Sending::Replicate;
        assert_eq!(peer.has_or_gets(Index(7)), Index(60));
    }

    #[test]
    fn what_is_under_way_is_sent_again_after_so_many_answers_that_acknowledge_nothing() {
        let last = Index(9);
        let mut peer = Progress::new(ReplicaId(2), Index(1));
        peer.appended(Index(4));
        peer.sent(last, 100);
        let answers = |peer: &mut Progress, count: u32| {
            (0..count).for_each(|_| peer.lives(last, 3));
            peer.sending
        };
        // The first one follows an acknowledgement.
        assert_eq!(answers(&mut peer, 3), Sending::Replicate);
        peer.appended(Index(5));
        assert_eq!(
            answers(&mut peer, 3),
            Sending::Replicate,
            "it counts from the last one"
        );
        assert_eq!(answers(&mut peer, 1), Sending::Probe { waits: false });
        assert_eq!(peer.next, Index(6));
    }
}
