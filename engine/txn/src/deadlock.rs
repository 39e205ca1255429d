//! Pushes that wait, and the cycles that they may be part of: found without a place that knows everything.
//!
//! Who pushes a transaction that goes on, waits in the range that has that transaction's record. There it learns who waits for itself,
//! by asking the range that has its own record: whoever pushes it waits there, and brings along who waits for *them*. A pusher that
//! finds the one it waits for among those who wait for it, has found a cycle.
//!
//! ```text
//!   at the record of B:  A waits for B, and knows: (C waits for A)
//!   at the record of C:  B waits for C, and knows: (A waits for B), (C waits for A)   ◄── C waits for B by way of A: a cycle
//! ```
//!
//! Everybody in a cycle finds it, in as many rounds of questions as it is long. The youngest is aborted, by the one who waits for it.
//!
//! Invariants:
//! - **D1**: an abort by force is wished only for the youngest of a cycle of waits that were all seen.
//! - **D2**: at most `waiters_max` waiters, [`EDGES_MAX`] waits known to each: longer chains end by deadline.

use crate::txn::{TxnId, Who};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Waits that one pusher knows of.
pub const EDGES_MAX: usize = 64;

/// One waits for the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// Who waits.
    pub waiter: Arc<Who>,
    /// For whom.
    pub holder: Arc<Who>,
}

#[derive(Debug, Clone)]
struct Push<W> {
    waiter: W,
    edge: Edge,
    /// Chains of waits that end at the pusher.
    known: BTreeSet<Edge>,
}

/// What becomes of a push when more is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<W> {
    /// The transaction that this one waits for is the youngest of a cycle: abort it by force.
    Force {
        /// Who waits.
        waiter: W,
        /// The cycle, beginning with the one to be aborted.
        cycle: Vec<Arc<Who>>,
    },
    /// A cycle in which somebody else is the youngest: whoever waits for that one breaks it.
    Others,
    /// No cycle so far. Ask again.
    Nothing,
}

/// The pushes that wait in one range.
#[derive(Debug, Clone)]
pub struct PushQueue<W> {
    pushes: BTreeMap<TxnId, Vec<Push<W>>>,
    waiters: usize,
    waiters_max: usize,
}

impl<W: Copy + PartialEq> PushQueue<W> {
    /// An empty queue.
    #[must_use]
    pub fn new(waiters_max: usize) -> Self {
        Self {
            pushes: BTreeMap::new(),
            waiters: 0,
            waiters_max,
        }
    }

    /// A push was refused: it waits until its pushee has ended. Says whether there was room.
    #[must_use]
    pub fn wait(&mut self, waiter: W, edge: Edge) -> bool {
        if self.waiters >= self.waiters_max {
            return false;
        }
        self.waiters += 1;
        let known = BTreeSet::new();
        self.pushes
            .entry(edge.holder.id)
            .or_default()
            .push(Push { waiter, edge, known });
        true
    }

    /// A transaction has ended, or was aborted: those who waited for it, to be told.
    pub fn ended(&mut self, txn: TxnId) -> Vec<W> {
        let pushes = self.pushes.remove(&txn).unwrap_or_default();
        self.waiters -= pushes.len();
        pushes.into_iter().map(|push| push.waiter).collect()
    }

    /// A push is given up.
    pub fn cancel(&mut self, waiter: W) {
        self.pushes.retain(|_, pushes| {
            let before = pushes.len();
            pushes.retain(|push| push.waiter != waiter);
            self.waiters -= before - pushes.len();
            !pushes.is_empty()
        });
    }

    /// The questions that are to be asked from time to time: for each push, who waits for its pusher, at the pusher's record. The
    /// answer is [`Self::dependents`] there, and comes to [`Self::learn`] here.
    pub fn questions(&self) -> impl Iterator<Item = (W, &Arc<Who>)> {
        let all = self.pushes.values().flatten();
        all.map(|push| (push.waiter, &push.edge.waiter))
    }

    /// Chains of waits that end at `txn`, whose record is in this range.
    #[must_use]
    pub fn dependents(&self, txn: TxnId) -> Vec<Edge> {
        let mut edges = BTreeSet::new();
        for push in self.pushes.get(&txn).into_iter().flatten() {
            edges.insert(push.edge.clone());
            edges.extend(push.known.iter().cloned());
        }
        edges.into_iter().take(EDGES_MAX).collect()
    }

    /// A push learns who waits for its pusher now, and whether that closes a cycle.
    pub fn learn(&mut self, waiter: W, edges: Vec<Edge>) -> Found<W> {
        let mut all = self.pushes.values_mut().flatten();
        let Some(push) = all.find(|push| push.waiter == waiter) else {
            return Found::Nothing;
        };
        // What is not said any more is over.
        push.known = edges.into_iter().take(EDGES_MAX).collect();
        let Some(cycle) = push.cycle() else {
            return Found::Nothing;
        };
        base::sometimes!("txn: a deadlock was found");
        let is_youngest = cycle.iter().skip(1).all(|other| cycle[0].is_younger(other));
        let is_oldest = cycle.iter().skip(1).all(|other| other.is_younger(&cycle[0]));
        if base::planted_bug!("txn-deadlock-aborts-oldest") {
            return if is_oldest {
                Found::Force { waiter, cycle }
            } else {
                Found::Others
            };
        }
        if is_youngest {
            Found::Force { waiter, cycle }
        } else {
            Found::Others
        }
    }
}

impl<W> Push<W> {
    /// The shortest cycle through this push: from its pushee, along waits, to its pusher.
    fn cycle(&self) -> Option<Vec<Arc<Who>>> {
        let (from, to) = (&self.edge.holder, &self.edge.waiter);
        let mut paths = vec![vec![Arc::clone(from)]];
        let mut seen = BTreeSet::from([from.id]);
        while !paths.is_empty() {
            let mut longer = Vec::new();
            for path in paths {
                let Some(last) = path.last() else { continue };
                if last.id == to.id {
                    return Some(path);
                }
                for edge in self.known.iter().filter(|edge| edge.waiter.id == last.id) {
                    if seen.insert(edge.holder.id) {
                        let mut next = path.clone();
                        next.push(Arc::clone(&edge.holder));
                        longer.push(next);
                    }
                }
            }
            paths = longer;
        }
        None
    }
}
