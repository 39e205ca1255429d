//! Connecting to a target: sockets, the protocol on each, and which keys belong on which connection.

use core::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base::Prng;

use crate::BenchError;
use crate::config::{Protocol, Records, Target};
use crate::driver::{Admin, Driver, EtcdDriver, RedisDriver};
use crate::process;
use crate::workload::split_keys;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Ranges that a bench may split a key space into.
const PARTS_MAX: u64 = 4096;

/// One connection, ready for the load.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    pub(crate) driver: Box<dyn Driver>,
    /// The place that it leads to, where that is known: it is given keys of this place.
    pub(crate) home: Option<u16>,
}

/// A shard of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    address: SocketAddr,
    shard: u16,
}

/// The bounds of a range, and the number of the place that leads it.
type Led = (Vec<u8>, Option<Vec<u8>>, u16);

/// Which place serves which keys, as it was when that was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    /// By number.
    places: Vec<Place>,
    /// First keys of the ranges with the numbers of their places, or [`NOWHERE`], rising.
    starts: Vec<(Vec<u8>, u16)>,
}

/// In the place of a range that nobody leads.
const NOWHERE: u16 = u16::MAX;

impl Routes {
    fn new(places: Vec<Place>, mut starts: Vec<(Vec<u8>, u16)>) -> Self {
        starts.sort();
        Self { places, starts }
    }

    /// The same, with the numbers that `old` gives to places; what it does not know is numbered behind.
    fn numbered_as(self, old: &Self) -> Self {
        let mut places = old.places.clone();
        let numbers: Vec<u16> = self
            .places
            .iter()
            .map(|place| {
                let known = places.iter().position(|known| known == place);
                let at = known.unwrap_or_else(|| {
                    places.push(*place);
                    places.len() - 1
                });
                // Nobody is asked beyond the last number.
                u16::try_from(at).unwrap_or(NOWHERE)
            })
            .collect();
        let starts = self.starts.into_iter();
        let number = |at: u16| numbers.get(usize::from(at)).copied().unwrap_or(NOWHERE);
        Self {
            starts: starts.map(|(key, at)| (key, number(at))).collect(),
            places,
        }
    }

    /// The places that serve keys, each once.
    fn serving(&self) -> BTreeSet<u16> {
        let places = self.starts.iter().map(|(_, place)| *place);
        places.filter(|place| *place != NOWHERE).collect()
    }

    /// The first key of a range that nobody leads.
    fn unserved(&self) -> Option<&[u8]> {
        let (start, _) = self.starts.iter().find(|(_, place)| *place == NOWHERE)?;
        Some(start)
    }

    /// First keys of the ranges with the numbers of their places, rising.
    pub(crate) fn starts(&self) -> &[(Vec<u8>, u16)] {
        &self.starts
    }

    /// The number of the place that serves `key`, one that no place has when nobody does; `None` when the target has no places.
    pub(crate) fn owner(&self, key: &[u8]) -> Option<u16> {
        let after = self.starts.partition_point(|(start, _)| start.as_slice() <= key);
        Some(self.starts[after.checked_sub(1)?].1)
    }
}

fn socket(address: SocketAddr) -> Result<TcpStream, BenchError> {
    let connect = |source| BenchError::Connect { address, source };
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(connect)?;
    socket.set_nodelay(true).map_err(connect)?;
    Ok(socket)
}

/// Opens `count` connections, dealt out over the places, and learns the routes between them.
pub(crate) fn connect(
    target: &Target,
    count: u32,
    seed: u64,
) -> Result<(Vec<Connection>, Routes), BenchError> {
    let mut routes = Routes::default();
    if target.protocol == Protocol::Corelane {
        routes = self::routes(target, seed)?;
    }
    let mut sessions = Prng::new(seed ^ session_salt());
    let mut connections = Vec::with_capacity(count as usize);
    for number in 0..count {
        let peer = |driver: Box<dyn Driver>| -> Result<Connection, BenchError> {
            Ok(Connection {
                socket: socket(target.address)?,
                driver,
                home: None,
            })
        };
        let connection = match target.protocol {
            Protocol::Redis => peer(Box::new(RedisDriver::new()))?,
            Protocol::Etcd => peer(Box::new(EtcdDriver::new(&target.address.to_string())))?,
            Protocol::Corelane => {
                let home = number as usize % routes.places.len();
                let home = u16::try_from(home).expect("places are numbered with 16 bits");
                at_home(&routes, home, &mut sessions)?
            }
        };
        connections.push(connection.ready()?);
    }
    Ok((connections, routes))
}

impl Connection {
    /// For the loop of a loader.
    fn ready(self) -> Result<Self, BenchError> {
        let made = self.socket.set_nonblocking(true);
        made.map_err(|source| BenchError::Local {
            operation: "make a socket non-blocking",
            source,
        })?;
        Ok(self)
    }
}

/// Opens a connection to a place of a corelane target.
fn at_home(routes: &Routes, home: u16, sessions: &mut Prng) -> Result<Connection, BenchError> {
    let client = u128::from(sessions.next_u64()) << 64 | u128::from(sessions.next_u64());
    let Place { address, shard } = routes.places[usize::from(home)];
    let admin = Admin::connect(socket(address)?, address, client, Some(shard))?;
    let (socket, driver) = admin.into_driver();
    Connection {
        socket,
        driver: Box::new(driver),
        home: Some(home),
    }
    .ready()
}

/// Where requests go from now on.
pub(crate) struct Rerouted {
    pub(crate) routes: Routes,
    /// Connections in place of others, whose numbers they get, that are lost or lead to where nothing is served.
    pub(crate) moved: Vec<(usize, Connection)>,
    /// Connections to places that had none.
    pub(crate) more: Vec<Connection>,
}

/// Asks a corelane target, or any node of its cluster that answers, who serves what now, and connects to there. `homes` are the
/// places of the caller's connections, none for those that are lost.
pub(crate) fn reroute(
    target: &Target,
    old: &Routes,
    homes: &[Option<u16>],
    seed: u64,
) -> Result<Rerouted, BenchError> {
    let mut routes = survey(target.address, seed);
    for place in &old.places {
        if routes.is_ok() {
            break;
        }
        routes = survey(place.address, seed);
    }
    let routes = routes?.numbered_as(old);
    // What waits for a range that nobody leads holds up nothing else.
    let (moves, more) = deal(homes, &routes.serving());
    let mut sessions = Prng::new(seed ^ session_salt());
    let moved = moves.into_iter().map(|(number, home)| {
        let connection = at_home(&routes, home, &mut sessions)?;
        Ok((number, connection))
    });
    let moved = moved.collect::<Result<_, BenchError>>()?;
    let more = more
        .into_iter()
        .map(|home| at_home(&routes, home, &mut sessions))
        .collect::<Result<_, _>>()?;
    Ok(Rerouted { routes, moved, more })
}

/// Deals connections that are lost, or lead to where nothing is served, out over the places that serve; those that have the fewest get
/// them first. Also gives the places that have none even then.
fn deal(homes: &[Option<u16>], serving: &BTreeSet<u16>) -> (Vec<(usize, u16)>, Vec<u16>) {
    let mut counts: Vec<(usize, u16)> = serving
        .iter()
        .map(|&place| (homes.iter().filter(|home| **home == Some(place)).count(), place))
        .collect();
    let mut moves = Vec::new();
    for (number, home) in homes.iter().enumerate() {
        if home.is_none_or(|home| !serving.contains(&home))
            && let Some(least) = counts.iter_mut().min()
        {
            least.0 += 1;
            moves.push((number, least.1));
        }
    }
    let without = counts.into_iter().filter(|(count, _)| *count == 0);
    (moves, without.map(|(_, place)| place).collect())
}

/// The places of a corelane target, one at least, and which keys each serves: all shards of a node that is alone, the shards that
/// lead ranges in a cluster. Ranges that nobody leads are nowhere.
fn survey(target: SocketAddr, seed: u64) -> Result<Routes, BenchError> {
    let mut admins = admins(target, seed)?;
    let mut places = Vec::new();
    let mut led = Vec::new();
    let is_cluster = admins[0].0.is_some();
    if !is_cluster {
        let address = target;
        places.extend((0..admins[0].1.shards.max(1)).map(|shard| Place { address, shard }));
    }
    for (node, admin) in &mut admins {
        let map = admin.map()?;
        // Each node knows on which of its shards its own replicas are.
        for range in map.ranges.into_iter().filter(|range| range.leader == *node) {
            let place = Place {
                address: admin.address(),
                shard: range.shard,
            };
            let known = places.iter().position(|known| *known == place);
            let at = known.unwrap_or_else(|| {
                places.push(place);
                places.len() - 1
            });
            let at = u16::try_from(at).map_err(|_| BenchError::Refused {
                address: target,
                step: "give the range map",
                message: "it has more shards than can be numbered".to_owned(),
            })?;
            led.push((range.start, range.end, at));
        }
    }
    if is_cluster {
        order_by_ranges(&mut places, &mut led);
    }
    led.sort();
    Ok(Routes::new(places, with_gaps(led)))
}

/// Numbers places anew, those that lead most ranges first: fewer connections than places then have most of the keys.
fn order_by_ranges(places: &mut Vec<Place>, led: &mut [Led]) {
    let mut order: Vec<(usize, Place)> = places.drain(..).enumerate().collect();
    let count = |at: usize| led.iter().filter(|(.., place)| usize::from(*place) == at).count();
    order.sort_by_cached_key(|(at, _)| Reverse(count(*at)));
    for (.., place) in led {
        let at = order.iter().position(|(at, _)| *at == usize::from(*place));
        *place = u16::try_from(at.expect("each has its place")).expect("as many as before");
    }
    places.extend(order.into_iter().map(|(_, place)| place));
}

/// The first keys of led ranges with their places, of their spans in order, and those of the gaps between them.
fn with_gaps(led: Vec<Led>) -> Vec<(Vec<u8>, u16)> {
    let mut starts = Vec::with_capacity(led.len());
    let mut reached = Some(Vec::new());
    for (start, end, place) in led {
        if let Some(reached) = reached.filter(|reached| *reached < start) {
            starts.push((reached, NOWHERE));
        }
        starts.push((start, place));
        reached = end;
    }
    starts.extend(reached.map(|reached| (reached, NOWHERE)));
    starts
}

/// Which place serves which keys now. All of them are served.
pub(crate) fn routes(target: &Target, seed: u64) -> Result<Routes, BenchError> {
    let routes = survey(target.address, seed)?;
    match routes.unserved() {
        None => Ok(routes),
        Some(start) => Err(BenchError::Refused {
            address: target.address,
            step: "give the range map",
            message: format!(
                "the range that begins at {:?} has no leader among the nodes that answer: see `corelane status`",
                start.escape_ascii().to_string()
            ),
        }),
    }
}

fn admin(address: SocketAddr, seed: u64) -> Result<Admin, BenchError> {
    let client = u128::from(Prng::new(seed ^ session_salt()).next_u64());
    Admin::connect(socket(address)?, address, client, None)
}

/// A connection to each node of the target's cluster that answers, with the node's number; one without a number to a node that is alone.
fn admins(target: SocketAddr, seed: u64) -> Result<Vec<(Option<u64>, Admin)>, BenchError> {
    let mut first = admin(target, seed)?;
    let nodes = first.map()?.nodes;
    if nodes.is_empty() {
        return Ok(vec![(None, first)]);
    }
    let mut admins = Vec::with_capacity(nodes.len());
    for (number, (node, address)) in (1..).zip(nodes) {
        if let Ok(admin) = admin(address, seed.wrapping_add(number)) {
            admins.push((Some(node), admin));
        }
    }
    if admins.is_empty() {
        return Err(BenchError::Refused {
            address: target,
            step: "say where its nodes are",
            message: "none of the addresses that it gives answers".to_owned(),
        });
    }
    Ok(admins)
}

/// The server processes of a target that run on this machine: all of its cluster's nodes.
pub(crate) fn server_pids(target: &Target, seed: u64) -> Vec<u32> {
    let addresses: Vec<SocketAddr> = match target.protocol {
        Protocol::Corelane => admins(target.address, seed)
            .map(|admins| admins.iter().map(|(_, admin)| admin.address()).collect())
            .unwrap_or_default(),
        Protocol::Redis | Protocol::Etcd => vec![target.address],
    };
    let mut pids: Vec<u32> = addresses.into_iter().filter_map(process::listener_pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Client sessions must be new for every bench: a server remembers the writes of old ones.
fn session_salt() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            since.as_secs().wrapping_mul(1_000_000_007) ^ u64::from(since.subsec_nanos())
        })
        .rotate_left(32)
        ^ u64::from(std::process::id())
}

/// Splits the key space so that every shard of a node that is alone has work from the first request on; in a cluster, so that there is
/// something to spread, and what leads where stays as it is. Gives the target's number of places.
pub(crate) fn spread(target: &Target, records: &Records, seed: u64) -> Result<u16, BenchError> {
    if target.protocol != Protocol::Corelane {
        return Ok(1);
    }
    let mut admins = admins(target.address, seed)?;
    let shards = admins
        .iter()
        .fold(0u16, |sum, (_, admin)| sum.saturating_add(admin.shards.max(1)));
    if let Some(per_shard) = records.split_per_shard {
        let keys = split_keys((u64::from(shards) * u64::from(per_shard)).min(PARTS_MAX));
        if let [(None, alone)] = admins.as_mut_slice() {
            alone.spread(&keys)?;
        } else {
            let mut nodes: Vec<Admin> = admins.into_iter().map(|(_, admin)| admin).collect();
            for key in &keys {
                split_at_leader(&mut nodes, key)?;
            }
        }
    }
    let places = survey(target.address, seed)?.places.len();
    Ok(u16::try_from(places).unwrap_or(u16::MAX))
}

/// Splits a range of a cluster: the node that leads it does. What node did is asked first the next time.
fn split_at_leader(nodes: &mut [Admin], key: &[u8]) -> Result<(), BenchError> {
    for at in 0..nodes.len() {
        match nodes[at].split(key) {
            Ok(()) => {
                nodes.swap(0, at);
                return Ok(());
            }
            Err(error) if at + 1 == nodes.len() => return Err(error),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Asks a corelane server for its counters, beside the load.
pub(crate) struct Observer {
    admins: Vec<(Option<u64>, Admin)>,
}

impl Observer {
    /// For `target`; other servers than corelane have nothing to say.
    pub(crate) fn connect(target: &Target, seed: u64) -> Result<Self, BenchError> {
        let is_ours = target.protocol == Protocol::Corelane;
        let admins = if is_ours {
            admins(target.address, !seed)?
        } else {
            Vec::new()
        };
        Ok(Self { admins })
    }

    /// Counters since the servers started, over all shards; `None` when one of them has none.
    pub(crate) fn counters(&mut self) -> Option<Counters> {
        let mut sums: Option<Counters> = None;
        for (_, admin) in &mut self.admins {
            let counters = Counters::parse(&serde_json::from_str(&admin.status().ok()?).ok()?)?;
            sums = Some(sums.map_or(counters, |sums| Counters {
                log_writes: sums.log_writes + counters.log_writes,
                stalls: sums.stalls + counters.stalls,
            }));
        }
        sums
    }
}

/// What a corelane server has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Device writes of the log.
    pub(crate) log_writes: u64,
    /// Loop turns that were too long although the shard had a processor.
    pub(crate) stalls: u64,
}

impl Counters {
    /// Sums over `shards`.
    fn parse(status: &serde_json::Value) -> Option<Self> {
        let shards = status.get("shards")?.as_array()?;
        let sum = |pointer: &str| -> Option<u64> {
            shards.iter().map(|shard| shard.pointer(pointer)?.as_u64()).sum()
        };
        Some(Self {
            log_writes: sum("/log/device_writes")?,
            stalls: sum("/turns/stalls")?.saturating_sub(sum("/turns/starved")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_the_range_that_starts_at_or_before_them() {
        let starts = vec![(b"m".to_vec(), 1), (Vec::new(), 0), (b"t".to_vec(), 0)];
        let routes = Routes::new(Vec::new(), starts);
        for (key, owner) in [("", 0), ("a", 0), ("m", 1), ("sz", 1), ("t", 0), ("z", 0)] {
            assert_eq!(routes.owner(key.as_bytes()), Some(owner), "{key}");
        }
        assert_eq!(Routes::default().owner(b"a"), None);
    }

    #[test]
    fn few_connections_lead_to_those_who_lead_most() {
        let place = |shard| Place {
            address: "127.0.0.1:7400".parse().unwrap(),
            shard,
        };
        let mut places = vec![place(0), place(1), place(2)];
        let mut led: Vec<_> = [0, 1, 2, 2, 2, 1]
            .map(|at| (Vec::new(), None, at))
            .into_iter()
            .collect();
        order_by_ranges(&mut places, &mut led);
        assert_eq!(places, [place(2), place(1), place(0)]);
        let numbers: Vec<u16> = led.iter().map(|(.., at)| *at).collect();
        assert_eq!(numbers, [2, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn what_nobody_leads_is_served_nowhere() {
        let led = |start: &str, end: &str, place| {
            let end = (!end.is_empty()).then(|| end.as_bytes().to_vec());
            (start.as_bytes().to_vec(), end, place)
        };
        let starts = with_gaps(vec![led("b", "f", 0), led("f", "m", 1), led("p", "t", 0)]);
        let routes = Routes::new(Vec::new(), starts);
        let owner = |key: &str| routes.owner(key.as_bytes()).unwrap();
        assert_eq!(
            ["a", "b", "g", "m", "o", "p", "t", "z"].map(owner),
            [NOWHERE, 0, 1, NOWHERE, NOWHERE, 0, NOWHERE, NOWHERE]
        );
        assert_eq!(routes.unserved(), Some(&b""[..]));
        assert_eq!(routes.serving(), BTreeSet::from([0, 1]));
        let whole = Routes::new(Vec::new(), with_gaps(vec![led("", "m", 0), led("m", "", 1)]));
        assert_eq!(whole.unserved(), None);
    }

    #[test]
    fn places_keep_their_numbers() {
        let place = |port| Place {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            shard: 0,
        };
        let starts = |first, second| vec![(Vec::new(), first), (b"m".to_vec(), second)];
        let old = Routes::new(vec![place(1), place(2)], starts(0, 1));
        let new = Routes::new(vec![place(3), place(2)], starts(0, 1)).numbered_as(&old);
        assert_eq!(new.places, [place(1), place(2), place(3)]);
        assert_eq!(new.serving(), BTreeSet::from([1, 2]));
        assert_eq!((new.owner(b"a"), new.owner(b"m")), (Some(2), Some(1)));
    }

    #[test]
    fn connections_without_a_place_go_where_the_fewest_are() {
        let serving = BTreeSet::from([1, 2, 3]);
        let homes = [Some(0), Some(1), None, Some(1)];
        assert_eq!(deal(&homes, &serving), (vec![(0, 2), (2, 3)], vec![]));
        assert_eq!(deal(&[Some(1)], &serving), (vec![], vec![2, 3]));
        assert_eq!(deal(&[Some(0), None], &BTreeSet::new()), (vec![], vec![]));
    }

    #[test]
    fn counters_are_summed_over_shards_or_not_known() {
        let read = |text: &str| Counters::parse(&serde_json::from_str(text).unwrap());
        let shard = |writes: &str| {
            format!(r#"{{"log":{{"device_writes":{writes}}},"turns":{{"stalls":3,"starved":1}}}}"#)
        };
        let two = format!(r#"{{"shards":[{},{}]}}"#, shard("3"), shard("4"));
        let sums = Counters {
            log_writes: 7,
            stalls: 4,
        };
        assert_eq!(read(&two), Some(sums));
        let unknown = format!(r#"{{"shards":[{},{{"log":{{}}}}]}}"#, shard("3"));
        assert_eq!(read(&unknown), None);
        assert_eq!(read("{}"), None);
    }
}
