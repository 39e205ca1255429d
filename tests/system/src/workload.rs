//! What clients do: calls drawn by weight, until the budget of the run is used up.

use crate::client::Client;
use crate::history::{Action, History, KeyNo, Mutation, Outcome, ValueId};
use crate::scenario::Scenario;
use base::api::ReadAt;
use base::{Prng, Timestamp};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use env::{Clock, Env};
use sim::SimEnv;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Timestamps that are kept to read at again.
const MOMENTS_MAX: usize = 64;

/// What all workers of a run share.
#[derive(Debug)]
pub struct Workload {
    scenario: Rc<Scenario>,
    history: Rc<History>,
    env: SimEnv,
    prng: RefCell<Prng>,
    /// Calls that may still be begun.
    budget: Cell<u64>,
    /// Workers that have not ended.
    workers: Cell<u64>,
    /// What was last seen of each key: conditions are made of it.
    seen: RefCell<BTreeMap<KeyNo, Option<ValueId>>>,
    /// Timestamps that were seen.
    moments: RefCell<Vec<Timestamp>>,
}

impl Workload {
    /// A workload with the scenario's budget.
    #[must_use]
    pub fn new(scenario: Rc<Scenario>, history: Rc<History>, env: SimEnv, prng: Prng) -> Rc<Self> {
        let budget = Cell::new(scenario.calls);
        Rc::new(Self {
            scenario,
            history,
            env,
            prng: RefCell::new(prng),
            budget,
            workers: Cell::new(0),
            seen: RefCell::default(),
            moments: RefCell::default(),
        })
    }

    /// Whether every call of the budget has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.workers.get() == 0
    }

    /// No new calls from now on.
    pub fn close(&self) {
        self.budget.set(0);
    }

    /// Makes calls, one after another, until the budget is used up.
    pub async fn work(self: Rc<Self>, client: Rc<Client>, number: u16) {
        self.workers.set(self.workers.get() + 1);
        while let Some(left) = self.budget.get().checked_sub(1) {
            self.budget.set(left);
            let draw = |call| self.draw(&client, call);
            self.call(&client, number, draw).await;
        }
        self.workers.set(self.workers.get() - 1);
    }

    /// Makes one call and records it.
    pub async fn call(&self, client: &Client, number: u16, action: impl FnOnce(u32) -> Action) -> Outcome {
        let clock = self.env.clock();
        let call = self
            .history
            .begin(number, (clock.now().0, clock.wall_ns()), action);
        let action = self.history.call(call).action;
        let (outcome, tries) = client.call(call, &action).await;
        for wrong in client.take_violations() {
            self.history.violation(format!("call {call}: {wrong}"));
        }
        self.learn(call, &action, &outcome);
        self.history.end(call, tries, outcome.clone());
        outcome
    }

    /// Remembers what later calls are made of.
    fn learn(&self, call: u32, action: &Action, outcome: &Outcome) {
        let mut seen = self.seen.borrow_mut();
        let ts = match (action, outcome) {
            (Action::Get(key, ReadAt::Newest), Outcome::Value(value, ts)) => {
                seen.insert(*key, *value);
                *ts
            }
            (Action::Write(_, mutations), Outcome::Applied(ts)) => {
                for (op, mutation) in (0u16..).zip(mutations) {
                    match *mutation {
                        Mutation::Put(key, len) => seen.insert(key, Some(ValueId { call, op, len })),
                        Mutation::Delete(key) => seen.insert(key, None),
                        Mutation::DeleteRange(start, _) => seen.insert(start, None),
                    };
                }
                *ts
            }
            (Action::Write(conditions, _), Outcome::ConditionFailed(position, found, ts)) => {
                if let Some((key, _)) = conditions.get(*position as usize) {
                    seen.insert(*key, *found);
                }
                *ts
            }
            (_, Outcome::Rows { read_ts, .. } | Outcome::Past(_, _, read_ts)) => *read_ts,
            _ => return,
        };
        let mut moments = self.moments.borrow_mut();
        if moments.len() < MOMENTS_MAX {
            moments.push(ts);
        } else {
            let at = self.prng.borrow_mut().index(MOMENTS_MAX);
            moments[at] = ts;
        }
    }

    fn draw(&self, client: &Client, _call: u32) -> Action {
        let prng = &mut *self.prng.borrow_mut();
        let mix = self.scenario.mix;
        let weights = [
            mix.get,
            mix.get_past,
            mix.put,
            mix.delete,
            mix.delete_range,
            mix.batch,
            mix.batch_wide,
            mix.conditional,
            mix.scan,
            mix.scan_past,
            mix.split,
            mix.move_range,
            mix.range_map,
            mix.place,
            mix.get_stale,
            mix.scan_stale,
            mix.status,
            mix.merge,
        ];
        let mut at = prng.below(weights.iter().sum());
        let kind = weights.iter().position(|weight| match at.checked_sub(*weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        });
        match kind.unwrap_or_default() {
            0 => Action::Get(self.key(prng), ReadAt::Newest),
            1 => {
                let key = self.key(prng);
                Action::Get(key, ReadAt::At(self.moment(prng)))
            }
            2 => Action::Write(vec![], vec![self.put(prng)]),
            3 => Action::Write(vec![], vec![Mutation::Delete(self.key(prng))]),
            4 => Action::Write(vec![], vec![self.delete_range(prng)]),
            5 => Action::Write(vec![], self.batch(prng)),
            6 => Action::Write(vec![], vec![self.put(prng), self.put(prng)]),
            7 => self.conditional(prng),
            8 => self.scan(prng, ReadAt::Newest),
            9 => {
                let moment = self.moment(prng);
                self.scan(prng, ReadAt::At(moment))
            }
            10 => {
                let group = prng.below(self.scenario.keys.groups.into());
                Action::Split(u16::try_from(group).expect("drawn below") * self.scenario.keys.per_group)
            }
            11 => {
                let ranges = client.ranges();
                if ranges.is_empty() {
                    return Action::RangeMap;
                }
                let range = ranges[prng.index(ranges.len())].range;
                let shard = prng.below(client.shards().into());
                Action::Move(range, u16::try_from(shard).expect("drawn below"))
            }
            12 => Action::RangeMap,
            13 => self.place(client, prng),
            14 => {
                let key = self.key(prng);
                Action::Get(key, self.age(prng))
            }
            15 => {
                let age = self.age(prng);
                self.scan(prng, age)
            }
            16 => Action::Status,
            _ => Self::merge(client, prng),
        }
    }

    /// Two ranges that were neighbours when the client looked last, mostly.
    fn merge(client: &Client, prng: &mut Prng) -> Action {
        let ranges = client.ranges();
        if ranges.len() < 2 || prng.chance(0.3) {
            return Action::RangeMap;
        }
        let left = prng.index(ranges.len() - 1);
        Action::Merge(ranges[left].range, ranges[left + 1].range)
    }

    /// Mostly a range's replicas on as many nodes as at first, and now and then on one or on all.
    fn place(&self, client: &Client, prng: &mut Prng) -> Action {
        let ranges = client.ranges();
        if ranges.is_empty() {
            return Action::RangeMap;
        }
        let range = ranges[prng.index(ranges.len())].range;
        let all = u64::from(self.scenario.nodes);
        let count = match prng.below(8) {
            // Of a range that has one replica nobody has what is damaged there.
            0 if self.scenario.flips.is_none() => 1,
            1 => all,
            2 => 0,
            _ => u64::from(self.scenario.founders),
        };
        let mut nodes: Vec<u64> = (1..=all).collect();
        prng.shuffle(&mut nodes);
        nodes.truncate(usize::try_from(count).expect("few nodes"));
        let leader = if nodes.is_empty() || prng.chance(0.4) {
            let among = if nodes.is_empty() {
                1 + prng.below(all)
            } else {
                nodes[prng.index(nodes.len())]
            };
            Some(among)
        } else {
            None
        };
        Action::Place(range, nodes, leader)
    }

    fn key(&self, prng: &mut Prng) -> KeyNo {
        let count = self.scenario.keys.count();
        let bound = if prng.chance(0.8) {
            self.scenario.hot_keys
        } else {
            count
        };
        // Hot keys lie in all groups.
        let drawn = prng.below(bound.into());
        u16::try_from(drawn * 7 % u64::from(count)).expect("below a 16-bit count")
    }

    /// A timestamp that was seen before, or one near it.
    fn moment(&self, prng: &mut Prng) -> Timestamp {
        let moments = self.moments.borrow();
        if moments.is_empty() {
            return Timestamp::new(self.env.clock().wall_ns(), 0);
        }
        let moment = moments[prng.index(moments.len())];
        match prng.below(8) {
            0 => moment.next(),
            1 => moment.prev(),
            2 => moment.plus_ns(prng.below(5_000_000)),
            3 => Timestamp::new(self.env.clock().wall_ns(), 0).plus_ns(prng.below(20_000_000)),
            _ => moment,
        }
    }

    /// An age: mostly one at which ranges are closed everywhere, or about to be.
    fn age(&self, prng: &mut Prng) -> ReadAt {
        let lag_ns = u64::try_from(self.scenario.closed_lag.as_nanos()).unwrap_or(u64::MAX);
        let age = Duration::from_nanos(match prng.below(4) {
            0 => prng.below(lag_ns + 1),
            1 => lag_ns * 4,
            _ => lag_ns + prng.below(500_000_000),
        });
        if prng.chance(0.5) {
            ReadAt::Ago(age)
        } else {
            ReadAt::Within(age)
        }
    }

    fn len(&self, prng: &mut Prng) -> u32 {
        let long = if prng.chance(self.scenario.value_long) {
            30
        } else {
            1
        };
        u32::try_from(prng.below(u64::from(self.scenario.value_bytes) * long + 1)).expect("drawn below")
    }

    fn put(&self, prng: &mut Prng) -> Mutation {
        let key = self.key(prng);
        Mutation::Put(key, self.len(prng))
    }

    /// A span within one group.
    fn span(&self, prng: &mut Prng) -> (KeyNo, KeyNo) {
        let (start, end) = self.scenario.keys.group_of(self.key(prng));
        let width = u64::from(end - start);
        let (a, b) = (prng.below(width + 1), prng.below(width + 1));
        let at = |offset: u64| start + u16::try_from(offset).expect("within a group");
        let (a, b) = (at(a.min(b)), at(a.max(b)));
        if a == b { (start, end) } else { (a, b) }
    }

    fn delete_range(&self, prng: &mut Prng) -> Mutation {
        let (start, end) = self.span(prng);
        Mutation::DeleteRange(start, end)
    }

    /// Several mutations of one group, also of the same key.
    fn batch(&self, prng: &mut Prng) -> Vec<Mutation> {
        let (start, end) = self.scenario.keys.group_of(self.key(prng));
        let count = prng.between(2, 6);
        let key =
            |prng: &mut Prng| start + u16::try_from(prng.below(u64::from(end - start))).expect("drawn below");
        let removes = self.scenario.mix.delete > 0;
        let mutation = |_| match prng.below(10) {
            0 if removes => Mutation::Delete(key(prng)),
            1 if removes => {
                let (a, b) = (key(prng), key(prng));
                Mutation::DeleteRange(a.min(b), a.max(b) + 1)
            }
            _ => Mutation::Put(key(prng), self.len(prng)),
        };
        (0..count).map(mutation).collect()
    }

    /// Writes on the condition that a key is as it was last seen.
    fn conditional(&self, prng: &mut Prng) -> Action {
        let (start, end) = self.scenario.keys.group_of(self.key(prng));
        let width = u64::from(end - start);
        let key = |prng: &mut Prng| start + u16::try_from(prng.below(width)).expect("drawn below");
        let seen = self.seen.borrow();
        let look = |key: KeyNo| (key, seen.get(&key).copied().flatten());
        let counter = key(prng);
        let mut conditions = vec![look(counter)];
        if prng.chance(0.2) {
            conditions.push(look(key(prng)));
        }
        let mut mutations = vec![Mutation::Put(counter, self.len(prng))];
        if prng.chance(0.2) {
            mutations.push(Mutation::Put(key(prng), self.len(prng)));
        }
        Action::Write(conditions, mutations)
    }

    fn scan(&self, prng: &mut Prng, at: ReadAt) -> Action {
        let count = u64::from(self.scenario.keys.count());
        let start = prng.below(count);
        let end = if prng.chance(0.2) {
            count
        } else {
            prng.between(start + 1, count)
        };
        let key = |drawn: u64| u16::try_from(drawn).expect("drawn below");
        Action::Scan {
            start: key(start),
            end: key(end),
            reverse: prng.chance(0.4),
            at,
        }
    }
}
