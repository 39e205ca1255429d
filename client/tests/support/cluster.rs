//! Several tiny servers over one world: one node leads a range, the others refuse.

use super::scan::Scan;
use super::{After, Fault, Session, World, serve};
use base::RequestId;
use base::api::ReadAt;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use wire::{Code, RequestRef, reply};

/// The cluster of every node that is not told otherwise.
pub(crate) const CLUSTER: u128 = 0x0909;

/// One node, as the world has it.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) number: u64,
    /// `HOST:PORT`.
    pub(crate) address: String,
    pub(crate) cluster: u128,
    /// It answers nothing, but its connections stay.
    pub(crate) paused: bool,
    /// Goes silent once it has applied a write.
    pub(crate) pauses_after_write: bool,
    /// Whom it names as the leader, instead of who leads: zero for nobody.
    pub(crate) believes: Option<u64>,
    /// Its map's version is higher by this.
    pub(crate) map_version_ahead: u64,
    /// As [`World::faults`], of this node only.
    pub(crate) faults: VecDeque<Fault>,
    /// It shows the past of ranges that it does not lead.
    pub(crate) shows_past: bool,
    pub(crate) life: u64,
    /// Requests that it was sent, hellos and maps not counted.
    pub(crate) requests: u64,
    pub(crate) refusals: u64,
}

impl Node {
    pub(super) fn entry(&self) -> reply::NodeEntry<'_> {
        reply::NodeEntry {
            node: self.number,
            address: &self.address,
        }
    }
}

/// Running nodes; they end with the test.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) world: Arc<Mutex<World>>,
    listeners: Vec<Option<JoinHandle<()>>>,
}

impl Cluster {
    /// `count` nodes, numbered from 1, and one range led by the first.
    pub(crate) async fn start(count: u64) -> Self {
        let world = World {
            ranges: vec![(Vec::new(), 0)],
            leaders: vec![1],
            map_version: 1,
            shards: 2,
            ..World::default()
        };
        let mut cluster = Self {
            world: Arc::new(Mutex::new(world)),
            listeners: Vec::new(),
        };
        for number in 1..=count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let node = Node {
                number,
                address: listener.local_addr().unwrap().to_string(),
                cluster: CLUSTER,
                ..Node::default()
            };
            cluster.with(|world| world.nodes.push(node));
            cluster.listeners.push(None);
            cluster.accept(number, listener);
        }
        cluster
    }

    fn accept(&mut self, number: u64, listener: TcpListener) {
        let world = self.world.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, world.clone(), number));
            }
        });
        self.listeners[at(number)] = Some(accepting);
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.world.lock().unwrap())
    }

    pub(crate) fn node<R>(&self, number: u64, f: impl FnOnce(&mut Node) -> R) -> R {
        self.with(|world| f(&mut world.nodes[at(number)]))
    }

    /// The URL that names these nodes.
    pub(crate) fn url(&self, numbers: &[u64]) -> String {
        let address = |number: &u64| self.node(*number, |node| node.address.clone());
        let addresses: Vec<_> = numbers.iter().map(address).collect();
        format!("corelane://{}", addresses.join(","))
    }

    /// The node leads the range at this position of the map from now on.
    pub(crate) fn lead(&self, range: usize, number: u64) {
        self.with(|world| world.leaders[range] = number);
    }

    /// The node listens no more, and its connections end at their next request.
    pub(crate) async fn stop(&mut self, number: u64) {
        self.node(number, |node| node.life += 1);
        if let Some(accepting) = self.listeners[at(number)].take() {
            accepting.abort();
            // The listener is dropped with the task.
            let _ = accepting.await;
        }
    }

    /// The node listens again where it did.
    pub(crate) fn restart(&mut self, number: u64) {
        let address = self.node(number, |node| node.address.parse().unwrap());
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        self.accept(number, listener);
    }
}

fn at(number: u64) -> usize {
    usize::try_from(number).unwrap() - 1
}

impl World {
    fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(at(number))
    }

    pub(super) fn life_of(&self, number: u64) -> u64 {
        self.node(number).map_or(self.life, |node| node.life)
    }

    pub(super) fn cluster_of(&self, number: u64) -> u128 {
        self.node(number).map_or(CLUSTER, |node| node.cluster)
    }

    pub(super) fn is_paused(&self, number: u64) -> bool {
        self.node(number).is_some_and(|node| node.paused)
    }

    pub(super) fn map_version_of(&self, number: u64) -> u64 {
        self.map_version + self.node(number).map_or(0, |node| node.map_version_ahead)
    }

    pub(super) fn next_fault(&mut self, number: u64) -> Option<Fault> {
        let own = self.nodes.get_mut(at(number)).and_then(|node| {
            node.requests += 1;
            node.faults.pop_front()
        });
        own.or_else(|| self.faults.pop_front())
    }

    /// Whoever leads a range and is to go silent after a write does so.
    pub(super) fn pause_after_write(&mut self) {
        for node in &mut self.nodes {
            node.paused |= core::mem::take(&mut node.pauses_after_write);
        }
    }

    pub(super) fn leader_known_to(&self, number: u64, range: usize) -> Option<u64> {
        let node = self.node(number)?;
        let leader = node
            .believes
            .unwrap_or_else(|| self.leaders.get(range).copied().unwrap_or(0));
        (leader > 0).then_some(leader)
    }

    /// The range, unless the node leads it.
    pub(super) fn led_elsewhere(&self, number: u64, range: usize) -> Option<usize> {
        self.node(number)?;
        (self.leaders.get(range) != Some(&number)).then_some(range)
    }

    pub(super) fn shows_past(&self, number: u64) -> bool {
        self.node(number).is_some_and(|node| node.shows_past)
    }

    pub(super) fn range_of_scan(&self, scan: &Scan) -> usize {
        if scan.reverse {
            self.range_before(scan.end.as_deref())
        } else {
            self.range_at(&scan.start)
        }
    }

    fn range_before(&self, end: Option<&[u8]>) -> usize {
        let start = self.range_start_before(end);
        self.range_at(&start)
    }

    /// After so many pages, a range changes its leader.
    pub(super) fn page_sent(&mut self) {
        if let Some((pages, range, leader)) = &mut self.change_of_leader {
            *pages -= 1;
            if *pages == 0 {
                let (range, leader) = (*range, *leader);
                self.change_of_leader = None;
                self.leaders[range] = leader;
            }
        }
    }
}

impl Session {
    /// Refuses requests for ranges that another node leads.
    pub(super) fn check_leader(
        &mut self,
        id: RequestId,
        request: &RequestRef<'_>,
        world: &mut World,
    ) -> Option<After> {
        let is_past = match request {
            RequestRef::Get(get) => get.at() != ReadAt::Newest,
            RequestRef::Scan(scan) => scan.at() != ReadAt::Newest,
            _ => false,
        };
        if is_past && world.shows_past(self.node) {
            return None;
        }
        let range = match request {
            RequestRef::Get(get) => world.range_at(&get.key),
            RequestRef::Put(put) => world.range_at(&put.key),
            RequestRef::Scan(scan) if scan.reverse => world.range_before(scan.end()),
            RequestRef::Scan(scan) => world.range_at(&scan.start),
            RequestRef::Write(write) => world.range_at(write.ops().next()?.key()),
            RequestRef::Split(split) => world.range_at(&split.key),
            _ => return None,
        };
        let range = world.led_elsewhere(self.node, range)?;
        world.nodes[at(self.node)].refusals += 1;
        self.refuse_to_lead(id, range, world);
        Some(After::Go)
    }

    pub(super) fn refuse_to_lead(&mut self, id: RequestId, range: usize, world: &World) {
        let leader = world.leader_known_to(self.node, range);
        let message = format!("range {range} is led by {leader:?}");
        let reply = reply::ErrorReply {
            retryable: true,
            range_map_version: world.map_version_of(self.node),
            range: Some(range as u64),
            leader,
            message: &message,
            ..reply::ErrorReply::new(Code::NotLeader)
        };
        self.outbox.push(id, &reply).unwrap();
    }
}
