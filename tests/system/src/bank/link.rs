//! The bank's way to the nodes: where ranges are, what time it is, and what drivers want sent.

use crate::client::connection::{Connection, Next};
use crate::client::reply::Reply;
use base::{ClientId, Prng, Timestamp};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use env::sync::Notify;
use env::{Address, Clock, Env, Instant, TaskClass, Tasks};
use sim::SimEnv;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use txn::coordinator::Answer;
use txn::driver::together::{join, may_join};
use txn::driver::{Clearing, Config, Driver, Out, Ticket};
use txn::error::Seen;
use txn::request::{self, Batch, Push, Request};
use txn::{Bytes, Isolation, Priority, TxnId, Who, codec};
use wire::{Code, Message};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tries to find who leads before a part counts as lost.
const TRIES_MAX: u32 = 40;
/// How long what is left of a transaction is seen to.
const FINISH: Duration = Duration::from_secs(60);
/// What is to be said about decided transactions waits for more of it, up to this.
const FINISH_PAUSE_MAX_US: u64 = 4_000;

/// Answers, and losses, that have come for one driver.
#[derive(Debug)]
pub(super) struct Queue {
    come: RefCell<VecDeque<(Ticket, Option<request::Answer>)>>,
    changed: Notify,
}

impl Queue {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            come: RefCell::default(),
            changed: Notify::new(),
        })
    }

    /// Waits until something has come, or the time has.
    pub(super) async fn wait(&self, link: &Link, until_ns: Option<u64>) {
        if !self.come.borrow().is_empty() {
            return;
        }
        let now_ns = link.now_ns();
        let left = until_ns.map_or(PATIENCE.as_nanos(), |until| until.saturating_sub(now_ns).into());
        let left = u64::try_from(left).unwrap_or(u64::MAX).max(1);
        let changed = self.changed.notified();
        crate::client::connection::within(&link.env, Duration::from_nanos(left), changed).await;
    }

    fn put(&self, ticket: Ticket, answer: Option<request::Answer>) {
        self.come.borrow_mut().push_back((ticket, answer));
        self.changed.notify();
    }
}

type Finishing = (Batch, (Rc<Queue>, Ticket));

/// What a node's clock showed, and when it was asked and answered.
#[derive(Debug, Clone, Copy)]
struct Sample {
    shown: Timestamp,
    asked: Instant,
    answered: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    env: SimEnv,
    addresses: Vec<Address>,
    config: Config,
    client: ClientId,
    prng: RefCell<Prng>,
    connections: RefCell<Vec<Option<Rc<Connection>>>>,
    /// Where ranges begin, and which node is asked for them next.
    ranges: RefCell<Vec<(Vec<u8>, usize)>>,
    sample: Cell<Option<Sample>>,
    /// By range, while something is on its way there: parts that go together next, and who wants to hear.
    finishing: RefCell<BTreeMap<usize, Vec<Finishing>>>,
    /// What has been committed lies at or below.
    committed: Cell<Timestamp>,
}

impl Link {
    pub(super) fn new(env: SimEnv, addresses: Vec<Address>, clock_bound_ns: u64, prng: Prng) -> Rc<Self> {
        let mut config = Config::default();
        config.coordinator.clock_bound_ns = clock_bound_ns;
        Rc::new(Self {
            env,
            connections: RefCell::new(vec![None; addresses.len()]),
            addresses,
            config,
            client: ClientId(3),
            prng: RefCell::new(prng),
            ranges: RefCell::new(vec![(Vec::new(), 0)]),
            sample: Cell::new(None),
            finishing: RefCell::default(),
            committed: Cell::new(Timestamp::ZERO),
        })
    }

    pub(super) fn hang_up(&self) {
        for connection in self.connections.borrow_mut().iter_mut().filter_map(Option::take) {
            connection.hang_up();
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.env.tasks().spawn(TaskClass::Foreground, task);
    }

    pub(super) async fn sleep(&self, time: Duration) {
        self.env.clock().sleep(time).await;
    }

    pub(super) fn now(&self) -> Instant {
        self.env.clock().now()
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now().0
    }

    /// A transaction that begins now, as soon as some node has shown its clock.
    pub(super) async fn begin(&self, id: TxnId, what: (Isolation, Priority), seed: u64) -> Driver {
        let sample = loop {
            if let Some(sample) = self.sample.get() {
                break sample;
            }
            self.ask_clock(id).await;
        };
        let now = self.env.clock().now();
        let least = sample.shown.plus_ns(now.0.saturating_sub(sample.answered.0));
        let most = sample.shown.plus_ns(now.0.saturating_sub(sample.asked.0));
        let read_ts = least.max(self.committed.get());
        let limit = most.max(read_ts).plus_ns(self.config.coordinator.clock_bound_ns);
        Driver::begin(self.config, (id, "teller"), what, (read_ts, limit), now.0, seed)
    }

    /// Asks a node for something that changes nothing: its clock comes with the answer.
    async fn ask_clock(&self, id: TxnId) {
        let anchor = super::account(self.prng.borrow_mut().index(super::ACCOUNTS));
        let who = Arc::new(Who {
            id,
            anchor,
            name: "".into(),
            isolation: Isolation::default(),
            priority: Priority::default(),
            start_ts: Timestamp::ZERO,
        });
        let part = Batch {
            header: None,
            requests: vec![(0, Request::QueryTxn { who })],
        };
        if self.deliver(&part).await.is_none() {
            self.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Something was committed then: what begins later sees it.
    pub(super) fn note_commit(&self, ts: Timestamp) {
        self.committed.set(self.committed.get().max(ts));
    }

    pub(super) fn place(&self, key: &[u8]) -> usize {
        let ranges = self.ranges.borrow();
        ranges.partition_point(|(start, _)| **start <= *key).max(1) - 1
    }

    /// Hands a driver what has come; what it wants then.
    pub(super) fn poll(&self, driver: &mut Driver, queue: &Queue) -> Vec<Out> {
        loop {
            let come = queue.come.borrow_mut().pop_front();
            let Some((ticket, answer)) = come else { break };
            match answer {
                Some(answer) => driver.on_answer(ticket, answer, self.now_ns()),
                None => driver.on_lost(ticket, self.now_ns()),
            }
        }
        driver.poll(self.now_ns(), |key| self.place(key))
    }

    /// Hands a driver what has come, and does what it wants; its answer, when there is one.
    pub(super) fn step(self: &Rc<Self>, driver: &mut Driver, queue: &Rc<Queue>) -> Option<Answer> {
        let outs = self.poll(driver, queue);
        let mut answered = None;
        for out in outs {
            match out {
                Out::Answer(answer) => answered = Some(answer),
                other => self.carry_out(other, queue),
            }
        }
        answered
    }

    pub(super) fn carry_out(self: &Rc<Self>, out: Out, queue: &Rc<Queue>) {
        match out {
            Out::Send { ticket, part } if may_join(&part) => {
                self.send_together(part, (queue.clone(), ticket));
            }
            Out::Send { ticket, part } => {
                let (link, queue) = (self.clone(), queue.clone());
                self.spawn(async move {
                    let answer = link.deliver(&part).await;
                    queue.put(ticket, answer);
                });
            }
            Out::Look => {
                let link = self.clone();
                self.spawn(async move { link.look().await });
            }
            Out::Answer(_) | Out::Over | Out::Cleared(_) | Out::Left(_) => {}
        }
    }

    /// As the client library does: what nobody waits for, and comes for one range within a short time or while something is on its way
    /// there, goes together.
    fn send_together(self: &Rc<Self>, part: Batch, to: (Rc<Queue>, Ticket)) {
        let sender = part.header.as_ref().map(|header| &header.who);
        let Some((_, first)) = part.requests.first() else {
            return;
        };
        let place = self.place(first.key(sender));
        let mut finishing = self.finishing.borrow_mut();
        if let Some(waiting) = finishing.get_mut(&place) {
            base::sometimes!("system: ends of transactions go together");
            return waiting.push((part, to));
        }
        finishing.insert(place, vec![(part, to)]);
        self.spawn(self.clone().send_waiting(place));
    }

    async fn send_waiting(self: Rc<Self>, place: usize) {
        loop {
            let pause = self.prng.borrow_mut().between(0, FINISH_PAUSE_MAX_US);
            self.sleep(Duration::from_micros(pause)).await;
            let joined = {
                let mut finishing = self.finishing.borrow_mut();
                let Some(joined) = finishing.get_mut(&place).and_then(join) else {
                    finishing.remove(&place);
                    return;
                };
                joined
            };
            match self.deliver(&joined.batch).await {
                Some(answer) => match joined.answer(answer) {
                    Ok(answers) => answers
                        .into_iter()
                        .for_each(|((queue, ticket), answer)| queue.put(ticket, Some(answer))),
                    Err(parts) => {
                        base::sometimes!("system: ends of transactions that went together go by themselves");
                        for (part, (queue, ticket)) in parts {
                            queue.put(ticket, self.deliver(&part).await);
                        }
                    }
                },
                None => joined.tags().for_each(|(queue, ticket)| queue.put(ticket, None)),
            }
        }
    }

    /// Sees to what is left of a transaction.
    pub(super) fn finish(self: &Rc<Self>, mut driver: Driver, queue: Rc<Queue>) {
        let link = self.clone();
        self.spawn(async move {
            let end = link.env.clock().now() + FINISH;
            loop {
                link.step(&mut driver, &queue);
                if driver.is_over() || link.env.clock().now() >= end {
                    return;
                }
                queue.wait(&link, driver.wake_at_ns()).await;
            }
        });
    }

    /// Gets an intent out of the way, or gives up after a while.
    pub(super) async fn clear(self: &Rc<Self>, seen: Seen, key: Bytes, push: Push) {
        let seed = self.prng.borrow_mut().next_u64();
        let mut clearing = Clearing::new(&self.config, seen, key, push, seed);
        let queue = Queue::new();
        let end = self.env.clock().now() + PATIENCE * 4;
        while self.env.clock().now() < end {
            loop {
                let come = queue.come.borrow_mut().pop_front();
                let Some((ticket, answer)) = come else { break };
                match answer {
                    Some(answer) => clearing.on_answer(ticket, answer, self.now_ns()),
                    None => clearing.on_lost(ticket, self.now_ns()),
                }
            }
            for out in clearing.poll(self.now_ns(), |key| self.place(key)) {
                if let Out::Cleared(_) = out {
                    return;
                }
                self.carry_out(out, &queue);
            }
            queue.wait(self, clearing.wake_at_ns()).await;
        }
    }

    /// Sends a part to whoever leads its range; `None` when it may have been done, or nobody was found.
    async fn deliver(&self, part: &Batch) -> Option<request::Answer> {
        let mut batch = Vec::new();
        codec::encode_batch(part, &mut batch);
        let sender = part.header.as_ref().map(|header| &header.who);
        let key: Bytes = part.requests.first()?.1.key(sender).into();
        let message = wire::request::Transact {
            batch: &batch,
            deadline_ms: 1_000,
        };
        match self.ask(&message, &key).await? {
            Reply::Transact { answer, .. } => Some(answer),
            other => panic!("a batch was answered by {other:?}"),
        }
    }

    /// Asks for a range to begin at a key.
    pub(super) async fn split(&self, key: &Bytes) {
        let split = wire::request::Split {
            key,
            deadline_ms: 1_000,
        };
        self.ask(&split, key).await;
        self.look().await;
    }

    /// Asks whoever leads the range of a key.
    pub(super) async fn ask<M: Message>(&self, message: &M, key: &[u8]) -> Option<Reply> {
        for _ in 0..TRIES_MAX {
            let (position, at) = {
                let position = self.place(key);
                (position, self.ranges.borrow()[position].1)
            };
            let refused = match self.try_at(message, at).await {
                Ok(reply) => return Some(reply),
                Err(refused) => refused?,
            };
            if matches!(refused, Code::NotLeader | Code::Unavailable) {
                let other = self.prng.borrow_mut().index(self.addresses.len());
                if let Some(range) = self.ranges.borrow_mut().get_mut(position) {
                    range.1 = other;
                }
            }
            let pause = self.prng.borrow_mut().between(1, 30);
            self.sleep(Duration::from_millis(pause)).await;
        }
        None
    }

    /// Asks any node, and those that lead if that one will not do.
    pub(super) async fn ask_anybody<M: Message>(&self, message: &M, key: &[u8]) -> Option<Reply> {
        let at = self.prng.borrow_mut().index(self.addresses.len());
        match self.try_at(message, at).await {
            Ok(reply) => Some(reply),
            Err(_) => self.ask(message, key).await,
        }
    }

    /// One try at one node: the reply, or that it was refused without being done, or `None` when it may have been.
    async fn try_at<M: Message>(&self, message: &M, at: usize) -> Result<Reply, Option<Code>> {
        let Some(connection) = self.connect(at).await else {
            return Err(Some(Code::Unavailable));
        };
        let asked = self.env.clock().now();
        match connection.send(message).next(&self.env, PATIENCE).await {
            Next::Reply(Reply::Refused { code, .. }) => match code {
                Code::Ambiguous | Code::DiskFailed | Code::DiskFull | Code::ShuttingDown => Err(None),
                Code::TimestampTooOld => Err(None),
                // The clock that was heard last runs ahead of this one, as for a while after a restart.
                Code::TimestampAhead => {
                    base::sometimes!("system: a transaction is ahead of a node's clock");
                    self.sample.set(None);
                    Err(Some(code))
                }
                code => Err(Some(code)),
            },
            Next::Reply(reply) => {
                if let Reply::Transact { now, .. } = reply {
                    self.note(now, asked);
                }
                Ok(reply)
            }
            Next::Closed | Next::TimedOut => Err(None),
        }
    }

    /// The last one counts: one that ran ahead is forgotten.
    fn note(&self, shown: Timestamp, asked: Instant) {
        let answered = self.env.clock().now();
        self.sample.set(Some(Sample {
            shown,
            asked,
            answered,
        }));
    }

    async fn connect(&self, at: usize) -> Option<Rc<Connection>> {
        let alive = self.connections.borrow()[at].clone();
        if let Some(alive) = alive.filter(|connection| !connection.is_dead()) {
            return Some(alive);
        }
        let opened = Connection::open(&self.env, self.addresses[at], self.client, None, PATIENCE).await;
        let (connection, _) = opened.ok()?;
        self.connections.borrow_mut()[at] = Some(connection.clone());
        Some(connection)
    }

    /// Looks up where ranges begin. Nodes know their own ranges only, so what others have said stays: to take one range for two costs
    /// nothing but a message.
    async fn look(&self) {
        let at = self.prng.borrow_mut().index(self.addresses.len());
        let message = wire::request::RangeMap { deadline_ms: 1_000 };
        let Ok(Reply::RangeMap(seen)) = self.try_at(&message, at).await else {
            return;
        };
        let edges = seen
            .iter()
            .flat_map(|range| [Some(&range.span.start), range.span.end.as_ref()]);
        for edge in edges.flatten() {
            let mut ranges = self.ranges.borrow_mut();
            let after = ranges.partition_point(|(start, _)| **start <= **edge);
            let before = after.checked_sub(1).map(|before| ranges[before].clone());
            match before {
                Some((start, _)) if *start == **edge => {}
                Some((_, at)) => ranges.insert(after, (edge.to_vec(), at)),
                None => ranges.insert(0, (edge.to_vec(), 0)),
            }
        }
    }
}
