//! Splits by policy, size and load; merges of small cold neighbours.

use crate::candidate::Search;
use crate::cluster::{Kind, LoadSplit, Range, Replaces};
use crate::decision::{Action, Class, Reason, SplitBy};
use crate::group::{Group, Health};
use crate::plan::{Planner, Step};
use base::planted_bug;

impl Planner<'_> {
    pub(crate) fn split(&self, group: &Group) -> Step {
        let range = group.range;
        let split = |key: &[u8], by, reason| {
            let key = key.into();
            Step::calm(Self::decision(
                group,
                Class::Split,
                Action::Split { key, by },
                reason,
            ))
        };
        // A split at the first key would leave an empty left half.
        let inside = |key: &[u8]| range.span.contains(key) && *key > *range.span.start;
        if let Some((key, policy)) = self.view.boundary(range)
            && inside(key)
        {
            let prefix = |policy: usize| self.view.policies[policy].policy.prefix.clone();
            let reason = Reason::PolicyBoundary {
                left: prefix(group.policy),
                right: prefix(policy),
            };
            return split(key, SplitBy::Policy, reason);
        }
        let limit = self.view.policies[group.policy].policy.split_bytes.max(1);
        if range.bytes > limit {
            return match &range.middle {
                Some(key) if inside(key) => split(
                    key,
                    SplitBy::Size,
                    Reason::TooLarge {
                        bytes: range.bytes,
                        limit,
                    },
                ),
                Some(_) | None => {
                    let bytes = range.bytes;
                    Step::Stuck(Self::held(group, Class::Split, Reason::NoMiddle { bytes, limit }))
                }
            };
        }
        let cpu_ns = range.cpu_read_ns.saturating_add(range.cpu_write_ns);
        let hot =
            cpu_ns >= self.view.config.split_cpu_ns || range.requests >= self.view.config.split_requests;
        let since = self.view.cluster.now_ns.saturating_sub(range.split_at_ns);
        if !hot || since < self.view.config.load_split_after_ns {
            return Step::Fine;
        }
        match &range.load_split {
            LoadSplit::At { key, left_permille } if inside(key) => split(
                key,
                SplitBy::Load,
                Reason::TooHot {
                    cpu_ns,
                    requests: range.requests,
                    left_permille: *left_permille,
                },
            ),
            LoadSplit::OneKey { key, permille } => {
                let reason = Reason::OneHotKey {
                    key: key.clone(),
                    permille: *permille,
                };
                Step::Stuck(Self::held(group, Class::Split, reason))
            }
            LoadSplit::At { .. } | LoadSplit::Unknown => Step::Fine,
        }
    }

    /// Whether a range has little to do and little data.
    pub(crate) fn is_cold(&self, range: &Range) -> bool {
        let cpu_ns = range.cpu_read_ns.saturating_add(range.cpu_write_ns);
        let limit = self.view.policies[self.view.policy_of(range)].policy.split_bytes / 3;
        cpu_ns < self.view.config.cold_cpu_ns && range.bytes < limit
    }

    /// Whether a cold range is in a state to be merged, has been cold for long, and was not split lately.
    fn may_merge(&self, group: &Group) -> bool {
        let range = group.range;
        let still_at_ns = range.split_at_ns.max(range.cold_at_ns);
        let since = self.view.cluster.now_ns.saturating_sub(still_at_ns);
        let rested = since >= self.view.config.merge_after_ns || planted_bug!("placement-merges-at-once");
        let sound = |at: usize| group.seats[at].health == Health::Live && group.seats[at].replica.up_to_date;
        rested
            && group.seats.iter().all(|seat| seat.replica.kind == Kind::Voter)
            && group.voters().count() == group.wanted
            && group.voters().all(sound)
            && self.view.boundary(range).is_none()
    }

    /// A merge with the right neighbour, or a step that brings that one's replicas and lease to where this range has its own.
    pub(crate) fn merge(&self, group: &Group, right: &Group) -> Step {
        let (left_range, right_range) = (group.range, right.range);
        let adjacent = left_range.span.end.as_deref() == Some(&*right_range.span.start)
            && left_range.id != right_range.id;
        let bytes = left_range.bytes.saturating_add(right_range.bytes);
        let limit = self.view.policies[group.policy].policy.split_bytes / 3;
        if !adjacent
            || group.policy != right.policy
            || bytes >= limit
            || !self.may_merge(group)
            || !self.may_merge(right)
        {
            return Step::Fine;
        }
        let right_end = right_range.span.end.as_deref();
        if right_end.is_some_and(|end| end <= &*right_range.span.start) || self.busy(right_range.id) {
            return Step::Fine;
        }
        let class = Class::Merge;
        let reason = Reason::LinesUp { left: left_range.id };
        let (ours, theirs) = (group.nodes_without(None), right.nodes_without(None));
        if let Some(foreign) = right
            .voters()
            .find(|at| right.seats[*at].node.is_none_or(|node| !ours.contains(&node)))
        {
            // Where both are must be as good for the right one as where it is.
            let place = |nodes: &[usize]| {
                (
                    self.view.violations(group.policy, nodes),
                    self.view.sharing(nodes),
                )
            };
            if place(&ours) > place(&theirs) {
                return Step::Fine;
            }
            let joins = |node: usize| ours.contains(&node);
            let search = Search {
                class,
                beside: self.view.beside(right, Some(foreign)),
                violations_max: usize::MAX,
                sharing_max: None,
                also: &joins,
            };
            let replaces = Replaces {
                node: right.seats[foreign].place().node,
                because: class,
            };
            return self
                .try_add(right, &search, replaces, reason)
                .unwrap_or(Step::Fine);
        }
        for seat in &right.seats {
            let ours = group
                .seats
                .iter()
                .find(|ours| ours.place().node == seat.place().node);
            if let Some(ours) = ours.filter(|ours| ours.place() != seat.place()) {
                let action = Action::MoveShard {
                    node: seat.place().node,
                    from: seat.place().shard,
                    to: ours.place().shard,
                };
                return Step::calm(Self::decision(right, class, action, reason));
            }
        }
        if group.seats.len() != right.seats.len() {
            return Step::Fine;
        }
        if let Some(holder) = group.holder
            && left_range.leaseholder != right_range.leaseholder
        {
            let to = group.seats[holder].place().node;
            return Step::calm(Self::decision(right, class, Action::TransferLease { to }, reason));
        }
        let action = Action::Merge {
            right: right_range.id,
        };
        Step::calm(Self::decision(
            group,
            class,
            action,
            Reason::Cold { bytes, limit },
        ))
    }
}
