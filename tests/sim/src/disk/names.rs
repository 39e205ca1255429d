//! The names of a [`Store`]: looking, changing, settling.

use super::content::Content;
use super::store::{Change, File, InodeId, NameChange, Node, OpId, Store};
use env::DirEntry;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

/// The directory that a name is in; `""` is the root.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Store {
    pub(crate) fn list(&self, path: &str) -> Result<Vec<DirEntry>, ErrorKind> {
        match self.node(path) {
            Some(Node::Dir) => {}
            Some(Node::File(_)) => return Err(ErrorKind::NotADirectory),
            None => return Err(ErrorKind::NotFound),
        }
        let inside = self.seen.iter().filter(|(name, _)| parent(name) == path);
        let mut entries: Vec<_> = inside
            .map(|(name, node)| DirEntry {
                name: name.rsplit('/').next().unwrap_or(name).to_owned(),
                len: if let Node::File(inode) = node {
                    self.files[inode].seen.len()
                } else {
                    0
                },
                is_dir: *node == Node::Dir,
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    /// Why a change of names is refused, if it is. A step is only made of a change that passes.
    pub(crate) fn refusal(&self, change: &NameChange) -> Option<ErrorKind> {
        let home = |path: &str| match self.node(parent(path)) {
            Some(Node::Dir) => None,
            Some(Node::File(_)) => Some(ErrorKind::NotADirectory),
            None => Some(ErrorKind::NotFound),
        };
        match change {
            NameChange::Create { path } => match self.node(path) {
                Some(Node::Dir) => Some(ErrorKind::IsADirectory),
                Some(Node::File(_)) | None => home(path),
            },
            NameChange::Rename { from, to } => match (self.node(from), self.node(to)) {
                (None, _) => Some(ErrorKind::NotFound),
                (Some(Node::Dir), _) => Some(ErrorKind::Unsupported),
                (_, Some(Node::Dir)) => Some(ErrorKind::IsADirectory),
                (Some(Node::File(_)), Some(Node::File(_)) | None) => home(to),
            },
            NameChange::HardLink { from, to } => match (self.node(from), self.node(to)) {
                (None, _) => Some(ErrorKind::NotFound),
                (Some(Node::Dir), _) => Some(ErrorKind::PermissionDenied),
                (_, Some(_)) => Some(ErrorKind::AlreadyExists),
                (Some(Node::File(_)), None) => home(to),
            },
            NameChange::Remove { path } => match self.node(path) {
                None => Some(ErrorKind::NotFound),
                Some(Node::File(_)) => None,
                Some(Node::Dir) => {
                    let is_used = self.seen.keys().any(|name| parent(name) == &**path);
                    is_used.then_some(ErrorKind::DirectoryNotEmpty)
                }
            },
        }
    }

    pub(super) fn settle_names(&mut self, dir: &str, until: OpId) {
        let durable = Arc::make_mut(&mut self.durable);
        let mut replaced = Vec::new();
        self.unsettled.retain_mut(|unsettled| {
            let Change::Names(names) = &mut unsettled.change else {
                return true;
            };
            if unsettled.op > until {
                return true;
            }
            names.retain(|(path, to)| {
                let is_here = parent(path) == dir;
                if is_here {
                    replaced.extend(rename_one(durable, path, *to));
                }
                !is_here
            });
            !names.is_empty()
        });
        for inode in replaced {
            self.drop_unnamed(inode);
        }
    }

    pub(super) fn change_names(&mut self, op: OpId, change: &NameChange) {
        let entries = match change {
            NameChange::Create { path } => {
                let inode = InodeId(self.next_inode);
                self.next_inode += 1;
                let empty = Arc::<Content>::default();
                self.files.insert(
                    inode,
                    File {
                        seen: empty.clone(),
                        durable: empty,
                        handles: 0,
                    },
                );
                vec![(path.clone(), Some(Node::File(inode)))]
            }
            NameChange::Rename { from, to } if from == to => return,
            NameChange::Rename { from, to } => vec![(from.clone(), None), (to.clone(), self.node(from))],
            NameChange::HardLink { from, to } => vec![(to.clone(), self.node(from))],
            NameChange::Remove { path } => vec![(path.clone(), None)],
        };
        let seen = Arc::make_mut(&mut self.seen);
        for (path, to) in &entries {
            let _ = rename_one(seen, path, *to);
        }
        self.push(op, Change::Names(entries));
    }

    /// Durable at once, with its parents; what was unsettled about these names is settled by it.
    pub(super) fn create_dir(&mut self, path: &Arc<str>) {
        let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
        for name in ends.map(|end| &path[..end]) {
            for unsettled in &mut self.unsettled {
                if let Change::Names(names) = &mut unsettled.change {
                    names.retain(|(of, _)| &**of != name);
                }
            }
            for names in [&mut self.seen, &mut self.durable] {
                let _ = rename_one(Arc::make_mut(names), &Arc::from(name), Some(Node::Dir));
            }
        }
        self.unsettled
            .retain(|unsettled| !matches!(&unsettled.change, Change::Names(names) if names.is_empty()));
    }
}

/// Changes one name, and says which file had it.
pub(super) fn rename_one(
    names: &mut BTreeMap<Arc<str>, Node>,
    path: &Arc<str>,
    to: Option<Node>,
) -> Option<InodeId> {
    let before = match to {
        Some(node) => names.insert(path.clone(), node),
        None => names.remove(path),
    };
    match before {
        Some(Node::File(inode)) => Some(inode),
        Some(Node::Dir) | None => None,
    }
}
