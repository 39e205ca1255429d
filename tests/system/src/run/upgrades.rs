//! Nodes are stopped and come back as builds of another version of the protocol between nodes, while everything else goes on.
//!
//! Fault model: every node is started as an older or a newer build at any start; also as an older one again, as long as its data directory
//! does not say that the later version is active. Somebody also tries that when it does, and does what the error says. In the end all
//! nodes are newer builds.
//!
//! Checked:
//! - Nothing that came with the later version reaches an older build: such a node stops, and that is wrong.
//! - A node is refused as too old only when it has been a newer build before the later version became active, or was not known then to all
//!   that there were.
//! - An older build does not start where the later version is active. No node forgets that it is.
//! - Once all nodes are newer builds and hear each other, the later version becomes active on all of them.

use super::Runner;
use crate::scenario::Upgrades;
use base::Prng;
use core::time::Duration;
use node::identity::{self, Identity};
use node::{NodeError, Version};
use std::collections::BTreeMap;

/// What the older builds speak.
const OLD: Version = Version::FIRST;
/// What the newer ones speak.
const NEW: Version = Version::NEWEST;

/// How long a start is waited for that must be refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);

/// What became of the nodes' builds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upgraded {
    /// Starts as a newer build after an older one.
    pub upgrades: u64,
    /// Starts as an older one after a newer one.
    pub downgrades: u64,
    /// Starts of an older build that the data directory forbade.
    pub refused_starts: u64,
    /// Older builds that other nodes refused.
    pub refused_nodes: u64,
    /// Runs in which the later version became active while there were faults.
    pub raised: u64,
}

impl Upgraded {
    /// What was seen, for the totals of many runs.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        let all = [
            ("upgrades", self.upgrades),
            ("downgrades", self.downgrades),
            ("starts refused by the data directory", self.refused_starts),
            ("nodes refused by the others", self.refused_nodes),
            ("active version raised among faults", self.raised),
        ];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// The builds of nodes.
pub(super) struct Upgrading {
    prng: Prng,
    /// By node.
    speaks: Vec<Version>,
    /// By node: whether it ever was a newer build.
    has_been_new: Vec<bool>,
    /// By node: whether it was never started yet.
    late: Vec<bool>,
    /// The active version that each node's data directory showed last.
    active: Vec<Version>,
    /// Since the later version was first seen to be active: who may be refused.
    may_be_refused: Option<Vec<bool>>,
    /// After so many calls a node is stopped and started as another build.
    next: u64,
    is_calm: bool,
    pub(super) counts: Upgraded,
}

impl Upgrading {
    /// Nodes begin as those that the scenario says are old, and new ones.
    pub(super) fn new(seed: u64, drawn: &Upgrades) -> Self {
        let mut prng = Prng::new(seed ^ 0x7570_6772_6164_6501);
        let next = prng.between(1, drawn.every * 2);
        let (old, late) = (&drawn.old, &drawn.late);
        let begins_new = |(is_old, is_late): (&bool, &bool)| !is_old && !is_late;
        Self {
            prng,
            speaks: old.iter().map(|is_old| if *is_old { OLD } else { NEW }).collect(),
            has_been_new: old.iter().zip(late).map(begins_new).collect(),
            late: late.clone(),
            active: vec![OLD; old.len()],
            may_be_refused: None,
            next,
            is_calm: false,
            counts: Upgraded::default(),
        }
    }

    /// What a node speaks.
    pub(super) fn speaks(&self, at: usize) -> Version {
        self.speaks[at]
    }

    fn become_build(&mut self, at: usize, speaks: Version) {
        match speaks.cmp(&self.speaks[at]) {
            core::cmp::Ordering::Greater => self.counts.upgrades += 1,
            core::cmp::Ordering::Less => self.counts.downgrades += 1,
            core::cmp::Ordering::Equal => {}
        }
        self.speaks[at] = speaks;
    }
}

/// Whether a node says that others do not listen to it any more, since its build is too old.
fn is_outdated(error: &str) -> bool {
    error.ends_with(&NodeError::Outdated(OLD).to_string())
}

/// Whether a node says that its build is too old for its data directory.
fn is_too_old_for_data(error: &str) -> bool {
    let active = NEW;
    let speaks = OLD;
    error.ends_with(&identity::IdentityError::TooNew { active, speaks }.to_string())
}

impl Runner {
    /// What a node's data directory says is active.
    fn active_at(&self, at: usize) -> Option<Version> {
        let bytes = self.sim.file_bytes(self.processes[at].node(), identity::FILE)?;
        Some(Identity::decode(&bytes).ok()?.active)
    }

    /// Whether all other nodes that were ever started know a node, whoever of them it is that asks all whom it knows.
    fn is_known_where_started(&self, at: usize) -> bool {
        let others =
            (0..self.processes.len()).filter(|other| *other != at && self.active_at(*other).is_some());
        let mut processes = others.map(|other| &self.processes[other]);
        processes.all(|process| self.knows(process, at))
    }

    /// Looks at which version is active where.
    pub(super) fn watch_versions(&mut self) {
        let Some(upgrading) = &self.upgrading else { return };
        if upgrading.may_be_refused.is_some() {
            return;
        }
        let nodes = 0..self.processes.len();
        if !nodes.clone().any(|at| self.active_at(at) == Some(NEW)) {
            return;
        }
        let may_be_refused: Vec<_> = nodes
            .map(|at| upgrading.has_been_new[at] || !self.is_known_where_started(at))
            .collect();
        self.note(
            0,
            &format!("a later version is active; may be refused: {may_be_refused:?}"),
        );
        if let Some(upgrading) = &mut self.upgrading {
            upgrading.counts.raised += u64::from(!upgrading.is_calm);
            upgrading.may_be_refused = Some(may_be_refused);
        }
    }

    /// Stops a node and starts it as another build, when it is time.
    pub(super) fn tend_upgrades(&mut self) {
        self.watch_versions();
        let (Some(upgrading), Some(drawn)) = (&mut self.upgrading, &self.scenario.upgrades) else {
            return;
        };
        if self.history.ended() < upgrading.next {
            return;
        }
        upgrading.next = self.history.ended() + upgrading.prng.between(1, drawn.every * 2);
        let late = upgrading.late.iter().position(|is_late| *is_late);
        if let Some(at) = late.filter(|_| upgrading.prng.chance(0.3)) {
            base::sometimes!("system: a node joins late");
            self.sim.kill(self.processes[at].node());
            return self.start(at);
        }
        let at = upgrading.prng.index(self.processes.len());
        if upgrading.prng.chance(0.5) {
            self.stop_for_a_while(at, "stop, for another build");
        } else {
            self.note(at, "kill, for another build");
            self.crashes += 1;
            self.sim.kill(self.processes[at].node());
        }
        self.draw_build(at, 1.0);
        self.start(at);
    }

    /// Before a start: which build it is of.
    pub(super) fn choose_build(&mut self, at: usize) {
        if self.upgrading.is_none() {
            return;
        }
        self.watch_versions();
        self.draw_build(at, 0.15);
        let active = self.active_at(at).unwrap_or(OLD);
        let Some(upgrading) = &mut self.upgrading else {
            return;
        };
        upgrading.late[at] = false;
        if active < upgrading.active[at]
            && self
                .sim
                .file_bytes(self.processes[at].node(), identity::FILE)
                .is_some()
        {
            let what = format!(
                "node {at} has forgotten that version {} is active",
                upgrading.active[at]
            );
            self.wrong.push(what);
        }
        upgrading.active[at] = upgrading.active[at].max(active);
        if active == NEW && !upgrading.is_calm && upgrading.prng.chance(0.1) {
            self.try_too_old(at);
        }
        let Some(upgrading) = &mut self.upgrading else {
            return;
        };
        // What the error says.
        let speaks = upgrading.speaks[at].max(active);
        upgrading.become_build(at, speaks);
        upgrading.has_been_new[at] |= speaks == NEW;
        self.processes[at].set_speaks(speaks);
    }

    /// Perhaps another build: mostly a newer one, and an older one again where the data directory lets it.
    fn draw_build(&mut self, at: usize, chance: f64) {
        let may_go_back = self.active_at(at).unwrap_or(OLD) == OLD;
        let (Some(upgrading), Some(drawn)) = (&mut self.upgrading, &self.scenario.upgrades) else {
            return;
        };
        if upgrading.is_calm {
            return upgrading.become_build(at, NEW);
        }
        if !upgrading.prng.chance(chance) {
            return;
        }
        let speaks = upgrading.speaks[at];
        if speaks == OLD {
            upgrading.become_build(at, NEW);
        } else if may_go_back && upgrading.prng.chance(drawn.back) {
            base::sometimes!("system: a node goes back to an older build");
            upgrading.become_build(at, OLD);
        }
    }

    /// Somebody starts an older build where the later version is active.
    fn try_too_old(&mut self, at: usize) {
        self.note(at, "start of an older build, too late");
        self.processes[at].set_speaks(OLD);
        let shards = self.processes[at].shards();
        self.processes[at].restart(&mut self.sim, shards);
        let end = self.sim.now() + REFUSED_WITHIN;
        while self.processes[at].exit().is_none() && !self.processes[at].is_ready() && self.sim.now() < end {
            self.sim.run_for(Duration::from_millis(1));
        }
        match self.processes[at].exit() {
            Some(super::Exit::Failed { error, served: false }) if is_too_old_for_data(&error) => {
                base::sometimes!("system: an older build is refused a data directory");
                if let Some(upgrading) = &mut self.upgrading {
                    upgrading.counts.refused_starts += 1;
                }
            }
            Some(super::Exit::Failed { error, .. }) => self.note_failure(at, &error),
            other => self.wrong.push(format!(
                "node {at} of an older build was started where a later version is active, and ended with {other:?}"
            )),
        }
        self.sim.kill(self.processes[at].node());
    }

    /// Whether an error says that other nodes refuse this one, whose build is too old: somebody will start a newer one.
    pub(super) fn heed_outdated(&mut self, at: usize, error: &str) -> bool {
        if !is_outdated(error) {
            return false;
        }
        self.watch_versions();
        let Some(upgrading) = &mut self.upgrading else {
            return false;
        };
        base::sometimes!("system: an older build is refused by the other nodes");
        upgrading.counts.refused_nodes += 1;
        upgrading.become_build(at, NEW);
        let may_be = upgrading.may_be_refused.as_ref().is_some_and(|may_be| may_be[at]);
        self.note(at, error);
        if !may_be {
            self.wrong.push(format!(
                "node {at} is refused by the others, and never spoke the version that is active: {error}"
            ));
        }
        true
    }

    /// All nodes are newer builds from now on.
    pub(super) fn end_upgrades(&mut self) {
        let Some(upgrading) = &mut self.upgrading else {
            return;
        };
        upgrading.is_calm = true;
        let old: Vec<_> = (0..self.processes.len())
            .filter(|at| upgrading.speaks[*at] == OLD || upgrading.late[*at])
            .collect();
        for at in old {
            if self.active_at(at).is_some() {
                self.stop_for_a_while(at, "stop, for the newer build");
            } else {
                self.sim.kill(self.processes[at].node());
            }
            self.start(at);
        }
    }

    /// Whether the later version is active everywhere, once all nodes are newer builds.
    pub(super) fn check_versions(&mut self) -> bool {
        if self.upgrading.is_none() {
            return true;
        }
        let limit = self.sim.now() + self.scenario.finish;
        loop {
            let actives: Vec<_> = (0..self.processes.len()).map(|at| self.active_at(at)).collect();
            if actives.iter().all(|active| *active == Some(NEW)) {
                return true;
            }
            if self.sim.now() >= limit {
                let what = format!("version {NEW} does not become active in calm weather: {actives:?}");
                return self.give_up(&what);
            }
            self.sim.run_for(Duration::from_millis(10));
            if !self.supervise() {
                return self.give_up("the node does not start");
            }
        }
    }
}
