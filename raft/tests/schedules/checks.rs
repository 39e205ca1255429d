//! Checks of the schedules that need more than one look.

use super::World;
use base::{Index, ReplicaId};
use corelane_raft::Entry;
use std::collections::BTreeMap;

impl World {
    /// A new leader has everything that is committed: leader completeness.
    pub(super) fn check_completeness(&self, id: ReplicaId) {
        let node = &self.nodes[&id].node;
        let mut start = node.disk.snapshot.last.index;
        let mut log: BTreeMap<Index, &Entry> = BTreeMap::new();
        log.extend(node.disk.entries.iter().map(|entry| (entry.index, entry)));
        for (_, write) in &node.writes {
            if let Some(snapshot) = &write.snapshot {
                start = snapshot.last.index;
                log.clear();
            }
            // They take the place of what was at their first index and after it.
            if let Some(first) = write.entries.first() {
                log.split_off(&first.index);
            }
            log.extend(write.entries.iter().map(|entry| (entry.index, entry)));
        }
        for (index, entry) in self.committed.range(start.next()..) {
            let has = log
                .get(index)
                .is_some_and(|found| found.mark() == entry.mark() && found.chain == entry.chain);
            assert!(has, "{id} leads without {index} of what is committed");
        }
    }

    /// An idle replica hibernates and wakes: nothing comes of it.
    pub(super) fn nap(&mut self, id: ReplicaId) {
        let leased = self.is_leased(id);
        let raft = &mut self.nodes.get_mut(&id).unwrap().node.raft;
        let Some(awake) = raft.take_if(|raft| raft.is_idle()) else {
            return;
        };
        let expiry = |peer, epoch| {
            let promise = self.promises.get(&(peer, id))?;
            let (known, until) = promise.known?;
            (known == epoch).then_some(until)
        };
        let until = awake.lease_until(expiry);
        let state = (
            awake.leader(),
            awake.last(),
            awake.last_chain(),
            awake.commit_index(),
        );
        let asleep = awake.hibernate();
        assert_eq!((asleep.lease_until(expiry), asleep.leader()), (until, state.0));
        let woken = raft.insert(asleep.wake());
        woken.assert_invariants();
        assert_eq!(
            (
                woken.leader(),
                woken.last(),
                woken.last_chain(),
                woken.commit_index()
            ),
            state
        );
        assert_eq!(
            self.is_leased(id),
            leased,
            "{id} lost or won a lease in its sleep"
        );
        self.seen.naps += 1;
    }
}
