//! What the placer answers to those who say something to it: whether it can be done with the cluster as it is. Pure.

use super::{Overview, voters};
use crate::placer::standing::Standing;
use crate::refusal::Refusal;
use base::NodeId;
use placement::{Action, Constraint, Locality, NodeState, Policy, Range};
use wire::Code;

/// Ranges that a refusal names.
const NAMED_MAX: usize = 5;

impl Overview {
    /// The nodes whose replicas vote in the first range; none as long as its leader has not reported.
    pub(crate) fn first_voters(&self) -> Vec<NodeId> {
        let first = self
            .cluster
            .ranges
            .iter()
            .find(|range| range.span.start.is_empty());
        first.map(voters).unwrap_or_default()
    }

    /// What of a policy cannot be with the nodes that there are, a sentence each.
    pub(crate) fn doubts(&self, policy: &Policy) -> Vec<String> {
        let usable = self
            .nodes
            .iter()
            .filter(|(node, known)| match self.state(**node, known) {
                NodeState::Live | NodeState::Suspect { .. } | NodeState::Draining => true,
                NodeState::Dead { .. } | NodeState::Decommissioning => false,
            });
        let localities: Vec<&Locality> = usable
            .filter_map(|(_, known)| Some(&known.facts.as_ref()?.locality))
            .collect();
        let count =
            |fits: &dyn Fn(&Locality) -> bool| localities.iter().filter(|locality| fits(locality)).count();
        let nodes = |count: usize| match count {
            0 => "no node".to_owned(),
            1 => "one node".to_owned(),
            more => format!("{more} nodes"),
        };
        let satisfy = |count: usize| if count < 2 { "satisfies" } else { "satisfy" };
        let text = |all: &[Constraint]| {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            all.join(",")
        };
        let mut doubts = Vec::new();
        let (counted, each): (Vec<_>, Vec<_>) = policy
            .constraints
            .iter()
            .cloned()
            .partition(|constraint| matches!(constraint, Constraint::Count(..)));
        let wanted = usize::try_from(policy.replicas.max(1)).unwrap_or(usize::MAX);
        let admitted = count(&|locality| each.iter().all(|constraint| constraint.admits(locality)));
        if each.is_empty() && admitted < wanted {
            doubts.push(format!(
                "{wanted} replicas are wished, and the cluster has {}: ranges have no more replicas than that",
                nodes(admitted)
            ));
        } else if admitted == 0 {
            doubts.push(format!(
                "no node satisfies {}: replicas stay where they are until one does (`corelane node ls` lists localities)",
                text(&each)
            ));
        } else if admitted < wanted {
            doubts.push(format!(
                "{wanted} replicas are wished, and only {} {} {}",
                nodes(admitted),
                satisfy(admitted),
                text(&each)
            ));
        }
        for constraint in &counted {
            let Constraint::Count(_, _, least) = constraint else {
                continue;
            };
            let there = count(&|locality| {
                constraint.admits(locality) && each.iter().all(|constraint| constraint.admits(locality))
            });
            if there < usize::try_from(*least).unwrap_or(usize::MAX) {
                doubts.push(format!(
                    "{constraint} cannot be: {} could have such a replica",
                    nodes(there)
                ));
            }
            if *least > policy.replicas {
                doubts.push(format!(
                    "{constraint} cannot be: {wanted} replicas are wished in all"
                ));
            }
        }
        for preference in &policy.lease_preferences {
            if count(&|locality| preference.iter().all(|constraint| constraint.admits(locality))) == 0 {
                doubts.push(format!(
                    "no node satisfies the lease preference {}: it is passed over",
                    text(preference)
                ));
            }
        }
        doubts
    }

    /// Whether a node may be forgotten: it has no replicas, and it is dead or emptied.
    ///
    /// # Errors
    /// Why not, or that it is not known yet.
    pub(crate) fn may_remove(&self, node: NodeId) -> Result<(), Refusal> {
        let invalid = |message: String| Refusal::fatal(Code::InvalidRequest, message);
        let drain = format!("`corelane node drain {}`", node.0);
        // Between two configurations a range has members that its leader does not name.
        let ranges = self.cluster.ranges.iter().zip(&self.claims);
        let led: Vec<&Range> = ranges
            .filter(|(range, claim)| range.leaseholder.is_some() && !claim.joint)
            .map(|(range, _)| range)
            .collect();
        let has = |range: &&&Range| range.replicas.iter().any(|replica| replica.place.node == node);
        let there: Vec<_> = led.iter().filter(has).map(|range| range.id.to_string()).collect();
        if !there.is_empty() {
            let more = there.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let named = there[..there.len().min(NAMED_MAX)].join(", ");
            return Err(invalid(format!(
                "{node} has replicas of {named}{more}: {drain} gives them to other nodes, also when it is dead"
            )));
        }
        if let Some(gap) = gap(&led) {
            let message = format!(
                "no leader has reported yet whether {node} has replicas of the keys from `{}` on",
                gap.escape_ascii()
            );
            return Err(Refusal::retry(Code::Overloaded, 500, message));
        }
        let is_on_its_way =
            |action: &Action| matches!(action, Action::AddLearner { to, .. } if to.node == node);
        if let Some((range, _)) = self.orders.iter().find(|(_, given)| is_on_its_way(&given.action)) {
            let message = format!("{node} may be about to get a replica of {range}");
            return Err(Refusal::retry(Code::Overloaded, 500, message));
        }
        let state = self.nodes.get(&node).map(|known| self.state(node, known));
        match (state, self.standings.of(node)) {
            (_, Standing::Emptied) | (Some(NodeState::Dead { .. }), _) => Ok(()),
            (Some(NodeState::Suspect { .. }) | None, _) => Err(Refusal::retry(
                Code::Overloaded,
                500,
                format!(
                    "{node} does not answer, and is not known to be dead yet; {drain} says that it is to go"
                ),
            )),
            (Some(_), _) => Err(invalid(format!(
                "{node} is live and may get replicas at any time: {drain} says that it is to go"
            ))),
        }
    }
}

/// Where keys begin that none of the ranges has; `None` when they have all keys.
fn gap(ranges: &[&Range]) -> Option<Vec<u8>> {
    let mut spans: Vec<_> = ranges.iter().map(|range| &range.span).collect();
    spans.sort_by(|one, other| one.start.cmp(&other.start));
    let mut covered = Vec::new();
    for span in spans {
        if *span.start > *covered {
            return Some(covered);
        }
        match &span.end {
            None => return None,
            Some(end) if **end > *covered => covered = end.to_vec(),
            Some(_) => {}
        }
    }
    Some(covered)
}
