//! One-shot transactions, and changes within others. What a one-shot transaction saw and did follows from the versions that are there in the
//! end: nobody need have heard it.

use crate::checker::{Committed, Versions};
use crate::fixtures::{bytes, ts};
use crate::{ACCOUNTS, LISTS, Op, REGISTERS, Run, text};
use base::Timestamp;
use corelane_txn::change::{Change, Condition, Must, OneShot, Unmet};
use corelane_txn::{Bytes, Isolation};
use std::collections::BTreeMap;

fn add(delta: i64, min: i64) -> Change {
    let max = i64::MAX;
    Change::Add { delta, min, max }
}

impl Run {
    /// What a client does whose transaction is one-shot, or has changes.
    pub(crate) fn draw_shot(&mut self, number: usize) -> Vec<Op> {
        let amount = i64::try_from(self.shots.below(60)).expect("small");
        let from = self.shots.index(ACCOUNTS.len());
        let to = (from + 1 + self.shots.index(ACCOUNTS.len() - 1)) % ACCOUNTS.len();
        let (from, to) = (ACCOUNTS[from], ACCOUNTS[to]);
        let take = (from, add(-amount, 0));
        let give = (to, add(amount, i64::MIN));
        let append = Change::Append {
            bytes: bytes(&format!(" t{number}")),
            len_max: u32::MAX,
        };
        let mut shot = OneShot::default();
        match self.shots.below(8) {
            0 | 1 => shot.changes = vec![(bytes(take.0), take.1), (bytes(give.0), give.1)],
            2 => return self.draw_transfer((from, to), amount),
            3 => {
                let mut ops = Vec::new();
                for _ in 0..self.shots.between(1, 3) {
                    let key = LISTS[self.shots.index(LISTS.len())];
                    match self.shots.below(8) {
                        0 => ops.push(Op::Read(vec![LISTS[self.shots.index(LISTS.len())]])),
                        1 => ops.extend([Op::Savepoint, Op::Change(key, append.clone()), Op::Return]),
                        2 => ops.push(Op::Append(key)),
                        3 => ops.push(Op::Flush),
                        _ => ops.push(Op::Change(key, append.clone())),
                    }
                }
                ops.push(Op::Commit);
                return ops;
            }
            4 => {
                let put = Change::Set(Some(bytes(&format!("t{number}"))));
                let key = self.shots.index(REGISTERS.len());
                let other = (key + 1 + self.shots.index(REGISTERS.len() - 1)) % REGISTERS.len();
                shot.changes.push((bytes(REGISTERS[key]), put));
                let must = [Must::Absent, Must::Present][self.shots.index(2)].clone();
                self.must(&mut shot, REGISTERS[other], Some(must));
            }
            5 => {
                // Two of these, the other way round, are write skew.
                let (one, other) =
                    [("a1", "s1"), ("s1", "a1"), ("a1", "a2"), ("a2", "a1")][self.shots.index(4)];
                shot.changes.push((bytes(one), append));
                self.must(&mut shot, other, None);
            }
            _ => {
                let mut keys = LISTS.to_vec();
                for _ in 0..self.shots.between(1, 3) {
                    let key = keys.swap_remove(self.shots.index(keys.len()));
                    shot.changes.push((bytes(key), append.clone()));
                }
                for _ in 0..self.shots.between(0, 2) {
                    let key = LISTS[self.shots.index(LISTS.len())];
                    self.must(&mut shot, key, None);
                }
            }
        }
        vec![Op::Shot(shot)]
    }

    /// A transfer by changes: what is taken may be taken in two parts, or after something that is taken back.
    fn draw_transfer(&mut self, (from, to): (&'static str, &'static str), amount: i64) -> Vec<Op> {
        let half = amount / 2;
        let take = |amount: i64| Op::Change(from, add(-amount, 0));
        let mut ops = match self.shots.below(3) {
            0 => vec![take(amount)],
            1 => vec![take(half), take(amount - half)],
            _ => vec![Op::Savepoint, take(half), Op::Return, take(amount)],
        };
        ops.extend([Op::Change(to, add(amount, i64::MIN)), Op::Commit]);
        ops
    }

    /// A condition; that a key has what it has now, unless another one is given.
    fn must(&mut self, shot: &mut OneShot, key: &str, must: Option<Must>) {
        let newest = self.world.ranges[self.world.place(key.as_bytes())]
            .tables
            .versions[key.as_bytes()]
        .iter()
        .next_back()
        .map(|(ts, stored)| (*ts, stored.value.clone()));
        let holds = match newest {
            Some((ts, Some(_))) if self.shots.chance(0.3) => Must::Version(ts),
            Some((_, Some(value))) => Must::Equal(value),
            _ => Must::Absent,
        };
        shot.conditions.push(Condition {
            number: u32::try_from(shot.conditions.len()).expect("few"),
            key: bytes(key),
            must: must.unwrap_or(holds),
        });
    }

    pub(crate) fn shoot(&mut self, number: usize, shot: OneShot) {
        let starts: Vec<Bytes> = self
            .world
            .ranges
            .iter()
            .map(|range| range.tables.start.clone())
            .collect();
        // Now and then the client knows nothing of a split, or of a merge.
        let (blurs, parts) = (self.shots.chance(0.1), self.shots.chance(0.1));
        let place = |key: &[u8]| starts.iter().filter(|start| ***start <= *key).count();
        // Some think that others wait for what they change, in whatever order.
        let mut first: Vec<Bytes> = shot.changes.iter().map(|(key, _)| key.clone()).collect();
        first.retain(|_| self.shots.chance(0.3));
        self.world.call(number, |txn| {
            txn.one_shot_in_turn(shot, &first, |one, other| {
                (blurs || place(one) == place(other)) && !(parts && one != other)
            });
        });
    }

    pub(crate) fn on_changed(&mut self, number: usize, value: Option<&Bytes>) {
        let client = self.clients.get_mut(&number).expect("it began");
        client.waits = false;
        let (key, change) = client.changes.take().expect("it changes something");
        let value = text(value);
        let before = match change {
            Change::Add { delta, .. } => (value.parse::<i64>().expect("a number") - delta).to_string(),
            Change::Append { bytes, .. } => value
                .strip_suffix(&text(Some(&bytes)))
                .expect("it is there")
                .to_owned(),
            other => panic!("{other:?} was not drawn"),
        };
        match client.writes.get(key) {
            None => client.reads.push((key.to_owned(), before)),
            Some(own) => assert_eq!(*own, before, "t{number} does not change its own write of {key}"),
        }
        client.writes.insert(key.to_owned(), value.clone());
    }

    pub(crate) fn on_unmet(&mut self, number: usize, unmet: &Unmet) {
        let client = self.clients.get_mut(&number).expect("it began");
        client.waits = false;
        let (key, _) = client.changes.take().expect("it changes something");
        let found = text(unmet.found.as_ref());
        match client.writes.get(key) {
            None => client.reads.push((key.to_owned(), found)),
            Some(own) => assert_eq!(*own, found, "t{number} does not see its own write of {key}"),
        }
        // What is not taken is not given.
        client.ops.retain(|op| !matches!(op, Op::Change(..) | Op::Commit));
        client.ops.insert(
            0,
            if client.writes.is_empty() {
                Op::Commit
            } else {
                Op::RollBack
            },
        );
    }
}

/// The newest value of a key at or below `at`, beside one of `commit_ts`, and where it lies.
fn seen_at(versions: &Versions, key: &str, at: Timestamp, commit_ts: Timestamp) -> (Timestamp, String) {
    let mut below = versions.get(key).into_iter().flatten();
    let seen = below.rfind(|(ts, _)| *ts <= at && *ts != commit_ts);
    seen.map_or((ts(0), String::new()), |(ts, value)| (*ts, value.clone()))
}

/// An empty text stands for no value.
fn value_of(text: &str) -> Option<&[u8]> {
    Some(text.as_bytes()).filter(|text| !text.is_empty())
}

/// What a one-shot transaction that committed at `commit_ts` saw and did. Its conditions held there, and its changes are right.
pub(crate) fn committed(
    (id, isolation): (usize, Isolation),
    shot: &OneShot,
    commit_ts: Timestamp,
    versions: &Versions,
) -> Result<Committed, String> {
    let (mut reads, mut writes) = (Vec::new(), BTreeMap::new());
    for (key, change) in &shot.changes {
        let key = text(Some(key));
        let (_, before) = seen_at(versions, &key, commit_ts, commit_ts);
        let mut all = versions.get(&key).into_iter().flatten();
        let Some((_, value)) = all.find(|(ts, _)| *ts == commit_ts) else {
            return Err(format!(
                "t{id} is committed, and its change of {key} is not there"
            ));
        };
        // Lists begin with an empty text.
        let found = value_of(&before).or(LISTS.contains(&key.as_str()).then_some(&[]));
        let made = change.apply(found);
        if !made.as_ref().is_ok_and(|made| text(made.as_ref()) == *value) {
            return Err(format!("t{id} made {value} of {key}={before}, not {made:?}"));
        }
        if !matches!(change, Change::Set(_)) {
            reads.push((key.clone(), before));
        }
        writes.insert(key, value.clone());
    }
    for Condition { number, key, must } in &shot.conditions {
        let key = text(Some(key));
        let own = writes.contains_key(&key);
        let (ts, found) = match own {
            true => seen_at(versions, &key, commit_ts, commit_ts),
            false => seen_at(versions, &key, commit_ts, Timestamp::MAX),
        };
        let value = value_of(&found).or(LISTS.contains(&key.as_str()).then_some(&[]));
        if !must.holds(value, ts) {
            return Err(format!(
                "t{id} is committed, and condition {number} does not hold: {key}={found}"
            ));
        }
        reads.push((key, found));
    }
    Ok(Committed {
        id,
        isolation,
        read_ts: commit_ts,
        commit_ts,
        reads,
        writes,
    })
}

/// What did not hold was so when it was looked at.
pub(crate) fn check_unmet(id: usize, unmet: &Unmet, versions: &Versions) -> Result<(), String> {
    let key = text(Some(&unmet.key));
    let (_, was) = seen_at(versions, &key, unmet.ts, Timestamp::MAX);
    let found = text(unmet.found.as_ref());
    if was == found {
        return Ok(());
    }
    Err(format!(
        "t{id} found {key}={found} at {:?}, where {was} was",
        unmet.ts
    ))
}
