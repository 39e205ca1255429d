//! Each fault of the network, one at a time.

use base::ShardId;
use corelane_sim::{Fault, Sim, SimConfig, SimEnv, SimNodeId, SimReader, SimWriter};
use env::{Address, Env, Instant, Listener, Net, Reader, Writer};
use std::io::ErrorKind;
use std::time::Duration;

const PORT: u16 = 7400;
const SECOND: Duration = Duration::from_secs(1);

type Halves = (SimReader, SimWriter);

struct Pair {
    sim: Sim,
    nodes: [SimNodeId; 2],
    client: Halves,
    server: Halves,
}

/// Two nodes and a connection from the first to the second.
fn pair(change: impl FnOnce(&mut SimConfig)) -> Pair {
    let mut config = SimConfig::calm();
    change(&mut config);
    let mut sim = Sim::new(21, config);
    let nodes = [sim.add_node(1), sim.add_node(1)];
    let [client, server] = nodes.map(|node| sim.env(node, ShardId(0)));
    let address = sim.address(nodes[1], PORT);
    let (client, server) = sim.block_on(async move {
        let listener = server
            .net()
            .listen(Address::from(([0, 0, 0, 0], PORT)))
            .expect("a free port");
        let there = client.net().connect(address).await.expect("somebody listens");
        let here = listener.accept().await.expect("somebody came");
        (client.net().adopt(there), server.net().adopt(here))
    });
    Pair {
        sim,
        nodes,
        client,
        server,
    }
}

/// What a read gives within so long.
fn read(sim: &mut Sim, half: &mut SimReader, within: Duration) -> Option<Result<Vec<u8>, ErrorKind>> {
    let limit = sim.now() + within;
    let mut buf = [0; 100];
    let result = sim.block_on_until(limit, half.read(&mut buf)).ok()?;
    Some(
        result
            .map(|count| buf[..count].to_vec())
            .map_err(|error| error.kind),
    )
}

#[test]
fn a_cut_stalls_and_what_was_sent_arrives_after_it() {
    let Pair {
        mut sim,
        nodes: [a, b],
        client,
        mut server,
    } = pair(|_| {});
    sim.cut(a, b, SECOND);
    client.1.try_write(b"one").expect("room");
    assert_eq!(read(&mut sim, &mut server.0, SECOND / 2), None);
    client.1.try_write(b"two").expect("room");
    assert_eq!(
        read(&mut sim, &mut server.0, SECOND),
        Some(Ok(b"onetwo".to_vec()))
    );
}

#[test]
fn a_cut_is_one_way_unless_both_ways_are_cut() {
    let Pair {
        mut sim,
        nodes: [a, b],
        mut client,
        mut server,
    } = pair(|_| {});
    sim.cut(a, b, SECOND);
    server.1.try_write(b"back").expect("room");
    assert_eq!(
        read(&mut sim, &mut client.0, SECOND / 2),
        Some(Ok(b"back".to_vec()))
    );
    client.1.try_write(b"there").expect("room");
    assert_eq!(read(&mut sim, &mut server.0, SECOND / 4), None);
}

#[test]
fn healing_lets_go_at_once_what_a_long_cut_holds() {
    let Pair {
        mut sim,
        nodes: [a, b],
        client,
        mut server,
    } = pair(|_| {});
    sim.cut(a, b, SECOND * 3600);
    client.1.try_write(b"one").expect("room");
    assert_eq!(read(&mut sim, &mut server.0, SECOND), None);
    sim.heal();
    assert_eq!(
        read(&mut sim, &mut server.0, SECOND / 1000),
        Some(Ok(b"one".to_vec()))
    );
}

#[test]
fn patience_ends_and_the_other_side_is_not_told() {
    let Pair {
        mut sim,
        nodes: [a, b],
        mut client,
        mut server,
    } = pair(|_| {});
    sim.cut(a, b, SECOND * 60);
    client.1.try_write(b"lost").expect("room");
    assert_eq!(
        read(&mut sim, &mut client.0, SECOND * 30),
        Some(Err(ErrorKind::TimedOut))
    );
    assert_eq!(
        client.1.try_write(b"more").expect_err("it is over").kind,
        ErrorKind::TimedOut
    );
    assert_eq!(read(&mut sim, &mut server.0, SECOND * 60), None, "half open");
    // It learns of it when it sends.
    server.1.try_write(b"hello?").expect("nobody has told it");
    assert_eq!(
        read(&mut sim, &mut server.0, SECOND),
        Some(Err(ErrorKind::ConnectionReset))
    );
    assert_eq!(sim.fault_counts()[&Fault::NetTimeout], 1);
}

#[test]
fn a_crash_is_told_or_not() {
    let Pair {
        mut sim,
        nodes: [_, b],
        mut client,
        server: _server,
    } = pair(|config| config.net.half_open = 0.0);
    sim.crash(b);
    assert_eq!(
        read(&mut sim, &mut client.0, SECOND),
        Some(Err(ErrorKind::ConnectionReset))
    );

    let Pair {
        mut sim,
        nodes: [_, b],
        mut client,
        server: _server,
    } = pair(|config| config.net.half_open = 1.0);
    sim.crash(b);
    client.1.try_write(b"anybody?").expect("nobody has told it");
    assert_eq!(read(&mut sim, &mut client.0, SECOND), None);
    assert_eq!(
        read(&mut sim, &mut client.0, SECOND * 30),
        Some(Err(ErrorKind::TimedOut))
    );

    let Pair {
        mut sim,
        nodes: [_, b],
        mut client,
        server: _server,
    } = pair(|config| config.net.half_open = 1.0);
    sim.crash(b);
    sim.restart(b);
    client.1.try_write(b"anybody?").expect("nobody has told it");
    assert_eq!(
        read(&mut sim, &mut client.0, SECOND),
        Some(Err(ErrorKind::ConnectionReset))
    );
}

#[test]
fn connecting_is_refused_or_times_out() {
    let Pair {
        mut sim,
        nodes: [a, b],
        client: _client,
        server: _server,
    } = pair(|_| {});
    let connect = |sim: &mut Sim, env: SimEnv, address| {
        sim.block_on(async move {
            env.net()
                .connect(address)
                .await
                .map(drop)
                .map_err(|error| error.kind)
        })
    };
    let env = sim.env(a, ShardId(0));
    let (nobody, somebody) = (sim.address(b, 1), sim.address(b, PORT));
    assert_eq!(
        connect(&mut sim, env.clone(), nobody),
        Err(ErrorKind::ConnectionRefused)
    );
    sim.cut(b, a, SECOND * 60);
    assert_eq!(connect(&mut sim, env.clone(), somebody), Err(ErrorKind::TimedOut));
    sim.heal();
    sim.crash(b);
    let before = sim.now();
    assert_eq!(connect(&mut sim, env, somebody), Err(ErrorKind::TimedOut));
    assert!(sim.now().since(before) >= SECOND, "it takes patience");
}

#[test]
fn a_drip_gives_one_byte_at_a_time() {
    let Pair {
        mut sim,
        client,
        mut server,
        ..
    } = pair(|config| config.net.drip = 1.0);
    client.1.try_write(b"abc").expect("room");
    for byte in [b"a", b"b", b"c"] {
        assert_eq!(read(&mut sim, &mut server.0, SECOND), Some(Ok(byte.to_vec())));
    }
}

#[test]
fn a_small_window_fills_until_it_is_read() {
    let Pair {
        mut sim,
        client,
        mut server,
        ..
    } = pair(|config| config.net.window_bytes = 5..=5);
    assert_eq!(client.1.try_write(b"abcdefgh"), Ok(5));
    assert_eq!(client.1.try_write(b"fgh"), Ok(0));
    let limit = sim.now() + SECOND;
    assert!(sim.block_on_until(limit, client.1.writable()).is_err());
    assert_eq!(read(&mut sim, &mut server.0, SECOND), Some(Ok(b"abcde".to_vec())));
    sim.block_on(client.1.writable()).expect("unbroken");
    assert_eq!(client.1.try_write(b"fgh"), Ok(3));
}

/// Data gets through and the news that it was read does not: the sender waits, and goes on after the cut.
#[test]
fn room_does_not_get_through_a_cut_of_the_other_way() {
    let Pair {
        mut sim,
        nodes: [a, b],
        client,
        mut server,
    } = pair(|config| config.net.window_bytes = 5..=5);
    sim.cut(b, a, SECOND);
    assert_eq!(client.1.try_write(b"abcde"), Ok(5));
    assert_eq!(
        read(&mut sim, &mut server.0, SECOND / 4),
        Some(Ok(b"abcde".to_vec()))
    );
    let limit = sim.now() + SECOND / 2;
    assert!(sim.block_on_until(limit, client.1.writable()).is_err());
    sim.block_on(client.1.writable()).expect("unbroken");
    assert!(sim.now() >= Instant(1_000_000_000), "{:?}", sim.now());
}

#[test]
fn a_reset_breaks_both_ends() {
    let Pair {
        mut sim,
        mut client,
        mut server,
        ..
    } = pair(|config| config.net.reset = 1.0);
    client.1.try_write(b"abc").expect("room");
    assert_eq!(
        read(&mut sim, &mut server.0, SECOND),
        Some(Err(ErrorKind::ConnectionReset))
    );
    assert_eq!(
        read(&mut sim, &mut client.0, SECOND),
        Some(Err(ErrorKind::ConnectionReset))
    );
}

#[test]
fn lost_segments_come_late_and_in_order() {
    let Pair {
        mut sim,
        client,
        mut server,
        ..
    } = pair(|config| config.net.loss = 0.3);
    let start: Instant = sim.now();
    for byte in 0..50u8 {
        client.1.try_write(&[byte]).expect("room");
    }
    let mut all = Vec::new();
    while all.len() < 50 {
        all.extend(
            read(&mut sim, &mut server.0, SECOND * 10)
                .expect("it comes")
                .expect("unbroken"),
        );
    }
    assert_eq!(all, (0..50).collect::<Vec<_>>());
    assert!(sim.now().since(start) > SECOND / 10 && sim.fault_counts()[&Fault::NetLoss] > 3);
}

/// A socket that crosses to another shard and is dropped there untaken closes its connection.
#[test]
fn a_dropped_socket_closes() {
    let Pair {
        mut sim,
        nodes: [a, _],
        client,
        mut server,
    } = pair(|_| {});
    let env = sim.env(a, ShardId(0));
    drop(env.net().detach(client.0, client.1));
    assert_eq!(read(&mut sim, &mut server.0, SECOND), Some(Ok(Vec::new())));
}
