//! Random schedules of a group of 3, 5 or 7 replicas, from one seed each, with the safety of Raft checked after every step.
//!
//! Fault model: messages are lost, doubled, delayed without bound and reordered; links are cut or slow, one way too; writes end late, in
//! order, some disks far later than others; a crash loses every write that has not ended, at any point between handing out and
//! sending; restarts; clocks run apart within the bound that leases allow; one disk at a time gives back less of the log than
//! was acknowledged, or nothing of the state, until that is repaired. Members change (by simple, joint and left-by-hand changes,
//! learners and witnesses), leadership is transferred, logs are compacted and fetched from meanwhile. A third of the groups gets
//! its liveness from outside.
//!
//! After every step: one leader per term, logs that match, equal entries applied in order, everything committed in the log of
//! each later leader, commit indexes that do not go back, no read that misses what was committed; and whenever a leader begins
//! or time passes, no leader beside a lease.
//! Afterwards faults stop, and the group must have a leader and commit within [`TICKS_TO_HEAL`] ticks; with liveness from
//! outside it must then fall silent and need no ticks.
//!
//! `SCHEDULES=FROM..TO cargo test -p corelane-raft --test schedules` runs other seeds than the few of a plain test.

#![expect(clippy::unwrap_used, reason = "a test says where by its backtrace")]

#[path = "schedules/checks.rs"]
mod checks;
mod fixtures;

use base::{Index, Prng, ReplicaId, Term};
use corelane_raft::{
    Body, Cache, Config, Content, Entry, Epoch, Fetch, Liveness, Mark, MemberChange, Membership, Message,
    Raft, ReadToken, Ready, Restored, Support,
};
use fixtures::{END, Messages, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const TICKS_TO_HEAL: u32 = 300;
const STEPS: u32 = 3_000;
/// Of a clock in a tick, so that clocks can run apart.
const TICK: u64 = 100;
/// What support lasts, in ticks of the one who gives it.
const SUPPORT_TICKS: u64 = 6;
/// By how much two clocks of support differ at most, in units of [`TICK`].
const OFFSET_MAX: u64 = 150;

/// A replica, and what was seen of it since it started.
#[derive(Default)]
struct Watched {
    node: Node,
    commit: Index,
    applied: Index,
    /// Units that pass on its clock per step of time, and those that do not make a tick yet.
    rate: u64,
    phase: u64,
    /// How far its clock is ahead of the one that support is measured by.
    offset: u64,
    /// Rarely ends a write.
    slow: bool,
    fetches: Vec<Fetch>,
}

/// What one node promised another, and what that one knows of it.
#[derive(Debug, Clone, Copy, Default)]
struct Promise {
    /// Of all, the last one; it has ended when `given` is `None`.
    epoch: u64,
    given: Option<u64>,
    known: Option<(Epoch, u64)>,
}

struct World {
    prng: Prng,
    nodes: BTreeMap<ReplicaId, Watched>,
    net: Vec<(ReplicaId, ReplicaId, Message)>,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    slow_links: BTreeSet<(ReplicaId, ReplicaId)>,
    /// By the first for the second.
    promises: BTreeMap<(ReplicaId, ReplicaId), Promise>,
    now: u64,
    lossy: bool,
    committed: BTreeMap<Index, Entry>,
    /// Of every entry that was ever written, by its name.
    chains: BTreeMap<Mark, u32>,
    commit_max: Index,
    leaders: BTreeMap<Term, ReplicaId>,
    reads: BTreeMap<ReadToken, Index>,
    witnesses: BTreeSet<ReplicaId>,
    config: Arc<Config>,
    proposed: u32,
    seen: Seen,
}

/// That things happened at all.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    committed: usize,
    changes: usize,
    reads: usize,
    leases: usize,
    damages: usize,
    fetches: usize,
    snapshots: usize,
    naps: usize,
    lost: usize,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.changes += other.changes;
        self.reads += other.reads;
        self.leases += other.leases;
        self.damages += other.damages;
        self.fetches += other.fetches;
        self.snapshots += other.snapshots;
        self.naps += other.naps;
        self.lost += other.lost;
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let count = [3, 3, 5, 5, 7, 1][prng.index(6)];
        let spare = prng.below(3);
        let liveness = [Liveness::Ticks, Liveness::Ticks, Liveness::External][prng.index(3)];
        // Leaders change all the time, and entries travel one by one: logs part in every way.
        let restless = prng.chance(0.3);
        let config = Config {
            election_ticks: if restless { 2 } else { 8 },
            heartbeat_ticks: 1,
            lease_ticks: if restless { 0 } else { 5 },
            liveness,
            append_entries_max: if restless { 1 } else { 1 + prng.index(4) },
            append_bytes_max: [1, 100, 1 << 20][prng.index(3)],
            in_flight_max: if restless { 1 } else { 1 + prng.index(4) },
            in_flight_bytes_max: [1, 1 << 20][prng.index(2)],
            deliver_bytes_max: [1, 100, 1 << 20][prng.index(3)],
            cache_bytes_max: [0, 100, 1 << 20][prng.index(3)],
            cache: Cache::new(if restless { 0 } else { 2_000 }),
            turn_entries_max: 8,
            turn_bytes_max: 400,
            uncommitted_bytes_max: [200, 1 << 20][prng.index(2)],
            reads_max: [1, 100][prng.index(2)],
            resend_answers: [1, 3][prng.index(2)],
        };
        let mut world = Self {
            prng,
            nodes: BTreeMap::new(),
            net: Vec::new(),
            cut: BTreeSet::new(),
            slow_links: BTreeSet::new(),
            promises: BTreeMap::new(),
            now: 0,
            lossy: true,
            committed: BTreeMap::new(),
            chains: BTreeMap::new(),
            commit_max: Index(1),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            witnesses: BTreeSet::new(),
            config: Arc::new(config),
            proposed: 0,
            seen: Seen::default(),
        };
        for id in (1..=count + spare).map(ReplicaId) {
            let mut node = Watched {
                rate: TICK - 8 + world.prng.below(17),
                offset: world.prng.below(OFFSET_MAX + 1),
                slow: world.prng.chance(0.1),
                ..Watched::default()
            };
            if id.0 <= count {
                node.node.disk = Restored::first((1..=count).map(ReplicaId));
            }
            world.nodes.insert(id, node);
            world.start(id);
        }
        if world.prng.chance(0.3) {
            for from in world.ids() {
                for to in world.ids() {
                    if world.prng.chance(0.3) {
                        world.slow_links.insert((from, to));
                    }
                }
            }
        }
        let first = ReplicaId(1 + world.prng.below(count));
        world.raft(first).campaign_now();
        world.drain(first);
        world
    }

    fn ids(&self) -> Vec<ReplicaId> {
        self.nodes.keys().copied().collect()
    }

    fn is_up(&self, id: ReplicaId) -> bool {
        self.nodes[&id].node.raft.is_some()
    }

    fn start(&mut self, id: ReplicaId) {
        let prng = self.prng.fork();
        let rank = self.prng.below(8) / 6;
        let config = Arc::clone(&self.config);
        let watched = self.nodes.get_mut(&id).unwrap();
        watched.node.start(id, &config, prng);
        let raft = watched.node.raft.as_mut().unwrap();
        raft.set_rank(u8::try_from(rank).unwrap());
        watched.commit = raft.commit_index();
        watched.applied = watched.node.disk.applied;
        for other in self.ids() {
            self.tell(id, other);
        }
        self.drain(id);
    }

    fn crash(&mut self, id: ReplicaId) {
        for other in self.ids() {
            // What others knew of this node's promises they go on knowing; what it knew is gone.
            self.promises.entry((other, id)).or_default().known = None;
        }
        let watched = self.nodes.get_mut(&id).unwrap();
        watched.fetches.clear();
        let kept = self.prng.index(watched.node.writes.len() + 1);
        watched.node.crash(kept);
    }

    /// A node starts again when what it promised has expired; it does not renew that.
    fn restart(&mut self, id: ReplicaId) {
        let clock = self.clock(id);
        let others = self.ids();
        let binds = |other: &ReplicaId| {
            let promise = self.promises.get(&(id, *other));
            promise.is_some_and(|promise| promise.given.is_some_and(|until| until >= clock))
        };
        if others.iter().any(binds) {
            return;
        }
        for other in others {
            self.promises.entry((id, other)).or_default().given = None;
        }
        self.start(id);
    }

    /// The clock by which a node gives support and counts on it.
    fn clock(&self, id: ReplicaId) -> u64 {
        self.now * TICK + self.nodes[&id].offset
    }

    fn tell(&mut self, id: ReplicaId, other: ReplicaId) {
        let promise = |from, to| self.promises.get(&(from, to)).copied().unwrap_or_default();
        let given = promise(id, other);
        let support = Support {
            given: given.given.map(|_| Epoch(given.epoch)),
            received: promise(other, id).known.map(|(epoch, _)| epoch),
        };
        if self.is_up(id) {
            self.raft(id).liveness(other, support);
            self.drain(id);
        }
    }

    /// One node asks another to support it, or finds out that it is not answered.
    fn renew(&mut self, asker: ReplicaId, giver: ReplicaId) {
        if asker == giver || !self.is_up(asker) {
            return;
        }
        let key = (giver, asker);
        let reached = |a, b| !self.cut.contains(&(a, b));
        let (asks, answers) = (reached(asker, giver) && self.is_up(giver), reached(giver, asker));
        if asks {
            let until = self.clock(giver) + SUPPORT_TICKS * TICK;
            let promise = self.promises.entry(key).or_default();
            let begins = promise.given.is_none();
            promise.epoch += u64::from(begins);
            promise.given = Some(until);
            if begins {
                self.tell(giver, asker);
            }
        }
        let clock = self.clock(asker);
        let promise = self.promises.entry(key).or_default();
        let known = promise.known;
        if asks && answers {
            promise.known = promise.given.map(|until| (Epoch(promise.epoch), until));
        } else if known.is_some_and(|(_, until)| until < clock) {
            promise.known = None;
        }
        if promise.known.map(|(epoch, _)| epoch) != known.map(|(epoch, _)| epoch) {
            self.tell(asker, giver);
        }
    }

    /// Support whose time has passed may be withdrawn.
    fn withdraw(&mut self, giver: ReplicaId) {
        let clock = self.clock(giver);
        for other in self.ids() {
            let promise = self.promises.entry((giver, other)).or_default();
            if promise.given.is_some_and(|until| until < clock) {
                promise.given = None;
                self.tell(giver, other);
            }
        }
    }

    /// A replica that is up.
    fn raft(&mut self, id: ReplicaId) -> &mut Raft {
        self.nodes.get_mut(&id).unwrap().node.raft.as_mut().unwrap()
    }

    fn send(&mut self, from: ReplicaId, messages: Messages) {
        for (to, message) in messages {
            if self.cut.contains(&(from, to)) || (self.lossy && self.prng.chance(0.05)) {
                continue;
            }
            if self.lossy && self.prng.chance(0.03) {
                self.net.push((from, to, message.clone()));
            }
            self.net.push((from, to, message));
        }
    }

    /// Does what a replica wants, and checks it.
    fn drain(&mut self, id: ReplicaId) {
        let mut led = false;
        loop {
            let mut ready = Ready::default();
            let watched = self.nodes.get_mut(&id).unwrap();
            let Some(raft) = &mut watched.node.raft else {
                return;
            };
            raft.assert_invariants();
            let more = raft.ready(&mut ready);
            raft.assert_invariants();
            assert!(
                raft.commit_index() >= watched.commit,
                "the commit index of {id} went back"
            );
            watched.commit = raft.commit_index();
            self.commit_max = self.commit_max.max(watched.commit);
            if raft.is_leader() {
                let term = raft.term();
                let last = raft.last();
                let is_new = !self.leaders.contains_key(&term);
                // One of an older term may begin late; it commits nothing.
                let is_latest = self.leaders.keys().all(|earlier| *earlier < term);
                let leader = *self.leaders.entry(term).or_insert(id);
                led |= is_new;
                assert_eq!(leader, id, "two leaders in {term}");
                if is_new && is_latest {
                    assert!(
                        last.index >= self.commit_max,
                        "{id} leads without what is committed"
                    );
                }
            }
            if let Some(snapshot) = &ready.snapshot {
                // Entry 1 is where the group begins.
                if snapshot.last.index > Index(1) {
                    let known = &self.committed[&snapshot.last.index];
                    assert_eq!(known.mark(), snapshot.last, "a snapshot of something else");
                    assert_eq!(known.chain, snapshot.chain, "a snapshot of another history");
                }
                watched.applied = snapshot.last.index;
                self.seen.snapshots += 1;
            }
            let committed: Vec<_> = raft.entries(&ready.committed).cloned().collect();
            for entry in committed {
                assert_eq!(entry.index, watched.applied.next(), "{id} applies out of order");
                watched.applied = entry.index;
                if self.prng.chance(0.8) {
                    raft.applied(entry.index);
                }
                let known = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
                if matches!(known.content, Content::Header(_)) {
                    // A witness was first.
                    known.content = entry.content.clone();
                }
                let same = *known == entry || known.header() == entry;
                assert!(same, "{id} applies {entry:?}, another {known:?}");
            }
            for read in &ready.reads {
                let least = self.reads[&read.token];
                assert!(
                    read.index >= least,
                    "{id} serves a read at {} of {least}",
                    read.index
                );
                self.seen.reads += 1;
            }
            watched.fetches.append(&mut ready.fetches);
            let messages = core::mem::take(&mut ready.messages);
            // Log matching: who has the same entry has the same log before it.
            for entry in raft.entries(&ready.entries) {
                let chain = *self.chains.entry(entry.mark()).or_insert(entry.chain);
                assert_eq!(chain, entry.chain, "{id} has another log before {entry:?}");
            }
            watched.node.write(ready);
            self.send(id, messages);
            if !more {
                break;
            }
        }
        if led {
            self.check_leases();
            self.check_completeness(id);
        }
        if self.now.is_multiple_of(3) {
            self.nap(id);
        }
    }

    /// Whether `id` may serve without asking anybody.
    fn is_leased(&self, id: ReplicaId) -> bool {
        let Some(raft) = &self.nodes[&id].node.raft else {
            return false;
        };
        let expiry = |peer, epoch| {
            let promise = self.promises.get(&(peer, id))?;
            let (known, until) = promise.known?;
            (known == epoch).then_some(until)
        };
        let clock = self.clock(id) + OFFSET_MAX;
        raft.has_lease() || raft.lease_until(expiry).is_some_and(|until| clock < until)
    }

    fn check_leases(&mut self) {
        for holder in self.ids() {
            if !self.is_leased(holder) {
                continue;
            }
            self.seen.leases += 1;
            let term = self.raft(holder).term();
            for (other, watched) in &self.nodes {
                let Some(raft) = &watched.node.raft else { continue };
                assert!(
                    *other == holder || !raft.is_leader() || raft.term() < term,
                    "{other} leads in {} beside the lease of {holder} in {term}",
                    raft.term()
                );
            }
        }
    }

    fn end_write(&mut self, id: ReplicaId) {
        if let Some(messages) = self.nodes.get_mut(&id).unwrap().node.persist() {
            self.send(id, messages);
            self.drain(id);
        }
    }

    fn end_fetch(&mut self, id: ReplicaId) {
        let fails = self.lossy && self.prng.chance(0.1);
        let watched = self.nodes.get_mut(&id).unwrap();
        if let Some(fetch) = watched.fetches.pop() {
            let entries = watched.node.fetch(fetch);
            let raft = watched.node.raft.as_mut().unwrap();
            if fails {
                raft.fetch_failed(fetch);
            } else {
                raft.fetched(fetch, entries);
                self.seen.fetches += 1;
            }
            self.drain(id);
        }
    }

    /// All that was applied was also told.
    fn applied(&mut self, id: ReplicaId) {
        let watched = self.nodes.get_mut(&id).unwrap();
        let applied = watched.applied;
        watched.node.raft.as_mut().unwrap().applied(applied);
        self.drain(id);
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.prng.index(self.net.len());
        let link = (self.net[at].0, self.net[at].1);
        if self.lossy && self.slow_links.contains(&link) && self.prng.chance(0.95) {
            return;
        }
        let (from, to, message) = self.net.swap_remove(at);
        let snapshot = matches!(message.body, Body::Snapshot(_));
        if self.is_up(to) {
            self.raft(to).step(from, message).unwrap();
            self.drain(to);
        } else if snapshot {
            self.snapshot_failed(from, to);
        }
    }

    /// Whoever carries the state says that it did not arrive, rightly or not.
    fn snapshot_failed(&mut self, from: ReplicaId, to: ReplicaId) {
        if self.is_up(from) {
            self.raft(from).snapshot_failed(to);
            self.drain(from);
        }
    }

    /// Messages of the node to another one are lost, or only said to be.
    fn connection_lost(&mut self, from: ReplicaId) {
        let lost = self.random_id();
        if self.lossy {
            self.net.retain(|(at, to, _)| (*at, *to) != (from, lost));
        }
        self.seen.lost += usize::from(self.raft(from).connection_lost(|to| to == lost));
        self.drain(from);
    }

    fn random_id(&mut self) -> ReplicaId {
        let at = self.prng.index(self.nodes.len());
        *self.nodes.keys().nth(at).unwrap()
    }

    fn propose(&mut self, id: ReplicaId) {
        self.proposed += 1;
        let payload = self.proposed.to_le_bytes().as_slice().into();
        let _ = self.raft(id).propose(payload);
        self.drain(id);
    }

    fn read(&mut self, id: ReplicaId) {
        let token = ReadToken(self.reads.len() as u64);
        self.reads.insert(token, self.commit_max);
        let _ = self.raft(id).read_index(token);
        self.drain(id);
    }

    fn change_members(&mut self, id: ReplicaId) {
        let count = 1 + self.prng.index(3);
        let changes: Vec<_> = (0..count)
            .map(|_| {
                let of = self.random_id();
                let kind = self.prng.index(9);
                // Who has state, and who has only headers, stays what it is: an id is never used for both.
                if kind == 6 && self.is_untouched(of) {
                    self.witnesses.insert(of);
                }
                match kind {
                    0..7 if self.witnesses.contains(&of) => MemberChange::Witness(of),
                    0..4 => MemberChange::Voter(of),
                    4 | 5 => MemberChange::Learner(of),
                    _ => MemberChange::Remove(of),
                }
            })
            .collect();
        let by_hand = self.prng.chance(0.2);
        let raft = self.raft(id);
        let _ = match (raft.membership().is_joint(), by_hand) {
            (true, _) => raft.propose_leave(),
            (false, true) => raft.propose_joint(&changes),
            (false, false) => raft.propose_members(&changes),
        };
        self.drain(id);
    }

    /// Whether `id` never had a part: only then it can become a witness.
    fn is_untouched(&self, id: ReplicaId) -> bool {
        let has_part = |watched: &Watched| {
            let raft = watched.node.raft.as_ref();
            raft.is_some_and(|raft| raft.membership().contains(id))
                || watched.node.disk.snapshot.membership.contains(id)
        };
        let of_entry = |entry: &Entry| match &entry.content {
            Content::Membership(membership) => membership.contains(id),
            Content::Empty | Content::Command(_) | Content::Header(_) => false,
        };
        !self.nodes.values().any(has_part)
            && !self.committed.values().any(of_entry)
            && !self
                .nodes
                .values()
                .any(|watched| watched.node.disk.entries.iter().any(of_entry))
    }

    fn compact(&mut self, id: ReplicaId) {
        let kept = self.prng.below(4);
        let Watched { node, applied, .. } = self.nodes.get_mut(&id).unwrap();
        // Only what is durable, and nothing newer than it says.
        if node.writes.is_empty() {
            node.raft.as_mut().unwrap().applied(*applied);
            let start = Index(applied.0.saturating_sub(kept)).max(node.disk.snapshot.last.index);
            if start > Index::ZERO {
                node.compact(start, *applied);
            }
        }
    }

    /// Whether a replica lost something that it does not have back.
    fn is_repairing(&self) -> bool {
        self.nodes.values().any(|watched| {
            let disk = &watched.node.disk;
            let raft = watched.node.raft.as_ref();
            disk.damaged.is_some()
                || disk.hard_state.repairing.is_some()
                || raft.is_some_and(Raft::is_repairing)
        })
    }

    /// Whether in all configurations that may come into effect the others are a quorum with all data: else nothing could be
    /// repaired. (A witness may be the only one beside the damaged replica that knows of an entry.)
    fn can_repair(&self) -> bool {
        let tolerates = |membership: &Membership| {
            let outgoing = membership.outgoing().len();
            membership.witnesses().is_empty()
                && membership.voters().len() >= 3
                && (outgoing == 0 || outgoing >= 3)
        };
        let of_entry = |entry: &Entry| match &entry.content {
            Content::Membership(membership) => tolerates(membership),
            Content::Empty | Content::Command(_) | Content::Header(_) => true,
        };
        let under_way = self.net.iter().all(|(_, _, message)| match &message.body {
            Body::Append { entries, .. } => entries.iter().all(of_entry),
            _ => true,
        });
        let begun = |watched: &&Watched| watched.node.disk.snapshot.last.index > Index::ZERO;
        under_way
            && self.nodes.values().filter(begun).all(|watched| {
                let node = &watched.node;
                let writes = node.writes.iter().flat_map(|(_, write)| &write.entries);
                tolerates(&node.disk.snapshot.membership)
                    && node.disk.entries.iter().chain(writes).all(of_entry)
                    && node.raft.as_ref().is_none_or(|raft| tolerates(raft.membership()))
            })
    }

    /// One disk at a time loses what it had: as many as the others can make good.
    fn damage(&mut self, id: ReplicaId) {
        if self.is_repairing() || !self.can_repair() {
            return;
        }
        let node = &mut self.nodes.get_mut(&id).unwrap().node;
        let disk = &node.disk;
        let (start, last) = (
            disk.snapshot.last.index.0,
            disk.entries.last().map_or(0, |entry| entry.index.0),
        );
        if start == 0 {
            return;
        }
        let all = self.prng.chance(0.2);
        let first = Index(start + 1 + self.prng.below(last.saturating_sub(start) + 1));
        self.seen.damages += usize::from(node.damage(first, Index(END), !all));
    }

    fn pass_time(&mut self) {
        self.now += 1;
        for id in self.ids() {
            let watched = self.nodes.get_mut(&id).unwrap();
            if watched.node.raft.is_none() {
                continue;
            }
            watched.phase += watched.rate;
            while self.nodes[&id].phase >= TICK {
                self.nodes.get_mut(&id).unwrap().phase -= TICK;
                self.raft(id).tick();
                self.drain(id);
            }
        }
        self.check_leases();
    }

    fn step(&mut self) {
        let id = self.random_id();
        let up = self.is_up(id);
        match self.prng.below(1_000) {
            0..480 => self.deliver(),
            480..660 if up && (!self.nodes[&id].slow || self.prng.chance(0.1)) => self.end_write(id),
            660..680 if up => self.end_fetch(id),
            680..725 => self.pass_time(),
            725..735 if up => self.applied(id),
            735..770 => {
                let to = self.random_id();
                self.renew(id, to);
            }
            770..785 if up => self.withdraw(id),
            785..840 if up => self.propose(id),
            840..860 if up => self.read(id),
            860..868 if up && !self.is_repairing() => self.change_members(id),
            868..880 if up => {
                let to = self.random_id();
                let _ = self.raft(id).transfer_leadership(to);
                self.drain(id);
            }
            880..900 if up => self.compact(id),
            900..907 if up => self.crash(id),
            900..945 if !up => self.restart(id),
            945..950 if !up => self.damage(id),
            950..960 => {
                let to = self.random_id();
                self.cut.insert((id, to));
            }
            960..970 => self.cut.clear(),
            970..984 if up => self.connection_lost(id),
            // Elections that nobody needed.
            984..990 if up => {
                self.raft(id).campaign_now();
                self.drain(id);
            }
            990..1_000 => {
                let to = self.random_id();
                self.snapshot_failed(id, to);
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.lossy = false;
        self.cut.clear();
        let ids = self.ids();
        self.now += 2 * SUPPORT_TICKS;
        for &id in &ids {
            if !self.is_up(id) {
                self.restart(id);
            }
            self.raft(id).set_rank(0);
            for &to in &ids {
                self.snapshot_failed(id, to);
            }
        }
        let goal = self.committed.keys().next_back().copied().unwrap_or_default();
        for _ in 0..TICKS_TO_HEAL {
            for &id in &ids {
                for &other in &ids {
                    self.renew(id, other);
                }
                self.withdraw(id);
            }
            self.pass_time();
            for &id in &ids {
                if self.raft(id).is_leader() {
                    self.propose(id);
                    if !self.raft(id).membership().leaves_by_itself() {
                        let _ = self.raft(id).propose_leave();
                    }
                }
            }
            self.settle();
            if self.is_healthy(goal) {
                if self.config.liveness == Liveness::External {
                    self.check_silence();
                }
                return;
            }
        }
        for (id, watched) in &self.nodes {
            let raft = watched.node.raft.as_ref().unwrap();
            println!(
                "{id}: {}, leader {:?}, last {:?}, commit {}, {}, repairs {}",
                raft.term(),
                raft.leader(),
                raft.last(),
                raft.commit_index(),
                raft.membership(),
                raft.is_repairing(),
            );
        }
        panic!("unhealthy after {TICKS_TO_HEAL} ticks without faults");
    }

    /// Until nothing is under way.
    fn settle(&mut self) {
        let busy = |watched: &Watched| !watched.node.writes.is_empty() || !watched.fetches.is_empty();
        while !self.net.is_empty() || self.nodes.values().any(busy) {
            self.deliver();
            for id in self.ids() {
                self.applied(id);
                self.end_write(id);
                self.end_fetch(id);
            }
        }
    }

    /// An idle group with liveness from outside sends nothing, and its members need no ticks.
    fn check_silence(&mut self) {
        for _ in 0..4 * self.config.election_ticks {
            for id in self.ids() {
                for other in self.ids() {
                    self.renew(id, other);
                }
            }
            self.pass_time();
            self.settle();
        }
        let leader = self.ids().into_iter().find(|id| self.raft(*id).is_leader());
        let membership = self.raft(leader.unwrap()).membership().clone();
        for id in membership.members() {
            assert!(!self.raft(id).needs_tick(), "{id} needs ticks");
        }
    }

    /// Somebody leads who stays, and has committed beyond `goal`; no change of the members is half made, and all members follow.
    fn is_healthy(&self, goal: Index) -> bool {
        let raft = |id: ReplicaId| self.nodes[&id].node.raft.as_ref().unwrap();
        let leader = self
            .nodes
            .keys()
            .map(|id| raft(*id))
            .find(|raft| raft.is_leader());
        leader.is_some_and(|leader| {
            let last = leader.commit_index();
            last > goal
                && !leader.membership().is_joint()
                && leader.membership().is_voter(leader.id())
                && leader
                    .membership()
                    .members()
                    .all(|id| raft(id).commit_index().0 + 5 >= last.0 && !raft(id).is_repairing())
        })
    }
}

fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
    let changes = world
        .committed
        .values()
        .filter(|entry| matches!(entry.content, Content::Membership(_)));
    Seen {
        committed: world.committed.len(),
        changes: changes.count(),
        ..world.seen
    }
}

#[test]
fn random_schedules_keep_what_was_committed() {
    let seeds = std::env::var("SCHEDULES").unwrap_or_else(|_| "0..500".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    let mut seen = Seen::default();
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        let result = std::panic::catch_unwind(|| run(seed));
        let Ok(of_seed) = result else {
            panic!(
                "replay with SCHEDULES={seed}..{} cargo test -p corelane-raft --test schedules",
                seed + 1
            );
        };
        seen.add(of_seed);
    }
    println!("{seen:?}");
    if std::env::var("SCHEDULES").is_err() {
        let Seen {
            committed,
            changes,
            reads,
            leases,
            damages,
            fetches,
            snapshots,
            naps,
            lost,
        } = seen;
        let all = [
            committed, changes, reads, leases, damages, fetches, snapshots, naps, lost,
        ];
        assert!(
            all.iter().all(|count| *count > 100),
            "too little happened: {seen:?}"
        );
    }
}
