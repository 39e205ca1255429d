//! Writes that depend on what they find, and conditions.

use super::{Evaluation, Reader, Step, Stop, in_the_way, look, replayed, too_old};
use crate::change::{Change, Condition, Missed, Unmet};
use crate::error::{Act, Party, Refusal};
use crate::record::Outcome;
use crate::request::{Answer, Batch, End, Ended, Item, Reply, Request};
use crate::txn::{Bytes, Seq};
use crate::view::{Mutation, View};
use base::Timestamp;
use std::sync::Arc;

/// The value of a key, and when it was written.
type Found = (Option<Bytes>, Timestamp);

impl<V: View> Evaluation<'_, V> {
    /// A batch that is all that its transaction has read and written reads what is newest: it commits above that.
    pub(super) fn begin_whole(&mut self, batch: &Batch) {
        let sent = |(_, request): &(_, Request)| match request {
            Request::End {
                end: End::Whole { requests, .. },
                ..
            } => Some(*requests),
            _ => None,
        };
        let sent = batch.requests.iter().find_map(sent);
        let here = u32::try_from(batch.requests.len()).ok();
        if sent.is_none() || sent != here {
            return;
        }
        if let Some(header) = &mut self.header {
            header.blind = true;
        }
        let conditions = batch.requests.iter().filter_map(|(_, request)| match request {
            Request::Change { key, given, .. } => Some((key, given)),
            _ => None,
        });
        let elsewhere = conditions.flat_map(|(key, given)| {
            given
                .iter()
                .filter(move |condition| condition.key != *key)
                .cloned()
        });
        self.whole = Some(elsewhere.collect());
    }

    pub(super) fn change(
        &mut self,
        key: &Bytes,
        seq: Seq,
        change: &Change,
        given: &[Condition],
    ) -> Step<Reply, V::NeedsIo> {
        let header = self.header();
        let known = self.view.head(key).map_err(Stop::Io)?;
        let known = known.filter(|known| known.who.id == header.who.id && known.epoch == header.epoch);
        let known = known.map(|_| self.whole_of(key)).transpose()?;
        // What held when it was laid is not asked again: a refresh has seen to the rest.
        if let Some(known) = known
            && let Some(ts) = replayed(known, seq)?
        {
            base::sometimes!("txn: replay of a change");
            let value = known.value_of(seq).flatten();
            return Ok(changed(change, value, ts));
        }
        let (found, found_ts) = self.find_to_change(key)?;
        for condition in given {
            if condition.key == *key {
                if !condition.must.holds(found.as_deref(), found_ts) {
                    return Err(self.unmet(key, Missed::Condition(condition.number), found).into());
                }
            } else if self.whole.is_none() {
                self.check(condition)?;
            }
        }
        let value = match change.apply(found.as_deref()) {
            Ok(value) => value,
            Err(why) => return Err(self.unmet(key, why.into(), found).into()),
        };
        let ts = self.lay(key, seq, value.as_ref())?;
        Ok(changed(change, value.as_ref(), ts))
    }

    /// What a change of a key begins with: what the transaction left there, or the newest version, which it can be laid over.
    fn find_to_change(&mut self, key: &Bytes) -> Step<Found, V::NeedsIo> {
        let header = self.header();
        let ours = Party {
            who: Some(Arc::clone(&header.who)),
            act: Act::Write,
        };
        let known = self.view.head(key).map_err(Stop::Io)?;
        let is_own = known.is_some_and(|known| known.who.id == header.who.id && known.epoch == header.epoch);
        if let Some(known) = known {
            if known.who.id != header.who.id {
                return Err(in_the_way(key, ours, &known, self.at.now).into());
            }
            if is_own
                && let Some((_, value)) = self.whole_of(key)?.newest_kept(&header.ignored)
                && !base::planted_bug!("txn-change-of-the-committed-value")
            {
                return Ok((value.cloned(), known.ts));
            }
        }
        let newest = self.view.version(key, Timestamp::MAX, |found| {
            found.map_or((None, Timestamp::ZERO), |version| {
                (version.value.map(Bytes::from), version.ts)
            })
        });
        let (value, ts) = newest.map_err(Stop::Io)?;
        // While its intent is there, nobody else has committed.
        if ts > header.read_ts && !header.blind && !is_own {
            return Err(too_old(key, ours, ts, self.at.now).into());
        }
        self.forward(ts);
        Ok((value, ts))
    }

    /// Looks at a condition, at the header's `read_ts`.
    pub(super) fn check(&mut self, condition: &Condition) -> Step<(), V::NeedsIo> {
        let key = &condition.key;
        if !self.view.contains(key) {
            return Err(Refusal::WrongRange { key: key.clone() }.into());
        }
        let header = self.header().clone();
        let value = look(self.view, self.at, &Reader::of(&header), key, |value| {
            value.map(Bytes::from)
        })?;
        let ts = self.view.version(key, header.read_ts, |found| {
            found.map_or(Timestamp::ZERO, |version| version.ts)
        });
        let ts = ts.map_err(Stop::Io)?;
        if !condition.must.holds(value.as_deref(), ts) {
            return Err(self.unmet(key, Missed::Condition(condition.number), value).into());
        }
        self.note_condition(key);
        Ok(())
    }

    /// Looks at what a whole transaction needs of keys that it does not change, where it commits. It commits above the newest version of
    /// each.
    pub(super) fn check_whole(&mut self) -> Step<(), V::NeedsIo> {
        let Some(conditions) = self.whole.take() else {
            return Ok(());
        };
        for condition in &conditions {
            let key = &condition.key;
            if !self.view.contains(key) {
                return Err(Refusal::WrongRange { key: key.clone() }.into());
            }
            let newest = self.view.version(key, Timestamp::MAX, |found| {
                found.map_or(Timestamp::ZERO, |version| version.ts)
            });
            self.forward(newest.map_err(Stop::Io)?);
        }
        for condition in &conditions {
            self.check(condition)?;
        }
        Ok(())
    }

    fn note_condition(&mut self, key: &Bytes) {
        let header = self.header();
        let (read_ts, id) = (header.read_ts, header.who.id);
        if !base::planted_bug!("txn-condition-not-noted") {
            self.cache.note(key, read_ts, Some(id));
        }
    }

    /// What was seen of a key is a read of it, whatever comes of that.
    fn unmet(&mut self, key: &Bytes, missed: Missed, found: Option<Bytes>) -> Refusal {
        self.note_condition(key);
        let ts = self.header().read_ts;
        let unmet = Unmet {
            key: key.clone(),
            missed,
            found,
            ts,
        };
        Refusal::Unmet {
            unmet: Box::new(unmet),
        }
    }

    /// The answer to a batch of which something does not hold. One that was to end a transaction of which nothing is known is refused for
    /// good, when its record would be here: a late copy of it, which might find that everything holds, is told so.
    pub(super) fn refuse_unmet(
        &mut self,
        batch: &Batch,
        item: Item,
        unmet: Box<Unmet>,
    ) -> Result<Answer, V::NeedsIo> {
        let is_fresh = |(_, request): &(_, Request)| {
            matches!(
                request,
                Request::End {
                    end: End::Commit { fresh: true, .. } | End::Whole { .. },
                    ..
                }
            )
        };
        let who = &self.header().who;
        let (id, is_here) = (who.id, self.view.contains(&who.anchor));
        let end = batch.requests.iter().find(|request| is_fresh(request));
        let Some((end, _)) = end.filter(|_| is_here) else {
            return Ok(Err((item, Refusal::Unmet { unmet })));
        };
        if self.view.record(id)?.is_some() {
            return Ok(Err((item, Refusal::Unmet { unmet })));
        }
        base::sometimes!("txn: a one-shot transaction is refused for good");
        let outcome = Outcome::Aborted;
        self.out.push(Mutation::Remember { id, outcome });
        Ok(Ok(vec![(*end, Reply::Ended(Ended::Unmet { unmet }))]))
    }
}

/// What was set is known to whoever set it.
fn changed(change: &Change, value: Option<&Bytes>, ts: Timestamp) -> Reply {
    let value = match change {
        Change::Set(_) => None,
        _ => value.cloned(),
    };
    let queue = 0;
    Reply::Changed { value, ts, queue }
}
