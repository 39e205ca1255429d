//! The `raft` crate as a [`Replica`].
//!
//! Driven by its documentation: what a `Ready` holds is stored, `advance` says that it is durable, its `LightReady` follows. Its
//! storage is [`Store`]: what its `MemStorage` does, without the lock, and with a log that loses its front at no cost.

use crate::{Change, Members, Position, Replica, Says};
use protobuf::Message as _;
use raft_rs::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message,
    MessageType, Snapshot,
};
use raft_rs::{Config, Error, GetEntriesContext, RaftState, RawNode, SnapshotStatus, Storage, StorageError};
use std::collections::VecDeque;

/// Ticks that never come.
const NEVER: usize = 1 << 30;

/// Its log and hard state.
#[derive(Clone, Default)]
pub struct Store {
    hard_state: HardState,
    /// As of `start`.
    members: ConfState,
    /// Index and term that the log follows.
    start: (u64, u64),
    /// What is applied, and who takes part as of there. A snapshot is of that: nobody takes one in which he has no part.
    applied: (u64, ConfState),
    entries: VecDeque<Entry>,
}

impl Store {
    fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    /// The place of `index`, which is after the start.
    fn at(&self, index: u64) -> usize {
        usize::try_from(index - self.start.0 - 1).expect("the log is in memory")
    }

    fn append(&mut self, entries: Vec<Entry>) {
        if let Some(first) = entries.first() {
            self.entries.truncate(self.at(first.index));
            self.entries.extend(entries);
        }
    }

    fn install(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        self.start = (metadata.index, metadata.term);
        self.members = metadata.get_conf_state().clone();
        self.applied = (metadata.index, self.members.clone());
        self.hard_state.commit = metadata.index;
        self.entries.clear();
    }

    /// Forgets everything up to `keep` entries before what is applied.
    fn compact(&mut self, keep: u64) {
        let index = self.applied.0.saturating_sub(keep);
        if index > self.start.0 {
            let at = self.at(index);
            self.start = (index, self.entries[at].term);
            self.entries.drain(..=at);
            self.members.clone_from(&self.applied.1);
        }
    }
}

fn compacted<T>() -> Result<T, Error> {
    Err(Error::Store(StorageError::Compacted))
}

impl Storage for Store {
    fn initial_state(&self) -> Result<RaftState, Error> {
        Ok(RaftState::new(self.hard_state.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>, Error> {
        if low <= self.start.0 {
            return compacted();
        }
        let mut entries: Vec<_> = self.entries.range(self.at(low)..self.at(high)).cloned().collect();
        raft_rs::util::limit_size(&mut entries, bytes_max.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64, Error> {
        if index == self.start.0 {
            Ok(self.start.1)
        } else if index < self.start.0 {
            compacted()
        } else {
            match self.entries.get(self.at(index)) {
                Some(entry) => Ok(entry.term),
                None => Err(Error::Store(StorageError::Unavailable)),
            }
        }
    }

    fn first_index(&self) -> Result<u64, Error> {
        Ok(self.start.0 + 1)
    }

    fn last_index(&self) -> Result<u64, Error> {
        Ok(self.last())
    }

    fn snapshot(&self, _index: u64, _to: u64) -> Result<Snapshot, Error> {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.0;
        metadata.term = self.term(self.applied.0)?;
        metadata.set_conf_state(self.applied.1.clone());
        Ok(snapshot)
    }
}

/// A replica of the `raft` crate. `BATCHES`: it gathers proposals into messages, and tells of what is committed with the next
/// ones, as the other core does; it is faster by it. Else as its defaults have it.
pub struct Theirs<const BATCHES: bool = true> {
    node: RawNode<Store>,
}

fn start<const BATCHES: bool>(id: u64, mut store: Store) -> Theirs<BATCHES> {
    store.applied = (store.start.0, store.members.clone());
    let config = Config {
        id,
        election_tick: NEVER,
        heartbeat_tick: 1,
        applied: store.start.0,
        // As the defaults of the other.
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 64,
        max_committed_size_per_ready: 4 << 20,
        // So that whoever speaks in an old term is told so.
        check_quorum: true,
        skip_bcast_commit: BATCHES,
        batch_append: BATCHES,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    Theirs {
        node: RawNode::new(&config, store, &logger).expect("the configuration is valid"),
    }
}

fn position(entry: &Entry) -> Position {
    let says = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => Says::Empty,
        EntryType::EntryNormal => Says::Command(entry.data.to_vec()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => Says::Members,
    };
    Position {
        term: entry.term,
        index: entry.index,
        says,
    }
}

impl<const BATCHES: bool> Theirs<BATCHES> {
    fn apply(&mut self, entries: &[Entry], applied: &mut Option<&mut Vec<Position>>) -> u64 {
        let count = entries.len() as u64;
        for entry in entries {
            if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
                let mut change = ConfChangeV2::default();
                change.merge_from_bytes(&entry.data).expect("it was proposed");
                let members = self.node.apply_conf_change(&change).expect("it was committed");
                self.store().applied.1 = members;
            }
            if let Some(applied) = applied {
                applied.push(position(entry));
            }
        }
        if let Some(last) = entries.last() {
            self.store().applied.0 = last.index;
        }
        count
    }

    fn store(&mut self) -> &mut Store {
        self.node.mut_store()
    }
}

fn addressed(messages: Vec<Message>) -> impl Iterator<Item = (u64, Message)> {
    messages.into_iter().map(|message| (message.to, message))
}

impl<const BATCHES: bool> Replica for Theirs<BATCHES> {
    type Message = Message;

    const NAME: &'static str = if BATCHES { "raft-rs" } else { "raft-rs, defaults" };

    fn new(id: u64, voters: u64) -> Self {
        let mut store = Store::default();
        if id <= voters {
            store.members.voters = (1..=voters).collect();
            store.start = (1, 0);
            store.hard_state.commit = 1;
        }
        start(id, store)
    }

    fn propose(&mut self, payload: &[u8]) -> bool {
        // A follower would send it on.
        self.leads() && self.node.propose(Vec::new(), payload.to_vec()).is_ok()
    }

    fn change(&mut self, changes: &[Change]) -> bool {
        let mut proposal = ConfChangeV2::default();
        for change in changes {
            let (kind, id) = match *change {
                Change::Voter(id) => (ConfChangeType::AddNode, id),
                Change::Learner(id) => (ConfChangeType::AddLearnerNode, id),
                Change::Remove(id) => (ConfChangeType::RemoveNode, id),
            };
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = id;
            proposal.mut_changes().push(single);
        }
        self.leads() && self.node.propose_conf_change(Vec::new(), proposal).is_ok()
    }

    fn campaign(&mut self, term: u64) {
        let kinds = [MessageType::MsgRequestVoteResponse, MessageType::MsgTimeoutNow];
        for kind in kinds {
            let mut message = Message::default();
            message.set_msg_type(kind);
            message.term = term - 1;
            message.from = self.node.raft.id;
            message.reject = true;
            self.node.raft.step(message).expect("the log is in memory");
        }
    }

    fn beat(&mut self) {
        self.node.ping();
    }

    fn step(&mut self, _from: u64, message: Message) {
        // Answers of replicas that are no members any more are errors.
        let _ = self.node.step(message);
    }

    fn turn(&mut self, out: &mut Vec<(u64, Message)>, mut applied: Option<&mut Vec<Position>>) -> u64 {
        let mut count = 0;
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            out.extend(addressed(ready.take_messages()));
            if *ready.snapshot() != Snapshot::default() {
                let snapshot = ready.snapshot().clone();
                self.store().install(&snapshot);
            }
            count += self.apply(&ready.take_committed_entries(), &mut applied);
            let entries = ready.take_entries();
            self.store().append(entries);
            if let Some(hard_state) = ready.hs() {
                self.store().hard_state = hard_state.clone();
            }
            out.extend(addressed(ready.take_persisted_messages()));
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.store().hard_state.commit = commit;
            }
            out.extend(addressed(light.take_messages()));
            count += self.apply(&light.take_committed_entries(), &mut applied);
            self.node.advance_apply();
        }
        count
    }

    fn crash(&mut self, writes: bool) {
        let mut store = self.node.store().clone();
        if writes && self.node.has_ready() {
            let mut ready = self.node.ready();
            if *ready.snapshot() != Snapshot::default() {
                store.install(ready.snapshot());
            }
            store.append(ready.take_entries());
            if let Some(hard_state) = ready.hs() {
                store.hard_state = hard_state.clone();
            }
        }
        *self = start(self.node.raft.id, store);
    }

    fn compact(&mut self, keep: u64) {
        self.store().compact(keep);
    }

    fn snapshot_failed(&mut self, to: u64) {
        self.node.report_snapshot(to, SnapshotStatus::Failure);
    }

    fn leads(&self) -> bool {
        self.node.raft.state == raft_rs::StateRole::Leader
    }

    fn term(&self) -> u64 {
        self.node.raft.term
    }

    fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    fn log(&self) -> (u64, Vec<Position>) {
        let store = self.node.store();
        (store.start.0, store.entries.iter().map(position).collect())
    }

    fn members(&self) -> Members {
        let members = &self.node.store().applied.1;
        let lists = [
            &members.voters,
            &members.voters_outgoing,
            &members.learners,
            &members.learners_next,
        ];
        lists.map(|list| {
            let mut list = list.clone();
            list.sort_unstable();
            list
        })
    }

    fn is_election(message: &Message) -> bool {
        matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestVoteResponse
        )
    }

    fn is_snapshot(message: &Message) -> bool {
        message.get_msg_type() == MessageType::MsgSnapshot
    }
}
