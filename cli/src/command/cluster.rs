//! What `start` is told of a cluster: the list of nodes in text, and what follows from it.

use crate::command::start::address;
use crate::command::start_error;
use crate::error::{CliError, Exit};
use base::NodeId;
use clap::Args;
use node::{Cluster, Identity, Member};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use wire::Code;

const HOW_TO_WRITE: &str = "write ID=HOST:PORT, for example --cluster 1=10.0.0.1:7400,2=10.0.0.2:7400,3=10.0.0.3:7400; \
                            ID=HOST:PORT@HOST:PORT when this node reaches the other one elsewhere than clients do";

/// How long one look at the nodes to join takes at most.
const SEED_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const SEED_PAUSE: Duration = Duration::from_millis(500);

/// The options of a node of a cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// The number of this node in its cluster
    #[arg(long, value_name = "N", env = "CORELANE_NODE")]
    node: Option<u64>,
    /// Join the cluster of the nodes at HOST:PORT,…: one that answers is enough. Others reach this node where it listens
    #[arg(long, value_name = "LIST", env = "CORELANE_JOIN", conflicts_with = "cluster")]
    join: Option<String>,
    /// The nodes that a cluster begins with, the same list on each of them: ID=HOST:PORT,… where clients and nodes reach them; ID=HOST:PORT@HOST:PORT
    /// when this node reaches one elsewhere than clients do
    #[arg(long, value_name = "LIST", env = "CORELANE_CLUSTER")]
    cluster: Option<String>,
    /// Tells clusters apart: nodes of other names are refused
    #[arg(
        long,
        value_name = "TEXT",
        env = "CORELANE_CLUSTER_NAME",
        default_value = "corelane"
    )]
    cluster_name: String,
}

impl ClusterArgs {
    /// The nodes that this one is to join, if any.
    pub(crate) fn seeds(&self) -> Option<&str> {
        self.join.as_deref()
    }

    /// The cluster that this node joins. A node that has joined knows it from its data directory; a new one asks the nodes at
    /// `seeds`, waiting for one of them to answer.
    pub(crate) fn join(&self, seeds: &str, own: SocketAddr, data: &Path) -> Result<Cluster, CliError> {
        let Some(me) = self.node.map(NodeId) else {
            return Err(refused("--join is given without --node".to_owned())
                .help("give this node a number that no other node of the cluster has: --node N"));
        };
        if own.port() == 0 || own.ip().is_unspecified() {
            return Err(refused(format!("a node that joins cannot listen at {own}"))
                .help("other nodes and clients reach it where it listens: --listen HOST:PORT with an address of this machine"));
        }
        let identity = match std::fs::read(data.join(node::identity::FILE)) {
            Ok(block) => Some(Identity::decode(&block).map_err(|error| start_error::of_identity(&error))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(CliError::new(
                    Code::DiskFailed.number(),
                    Exit::Config,
                    format!("cannot read who this node is from {}", data.display()),
                )
                .cause(error.to_string()));
            }
        };
        let (id, seeds) = match identity {
            // Its list of nodes is there: nobody needs to be.
            Some(identity) if data.join(node::roster::FILE).exists() => (identity.cluster, Vec::new()),
            _ => ask(seeds)?,
        };
        if let Some(taken) = seeds
            .iter()
            .find(|member| member.node == me && identity.is_none())
        {
            return Err(refused(format!("the cluster has a node {} already, at {}", me.0, taken.address)).help(
                "choose another number. A node that comes back needs its data directory; where that is lost, drain the number with \
                 `corelane node drain` and join under another one",
            ));
        }
        if own.ip().is_loopback()
            && let Some(far) = seeds.iter().find(|member| !member.address.ip().is_loopback())
        {
            return Err(refused(format!(
                "node {} of the cluster is at {}, and could not reach this one at {own}",
                far.node.0, far.address
            ))
            .help("--listen HOST:PORT with an address of this machine, and --insecure if the network is yours alone"));
        }
        let seeds = seeds.into_iter().filter(|member| member.node != me).collect();
        Ok(Cluster {
            founders: Vec::new(),
            seeds,
            ..Cluster::new(id, me, vec![Member::new(me, own)])
        })
    }

    /// The cluster that the options ask for, if it is one that begins; `None` for a node that is alone.
    pub(crate) fn cluster(&self) -> Result<Option<Cluster>, CliError> {
        let (me, list) = match (self.node, self.cluster.as_deref()) {
            (None, None) => return Ok(None),
            (Some(me), Some(list)) => (NodeId(me), list),
            (Some(_), None) => {
                return Err(
                    refused("--node is given without --cluster or --join".to_owned()).help(HOW_TO_WRITE)
                );
            }
            (None, Some(_)) => {
                return Err(refused("--cluster is given without --node".to_owned())
                    .help("say which of the nodes this one is: --node N"));
            }
        };
        let mut nodes = list
            .split(',')
            .map(|entry| member(entry.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        nodes.sort_unstable_by_key(|member| member.node);
        for pair in nodes.windows(2) {
            if pair[0].node == pair[1].node {
                let what = format!("node {} is twice in the list of --cluster", pair[0].node.0);
                return Err(refused(what).help("give each node a number of its own"));
            }
        }
        if nodes.iter().all(|member| member.node != me) {
            let known: Vec<_> = nodes.iter().map(|member| member.node.0.to_string()).collect();
            return Err(
                refused(format!("node {} is not in the list of --cluster", me.0)).help(format!(
                    "the list has the nodes {}; add this one, or choose one of them with --node",
                    known.join(", ")
                )),
            );
        }
        let ids: Vec<_> = nodes.iter().map(|member| member.node).collect();
        Ok(Some(Cluster::new(
            cluster_id(&self.cluster_name, &ids),
            me,
            nodes,
        )))
    }
}

/// Asks the nodes at `seeds` which cluster they are of and who else is, until one answers.
fn ask(seeds: &str) -> Result<(u128, Vec<Member>), CliError> {
    let options = corelane::Options {
        app: "corelane start --join".to_owned(),
        deadline: SEED_PATIENCE,
        ..corelane::Options::default()
    };
    let mut is_said = false;
    loop {
        let asked = corelane::blocking::connect_with(seeds, options.clone())
            .and_then(|db| Ok((db.nodes()?, db.node())));
        let (nodes, cluster) = match asked {
            Ok((nodes, node)) => (nodes, node.map_or(0, |node| node.cluster)),
            Err(error @ corelane::Error::InvalidAddress { .. }) => {
                return Err(refused(format!("cannot join `{seeds}`"))
                    .cause(error.to_string())
                    .help("write --join HOST:PORT, the address of any node of the cluster"));
            }
            Err(error) if !may_pass(&error) => {
                return Err(refused(format!("cannot join the node at {seeds}"))
                    .cause(error.to_string())
                    .help("write --join HOST:PORT, the address of any node of the cluster"));
            }
            Err(error) => {
                if !core::mem::replace(&mut is_said, true) {
                    eprintln!("waiting for a node of the cluster at {seeds} to answer: {error}");
                }
                std::thread::sleep(SEED_PAUSE);
                continue;
            }
        };
        if nodes.is_empty() {
            return Err(refused(format!("the node at {seeds} is alone, not of a cluster"))
                .help("start it with --node and --cluster; `corelane start --help` shows how"));
        }
        let member = |(node, at): (NodeId, corelane::Address)| {
            Ok(Member::new(
                node,
                address(&format!("{}:{}", bracketed(&at.host), at.port))?,
            ))
        };
        let members = nodes.into_iter().map(member).collect::<Result<_, CliError>>()?;
        return Ok((cluster, members));
    }
}

/// Whether a node may answer later.
fn may_pass(error: &corelane::Error) -> bool {
    match error {
        corelane::Error::Unavailable { .. } | corelane::Error::DeadlineExceeded { .. } => true,
        corelane::Error::Server { retryable, .. } => *retryable,
        _ => false,
    }
}

/// A host as it stands before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Where this node listens unless it is told otherwise.
pub(crate) fn own_address(cluster: &Cluster) -> Option<SocketAddr> {
    let me = cluster.nodes.iter().find(|member| member.node == cluster.me)?;
    Some(me.address)
}

/// An address of the list that other machines can reach, if there is one.
pub(crate) fn open_address(cluster: &Cluster) -> Option<SocketAddr> {
    let mut addresses = cluster
        .nodes
        .iter()
        .flat_map(|member| [member.address, member.peer_address]);
    addresses.find(|address| !address.ip().is_loopback())
}

/// What is to be said of the number of nodes.
pub(crate) fn note_on(count: usize) -> Option<String> {
    count.is_multiple_of(2).then(|| {
        format!(
            "note: a cluster of {count} nodes bears no more failures than one of {}",
            count - 1
        )
    })
}

/// An entry of the list: `ID=HOST:PORT`, or `ID=HOST:PORT@HOST:PORT`.
fn member(entry: &str) -> Result<Member, CliError> {
    let wrong = |why: String| {
        refused(format!("`{entry}` in the list of --cluster is not a node"))
            .cause(why)
            .help(HOW_TO_WRITE)
    };
    let (id, places) = entry
        .split_once('=')
        .ok_or_else(|| wrong("there is no `=` in it".to_owned()))?;
    let node = match id.trim().parse::<u64>() {
        Ok(id) if id > 0 => NodeId(id),
        Ok(_) => return Err(wrong("nodes are numbered from 1".to_owned())),
        Err(_) => return Err(wrong(format!("`{id}` is not a number"))),
    };
    let resolve = |place: &str| {
        let found = address(place).map_err(|error| {
            let why = error.cause.unwrap_or(error.what);
            wrong(format!("`{place}`: {why}"))
        })?;
        if found.port() == 0 {
            return Err(wrong(format!("`{place}`: other nodes need to know the port")));
        }
        Ok(found)
    };
    let (clients, nodes) = places.split_once('@').unwrap_or((places, places));
    Ok(Member {
        node,
        address: resolve(clients)?,
        peer_address: resolve(nodes)?,
    })
}

fn refused(what: String) -> CliError {
    CliError::new(Code::ConfigurationInvalid.number(), Exit::Config, what)
}

/// The cluster's id: FNV-1a over 128 bits of the name and the sorted numbers of the nodes. Not of addresses, which may change.
/// It keeps apart by accident, not against an attacker.
fn cluster_id(name: &str, nodes: &[NodeId]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
    let numbers = nodes.iter().flat_map(|node| node.0.to_le_bytes());
    // No text has the byte 255.
    let bytes = name.bytes().chain([255]).chain(numbers);
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: u64, list: &str) -> Result<Cluster, CliError> {
        let args = ClusterArgs {
            node: Some(node),
            cluster: Some(list.to_owned()),
            join: None,
            cluster_name: "corelane".to_owned(),
        };
        args.cluster().map(|cluster| cluster.expect("both are given"))
    }

    #[test]
    fn a_list_says_where_nodes_are() {
        let cluster = told(2, "3=127.0.0.1:3@127.0.0.1:33, 1=127.0.0.1:1,2=127.0.0.1:2").unwrap();
        let ids: Vec<_> = cluster.nodes.iter().map(|member| member.node.0).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(own_address(&cluster).unwrap().port(), 2);
        assert_eq!(
            (
                cluster.nodes[2].address.port(),
                cluster.nodes[2].peer_address.port()
            ),
            (3, 33)
        );
        assert_eq!(open_address(&cluster), None);
        assert_eq!(cluster.check(), Ok(()));
        let open = told(1, "1=127.0.0.1:1@10.0.0.1:1").unwrap();
        assert_eq!(open_address(&open), Some("10.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (node, list, word) in [
            (1, "1:127.0.0.1:1", "no `=`"),
            (1, "0=127.0.0.1:1", "from 1"),
            (1, "one=127.0.0.1:1", "`one` is not a number"),
            (1, "1=127.0.0.1", "`127.0.0.1`"),
            (1, "1=127.0.0.1:0", "the port"),
            (1, "1=127.0.0.1:1,", "`` in the list"),
            (1, "1=127.0.0.1:1,1=127.0.0.1:2", "node 1 is twice"),
            (4, "1=127.0.0.1:1,2=127.0.0.1:2", "node 4 is not in the list"),
        ] {
            let error = told(node, list).unwrap_err();
            let text = error.render(false);
            assert!(text.contains(word) && error.help.is_some(), "{list}: {text}");
            assert_eq!(error.exit, Exit::Config);
        }
    }

    #[test]
    fn ids_are_of_names_and_numbers() {
        let ids = |numbers: &[u64]| numbers.iter().copied().map(NodeId).collect::<Vec<_>>();
        let id = cluster_id("corelane", &ids(&[1, 2, 3]));
        assert_eq!(
            id, 0x0e9b_45a5_fd73_ea4f_595d_1c6b_0cc6_dd99,
            "data directories hold it, so it stays"
        );
        for other in [
            cluster_id("corelane2", &ids(&[1, 2, 3])),
            cluster_id("corelane", &ids(&[1, 2])),
            cluster_id("corelane", &ids(&[1, 2, 4])),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn even_numbers_are_remarked_upon() {
        assert_eq!(note_on(3), None);
        assert!(note_on(4).unwrap().ends_with("one of 3"));
    }
}
