//! Where requests are in each other's way: the prefixes of keys on which most conflicts are, in bounded memory.
//!
//! Counted by *space-saving* (Metwally, Agrawal, El Abbadi, 2005): of so many prefixes the counts are kept; one more takes the place of
//! the one with the least, and its count, so that a prefix that is met often is always among them. `over` says by how much a count may be
//! too high because of that.

use serde::Serialize;
use txn::Refusal;

/// Prefixes that are counted.
const PREFIXES_MAX: usize = 16;
/// Bytes of a key that count as its prefix when it has no `/`.
const PLAIN_BYTES: usize = 16;
/// Bytes of a prefix that are kept.
const PREFIX_BYTES_MAX: usize = 64;

/// How many conflicts there were on keys of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contended {
    prefix: Box<[u8]>,
    met: u64,
    overtaken: u64,
    over: u64,
}

impl Contended {
    fn total(&self) -> u64 {
        self.met + self.overtaken + self.over
    }
}

/// Conflicts on keys of a prefix since the start, those of a shard or of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConflictStatus {
    /// Of these keys: up to their last `/`, or their first 16 bytes.
    pub prefix: String,
    /// Requests that met an unfinished write of another transaction. Each try counts.
    pub met: u64,
    /// Requests of transactions that were refused because another one had written the key first.
    pub overtaken: u64,
    /// Conflicts that these keys may have had besides, before they were counted: only of the most frequent prefixes it is zero.
    pub uncertain: u64,
}

/// The prefixes with the most conflicts, the first one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contention(Vec<Contended>);

impl Contention {
    /// A batch of a transaction was refused.
    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::Conflict { conflict, .. } => self.met(&conflict.key),
            Refusal::WriteTooOld { conflict, .. } | Refusal::Changed { conflict } => {
                self.entry(&conflict.key).overtaken += 1;
            }
            Refusal::WrongRange { .. }
            | Refusal::Cut { .. }
            | Refusal::Uncertain { .. }
            | Refusal::Refresh { .. }
            | Refusal::WriteMissing { .. }
            | Refusal::Aborted
            | Refusal::Indeterminate { .. }
            | Refusal::PushWaits
            | Refusal::Stale
            | Refusal::Forgotten
            | Refusal::TooManyWrites { .. }
            | Refusal::Unmet { .. }
            | Refusal::Malformed { .. }
            | Refusal::Contradiction { .. } => {}
        }
    }

    /// A request met an unfinished write on `key`.
    pub(crate) fn met(&mut self, key: &[u8]) {
        self.entry(key).met += 1;
    }

    fn entry(&mut self, key: &[u8]) -> &mut Contended {
        let prefix = prefix_of(key);
        let known = self.0.iter().position(|known| *known.prefix == *prefix);
        let at = known.unwrap_or_else(|| self.begin(prefix));
        &mut self.0[at]
    }

    /// A place for a prefix that is not counted yet.
    fn begin(&mut self, prefix: &[u8]) -> usize {
        let mut new = Contended {
            prefix: prefix.into(),
            met: 0,
            overtaken: 0,
            over: 0,
        };
        if self.0.len() < PREFIXES_MAX {
            self.0.push(new);
            return self.0.len() - 1;
        }
        let least = (0..self.0.len()).min_by_key(|&at| self.0[at].total());
        let least = least.expect("a full list is not empty");
        new.over = self.0[least].total();
        self.0[least] = new;
        least
    }

    /// With those of another shard: a prefix has its ranges anywhere.
    pub(crate) fn add(&mut self, other: &Self) {
        for more in &other.0 {
            match self.0.iter_mut().find(|known| known.prefix == more.prefix) {
                Some(known) => {
                    known.met += more.met;
                    known.overtaken += more.overtaken;
                    known.over += more.over;
                }
                None => self.0.push(more.clone()),
            }
        }
    }

    /// The most frequent ones, the first one first.
    pub(crate) fn statuses(&self) -> Vec<ConflictStatus> {
        let mut sorted: Vec<&Contended> = self.0.iter().collect();
        sorted.sort_by(|a, b| (b.total(), &a.prefix).cmp(&(a.total(), &b.prefix)));
        sorted.truncate(PREFIXES_MAX);
        let status = |contended: &Contended| ConflictStatus {
            prefix: base::key::Escaped(&contended.prefix).to_string(),
            met: contended.met,
            overtaken: contended.overtaken,
            uncertain: contended.over,
        };
        sorted.into_iter().map(status).collect()
    }
}

/// What of a key stands for its neighbours, too.
fn prefix_of(key: &[u8]) -> &[u8] {
    let slash = key.iter().rposition(|&byte| byte == b'/');
    let len = slash.map_or(PLAIN_BYTES, |at| at + 1);
    &key[..len.min(key.len()).min(PREFIX_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Timestamp;
    use txn::error::{Act, Conflict, Party};

    fn said(contention: &Contention) -> Vec<(String, u64, u64)> {
        let statuses = contention.statuses().into_iter();
        statuses
            .map(|status| (status.prefix, status.met, status.uncertain))
            .collect()
    }

    #[test]
    fn keys_are_counted_by_their_prefix() {
        let mut contention = Contention::default();
        for key in [
            "user/7",
            "user/8",
            "user/7/name",
            "counter",
            "a key that is longer",
            "a key that is long",
        ] {
            contention.met(key.as_bytes());
        }
        contention.met(&[b'x'; 300]);
        contention.met(&[&[b'y'; 300][..], b"/1"].concat());
        let said = said(&contention);
        let names: Vec<(&str, u64)> = said.iter().map(|(name, met, _)| (&**name, *met)).collect();
        let long = "y".repeat(PREFIX_BYTES_MAX);
        let expected = [
            ("a key that is lo", 2),
            ("user/", 2),
            ("counter", 1),
            ("user/7/", 1),
            ("xxxxxxxxxxxxxxxx", 1),
            (&long, 1),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_most_frequent_ones_stay_among_many() {
        let mut contention = Contention::default();
        for n in 0..1000 {
            contention.met(format!("rare/{n}/").as_bytes());
            contention.met(b"hot/1");
            if n % 4 == 0 {
                contention.met(b"warm/1");
            }
        }
        let said = said(&contention);
        assert_eq!(said.len(), PREFIXES_MAX);
        assert_eq!(said[0], ("hot/".to_owned(), 1000, 0));
        assert_eq!(said[1], ("warm/".to_owned(), 250, 0));
        let all: u64 = contention.0.iter().map(Contended::total).sum();
        assert_eq!(all, 2250, "every conflict is counted once");
    }

    #[test]
    fn shards_add_up() {
        let mut one = Contention::default();
        let mut other = Contention::default();
        for n in 0..PREFIXES_MAX {
            one.met(format!("one/{n}/").as_bytes());
            other.met(format!("other/{n}/").as_bytes());
        }
        one.met(b"both/1");
        other.met(b"both/2");
        one.add(&other);
        let said = said(&one);
        assert_eq!(said.len(), PREFIXES_MAX);
        assert_eq!(said[0], ("both/".to_owned(), 2, 2));
    }

    #[test]
    fn refusals_count_where_somebody_was_in_the_way() {
        let party = |act| Party { who: None, act };
        let ts = Timestamp::new(5, 0);
        let conflict = || {
            Box::new(Conflict {
                key: b"user/7"[..].into(),
                ours: party(Act::Read),
                theirs: party(Act::Committed(ts)),
                now: ts,
            })
        };
        let mut contention = Contention::default();
        contention.refused(&Refusal::Aborted);
        contention.refused(&Refusal::PushWaits);
        assert_eq!(contention.statuses(), []);
        contention.refused(&Refusal::WriteTooOld {
            conflict: conflict(),
            ts,
        });
        contention.refused(&Refusal::Changed { conflict: conflict() });
        contention.met(b"user/8");
        let expected = ConflictStatus {
            prefix: "user/".to_owned(),
            met: 1,
            overtaken: 2,
            uncertain: 0,
        };
        assert_eq!(contention.statuses(), [expected]);
    }
}
