//! Connecting to a target: sockets, the protocol on each, and which keys belong on which connection.

use std::net::TcpStream;
use std::time::Duration;

use base::Prng;

use crate::BenchError;
use crate::config::{Protocol, Records, Target};
use crate::driver::{Admin, Driver, EtcdDriver, RedisDriver};
use crate::workload::split_keys;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Ranges that a bench may split a key space into.
const PARTS_MAX: u64 = 4096;

/// One connection, ready for the load.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    pub(crate) driver: Box<dyn Driver>,
    /// The shard that serves it, where that is known: it is given keys of this shard.
    pub(crate) home: Option<u16>,
}

/// Which shard serves which keys, as it was when the run began.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    /// First keys of the ranges with their shards, rising.
    starts: Vec<(Vec<u8>, u16)>,
}

impl Routes {
    fn new(mut starts: Vec<(Vec<u8>, u16)>) -> Self {
        starts.sort();
        Self { starts }
    }

    /// The shard that serves `key`; `None` when the target has no shards.
    pub(crate) fn owner(&self, key: &[u8]) -> Option<u16> {
        let after = self.starts.partition_point(|(start, _)| start.as_slice() <= key);
        Some(self.starts[after.checked_sub(1)?].1)
    }
}

fn socket(target: &Target) -> Result<TcpStream, BenchError> {
    let connect = |source| BenchError::Connect {
        address: target.address,
        source,
    };
    let socket = TcpStream::connect_timeout(&target.address, CONNECT_TIMEOUT).map_err(connect)?;
    socket.set_nodelay(true).map_err(connect)?;
    Ok(socket)
}

/// Opens `count` connections and learns the routes between them.
pub(crate) fn connect(
    target: &Target,
    count: u32,
    seed: u64,
) -> Result<(Vec<Connection>, Routes), BenchError> {
    let mut routes = Routes::default();
    let mut shards = 1u16;
    if target.protocol == Protocol::Corelane {
        let mut admin = admin(target, seed)?;
        shards = admin.shards.max(1);
        routes = Routes::new(
            admin
                .ranges()?
                .into_iter()
                .map(|(start, _, shard)| (start, shard))
                .collect(),
        );
    }
    let mut sessions = Prng::new(seed ^ session_salt());
    let mut connections = Vec::with_capacity(count as usize);
    for number in 0..count {
        let socket = socket(target)?;
        let connection = match target.protocol {
            Protocol::Redis => Connection {
                socket,
                driver: Box::new(RedisDriver::new()),
                home: None,
            },
            Protocol::Etcd => {
                let driver = Box::new(EtcdDriver::new(&target.address.to_string()));
                Connection {
                    socket,
                    driver,
                    home: None,
                }
            }
            Protocol::Corelane => {
                let client = u128::from(sessions.next_u64()) << 64 | u128::from(sessions.next_u64());
                let shard = u16::try_from(number % u32::from(shards)).expect("below a 16-bit count");
                let admin = Admin::connect(socket, target.address, client, Some(shard))?;
                let home = admin.shard;
                let (socket, driver) = admin.into_driver();
                Connection {
                    socket,
                    driver: Box::new(driver),
                    home: Some(home),
                }
            }
        };
        connection
            .socket
            .set_nonblocking(true)
            .map_err(|source| BenchError::Local {
                operation: "make a socket non-blocking",
                source,
            })?;
        connections.push(connection);
    }
    Ok((connections, routes))
}

fn admin(target: &Target, seed: u64) -> Result<Admin, BenchError> {
    let client = u128::from(Prng::new(seed ^ session_salt()).next_u64());
    Admin::connect(socket(target)?, target.address, client, None)
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

/// Splits the key space so that every shard has work from the first request on. Gives the target's number of shards.
pub(crate) fn spread(target: &Target, records: &Records, seed: u64) -> Result<u16, BenchError> {
    if target.protocol != Protocol::Corelane {
        return Ok(1);
    }
    let mut admin = admin(target, seed)?;
    let shards = admin.shards.max(1);
    if let Some(per_shard) = records.split_per_shard {
        admin.spread(&split_keys(
            (u64::from(shards) * u64::from(per_shard)).min(PARTS_MAX),
        ))?;
    }
    Ok(shards)
}

/// Asks a corelane server for its counters, beside the load.
pub(crate) struct Observer {
    admin: Option<Admin>,
}

impl Observer {
    /// For `target`; other servers than corelane have nothing to say.
    pub(crate) fn connect(target: &Target, seed: u64) -> Result<Self, BenchError> {
        let is_ours = target.protocol == Protocol::Corelane;
        Ok(Self {
            admin: is_ours.then(|| admin(target, !seed)).transpose()?,
        })
    }

    /// Counters since the server started, over all shards; `None` when the server has none.
    pub(crate) fn counters(&mut self) -> Option<Counters> {
        let status = self.admin.as_mut()?.status().ok()?;
        Counters::parse(&serde_json::from_str(&status).ok()?)
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
        let routes = Routes::new(vec![(b"m".to_vec(), 1), (Vec::new(), 0), (b"t".to_vec(), 0)]);
        for (key, owner) in [("", 0), ("a", 0), ("m", 1), ("sz", 1), ("t", 0), ("z", 0)] {
            assert_eq!(routes.owner(key.as_bytes()), Some(owner), "{key}");
        }
        assert_eq!(Routes::default().owner(b"a"), None);
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
