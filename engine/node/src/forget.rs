//! Nodes that were removed from the cluster: they are not spoken to, and not listened to.
//!
//! What was removed stays so: the file `STANDINGS` of every node says it, see `placer::words`. It counts more than the list that a
//! node was started with, and than what others say.

use crate::message::ShardMessage;
use crate::neighbours::Neighbours;
use crate::state::{Job, State};
use crate::version::words_for_old;
use base::{NodeId, ShardId};
use core::mem;
use env::{Clock, Env};
use liveness::Peer;
use std::collections::BTreeSet;
use wire::Code;

impl<E: Env> Neighbours<E> {
    /// Whether a node was removed from the cluster.
    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// Lets go of nodes that were removed.
    fn drop_nodes(&mut self, removed: &BTreeSet<NodeId>, now_ns: u64) {
        self.nodes.retain(|member| !removed.contains(&member.node));
        for node in removed {
            self.links.set_address(*node, None);
            if let Some(detector) = &mut self.detector {
                let shard = ShardId(0);
                detector.liveness.remove_peer(Peer { node: *node, shard }, now_ns);
            }
        }
    }
}

/// What a node says that was removed from its cluster.
pub(crate) fn words_for(node: NodeId) -> String {
    format!(
        "{node} was removed from the cluster, and its number is not used again: start it with an empty data directory, another number, \
         and --join"
    )
}

impl<E: Env, B> State<E, B> {
    /// Forgets all nodes that were removed from the cluster. This one stops when it is among them.
    pub(crate) fn forget_nodes(&mut self, removed: &BTreeSet<NodeId>) {
        let (me, now_ns) = (self.identity.node, self.env.clock().wall_ns());
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        if neighbours.removed.is_superset(removed) {
            return;
        }
        base::sometimes!("node: a node was removed from the cluster");
        neighbours.removed.extend(removed);
        if neighbours.removed.contains(&me) {
            self.failed.get_or_insert(words_for(me));
            return;
        }
        neighbours.drop_nodes(removed, now_ns);
        let callers = mem::take(&mut neighbours.callers);
        for (id, caller) in callers {
            if removed.contains(&caller.node) {
                self.transport.close(id);
            } else {
                neighbours.callers.insert(id, caller);
            }
        }
        if self.me == ShardId(0) {
            self.detect();
            self.jobs.push(Job::Roster);
            for shard in (1..self.shards).map(ShardId) {
                self.send(shard, ShardMessage::Forgotten(removed.clone()));
            }
        }
    }

    /// Stops this node when another one refuses it for good: because it was removed, has another data directory, or is of a build that is
    /// too old.
    pub(crate) fn heed_refusal(&mut self) {
        let me = self.identity.node;
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        match neighbours.links.unwelcome() {
            None => {}
            Some(Code::DirectoryReplaced) => self.unwelcome(),
            Some(Code::BuildTooOld) => {
                base::sometimes!("node: a node of an older build is refused");
                self.is_outdated = true;
                self.failed.get_or_insert(words_for_old(self.config.speaks));
            }
            Some(_) => {
                base::sometimes!("node: a node that was removed has come back");
                neighbours.removed.insert(me);
                self.failed.get_or_insert(words_for(me));
            }
        }
    }

    /// Whether this node was removed from its cluster.
    pub(crate) fn is_removed(&self) -> bool {
        let neighbours = self.neighbours.as_ref();
        neighbours.is_some_and(|neighbours| neighbours.is_removed(self.identity.node))
    }
}
