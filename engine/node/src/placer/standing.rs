//! How nodes are meant to be used, as every node knows it: the file `STANDINGS`, replaced when something is learned.
//!
//! ```text
//! a list of magic "CLSTAND1", whose entries are: node u64 │ version u64 │ state u8
//! ```
//! Of two words about one node the one of the greater version counts, so that nodes which tell each other all that they know agree in
//! the end; but a node that was removed stays so, whatever is said later. See `words` for how they tell each other.

use super::policy::VERSION_MAX;
use crate::cluster::is_node;
use crate::file::List;
use base::NodeId;
use env::{DiskError, Env};
use std::collections::{BTreeMap, BTreeSet};
use wire::peer;

/// The file's name in the data directory.
pub(crate) const FILE: &str = "STANDINGS";
const ENTRY_BYTES: usize = 17;
const LIST: List<ENTRY_BYTES> = List {
    name: FILE,
    magic: b"CLSTAND1",
};

/// How a node is meant to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Standing {
    /// It has replicas and leads ranges.
    #[default]
    Used,
    /// It keeps its replicas and leads nothing: it is about to stop for a while.
    Drained,
    /// It gives its replicas away: it is about to go for good.
    Emptied,
    /// It is gone for good, and its number with it.
    Removed,
}

impl Standing {
    const ALL: [Self; 4] = [Self::Used, Self::Drained, Self::Emptied, Self::Removed];

    /// Its number in files and messages.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The one of that number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.number() == number)
    }

    /// For people and programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Drained => "drained",
            Self::Emptied => "emptied",
            Self::Removed => "removed",
        }
    }
}

/// The file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandingError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error(
        "{FILE} is damaged or of another version of corelane: remove it; other nodes know what it says, or say `corelane node drain` anew"
    )]
    Unknown,
}

/// What is known of all nodes; of those that are not in it nothing was ever said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standings(BTreeMap<NodeId, (u64, Standing)>);

impl Standings {
    pub(crate) fn of(&self, node: NodeId) -> Standing {
        self.0
            .get(&node)
            .map(|(_, standing)| *standing)
            .unwrap_or_default()
    }

    /// Everything that was said.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, Standing)> {
        self.0.iter().map(|(node, (_, standing))| (*node, *standing))
    }

    /// The nodes that were removed.
    pub(crate) fn removed(&self) -> BTreeSet<NodeId> {
        let removed = self.iter().filter(|(_, standing)| *standing == Standing::Removed);
        removed.map(|(node, _)| node).collect()
    }

    /// Says how a node is meant to be used from now on. What is known already is not said again.
    pub(crate) fn say(&mut self, node: NodeId, standing: Standing, now_ns: u64) {
        let known = self.0.get(&node);
        if known.is_some_and(|(_, known)| *known == standing || *known == Standing::Removed) {
            return;
        }
        let after = known.map_or(0, |(version, _)| version + 1);
        self.0
            .insert(node, (now_ns.min(VERSION_MAX).max(after), standing));
    }

    /// Takes what another node knows. Whether it was news.
    pub(crate) fn learn(&mut self, theirs: &Self) -> bool {
        let rank = |(version, standing): (u64, Standing)| (standing == Standing::Removed, version, standing);
        let mut is_news = false;
        for (node, said) in &theirs.0 {
            if self.0.get(node).is_none_or(|known| rank(*known) < rank(*said)) {
                self.0.insert(*node, *said);
                is_news = true;
            }
        }
        is_news
    }

    /// What another node says; `None` when no node says such a thing.
    pub(crate) fn from_wire(said: &[peer::ArchivedStanding]) -> Option<Self> {
        let one = |said: &peer::ArchivedStanding| {
            let (node, version) = (NodeId(said.node.to_native()), said.version.to_native());
            let standing = Standing::from_number(said.state)?;
            // There is always a later version: somebody must be heard after this one.
            (is_node(node) && version < VERSION_MAX).then_some((node, (version, standing)))
        };
        said.iter().map(one).collect::<Option<_>>().map(Self)
    }

    /// Hands all that was said to `add`, in one order.
    pub(crate) fn digest(&self, mut add: impl FnMut(&[u8])) {
        for said in &self.0 {
            add(&to_entry(said));
        }
    }

    pub(crate) fn to_wire(&self) -> Vec<peer::Standing> {
        let one = |(node, (version, standing)): (&NodeId, &(u64, Standing))| peer::Standing {
            node: node.0,
            state: standing.number(),
            version: *version,
        };
        self.0.iter().map(one).collect()
    }
}

/// Reads what was said; nothing when there is no file. What a killed process left is durable afterwards.
///
/// # Errors
/// [`StandingError`].
pub(crate) async fn load<E: Env>(env: &E) -> Result<Standings, StandingError> {
    let entries = LIST.load(env).await?.ok_or(StandingError::Unknown)?;
    let said = entries.iter().map(from_entry).collect::<Option<_>>();
    said.map(Standings).ok_or(StandingError::Unknown)
}

/// Writes it durably in place of what was there.
///
/// # Errors
/// When the disk fails; what was there stays.
pub(crate) async fn store<E: Env>(env: &E, standings: &Standings) -> Result<(), DiskError> {
    let entries: Vec<_> = standings.0.iter().map(to_entry).collect();
    LIST.store(env, &entries).await
}

fn to_entry((node, (version, standing)): (&NodeId, &(u64, Standing))) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..8].copy_from_slice(&node.0.to_le_bytes());
    entry[8..16].copy_from_slice(&version.to_le_bytes());
    entry[16] = standing.number();
    entry
}

fn from_entry(entry: &[u8; ENTRY_BYTES]) -> Option<(NodeId, (u64, Standing))> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(entry.get(at..at + 8)?.try_into().ok()?));
    Some((
        NodeId(u64_at(0)?),
        (u64_at(8)?, Standing::from_number(entry[16])?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Standings {
        let mut standings = Standings::default();
        standings.say(NodeId(4), Standing::Emptied, 17);
        standings.say(NodeId(9), Standing::Drained, 18);
        standings
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let read = said()
            .0
            .iter()
            .map(to_entry)
            .map(|entry| from_entry(&entry))
            .collect();
        assert_eq!(Some(said().0), read);
        assert_eq!(from_entry(&[9; ENTRY_BYTES]), None, "there is no such state");
    }

    #[test]
    fn the_later_word_counts_also_when_the_clock_goes_back() {
        let mut standings = said();
        standings.say(NodeId(4), Standing::Used, 3);
        assert_eq!(standings.of(NodeId(4)), Standing::Used);
        assert_eq!(standings.0[&NodeId(4)].0, 18);
        assert_eq!(standings.of(NodeId(5)), Standing::Used);
    }

    #[test]
    fn a_node_that_was_removed_stays_so() {
        let mut standings = said();
        let mut others = said();
        standings.say(NodeId(4), Standing::Removed, 19);
        others.say(NodeId(4), Standing::Used, 1000);
        assert!(!standings.learn(&others), "whatever is said later");
        assert!(others.learn(&standings));
        assert_eq!(standings, others);
        others.say(NodeId(4), Standing::Used, 2000);
        assert_eq!(standings, others);
        assert_eq!(others.removed(), BTreeSet::from([NodeId(4)]));
    }
}
