//! Connections between shards of different nodes: dialled by `Peers` on the client machine, received by the server.

use crate::support::{PORT, World, echoes, encoded, hello, peer_hello, with_train};
use crate::{calm, config, encoded_error};
use base::{NodeId, Prng, RequestId, ShardId};
use core::cell::Cell;
use core::time::Duration;
use env::{Clock, Env, Listener, Net, TaskClass, Tasks};
use sim::{SimConfig, SimEnv};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use transport::{CloseReason, PeerConfig, Peers, TransportConfig};
use wire::{Code, FrameReader, Kind, PeerRef, decode_peer};

/// The server, as a node.
const SERVER: NodeId = NodeId(1);
const S0: ShardId = ShardId(0);
const S1: ShardId = ShardId(1);

/// The outgoing connections of the client machine, which knows where the server is.
fn peers_of(world: &World, config: PeerConfig) -> Peers<SimEnv> {
    let peers = Peers::new(world.sim.env(world.client, S0), config);
    peers.set_address(SERVER, Some(world.sim.address(world.server, PORT)));
    peers
}

fn peer_config() -> PeerConfig {
    PeerConfig::new(peer_hello(u16::MAX))
}

/// Appends a train with a number and so many bytes.
fn send(peers: &Peers<SimEnv>, shard: ShardId, number: u64, bytes: usize) -> bool {
    with_train(number, bytes, |train| peers.send(SERVER, shard, train))
}

/// The numbers of the trains that a shard of the server has received, over all connections.
fn received(world: &World, shard: usize) -> Vec<u64> {
    let trains = world.shards[shard].trains.borrow();
    trains.iter().map(|(_, number)| *number).collect()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_train_dials_its_shard_and_is_not_lost_while_that_takes_time() {
    let mut world = calm();
    let peers = peers_of(&world, peer_config());
    for number in 1..=3 {
        assert!(send(&peers, S1, number, 100));
    }
    assert!(send(&peers, S0, 1, 100));
    world.sim.run_for(ms(100));
    assert!(send(&peers, S1, 4, 100));
    peers.flush();
    world.sim.run_for(ms(100));

    assert_eq!(received(&world, 0), [1]);
    assert_eq!(received(&world, 1), [1, 2, 3, 4]);
    let greeted = world.shards.iter().map(|shard| shard.greeted.take());
    assert_eq!(greeted.collect::<Vec<_>>(), [[(2, 0)], [(2, 0)]]);
    let server = [0, 1].map(|shard: usize| world.shards[shard].transport().counters());
    assert_eq!(
        (server[0].opened, server[0].handed_over, server[1].opened),
        (2, 1, 1)
    );
    assert_eq!((server[0].replies, server[1].replies), (0, 0));
    let counters = peers.counters();
    assert_eq!((counters.dialled, counters.connected, counters.failed), (2, 2, 0));
    assert_eq!(
        (counters.trains, counters.trains_dropped, counters.sends),
        (5, 0, 3),
        "what was kept while dialling left at once"
    );
    let arrived: u64 = server.iter().map(|server| server.received_bytes).sum();
    assert_eq!(counters.sent_bytes, arrived);
    assert!(counters.closed.is_empty());
    assert!(peers.take_lost().is_empty());
    peers.greet_anew(7);
    assert_eq!(peers.take_lost().into_iter().collect::<Vec<_>>(), [SERVER]);
    assert!(peers.take_lost().is_empty());
}

#[test]
fn offences_of_a_peer_end_its_connection_are_told_and_counted_by_name() {
    let train = with_train(7, 8, |train| encoded(&[(RequestId(0), train)]));
    let introduction = encoded(&[(RequestId(0), &peer_hello(0))]);
    let reply = encoded(&[(RequestId(0), &wire::reply::DiskWriteReply { bytes: 1 })]);
    let mut no_train = train.clone();
    no_train.truncate(wire::frame::HEADER_BYTES);
    no_train[4..8].fill(0);
    let crc = base::checksum::crc32c(&no_train[..12]);
    no_train[12..].copy_from_slice(&crc.to_le_bytes());
    let cases = [
        ("wrong_direction", echoes(1, 1, b"x"), Code::BadMessage),
        ("wrong_direction", hello(None), Code::BadMessage),
        ("wrong_direction", reply, Code::BadMessage),
        ("hello_repeated", introduction.clone(), Code::HelloExpected),
        ("malformed", no_train, Code::BadMessage),
    ];
    for (name, offence, code) in cases {
        let mut world = calm();
        let bytes = [&introduction[..], &train, &offence, &train].concat();
        world.run(async |dialer| {
            let mut peer = dialer.dial().await;
            assert!(peer.send(&bytes).await);
            let (kind, request, payload) = peer.receive().await.unwrap();
            assert_eq!((kind, request), (Kind::ErrorReply, RequestId(0)));
            assert_eq!(encoded_error(&payload), code.number());
            assert!(peer.receive().await.is_none());
        });
        assert_eq!(world.closed(name), 1, "{name}");
        assert_eq!(received(&world, 0), [7], "only what came before the offence");
        assert_eq!(world.shards[0].held(), 0, "no request got through");
        assert_eq!(world.shards[0].closed.borrow().len(), 1, "{name} is reported");
    }
}

#[test]
fn a_flood_of_trains_does_not_close_the_window() {
    let config = TransportConfig {
        requests_max: 1,
        outbox_bytes_max: 4096,
        ..config()
    };
    let mut world = World::new(1, SimConfig::calm(), &config);
    let peers = peers_of(&world, peer_config());
    assert!(send(&peers, S0, 0, 0));
    world.sim.run_for(ms(10));
    for number in 1..=5000 {
        assert!(send(&peers, S0, number, 1000));
    }
    peers.flush();
    world.sim.run_for(Duration::from_secs(5));
    assert!(received(&world, 0).into_iter().eq(0..=5000));
    let server = world.shards[0].transport().counters();
    assert_eq!((server.paused, server.frames), (0, 5001));
    assert_eq!(peers.unsent_bytes(), 0);
}

#[test]
fn a_refusal_is_kept_until_a_connection_lasts() {
    let mut world = calm();
    let peers = peers_of(&world, peer_config());
    world.shards[0].cluster.set([9; 16]);
    assert_eq!(peers.refusal(SERVER), None);
    assert!(send(&peers, S0, 1, 10));
    world.sim.run_for(ms(20));
    let refusal = Some("C6007: another cluster".to_owned());
    assert_eq!(peers.refusal(SERVER), refusal);
    assert!(!send(&peers, S0, 2, 10), "a pause follows");
    let counters = peers.counters();
    assert_eq!(counters.closed, BTreeMap::from([("refused", 1)]));
    assert_eq!((counters.connected, counters.trains_dropped), (1, 1));
    assert_eq!(world.closed("hello_refused"), 1);

    // The pauses grow: a node that always refuses is not asked all the time.
    for number in 0..500 {
        send(&peers, S0, number, 10);
        peers.flush();
        world.sim.run_for(ms(20));
    }
    let dialled = peers.counters().dialled;
    assert!((10..=25).contains(&dialled), "{dialled} attempts in 10 s");

    world.shards[0].cluster.set([0; 16]);
    world.sim.run_for(ms(1000));
    assert!(send(&peers, S0, 3, 10));
    world.sim.run_for(ms(500));
    assert_eq!(received(&world, 0), [3]);
    assert_eq!(peers.refusal(SERVER), refusal, "acceptance is silent");
    world.sim.run_for(ms(1000));
    assert_eq!(peers.refusal(SERVER), None);
}

#[test]
fn a_node_that_is_not_there_is_tried_again_after_pauses() {
    let mut world = calm();
    let peers = peers_of(&world, peer_config());
    assert!(!with_train(1, 1, |train| peers.send(NodeId(9), S0, train)));
    assert_eq!(peers.take_lost().into_iter().collect::<Vec<_>>(), [NodeId(9)]);
    peers.set_address(SERVER, Some(world.sim.address(world.server, PORT + 1)));
    for number in 0..500 {
        send(&peers, S0, number, 10);
        world.sim.run_for(ms(20));
    }
    let counters = peers.counters();
    assert!((10..=25).contains(&counters.dialled), "{counters:?}");
    assert_eq!((counters.connected, counters.failed), (0, counters.dialled));
    assert_eq!(counters.trains, counters.dialled, "each attempt kept its train");
    assert!(counters.lost_bytes > 0);
    assert_eq!(peers.take_lost().into_iter().collect::<Vec<_>>(), [SERVER]);
    // The right address has no pauses behind it.
    peers.set_address(SERVER, Some(world.sim.address(world.server, PORT)));
    assert!(send(&peers, S0, 1000, 10));
    world.sim.run_for(ms(20));
    assert_eq!(received(&world, 0), [1000]);
}

#[test]
fn a_changed_address_and_the_end_close_connections() {
    let mut world = calm();
    let peers = peers_of(&world, peer_config());
    let address = world.sim.address(world.server, PORT);
    assert!(send(&peers, S0, 1, 10) && send(&peers, S1, 1, 10));
    world.sim.run_for(ms(20));
    peers.set_address(SERVER, Some(address));
    world.sim.run_for(ms(20));
    assert!(peers.counters().closed.is_empty(), "nothing has changed");

    peers.set_address(SERVER, None);
    world.sim.run_for(ms(20));
    assert_eq!(peers.counters().closed, BTreeMap::from([("local", 2)]));
    assert!(!send(&peers, S0, 2, 10));

    // Forgotten while it is dialled: the connection does not come about.
    peers.set_address(SERVER, Some(address));
    assert!(send(&peers, S0, 3, 10));
    peers.set_address(SERVER, None);
    world.sim.run_for(ms(20));
    assert_eq!(received(&world, 0), [1]);

    peers.set_address(SERVER, Some(address));
    assert!(send(&peers, S0, 4, 10));
    world.sim.run_for(ms(20));
    assert!(send(&peers, S0, 5, 10));
    peers.close_all();
    world.sim.run_for(ms(20));
    assert_eq!(received(&world, 0), [1, 4, 5], "what was sent last went out");
    assert_eq!(world.closed("peer_closed"), 4, "one of them without a hello");
    assert_eq!(peers.counters().closed, BTreeMap::from([("local", 3)]));
    assert!(world.shards.iter().all(|shard| shard.transport().is_empty()));
}

/// Accepts at another port of the server, and does there what a test wants.
fn listen<F: Future<Output = ()> + 'static>(
    world: &World,
    accepted: impl Fn(SimEnv, sim::SimSocket) -> F + 'static,
) -> env::Address {
    let env = world.sim.env(world.server, S0);
    let listener = env.net().listen("0.0.0.0:0".parse().unwrap()).unwrap();
    let address = world.sim.address(world.server, listener.address().port());
    let tasks = env.tasks().clone();
    tasks.spawn(TaskClass::Foreground, async move {
        while let Ok(socket) = listener.accept().await {
            accepted(env.clone(), socket).await;
        }
    });
    address
}

#[test]
fn greeting_anew_ends_connections_and_the_next_ones_demand_more() {
    let mut world = calm();
    let demands = Rc::new(std::cell::RefCell::new(Vec::new()));
    let heard = demands.clone();
    let server = listen(&world, move |env, socket| {
        let heard = heard.clone();
        async move {
            let (mut reader, writer) = env.net().adopt(socket);
            let mut buf = vec![0; 4096];
            let bytes = env::Reader::read(&mut reader, &mut buf).await.unwrap();
            if bytes == 0 {
                return;
            }
            let mut frames = FrameReader::new(4096);
            frames.extend(&buf[..bytes]);
            let frame = frames.next().unwrap().unwrap();
            let PeerRef::PeerHello(hello) = decode_peer(&frame).unwrap() else {
                panic!("a greeting comes first");
            };
            heard
                .borrow_mut()
                .push((hello.version_min.to_native(), hello.version_max.to_native()));
            while env::Reader::read(&mut reader, &mut buf)
                .await
                .is_ok_and(|bytes| bytes > 0)
            {}
            drop(writer);
        }
    });
    let peers = peers_of(&world, peer_config());
    peers.set_address(SERVER, Some(server));
    let said = |world: &mut World, number| {
        assert!(send(&peers, S0, number, 100));
        peers.flush();
        world.sim.run_for(ms(100));
        demands.borrow().clone()
    };
    assert_eq!(said(&mut world, 1), [(1, 1)]);
    peers.greet_anew(1);
    assert_eq!(said(&mut world, 2), [(1, 1)], "nothing is new");
    peers.greet_anew(2);
    world.sim.run_for(ms(100));
    assert_eq!(peers.counters().closed, BTreeMap::from([("local", 1)]));
    assert_eq!(said(&mut world, 3), [(1, 1), (2, 1)]);
    // One that is dialled meanwhile has the old greeting ready.
    peers.close_all();
    assert!(send(&peers, S0, 4, 100));
    peers.greet_anew(3);
    world.sim.run_for(ms(100));
    assert_eq!(said(&mut world, 5), [(1, 1), (2, 1), (3, 1)]);
}

#[test]
fn what_waits_is_bounded_and_a_peer_that_takes_nothing_is_closed_at_last() {
    let mut world = calm();
    // Accepts, and never reads.
    let deaf = listen(&world, async |env, socket| {
        let halves = env.net().adopt(socket);
        env.clock().sleep(Duration::from_secs(3600)).await;
        drop(halves);
    });
    let config = PeerConfig {
        unsent_bytes_max: 1 << 20,
        ..peer_config()
    };
    let peers = peers_of(&world, config.clone());
    peers.set_address(SERVER, Some(deaf));

    // While it is dialled, little is kept.
    let kept = (0..100).filter(|number| send(&peers, S0, *number, 4096)).count();
    assert!((15..=17).contains(&kept), "{kept} trains of 4 KiB were kept");
    world.sim.run_for(ms(100));

    let mut kept = 0;
    while send(&peers, S0, kept, 32 << 10) {
        kept += 1;
        peers.flush();
        world.sim.run_for(ms(1));
        assert!(kept < 100, "the bound does not hold");
    }
    let most = config.unsent_bytes_max + (33 << 10);
    let unsent = peers.unsent_bytes();
    assert!(
        config.unsent_bytes_max <= unsent && unsent <= most,
        "{unsent} bytes wait"
    );
    let dropped = peers.counters().trains_dropped;
    assert!(!send(&peers, S0, 0, 0));
    assert_eq!(peers.counters().trains_dropped, dropped + 1);

    world.sim.run_for(Duration::from_secs(9));
    assert!(peers.counters().closed.is_empty(), "not yet");
    world.sim.run_for(Duration::from_secs(3));
    let counters = peers.counters();
    assert_eq!(counters.closed, BTreeMap::from([("send_timeout", 1)]));
    assert_eq!(
        (peers.unsent_bytes(), counters.lost_bytes),
        (0, unsent as u64),
        "what a closed connection kept is forgotten"
    );
}

#[test]
fn a_slow_peer_is_not_closed_while_it_takes_something() {
    let mut world = calm();
    let slow = listen(&world, async |env, socket| {
        let (mut reader, writer) = env.net().adopt(socket);
        let mut buf = vec![0; 64 << 10];
        while env::Reader::read(&mut reader, &mut buf)
            .await
            .is_ok_and(|bytes| bytes > 0)
        {
            env.clock().sleep(Duration::from_secs(2)).await;
        }
        drop(writer);
    });
    let peers = peers_of(&world, peer_config());
    peers.set_address(SERVER, Some(slow));
    assert!(send(&peers, S0, 0, 0));
    world.sim.run_for(ms(100));
    assert!(send(&peers, S0, 1, 2 << 20));
    peers.flush();
    world.sim.run_for(Duration::from_secs(40));
    assert!(peers.unsent_bytes() > 0);
    world.sim.run_for(Duration::from_secs(60));
    assert_eq!(peers.unsent_bytes(), 0);
    assert!(peers.counters().closed.is_empty());
}

#[test]
fn anything_that_comes_back_ends_the_connection() {
    let answers = [
        ("peer_closed", Vec::new()),
        ("peer_closed_mid_frame", hello(None)[..20].to_vec()),
        ("wrong_direction", hello(None)),
        ("wrong_direction", encoded(&[(RequestId(0), &peer_hello(0))])),
        (
            "wrong_direction",
            encoded(&[(RequestId(5), &wire::reply::ErrorReply::new(Code::Overloaded))]),
        ),
        (
            "refused",
            encoded(&[(RequestId(0), &wire::reply::ErrorReply::new(Code::Overloaded))]),
        ),
        ("bad_magic", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        (
            "too_long",
            encoded(&[(RequestId(0), &wire::request::Echo { payload: &[1; 5000] })]),
        ),
    ];
    for (name, answer) in answers {
        let mut world = calm();
        let odd = listen(&world, move |env, socket| {
            let answer = answer.clone();
            async move {
                let (mut reader, writer) = env.net().adopt(socket);
                assert!(env::Reader::read(&mut reader, &mut [0; 1024]).await.unwrap() > 0);
                env::Writer::try_write(&writer, &answer).unwrap();
                env.clock().sleep(ms(50)).await;
            }
        });
        let peers = peers_of(&world, peer_config());
        peers.set_address(SERVER, Some(odd));
        assert!(send(&peers, S0, 0, 0));
        world.sim.run_for(ms(200));
        let counters = peers.counters();
        assert_eq!(counters.closed, BTreeMap::from([(name, 1)]));
        let refusal = (name == "refused").then(|| "C3001: overloaded".to_owned());
        assert_eq!(peers.refusal(SERVER), refusal);
    }
}

/// Sends numbered trains for a while; of each connection's what arrives has no gap, because what is lost is its rest.
struct Sender {
    peers: Peers<SimEnv>,
    prng: Prng,
    /// The next number, by shard.
    next: [Cell<u64>; 2],
}

impl Sender {
    fn new(world: &World, seed: u64) -> Self {
        let config = PeerConfig {
            unsent_bytes_max: 256 << 10,
            ..peer_config()
        };
        Self {
            peers: peers_of(world, config),
            prng: Prng::new(seed),
            next: [Cell::new(0), Cell::new(0)],
        }
    }

    /// So many turns, each with some trains and a wait.
    fn turns(&mut self, world: &mut World, turns: usize, wait_ms_max: u64) {
        for _ in 0..turns {
            for _ in 0..self.prng.below(5) {
                let shard = self.prng.index(2);
                let bytes = match self.prng.below(20) {
                    0 => self.prng.below(100_000),
                    _ => self.prng.below(1_000),
                };
                let number = &self.next[shard];
                let to = [S0, S1][shard];
                if send(&self.peers, to, number.get(), usize::try_from(bytes).unwrap()) {
                    number.set(number.get() + 1);
                }
            }
            self.peers.flush();
            world.sim.run_for(ms(self.prng.below(wait_ms_max)));
        }
    }
}

/// Checks what the shards of a server have received from a [`Sender`], and says how much.
fn check_trains(shards: &[Rc<crate::support::EchoShard>]) -> usize {
    let mut count = 0;
    for shard in shards {
        let mut last = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (connection, number) in shard.trains.borrow().iter() {
            if let Some(before) = last.insert(*connection, *number) {
                assert_eq!(*number, before + 1, "{connection} has a gap");
            }
            assert!(seen.insert(*number), "train {number} came twice");
        }
        count += seen.len();
        let counters = shard.transport().counters();
        for reason in counters.closed.keys() {
            let faults = [
                "net",
                "peer_closed",
                "peer_closed_mid_frame",
                "hello_timeout",
                "frame_timeout",
            ];
            assert!(faults.contains(reason), "{reason}: no fault of the network");
        }
    }
    count
}

/// Under every network fault of the swarm, trains are whole and in order, and none comes twice.
#[test]
fn trains_come_whole_and_in_order_over_a_bad_network() {
    let mut count = 0;
    let mut reconnected = 0;
    for seed in 0..60 {
        let mut world = World::new(seed, SimConfig::swarm(seed), &config());
        let mut sender = Sender::new(&world, seed);
        sender.turns(&mut world, 150, 200);
        // Longer than anyone's patience: the connections break with much that waits, and are dialled in vain for a while.
        world.sim.cut(world.client, world.server, Duration::from_secs(20));
        sender.turns(&mut world, 300, 200);
        world.sim.run_for(Duration::from_secs(200));
        count += check_trains(&world.shards);
        let counters = sender.peers.counters();
        reconnected += counters.connected.saturating_sub(2);
        assert_eq!(sender.peers.unsent_bytes(), 0, "seed {seed}: {counters:?}");
        assert!(
            counters.connected + counters.failed <= counters.dialled,
            "{counters:?}"
        );
    }
    assert!(count > 10_000, "{count} trains over all seeds");
    assert!(reconnected > 20, "{reconnected} connections anew");
}

/// The accepting side goes away in the middle of frames and comes back without memory of them.
#[test]
fn a_restarted_node_is_dialled_again_and_its_connections_start_with_whole_frames() {
    let mut after = 0;
    for seed in 0..20 {
        let mut world = World::new(seed, SimConfig::shuffled(), &config());
        let mut sender = Sender::new(&world, seed);
        for _ in 0..3 {
            sender.turns(&mut world, 50, 20);
            // Larger than the socket takes: the server goes in the middle of it.
            let number = &sender.next[0];
            if send(&sender.peers, S0, number.get(), 1 << 20) {
                number.set(number.get() + 1);
            }
            sender.peers.flush();
            let before = world.shards.clone();
            world.restart(ms(300), &config());
            check_trains(&before);
        }
        sender.turns(&mut world, 300, 20);
        world.sim.run_for(Duration::from_secs(30));
        let received = check_trains(&world.shards);
        assert!(received > 0, "seed {seed}: {:?}", sender.peers.counters());
        after += received;
        assert_eq!(world.closed("net"), 0, "nothing is wrong with the network");
        assert_eq!(sender.peers.unsent_bytes(), 0);
        assert!(sender.peers.counters().connected >= 5, "seed {seed}");
    }
    assert!(after > 2_000, "{after} trains after a restart");
}

#[test]
fn a_peer_that_goes_is_reported_to_the_handler() {
    let mut world = calm();
    let peers = peers_of(&world, peer_config());
    assert!(send(&peers, S0, 1, 10));
    world.sim.run_for(ms(20));
    peers.close_all();
    world.sim.run_for(ms(20));
    assert_eq!(*world.shards[0].closed.borrow(), [CloseReason::PeerClosed]);
}
