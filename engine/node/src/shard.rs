//! The event loop of one shard.
//!
//! ```text
//!   frames ─┐                                   ┌─► gets looked up (keys prefetched)
//!   rings  ─┼─► step: one event, synchronous ─► turn end ─► one log write
//!   log    ─┤   state changes, replies staged,  ├─► one flush of all rings
//!   jobs   ─┘   effects and jobs collected      └─► one send per connection
//! ```
//!
//! Whatever changes state is a synchronous step. Whatever waits is a job: it reads an immutable snapshot and comes back with
//! a value in another step. The end of a turn runs after all tasks that were ready: batches come from load, never a timer.
//!
//! Invariants:
//! - No borrow of the state lives across an `await`.
//! - A reply to a write is staged only after its entry is durable and applied.
//! - Requests between shards form no cycle: the serving side never waits for the asking side.

use crate::gauge::Room;
use crate::message::{Answer, Ask, MoveIn, Origin, OwnedRequest, RawRequest, ShardMessage};
use crate::refusal::Refusal;
use crate::state::{Arrival, Job, Message, Route, Slot, Socket, State};
use crate::status::RangeStatus;
use crate::waiting;
use crate::write::first_violated;
use base::api::ReadAt;
use base::{RequestId, ShardId, Timestamp};
use core::cell::{OnceCell, RefCell};
use core::time::Duration;
use env::sync::{Notify, oneshot};
use env::{Clock, Disk, Env, File, Mailbox, OpenMode, TaskClass, Tasks};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use storage::StorageError;
use transport::{CloseReason, ConnectionId, Handler, Handover, HelloAnswer};
use wire::peer::ArchivedPeerHello;
use wire::reply::{DiskWriteReply, GetReply, NodeEntry, RangeEntry as WireEntry, RangeMapReply, StaleReply};
use wire::request::ArchivedHello;
use wire::{Code, Frame, Kind, RequestRef, WireError, decode_request};

/// Ring messages taken in one go before other tasks run.
const RING_BATCH_MAX: usize = 256;

/// One shard: its state, its ends of the rings, and what wakes its loop.
pub(crate) struct Shard<E: Env, B: Mailbox<Message<E>>> {
    pub(crate) env: E,
    pub(crate) mailbox: B,
    pub(crate) state: RefCell<State<E, B>>,
    /// Something waits for the end of the turn.
    pub(crate) turn: Notify,
    /// Something waits for flush, merge or a new clock bound.
    pub(crate) maintenance: Notify,
    /// There may be something to flush.
    pub(crate) flushes: Notify,
    /// There may be something to merge.
    pub(crate) merges: Notify,
    /// The node fails or stops.
    pub(crate) ended: Notify,
    this: OnceCell<Weak<Self>>,
    bench_file: RefCell<Option<Rc<BenchFile<E>>>>,
}

struct BenchFile<E: Env> {
    file: <E::Disk as Disk>::File,
    next_block: core::cell::Cell<u64>,
}

/// Blocks of the file that the bench's raw writes go round in.
const BENCH_BLOCKS: u64 = 4096;

/// What the connections of a shard call: leads to the shard once that exists.
pub struct Front<E: Env, B: 'static> {
    /// Weak: the shard owns the connections, not the other way round.
    pub(crate) shard: OnceCell<Weak<dyn FrontShard<E>>>,
    pub(crate) mailbox: core::marker::PhantomData<B>,
}

/// The part of a shard that connections see.
pub(crate) trait FrontShard<E: Env> {
    fn on_hello(&self, id: ConnectionId, request: RequestId, hello: &ArchivedHello<'static>) -> HelloAnswer;
    fn on_peer_hello(&self, id: ConnectionId, hello: &ArchivedPeerHello) -> HelloAnswer;
    fn on_frame(&self, id: ConnectionId, frame: &Frame<'_>) -> Result<(), WireError>;
    fn on_batch_end(&self);
    fn on_handover(&self, to: ShardId, handover: Handover<Socket<E>>);
    fn on_close(&self, id: ConnectionId);
}

impl<E: Env, B: 'static> Front<E, B> {
    /// The shard; `None` when it has ended and its connections, which are being closed, have not yet.
    fn shard(&self) -> Option<Rc<dyn FrontShard<E>>> {
        self.shard.get().and_then(Weak::upgrade)
    }
}

impl<E: Env, B: 'static> Handler<Socket<E>> for Front<E, B> {
    fn on_hello(&self, id: ConnectionId, request: RequestId, hello: &ArchivedHello<'static>) -> HelloAnswer {
        self.shard()
            .map_or(HelloAnswer::Refuse, |shard| shard.on_hello(id, request, hello))
    }

    fn on_peer_hello(&self, id: ConnectionId, hello: &ArchivedPeerHello) -> HelloAnswer {
        self.shard()
            .map_or(HelloAnswer::Refuse, |shard| shard.on_peer_hello(id, hello))
    }

    fn on_frame(&self, id: ConnectionId, frame: &Frame<'_>) -> Result<(), WireError> {
        base::sometimes!("node: frame after the end of its shard", self.shard().is_none());
        self.shard().map_or(Ok(()), |shard| shard.on_frame(id, frame))
    }

    fn on_batch_end(&self) {
        if let Some(shard) = self.shard() {
            shard.on_batch_end();
        }
    }

    fn on_handover(&self, to: ShardId, handover: Handover<Socket<E>>) {
        if let Some(shard) = self.shard() {
            shard.on_handover(to, handover);
        }
    }

    fn on_close(&self, id: ConnectionId, _reason: &CloseReason) {
        if let Some(shard) = self.shard() {
            shard.on_close(id);
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> FrontShard<E> for Shard<E, B> {
    fn on_hello(&self, id: ConnectionId, request: RequestId, hello: &ArchivedHello<'static>) -> HelloAnswer {
        let mut state = self.state.borrow_mut();
        let me = state.me;
        match hello.shard_id() {
            // Clients know the shards of one node of a cluster only.
            Some(shard) if shard.0 >= state.shards && state.neighbours.is_some() => {
                base::sometimes!("node: a client asks for a shard that another node has");
                state.greet(id, request, hello)
            }
            Some(shard) if shard.0 >= state.shards => {
                let message = format!(
                    "the node has {} shards; there is no shard {}",
                    state.shards, shard.0
                );
                let origin = Origin {
                    shard: me,
                    connection: id,
                    request,
                };
                state.refuse(origin, &Refusal::fatal(Code::NoSuchShard, message));
                HelloAnswer::Refuse
            }
            Some(shard) if shard != me => HelloAnswer::Handover(shard),
            Some(_) | None => state.greet(id, request, hello),
        }
    }

    fn on_peer_hello(&self, id: ConnectionId, hello: &ArchivedPeerHello) -> HelloAnswer {
        self.state.borrow_mut().on_peer_hello(id, hello)
    }

    fn on_frame(&self, id: ConnectionId, frame: &Frame<'_>) -> Result<(), WireError> {
        let mut state = self.state.borrow_mut();
        if frame.kind.is_peer() {
            return state.on_train(id, frame);
        }
        let request = decode_request(frame)?;
        let origin = Origin {
            shard: state.me,
            connection: id,
            request: frame.request,
        };
        let (received, _) = state.clock();
        let raw = RawRequest {
            kind: frame.kind,
            payload: frame.payload,
            origin,
            received,
            hops: 0,
        };
        state.on_request(request, raw);
        Ok(())
    }

    fn on_batch_end(&self) {
        self.turn.notify();
    }

    fn on_handover(&self, to: ShardId, handover: Handover<Socket<E>>) {
        self.step(|state| state.send(to, ShardMessage::Handover(Box::new(handover))));
    }

    fn on_close(&self, id: ConnectionId) {
        let mut state = self.state.borrow_mut();
        state.on_caller_gone(id);
        state.scans.retain(|(connection, _), credit| {
            let gone = *connection == id;
            if gone {
                credit.cancelled.set(true);
                credit.changed.notify();
            }
            !gone
        });
    }
}

impl<E: Env, B> State<E, B> {
    /// Takes any request.
    pub(crate) fn on_request(&mut self, request: RequestRef<'_>, raw: RawRequest<'_>) {
        match request {
            RequestRef::Get(get) => self.on_get(get, raw),
            RequestRef::Put(put) => {
                let op = [base::api::WriteOp::Put {
                    key: &put.key,
                    value: &put.value,
                }];
                self.on_write(put.id.write_id(), core::iter::empty(), op.into_iter(), raw);
            }
            RequestRef::Write(write) => {
                self.on_write(write.id.write_id(), write.conditions(), write.ops(), raw);
            }
            RequestRef::Modify(modify) => self.on_modify(modify, raw),
            RequestRef::Echo(echo) => {
                self.counts.echoes += 1;
                self.reply(
                    raw.origin,
                    &wire::reply::EchoReply {
                        payload: &echo.payload,
                    },
                );
            }
            RequestRef::Scan(scan) => self.on_scan(scan, raw),
            RequestRef::ScanCredit(credit) => self.on_scan_credit(raw.origin, credit.pages.to_native()),
            RequestRef::ScanCancel(_) => self.on_scan_cancel(raw.origin),
            RequestRef::RangeMap(_) if self.neighbours.is_some() && self.shards > 1 => {
                self.jobs.push(Job::RangeMap(raw.origin));
            }
            RequestRef::RangeMap(_) => self.reply_range_map(raw.origin, &BTreeMap::new()),
            RequestRef::Split(split) => self.on_split(&split.key, split.deadline_ms.to_native(), raw),
            RequestRef::Move(request) => {
                let (range, to) = (
                    base::RangeId(request.range.to_native()),
                    ShardId(request.shard.to_native()),
                );
                self.on_move(range, to, request.deadline_ms.to_native(), raw);
            }
            RequestRef::Merge(merge) => self.on_merge(merge, raw),
            RequestRef::Place(place) => self.on_place(place, raw),
            RequestRef::Stand(stand) => self.on_stand(stand, raw),
            RequestRef::SetPolicy(set) => self.on_set_policy(set, raw),
            RequestRef::Policies(_) => self.on_policies(raw),
            RequestRef::Explain(explain) => self.on_explain(base::RangeId(explain.range.to_native()), raw),
            RequestRef::Status(status) => self.jobs.push(Job::Status {
                origin: raw.origin,
                replicas: status.replicas,
            }),
            RequestRef::DiskWrite(write) => {
                self.jobs.push(Job::DiskWrite {
                    origin: raw.origin,
                    bytes: write.bytes.to_native(),
                });
            }
            RequestRef::Transact(transact) => self.on_transact(transact, raw),
            RequestRef::Hello(_) => unreachable!("the transport takes hellos"),
        }
    }

    /// Answers with the map, and with who leads its ranges and votes in them: `others` says so of those of other shards.
    fn reply_range_map(&mut self, origin: Origin, others: &BTreeMap<u64, RangeStatus>) {
        let map = self.map.clone();
        let theirs = |at: usize| others.get(&map.entries()[at].descriptor.range.0);
        let voters: Vec<_> = (0..map.entries().len())
            .map(|at| theirs(at).map_or_else(|| self.voters_at(at), |range| range.voters.clone()))
            .collect();
        let ranges: Vec<_> = map
            .entries()
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.is_hole())
            .map(|(position, entry)| WireEntry {
                range: entry.descriptor.range.0,
                start: &entry.descriptor.span.start,
                end: entry.descriptor.span.end.as_deref(),
                shard: entry.shard.0,
                generation: entry.descriptor.generation,
                leader: theirs(position).map_or_else(
                    || self.leader_at(position).map(|node| node.0),
                    |range| range.leader,
                ),
                nodes: &voters[position],
            })
            .collect();
        let members = self.neighbours.as_ref().map(|neighbours| &neighbours.nodes);
        let addresses: Vec<_> = members
            .into_iter()
            .flatten()
            .map(|member| (member.node.0, member.address.to_string()))
            .collect();
        let nodes: Vec<_> = addresses
            .iter()
            .map(|(node, address)| NodeEntry { node: *node, address })
            .collect();
        self.reply(
            origin,
            &RangeMapReply {
                version: map.version(),
                ranges: &ranges,
                nodes: &nodes,
            },
        );
    }

    /// Takes a message of another shard.
    pub(crate) fn on_ring(&mut self, from: ShardId, message: Message<E>) {
        match message {
            ShardMessage::Request(request) => self.on_owned(&request),
            ShardMessage::Replies(replies) => {
                let mut frames = &replies.frames[..];
                for (connection, bytes) in replies.index {
                    let (frame, rest) = frames.split_at(bytes as usize);
                    frames = rest;
                    self.transport.send_frame(connection, frame);
                }
            }
            ShardMessage::Handover(handover) => self.transport.adopt(*handover),
            ShardMessage::Map(map) => self.on_map(&map),
            ShardMessage::Ask { ticket, ask } => self.on_ask(from, ticket, ask),
            ShardMessage::Answer { ticket, answer } => {
                if let Some(sender) = self.tickets.remove(&ticket) {
                    sender.send(answer);
                }
            }
            ShardMessage::Pulse => self.on_pulse(from),
            ShardMessage::Outlook(outlook) => self.on_outlook(outlook),
            ShardMessage::Learned { members, word } => self.learn(members, word),
            ShardMessage::Born(node, birth) => self.on_born(from, node, birth),
            ShardMessage::Births(births) => self.on_births(&births),
            ShardMessage::Version(version) => self.on_version(version),
            ShardMessage::Active(version) => self.activate_version(version),
            ShardMessage::Forgotten(removed) => self.forget_nodes(&removed),
            ShardMessage::Letter { letter, caller, hops } => self.on_handed_letter(*letter, caller, hops),
            ShardMessage::Transfer(transfer) => self.on_handed_transfer(&transfer),
            ShardMessage::Misdirected(range) => self.on_misdirected(range),
            ShardMessage::Unclaim { range, promised } => self.on_unclaim(from, range, promised),
            ShardMessage::Removed { range } => self.forget_place(from, range),
            ShardMessage::Bring { range, to } => self.jobs.push(Job::Bring { range, to }),
            ShardMessage::Gone { range, life } => self.on_gone(range, life),
            ShardMessage::AskReplaced { range, life } => self.on_ask_replaced(from, range, life),
            ShardMessage::Replaced { range, life } => self.on_replaced(range, life),
            ShardMessage::Identity(_) | ShardMessage::Recovered(_) | ShardMessage::Assembled(_) => {
                unreachable!("start-up is over when the loop runs")
            }
        }
    }

    fn on_ask(&mut self, from: ShardId, ticket: u64, ask: Ask) {
        let answer = match ask {
            Ask::NewRange => Answer::NewRange(self.new_range()),
            Ask::MapEdit(entries) => Answer::MapEdit(self.edit_map(entries)),
            Ask::Status => Answer::Status(Box::new(self.shard_status())),
            Ask::Clock => Answer::Clock(self.now()),
            Ask::Newest(span) => Answer::Newest(self.share_of(&span)),
            Ask::First => Answer::First(self.leads_first()),
            Ask::Look(stock) => Answer::Look(Box::new(self.look(stock))),
            Ask::Order(ordered) => {
                self.on_order(*ordered);
                Answer::Order
            }
            Ask::Replicas => return self.jobs.push(Job::Replicas { from, ticket }),
            Ask::Ranges => Answer::Ranges(self.range_statuses()),
            Ask::Claim(range) => Answer::Claim(self.on_split_claim(from, range)),
            Ask::Gone(range, life) => {
                self.on_gone(range, life);
                Answer::Gone
            }
            Ask::Demand(version) => {
                self.demand_version(version);
                Answer::Demand
            }
            Ask::Prepare(prepare) => {
                let seqno = self.prepare(&prepare);
                return self.jobs.push(Job::Prepared { from, ticket, seqno });
            }
            Ask::Page(ask) => return self.jobs.push(Job::Page { from, ticket, ask }),
            Ask::MoveIn(arrival) => {
                let MoveIn {
                    flushed,
                    entry,
                    clock,
                    parked,
                    moved,
                } = *arrival;
                let slot = self.take_slot(Slot::Opening(entry.descriptor.range, parked.into()));
                self.departed
                    .retain(|gone| gone.descriptor.range != entry.descriptor.range);
                self.map.merge([entry.clone()]);
                self.update_routes();
                return self.jobs.push(Job::MoveIn {
                    from,
                    ticket,
                    slot,
                    arrival: Box::new(Arrival {
                        entry,
                        flushed,
                        clock,
                        moved,
                    }),
                });
            }
        };
        self.send(from, ShardMessage::Answer { ticket, answer });
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    pub(crate) fn new(env: E, mailbox: B, state: State<E, B>) -> Rc<Self> {
        let shard = Rc::new(Self {
            env,
            mailbox,
            state: RefCell::new(state),
            turn: Notify::new(),
            maintenance: Notify::new(),
            flushes: Notify::new(),
            merges: Notify::new(),
            ended: Notify::new(),
            this: OnceCell::new(),
            bench_file: RefCell::new(None),
        });
        let _ = shard.this.set(Rc::downgrade(&shard));
        shard
    }

    fn this(&self) -> Rc<Self> {
        self.this
            .get()
            .and_then(Weak::upgrade)
            .expect("the shard is alive while it is borrowed")
    }

    /// Looks at the state, or changes it, without a turn end.
    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&mut State<E, B>) -> R) -> R {
        f(&mut self.state.borrow_mut())
    }

    /// Changes the state, and schedules the end of the turn.
    pub(crate) fn step<R>(&self, f: impl FnOnce(&mut State<E, B>) -> R) -> R {
        self.turn.notify();
        f(&mut self.state.borrow_mut())
    }

    /// Waits until entries have been applied, or a moment.
    pub(crate) async fn wait_applied(&self) {
        let receiver = self.with_state(|state| {
            let (sender, receiver) = oneshot();
            let waits = !state.writes.is_empty() || !state.batch.commands.is_empty();
            waits.then(|| {
                state.apply_waiters.push(sender);
                receiver
            })
        });
        match receiver {
            Some(receiver) => {
                receiver.await;
            }
            None => self.env.clock().sleep(Duration::from_millis(1)).await,
        }
    }

    /// Waits until everything up to `seqno` in the log is durable.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn wait_durable(&self, log: &log::Log<E>, seqno: base::Seqno) -> Result<(), String> {
        if log.persisted() >= seqno {
            return Ok(());
        }
        let before = seqno.prev().unwrap_or(base::Seqno::ZERO);
        let persisted = log.persisted_beyond(before).await;
        persisted
            .map(drop)
            .map_err(|error| format!("the log failed: {error}"))
    }

    /// Stops the node: something that must not fail has failed.
    pub(crate) fn fail(&self, reason: String) {
        self.state.borrow_mut().failed.get_or_insert(reason);
        self.ended.notify();
    }

    /// Runs the ends of turns until the shard is dropped.
    pub(crate) async fn run_turns(self: Rc<Self>) {
        loop {
            self.turn.notified().await;
            self.end_turn();
        }
    }

    fn end_turn(&self) {
        let mut state = self.state.borrow_mut();
        state.counts.turns += 1;
        state.answer_gets();
        state.close_batch();
        state.make_progress();
        state.close_batch();
        if base::planted_bug!("node-ack-before-durable") {
            state.on_persisted(base::Seqno(u64::MAX));
        }
        // What may leave before it is written does.
        state.send_trains();
        state.log.submit();
        let jobs = core::mem::take(&mut state.jobs);
        self.flush_rings(&mut state);
        let transport = state.transport.clone();
        let wake_maintenance = core::mem::take(&mut state.wake_maintenance);
        let failed = state.failed.is_some();
        state.turn_clock = None;
        drop(state);
        transport.flush();
        for job in jobs {
            let shard = self.this();
            self.env
                .tasks()
                .spawn(TaskClass::Foreground, async move { shard.run_job(job).await });
        }
        if wake_maintenance {
            self.maintenance.notify();
        }
        if failed {
            self.ended.notify();
        }
    }

    /// Publishes everything for other shards. What a full ring refuses waits for room.
    fn flush_rings(&self, state: &mut State<E, B>) {
        for shard in 0..state.shards {
            let replies = &mut state.replies[usize::from(shard)];
            if !replies.index.is_empty() {
                let replies = core::mem::take(replies);
                state
                    .ring_out
                    .push((ShardId(shard), ShardMessage::Replies(replies)));
            }
        }
        for (to, message) in core::mem::take(&mut state.ring_out) {
            let overflow = &mut state.overflow[usize::from(to.0)];
            if !overflow.is_empty() {
                waiting::push(overflow, message);
            } else if let Err(message) = self.mailbox.try_send(to, message) {
                base::sometimes!("node: ring full");
                overflow.push_back(message);
                let shard = self.this();
                self.env.tasks().spawn(
                    TaskClass::Foreground,
                    async move { shard.drain_overflow(to).await },
                );
            }
        }
        self.mailbox.flush();
    }

    async fn drain_overflow(&self, to: ShardId) {
        loop {
            self.mailbox.writable(to).await;
            let mut state = self.state.borrow_mut();
            let overflow = &mut state.overflow[usize::from(to.0)];
            while let Some(message) = overflow.pop_front() {
                if let Err(message) = self.mailbox.try_send(to, message) {
                    overflow.push_front(message);
                    break;
                }
            }
            self.mailbox.flush();
            if overflow.is_empty() {
                return;
            }
        }
    }

    /// Takes messages from the rings until the shard is dropped.
    pub(crate) async fn run_rings(self: Rc<Self>) {
        loop {
            self.mailbox.readable().await;
            let mut taken = 0;
            while taken < RING_BATCH_MAX
                && let Some((from, message)) = self.mailbox.try_receive()
            {
                taken += 1;
                self.state.borrow_mut().on_ring(from, message);
            }
            if taken > 0 {
                self.turn.notify();
                self.env.tasks().yield_now().await;
            }
        }
    }

    /// Applies what becomes durable until the log fails.
    pub(crate) async fn run_log(self: Rc<Self>) {
        let log = self.with_state(|state| state.log.clone());
        let mut seen = base::Seqno::ZERO;
        loop {
            match log.persisted_beyond(seen).await {
                Ok(persisted) => {
                    seen = persisted;
                    self.step(|state| {
                        state.on_clock_bound(persisted);
                        state.on_persisted(persisted);
                    });
                }
                Err(error) => return self.fail(format!("the log failed: {error}")),
            }
        }
    }

    async fn run_job(self: Rc<Self>, job: Job<E>) {
        match job {
            Job::Get {
                origin,
                key,
                at,
                received,
                deadline,
            } => {
                let result = self.get(&key, at, deadline).await;
                self.step(|state| match result {
                    Ok(Some(found)) => {
                        let (value, ts) = (found.value.as_deref(), found.ts.into());
                        if at.is_stale() {
                            let read_ts = found.read_ts.into();
                            state.reply(origin, &StaleReply { value, ts, read_ts });
                        } else {
                            state.reply(origin, &GetReply { value, ts });
                        }
                    }
                    Ok(None) => state.forward_get(origin, &key, at, received, deadline),
                    Err(refusal) => state.refuse(origin, &refusal),
                });
            }
            Job::Evaluate {
                slot,
                tablet,
                request,
            } if request.kind == Kind::Modify => self.evaluate_modification(slot, &tablet, request).await,
            Job::Evaluate {
                slot,
                tablet,
                request,
            } => self.evaluate(slot, &tablet, request).await,
            Job::Transact(work) => self.transact(*work).await,
            Job::Scan { origin, scan, credit } => self.scan(origin, scan, &credit).await,
            Job::Page { from, ticket, ask } => self.page_for(from, ticket, &ask).await,
            Job::Share { asked, caller, span } => self.tell_share(asked, caller, span).await,
            Job::Split {
                origin,
                key,
                deadline,
            } => self.split(origin, key, deadline).await,
            Job::Move {
                origin,
                range,
                to,
                deadline,
            } => self.move_for(origin, range, to, deadline).await,
            Job::MoveIn {
                from,
                ticket,
                slot,
                arrival,
            } => self.move_in(from, ticket, slot, *arrival).await,
            Job::Merge {
                origin,
                range,
                right,
                deadline,
            } => self.merge_for(origin, range, right, deadline).await,
            Job::Gather { left, right } => self.gather_ranges(left, right).await,
            Job::Bring { range, to } => self.bring(range, to).await,
            Job::Yield { range, to } => self.hand_over(range, to).await,
            Job::Absorb { left, right } => self.absorb(left, right).await,
            Job::Prepared { from, ticket, seqno } => self.prepared(from, ticket, seqno).await,
            Job::Claim { left, right } => self.claim_right(left, right).await,
            Job::RangeMap(origin) => {
                let others = self.ranges_of_others().await;
                self.step(|state| state.reply_range_map(origin, &others));
            }
            Job::Fetch { slot, fetch } => self.fetch(slot, fetch).await,
            Job::Offer { range, to } => self.offer(range, to).await,
            Job::Piece(wanted) => self.send_piece(wanted).await,
            Job::Receive(offered) => self.receive(*offered).await,
            Job::Install {
                slot,
                seqno,
                mark,
                arrived,
            } => self.install(slot, seqno, mark, arrived).await,
            Job::CompleteSplit(applied) => self.complete_foreign_split(applied).await,
            Job::Incarnation(durable) => self.store_incarnation(durable).await,
            Job::Place {
                origin,
                wish,
                deadline,
            } => self.place(origin, &wish, deadline).await,
            Job::Roster => self.store_roster().await,
            Job::Births => self.store_births().await,
            Job::Version => self.store_version().await,
            Job::Survey {
                from,
                term,
                number,
                session,
                after,
            } => self.report(from, term, number, (session, after)).await,
            Job::Order(order) => self.carry_out(order).await,
            Job::Words => self.store_words().await,
            Job::Remove(range) => self.remove_replica(range).await,
            Job::EndDamaged { range, what } => self.end_damaged(range, what).await,
            Job::DropDamaged { range, life } => self.drop_damaged(range, life).await,
            Job::Mend(range) => self.mend(range).await,
            Job::NameLife(letter, caller) => self.name_life(letter, caller).await,
            Job::Status { origin, replicas } => self.status(origin, replicas).await,
            Job::Replicas { from, ticket } => self.replicas_for(from, ticket).await,
            Job::DiskWrite { origin, bytes } => self.disk_write(origin, bytes).await,
        }
    }

    /// Reads the conditions of a write from disk, then lets it go on where it stood.
    async fn evaluate(&self, slot: u32, tablet: &storage::Tablet<E>, request: OwnedRequest) {
        let frame = request.as_frame();
        let Ok(RequestRef::Write(write)) = decode_request(&frame) else {
            unreachable!("only decoded writes with conditions are evaluated")
        };
        let mut values = Vec::with_capacity(write.conditions().len());
        let mut refusal = None;
        for condition in write.conditions() {
            if !tablet.span().contains(condition.key()) {
                base::sometimes!("node: range split between two conditions");
                break;
            }
            match tablet.get(condition.key(), Timestamp::MAX).await {
                Ok(found) => values.push(found.map(|(_, value)| value)),
                Err(error) => {
                    refusal = Some(self.step(|state| state.storage_refusal(tablet.range(), &error)));
                    break;
                }
            }
        }
        self.step(|state| {
            let local = state.slots[slot as usize]
                .live_mut()
                .expect("a range stays while it is being read");
            local.reads.set(local.reads.get() - 1);
            local.replica.release(write.conditions());
            // A split may have taken keys away, or block proposals: then the write is admitted anew.
            let span = &local.replica.descriptor().span;
            let inside = write.conditions().all(|c| span.contains(c.key()))
                && write.ops().all(|op| span.contains(op.key()));
            // And what it writes may by now be what another one is reading for.
            let blocked = local.replica.is_blocked()
                || !local.leads()
                || local.replica.is_reserved(write.ops()) && !base::planted_bug!("node-reservation-ignored")
                || local.replica.is_held(write.ops(), write.conditions());
            match refusal {
                Some(refusal) => state.refuse(request.origin, &refusal),
                None if !inside || blocked => {
                    base::sometimes!("node: range changed while a condition was read");
                    state.on_owned(&request);
                }
                None => {
                    let failed = first_violated(write.conditions(), &values);
                    let id = write.id.write_id();
                    state.finish_evaluation(slot, &id, failed, write.ops(), request.as_raw());
                }
            }
            state.run_parked(slot);
        });
    }

    /// One raw durable write of the bench: what the device can do, through the same I/O path as the log.
    async fn disk_write(&self, origin: Origin, bytes: u32) {
        let block = u32::try_from(base::limits::BLOCK_BYTES).expect("4096");
        if bytes == 0 || bytes > 256 * block || !bytes.is_multiple_of(block) {
            let message = format!("a raw write has a multiple of {block} bytes, at most 1 MiB; not {bytes}");
            return self.step(|state| state.refuse(origin, &Refusal::fatal(Code::InvalidRequest, message)));
        }
        if self.with_state(|state| state.gauge.room() > Room::Enough) {
            return self.step(|state| {
                let refusal = Refusal::fatal(Code::DiskFull, state.words_for_full());
                state.refuse(origin, &refusal);
            });
        }
        let written = async {
            let bench = self.bench_file().await?;
            let blocks = u64::from(bytes / block);
            let at = bench.next_block.get();
            let at = if at + blocks > BENCH_BLOCKS { 0 } else { at };
            bench.next_block.set(at + blocks);
            let buf = self.env.disk().alloc(bytes as usize);
            bench.file.write_at(at * u64::from(block), buf).await.0
        };
        let written = written.await;
        self.step(|state| match written {
            Ok(()) => {
                state.counts.disk_writes += 1;
                state.reply(origin, &DiskWriteReply { bytes });
            }
            Err(error) => state.refuse(origin, &Refusal::storage(&StorageError::Disk(error))),
        });
    }

    async fn bench_file(&self) -> Result<Rc<BenchFile<E>>, env::DiskError> {
        if let Some(bench) = self.bench_file.borrow().clone() {
            return Ok(bench);
        }
        let disk = self.env.disk();
        let path = format!("shard-{}/bench.scratch", self.mailbox.shard().0);
        let file = disk.create(&path, OpenMode::WriteDurable).await?;
        let chunk = 256 * base::limits::BLOCK_BYTES;
        let mut zeros = disk.alloc(chunk);
        for offset in (0..BENCH_BLOCKS * base::limits::BLOCK_BYTES as u64).step_by(chunk) {
            let (written, buf) = file.write_at(offset, zeros).await;
            written?;
            zeros = buf;
        }
        let bench = Rc::new(BenchFile {
            file,
            next_block: core::cell::Cell::new(0),
        });
        Ok(self.bench_file.borrow_mut().get_or_insert(bench).clone())
    }
}

impl OwnedRequest {
    pub(crate) fn as_frame(&self) -> Frame<'_> {
        Frame {
            kind: self.kind,
            request: self.origin.request,
            payload: &self.payload,
        }
    }
}

impl<E: Env, B> State<E, B> {
    /// A read whose range went elsewhere while it waited: sent after it.
    fn forward_get(
        &mut self,
        origin: Origin,
        key: &[u8],
        at: ReadAt,
        received: env::Instant,
        deadline: env::Instant,
    ) {
        let deadline_ms = u32::try_from(deadline.since(received).as_millis()).unwrap_or(u32::MAX);
        let get = wire::request::Get {
            key,
            at: at.into(),
            deadline_ms,
        };
        let frame = match wire::outbox::encode_one(origin.request, &get) {
            Ok(frame) => frame,
            Err(error) => unreachable!("a key fits a frame: {error}"),
        };
        let mut reader = wire::FrameReader::new(frame.len());
        reader.extend(&frame);
        let Ok(Some(frame)) = reader.next() else {
            unreachable!("a frame just encoded is whole")
        };
        let raw = RawRequest {
            kind: frame.kind,
            payload: frame.payload,
            origin,
            received,
            hops: 1,
        };
        match self.routes[self.map.position(key)] {
            Route::There(shard) => self.forward(shard, raw),
            Route::Nowhere => self.refuse(origin, &Refusal::not_here()),
            Route::Here(_) => self.on_owned(&raw.to_owned()),
        }
    }
}
