//! A tiny server that speaks the wire format: one map in memory, shards in name only, and faults on demand. Several of them
//! over one map play a cluster.
#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

pub(crate) mod cluster;
#[path = "../../../engine/txn/tests/fixtures/mod.rs"]
mod fixtures;
mod scan;
pub(crate) mod transact;

use base::Timestamp;
use base::api::{Condition, ReadAt, WriteId, WriteOp};
use base::limits;
use cluster::Node;
use scan::Scan;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use transact::Txns;
use wire::convert::Stamp;
use wire::frame::FLAG_MISROUTED;
use wire::request::ArchivedScan;
use wire::{Code, Frame, FrameReader, Outbox, RequestRef, decode_request, reply};

/// What goes wrong with a request, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends before the request is looked at.
    CutBefore,
    /// The request is performed, and the connection ends without an answer.
    CutAfter,
    /// No answer comes, ever.
    Silence,
    /// The request is refused.
    Refuse(Code, bool),
    /// A scan's connection ends after its first page.
    CutScan,
    /// The request is answered by something that is not its answer.
    WrongAnswer,
    /// The request is answered by bytes that are not a frame.
    Garbage,
}

/// A version of a key: no value when it was deleted.
type Version = (Timestamp, Option<Vec<u8>>);

/// Everything the server knows.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Versions by key, oldest first.
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
    clock: u64,
    /// Start keys and shards, by start key.
    pub(crate) ranges: Vec<(Vec<u8>, u16)>,
    pub(crate) map_version: u64,
    pub(crate) shards: u16,
    /// Requests for another shard's keys are answered all the same, with a flag; otherwise refused.
    pub(crate) forwards: bool,
    /// One per request, in order, hellos and range maps not counted.
    pub(crate) faults: VecDeque<Fault>,
    results: BTreeMap<(u128, u64), Timestamp>,
    pub(crate) writes_applied: u64,
    pub(crate) repetitions: u64,
    pub(crate) connections: u64,
    pub(crate) misrouted: u64,
    pub(crate) maps_asked: u64,
    pub(crate) acked_below: u64,
    pub(crate) pages_ahead_max: u32,
    pub(crate) scans_cancelled: u64,
    pub(crate) refuse_hello: Option<Code>,
    /// Connections of earlier lives end at their next request.
    pub(crate) life: u64,
    /// By number, from 1; empty for a server that is alone.
    pub(crate) nodes: Vec<Node>,
    /// By position in `ranges`: the node that leads; zero for none.
    pub(crate) leaders: Vec<u64>,
    /// After so many pages, this range is led by this node.
    pub(crate) change_of_leader: Option<(u32, usize, u64)>,
    /// Numbers of the writes that arrived, in order, and the node that each arrived at.
    pub(crate) writes_seen: Vec<(u64, u64)>,
    /// Read timestamps of scans, and the node that each arrived at.
    pub(crate) scans_seen: Vec<(u64, Option<Timestamp>)>,
    /// The nodes that have replicas of every range, as maps say.
    pub(crate) replicas: Vec<u64>,
    /// Ranges that evaluate transactions. What plain requests write is apart from them.
    pub(crate) txns: Option<Txns>,
}

/// A running server; ends with the test.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) world: Arc<Mutex<World>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("corelane://{}", listener.local_addr().unwrap());
        let world = World {
            ranges: vec![(Vec::new(), 0)],
            map_version: 1,
            shards: 2,
            ..World::default()
        };
        let world = Arc::new(Mutex::new(world));
        let shared = world.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, shared.clone(), 1));
            }
        });
        Self { address, world }
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.world.lock().unwrap())
    }

    pub(crate) fn fail_next(&self, faults: &[Fault]) {
        self.with(|world| world.faults.extend(faults));
    }
}

/// The timestamp that a read names.
fn chosen(at: ReadAt) -> Option<Timestamp> {
    match at {
        ReadAt::At(ts) => Some(ts),
        ReadAt::Newest | ReadAt::Ago(_) | ReadAt::Within(_) => None,
    }
}

/// What to do after a request.
enum After {
    Go,
    Cut,
}

struct Session {
    world: Arc<Mutex<World>>,
    /// Which node this is.
    node: u64,
    outbox: Outbox,
    shard: u16,
    client: u128,
    life: u64,
    /// Scans that have more pages: what is left, and how much credit.
    scans: BTreeMap<base::RequestId, Scan>,
}

async fn serve(socket: TcpStream, world: Arc<Mutex<World>>, node: u64) {
    socket.set_nodelay(true).unwrap();
    world.lock().unwrap().connections += 1;
    let mut inbox = FrameReader::new(limits::FRAME_BYTES_MAX);
    let life = world.lock().unwrap().life_of(node);
    let mut session = Session {
        world,
        node,
        life,
        outbox: Outbox::new(),
        shard: 0,
        client: 0,
        scans: BTreeMap::new(),
    };
    loop {
        while let Some(frame) = inbox.next().unwrap() {
            if matches!(session.on_frame(&frame), After::Cut) {
                return;
            }
        }
        let cut = session.run_scans();
        while !session.outbox.is_empty() {
            match socket.try_write(session.outbox.bytes()) {
                Ok(n) => session.outbox.consume(n),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if socket.writable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        if cut || socket.readable().await.is_err() {
            return;
        }
        match socket.try_read(inbox.spare()) {
            Ok(0) => return,
            Ok(n) => inbox.filled(n),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

impl World {
    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::new(self.clock, 0)
    }

    pub(crate) fn range_at(&self, key: &[u8]) -> usize {
        self.ranges.partition_point(|(start, _)| **start <= *key) - 1
    }

    fn shard_of(&self, key: &[u8]) -> u16 {
        self.ranges
            .iter()
            .rev()
            .find(|(start, _)| **start <= *key)
            .unwrap()
            .1
    }

    fn range_end(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.ranges
            .iter()
            .map(|(start, _)| start)
            .find(|start| ***start > *key)
            .cloned()
    }

    fn range_start_before(&self, end: Option<&[u8]>) -> Vec<u8> {
        let before = |start: &[u8]| end.is_none_or(|end| start < end);
        self.ranges
            .iter()
            .rev()
            .map(|(start, _)| start)
            .find(|start| before(start))
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn value(&self, key: &[u8], at: Timestamp) -> Option<(Timestamp, Vec<u8>)> {
        let versions = self.versions.get(key)?;
        let (ts, value) = versions.iter().rev().find(|(ts, _)| *ts <= at)?;
        Some((*ts, value.clone()?))
    }

    fn write<'a>(
        &mut self,
        id: WriteId,
        conditions: impl Iterator<Item = Condition<'a>>,
        ops: impl Iterator<Item = WriteOp<'a>>,
    ) -> Result<Timestamp, (u32, Option<Vec<u8>>)> {
        self.acked_below = self.acked_below.max(id.acked_below);
        self.pause_after_write();
        if let Some(&ts) = self.results.get(&(id.client.0, id.seq)) {
            self.repetitions += 1;
            return Ok(ts);
        }
        for (at, condition) in conditions.enumerate() {
            let found = self
                .value(condition.key(), Timestamp::MAX)
                .map(|(_, value)| value);
            let holds = match condition {
                Condition::Absent { .. } => found.is_none(),
                Condition::Equals { value, .. } => found.as_deref() == Some(value),
            };
            if !holds {
                return Err((u32::try_from(at).unwrap(), found));
            }
        }
        let ts = self.now();
        for op in ops {
            match op {
                WriteOp::Put { key, value } => {
                    self.versions
                        .entry(key.to_vec())
                        .or_default()
                        .push((ts, Some(value.to_vec())));
                }
                WriteOp::Delete { key } => self.versions.entry(key.to_vec()).or_default().push((ts, None)),
                WriteOp::DeleteRange { start, end } => {
                    for (key, versions) in self.versions.range_mut(start.to_vec()..) {
                        if end.is_none_or(|end| **key < *end) {
                            versions.push((ts, None));
                        }
                    }
                }
            }
        }
        self.writes_applied += 1;
        self.results.insert((id.client.0, id.seq), ts);
        Ok(ts)
    }
}

impl Session {
    fn on_frame(&mut self, frame: &Frame<'_>) -> After {
        let request = decode_request(frame).unwrap();
        let id = frame.request;
        let shared = self.world.clone();
        let mut world = shared.lock().unwrap();
        if world.life_of(self.node) != self.life {
            return After::Cut;
        }
        if world.is_paused(self.node) {
            return After::Go;
        }
        match &request {
            RequestRef::Hello(hello) => {
                self.shard = hello.shard_id().map_or(0, |shard| shard.0);
                self.client = hello.client_id().0;
                if let Some(code) = world.refuse_hello {
                    self.refuse(id, code, false, &world);
                    return After::Go;
                }
                if self.shard >= world.shards {
                    self.refuse(id, Code::NoSuchShard, false, &world);
                    return After::Go;
                }
                self.hello(id, &world);
                return After::Go;
            }
            RequestRef::RangeMap(_) => {
                world.maps_asked += 1;
                self.range_map(id, &world);
                return After::Go;
            }
            RequestRef::ScanCredit(credit) => {
                if let Some(scan) = self.scans.get_mut(&id) {
                    scan.credit += credit.pages.to_native();
                }
                return After::Go;
            }
            RequestRef::ScanCancel(_) => {
                world.scans_cancelled += u64::from(self.scans.remove(&id).is_some());
                return After::Go;
            }
            _ => {}
        }
        let fault = world.next_fault(self.node);
        match fault {
            Some(Fault::CutBefore) => return After::Cut,
            Some(Fault::Silence) => return After::Go,
            Some(Fault::Refuse(code, retryable)) => {
                self.refuse(id, code, retryable, &world);
                return After::Go;
            }
            Some(Fault::WrongAnswer) => {
                self.outbox.push(id, &reply::DiskWriteReply { bytes: 0 }).unwrap();
                return After::Go;
            }
            Some(Fault::Garbage) => {
                self.outbox.push_frames(&[0xff; 64]);
                return After::Go;
            }
            Some(Fault::CutAfter | Fault::CutScan) | None => {}
        }
        if let Some(after) = self.check_leader(id, &request, &mut world) {
            return after;
        }
        if let Some(after) = self.check_shard(id, &request, &mut world) {
            return after;
        }
        self.perform(id, &request, &mut world, fault);
        if world.is_paused(self.node) {
            // It went silent after it had applied the request.
            self.outbox = Outbox::new();
        }
        if fault == Some(Fault::CutAfter) {
            After::Cut
        } else {
            After::Go
        }
    }

    /// Refuses, or notes, requests for another shard's keys.
    fn check_shard(
        &mut self,
        id: base::RequestId,
        request: &RequestRef<'_>,
        world: &mut World,
    ) -> Option<After> {
        let key = match request {
            RequestRef::Get(get) => &*get.key,
            RequestRef::Put(put) => &*put.key,
            RequestRef::Scan(scan) if scan.reverse => return None,
            RequestRef::Scan(scan) => &*scan.start,
            RequestRef::Write(write) => write.ops().next()?.key(),
            _ => return None,
        };
        if world.shard_of(key) == self.shard {
            return None;
        }
        world.misrouted += 1;
        if world.forwards {
            return None;
        }
        self.refuse(id, Code::WrongShard, true, world);
        Some(After::Go)
    }

    fn transacted(&mut self, id: base::RequestId, answer: &txn::request::Answer) {
        let mut bytes = Vec::new();
        txn::codec::encode_answer(answer, &mut bytes);
        let reply = reply::TransactReply {
            answer: &bytes,
            now: Stamp::from(Txns::now()),
        };
        self.outbox.push(id, &reply).unwrap();
    }

    fn perform(
        &mut self,
        id: base::RequestId,
        request: &RequestRef<'_>,
        world: &mut World,
        fault: Option<Fault>,
    ) {
        let (key, read_ts) = match request {
            RequestRef::Get(get) => (Some(&*get.key), chosen(get.at()).or_else(|| Some(Txns::now()))),
            RequestRef::Put(put) => (Some(&*put.key), None),
            _ => (None, None),
        };
        let txns = world.txns.as_ref();
        if let Some(answer) = key.and_then(|key| txns?.in_the_way(key, read_ts)) {
            return self.transacted(id, &answer);
        }
        match request {
            RequestRef::Transact(transact) => {
                let txns = world.txns.as_mut().expect("the test has transactions");
                if let Some(answer) = txns.transact(&transact.batch) {
                    self.transacted(id, &answer);
                }
            }
            RequestRef::Get(get) => {
                let at = get.at();
                let found = world.value(&get.key, chosen(at).unwrap_or(Timestamp::MAX));
                let ts = found.as_ref().map_or_else(|| world.now(), |(ts, _)| *ts);
                let value = found.as_ref().map(|(_, value)| &value[..]);
                let misrouted = world.shard_of(&get.key) != self.shard;
                let flags = if misrouted { FLAG_MISROUTED } else { 0 };
                let ts = Stamp::from(ts);
                if at.is_stale() {
                    let read_ts = world.now().into();
                    let reply = reply::StaleReply { value, ts, read_ts };
                    self.outbox.push_flagged(id, flags, &reply).unwrap();
                } else {
                    let reply = reply::GetReply { value, ts };
                    self.outbox.push_flagged(id, flags, &reply).unwrap();
                }
            }
            RequestRef::Put(put) => {
                assert_eq!(put.id.write_id().client.0, self.client);
                world.writes_seen.push((self.node, put.id.write_id().seq));
                let op = WriteOp::Put {
                    key: &put.key,
                    value: &put.value,
                };
                let ts = world.write(put.id.write_id(), core::iter::empty(), core::iter::once(op));
                self.outbox
                    .push(
                        id,
                        &reply::WriteReply {
                            ts: Stamp::from(ts.unwrap()),
                        },
                    )
                    .unwrap();
            }
            RequestRef::Write(write) => {
                let spans = write.ops().any(|op| match op {
                    WriteOp::DeleteRange { start, end } => match (world.range_end(start), end) {
                        (Some(bound), Some(end)) => *bound < *end,
                        (Some(_), None) => true,
                        (None, _) => false,
                    },
                    WriteOp::Put { .. } | WriteOp::Delete { .. } => false,
                });
                if spans {
                    return self.refuse(id, Code::BatchSpansRanges, false, world);
                }
                match world.write(write.id.write_id(), write.conditions(), write.ops()) {
                    Ok(ts) => self
                        .outbox
                        .push(id, &reply::WriteReply { ts: Stamp::from(ts) })
                        .unwrap(),
                    Err((condition, found)) => {
                        let ts = Stamp::from(world.now());
                        let reply = reply::ConditionFailed {
                            condition,
                            found: found.as_deref(),
                            ts,
                        };
                        self.outbox.push(id, &reply).unwrap();
                    }
                }
            }
            RequestRef::Modify(modify) => {
                let found = world.value(&modify.key, Timestamp::MAX).map(|(_, value)| value);
                let result = base::Modification::from(&modify.by).apply(found.as_deref());
                let Ok(value) = result else {
                    let ts = Stamp::from(world.now());
                    let (condition, found) = (0, found.as_deref());
                    let reply = reply::ConditionFailed { condition, found, ts };
                    self.outbox.push(id, &reply).unwrap();
                    return;
                };
                let (key, value) = (&*modify.key, &*value);
                let op = core::iter::once(WriteOp::Put { key, value });
                let ts = world
                    .write(modify.id.write_id(), core::iter::empty(), op)
                    .unwrap();
                let made = world.value(key, ts).map(|(_, value)| value);
                let (ts, value) = (Stamp::from(ts), made.as_deref());
                self.outbox.push(id, &reply::ModifyReply { ts, value }).unwrap();
            }
            RequestRef::Scan(scan) => self.start_scan(id, scan, world, fault == Some(Fault::CutScan)),
            RequestRef::Split(split) => {
                let shard = world.shard_of(&split.key);
                if !world.ranges.iter().any(|(start, _)| **start == *split.key) {
                    world.ranges.push((split.key.to_vec(), shard));
                    world.ranges.sort();
                    world.map_version += 1;
                }
                let range_map_version = world.map_version;
                let reply = reply::SplitReply {
                    left: 1,
                    right: 2,
                    right_shard: shard,
                    range_map_version,
                };
                self.outbox.push(id, &reply).unwrap();
            }
            RequestRef::Move(moved) => {
                let at = usize::try_from(moved.range.to_native()).unwrap();
                world.ranges[at].1 = moved.shard.to_native();
                world.map_version += 1;
                let (range, shard) = (moved.range.to_native(), moved.shard.to_native());
                let reply = reply::MoveReply {
                    range,
                    shard,
                    range_map_version: world.map_version,
                };
                self.outbox.push(id, &reply).unwrap();
            }
            RequestRef::Merge(merge) => {
                let at = usize::try_from(merge.range.to_native()).unwrap();
                world.ranges.remove(at + 1);
                world.map_version += 1;
                let range = merge.range.to_native();
                let reply = reply::MergeReply {
                    range,
                    absorbed: merge.right.to_native(),
                    range_map_version: world.map_version,
                };
                self.outbox.push(id, &reply).unwrap();
            }
            RequestRef::Place(place) => {
                let nodes: Vec<u64> = place.nodes().map(|node| node.0).collect();
                let leader = place.leader().map_or(nodes[0], |node| node.0);
                let (range, nodes) = (place.range.to_native(), &nodes[..]);
                let reply = reply::PlaceReply { range, nodes, leader };
                self.outbox.push(id, &reply).unwrap();
            }
            RequestRef::Stand(stand) => {
                let node = stand.node.to_native();
                self.outbox.push(id, &reply::StandReply { node }).unwrap();
            }
            RequestRef::SetPolicy(_) => {
                let (doubts, before) = ("no node satisfies it", None);
                let reply = reply::SetPolicyReply { doubts, before };
                self.outbox.push(id, &reply).unwrap();
            }
            RequestRef::Policies(_) => {
                let reply = reply::PoliciesReply {
                    replicas: 3,
                    split_bytes: 1 << 29,
                    policies: &[],
                };
                self.outbox.push(id, &reply).unwrap();
            }
            RequestRef::Explain(explain) => {
                let text = format!("r{} is where it is", explain.range.to_native());
                self.outbox
                    .push(id, &reply::ExplainReply { text: &text })
                    .unwrap();
            }
            RequestRef::Status(_) => self
                .outbox
                .push(
                    id,
                    &reply::StatusReply {
                        json: "{\"ok\":true}",
                    },
                )
                .unwrap(),
            RequestRef::Echo(echo) => {
                self.outbox
                    .push(
                        id,
                        &reply::EchoReply {
                            payload: &echo.payload,
                        },
                    )
                    .unwrap();
            }
            RequestRef::DiskWrite(write) => {
                let bytes = write.bytes.to_native();
                self.outbox.push(id, &reply::DiskWriteReply { bytes }).unwrap();
            }
            RequestRef::Hello(_)
            | RequestRef::RangeMap(_)
            | RequestRef::ScanCredit(_)
            | RequestRef::ScanCancel(_) => unreachable!("answered before"),
        }
    }

    fn hello(&mut self, id: base::RequestId, world: &World) {
        let own = |bytes: usize| u32::try_from(bytes).unwrap();
        let reply = reply::HelloReply {
            node: self.node,
            cluster: world.cluster_of(self.node).to_le_bytes(),
            shards: world.shards,
            shard: self.shard,
            version: 1,
            range_map_version: world.map_version_of(self.node),
            limits: reply::Limits {
                key_bytes_max: own(limits::KEY_BYTES_MAX),
                value_bytes_max: 1 << 20,
                batch_bytes_max: own(limits::BATCH_BYTES_MAX),
                batch_ops_max: own(limits::BATCH_OPS_MAX),
                frame_bytes_max: own(limits::FRAME_BYTES_MAX),
                requests_max: 256,
            },
            server: "test",
        };
        self.outbox.push(id, &reply).unwrap();
    }

    fn range_map(&mut self, id: base::RequestId, world: &World) {
        let mut entries = Vec::new();
        for (at, (start, shard)) in world.ranges.iter().enumerate() {
            let end = world.ranges.get(at + 1).map(|(end, _)| &end[..]);
            let range = at as u64;
            entries.push(reply::RangeEntry {
                range,
                start,
                end,
                shard: *shard,
                generation: world.map_version,
                leader: world.leader_known_to(self.node, at),
                nodes: &world.replicas,
            });
        }
        let nodes: Vec<_> = world.nodes.iter().map(Node::entry).collect();
        self.outbox
            .push(
                id,
                &reply::RangeMapReply {
                    version: world.map_version_of(self.node),
                    ranges: &entries,
                    nodes: &nodes,
                },
            )
            .unwrap();
    }

    fn refuse(&mut self, id: base::RequestId, code: Code, retryable: bool, world: &World) {
        let message = format!("refused by the test: {}", code.summary());
        let range_map_version = world.map_version_of(self.node);
        let reply = reply::ErrorReply {
            retryable,
            message: &message,
            range_map_version,
            ..reply::ErrorReply::new(code)
        };
        self.outbox.push(id, &reply).unwrap();
    }

    fn start_scan(
        &mut self,
        id: base::RequestId,
        scan: &ArchivedScan<'static>,
        world: &mut World,
        cut: bool,
    ) {
        let read_ts = chosen(scan.at());
        world.scans_seen.push((self.node, read_ts));
        let ts = read_ts.unwrap_or_else(|| world.now());
        let scan = Scan {
            start: scan.start.to_vec(),
            end: scan.end().map(<[u8]>::to_vec),
            reverse: scan.reverse,
            ts,
            rows_left: scan.rows_max().unwrap_or(u64::MAX),
            page_rows: scan.page_rows.to_native() as usize,
            credit: scan.credit_pages.to_native(),
            cut,
        };
        self.scans.insert(id, scan);
    }

    /// Sends every page that there is credit for; true when the connection shall end.
    fn run_scans(&mut self) -> bool {
        let shared = self.world.clone();
        let mut world = shared.lock().unwrap();
        let mut cut = false;
        if world.is_paused(self.node) {
            return false;
        }
        let mut refused = Vec::new();
        for (&id, scan) in &mut self.scans {
            let mut sent = 0;
            while scan.credit > 0 && !cut {
                let elsewhere = world.led_elsewhere(self.node, world.range_of_scan(scan));
                if let Some(at) = elsewhere.filter(|_| !world.shows_past(self.node)) {
                    refused.push((id, at));
                    scan.rows_left = 0;
                    break;
                }
                sent += 1;
                world.pages_ahead_max = world.pages_ahead_max.max(sent);
                scan.credit -= 1;
                let done = scan.page(&world, id, &mut self.outbox);
                world.page_sent();
                cut |= scan.cut;
                if done {
                    scan.rows_left = 0;
                    break;
                }
            }
        }
        self.scans.retain(|_, scan| scan.rows_left > 0);
        for (id, at) in refused {
            self.refuse_to_lead(id, at, &world);
        }
        cut
    }
}
