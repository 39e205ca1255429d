//! Idempotence: which writes of which clients have been applied, so that a retry answers instead of writing again.
//!
//! A client numbers its writes from 1 and says with each one below which number every answer has reached it; results below
//! are forgotten. Sessions that were silent for [`SESSION_IDLE_NS`] of hybrid time, and the longest silent ones beyond
//! [`SESSIONS_MAX`], are dropped when the state is written with a flush: a client gives a write up long before.
//!
//! The state is part of the replica: it is rebuilt by applying the same commands, and written with every flush. Marks of
//! writes that are proposed and not yet applied are this replica's own and are never written.

use base::api::WriteId;
use base::collections::FastMap;
use base::limits::SESSION_WRITES_MAX;
use base::{ClientId, Timestamp};
use std::collections::VecDeque;
use txn::Outcome;

/// How long a silent session is remembered: one hour.
pub const SESSION_IDLE_NS: u64 = 3_600_000_000_000;
/// How many sessions a range remembers in its written state.
pub const SESSIONS_MAX: usize = 65_536;

/// Where a write stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Never seen.
    New,
    /// Proposed, not yet durable.
    InFlight,
    /// Applied at this timestamp.
    Applied(Timestamp),
    /// A transaction that was aborted.
    Aborted,
    /// So old that its result is gone: the client has said that it has the answer, or has too many writes open.
    Forgotten,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    InFlight,
    Applied(Timestamp),
    /// A transaction that left nothing.
    Aborted,
}

/// What stands for the timestamp of a transaction that was aborted: nothing is applied at it.
const ABORTED: Timestamp = Timestamp::ZERO;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Session {
    /// Results below are forgotten.
    floor: u64,
    /// The newest write's timestamp: how long the session has been silent.
    last_ts: Timestamp,
    /// Sorted by sequence number; new ones mostly go to the back.
    marks: VecDeque<(u64, Mark)>,
}

impl Session {
    fn set(&mut self, seq: u64, mark: Mark) {
        match self.marks.back() {
            Some(&(last, _)) if last >= seq => match self.marks.binary_search_by_key(&seq, |&(seq, _)| seq) {
                Ok(at) => self.marks[at].1 = mark,
                Err(at) => self.marks.insert(at, (seq, mark)),
            },
            _ => self.marks.push_back((seq, mark)),
        }
    }

    fn forget_below(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while self
            .marks
            .front()
            .is_some_and(|&(seq, mark)| seq < self.floor && mark != Mark::InFlight)
        {
            self.marks.pop_front();
        }
    }
}

/// The sessions of one range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sessions {
    by_client: FastMap<ClientId, Session>,
}

impl Sessions {
    /// Where the write `id` stands. Writes of client zero, and writes numbered zero, have no session: always new.
    #[must_use]
    pub fn standing(&self, id: &WriteId) -> Standing {
        if !has_session(id) {
            return Standing::New;
        }
        let Some(session) = self.by_client.get(&id.client) else {
            return Standing::New;
        };
        if session.marks.back().is_none_or(|&(last, _)| last < id.seq) && session.floor <= id.seq {
            return Standing::New;
        }
        match session.marks.binary_search_by_key(&id.seq, |&(seq, _)| seq) {
            Ok(at) => match session.marks[at].1 {
                Mark::InFlight => Standing::InFlight,
                Mark::Applied(ts) => Standing::Applied(ts),
                Mark::Aborted => Standing::Aborted,
            },
            Err(_) if id.seq < session.floor => Standing::Forgotten,
            Err(_) => Standing::New,
        }
    }

    /// Notes that the write has been proposed here.
    pub fn propose(&mut self, id: &WriteId) {
        if has_session(id) {
            self.by_client
                .entry(id.client)
                .or_default()
                .set(id.seq, Mark::InFlight);
        }
    }

    /// Forgets what is proposed and not applied: it may never be.
    pub fn forget_in_flight(&mut self) {
        for session in self.by_client.values_mut() {
            session.marks.retain(|(_, mark)| *mark != Mark::InFlight);
        }
        // A session without a result and without a floor says nothing.
        self.by_client
            .retain(|_, session| session.floor > 0 || !session.marks.is_empty());
    }

    /// Notes that the write has been applied at `ts`.
    pub fn apply(&mut self, id: &WriteId, ts: Timestamp) {
        self.note(id, Mark::Applied(ts), ts);
    }

    /// Notes how a transaction of a session, by its number, ended; the entry that says so is of `ts`.
    pub(crate) fn remember(&mut self, (client, seq): (ClientId, u64), outcome: Outcome, ts: Timestamp) {
        let id = WriteId {
            client,
            seq,
            acked_below: 0,
        };
        let mark = match outcome {
            Outcome::Committed { ts } => Mark::Applied(ts),
            Outcome::Aborted => Mark::Aborted,
        };
        self.note(&id, mark, ts);
    }

    fn note(&mut self, id: &WriteId, mark: Mark, ts: Timestamp) {
        if !has_session(id) {
            return;
        }
        let session = self.by_client.entry(id.client).or_default();
        session.set(id.seq, mark);
        session.last_ts = session.last_ts.max(ts);
        session.forget_below(id.acked_below.min(id.seq));
        while session.marks.len() > SESSION_WRITES_MAX {
            let Some(&(oldest, Mark::Applied(_) | Mark::Aborted)) = session.marks.front() else {
                break;
            };
            session.forget_below(oldest + 1);
            base::sometimes!("session: more writes open than remembered");
        }
    }

    /// Takes in the results of another range's sessions, whose keys become this one's. What one of them has forgotten because the
    /// client has its answer is forgotten.
    pub fn unite(&mut self, other: &Self) {
        for (client, theirs) in &other.by_client {
            let session = self.by_client.entry(*client).or_default();
            session.floor = session.floor.max(theirs.floor);
            session.last_ts = session.last_ts.max(theirs.last_ts);
            for &(seq, mark) in theirs.marks.iter().filter(|(_, mark)| *mark != Mark::InFlight) {
                session.set(seq, mark);
            }
        }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// Drops sessions that were silent for long, counted back from `now`, and the longest silent beyond the maximum.
    pub fn expire(&mut self, now: Timestamp) {
        let oldest_kept = now.minus_ns(SESSION_IDLE_NS);
        let in_flight = |session: &Session| session.marks.iter().any(|&(_, mark)| mark == Mark::InFlight);
        self.by_client
            .retain(|_, session| session.last_ts >= oldest_kept || in_flight(session));
        if self.by_client.len() > SESSIONS_MAX {
            let mut silent: Vec<_> = self
                .by_client
                .iter()
                .map(|(client, s)| (s.last_ts, *client))
                .collect();
            silent.sort_unstable();
            let excess = self.by_client.len() - SESSIONS_MAX;
            for (_, client) in &silent[..excess] {
                self.by_client.remove(client);
            }
        }
    }

    /// Appends the applied state, an aborted transaction at timestamp zero: `count u32 │ (client u128 │ floor u64 │ last_ts │ count u32 │ (seq u64 │ ts)…)…`, sorted by
    /// client, so that equal states have equal bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_some(out, |_| true);
    }

    /// A checksum of all results.
    pub(crate) fn checksum(&self) -> u32 {
        let mut bytes = Vec::new();
        self.encode_some(&mut bytes, |session| session.last_ts > Timestamp::ZERO);
        base::checksum::crc32c(&bytes)
    }

    fn encode_some(&self, out: &mut Vec<u8>, is_some: impl Fn(&Session) -> bool) {
        let mut sessions: Vec<_> = self
            .by_client
            .iter()
            .filter(|(_, session)| is_some(session))
            .collect();
        sessions.sort_unstable_by_key(|(client, _)| **client);
        put_len(out, sessions.len());
        for (client, session) in sessions {
            out.extend_from_slice(&client.0.to_le_bytes());
            out.extend_from_slice(&session.floor.to_le_bytes());
            put_ts(out, session.last_ts);
            let applied = session.marks.iter().filter_map(|&(seq, mark)| match mark {
                Mark::Applied(ts) => Some((seq, ts)),
                Mark::Aborted => Some((seq, ABORTED)),
                Mark::InFlight => None,
            });
            put_len(out, applied.clone().count());
            for (seq, ts) in applied {
                out.extend_from_slice(&seq.to_le_bytes());
                put_ts(out, ts);
            }
        }
    }

    /// The inverse of [`Self::encode`]; `None` when the bytes are not a state.
    pub(crate) fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut sessions = Self::default();
        for _ in 0..take_u32(input)? {
            let client = ClientId(u128::from_le_bytes(take(input)?));
            let mut session = Session {
                floor: take_u64(input)?,
                last_ts: take_ts(input)?,
                marks: VecDeque::new(),
            };
            for _ in 0..take_u32(input)? {
                let seq = take_u64(input)?;
                if session.marks.back().is_some_and(|&(last, _)| last >= seq) {
                    return None;
                }
                let mark = match take_ts(input)? {
                    ABORTED => Mark::Aborted,
                    ts => Mark::Applied(ts),
                };
                session.marks.push_back((seq, mark));
            }
            sessions.by_client.insert(client, session);
        }
        Some(sessions)
    }
}

fn has_session(id: &WriteId) -> bool {
    id.client != ClientId(0) && id.seq != 0
}

pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(
        &u32::try_from(len)
            .expect("what a state counts is far below 2^32")
            .to_le_bytes(),
    );
}

pub(crate) fn put_ts(out: &mut Vec<u8>, ts: Timestamp) {
    out.extend_from_slice(&ts.wall_ns.to_le_bytes());
    out.extend_from_slice(&ts.logical.to_le_bytes());
}

pub(crate) fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk()?;
    *input = tail;
    Some(*head)
}

pub(crate) fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take(input).map(u32::from_le_bytes)
}

pub(crate) fn take_u64(input: &mut &[u8]) -> Option<u64> {
    take(input).map(u64::from_le_bytes)
}

pub(crate) fn take_ts(input: &mut &[u8]) -> Option<Timestamp> {
    Some(Timestamp::new(take_u64(input)?, take_u32(input)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: u64, acked_below: u64) -> WriteId {
        WriteId {
            client: ClientId(9),
            seq,
            acked_below,
        }
    }

    fn ts(n: u64) -> Timestamp {
        Timestamp::new(n, 0)
    }

    #[test]
    fn a_write_is_new_then_in_flight_then_applied_then_forgotten() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.standing(&id(1, 1)), Standing::New);
        sessions.propose(&id(1, 1));
        assert_eq!(sessions.standing(&id(1, 1)), Standing::InFlight);
        sessions.apply(&id(1, 1), ts(10));
        assert_eq!(sessions.standing(&id(1, 1)), Standing::Applied(ts(10)));
        sessions.apply(&id(2, 2), ts(11));
        assert_eq!(sessions.standing(&id(1, 1)), Standing::Forgotten);
        assert_eq!(sessions.standing(&id(2, 2)), Standing::Applied(ts(11)));
    }

    #[test]
    fn a_write_overtaken_by_a_later_one_is_still_new() {
        let mut sessions = Sessions::default();
        sessions.apply(&id(5, 2), ts(10));
        assert_eq!(sessions.standing(&id(3, 2)), Standing::New);
        assert_eq!(sessions.standing(&id(1, 1)), Standing::Forgotten);
        sessions.apply(&id(3, 2), ts(11));
        assert_eq!(sessions.standing(&id(3, 2)), Standing::Applied(ts(11)));
        assert_eq!(sessions.standing(&id(5, 2)), Standing::Applied(ts(10)));
    }

    #[test]
    fn writes_without_a_session_are_always_new() {
        let mut sessions = Sessions::default();
        let anonymous = WriteId::default();
        sessions.apply(&anonymous, ts(1));
        assert_eq!(sessions.standing(&anonymous), Standing::New);
        assert!(sessions.is_empty());
    }

    #[test]
    fn memory_is_bounded_when_a_client_never_acknowledges() {
        let mut sessions = Sessions::default();
        for seq in 1..=5_000 {
            sessions.apply(&id(seq, 0), ts(seq));
        }
        assert_eq!(sessions.by_client[&ClientId(9)].marks.len(), SESSION_WRITES_MAX);
        assert_eq!(sessions.standing(&id(1, 0)), Standing::Forgotten);
        assert_eq!(sessions.standing(&id(5_000, 0)), Standing::Applied(ts(5_000)));
    }

    #[test]
    fn what_two_ranges_have_applied_is_known_to_the_one_that_they_become() {
        let (mut left, mut right) = (Sessions::default(), Sessions::default());
        left.apply(&id(2, 1), ts(10));
        left.propose(&id(7, 1));
        right.apply(&id(3, 1), ts(12));
        right.apply(&id(5, 3), ts(14));
        right.apply(
            &WriteId {
                client: ClientId(4),
                seq: 1,
                acked_below: 1,
            },
            ts(9),
        );
        left.unite(&right);
        assert_eq!(left.len(), 2);
        assert_eq!(left.standing(&id(3, 3)), Standing::Applied(ts(12)));
        assert_eq!(left.standing(&id(5, 3)), Standing::Applied(ts(14)));
        assert_eq!(left.standing(&id(4, 3)), Standing::New);
        assert_eq!(left.standing(&id(7, 3)), Standing::InFlight);
        assert_eq!(left.standing(&id(1, 1)), Standing::Forgotten);
    }

    #[test]
    fn silent_sessions_expire() {
        let mut sessions = Sessions::default();
        sessions.apply(&id(1, 1), ts(10));
        sessions.expire(ts(10 + SESSION_IDLE_NS));
        assert_eq!(sessions.len(), 1);
        sessions.expire(ts(11 + SESSION_IDLE_NS));
        assert!(sessions.is_empty());
    }

    #[test]
    fn the_written_state_round_trips_without_what_is_in_flight() {
        let mut sessions = Sessions::default();
        sessions.apply(&id(1, 1), ts(10));
        sessions.apply(&id(4, 1), ts(12));
        let mut bytes = Vec::new();
        sessions.encode(&mut bytes);
        let applied = sessions.clone();
        sessions.propose(&id(5, 1));
        let mut again = Vec::new();
        sessions.encode(&mut again);
        assert_eq!(again, bytes);
        assert_eq!(Sessions::decode(&mut &bytes[..]), Some(applied));
        for len in 0..bytes.len() {
            assert_eq!(Sessions::decode(&mut &bytes[..len]), None, "cut at {len}");
        }
    }
}
