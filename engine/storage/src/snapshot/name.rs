//! The names of files that are being received, in the tablet's directory.
//!
//! ```text
//!   <uid>-<number>.part        not whole; the number is the process's own, so that a late write meets no other file
//!   <uid>-<index>.received     whole and verified; index is that of the snapshot that it came for
//! ```

use base::Index;

const PART: &str = "part";
const RECEIVED: &str = "received";

/// A name of a received file, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Part,
    Received { uid: u64, index: Index },
}

pub(super) fn part(dir: &str, uid: u64, number: u64) -> String {
    format!("{dir}/{uid:016x}-{number}.{PART}")
}

pub(super) fn received(dir: &str, uid: u64, index: Index) -> String {
    format!("{dir}/{uid:016x}-{}.{RECEIVED}", index.0)
}

impl Name {
    /// `None` when the name is not of a received file.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (stem, kind) = name.rsplit_once('.')?;
        let (uid, number) = stem.split_once('-')?;
        let uid = u64::from_str_radix(uid, 16).ok()?;
        let number = number.parse().ok()?;
        match kind {
            PART => Some(Self::Part),
            RECEIVED => Some(Self::Received {
                uid,
                index: Index(number),
            }),
            _ => None,
        }
    }
}

/// Whether `name` is of a whole received file that may still be installed over a tablet flushed up to `flushed`.
pub(crate) fn is_received_for_later(name: &str, flushed: Index) -> bool {
    matches!(Name::parse(name), Some(Name::Received { index, .. }) if index > flushed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        let name = |path: String| Name::parse(path.strip_prefix("d/").expect("begins with it"));
        let index = Index(77);
        assert_eq!(name(part("d", 5, 6)), Some(Name::Part));
        assert_eq!(
            name(received("d", u64::MAX, index)),
            Some(Name::Received { uid: u64::MAX, index })
        );
        for other in [
            "MANIFEST",
            "MANIFEST.tmp",
            "00000001.sst",
            "00000001.tmp",
            "x-1.part",
            "1-x.received",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_tablet_has_passed_is_not_kept() {
        for (flushed, kept) in [(9, true), (10, false), (11, false)] {
            assert_eq!(
                is_received_for_later("00000000000000aa-10.received", Index(flushed)),
                kept
            );
        }
        assert!(!is_received_for_later("00000000000000aa-10.part", Index(0)));
    }
}
