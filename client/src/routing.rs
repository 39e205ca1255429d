//! Which server a request goes to. Pure: elapsed time comes in as an argument.
//!
//! ```text
//!   key ──► range (maps of the servers) ──► its leader, where known ──► not reachable lately? another one ──► its shard there,
//!                                                  ▲                                                          by its own map
//!              refusals that name the leader, and servers that answered, correct it
//! ```
//!
//! One server is *home*: its range map is asked for first, and what concerns no key goes to it. A node's map has the ranges that
//! it has replicas of. Where home's has gaps the others' fill them, and a server whose own map has turned out to be old is asked
//! for it again; versions of maps of different nodes say nothing about each other.
//!
//! A server that failed is avoided for a while, and what it was thought to lead is forgotten. How it failed matters when
//! others still name it as the leader: where the connection broke, trying again is cheap; where nothing was answered, it
//! costs a time-out, so that the others are asked while a hello beside the calls finds out whether it is there again.
//!
//! Invariants:
//! - Every server that can be asked is asked once before a call pauses, unless a refusal says where to go.
//! - A server of another cluster is never used: [`Routing::identified`] says so before anything is sent to it.

use crate::Address;
use crate::range_cache::{RangeCache, RangeInfo};
use crate::request::Route;
use base::collections::FastMap;
use base::{NodeId, RangeId, ShardId};
use core::cmp::Reverse;
use core::time::Duration;
use std::sync::Arc;

/// Distances below this are not told apart.
const DISTANCE_MIN: Duration = Duration::from_micros(100);

/// The servers that a client knows, at most. A cluster with more is used through these.
const SERVERS_MAX: usize = 1024;
/// How long a server is avoided after its first failure.
const AVOIDED_MIN: Duration = Duration::from_secs(1);
/// How long a server is avoided that failed again and again.
const AVOIDED_MAX: Duration = Duration::from_secs(5);
/// How often the time that a slow server gets is doubled within one call.
const DOUBLINGS_MAX: u32 = 4;

/// A server's position in the client's list, which only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerId(pub(crate) usize);

/// How a server failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It could not be reached, the connection ended, or it turned the client away: known at once.
    Broke,
    /// Nothing was heard from it until a time-out.
    Silent,
}

#[derive(Debug)]
struct Server {
    address: Address,
    /// Which node it is, as it said itself or as the map says.
    node: Option<NodeId>,
    /// Set from a failure until the next answer.
    outage: Option<Outage>,
    /// How long an answer takes, about; `None` before the first one.
    distance: Option<Duration>,
    /// Its newest map, and how many maps had been seen by then.
    map: Option<(RangeCache, u64)>,
    /// It has shown that its map is of this version at least.
    map_wanted: u64,
}

impl Server {
    fn new(address: Address, node: Option<NodeId>) -> Self {
        Self {
            address,
            node,
            outage: None,
            distance: None,
            map: None,
            map_wanted: 0,
        }
    }

    /// Zero when there is none.
    fn map_version(&self) -> u64 {
        self.map.as_ref().map_or(0, |(map, _)| map.version())
    }
}

#[derive(Debug, Clone, Copy)]
struct Outage {
    trouble: Trouble,
    /// Avoided until then.
    until: Duration,
    /// How long this time.
    length: Duration,
}

/// Where one try goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) server: ServerId,
    pub(crate) shard: ShardId,
    /// The range of the key, by the map.
    range: Option<RangeId>,
    /// The map has a gap there.
    is_unmapped: bool,
    /// Whoever answers leads the range.
    shows_leader: bool,
    /// An answer would be news: [`Routing::answered`] wants to hear of it.
    pub(crate) is_news: bool,
}

/// What one call remembers of its tries.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// Any server that has a replica may answer: the nearest one is asked first.
    pub(crate) goes_near: bool,
    /// Servers that have a replica and never answered anything.
    pub(crate) unknown: Vec<ServerId>,
    /// Asked since the last pause.
    visited: Vec<ServerId>,
    /// Where the last refusal pointed.
    next: Option<ServerId>,
    /// Gave no answer in time, once per try.
    unanswered: Vec<ServerId>,
}

/// When the next try begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is another server to ask: at once.
    AtOnce,
    /// After a pause.
    Pause,
    /// After a pause, at another server: the one that is named as the leader was silent lately. Meanwhile a hello may show
    /// whether it is there again.
    Probe(ServerId),
    /// After a look at the range map, which names the node that leads: then ask [`Routing::refused`] again.
    Learn(NodeId),
}

/// What a client knows about the servers of its cluster.
#[derive(Debug)]
pub(crate) struct Routing {
    servers: Vec<Server>,
    home: ServerId,
    /// What the servers' maps say together.
    map: Arc<RangeCache>,
    /// How many maps were seen.
    maps_seen: u64,
    /// A map named the nodes of a cluster.
    is_cluster: bool,
    /// Who leads, by range: from the map, corrected by refusals and answers. Ranges of the map and few others.
    leaders: FastMap<RangeId, ServerId>,
    /// The cluster of the first server that answered.
    cluster: Option<u128>,
}

impl Course {
    /// Of a call that any server may answer which has a replica, if it `goes_near`, or else the leader only.
    pub(crate) fn new(goes_near: bool) -> Self {
        Self {
            goes_near,
            ..Self::default()
        }
    }

    /// How long a try at `server` may go without an answer when others could be asked: longer after it let tries of this
    /// call pass unanswered although it could be reached.
    pub(crate) fn allowance(&self, server: ServerId, try_timeout: Duration) -> Duration {
        let times = self.unanswered.iter().filter(|seen| **seen == server).count();
        let doublings = u32::try_from(times).unwrap_or(DOUBLINGS_MAX).min(DOUBLINGS_MAX);
        try_timeout.saturating_mul(1 << doublings)
    }

    /// The try at `server` got no answer in time.
    pub(crate) fn unanswered(&mut self, server: ServerId) {
        self.unanswered.push(server);
    }

    /// A try goes on at `server`, where an earlier one began.
    pub(crate) fn visit(&mut self, server: ServerId) {
        if !self.visited.contains(&server) {
            self.visited.push(server);
        }
    }

    /// The last try was refused for another reason than where it was: the next one may go there again.
    pub(crate) fn stay(&mut self) {
        self.visited.clear();
    }
}

impl Routing {
    /// Knows `servers`, at least one.
    pub(crate) fn new(servers: &[Address]) -> Self {
        assert!(!servers.is_empty(), "a client is told of at least one server");
        let server = |address: &Address| Server::new(address.clone(), None);
        Self {
            servers: servers.iter().take(SERVERS_MAX).map(server).collect(),
            home: ServerId(0),
            is_cluster: false,
            map: Arc::default(),
            maps_seen: 0,
            leaders: FastMap::default(),
            cluster: None,
        }
    }

    /// How many servers are known.
    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Whether a map has said that the node is alone.
    pub(crate) fn is_alone(&self) -> bool {
        self.servers.len() == 1 && !self.is_cluster && self.maps_seen > 0
    }

    /// Where a server is.
    pub(crate) fn address(&self, server: ServerId) -> &Address {
        &self.servers[server.0].address
    }

    /// The server that maps are asked from.
    pub(crate) fn home(&self) -> ServerId {
        self.home
    }

    /// What the maps of the servers say together.
    pub(crate) fn map(&self) -> &Arc<RangeCache> {
        &self.map
    }

    /// How many maps were seen; zero when no range is known.
    pub(crate) fn maps_seen(&self) -> u64 {
        self.maps_seen
    }

    /// The version of the newest map of `server`; zero when there is none.
    pub(crate) fn map_version(&self, server: ServerId) -> u64 {
        self.servers[server.0].map_version()
    }

    /// Whether the map of `server` is known to be old.
    pub(crate) fn is_old(&self, server: ServerId) -> bool {
        let server = &self.servers[server.0];
        server.map_wanted > server.map_version()
    }

    /// The map of `server` is old, or was never asked for where it would have helped: what came to a wrong shard or range there shows it.
    pub(crate) fn map_is_old(&mut self, server: ServerId) {
        let server = &mut self.servers[server.0];
        server.map_wanted = server.map_version() + 1;
    }

    /// Who is to be asked for a map next, nobody twice: home; whose map is old; and while there are gaps, the others.
    pub(crate) fn next_to_tell(&self, asked: &[ServerId], now: Duration) -> Option<ServerId> {
        let has_gaps = self.is_cluster && !self.map.is_whole();
        let is_untold = |server: &ServerId| *server == self.home && self.servers[server.0].map.is_none();
        let is_due =
            |server: &ServerId| has_gaps || asked.is_empty() || self.is_old(*server) || is_untold(server);
        let is_next = |server: &ServerId| {
            !asked.contains(server) && self.avoided(*server, now).is_none() && is_due(server)
        };
        let old = self.ring().find(|server| is_next(server) && self.is_old(*server));
        let home = Some(self.home).filter(is_next);
        home.or(old).or_else(|| self.ring().find(is_next))
    }

    /// A server that may know ranges that home does not, beside those that were asked.
    pub(crate) fn next_beside_home(&self, asked: &[ServerId], now: Duration) -> Option<ServerId> {
        let home = self.servers[self.home.0].map.as_ref();
        if home.is_some_and(|(map, _)| map.is_whole()) {
            return None;
        }
        let is_next = |server: &ServerId| !asked.contains(server) && self.avoided(*server, now).is_none();
        self.ring().find(is_next)
    }

    /// Home's ranges as it told them, and beside them those that the maps of `servers` have.
    pub(crate) fn ranges_of(&self, servers: &[ServerId]) -> Vec<RangeInfo> {
        let home = self.servers[self.home.0].map.as_ref().map(|(map, _)| map);
        let merged = match home.filter(|map| map.is_whole()) {
            Some(map) => return map.ranges().to_vec(),
            None => self.merged_of(servers.iter().map(|server| &self.servers[server.0])),
        };
        let of_home = |info: &RangeInfo| Some(home?.get(info.range)?.shard);
        let ranges = merged.ranges().iter().map(|info| RangeInfo {
            shard: of_home(info).unwrap_or(info.shard),
            ..info.clone()
        });
        ranges.collect()
    }

    /// Whether a server of `node` is known.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.servers.iter().any(|server| server.node == Some(node))
    }

    /// Whether the map has `range`.
    fn has_range(&self, range: RangeId) -> bool {
        self.map.get(range).is_some()
    }

    /// Where the next try of a call goes.
    pub(crate) fn aim(&self, route: Route<'_>, course: &mut Course, now: Duration) -> Target {
        let info = match route {
            Route::Key(key) => self.map.lookup(key),
            Route::Before(end) => self.map.lookup_before(end),
            Route::Range(range) => self.map.get(range),
            Route::Home(_) => None,
        };
        let range = match route {
            Route::Range(range) => Some(range),
            _ => info.map(|info| info.range),
        };
        let leader = range.and_then(|range| self.leaders.get(&range)).copied();
        let near = match info {
            Some(info) if course.goes_near => self.by_distance(info, now),
            Some(_) | None => Vec::new(),
        };
        let server = match course.next.take() {
            Some(server) => server,
            None => self.choose(&near, leader, course, now),
        };
        course.visit(server);
        // Only its own map says on which shard its replica is.
        let own = || self.servers[server.0].map.as_ref()?.0.get(range?);
        let shard = match route {
            Route::Home(shard) => shard,
            _ => own().or(info).map_or(ShardId(0), |info| info.shard),
        };
        let is_unknown = |other: &ServerId| {
            let never_heard = self.servers[other.0].distance.is_none();
            never_heard && *other != server && self.avoided(*other, now).is_none()
        };
        course.unknown = near.into_iter().filter(is_unknown).collect();
        let shows_leader = self.servers.len() > 1 && range.is_some() && !course.goes_near;
        let is_news = self.servers[server.0].outage.is_some() || (shows_leader && leader != Some(server));
        Target {
            server,
            shard,
            range,
            is_unmapped: self.maps_seen > 0 && range.is_none() && !matches!(route, Route::Home(_)),
            shows_leader,
            is_news,
        }
    }

    fn choose(
        &self,
        near: &[ServerId],
        leader: Option<ServerId>,
        course: &mut Course,
        now: Duration,
    ) -> ServerId {
        let first = |course: &Course| {
            let mut wished = near.iter().copied().chain(leader).chain(self.ring());
            wished.find(|server| self.is_fresh(*server, course, now))
        };
        if let Some(server) = first(course) {
            return server;
        }
        course.visited.clear();
        first(course).unwrap_or_else(|| {
            let until = |server: &ServerId| self.servers[server.0].outage.map(|outage| outage.until);
            self.ring().min_by_key(until).unwrap_or(self.home)
        })
    }

    /// The servers that have a replica of the range, as far as known, the nearest first and those that never answered last.
    fn by_distance(&self, info: &RangeInfo, now: Duration) -> Vec<ServerId> {
        let servers = info.nodes.iter().filter_map(|node| self.server_of(*node, now));
        let mut servers: Vec<_> = servers.collect();
        servers.sort_by_key(|server| self.servers[server.0].distance.unwrap_or(Duration::MAX));
        servers
    }

    /// Whether the time of an answer changes what is known.
    pub(crate) fn is_news_of_distance(&self, server: ServerId, took: Duration) -> bool {
        let known = self.servers[server.0].distance;
        known.is_none_or(|known| took < known - known / 8 || took > known + known / 4)
    }

    /// An answer took a while. A short time is believed at once: what takes longer may have waited for something else, so no single
    /// answer more than doubles a distance.
    pub(crate) fn measured(&mut self, server: ServerId, took: Duration) {
        let distance = &mut self.servers[server.0].distance;
        *distance = Some(match *distance {
            Some(known) if took > known => known + ((took - known) / 8).min(known.max(DISTANCE_MIN)),
            Some(_) | None => took,
        });
    }

    /// Every server once, home first.
    fn ring(&self) -> impl Iterator<Item = ServerId> {
        let (count, home) = (self.servers.len(), self.home.0);
        (0..count).map(move |step| ServerId((home + step) % count))
    }

    /// Whether a call may go to `server` without a pause.
    fn is_fresh(&self, server: ServerId, course: &Course, now: Duration) -> bool {
        !course.visited.contains(&server) && self.avoided(server, now).is_none()
    }

    /// Why a server is avoided now, if it is.
    fn avoided(&self, server: ServerId, now: Duration) -> Option<Trouble> {
        let outage = self.servers[server.0].outage?;
        (now < outage.until).then_some(outage.trouble)
    }

    /// After a try that its server did not answer: whether there is another one to ask at once.
    pub(crate) fn elsewhere(&self, course: &mut Course, now: Duration) -> Turn {
        if self.ring().any(|server| self.is_fresh(server, course, now)) {
            return Turn::AtOnce;
        }
        course.visited.clear();
        Turn::Pause
    }

    /// The server of `target` does not lead the range; `leader` does as far as it knows, of `range`.
    pub(crate) fn refused(
        &mut self,
        target: &Target,
        range: Option<RangeId>,
        leader: Option<NodeId>,
        course: &mut Course,
        now: Duration,
    ) -> Turn {
        let ranges = [target.range, range.filter(|range| self.has_range(*range))];
        for range in ranges.into_iter().flatten() {
            if self.leaders.get(&range) == Some(&target.server) {
                self.leaders.remove(&range);
            }
        }
        let Some(node) = leader else {
            // It has no replica of the range: another one may, and can be asked at once.
            return match range {
                None => self.elsewhere(course, now),
                Some(_) => self.rotate(course, now),
            };
        };
        let Some(led_by) = self.server_of(node, now) else {
            return Turn::Learn(node);
        };
        let avoided = self.avoided(led_by, now);
        if led_by == target.server {
            return self.rotate(course, now);
        }
        if avoided == Some(Trouble::Silent) {
            self.rotate(course, now);
            return Turn::Probe(led_by);
        }
        for range in ranges.into_iter().flatten() {
            self.leaders.insert(range, led_by);
        }
        course.next = Some(led_by);
        if avoided.is_none() && !course.visited.contains(&led_by) {
            return Turn::AtOnce;
        }
        course.visited.clear();
        Turn::Pause
    }

    /// Nobody says who leads: the next server is asked, after a pause.
    pub(crate) fn rotate(&self, course: &mut Course, now: Duration) -> Turn {
        self.elsewhere(course, now);
        Turn::Pause
    }

    /// Whether a refusal of what went to `target`, which is about `range`, shows that maps are old, or have a gap.
    pub(crate) fn is_news_of_range(&self, target: &Target, range: Option<RangeId>) -> bool {
        let is_other = range.is_some_and(|range| !self.has_range(range));
        let is_gone = range.is_none() && target.range.is_some() && !self.is_alone();
        self.maps_seen > 0 && (is_other || is_gone || target.is_unmapped)
    }

    /// The same refusal: the map of `target` is asked for if it has that range, or if what it said earlier is old.
    pub(crate) fn range_was_news(&mut self, target: &Target, range: Option<RangeId>) {
        if range.is_some() || self.servers[target.server.0].map.is_some() {
            self.map_is_old(target.server);
        }
    }

    fn server_of(&self, node: NodeId, now: Duration) -> Option<ServerId> {
        let of_node = |server: &ServerId| self.servers[server.0].node == Some(node);
        let mut servers = (0..self.servers.len()).map(ServerId).filter(of_node);
        let first = servers.next()?;
        if self.avoided(first, now).is_none() {
            return Some(first);
        }
        // The node may have moved to another address.
        Some(
            servers
                .find(|server| self.avoided(*server, now).is_none())
                .unwrap_or(first),
        )
    }

    /// A server failed. Says whether another one is home from now on.
    pub(crate) fn failed(&mut self, server: ServerId, trouble: Trouble, now: Duration) -> bool {
        let outage = &mut self.servers[server.0].outage;
        let is_known = outage.is_some_and(|outage| now < outage.until);
        let length = outage.map_or(AVOIDED_MIN, |last| (last.length * 2).min(AVOIDED_MAX));
        match outage {
            // Calls that failed together count once, and what costs more counts.
            Some(last) if is_known => {
                if trouble == Trouble::Silent {
                    last.trouble = trouble;
                }
            }
            Some(_) | None => {
                *outage = Some(Outage {
                    trouble,
                    until: now + length,
                    length,
                });
            }
        }
        self.leaders.retain(|_, leader| *leader != server);
        let next = self.ring().find(|other| self.avoided(*other, now).is_none());
        match next {
            Some(next) if server == self.home => {
                let moved = next != self.home;
                self.home = next;
                moved
            }
            Some(_) | None => false,
        }
    }

    /// The server of `target` answered a request for it: it is up, and leads the range if there is one. Says whether it has
    /// become home, in place of one that failed.
    pub(crate) fn answered(&mut self, target: &Target) -> bool {
        if let Some(range) = target.range.filter(|_| target.shows_leader) {
            self.leaders.insert(range, target.server);
        }
        self.is_up(target.server)
    }

    /// A server said something, if only a refusal. Says whether it has become home, in place of one that failed.
    pub(crate) fn is_up(&mut self, server: ServerId) -> bool {
        self.servers[server.0].outage = None;
        let moves = server != self.home && self.servers[self.home.0].outage.is_some();
        if moves {
            self.home = server;
        }
        moves
    }

    /// A server said who it is.
    ///
    /// # Errors
    /// The cluster that the client speaks to, when the server is of another one: it must not be used.
    pub(crate) fn identified(&mut self, server: ServerId, node: NodeId, cluster: u128) -> Result<(), u128> {
        let known = *self.cluster.get_or_insert(cluster);
        if known != cluster {
            self.servers[server.0].node = None;
            return Err(known);
        }
        self.servers[server.0].node = Some(node);
        Ok(())
    }

    /// A server told its range map and the nodes of the cluster.
    pub(crate) fn map_seen(
        &mut self,
        server: ServerId,
        map: RangeCache,
        nodes: Vec<(NodeId, Address)>,
        now: Duration,
    ) {
        self.is_cluster |= !nodes.is_empty();
        for (node, address) in nodes {
            self.learn(node, address, now);
        }
        self.maps_seen += 1;
        self.servers[server.0].map_wanted = 0;
        // Of one server, the newer counts.
        if self.servers[server.0].map_version() > map.version() {
            return;
        }
        self.servers[server.0].map = Some((map, self.maps_seen));
        self.map = Arc::new(self.merged_of(&self.servers));
        let known = core::mem::take(&mut self.leaders);
        if self.servers.len() == 1 {
            return;
        }
        let map = self.map.clone();
        for info in map.ranges() {
            let told = || {
                let server = self.server_of(info.leader?, now)?;
                self.avoided(server, now).is_none().then_some(server)
            };
            // What refusals and answers said is newer than what a node has heard of.
            if let Some(leader) = known.get(&info.range).copied().or_else(told) {
                self.leaders.insert(info.range, leader);
            }
        }
    }

    /// What the maps of `servers` say together.
    fn merged_of<'a>(&self, servers: impl IntoIterator<Item = &'a Server>) -> RangeCache {
        let known = |server: &'a Server| {
            let (map, seen) = server.map.as_ref()?;
            // One that fails leads nothing, whatever it said before.
            Some((*seen, server.node.filter(|_| server.outage.is_none()), map))
        };
        let mut maps: Vec<_> = servers.into_iter().filter_map(known).collect();
        maps.sort_by_key(|(seen, ..)| Reverse(*seen));
        let maps = maps.into_iter().map(|(_, node, map)| (node, map));
        RangeCache::merged(self.maps_seen, maps)
    }

    fn learn(&mut self, node: NodeId, address: Address, now: Duration) {
        if let Some(server) = self.servers.iter_mut().find(|server| server.address == address) {
            server.node = Some(node);
            return;
        }
        let reached = self.server_of(node, now);
        let is_reached = reached.is_some_and(|server| self.servers[server.0].outage.is_none());
        if !is_reached && self.servers.len() < SERVERS_MAX {
            self.servers.push(Server::new(address, Some(node)));
        }
    }
}

#[cfg(test)]
mod tests;
