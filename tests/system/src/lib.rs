//! Whole nodes in the simulator: a seed draws shards, tunables, workload and faults; clients speak wire over the simulated
//! network; checkers judge what they were told.

pub mod check;
pub mod history;
