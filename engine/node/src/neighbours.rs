//! The other nodes, as one shard sees them: what its groups say to theirs, whether they live, and who leads until when.
//!
//! ```text
//!   frames ─► train ─► detector ─► outlook ─► groups
//!                  └─► letters ─────────────► groups ─► dirty ─► end of the turn ─► one train per shard spoken to
//!   timer ──► detector, groups that need ticks
//! ```
//!
//! Letters go to the shard on which the other replica was last heard, and else to shard 0 of its node, see `letters`. The failure
//! detector is between nodes: shard 0 has it, and tells the others what it says, see `outlook`.
//!
//! Invariants:
//! - Nothing is said, and no group takes part in anything, before the detector's start is durable and may take part.
//! - The groups of shard 0 hear that support has changed before a message that follows from it leaves; those of other shards hear it
//!   later, which does no harm.
//! - What waits for a write leaves after it, in the order in which the group handed it out.

use crate::births::{self, Births, Known};
use crate::closed::{Closing, nap_until};
use crate::cluster::{Cluster, Member, is_node};
use crate::dialect::{Letter, letter_from_wire, liveness_from_wire, with_train};
use crate::forget::words_for;
use crate::incarnation;
use crate::local::Local;
use crate::message::{Origin, ShardMessage};
use crate::outlook::{Outlook, Pulses};
use crate::refusal::Refusal;
use crate::roster::address_from_bytes;
use crate::scan_clock::Shares;
use crate::shard::Shard;
use crate::state::{Job, Message, Route, State};
use crate::ticks::Ticking;
use crate::transfer::{Receiving, Sending};
use crate::version::{Greeting, Version};
use base::collections::FastMap;
use base::{Index, NodeId, RangeId, ReplicaId, ShardId, Timestamp};
use core::mem;
use core::time::Duration;
use env::sync::{Notify, Receiver, oneshot};
use env::{Clock, Env, Mailbox};
use liveness::{Event, Liveness, Peer, StepError};
use raft::{Epoch, ReadToken, Support};
use replica::group::node_of;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use transport::{ConnectionId, HelloAnswer, Peers};
use wire::peer::{ArchivedGroupMessage, ArchivedPeerHello, ArchivedRosterEntry};
use wire::{Code, Frame, PeerRef, WireError, decode_peer};

/// How long nothing but messages wakes the detector and the groups, at most: a group may begin to need ticks at any time.
const NAP_MAX: Duration = Duration::from_millis(50);
/// How often one of the other nodes is told of all that are known.
const ROSTER_AGAIN: Duration = Duration::from_secs(1);
/// Ranges whose memory is asked for at once: it has to fit the nearest cache.
pub(crate) const PREFETCH: usize = 16;

/// What a shard knows of the other nodes.
pub(crate) struct Neighbours<E: Env> {
    pub(crate) cluster: Arc<Cluster>,
    /// All nodes that are known, this one included.
    pub(crate) nodes: Vec<Member>,
    /// Nodes that were removed from the cluster.
    pub(crate) removed: BTreeSet<NodeId>,
    /// Which data directories other nodes have, as is durable; shard 0 writes what it hears.
    pub(crate) births: Births,
    pub(crate) newborn: Births,
    pub(crate) storing_births: bool,
    /// Who was told of the nodes last.
    pub(crate) told: NodeId,
    pub(crate) links: Peers<E>,
    /// This node's failure detector: shard 0 has it.
    pub(crate) detector: Option<Detector>,
    /// What it says of the other nodes' lives, as far as this shard was told.
    pub(crate) outlook: Arc<Outlook>,
    /// Messages of this turn, by whom they go to.
    letters: Vec<(Peer, Vec<Letter>)>,
    /// Who is at the other end of connections that came in.
    pub(crate) callers: FastMap<ConnectionId, Peer>,
    /// The groups that need ticks.
    pub(crate) ticking: Ticking,
    /// State for followers, and state for replicas here.
    pub(crate) sending: Vec<Sending<E>>,
    pub(crate) receiving: Vec<Receiving>,
    /// Up to when ranges are closed.
    pub(crate) closing: Closing,
    /// Scans that wait to hear how new their spans are, by the names of their questions.
    pub(crate) scans: BTreeMap<Timestamp, (Shares, Rc<Notify>)>,
}

/// The failure detector of a node, and what it needs of the node's shards.
pub(crate) struct Detector {
    pub(crate) liveness: Liveness,
    /// Kept for its memory.
    pub(crate) detected: liveness::Ready,
    pub(crate) pulses: Pulses,
}

/// Who says where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The node itself.
    Own,
    /// Others, or what was written earlier: they may not have heard where it has gone.
    Others,
}

impl<E: Env> Neighbours<E> {
    /// `detector`, which shard 0 has, has made its start durable.
    pub(crate) fn new(cluster: Arc<Cluster>, links: Peers<E>, detector: Option<Detector>) -> Self {
        let me = cluster
            .nodes
            .iter()
            .copied()
            .filter(|member| member.node == cluster.me);
        Self {
            nodes: me.collect(),
            cluster,
            removed: BTreeSet::new(),
            births: Births::new(),
            newborn: Births::new(),
            storing_births: false,
            told: NodeId(0),
            links,
            detector,
            outlook: Arc::default(),
            letters: Vec::new(),
            callers: FastMap::default(),
            ticking: Ticking::default(),
            sending: Vec::new(),
            receiving: Vec::new(),
            closing: Closing::default(),
            scans: BTreeMap::new(),
        }
    }

    /// Knows a node from now on; or where it has gone, when it says so itself. Whether that was news. What this node was started with
    /// counts more than what others say.
    pub(crate) fn learn(&mut self, member: Member, word: Word, now_ns: u64) -> bool {
        let told = self.cluster.nodes.iter().any(|known| known.node == member.node);
        if let Some(known) = self.nodes.iter_mut().find(|known| known.node == member.node) {
            let is_news = word == Word::Own && !told && *known != member;
            if is_news {
                *known = member;
                self.links.set_address(member.node, Some(member.peer_address));
            }
            return is_news;
        }
        if self.is_removed(member.node) {
            return false;
        }
        if let Some(detector) = &mut self.detector
            && detector
                .liveness
                .add_peer(detector_of(member.node), now_ns)
                .is_err()
        {
            base::sometimes!("node: more nodes than the failure detector watches");
            return false;
        }
        self.links.set_address(member.node, Some(member.peer_address));
        self.nodes.push(member);
        true
    }

    /// The other nodes.
    pub(crate) fn others(&self) -> impl Iterator<Item = Member> {
        self.nodes
            .iter()
            .copied()
            .filter(|member| member.node != self.cluster.me)
    }

    /// The nodes that this one was not started with.
    pub(crate) fn learned(&self) -> Vec<Member> {
        let told = |member: &&Member| self.cluster.nodes.iter().any(|known| known.node == member.node);
        self.nodes
            .iter()
            .filter(|member| !told(member))
            .copied()
            .collect()
    }

    /// Sends `message` with the next train to `to`.
    pub(crate) fn post(&mut self, to: Peer, letter: Letter) {
        if let Some((_, letters)) = self.letters.iter_mut().find(|(peer, _)| *peer == to) {
            letters.push(letter);
        } else if self.nodes.iter().any(|member| member.node == to.node) {
            self.letters.push((to, vec![letter]));
        }
    }

    /// What is known between this node and that of another member of its groups.
    pub(crate) fn support(&self, replica: ReplicaId) -> Support {
        let liveness::Support { given, received } = self.outlook.support(node_of(replica));
        let epoch = |epoch: liveness::Epoch| Epoch(epoch.0);
        Support {
            given: given.map(epoch),
            received: received.map(epoch),
        }
    }

    /// Until when nobody but this replica leads, by the wall clock; zero when somebody may.
    pub(crate) fn lease_ns(&self, local: &Local<E>) -> u64 {
        let expiry = |replica, epoch: Epoch| {
            self.outlook
                .supported_until(node_of(replica), liveness::Epoch(epoch.0))
        };
        local.seat.raft.lease_until(expiry).unwrap_or(0)
    }
}

/// Who has the failure detector of a node.
fn detector_of(node: NodeId) -> Peer {
    Peer {
        node,
        shard: ShardId(0),
    }
}

impl<E: Env, B> State<E, B> {
    /// A node wants to send to this shard.
    pub(crate) fn on_peer_hello(&mut self, id: ConnectionId, hello: &ArchivedPeerHello) -> HelloAnswer {
        let cluster = u128::from_le_bytes(hello.cluster);
        let (from, to) = (NodeId(hello.node.to_native()), NodeId(hello.to_node.to_native()));
        let shards = (hello.shard.to_native(), hello.to_shard.to_native());
        let speaks = Version(hello.version_max.to_native());
        let active = Version(hello.version_min.to_native());
        let unfit = self.unfit(from, active, speaks);
        let birth = hello.birth.to_native();
        let me = self.identity.node;
        let mut code = Code::InvalidRequest;
        let why = match &self.neighbours {
            None => Some("this node is not of a cluster".to_owned()),
            Some(_) if cluster != self.identity.cluster => Some(format!(
                "this node is of cluster {:032x}, not of {cluster:032x}",
                self.identity.cluster
            )),
            Some(_) if to != me => Some(format!(
                "this is {me}, not {to}: is an address of the cluster wrong?"
            )),
            Some(_) if from == me || !is_node(from) => {
                Some(format!("there is no node {from} beside this one"))
            }
            Some(neighbours) if neighbours.is_removed(from) => {
                code = Code::NodeRemoved;
                Some(words_for(from))
            }
            Some(neighbours) if neighbours.knows_birth(from, birth) == Known::Other => {
                code = Code::DirectoryReplaced;
                Some(births::words_for(from))
            }
            Some(_) if unfit.is_some() => unfit.map(|(which, words)| {
                code = which;
                words
            }),
            Some(_) if shards.1 >= self.shards => Some(format!(
                "the node has {} shards; there is no shard {}",
                self.shards, shards.1
            )),
            Some(_) => None,
        };
        if let Some(why) = why {
            base::sometimes!("node: another node was refused");
            let origin = Origin {
                shard: self.me,
                connection: id,
                request: base::RequestId(0),
            };
            self.refuse(origin, &Refusal::fatal(code, why));
            return HelloAnswer::Refuse;
        }
        if shards.1 != self.me.0 {
            return HelloAnswer::Handover(ShardId(shards.1));
        }
        let address = address_from_bytes(hello.address.ip, hello.address.port.to_native());
        self.learn([Member::new(from, address)], Word::Own);
        let neighbours = self.neighbours.as_deref();
        if neighbours.is_none_or(|neighbours| neighbours.knows_birth(from, birth) != Known::Same) {
            base::sometimes!("node: another node waits until its data directory is known");
            self.meet_birth(from, birth);
            return HelloAnswer::Refuse;
        }
        if self.versions.judge(active, speaks) == Greeting::News {
            base::sometimes!("node: another node waits until what is active there is active here");
            self.on_version(active);
            return HelloAnswer::Refuse;
        }
        let caller = Peer {
            node: from,
            shard: ShardId(shards.0),
        };
        self.versions.hear(id, from, speaks);
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.callers.insert(id, caller);
        }
        HelloAnswer::Accept
    }

    /// Learns of nodes. Of one that is new the others hear too, and the other shards, and a start later.
    pub(crate) fn learn(&mut self, members: impl IntoIterator<Item = Member>, word: Word) {
        let wall_ns = self.env.clock().wall_ns();
        let me = self.identity.node;
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let mut news = Vec::new();
        for member in members {
            if member.node != me && neighbours.learn(member, word, wall_ns) {
                news.push(member);
            }
        }
        if news.is_empty() {
            return;
        }
        base::sometimes!("node: learned of another node");
        if self.me == ShardId(0) {
            neighbours.tell_roster();
            self.detect();
            self.jobs.push(Job::Roster);
        }
        let me = self.me;
        for shard in (0..self.shards).map(ShardId).filter(|shard| *shard != me) {
            let members = news.clone();
            self.send(shard, ShardMessage::Learned { members, word });
        }
    }

    /// A node that joins remembers whom it was told of: at its next start nobody may be there to ask.
    pub(crate) fn keep_seeds(&mut self) {
        let neighbours = self.neighbours.as_ref();
        if self.me == ShardId(0) && neighbours.is_some_and(|neighbours| !neighbours.cluster.seeds.is_empty())
        {
            self.jobs.push(Job::Roster);
        }
    }

    /// A connection is gone.
    pub(crate) fn on_caller_gone(&mut self, id: ConnectionId) {
        self.versions.on_gone(id);
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.callers.remove(&id);
        }
    }

    /// Takes what another node's shard says.
    ///
    /// # Errors
    /// [`WireError`] when no node says such a thing: the connection is closed.
    pub(crate) fn on_train(&mut self, id: ConnectionId, frame: &Frame<'_>) -> Result<(), WireError> {
        let malformed = WireError::Malformed {
            kind: frame.kind,
            bytes: frame.payload.len(),
        };
        let message = decode_peer(frame)?;
        if !self.knows(&message) {
            return Err(malformed);
        }
        let train = match message {
            PeerRef::PeerHello(_) => return Err(malformed),
            PeerRef::Roster(roster) => {
                let member = |entry: &ArchivedRosterEntry| {
                    let node = NodeId(entry.node.to_native());
                    let address = address_from_bytes(entry.address.ip, entry.address.port.to_native());
                    Member::new(node, address)
                };
                let members: Vec<_> = roster.nodes.iter().map(member).collect();
                if !members.iter().all(|member| is_node(member.node)) {
                    return Err(malformed);
                }
                self.learn(members, Word::Others);
                for entry in roster.nodes.iter() {
                    self.meet_birth(NodeId(entry.node.to_native()), entry.birth.to_native());
                }
                return Ok(());
            }
            PeerRef::Train(train) => train,
            PeerRef::Placing(placing) => {
                let caller = self
                    .neighbours
                    .as_ref()
                    .and_then(|neighbours| neighbours.callers.get(&id));
                let node = caller.ok_or(malformed)?.node;
                return self.on_placing(node, placing).ok_or(malformed);
            }
            PeerRef::Closed(closed) => {
                let callers = self.neighbours.as_ref().map(|neighbours| &neighbours.callers);
                let peer = callers.and_then(|callers| callers.get(&id)).copied();
                let peer = peer.ok_or(malformed)?;
                return if self.may_start() {
                    self.on_closed(peer, closed, malformed)
                } else {
                    Ok(())
                };
            }
            PeerRef::Newest(newest) => {
                let callers = self.neighbours.as_ref().map(|neighbours| &neighbours.callers);
                let caller = callers.and_then(|callers| callers.get(&id)).copied();
                return self.on_newest(caller.ok_or(malformed)?, newest).ok_or(malformed);
            }
            PeerRef::Transfer(transfer) => {
                let caller = self
                    .neighbours
                    .as_ref()
                    .and_then(|neighbours| neighbours.callers.get(&id));
                let caller = *caller.ok_or(malformed)?;
                return self.on_transfer(caller, 0, transfer, frame);
            }
        };
        // What was asked for before comes first: it has its place in the log by now.
        self.close_batch();
        // Not the turn's clock: read before the node was held up, it would show the other node's clock ahead.
        let wall_ns = self.env.clock().wall_ns();
        let Some(neighbours) = &mut self.neighbours else {
            return Err(malformed);
        };
        let Some(&caller) = neighbours.callers.get(&id) else {
            return Err(malformed);
        };
        if let Some(message) = train.liveness.as_ref() {
            let detector = neighbours.detector.as_mut().ok_or(malformed)?;
            match detector
                .liveness
                .step(caller, &liveness_from_wire(message), wall_ns)
            {
                Ok(()) | Err(StepError::Unknown(_)) => {}
                Err(StepError::Malformed(_)) => return Err(malformed),
                Err(error @ StepError::Forgotten { .. }) => {
                    self.failed.get_or_insert(format!(
                        "{error}: the data directory is older than what other nodes remember"
                    ));
                }
            }
            self.detect();
        }
        let mut owner: Option<Arc<[u8]>> = None;
        let begin = frame.payload.as_ptr().addr();
        let mut share = |bytes: &[u8]| {
            let owner = owner.get_or_insert_with(|| frame.payload.into());
            // A length of zero may point anywhere.
            let at = bytes.as_ptr().addr().wrapping_sub(begin);
            let at = if bytes.is_empty() { 0 } else { at };
            (Arc::clone(owner), at..at + bytes.len())
        };
        for (at, message) in train.messages.iter().enumerate() {
            if at.is_multiple_of(PREFETCH) {
                let next = train.messages[at..].iter().take(PREFETCH);
                let slot =
                    |message: &ArchivedGroupMessage<'_>| self.here.get(&RangeId(message.range.to_native()));
                self.prefetch(next.filter_map(slot).copied());
            }
            let letter = letter_from_wire(message, &mut share).ok_or(malformed)?;
            if node_of(letter.from) != caller.node {
                return Err(malformed);
            }
            self.on_letter(letter, caller, 0).map_err(|_| malformed)?;
        }
        Ok(())
    }

    /// Whether this node may take part in anything: what it promised before it was started has expired.
    pub(crate) fn may_start(&self) -> bool {
        let neighbours = self.neighbours.as_ref();
        neighbours.is_some_and(|neighbours| neighbours.outlook.may_start())
    }

    /// Does what the detector wants done. Shard 0 has it.
    pub(crate) fn detect(&mut self) {
        let (wall_ns, now) = (self.env.clock().wall_ns(), self.env.clock().now());
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let Some(detector) = &mut neighbours.detector else {
            return;
        };
        let mut detected = mem::take(&mut detector.detected);
        detector.liveness.ready(wall_ns, &mut detected);
        let next = neighbours.outlook.next(&detector.liveness, wall_ns);
        let is_alive = detector.pulses.is_alive(now);
        if let Some(durable) = detected.durable {
            self.jobs.push(Job::Incarnation(durable));
        }
        for event in &detected.events {
            match *event {
                // The outlook says so.
                Event::Support { .. } => {}
                // The detector neither believes it nor promises it anything; the other node stops itself.
                Event::PeerClock { outside, .. } => {
                    base::sometimes!("node: the clock of another node is outside the bound", outside);
                }
                Event::ClockOutOfBound { nodes, of } => {
                    self.failed.get_or_insert(format!(
                        "the clock of this node differs from those of {nodes} of {of} other nodes by more than the bound: \
                         set it right and start again"
                    ));
                }
            }
        }
        if let Some(next) = next.map(Arc::new) {
            for shard in (1..self.shards).map(ShardId) {
                self.send(shard, ShardMessage::Outlook(Arc::clone(&next)));
            }
            self.on_outlook(next);
        }
        if let Some(neighbours) = &mut self.neighbours {
            base::sometimes!("node: a shard hangs, and its node says nothing", !is_alive);
            for (peer, message) in detected.messages.drain(..).filter(|_| is_alive) {
                with_train(Some(&message), &[], |train| {
                    neighbours.links.send(peer.node, peer.shard, train)
                });
            }
            if let Some(detector) = &mut neighbours.detector {
                detector.detected = detected;
            }
        }
    }

    /// The detector says something new.
    pub(crate) fn on_outlook(&mut self, next: Arc<Outlook>) {
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let before = mem::replace(&mut neighbours.outlook, next);
        for node in neighbours.outlook.changes_since(&before) {
            self.on_support(node);
        }
    }

    /// Another shard of this node is there.
    pub(crate) fn on_pulse(&mut self, shard: ShardId) {
        let now = self.env.clock().now();
        let neighbours = self.neighbours.as_mut();
        if let Some(detector) = neighbours.and_then(|neighbours| neighbours.detector.as_mut()) {
            detector.pulses.beat(shard, now);
        }
    }

    /// Support between this node and another one has begun or ended: the groups hear of it.
    fn on_support(&mut self, node: NodeId) {
        let mut there = Vec::new();
        for slot in 0..self.slots.len() {
            let Some(seat) = self.slots[slot].seat_mut() else {
                continue;
            };
            // It may have been restarted with its replicas on other shards, or with fewer of them.
            let has_forgotten = seat.forget_places(node);
            let slot = u32::try_from(slot).expect("a shard has fewer than 2^32 ranges");
            let told = seat.raft.told_of().chain(seat.raft.membership().members());
            let is_other = |replica: &ReplicaId| node_of(*replica) == node && *replica != seat.raft.id();
            there.extend(told.filter(is_other).map(|replica| (slot, replica)));
            if has_forgotten {
                self.watch_closed(slot);
            }
        }
        there.dedup();
        for (slot, replica) in there {
            self.introduce(slot, replica);
        }
    }

    /// Tells the group in `slot` what is known of a member's node.
    pub(crate) fn introduce(&mut self, slot: u32, replica: ReplicaId) {
        if let Some(neighbours) = &self.neighbours {
            let support = neighbours.support(replica);
            let seat = self.seat_of(slot);
            // Where it goes it is told again.
            if !seat.silent {
                seat.raft.liveness(replica, support);
                self.touch(slot);
            }
        }
    }

    /// Tells the group in `slot` of the nodes of its members, when it begins to take part and when its members change.
    pub(crate) fn introduce_all(&mut self, slot: u32) {
        let seat = self.seat_of(slot);
        let members = Arc::clone(seat.raft.membership());
        if seat
            .introduced
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &members))
            || seat.silent
        {
            return;
        }
        seat.introduced = Some(Arc::clone(&members));
        let me = seat.raft.id();
        for replica in members.members().filter(|replica| *replica != me) {
            self.introduce(slot, replica);
        }
        self.touch(slot);
    }

    /// One train to each shard that is to hear something. At the end of a turn.
    pub(crate) fn send_trains(&mut self) {
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        for (to, letters) in &mut neighbours.letters {
            if letters.is_empty() {
                continue;
            }
            with_train(None, letters, |train| {
                neighbours.links.send(to.node, to.shard, train)
            });
            letters.clear();
        }
        neighbours.links.flush();
    }

    /// Whether timestamps of this shard are further ahead of the clock than those that the next leader of a range begins above.
    pub(crate) fn runs_ahead(&self, wall_ns: u64) -> bool {
        let config = self
            .neighbours
            .as_ref()
            .map(|neighbours| &neighbours.cluster.liveness);
        let offset_ns = config.map_or(0, |config| config.clock_offset_ns_max);
        self.hlc.last().wall_ns > wall_ns.saturating_add(offset_ns)
    }

    /// Asks a quorum whether the replica in `slot` leads: what must be applied before a read that waits for the answer is served
    /// comes in the receiver, or nothing when it does not lead.
    pub(crate) fn confirm(&mut self, slot: u32) -> Option<Receiver<Index>> {
        self.ticket_last += 1;
        // A group that moved here may have reads of another shard under way.
        let token = ReadToken(u64::from(self.me.0) << 48 | self.ticket_last);
        let local = self.slots[slot as usize].live_mut().filter(|local| local.led)?;
        if local.seat.silent || local.replica.is_frozen() {
            return None;
        }
        local.seat.raft.read_index(token).ok()?;
        let (sender, receiver) = oneshot();
        local.unconfirmed.push((token, sender));
        self.touch(slot);
        Some(receiver)
    }

    /// Looks anew until when the range in `slot` may be read here.
    pub(crate) fn renew_lease(&mut self, slot: u32) {
        let Some(local) = self.slots[slot as usize].live_mut() else {
            return;
        };
        local.lease_ns = match &self.neighbours {
            Some(neighbours) if !local.is_alone() => neighbours.lease_ns(local),
            _ => 0,
        };
    }

    /// Why a read of the range in `slot` is not answered, although it was begun.
    pub(crate) fn not_leading(&self, slot: u32) -> Refusal {
        base::sometimes!("node: lease ran out during a read");
        let message = "this node may not be the leader of the range any more";
        self.led_elsewhere(slot)
            .unwrap_or_else(|| Refusal::retry(Code::NotLeader, 1, message))
    }

    /// Why a request for the range in `slot` goes to another node; `None` when it may become this one's.
    pub(crate) fn led_elsewhere(&self, slot: u32) -> Option<Refusal> {
        let local = self.slots[slot as usize].live()?;
        let (range, me) = (local.range, local.seat.raft.id());
        let leader = local.seat.raft.leader();
        let members = local.seat.raft.membership();
        if leader.is_none() && !members.voters().contains(&me) && !members.outgoing().contains(&me) {
            // It may have been added by a leader that was deposed, so that nobody knows of it.
            base::sometimes!("node: a learner that knows no leader is asked");
            return self.neighbours.is_some().then(|| Refusal::only_learns(range));
        }
        let node = node_of(leader.filter(|leader| *leader != me)?);
        let nodes = &self.neighbours.as_ref()?.nodes;
        let address = nodes.iter().find(|member| member.node == node)?.address;
        Some(
            Refusal::retry(
                Code::NotLeader,
                0,
                format!("range {range} is led by {node} at {address}"),
            )
            .about_range(range)
            .led_by(node),
        )
    }

    /// The node that leads the range at map position `position`, as far as this shard knows; `None` for a node that is alone.
    pub(crate) fn leader_at(&self, position: usize) -> Option<NodeId> {
        self.neighbours.as_ref()?;
        let Route::Here(slot) = self.routes[position] else {
            return None;
        };
        self.slots[slot as usize].live()?.seat.raft.leader().map(node_of)
    }

    /// The nodes whose replicas vote in the range at a position of the map, as far as this shard knows; none while they change.
    pub(crate) fn voters_at(&self, position: usize) -> Vec<u64> {
        let slot = match self.routes[position] {
            Route::Here(slot) if self.neighbours.is_some() => slot,
            Route::Here(_) | Route::There(_) | Route::Nowhere => return Vec::new(),
        };
        let Some(local) = self.slots[slot as usize].live() else {
            return Vec::new();
        };
        let members = &local.replica.group().applied.membership;
        // Until a joint change is left, who goes is needed too: it is not said before it is so.
        if members.is_joint() {
            return Vec::new();
        }
        members.voters().iter().map(|voter| node_of(*voter).0).collect()
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Writes what the detector must know after a restart.
    pub(crate) async fn store_incarnation(&self, durable: liveness::Durable) {
        match incarnation::store(&self.env, self.mailbox.shard(), durable).await {
            Ok(()) => self.step(|state| {
                let neighbours = state.neighbours.as_mut();
                if let Some(detector) = neighbours.and_then(|neighbours| neighbours.detector.as_mut()) {
                    detector.liveness.persisted(durable);
                }
            }),
            Err(error) => self.fail(format!(
                "the start of the failure detector could not be written: {error}"
            )),
        }
    }

    /// Lets time pass for detector and groups until the shard is dropped.
    pub(crate) async fn run_time(self: Rc<Self>) {
        let Some(tick) = self.with_state(|state| Some(state.neighbours.as_ref()?.cluster.tick)) else {
            return;
        };
        let me = self.mailbox.shard();
        let mut last = self.now();
        let mut pulsed = last;
        loop {
            let wall_ns = self.env.clock().wall_ns();
            let nap = self.with_state(|state| {
                let neighbours = state.neighbours.as_ref()?;
                let detector = neighbours.detector.as_ref();
                let wake_ns = detector.and_then(|detector| detector.liveness.wake_at());
                let wake_ns = wake_ns.unwrap_or(u64::MAX);
                let nap = Duration::from_nanos(wake_ns.saturating_sub(wall_ns)).min(NAP_MAX);
                let nap = nap.min(nap_until(neighbours.closing.due(), last));
                Some(nap.min(neighbours.ticking.nap(tick).unwrap_or(nap)))
            });
            // The detector may want to be asked at once; others come first.
            let nap = nap.unwrap_or(NAP_MAX).max(Duration::from_millis(1));
            self.env.clock().sleep(nap).await;
            let passed = self.now().since(last).as_nanos() / tick.as_nanos();
            let ticks = u32::try_from(passed).unwrap_or(u32::MAX);
            last = last + tick * ticks;
            let now = self.now();
            let pause = if me == ShardId(0) { ROSTER_AGAIN } else { NAP_MAX };
            let is_due = now.since(pulsed) >= pause;
            if is_due {
                pulsed = now;
            }
            self.step(|state| {
                state.pass_time(ticks);
                match me {
                    _ if !is_due => {}
                    ShardId(0) => state.tell_roster_in_turn(),
                    _ => state.send(ShardId(0), ShardMessage::Pulse),
                }
            });
        }
    }
}
