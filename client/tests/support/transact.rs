//! Ranges in memory that evaluate batches of transactions.

use super::fixtures::Range;
use base::Timestamp;
use std::sync::OnceLock;
use std::time::Instant;
use txn::error::{Act, Conflict, Party, Seen};
use txn::request::Answer;
use txn::{Batch, Refusal};

/// The transactions' side of the world.
#[derive(Debug)]
pub(crate) struct Txns {
    ranges: Vec<Range>,
    /// Batches are not even looked at.
    pub(crate) is_deaf: bool,
    /// Batches are not answered.
    pub(crate) is_mute: bool,
    /// Plain requests are refused where an intent lies.
    pub(crate) guards: bool,
}

impl Txns {
    pub(crate) fn new(cuts: &[&str]) -> Self {
        let starts = core::iter::once("").chain(cuts.iter().copied());
        let ends = cuts.iter().map(|cut| Some(*cut)).chain([None]);
        Self {
            ranges: starts
                .zip(ends)
                .map(|(start, end)| Range::new(start, end))
                .collect(),
            is_deaf: false,
            is_mute: false,
            guards: false,
        }
    }

    pub(crate) fn now() -> Timestamp {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        let since = BEGAN.get_or_init(Instant::now).elapsed();
        Timestamp::new((1 << 60) + u64::try_from(since.as_nanos()).unwrap(), 0)
    }

    fn place(&self, key: &[u8]) -> usize {
        let before = |range: &&Range| *range.tables.start <= *key;
        self.ranges.iter().take_while(before).count() - 1
    }

    /// Evaluates a batch and applies what comes of it; `None` when there is no answer.
    pub(crate) fn transact(&mut self, batch: &[u8]) -> Option<Answer> {
        if self.is_deaf {
            return None;
        }
        let batch: Batch = txn::codec::decode_batch(batch).unwrap();
        let sender = batch.header.as_ref().map(|header| &header.who);
        let at = self.place(batch.requests.first().unwrap().1.key(sender));
        let range = &mut self.ranges[at];
        let context = range.context(Self::now(), 750_000_000);
        let (answer, mutations) = range.evaluate(&context, &batch);
        for mutation in mutations {
            range.tables.apply(mutation);
        }
        (!self.is_mute).then_some(answer)
    }

    /// Who is in the way of a plain request.
    pub(crate) fn in_the_way(&self, key: &[u8], read_ts: Option<Timestamp>) -> Option<Answer> {
        let range = &self.ranges[self.place(key)];
        let intent = range.tables.intents.get(key).filter(|_| self.guards)?;
        let now = Self::now();
        if read_ts.is_some_and(|read_ts| intent.ts > read_ts) {
            return None;
        }
        let act = read_ts.map_or(Act::Write, |_| Act::Read);
        let seen = Seen {
            who: intent.who.clone(),
            epoch: intent.epoch,
            ts: intent.ts,
            local_ts: intent.local_ts,
        };
        let conflict = Conflict {
            key: key.into(),
            ours: Party { who: None, act },
            theirs: Party {
                who: Some(intent.who.clone()),
                act: Act::Write,
            },
            now,
        };
        let conflict = Box::new(conflict);
        Some(Err((0, Refusal::Conflict { conflict, seen })))
    }

    /// Intents and records that are not resolved yet.
    pub(crate) fn leftovers(&self) -> usize {
        let left = |range: &Range| range.tables.intents.len() + range.tables.records.len();
        self.ranges.iter().map(left).sum()
    }
}
