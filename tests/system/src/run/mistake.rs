//! A node is started with another data directory than its own.

use super::{Runner, node_config};
use crate::process::{Exit, Process};
use core::time::Duration;
use node::births;
use sim::DiskImage;

impl Runner {
    /// Whether all other nodes know a node's data directory.
    pub(super) fn is_known(&self, at: usize) -> bool {
        let mut others = self
            .processes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        self.processes.len() > 1 && others.all(|(_, process)| self.knows(process, at))
    }

    /// Whether a node knows the data directory of node `at`.
    pub(super) fn knows(&self, process: &Process, at: usize) -> bool {
        let birth = || {
            let bytes = self.sim.file_bytes(process.node(), births::FILE)?;
            let node = node_config(&self.scenario, u16::try_from(at).ok()?).cluster?.me;
            births::decode(&bytes).ok()?.get(&node).copied()
        };
        birth().is_some()
    }

    /// A node is started with an empty data directory, as when a volume was not mounted, and later with the one that it had.
    pub(super) fn mistake(&mut self, at: usize) {
        self.note(at, "start with an empty disk");
        base::sometimes!("system: a node was started with an empty disk");
        let node = self.processes[at].node();
        self.crashes += 1;
        self.sim.crash(node);
        let disk = self.sim.disk_image(node);
        self.sim.set_disk_image(node, &DiskImage::new());
        self.start(at);
        let time = Duration::from_millis(self.mistakes.between(10, 6_000));
        let end = self.sim.now() + time;
        while self.processes[at].exit().is_none() && self.sim.now() < end {
            self.sim.run_for(Duration::from_millis(1));
        }
        if let Some(Exit::Failed { error, .. }) = self.processes[at].exit() {
            // Whoever is heard first says so: who listens to no other directory, or whose failure detector knows later starts.
            let is_refused = error.contains("with another data directory")
                || error.contains("the data directory is older than what other nodes remember");
            base::sometimes!("system: a node with an empty disk was refused", is_refused);
            if !is_refused {
                self.note_failure(at, &error);
            }
        }
        self.sim.kill(node);
        self.sim.set_disk_image(node, &disk);
        self.start(at);
    }
}
