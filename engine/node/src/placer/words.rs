//! How what is said to the placer is kept.
//!
//! ```text
//!   node drain, policy set ─► placer ─► its files, and every node ─► their files ─► placer ─► done, when a majority keeps it
//! ```
//! Every node has all of it, in the files `STANDINGS` and `POLICIES`. Reports say by a number what the node has durably; where that is
//! not what the placer knows, the placer tells it everything, and gets everything back: of two words about one thing the later
//! counts. A command is answered when a majority of the nodes whose replicas vote in the first range has its word durably. One of
//! them is the next placer, which takes words only when it has heard what a majority of them keeps.
//!
//! Invariants:
//! - Shard 0 has the words; the others know of them only which nodes were removed, and how large a range is large.
//! - What is answered for is durable: nothing is told as kept that is only in memory.

use super::book::Book;
use super::keeping::Keeping;
use super::policy::{self, PolicyError, Wish};
use super::settings::Placement;
use super::standing::{self, Standing, StandingError};
use super::{NOT_LOOKED_AFTER, Placer};
use crate::message::{Origin, RawRequest};
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Job, Message, State};
use base::{NodeId, ShardId};
use core::mem;
use core::time::Duration;
use env::{Clock, DiskError, Env, Instant, Mailbox};
use std::collections::BTreeMap;
use wire::Code;
use wire::peer::{ArchivedPolicy, ArchivedStanding, Placing, PlacingStep};
use wire::reply::{PoliciesReply, SetPolicyReply, StandReply};
use wire::request::{ArchivedSetPolicy, ArchivedStand};

/// Commands that wait until their words are kept. More are refused.
const WAITING_MAX: usize = 256;

/// What a node knows of what was said.
#[derive(Debug, Default)]
pub(crate) struct Words {
    book: Book,
    /// Stands for the book.
    known: u64,
    /// What is durable here, and what stands for that.
    durable: Book,
    kept: u64,
    is_storing: bool,
    /// Placers, with their terms, that are to be told what is durable here.
    owed: BTreeMap<NodeId, u64>,
    /// Of the placer.
    keeping: Option<Keeping<Awaited>>,
}

/// A command that waits until its word is kept.
#[derive(Debug)]
struct Awaited {
    origin: Origin,
    until: Instant,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Stand(NodeId),
    Policy { doubts: String, before: Option<Wish> },
}

impl Words {
    /// Reads what was said. What a killed process left is durable afterwards.
    ///
    /// # Errors
    /// When a file cannot be read, or is damaged.
    pub(crate) async fn load<E: Env>(env: &E) -> Result<Self, WordsError> {
        let book = Book {
            standings: standing::load(env).await?,
            policies: policy::load(env).await?,
        };
        let known = book.digest();
        Ok(Self {
            durable: book.clone(),
            kept: known,
            book,
            known,
            ..Self::default()
        })
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Stands for all that is known.
    pub(crate) fn known(&self) -> u64 {
        self.known
    }

    /// Stands for all that is durable here.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// Bytes beyond which leaders say where a range could be halved.
    pub(crate) fn large(&self, settings: &Placement) -> u64 {
        self.book.policies.split_bytes_min(settings) / 2
    }

    /// This node, `me`, becomes the placer: what others keep it does not know.
    pub(crate) fn begin(&mut self, me: NodeId) {
        let mut keeping = Keeping::new(self.known);
        keeping.keeps(me, self.kept);
        // Who waits since an earlier term goes on.
        let waiting = self.keeping.take().map(|mut before| before.give_up(|_| true));
        waiting.into_iter().flatten().for_each(|who| keeping.wait(who));
        self.keeping = Some(keeping);
    }

    /// Whether a node keeps, durably, all that is known here.
    pub(crate) fn keeps(&mut self, node: NodeId, kept: u64) -> bool {
        match &mut self.keeping {
            Some(keeping) => keeping.keeps(node, kept),
            None => kept == self.known,
        }
    }

    /// The book has changed.
    fn note(&mut self) {
        self.known = self.book.digest();
        if let Some(keeping) = &mut self.keeping {
            keeping.note(self.known);
        }
    }
}

/// The files of what was said could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// How nodes are meant to be used.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// What is wished for the keys of prefixes.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl Placer {
    /// The nodes whose replicas vote in the first range, as this placer knows it.
    fn first_voters(&self) -> Vec<NodeId> {
        self.overview
            .as_ref()
            .map(|overview| overview.first_voters())
            .unwrap_or_default()
    }
}

impl<E: Env, B> State<E, B> {
    /// Takes all words of another node: those of a placer, or, when they are `kept`, those that a node has durably.
    pub(crate) fn on_words(
        &mut self,
        from: NodeId,
        (term, kept): (u64, bool),
        standings: &[ArchivedStanding],
        policies: &[ArchivedPolicy<'static>],
    ) -> Option<()> {
        let theirs = Book::from_wire(standings, policies)?;
        if self.me != ShardId(0) {
            return None;
        }
        let Some(placer) = &mut self.placer else {
            return Some(());
        };
        if placer.words.book.learn(&theirs) {
            base::sometimes!("node: words that another placer was told");
            placer.words.note();
            self.heed_words();
        }
        let placer = self.placer.as_mut()?;
        if !kept {
            placer.heed(term);
            placer.words.owed.insert(from, term);
            self.jobs.push(Job::Words);
        } else if placer
            .overview
            .as_ref()
            .is_some_and(|overview| overview.term() == term)
        {
            placer.words.keeps(from, theirs.digest());
            self.answer_awaited();
        }
        Some(())
    }

    /// Sends all words: to be kept, or those that are durable here.
    fn send_words(&self, to: NodeId, term: u64, kept: bool) {
        let (Some(placer), Some(neighbours)) = (&self.placer, &self.neighbours) else {
            return;
        };
        let book = if kept {
            &placer.words.durable
        } else {
            &placer.words.book
        };
        let step = PlacingStep::Words {
            kept,
            standings: &book.standings.to_wire(),
            policies: &book.policies.to_wire(),
        };
        // What is lost is asked for again, or told again, in the next round.
        let _ = neighbours.links.send(to, ShardId(0), &Placing { term, step });
    }

    /// A node has reported what it keeps: it is told what it lacks.
    pub(crate) fn on_kept(&mut self, node: NodeId, kept: u64) {
        let Some(placer) = &mut self.placer else {
            return;
        };
        let Some(term) = placer.overview.as_ref().map(|overview| overview.term()) else {
            return;
        };
        if !placer.words.keeps(node, kept) {
            base::sometimes!("node: a node does not know what the placer was told");
            self.send_words(node, term, false);
        }
        self.answer_awaited();
    }

    /// Does what follows from words, and writes them.
    fn heed_words(&mut self) {
        let Some(placer) = &self.placer else {
            return;
        };
        let removed = placer.words.book.standings.removed();
        self.jobs.push(Job::Words);
        self.forget_nodes(&removed);
    }

    /// Something was said to this placer: it tells everybody.
    fn spread_words(&mut self, awaited: Awaited) {
        let Some(placer) = &mut self.placer else {
            return;
        };
        placer.words.note();
        if let Some(keeping) = &mut placer.words.keeping {
            keeping.wait(awaited);
        }
        let term = placer.overview.as_ref().map_or(0, |overview| overview.term());
        if let Some(neighbours) = &self.neighbours {
            for member in neighbours.others() {
                self.send_words(member.node, term, false);
            }
            // A node that is removed by it is not spoken to any more after this.
            neighbours.links.flush();
        }
        self.heed_words();
    }

    /// Answers those whose words are kept by a majority.
    pub(crate) fn answer_awaited(&mut self) {
        let Some(placer) = &mut self.placer else {
            return;
        };
        let voters = placer.first_voters();
        let Some(keeping) = &mut placer.words.keeping else {
            return;
        };
        for Awaited { origin, answer, .. } in keeping.done(&voters) {
            match answer {
                Answer::Stand(NodeId(node)) => self.reply(origin, &StandReply { node }),
                Answer::Policy { doubts, before } => {
                    let before = before.as_ref().map(Wish::to_wire);
                    let doubts = &doubts;
                    self.reply(origin, &SetPolicyReply { doubts, before });
                }
            }
        }
    }

    /// Once a round: nobody waits for ever, and nobody for a placer that is none any more.
    pub(crate) fn end_waiting(&mut self) {
        let now = self.env.clock().now();
        let Some(placer) = &mut self.placer else {
            return;
        };
        let is_placer = placer.overview.is_some();
        let Some(keeping) = &mut placer.words.keeping else {
            return;
        };
        let over = keeping.give_up(|awaited| !is_placer || awaited.until <= now);
        if !is_placer {
            placer.words.keeping = None;
        }
        for awaited in over {
            let refusal = if is_placer {
                let message = "it was said, and less than a majority of the first range's nodes has answered that it keeps it: it may \
                               come to count all the same; say it again";
                Refusal::fatal(Code::DeadlineExceeded, message)
            } else {
                self.who_places()
            };
            self.refuse(awaited.origin, &refusal);
        }
    }

    /// Why this node does not take words now; `None` when it does.
    fn why_no_words(&self) -> Option<Refusal> {
        let Some(placer) = &self.placer else {
            return Some(Refusal::fatal(Code::InvalidRequest, NOT_LOOKED_AFTER));
        };
        let (Some(_), Some(keeping)) = (&placer.overview, &placer.words.keeping) else {
            return Some(self.who_places());
        };
        if !self.has_all_words() {
            base::sometimes!("node: a placer has not heard yet what was said before");
            let message = "this node looks after the cluster since a moment ago, and has not heard yet from a majority of the first \
                           range's nodes what was said before";
            return Some(Refusal::retry(Code::Overloaded, 200, message));
        }
        if keeping.waiting() >= WAITING_MAX {
            let message = format!("{WAITING_MAX} commands wait until their words are kept");
            return Some(Refusal::retry(Code::Overloaded, 200, message));
        }
        None
    }

    /// Whether this node is the placer and knows every word that was answered.
    pub(crate) fn has_all_words(&self) -> bool {
        self.placer.as_ref().is_some_and(|placer| {
            let keeping = placer.words.keeping.as_ref();
            keeping.is_some_and(|keeping| keeping.is_whole(&placer.first_voters()))
        })
    }

    fn awaited(&self, origin: Origin, deadline_ms: u32, answer: Answer) -> Awaited {
        let until = self.env.clock().now() + Duration::from_millis(deadline_ms.into());
        Awaited {
            origin,
            until,
            answer,
        }
    }

    /// Says how a node is meant to be used, if this node is the placer.
    pub(crate) fn on_stand(&mut self, stand: &ArchivedStand, raw: RawRequest<'_>) {
        if self.me != ShardId(0) {
            return self.forward(ShardId(0), raw);
        }
        let node = NodeId(stand.node.to_native());
        let standing = Standing::from_number(stand.state);
        match self.check_stand(node, standing) {
            Err(refusal) => self.refuse(raw.origin, &refusal),
            Ok(standing) => {
                let wall_ns = self.env.clock().wall_ns();
                let awaited = self.awaited(raw.origin, stand.deadline_ms.to_native(), Answer::Stand(node));
                if let Some(placer) = &mut self.placer {
                    placer.words.book.standings.say(node, standing, wall_ns);
                }
                self.spread_words(awaited);
            }
        }
    }

    fn check_stand(&self, node: NodeId, standing: Option<Standing>) -> Result<Standing, Refusal> {
        let invalid = |message: String| Refusal::fatal(Code::InvalidRequest, message);
        if let Some(refusal) = self.why_no_words() {
            return Err(refusal);
        }
        let standing = standing.ok_or_else(|| invalid("a node cannot stand so".to_owned()))?;
        let placer = self.placer.as_ref();
        let was_removed =
            placer.is_some_and(|placer| placer.words.book.standings.of(node) == Standing::Removed);
        if standing == Standing::Removed && was_removed {
            return Ok(standing);
        }
        if !self.knows_node(node) || was_removed {
            return Err(invalid(format!("the cluster has no node {node}")));
        }
        if standing == Standing::Removed
            && let Some(overview) = placer.and_then(|placer| placer.overview.as_ref())
        {
            overview.may_remove(node)?;
        }
        Ok(standing)
    }

    /// Says what is wished for the keys of a prefix, if this node is the placer.
    pub(crate) fn on_set_policy(&mut self, set: &ArchivedSetPolicy<'static>, raw: RawRequest<'_>) {
        if self.me != ShardId(0) {
            return self.forward(ShardId(0), raw);
        }
        match self.try_set_policy(set) {
            Err(refusal) => self.refuse(raw.origin, &refusal),
            Ok(answer) => {
                let awaited = self.awaited(raw.origin, set.deadline_ms.to_native(), answer);
                self.spread_words(awaited);
            }
        }
    }

    fn try_set_policy(&mut self, set: &ArchivedSetPolicy<'static>) -> Result<Answer, Refusal> {
        let invalid = |message: String| Refusal::fatal(Code::InvalidRequest, message);
        if let Some(refusal) = self.why_no_words() {
            return Err(refusal);
        }
        let wish = match set.wish.as_ref() {
            Some(wish) => Some(Wish::from_wire(wish).map_err(invalid)?),
            None => None,
        };
        let wall_ns = self.env.clock().wall_ns();
        let placer = self.placer.as_mut();
        let placer = placer.ok_or_else(|| Refusal::fatal(Code::InvalidRequest, NOT_LOOKED_AFTER))?;
        let policies = &mut placer.words.book.policies;
        let before = policies.of(&set.prefix).cloned();
        policies.say(&set.prefix, wish, wall_ns).map_err(invalid)?;
        let resolved = policies.resolve(&placer.settings);
        let said = resolved.iter().find(|policy| *policy.prefix == *set.prefix);
        let doubts = match (said, &placer.overview) {
            (Some(policy), Some(overview)) => overview.doubts(policy),
            _ => Vec::new(),
        };
        Ok(Answer::Policy {
            doubts: doubts.join("\n"),
            before,
        })
    }

    /// Answers with all policies, if this node is the placer.
    pub(crate) fn on_policies(&mut self, raw: RawRequest<'_>) {
        if self.me != ShardId(0) {
            return self.forward(ShardId(0), raw);
        }
        if let Some(refusal) = self.why_no_words() {
            return self.refuse(raw.origin, &refusal);
        }
        let Some(placer) = &self.placer else {
            return;
        };
        let (policies, settings) = (placer.words.book.policies.clone(), &placer.settings);
        let (replicas, split_bytes) = (settings.replicas, settings.split_bytes);
        let reply = PoliciesReply {
            replicas,
            split_bytes,
            policies: &policies.in_force(),
        };
        self.reply(raw.origin, &reply);
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Writes what was said, and tells placers that asked for it what is durable. One at a time: what comes meanwhile is written by the
    /// one that is under way.
    pub(crate) async fn store_words(&self) {
        let begin = |state: &mut State<E, B>| {
            let words = &mut state.placer.as_mut()?.words;
            (!mem::replace(&mut words.is_storing, true)).then_some(())
        };
        if self.with_state(begin).is_none() {
            return;
        }
        loop {
            let next = self.step(|state| {
                let me = state.identity.node;
                let words = &mut state.placer.as_mut()?.words;
                if words.kept != words.known {
                    return Some((words.durable.clone(), words.book.clone()));
                }
                words.is_storing = false;
                words.keeps(me, words.kept);
                let owed = mem::take(&mut words.owed);
                for (to, term) in owed {
                    state.send_words(to, term, true);
                }
                state.answer_awaited();
                None
            });
            let Some((durable, book)) = next else {
                return;
            };
            if let Err(error) = store(&self.env, &durable, &book).await {
                return self.fail(format!(
                    "what is wished of nodes and keys could not be written: {error}"
                ));
            }
            self.with_state(|state| {
                if let Some(placer) = &mut state.placer {
                    placer.words.kept = book.digest();
                    placer.words.durable = book;
                }
            });
        }
    }
}

/// Writes the files whose content is another one than what is durable.
async fn store<E: Env>(env: &E, durable: &Book, book: &Book) -> Result<(), DiskError> {
    if durable.standings != book.standings {
        standing::store(env, &book.standings).await?;
    }
    if durable.policies != book.policies {
        policy::store(env, &book.policies).await?;
    }
    Ok(())
}
