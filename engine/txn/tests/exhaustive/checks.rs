//! What must hold in every state, by one who sees all ranges at once.

use crate::{Actor, Check, Search, State, id, place, value};
use corelane_txn::request::{Item, Push};
use corelane_txn::{Bytes, Outcome, Status};
use std::collections::VecDeque;

impl Search {
    /// What a god sees of a transaction.
    pub(crate) fn seen(state: &State, of: usize) -> Option<Outcome> {
        let id = id(of);
        for range in &state.ranges {
            let tables = &range.0.tables;
            if let Some(record) = tables.records.get(&id) {
                if record.outcome().is_some() {
                    return record.outcome();
                }
                let intent = |key: &Bytes| state.ranges[usize::from(place(key))].0.tables.intents.get(key);
                return record
                    .is_kept_by(intent)
                    .then_some(Outcome::Committed { ts: record.write_ts });
            }
            if let Some(outcome) = tables.memory.get(&id) {
                return Some(*outcome);
            }
        }
        None
    }

    pub(crate) fn check(&mut self, state: &mut State) -> Check {
        for of in 0..state.clients.len() {
            let seen = Self::seen(state, of);
            let client = &state.clients[of].0;
            match (client.decided, seen) {
                (None, Some(seen)) => {
                    self.committed += u64::from(seen != Outcome::Aborted);
                    state.clients[of].change(|client| client.decided = Some(seen));
                }
                (None | Some(Outcome::Aborted), None) => {}
                (Some(known), Some(seen)) if known == seen => {}
                (known, seen) => return Err(format!("t{of} was {known:?} and is {seen:?}")),
            }
            Self::check_writes(state, of)?;
            self.check_reads(state, of)?;
        }
        for (reader, key, at, seen) in &*state.served.0 {
            let others = |value: &Option<Bytes>| {
                reader.is_none_or(|id| *value != Some(self::value(usize::try_from(id.client.0 - 1).unwrap())))
            };
            let versions = &state.ranges[usize::from(place(key))].0.tables.versions[key];
            let newest = versions
                .range(..=*at)
                .rev()
                .find(|(_, stored)| others(&stored.value));
            if newest.map(|(_, stored)| &stored.value) != Some(seen) {
                return Err(format!("what {reader:?} read at {at:?} of {key:?} has changed"));
            }
        }
        Ok(())
    }

    /// Versions are of the committed, at their timestamp, and all are there.
    fn check_writes(state: &State, of: usize) -> Check {
        let client = &state.clients[of].0;
        for key in ["a", "b"] {
            let tables = &state.ranges[usize::from(place(key.as_bytes()))].0.tables;
            let versions = tables.versions[key.as_bytes()].iter();
            let own: Vec<_> = versions
                .filter(|(_, stored)| stored.value == Some(value(of)))
                .collect();
            let wrote = client.wrote.contains(&key);
            match client.decided {
                Some(Outcome::Committed { ts }) => {
                    if own.iter().any(|(at, _)| **at != ts) {
                        return Err(format!(
                            "t{of} is committed at {ts:?} and has a version elsewhere: {own:?}"
                        ));
                    }
                    let intent = tables.intents.get(key.as_bytes());
                    let intent = intent.is_some_and(|intent| intent.who.id == id(of) && intent.ts <= ts);
                    if wrote && own.is_empty() && !intent {
                        return Err(format!("t{of} is committed and its write of {key} is not there"));
                    }
                }
                Some(Outcome::Aborted) | None => {
                    if !own.is_empty() {
                        return Err(format!("t{of} is not committed and {key} is visible"));
                    }
                }
            }
        }
        Ok(())
    }

    /// What was read is what is below the commit timestamp.
    fn check_reads(&self, state: &State, of: usize) -> Check {
        let client = &state.clients[of].0;
        let Some(Outcome::Committed { ts }) = client.decided else {
            return Ok(());
        };
        for (key, seen) in &client.read {
            if *seen == Some(value(of)) {
                continue;
            }
            if !self.scene.isolation.is_serializable() && !client.wrote.contains(key) {
                continue;
            }
            let versions =
                &state.ranges[usize::from(place(key.as_bytes()))].0.tables.versions[key.as_bytes()];
            let mut others = versions
                .iter()
                .filter(|(_, stored)| stored.value != Some(value(of)));
            let below = others.rfind(|(at, _)| **at <= ts);
            if below.map(|(_, stored)| &stored.value) != Some(seen) {
                return Err(format!(
                    "t{of} committed at {ts:?}, and {key}, which it read, has changed"
                ));
            }
        }
        Ok(())
    }

    /// When faults stop, everything ends.
    pub(crate) fn settle(&mut self, state: &State, is_alive: bool) -> Check {
        self.settled += 1;
        let mut state = state.clone();
        state.net.clear();
        let all: Vec<Item> = (0..64).collect();
        for round in 0..200 {
            // Everything sent is delivered once, in order, and its answer too.
            let mut queue: VecDeque<u16> = core::mem::take(&mut state.net).into();
            while let Some(packet) = queue.pop_front() {
                let packet = self.packets[usize::from(packet)].clone();
                self.deliver(&mut state, packet, false)?;
                queue.extend(core::mem::take(&mut state.net));
            }
            let mut is_idle = true;
            for of in 0..state.coordinators.len() {
                let client = state.clients[of].0.clone();
                if !is_alive || state.coordinators[of].0.is_over() {
                    continue;
                }
                is_idle = false;
                let is_ready = state.coordinators[of].0.is_ready();
                if is_ready && client.at < self.scene.programs[of].1.len() && !client.waits {
                    self.call(&mut state, of)?;
                } else if let Some(own) = &mut state.own[of] {
                    let effects = own.change(|recovery| {
                        recovery.on_lost(&all);
                        recovery.effects()
                    });
                    let of = u8::try_from(of).unwrap();
                    self.run_recovery(&mut state, Actor::Own(of), effects)?;
                } else {
                    let effects = state.coordinators[of].change(|coordinator| {
                        coordinator.on_lost(&all);
                        coordinator.effects()
                    });
                    self.run_coordinator(&mut state, of, effects)?;
                }
            }
            if is_idle {
                let left = |key: &&&str| {
                    let range = &state.ranges[usize::from(place(key.as_bytes()))].0;
                    range.tables.intents.contains_key(key.as_bytes())
                };
                let left = ["a", "b"].iter().find(left).copied();
                let Some(key) = left else { break };
                state.pushers.clear();
                self.push(&mut state, key, Push::Force)?;
            }
            if round == 199 {
                return Err("it does not end".to_owned());
            }
        }
        for range in &state.ranges {
            let staged = |record: &corelane_txn::Record| record.status == Status::Staging;
            // One without an intent is looked at by nobody, unless it has promised some: then they are there, and were pushed.
            if range
                .0
                .tables
                .records
                .values()
                .any(|record| staged(record) && record.is_kept_by(|_| None))
            {
                return Err("a transaction stays staged".to_owned());
            }
        }
        self.check(&mut state)
    }
}
