//! Which data directory each node has: the file `BIRTHS`.
//!
//! A node that lost its data directory has lost what it promised: whom it voted for, what it said to be durable. When it comes back
//! under its number, those who count on that must not listen to it. So a directory gets a name when it is made, its *birth*, and every
//! node keeps the births of the others, and tells them.
//!
//! ```text
//! a list of magic "CLBIRTHS", whose entries are: node u64 │ birth u64
//! ```
//! Invariant: a shard takes something from a node only when this node knows the birth of that one's directory durably, and it is the
//! one that says so. Fault model: any directory is lost, or another one is put in its place, at any time. Not covered: a directory
//! that is put back as it was some time ago has the same birth (the failure detector notices it when others know of later starts);
//! and a node that was told of no birth of another one listens to the first directory that says it is that one's.

use crate::cluster::is_node;
use crate::file::List;
use crate::message::ShardMessage;
use crate::neighbours::Neighbours;
use crate::shard::Shard;
use crate::state::{Job, Message, State};
use base::{NodeId, ShardId};
use env::{DiskError, Env, Mailbox};
use std::collections::BTreeMap;

/// The file's name in the data directory.
pub const FILE: &str = "BIRTHS";
const ENTRY_BYTES: usize = 16;
const LIST: List<ENTRY_BYTES> = List {
    name: FILE,
    magic: b"CLBIRTHS",
};

/// The births of data directories.
pub(crate) type Births = BTreeMap<NodeId, u64>;

/// Which data directory each node has could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BirthsError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is not what was written.
    #[error(
        "{FILE} is damaged or of another version of corelane: remove it when all other nodes have the data directories that they had \
         before; this node learns them again"
    )]
    Unknown,
}

/// What is known of the directory that a node says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Same,
    Other,
    Not,
}

/// Reads what is known; nothing when there is no file. What a killed process left is durable afterwards.
///
/// # Errors
/// [`BirthsError`].
pub(crate) async fn load<E: Env>(env: &E) -> Result<Births, BirthsError> {
    let entries = LIST.load(env).await?.ok_or(BirthsError::Unknown)?;
    let births = entries.iter().map(from_entry).collect::<Option<_>>();
    births.ok_or(BirthsError::Unknown)
}

/// What a file says that was read.
///
/// # Errors
/// [`BirthsError::Unknown`].
pub fn decode(bytes: &[u8]) -> Result<BTreeMap<NodeId, u64>, BirthsError> {
    let entries = LIST.decode(bytes).ok_or(BirthsError::Unknown)?;
    let births = entries.iter().map(from_entry).collect::<Option<_>>();
    births.ok_or(BirthsError::Unknown)
}

async fn store<E: Env>(env: &E, births: &Births) -> Result<(), DiskError> {
    let entries: Vec<_> = births
        .iter()
        .map(|(node, birth)| to_entry(*node, *birth))
        .collect();
    LIST.store(env, &entries).await
}

fn to_entry(node: NodeId, birth: u64) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..8].copy_from_slice(&node.0.to_le_bytes());
    entry[8..].copy_from_slice(&birth.to_le_bytes());
    entry
}

fn from_entry(entry: &[u8; ENTRY_BYTES]) -> Option<(NodeId, u64)> {
    let node = NodeId(u64::from_le_bytes(entry[..8].try_into().ok()?));
    let birth = u64::from_le_bytes(entry[8..].try_into().ok()?);
    (is_node(node) && birth != 0).then_some((node, birth))
}

/// What a node says whose data directory is another one than the others know.
pub(crate) fn words_for(node: NodeId) -> String {
    format!(
        "the other nodes know {node} with another data directory: start it with that one; if it is gone, run `corelane node drain {node}`, \
         `corelane node rm {node}`, and start a node with another number and --join",
        node = node.0
    )
}

impl<E: Env> Neighbours<E> {
    /// Whether a node has the data directory that it had.
    pub(crate) fn knows_birth(&self, node: NodeId, birth: u64) -> Known {
        match self.births.get(&node) {
            Some(known) if *known == birth || base::planted_bug!("node-any-directory") => Known::Same,
            Some(_) => Known::Other,
            None => Known::Not,
        }
    }

    /// The name of a node's data directory, as it is told to others: zero when it is not known.
    pub(crate) fn birth_to_wire(&self, node: NodeId) -> u64 {
        self.births.get(&node).copied().unwrap_or(0)
    }
}

impl<E: Env, B> State<E, B> {
    /// A node has this data directory, as it says itself, or another one does. It is known when it is durable.
    pub(crate) fn meet_birth(&mut self, node: NodeId, birth: u64) {
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        if !is_node(node) || birth == 0 {
            return;
        }
        if node == self.identity.node {
            if birth != self.identity.birth {
                self.unwelcome();
            }
            return;
        }
        if neighbours.knows_birth(node, birth) != Known::Not {
            return;
        }
        if self.me == ShardId(0) {
            // Of two that are heard of at once the first one counts.
            neighbours.newborn.entry(node).or_insert(birth);
            self.jobs.push(Job::Births);
        } else {
            self.send(ShardId(0), ShardMessage::Born(node, birth));
        }
    }

    /// Another shard, which does not know a node's data directory, has met it.
    pub(crate) fn on_born(&mut self, from: ShardId, node: NodeId, birth: u64) {
        let known = self
            .neighbours
            .as_ref()
            .and_then(|neighbours| neighbours.births.get(&node));
        match known {
            // It was told while the shard started.
            Some(known) => self.send(from, ShardMessage::Births(Births::from([(node, *known)]))),
            None => self.meet_birth(node, birth),
        }
    }

    /// These are known, durably.
    pub(crate) fn on_births(&mut self, births: &Births) {
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.births.extend(births);
        }
    }

    /// Others know this node with another data directory: it stops, for what it has promised is not here.
    pub(crate) fn unwelcome(&mut self) {
        base::sometimes!("node: a node has come back with another data directory");
        let me = self.identity.node;
        self.is_replaced = true;
        self.failed.get_or_insert_with(|| words_for(me));
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Writes which data directories other nodes have, and then says so. One at a time: what comes meanwhile is written by the one that
    /// is under way.
    pub(crate) async fn store_births(&self) {
        let begin = |state: &mut State<E, B>| {
            let neighbours = state.neighbours.as_mut()?;
            let is_begun = !neighbours.newborn.is_empty() && !neighbours.storing_births;
            neighbours.storing_births |= is_begun;
            is_begun.then_some(())
        };
        if self.with_state(begin).is_none() {
            return;
        }
        loop {
            let next = self.with_state(|state| {
                let neighbours = state.neighbours.as_mut()?;
                let mut newborn = core::mem::take(&mut neighbours.newborn);
                // A node may have been met again, with another directory, while the one that it was met with first was written.
                newborn.retain(|node, _| !neighbours.births.contains_key(node));
                neighbours.storing_births = !newborn.is_empty();
                let mut births = neighbours.births.clone();
                births.extend(&newborn);
                neighbours.storing_births.then_some((births, newborn))
            });
            let Some((births, newborn)) = next else {
                return;
            };
            if let Err(error) = store(&self.env, &births).await {
                return self.fail(format!(
                    "which data directories other nodes have could not be written: {error}"
                ));
            }
            self.step(|state| {
                state.on_births(&newborn);
                if let Some(neighbours) = &state.neighbours {
                    neighbours.tell_roster();
                }
                for shard in (1..state.shards).map(ShardId) {
                    state.send(shard, ShardMessage::Births(newborn.clone()));
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::{DiskImage, ImageMachine};

    #[test]
    fn entries_are_read_as_they_were_written() {
        assert_eq!(from_entry(&to_entry(NodeId(7), 9)), Some((NodeId(7), 9)));
        assert_eq!(
            from_entry(&to_entry(NodeId(0), 9)),
            None,
            "no node has that number"
        );
        assert_eq!(
            from_entry(&to_entry(NodeId(7), 0)),
            None,
            "no directory has that name"
        );
    }

    #[test]
    fn births_that_were_read_stay() {
        let machine = ImageMachine::new(&DiskImage::new());
        machine.record();
        let births = Births::from([(NodeId(2), 5), (NodeId(3), 6)]);
        machine
            .block_on(store(&machine.env(), &births))
            .expect("the disk is fine");
        for boundary in machine.trace().boundaries() {
            let second = ImageMachine::after_kill(&boundary);
            let seen = second.block_on(load(&second.env()));
            let third = ImageMachine::new(&second.image_least());
            assert_eq!(third.block_on(load(&third.env())), seen);
        }
    }
}
