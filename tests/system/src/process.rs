//! The process of a node under test, and the supervisor that starts it again.

use core::cell::{Cell, RefCell};
use env::sync::Notify;
use node::{NodeConfig, NodeError, ShardMessage, Version, run_shard};
use sim::{Sim, SimEnv, SimNodeId, SimSocket};
use std::rc::Rc;

/// How a shard ended.
type Exits = Rc<RefCell<Vec<(u16, Result<(), NodeError>)>>>;

/// A node under test.
#[derive(Debug)]
pub struct Process {
    node: SimNodeId,
    config: NodeConfig,
    shards: u16,
    exits: Exits,
    stops: Vec<Rc<Notify>>,
    ready: Rc<Cell<u16>>,
}

/// How a process ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// As it was asked to.
    Stopped,
    /// With an error, before clients could connect or after.
    Failed {
        /// What it said.
        error: String,
        /// Whether it had been serving.
        served: bool,
    },
}

impl Process {
    /// A machine with an empty disk, on which nothing runs yet.
    #[must_use]
    pub fn new(sim: &mut Sim, config: NodeConfig, shards: u16) -> Self {
        let node = sim.add_node(shards);
        Self {
            node,
            config,
            shards,
            exits: Exits::default(),
            stops: Vec::new(),
            ready: Rc::default(),
        }
    }

    /// The machine.
    #[must_use]
    pub fn node(&self) -> SimNodeId {
        self.node
    }

    /// Shards of the present or the last process.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// From the next start on it is a build that speaks this version of the protocol between nodes.
    pub fn set_speaks(&mut self, speaks: Version) {
        self.config.speaks = speaks;
    }

    /// Runs the shards of a process that is up and empty.
    pub fn run(&mut self, sim: &Sim) {
        self.exits = Exits::default();
        self.stops.clear();
        self.ready = Rc::default();
        let mailboxes = sim.mailboxes::<ShardMessage<SimSocket>>(self.node);
        for (shard, mailbox) in (0u16..).zip(mailboxes) {
            let env: SimEnv = sim.env(self.node, base::ShardId(shard));
            let (config, exits, ready) = (self.config.clone(), self.exits.clone(), self.ready.clone());
            let stop = Rc::new(Notify::new());
            self.stops.push(stop.clone());
            sim.spawn(Some(self.node), async move {
                let is_ready = move |_| ready.set(ready.get() + 1);
                let stopped = async move { stop.notified().await };
                let ended = Box::pin(run_shard(env, mailbox, config, is_ready, stopped)).await;
                exits.borrow_mut().push((shard, ended));
            });
        }
    }

    /// Starts a process again, with so many shards.
    pub fn restart(&mut self, sim: &mut Sim, shards: u16) {
        self.shards = shards;
        sim.restart_with(self.node, shards);
        self.run(sim);
    }

    /// Asks it to end in good order.
    pub fn stop(&self) {
        self.stops.iter().for_each(|stop| stop.notify());
    }

    /// Whether every shard serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.get() == self.shards
    }

    /// Where its shards are, for people.
    #[must_use]
    pub fn progress(&self) -> String {
        let ended: Vec<u16> = self.exits.borrow().iter().map(|(shard, _)| *shard).collect();
        format!(
            "{} of {} shards serve, ended {ended:?}",
            self.ready.get(),
            self.shards
        )
    }

    /// Whether and how it has ended by itself: at the first error, or when all shards have stopped.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        let exits = self.exits.borrow();
        let error = exits.iter().find_map(|(shard, ended)| {
            let error = ended.as_ref().err()?;
            Some(format!("shard {shard}: {error}"))
        });
        match error {
            Some(error) => Some(Exit::Failed {
                error,
                served: self.is_ready(),
            }),
            None => (exits.len() == usize::from(self.shards)).then_some(Exit::Stopped),
        }
    }
}
