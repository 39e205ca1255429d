//! One replica of a group, of either core, driven the same way: in memory, in one thread, each write durable as soon as it is
//! handed out.
//!
//! [`ours`] is corelane-raft, [`theirs`] the `raft` crate (raft-rs). Whoever compares them writes one loop over [`Replica`].

pub mod ours;
pub mod theirs;

pub use ours::Ours;
pub use theirs::Theirs;

/// A position of a log, without what is peculiar to one core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Of its entry.
    pub term: u64,
    /// From 1.
    pub index: u64,
    /// What it says.
    pub says: Says,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// Nothing.
    Empty,
    /// The user's bytes.
    Command(Vec<u8>),
    /// Some change of the members.
    Members,
}

/// One wish of a change of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Shall vote.
    Voter(u64),
    /// Shall get the log.
    Learner(u64),
    /// Shall be gone.
    Remove(u64),
}

/// Who takes part, as each list sorted: voters, outgoing voters, learners, learners to be.
pub type Members = [Vec<u64>; 4];

/// A replica with its disk.
///
/// Groups begin after index 1 in term 0, with replicas `1..=voters` that vote. No timeout ever strikes: elections are asked for.
pub trait Replica: Sized {
    /// What it sends.
    type Message: Clone;

    /// For tables.
    const NAME: &'static str;

    /// Replica `id` of a new group; it waits to be told everything when it is none of the voters.
    fn new(id: u64, voters: u64) -> Self;
    /// Appends, if it leads. The bytes are copied: both cores own what they are given.
    fn propose(&mut self, payload: &[u8]) -> bool;
    /// Proposes a change of the members, if it leads.
    fn change(&mut self, changes: &[Change]) -> bool;
    /// Starts an election in `term`, which is later than any that it has seen, whatever it has heard.
    fn campaign(&mut self, term: u64);
    /// Sends heartbeats, if it leads.
    fn beat(&mut self);
    /// Takes a message.
    fn step(&mut self, from: u64, message: Self::Message);
    /// Does all that it wants done: writes, which are durable at once, and what follows from that. Adds to `out` whom to send what,
    /// and to `applied` what it applies. Returns how many entries that was.
    fn turn(&mut self, out: &mut Vec<(u64, Self::Message)>, applied: Option<&mut Vec<Position>>) -> u64;
    /// It writes what it wants written (or nothing), and stops before anything is sent; then starts again.
    fn crash(&mut self, writes: bool);
    /// Forgets entries up to the last one that it applied, but `keep` of them; for corelane-raft, but those since the last call.
    fn compact(&mut self, keep: u64);
    /// Tells a leader that the state which it sent did not arrive.
    fn snapshot_failed(&mut self, to: u64);
    /// Whether it leads.
    fn leads(&self) -> bool;
    /// The latest term it has seen.
    fn term(&self) -> u64;
    /// Its commit index.
    fn commit(&self) -> u64;
    /// The index that its log follows, and its log on disk.
    fn log(&self) -> (u64, Vec<Position>);
    /// Who takes part, as far as it knows.
    fn members(&self) -> Members;
    /// Whether a message belongs to an election.
    fn is_election(message: &Self::Message) -> bool;
    /// Whether a message carries state.
    fn is_snapshot(message: &Self::Message) -> bool;
}
