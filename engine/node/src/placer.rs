//! Looking after the replicas of a cluster.
//!
//! ```text
//!   every node, shard 0:  what its shards lead ─► ledger ─► report ──┐ asked for once a second
//!   the placer, too:      overview ◄─ reports of all nodes ◄─────────┘
//!                         overview ─► crate placement ─► orders ─► leaders ─► members, split
//! ```
//! The *placer* is shard 0 of the node that leads the first range. When another node leads it that one begins with an empty
//! overview, and nobody carries out what the one before it ordered any more.
//!
//! What decides is pure: `overview` and the crate `placement`. Here reports are collected and sent, and orders carried out: by the
//! same steps as a placement by hand, which goes before them.
//!
//! Invariants:
//! - An order is begun only by the leader of its range, and only while members and generation are those that the placer knew.
//! - A node heeds the placer of the greatest term that it has heard of.

mod book;
mod dialect;
mod keeping;
mod ledger;
mod load;
mod overview;
pub(crate) mod policy;
pub(crate) mod settings;
pub(crate) mod standing;
pub(crate) mod words;

use crate::gauge::Ailment;
use crate::local::Local;
use crate::members::Wish;
use crate::message::{Answer, Ask, RawRequest};
use crate::neighbours::PREFETCH;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Job, Message, Route, Slot, State};
use crate::version::Version;
use base::prefetch::prefetch;
use base::{Index, NodeId, RangeId, ReplicaId, ShardId};
use core::mem;
use core::time::Duration;
use dialect::{order_from_wire, report_from_wire, with_order, with_report};
use env::{Clock, Disk, Env, Instant, Mailbox};
use ledger::{Led, Ledger, Seen, Word};
pub(crate) use load::Load;
pub(crate) use overview::Order;
use overview::{Facts, Overview, Report, Todo};
use replica::group::{node_of, replica_on};
use settings::Placement;
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::Code;
use wire::peer::{ArchivedPlacing, ArchivedPlacingStep, Placing, PlacingStep};
use words::Words;

/// Entries that a replica may lack and be called up to date: with more it may be catching up.
const LAG_MAX: u64 = 8192;
/// Every range is looked into in so many looks: how late the placer hears of what no group tells, as a lease that ran out.
const STILL_LOOKS: usize = 16;
/// How long a split that the placer ordered waits for what works on the range.
const SPLIT_MAX: Duration = Duration::from_secs(10);
/// How long a merge that the placer ordered waits for the two ranges.
const MERGE_MAX: Duration = Duration::from_secs(10);

/// A round goes over all ranges: it takes one in so many parts of the time at most.
const ROUND_SHARE: u32 = 400;

const NOT_LOOKED_AFTER: &str =
    "this node does not look after replicas: it is alone, or was started with --placement off";

/// A shard's part in placement.
pub(crate) struct Placer {
    settings: Placement,
    /// Of the placer that was heard of last.
    term: u64,
    /// Looks that this shard took, modulo [`STILL_LOOKS`].
    looks: usize,
    /// Orders that are being carried out.
    orders: BTreeMap<RangeId, u64>,
    /// Until when ranges count as placed by hand.
    pinned: BTreeMap<RangeId, Instant>,
    /// Shard 0: what this node reports.
    ledger: Ledger,
    /// The ledger may lack something that a shard has told once.
    is_unsure: bool,
    facts: Facts,
    /// Shard 0: what was said of nodes and keys.
    pub(crate) words: Words,
    /// Shard 0 of the node that leads the first range.
    overview: Option<Box<Overview>>,
}

/// What a shard has, at one moment.
#[derive(Debug, Default)]
pub struct Look {
    /// Of ranges that it leads, or that were placed by hand.
    words: Vec<Word>,
    /// Ranges of which what was said before still counts.
    same: Vec<RangeId>,
    /// Of all its replicas.
    used_bytes: u64,
    reads: u32,
    writes: u32,
    /// The disk.
    ailing: Ailment,
}

/// How a shard is to look at what it has.
#[derive(Debug, Clone, Copy)]
pub struct Stock {
    /// Of the placer that wants to know.
    term: u64,
    /// What was told before may be lost.
    all: bool,
    /// Of ranges with more bytes it matters where they could be halved.
    large: u64,
}

/// An order for another shard of this node.
#[derive(Debug)]
pub struct Ordered {
    term: u64,
    order: Order,
}

impl Placer {
    pub(crate) fn new(settings: Placement, locality: placement::Locality, shards: u16, session: u64) -> Self {
        Self {
            settings,
            term: 0,
            looks: 0,
            orders: BTreeMap::new(),
            pinned: BTreeMap::new(),
            ledger: Ledger::new(session.max(1)),
            is_unsure: false,
            facts: Facts {
                locality,
                shards,
                ..Facts::default()
            },
            words: Words::default(),
            overview: None,
        }
    }

    /// Heeds the placer of this term from now on, unless a later one was heard of. Whether it is the one to heed.
    fn heed(&mut self, term: u64) -> bool {
        if term > self.term {
            self.term = term;
            self.orders.clear();
        }
        term == self.term
    }
}

impl<E: Env, B> State<E, B> {
    /// What this shard has to report. Of thousands of ranges nearly all are as they were: each look goes into those of which something
    /// was heard, that have something to do, or that are being placed, and into a part of the others, so that in the end all are seen.
    pub(crate) fn look(&mut self, stock: Stock) -> Look {
        let (now, wall_ns) = (self.env.clock().now(), self.env.clock().wall_ns());
        let mut look = Look::default();
        let Some(placer) = &mut self.placer else {
            return look;
        };
        look.ailing = self.gauge.reading().ailment;
        placer.heed(stock.term);
        placer.pinned.retain(|_, until| now < *until);
        placer.looks = (placer.looks + 1) % STILL_LOOKS;
        let sample_from = placer.settings.plan.split_requests / 4;
        let prng = || self.env.prng();
        let mut due = Vec::new();
        for at in 0..self.slots.len() {
            // Of thousands most are far from the processor.
            if let Some(local) = self.slots.get(at + PREFETCH).and_then(Slot::live) {
                prefetch(&local.range);
                prefetch(&local.seat.news);
                prefetch(&local.load);
            }
            let Some(local) = self.slots[at].live_mut() else {
                continue;
            };
            let is_turn = stock.all || at % STILL_LOOKS == placer.looks;
            if is_turn || local.seat.news || !local.load.is_still() {
                local.load.look(now, sample_from, prng);
                let generation = local.replica.descriptor().generation;
                local.load.measure(&local.tablet, generation, stock.large);
                due.push(at);
            } else if local.seat.noted {
                look.same.push(local.range);
            }
            let (reads, writes) = local.load.rates();
            look.used_bytes += local.load.bytes();
            look.reads = look.reads.saturating_add(reads);
            look.writes = look.writes.saturating_add(writes);
        }
        for at in due {
            let word = self.slots[at].live().and_then(|local| self.word(local, wall_ns));
            let Some(local) = self.slots[at].live_mut() else {
                continue;
            };
            local.seat.noted = word.is_some();
            // What is being placed is looked at again until nothing is said of that any more.
            let is_placed = |word: &Word| word.pinned || word.led.as_ref().is_some_and(|led| led.order != 0);
            local.seat.news = word.as_ref().is_some_and(is_placed);
            look.words.extend(word);
        }
        look
    }

    /// What there is to say of a range here.
    fn word(&self, local: &Local<E>, wall_ns: u64) -> Option<Word> {
        let placer = self.placer.as_ref()?;
        let leads = self.leads_now(local, wall_ns);
        let pinned = placer.pinned.contains_key(&local.range) || self.placing.contains(&local.range);
        let order = placer.orders.get(&local.range).copied().unwrap_or_default();
        (leads || pinned).then(|| Word {
            range: local.range,
            pinned,
            led: leads.then(|| led(local, order, local.load.bytes())),
        })
    }

    /// The term in which the first range is led by this shard.
    pub(crate) fn leads_first(&self) -> Option<u64> {
        let Route::Here(slot) = self.routes[self.map.position(b"")] else {
            return None;
        };
        let local = self.slots[slot as usize].live()?;
        let leads = self.leads_now(local, self.env.clock().wall_ns());
        leads.then(|| local.seat.raft.term().0)
    }

    /// Takes a message about placement.
    pub(crate) fn on_placing(&mut self, from: NodeId, placing: &ArchivedPlacing<'static>) -> Option<()> {
        let term = placing.term.to_native();
        let now_ns = self.env.clock().now().0;
        let Some(placer) = &mut self.placer else {
            return Some(());
        };
        match &placing.step {
            ArchivedPlacingStep::Survey {
                number,
                session,
                after,
                ..
            } => {
                if placer.heed(term) {
                    self.jobs.push(Job::Survey {
                        from,
                        term,
                        number: number.to_native(),
                        session: session.to_native(),
                        after: after.to_native(),
                    });
                } else {
                    base::sometimes!("node: a placer of an earlier term asks for a report");
                }
            }
            step @ ArchivedPlacingStep::Report { words, .. } => {
                let report = report_from_wire(step)?;
                if let Some(overview) = placer
                    .overview
                    .as_mut()
                    .filter(|overview| overview.term() == term)
                {
                    let has_more = overview.hear(from, now_ns, report);
                    if has_more {
                        self.survey(from);
                    }
                    self.on_kept(from, words.to_native());
                }
            }
            ArchivedPlacingStep::Words {
                kept,
                standings,
                policies,
            } => self.on_words(from, (term, *kept), standings, policies)?,
            step @ ArchivedPlacingStep::Order { .. } => {
                let order = order_from_wire(step)?;
                self.on_order(Ordered { term, order });
            }
        }
        Some(())
    }

    /// Asks another node for a report.
    fn survey(&mut self, node: NodeId) {
        let (Some(placer), Some(neighbours)) = (&mut self.placer, &self.neighbours) else {
            return;
        };
        let Some(overview) = &mut placer.overview else {
            return;
        };
        let (session, after) = overview.known_of(node);
        let step = PlacingStep::Survey {
            number: overview.begin_survey(),
            session,
            after,
            words: placer.words.known(),
        };
        let term = overview.term();
        // What is lost is asked for again in the next round.
        let _ = neighbours.links.send(node, ShardId(0), &Placing { term, step });
    }

    /// Begins to carry an order out, if the range is as the placer knew it.
    pub(crate) fn on_order(&mut self, ordered: Ordered) {
        let range = ordered.order.range;
        match self.map.get(range).map(|entry| entry.shard) {
            Some(shard) if shard != self.me => {
                // Its answer says nothing: reports do.
                drop(self.ask(shard, Ask::Order(Box::new(ordered))));
                return;
            }
            Some(_) | None => {}
        }
        let Ordered { term, order } = ordered;
        if !self.placer.as_mut().is_some_and(|placer| placer.heed(term)) {
            base::sometimes!("node: an order of a placer of an earlier term");
            return;
        }
        let is_as_known = self.here.get(&range).is_some_and(|slot| {
            let Some(local) = self.slots[*slot as usize].live() else {
                return false;
            };
            let members = local.seat.raft.membership();
            let mut voters: Vec<_> = members.voters().iter().map(|voter| node_of(*voter)).collect();
            voters.sort_unstable();
            let is_same = voters == order.voters
                && !members.is_joint()
                && local.replica.descriptor().generation == order.generation;
            let can_be_done = match &order.todo {
                Todo::Replicas(nodes) => nodes.iter().all(|node| self.knows_node(*node)),
                Todo::Leader(node) => self.knows_node(*node),
                Todo::Split(key) => local.replica.descriptor().span.contains(key),
                Todo::Merge(right) => self.map.get(*right).is_some(),
            };
            local.leads() && can_be_done && (is_same || base::planted_bug!("node-order-for-other-members"))
        });
        if !is_as_known || self.placing.contains(&range) {
            base::sometimes!("node: an order came for a range that has changed");
            return;
        }
        if let Some(placer) = &mut self.placer {
            base::sometimes!("node: an order is carried out");
            placer.orders.insert(range, order.number);
            self.jobs.push(Job::Order(order));
        }
    }

    /// Whether an order is still to be carried out.
    pub(crate) fn is_ordered(&self, range: RangeId, number: u64) -> bool {
        let placer = self.placer.as_ref();
        placer.is_some_and(|placer| placer.orders.get(&range) == Some(&number))
    }

    /// The replicas of a range are placed by hand: the placer leaves them alone for a while.
    pub(crate) fn pin(&mut self, range: RangeId) {
        let now = self.env.clock().now();
        if let Some(placer) = &mut self.placer {
            placer.orders.remove(&range);
            placer.pinned.insert(range, now + placer.settings.pinned_for);
        }
    }

    /// Becomes the placer, stays it, or is it no more.
    fn begin_round(&mut self, first: Option<u64>) {
        let now_ns = self.env.clock().now().0;
        let (Some(placer), Some(neighbours)) = (&mut self.placer, &self.neighbours) else {
            return;
        };
        let Some(term) = first.filter(|term| placer.heed(*term)) else {
            base::sometimes!("node: the placer is another one now", placer.overview.is_some());
            placer.overview = None;
            return;
        };
        if placer
            .overview
            .as_ref()
            .is_none_or(|overview| overview.term() != term)
        {
            let overview = Overview::new(placer.settings.clone(), term, now_ns);
            placer.overview = Some(Box::new(overview));
            placer.words.begin(neighbours.cluster.me);
        }
        if let Some(overview) = &mut placer.overview {
            overview.heed(placer.words.known(), placer.words.book());
            let me = neighbours.cluster.me;
            for member in &neighbours.nodes {
                let lives =
                    member.node == me || neighbours.support(replica_on(member.node, 0)).given.is_some();
                overview.meet(member.node, lives, now_ns);
            }
            overview.keep(|node| neighbours.nodes.iter().any(|member| member.node == node));
        }
    }

    /// What the placer does in a round, after this node's own report.
    fn end_round(&mut self) {
        let now_ns = self.env.clock().now().0;
        let (Some(placer), Some(neighbours)) = (&mut self.placer, &self.neighbours) else {
            return;
        };
        let (me, others): (NodeId, Vec<NodeId>) = (
            neighbours.cluster.me,
            neighbours.others().map(|member| member.node).collect(),
        );
        let Some(overview) = &mut placer.overview else {
            return;
        };
        let (session, after) = overview.known_of(me);
        let piece = placer.ledger.after(session, after);
        let own = Report {
            number: overview.begin_survey(),
            session: piece.session,
            after: piece.after,
            until: piece.until,
            last: piece.last,
            facts: placer.facts.clone(),
            words: piece.words.into_iter().cloned().collect(),
        };
        overview.hear(me, now_ns, own);
        others.into_iter().for_each(|node| self.survey(node));
        self.answer_awaited();
        self.give_orders(me, now_ns);
    }

    fn give_orders(&mut self, me: NodeId, now_ns: u64) {
        // What was wished and answered for must be known before anything is moved.
        if !self.has_all_words() {
            return;
        }
        let may_merge = self.may_use(Version::MERGES);
        let Some(overview) = self.placer.as_mut().and_then(|placer| placer.overview.as_mut()) else {
            return;
        };
        overview.permit_merges(may_merge);
        let (term, orders) = (overview.term(), overview.plan(now_ns));
        for (to, order) in orders {
            if to == me {
                self.on_order(Ordered { term, order });
            } else if let Some(neighbours) = &self.neighbours {
                with_order(term, &order, |placing| {
                    neighbours.links.send(to, ShardId(0), placing)
                });
            }
        }
    }

    /// Answers why a range is where it is, if this node is the placer.
    pub(crate) fn on_explain(&mut self, range: RangeId, raw: RawRequest<'_>) {
        if self.me != ShardId(0) {
            return self.forward(ShardId(0), raw);
        }
        let now_ns = self.env.clock().now().0;
        let explained = match &mut self.placer {
            None => Err(Refusal::fatal(Code::InvalidRequest, NOT_LOOKED_AFTER)),
            Some(placer) => match &mut placer.overview {
                Some(overview) => overview.explain(range, now_ns).ok_or_else(|| {
                    let message = format!("no leader of a range {range} has reported yet");
                    Refusal::retry(Code::NoSuchRange, 200, message).about_range(range)
                }),
                None => Err(self.who_places()),
            },
        };
        match explained {
            Ok(text) => self.reply(raw.origin, &wire::reply::ExplainReply { text: &text }),
            Err(refusal) => self.refuse(raw.origin, &refusal),
        }
    }

    /// Names the node that leads the first range.
    fn who_places(&self) -> Refusal {
        let known = match self.routes[self.map.position(b"")] {
            Route::Here(slot) => self.led_elsewhere(slot),
            Route::There(_) | Route::Nowhere => return Refusal::not_here(),
        };
        known.unwrap_or_else(|| {
            let message = "this node leads the first range only since a moment ago, or nobody does";
            Refusal::retry(Code::NotLeader, 200, message)
        })
    }
}

/// A range that is led here, for the placer.
fn led<E: Env>(local: &Local<E>, order: u64, bytes: u64) -> Led {
    let members = local.seat.raft.membership();
    let (me, last) = (local.seat.raft.id(), local.seat.raft.last().index);
    let up_to_date = |replica: ReplicaId| {
        let matched = local.seat.raft.matched(replica);
        let is_near = |matched: Index| matched > Index::ZERO && last.since(matched) <= LAG_MAX;
        replica == me || matched.is_some_and(is_near)
    };
    let seen = |replica: &ReplicaId, votes| Seen {
        node: node_of(*replica),
        votes,
        up_to_date: up_to_date(*replica),
    };
    let voters = members.voters().iter().map(|voter| seen(voter, true));
    let learners = members.learners().iter().map(|learner| seen(learner, false));
    let descriptor = local.replica.descriptor();
    let (reads, writes) = local.load.rates();
    let mut replicas: Vec<_> = voters.chain(learners).collect();
    replicas.sort_unstable_by_key(|seen| seen.node);
    Led {
        term: local.seat.raft.term().0,
        generation: descriptor.generation,
        span: descriptor.span.clone(),
        replicas,
        joint: members.is_joint(),
        order,
        bytes,
        reads,
        writes,
        middle: local.load.middle().map(Box::from),
        hot: local.load.hot(&descriptor.span),
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Shard 0: looks after replicas, as long as this node is the one to do it, until the shard is dropped.
    pub(crate) async fn run_placer(self: Rc<Self>) {
        let settings = |state: &mut State<E, B>| Some(state.placer.as_ref()?.settings.clone());
        let Some(settings) = self.with_state(settings) else {
            return;
        };
        let interval = settings.interval;
        // Nodes are suspect when they have not been heard of for long.
        let pause_max = interval.max(Duration::from_nanos(settings.suspect_ns() / 2));
        if self.mailbox.shard() != ShardId(0) {
            return;
        }
        let mut pause = interval;
        loop {
            self.env.clock().sleep(pause).await;
            let began = self.now();
            let first = self.leads_first().await;
            // What goes over all ranges is done by the placer, and by others when it asks.
            if first.is_some() {
                self.take_stock().await;
            }
            self.step(|state| {
                state.begin_round(first);
                state.end_waiting();
                state.end_round();
            });
            let took = self.now().since(began);
            pause = (took * ROUND_SHARE).clamp(interval, pause_max);
        }
    }

    /// The term in which this node leads the first range.
    pub(crate) async fn leads_first(&self) -> Option<u64> {
        let asked = self.step(|state| match state.routes[state.map.position(b"")] {
            Route::There(shard) => Ok(state.ask(shard, Ask::First)),
            Route::Here(_) | Route::Nowhere => Err(state.leads_first()),
        });
        match asked {
            Err(known) => known,
            Ok(answer) => match answer.await {
                Some(Answer::First(first)) => first,
                Some(_) | None => None,
            },
        }
    }

    /// Notes in the ledger what all shards have.
    async fn take_stock(&self) {
        let stock = self.with_state(|state| {
            let placer = state.placer.as_mut();
            let (term, all, large) = placer.map_or((0, false, u64::MAX), |placer| {
                let large = placer.words.large(&placer.settings);
                (placer.term, mem::take(&mut placer.is_unsure), large)
            });
            Stock { term, all, large }
        });
        let asked: Vec<_> = (1..self.mailbox.shards())
            .map(|shard| self.step(|state| state.ask(ShardId(shard), Ask::Look(stock))))
            .collect();
        let (mut looks, mut is_unsure) = (Vec::new(), false);
        for answer in asked {
            match answer.await {
                Some(Answer::Look(look)) => looks.push(*look),
                Some(_) | None => is_unsure = true,
            }
        }
        // What cannot be told is not known.
        let free_bytes = self.env.disk().space_free().await.ok();
        self.step(|state| {
            looks.push(state.look(stock));
            if let Some(placer) = &mut state.placer {
                let sum = |part: fn(&Look) -> u32| looks.iter().map(part).fold(0, u32::saturating_add);
                placer.facts = Facts {
                    used_bytes: looks.iter().map(|look| look.used_bytes).sum(),
                    reads: sum(|look| look.reads),
                    writes: sum(|look| look.writes),
                    ailing: looks.iter().map(|look| look.ailing).max().unwrap_or_default(),
                    free_bytes,
                    ..mem::take(&mut placer.facts)
                };
                let same = looks.iter_mut().flat_map(|look| mem::take(&mut look.same));
                let same = same.collect();
                let words = looks.into_iter().flat_map(|look| look.words);
                // Two that take stock at once may note what they saw in another order.
                is_unsure |= !placer.ledger.note(words, &same);
                placer.is_unsure |= is_unsure;
            }
        });
    }

    /// Answers a survey.
    pub(crate) async fn report(&self, to: NodeId, term: u64, number: u64, (session, after): (u64, u64)) {
        self.take_stock().await;
        self.step(|state| {
            let (Some(placer), Some(neighbours)) = (&state.placer, &state.neighbours) else {
                return;
            };
            let piece = placer.ledger.after(session, after);
            let words = placer.words.kept();
            with_report(term, number, &placer.facts, &piece, words, |report| {
                // What is lost is asked for again.
                neighbours.links.send(to, ShardId(0), report)
            });
        });
    }

    /// Carries out an order of the placer, as long as it stands.
    pub(crate) async fn carry_out(&self, order: Order) {
        let (range, number) = (order.range, order.number);
        let wish = |nodes, leader| Wish { range, nodes, leader };
        let stuck = |state: &mut State<E, B>| {
            let placer = state.placer.as_ref();
            placer.map_or(0, |placer| placer.settings.plan.learner_stuck_after_ns)
        };
        let deadline = self.now() + Duration::from_nanos(self.with_state(stuck));
        let done = match order.todo {
            Todo::Replicas(nodes) => self
                .pursue(&wish(nodes, None), deadline, Some(number))
                .await
                .map(drop),
            Todo::Leader(node) => {
                let wish = wish(Vec::new(), Some(node));
                self.pursue(&wish, deadline, Some(number)).await.map(drop)
            }
            Todo::Split(key) => self.try_split(&key, self.now() + SPLIT_MAX).await.map(drop),
            Todo::Merge(right) => self.try_merge(range, right, self.now() + MERGE_MAX).await,
        };
        base::sometimes!("node: an order of the placer was carried out", done.is_ok());
        self.step(|state| {
            if let Some(placer) = &mut state.placer
                && placer.orders.get(&range) == Some(&number)
            {
                placer.orders.remove(&range);
            }
        });
    }
}
