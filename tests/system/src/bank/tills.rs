//! Tills: numbers that tellers add to, by modifications and by transactions, within bounds.
//!
//! What must hold of each till, given what was answered:
//! - In the order of their timestamps, what one addition makes is what the next one begins with. Between two of them may lie such of
//!   unknown outcome, and nothing else: so none is lost, and none is done twice.
//! - What has ended before another begins has the lesser timestamp.
//! - Bounds are kept; what is refused would not have kept them, over a value that the till had meanwhile.

use super::{Bank, Bytes, Stop, Teller, account, number, text};
use crate::client::reply::Reply;
use base::api::{ReadAt, WriteId};
use base::{Modification, Timestamp};
use core::time::Duration;
use env::Instant;
use std::rc::Rc;
use txn::Isolation;
use wire::request;

/// How many tills there are.
const TILLS: usize = 2;
/// What a till may have.
const MOST: i64 = 20;
/// Tries of one modification before its outcome is left open.
const TRIES_MAX: u32 = 4;

/// Something that was asked of a till.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    till: usize,
    began: Instant,
    ended: Instant,
    delta: i64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// It made this, then.
    Made(i64, Timestamp),
    /// It was refused over this, or read it.
    Found(i64),
    /// It may have been done, or may still.
    Unknown,
}

/// What was asked and answered.
#[derive(Debug, Default)]
pub(super) struct Tills {
    events: Vec<Event>,
}

fn till(at: usize) -> Bytes {
    let before = account(at * 7 + 2);
    Bytes::from([&*before, b"/till"].concat())
}

impl Teller {
    /// The name of a modification. None is forgotten: tellers have too few.
    fn number_a_write(&mut self) -> WriteId {
        self.seq += 1;
        WriteId {
            client: self.client,
            seq: self.seq,
            acked_below: 0,
        }
    }
}

impl Bank {
    /// Adds to a till, or reads it.
    pub(super) async fn use_till(self: &Rc<Self>, teller: &mut Teller) {
        let (till, delta, way) = {
            let prng = &mut *self.prng.borrow_mut();
            let sizes = i64::try_from(prng.between(1, 8)).expect("small");
            let delta = if prng.chance(0.5) { sizes } else { -sizes };
            (prng.index(TILLS), delta, prng.below(10))
        };
        let began = self.link.now();
        let what = match way {
            0 => self.read_till(till).await,
            1 | 2 => self.add_by_transaction(teller, (till, delta)).await,
            3 => {
                // Nobody waits for these: they follow each other at the leader.
                for _ in 0..3 {
                    self.at_work.set(self.at_work.get() + 1);
                    let (bank, id) = (self.clone(), teller.number_a_write());
                    self.link.spawn(async move {
                        let began = bank.link.now();
                        let what = bank.add(id, (till, delta)).await;
                        bank.note((till, delta), began, what);
                        bank.at_work.set(bank.at_work.get() - 1);
                    });
                }
                return;
            }
            _ => self.add(teller.number_a_write(), (till, delta)).await,
        };
        self.note((till, if way == 0 { 0 } else { delta }), began, what);
    }

    fn note(&self, (till, delta): (usize, i64), began: Instant, what: Option<What>) {
        let Some(what) = what else { return };
        base::sometimes!(
            "system: a till was refused an addition",
            delta != 0 && matches!(what, What::Found(_))
        );
        self.tills.borrow_mut().events.push(Event {
            till,
            began,
            ended: self.link.now(),
            delta,
            what,
        });
    }

    async fn add(self: &Rc<Self>, id: WriteId, (at, delta): (usize, i64)) -> Option<What> {
        let key = till(at);
        let by = Modification::Add {
            delta,
            min: 0,
            max: MOST,
        };
        let modify = request::Modify {
            id: id.into(),
            key: &key,
            by: by.into(),
            deadline_ms: 1_000,
        };
        let mut doubt = false;
        for _ in 0..TRIES_MAX {
            match self.link.ask(&modify, &key).await {
                Some(Reply::Modified { value, ts }) => {
                    let value = match value {
                        Some(value) => number(Some(&Bytes::from(value))),
                        None => {
                            base::sometimes!("system: a modification was answered to a retry");
                            self.get_at(&key, ts).await
                        }
                    };
                    return Some(value.map_or(What::Unknown, |value| What::Made(value, ts)));
                }
                // A lost try may arrive after this one, when the bound allows it.
                Some(Reply::ConditionFailed { .. }) if doubt => return Some(What::Unknown),
                Some(Reply::ConditionFailed { found, .. }) => {
                    let found = number(found.map(Bytes::from).as_ref());
                    return found.map(What::Found);
                }
                Some(Reply::Transact { answer, .. }) => {
                    let Err((_, txn::Refusal::Conflict { conflict, seen })) = answer else {
                        self.say(&format!("an addition was answered by {answer:?}"));
                        return None;
                    };
                    base::sometimes!("system: an addition has met an intent");
                    let push = txn::request::Push::Abort;
                    self.link.clear(seen, conflict.key, push).await;
                }
                Some(other) => {
                    self.say(&format!("an addition was answered by {other:?}"));
                    return None;
                }
                None => doubt = true,
            }
            self.link.sleep(Duration::from_millis(20)).await;
        }
        Some(What::Unknown)
    }

    async fn add_by_transaction(
        self: &Rc<Self>,
        teller: &mut Teller,
        (at, delta): (usize, i64),
    ) -> Option<What> {
        let txn = self.begin(teller, Isolation::Serializable).await;
        let Ok((mut txn, found)) = self.read_to_write(txn, vec![till(at)]).await else {
            return None;
        };
        let sum = found[0] + delta;
        if !(0..=MOST).contains(&sum) {
            // What it has read is of the past, perhaps: that is checked of those who read all accounts.
            txn.driver.abandon();
            self.link.finish(txn.driver, txn.queue);
            return None;
        }
        txn.driver.write(till(at), text(sum));
        if self.prng.borrow_mut().chance(0.5) {
            // It has an intent then, and more than one step to go.
            txn.driver.flush();
        }
        match self.commit(txn).await {
            Ok(ts) => Some(What::Made(sum, ts)),
            Err(Stop::Failed) => None,
            Err(Stop::Unknown) => Some(What::Unknown),
            Err(Stop::Died) => {
                teller.client = self.session();
                teller.seq = 0;
                Some(What::Unknown)
            }
        }
    }

    async fn read_till(self: &Rc<Self>, at: usize) -> Option<What> {
        let key = till(at);
        let get = request::Get {
            key: &key,
            at: ReadAt::Newest.into(),
            deadline_ms: 1_000,
        };
        match self.link.ask(&get, &key).await? {
            Reply::Value { value, .. } => number(value.map(Bytes::from).as_ref()).map(What::Found),
            _ => None,
        }
    }
}

impl Tills {
    /// What was wrong.
    pub(super) fn check(&self) -> Vec<String> {
        (0..TILLS).flat_map(|at| self.check_one(at)).collect()
    }

    fn check_one(&self, at: usize) -> Vec<String> {
        let events: Vec<&Event> = self.events.iter().filter(|event| event.till == at).collect();
        let mut wrong = Vec::new();
        let mut made: Vec<(Timestamp, i64, &Event)> = Vec::new();
        for event in &events {
            match event.what {
                What::Made(value, ts) => made.push((ts, value, event)),
                What::Found(found) if event.delta != 0 && (0..=MOST).contains(&(found + event.delta)) => {
                    wrong.push(format!("till {at}: {event:?} was refused within its bounds"));
                }
                What::Found(_) | What::Unknown => {}
            }
        }
        made.sort_by_key(|(ts, ..)| *ts);
        let unknown: Vec<&Event> = events
            .iter()
            .copied()
            .filter(|event| event.what == What::Unknown)
            .collect();
        let mut before = 0;
        for (ts, value, event) in &made {
            if !(0..=MOST).contains(value) {
                wrong.push(format!("till {at}: {event:?} is out of bounds"));
            }
            let begins = value - event.delta;
            let open = unknown.iter().filter(|open| open.began < event.ended);
            if !explains(begins - before, open.map(|open| open.delta)) {
                wrong.push(format!(
                    "till {at}: {event:?} at {ts} begins with {begins}, after {before}"
                ));
            }
            before = *value;
        }
        let mut newest = Timestamp::ZERO;
        let mut by_end = made.clone();
        by_end.sort_by_key(|(.., event)| event.ended);
        let mut by_start = made.clone();
        by_start.sort_by_key(|(.., event)| event.began);
        let mut ended = by_end.iter().peekable();
        for (ts, _, event) in &by_start {
            while let Some((ts, ..)) = ended.next_if(|(.., other)| other.ended < event.began) {
                newest = newest.max(*ts);
            }
            if newest > *ts {
                wrong.push(format!(
                    "till {at}: {event:?} at {ts} follows something at {newest}"
                ));
            }
        }
        if unknown.is_empty() {
            let found = |event: &&&Event| matches!(event.what, What::Found(_));
            for event in events.iter().filter(found) {
                let What::Found(value) = event.what else { continue };
                let until = |(.., other): &&(Timestamp, i64, &Event)| other.ended < event.began;
                let floor = made.iter().filter(until).map(|(ts, ..)| *ts).max();
                let shown = |(ts, made, other): &(Timestamp, i64, &Event)| {
                    *made == value && floor.is_none_or(|floor| *ts >= floor) && other.began < event.ended
                };
                let is_first = floor.is_none() && value == 0;
                if !is_first && !made.iter().any(shown) {
                    wrong.push(format!("till {at}: {event:?} finds what was not there"));
                }
            }
        }
        wrong
    }
}

/// Whether some of `deltas` add up to `sum`.
fn explains(sum: i64, deltas: impl Iterator<Item = i64>) -> bool {
    let mut sums = std::collections::BTreeSet::from([0]);
    for delta in deltas {
        let more: Vec<i64> = sums.iter().map(|sum| sum + delta).collect();
        sums.extend(more);
    }
    sums.contains(&sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, delta: i64, what: What) -> Event {
        Event {
            till: 0,
            began: Instant(at * 10),
            ended: Instant(at * 10 + 5),
            delta,
            what,
        }
    }

    fn made(at: u64, delta: i64, value: i64) -> Event {
        event(at, delta, What::Made(value, Timestamp::new(at, 0)))
    }

    fn check(events: Vec<Event>) -> usize {
        Tills { events }.check().len()
    }

    #[test]
    fn a_chain_without_gaps_is_right() {
        let chain = vec![made(1, 5, 5), made(2, -2, 3), event(3, -9, What::Found(3))];
        assert_eq!(check(chain), 0);
        assert_eq!(check(vec![event(0, 3, What::Unknown), made(1, 5, 8)]), 0);
    }

    #[test]
    fn what_is_lost_or_done_twice_is_seen() {
        assert_eq!(check(vec![made(1, 5, 5), made(2, 2, 2)]), 1, "lost");
        assert_eq!(check(vec![made(1, 5, 5), made(2, 2, 9)]), 1, "done twice");
        assert_eq!(
            check(vec![made(1, 5, 5), event(2, 3, What::Unknown), made(3, 2, 9)]),
            1
        );
    }

    #[test]
    fn bounds_and_what_was_found_are_checked() {
        assert_eq!(check(vec![made(1, 21, 21)]), 1);
        assert_eq!(check(vec![made(1, 5, 5), event(2, -4, What::Found(5))]), 1);
        assert_eq!(check(vec![made(1, 5, 5), event(2, 0, What::Found(4))]), 1);
    }

    #[test]
    fn time_goes_on() {
        let late = event(2, 3, What::Made(3, Timestamp::new(0, 1)));
        assert!(check(vec![made(1, 5, 8), late]) > 0);
    }
}
