//! What a node has to report, with what changed since when: the placer is told changes, not everything over and over.
//!
//! Every change has a number, and a range stands under its last one. The placer says up to which number it knows everything, and
//! gets what came after. Numbers are of a session; a node that starts again, or forgets ranges that it led long ago, begins another
//! session, and the placer forgets what it was told in the one before. Pure.

use base::collections::FastSet;
use base::key::Span;
use base::{NodeId, RangeId};
use placement::LoadSplit;
use std::collections::BTreeMap;

/// Ranges of one report, and bytes of their keys, roughly: the rest comes with the next one.
const PIECE_RANGES_MAX: usize = 1024;
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Ranges that are led no more and that the ledger remembers. With more it begins another session.
const GONE_MAX: usize = 4096;

/// A replica, as its range's leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) node: NodeId,
    pub(crate) votes: bool,
    pub(crate) up_to_date: bool,
}

/// A range, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Led {
    /// The leader's term.
    pub(crate) term: u64,
    pub(crate) generation: u64,
    pub(crate) span: Span,
    pub(crate) replicas: Vec<Seen>,
    /// Its members are between two configurations.
    pub(crate) joint: bool,
    /// The placer's order that is being carried out; zero for none.
    pub(crate) order: u64,
    /// Of one replica.
    pub(crate) bytes: u64,
    /// Per second, as are writes.
    pub(crate) reads: u32,
    pub(crate) writes: u32,
    pub(crate) middle: Option<Box<[u8]>>,
    pub(crate) hot: LoadSplit,
}

/// What is said of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) range: RangeId,
    /// Its replicas were, or are being, placed by hand.
    pub(crate) pinned: bool,
    /// `None` when it is not led here any more.
    pub(crate) led: Option<Led>,
}

/// A part of what changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) session: u64,
    /// The changes after this one; zero forgets what was known.
    pub(crate) after: u64,
    /// Up to this one.
    pub(crate) until: u64,
    /// The last one that there is.
    pub(crate) last: u64,
    pub(crate) words: Vec<&'a Word>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    session: u64,
    last: u64,
    words: BTreeMap<RangeId, (u64, Word)>,
    /// The range of each change that was not followed by another one of the same range.
    changes: BTreeMap<u64, RangeId>,
    gone: usize,
}

/// Whether a measure has not changed so much that it must be said.
fn is_near(old: u64, new: u64, floor: u64) -> bool {
    old.abs_diff(new) <= floor.max(old / 8)
}

impl Led {
    /// Whether the other one says nothing new: noise of measures is none.
    fn is_near(&self, other: &Self) -> bool {
        let rate = |old: u32, new: u32| is_near(old.into(), new.into(), 16);
        is_near(self.bytes, other.bytes, 64 << 10)
            && rate(self.reads, other.reads)
            && rate(self.writes, other.writes)
            && (self.term, self.generation) == (other.term, other.generation)
            && (self.joint, self.order) == (other.joint, other.order)
            && self.span == other.span
            && self.replicas == other.replicas
            && self.middle == other.middle
            && self.hot == other.hot
    }

    fn bytes_of_keys(&self) -> usize {
        let key = |key: &Option<Box<[u8]>>| key.as_ref().map_or(0, |key| key.len());
        self.span.start.len() + key(&self.span.end) + key(&self.middle)
    }
}

impl Ledger {
    /// An empty one. Sessions are not zero, and no two of a node are the same.
    pub(crate) fn new(session: u64) -> Self {
        Self {
            session,
            last: 0,
            words: BTreeMap::new(),
            changes: BTreeMap::new(),
            gone: 0,
        }
    }

    /// Takes note of everything that there is to say now: what is led, and what was placed by hand. Of `same` ranges what was said
    /// before still counts. Whether something was said before of each of these.
    pub(crate) fn note(&mut self, now: impl IntoIterator<Item = Word>, same: &FastSet<RangeId>) -> bool {
        let now: BTreeMap<RangeId, Word> = now.into_iter().map(|word| (word.range, word)).collect();
        let is_over = |(range, (_, word)): (&RangeId, &(u64, Word))| {
            let is_said = word.led.is_some() || word.pinned;
            (is_said && !now.contains_key(range) && !same.contains(range)).then_some(*range)
        };
        let over: Vec<RangeId> = self.words.iter().filter_map(is_over).collect();
        let silent = |range| Word {
            range,
            pinned: false,
            led: None,
        };
        for word in over.into_iter().map(silent).chain(now.into_values()) {
            self.say(word);
        }
        let is_said = |(_, word): &(u64, Word)| word.led.is_some() || word.pinned;
        let is_known = same
            .iter()
            .all(|range| self.words.get(range).is_some_and(is_said));
        if self.gone > GONE_MAX {
            self.session = self.session.wrapping_add(1).max(1);
            self.words
                .retain(|_, (_, word)| word.led.is_some() || word.pinned);
            let words = &self.words;
            self.changes.retain(|_, range| words.contains_key(range));
            self.gone = 0;
        }
        is_known
    }

    fn say(&mut self, word: Word) {
        let is_gone = |word: &Word| word.led.is_none() && !word.pinned;
        if let Some((at, known)) = self.words.get(&word.range) {
            let is_near = match (&known.led, &word.led) {
                (Some(old), Some(new)) => old.is_near(new),
                (None, None) => true,
                _ => false,
            };
            if is_near && known.pinned == word.pinned {
                return;
            }
            self.gone -= usize::from(is_gone(known));
            self.changes.remove(at);
        }
        self.last += 1;
        self.gone += usize::from(is_gone(&word));
        self.changes.insert(self.last, word.range);
        self.words.insert(word.range, (self.last, word));
    }

    /// What changed after `after` of a session, or everything when it is another one.
    pub(crate) fn after(&self, session: u64, after: u64) -> Piece<'_> {
        let after = if session == self.session {
            after.min(self.last)
        } else {
            0
        };
        let (mut words, mut bytes, mut until) = (Vec::new(), 0, self.last);
        let mut known = after;
        for (change, range) in self.changes.range(after + 1..) {
            if words.len() >= PIECE_RANGES_MAX || bytes >= PIECE_BYTES_MAX {
                until = known;
                break;
            }
            let (_, word) = &self.words[range];
            bytes += word.led.as_ref().map_or(0, Led::bytes_of_keys);
            words.push(word);
            known = *change;
        }
        Piece {
            session: self.session,
            after,
            until,
            last: self.last,
            words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(term: u64, bytes: u64) -> Led {
        Led {
            term,
            generation: 1,
            span: Span::all(),
            replicas: Vec::new(),
            joint: false,
            order: 0,
            bytes,
            reads: 0,
            writes: 0,
            middle: None,
            hot: LoadSplit::Unknown,
        }
    }

    fn word(range: u64, led: Led) -> Word {
        Word {
            range: RangeId(range),
            pinned: false,
            led: Some(led),
        }
    }

    fn ranges(piece: &Piece<'_>) -> Vec<(u64, bool)> {
        let of = |word: &&Word| (word.range.0, word.led.is_some());
        piece.words.iter().map(of).collect()
    }

    #[test]
    fn changes_are_said_once_and_noise_is_none() {
        let mut ledger = Ledger::new(7);
        ledger.note(
            [word(1, led(1, 0)), word(2, led(1, 1 << 30))],
            &FastSet::default(),
        );
        let first = ledger.after(0, 0);
        assert_eq!((first.session, first.after, first.until), (7, 0, 2));
        assert_eq!(ranges(&first), [(1, true), (2, true)]);
        ledger.note(
            [word(1, led(1, 0)), word(2, led(1, (1 << 30) + 999))],
            &FastSet::default(),
        );
        assert_eq!(ranges(&ledger.after(7, 2)), []);
        ledger.note([word(1, led(2, 0))], &FastSet::default());
        let second = ledger.after(7, 2);
        assert_eq!(ranges(&second), [(2, false), (1, true)]);
        assert_eq!(
            (second.until, ledger.after(7, second.until).words.len()),
            (second.last, 0)
        );
        assert_eq!(ledger.after(7, 1), ledger.after(7, 1));
        assert_eq!(ledger.after(6, 4).after, 0, "another session begins anew");
    }

    #[test]
    fn what_is_the_same_is_not_said_and_not_over() {
        let mut ledger = Ledger::new(7);
        ledger.note([word(1, led(1, 0)), word(2, led(1, 0))], &FastSet::default());
        assert!(ledger.note([], &[RangeId(1)].into_iter().collect()));
        let piece = ledger.after(7, 2);
        assert_eq!(ranges(&piece), [(2, false)]);
        let lost = [RangeId(1), RangeId(2)].into_iter().collect();
        assert!(!ledger.note([], &lost), "it was told, and is not known");
    }

    #[test]
    fn much_comes_in_pieces() {
        let mut ledger = Ledger::new(1);
        ledger.note(
            (1..=3000).map(|range| word(range, led(1, 0))),
            &FastSet::default(),
        );
        let (mut after, mut seen) = (0, 0);
        loop {
            let piece = ledger.after(1, after);
            assert!(piece.words.len() <= PIECE_RANGES_MAX);
            seen += piece.words.len();
            after = piece.until;
            if piece.until == piece.last {
                break;
            }
        }
        assert_eq!(seen, 3000);
    }

    #[test]
    fn what_is_gone_is_forgotten_in_the_end() {
        let mut ledger = Ledger::new(1);
        for round in 0..6 {
            ledger.note(
                (1..=1000).map(|range| word(round * 1000 + range, led(1, 0))),
                &FastSet::default(),
            );
        }
        assert_eq!(ledger.session, 2);
        assert!(ledger.words.len() <= 1000 + GONE_MAX, "{}", ledger.words.len());
        let piece = ledger.after(1, 4000);
        assert_eq!((piece.session, piece.after), (2, 0));
    }
}
