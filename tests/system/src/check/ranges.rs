//! The range map: it always covers the key space, without gap or overlap, on shards that exist. Of a node of a cluster it may
//! have gaps, while the state of a range is on its way.

use base::key::Span;
use std::collections::BTreeSet;

/// A range of a map, as a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSeen {
    /// The range.
    pub range: u64,
    /// Its keys.
    pub span: Span,
    /// Its shard.
    pub shard: u16,
    /// How often it has changed.
    pub generation: u64,
}

/// What is wrong with a map of a node with so many shards, of a cluster or alone.
///
/// # Errors
/// The first thing that is.
pub fn check(ranges: &[RangeSeen], shards: u16, is_clustered: bool) -> Result<(), String> {
    let mut ids = BTreeSet::new();
    let mut end: Option<&[u8]> = Some(b"");
    for seen in ranges {
        let follows = match end {
            Some(end) if is_clustered => *end <= *seen.span.start,
            end => end == Some(&*seen.span.start),
        };
        if !follows {
            return Err(format!(
                "range {} starts at {:?}, the one before it ends at {end:?}",
                seen.range, seen.span
            ));
        }
        if seen.span.is_empty() {
            return Err(format!("range {} is empty: {:?}", seen.range, seen.span));
        }
        if seen.shard >= shards {
            return Err(format!(
                "range {} is on shard {} of {shards}",
                seen.range, seen.shard
            ));
        }
        if !ids.insert(seen.range) {
            return Err(format!("range {} is there twice", seen.range));
        }
        end = seen.span.end.as_deref();
    }
    match end {
        None => Ok(()),
        Some(_) if is_clustered => Ok(()),
        Some(end) => Err(format!("the last range ends at {end:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(range: u64, start: &[u8], end: Option<&[u8]>) -> RangeSeen {
        RangeSeen {
            range,
            span: Span::new(start, end),
            shard: 0,
            generation: 1,
        }
    }

    #[test]
    fn a_whole_map_passes_and_each_fault_is_named() {
        let whole = [seen(2, b"", Some(b"m")), seen(3, b"m", None)];
        assert_eq!(check(&whole, 1, false), Ok(()));
        let faults = [
            (vec![], "the last range ends"),
            (vec![seen(2, b"", Some(b"m"))], "the last range ends"),
            (vec![seen(2, b"", Some(b"m")), seen(3, b"n", None)], "starts at"),
            (vec![seen(2, b"", Some(b"m")), seen(3, b"l", None)], "starts at"),
            (vec![seen(2, b"", Some(b"m")), seen(2, b"m", None)], "twice"),
            (vec![seen(2, b"", None), seen(3, b"m", None)], "starts at"),
        ];
        for (map, message) in faults {
            let error = check(&map, 1, false).expect_err("a broken map");
            assert!(error.contains(message), "{error}");
        }
        let elsewhere = [RangeSeen {
            shard: 1,
            ..seen(2, b"", None)
        }];
        assert!(check(&elsewhere, 1, false).is_err());
    }
}
