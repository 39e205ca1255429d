//! The replica state machine.

use crate::command::{self, Command, MergeStep};
use crate::conflict::{InFlight, Reservations};
use crate::latches::Latches;
use crate::newest::Newest;
use crate::provisional::{Done, Provisional, SpillError};
use crate::session::{self, Sessions, Standing};
use crate::{CommandError, Descriptor, Group};
use base::api::{Condition, WriteId, WriteOp};
use base::key::Span;
use base::{Index, RangeId, ReplicaId, Timestamp};
use raft::{HardState, Mark, Membership};
use std::collections::VecDeque;
use std::sync::Arc;
use txn::error::Seen;
use txn::{Bytes, TimestampCache};

/// Versions of the bytes of [`Replica::encode_state`]: without spilled intents, and with.
const STATE_VERSION: u8 = 5;
const STATE_VERSION_SPILLED: u8 = 6;
/// Keys of which each generation of a timestamp cache knows when they were read.
const CACHE_POINTS_MAX: usize = 4096;

mod batches;
mod merge;

pub use merge::{Ended, Merging};

/// What may happen to a write now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Nothing stands against it: call [`Replica::propose_write`] in the same step.
    Propose,
    /// Its conditions must be read first. When that needs no waiting, propose in the same step; otherwise
    /// [`Replica::reserve`] the conditions, read, [`Replica::release`] them and propose.
    Evaluate,
    /// It conflicts with a write in flight, or the range is being split, moved or absorbed: [`Replica::park`] it.
    Wait,
    /// A transaction has an intent on one of its keys.
    Meets(Box<Met>),
    /// What it names is a transaction, which was aborted.
    Aborted,
    /// A retry of a write that was applied at this timestamp: answer it.
    Applied(Timestamp),
    /// A retry of a write so old that its result is forgotten.
    Forgotten,
}

/// With which value a modification of a key begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin<'a> {
    /// This one: a modification before it is proposed, or was.
    With(&'a [u8]),
    /// The one in the tablet, if it has one.
    Applied,
    /// A write of the key is proposed and unapplied: [`Replica::park`] it.
    Wait,
}

/// An intent that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// Its key.
    pub key: Bytes,
    /// What a push of its transaction has to know.
    pub seen: Seen,
}

/// Why a read cannot be served yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// What is proposed and unapplied may belong to what it sees: ask again, for the same timestamp, when something was applied.
    Wait,
    /// An intent is in the way.
    Meets(Box<Met>),
}

/// What applying an entry did, beyond the mutations that the tablet takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied<'a> {
    /// A write is done: its mutations belong into the tablet at this timestamp.
    Write {
        /// The timestamp of its versions.
        ts: Timestamp,
        /// The mutations.
        ops: command::Ops<'a>,
    },
    /// The range has become two. The caller splits the tablet, takes [`Replica::split_off`] and sends parked requests anew.
    Split {
        /// The new range.
        right: RangeId,
        /// Its first key.
        at: &'a [u8],
    },
    /// Requests of transactions are done: this belongs into the tablet.
    Change {
        /// Versions, and spilled intents.
        done: Done,
        /// When it was proposed.
        ts: Timestamp,
    },
    /// A step of a merge was taken, or meant one that is not under way any more. One that absorbs is taken by [`Replica::absorb`].
    Merge(MergeStep),
}

/// One replica of one range. `W` is a request that waits, as the shard keeps it.
#[derive(Debug)]
pub struct Replica<W> {
    descriptor: Descriptor,
    /// What is applied, among others.
    group: Group,
    /// The last index given to a proposal, or to what its leader adds by itself.
    proposed: Index,
    /// The timestamp of the last proposal; later ones lie above.
    last_ts: Timestamp,
    /// The timestamp of the last command that is applied, or one above.
    applied_ts: Timestamp,
    /// Readers were shown the state at this timestamp as one that stays: nothing at or below it follows.
    shown: Timestamp,
    sessions: Sessions,
    in_flight: InFlight,
    newest: Newest,
    reserved: Reservations,
    /// Intents and records of transactions.
    provisional: Provisional,
    latches: Latches,
    /// Up to when keys have been read; none where no transaction has asked since this replica leads.
    cache: Option<Box<TimestampCache>>,
    parked: VecDeque<W>,
    /// Set while a split is in flight or the range is being moved: nothing new is proposed.
    blocked: bool,
    /// Which merge it takes part in, as of what is applied.
    merging: Merging,
    /// The last merge that it began and that has ended.
    ended: Option<Ended>,
    /// A step of a merge that this leader has proposed and that is not applied.
    open_step: Option<MergeStep>,
}

impl<W> Replica<W> {
    /// A replica whose tablet is at `applied`, with the state that was written with its last flush.
    ///
    /// # Errors
    /// The bytes are not a state that this build wrote.
    pub fn open(descriptor_of: (RangeId, Span), applied: Index, state: &[u8]) -> Result<Self, StateError> {
        let decoded = State::decode(descriptor_of.0, applied, state)?;
        let State {
            generation,
            last_ts,
            merging,
            ended,
            group,
            sessions,
            provisional,
        } = decoded;
        let (range, span) = descriptor_of;
        Ok(Self {
            descriptor: Descriptor {
                range,
                span,
                generation,
            },
            group,
            proposed: applied,
            last_ts,
            applied_ts: last_ts,
            shown: Timestamp::ZERO,
            sessions,
            in_flight: InFlight::default(),
            newest: Newest::default(),
            reserved: Reservations::default(),
            provisional,
            latches: Latches::default(),
            cache: None,
            parked: VecDeque::new(),
            blocked: false,
            merging,
            ended,
            open_step: None,
        })
    }

    /// The group as it stands in the state of another replica, and that state with a replica's own name and hard state in it: as
    /// this one's, it has the applied state of the other.
    ///
    /// # Errors
    /// The bytes are not a state that this build wrote.
    pub fn adopt_state(
        range: RangeId,
        applied: Index,
        state: &[u8],
        (id, hard_state): (ReplicaId, HardState),
    ) -> Result<(Group, Vec<u8>), StateError> {
        let mut adopted = State::decode(range, applied, state)?;
        let theirs = adopted.group.clone();
        adopted.group.id = id;
        adopted.group.hard_state = hard_state;
        Ok((theirs, adopted.encode()))
    }

    /// The last merge that a range began and that has ended, as a state of its replica says.
    ///
    /// # Errors
    /// The bytes are not a state that this build wrote.
    pub fn ended_merge(range: RangeId, applied: Index, state: &[u8]) -> Result<Option<Ended>, StateError> {
        State::decode(range, applied, state).map(|state| state.ended)
    }

    /// The state of a range that has never been written, as of the index at which its group begins.
    #[must_use]
    pub fn initial_state(group: &Group) -> Vec<u8> {
        let state = State {
            generation: 1,
            last_ts: Timestamp::ZERO,
            merging: Merging::Nothing,
            ended: None,
            group: group.clone(),
            sessions: Sessions::default(),
            provisional: Provisional::default(),
        };
        state.encode()
    }

    /// The applied state, to be written with a flush at [`Self::applied_index`]. Forgets sessions that are long silent.
    pub fn encode_state(&mut self) -> Vec<u8> {
        self.sessions.expire(self.last_ts);
        encode_state(
            self.descriptor.generation,
            self.last_ts,
            (self.merging, self.ended),
            &self.group,
            (&self.sessions, &self.provisional),
        )
    }

    /// Takes in a spilled intent that the tablet has, at the timestamp of its entry, until none [is lacking](Provisional::lacks_spilled):
    /// after a replica was opened, and before it does anything else.
    ///
    /// # Errors
    /// [`SpillError`]: the tablet has others than the state says.
    pub fn restore_spilled(&mut self, key: &[u8], at: Timestamp, bytes: &[u8]) -> Result<(), SpillError> {
        self.provisional.restore(key, at, bytes)
    }

    /// Whether all that is spilled was restored.
    ///
    /// # Errors
    /// [`SpillError`]: the tablet has less than the state says.
    pub fn check_spilled(&self) -> Result<(), SpillError> {
        self.provisional.check()
    }

    /// A checksum of the results of sessions, and of intents and records. Replicas that have applied the same entries have the same,
    /// until one forgets a session that was silent for [`crate::session::SESSION_IDLE_NS`].
    #[must_use]
    pub fn sessions_checksum(&self) -> u32 {
        self.sessions.checksum() ^ self.provisional.checksum().rotate_left(1)
    }

    /// The range and its span.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its place in its Raft group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Term and vote as they were written to the log last.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.group.hard_state = hard_state;
    }

    /// This replica leads; the log of its group ends at `last`, and proposals follow, none of them at or below `after`: what
    /// leaders before this one may have shown to readers.
    ///
    /// # Panics
    /// When proposals are in flight: whoever does not lead has none. When `after` lies below what readers were shown.
    pub fn lead(&mut self, last: Index, after: Timestamp) {
        assert!(self.in_flight.is_empty(), "nothing was proposed before it led");
        self.cache = None;
        self.proposed = last;
        self.last_ts = self.last_ts.max(after);
        assert!(
            self.last_ts >= self.shown,
            "{} is led from {after}, and was shown at {}",
            self.descriptor.range,
            self.shown
        );
    }

    /// Readers are shown the state at `ts`, up to which the range is closed: nothing at or below it is applied or proposed from here
    /// on.
    pub fn show(&mut self, ts: Timestamp) {
        self.shown = self.shown.max(ts);
    }

    /// This replica leads no more. What it has proposed may still be committed, by another leader.
    pub fn follow(&mut self) {
        self.in_flight = InFlight::default();
        self.newest.clear();
        self.sessions.forget_in_flight();
        self.latches.clear();
        self.cache = None;
        self.blocked = false;
        self.open_step = None;
        self.proposed = self.applied_index();
    }

    /// The last index applied.
    #[must_use]
    pub fn applied_index(&self) -> Index {
        self.group.applied.last.index
    }

    /// The timestamp of the last proposal.
    #[must_use]
    pub fn last_ts(&self) -> Timestamp {
        self.last_ts
    }

    /// Every command that is applied has a timestamp at or below this.
    #[must_use]
    pub fn applied_ts(&self) -> Timestamp {
        self.applied_ts
    }

    /// How many entries are proposed and not yet applied.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the range takes no proposals because it is being split or moved, or is frozen.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked || self.is_frozen()
    }

    /// Decides what may happen to a write. All its keys lie in the span: the caller has routed it.
    pub fn admit<'a>(
        &self,
        id: &WriteId,
        mut conditions: impl ExactSizeIterator<Item = Condition<'a>> + Clone,
        mut ops: impl Iterator<Item = WriteOp<'a>> + Clone,
    ) -> Admission {
        match self.sessions.standing(id) {
            Standing::New => {}
            Standing::InFlight => {
                base::sometimes!("replica: retry meets its first try in flight");
                return Admission::Wait;
            }
            Standing::Applied(ts) => {
                base::sometimes!("replica: retry of an applied write");
                return Admission::Applied(ts);
            }
            Standing::Aborted => return Admission::Aborted,
            Standing::Forgotten => return Admission::Forgotten,
        }
        if self.is_blocked() {
            return Admission::Wait;
        }
        let (mut touched, mut looked_at) = (ops.clone(), conditions.clone());
        if self.waits_for_transactions(&mut touched, &mut looked_at) {
            base::sometimes!("replica: write waits for a transaction's request");
            return Admission::Wait;
        }
        if !self.provisional.has_no_intents()
            && let Some(met) = self.meets(ops.clone(), conditions.clone())
        {
            return Admission::Meets(Box::new(met));
        }
        if !self.reserved.is_empty() && ops.any(|op| self.reserved.touched_by(&op)) {
            base::sometimes!("replica: write waits for a conditional write");
            return Admission::Wait;
        }
        if conditions.len() == 0 {
            return Admission::Propose;
        }
        let conflict = conditions.any(|c| self.in_flight.touches(c.key()) || self.reserved.holds(c.key()));
        if conflict && !base::planted_bug!("replica-condition-ignores-in-flight") {
            base::sometimes!("replica: conditional write waits for a write in flight");
            return Admission::Wait;
        }
        Admission::Evaluate
    }

    /// Reserves the keys that a conditional write looks at while they are read.
    pub fn reserve<'a>(&mut self, conditions: impl Iterator<Item = Condition<'a>>) {
        conditions.for_each(|condition| self.reserved.add(condition.key()));
    }

    /// Gives back what [`Self::reserve`] took.
    pub fn release<'a>(&mut self, conditions: impl Iterator<Item = Condition<'a>>) {
        conditions.for_each(|condition| self.reserved.remove(condition.key()));
    }

    /// Whether a conditional write that is being read for has reserved a key that one of `ops` touches. One that has been
    /// read for asks again before it is proposed: its mutations may touch more keys than its conditions.
    #[must_use]
    pub fn is_reserved<'a>(&self, mut ops: impl Iterator<Item = WriteOp<'a>>) -> bool {
        ops.any(|op| self.reserved.touched_by(&op))
    }

    /// Keeps a request until the state has changed; [`Self::unpark`] hands it out again.
    pub fn park(&mut self, request: W) {
        self.parked.push_back(request);
    }

    /// Whether requests are parked and it is time to try them again: nothing blocks the range.
    #[must_use]
    pub fn has_runnable(&self) -> bool {
        !self.is_blocked() && !self.parked.is_empty()
    }

    /// All parked requests in the order of their arrival, to be admitted again.
    #[must_use]
    pub fn unpark(&mut self) -> VecDeque<W> {
        core::mem::take(&mut self.parked)
    }

    /// Takes over what `before`, whose state this one replaces on this node, has of the node itself: term and vote, requests that wait,
    /// and keys that are being read for.
    pub fn take_over(&mut self, before: &mut Self) {
        self.group.hard_state = before.group.hard_state;
        self.parked.append(&mut before.parked);
        self.reserved = core::mem::take(&mut before.reserved);
    }

    /// Gives the write its place in the log: appends its command to `out` and returns its index.
    ///
    /// # Panics
    /// When `ts` does not follow the last proposal and what readers were shown as closed, or the range is blocked.
    pub fn propose_write<'a>(
        &mut self,
        id: &WriteId,
        ts: Timestamp,
        ops: impl Iterator<Item = WriteOp<'a>> + Clone,
        out: &mut Vec<u8>,
    ) -> Index {
        assert!(!self.is_frozen(), "a frozen range takes no writes");
        self.newest.forget_written(ops.clone());
        self.propose_ops(id, ts, ops, out)
    }

    fn propose_ops<'a>(
        &mut self,
        id: &WriteId,
        ts: Timestamp,
        ops: impl Iterator<Item = WriteOp<'a>> + Clone,
        out: &mut Vec<u8>,
    ) -> Index {
        let index = self.next_index(ts);
        self.sessions.propose(id);
        self.in_flight.push(index, ts, ops.clone());
        command::encode_write(out, id, ts, ops);
        index
    }

    /// With which value a modification of `key` begins, which [`Self::admit`] has let through as a put.
    #[must_use]
    pub fn begin(&self, key: &[u8]) -> Begin<'_> {
        if let Some(value) = self.newest.get(key) {
            return Begin::With(value);
        }
        if self.in_flight.touches(key) && !base::planted_bug!("replica-modification-ignores-in-flight") {
            return Begin::Wait;
        }
        Begin::Applied
    }

    /// Gives a modification of `key`, which is `value` by it, its place in the log: appends its command to `out` and returns its index.
    ///
    /// # Panics
    /// As [`Self::propose_write`].
    pub fn propose_modified(
        &mut self,
        id: &WriteId,
        ts: Timestamp,
        (key, value): (&[u8], Vec<u8>),
        out: &mut Vec<u8>,
    ) -> Index {
        assert!(!self.is_frozen(), "a frozen range takes no writes");
        let op = [WriteOp::Put { key, value: &value }];
        let index = self.propose_ops(id, ts, op.into_iter(), out);
        let applied = self.applied_index();
        self.newest.set(key, value, index, applied);
        index
    }

    /// Proposes to cut the range at `at`, and blocks it until that is applied.
    ///
    /// # Panics
    /// When `at` does not lie strictly inside the span, `ts` does not follow the last proposal, or the range is blocked.
    pub fn propose_split(&mut self, ts: Timestamp, right: RangeId, at: &[u8], out: &mut Vec<u8>) -> Index {
        assert!(
            self.descriptor.span.contains(at) && *self.descriptor.span.start != *at,
            "a split key lies inside"
        );
        assert!(
            !self.is_merging(),
            "a range that takes part in a merge is not split"
        );
        let index = self.next_index(ts);
        self.in_flight.push(index, ts, core::iter::empty());
        self.blocked = true;
        command::encode_split(out, ts, right, at);
        index
    }

    /// Counts an entry of the group that is not a command and was appended to its log after all commands proposed so far: it has
    /// the index that comes back.
    pub fn count_entry(&mut self) -> Index {
        self.proposed = self.proposed.next();
        self.proposed
    }

    fn next_index(&mut self, ts: Timestamp) -> Index {
        assert!(!self.blocked, "a blocked range proposes nothing");
        assert!(
            ts > self.last_ts,
            "timestamps increase: {ts} after {}",
            self.last_ts
        );
        assert!(
            ts > self.shown,
            "a proposal at {ts} after readers were shown {}",
            self.shown
        );
        self.last_ts = ts;
        self.proposed = self.proposed.next();
        self.proposed
    }

    /// Stops proposals for a move; requests park. Undone by [`Self::unblock`].
    pub fn block(&mut self) {
        self.blocked = true;
    }

    /// Takes proposals again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Takes in a committed command, wherever it was proposed.
    ///
    /// # Errors
    /// The payload does not decode: the log is whole, so this is a bug or a newer version, and the node stops.
    ///
    /// # Panics
    /// When its index does not follow the last one applied, or its timestamp lies at or below what readers were shown as closed.
    pub fn apply<'a>(&mut self, at: At, payload: &'a [u8]) -> Result<Applied<'a>, CommandError> {
        let command = Command::decode(payload)?;
        assert!(
            command.ts() > self.shown,
            "{} applies an entry at {}, and was shown at {}",
            self.descriptor.range,
            command.ts(),
            self.shown
        );
        self.advance(at);
        self.applied_ts = self.applied_ts.max(command.ts());
        if !self.in_flight.pop(at.mark.index) {
            self.last_ts = self.last_ts.max(command.ts());
        }
        if self.in_flight.is_empty() {
            self.newest.clear();
        }
        Ok(match command {
            Command::Write { id, ts, ops } => {
                if !base::planted_bug!("replica-forgets-sessions") {
                    self.sessions.apply(&id, ts);
                }
                Applied::Write { ts, ops }
            }
            Command::Split { right, at, .. } => {
                self.blocked = false;
                Applied::Split { right, at }
            }
            Command::Change { ts, mutations } => {
                let mut done = Done::default();
                let (provisional, sessions) = (&mut self.provisional, &mut self.sessions);
                txn::codec::each_mutation(mutations, |mutation| {
                    provisional.apply(mutation, (&mut *sessions, ts), &mut done);
                })?;
                Applied::Change { done, ts }
            }
            Command::Merge { step, .. } => {
                self.take_step(at.mark.index, step);
                Applied::Merge(step)
            }
        })
    }

    /// Takes in a committed entry that is not a command: with `members`, they take part from here on.
    ///
    /// # Panics
    /// When its index does not follow the last one applied.
    pub fn apply_members(&mut self, at: At, members: Option<Arc<Membership>>) {
        self.advance(at);
        if let Some(members) = members {
            self.group.set_members(members);
        }
    }

    fn advance(&mut self, at: At) {
        let index = at.mark.index;
        assert_eq!(
            index,
            self.applied_index().next(),
            "{} applies entries in order",
            self.descriptor.range
        );
        self.group.applied.last = at.mark;
        self.group.applied.chain = at.chain;
        // Others propose too.
        self.proposed = self.proposed.max(index);
    }

    /// After [`Applied::Split`]: shrinks this replica to the keys below `at` and hands out the one above, at the beginning of a
    /// group of its own with the same members, and with the same sessions, so that a retry finds its first try on either side.
    ///
    /// # Panics
    /// When entries are in flight.
    pub fn split_off(&mut self, right: RangeId, at: &[u8]) -> Self {
        assert!(self.in_flight.is_empty(), "a split is the last entry in flight");
        let end = self.descriptor.span.end.take();
        let right_span = Span {
            start: at.into(),
            end,
        };
        self.descriptor.span.end = Some(at.into());
        self.descriptor.generation += 1;
        // The same in memory, too: of thousands of ranges it is looked at all the time.
        let members = Arc::clone(&self.group.applied.membership);
        let group = Group::first(self.group.id, members, self.group.lives);
        Self {
            descriptor: Descriptor {
                range: right,
                span: right_span,
                generation: self.descriptor.generation,
            },
            proposed: group.applied.last.index,
            group,
            last_ts: self.last_ts,
            applied_ts: self.applied_ts,
            shown: self.shown,
            sessions: if base::planted_bug!("replica-split-loses-sessions") {
                Sessions::default()
            } else {
                self.sessions.clone()
            },
            in_flight: InFlight::default(),
            newest: Newest::default(),
            reserved: Reservations::default(),
            provisional: self.provisional.split_off(at),
            latches: Latches::default(),
            cache: self.cache.clone(),
            parked: VecDeque::new(),
            blocked: false,
            merging: Merging::Nothing,
            ended: None,
            open_step: None,
        }
    }

    /// The newest timestamp at which a read sees a state that no later entry changes, given the clock's `now`.
    #[must_use]
    pub fn safe_ts(&self, now: Timestamp) -> Timestamp {
        self.in_flight.oldest_ts().map_or(now, |ts| ts.prev().min(now))
    }

    /// Checks what must hold between inputs.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_invariants(&self) {
        assert!(
            self.proposed.since(self.applied_index()) >= self.in_flight.len() as u64,
            "each proposal is in flight once"
        );
        assert!(!self.descriptor.span.is_empty(), "{:?} has keys", self.descriptor);
        let inside = self.provisional.lies_in(&self.descriptor.span);
        assert!(
            inside,
            "{:?} has intents and records of its own keys",
            self.descriptor
        );
    }
}

/// Where an entry to be applied stands in its group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its term and index.
    pub mark: Mark,
    /// The chain up to it.
    pub chain: u32,
}

/// The replica's written state does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state of range {range} ({bytes} bytes) was not written by this version of corelane")]
pub struct StateError {
    /// The range.
    pub range: RangeId,
    /// How long the state is.
    pub bytes: usize,
}

/// What a state says.
struct State {
    generation: u64,
    last_ts: Timestamp,
    merging: Merging,
    ended: Option<Ended>,
    group: Group,
    sessions: Sessions,
    provisional: Provisional,
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let Self {
            generation,
            last_ts,
            merging,
            ended,
            group,
            sessions,
            provisional,
        } = self;
        encode_state(
            *generation,
            *last_ts,
            (*merging, *ended),
            group,
            (sessions, provisional),
        )
    }

    fn decode(range: RangeId, applied: Index, state: &[u8]) -> Result<Self, StateError> {
        let mut input = state;
        let decoded = (|| {
            let [version] = session::take::<1>(&mut input)?;
            let has_spilled = match version {
                STATE_VERSION => false,
                STATE_VERSION_SPILLED => true,
                _ => return None,
            };
            let generation = session::take_u64(&mut input)?;
            let last_ts = session::take_ts(&mut input)?;
            let merging = Merging::decode(&mut input)?;
            let ended = Ended::decode(&mut input)?;
            let group = Group::decode(&mut input).filter(|group| group.applied.last.index == applied)?;
            let sessions = Sessions::decode(&mut input)?;
            let provisional = Provisional::decode(&mut input, has_spilled)?;
            input.is_empty().then_some(Self {
                generation,
                last_ts,
                merging,
                ended,
                group,
                sessions,
                provisional,
            })
        })();
        let bytes = state.len();
        decoded.ok_or(StateError { range, bytes })
    }
}

fn encode_state(
    generation: u64,
    last_ts: Timestamp,
    (merging, ended): (Merging, Option<Ended>),
    group: &Group,
    (sessions, provisional): (&Sessions, &Provisional),
) -> Vec<u8> {
    let mut out = vec![if provisional.has_spilled() {
        STATE_VERSION_SPILLED
    } else {
        STATE_VERSION
    }];
    out.extend_from_slice(&generation.to_le_bytes());
    session::put_ts(&mut out, last_ts);
    merging.encode(&mut out);
    Ended::encode(ended, &mut out);
    group.encode(&mut out);
    sessions.encode(&mut out);
    provisional.encode(&mut out);
    out
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod transactions;
