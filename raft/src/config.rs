//! What a group is told. One value serves all groups of a process.

use crate::cache::Cache;

/// The tunables of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// Ticks without a leader before a follower asks for votes; drawn anew each time from this up to twice this. Also how long
    /// a leader goes on without a quorum. Default 10; hostile: 2.
    pub election_ticks: u32,
    /// Ticks between heartbeats; less than `election_ticks`. Default 2.
    pub heartbeat_ticks: u32,
    /// Ticks that a leader's lease lasts, from the sending of the heartbeat that a quorum answered; 0: no leases by ticks. Less
    /// than `election_ticks` by as much as two replicas may count apart in that time, and by one for the tick that is under
    /// way. Default 7.
    pub lease_ticks: u32,
    /// Who tells whether nodes live. Default [`Liveness::Ticks`].
    pub liveness: Liveness,
    /// Entries of one message. Default 4,096; hostile: 1.
    pub append_entries_max: usize,
    /// Bytes of the entries of one message, except that one entry always fits. Default 1 MiB; hostile: 1.
    pub append_bytes_max: usize,
    /// Messages with entries under way to one follower. Default 64; hostile: 1.
    pub in_flight_max: usize,
    /// With so many bytes of entries under way to one follower, no more is sent to it: the last message may go beyond. Default
    /// 8 MiB; hostile: 1.
    pub in_flight_bytes_max: usize,
    /// Heartbeats that a follower answers in a row, without an acknowledgement of anything, after which what is under way to it is sent
    /// again: it is lost, or the follower's disk takes that long. More where messages are lost only with their connection. Default 1.
    pub resend_answers: u32,
    /// Bytes of committed entries that are delivered and not applied, except that one entry always fits. Default 4 MiB;
    /// hostile: 1.
    pub deliver_bytes_max: usize,
    /// Entries that a leader takes between two calls of [`ready`](crate::Raft::ready), which is a turn. Default 65,536; hostile: 1.
    pub turn_entries_max: usize,
    /// Bytes of them, except that one entry always fits. Default 16 MiB; hostile: 1.
    pub turn_bytes_max: usize,
    /// Bytes of a leader's entries that are not committed; more proposals are refused. Default 64 MiB; hostile: 1.
    pub uncommitted_bytes_max: usize,
    /// Bytes of delivered entries kept in memory for followers that lag, by a leader and by those who may lead next; idle
    /// replicas give them back by [`shrink`](crate::Raft::shrink). Default 1 MiB; hostile: 0.
    pub cache_bytes_max: usize,
    /// What leaders may keep beyond that as long as all groups with this cache have no more. Default none.
    pub cache: Cache,
    /// Reads that wait at a leader to be confirmed; more of its own are refused, more of followers dropped. Default 65,536;
    /// hostile: 1.
    pub reads_max: usize,
}

/// How a replica learns that another one is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// By heartbeats and ticks of the group itself.
    Ticks,
    /// By what the caller tells of the nodes: see [`Raft::liveness`](crate::Raft::liveness). An idle group sends nothing and
    /// needs no tick.
    External,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            election_ticks: 10,
            heartbeat_ticks: 2,
            lease_ticks: 7,
            liveness: Liveness::Ticks,
            append_entries_max: 4096,
            append_bytes_max: 1 << 20,
            in_flight_max: 64,
            in_flight_bytes_max: 8 << 20,
            resend_answers: 1,
            deliver_bytes_max: 4 << 20,
            turn_entries_max: 1 << 16,
            turn_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            cache_bytes_max: 1 << 20,
            cache: Cache::default(),
            reads_max: 1 << 16,
        }
    }
}

impl Config {
    /// Panics unless the tunables make sense together.
    ///
    /// # Panics
    /// When a bound is out of its range.
    pub fn validate(&self) {
        assert!(self.heartbeat_ticks > 0, "heartbeat_ticks is zero");
        assert!(
            self.election_ticks > self.heartbeat_ticks,
            "election_ticks is not above heartbeat_ticks"
        );
        assert!(
            self.election_ticks > self.lease_ticks,
            "election_ticks is not above lease_ticks"
        );
        assert!(self.append_entries_max > 0, "append_entries_max is zero");
        assert!(self.turn_entries_max > 0, "turn_entries_max is zero");
        assert!(self.in_flight_max > 0, "in_flight_max is zero");
        assert!(self.resend_answers > 0, "resend_answers is zero");
        assert!(self.reads_max > 0, "reads_max is zero");
    }
}
