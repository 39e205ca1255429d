//! Draws keys from all over a file before it is loaded, and splits ranges where they say.

use crate::args::Global;
use crate::error::CliError;
use crate::presplit::{self, Step};
use crate::record::Layout;
use crate::record::reader::RecordReader;
use crate::session::Session;
use base::{Prng, ShardId};
use corelane::Error;
use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom};

/// Places that are looked at.
const PLACES: u64 = 1024;
/// Bytes read at each: a record may start in the middle of them, and end behind.
const PLACE_BYTES: u64 = 64 << 10;

/// Keys from evenly spread places of `file`. Whatever cannot be read as a record there is left out.
pub(crate) fn keys(
    file: &mut File,
    layout: &Layout,
    prefix: &[u8],
    first_record: u64,
) -> io::Result<Vec<Vec<u8>>> {
    let size = file.metadata()?.len();
    let mut prng = Prng::new(size);
    let mut keys = Vec::new();
    let stride = (size.saturating_sub(first_record) / PLACES).max(1);
    for place in 0..PLACES {
        let at = first_record + place * stride + prng.below(stride);
        if at >= size {
            break;
        }
        file.seek(SeekFrom::Start(at))?;
        let mut reader = RecordReader::new((&mut *file).take(PLACE_BYTES), layout.clone(), at, 1);
        // The first one is the end of a record, unless we stand at a start by chance.
        if at > first_record && reader.next_item()?.is_none() {
            continue;
        }
        if let Some(item) = reader.next_item()?
            && let Ok(Some((key, _))) = item.pair
        {
            let key = [prefix, &key].concat();
            if (1..=base::limits::KEY_BYTES_MAX).contains(&key.len()) {
                keys.push(key);
            }
        }
    }
    file.rewind()?;
    Ok(keys)
}

/// Splits and moves ranges so that the shards share the sampled keys. Returns how many ranges were made or moved.
pub(crate) fn prepare(
    global: &Global,
    session: &Session,
    sample: Vec<Vec<u8>>,
    per_shard: u16,
) -> Result<usize, CliError> {
    let ranges = session.wait(session.db.ranges())?;
    let existing: Vec<(Vec<u8>, ShardId)> = ranges
        .iter()
        .map(|range| (range.span.start.to_vec(), range.shard))
        .collect();
    let shards = session.db.node().map_or(1, |node| node.shards);
    let plan = presplit::plan(sample, &existing, shards, per_shard);
    if plan.is_empty() {
        return Ok(0);
    }
    session.wait(carry_out(&session.db, &plan))?;
    if !global.json {
        eprintln!("{} ranges prepared over {shards} shards", plan.len());
    }
    Ok(plan.len())
}

async fn carry_out(db: &corelane::Db, plan: &[Step]) -> Result<(), Error> {
    for step in plan {
        let (range, shard) = if step.split {
            let split = db.split(&step.key).await?;
            (split.right, split.right_shard)
        } else {
            let ranges = db.ranges().await?;
            match ranges.iter().find(|range| *range.span.start == *step.key) {
                Some(range) => (range.range, range.shard),
                None => continue,
            }
        };
        if shard != step.shard {
            db.move_range(range, step.shard).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Format;
    use std::io::Write as _;

    #[test]
    fn a_sample_comes_from_all_over_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        let mut text = Vec::from(&b"name\tsize\n"[..]);
        for n in 0..20_000 {
            writeln!(text, "{n:05}\tvalue").unwrap();
        }
        file.write_all(&text).unwrap();
        let keys = keys(&mut file, &Layout::new(Format::Tsv), b"p/", 10).unwrap();
        assert!(keys.len() > 900, "{}", keys.len());
        let tenth = |key: &Vec<u8>| key[2] - b'0';
        assert!(keys.iter().all(|key| key.len() == 7 && key.starts_with(b"p/")));
        assert!(keys.iter().filter(|key| tenth(key) == 1).count() > 300);
        assert!(keys.iter().filter(|key| tenth(key) == 0).count() > 300);
        assert_eq!(file.stream_position().unwrap(), 0);
    }

    #[test]
    fn small_files_give_what_they_have() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(
            keys(&mut file, &Layout::new(Format::Csv), b"", 0).unwrap(),
            Vec::<Vec<u8>>::new()
        );
        file.write_all(b"a\t1\nb\t2\n").unwrap();
        assert!(
            !keys(&mut file, &Layout::new(Format::Tsv), b"", 0)
                .unwrap()
                .is_empty()
        );
    }
}
