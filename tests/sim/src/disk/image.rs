//! A disk at rest.

use super::content::{Content, SECTOR_BYTES};
use super::store::{InodeId, Node};
use base::limits::BLOCK_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The content of all files of a disk, as a machine finds it when it starts. Cheap to clone: bytes are shared until changed.
///
/// Tests change it like a failing medium would: [`DiskImage::flip_bit`], [`DiskImage::zero_block`],
/// [`DiskImage::swap_blocks`], [`DiskImage::copy_block`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskImage {
    pub(crate) names: Arc<BTreeMap<Arc<str>, Node>>,
    pub(crate) files: BTreeMap<InodeId, Arc<Content>>,
}

impl DiskImage {
    /// An empty data directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The names of all files, sorted.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .filter(|(_, node)| matches!(node, Node::File(_)))
            .map(|(name, _)| &**name)
    }

    /// The length of a file in bytes, if there is such a file.
    #[must_use]
    pub fn len_of(&self, path: &str) -> Option<u64> {
        Some(self.files[&self.inode(path)?].len())
    }

    /// The bytes of a file, if there is such a file.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let content = &self.files[&self.inode(path)?];
        let mut bytes = vec![0; content.block_count() * BLOCK_BYTES];
        content.read(0, &mut bytes);
        Some(bytes)
    }

    /// Changes bytes as a script of any content says, which a fuzzer writes: file (1 byte, counted round), offset (3 bytes,
    /// counted round), length (1 byte, of which 4 bits count), the bytes; again and again.
    pub fn patch(&mut self, mut script: &[u8]) {
        let names: Vec<String> = self.files().map(str::to_owned).collect();
        while let Some((&[file, a, b, c, len], rest)) = script.split_first_chunk()
            && let Some(name) = names.get(usize::from(file) % names.len().max(1))
        {
            let (bytes, rest) = rest.split_at(rest.len().min(usize::from(len % 16) + 1));
            script = rest;
            let Some(mut content) = self.read(name) else {
                return;
            };
            let offset = u32::from_le_bytes([a, b, c, 0]) as usize % content.len().max(1);
            for (to, from) in content[offset..].iter_mut().zip(bytes) {
                *to = *from;
            }
            self.write(name, &content);
        }
    }

    /// Puts a file there, with the directories above it, padded with zeros to a whole block.
    pub fn write(&mut self, path: &str, bytes: &[u8]) {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let mut content = Content::default();
        content.put_all(0, &super::content::blocks_of(&padded));
        let inode = InodeId(self.files.last_key_value().map_or(0, |(id, _)| id.0 + 1));
        self.files.insert(inode, Arc::new(content));
        let names = Arc::make_mut(&mut self.names);
        for (end, _) in path.match_indices('/') {
            names.insert(Arc::from(&path[..end]), Node::Dir);
        }
        names.insert(Arc::from(path), Node::File(inode));
        self.drop_unreachable();
    }

    /// Takes a file away.
    pub fn remove(&mut self, path: &str) {
        Arc::make_mut(&mut self.names).remove(path);
        self.drop_unreachable();
    }

    /// Flips one bit of a file, counted from the lowest bit of its first byte.
    ///
    /// # Panics
    /// When there is no such file or it is shorter than that.
    pub fn flip_bit(&mut self, path: &str, bit: u64) {
        let block_bits = BLOCK_BYTES as u64 * 8;
        let within = usize::try_from(bit % block_bits).expect("below a block's bits");
        self.content(path).edit(index(bit / block_bits), |block| {
            block[within / 8] ^= 1 << (within % 8);
        });
    }

    /// Fills one 4 KiB block of a file with zeros.
    ///
    /// # Panics
    /// When there is no such file or it is shorter than that.
    pub fn zero_block(&mut self, path: &str, block: u64) {
        self.content(path).edit(index(block), |bytes| bytes.fill(0));
    }

    /// Fills one 512-byte sector of a file with zeros.
    ///
    /// # Panics
    /// When there is no such file or it is shorter than that.
    pub fn zero_sector(&mut self, path: &str, sector: u64) {
        let sectors = (BLOCK_BYTES / SECTOR_BYTES) as u64;
        let start = index(sector % sectors) * SECTOR_BYTES;
        self.content(path).edit(index(sector / sectors), |bytes| {
            bytes[start..start + SECTOR_BYTES].fill(0);
        });
    }

    /// Exchanges two 4 KiB blocks of a file: what two misdirected writes leave behind.
    ///
    /// # Panics
    /// When there is no such file or it is shorter than that.
    pub fn swap_blocks(&mut self, path: &str, a: u64, b: u64) {
        let content = self.content(path);
        let (from_a, from_b) = (content.block(index(a)), content.block(index(b)));
        content.put(index(a), from_b);
        content.put(index(b), from_a);
    }

    /// Puts a 4 KiB block of `source` (this image at another time, or another file of it) over one of this image: a
    /// misdirected write, or with an older image and the same place a lost or stale one.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn copy_block(&mut self, source: &Self, from: (&str, u64), to: (&str, u64)) {
        let inode = source
            .inode(from.0)
            .unwrap_or_else(|| panic!("no file {}", from.0));
        let block = source.files[&inode].block(index(from.1));
        self.content(to.0).put(index(to.1), block);
    }

    fn inode(&self, path: &str) -> Option<InodeId> {
        match self.names.get(path)? {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }
    }

    fn content(&mut self, path: &str) -> &mut Content {
        let inode = self.inode(path).unwrap_or_else(|| panic!("no file {path}"));
        Arc::make_mut(self.files.get_mut(&inode).expect("a named file exists"))
    }

    /// Drops names in directories that are gone, and files without a name.
    pub(crate) fn drop_unreachable(&mut self) {
        let is_orphan = |names: &BTreeMap<Arc<str>, Node>, name: &str| {
            name.match_indices('/')
                .any(|(end, _)| names.get(&name[..end]) != Some(&Node::Dir))
        };
        if self.names.keys().any(|name| is_orphan(&self.names, name)) {
            let names = Arc::make_mut(&mut self.names);
            let orphans: Vec<_> = names
                .keys()
                .filter(|name| is_orphan(names, name))
                .cloned()
                .collect();
            for name in orphans {
                names.remove(&name);
            }
        }
        let reachable: BTreeSet<InodeId> = self
            .names
            .values()
            .filter_map(|node| match node {
                Node::File(inode) => Some(*inode),
                Node::Dir => None,
            })
            .collect();
        self.files.retain(|inode, _| reachable.contains(inode));
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("simulated files fit in memory")
}
