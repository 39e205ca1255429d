//! What is under way, by ticket, and what goes out after a pause.

use super::{Config, Out};
use crate::request::Batch;
use base::Prng;
use std::collections::BTreeMap;

/// Names a part that was sent.
pub type Ticket = u64;

/// Pauses double so often at most.
const DOUBLINGS_MAX: u32 = 16;

/// Who of a driver asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    Txn,
    /// The recovery of the driver's own transaction.
    Own,
    /// A push of what is in the way.
    Push(u32),
    /// The recovery that a push asked for.
    Recovery(u32),
}

#[derive(Debug)]
pub(super) struct Post {
    flights: BTreeMap<Ticket, (Sender, Batch)>,
    next: Ticket,
    /// What is to be sent, and when.
    queue: Vec<(u64, Sender, Batch)>,
    /// How often something of each went wrong since the last answer.
    failures: BTreeMap<Sender, u32>,
    prng: Prng,
    pause_min_ns: u64,
    push_pause_max_ns: u64,
    pause_max_ns: u64,
}

impl Post {
    pub(super) fn new(config: &Config, seed: u64) -> Self {
        Self {
            flights: BTreeMap::new(),
            next: 0,
            queue: Vec::new(),
            failures: BTreeMap::new(),
            prng: Prng::new(seed),
            pause_min_ns: config.pause_min_ns,
            push_pause_max_ns: config.push_pause_max_ns,
            pause_max_ns: config.pause_max_ns,
        }
    }

    pub(super) fn prng(&mut self) -> &mut Prng {
        &mut self.prng
    }

    pub(super) fn send(&mut self, sender: Sender, batch: Batch) {
        self.queue.push((0, sender, batch));
    }

    pub(super) fn send_again(&mut self, sender: Sender, batch: Batch, now_ns: u64) {
        let failures = self.failures.entry(sender).or_default();
        let times = *failures;
        *failures = failures.saturating_add(1);
        let pause_ns = self.pause(times, self.pause_max_ns);
        self.queue.push((now_ns.saturating_add(pause_ns), sender, batch));
    }

    /// When a transaction that goes on is pushed for the next time, after so many times.
    pub(super) fn push_again_at(&mut self, times: u32, now_ns: u64) -> u64 {
        now_ns.saturating_add(self.pause(times, self.push_pause_max_ns))
    }

    /// Half of it is drawn, so that those who were refused together do not come back together.
    fn pause(&mut self, times: u32, max_ns: u64) -> u64 {
        let whole_ns = self.pause_min_ns.saturating_mul(1 << times.min(DOUBLINGS_MAX));
        let whole_ns = whole_ns.min(max_ns);
        self.prng.between(whole_ns / 2, whole_ns)
    }

    /// What was asked with a ticket, once.
    pub(super) fn answered(&mut self, ticket: Ticket, well: bool) -> Option<(Sender, Batch)> {
        let (sender, part) = self.flights.remove(&ticket)?;
        if well {
            self.failures.remove(&sender);
        }
        Some((sender, part))
    }

    /// Nobody waits for answers to `sender` any more.
    pub(super) fn forget(&mut self, sender: Sender) {
        self.flights.retain(|_, (from, _)| *from != sender);
        self.queue.retain(|(_, from, _)| *from != sender);
        self.failures.remove(&sender);
    }

    pub(super) fn clear(&mut self) {
        self.flights.clear();
        self.queue.clear();
        self.failures.clear();
    }

    pub(super) fn due_ns(&self) -> Option<u64> {
        self.queue.iter().map(|(at, ..)| *at).min()
    }

    /// What is due, split by range.
    pub(super) fn hand_out<P: PartialEq>(
        &mut self,
        now_ns: u64,
        mut place: impl FnMut(&[u8]) -> P,
        outs: &mut Vec<Out>,
    ) {
        let due: Vec<_> = self.queue.extract_if(.., |(at, ..)| *at <= now_ns).collect();
        for (_, sender, batch) in due {
            for (_, part) in batch.split(&mut place) {
                let ticket = self.next;
                self.next += 1;
                self.flights.insert(ticket, (sender, part.clone()));
                outs.push(Out::Send { ticket, part });
            }
        }
    }
}
