//! Settings of placement, with their defaults.

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// How far a load may be from the mean, in thousandths of the mean.
///
/// Two numbers, so that balance does not flap: it begins when a node is further away than `start`, and goes on until it is
/// nearer than `stop`. Noise that is smaller than their difference moves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// Balance begins beyond this.
    pub start_permille: u32,
    /// And ends within this.
    pub stop_permille: u32,
}

/// Settings that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a node is dead before its replicas are replaced, in nanoseconds. Default: 5 minutes.
    pub dead_after_ns: u64,
    /// How long a learner may take to be up to date before it is given up, in nanoseconds. Default: 30 minutes.
    pub learner_stuck_after_ns: u64,
    /// How long the replicas of a range have been still before spread and balance move one, in nanoseconds: no range moves
    /// from A to B and back within this time. Default: 10 minutes.
    pub still_ns: u64,
    /// The same for leases. Default: 1 minute.
    pub lease_still_ns: u64,
    /// State transfers that a node receives at a time. Balance uses half of them, so that repair finds room. Default: 2.
    pub snapshots_in_max: u32,
    /// State transfers that a node sends at a time; half of them for balance. Default: 2.
    pub snapshots_out_max: u32,
    /// Decisions per call, without splits and merges. Default: 32.
    pub decisions_max: usize,
    /// Splits and merges per call. Default: 8.
    pub splits_max: usize,
    /// Explanations per call of why something that is wished is not done. Default: 16.
    pub held_max: usize,
    /// How long a node or shard is out of its band before balance begins, in nanoseconds: a burst moves nothing. Default: 2
    /// minutes.
    pub loaded_after_ns: u64,
    /// Balance of bytes. Default: 20 % and 5 %.
    pub bytes: Band,
    /// Balance of CPU time. Default: 40 % and 10 %.
    pub cpu: Band,
    /// Balance of leases. Default: 30 % and 10 %.
    pub leases: Band,
    /// A node with fewer bytes is not relieved of any. Default: 1 GiB.
    pub bytes_floor: u64,
    /// A node that uses less of its CPU is not relieved of any, in thousandths. Default: 50.
    pub cpu_floor_permille: u32,
    /// A disk as full gets no more replicas, in thousandths. Default: 900.
    pub disk_full_permille: u32,
    /// A disk as full is relieved of replicas whatever the mean is, in thousandths. Default: 930.
    pub disk_relieve_permille: u32,
    /// CPU time at which a range is split by load, in nanoseconds per second. Default: half a second.
    pub split_cpu_ns: u64,
    /// Requests per second at which a range is split by load. Default: 25,000.
    pub split_requests: u64,
    /// How long after a split the next one by load may be, because samples need time, in nanoseconds. Default: 1 minute.
    pub load_split_after_ns: u64,
    /// CPU time below which a range is cold, in nanoseconds per second. Default: 25 ms.
    pub cold_cpu_ns: u64,
    /// How long a range must have been cold, and not have been split, before it is merged with anything, in nanoseconds. Default:
    /// 1 hour.
    pub merge_after_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        let band = |start_permille, stop_permille| Band {
            start_permille,
            stop_permille,
        };
        Self {
            dead_after_ns: 5 * MINUTE,
            learner_stuck_after_ns: 30 * MINUTE,
            still_ns: 10 * MINUTE,
            lease_still_ns: MINUTE,
            snapshots_in_max: 2,
            snapshots_out_max: 2,
            decisions_max: 32,
            splits_max: 8,
            held_max: 16,
            loaded_after_ns: 2 * MINUTE,
            bytes: band(200, 50),
            cpu: band(400, 100),
            leases: band(300, 100),
            bytes_floor: 1 << 30,
            cpu_floor_permille: 50,
            disk_full_permille: 900,
            disk_relieve_permille: 930,
            split_cpu_ns: SECOND / 2,
            split_requests: 25_000,
            load_split_after_ns: MINUTE,
            cold_cpu_ns: SECOND / 40,
            merge_after_ns: 60 * MINUTE,
        }
    }
}
