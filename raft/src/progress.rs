//! What a leader knows of one peer.
//!
//! ```text
//!              refused                      the entries it needs are gone
//!   Replicate ─────────► Probe ───────────────────────────────────────────► Snapshot
//!       ▲                  │ │                                                  │
//!       └──── appended ────┘ └◄─────────────────── installed, or failed ────────┘
//! ```
//! - *Probe*: one message at a time, until it is known where the logs part.
//! - *Replicate*: `next` runs ahead of what is acknowledged, up to a window of messages.
//! - *Snapshot*: nothing is sent until the state has arrived or failed.

use base::Index;
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

#[derive(Debug, Clone, Hash)]
pub(crate) struct Progress {
    /// Known to be in the peer's log, durably.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    pub(crate) sending: Sending,
    /// The last index of each message that is not acknowledged, oldest first.
    in_flight: VecDeque<Index>,
    /// Heard of since the last check of the quorum.
    pub(crate) active: bool,
    /// Something was acknowledged since the last sign of life.
    acknowledged: bool,
}

impl Progress {
    pub(crate) fn new(next: Index) -> Self {
        Self {
            matched: Index::ZERO,
            next,
            sending: Sending::Probe { waits: false },
            in_flight: VecDeque::new(),
            active: true,
            acknowledged: false,
        }
    }

    /// Whether a message may be sent now.
    pub(crate) fn may_send(&self, window: usize) -> bool {
        match self.sending {
            Sending::Probe { waits } => !waits,
            Sending::Replicate => self.in_flight.len() < window,
            Sending::Snapshot(_) => false,
        }
    }

    /// Entries up to `last` were sent.
    pub(crate) fn sent(&mut self, last: Index) {
        match self.sending {
            Sending::Probe { .. } => self.sending = Sending::Probe { waits: true },
            Sending::Replicate => {
                self.in_flight.push_back(last);
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
        self.next = self.next.max(self.matched.next());
        while self.in_flight.front().is_some_and(|last| *last <= self.matched) {
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

    /// The peer lacks `prev`; `next` is a better guess.
    pub(crate) fn refused(&mut self, prev: Index, next: Index) {
        let expected = match self.sending {
            Sending::Probe { .. } => prev.next() == self.next,
            // Whatever is acknowledged was not refused: the refusal is old.
            Sending::Replicate => prev > self.matched,
            Sending::Snapshot(_) => false,
        };
        if expected {
            self.probe(next.max(self.matched.next()));
        }
    }

    /// The peer answered a heartbeat. A probe goes again; so does the window, if nothing of it was acknowledged since the last
    /// such answer although entries up to `last` are outstanding: then a message was lost, or the peer's disk is slow.
    pub(crate) fn lives(&mut self, last: Index) {
        match self.sending {
            Sending::Probe { .. } => self.probe(self.next),
            Sending::Replicate if self.matched < last && !self.acknowledged => {
                self.probe(self.matched.next());
            }
            Sending::Replicate | Sending::Snapshot(_) => {}
        }
        self.acknowledged = false;
    }

    /// Back to one message at a time.
    pub(crate) fn probe(&mut self, next: Index) {
        self.next = next;
        self.in_flight.clear();
        self.sending = Sending::Probe { waits: false };
    }
}
