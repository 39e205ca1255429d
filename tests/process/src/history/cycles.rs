//! Cycles of dependencies between transactions. Pure.
//!
//! A transaction has two moments, of which nothing else is known: *start*, whose snapshot it reads, and *commit*, at which its writes
//! are there. Every dependency says that one moment is before another:
//!
//! ```text
//!   ww   b's version follows a's               a.commit ─► b.start      first committer wins
//!   wr   b read a's version                    a.commit ─► b.start
//!   rw   b's version follows the one a read    a.start  ─► b.commit     a is of snapshot isolation
//!                                              a.commit ─► b.commit     a is serializable: what it read is so still when it commits
//!   time a's answer came before b began        a.commit ─► b.commit     both are strict
//!   own  every transaction                     a.start  ─► a.commit
//! ```
//!
//! A cycle is a promise that was broken, whatever mix of promises there is; what kind it is, its edges say. Two `rw` in a row, as
//! in write skew, make no cycle among transactions of snapshot isolation: after the first one comes the other's commit, and its own
//! `rw` leaves from its start.
//!
//! *Sources:* Adya, Liskov and O'Neil (2000) name the phenomena; Tarjan (1972) finds the components.

use crate::history::Findings;
use base::collections::{FastMap, FastSet};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

/// What transactions are promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// A snapshot, and the first committer wins.
    Snapshot,
    /// Serializable too.
    Serializable,
    /// In an order that agrees with time too.
    Strict,
}

/// A dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ww,
    Wr,
    Rw,
}

/// A transaction that happened. Lines are positions in the history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) isolation: Isolation,
    pub(crate) began: usize,
    /// Beyond all lines when it is not known.
    pub(crate) ended: usize,
}

/// Transactions, and what each depends on.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    edges: BTreeMap<(usize, usize, Kind), String>,
}

/// What leads from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Own,
    Time,
    Depends(usize, usize, Kind),
}

/// Moments and what leads from each to which.
struct Moments {
    next: Vec<Vec<(usize, Step)>>,
}

fn start(node: usize) -> usize {
    node * 2
}

fn commit(node: usize) -> usize {
    node * 2 + 1
}

impl Graph {
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        let edges = BTreeMap::new();
        Self { nodes, edges }
    }

    /// `to` depends on `from`; `why` is evaluated for the first reason of each kind.
    pub(crate) fn add(&mut self, from: usize, to: usize, kind: Kind, why: impl FnOnce() -> String) {
        if from != to {
            self.edges.entry((from, to, kind)).or_insert_with(why);
        }
    }

    fn moments(&self, with_time: bool) -> Moments {
        let mut next: Vec<Vec<(usize, Step)>> = vec![Vec::new(); self.nodes.len() * 2];
        for node in 0..self.nodes.len() {
            next[start(node)].push((commit(node), Step::Own));
        }
        for &(from, to, kind) in self.edges.keys() {
            let step = Step::Depends(from, to, kind);
            match (kind, self.nodes[from].isolation) {
                (Kind::Ww | Kind::Wr, _) => next[commit(from)].push((start(to), step)),
                (Kind::Rw, Isolation::Snapshot) => next[start(from)].push((commit(to), step)),
                (Kind::Rw, Isolation::Serializable | Isolation::Strict) => {
                    next[commit(from)].push((commit(to), step));
                }
            }
        }
        if with_time {
            self.add_time(&mut next);
        }
        Moments { next }
    }

    /// A chain of ends in their order stands for every pair of an end and a later begin.
    fn add_time(&self, next: &mut Vec<Vec<(usize, Step)>>) {
        let strict = (0..self.nodes.len()).filter(|node| self.nodes[*node].isolation == Isolation::Strict);
        let mut lines: Vec<(usize, bool, usize)> = Vec::new();
        for node in strict {
            lines.push((self.nodes[node].began, true, node));
            if self.nodes[node].ended != usize::MAX {
                lines.push((self.nodes[node].ended, false, node));
            }
        }
        lines.sort_unstable();
        let mut last = None;
        for (_, begins, node) in lines {
            if begins {
                if let Some(last) = last {
                    let steps: &mut Vec<_> = &mut next[last];
                    steps.push((commit(node), Step::Time));
                }
                continue;
            }
            let end = next.len();
            next.push(Vec::new());
            next[commit(node)].push((end, Step::Time));
            if let Some(last) = last {
                let steps: &mut Vec<_> = &mut next[last];
                steps.push((end, Step::Time));
            }
            last = Some(end);
        }
    }

    /// Adds one cycle of each component, the plainest that there is.
    pub(super) fn check(&self, findings: &mut Findings) {
        for with_time in [false, true] {
            let moments = self.moments(with_time);
            let components = moments.components();
            if components.is_empty() {
                continue;
            }
            for component in components {
                let inside: FastSet<usize> = component.into_iter().collect();
                let (kind, cycle) = self.plainest(&moments, &inside);
                findings.add(kind, self.told(&cycle));
            }
            // With time there would be the same ones again.
            return;
        }
    }

    fn plainest(&self, moments: &Moments, inside: &FastSet<usize>) -> (&'static str, Vec<Step>) {
        let kind = |step| match step {
            Step::Own | Step::Time => None,
            Step::Depends(_, _, kind) => Some(kind),
        };
        let rw = |step| kind(step) == Some(Kind::Rw);
        let ww = |step| step == Step::Own || kind(step) == Some(Kind::Ww);
        let depends = |step| ww(step) || kind(step) == Some(Kind::Wr);
        let untimely = |step| step != Step::Time;
        let timely = |step| step == Step::Time || depends(step);
        let time = |step| step == Step::Time;
        // How a cycle begins, and how it goes on.
        let ways: [(&'static str, Filter<'_>, Filter<'_>); 7] = [
            ("G0", &ww, &ww),
            ("G1c", &depends, &depends),
            ("G-single", &rw, &depends),
            ("G2-item", &rw, &untimely),
            ("G1c against time", &time, &timely),
            ("G-single against time", &rw, &timely),
            ("G2-item against time", &rw, &|_| true),
        ];
        let cycle = |(name, first, rest)| Some((name, moments.cycle(inside, first, rest)?));
        let found = ways.into_iter().find_map(cycle);
        // Every component has a cycle, and every cycle is of one of these kinds.
        found.expect("a component has a cycle")
    }

    fn told(&self, cycle: &[Step]) -> String {
        let line = |node: usize| self.nodes[node].began + 1;
        let mut text = String::new();
        for step in cycle {
            // Writing to a string does not fail.
            let _ = match *step {
                Step::Own => Ok(()),
                Step::Time => write!(text, "; in time"),
                Step::Depends(from, to, kind) => {
                    let (why, first) = (&self.edges[&(from, to, kind)], text.is_empty());
                    let sign = if first { "" } else { "; " };
                    write!(
                        text,
                        "{sign}{kind:?} from line {} ({:?}) to line {} ({:?}): {why}",
                        line(from),
                        self.nodes[from].isolation,
                        line(to),
                        self.nodes[to].isolation,
                    )
                }
            };
        }
        text
    }
}

/// Which steps are looked at.
type Filter<'a> = &'a dyn Fn(Step) -> bool;

impl Moments {
    /// The shortest cycle that begins with a step of `first` and goes on with steps of `rest`, among the moments `inside`.
    fn cycle(&self, inside: &FastSet<usize>, first: Filter<'_>, rest: Filter<'_>) -> Option<Vec<Step>> {
        let mut sorted: Vec<usize> = inside.iter().copied().collect();
        sorted.sort_unstable();
        let mut best: Option<Vec<Step>> = None;
        for &from in &sorted {
            for &(to, step) in self.next[from].iter().filter(|(_, step)| first(*step)) {
                if !inside.contains(&to) {
                    continue;
                }
                let Some(mut back) = self.way(to, from, inside, rest) else {
                    continue;
                };
                back.insert(0, step);
                if best.as_ref().is_none_or(|best| back.len() < best.len()) {
                    best = Some(back);
                }
            }
        }
        best
    }

    fn way(&self, from: usize, to: usize, inside: &FastSet<usize>, filter: Filter<'_>) -> Option<Vec<Step>> {
        let mut came: FastMap<usize, (usize, Step)> = FastMap::default();
        let mut todo = VecDeque::from([from]);
        while let Some(at) = todo.pop_front() {
            if at == to {
                let (mut steps, mut at) = (Vec::new(), at);
                while at != from {
                    let (before, step) = came[&at];
                    steps.push(step);
                    at = before;
                }
                steps.reverse();
                return Some(steps);
            }
            for &(next, step) in &self.next[at] {
                if next != from && inside.contains(&next) && filter(step) && !came.contains_key(&next) {
                    came.insert(next, (at, step));
                    todo.push_back(next);
                }
            }
        }
        None
    }

    /// The strongly connected components of more than one moment.
    fn components(&self) -> Vec<Vec<usize>> {
        let count = self.next.len();
        let (mut order, mut low) = (vec![0_usize; count], vec![0_usize; count]);
        let (mut path, mut on_path, mut found) = (Vec::new(), vec![false; count], Vec::new());
        let mut counter = 0;
        for root in 0..count {
            if order[root] > 0 {
                continue;
            }
            // A moment and how many of its steps were taken.
            let mut todo = vec![(root, 0)];
            while let Some((at, taken)) = todo.pop() {
                if taken == 0 {
                    counter += 1;
                    (order[at], low[at]) = (counter, counter);
                    path.push(at);
                    on_path[at] = true;
                } else {
                    let before = self.next[at][taken - 1].0;
                    if on_path[before] {
                        low[at] = low[at].min(low[before]);
                    }
                }
                if let Some(&(next, _)) = self.next[at].get(taken) {
                    todo.push((at, taken + 1));
                    if order[next] == 0 {
                        todo.push((next, 0));
                    }
                    continue;
                }
                if low[at] == order[at] {
                    let from = path.iter().rposition(|on| *on == at).expect("it is on the path");
                    let component = path.split_off(from);
                    for moment in &component {
                        on_path[*moment] = false;
                    }
                    if component.len() > 1 {
                        found.push(component);
                    }
                }
            }
        }
        found
    }
}
