//! Every crash point of a recorded run, enumerated instead of sampled.
//!
//! ```text
//!   begin w1 │ begin w2 │ end w2 │ mark 7 │ end w1 │ begin w3 │ …        steps of the recording
//!            b          b        b        b        b          b          boundaries
//!   at each: durable part + {every subset of the unsettled} + {every cut of every unsettled write}
//! ```

use super::content::SectorFate;
use super::image::DiskImage;
use super::store::{Change, Fate, Step, Store, Unsettled};
use base::limits::BLOCK_BYTES;

/// Unsettled changes of which every subset is enumerated; older ones are all kept or all lost.
pub const SUBSET_CHANGES_MAX: usize = 8;

/// What happened to a disk between two moments.
#[derive(Debug, Clone)]
pub struct DiskTrace {
    pub(crate) start: Store,
    pub(crate) steps: Vec<Step>,
}

/// A moment between two steps of a [`DiskTrace`], at which the machine may crash.
#[derive(Debug, Clone)]
pub struct Boundary {
    step: usize,
    mark: Option<u64>,
    pub(crate) store: Store,
}

impl DiskTrace {
    /// All moments at which a crash could leave something new, or at which a mark raises what must survive, in order.
    pub fn boundaries(&self) -> impl Iterator<Item = Boundary> + '_ {
        let first = Boundary {
            step: 0,
            mark: None,
            store: self.start.clone(),
        };
        let mut now = first.clone();
        let rest = self.steps.iter().filter_map(move |step| {
            now.step += 1;
            now.store.step(step);
            match step {
                Step::Mark(mark) => now.mark = Some(*mark),
                Step::BeginSync { .. } | Step::BeginSyncDir { .. } | Step::Opened(_) | Step::Closed(_) => {
                    return None;
                }
                Step::BeginWrite { .. }
                | Step::EndWrite { .. }
                | Step::SetLen { .. }
                | Step::EndSync { .. }
                | Step::Names { .. }
                | Step::CreateDir { .. } => {}
            }
            Some(now.clone())
        });
        core::iter::once(first).chain(rest)
    }

    /// How many steps were recorded.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps.len()
    }
}

impl Boundary {
    /// After how many steps of the recording.
    #[must_use]
    pub fn step(&self) -> usize {
        self.step
    }

    /// The last mark before this moment.
    #[must_use]
    pub fn mark(&self) -> Option<u64> {
        self.mark
    }

    /// How many changes a crash may undo here.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.store.unsettled().len()
    }

    /// What a crash leaves that undoes everything it may.
    #[must_use]
    pub fn image_least(&self) -> DiskImage {
        self.store.image(|_, _| Fate::Lost)
    }

    /// What a crash leaves that undoes nothing.
    #[must_use]
    pub fn image_most(&self) -> DiskImage {
        self.store.image(|_, _| Fate::Kept)
    }

    /// What a crash leaves that undoes one change and no other: an image for each change.
    pub fn images_but_one(&self) -> impl Iterator<Item = DiskImage> + '_ {
        (0..self.unsettled()).map(|lost| {
            self.store
                .image(|i, _| if i == lost { Fate::Lost } else { Fate::Kept })
        })
    }

    /// What a crash here may leave: every subset of the last [`SUBSET_CHANGES_MAX`] unsettled changes (older ones all kept,
    /// then all lost), then for every unsettled write each 512-byte cut, its head kept or its tail kept, with the other
    /// changes all kept and all lost.
    pub fn images(&self) -> impl Iterator<Item = DiskImage> + '_ {
        self.subsets().chain(self.cuts())
    }

    /// The first half of [`Boundary::images`].
    pub fn subsets(&self) -> impl Iterator<Item = DiskImage> + '_ {
        let count = self.unsettled();
        let (older, young) = (
            count.saturating_sub(SUBSET_CHANGES_MAX),
            count.min(SUBSET_CHANGES_MAX),
        );
        let of_older = if older > 0 {
            &[true, false][..]
        } else {
            &[true][..]
        };
        of_older.iter().flat_map(move |keep_older| {
            (0..1u32 << young).map(move |subset| {
                self.store.image(|i, _| {
                    let is_kept = if i < older {
                        *keep_older
                    } else {
                        subset >> (i - older) & 1 == 1
                    };
                    if is_kept { Fate::Kept } else { Fate::Lost }
                })
            })
        })
    }

    /// The second half of [`Boundary::images`].
    pub fn cuts(&self) -> impl Iterator<Item = DiskImage> + '_ {
        self.store
            .unsettled()
            .iter()
            .enumerate()
            .flat_map(move |(of, unsettled)| {
                let sectors = sectors(unsettled);
                // Cut zero of the head is the write's length without its data.
                let cuts = (0..sectors)
                    .map(|cut| (true, cut))
                    .chain((1..sectors).map(|cut| (false, cut)));
                cuts.flat_map(move |(head, cut)| {
                    [true, false].map(|others| self.image_cut(of, head, cut, others))
                })
            })
    }

    fn image_cut(&self, of: usize, head: bool, cut: usize, keep_others: bool) -> DiskImage {
        let sectors = sectors(&self.store.unsettled()[of]);
        let fate = |sector| {
            if (sector < cut) == head {
                SectorFate::New
            } else {
                SectorFate::Old
            }
        };
        let fates: Vec<_> = (0..sectors).map(fate).collect();
        self.store.image(|i, _| match (i == of, keep_others) {
            (true, _) => Fate::Torn(&fates),
            (false, true) => Fate::Kept,
            (false, false) => Fate::Lost,
        })
    }
}

fn sectors(unsettled: &Unsettled) -> usize {
    match &unsettled.change {
        Change::Write { blocks, .. } => blocks.len() * BLOCK_BYTES / super::content::SECTOR_BYTES,
        Change::SetLen { .. } | Change::Names(_) => 0,
    }
}
