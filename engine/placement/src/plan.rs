//! One call: a slice of the ranges is examined, and the most important steps are handed out.

use crate::cluster::{Cluster, Range};
use crate::config::Config;
use crate::decision::{Action, Class, Decision, Reason, Resource};
use crate::group::{Group, Health};
use crate::view::View;
use base::planted_bug;
use base::{NodeId, RangeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// What placement remembers between calls. It may be lost: the next round begins with the first range, and balance a little later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The last range that was examined, by its first key; `None` at the beginning of a round.
    pub(crate) after: Option<(Box<[u8]>, RangeId)>,
    /// Nodes, and shards of nodes, that are out of band: see [`Band`](crate::Band). At most three per node and shard.
    pub(crate) loaded: BTreeMap<(Resource, NodeId, Option<ShardId>), Loaded>,
}

/// Since when a node or shard is out of band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// In nanoseconds.
    pub(crate) since_ns: u64,
    /// When something was done about it last, or when balance began.
    pub(crate) step_ns: u64,
    /// It was so for [`Config::loaded_after_ns`], so balance has begun, and goes on until it is well within the band, or until
    /// nothing was done for twice [`Config::still_ns`].
    pub(crate) is_out: bool,
}

impl Cursor {
    pub(crate) fn is_out(&self, resource: Resource, node: NodeId, shard: Option<ShardId>) -> bool {
        self.loaded
            .get(&(resource, node, shard))
            .is_some_and(|loaded| loaded.is_out)
    }
}

impl Cursor {
    /// Balance goes on for a resource as long as it does something.
    fn note_step(&mut self, reason: &Reason, now_ns: u64) {
        let (resource, node) = match reason {
            Reason::Loaded { resource, .. } => (*resource, None),
            Reason::DiskFull { .. } => (Resource::Bytes, None),
            Reason::ShardLoaded { resource, place, .. } => (*resource, Some(place.node)),
            _ => return,
        };
        for ((of, at, shard), loaded) in &mut self.loaded {
            if *of == resource && shard.is_some() == node.is_some() && node.is_none_or(|node| node == *at) {
                loaded.step_ns = now_ns;
            }
        }
    }
}

/// What one call says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is to be done, the most important first: at most [`Config::decisions_max`] and [`Config::splits_max`], and at most
    /// one for a range.
    pub decisions: Vec<Decision>,
    /// What is wished and cannot be done, with the reason why not: at most [`Config::held_max`].
    pub held: Vec<Decision>,
    /// For the next call.
    pub cursor: Cursor,
    /// Whether this call ended a round over all ranges.
    pub is_round_end: bool,
    /// Ranges that were examined.
    pub examined: usize,
}

/// What one examination finds.
#[derive(Debug)]
pub(crate) enum Step {
    /// To be done; a smaller number is more urgent within the class.
    Do(Decision, i64),
    /// The range waits for something, so its replicas are left alone.
    Wait(Decision),
    /// This cannot be done, but something less important might.
    Stuck(Decision),
    Fine,
}

impl Step {
    pub(crate) fn urgent(group: &Group, decision: Decision) -> Self {
        Self::Do(decision, group.margin())
    }

    pub(crate) fn calm(decision: Decision) -> Self {
        Self::Do(decision, 0)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        if matches!(self, Self::Fine) { other } else { self }
    }

    /// After the others of its class.
    pub(crate) fn later(self) -> Self {
        match self {
            Self::Do(decision, _) => Self::Do(decision, i64::MAX),
            Self::Wait(_) | Self::Stuck(_) | Self::Fine => self,
        }
    }
}

/// The steps for one range: at most one is done.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) done: Option<(Decision, i64)>,
    pub(crate) held: Vec<Decision>,
}

pub(crate) struct Planner<'a> {
    pub(crate) view: View<'a>,
    pub(crate) cursor: Cursor,
    /// By node, which of its resources are out of band.
    pub(crate) out: Vec<[bool; 3]>,
    /// Ranges that this call has decided about.
    decided: BTreeSet<RangeId>,
    /// Whether reasons for not doing something are put in words: that is dear.
    pub(crate) words: bool,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(cluster: &'a Cluster, config: &'a Config, cursor: &Cursor) -> Self {
        let mut planner = Self {
            view: View::new(cluster, config),
            cursor: cursor.clone(),
            out: Vec::new(),
            decided: BTreeSet::new(),
            words: false,
        };
        planner.note_bands();
        planner
    }

    /// Whether something is under way or has been decided for a range.
    pub(crate) fn busy(&self, range: RangeId) -> bool {
        let pending = self.view.pending.contains_key(&range) && !planted_bug!("placement-decides-twice");
        pending || self.decided.contains(&range)
    }

    pub(crate) fn decide(&self, range: &'a Range, right: Option<&'a Range>) -> Verdict {
        let mut verdict = Verdict::default();
        if let Some(action) = self.view.pending.get(&range.id)
            && !planted_bug!("placement-decides-twice")
        {
            if self.words {
                let group = self.view.group(range);
                let action = Box::new((*action).clone());
                verdict.held.push(Self::held(
                    &group,
                    Class::OverReplicated,
                    Reason::Underway { action },
                ));
            }
            return verdict;
        }
        if self.decided.contains(&range.id) || range.span.is_empty() {
            return verdict;
        }
        let group = self.view.group(range);
        let mut idle = true;
        let mut stuck = false;
        let mut waits = false;
        match self.repair(&group) {
            Step::Do(decision, urgency) => {
                // A lease on a node that cannot be relied on is in the way of everything but the gravest.
                let flight = if decision.class > Class::UnderReplicated {
                    self.flee(&group)
                } else {
                    Step::Fine
                };
                verdict.done = Some(match flight {
                    Step::Do(decision, urgency) => (decision, urgency),
                    Step::Wait(_) | Step::Stuck(_) | Step::Fine => (decision, urgency),
                });
                return verdict;
            }
            Step::Wait(held) => {
                idle = false;
                verdict.held.push(held);
            }
            Step::Stuck(held) => {
                stuck = true;
                waits = matches!(held.reason, Reason::Paced { .. });
                verdict.held.push(held);
            }
            Step::Fine => {}
        }
        if !group.has_quorum() {
            return verdict;
        }
        let is_whole = idle && !stuck;
        let stages: [&dyn Fn() -> Step; 7] = [
            &|| self.flee(&group),
            &|| self.prefer(&group),
            &|| if idle { self.split(&group) } else { Step::Fine },
            &|| if is_whole { self.spread(&group) } else { Step::Fine },
            &|| {
                if is_whole {
                    self.colocate(&group)
                } else {
                    Step::Fine
                }
            },
            &|| match right {
                Some(right) if is_whole && self.is_cold(range) && self.is_cold(right) => {
                    self.merge(&group, &self.view.group(right))
                }
                Some(_) | None => Step::Fine,
            },
            &|| {
                if idle && !waits {
                    self.balance(&group, is_whole)
                } else {
                    Step::Fine
                }
            },
        ];
        for stage in stages {
            match stage() {
                Step::Do(decision, urgency) => {
                    verdict.done = Some((decision, urgency));
                    return verdict;
                }
                Step::Wait(held) | Step::Stuck(held) => verdict.held.push(held),
                Step::Fine => {}
            }
        }
        verdict
    }

    /// Takes a decision into account for the rest of the call.
    fn begin(&mut self, range: &Range, decision: &Decision) {
        self.view.account(range, &decision.action);
        self.decided.insert(decision.range);
        if let Action::Merge { right } = decision.action {
            self.decided.insert(right);
        }
        self.cursor.note_step(&decision.reason, self.view.cluster.now_ns);
    }

    /// Whether a voter of the range is on a node that is dead for good.
    fn in_danger(&self, range: &Range) -> bool {
        let gone = |replica: &crate::Replica| {
            let node = self.view.index(replica.place.node);
            node.is_none_or(|node| self.view.health(node) == Health::Gone)
        };
        range.replicas.iter().any(gone)
    }
}

/// Ranges by their first key, as indexes.
fn order(ranges: &[Range], a: usize, b: usize) -> core::cmp::Ordering {
    let key = |at: usize| (&ranges[at].span.start, ranges[at].id);
    // Two of one id and key cannot be; still, the order of the list must not decide between them.
    let whole = |at: usize| {
        let mut range = ranges[at].clone();
        range.replicas.sort();
        range
    };
    key(a).cmp(&key(b)).then_with(|| whole(a).cmp(&whole(b)))
}

/// The first `count` of `indexes` in order.
fn first(ranges: &[Range], mut indexes: Vec<usize>, count: usize) -> Vec<usize> {
    if indexes.len() > count {
        indexes.select_nth_unstable_by(count, |a, b| order(ranges, *a, *b));
        indexes.truncate(count);
    }
    indexes.sort_unstable_by(|a, b| order(ranges, *a, *b));
    indexes
}

/// A range and its right neighbour, as indexes.
type Work = Vec<(usize, Option<usize>)>;

/// What a call examines: the slice behind the cursor, which moves on, and ranges in danger elsewhere.
fn slice(planner: &mut Planner, budget: usize) -> Work {
    let ranges = &planner.view.cluster.ranges;
    let after = planner.cursor.after.take();
    let behind = |at: &usize| {
        after
            .as_ref()
            .is_none_or(|(start, id)| (&ranges[*at].span.start, ranges[*at].id) > (start, *id))
    };
    // One more than the budget: it says whether the round ends, and is the neighbour of the last one.
    let mut slice = first(
        ranges,
        (0..ranges.len()).filter(behind).collect(),
        budget.saturating_add(1),
    );
    let beyond = if slice.len() > budget { slice.pop() } else { None };
    let last = beyond.and(slice.last()).map(|last| &ranges[*last]);
    planner.cursor.after = last.map(|last| (last.span.start.clone(), last.id));

    let neighbour = |at: usize| slice.get(at + 1).copied().or(beyond);
    let mut work: Work = slice
        .iter()
        .enumerate()
        .map(|(at, index)| (*index, neighbour(at)))
        .collect();
    let sliced: BTreeSet<usize> = slice.iter().copied().collect();
    let danger = |at: &usize| !sliced.contains(at) && planner.in_danger(&ranges[*at]);
    let (later, earlier): (Vec<usize>, Vec<usize>) = (0..ranges.len()).filter(danger).partition(behind);
    let mut urgent = first(ranges, later, budget / 4);
    urgent.extend(first(ranges, earlier, budget / 4 - urgent.len()));
    work.extend(urgent.into_iter().map(|at| (at, None)));
    work
}

/// The number of decisions of a call, of either kind.
#[derive(Default)]
struct Used {
    beside: usize,
    others: usize,
}

impl Used {
    fn of(&mut self, class: Class) -> &mut usize {
        if class.is_beside() {
            &mut self.beside
        } else {
            &mut self.others
        }
    }

    fn is_full(&mut self, class: Class, config: &Config) -> bool {
        let max = if class.is_beside() {
            config.splits_max
        } else {
            config.decisions_max
        };
        *self.of(class) >= max
    }
}

/// Examines the next `budget` ranges (at least one) after `cursor`, in key order, and up to a quarter as many ranges in danger
/// wherever they are, and says what to do. The caller carries the steps out, or not; what it begins stands in
/// [`Cluster::pending`] in later calls until it is over.
///
/// Bounds: a light pass over all ranges and pending steps, and some microseconds for each range of the budget; see the figures
/// in `docs/placement.md`.
#[must_use]
pub fn plan(cluster: &Cluster, config: &Config, cursor: &Cursor, budget: usize) -> Plan {
    let ranges = &cluster.ranges;
    let mut planner = Planner::new(cluster, config, cursor);
    let work = slice(&mut planner, budget.max(1));
    let decide = |planner: &Planner, (at, right): (usize, Option<usize>)| {
        planner.decide(&ranges[at], right.map(|right| &ranges[right]))
    };

    // First without regard to each other, to find the order of importance; then in that order, each with what came before.
    let mut found = Vec::new();
    let mut held = Vec::new();
    for (turn, pair) in work.iter().enumerate() {
        let verdict = decide(&planner, *pair);
        if let Some(first) = verdict.held.iter().map(|held| held.class).min() {
            held.push((first, ranges[pair.0].id, turn));
        }
        if let Some((decision, urgency)) = verdict.done {
            found.push((decision.class, urgency, ranges[pair.0].id, turn));
        }
    }
    found.sort_unstable();
    held.sort_unstable();

    planner.words = true;
    let mut used = Used::default();
    let mut decisions: Vec<(Class, i64, Decision)> = Vec::new();
    for (class, _, _, turn) in found {
        if used.is_full(class, config) {
            continue;
        }
        let Some((decision, urgency)) = decide(&planner, work[turn]).done else {
            continue;
        };
        // What came before may have made something else the best step.
        if used.is_full(decision.class, config) || planner.busy(decision.range) {
            continue;
        }
        *used.of(decision.class) += 1;
        let (at, right) = work[turn];
        let of = right
            .filter(|right| ranges[*right].id == decision.range)
            .unwrap_or(at);
        planner.begin(&ranges[of], &decision);
        decisions.push((decision.class, urgency, decision));
    }
    decisions.sort_by_key(|(class, urgency, decision)| (*class, *urgency, decision.range));

    let mut explained = Vec::new();
    for (_, _, turn) in held {
        if explained.len() >= config.held_max {
            break;
        }
        explained.extend(
            decide(&planner, work[turn])
                .held
                .into_iter()
                .min_by_key(|held| held.class),
        );
    }
    Plan {
        decisions: decisions.into_iter().map(|(_, _, decision)| decision).collect(),
        held: explained,
        is_round_end: planner.cursor.after.is_none(),
        cursor: planner.cursor,
        examined: work.len(),
    }
}
