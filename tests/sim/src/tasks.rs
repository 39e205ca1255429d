//! `env::Tasks`: every task of every shard is one future in the run's executor.

use crate::trace::Fault;
use crate::world::{Process, World};
use core::future::poll_fn;
use core::task::Poll;
use env::{TaskClass, Tasks, TurnStats};
use std::rc::Rc;

/// What a yield costs once there have been many at one instant, so that a task which spins sees time go on.
const YIELD_NS: u64 = 1_000;

/// Concurrency on a shard.
#[derive(Debug, Clone)]
pub struct SimTasks {
    pub(crate) world: Rc<World>,
    pub(crate) process: Process,
}

impl Tasks for SimTasks {
    fn spawn(&self, _class: TaskClass, task: impl Future<Output = ()> + 'static) {
        let mut core = self.world.core.borrow_mut();
        if core.is_alive(self.process) {
            core.executor.spawn(self.process, Box::pin(task));
        }
    }

    async fn yield_now(&self) {
        let epoch = {
            let core = &mut *self.world.core.borrow_mut();
            // What was woken in this turn counts as ready.
            self.world
                .postbox
                .with(|post| core.executor.take_woken(&mut post.woken));
            core.count_yield().then(|| core.executor.end_epoch())
        };
        let Some(epoch) = epoch else {
            return self.world.timer(YIELD_NS).await;
        };
        let mut is_first = true;
        poll_fn(|context| {
            let executor = &mut self.world.core.borrow_mut().executor;
            let is_over = executor.is_epoch_over(epoch);
            if is_over && !core::mem::take(&mut is_first) {
                return Poll::Ready(());
            }
            is_first = false;
            executor.wake_after(epoch, context.waker());
            Poll::Pending
        })
        .await;
    }

    fn need_yield(&self) -> bool {
        let core = &mut *self.world.core.borrow_mut();
        let says_yes = crate::config::fires(&mut core.prng, core.config.need_yield);
        if says_yes {
            core.trace.fault(Fault::TaskYield);
        }
        says_yes
    }

    fn turn_stats(&self) -> TurnStats {
        TurnStats::default()
    }
}
