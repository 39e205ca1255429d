//! What is read from tables for a reader that cannot wait.
//!
//! A reader that must decide in one step asks the memtables, then the tables as far as they are in memory. What it lacks is read
//! beforehand, into an [`Ahead`], and then it begins anew. What was read holds as long as the tablet has the same tables: later
//! writes are in memtables, which are asked first.

use super::get::{self, Seen};
use super::scan;
use crate::interleave::alone;
use crate::memtable::From;
use crate::tablet::{Tablet, check_gc_threshold};
use crate::{NeedsIo, StorageError};
use base::Timestamp;
use base::key::Span;
use core::ops::Bound;
use env::Env;
use std::collections::{BTreeMap, BTreeSet};

/// Keys of a span that are read ahead at once.
const KEYS_MAX: usize = 1024;

/// A version: when it was written, and its value unless it is a delete.
type Version<T> = (Timestamp, Option<T>);
/// What is known of a version: that there is none, or which.
type Known<T> = Option<Version<T>>;

/// Keys of one stretch: where it ends, what is there.
#[derive(Debug)]
struct Stretch {
    end: Option<Vec<u8>>,
    keys: BTreeSet<Vec<u8>>,
}

/// What tables say of some keys, for one reader.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Names the tables.
    tables: u64,
    versions: BTreeMap<Vec<u8>, BTreeMap<Timestamp, Known<Vec<u8>>>>,
    /// By where they begin: a reader may look at several.
    stretches: BTreeMap<Vec<u8>, Stretch>,
}

/// What a reader lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// The newest version of a key at or below a timestamp.
    Version(Vec<u8>, Timestamp),
    /// The keys from one on, up to an end.
    Keys(Vec<u8>, Option<Vec<u8>>),
}

impl Ahead {
    fn version(&self, tables: u64, key: &[u8], at: Timestamp) -> Option<Known<&[u8]>> {
        let found = self.versions.get(key).filter(|_| self.tables == tables)?;
        let found = found.get(&at)?;
        Some(found.as_ref().map(|(ts, value)| (*ts, value.as_deref())))
    }

    /// The first key at or after `from` and before `end`; the outer `None` when that was not read.
    fn next_key(&self, tables: u64, from: &[u8], end: Option<&[u8]>) -> Option<Option<&[u8]>> {
        if self.tables != tables {
            return None;
        }
        let to_here = (Bound::Unbounded, Bound::Included(from));
        let before = self.stretches.range::<[u8], _>(to_here).next_back();
        let (_, Stretch { end: until, keys }) = before?;
        let found = keys
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .next();
        let found = found.filter(|key| end.is_none_or(|end| &***key < end));
        let is_known = match (until, end) {
            (None, _) => true,
            (Some(until), Some(end)) => found.is_some() || end <= &**until,
            (Some(_), None) => found.is_some(),
        };
        is_known.then(|| found.map(|key| &**key))
    }
}

fn version_of(seen: Seen<'_>) -> (Timestamp, Option<&[u8]>) {
    (seen.ts, seen.live().map(|(_, value)| value))
}

impl<E: Env> Tablet<E> {
    /// Hands the newest version of `key` at or below `at` to `f`, deletes included, without waiting.
    ///
    /// # Errors
    /// [`NeedsIo`] when that is neither in memory nor in `ahead`, or there is an error to report: [`Self::read_ahead`] gives it.
    ///
    /// # Panics
    /// When `key` lies outside the span.
    pub fn version_cached<R>(
        &self,
        ahead: &Ahead,
        key: &[u8],
        at: Timestamp,
        f: impl FnOnce(Option<(Timestamp, Option<&[u8]>)>) -> R,
    ) -> Result<R, NeedsIo> {
        let hash = self.0.shared.hash(key);
        let f = |seen: Option<Seen<'_>>| f(seen.map(version_of));
        let (version, f) = {
            let state = self.0.state.borrow();
            if at < state.version.gc_threshold {
                return Err(NeedsIo);
            }
            match state.see_in_memory(hash, key, at, f) {
                Ok(result) => return Ok(result),
                Err(f) => (state.version.clone(), f),
            }
        };
        if let Some(found) = ahead.version(version.number, key, at) {
            let seen = found.map(|(ts, value)| Seen {
                ts,
                deleted: value.is_none(),
                value: value.unwrap_or_default(),
            });
            return Ok(f(seen));
        }
        alone(get::in_cached_tables(&self.0.shared, &version, key, at, f)).ok_or(NeedsIo)
    }

    /// The least key at or after `from` and before `end` that has a version, deletes included, without waiting.
    ///
    /// # Errors
    /// [`NeedsIo`] when that is neither in memory nor in `ahead`.
    pub fn next_key_cached(
        &self,
        ahead: &Ahead,
        from: &[u8],
        end: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, NeedsIo> {
        let state = self.0.state.borrow();
        let Some(span) = state.span.intersect(from, end) else {
            return Ok(None);
        };
        let mut least: Option<Vec<u8>> = None;
        let mut nodes = Vec::new();
        for cell in state.memtables() {
            let memtable = &mut *cell.memtable.borrow_mut();
            nodes.clear();
            memtable.nodes(From::AtOrAbove(&span.start), 1, &mut nodes);
            let key = nodes.first().map(|node| memtable.key(*node));
            let key = key.filter(|key| span.contains(key));
            if let Some(key) = key.filter(|key| least.as_deref().is_none_or(|least| *key < least)) {
                least = Some(key.to_vec());
            }
        }
        if state.version.tables.iter().any(|table| table.overlaps(&span)) {
            let found = ahead.next_key(state.version.number, &span.start, span.end.as_deref());
            let found = found.ok_or(NeedsIo)?;
            if let Some(key) = found.filter(|key| least.as_deref().is_none_or(|least| *key < least)) {
                least = Some(key.to_vec());
            }
        }
        Ok(least)
    }

    /// Reads what a reader lacks from the tables. What tables that are gone said is forgotten.
    ///
    /// # Errors
    /// [`StorageError::BelowGcThreshold`], or what reading the disk met.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn read_ahead(&self, ahead: &mut Ahead, need: &Need) -> Result<(), StorageError> {
        let (version, span) = {
            let state = self.0.state.borrow();
            (state.version.clone(), state.span.clone())
        };
        if ahead.tables != version.number {
            *ahead = Ahead {
                tables: version.number,
                ..Ahead::default()
            };
        }
        match need {
            Need::Version(key, at) => {
                check_gc_threshold(&version, *at)?;
                let copy = |seen: Option<Seen<'_>>| {
                    let found = seen.map(version_of);
                    found.map(|(ts, value)| (ts, value.map(<[u8]>::to_vec)))
                };
                let found = get::load_from_tables(&self.0.shared, &version, key, *at, copy).await?;
                ahead.versions.entry(key.clone()).or_default().insert(*at, found);
            }
            Need::Keys(from, end) => {
                let Some(span) = span.intersect(from, end.as_deref()) else {
                    return Ok(());
                };
                let Span { start, end } = span.clone();
                let (keys, resume) = scan::table_keys(version, span, KEYS_MAX).await?;
                let until = resume.or_else(|| end.map(|end| end.to_vec()));
                ahead
                    .stretches
                    .insert(start.to_vec(), Stretch { end: until, keys });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_within_what_was_read_only() {
        let keys = [b"b".to_vec(), b"d".to_vec()];
        let mut ahead = Ahead {
            tables: 3,
            versions: BTreeMap::new(),
            stretches: BTreeMap::new(),
        };
        let (end, keys) = (Some(b"f".to_vec()), keys.into());
        ahead.stretches.insert(b"a".to_vec(), Stretch { end, keys });
        let (end, keys) = (Some(b"q".to_vec()), [b"p".to_vec()].into());
        ahead.stretches.insert(b"p".to_vec(), Stretch { end, keys });
        assert_eq!(ahead.next_key(3, b"p", Some(b"q")), Some(Some(&b"p"[..])));
        assert_eq!(ahead.next_key(3, b"a", None), Some(Some(&b"b"[..])));
        assert_eq!(ahead.next_key(3, b"c", Some(b"d")), Some(None), "d is the end");
        assert_eq!(ahead.next_key(3, b"e", Some(b"f")), Some(None));
        assert_eq!(
            ahead.next_key(3, b"e", Some(b"g")),
            None,
            "what is behind f was not read"
        );
        assert_eq!(ahead.next_key(3, b"e", None), None);
        assert_eq!(ahead.next_key(3, b"A", None), None, "nor what is before a");
        assert_eq!(ahead.next_key(4, b"a", None), None, "nor other tables");
    }
}
