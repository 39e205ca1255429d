//! Why a range is where it is: what `corelane range explain ID` prints.

use crate::candidate::{Rejection, Search};
use crate::cluster::{Cluster, Kind, NodeState, Place};
use crate::config::Config;
use crate::decision::{Bytes, Class, Decision, Reason, Time};
use crate::group::{Group, Health};
use crate::plan::{Cursor, Planner};
use crate::repair::any;
use base::key::Escaped;
use base::{NodeId, RangeId};
use core::fmt;
use core::fmt::Write as _;

/// Why a range is where it is. Its `Display` has a line for each replica, the lease, each node that was considered, and what
/// comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The range.
    pub range: RangeId,
    /// Its keys, its size and what its policy asks for.
    pub wish: String,
    /// Why each replica is where it is.
    pub replicas: Vec<(Place, Kind, String)>,
    /// Why the lease is where it is, and why it is not elsewhere.
    pub lease: Vec<String>,
    /// Why each other node has no replica.
    pub considered: Vec<(NodeId, String)>,
    /// The next step, and what is wished but cannot be done; or one that says that nothing is.
    pub next: Vec<Decision>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.range, self.wish)?;
        for (place, kind, why) in &self.replicas {
            writeln!(f, "  {place} {kind}: {why}")?;
        }
        for line in &self.lease {
            writeln!(f, "  lease: {line}")?;
        }
        for (node, why) in &self.considered {
            writeln!(f, "  not on {node}: {why}")?;
        }
        for decision in &self.next {
            writeln!(f, "  next: {decision}")?;
        }
        Ok(())
    }
}

/// Nodes that a sentence names; more are counted.
const NAMED_MAX: usize = 12;

impl Planner<'_> {
    fn rejection(&self, group: &Group, node: usize, rejection: Rejection) -> String {
        let seen = &self.view.nodes[node];
        match rejection {
            Rejection::Has => "has a replica already".to_owned(),
            Rejection::State(NodeState::Live) => "is live".to_owned(),
            Rejection::State(NodeState::Suspect { .. }) => "is suspect".to_owned(),
            Rejection::State(NodeState::Dead { .. }) => "is dead".to_owned(),
            Rejection::State(NodeState::Draining) => "is draining".to_owned(),
            Rejection::State(NodeState::Decommissioning) => "is being decommissioned".to_owned(),
            Rejection::Violates => format!("does not satisfy {}", self.broken(group, Some(node))),
            Rejection::Count => "would leave a constraint with too few replicas".to_owned(),
            Rejection::DiskFull => format!("has a disk that is {} % full", seen.node.disk_permille / 10),
            Rejection::NoRoom => format!("has no room for {}", Bytes(group.range.bytes)),
            Rejection::Shares => "would share a failure domain".to_owned(),
            Rejection::Load => "would gain too little".to_owned(),
        }
    }

    /// Why no node is taken in a search, in one sentence.
    pub(crate) fn rejections(&self, group: &Group, search: &Search) -> String {
        let mut reasons: Vec<(String, Vec<NodeId>)> = Vec::new();
        for node in 0..self.view.nodes.len() {
            let Err(rejection) = self.view.fits(group, search, node) else {
                continue;
            };
            let text = self.rejection(group, node, rejection);
            let id = self.view.nodes[node].node.id;
            match reasons.iter_mut().find(|(known, _)| *known == text) {
                Some((_, nodes)) => nodes.push(id),
                None => reasons.push((text, vec![id])),
            }
        }
        if reasons.is_empty() {
            return "there is no node".to_owned();
        }
        let mut out = String::new();
        for (text, nodes) in reasons {
            let separator = if out.is_empty() { "" } else { "; " };
            let named: Vec<String> = nodes.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            let more = nodes.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let text = if nodes.len() > 1 { plural(&text) } else { text };
            let _ = write!(out, "{separator}{}{more} {text}", named.join(", "));
        }
        out
    }

    fn why_replica(&self, group: &Group, at: usize) -> String {
        let seat = &group.seats[at];
        let Some(node) = seat.node else {
            return "its node is not in the cluster".to_owned();
        };
        let mut parts = Vec::new();
        let policy = &self.view.policies[group.policy];
        match self.view.state(node) {
            NodeState::Live => {}
            NodeState::Suspect { since_ns } => {
                let time = Time(self.view.cluster.now_ns.saturating_sub(since_ns));
                parts.push(format!(
                    "its node is suspect since {time}, so it gets no lease; the replica stays"
                ));
            }
            NodeState::Dead { since_ns } => {
                let time = Time(self.view.cluster.now_ns.saturating_sub(since_ns));
                let after = Time(self.view.config.dead_after_ns);
                parts.push(match seat.health {
                    Health::Gone => format!("its node is dead since {time}, so it is replaced"),
                    _ => format!("its node is dead since {time}; it is replaced when that lasts for {after}"),
                });
            }
            NodeState::Draining => {
                parts.push("its node drains, so it gets no lease; the replica stays".to_owned());
            }
            NodeState::Decommissioning => {
                parts.push("its node is being decommissioned, so it is replaced".to_owned());
            }
        }
        if seat.full.is_some() {
            parts.push("the disk of its node is full, so it gets no lease".to_owned());
        }
        if !seat.replica.up_to_date {
            parts.push("it is catching up".to_owned());
        }
        if let Some(replaces) = seat.replica.replaces {
            parts.push(format!("it takes the place of {}", replaces.node));
        }
        if !policy.admits[node] {
            parts.push(format!("it does not satisfy {}", self.broken(group, Some(node))));
        } else if !policy.policy.constraints.is_empty() {
            parts.push("it satisfies the constraints".to_owned());
        }
        let others: Vec<usize> = group.nodes_without(Some(at));
        let depth = others
            .iter()
            .map(|other| self.view.shared(node, *other))
            .max()
            .unwrap_or(0);
        let tiers = &self.view.nodes[node].node.locality.0;
        if depth == 0 {
            parts.push(if tiers.is_empty() {
                "its node names no failure domain".to_owned()
            } else {
                "it shares no failure domain with another replica".to_owned()
            });
        } else {
            let with = others
                .iter()
                .filter(|other| self.view.shared(node, **other) == depth);
            let with: Vec<String> = with
                .map(|other| self.view.nodes[*other].node.id.to_string())
                .collect();
            let domain = tiers
                .get(depth - 1)
                .map(|(name, value)| format!("{name}={value}"));
            parts.push(format!(
                "it shares {} with {}",
                domain.unwrap_or_default(),
                with.join(", ")
            ));
        }
        parts.join("; ")
    }

    fn why_lease(&self, group: &Group) -> Vec<String> {
        let Some(holder) = group.holder else {
            return vec!["nobody is known to have it".to_owned()];
        };
        let seat = &group.seats[holder];
        let preferences = &self.view.policies[group.policy].policy.lease_preferences;
        let rank = self.rank(group, seat.node);
        let name = |rank: usize| match preferences.get(rank) {
            Some(preference) => preference
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
            None => "no preference".to_owned(),
        };
        let why = match (preferences.is_empty(), self.anchor(group)) {
            (_, Some(anchor)) if anchor.node == seat.place().node => {
                format!("its group has its leases on {anchor}")
            }
            (true, _) => "there are no preferences".to_owned(),
            (false, _) => format!("its node satisfies {}", name(rank)),
        };
        let mut lines = vec![format!("on {}: {why}", seat.place().node)];
        for (at, other) in group.seats.iter().enumerate() {
            if at == holder {
                continue;
            }
            let theirs = self.rank(group, other.node);
            let why = if other.replica.kind != Kind::Voter {
                format!("it is a {}", other.replica.kind)
            } else if !other.replica.up_to_date {
                "it is not up to date".to_owned()
            } else if other.health != Health::Live {
                match other.health {
                    Health::Suspect => "its node is suspect",
                    Health::Draining => "its node drains",
                    Health::Leaving => "its node is being decommissioned",
                    Health::Gone | Health::Down | Health::Live => "its node is dead",
                }
                .to_owned()
            } else if other.full.is_some() {
                "the disk of its node is full".to_owned()
            } else if theirs > rank {
                format!("its node satisfies {}, which is less preferred", name(theirs))
            } else if theirs < rank {
                format!(
                    "its node satisfies {}; the lease goes there when it has been still",
                    name(theirs)
                )
            } else {
                "it is as good; the loads do not differ enough".to_owned()
            };
            lines.push(format!("not on {}: {why}", other.place().node));
        }
        lines
    }

    fn why_not(&self, group: &Group, node: usize) -> String {
        if let Err(rejection) = self.view.admissible(group, node) {
            return match self.rejection(group, node, rejection) {
                text if text.starts_with("would") => text,
                text => format!("it {text}"),
            };
        }
        if group.voters().count() < group.wanted {
            return "it could take the voter that is missing".to_owned();
        }
        let nodes = group.nodes_without(None);
        let now = (
            self.view.violations(group.policy, &nodes),
            self.view.sharing(&nodes),
        );
        let swap = |at: usize| {
            let search = Search {
                class: Class::Spread,
                beside: self.view.beside(group, Some(at)),
                violations_max: usize::MAX,
                sharing_max: None,
                also: &any,
            };
            let fit = self.view.fits(group, &search, node).ok()?;
            Some((fit, at))
        };
        let Some(((violations, sharing), at)) = group.voters().filter_map(swap).min() else {
            return "there is no voter whose place it could take".to_owned();
        };
        let place = group.seats[at].place().node;
        if (violations, sharing) < now {
            let later = if self.is_still(group) {
                ""
            } else {
                "; that waits until the range has been still"
            };
            return format!("in place of {place} it would spread better{later}");
        }
        if violations > now.0 {
            return "in place of any voter it would leave a constraint with too few replicas".to_owned();
        }
        if sharing > now.1 {
            let beside = group.nodes_without(Some(at));
            let with = beside.iter().max_by_key(|other| self.view.shared(node, **other));
            let depth = with.map_or(0, |other| self.view.shared(node, *other));
            let domain = depth
                .checked_sub(1)
                .and_then(|last| self.view.nodes[node].node.locality.0.get(last));
            let domain = domain
                .map(|(name, value)| format!("{name}={value}"))
                .unwrap_or_default();
            let with = with
                .map(|other| self.view.nodes[*other].node.id)
                .unwrap_or_default();
            return format!("in place of {place}, the best, it would share {domain} with {with}");
        }
        let percent = |index: usize| {
            let used = self.view.nodes[node].total.used(index, 0) / self.view.mean[index].max(1e-12);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the cast saturates"
            )]
            let percent = (used * 100.0).round() as u32;
            percent
        };
        format!(
            "in place of {place} it would be as good; with {} % of the mean of bytes and {} % of CPU time the gain is too small",
            percent(0),
            percent(1)
        )
    }
}

fn plural(text: &str) -> String {
    let verbs = [("has ", "have "), ("is ", "are "), ("does not ", "do not ")];
    let fits = verbs
        .iter()
        .find_map(|(one, many)| Some(format!("{many}{}", text.strip_prefix(one)?)));
    fits.unwrap_or_else(|| text.to_owned())
}

/// Says why a range is where it is and what will be done next; `None` when there is no such range. `cursor` is that of the last
/// call of [`plan`](crate::plan), or a new one.
#[must_use]
pub fn explain(cluster: &Cluster, config: &Config, cursor: &Cursor, id: RangeId) -> Option<Explanation> {
    let range = cluster.ranges.iter().filter(|range| range.id == id).min()?;
    let mut planner = Planner::new(cluster, config, cursor);
    planner.words = true;
    let group = planner.view.group(range);
    let policy = &planner.view.policies[group.policy].policy;
    let mut wish = format!("{:?}, {}: ", range.span, Bytes(range.bytes));
    if policy.prefix.is_empty() {
        wish.push_str("the default policy");
    } else {
        let _ = write!(wish, "the policy of {}", Escaped(&policy.prefix));
    }
    let _ = write!(wish, " wants {} voters", group.wanted);
    for constraint in &policy.constraints {
        let _ = write!(wish, ", {constraint}");
    }
    if let Some(group) = &policy.group {
        let _ = write!(wish, ", leases with group {group}");
    }
    let why = |at: usize| {
        let seat = &group.seats[at];
        (seat.place(), seat.replica.kind, planner.why_replica(&group, at))
    };
    let replicas = (0..group.seats.len()).map(why).collect();
    let others = (0..planner.view.nodes.len()).filter(|node| !group.is_on(*node));
    let considered = others
        .map(|node| (planner.view.nodes[node].node.id, planner.why_not(&group, node)))
        .collect();
    let follows =
        |other: &&crate::Range| range.span.end.as_deref() == Some(&*other.span.start) && other.id != id;
    let right = cluster.ranges.iter().filter(follows).min();
    let verdict = planner.decide(range, right);
    let mut next: Vec<Decision> = verdict.done.into_iter().map(|(decision, _)| decision).collect();
    next.extend(verdict.held);
    if next.is_empty() {
        next.push(Planner::held(&group, Class::Balance, Reason::NothingWrong));
    }
    Some(Explanation {
        range: id,
        wish,
        replicas,
        lease: planner.why_lease(&group),
        considered,
        next,
    })
}
