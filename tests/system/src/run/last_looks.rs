//! The end of a run: the nodes stop, and what they leave on their disks is looked at.
//!
//! A node that is asked to stop in the middle of a move of a range between its shards may leave entries of the range in the log of the
//! shard that it has left, as a crash there does. Its next start lets go of them.

use super::Runner;
use crate::process::{Exit, Process};
use crate::scenario::Mode;
use base::{RangeId, ShardId};
use core::time::Duration;
use env::{Disk, Env};
use sim::{Sim, SimNodeId};
use std::collections::BTreeSet;
use storage::{StorageError, Tablet};

/// How long nodes take to stop at most.
const STOP_MAX: Duration = Duration::from_secs(20);

/// What is on the disk of a node that does not run.
#[derive(Debug, Default)]
struct Look {
    /// What nobody may leave there.
    wrong: Vec<String>,
    /// For which ranges a log keeps its segments that another shard of the node has.
    strays: Vec<String>,
}

impl Runner {
    /// Stops all nodes, and looks at every byte on their disks.
    pub(super) fn last_looks(&mut self) {
        if !self.stop_all() {
            return;
        }
        let strays = self.look_at_disks();
        if strays.is_empty() {
            return;
        }
        base::sometimes!("system: nodes are started once more, to let go of what a stop has left in a log");
        if self.start_all() && self.stop_all() {
            // The last stop may have come in the middle of another move.
            let left = self.look_at_disks();
            let left = left.intersection(&strays).cloned();
            if self.scenario.mode != Mode::Damage {
                self.wrong.extend(left);
            }
        }
    }

    fn stop_all(&mut self) -> bool {
        self.processes.iter().for_each(Process::stop);
        let limit = self.sim.now() + STOP_MAX;
        let is_open = |process: &Process| process.exit().is_none();
        while self.processes.iter().any(is_open) && self.sim.now() < limit {
            self.sim.run_for(Duration::from_millis(1));
        }
        for at in 0..self.processes.len() {
            let exit = self.processes[at].exit();
            if exit != Some(Exit::Stopped) {
                return self.give_up(&format!("node {at} was asked to stop and ended with {exit:?}"));
            }
        }
        true
    }

    fn start_all(&mut self) -> bool {
        for process in &mut self.processes {
            self.sim.kill(process.node());
            let shards = process.shards();
            process.restart(&mut self.sim, shards);
        }
        let limit = self.sim.now() + self.scenario.finish;
        while self.sim.now() < limit {
            if self.processes.iter().all(Process::is_ready) {
                return true;
            }
            self.sim.run_for(Duration::from_millis(1));
        }
        let waits = self.processes.iter().map(Process::progress);
        let waits: Vec<_> = waits.collect();
        self.give_up(&format!(
            "nodes do not start once more in calm weather: {waits:?}"
        ))
    }

    /// Notes what nobody may leave on disks. Returns what the next start has to let go of.
    fn look_at_disks(&mut self) -> BTreeSet<String> {
        let mut strays = BTreeSet::new();
        for at in 0..self.processes.len() {
            let node = self.processes[at].node();
            self.sim.kill(node);
            self.sim.restart(node);
            let look = look_at_disk(&mut self.sim, node);
            if self.scenario.mode != Mode::Damage {
                self.wrong.extend(look.wrong);
            }
            strays.extend(look.strays.into_iter().map(|stray| format!("node {at}: {stray}")));
        }
        strays
    }
}

/// Notes for which ranges a log keeps its segments, as one record of it after the other says.
fn note_held(held: &mut BTreeSet<RangeId>, record: &log::Record<'_>) {
    match *record {
        log::Record::Entry { range, .. } => {
            held.insert(range);
        }
        log::Record::Forget { range } => {
            held.remove(&range);
        }
        log::Record::HardState { .. } | log::Record::Truncate { .. } => {}
    }
}

/// Every checksum of every table and log, of a machine on which nothing runs, and whether logs keep what is not their shard's.
fn look_at_disk(sim: &mut Sim, node: SimNodeId) -> Look {
    let env = sim.env(node, ShardId(0));
    sim.block_on(async move {
        let mut look = Look::default();
        let wrong = &mut look.wrong;
        match Tablet::list(&env).await {
            Ok(ranges) => {
                for range in ranges {
                    match Tablet::verify(&env, range).await {
                        Ok(damages) => {
                            wrong.extend(damages.iter().map(|damage| format!("table damage: {damage:?}")));
                        }
                        Err(StorageError::NoSuchTablet { .. }) => {}
                        Err(error) => wrong.push(format!("range {range} cannot be verified: {error}")),
                    }
                }
            }
            Err(error) => wrong.push(format!("tablets cannot be listed: {error}")),
        }
        let entries = env.disk().list("").await.unwrap_or_default();
        let shard_of = |name: &str| name.strip_prefix("shard-")?.parse::<u16>().ok();
        let mut places = BTreeSet::new();
        let shards: Vec<u16> = entries.iter().filter_map(|entry| shard_of(&entry.name)).collect();
        for shard in &shards {
            let marks = env.disk().list(&format!("shard-{shard}/ranges")).await;
            let marks = marks.unwrap_or_default().into_iter();
            places.extend(marks.map(|mark| (mark.name, *shard)));
        }
        for shard in shards {
            let dir = format!("shard-{shard}/wal");
            let mut held = BTreeSet::new();
            let mut visit = |found: log::verify::Found<'_>| {
                if let log::verify::Found::Record { record, .. } = found {
                    note_held(&mut held, &record);
                }
            };
            match log::verify::verify(&env, &dir, ShardId(shard), &mut visit).await {
                Ok(report) => wrong.extend(report.damage.map(|damage| format!("log damage: {damage:?}"))),
                Err(error) => wrong.push(format!("the log of shard {shard} cannot be verified: {error}")),
            }
            for range in held {
                let has = |by: &dyn Fn(u16) -> bool| {
                    let mut places = places.iter();
                    places.any(|(name, at)| *name == range.0.to_string() && by(*at))
                };
                if has(&|at| at == shard) {
                    continue;
                }
                let kept = format!("the log of shard {shard} keeps range {range}, which the shard has not");
                if has(&|at| at != shard) {
                    look.strays.push(kept);
                } else {
                    wrong.push(kept);
                }
            }
        }
        look
    })
}
