//! Concurrency on one thread.

use core::future::Future;
use core::time::Duration;

/// What a task is for. The runtime gives each class its share of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskClass {
    /// Requests, the event loop, the log: most shares.
    Foreground,
    /// Flush and compaction: few shares, so that they never delay a request for long.
    Background,
}

/// How long a shard's tasks have kept its thread, since the shard began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnStats {
    /// Turns that were longer than the configured maximum.
    pub stalls: u64,
    /// Of these, those in which the thread had no processor most of the time: the machine's fault, not the task's.
    pub starved: u64,
    /// The longest turn.
    pub turn_max: Duration,
}

/// Spawns and yields.
pub trait Tasks: Clone + 'static {
    /// Runs `task` on this thread until it ends or the shard does.
    fn spawn(&self, class: TaskClass, task: impl Future<Output = ()> + 'static);

    /// Lets every other ready task of this thread run before going on.
    fn yield_now(&self) -> impl Future<Output = ()>;

    /// Whether the running task has used its time slice and should call [`Tasks::yield_now`]. Cheap: call it in loops.
    fn need_yield(&self) -> bool;

    /// How long tasks have kept this thread. All zero where time stands still while a task runs.
    fn turn_stats(&self) -> TurnStats;
}
