//! Who keeps what was said: a word is answered when a majority has it durably. Pure.
//!
//! What a node knows is only ever added to, so that whoever keeps all that was known at some moment keeps all that was said before.
//! Nodes tell what they keep as a number that stands for all of it.

use base::NodeId;
use std::collections::{BTreeMap, VecDeque};

/// Moments that are remembered: a node that keeps what was known before them is told anew.
const MOMENTS_MAX: usize = 64;

/// See the module. `T` is who waits.
#[derive(Debug)]
pub(crate) struct Keeping<T> {
    /// What was known when, upwards; the last one is what is known now.
    moments: VecDeque<(u64, u64)>,
    /// The last moment of which each node keeps everything.
    kept: BTreeMap<NodeId, u64>,
    waiting: Vec<(u64, T)>,
}

impl<T> Keeping<T> {
    /// Nobody is known to keep anything. `known` stands for what is known now.
    pub(crate) fn new(known: u64) -> Self {
        Self {
            moments: VecDeque::from([(0, known)]),
            kept: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    fn now(&self) -> (u64, u64) {
        self.moments.back().copied().unwrap_or_default()
    }

    /// What is known now.
    pub(crate) fn note(&mut self, known: u64) {
        let (moment, before) = self.now();
        if before != known {
            self.moments.push_back((moment + 1, known));
        }
        if self.moments.len() > MOMENTS_MAX {
            self.moments.pop_front();
        }
    }

    /// Somebody waits until what is known now is kept.
    pub(crate) fn wait(&mut self, who: T) {
        self.waiting.push((self.now().0, who));
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A node keeps what `known` stands for. Whether that is all that is known now.
    pub(crate) fn keeps(&mut self, node: NodeId, known: u64) -> bool {
        let moment = self.moments.iter().rev().find(|(_, then)| *then == known);
        if let Some((moment, _)) = moment {
            let last = self.kept.entry(node).or_insert(*moment);
            *last = (*last).max(*moment);
        }
        self.now().1 == known
    }

    /// Whether a majority of these keeps what was known at `moment`.
    fn is_kept(&self, moment: u64, voters: &[NodeId]) -> bool {
        let keeps = |voter: &&NodeId| self.kept.get(voter).is_some_and(|kept| *kept >= moment);
        voters.iter().filter(keeps).count() > voters.len() / 2
    }

    /// Whether what a majority of these keeps is known: no word that was answered is missing.
    pub(crate) fn is_whole(&self, voters: &[NodeId]) -> bool {
        self.is_kept(0, voters)
    }

    /// Those who wait no more, as a majority of these keeps what they said.
    pub(crate) fn done(&mut self, voters: &[NodeId]) -> Vec<T> {
        let waiting = core::mem::take(&mut self.waiting);
        let (done, waiting) = waiting
            .into_iter()
            .partition(|(moment, _)| self.is_kept(*moment, voters));
        self.waiting = waiting;
        done_ones(done)
    }

    /// Those who wait no more, as there is nothing to wait for, or as `is_over` says so.
    pub(crate) fn give_up(&mut self, is_over: impl Fn(&T) -> bool) -> Vec<T> {
        let waiting = core::mem::take(&mut self.waiting);
        let (over, waiting) = waiting.into_iter().partition(|(_, who)| is_over(who));
        self.waiting = waiting;
        done_ones(over)
    }
}

fn done_ones<T>(waiting: Vec<(u64, T)>) -> Vec<T> {
    waiting.into_iter().map(|(_, who)| who).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    #[test]
    fn a_word_is_kept_by_a_majority_that_has_it_or_more() {
        let mut keeping = Keeping::new(10);
        assert!(!keeping.is_whole(&VOTERS));
        keeping.note(11);
        keeping.wait("first");
        assert!(keeping.keeps(NodeId(1), 11), "all that is known");
        assert!(!keeping.keeps(NodeId(2), 10), "not the word");
        assert!(keeping.is_whole(&VOTERS), "two have told what they keep");
        assert_eq!(keeping.done(&VOTERS), [""; 0]);
        keeping.note(12);
        keeping.wait("second");
        assert!(!keeping.keeps(NodeId(4), 12) || keeping.done(&VOTERS).is_empty());
        assert!(keeping.keeps(NodeId(2), 12));
        assert_eq!(keeping.done(&VOTERS), ["first"]);
        keeping.keeps(NodeId(2), 10);
        keeping.keeps(NodeId(3), 12);
        assert_eq!(keeping.done(&VOTERS), ["second"], "nobody forgets what it keeps");
    }

    #[test]
    fn what_is_not_known_is_not_kept() {
        let mut keeping = Keeping::new(10);
        assert!(!keeping.keeps(NodeId(1), 99), "it knows more");
        assert!(!keeping.keeps(NodeId(2), 98));
        assert!(!keeping.is_whole(&VOTERS));
        keeping.wait("who");
        assert_eq!(keeping.done(&VOTERS), [""; 0]);
        assert_eq!(keeping.give_up(|who| *who == "who"), ["who"]);
        assert_eq!(keeping.waiting(), 0);
    }

    #[test]
    fn few_moments_are_remembered() {
        let mut keeping: Keeping<()> = Keeping::new(0);
        for known in 1..1000 {
            keeping.note(known);
        }
        assert_eq!(keeping.moments.len(), MOMENTS_MAX);
        assert!(!keeping.keeps(NodeId(1), 3) && keeping.kept.is_empty());
        assert!(keeping.keeps(NodeId(1), 999));
    }
}
