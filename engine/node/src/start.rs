//! From a data directory to a running shard.
//!
//! ```text
//!  shard 0: IDENTITY ──► all shards
//!  each:    markers ─► open tablets ─► replay log ─► complete splits ─► report ranges and clock ──► shard 0
//!  shard 0: check that the ranges cover the key space (or make the first one) ──► map and clock ──► all shards
//!  each:    make a clock bound durable, listen, run
//! ```
//!
//! When the node has fewer shards than at its last start, shard `i` also takes the directories of shards `i + n`, `i + 2n`,
//! …: it replays their logs, flushes their ranges, takes their markers, and removes their logs.

use crate::ailing;
use crate::births::{self, BirthsError};
use crate::claims::latest;
use crate::config::NodeConfig;
use crate::contention::Contention;
use crate::damage::Injured;
use crate::forget::words_for;
use crate::gauge::Gauge;
use crate::identity::{Identity, IdentityError};
use crate::incarnation::{self, IncarnationError};
use crate::local::{Groups, Local, Stranger};
use crate::marker;
use crate::merge::Merges;
use crate::message::{Assembled, Recovered, ShardMessage};
use crate::neighbours::{Detector, Neighbours, Word};
use crate::outlook::Pulses;
use crate::placer::Placer;
use crate::placer::standing;
use crate::placer::words::{Words, WordsError};
use crate::range_map::{RangeEntry, RangeMap};
use crate::recover::{Found, RecoverError, Replayed, recover_dir, retire_dir, sweep_graves};
use crate::replicate::Batch;
use crate::roster::{self, RosterError, address_to_bytes};
use crate::shard::{Front, FrontShard, Shard};
use crate::state::{Counts, Message, Slot, State};
use crate::version::{Version, Versions, words_for_old};
use base::collections::FastMap;
use base::key::Span;
use base::{Hlc, NodeId, RangeId, ShardId, Timestamp};
use core::cell::OnceCell;
use core::future::Future;
use core::task::Poll;
use env::{Clock, Disk, Env, Listener, Mailbox, Net, TaskClass, Tasks};
use liveness::Liveness;
use replica::Replica;
use replica::group::replica_on;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use storage::{Shared, StorageError, Tablet};
use transport::{PeerConfig, Peers, Transport, TransportConfig};

/// Of the memory for tables, leaders of a shard may have as much again as this part of it for what followers lack.
const CACHE_PART: usize = 4;
/// The first range of a new node.
const FIRST_RANGE: RangeId = RangeId(2);

/// Why a shard did not start, or stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The identity could not be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The other nodes could not be read.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// What was said of nodes and keys could not be read.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// Which data directories other nodes have could not be read.
    #[error(transparent)]
    Births(#[from] BirthsError),
    /// Other nodes know this one with another data directory.
    #[error("{}", births::words_for(*.0))]
    Replaced(NodeId),
    /// The node was removed from its cluster.
    #[error("{}", words_for(*.0))]
    Removed(NodeId),
    /// A version is active in the cluster that the node, which speaks up to this one, does not speak.
    #[error("{}", words_for_old(*.0))]
    Outdated(Version),
    /// What the shard promised other nodes is not known.
    #[error(transparent)]
    Incarnation(#[from] IncarnationError),
    /// The data could not be recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The ranges found do not make a key space.
    #[error("{0}; a range's tablet or marker is missing from the data directory")]
    Map(#[from] crate::range_map::BrokenMap),
    /// The address could not be listened at.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address.
        address: env::Address,
        /// What the system said.
        error: env::NetError,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Config(String),
    /// Something that must not fail has failed while running: the node stops rather than lose data.
    #[error("stopped: {0}")]
    Failed(String),
}

impl From<StorageError> for NodeError {
    fn from(error: StorageError) -> Self {
        Self::Recover(error.into())
    }
}

impl From<env::DiskError> for NodeError {
    fn from(error: env::DiskError) -> Self {
        Self::Recover(error.into())
    }
}

impl From<log::LogError> for NodeError {
    fn from(error: log::LogError) -> Self {
        Self::Recover(error.into())
    }
}

/// What a shard says when clients can connect to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Which shard it is.
    pub shard: ShardId,
    /// Where.
    pub address: env::Address,
    /// What its start read from the log.
    pub replayed: Replayed,
}

/// Runs one shard of a node: recovers, serves until `stop` completes, then seals the log.
///
/// `ready` is called once, when clients can connect to this shard.
///
/// # Errors
/// [`NodeError`] when the shard cannot start, or when it stops because its disk failed. The other shards must stop too.
///
/// # Cancellation
/// Dropping the future is a crash: what was acknowledged is recovered at the next start.
pub async fn run_shard<E: Env, B: Mailbox<Message<E>>>(
    env: E,
    mailbox: B,
    config: NodeConfig,
    ready: impl FnOnce(Ready),
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let mut stop = core::pin::pin!(stop);
    // Another shard that fails to start never says what this one waits for: `stop` ends the wait.
    match race(start_up(env, mailbox, config, ready), stop.as_mut()).await {
        First::Left(shard) => serve_until(&shard?, stop).await,
        First::Right(()) => Ok(()),
    }
}

/// Which of two futures completed first.
pub(crate) enum First<A, B> {
    Left(A),
    Right(B),
}

pub(crate) async fn race<A, B>(left: impl Future<Output = A>, right: impl Future<Output = B>) -> First<A, B> {
    let mut left = core::pin::pin!(left);
    let mut right = core::pin::pin!(right);
    core::future::poll_fn(|context| {
        if let Poll::Ready(done) = left.as_mut().poll(context) {
            return Poll::Ready(First::Left(done));
        }
        right.as_mut().poll(context).map(First::Right)
    })
    .await
}

/// Recovers this shard, and starts its tasks and its listener.
async fn start_up<E: Env, B: Mailbox<Message<E>>>(
    env: E,
    mailbox: B,
    config: NodeConfig,
    ready: impl FnOnce(Ready),
) -> Result<Rc<Shard<E, B>>, NodeError> {
    let me = mailbox.shard();
    if let Some(cluster) = &config.cluster {
        cluster.check().map_err(NodeError::Config)?;
    }
    let identity = share_identity(&env, &mailbox, &config).await?;
    let config = Rc::new(config);
    let storage = Shared::new(env.clone(), config.storage.clone());

    let groups = Groups::new(env.prng(), config.storage.memory_bytes_max / CACHE_PART);
    let mut found = recover_dir(&env, &storage, &config, &groups, me).await?;
    let shards = mailbox.shards();
    let mut old = me.0 + shards;
    while old < identity.shards {
        retire_dir(&env, &storage, &config, ShardId(old), me, &mut found).await?;
        old += shards;
    }

    let mut listener = None;
    if me == ShardId(0) {
        listener = Some(listen(&env, config.listen)?);
    }
    let address = listener.as_ref().map(Listener::address);
    let first = match config.cluster.as_deref() {
        None => Some(replica::Group::alone()),
        Some(cluster) => cluster
            .is_founder()
            .then(|| replica::Group::first(replica_on(cluster.me, 0), cluster.first_members(), 0)),
    };
    let (assembled, early) = assemble(&env, &mailbox, &storage, identity, first, &mut found, address).await?;
    drop_twins(&env, me, &assembled.map, &mut found).await?;
    found.keep_promises(&assembled.promises);
    found.forget_strays(me, &assembled.map);
    let injuries = &mut found.injuries;
    injuries
        .forget_others(&env, me, &assembled.map, &assembled.held)
        .await?;

    let front = Rc::new(Front {
        shard: OnceCell::new(),
        mailbox: core::marker::PhantomData,
    });
    let transport_config = TransportConfig {
        connections_max: config.connections_max,
        frame_timeout: config.frame_timeout,
        hello_timeout: config.frame_timeout,
        requests_max: config.requests_max as usize,
        ..TransportConfig::default()
    };
    let transport = Transport::new(env.clone(), transport_config, front.clone())
        .map_err(|error| NodeError::Config(error.to_string()))?;
    let neighbours = meet_neighbours(&env, &config, identity, (me, shards)).await?;
    let mut state = make_state(
        &env,
        &mailbox,
        &config,
        identity,
        &storage,
        transport.clone(),
        found,
        &assembled,
        neighbours,
    );
    if let Some(placer) = state.placer.as_mut().filter(|_| me == ShardId(0)) {
        placer.words = Words::load(&env).await?;
    }
    // A start on a full disk takes no put before it knows.
    if let Ok(free_bytes) = env.disk().space_free().await {
        state.gauge.measure(env.clock().now(), free_bytes);
    }
    let shard = Shard::new(env.clone(), mailbox, state);
    let spawn =
        |class, future: core::pin::Pin<Box<dyn Future<Output = ()>>>| env.tasks().spawn(class, future);
    spawn(TaskClass::Foreground, Box::pin(shard.clone().run_log()));
    spawn(TaskClass::Foreground, Box::pin(shard.clone().run_turns()));
    spawn(TaskClass::Background, Box::pin(shard.clone().run_maintenance()));
    spawn(TaskClass::Background, Box::pin(shard.clone().run_flushes()));
    spawn(TaskClass::Background, Box::pin(shard.clone().run_merges()));
    spawn(TaskClass::Background, Box::pin(shard.clone().run_scrub()));
    spawn(TaskClass::Foreground, Box::pin(shard.clone().run_gauge()));
    spawn(TaskClass::Background, Box::pin(shard.clone().run_space()));
    spawn(TaskClass::Foreground, Box::pin(shard.clone().run_timer()));
    spawn(TaskClass::Foreground, Box::pin(shard.clone().run_time()));
    spawn(TaskClass::Background, Box::pin(shard.clone().run_placer()));
    if me == ShardId(0) && identity.active < shard.with_state(|state| state.config.speaks) {
        spawn(TaskClass::Background, Box::pin(shard.clone().run_versions()));
    }
    shard.step(|state| {
        state.start_groups();
        state.keep_seeds();
    });
    // Nothing is served before the bound covers the present: what is issued below it looks as old as the bound, and is
    // forgotten as such.
    let present = Timestamp::new(env.clock().wall_ns(), 0);
    shard.reach_clock(assembled.clock.max(present)).await;
    shard.with_state(|state| state.stage_clock_bound(0));
    shard.maintenance.notify();
    let this: Rc<dyn FrontShard<E>> = shard.clone();
    let _ = front.shard.set(Rc::downgrade(&this));
    // Only now: what other shards ask for may issue timestamps, and hands over connections.
    shard.step(|state| {
        early
            .into_iter()
            .for_each(|(from, message)| state.on_ring(from, message));
    });
    spawn(TaskClass::Foreground, Box::pin(shard.clone().run_rings()));
    if let Some(listener) = listener {
        let transport = transport.clone();
        env.tasks().spawn(
            TaskClass::Foreground,
            async move { transport.serve(listener).await },
        );
    }
    ready(Ready {
        shard: me,
        address: assembled.listen,
        replayed: shard.with_state(|state| state.replayed),
    });
    shard.clone().balance();
    Ok(shard)
}

/// Waits for the end: asked for, or a failure.
async fn serve_until<E: Env, B: Mailbox<Message<E>>>(
    shard: &Rc<Shard<E, B>>,
    stop: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let asked = matches!(race(shard.ended.notified(), stop).await, First::Right(()));
    let (transport, log, failed) =
        shard.with_state(|state| (state.transport.clone(), state.log.clone(), state.failed.clone()));
    transport.close_all();
    shard.with_state(|state| {
        if let Some(neighbours) = &state.neighbours {
            neighbours.links.close_all();
        }
    });
    match failed {
        Some(_) if shard.with_state(|state| state.is_removed()) => {
            Err(NodeError::Removed(shard.with_state(|state| state.identity.node)))
        }
        Some(_) if shard.with_state(|state| state.is_replaced) => {
            Err(NodeError::Replaced(shard.with_state(|state| state.identity.node)))
        }
        Some(_) if shard.with_state(|state| state.is_outdated) => {
            Err(NodeError::Outdated(shard.with_state(|state| state.config.speaks)))
        }
        Some(reason) => Err(NodeError::Failed(reason)),
        None => {
            assert!(asked, "a shard ends because it was asked to or has failed");
            log.close().await?;
            Ok(())
        }
    }
}

fn listen<E: Env>(env: &E, address: env::Address) -> Result<<E::Net as Net>::Listener, NodeError> {
    env.net()
        .listen(address)
        .map_err(|error| NodeError::Listen { address, error })
}

/// Shard 0 reads who the node is and tells the others.
async fn share_identity<E: Env, B: Mailbox<Message<E>>>(
    env: &E,
    mailbox: &B,
    config: &NodeConfig,
) -> Result<Identity, NodeError> {
    if mailbox.shard() == ShardId(0) {
        let cluster = config.cluster.as_deref();
        let identity = Identity::open(env, mailbox.shards(), cluster, config.speaks).await?;
        sweep_graves(env, identity.shards.max(mailbox.shards())).await?;
        for shard in 1..mailbox.shards() {
            send(mailbox, ShardId(shard), ShardMessage::Identity(identity)).await;
        }
        return Ok(identity);
    }
    match receive(mailbox).await {
        (_, ShardMessage::Identity(identity)) => Ok(identity),
        (from, other) => unreachable!("{from} said {other:?} before the identity"),
    }
}

/// What other shards said before this one runs.
type Early<E> = Vec<(ShardId, Message<E>)>;

/// All shards report what they have; shard 0 makes the map of it and tells them. Rings are in order only by themselves: a
/// shard that has the map already may speak to this one before shard 0 does, and is heard when this one runs.
async fn assemble<E: Env, B: Mailbox<Message<E>>>(
    env: &E,
    mailbox: &B,
    storage: &Rc<Shared<E>>,
    identity: Identity,
    first: Option<replica::Group>,
    found: &mut Found<E>,
    address: Option<env::Address>,
) -> Result<(Assembled, Early<E>), NodeError> {
    let me = mailbox.shard();
    let mine = Recovered {
        entries: found.entries(me),
        clock: found.clock,
        range_max: found.range_max,
        damaged: !found.injuries.is_empty(),
        held: found.injuries.held(),
        promises: found.promises.clone(),
    };
    let Some(listen) = address else {
        send(mailbox, ShardId(0), ShardMessage::Recovered(Box::new(mine))).await;
        let mut early = Vec::new();
        loop {
            match receive(mailbox).await {
                (_, ShardMessage::Assembled(assembled)) => return Ok((assembled, early)),
                message => {
                    base::sometimes!("node: another shard spoke before the map came");
                    early.push(message);
                }
            }
        }
    };
    let mut held = BTreeMap::new();
    let mut all = vec![mine];
    for _ in 1..mailbox.shards() {
        match receive(mailbox).await {
            (from, ShardMessage::Recovered(recovered)) => {
                held.extend(recovered.held.iter().map(|range| (*range, from)));
                all.push(*recovered);
            }
            (from, other) => unreachable!("{from} said {other:?} before it had recovered"),
        }
    }
    let clock = all
        .iter()
        .map(|recovered| recovered.clock)
        .max()
        .unwrap_or_default();
    let mut entries: Vec<RangeEntry> = all
        .iter()
        .flat_map(|recovered| recovered.entries.clone())
        .collect();
    let is_alone = first.as_ref().is_some_and(replica::Group::is_alone);
    // A range that was here, and was removed with all that was split off, does not begin anew.
    let is_damaged = all.iter().any(|recovered| recovered.damaged);
    let is_new = entries.is_empty() && !is_damaged && !found.gone.contains_key(&FIRST_RANGE);
    if let Some(first) = first.filter(|_| is_new) {
        let groups = found.groups.clone();
        found
            .locals
            .push(create_first(env, storage, &groups, &first, me).await?);
        entries = found.entries(me);
    }
    found.range_max = all
        .iter()
        .map(|recovered| recovered.range_max)
        .max()
        .unwrap_or_default()
        .max(FIRST_RANGE);
    // Versions must not repeat over restarts: clients compare them. Wall time serves; within a run they count up.
    let version = env.clock().wall_ns().max(clock.wall_ns);
    let map = if is_alone {
        RangeMap::new(version, entries)
    } else {
        RangeMap::partial(version, entries)
    };
    map.check()?;
    let mut promises = BTreeMap::new();
    for (range, promised) in all.iter().flat_map(|recovered| &recovered.promises) {
        let known = promises.entry(*range).or_insert(*promised);
        *known = latest(*known, *promised);
    }
    // What concerns a damaged replica is for the shard that has its files.
    held.retain(|range, _| map.get(*range).is_none());
    found.held_elsewhere.clone_from(&held);
    let is_stranger = |range: RangeId| {
        let is_held = found.held_elsewhere.contains_key(&range) || found.injuries.holds(range);
        map.get(range).is_none() && !is_held
    };
    found.strangers = promises
        .iter()
        .filter(|(range, _)| is_stranger(**range))
        // One that was there before lives were written becomes the one that the next message speaks to.
        .map(|(range, promised)| {
            let id = replica_on(identity.node, found.injuries.life(*range));
            Stranger::new(*range, id, *promised, &found.groups)
        })
        .collect();
    let assembled = Assembled {
        map: Arc::new(map),
        clock,
        listen,
        held: Arc::new(held),
        promises: Arc::new(promises),
    };
    // The shards that are gone have been emptied by now, and the new ones get ranges as soon as they hear of the map: in between
    // is the one moment at which their number can change. A start that knows too few would not look at all directories.
    let shards = mailbox.shards();
    if identity.shards != shards {
        Identity { shards, ..identity }.write(env).await?;
    }
    for shard in 1..mailbox.shards() {
        send(
            mailbox,
            ShardId(shard),
            ShardMessage::Assembled(assembled.clone()),
        )
        .await;
    }
    Ok((assembled, Vec::new()))
}

/// A crash in the middle of a hand-over may leave the range's marker with both shards. Both logs have what is not in its tables by then,
/// and the new shard has not served it, so it does not matter which one keeps it: the map says, the other one lets go.
async fn drop_twins<E: Env>(
    env: &E,
    me: ShardId,
    map: &RangeMap,
    found: &mut Found<E>,
) -> Result<(), NodeError> {
    let is_elsewhere = |range: RangeId| map.get(range).is_some_and(|entry| entry.shard != me);
    let (twins, locals) = core::mem::take(&mut found.locals)
        .into_iter()
        .partition(|local| is_elsewhere(local.range));
    found.locals = locals;
    for twin in twins {
        base::sometimes!("node: range found on two shards");
        marker::remove(env, me, twin.range).await?;
        found.log.forget(twin.range);
    }
    Ok(())
}

async fn create_first<E: Env>(
    env: &E,
    storage: &Rc<Shared<E>>,
    groups: &Groups,
    group: &replica::Group,
    me: ShardId,
) -> Result<Local<E>, NodeError> {
    // A start that was cut short may have left a half-made tablet; no marker says that it counts.
    Tablet::destroy(env, FIRST_RANGE).await?;
    let initial = Replica::<()>::initial_state(group);
    let begins_at = group.applied.last.index;
    let tablet = Tablet::create(storage, FIRST_RANGE, Span::all(), begins_at, initial).await?;
    marker::create(env, me, FIRST_RANGE).await?;
    Ok(Local::open(tablet, groups).await.map_err(RecoverError::from)?)
}

async fn send<M: Send + 'static, B: Mailbox<M>>(mailbox: &B, to: ShardId, message: M) {
    let mut message = message;
    while let Err(back) = mailbox.try_send(to, message) {
        message = back;
        mailbox.writable(to).await;
    }
    mailbox.flush();
}

async fn receive<M: Send + 'static, B: Mailbox<M>>(mailbox: &B) -> (ShardId, M) {
    loop {
        if let Some(received) = mailbox.try_receive() {
            return received;
        }
        mailbox.readable().await;
    }
}

/// Begins a start of the node's failure detector, durably, on shard 0: before that nothing is said to another node.
async fn meet_neighbours<E: Env>(
    env: &E,
    config: &NodeConfig,
    identity: Identity,
    (me, shards): (ShardId, u16),
) -> Result<Option<Box<Neighbours<E>>>, NodeError> {
    let Some(cluster) = &config.cluster else {
        return Ok(None);
    };
    let now_ns = || env.clock().wall_ns();
    let mut detector = None;
    if me == ShardId(0) {
        let node = cluster.me;
        let earlier = incarnation::load(env, me).await?;
        let itself = liveness::Peer { node, shard: me };
        let mut liveness = Liveness::new(itself, cluster.liveness, earlier, now_ns());
        let mut detected = liveness::Ready::default();
        liveness.ready(now_ns(), &mut detected);
        if let Some(durable) = detected.durable {
            incarnation::store(env, me, durable).await?;
            liveness.persisted(durable);
        }
        let patience = core::time::Duration::from_nanos(cluster.liveness.support_ns);
        detector = Some(Detector {
            liveness,
            detected,
            pulses: Pulses::new(shards, patience, env.clock().now()),
        });
    }
    let address = cluster.nodes.iter().find(|member| member.node == cluster.me);
    let address = address.map_or(config.listen, |member| member.address);
    let (ip, port) = address_to_bytes(address);
    let hello = wire::peer::PeerHello {
        cluster: identity.cluster.to_le_bytes(),
        node: identity.node.0,
        shard: me.0,
        to_node: 0,
        to_shard: 0,
        version_min: identity.active.0,
        version_max: config.speaks.0,
        address: wire::peer::NodeAddress { ip, port },
        birth: identity.birth,
    };
    let links = Peers::new(env.clone(), PeerConfig::new(hello));
    let mut neighbours = Neighbours::new(cluster.clone(), links, detector);
    // It counts more than the list that this node was started with, or has learned.
    neighbours.removed = standing::load(env).await.map_err(WordsError::from)?.removed();
    if neighbours.is_removed(cluster.me) {
        return Err(NodeError::Removed(cluster.me));
    }
    neighbours.births = births::load(env).await?;
    neighbours.births.insert(cluster.me, identity.birth);
    let learned = roster::load(env).await?;
    let told = cluster.nodes.iter().chain(&cluster.seeds).copied();
    for member in told.chain(learned) {
        if member.node != cluster.me {
            neighbours.learn(member, Word::Others, now_ns());
        }
    }
    Ok(Some(Box::new(neighbours)))
}

fn make_placer<E: Env>(env: &E, config: &NodeConfig, shards: u16) -> Option<Box<Placer>> {
    let cluster = config.cluster.as_ref()?;
    let settings = cluster.placement.clone()?;
    let session = env.prng().next_u64();
    Some(Box::new(Placer::new(
        settings,
        cluster.locality.clone(),
        shards,
        session,
    )))
}

#[expect(
    clippy::too_many_arguments,
    reason = "everything that a shard is made of, once"
)]
fn make_state<E: Env, B: Mailbox<Message<E>>>(
    env: &E,
    mailbox: &B,
    config: &Rc<NodeConfig>,
    identity: Identity,
    storage: &Rc<Shared<E>>,
    transport: Transport<E, Front<E, B>>,
    found: Found<E>,
    assembled: &Assembled,
    neighbours: Option<Box<Neighbours<E>>>,
) -> State<E, B> {
    let shards = mailbox.shards();
    let offset_max = u64::try_from(config.clock_offset_max.as_nanos()).unwrap_or(u64::MAX);
    let injuries = found.injuries;
    let injured = Injured::new(injuries.noted, injuries.lives, &found.gone, env.clock().now());
    let mut state = State {
        me: mailbox.shard(),
        shards,
        identity,
        config: config.clone(),
        env: env.clone(),
        log: found.log,
        held: BTreeMap::new(),
        storage: storage.clone(),
        transport,
        hlc: Hlc::new(assembled.clock, offset_max),
        clock_bound_ns: found.log_bound.wall_ns,
        clock_bound_staged: None,
        clock_wanted_ns: 0,
        turn_clock: None,
        map: RangeMap::default(),
        routes: Vec::new(),
        here: FastMap::default(),
        slots: found
            .locals
            .into_iter()
            .map(|local| Slot::Live(Box::new(local)))
            .chain(
                found
                    .strangers
                    .into_iter()
                    .map(|stranger| Slot::Stranger(Box::new(stranger))),
            )
            .collect(),
        strangers: BTreeMap::new(),
        gone: found.gone,
        assigned: found.held_elsewhere,
        placing_new: false,
        claims: BTreeMap::new(),
        removing: BTreeMap::new(),
        roster_storing: false,
        is_replaced: false,
        is_outdated: false,
        versions: Versions::new(config.speaks, identity.active),
        placing: BTreeSet::new(),
        placer: make_placer(env, config, shards),
        joint: Vec::new(),
        merges: Merges::default(),
        departed: Vec::new(),
        gets: Vec::new(),
        get_keys: Vec::new(),
        batch: Batch::default(),
        writes: VecDeque::new(),
        groups: found.groups,
        dirty: Vec::new(),
        ready: raft::Ready::default(),
        runnable: Vec::new(),
        progress: false,
        neighbours,
        stalled: VecDeque::new(),
        apply_waiters: Vec::new(),
        scans: FastMap::default(),
        tickets: FastMap::default(),
        ticket_last: 0,
        range_last: found.range_max,
        replies: (0..shards).map(|_| crate::message::Replies::default()).collect(),
        reply_outbox: wire::Outbox::new(),
        overflow: (0..shards).map(|_| VecDeque::new()).collect(),
        ring_out: Vec::new(),
        jobs: Vec::new(),
        counts: Counts::default(),
        contention: Contention::default(),
        replayed: found.replayed,
        injured,
        damage: BTreeMap::new(),
        gauge: Gauge::new(ailing::limits(config), env.clock().now()),
        failed: None,
        wake_maintenance: false,
        stirred: Vec::new(),
        watched: Vec::new(),
        // The first look is at all.
        looks_skipped: u32::MAX - 1,
        parked: Vec::new(),
    };
    state.on_map(&assembled.map);
    state.strangers = (0..)
        .zip(&state.slots)
        .filter_map(|(at, slot)| match slot {
            Slot::Stranger(stranger) => Some((stranger.seat.range, at)),
            Slot::Free | Slot::Opening(..) | Slot::Live(_) => None,
        })
        .collect();
    state
}

impl<E: Env, B> State<E, B> {
    /// Answers a hello for this shard.
    pub(crate) fn greet(
        &mut self,
        id: transport::ConnectionId,
        request: base::RequestId,
        hello: &wire::request::ArchivedHello<'static>,
    ) -> transport::HelloAnswer {
        let origin = crate::message::Origin {
            shard: self.me,
            connection: id,
            request,
        };
        let version = u16::from(wire::frame::VERSION);
        let (low, high) = (hello.version_min.to_native(), hello.version_max.to_native());
        if !(low..=high).contains(&version) {
            let message = format!("the client speaks versions {low} to {high}, this node version {version}");
            self.refuse(
                origin,
                &crate::Refusal::fatal(wire::Code::VersionUnsupported, message),
            );
            return transport::HelloAnswer::Refuse;
        }
        let limit = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let NodeId(node) = self.identity.node;
        let reply = wire::reply::HelloReply {
            node,
            cluster: self.identity.cluster.to_le_bytes(),
            shards: self.shards,
            shard: self.me.0,
            version,
            range_map_version: self.map.version(),
            limits: wire::reply::Limits {
                key_bytes_max: limit(base::limits::KEY_BYTES_MAX),
                value_bytes_max: limit(base::limits::VALUE_BYTES_MAX),
                batch_bytes_max: limit(base::limits::BATCH_BYTES_MAX),
                batch_ops_max: limit(base::limits::BATCH_OPS_MAX),
                frame_bytes_max: limit(base::limits::FRAME_BYTES_MAX),
                requests_max: self.config.requests_max,
            },
            server: concat!("corelane ", env!("CARGO_PKG_VERSION")),
        };
        self.reply(origin, &reply);
        transport::HelloAnswer::Accept
    }
}

impl<E: Env, B: Mailbox<Message<E>>> Shard<E, B> {
    /// Evens the numbers of ranges out after a start with more shards than before: shard by shard, ordinary moves.
    fn balance(self: Rc<Self>) {
        let me = self.mailbox.shard();
        let moves: Vec<_> = self.with_state(|state| {
            let from_here = |range: RangeId| state.map.get(range).is_some_and(|entry| entry.shard == me);
            state
                .map
                .balance(state.shards)
                .into_iter()
                .filter(|(range, _)| from_here(*range))
                .collect()
        });
        let env = self.env.clone();
        env.tasks().spawn(TaskClass::Background, async move {
            for (range, to) in moves {
                base::sometimes!("node: range moved to a new shard at start");
                let deadline = self.now() + core::time::Duration::from_secs(60);
                // A move that is refused (the range is busy) leaves the range where it is, and is made up for later.
                let _ = self.move_range(range, to, deadline).await;
            }
        });
    }
}
