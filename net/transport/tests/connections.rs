//! Connections under good and bad peers, on the simulator.
#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

extern crate corelane_transport as transport;

mod peers;
mod support;

use base::{Prng, RequestId};
use core::time::Duration;
use env::{Clock, Env};
use sim::SimConfig;
use support::{World, echoes, encoded, hello, peer_hello, with_train};
use transport::{CloseReason, TransportConfig};
use wire::request::{Hello, ScanCredit};
use wire::{Code, Kind};

fn config() -> TransportConfig {
    TransportConfig {
        sweep_interval: Duration::from_millis(100),
        ..TransportConfig::default()
    }
}

fn calm() -> World {
    World::new(1, SimConfig::calm(), &config())
}

#[test]
fn a_batch_of_requests_is_one_turn_and_one_send() {
    let mut world = calm();
    world.run(async |dialer| {
        let mut peer = dialer.open(None).await;
        // The first window of a connection is small.
        for first in [2, 10] {
            assert!(peer.send(&echoes(first, 8, b"ping")).await);
            for request in first..first + 8 {
                assert_eq!(peer.receive().await.unwrap().1, RequestId(request));
            }
        }
        assert!(peer.send(&echoes(100, 64, b"ping")).await);
        for request in 100..164 {
            assert_eq!(peer.receive().await.unwrap().1, RequestId(request));
        }
    });
    let counters = world.shards[0].transport().counters();
    assert_eq!(world.shards[0].batches.get(), 3);
    assert_eq!((counters.frames, counters.replies, counters.sends), (80, 81, 4));
    assert_eq!((counters.opened, world.shards[0].transport().len()), (1, 1));
}

#[test]
fn a_hello_for_another_shard_takes_the_connection_there_with_what_follows_it() {
    let mut world = calm();
    world.run(async |dialer| {
        let mut peer = dialer.dial().await;
        // Hello, three requests and the start of a fourth in one piece.
        let rest = echoes(7, 4, b"ping");
        let (now, later) = rest.split_at(rest.len() - 20);
        assert!(peer.send(&[&hello(Some(1))[..], now].concat()).await);
        assert_eq!(peer.receive().await.unwrap().0, Kind::HelloReply);
        assert!(peer.send(later).await);
        for request in 7..11 {
            assert_eq!(peer.receive().await.unwrap().1, RequestId(request));
        }
    });
    let counters = [0, 1].map(|shard: usize| world.shards[shard].transport().counters());
    assert_eq!(
        (
            counters[0].handed_over,
            counters[0].frames,
            world.shards[0].transport().len()
        ),
        (1, 0, 0)
    );
    assert_eq!(
        (
            counters[1].opened,
            counters[1].frames,
            world.shards[1].transport().len()
        ),
        (1, 4, 1)
    );
    assert!(
        world.shards[0].closed.borrow().is_empty(),
        "a connection that left was not closed"
    );
}

#[test]
fn a_hello_may_be_handed_over_with_more_behind_it_than_a_fresh_reader_has_room_for() {
    let mut world = calm();
    world.run(async |dialer| {
        // Leaves a large buffer with the accepting shard.
        let mut large = dialer.open(Some(0)).await;
        assert!(large.send(&echoes(2, 1, &[7; 40_000])).await);
        assert_eq!(large.receive().await.unwrap().1, RequestId(2));
        dialer.env.clock().sleep(Duration::from_millis(10)).await;

        let mut peer = dialer.dial().await;
        let bytes = [hello(Some(1)), echoes(2, 60, &[7; 500])].concat();
        assert!(peer.send(&bytes).await);
        assert_eq!(peer.receive().await.unwrap().0, Kind::HelloReply);
        for request in 2..62 {
            assert_eq!(peer.receive().await.unwrap().1, RequestId(request));
        }
    });
}

/// Sends `bytes` on a fresh connection and says what came back before the end.
fn offend(world: &mut World, after_hello: bool, bytes: &[u8]) -> Option<Code> {
    world.run(async |dialer| {
        let mut peer = if after_hello {
            dialer.open(None).await
        } else {
            dialer.dial().await
        };
        peer.send(bytes).await;
        let mut told = None;
        while let Some((kind, request, payload)) = peer.receive().await {
            if kind == Kind::ErrorReply && request.0 == 0 {
                let frame = encoded_error(&payload);
                told = Code::from_number(frame);
            }
        }
        told
    })
}

/// The code of an error reply's payload.
fn encoded_error(payload: &[u8]) -> u16 {
    // A reader's buffer is aligned as decoding in place needs it.
    let mut reader = wire::FrameReader::new(payload.len());
    reader.extend(payload);
    let aligned = reader.unread();
    let frame = wire::Frame {
        kind: Kind::ErrorReply,
        request: RequestId(0),
        payload: aligned,
    };
    match wire::decode_reply(&frame).unwrap() {
        wire::ReplyRef::ErrorReply(error) => error.code.to_native(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn offences_end_the_connection_are_told_and_counted_by_name() {
    let mut world = calm();
    let mut wrong_version = hello(None);
    wrong_version[1] = 9;
    let mut wrong_sum = echoes(1, 1, b"ping");
    wrong_sum[12] ^= 1;
    let long = [
        &wire::frame::MAGIC.to_le_bytes()[..],
        &[1, 1, 0],
        &u32::MAX.to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    let reply = encoded(&[(RequestId(1), &wire::reply::DiskWriteReply { bytes: 1 })]);
    let introduction = encoded(&[(RequestId(0), &peer_hello(0))]);
    let train = with_train(1, 8, |train| encoded(&[(RequestId(0), train)]));
    let mut no_hello = introduction.clone();
    no_hello.truncate(wire::frame::HEADER_BYTES);
    // The payload's length and checksum are those of nothing: a whole frame, and no message.
    no_hello[4..8].fill(0);
    let crc = base::checksum::crc32c(&no_hello[..12]);
    no_hello[12..].copy_from_slice(&crc.to_le_bytes());
    let unwelcome = Hello {
        client: [1; 16],
        shard: None,
        version_min: 1,
        version_max: 1,
        app: "unwelcome",
    };
    let cases: &[(&str, bool, Vec<u8>, Option<Code>)] = &[
        (
            "bad_magic",
            false,
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            Some(Code::BadFrame),
        ),
        (
            "unknown_version",
            false,
            wrong_version,
            Some(Code::VersionUnsupported),
        ),
        ("too_long", false, long, Some(Code::BadFrame)),
        (
            "hello_expected",
            false,
            echoes(1, 1, b""),
            Some(Code::HelloExpected),
        ),
        ("hello_repeated", true, hello(None), Some(Code::HelloExpected)),
        (
            "hello_refused",
            false,
            encoded(&[(RequestId(1), &unwelcome)]),
            None,
        ),
        ("bad_checksum", true, wrong_sum, Some(Code::BadFrame)),
        ("wrong_direction", true, reply, Some(Code::BadMessage)),
        (
            "wrong_direction",
            true,
            encoded(&[(RequestId(1), &ScanCredit { pages: 1 })]),
            Some(Code::BadMessage),
        ),
        ("wrong_direction", true, train.clone(), Some(Code::BadMessage)),
        ("wrong_direction", true, introduction, Some(Code::BadMessage)),
        ("hello_expected", false, train, Some(Code::HelloExpected)),
        ("malformed", false, no_hello, Some(Code::BadMessage)),
    ];
    for (at, (name, after_hello, bytes, told)) in cases.iter().enumerate() {
        let before = world.closed(name);
        assert_eq!(
            offend(&mut world, *after_hello, bytes),
            *told,
            "case {at}: {name}"
        );
        assert_eq!(world.closed(name), before + 1, "case {at}: {name}");
        assert_eq!(world.shards[0].transport().len(), 0);
    }
    let reported = world.shards[0].closed.borrow().len();
    assert_eq!(
        reported,
        cases.iter().filter(|case| case.1).count(),
        "only connections past their hello are reported"
    );
    world.run(async |dialer| drop(dialer.open(None).await));
}

#[test]
fn a_connection_that_says_no_hello_is_closed_in_time() {
    for start in [&b""[..], &hello(None)[..5], &hello(None)[..40]] {
        let mut world = calm();
        let waited = world.run(async |dialer| {
            let mut peer = dialer.dial().await;
            let since = dialer.env.clock().now();
            peer.send(start).await;
            while peer.receive().await.is_some() {}
            dialer.env.clock().now().since(since)
        });
        let slack = Duration::from_millis(300);
        let expected = TransportConfig::default().hello_timeout;
        assert!(
            expected <= waited + slack && waited <= expected + slack,
            "{waited:?}"
        );
        assert_eq!(world.closed("hello_timeout"), 1);
    }
}

/// The task that looks at time-outs yields between two connections that it ends; the others go on meanwhile.
#[test]
fn a_connection_may_be_handed_over_while_others_time_out() {
    let sim = SimConfig {
        need_yield: 1.0,
        net: sim::NetConfig {
            delay_ns: 100_000..=100_000,
            ..SimConfig::calm().net
        },
        ..SimConfig::calm()
    };
    let mut world = World::new(1, sim, &config());
    let silent = 300;
    world.run(async |dialer| {
        let clock = dialer.env.clock().clone();
        let start = clock.now();
        let mut crowd = Vec::new();
        for _ in 0..silent {
            crowd.push(dialer.dial().await);
        }
        clock.sleep(Duration::from_secs(2)).await;
        let mut peers = Vec::new();
        for _ in 0..100 {
            peers.push(dialer.dial().await);
        }
        // They ask for their shard one after the other while the crowd is being ended, within a few microseconds each.
        let due = start + config().hello_timeout + config().sweep_interval;
        clock.sleep(due.since(clock.now())).await;
        for peer in &peers {
            assert!(peer.send(&hello(Some(1))).await);
            clock.sleep(Duration::from_micros(3)).await;
        }
        for peer in &mut peers {
            assert_eq!(peer.receive().await.unwrap().0, Kind::HelloReply);
        }
    });
    assert_eq!(world.closed("hello_timeout"), silent);
}

#[test]
fn a_frame_may_be_slow_but_not_endless() {
    // One byte every 2 s: a slow-loris. Whole frames at the same pace keep the connection.
    let mut world = calm();
    world.run(async |dialer| {
        let mut peer = dialer.open(None).await;
        let clock = dialer.env.clock().clone();
        for request in 2..9 {
            assert!(peer.send(&echoes(request, 1, b"x")).await);
            assert!(peer.receive().await.is_some());
            clock.sleep(Duration::from_secs(2)).await;
        }
        let since = clock.now();
        for byte in echoes(9, 1, b"x") {
            if !peer.send(&[byte]).await {
                break;
            }
            clock.sleep(Duration::from_secs(2)).await;
        }
        let waited = clock.now().since(since);
        assert!(
            waited >= Duration::from_secs(10) && waited <= Duration::from_secs(16),
            "{waited:?}"
        );
    });
    assert_eq!(world.closed("frame_timeout"), 1);

    // A long frame that arrives at a fair rate may take longer than the time-out.
    let mut world = calm();
    world.run(async |dialer| {
        let mut peer = dialer.open(None).await;
        let clock = dialer.env.clock().clone();
        for chunk in echoes(2, 1, &vec![7; 8 << 20]).chunks(512 << 10) {
            assert!(peer.send(chunk).await);
            clock.sleep(Duration::from_secs(1)).await;
        }
        assert!(peer.receive().await.is_some());
    });
    assert_eq!(world.closed("frame_timeout"), 0);
}

#[test]
fn a_peer_that_does_not_read_is_not_read_and_closed_at_last() {
    let mut world = calm();
    let reply_bytes = 100_000;
    world.shards[0].reply_bytes.set(Some(reply_bytes));
    let shard = world.shards[0].clone();
    world.run(async |dialer| {
        let peer = dialer.open(None).await;
        let clock = dialer.env.clock().clone();
        // Far more requests than replies may wait.
        for batch in 0..40 {
            let bytes = echoes(2 + batch * 100, 100, b"");
            if within(&clock, 1, peer.send(&bytes)).await.is_none() {
                break;
            }
        }
        clock.sleep(Duration::from_secs(90)).await;
    });
    let counters = shard.transport().counters();
    assert!(counters.paused > 0);
    let kept = counters.replies * reply_bytes as u64 - counters.sent_bytes;
    // One window more than what may wait: it was taken before its replies were seen.
    let most = config().outbox_bytes_max + 16 * reply_bytes;
    assert!(kept <= most as u64, "{kept} bytes of replies were kept");
    assert_eq!(
        shard.transport().unsent_bytes(),
        0,
        "what a closed connection kept is forgotten"
    );
    assert_eq!(world.closed("send_timeout"), 1);
    assert!(shard.transport().is_empty());
}

/// What `future` gives, unless it takes more than `secs`.
async fn within<T>(clock: &sim::SimClock, secs: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = core::pin::pin!(future);
    let mut late = core::pin::pin!(clock.sleep(Duration::from_secs(secs)));
    core::future::poll_fn(|context| {
        if let core::task::Poll::Ready(value) = future.as_mut().poll(context) {
            return core::task::Poll::Ready(Some(value));
        }
        late.as_mut().poll(context).map(|()| None)
    })
    .await
}

#[test]
fn the_window_closes_while_replies_are_held_and_opens_again() {
    let config = TransportConfig {
        requests_max: 10,
        ..config()
    };
    let mut world = World::new(1, SimConfig::calm(), &config);
    let shard = world.shards[0].clone();
    shard.hold.set(true);
    world.run(async |dialer| {
        let mut peer = dialer.open(None).await;
        assert!(peer.send(&echoes(2, 35, b"x")).await);
        dialer.env.clock().sleep(Duration::from_secs(1)).await;
        assert_eq!(shard.held(), 10);
        shard.release();
        for request in 2..37 {
            assert_eq!(peer.receive().await.unwrap().1, RequestId(request));
        }
    });
    let counters = world.shards[0].transport().counters();
    assert_eq!((counters.frames, counters.replies), (35, 36));
    assert!(counters.paused >= 1);
}

#[test]
fn connections_are_limited_and_the_next_one_is_told() {
    let config = TransportConfig {
        connections_max: 3,
        ..config()
    };
    let mut world = World::new(1, SimConfig::calm(), &config);
    world.run(async |dialer| {
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(dialer.open(None).await);
        }
        let mut fourth = dialer.dial().await;
        let (kind, _, payload) = fourth.receive().await.unwrap();
        assert_eq!(
            (kind, encoded_error(&payload)),
            (Kind::ErrorReply, Code::TooManyConnections.number())
        );
        assert!(fourth.receive().await.is_none());
        peers.pop().unwrap().shutdown();
        dialer.env.clock().sleep(Duration::from_millis(100)).await;
        drop(dialer.open(None).await);
    });
    assert_eq!(
        (world.closed("too_many_connections"), world.closed("peer_closed")),
        (1, 1)
    );
}

#[test]
fn replies_to_a_connection_that_is_gone_are_dropped() {
    let mut world = calm();
    let shard = world.shards[0].clone();
    shard.hold.set(true);
    world.run(async |dialer| {
        let peer = dialer.open(None).await;
        assert!(peer.send(&echoes(2, 5, b"x")).await);
        dialer.env.clock().sleep(Duration::from_millis(10)).await;
        assert_eq!(shard.held(), 5);
        peer.shutdown();
        dialer.env.clock().sleep(Duration::from_millis(10)).await;
        assert_eq!(*shard.closed.borrow(), [CloseReason::PeerClosed]);
        // The next connection takes the same slot, and does not get the old one's replies.
        let mut next = dialer.open(None).await;
        shard.release();
        assert!(next.send(&echoes(100, 1, b"x")).await);
        assert_eq!(next.receive().await.unwrap().1, RequestId(100));
    });
    assert_eq!(world.shards[0].transport().counters().replies, 3);
}

#[test]
fn closing_sends_what_was_replied_and_ends_every_connection() {
    let mut world = calm();
    let shard = world.shards[0].clone();
    world.run(async |dialer| {
        let mut peers = [dialer.open(None).await, dialer.open(None).await];
        shard.hold.set(true);
        assert!(peers[0].send(&echoes(2, 1, b"x")).await);
        dialer.env.clock().sleep(Duration::from_millis(10)).await;
        shard.release();
        shard.transport().close_all();
        assert_eq!(peers[0].receive().await.unwrap().1, RequestId(2));
        for mut peer in peers {
            assert!(peer.receive().await.is_none());
        }
    });
    assert_eq!((world.closed("local"), world.shards[0].transport().len()), (2, 0));
}

/// Under every network fault of the swarm, a reply is whole, in order, and for a request that was sent.
#[test]
fn replies_come_whole_and_in_order_over_a_bad_network() {
    let mut answered = 0;
    for seed in 0..60 {
        let mut world = World::new(seed, SimConfig::swarm(seed), &config());
        answered += world.run(async |dialer| {
            let clock = dialer.env.clock().clone();
            let mut prng = Prng::new(seed);
            let mut answered = 0;
            for _ in 0..3 {
                // A connection may fall silent without an end: the other side gives up on it too.
                if let Some(Some(peer)) = within(&clock, 60, dialer.try_dial()).await {
                    within(&clock, 60, talk(peer, &mut prng, &mut answered)).await;
                }
            }
            answered
        });
        world.sim.run_for(Duration::from_secs(200));
        for shard in &world.shards {
            let transport = shard.transport();
            // A connection whose end was never told may stay, idle; one with replies to send does not.
            assert_eq!(
                transport.unsent_bytes(),
                0,
                "seed {seed}: {:?}",
                transport.counters()
            );
        }
    }
    assert!(answered > 2000, "{answered} replies over all seeds");
}

/// Sends requests of random sizes, some ahead of the replies, and counts the answers.
async fn talk(mut peer: support::Peer, prng: &mut Prng, answered: &mut u32) {
    let shard = u16::try_from(prng.below(2)).unwrap();
    if !peer.send(&hello(Some(shard))).await || peer.receive().await.is_none() {
        return;
    }
    let (mut sent, mut next) = (2, 2);
    for _ in 0..12 {
        let payload = vec![7; usize::try_from(prng.below(3000)).unwrap()];
        let count = u32::try_from(prng.between(1, 8)).unwrap();
        if !peer.send(&echoes(sent, count, &payload)).await {
            return;
        }
        sent += count;
        while next + 8 < sent {
            let Some((kind, request, _)) = peer.receive().await else {
                return;
            };
            assert_eq!((kind, request), (Kind::EchoReply, RequestId(next)));
            next += 1;
            *answered += 1;
        }
    }
}
