//! What the placer knows of the cluster, and what it wants done. Pure: reports and the time come in, orders go out.
//!
//! Invariants:
//! - A node is dead only when neither a report of it came nor the failure detector supports it, and the time counts from when this
//!   placer began, at the earliest.
//! - A range is left alone while an order for it is under way, and while nobody is known to lead it.
//! - An order is over when a report of its node, asked for after it was given, does not show it any more.

use super::book::Book;
use super::ledger::{Led, Word};
use super::policy::Policies;
use super::settings::Placement;
use super::standing::{Standing, Standings};
use crate::gauge::Ailment;
use base::{NodeId, RangeId, ShardId};
use core::time::Duration;
use placement::{
    Action, Class, Cluster, Cursor, DISK_FULL_PERMILLE, Kind, Load, Locality, Node, NodeState, Pending, Place,
};
use placement::{Range, Reason, Replica, Shard};
use std::collections::{BTreeMap, BTreeSet};

/// Ranges that one round examines, beside those in danger: keeps a round below 10 ms.
const BUDGET: usize = 250;
/// Rounds before the first decisions: reports of all nodes have come by then.
const ROUNDS_FIRST: u32 = 3;
/// Ranges of a cluster; what is reported of more is nonsense, and not taken in.
const RANGES_MAX: usize = 1 << 20;
/// What a read and an applied write count as, in nanoseconds of CPU time: nodes do not measure what each range costs.
const READ_NS: u64 = 10_000;
const WRITE_NS: u64 = 20_000;
/// What a shard can take, in nanoseconds of CPU time per second.
const SHARD_NS: u64 = 1_000_000_000;
/// Bytes that a node of unknown disk is taken to have at least.
const CAPACITY_MIN: u64 = 1 << 30;

/// Ranges that nobody leads of which is looked at once whether they were absorbed.
const ABSORBED_MAX: usize = 256;

/// What is to be done with a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Todo {
    /// The replicas shall be on these nodes, ascending.
    Replicas(Vec<NodeId>),
    /// That node shall lead.
    Leader(NodeId),
    /// It shall be split there.
    Split(Box<[u8]>),
    /// It shall absorb this one, its right neighbour.
    Merge(RangeId),
}

/// What the leader of a range is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) number: u64,
    pub(crate) range: RangeId,
    pub(crate) generation: u64,
    /// The nodes whose replicas vote as far as the placer knows, ascending.
    pub(crate) voters: Vec<NodeId>,
    pub(crate) todo: Todo,
}

/// A node, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) locality: Locality,
    pub(crate) shards: u16,
    pub(crate) used_bytes: u64,
    pub(crate) free_bytes: Option<u64>,
    pub(crate) reads: u32,
    pub(crate) writes: u32,
    /// What is wrong with its disk.
    pub(crate) ailing: Ailment,
}

/// A report, or a piece of one.
#[derive(Debug)]
pub(crate) struct Report {
    /// The survey that it answers.
    pub(crate) number: u64,
    pub(crate) session: u64,
    pub(crate) after: u64,
    pub(crate) until: u64,
    pub(crate) last: u64,
    pub(crate) facts: Facts,
    pub(crate) words: Vec<Word>,
}

/// What is known of a node.
#[derive(Debug, Default)]
struct Known {
    /// When it gave a sign of life last, and when a report, in nanoseconds.
    lived_ns: u64,
    heard_ns: u64,
    /// What it reported up to now.
    session: u64,
    until: u64,
    /// The last survey that it answered in full.
    answered: u64,
    facts: Option<Facts>,
    /// Since when its disk is slow, as far as it has said, in nanoseconds.
    slow_ns: Option<u64>,
}

/// What is known of a range beside what the crate wants to know. One for each range of the cluster, in the same order.
#[derive(Debug)]
struct Claim {
    /// Who said that it leads it, last.
    by: NodeId,
    term: u64,
    generation: u64,
    order: u64,
    joint: bool,
    /// Placed by hand, as its leader says.
    pinned: bool,
    /// Until then it counts as placed by hand, in nanoseconds.
    pinned_until_ns: u64,
}

/// An order that may be under way.
#[derive(Debug)]
struct Given {
    number: u64,
    to: NodeId,
    /// The term of the leader that it was given to.
    term: u64,
    /// The last survey before it.
    survey: u64,
    since_ns: u64,
    action: Action,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Overview {
    settings: Placement,
    term: u64,
    began_ns: u64,
    nodes: BTreeMap<NodeId, Known>,
    cluster: Cluster,
    claims: Vec<Claim>,
    /// Where a range stands in both.
    at: BTreeMap<RangeId, usize>,
    cursor: Cursor,
    orders: BTreeMap<RangeId, Given>,
    /// Stands for the words that are heeded.
    words: u64,
    standings: Standings,
    survey: u64,
    order_last: u64,
    /// Whether ranges may be merged yet.
    may_merge: bool,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Where a node's replicas are: the node chooses the shard by itself.
fn place_on(node: NodeId) -> Place {
    Place::new(node, ShardId(0))
}

fn voters(range: &Range) -> Vec<NodeId> {
    let votes = |replica: &&Replica| replica.kind == Kind::Voter;
    let mut nodes: Vec<_> = range
        .replicas
        .iter()
        .filter(votes)
        .map(|replica| replica.place.node)
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

impl Overview {
    /// One that knows nothing yet. `term` is the one in which this node leads the first range.
    pub(crate) fn new(settings: Placement, term: u64, now_ns: u64) -> Self {
        let policies = Policies::default().resolve(&settings);
        Self {
            settings,
            term,
            began_ns: now_ns,
            nodes: BTreeMap::new(),
            cluster: Cluster {
                policies,
                ..Cluster::default()
            },
            claims: Vec::new(),
            at: BTreeMap::new(),
            cursor: Cursor::default(),
            orders: BTreeMap::new(),
            words: 0,
            standings: Standings::default(),
            survey: 0,
            order_last: 0,
            may_merge: false,
        }
    }

    /// The term in which this placer's node leads the first range.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Numbers another survey.
    pub(crate) fn begin_survey(&mut self) -> u64 {
        self.survey += 1;
        self.survey
    }

    /// The session and the last change of what a node has reported, to be sent with a survey.
    pub(crate) fn known_of(&self, node: NodeId) -> (u64, u64) {
        self.nodes
            .get(&node)
            .map_or((0, 0), |known| (known.session, known.until))
    }

    /// The cluster has this node; `lives` says whether it gives a sign of life now.
    pub(crate) fn meet(&mut self, node: NodeId, lives: bool, now_ns: u64) {
        let began_ns = self.began_ns;
        let known = self.nodes.entry(node).or_insert_with(|| Known {
            lived_ns: began_ns,
            heard_ns: began_ns,
            ..Known::default()
        });
        if lives {
            known.lived_ns = now_ns;
        }
    }

    /// Takes a report. Whether the node has more to say.
    pub(crate) fn hear(&mut self, node: NodeId, now_ns: u64, report: Report) -> bool {
        if report.number == 0 || report.number > self.survey {
            return false;
        }
        let Some(known) = self.nodes.get_mut(&node) else {
            return false;
        };
        (known.lived_ns, known.heard_ns) = (now_ns, now_ns);
        known.slow_ns = (report.facts.ailing == Ailment::Slow).then(|| known.slow_ns.unwrap_or(now_ns));
        known.facts = Some(report.facts);
        if report.after > 0 && (report.session, report.after) != (known.session, known.until) {
            // A copy of one that came already, or one that was overtaken.
            return false;
        }
        (known.session, known.until) = (report.session, report.until);
        let is_whole = report.until >= report.last;
        if is_whole {
            known.answered = known.answered.max(report.number);
        }
        if report.after == 0 {
            for (range, claim) in self.cluster.ranges.iter_mut().zip(&self.claims) {
                if claim.by == node {
                    range.leaseholder = None;
                }
            }
        }
        for word in report.words {
            self.note(node, now_ns, word);
        }
        !is_whole
    }

    fn note(&mut self, node: NodeId, now_ns: u64, word: Word) {
        let pinned_until_ns = now_ns.saturating_add(nanos(self.settings.pinned_for));
        let Some(led) = word.led else {
            if let Some(&at) = self.at.get(&word.range) {
                let (range, claim) = (&mut self.cluster.ranges[at], &mut self.claims[at]);
                if claim.by == node {
                    range.leaseholder = None;
                }
                if word.pinned && claim.pinned_until_ns <= now_ns {
                    claim.pinned_until_ns = pinned_until_ns;
                }
            }
            return;
        };
        if self.at.len() >= RANGES_MAX && !self.at.contains_key(&word.range) {
            return;
        }
        let at = *self.at.entry(word.range).or_insert_with(|| {
            self.claims.push(Claim {
                by: node,
                term: 0,
                generation: 0,
                order: 0,
                joint: false,
                pinned: false,
                pinned_until_ns: 0,
            });
            self.cluster.ranges.push(Range {
                id: word.range,
                span: led.span.clone(),
                changed_at_ns: now_ns,
                split_at_ns: now_ns,
                cold_at_ns: now_ns,
                leased_at_ns: now_ns,
                ..Range::default()
            });
            self.claims.len() - 1
        });
        let (range, claim) = (&mut self.cluster.ranges[at], &mut self.claims[at]);
        if (led.term, led.generation) < (claim.term, claim.generation) {
            // It does not know yet that somebody else leads.
            return;
        }
        if word.pinned && claim.pinned_until_ns <= now_ns {
            claim.pinned_until_ns = pinned_until_ns;
        }
        (claim.by, claim.term, claim.generation) = (node, led.term, led.generation);
        (claim.order, claim.joint, claim.pinned) = (led.order, led.joint, word.pinned);
        let was_cold = is_cold(range, &self.settings);
        take(range, node, now_ns, led);
        if !was_cold {
            range.cold_at_ns = now_ns;
        }
    }

    /// Heeds what was said of nodes and keys; `words` stands for it.
    pub(crate) fn heed(&mut self, words: u64, book: &Book) {
        if core::mem::replace(&mut self.words, words) != words {
            self.standings.clone_from(&book.standings);
            self.cluster.policies = book.policies.resolve(&self.settings);
        }
    }

    /// Forgets nodes that are not of the cluster.
    pub(crate) fn keep(&mut self, is_known: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|node, _| is_known(*node));
    }

    /// How a node is: as long as it is not heard of it is suspect, and then dead.
    fn state(&self, node: NodeId, known: &Known) -> NodeState {
        let standing = self.standings.of(node);
        let silent_ns = |since_ns: u64| self.cluster.now_ns.saturating_sub(since_ns);
        if silent_ns(known.lived_ns) >= self.settings.dead_ns() {
            // Nobody waits for one that is to go.
            let is_leaving = standing == Standing::Emptied;
            let since_ns = if is_leaving { 0 } else { known.lived_ns };
            return NodeState::Dead { since_ns };
        }
        if known.facts.is_none() || silent_ns(known.heard_ns) >= self.settings.suspect_ns() {
            return NodeState::Suspect {
                since_ns: known.heard_ns,
            };
        }
        match (standing, known.slow_ns) {
            // It is not relied on: it leads nothing, gets nothing, and keeps what it has.
            (Standing::Used, Some(since_ns)) => NodeState::Suspect { since_ns },
            (Standing::Used, None) => NodeState::Live,
            (Standing::Drained, _) => NodeState::Draining,
            // One that was removed is not met any more.
            (Standing::Emptied | Standing::Removed, _) => NodeState::Decommissioning,
        }
    }

    fn count_nodes(&mut self) {
        let used = self.nodes.values().filter_map(|known| known.facts.as_ref());
        let used_max = used.map(|facts| facts.used_bytes).max().unwrap_or_default();
        let mut leases: BTreeMap<NodeId, u64> = BTreeMap::new();
        for range in &self.cluster.ranges {
            if let Some(holder) = range.leaseholder {
                *leases.entry(holder).or_default() += 1;
            }
        }
        let node = |(id, known): (&NodeId, &Known)| {
            let facts = known.facts.clone().unwrap_or_default();
            let capacity = match facts.free_bytes {
                Some(free) => facts.used_bytes.saturating_add(free),
                None => used_max.saturating_mul(8).max(CAPACITY_MIN),
            };
            let used_permille = facts.free_bytes.map_or(0, |free| {
                let all = u128::from(facts.used_bytes) + u128::from(free);
                u32::try_from(u128::from(facts.used_bytes) * 1000 / all.max(1)).unwrap_or(1000)
            });
            // The node knows what it keeps free. Short of that its disk is not full, whatever part of it that is.
            let disk_permille = match facts.ailing {
                Ailment::Full => DISK_FULL_PERMILLE,
                Ailment::None | Ailment::Slow => used_permille.min(DISK_FULL_PERMILLE - 1),
            };
            let cpu_ns = u64::from(facts.reads) * READ_NS + u64::from(facts.writes) * WRITE_NS;
            let shard = Shard {
                id: place_on(*id).shard,
                capacity: Load {
                    bytes: capacity,
                    cpu_ns: u64::from(facts.shards.max(1)) * SHARD_NS,
                    leases: 0,
                },
                load: Load {
                    bytes: facts.used_bytes,
                    cpu_ns,
                    leases: leases.get(id).copied().unwrap_or_default(),
                },
            };
            Node {
                id: *id,
                state: self.state(*id, known),
                locality: facts.locality,
                disk_permille,
                shards: vec![shard],
            }
        };
        self.cluster.nodes = self.nodes.iter().map(node).collect();
    }

    /// Forgets ranges that nobody leads and whose keys another one has: it has absorbed them.
    fn forget_absorbed(&mut self) {
        let (ranges, claims) = (&self.cluster.ranges, &self.claims);
        let is_absorbed = |at: &usize| {
            let (own, generation) = (&ranges[*at].span, claims[*at].generation);
            let covers = |(other, claim): (&Range, &Claim)| {
                let common = other.span.intersect(&own.start, own.end.as_deref());
                claim.generation > generation && common.as_ref() == Some(own)
            };
            ranges.iter().zip(claims).any(covers)
        };
        let led_by_nobody = (0..ranges.len()).filter(|at| ranges[*at].leaseholder.is_none());
        let absorbed: Vec<usize> = led_by_nobody
            .take(ABSORBED_MAX)
            .filter(|at| is_absorbed(at))
            .collect();
        // From the back, so that what takes the place of one stays.
        for at in absorbed.into_iter().rev() {
            base::sometimes!("node: the placer forgets a range that was absorbed");
            let range = self.cluster.ranges.swap_remove(at);
            self.claims.swap_remove(at);
            self.at.remove(&range.id);
            if let Some(moved) = self.cluster.ranges.get(at) {
                self.at.insert(moved.id, at);
            }
        }
    }

    /// Forgets orders that are over, or of which nothing can come.
    fn end_orders(&mut self) {
        let now_ns = self.cluster.now_ns;
        let stuck_ns = self.settings.plan.learner_stuck_after_ns;
        let is_dead = |node: NodeId| {
            let node = self.cluster.nodes.iter().find(|known| known.id == node);
            node.is_none_or(|node| matches!(node.state, NodeState::Dead { .. }))
        };
        let (ranges, claims, at, nodes) = (&self.cluster.ranges, &self.claims, &self.at, &self.nodes);
        self.orders.retain(|range, given| {
            let Some(&at) = at.get(range) else {
                return false;
            };
            let claim = &claims[at];
            let leads = ranges[at].leaseholder == Some(given.to) && claim.term == given.term;
            let answered = nodes
                .get(&given.to)
                .is_some_and(|known| known.answered > given.survey);
            let shows = claim.order == given.number || base::planted_bug!("node-placer-waits-for-ever");
            let in_vain = match &given.action {
                Action::AddLearner { to, .. } => is_dead(to.node),
                _ => false,
            };
            base::sometimes!("node: an order was given up", in_vain);
            let late = now_ns.saturating_sub(given.since_ns) > stuck_ns;
            leads && (!answered || shows) && !in_vain && !late
        });
    }

    fn pending(&self) -> Vec<Pending> {
        let orders = self.orders.iter().map(|(range, given)| Pending {
            range: *range,
            action: given.action.clone(),
        });
        // Without a leader, or between two configurations, nothing can be done.
        let idle = self
            .cluster
            .ranges
            .iter()
            .zip(&self.claims)
            .filter_map(|(range, claim)| {
                let is_idle = range.leaseholder.is_none() || claim.joint;
                (is_idle && !self.orders.contains_key(&range.id)).then_some(Pending {
                    range: range.id,
                    action: Action::Nothing,
                })
            });
        orders.chain(idle).collect()
    }

    fn look(&mut self, now_ns: u64) {
        self.cluster.now_ns = now_ns;
        self.forget_absorbed();
        self.count_nodes();
        self.end_orders();
        self.cluster.pending = self.pending();
    }

    /// Says whether all nodes know what a merge is.
    pub(crate) fn permit_merges(&mut self, may_merge: bool) {
        self.may_merge = may_merge;
    }

    /// What is to be done now, each with the node that is told.
    pub(crate) fn plan(&mut self, now_ns: u64) -> Vec<(NodeId, Order)> {
        self.look(now_ns);
        let first_ns = nanos(self.settings.interval * ROUNDS_FIRST);
        if now_ns.saturating_sub(self.began_ns) < first_ns {
            return Vec::new();
        }
        let plan = placement::plan(&self.cluster, &self.settings.plan, &self.cursor, BUDGET);
        self.cursor = plan.cursor;
        let mut given = Vec::new();
        for decision in plan.decisions {
            let Some(&at) = self.at.get(&decision.range) else {
                continue;
            };
            let (range, claim) = (&self.cluster.ranges[at], &self.claims[at]);
            let is_pinned = claim.pinned || now_ns < claim.pinned_until_ns;
            base::sometimes!("node: a range that was placed by hand is left alone", is_pinned);
            if is_pinned && decision.class > Class::Quorum {
                continue;
            }
            let (Some(todo), Some(to)) = (todo(range, &decision.action, &decision.reason), range.leaseholder)
            else {
                continue;
            };
            if matches!(todo, Todo::Merge(_)) && !self.may_merge {
                base::sometimes!("node: the placer orders no merge before all nodes know them");
                continue;
            }
            self.order_last += 1;
            let number = self.order_last;
            let action = match decision.action {
                // Whoever leads sends the state.
                Action::AddLearner { to, replaces, .. } => Action::AddLearner {
                    to,
                    replaces,
                    source: range.leaseholder.unwrap_or(to.node),
                },
                other => other,
            };
            self.orders.insert(
                range.id,
                Given {
                    number,
                    to,
                    term: claim.term,
                    survey: self.survey,
                    since_ns: now_ns,
                    action,
                },
            );
            let order = Order {
                number,
                range: range.id,
                generation: claim.generation,
                voters: voters(range),
                todo,
            };
            given.push((to, order));
        }
        given
    }

    /// Why a range is where it is, in sentences; `None` when it is not known.
    pub(crate) fn explain(&mut self, range: RangeId, now_ns: u64) -> Option<String> {
        use core::fmt::Write as _;
        self.look(now_ns);
        let &at = self.at.get(&range)?;
        let explained = placement::explain(&self.cluster, &self.settings.plan, &self.cursor, range)?;
        let mut text = explained.to_string();
        let (seen, claim) = (&self.cluster.ranges[at], &self.claims[at]);
        let mut say = |line: &str| {
            // A string takes everything.
            let _ = writeln!(text, "  {line}");
        };
        if seen.leaseholder.is_none() {
            say("nobody is known to lead it: nothing is done until somebody does");
        }
        if claim.pinned || now_ns < claim.pinned_until_ns {
            let left = claim.pinned_until_ns.saturating_sub(now_ns) / 1_000_000_000;
            say(&format!(
                "it was placed by hand: only a dead node's replica is replaced for the next {left} s"
            ));
        }
        if now_ns.saturating_sub(self.began_ns) < self.settings.plan.loaded_after_ns {
            let since = now_ns.saturating_sub(self.began_ns) / 1_000_000_000;
            say(&format!(
                "this node looks after the cluster since {since} s only: times count from there"
            ));
        }
        Some(text)
    }
}

/// Whether a range has little to do.
fn is_cold(range: &Range, settings: &Placement) -> bool {
    range.cpu_read_ns.saturating_add(range.cpu_write_ns) < settings.plan.cold_cpu_ns
}

/// Takes over what the leader of a range says.
fn take(range: &mut Range, node: NodeId, now_ns: u64, led: Led) {
    let kinds = |range: &Range| -> BTreeSet<(NodeId, Kind)> {
        let one = |replica: &Replica| (replica.place.node, replica.kind);
        range.replicas.iter().map(one).collect()
    };
    let before = kinds(range);
    let replicas = led.replicas.iter().map(|seen| Replica {
        place: place_on(seen.node),
        kind: if seen.votes { Kind::Voter } else { Kind::Learner },
        up_to_date: seen.up_to_date,
        replaces: None,
        source: (!seen.up_to_date).then_some(node),
    });
    range.replicas = replicas.collect();
    if !before.is_empty() && before != kinds(range) {
        range.changed_at_ns = now_ns;
    }
    if range.leaseholder != Some(node) {
        range.leased_at_ns = now_ns;
        range.leaseholder = Some(node);
    }
    if range.span != led.span {
        range.split_at_ns = now_ns;
        range.span = led.span;
    }
    range.bytes = led.bytes;
    range.cpu_read_ns = u64::from(led.reads) * READ_NS;
    range.cpu_write_ns = u64::from(led.writes) * WRITE_NS;
    range.requests = u64::from(led.reads) + u64::from(led.writes);
    range.middle = led.middle;
    range.load_split = led.hot;
}

/// What a decision means for a node: it takes the steps from one set of nodes to another by itself.
fn todo(range: &Range, action: &Action, reason: &Reason) -> Option<Todo> {
    let mut nodes = voters(range);
    let mut change = |add: Option<NodeId>, drop: Option<NodeId>| {
        nodes.retain(|node| Some(*node) != drop);
        nodes.extend(add);
        nodes.sort_unstable();
        nodes.dedup();
        (!nodes.is_empty()).then(|| Todo::Replicas(nodes.clone()))
    };
    match action {
        Action::AddLearner { to, replaces, .. } => {
            change(Some(to.node), replaces.map(|replaces| replaces.node))
        }
        Action::Promote { at } => {
            // It was to take somebody's place.
            let gone = match reason {
                Reason::NodeDead { node, .. }
                | Reason::NodeUnknown { node }
                | Reason::NodeLeaving { node } => Some(*node),
                _ => None,
            };
            change(Some(at.node), gone)
        }
        Action::Demote { at } | Action::Remove { at } => change(None, Some(at.node)),
        Action::TransferLease { to } => Some(Todo::Leader(*to)),
        Action::Split { key, .. } => Some(Todo::Split(key.clone())),
        Action::Merge { right } => Some(Todo::Merge(*right)),
        // Nodes choose the shard by themselves.
        Action::MoveShard { .. } | Action::Nothing => None,
    }
}

#[path = "advice.rs"]
mod advice;

#[cfg(test)]
#[path = "overview_tests.rs"]
mod tests;
