//! A replica's part in a merge of two neighbouring ranges.
//!
//! ```text
//!   left:   Nothing ─ Expect ─► Expects ─┬─ Absorb ─► Nothing, with the right range's keys
//!                                        └─ Refuse ─► Nothing
//!   right:  Nothing ─ Subsume ─► Frozen ─┬─ absorbed: it is no more
//!                                        └─ Thaw ─► Nothing
//! ```
//! A step of a merge that is not under way (any more) changes nothing: so of Absorb and Refuse the first one in the log counts.

use super::{At, Replica, encode_state};
use crate::CommandError;
use crate::command::{self, Command, MergeStep};
use crate::session::{Sessions, take, take_u64};
use base::{Index, RangeId, Timestamp};

/// Which merge a range takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Merging {
    /// None.
    #[default]
    Nothing,
    /// It is to absorb its right neighbour.
    Expects {
        /// The right neighbour.
        right: RangeId,
        /// The merge: the index of the Expect entry.
        merge: Index,
    },
    /// It is to be absorbed by its left neighbour, takes no writes, and its leader serves no reads.
    Frozen {
        /// The left neighbour.
        left: RangeId,
        /// The merge: the index of the Expect entry in the left neighbour's log.
        merge: Index,
        /// The left neighbour's generation.
        generation: u64,
    },
}

/// A merge that a range began and that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The merge: the index of the Expect entry.
    pub merge: Index,
    /// It took its right neighbour over; or refused to.
    pub absorbed: bool,
}

impl Ended {
    /// Appends `tag u8`: 0 none · 1 refused: merge u64 · 2 absorbed: merge u64.
    pub(super) fn encode(ended: Option<Self>, out: &mut Vec<u8>) {
        match ended {
            None => out.push(0),
            Some(Self { merge, absorbed }) => {
                out.push(1 + u8::from(absorbed));
                out.extend_from_slice(&merge.0.to_le_bytes());
            }
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Option<Option<Self>> {
        let absorbed = match take(input)? {
            [0] => return Some(None),
            [1] => false,
            [2] => true,
            [_] => return None,
        };
        let merge = Index(take_u64(input)?);
        Some(Some(Self { merge, absorbed }))
    }
}

impl Merging {
    /// Appends `tag u8`, then 0 nothing · 1 expects: right u64, merge u64 · 2 frozen: left u64, merge u64, generation u64.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let (tag, numbers): (u8, &[u64]) = match self {
            Self::Nothing => (0, &[]),
            Self::Expects { right, merge } => (1, &[right.0, merge.0]),
            Self::Frozen {
                left,
                merge,
                generation,
            } => (2, &[left.0, merge.0, generation]),
        };
        out.push(tag);
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Option<Self> {
        Some(match take(input)? {
            [0] => Self::Nothing,
            [1] => Self::Expects {
                right: RangeId(take_u64(input)?),
                merge: Index(take_u64(input)?),
            },
            [2] => Self::Frozen {
                left: RangeId(take_u64(input)?),
                merge: Index(take_u64(input)?),
                generation: take_u64(input)?,
            },
            [_] => return None,
        })
    }
}

impl<W> Replica<W> {
    /// Which merge it takes part in, as of what is applied.
    #[must_use]
    pub fn merging(&self) -> Merging {
        self.merging
    }

    /// The last merge that it began and that has ended.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Whether it takes no writes and its leader serves no reads, because it is to be absorbed: from the moment on at which that is
    /// proposed.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        matches!(self.merging, Merging::Frozen { .. })
            || matches!(self.open_step, Some(MergeStep::Subsume { .. }))
    }

    /// Whether it takes part in a merge, or is about to: neither its span nor its members change then.
    #[must_use]
    pub fn is_merging(&self) -> bool {
        self.merging != Merging::Nothing || self.open_step.is_some()
    }

    /// Whether a step of a merge is proposed and not applied.
    #[must_use]
    pub fn has_open_step(&self) -> bool {
        self.open_step.is_some()
    }

    /// Whether a step of a merge may be proposed: the range is not being split or moved, and no other step is in flight.
    #[must_use]
    pub fn takes_steps(&self) -> bool {
        !self.blocked && self.open_step.is_none()
    }

    /// Whether an Absorb entry for this merge would take the right range over.
    #[must_use]
    pub fn expects(&self, right: RangeId, merge: Index) -> bool {
        self.merging == Merging::Expects { right, merge }
    }

    /// Gives a step of a merge its place in the log.
    ///
    /// # Panics
    /// When another one is in flight, the range is being split or moved, or `ts` does not follow the last proposal.
    pub fn propose_merge(&mut self, ts: Timestamp, step: MergeStep, out: &mut Vec<u8>) -> Index {
        assert!(self.open_step.is_none(), "one step of a merge at a time");
        let index = self.next_index(ts);
        self.in_flight.push(index, ts, core::iter::empty());
        self.open_step = Some(step);
        command::encode_merge(out, ts, step);
        index
    }

    /// Takes in a step that is committed, and that does not absorb.
    pub(super) fn take_step(&mut self, index: Index, step: MergeStep) {
        self.open_step.take_if(|open| *open == step);
        let is_free = self.merging == Merging::Nothing;
        match step {
            MergeStep::Expect { right } if is_free => {
                self.merging = Merging::Expects { right, merge: index };
            }
            MergeStep::Subsume {
                left,
                merge,
                generation,
            } if is_free => {
                self.merging = Merging::Frozen {
                    left,
                    merge,
                    generation,
                };
            }
            MergeStep::Refuse { merge } if matches!(self.merging, Merging::Expects { merge: m, .. } if m == merge) =>
            {
                self.merging = Merging::Nothing;
                self.ended = Some(Ended {
                    merge,
                    absorbed: false,
                });
            }
            MergeStep::Thaw { left, merge } if matches!(self.merging, Merging::Frozen { left: l, merge: m, .. } if (l, m) == (left, merge)) =>
            {
                self.merging = Merging::Nothing;
            }
            MergeStep::Absorb { right, merge } => {
                assert!(!self.expects(right, merge), "who absorbs needs the other replica");
            }
            MergeStep::Expect { .. }
            | MergeStep::Subsume { .. }
            | MergeStep::Refuse { .. }
            | MergeStep::Thaw { .. } => base::sometimes!("replica: a step of a merge came to nothing"),
        }
    }

    /// The state as it will be when the Absorb entry at `at`, which is next, has taken `right` over.
    #[must_use]
    pub fn absorbed_state(&self, at: At, ts: Timestamp, right: &Self) -> Vec<u8> {
        let last_ts = self.last_ts.max(ts).max(right.last_ts);
        let mut group = self.group.clone();
        (group.applied.last, group.applied.chain) = (at.mark, at.chain);
        let mut sessions = self.sessions_with(right);
        sessions.expire(last_ts);
        let generation = self.generation_with(right);
        let ended = self.ended_by_absorbing();
        let provisional = self.provisional.with(&right.provisional);
        encode_state(
            generation,
            last_ts,
            (Merging::Nothing, ended),
            &group,
            (&sessions, &provisional),
        )
    }

    /// Takes in the Absorb entry at `at`: from here on the keys of `right`, which has applied everything, are this replica's.
    ///
    /// # Errors
    /// The payload does not decode.
    ///
    /// # Panics
    /// When the ranges are not neighbours, the entry does not follow the last one applied, or it is another one.
    pub fn absorb(&mut self, at: At, payload: &[u8], right: &Self) -> Result<(), CommandError> {
        let command = Command::decode(payload)?;
        let (range, ts) = (self.descriptor.range, command.ts());
        let Command::Merge {
            step: step @ MergeStep::Absorb { right: of, merge },
            ..
        } = command
        else {
            unreachable!("{range} absorbs by an entry that says so")
        };
        assert!(
            of == right.descriptor.range && self.expects(of, merge),
            "{range} absorbs what it expects"
        );
        assert_eq!(
            self.descriptor.span.end.as_deref(),
            Some(&*right.descriptor.span.start),
            "{range} and {of} are neighbours"
        );
        assert!(
            ts > self.shown.max(right.shown),
            "{range} absorbs {of} at {ts}, which was shown"
        );
        self.advance(at);
        self.in_flight.pop(at.mark.index);
        self.open_step.take_if(|open| *open == step);
        self.last_ts = self.last_ts.max(ts).max(right.last_ts);
        self.applied_ts = self.applied_ts.max(ts).max(right.applied_ts);
        self.shown = self.shown.max(right.shown);
        self.sessions = self.sessions_with(right);
        self.provisional = self.provisional.with(&right.provisional);
        // Whoever led the right range has shown nothing above its last entry, which froze it: a clock that has taken that in is above.
        self.cache = None;
        self.descriptor.generation = self.generation_with(right);
        self.descriptor.span.end.clone_from(&right.descriptor.span.end);
        // What a batch touches here may be more than it was when its latch was taken: it takes another one.
        self.latches.clear();
        self.ended = self.ended_by_absorbing();
        self.merging = Merging::Nothing;
        Ok(())
    }

    fn ended_by_absorbing(&self) -> Option<Ended> {
        match self.merging {
            Merging::Expects { merge, .. } => Some(Ended {
                merge,
                absorbed: true,
            }),
            Merging::Nothing | Merging::Frozen { .. } => self.ended,
        }
    }

    fn generation_with(&self, right: &Self) -> u64 {
        self.descriptor.generation.max(right.descriptor.generation) + 1
    }

    fn sessions_with(&self, right: &Self) -> Sessions {
        let mut sessions = self.sessions.clone();
        if !base::planted_bug!("replica-merge-loses-sessions") {
            sessions.unite(&right.sessions);
        }
        sessions
    }
}
