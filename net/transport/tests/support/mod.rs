//! An echo server on the simulator, and a peer that sends whatever a test wants.
#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

use base::{RequestId, ShardId};
use core::cell::{Cell, OnceCell, RefCell};
use core::time::Duration;
use env::{Env, Net, Reader, TaskClass, Tasks, Writer};
use sim::{Sim, SimConfig, SimEnv, SimNodeId, SimReader, SimSocket, SimWriter};
use std::rc::Rc;
use transport::{CloseReason, ConnectionId, Handler, Handover, HelloAnswer, Transport, TransportConfig};
use wire::peer::{
    ArchivedBody, ArchivedPeerHello, ArchivedTrain, Body, GroupMessage, Mark, NodeAddress, PeerHello, Train,
};
use wire::reply::{EchoReply, ErrorReply, HelloReply, Limits};
use wire::request::{ArchivedHello, Echo, Hello};
use wire::{
    Code, Frame, FrameReader, Kind, Outbox, PeerRef, RequestRef, WireError, decode_peer, decode_request,
};

/// The server's port.
pub(crate) const PORT: u16 = 7400;

/// One shard that echoes, at once or when told to.
pub(crate) struct EchoShard {
    pub(crate) shard: ShardId,
    transport: OnceCell<Transport<SimEnv, Self>>,
    shards: Rc<RefCell<Vec<Rc<Self>>>>,
    pub(crate) closed: RefCell<Vec<CloseReason>>,
    /// Replies wait until this is false.
    pub(crate) hold: Cell<bool>,
    held: RefCell<Vec<(ConnectionId, RequestId, Vec<u8>)>>,
    /// How often a batch of frames ended.
    pub(crate) batches: Cell<u64>,
    /// Every reply has so many bytes, if set.
    pub(crate) reply_bytes: Cell<Option<usize>>,
    /// Shards of other clusters are refused.
    pub(crate) cluster: Cell<[u8; 16]>,
    /// Who said hello as a shard of another node: node and shard.
    pub(crate) greeted: RefCell<Vec<(u64, u16)>>,
    /// Trains that came, by their number.
    pub(crate) trains: RefCell<Vec<(ConnectionId, u64)>>,
}

impl EchoShard {
    pub(crate) fn transport(&self) -> &Transport<SimEnv, Self> {
        self.transport.get().unwrap()
    }

    pub(crate) fn release(&self) {
        self.hold.set(false);
        for (id, request, payload) in self.held.take() {
            self.transport()
                .send(id, request, &EchoReply { payload: &payload });
        }
        self.transport().flush();
    }

    pub(crate) fn held(&self) -> usize {
        self.held.borrow().len()
    }
}

impl Handler<SimSocket> for EchoShard {
    fn on_hello(&self, id: ConnectionId, request: RequestId, hello: &ArchivedHello<'static>) -> HelloAnswer {
        if &*hello.app == "unwelcome" {
            return HelloAnswer::Refuse;
        }
        match hello.shard_id() {
            Some(shard) if shard != self.shard => return HelloAnswer::Handover(shard),
            Some(_) | None => {}
        }
        let limits = Limits {
            key_bytes_max: 1,
            value_bytes_max: 1,
            batch_bytes_max: 1,
            batch_ops_max: 1,
            frame_bytes_max: 1,
            requests_max: 1,
        };
        let reply = HelloReply {
            node: 1,
            cluster: [0; 16],
            shards: 2,
            shard: self.shard.0,
            version: 1,
            range_map_version: 1,
            limits,
            server: "echo",
        };
        self.transport().send(id, request, &reply);
        HelloAnswer::Accept
    }

    fn on_peer_hello(&self, id: ConnectionId, hello: &ArchivedPeerHello) -> HelloAnswer {
        if hello.cluster != self.cluster.get() {
            let refusal = ErrorReply {
                message: "another cluster",
                ..ErrorReply::new(Code::ConfigurationInvalid)
            };
            self.transport().send(id, RequestId(0), &refusal);
            return HelloAnswer::Refuse;
        }
        if hello.to_shard != self.shard.0 {
            return HelloAnswer::Handover(ShardId(hello.to_shard.to_native()));
        }
        let from = (hello.node.to_native(), hello.shard.to_native());
        self.greeted.borrow_mut().push(from);
        HelloAnswer::Accept
    }

    fn on_frame(&self, id: ConnectionId, frame: &Frame<'_>) -> Result<(), WireError> {
        if frame.kind.is_peer() {
            let PeerRef::Train(train) = decode_peer(frame)? else {
                return Err(WireError::WrongDirection { kind: frame.kind });
            };
            self.trains.borrow_mut().push((id, number_of(train)));
            return Ok(());
        }
        let RequestRef::Echo(echo) = decode_request(frame)? else {
            return Err(WireError::WrongDirection { kind: frame.kind });
        };
        let payload = self
            .reply_bytes
            .get()
            .map_or_else(|| echo.payload.to_vec(), |bytes| vec![1; bytes]);
        self.held.borrow_mut().push((id, frame.request, payload));
        Ok(())
    }

    fn on_batch_end(&self) {
        self.batches.set(self.batches.get() + 1);
        if !self.hold.get() {
            self.release();
        }
    }

    fn on_handover(&self, shard: ShardId, handover: Handover<SimSocket>) {
        let to = self.shards.borrow()[usize::from(shard.0)].clone();
        to.transport().adopt(handover);
    }

    fn on_close(&self, _id: ConnectionId, reason: &CloseReason) {
        self.closed.borrow_mut().push(reason.clone());
    }
}

/// A server of two shards, and a client machine beside it.
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) server: SimNodeId,
    pub(crate) client: SimNodeId,
    pub(crate) shards: Vec<Rc<EchoShard>>,
}

impl World {
    pub(crate) fn new(seed: u64, sim: SimConfig, config: &TransportConfig) -> Self {
        let mut sim = Sim::new(seed, sim);
        let (server, client) = (sim.add_node(2), sim.add_node(1));
        let shards = serve(&sim, server, config);
        Self {
            sim,
            server,
            client,
            shards,
        }
    }

    /// The server's machine stops at once and starts again, without anything that it knew.
    pub(crate) fn restart(&mut self, down: Duration, config: &TransportConfig) {
        self.sim.crash(self.server);
        self.sim.run_for(down);
        self.sim.restart(self.server);
        self.shards = serve(&self.sim, self.server, config);
    }

    /// Runs a client's future to its end.
    pub(crate) fn run<T, F: Future<Output = T>>(&mut self, client: impl FnOnce(Dialer) -> F) -> T {
        let dialer = Dialer {
            env: self.sim.env(self.client, ShardId(0)),
            address: self.sim.address(self.server, PORT),
        };
        self.sim.block_on(client(dialer))
    }

    /// How many connections of both shards ended with this reason.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        let count = |shard: &Rc<EchoShard>| {
            shard
                .transport()
                .counters()
                .closed
                .get(reason)
                .copied()
                .unwrap_or(0)
        };
        self.shards.iter().map(count).sum()
    }
}

/// Starts the server's shards; the first one listens.
fn serve(sim: &Sim, server: SimNodeId, config: &TransportConfig) -> Vec<Rc<EchoShard>> {
    let list = Rc::new(RefCell::new(Vec::new()));
    for shard in [0, 1] {
        let env = sim.env(server, ShardId(shard));
        let echo = Rc::new(EchoShard {
            shard: ShardId(shard),
            transport: OnceCell::new(),
            shards: list.clone(),
            closed: RefCell::default(),
            hold: Cell::new(false),
            held: RefCell::default(),
            batches: Cell::new(0),
            reply_bytes: Cell::new(None),
            cluster: Cell::new([0; 16]),
            greeted: RefCell::default(),
            trains: RefCell::default(),
        });
        let transport = Transport::new(env, config.clone(), echo.clone()).unwrap();
        assert!(echo.transport.set(transport).is_ok());
        list.borrow_mut().push(echo);
    }
    let shards = list.borrow().clone();
    let env = sim.env(server, ShardId(0));
    let listener = env
        .net()
        .listen(format!("0.0.0.0:{PORT}").parse().unwrap())
        .unwrap();
    let transport = shards[0].transport().clone();
    env.tasks().spawn(
        TaskClass::Foreground,
        async move { transport.serve(listener).await },
    );
    shards
}

/// The number of a train made by [`with_train`], which must be as it was made.
fn number_of(train: &ArchivedTrain<'static>) -> u64 {
    assert_eq!(train.messages.len(), 1);
    let message = &train.messages[0];
    let number = message.range.to_native();
    let ArchivedBody::Snapshot { members, .. } = &message.body else {
        panic!("no train of a test");
    };
    assert!(members.iter().all(|&byte| byte == number.to_le_bytes()[0]));
    number
}

/// Calls `send` with a train that carries a number and so many bytes.
pub(crate) fn with_train<T>(number: u64, bytes: usize, send: impl FnOnce(&Train<'_>) -> T) -> T {
    let message = GroupMessage {
        range: number,
        from: 1,
        to: 2,
        term: 3,
        body: Body::Snapshot {
            last: Mark { term: 1, index: 1 },
            chain: 0,
            members: &vec![number.to_le_bytes()[0]; bytes],
        },
    };
    send(&Train {
        liveness: None,
        messages: &[message],
    })
}

/// The hello of shard 0 of node 2, for a shard of node 1.
pub(crate) fn peer_hello(to_shard: u16) -> PeerHello {
    PeerHello {
        cluster: [0; 16],
        node: 2,
        shard: 0,
        to_node: 1,
        to_shard,
        version_min: 1,
        version_max: 1,
        address: NodeAddress {
            ip: [0; 16],
            port: 7400,
        },
        birth: 7,
    }
}

/// Makes connections from the client machine.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) env: SimEnv,
    address: env::Address,
}

impl Dialer {
    pub(crate) async fn dial(&self) -> Peer {
        self.try_dial().await.unwrap()
    }

    pub(crate) async fn try_dial(&self) -> Option<Peer> {
        let socket = self.env.net().connect(self.address).await.ok()?;
        let (reader, writer) = self.env.net().adopt(socket);
        Some(Peer {
            reader,
            writer,
            inbox: FrameReader::new(base::limits::FRAME_BYTES_MAX),
        })
    }

    /// A connection that has said hello and been answered.
    pub(crate) async fn open(&self, shard: Option<u16>) -> Peer {
        let mut peer = self.dial().await;
        assert!(peer.send(&hello(shard)).await);
        assert_eq!(peer.receive().await.unwrap().0, Kind::HelloReply);
        peer
    }
}

/// A client's end of a connection.
pub(crate) struct Peer {
    reader: SimReader,
    writer: SimWriter,
    inbox: FrameReader,
}

impl Peer {
    /// Sends bytes; false when the connection broke.
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.writer.try_write(bytes) {
                Ok(0) => {
                    if self.writer.writable().await.is_err() {
                        return false;
                    }
                }
                Ok(sent) => bytes = &bytes[sent..],
                Err(_) => return false,
            }
        }
        true
    }

    /// The next frame, or `None` when the connection has ended.
    pub(crate) async fn receive(&mut self) -> Option<(Kind, RequestId, Vec<u8>)> {
        loop {
            if let Some(frame) = self.inbox.next().unwrap() {
                return Some((frame.kind, frame.request, frame.payload.to_vec()));
            }
            match self.reader.read(self.inbox.spare()).await {
                Ok(bytes) if bytes > 0 => self.inbox.filled(bytes),
                Ok(_) | Err(_) => return None,
            }
        }
    }

    pub(crate) fn shutdown(&self) {
        self.writer.shutdown();
    }
}

pub(crate) fn hello(shard: Option<u16>) -> Vec<u8> {
    let hello = Hello {
        client: [1; 16],
        shard,
        version_min: 1,
        version_max: 1,
        app: "test",
    };
    encoded(&[(RequestId(1), &hello)])
}

pub(crate) fn encoded<M: wire::Message>(messages: &[(RequestId, &M)]) -> Vec<u8> {
    let mut outbox = Outbox::new();
    for (request, message) in messages {
        outbox.push(*request, *message).unwrap();
    }
    outbox.bytes().to_vec()
}

/// `count` echo requests, numbered from `first`.
pub(crate) fn echoes(first: u32, count: u32, payload: &[u8]) -> Vec<u8> {
    let echo = Echo { payload };
    let list: Vec<_> = (first..first + count)
        .map(|request| (RequestId(request), &echo))
        .collect();
    encoded(&list)
}
