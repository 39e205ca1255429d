//! corelane-raft as a [`Replica`].

use crate::{Change, Members, Position, Replica, Says};
use base::{Index, Prng, ReplicaId, Term};
use corelane_raft::{Body, Config, Content, Entry, Fetch, MemberChange, Message, Raft, Ready, Restored};
use std::sync::Arc;

/// Ticks that never come.
const NEVER: u32 = 1 << 30;

/// A replica of corelane-raft. Its log is in the core, so nothing else keeps entries; [`Ours::with_disk`] does too.
pub struct Ours {
    raft: Raft,
    ready: Ready,
    /// What survives a crash, when anybody will crash.
    disk: Option<Restored>,
    /// The last entry applied, with its chain; and that at the last call to compact.
    applied: (Index, u32),
    mark: (Index, u32),
}

fn config() -> Arc<Config> {
    Arc::new(Config {
        election_ticks: NEVER,
        heartbeat_ticks: 1,
        lease_ticks: 0,
        ..Config::default()
    })
}

fn start(id: u64, disk: Restored) -> Raft {
    Raft::new(ReplicaId(id), config(), Prng::new(id), disk)
}

fn position(entry: &Entry) -> Position {
    Position {
        term: entry.term.0,
        index: entry.index.0,
        says: match &entry.content {
            Content::Empty => Says::Empty,
            Content::Command(payload) => Says::Command(payload.to_vec()),
            Content::Membership(_) => Says::Members,
            Content::Header(_) => unreachable!("nobody is a witness"),
        },
    }
}

impl Ours {
    /// One that can crash.
    #[must_use]
    pub fn with_disk(id: u64, voters: u64) -> Self {
        let disk = if id <= voters {
            Restored::first((1..=voters).map(ReplicaId))
        } else {
            Restored::default()
        };
        let applied = (disk.snapshot.last.index, disk.snapshot.chain);
        Self {
            raft: start(id, disk.clone()),
            ready: Ready::default(),
            applied,
            mark: applied,
            disk: Some(disk),
        }
    }

    /// Reads what the core no longer has in memory, for a follower that lags.
    fn fetch(&mut self, fetch: Fetch) {
        let wanted = |entry: &&Entry| fetch.first <= entry.index && entry.index <= fetch.last;
        let entries = self.disk().entries.iter().filter(wanted).cloned().collect();
        self.raft.fetched(fetch, entries);
    }

    fn disk(&self) -> &Restored {
        self.disk.as_ref().expect("it was made with a disk")
    }

    fn write(disk: &mut Restored, raft: &Raft, ready: &Ready) {
        if let Some(snapshot) = &ready.snapshot {
            disk.snapshot = snapshot.clone();
            disk.applied = snapshot.last.index;
            disk.entries.clear();
        }
        disk.hard_state = ready.hard_state.unwrap_or(disk.hard_state);
        if !ready.entries.is_empty() {
            disk.entries.retain(|entry| entry.index < ready.entries.start);
            disk.entries.extend(raft.entries(&ready.entries).cloned());
        }
    }
}

impl Replica for Ours {
    type Message = Message;

    const NAME: &'static str = "corelane-raft";

    fn new(id: u64, voters: u64) -> Self {
        Self {
            disk: None,
            ..Self::with_disk(id, voters)
        }
    }

    fn propose(&mut self, payload: &[u8]) -> bool {
        self.raft.propose(payload.into()).is_ok()
    }

    fn change(&mut self, changes: &[Change]) -> bool {
        let changes: Vec<_> = changes
            .iter()
            .map(|change| match *change {
                Change::Voter(id) => MemberChange::Voter(ReplicaId(id)),
                Change::Learner(id) => MemberChange::Learner(ReplicaId(id)),
                Change::Remove(id) => MemberChange::Remove(ReplicaId(id)),
            })
            .collect();
        self.raft.propose_members(&changes).is_ok()
    }

    fn campaign(&mut self, term: u64) {
        let from = self.raft.id();
        let stale = Body::HeartbeatReply {
            round: 0,
            rank: 0,
            support: None,
        };
        for body in [stale, Body::Campaign] {
            let term = Term(term - 1);
            self.raft.step(from, Message { term, body }).expect("well formed");
        }
    }

    fn beat(&mut self) {
        if self.raft.is_leader() {
            self.raft.tick();
        }
    }

    fn step(&mut self, from: u64, message: Message) {
        self.raft.step(ReplicaId(from), message).expect("well formed");
    }

    fn turn(&mut self, out: &mut Vec<(u64, Message)>, mut applied: Option<&mut Vec<Position>>) -> u64 {
        let (mut count, mut ready) = (0, std::mem::take(&mut self.ready));
        while self.raft.ready(&mut ready) {
            if let Some(disk) = &mut self.disk {
                Self::write(disk, &self.raft, &ready);
            }
            if let Some(mark) = ready.mark {
                self.raft.persisted(mark);
            }
            if let Some(snapshot) = &ready.snapshot {
                self.applied = (snapshot.last.index, snapshot.chain);
            }
            let messages = ready.messages.drain(..);
            let messages = messages.chain(ready.messages_after_persist.drain(..));
            out.extend(messages.map(|(to, message)| (to.0, message)));
            let mut committed = self.raft.entries(&ready.committed);
            count += committed.len() as u64;
            if let Some(applied) = &mut applied {
                applied.extend(self.raft.entries(&ready.committed).map(position));
            }
            if let Some(last) = committed.next_back() {
                self.applied = (last.index, last.chain);
                self.raft.applied(last.index);
            }
            for fetch in ready.fetches.drain(..) {
                self.fetch(fetch);
            }
        }
        self.ready = ready;
        count
    }

    fn crash(&mut self, writes: bool) {
        let mut disk = self.disk.take().expect("it was made with a disk");
        // No write is under way: those before are durable.
        self.raft.ready(&mut self.ready);
        if writes {
            Self::write(&mut disk, &self.raft, &self.ready);
        }
        self.raft = start(self.raft.id().0, disk.clone());
        self.applied = (disk.snapshot.last.index, disk.snapshot.chain);
        self.mark = self.applied;
        self.disk = Some(disk);
    }

    fn compact(&mut self, keep: u64) {
        let (index, chain) = if keep == 0 { self.applied } else { self.mark };
        self.mark = self.applied;
        self.raft.compact(index, chain);
        if let Some(disk) = &mut self.disk {
            disk.snapshot = self.raft.snapshot();
            let start = disk.snapshot.last.index;
            disk.applied = self.applied.0;
            disk.entries.retain(|entry| entry.index > start);
        }
    }

    fn snapshot_failed(&mut self, to: u64) {
        self.raft.snapshot_failed(ReplicaId(to));
    }

    fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    fn term(&self) -> u64 {
        self.raft.term().0
    }

    fn commit(&self) -> u64 {
        self.raft.commit_index().0
    }

    fn log(&self) -> (u64, Vec<Position>) {
        let disk = self.disk();
        (
            disk.snapshot.last.index.0,
            disk.entries.iter().map(position).collect(),
        )
    }

    fn members(&self) -> Members {
        let members = self.raft.membership();
        let lists = [
            members.voters(),
            members.outgoing(),
            members.learners(),
            members.learners_next(),
        ];
        lists.map(|list| list.iter().map(|id| id.0).collect())
    }

    fn is_election(message: &Message) -> bool {
        matches!(message.body, Body::Vote { .. } | Body::VoteReply { .. })
    }

    fn is_snapshot(message: &Message) -> bool {
        matches!(message.body, Body::Snapshot(_))
    }
}
