//! Scans of the tiny server: one range per stream, one page per credit.

use super::World;
use base::Timestamp;
use wire::{Outbox, PageBuilder};

/// What is left of a scan, and how much credit it has.
pub(super) struct Scan {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
    pub(super) reverse: bool,
    pub(super) ts: Timestamp,
    pub(super) rows_left: u64,
    pub(super) page_rows: usize,
    pub(super) credit: u32,
    pub(super) cut: bool,
}

impl Scan {
    /// Sends one page of the stream, which covers one range, and says whether it was the last.
    pub(super) fn page(&mut self, world: &World, id: base::RequestId, outbox: &mut Outbox) -> bool {
        let (low, high) = if self.reverse {
            (
                world
                    .range_start_before(self.end.as_deref())
                    .max(self.start.clone()),
                self.end.clone(),
            )
        } else {
            let bound = world.range_end(&self.start);
            (
                self.start.clone(),
                bound.into_iter().chain(self.end.clone()).min(),
            )
        };
        let inside = |key: &&Vec<u8>| high.as_ref().is_none_or(|high| *key < high);
        let keys = world
            .versions
            .range(low.clone()..)
            .map(|(key, _)| key)
            .take_while(inside);
        let mut keys: Vec<_> = keys.collect();
        if self.reverse {
            keys.reverse();
        }
        let mut builder = PageBuilder::new();
        let rows_max = self
            .page_rows
            .min(usize::try_from(self.rows_left).unwrap_or(usize::MAX));
        let mut rest = None;
        for key in keys {
            if builder.len() == rows_max {
                rest = Some(key.clone());
                break;
            }
            if let Some((ts, value)) = world.value(key, self.ts) {
                builder.push(key, &value, ts);
            }
        }
        self.rows_left -= builder.len() as u64;
        let in_range = rest.is_some();
        let resume = match rest {
            Some(key) if self.reverse => Some([&key[..], &[0]].concat()),
            Some(key) => Some(key),
            None if self.reverse => (low > self.start).then_some(low),
            None => high.filter(|high| self.end.as_ref().is_none_or(|end| high < end)),
        };
        let done = !in_range || self.rows_left == 0;
        outbox
            .push(id, &builder.page(self.ts, resume.as_deref(), done))
            .unwrap();
        if let Some(resume) = resume {
            if self.reverse {
                self.end = Some(resume);
            } else {
                self.start = resume;
            }
        }
        done
    }
}
