//! Blocks that a disk does not give any more: reads of them fail, until they are written again or their file goes.
//!
//! A file is known by its name: another name of the same file reads well. A crash heals nothing.

use super::request::Request;
use super::store::NameChange;
use base::limits::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The blocks, by file.
#[derive(Debug, Default)]
pub(super) struct Spoiled(Vec<(String, u64)>);

impl Spoiled {
    pub(super) fn add(&mut self, path: &str, block: u64) {
        self.0.push((path.to_owned(), block));
    }

    /// Whether a read fails.
    pub(super) fn covers(&self, path: &str, offset: u64, len: usize) -> bool {
        let blocks = offset / BLOCK..(offset + len as u64).div_ceil(BLOCK);
        self.0
            .iter()
            .any(|(file, block)| file == path && blocks.contains(block))
    }

    /// What a request that does not fail does to them.
    pub(super) fn on_request(&mut self, path: &str, request: &Request) {
        if self.0.is_empty() {
            return;
        }
        match request {
            Request::Write { offset, blocks, .. } => {
                let written = offset / BLOCK..offset / BLOCK + blocks.len() as u64;
                self.0
                    .retain(|(file, block)| file != path || !written.contains(block));
            }
            Request::Create => self.forget(path),
            Request::Names(NameChange::Create { path } | NameChange::Remove { path }) => self.forget(path),
            Request::Names(NameChange::Rename { from, to }) => {
                self.forget(to);
                for (file, _) in self.0.iter_mut().filter(|(file, _)| **file == **from) {
                    to.as_ref().clone_into(file);
                }
            }
            Request::Names(NameChange::HardLink { .. })
            | Request::Open
            | Request::CreateDir
            | Request::SyncDir
            | Request::List
            | Request::Space
            | Request::Read { .. }
            | Request::Sync { .. }
            | Request::Len { .. }
            | Request::SetLen { .. } => {}
        }
    }

    fn forget(&mut self, path: &str) {
        self.0.retain(|(file, _)| file != path);
    }
}
