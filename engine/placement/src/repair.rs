//! Replicas: enough of them, where they may be, and none on nodes that go.

use crate::candidate::{NoPick, Pick, Search};
use crate::cluster::{Kind, Replaces};
use crate::decision::{Action, Class, Decision, Reason};
use crate::group::{Group, Health};
use crate::plan::{Planner, Step};
use base::planted_bug;

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Takes any node.
pub(crate) fn any(_: usize) -> bool {
    true
}

impl Planner<'_> {
    pub(crate) fn decision(group: &Group, class: Class, action: Action, reason: Reason) -> Decision {
        Decision {
            range: group.range.id,
            class,
            action,
            reason,
        }
    }

    pub(crate) fn held(group: &Group, class: Class, reason: Reason) -> Decision {
        Self::decision(group, class, Action::Nothing, reason)
    }

    /// The membership step that the range needs most.
    pub(crate) fn repair(&self, group: &Group) -> Step {
        if !group.has_quorum() {
            let reason = Reason::NoQuorum {
                live: count(group.live_voters()),
                voters: count(group.voters().count()),
            };
            return Step::Wait(Self::held(group, Class::Quorum, reason));
        }
        let surplus = group.voters().count() > group.wanted;
        let steps = [
            self.two_on_one_node(group),
            self.lost_learner(group),
            if surplus {
                self.too_many(group)
            } else {
                self.too_few(group)
            },
        ];
        let mut stuck = Step::Fine;
        for step in steps {
            match step {
                Step::Do(..) | Step::Wait(_) => return step,
                Step::Stuck(_) => stuck = stuck.or(step),
                Step::Fine => {}
            }
        }
        if group.voters().count() != group.wanted {
            return stuck;
        }
        for step in [self.learners(group), self.constraints(group), self.leaving(group)] {
            match step {
                Step::Do(..) | Step::Wait(_) => return step,
                Step::Stuck(_) => stuck = stuck.or(step),
                Step::Fine => {}
            }
        }
        stuck
    }

    fn two_on_one_node(&self, group: &Group) -> Step {
        let twin = |pair: &&[crate::group::Seat]| pair[0].place().node == pair[1].place().node;
        let Some(first) = group.seats.windows(2).position(|pair| twin(&pair)) else {
            return Step::Fine;
        };
        // The one that is worth less goes: a learner before a voter, one that lags before one that does not.
        let worth = |at: &usize| (group.seats[*at].votes(), group.seats[*at].replica.up_to_date);
        let at = [first + 1, first].into_iter().min_by_key(worth).unwrap_or(first);
        let reason = Reason::TwoOnOneNode {
            node: group.seats[at].place().node,
        };
        let place = group.seats[at].place();
        if group.seats[at].votes() && !group.is_safe(Some(at), None) {
            return Step::Stuck(Self::held(
                group,
                Class::Constraint,
                Reason::Unsafe {
                    wish: Box::new(reason),
                },
            ));
        }
        Step::urgent(
            group,
            Self::decision(group, Class::Constraint, Action::Remove { at: place }, reason),
        )
    }

    /// Learners on nodes that cannot be used any more.
    fn lost_learner(&self, group: &Group) -> Step {
        let lost = |seat: &&crate::group::Seat| {
            seat.replica.kind == Kind::Learner
                && matches!(seat.health, Health::Gone | Health::Down | Health::Leaving)
        };
        let Some(seat) = group.seats.iter().find(lost) else {
            return Step::Fine;
        };
        let node = seat.place().node;
        let (class, reason) = match (seat.replica.replaces, seat.health) {
            // What is left of a replica that was demoted.
            (None, Health::Leaving) => (Class::Leaving, Reason::NodeLeaving { node }),
            (None, _) => (Class::OverReplicated, Reason::LearnerLost { node }),
            (Some(replaces), _) => (replaces.because, Reason::LearnerLost { node }),
        };
        Step::urgent(
            group,
            Self::decision(group, class, Action::Remove { at: seat.place() }, reason),
        )
    }

    /// Which voters to do without first.
    fn surplus(&self, group: &Group) -> Vec<usize> {
        let replaced: Vec<Replaces> = group
            .seats
            .iter()
            .filter_map(|seat| seat.replica.replaces)
            .collect();
        let order = |at: &usize| {
            let seat = &group.seats[*at];
            let rest = group.nodes_without(Some(*at));
            let replaced = replaced
                .iter()
                .find(|replaces| replaces.node == seat.place().node);
            let chosen = matches!(
                replaced.map(|replaces| replaces.because),
                Some(Class::Balance | Class::Colocation | Class::Merge)
            );
            let burden = seat
                .node
                .map(|node| self.view.burden(&self.view.nodes[node].total, &[0; 3]));
            let dead = match seat.health {
                Health::Gone => 0,
                Health::Down => 1,
                Health::Leaving | Health::Draining | Health::Suspect | Health::Live => 2,
            };
            (
                (dead, seat.health != Health::Leaving),
                (
                    self.view.violations(group.policy, &rest),
                    !chosen,
                    self.view.sharing(&rest),
                ),
                (
                    replaced.is_none(),
                    seat.replica.up_to_date,
                    group.holder == Some(*at),
                ),
                (core::cmp::Reverse(burden), core::cmp::Reverse(seat.place())),
            )
        };
        let mut voters: Vec<usize> = group.voters().collect();
        voters.sort_by_cached_key(order);
        voters
    }

    fn too_many(&self, group: &Group) -> Step {
        let have = Reason::TooManyVoters {
            have: count(group.voters().count()),
            want: count(group.wanted),
        };
        let mut none = None;
        for at in self.surplus(group) {
            // It is not known to be lost; what is known to be there is enough to do without later.
            if group.seats[at].health == Health::Suspect {
                continue;
            }
            let seat = &group.seats[at];
            let node = seat.place().node;
            let replaced = group.seats.iter().filter_map(|seat| seat.replica.replaces);
            let replaced = replaced
                .filter(|replaces| replaces.node == node)
                .map(|replaces| replaces.because)
                .min();
            let (class, reason) = match (seat.health, replaced) {
                (Health::Gone | Health::Down, _) => (Class::Quorum, self.why_gone(group, at)),
                (Health::Leaving, _) => (Class::Leaving, Reason::NodeLeaving { node }),
                (_, Some(because)) => (because, Reason::IsReplaced { node }),
                (_, None) => (Class::OverReplicated, have.clone()),
            };
            if !group.is_safe(Some(at), None) {
                let wish = Box::new(reason);
                none = none.or(Some(Self::held(group, class, Reason::Unsafe { wish })));
                continue;
            }
            if group.holder == Some(at) && !matches!(seat.health, Health::Gone | Health::Down) {
                let first = Reason::LeaseFirst { node };
                let Some(to) = self.lease_target(group, Some(at)) else {
                    none = none.or(Some(Self::held(
                        group,
                        class,
                        Reason::NoLeaseTarget {
                            wish: Box::new(first),
                        },
                    )));
                    continue;
                };
                return Step::urgent(
                    group,
                    Self::decision(group, class, Action::TransferLease { to }, first),
                );
            }
            // A voter that answers becomes a learner first: until it is gone it can come back without a state transfer.
            let gentle = seat.live() && seat.replica.kind == Kind::Voter;
            let at = seat.place();
            let action = if gentle {
                Action::Demote { at }
            } else {
                Action::Remove { at }
            };
            return Step::urgent(group, Self::decision(group, class, action, reason));
        }
        none.map_or(Step::Fine, Step::Stuck)
    }

    fn why_gone(&self, group: &Group, at: usize) -> Reason {
        let node = group.seats[at].place().node;
        match group.seats[at].node.map(|node| self.view.state(node)) {
            Some(crate::NodeState::Dead { since_ns }) => Reason::NodeDead {
                node,
                for_ns: self.view.cluster.now_ns.saturating_sub(since_ns),
            },
            Some(_) | None => Reason::NodeUnknown { node },
        }
    }

    fn too_few(&self, group: &Group) -> Step {
        let gone = group.voters().find(|at| group.seats[*at].health == Health::Gone);
        let have = group.voters().count();
        let (class, reason, replaces) = match gone {
            Some(at) => {
                let node = group.seats[at].place().node;
                let because = Class::Quorum;
                (
                    because,
                    self.why_gone(group, at),
                    Some(Replaces { node, because }),
                )
            }
            None if have < group.wanted => {
                let want = count(group.wanted);
                (
                    Class::UnderReplicated,
                    Reason::TooFewVoters {
                        have: count(have),
                        want,
                    },
                    None,
                )
            }
            None => return Step::Fine,
        };
        // A learner that is there already is the cheaper way.
        let learner = |at: &usize| group.seats[*at].replica.kind == Kind::Learner;
        let best = |at: &usize| (!group.seats[*at].replica.up_to_date, *at);
        if let Some(at) = (0..group.seats.len()).filter(learner).min_by_key(best) {
            return self.advance(group, at, class, reason);
        }
        let search = Search {
            class,
            beside: self.view.beside(group, gone),
            violations_max: usize::MAX,
            sharing_max: None,
            also: &any,
        };
        self.add(group, &search, replaces, reason)
    }

    /// A learner that is wished to be a voter.
    fn advance(&self, group: &Group, at: usize, class: Class, wish: Reason) -> Step {
        let seat = &group.seats[at];
        let node = seat.place().node;
        let ready = seat.replica.up_to_date || planted_bug!("placement-promotes-early");
        if ready && seat.health != Health::Suspect {
            if !group.is_safe(None, Some(at)) && !planted_bug!("placement-promotes-early") {
                return Step::Wait(Self::held(group, class, Reason::Unsafe { wish: Box::new(wish) }));
            }
            return Step::urgent(
                group,
                Self::decision(group, class, Action::Promote { at: seat.place() }, wish),
            );
        }
        let since = self.view.cluster.now_ns.saturating_sub(group.range.changed_at_ns);
        if since >= self.view.config.learner_stuck_after_ns {
            let reason = Reason::LearnerStuck { node };
            return Step::urgent(
                group,
                Self::decision(group, class, Action::Remove { at: seat.place() }, reason),
            );
        }
        Step::Wait(Self::held(group, class, Reason::CatchingUp { node }))
    }

    pub(crate) fn add(
        &self,
        group: &Group,
        search: &Search,
        replaces: Option<Replaces>,
        wish: Reason,
    ) -> Step {
        match self.view.pick(group, search) {
            Ok(Pick { to, source, .. }) => {
                let action = Action::AddLearner { to, replaces, source };
                Step::urgent(group, Self::decision(group, search.class, action, wish))
            }
            Err(NoPick::Paced) => Step::Stuck(Self::held(
                group,
                search.class,
                Reason::Paced { wish: Box::new(wish) },
            )),
            Err(NoPick::None) => {
                let because = if self.words {
                    self.rejections(group, search).into()
                } else {
                    Box::default()
                };
                Step::Stuck(Self::held(
                    group,
                    search.class,
                    Reason::NoNode {
                        wish: Box::new(wish),
                        because,
                    },
                ))
            }
        }
    }

    /// A new replica for a wish that can wait: nothing when no node takes it now.
    pub(crate) fn try_add(
        &self,
        group: &Group,
        search: &Search,
        replaces: Replaces,
        wish: Reason,
    ) -> Option<Step> {
        let Pick { to, source, .. } = self.view.pick(group, search).ok()?;
        let replaces = Some(replaces);
        let action = Action::AddLearner { to, replaces, source };
        Some(Step::urgent(
            group,
            Self::decision(group, search.class, action, wish),
        ))
    }

    /// Learners of a range that has as many voters as wished, all of them not dead for long.
    fn learners(&self, group: &Group) -> Step {
        let mut learners = group.seats.iter().enumerate();
        let Some((at, seat)) = learners.find(|(_, seat)| seat.replica.kind == Kind::Learner) else {
            return Step::Fine;
        };
        let remove = |class, reason| {
            Step::urgent(
                group,
                Self::decision(group, class, Action::Remove { at: seat.place() }, reason),
            )
        };
        let old = seat.replica.replaces.and_then(|replaces| {
            let old = group
                .seats
                .iter()
                .find(|old| old.votes() && old.place().node == replaces.node)?;
            Some((replaces, old))
        });
        let Some((replaces, old)) = old else {
            return remove(Class::OverReplicated, Reason::LearnerUnneeded);
        };
        let mended = matches!(
            replaces.because,
            Class::Quorum | Class::UnderReplicated | Class::Leaving
        );
        if mended && old.can_lead() {
            // Doing without the learner costs one step and no transfer; going on would cost three.
            return remove(replaces.because, Reason::NodeReturned { node: replaces.node });
        }
        let misplaced = seat
            .node
            .is_none_or(|node| !self.view.policies[group.policy].admits[node]);
        if misplaced {
            return remove(Class::OverReplicated, Reason::LearnerUnneeded);
        }
        let reason = match replaces.because {
            Class::Leaving => Reason::NodeLeaving { node: replaces.node },
            _ => Reason::TakesOver { node: replaces.node },
        };
        self.advance(group, at, replaces.because, reason)
    }

    /// A voter that must not be where it is, or one too few where some must be.
    fn constraints(&self, group: &Group) -> Step {
        let now = self.view.violations(group.policy, &group.nodes_without(None));
        if now == 0 {
            return Step::Fine;
        }
        let mut best: Option<(usize, crate::view::Sharing, usize, Step)> = None;
        let mut none = Step::Fine;
        for at in group.voters() {
            let search = Search {
                class: Class::Constraint,
                beside: self.view.beside(group, Some(at)),
                violations_max: now - 1,
                sharing_max: None,
                also: &any,
            };
            let node = group.seats[at].place().node;
            let wish = Reason::Violates {
                node,
                constraint: self.broken(group, group.seats[at].node),
            };
            let because = Class::Constraint;
            let rank = match self.view.pick(group, &search) {
                Ok(Pick {
                    violations, sharing, ..
                }) => Some((violations, sharing, at)),
                Err(_) => None,
            };
            let violates = group.seats[at]
                .node
                .is_some_and(|node| !self.view.policies[group.policy].admits[node]);
            let step = self.add(group, &search, Some(Replaces { node, because }), wish);
            match rank {
                Some(rank) if best.as_ref().is_none_or(|(v, s, a, _)| rank < (*v, *s, *a)) => {
                    best = Some((rank.0, rank.1, rank.2, step));
                }
                Some(_) => {}
                // The sentence that says most is that of a voter which is where it must not be.
                None if violates || at + 1 == group.seats.len() => none = none.or(step),
                None => {}
            }
        }
        best.map_or(none, |(_, _, _, step)| step)
    }

    /// The constraint that a node breaks, or the count that is not reached.
    pub(crate) fn broken(&self, group: &Group, node: Option<usize>) -> Box<str> {
        if !self.words {
            return Box::default();
        }
        let constraints = &self.view.policies[group.policy].policy.constraints;
        let broken = constraints.iter().filter(|constraint| {
            node.is_some_and(|node| !constraint.admits(&self.view.nodes[node].node.locality))
        });
        broken
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
            .into()
    }

    /// A voter on a node that goes for good.
    fn leaving(&self, group: &Group) -> Step {
        let mut stuck = Step::Fine;
        for at in group
            .voters()
            .filter(|at| group.seats[*at].health == Health::Leaving)
        {
            let step = self.leave(group, at);
            if matches!(step, Step::Do(..)) {
                return step;
            }
            stuck = stuck.or(step);
        }
        stuck
    }

    fn leave(&self, group: &Group, at: usize) -> Step {
        let search = Search {
            class: Class::Leaving,
            beside: self.view.beside(group, Some(at)),
            // It is not worth breaking what is satisfied now.
            violations_max: self.view.violations(group.policy, &group.nodes_without(None)),
            sharing_max: None,
            also: &any,
        };
        let node = group.seats[at].place().node;
        let because = Class::Leaving;
        self.add(
            group,
            &search,
            Some(Replaces { node, because }),
            Reason::NodeLeaving { node },
        )
    }
}
