//! Writes: from a request to a log entry, and from a durable entry to its answer.

use crate::message::RawRequest;
use crate::refusal::{Refusal, check_key, check_span, check_value};
use crate::replicate::Command;
use crate::state::{Job, Route, Slot, State, Then};
use base::api::{Condition, WriteId, WriteOp};
use base::{Index, Timestamp, limits};
use env::Env;
use replica::Admission;
use storage::Pressure;
use wire::Code;
use wire::reply::{ConditionFailed, WriteReply};

/// The commands of one loop turn are proposed early at this size.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// How the first condition that does not hold failed.
pub(crate) struct Failed {
    condition: u32,
    found: Option<Vec<u8>>,
}

impl<E: Env, B> State<E, B> {
    /// Takes a write: refuses, forwards, parks, answers or proposes it.
    pub(crate) fn on_write<'a, C, O>(&mut self, id: WriteId, conditions: C, ops: O, raw: RawRequest<'_>)
    where
        C: ExactSizeIterator<Item = Condition<'a>> + Clone,
        O: ExactSizeIterator<Item = WriteOp<'a>> + Clone,
    {
        if let Err(refusal) = check_write(conditions.clone(), ops.clone()) {
            return self.refuse(raw.origin, &refusal);
        }
        let Some(first) = ops.clone().next() else {
            return self.refuse(
                raw.origin,
                &Refusal::fatal(Code::InvalidRequest, "a write has at least one operation"),
            );
        };
        let position = self.map.position(first.key());
        let single = ops.len() == 1 && conditions.len() == 0 && !matches!(first, WriteOp::DeleteRange { .. });
        if !single && let Err(refusal) = self.check_one_range(position, conditions.clone(), ops.clone()) {
            return self.refuse(raw.origin, &refusal);
        }
        let Some(slot) = self.slot_to_write(position, raw) else {
            return;
        };
        let local = self.live_mut(slot);
        match local.replica.admit(&id, conditions.clone(), ops.clone()) {
            Admission::Propose => {
                // It is applied a device write later: by then the line is here.
                local.tablet.prefetch(first.key());
                self.propose(slot, &id, ops, raw);
            }
            Admission::Evaluate => self.evaluate(slot, &id, conditions, ops, raw),
            Admission::Applied(ts) => {
                self.counts.duplicates += 1;
                self.reply(raw.origin, &WriteReply { ts: ts.into() });
            }
            other => self.not_admitted(slot, other, &id, raw),
        }
    }

    /// The slot of a range that takes writes now; anything else is dealt with here: forwarded, refused, or kept for later.
    pub(crate) fn slot_to_write(&mut self, position: usize, raw: RawRequest<'_>) -> Option<u32> {
        let slot = match self.routes[position] {
            Route::There(shard) => {
                self.forward(shard, raw);
                return None;
            }
            Route::Nowhere => {
                self.refuse(raw.origin, &Refusal::not_here());
                return None;
            }
            Route::Here(slot) => slot,
        };
        if !self.stalled.is_empty() || self.storage.pressure() == Pressure::Stop || !self.log.has_room() {
            base::sometimes!("node: write held back by a full memory or log");
            self.wake_maintenance = true;
            self.stalled.push_back(raw.to_owned());
            return None;
        }
        let local = match &mut self.slots[slot as usize] {
            Slot::Live(local) => local,
            Slot::Opening(_, waiting) => {
                waiting.push_back(raw.to_owned());
                return None;
            }
            Slot::Free | Slot::Stranger(_) => unreachable!("routes lead to taken slots"),
        };
        if local.leads() && local.replica.last_ts().wall_ns <= self.clock_bound_ns {
            return Some(slot);
        }
        if let Some(refusal) = self.led_elsewhere(slot) {
            self.refuse(raw.origin, &refusal);
            return None;
        }
        base::sometimes!("node: write waits for a leader");
        self.park(slot, raw);
        None
    }

    /// The request waits until it is time to look at it again.
    pub(crate) fn park(&mut self, slot: u32, raw: RawRequest<'_>) {
        let local = self.live_mut(slot);
        local.replica.park(raw.to_owned());
        if !core::mem::replace(&mut local.seat.parked, true) {
            self.parked.push(slot);
        }
    }

    /// A write may not be proposed: what that means for it.
    pub(crate) fn not_admitted(
        &mut self,
        slot: u32,
        admission: Admission,
        id: &WriteId,
        raw: RawRequest<'_>,
    ) {
        let reused = |message| Refusal::fatal(Code::SequenceReused, message);
        match admission {
            Admission::Wait => self.park(slot, raw),
            Admission::Meets(met) => self.refuse(raw.origin, &Refusal::met(met)),
            Admission::Aborted => {
                let message = format!(
                    "number {} of this session is a transaction's, which was aborted",
                    id.seq
                );
                self.refuse(raw.origin, &reused(message));
            }
            Admission::Forgotten => {
                let message = format!(
                    "write {} of this session was answered long ago or too many are open",
                    id.seq
                );
                self.refuse(raw.origin, &reused(message));
            }
            Admission::Propose | Admission::Evaluate | Admission::Applied(_) => {
                unreachable!("what is let through, or was, is dealt with by its kind")
            }
        }
    }

    fn check_one_range<'a>(
        &self,
        position: usize,
        mut conditions: impl Iterator<Item = Condition<'a>>,
        mut ops: impl Iterator<Item = WriteOp<'a>>,
    ) -> Result<(), Refusal> {
        let descriptor = &self.map.entries()[position].descriptor;
        let span = &descriptor.span;
        let outside = conditions
            .find(|c| !span.contains(c.key()))
            .map(|c| c.key())
            .or_else(|| {
                ops.find_map(|op| match op {
                    WriteOp::DeleteRange { end: Some(end), .. }
                        if span.end.as_deref().is_some_and(|e| e < end) =>
                    {
                        Some(end)
                    }
                    op => (!span.contains(op.key())).then(|| op.key()),
                })
            });
        match outside {
            None => Ok(()),
            Some(key) => {
                let message = format!(
                    "the batch begins in range {} and also touches another",
                    descriptor.range
                );
                Err(Refusal::retry(Code::BatchSpansRanges, 0, message)
                    .about_key(key)
                    .about_range(descriptor.range))
            }
        }
    }

    /// Reads the conditions in memory and proposes, or hands the reading to a job.
    fn evaluate<'a, C, O>(&mut self, slot: u32, id: &WriteId, conditions: C, ops: O, raw: RawRequest<'_>)
    where
        C: ExactSizeIterator<Item = Condition<'a>> + Clone,
        O: ExactSizeIterator<Item = WriteOp<'a>> + Clone,
    {
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("admitted by a live range");
        let mut failed = None;
        for (position, condition) in (0u32..).zip(conditions.clone()) {
            let found = local.tablet.get_cached(condition.key(), Timestamp::MAX, |found| {
                violates(&condition, found.map(|(_, value)| value))
            });
            match found {
                Ok(None) => {}
                Ok(Some(found)) => {
                    failed = Some(Failed {
                        condition: position,
                        found,
                    });
                    break;
                }
                Err(storage::NeedsIo) => {
                    base::sometimes!("node: condition read from disk");
                    local.replica.reserve(conditions);
                    let tablet = local.tablet.clone();
                    local.reads.set(local.reads.get() + 1);
                    self.jobs.push(Job::Evaluate {
                        slot,
                        tablet,
                        request: raw.to_owned(),
                    });
                    return;
                }
            }
        }
        self.finish_evaluation(slot, id, failed, ops, raw);
    }

    /// The conditions have been read: proposes the write or says which one failed.
    pub(crate) fn finish_evaluation<'a, O>(
        &mut self,
        slot: u32,
        id: &WriteId,
        failed: Option<Failed>,
        ops: O,
        raw: RawRequest<'_>,
    ) where
        O: Iterator<Item = WriteOp<'a>> + Clone,
    {
        match failed {
            None => self.propose(slot, id, ops, raw),
            Some(_) if !self.may_read(slot) => {
                let refusal = self.not_leading(slot);
                self.refuse(raw.origin, &refusal);
            }
            Some(Failed { condition, found }) => {
                self.counts.conditions_failed += 1;
                let ts = self.now().into();
                self.reply(
                    raw.origin,
                    &ConditionFailed {
                        condition,
                        found: found.as_deref(),
                        ts,
                    },
                );
            }
        }
    }

    fn propose<'a>(
        &mut self,
        slot: u32,
        id: &WriteId,
        ops: impl Iterator<Item = WriteOp<'a>> + Clone,
        raw: RawRequest<'_>,
    ) {
        // Here, behind what tells retries of applied writes: what is refused is not applied.
        if let Some(refusal) = self.lacks_room(slot, ops.clone()) {
            return self.refuse(raw.origin, &refusal);
        }
        let ts = self.write_ts();
        let start = self.batch.bytes.len();
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("admitted by a live range");
        assert!(local.leads(), "{} proposes only where it leads", local.range);
        if let Some(first) = ops.clone().next() {
            local.load.touch(first.key());
        }
        let index = local.replica.propose_write(id, ts, ops, &mut self.batch.bytes);
        self.counts.writes += 1;
        self.stage(slot, index, start, Then::Reply(raw.origin));
    }

    /// The command that begins at `start` of the batch's bytes has its index: it is proposed when the turn ends.
    pub(crate) fn stage(&mut self, slot: u32, index: Index, start: usize, then: Then) {
        self.live_mut(slot).proposed.push_back((index, then));
        let end = self.batch.bytes.len();
        self.batch.commands.push(Command {
            slot,
            index,
            start,
            end,
        });
        if end >= BATCH_BYTES_MAX || base::misbehave!("node: small batches") {
            self.close_batch();
        }
    }

    /// Tries the requests that a range has parked again.
    pub(crate) fn run_parked(&mut self, slot: u32) {
        let Some(local) = self.slots[slot as usize].live_mut() else {
            return;
        };
        if local.leads() && local.replica.has_runnable() {
            for request in local.replica.unpark() {
                self.on_owned(&request);
            }
        }
    }

    /// Tries the writes that were held back again, as far as memory and log allow.
    pub(crate) fn release_stalled(&mut self) {
        if self.stalled.is_empty() || self.storage.pressure() == Pressure::Stop || !self.log.has_room() {
            return;
        }
        // Each goes through the same checks: what does not fit any more is held back again, in order.
        for request in core::mem::take(&mut self.stalled) {
            self.on_owned(&request);
        }
    }
}

/// Whether `found` violates the condition, and then what was found.
pub(crate) fn violates(condition: &Condition<'_>, found: Option<&[u8]>) -> Option<Option<Vec<u8>>> {
    let holds = match *condition {
        Condition::Absent { .. } => found.is_none(),
        Condition::Equals { value, .. } => found == Some(value),
    };
    (!holds).then(|| found.map(<[u8]>::to_vec))
}

/// The first condition of a write that `values`, in the order of the conditions, violate.
pub(crate) fn first_violated<'a>(
    conditions: impl Iterator<Item = Condition<'a>>,
    values: &[Option<Vec<u8>>],
) -> Option<Failed> {
    (0u32..)
        .zip(conditions.zip(values))
        .find_map(|(position, (condition, value))| {
            violates(&condition, value.as_deref()).map(|found| Failed {
                condition: position,
                found,
            })
        })
}

fn check_write<'a>(
    mut conditions: impl ExactSizeIterator<Item = Condition<'a>>,
    ops: impl ExactSizeIterator<Item = WriteOp<'a>>,
) -> Result<(), Refusal> {
    if conditions.len() + ops.len() > limits::BATCH_OPS_MAX {
        let message = format!(
            "the batch has {} operations; the limit is {}",
            ops.len(),
            limits::BATCH_OPS_MAX
        );
        return Err(Refusal::fatal(Code::BatchTooLarge, message));
    }
    conditions.try_for_each(|condition| check_key(condition.key()))?;
    let mut bytes = 0usize;
    for op in ops {
        match op {
            WriteOp::Put { key, value } => {
                check_key(key)?;
                check_value(key, value)?;
                bytes = bytes.saturating_add(key.len() + value.len());
            }
            WriteOp::Delete { key } => {
                check_key(key)?;
                bytes = bytes.saturating_add(key.len());
            }
            WriteOp::DeleteRange { start, end } => {
                check_span(start, end)?;
                bytes = bytes.saturating_add(start.len() + end.map_or(0, <[u8]>::len));
            }
        }
    }
    if bytes > limits::BATCH_BYTES_MAX {
        let message = format!(
            "the batch has {bytes} bytes; the limit is {}",
            limits::BATCH_BYTES_MAX
        );
        return Err(Refusal::fatal(Code::BatchTooLarge, message));
    }
    Ok(())
}
