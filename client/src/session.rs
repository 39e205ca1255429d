//! The numbers of writes. Pure.
//!
//! Each write of a session has a number, and every try of it carries the same one, by which the server recognises it. The
//! server may forget results below `acked_below`; numbers in use therefore stay inside a window.
//!
//! ```text
//!        acked_below                    next_seq
//!   ──────────┼─────────────────────────────┼──────
//!   forgotten │ unanswered, or answered     │ free
//!             │ behind an unanswered one    │
//!             └───── at most the window ────┘
//! ```

use base::ClientId;
use base::api::WriteId;
use base::limits::SESSION_WRITES_MAX;
use std::collections::VecDeque;

/// One client session.
#[derive(Debug)]
pub(crate) struct Session {
    client: ClientId,
    next_seq: u64,
    acked_below: u64,
    /// Whether each number from `acked_below` on has been answered.
    answered: VecDeque<bool>,
}

impl Session {
    pub(crate) fn new(client: ClientId) -> Self {
        Self {
            client,
            next_seq: 1,
            acked_below: 1,
            answered: VecDeque::new(),
        }
    }

    /// Numbers a new write; `None` while the window is full.
    pub(crate) fn begin(&mut self) -> Option<u64> {
        if self.answered.len() >= SESSION_WRITES_MAX {
            return None;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.answered.push_back(false);
        Some(seq)
    }

    /// The write's name as of now: every try carries the newest `acked_below`.
    pub(crate) fn id(&self, seq: u64) -> WriteId {
        WriteId {
            client: self.client,
            seq,
            acked_below: self.acked_below,
        }
    }

    /// The write was answered, or its caller has given up on it. Says whether the window moved.
    pub(crate) fn finish(&mut self, seq: u64) -> bool {
        let at = seq
            .checked_sub(self.acked_below)
            .and_then(|at| usize::try_from(at).ok());
        let answered = at
            .and_then(|at| self.answered.get_mut(at))
            .expect("a write is finished once");
        assert!(!*answered, "write {seq} is finished once");
        *answered = true;
        let before = self.acked_below;
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.acked_below += 1;
        }
        self.acked_below > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acked_below_stops_at_the_oldest_unanswered_write() {
        let mut session = Session::new(ClientId(7));
        let seqs: Vec<u64> = (0..4).map(|_| session.begin().unwrap()).collect();
        assert_eq!(seqs, [1, 2, 3, 4]);
        assert!(!session.finish(2));
        assert!(!session.finish(3));
        assert_eq!(
            session.id(4),
            WriteId {
                client: ClientId(7),
                seq: 4,
                acked_below: 1
            }
        );
        assert!(session.finish(1));
        assert_eq!(session.id(4).acked_below, 4);
        assert!(session.finish(4));
        assert_eq!(session.begin(), Some(5));
        assert_eq!(session.id(5).acked_below, 5);
    }

    #[test]
    fn one_slow_write_closes_the_window_and_opens_it_again() {
        let mut session = Session::new(ClientId(7));
        let slow = session.begin().unwrap();
        let mut answered = 0;
        while let Some(seq) = session.begin() {
            session.finish(seq);
            answered += 1;
        }
        assert_eq!(answered, SESSION_WRITES_MAX - 1);
        assert!(session.finish(slow));
        assert!(session.begin().is_some());
    }
}
