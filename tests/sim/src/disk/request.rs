//! What programs ask of a disk, and what they get.

use super::buf::SimBuf;
use super::content::Block;
use super::store::{InodeId, NameChange};
use env::{DirEntry, DiskOp};
use std::sync::Arc;

/// An operation as a program asks for it.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Open,
    Create,
    Names(NameChange),
    CreateDir,
    SyncDir,
    List,
    Space,
    Read {
        inode: InodeId,
        offset: u64,
        len: usize,
    },
    Write {
        inode: InodeId,
        offset: u64,
        blocks: Arc<[Block]>,
        durable: bool,
        checksum: u32,
    },
    Sync {
        inode: InodeId,
    },
    Len {
        inode: InodeId,
    },
    SetLen {
        inode: InodeId,
        len: u64,
    },
}

/// What a program gets for it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    /// Opened; the handle counts until it is closed.
    File(InodeId),
    Bytes(SimBuf),
    Entries(Vec<DirEntry>),
    Number(u64),
}

impl Request {
    pub(crate) fn op(&self) -> DiskOp {
        match self {
            Self::Open => DiskOp::Open,
            Self::Create | Self::Names(NameChange::Create { .. }) => DiskOp::Create,
            Self::Names(NameChange::Rename { .. }) => DiskOp::Rename,
            Self::Names(NameChange::HardLink { .. }) => DiskOp::HardLink,
            Self::Names(NameChange::Remove { .. }) => DiskOp::Remove,
            Self::CreateDir => DiskOp::CreateDir,
            Self::SyncDir => DiskOp::SyncDir,
            Self::List => DiskOp::List,
            Self::Space => DiskOp::Space,
            Self::Read { .. } => DiskOp::Read,
            Self::Write { .. } => DiskOp::Write,
            Self::Sync { .. } => DiskOp::Sync,
            Self::Len { .. } => DiskOp::Open,
            Self::SetLen { .. } => DiskOp::SetLen,
        }
    }

    pub(super) fn offset(&self) -> Option<u64> {
        match self {
            Self::Read { offset, .. } | Self::Write { offset, .. } => Some(*offset),
            Self::Open
            | Self::Create
            | Self::Names(_)
            | Self::CreateDir
            | Self::SyncDir
            | Self::List
            | Self::Space
            | Self::Sync { .. }
            | Self::Len { .. }
            | Self::SetLen { .. } => None,
        }
    }

    /// In one number, for the trace.
    pub(super) fn fingerprint(&self) -> u64 {
        let (inode, at, extra) = match self {
            Self::Read { inode, offset, len } => (inode.0, *offset, *len as u64),
            Self::Write {
                inode,
                offset,
                checksum,
                ..
            } => (inode.0, *offset, u64::from(*checksum)),
            Self::Sync { inode } | Self::Len { inode } => (inode.0, 0, 0),
            Self::SetLen { inode, len } => (inode.0, *len, 0),
            Self::Open
            | Self::Create
            | Self::Names(_)
            | Self::CreateDir
            | Self::SyncDir
            | Self::List
            | Self::Space => (0, 0, 0),
        };
        (self.op() as u64) ^ inode.rotate_left(8) ^ at.rotate_left(20) ^ extra.rotate_left(32)
    }
}
