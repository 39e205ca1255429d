//! One shard's world in a simulation.

use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::net::SimNet;
use crate::tasks::SimTasks;
use crate::world::{Process, World};
use base::{Prng, ShardId};
use env::Env;
use std::rc::Rc;

/// The seam, as one shard of a simulated node sees it. Of no effect once the node's process has ended.
#[derive(Debug, Clone)]
pub struct SimEnv {
    shard: ShardId,
    clock: SimClock,
    disk: SimDisk,
    net: SimNet,
    tasks: SimTasks,
}

impl SimEnv {
    pub(crate) fn new(world: &Rc<World>, process: Process, shard: ShardId) -> Self {
        let world = || world.clone();
        Self {
            shard,
            clock: SimClock {
                world: world(),
                process,
            },
            disk: SimDisk {
                world: world(),
                process,
            },
            net: SimNet {
                world: world(),
                process,
            },
            tasks: SimTasks {
                world: world(),
                process,
            },
        }
    }

    /// Which shard it belongs to.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }
}

impl Env for SimEnv {
    type Clock = SimClock;
    type Disk = SimDisk;
    type Net = SimNet;
    type Tasks = SimTasks;

    fn clock(&self) -> &SimClock {
        &self.clock
    }

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn net(&self) -> &SimNet {
        &self.net
    }

    fn tasks(&self) -> &SimTasks {
        &self.tasks
    }

    fn prng(&self) -> Prng {
        self.clock.world.core.borrow_mut().prng.fork()
    }
}
