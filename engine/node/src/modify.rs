//! Modifications: writes of one key whose value follows from the one before (`base::modification`).
//!
//! ```text
//!   modify ──► admitted as a put ──► newest value: of the one before, or of the tablet ──► a put in the log ──► applied ──► answer
//! ```
//!
//! The leader works the value out where it is proposed, over everything that is proposed before: modifications of one key follow each
//! other like puts, without waiting for the disk or for other nodes. Replicas apply puts.
//!
//! Invariants:
//! - What is proposed was worked out over the value that the key has when all that was proposed before is applied.
//! - That a bound does not allow a modification is answered when what it was worked out over is applied, under a lease that is valid
//!   then: nobody hears of a value that is lost later.

use crate::message::{Origin, OwnedRequest, RawRequest};
use crate::refusal::{Refusal, check_key, check_value};
use crate::shard::Shard;
use crate::state::{Job, Message, State, Then};
use base::api::{Condition, WriteId, WriteOp};
use base::key::Escaped;
use base::{Index, Modification, Timestamp, Unmodified};
use env::{Env, Mailbox};
use replica::{Admission, Begin};
use storage::{NeedsIo, Tablet};
use wire::reply::{ConditionFailed, ModifyReply};
use wire::request::ArchivedModify;
use wire::{Code, RequestRef, decode_request};

/// Bytes of a key and of a value that a message shows.
const SHOWN_MAX: usize = 64;

/// A key keeps its value.
pub(crate) struct Unchanged {
    why: Unmodified,
    key: Vec<u8>,
    /// All of it when it is out of bounds; as much as is shown when it is not a number.
    found: Option<Vec<u8>>,
}

/// What `key` has by a modification that had `found`, or that it keeps that.
fn work_out(by: &Modification<'_>, key: &[u8], found: Option<&[u8]>) -> Result<Vec<u8>, Unchanged> {
    by.apply(found).map_err(|why| {
        let key = key.to_vec();
        let found = match why {
            Unmodified::OutOfBounds => found,
            Unmodified::NotANumber => found.map(shown),
        };
        let found = found.map(<[u8]>::to_vec);
        Unchanged { why, key, found }
    })
}

fn shown(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(SHOWN_MAX)]
}

impl<E: Env, B> State<E, B> {
    /// Takes a modification: refuses, forwards, parks, answers or proposes it.
    pub(crate) fn on_modify(&mut self, modify: &ArchivedModify<'static>, raw: RawRequest<'_>) {
        let (id, key, by) = (modify.id.write_id(), &*modify.key, Modification::from(&modify.by));
        let checked = match by {
            Modification::Append { bytes, .. } => check_key(key).and_then(|()| check_value(key, bytes)),
            _ => check_key(key),
        };
        if let Err(refusal) = checked {
            return self.refuse(raw.origin, &refusal);
        }
        let position = self.map.position(key);
        let Some(slot) = self.slot_to_write(position, raw) else {
            return;
        };
        let local = self.live_mut(slot);
        let op = [WriteOp::Put { key, value: &[] }];
        match local.replica.admit(&id, core::iter::empty(), op.into_iter()) {
            Admission::Propose => {}
            // The value that it had is to be read at the timestamp: it is not kept.
            Admission::Applied(ts) => {
                self.counts.duplicates += 1;
                return self.reply(
                    raw.origin,
                    &ModifyReply {
                        ts: ts.into(),
                        value: None,
                    },
                );
            }
            other => return self.not_admitted(slot, other, &id, raw),
        }
        let local = self.live_mut(slot);
        let result = match local.replica.begin(key) {
            Begin::With(value) => {
                base::sometimes!("node: a modification begins with one that is not applied");
                Ok(work_out(&by, key, Some(value)))
            }
            Begin::Wait => {
                base::sometimes!("node: a modification waits for a write in flight");
                return self.park(slot, raw);
            }
            Begin::Applied => local.tablet.get_cached(key, Timestamp::MAX, |found| {
                work_out(&by, key, found.map(|(_, value)| value))
            }),
        };
        match result {
            Ok(result) => self.finish_modification(slot, &id, key, result, raw),
            Err(NeedsIo) => {
                base::sometimes!("node: a modification reads from disk");
                local.replica.reserve(core::iter::once(Condition::Absent { key }));
                let tablet = local.tablet.clone();
                local.reads.set(local.reads.get() + 1);
                self.jobs.push(Job::Evaluate {
                    slot,
                    tablet,
                    request: raw.to_owned(),
                });
            }
        }
    }

    /// The value before is known: proposes what follows from it, or says why nothing does.
    pub(crate) fn finish_modification(
        &mut self,
        slot: u32,
        id: &WriteId,
        key: &[u8],
        result: Result<Vec<u8>, Unchanged>,
        raw: RawRequest<'_>,
    ) {
        let value = match result {
            Ok(value) => value,
            Err(unchanged) => {
                let local = self.live_mut(slot);
                return match local.proposed.back() {
                    Some(&(last, _)) => {
                        base::sometimes!("node: a modification is refused over what is not applied");
                        let then = Then::Unchanged(raw.origin, Box::new(unchanged));
                        local.proposed.push_back((last, then));
                    }
                    None => self.answer_unchanged(slot, raw.origin, &unchanged),
                };
            }
        };
        let op = [WriteOp::Put { key, value: &value }];
        if let Some(refusal) = self.lacks_room(slot, op.into_iter()) {
            return self.refuse(raw.origin, &refusal);
        }
        let ts = self.write_ts();
        let start = self.batch.bytes.len();
        let local = self.slots[slot as usize]
            .live_mut()
            .expect("admitted by a live range");
        assert!(local.leads(), "{} proposes only where it leads", local.range);
        local.load.touch(key);
        let bytes = &mut self.batch.bytes;
        let index = local.replica.propose_modified(id, ts, (key, value), bytes);
        self.counts.writes += 1;
        self.stage(slot, index, start, Then::Modified(raw.origin));
    }

    /// Answers those that were refused over what is applied now that the entry at `index` is.
    pub(crate) fn answer_refused(&mut self, slot: u32, index: Index) {
        let is_refused = |(of, then): &mut (Index, Then)| *of == index && matches!(then, Then::Unchanged(..));
        while let Some(local) = self.slots[slot as usize].live_mut()
            && let Some((_, Then::Unchanged(origin, unchanged))) = local.proposed.pop_front_if(is_refused)
        {
            self.answer_unchanged(slot, origin, &unchanged);
        }
    }

    fn answer_unchanged(&mut self, slot: u32, origin: Origin, unchanged: &Unchanged) {
        if !self.may_read(slot) {
            let refusal = self.not_leading(slot);
            return self.refuse(origin, &refusal);
        }
        match unchanged.why {
            Unmodified::OutOfBounds => {
                self.counts.conditions_failed += 1;
                let failed = ConditionFailed {
                    condition: 0,
                    found: unchanged.found.as_deref(),
                    ts: self.now().into(),
                };
                self.reply(origin, &failed);
            }
            Unmodified::NotANumber => {
                let (key, found) = (shown(&unchanged.key), unchanged.found.as_deref());
                let (key, found) = (Escaped(key), Escaped(found.unwrap_or_default()));
                let message = format!("the value of `{key}` is not a number: `{found}`");
                self.refuse(
                    origin,
                    &Refusal::fatal(Code::NotANumber, message).about_key(&unchanged.key),
                );
            }
        }
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Reads the value that a modification begins with from disk, then lets it go on where it stood.
    pub(crate) async fn evaluate_modification(&self, slot: u32, tablet: &Tablet<E>, request: OwnedRequest) {
        let frame = request.as_frame();
        let Ok(RequestRef::Modify(modify)) = decode_request(&frame) else {
            unreachable!("only decoded modifications are evaluated")
        };
        let key = &*modify.key;
        let found = tablet.get(key, Timestamp::MAX).await;
        self.step(|state| {
            let local = state.slots[slot as usize]
                .live_mut()
                .expect("a range stays while it is being read");
            local.reads.set(local.reads.get() - 1);
            local.replica.release(core::iter::once(Condition::Absent { key }));
            let op = [WriteOp::Put { key, value: &[] }];
            let blocked = local.replica.is_blocked()
                || !local.leads()
                || !local.replica.descriptor().span.contains(key)
                || local.replica.is_reserved(op.into_iter())
                || local.replica.is_held(op.into_iter(), core::iter::empty())
                || local.replica.begin(key) != Begin::Applied;
            match found {
                Err(error) => {
                    let refusal = state.storage_refusal(tablet.range(), &error);
                    state.refuse(request.origin, &refusal);
                }
                Ok(_) if blocked => {
                    base::sometimes!("node: range changed while a modification was read for");
                    state.on_owned(&request);
                }
                Ok(found) => {
                    let found = found.as_ref().map(|(_, value)| &value[..]);
                    let result = work_out(&Modification::from(&modify.by), key, found);
                    let id = modify.id.write_id();
                    state.finish_modification(slot, &id, key, result, request.as_raw());
                }
            }
            state.run_parked(slot);
        });
    }
}
