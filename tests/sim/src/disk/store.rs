//! What is on a disk, what programs see of it, and what lies between: the pure core of both simulated disks.
//!
//! ```text
//!   write ─► in flight ─► complete ─► durable          (a durable write skips the middle)
//!            └── `unsettled`: a crash keeps any part ──┘
//!   create, rename, link, remove ─► `unsettled` names ─► durable by sync_dir
//! ```
//!
//! Every change is a [`Step`]; a recorded list of steps replayed on the same start gives the same store, which is how crash
//! points are enumerated (`disk::trace`). A store never fails and never draws: faults are decided outside and arrive in the
//! steps.

use super::content::{Block, Content, SectorFate};
use super::image::DiskImage;
use super::names::rename_one;
use base::limits::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

/// A file, whatever its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InodeId(pub(crate) u64);

/// A write or sync between its begin and its end; also orders unsettled changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpId(pub(crate) u64);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Dir,
    File(InodeId),
}

/// How a write ended.
#[derive(Debug, Clone)]
pub(crate) enum Landed {
    /// As asked.
    Whole,
    /// Acknowledged, and nothing happened.
    Nowhere,
    /// In another place of some file.
    Elsewhere { inode: InodeId, first: usize },
    /// Some sectors, before an error.
    Torn(Arc<[SectorFate]>),
}

/// A change of names.
#[derive(Debug, Clone)]
pub(crate) enum NameChange {
    Create { path: Arc<str> },
    Rename { from: Arc<str>, to: Arc<str> },
    HardLink { from: Arc<str>, to: Arc<str> },
    Remove { path: Arc<str> },
}

/// One input of a store.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    BeginWrite {
        op: OpId,
        inode: InodeId,
        first: usize,
        blocks: Arc<[Block]>,
        durable: bool,
    },
    EndWrite {
        op: OpId,
        landed: Landed,
    },
    SetLen {
        op: OpId,
        inode: InodeId,
        blocks: usize,
    },
    BeginSync {
        op: OpId,
        inode: InodeId,
    },
    BeginSyncDir {
        op: OpId,
        path: Arc<str>,
    },
    EndSync {
        op: OpId,
        is_ok: bool,
    },
    Names {
        op: OpId,
        change: NameChange,
    },
    CreateDir {
        path: Arc<str>,
    },
    Opened(InodeId),
    Closed(InodeId),
    /// Nothing happened to the disk; the test that records says something about this moment.
    Mark(u64),
}

/// A change that a crash may undo.
#[derive(Debug, Clone)]
pub(crate) struct Unsettled {
    pub(crate) op: OpId,
    pub(crate) change: Change,
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write {
        inode: InodeId,
        first: usize,
        blocks: Arc<[Block]>,
        durable: bool,
        is_complete: bool,
    },
    SetLen {
        inode: InodeId,
        blocks: usize,
    },
    Names(Vec<(Arc<str>, Option<Node>)>),
}

impl Change {
    fn inode(&self) -> Option<InodeId> {
        match self {
            Self::Write { inode, .. } | Self::SetLen { inode, .. } => Some(*inode),
            Self::Names(_) => None,
        }
    }
}

/// What a crash leaves of an unsettled change. Only a write can be kept in part; any part of it settles its length.
pub(crate) enum Fate<'a> {
    Lost,
    Kept,
    Torn(&'a [SectorFate]),
}

#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) seen: Arc<Content>,
    pub(super) durable: Arc<Content>,
    pub(super) handles: u32,
}

#[derive(Debug, Clone)]
enum Sync {
    File(Vec<OpId>),
    Dir { path: Arc<str>, until: OpId },
}

/// A disk's state. Cloning shares all bytes.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(super) seen: Arc<BTreeMap<Arc<str>, Node>>,
    pub(super) durable: Arc<BTreeMap<Arc<str>, Node>>,
    pub(super) files: BTreeMap<InodeId, File>,
    pub(super) unsettled: Vec<Unsettled>,
    syncs: BTreeMap<OpId, Sync>,
    pub(super) next_inode: u64,
    next_op: u64,
}

impl Store {
    /// The disk as a machine finds it when it starts: all of `image` is durable.
    pub(crate) fn open(image: &DiskImage) -> Self {
        let files = image.files.iter().map(|(id, content)| {
            (
                *id,
                File {
                    seen: content.clone(),
                    durable: content.clone(),
                    handles: 0,
                },
            )
        });
        Self {
            seen: image.names.clone(),
            durable: image.names.clone(),
            next_inode: image.files.last_key_value().map_or(0, |(id, _)| id.0 + 1),
            files: files.collect(),
            unsettled: Vec::new(),
            syncs: BTreeMap::new(),
            next_op: 0,
        }
    }

    pub(crate) fn op_next(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    pub(crate) fn node(&self, path: &str) -> Option<Node> {
        if path.is_empty() {
            Some(Node::Dir)
        } else {
            self.seen.get(path).copied()
        }
    }

    /// The file that `path` names, or why not.
    pub(crate) fn file(&self, path: &str) -> Result<InodeId, ErrorKind> {
        match self.node(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir) => Err(ErrorKind::IsADirectory),
            None => Err(ErrorKind::NotFound),
        }
    }

    pub(crate) fn content(&self, inode: InodeId) -> &Content {
        &self.files[&inode].seen
    }

    /// How many blocks of a file are on the medium: what was never made durable cannot rot there.
    pub(crate) fn durable_blocks(&self, inode: InodeId) -> usize {
        self.files[&inode].durable.block_count()
    }

    /// Changes a file behind everyone's back, for what programs see and for what is durable.
    pub(crate) fn damage(&mut self, inode: InodeId, damage: impl Fn(&mut Content)) {
        let file = self
            .files
            .get_mut(&inode)
            .expect("damage goes to a file that exists");
        damage(Arc::make_mut(&mut file.seen));
        damage(Arc::make_mut(&mut file.durable));
    }

    /// Every file by name, with its length on the medium.
    pub(crate) fn files_by_name(&self) -> Vec<(String, u64)> {
        let file = |(path, node): (&Arc<str>, &Node)| match node {
            Node::File(inode) => Some((path.to_string(), self.files[inode].durable.len())),
            Node::Dir => None,
        };
        self.seen.iter().filter_map(file).collect()
    }

    /// Turns one bit of a file around. Whether there is such a bit on the medium.
    pub(crate) fn flip(&mut self, path: &str, bit: u64) -> bool {
        let Ok(inode) = self.file(path) else {
            return false;
        };
        let (byte, bit) = (bit / 8, bit % 8);
        let block = usize::try_from(byte / BLOCK_BYTES as u64).expect("simulated files fit in memory");
        let at = usize::try_from(byte % BLOCK_BYTES as u64).expect("below a block");
        let end = self.durable_blocks(inode).min(self.content(inode).block_count());
        if block < end {
            self.damage(inode, |content| {
                content.edit(block, |bytes| bytes[at] ^= 1 << bit);
            });
        }
        block < end
    }

    /// The bytes of a file on the medium.
    pub(crate) fn durable_bytes(&self, path: &str) -> Option<Vec<u8>> {
        let file = &self.files[&self.file(path).ok()?].durable;
        let mut bytes = vec![0; usize::try_from(file.len()).ok()?];
        file.read(0, &mut bytes);
        Some(bytes)
    }

    pub(crate) fn inodes(&self) -> impl ExactSizeIterator<Item = InodeId> + '_ {
        self.files.keys().copied()
    }

    /// Bytes that files take, as programs see them.
    pub(crate) fn bytes_used(&self) -> u64 {
        self.files.values().map(|file| file.seen.len()).sum()
    }

    fn opened(&mut self, inode: InodeId) {
        self.files
            .get_mut(&inode)
            .expect("a file that was found exists")
            .handles += 1;
    }

    fn closed(&mut self, inode: InodeId) {
        let file = self
            .files
            .get_mut(&inode)
            .expect("a file lives as long as its handles");
        file.handles -= 1;
        if file.handles == 0 {
            self.drop_unnamed(inode);
        }
    }

    /// The process that had files open is gone. Nothing may be in flight.
    pub(crate) fn close_all(&mut self) {
        for file in self.files.values_mut() {
            file.handles = 0;
        }
        for inode in self.files.keys().copied().collect::<Vec<_>>() {
            self.drop_unnamed(inode);
        }
    }

    /// The process is killed and the machine goes on: writes in flight are seen from now on, and nothing is durable that was
    /// not, until another process syncs it.
    pub(crate) fn process_ended(&mut self) {
        let mut ops = Vec::new();
        for Unsettled { op, change } in &mut self.unsettled {
            if let Change::Write {
                durable,
                is_complete: false,
                ..
            } = change
            {
                // Nobody waited for it to be durable.
                *durable = false;
                ops.push(*op);
            }
        }
        for op in ops {
            self.end_write(op, &Landed::Whole);
        }
        self.syncs.clear();
        self.close_all();
    }

    /// Forgets a file that nothing can reach any more, now or after a crash.
    pub(super) fn drop_unnamed(&mut self, inode: InodeId) {
        let node = Node::File(inode);
        let is_reachable = self.files.get(&inode).is_none_or(|file| file.handles > 0)
            || self.seen.values().any(|of| *of == node)
            || self.durable.values().any(|of| *of == node)
            || self.unsettled.iter().any(|unsettled| match &unsettled.change {
                Change::Write {
                    inode: of,
                    is_complete,
                    ..
                } => *of == inode && !is_complete,
                Change::SetLen { .. } => false,
                Change::Names(names) => names.iter().any(|(_, to)| *to == Some(node)),
            });
        if !is_reachable {
            self.unsettled
                .retain(|unsettled| unsettled.change.inode() != Some(inode));
            self.files.remove(&inode);
        }
    }

    /// Carries out one step.
    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::BeginWrite {
                op,
                inode,
                first,
                blocks,
                durable,
            } => {
                let (inode, first, blocks, durable) = (*inode, *first, blocks.clone(), *durable);
                self.push(
                    *op,
                    Change::Write {
                        inode,
                        first,
                        blocks,
                        durable,
                        is_complete: false,
                    },
                );
            }
            Step::EndWrite { op, landed } => self.end_write(*op, landed),
            Step::SetLen { op, inode, blocks } => {
                let file = self.files.get_mut(inode).expect("an open file exists");
                Arc::make_mut(&mut file.seen).blocks_resize(*blocks);
                self.push(
                    *op,
                    Change::SetLen {
                        inode: *inode,
                        blocks: *blocks,
                    },
                );
            }
            Step::BeginSync { op, inode } => {
                let complete = self.unsettled.iter().filter(|unsettled| match &unsettled.change {
                    Change::Write {
                        inode: of,
                        is_complete,
                        ..
                    } => of == inode && *is_complete,
                    Change::SetLen { inode: of, .. } => of == inode,
                    Change::Names(_) => false,
                });
                self.syncs
                    .insert(*op, Sync::File(complete.map(|unsettled| unsettled.op).collect()));
            }
            Step::BeginSyncDir { op, path } => {
                self.syncs.insert(
                    *op,
                    Sync::Dir {
                        path: path.clone(),
                        until: *op,
                    },
                );
            }
            Step::EndSync { op, is_ok } => match self.syncs.remove(op).expect("a sync ends once") {
                _ if !is_ok => {}
                Sync::File(ops) => self.settle(ops),
                Sync::Dir { path, until } => self.settle_names(&path, until),
            },
            Step::Names { op, change } => self.change_names(*op, change),
            Step::CreateDir { path } => self.create_dir(path),
            Step::Opened(inode) => self.opened(*inode),
            Step::Closed(inode) => self.closed(*inode),
            Step::Mark(_) => {}
        }
    }

    pub(super) fn push(&mut self, op: OpId, change: Change) {
        self.next_op = self.next_op.max(op.0);
        self.unsettled.push(Unsettled { op, change });
    }

    /// A write that completes moves behind all that completed before it: that is the order in which reads see them.
    fn end_write(&mut self, op: OpId, landed: &Landed) {
        let position = self
            .unsettled
            .iter()
            .rposition(|unsettled| unsettled.op == op)
            .expect("a write ends once");
        let Unsettled { change, .. } = self.unsettled.remove(position);
        let Change::Write {
            inode,
            first,
            blocks,
            durable,
            ..
        } = change
        else {
            unreachable!("{op:?} is a write")
        };
        match landed {
            Landed::Whole => {
                let file = self
                    .files
                    .get_mut(&inode)
                    .expect("a file lives as long as its writes");
                Arc::make_mut(&mut file.seen).put_all(first, &blocks);
                let end = first + blocks.len();
                let change = Change::Write {
                    inode,
                    first,
                    blocks,
                    durable,
                    is_complete: true,
                };
                self.unsettled.push(Unsettled { op, change });
                if durable {
                    let ops = self.complete_below(inode, first, end);
                    self.settle(ops);
                }
            }
            Landed::Nowhere => {}
            Landed::Elsewhere { inode, first } => {
                self.damage(*inode, |content| content.put_all(*first, &blocks));
            }
            Landed::Torn(fates) => {
                self.damage(inode, |content| content.put_sectors(first, &blocks, fates));
            }
        }
    }

    /// What must be durable with a durable write of `first..end` that has just completed (itself among it), lest a crash
    /// puts it over that write afterwards: older writes of these blocks through another handle, and changes of length.
    fn complete_below(&self, inode: InodeId, first: usize, end: usize) -> Vec<OpId> {
        let below = self.unsettled.iter().filter(|unsettled| match &unsettled.change {
            Change::SetLen { inode: of, .. } => *of == inode,
            Change::Write {
                inode: of,
                first: at,
                blocks,
                is_complete,
                ..
            } => *of == inode && *is_complete && *at < end && first < at + blocks.len(),
            Change::Names(_) => false,
        });
        below.map(|unsettled| unsettled.op).collect()
    }

    fn settle(&mut self, mut ops: Vec<OpId>) {
        ops.sort_unstable();
        let files = &mut self.files;
        self.unsettled.retain(|unsettled| {
            if ops.binary_search(&unsettled.op).is_err() {
                return true;
            }
            apply(&unsettled.change, Fate::Kept, |inode| {
                files.get_mut(&inode).map(|file| Arc::make_mut(&mut file.durable))
            });
            false
        });
    }

    /// What a crash now may undo, oldest first.
    pub(crate) fn unsettled(&self) -> &[Unsettled] {
        &self.unsettled
    }

    /// What is on the disk after a crash now, if each unsettled change has the fate that `fate` says.
    pub(crate) fn image<'f>(&self, mut fate: impl FnMut(usize, &Unsettled) -> Fate<'f>) -> DiskImage {
        let mut image = DiskImage {
            names: self.durable.clone(),
            files: self
                .files
                .iter()
                .map(|(id, file)| (*id, file.durable.clone()))
                .collect(),
        };
        for (i, unsettled) in self.unsettled.iter().enumerate() {
            let fate = fate(i, unsettled);
            if let (Change::Names(entries), Fate::Kept) = (&unsettled.change, &fate) {
                let names = Arc::make_mut(&mut image.names);
                for (path, to) in entries {
                    let _ = rename_one(names, path, *to);
                }
            }
            apply(&unsettled.change, fate, |inode| {
                image.files.get_mut(&inode).map(Arc::make_mut)
            });
        }
        image.drop_unreachable();
        image
    }

    /// Everything as programs see it, as an orderly end would leave it.
    pub(crate) fn image_seen(&self) -> DiskImage {
        let files = self
            .files
            .iter()
            .map(|(id, file)| (*id, file.seen.clone()))
            .collect();
        let mut image = DiskImage {
            names: self.seen.clone(),
            files,
        };
        image.drop_unreachable();
        image
    }
}

fn apply<'c>(change: &Change, fate: Fate<'_>, content: impl FnOnce(InodeId) -> Option<&'c mut Content>) {
    match (change, fate) {
        (Change::Names(_), _) | (_, Fate::Lost) => {}
        (
            Change::Write {
                inode, first, blocks, ..
            },
            fate,
        ) => {
            let Some(content) = content(*inode) else { return };
            match fate {
                Fate::Lost => {}
                Fate::Kept => content.put_all(*first, blocks),
                Fate::Torn(fates) => content.put_sectors(*first, blocks, fates),
            }
        }
        (Change::SetLen { inode, blocks }, Fate::Kept | Fate::Torn(_)) => {
            if let Some(content) = content(*inode) {
                content.blocks_resize(*blocks);
            }
        }
    }
}
