//! Deletes of spans: an intent on every key that the transaction sees a value of.

use super::{Evaluation, Reader, Step, Stop, after, look};
use crate::request::Reply;
use crate::txn::{Bytes, Keys, Seq};
use crate::view::View;
use base::key::Span;
use base::limits;

/// Keys that one request deletes: one entry of the log.
pub const DELETES_MAX: usize = 1024;

impl<V: View> Evaluation<'_, V> {
    /// It is a read of the span, which is noted, and a write of each key that has a value there. A replay finds the intents that it
    /// has laid, and names their keys again (**T4**).
    pub(super) fn delete_range(&mut self, keys: &Keys, seq: Seq) -> Step<Reply, V::NeedsIo> {
        let (start, end) = self.bounds(keys)?;
        let header = self.header().clone();
        let reader = Reader::of(&header);
        let mut deleted: Vec<Bytes> = Vec::new();
        let (mut from, mut looks, mut ts) = (start.clone(), 0, header.write_ts);
        let next = loop {
            if deleted.len() >= DELETES_MAX || looks >= limits::SCAN_ROWS_MAX {
                break Some(from);
            }
            let found = self.view.next_key(&from, end.as_deref()).map_err(Stop::Io)?;
            let Some(key) = found else { break None };
            let is_live = look(self.view, self.at, &reader, &key, |value| value.is_some())?;
            let intent = self.view.intent(&key).map_err(Stop::Io)?;
            let is_done = intent.is_some_and(|intent| {
                intent.who.id == header.who.id
                    && intent.epoch == header.epoch
                    && intent.value_of(seq).is_some()
            });
            from = after(&key);
            looks += 1;
            if is_live || is_done {
                ts = ts.max(self.lay(&key, seq, None)?);
                deleted.push(key);
            }
        };
        if !base::planted_bug!("txn-delete-of-a-span-not-noted") {
            let span = Span::new(&start, next.as_deref().or(end.as_deref()));
            self.cache.note_span(span, header.read_ts, Some(header.who.id));
        }
        let keys = deleted;
        Ok(Reply::Deleted { keys, ts, next })
    }
}
