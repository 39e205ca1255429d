//! Which version of the protocol between nodes counts: what nodes of a cluster may say to each other, and write, while some of them are
//! of an older build.
//!
//! ```text
//!   greetings ─► who speaks what ─► all nodes speak a later one ─► IDENTITY ─► every shard demands it ─► active
//!   greeting of a node where it is active ────────────────────────────┘
//! ```
//! A greeting says two versions: the newest that the node *speaks*, and the one that is *active* for it. The node that leads the first
//! range raises the active version when every node that it knows, and that was not removed, has said that it speaks it. From there it
//! spreads by greetings: whoever is greeted by a node for which a later one is active takes that over first, and listens then. What
//! came with a version is said and written only by nodes for which the version is active.
//!
//! Fault model: nodes crash, lose power and are cut off at any time, and are started again by any build, older ones too; nodes join with
//! any build. Files are not changed from outside.
//!
//! Invariants:
//! - The active version of a node never falls, also over restarts: it is durable before anything follows from it.
//! - A node says what came with a version only on connections whose greeting demands that version, on whatever shard it arose; and
//!   takes it only when it knows, durably, that the version is active. So nothing that a build does not know reaches it, by whatever way.
//! - A node that does not speak the active version is refused, and stops; no start of it with data where a later version is active.
//! - No node is refused that never spoke the active version, save for one of which the leader of the first range had not heard.
//!
//! Two steps on each node make the second one true. First all its shards end their connections and greet anew, demanding the version;
//! only when all have done so does any of them take or say what came with it. A shard that did so earlier could hand it to one that
//! still has a connection to a node which has gone back to an older build.
//!
//! Not there: a way back once a later version is active; builds that do not understand the first version.

use crate::identity::Identity;
use crate::message::{Answer, Ask, ShardMessage};
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::state::{Job, Message, State};
use base::{NodeId, ShardId};
use core::fmt;
use core::time::Duration;
use env::{Clock, Env, Mailbox};
use replica::command::{merge_of, spills};
use std::collections::{BTreeMap, BTreeSet};
use transport::ConnectionId;
use wire::peer::{
    ArchivedBody, ArchivedContent, ArchivedGroupMessage, ArchivedPlacingStep, ArchivedTodo,
    ArchivedTransferStep,
};
use wire::{Code, PeerRef};

/// How often the leader of the first range looks whether all nodes speak a later version.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A version of the protocol between nodes: of what they say to each other and what they write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u16);

impl Version {
    /// What every build speaks.
    pub const FIRST: Self = Self(1);
    /// Merges of ranges: their entries, messages and orders.
    pub const MERGES: Self = Self(2);
    /// Spilled intents of transactions: their entries, and the state of replicas that have any.
    pub const SPILLS: Self = Self(2);
    /// The newest that this build speaks.
    pub const NEWEST: Self = Self(2);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a greeting means to the one that is greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Both may go on.
    Fits,
    /// The other node does not speak what is active here.
    TooOld,
    /// This node does not speak what is active there.
    TooNew,
    /// What is active there is to be active here first.
    News,
}

/// What a node said that it speaks.
#[derive(Debug)]
struct Spoken<C> {
    /// On connections that are still there, the last one last.
    open: Vec<(C, Version)>,
    /// What counts: the last word of those that are still there, or of all when none is.
    last: Version,
}

/// What a shard knows of versions. Pure.
#[derive(Debug)]
pub(crate) struct Versions<C = ConnectionId> {
    speaks: Version,
    /// What this shard demands of others: before the version is active.
    demands: Version,
    active: Version,
    /// What other nodes said.
    spoken: BTreeMap<NodeId, Spoken<C>>,
    /// Shard 0: what is to be active.
    wanted: Version,
    is_raising: bool,
}

impl<C: Copy + Ord> Versions<C> {
    /// `active` is what the data directory says.
    pub(crate) fn new(speaks: Version, active: Version) -> Self {
        assert!(active <= speaks, "version {active} is active, {speaks} is spoken");
        Self {
            speaks,
            demands: active,
            active,
            spoken: BTreeMap::new(),
            wanted: active,
            is_raising: false,
        }
    }

    /// What is active.
    pub(crate) fn active(&self) -> Version {
        self.active
    }

    /// Judges the greeting of a node for which a version is active and that speaks another one.
    pub(crate) fn judge(&self, active: Version, speaks: Version) -> Greeting {
        if speaks < self.demands {
            Greeting::TooOld
        } else if active > self.speaks {
            Greeting::TooNew
        } else if active > self.active {
            Greeting::News
        } else {
            Greeting::Fits
        }
    }

    /// A node has greeted and was accepted.
    pub(crate) fn hear(&mut self, id: C, node: NodeId, speaks: Version) {
        let spoken = self.spoken.entry(node).or_insert(Spoken {
            open: Vec::new(),
            last: speaks,
        });
        spoken.open.push((id, speaks));
        spoken.last = speaks;
    }

    /// A connection is gone. What was said on it counts no more if the node has others: a node that was started again may be heard
    /// before its earlier life is, whose connections end.
    pub(crate) fn on_gone(&mut self, id: C) {
        for spoken in self.spoken.values_mut() {
            spoken.open.retain(|(open, _)| *open != id);
            if let Some((_, speaks)) = spoken.open.last() {
                spoken.last = *speaks;
            }
        }
    }

    /// What a node speaks, as far as this shard was told.
    pub(crate) fn spoken(&self, node: NodeId) -> Option<Version> {
        self.spoken.get(&node).map(|spoken| spoken.last)
    }

    /// The version that this node and all these speak, if it is later than what is active.
    fn agreed(&self, others: impl IntoIterator<Item = NodeId>) -> Option<Version> {
        let spoken = others.into_iter().map(|node| self.spoken(node));
        // One that has said nothing may speak nothing later than what is active.
        let least = spoken.map(|version| version.unwrap_or(Version::FIRST)).min();
        let agreed = least.unwrap_or(self.speaks).min(self.speaks);
        (agreed > self.active).then_some(agreed)
    }

    /// Takes up a version that is to be active, if it is news.
    fn want(&mut self, version: Version) -> bool {
        let is_news = version > self.wanted && version <= self.speaks;
        if is_news {
            self.wanted = version;
        }
        is_news
    }

    /// The version to be made active now, if there is one and none is on its way.
    fn begin(&mut self) -> Option<Version> {
        let begins = self.wanted > self.active && !self.is_raising;
        self.is_raising |= begins;
        begins.then_some(self.wanted)
    }

    /// Demands a version from now on; the connections whose nodes do not speak it.
    fn demand(&mut self, version: Version) -> Vec<C> {
        assert!(
            version <= self.speaks,
            "version {version}, {} is spoken",
            self.speaks
        );
        self.demands = self.demands.max(version);
        let open = self.spoken.values().flat_map(|spoken| &spoken.open);
        let older = open.filter(|(_, speaks)| *speaks < version);
        older.map(|(id, _)| *id).collect()
    }

    fn activate(&mut self, version: Version) {
        assert!(
            version <= self.demands,
            "version {version}, {} is demanded",
            self.demands
        );
        self.active = self.active.max(version);
        self.is_raising = false;
    }
}

/// The version that an entry of a log came with.
fn entry_came_with(content: &ArchivedContent<'_>) -> Version {
    match content {
        ArchivedContent::Command { payload } if merge_of(payload).is_some() => Version::MERGES,
        ArchivedContent::Command { payload } if spills(payload) => Version::SPILLS,
        _ => Version::FIRST,
    }
}

/// The version that a message came with.
fn came_with(message: &PeerRef<'_>) -> Version {
    let is_of_merge = match message {
        PeerRef::Train(train) => {
            let newest = |message: &ArchivedGroupMessage<'_>| match &message.body {
                ArchivedBody::Append { entries, .. } => {
                    entries.iter().map(|entry| entry_came_with(&entry.content)).max()
                }
                _ => None,
            };
            return train
                .messages
                .iter()
                .filter_map(newest)
                .max()
                .unwrap_or(Version::FIRST);
        }
        PeerRef::Transfer(transfer) => matches!(
            transfer.step,
            ArchivedTransferStep::Yield
                | ArchivedTransferStep::Gather { .. }
                | ArchivedTransferStep::Gathered { .. }
                | ArchivedTransferStep::AskFate { .. }
                | ArchivedTransferStep::Refused { .. }
        ),
        PeerRef::Placing(placing) => match &placing.step {
            ArchivedPlacingStep::Order { todo, .. } => matches!(todo, ArchivedTodo::Merge { .. }),
            ArchivedPlacingStep::Survey { .. }
            | ArchivedPlacingStep::Report { .. }
            | ArchivedPlacingStep::Words { .. } => false,
        },
        PeerRef::PeerHello(_) | PeerRef::Roster(_) | PeerRef::Closed(_) | PeerRef::Newest(_) => false,
    };
    if is_of_merge {
        Version::MERGES
    } else {
        Version::FIRST
    }
}

/// What a node says whose build does not speak what is active.
pub(crate) fn words_for_old(speaks: Version) -> String {
    format!(
        "a later version of the protocol between nodes is active in the cluster than version {speaks}, the last one that this build speaks: \
         start the node with a newer build; its data is as it was"
    )
}

impl<E: Env, B> State<E, B> {
    /// What a node said last that it speaks, for the status: shard 0 knows.
    pub(crate) fn spoken_by(&self, node: NodeId) -> Option<u16> {
        let spoken = (self.me == ShardId(0)).then(|| self.versions.spoken(node));
        spoken.flatten().map(|version| version.0)
    }

    /// Whether what came with a version may be said and written.
    pub(crate) fn may_use(&self, version: Version) -> bool {
        let spoken = self.config.speaks >= version;
        self.versions.active() >= version || spoken && base::planted_bug!("node-speaks-before-active")
    }

    /// Refuses what takes a version that is not active yet.
    ///
    /// # Errors
    /// It is not active.
    pub(crate) fn require(&self, version: Version, what: &str) -> Result<(), Refusal> {
        if self.may_use(version) {
            return Ok(());
        }
        base::sometimes!("node: what takes a later version was refused");
        let active = self.versions.active();
        let message = format!(
            "{what} version {version} of the protocol between nodes, and version {active} is active: it rises by itself when all nodes \
             of the cluster run a build that speaks it"
        );
        Err(Refusal::retry(Code::VersionInactive, 500, message))
    }

    /// Why a node is refused for which a version is active, and that speaks another one; `None` when it is not for that.
    pub(crate) fn unfit(&self, from: NodeId, active: Version, speaks: Version) -> Option<(Code, String)> {
        let me = self.identity.node;
        match self.versions.judge(active, speaks) {
            Greeting::Fits | Greeting::News => None,
            Greeting::TooOld => Some((
                Code::BuildTooOld,
                format!(
                    "{from} speaks versions of the protocol between nodes up to {speaks}, and a later one is active: start it with the \
                     build that {me} runs"
                ),
            )),
            Greeting::TooNew => Some((
                Code::VersionUnsupported,
                format!(
                    "{me} speaks versions of the protocol between nodes up to {}, and version {active} is active for {from}: start {me} \
                     with the build that {from} runs",
                    self.config.speaks
                ),
            )),
        }
    }

    /// Whether a message is one that this node's build knows: an older one would not have understood it, and neither does a node that is
    /// told to be as one. It stops, since what it lacks it would lack for ever.
    pub(crate) fn knows(&mut self, message: &PeerRef<'_>) -> bool {
        let speaks = self.config.speaks;
        if speaks == Version::NEWEST {
            return true;
        }
        let version = came_with(message);
        if version > speaks {
            self.failed.get_or_insert(format!(
                "another node says what came with version {version} of the protocol, and this build speaks version {speaks}"
            ));
        }
        version <= speaks
    }

    /// A version is active for another node.
    pub(crate) fn on_version(&mut self, version: Version) {
        if self.me != ShardId(0) {
            self.send(ShardId(0), ShardMessage::Version(version));
        } else if self.versions.want(version) {
            base::sometimes!("node: heard from another node that a later version is active");
            self.jobs.push(Job::Version);
        }
    }

    /// Raises the active version when all nodes speak a later one; called where the first range is led.
    fn raise_version(&mut self) {
        let Some(neighbours) = &self.neighbours else {
            return;
        };
        let me = self.identity.node;
        let met = neighbours.births.keys().copied();
        let known: BTreeSet<NodeId> = neighbours.others().map(|member| member.node).chain(met).collect();
        let counts = |node: &NodeId| {
            let answers = neighbours
                .support(replica::group::replica_on(*node, 0))
                .given
                .is_some();
            *node != me
                && !neighbours.is_removed(*node)
                && (answers || !base::planted_bug!("node-version-asks-who-answers"))
        };
        let agreed = self.versions.agreed(known.into_iter().filter(counts));
        if let Some(version) = agreed
            && self.versions.want(version)
        {
            base::sometimes!("node: all nodes speak a later version");
            self.jobs.push(Job::Version);
        }
    }

    /// Demands a version of other nodes: connections of those that do not speak it end, and all others are greeted anew.
    pub(crate) fn demand_version(&mut self, version: Version) {
        let older = self.versions.demand(version);
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        if !base::planted_bug!("node-goes-on-as-greeted") {
            neighbours.links.greet_anew(version.0);
        }
        for id in older {
            base::sometimes!("node: a connection of an older build ends");
            neighbours.callers.remove(&id);
            self.transport.close(id);
        }
    }

    /// All shards of this node demand the version.
    pub(crate) fn activate_version(&mut self, version: Version) {
        self.versions.activate(version);
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Shard 0: looks whether all nodes speak a later version, where the first range is led, until the newest one is active.
    pub(crate) async fn run_versions(self: std::rc::Rc<Self>) {
        let speaks = self.with_state(|state| state.config.speaks);
        while self.with_state(|state| state.versions.active()) < speaks {
            self.env.clock().sleep(LOOK_AGAIN).await;
            if self.leads_first().await.is_some() {
                self.step(State::raise_version);
            }
        }
    }

    /// Makes a version active on this node. One at a time: a later one that is heard of meanwhile follows. Order: it is durable before
    /// anybody hears of it, and every shard demands it before any says or takes what came with it.
    pub(crate) async fn store_version(&self) {
        while let Some(version) = self.with_state(|state| state.versions.begin()) {
            let identity = self.with_state(|state| Identity {
                shards: state.shards,
                active: version,
                ..state.identity
            });
            if !base::planted_bug!("node-active-version-not-kept")
                && let Err(error) = identity.write(&self.env).await
            {
                return self.fail(format!("the active version could not be written: {error}"));
            }
            self.step(|state| state.demand_version(version));
            let asked: Vec<_> = (1..self.mailbox.shards())
                .map(|shard| self.step(|state| state.ask(ShardId(shard), Ask::Demand(version))))
                .collect();
            for answer in asked {
                match answer.await {
                    Some(Answer::Demand) => {}
                    // The node is stopping.
                    Some(_) | None => return,
                }
            }
            base::sometimes!("node: a later version is active");
            self.step(|state| {
                state.activate_version(version);
                for shard in (1..state.shards).map(ShardId) {
                    state.send(shard, ShardMessage::Active(version));
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
