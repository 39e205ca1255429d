//! Concurrency on one thread.

use core::future::Future;

/// What a task is for. The runtime gives each class its share of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskClass {
    /// Requests, the event loop, the log: most shares.
    Foreground,
    /// Flush and compaction: few shares, so that they never delay a request for long.
    Background,
}

/// Spawns and yields.
pub trait Tasks: Clone + 'static {
    /// Runs `task` on this thread until it ends or the shard does.
    fn spawn(&self, class: TaskClass, task: impl Future<Output = ()> + 'static);

    /// Lets every other ready task of this thread run before going on.
    fn yield_now(&self) -> impl Future<Output = ()>;

    /// Whether the running task has used its time slice and should call [`Tasks::yield_now`]. Cheap: call it in loops.
    fn need_yield(&self) -> bool;
}
