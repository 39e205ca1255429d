//! The replica state machine.

use crate::command::{self, Command};
use crate::conflict::{InFlight, Reservations};
use crate::session::{self, Sessions, Standing};
use crate::{CommandError, Descriptor, Group};
use base::api::{Condition, WriteId, WriteOp};
use base::key::Span;
use base::{Index, RangeId, ReplicaId, Timestamp};
use raft::{HardState, Mark, Membership};
use std::collections::VecDeque;
use std::sync::Arc;

/// Version of the bytes of [`Replica::encode_state`].
const STATE_VERSION: u8 = 3;

/// What may happen to a write now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Nothing stands against it: call [`Replica::propose_write`] in the same step.
    Propose,
    /// Its conditions must be read first. When that needs no waiting, propose in the same step; otherwise
    /// [`Replica::reserve`] the conditions, read, [`Replica::release`] them and propose.
    Evaluate,
    /// It conflicts with a write in flight, or the range is being split or moved: [`Replica::park`] it.
    Wait,
    /// A retry of a write that was applied at this timestamp: answer it.
    Applied(Timestamp),
    /// A retry of a write so old that its result is forgotten.
    Forgotten,
}

/// What applying an entry did, beyond the mutations that the tablet takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Readers were shown the state at this timestamp as one that stays: nothing at or below it follows.
    shown: Timestamp,
    sessions: Sessions,
    in_flight: InFlight,
    reserved: Reservations,
    parked: VecDeque<W>,
    /// Set while a split is in flight or the range is being moved: nothing new is proposed.
    blocked: bool,
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
            group,
            sessions,
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
            shown: Timestamp::ZERO,
            sessions,
            in_flight: InFlight::default(),
            reserved: Reservations::default(),
            parked: VecDeque::new(),
            blocked: false,
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
        let State {
            generation,
            last_ts,
            group,
            sessions,
        } = &adopted;
        Ok((theirs, encode_state(*generation, *last_ts, group, sessions)))
    }

    /// The state of a range that has never been written, as of the index at which its group begins.
    #[must_use]
    pub fn initial_state(group: &Group) -> Vec<u8> {
        encode_state(1, Timestamp::ZERO, group, &Sessions::default())
    }

    /// The applied state, to be written with a flush at [`Self::applied_index`]. Forgets sessions that are long silent.
    pub fn encode_state(&mut self) -> Vec<u8> {
        self.sessions.expire(self.last_ts);
        encode_state(
            self.descriptor.generation,
            self.last_ts,
            &self.group,
            &self.sessions,
        )
    }

    /// A checksum of the results of sessions. Replicas that have applied the same entries have the same, until one forgets a session
    /// that was silent for [`crate::session::SESSION_IDLE_NS`].
    #[must_use]
    pub fn sessions_checksum(&self) -> u32 {
        self.sessions.checksum()
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
        self.sessions.forget_in_flight();
        self.blocked = false;
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

    /// How many entries are proposed and not yet applied.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the range takes no proposals because it is being split or moved.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Decides what may happen to a write. All its keys lie in the span: the caller has routed it.
    pub fn admit<'a>(
        &self,
        id: &WriteId,
        mut conditions: impl ExactSizeIterator<Item = Condition<'a>>,
        mut ops: impl Iterator<Item = WriteOp<'a>>,
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
            Standing::Forgotten => return Admission::Forgotten,
        }
        if self.blocked {
            return Admission::Wait;
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
        !self.blocked && !self.parked.is_empty()
    }

    /// All parked requests in the order of their arrival, to be admitted again.
    #[must_use]
    pub fn unpark(&mut self) -> VecDeque<W> {
        core::mem::take(&mut self.parked)
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
        let index = self.next_index(ts);
        self.sessions.propose(id);
        self.in_flight.push(index, ts, ops.clone());
        command::encode_write(out, id, ts, ops);
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
        if !self.in_flight.pop(at.mark.index) {
            self.last_ts = self.last_ts.max(command.ts());
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
            shown: self.shown,
            sessions: if base::planted_bug!("replica-split-loses-sessions") {
                Sessions::default()
            } else {
                self.sessions.clone()
            },
            in_flight: InFlight::default(),
            reserved: Reservations::default(),
            parked: VecDeque::new(),
            blocked: false,
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
    group: Group,
    sessions: Sessions,
}

impl State {
    fn decode(range: RangeId, applied: Index, state: &[u8]) -> Result<Self, StateError> {
        let mut input = state;
        let decoded = (|| {
            let [version] = session::take::<1>(&mut input)?;
            if version != STATE_VERSION {
                return None;
            }
            let generation = session::take_u64(&mut input)?;
            let last_ts = session::take_ts(&mut input)?;
            let group = Group::decode(&mut input).filter(|group| group.applied.last.index == applied)?;
            let sessions = Sessions::decode(&mut input)?;
            input.is_empty().then_some(Self {
                generation,
                last_ts,
                group,
                sessions,
            })
        })();
        let bytes = state.len();
        decoded.ok_or(StateError { range, bytes })
    }
}

fn encode_state(generation: u64, last_ts: Timestamp, group: &Group, sessions: &Sessions) -> Vec<u8> {
    let mut out = vec![STATE_VERSION];
    out.extend_from_slice(&generation.to_le_bytes());
    session::put_ts(&mut out, last_ts);
    group.encode(&mut out);
    sessions.encode(&mut out);
    out
}

#[cfg(test)]
mod tests;
