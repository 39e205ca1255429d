//! The harness's own client: wire frames over the simulated network, no more help than a client library has.
//!
//! ```text
//!   Client ── call ─► attempt ─► Connection ─► Inbox ─► reply
//!     │                  ▲                        │
//!     └─ same WriteId ───┴── lost, late, refused ─┘   until an answer settles it, or it is given up
//! ```

pub mod connection;
pub mod reply;
mod scan;
mod session;

use crate::check::ranges::RangeSeen;
use crate::history::{Action, Condition, KeyNo, Keys, Mutation, Outcome, ValueId};
use base::api::{ReadAt, WriteId};
use base::{ClientId, Prng};
use connection::{Connection, Inbox, Next};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use env::{Address, Clock, Env};
use reply::Reply;
use session::Session;
use sim::SimEnv;
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::{Code, request};

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// How long an answer is waited for.
    pub patience: Duration,
    /// The deadline that the server is told, in milliseconds.
    pub deadline_ms: u32,
    /// That a time-out also ends the connection; otherwise the retry overtakes on the same one.
    pub hang_up: f64,
    /// That a call that may be given up is, after a try of it was lost.
    pub give_up: f64,
    /// Whether hellos ask for a shard.
    pub picks_shard: bool,
}

/// Something that one client counts for the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections made.
    pub connections: u64,
    /// Calls tried again.
    pub retries: u64,
    /// Calls given up with an unknown outcome.
    pub unknown: u64,
    /// Refusals that a range on its way causes; the client tries again.
    pub wrong_shard: u64,
    /// Refusals of nodes that do not lead the range; the client tries another one.
    pub not_leader: u64,
}

/// A client session.
#[derive(Debug)]
pub struct Client {
    env: SimEnv,
    /// Of the nodes.
    addresses: Vec<Address>,
    /// The node that is asked next.
    at: Cell<usize>,
    keys: Keys,
    habits: Cell<Habits>,
    id: ClientId,
    session: RefCell<Session>,
    prng: RefCell<Prng>,
    /// By node.
    connections: RefCell<Vec<Option<Rc<Connection>>>>,
    /// Only one worker of the client connects at a time.
    connecting: Cell<bool>,
    shards: Cell<u16>,
    ranges: RefCell<Vec<RangeSeen>>,
    counts: Cell<Counts>,
    /// Refusals, also of tries that were made again, by code.
    refusals: RefCell<BTreeMap<String, u64>>,
    violations: RefCell<Vec<String>>,
}

/// How one try ended.
enum Tried {
    /// Settled.
    Ended(Outcome),
    /// Not done, and again after a pause.
    Again(Duration),
    /// Not done, and again at another node.
    Elsewhere,
    /// Perhaps done.
    Lost,
}

impl Client {
    /// A client that has not connected yet.
    #[must_use]
    pub fn new(env: SimEnv, addresses: Vec<Address>, keys: Keys, habits: Habits, mut prng: Prng) -> Rc<Self> {
        let id = ClientId(u128::from(prng.next_u64()) << 64 | u128::from(prng.next_u64()));
        Rc::new(Self {
            env,
            connections: RefCell::new(vec![None; addresses.len()]),
            addresses,
            at: Cell::new(0),
            keys,
            habits: Cell::new(habits),
            id,
            session: RefCell::new(Session::new()),
            prng: RefCell::new(prng),
            connecting: Cell::new(false),
            shards: Cell::new(1),
            ranges: RefCell::default(),
            counts: Cell::new(Counts::default()),
            refusals: RefCell::default(),
            violations: RefCell::new(Vec::new()),
        })
    }

    /// Behaves differently from now on.
    pub fn set_habits(&self, habits: Habits) {
        self.habits.set(habits);
    }

    /// Ends the connection: the next call makes another.
    pub fn hang_up(&self) {
        for connection in self.connections.borrow_mut().iter_mut() {
            if let Some(connection) = connection.take() {
                connection.hang_up();
            }
        }
    }

    /// The node at `at` is of no use now: another one is asked next.
    fn turn_away(&self, at: usize) {
        let nodes = self.addresses.len();
        if nodes > 1 && self.at.get() == at {
            let step = 1 + self.prng.borrow_mut().index(nodes - 1);
            self.at.set((at + step) % nodes);
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// Refusals, also of tries that were made again, by code.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.refusals.borrow().clone()
    }

    /// What must never be seen and was; taken.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        core::mem::take(&mut *self.violations.borrow_mut())
    }

    /// The range map that was seen last.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeSeen> {
        self.ranges.borrow().clone()
    }

    /// How many shards the node said that it has.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards.get()
    }

    /// Carries a call out, however often it takes, and says how it ended and after how many tries.
    ///
    /// # Cancellation
    /// Leaves the outcome open.
    pub async fn call(&self, number: u32, action: &Action) -> (Outcome, u32) {
        let seq = match action {
            Action::Write(..) => Some(self.number_a_write().await),
            Action::Get(..)
            | Action::Scan { .. }
            | Action::Split(_)
            | Action::Merge(..)
            | Action::Move(..)
            | Action::Place(..)
            | Action::RangeMap
            | Action::Status => None,
        };
        let (mut tries, mut doubt) = (0, false);
        let outcome = loop {
            tries += 1;
            if tries > 1 {
                self.count(|counts| counts.retries += 1);
            }
            let at = self.node_for(action);
            let Some(connection) = self.connect(at).await else {
                self.turn_away(at);
                continue;
            };
            match self.attempt(&connection, number, action, seq).await {
                // Refused for good is this try; of an earlier one that was lost it says nothing.
                Tried::Ended(Outcome::Refused(_)) if doubt && seq.is_some() => break Outcome::Unknown,
                // Nor does a condition that fails now: the lost try may arrive after this one, when the condition holds.
                Tried::Ended(Outcome::ConditionFailed(..)) if doubt => break Outcome::Unknown,
                Tried::Ended(outcome) => break outcome,
                Tried::Again(pause) => self.env.clock().sleep(pause).await,
                Tried::Elsewhere => {
                    self.turn_away(at);
                    let pause = self.prng.borrow_mut().between(1, 20);
                    self.env.clock().sleep(Duration::from_millis(pause)).await;
                }
                Tried::Lost => {
                    doubt = true;
                    self.turn_away(at);
                    let give_up = self.habits.get().give_up;
                    if may_be_given_up(action) && self.prng.borrow_mut().chance(give_up) {
                        break Outcome::Unknown;
                    }
                }
            }
        };
        if let Some(seq) = seq {
            self.session.borrow_mut().finish(seq);
        }
        if outcome == Outcome::Unknown {
            self.count(|counts| counts.unknown += 1);
        }
        (outcome, tries)
    }

    /// The node that is asked next: of the past any, now and then.
    fn node_for(&self, action: &Action) -> usize {
        let (Action::Get(_, at) | Action::Scan { at, .. }) = action else {
            return self.at.get();
        };
        let prng = &mut *self.prng.borrow_mut();
        if *at == ReadAt::Newest || prng.chance(0.3) {
            return self.at.get();
        }
        prng.index(self.addresses.len())
    }

    async fn number_a_write(&self) -> u64 {
        loop {
            let begun = self.session.borrow_mut().begin();
            match begun {
                Some(seq) => return seq,
                None => self.env.clock().sleep(Duration::from_millis(10)).await,
            }
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    fn violation(&self, what: String) {
        self.violations.borrow_mut().push(what);
    }

    /// The connection to a node, made anew when there is none. `None` when that did not work; then a moment has passed.
    async fn connect(&self, at: usize) -> Option<Rc<Connection>> {
        loop {
            let alive = self.connections.borrow()[at]
                .clone()
                .filter(|connection| !connection.is_dead());
            if alive.is_some() {
                return alive;
            }
            if !self.connecting.replace(true) {
                break;
            }
            self.connecting.set(true);
            self.env.clock().sleep(Duration::from_millis(1)).await;
        }
        let habits = self.habits.get();
        let shard = (habits.picks_shard && self.shards.get() > 1).then(|| {
            // Now and then one that the node may not have any more.
            let shard = self.prng.borrow_mut().below(u64::from(self.shards.get()));
            u16::try_from(shard).expect("below a 16-bit bound")
        });
        let connected =
            Connection::open(&self.env, self.addresses[at], self.id, shard, habits.patience).await;
        self.connecting.set(false);
        match connected {
            Ok((connection, shards)) => {
                self.shards.set(shards);
                self.count(|counts| counts.connections += 1);
                self.connections.borrow_mut()[at] = Some(connection.clone());
                Some(connection)
            }
            Err(code) => {
                let why = code.map_or("no connection".to_owned(), |code| format!("hello: {code:?}"));
                *self.refusals.borrow_mut().entry(why).or_insert(0) += 1;
                if code == Some(Code::NoSuchShard) {
                    self.shards.set(1);
                }
                let pause = self.prng.borrow_mut().between(1, 50);
                self.env.clock().sleep(Duration::from_millis(pause)).await;
                None
            }
        }
    }

    async fn attempt(
        &self,
        connection: &Rc<Connection>,
        number: u32,
        action: &Action,
        seq: Option<u64>,
    ) -> Tried {
        let deadline_ms = self.habits.get().deadline_ms;
        let inbox = match action {
            Action::Get(key, at) => connection.send(&request::Get {
                key: &self.keys.bytes(*key),
                at: (*at).into(),
                deadline_ms,
            }),
            Action::Write(conditions, mutations) => {
                let seq = seq.expect("a write has a number");
                let acked_below = self.session.borrow().acked_below();
                let id = WriteId {
                    client: self.id,
                    seq,
                    acked_below,
                };
                self.send_write(connection, number, id, conditions, mutations, deadline_ms)
            }
            Action::Scan { .. } => return self.scan(connection, action).await,
            Action::Split(key) => connection.send(&request::Split {
                key: &self.keys.bytes(*key),
                deadline_ms,
            }),
            Action::Merge(range, right) => connection.send(&request::Merge {
                range: *range,
                right: *right,
                deadline_ms,
            }),
            Action::Move(range, shard) => connection.send(&request::Move {
                range: *range,
                shard: *shard,
                deadline_ms,
            }),
            Action::Place(range, nodes, leader) => connection.send(&request::Place {
                range: *range,
                nodes,
                leader: *leader,
                deadline_ms,
            }),
            Action::RangeMap => connection.send(&request::RangeMap { deadline_ms }),
            Action::Status => connection.send(&request::Status {
                replicas: false,
                deadline_ms,
            }),
        };
        let reply = match self.next(connection, &inbox).await {
            Ok(reply) => reply,
            Err(tried) => return tried,
        };
        self.settle(action, reply)
    }

    /// The next reply, or how the try ended without one.
    async fn next(&self, connection: &Connection, inbox: &Rc<Inbox>) -> Result<Reply, Tried> {
        let habits = self.habits.get();
        match inbox.next(&self.env, habits.patience).await {
            Next::Reply(reply) => Ok(reply),
            Next::Closed => Err(Tried::Lost),
            Next::TimedOut => {
                if self.prng.borrow_mut().chance(habits.hang_up) {
                    connection.hang_up();
                }
                Err(Tried::Lost)
            }
        }
    }

    fn send_write(
        &self,
        connection: &Rc<Connection>,
        number: u32,
        id: WriteId,
        conditions: &[Condition],
        mutations: &[Mutation],
        deadline_ms: u32,
    ) -> Rc<Inbox> {
        let owned = Owned::new(&self.keys, number, conditions, mutations);
        if let ([], [Mutation::Put(..)]) = (conditions, mutations)
            && self.prng.borrow_mut().chance(0.5)
        {
            let (key, value) = &owned.ops[0];
            return connection.send(&request::Put {
                id: id.into(),
                key,
                value: value.as_deref().unwrap_or_default(),
                deadline_ms,
            });
        }
        let conditions: Vec<_> = owned.conditions();
        let ops: Vec<_> = owned.ops(mutations);
        connection.send(&request::Write {
            id: id.into(),
            conditions: &conditions,
            ops: &ops,
            deadline_ms,
        })
    }

    /// What a single reply to a call means.
    fn settle(&self, action: &Action, reply: Reply) -> Tried {
        let outcome = match (action, reply) {
            (_, Reply::Refused { code, retry_after }) => return self.refused(action, code, retry_after),
            (Action::Get(key, _), Reply::Value { value, ts }) => match value {
                None => Outcome::Value(None, ts),
                Some(bytes) => match self.read(*key, &bytes) {
                    Some(value) => Outcome::Value(Some(value), ts),
                    None => return Tried::Again(Duration::from_millis(100)),
                },
            },
            (Action::Get(key, _), Reply::Past { value, ts, read_ts }) => match value {
                None => Outcome::Past(None, ts, read_ts),
                Some(bytes) => match self.read(*key, &bytes) {
                    Some(value) => Outcome::Past(Some(value), ts, read_ts),
                    None => return Tried::Again(Duration::from_millis(100)),
                },
            },
            (Action::Write(..), Reply::Written { ts }) => Outcome::Applied(ts),
            (Action::Write(conditions, _), Reply::ConditionFailed { condition, found, ts }) => {
                let key = conditions.get(condition as usize).map(|(key, _)| *key);
                let found = match (key, found) {
                    (Some(key), Some(bytes)) => self.read(key, &bytes),
                    (Some(_), None) => None,
                    (None, _) => {
                        self.violation(format!("condition {condition} of {action:?} failed"));
                        None
                    }
                };
                Outcome::ConditionFailed(condition, found, ts)
            }
            (Action::RangeMap, Reply::RangeMap(ranges)) => {
                if let Err(wrong) =
                    crate::check::ranges::check(&ranges, crate::SHARDS_MAX, self.addresses.len() > 1)
                {
                    self.violation(format!("range map: {wrong}"));
                }
                *self.ranges.borrow_mut() = ranges;
                Outcome::Done
            }
            (Action::Split(_) | Action::Merge(..) | Action::Move(..) | Action::Place(..), Reply::Done)
            | (Action::Status, Reply::Status(_)) => Outcome::Done,
            (action, reply) => {
                self.violation(format!("{action:?} was answered by {reply:?}"));
                Outcome::Unknown
            }
        };
        Tried::Ended(outcome)
    }

    fn read(&self, key: KeyNo, bytes: &[u8]) -> Option<ValueId> {
        let value = ValueId::parse(key, bytes);
        if value.is_none() {
            self.violation(format!(
                "key {key} has a value that nobody wrote: {}",
                bytes.escape_ascii()
            ));
        }
        value
    }

    fn refused(&self, action: &Action, code: Code, retry_after: Option<Duration>) -> Tried {
        *self.refusals.borrow_mut().entry(format!("{code:?}")).or_insert(0) += 1;
        let administrative = matches!(
            action,
            Action::Split(_) | Action::Merge(..) | Action::Move(..) | Action::Place(..)
        );
        match code {
            // Nothing happened, and the next try has another deadline.
            Code::DeadlineExceeded => Tried::Again(Duration::from_millis(1)),
            Code::BatchSpansRanges | Code::TimestampTooOld | Code::TimestampAhead | Code::Corruption => {
                Tried::Ended(Outcome::Refused(code))
            }
            // Who joins may not be known yet.
            // Nor what ranges are neighbours, and where their replicas are.
            Code::InvalidRequest if matches!(action, Action::Place(..) | Action::Merge(..)) => {
                Tried::Ended(Outcome::Refused(code))
            }
            // Nodes of an older build do not know what a merge is.
            Code::VersionInactive if matches!(action, Action::Merge(..)) => {
                base::sometimes!("system: a merge is refused before all nodes are upgraded");
                Tried::Ended(Outcome::Refused(code))
            }
            Code::NoSuchRange | Code::NoSuchShard if administrative => Tried::Ended(Outcome::Refused(code)),
            Code::WrongShard | Code::RangeBusy | Code::Unavailable | Code::Overloaded => {
                if code == Code::WrongShard && !administrative {
                    self.count(|counts| counts.wrong_shard += 1);
                }
                if administrative {
                    return Tried::Ended(Outcome::Refused(code));
                }
                Tried::Again(retry_after.unwrap_or(Duration::from_millis(5)))
            }
            Code::NotLeader => {
                self.count(|counts| counts.not_leader += 1);
                Tried::Elsewhere
            }
            // Refused early: nothing happened. Somebody else leads soon, or there is room again; or the caller does without.
            Code::DiskFull if retry_after.is_some() => {
                let goes_on = !may_be_given_up(action) || self.prng.borrow_mut().chance(0.7);
                match retry_after.filter(|_| goes_on) {
                    Some(pause) => Tried::Again(pause),
                    None => Tried::Ended(Outcome::Refused(code)),
                }
            }
            // A leader that was replaced, or a node that is about to stop.
            Code::Ambiguous | Code::DiskFailed | Code::DiskFull | Code::ShuttingDown => Tried::Lost,
            code => {
                self.violation(format!("{action:?} was refused with {code} ({code:?})"));
                Tried::Ended(Outcome::Unknown)
            }
        }
    }
}

/// Whether an open outcome leaves what happened to be seen: a write that only puts, or a read.
fn may_be_given_up(action: &Action) -> bool {
    match action {
        Action::Write(_, mutations) => mutations
            .iter()
            .all(|mutation| matches!(mutation, Mutation::Put(..))),
        Action::Get(..)
        | Action::Scan { .. }
        | Action::Split(_)
        | Action::Merge(..)
        | Action::Move(..)
        | Action::Place(..)
        | Action::RangeMap
        | Action::Status => true,
    }
}

/// The bytes of a write, kept while it is encoded.
struct Owned {
    conditions: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Key and value, or start and end.
    ops: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Owned {
    fn new(keys: &Keys, number: u32, conditions: &[Condition], mutations: &[Mutation]) -> Self {
        let condition = |(key, value): &Condition| {
            let expected = value.map(|value| value.bytes(*key));
            (keys.bytes(*key), expected)
        };
        let op = |(op, mutation): (u16, &Mutation)| match *mutation {
            Mutation::Put(key, len) => (
                keys.bytes(key),
                Some(
                    ValueId {
                        call: number,
                        op,
                        len,
                    }
                    .bytes(key),
                ),
            ),
            Mutation::Delete(key) => (keys.bytes(key), None),
            Mutation::DeleteRange(start, end) => (keys.bytes(start), keys.end_bytes(end)),
        };
        Self {
            conditions: conditions.iter().map(condition).collect(),
            ops: (0u16..).zip(mutations).map(op).collect(),
        }
    }

    fn conditions(&self) -> Vec<request::Condition<'_>> {
        self.conditions
            .iter()
            .map(|(key, value)| match value {
                None => request::Condition::Absent { key },
                Some(value) => request::Condition::Equals { key, value },
            })
            .collect()
    }

    fn ops(&self, mutations: &[Mutation]) -> Vec<request::Op<'_>> {
        self.ops
            .iter()
            .zip(mutations)
            .map(|((key, second), mutation)| match mutation {
                Mutation::Put(..) => request::Op::Put {
                    key,
                    value: second.as_deref().unwrap_or_default(),
                },
                Mutation::Delete(_) => request::Op::Delete { key },
                Mutation::DeleteRange(..) => request::Op::DeleteRange {
                    start: key,
                    end: second.as_deref(),
                },
            })
            .collect()
    }
}
