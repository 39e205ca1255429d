//! What a group is told.

use base::ReplicaId;

/// The tunables of one replica of a group.
#[derive(Debug, Clone)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// Ticks without a leader before a follower asks for votes; drawn anew each time from this up to twice this. Also how long
    /// a leader goes on without a quorum. Default 10; hostile: 2.
    pub election_ticks: u32,
    /// Ticks between heartbeats; less than `election_ticks`. Default 2.
    pub heartbeat_ticks: u32,
    /// Entries of one message. Default 4,096; hostile: 1.
    pub append_entries_max: usize,
    /// Bytes of the entries of one message, except that one entry always fits. Default 1 MiB; hostile: 1.
    pub append_bytes_max: usize,
    /// Messages with entries under way to one follower. Default 64; hostile: 1.
    pub in_flight_max: usize,
    /// Bytes of committed entries in one [`Ready`](crate::Ready), except that one entry always fits. Default 4 MiB; hostile: 1.
    pub deliver_bytes_max: usize,
}

impl Config {
    /// The defaults, for replica `id`.
    #[must_use]
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 2,
            append_entries_max: 4096,
            append_bytes_max: 1 << 20,
            in_flight_max: 64,
            deliver_bytes_max: 4 << 20,
        }
    }

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
        assert!(self.append_entries_max > 0, "append_entries_max is zero");
        assert!(self.in_flight_max > 0, "in_flight_max is zero");
    }
}
