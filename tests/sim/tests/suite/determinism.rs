//! One seed, one history: a workload that uses every part, under a drawn swarm of faults, twice.

use base::limits::BLOCK_BYTES;
use base::{Prng, ShardId};
use corelane_sim::{Fault, Report, Sim, SimConfig, SimEnv, SimMailbox, SimNodeId, SimSocket};
use env::{
    Address, Clock, Disk, DiskError, Env, File, Listener, Mailbox, Net, NetError, OpenMode, Reader,
    TaskClass, Tasks, Writer,
};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const PORT: u16 = 7400;
const SHARDS: u16 = 2;

/// Handed from the shard that accepts to the one that serves.
type Handover = SimSocket;

async fn send_all(writer: &impl Writer, mut bytes: &[u8]) -> Result<(), NetError> {
    while !bytes.is_empty() {
        let sent = writer.try_write(bytes)?;
        bytes = &bytes[sent..];
        if sent == 0 {
            writer.writable().await?;
        }
    }
    Ok(())
}

async fn receive_all(reader: &mut impl Reader, bytes: &mut [u8]) -> Result<bool, NetError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(&mut bytes[filled..]).await? {
            0 => return Ok(false),
            count => filled += count,
        }
    }
    Ok(true)
}

async fn store(env: &SimEnv, byte: u8) -> Result<(), DiskError> {
    let disk = env.disk();
    disk.create_dir("d").await?;
    let name = format!("d/{}", byte % 16);
    let file = disk.create(&format!("{name}.tmp"), OpenMode::Write).await?;
    let mut buf = disk.alloc(2 * BLOCK_BYTES);
    buf.fill(byte);
    file.write_at(0, buf).await.0?;
    file.sync().await?;
    disk.rename(&format!("{name}.tmp"), &name).await?;
    disk.sync_dir("d").await?;
    let log = match disk.open("log", OpenMode::WriteDurable).await {
        Ok(log) => log,
        Err(_) => disk.create("log", OpenMode::WriteDurable).await?,
    };
    let at = u64::from(byte) * BLOCK_BYTES as u64;
    let _ = log.read_at(at, BLOCK_BYTES).await?;
    log.write_at(at, disk.alloc(BLOCK_BYTES)).await.0
}

/// Answers each 64-byte request, after storing a byte of it.
async fn serve(env: SimEnv, socket: SimSocket) {
    let (mut reader, writer) = env.net().adopt(socket);
    let mut request = [0; 64];
    while let Ok(true) = receive_all(&mut reader, &mut request).await {
        // A failed disk is answered like a sound one here: the world is under test, not the server.
        let _ = store(&env, request[0]).await;
        while env.tasks().need_yield() {
            env.tasks().yield_now().await;
        }
        if send_all(&writer, &request).await.is_err() {
            return;
        }
    }
}

async fn accept(env: SimEnv, mailbox: SimMailbox<Handover>) {
    let Ok(listener) = env.net().listen(Address::from(([0, 0, 0, 0], PORT))) else {
        return;
    };
    while let Ok(mut socket) = listener.accept().await {
        while let Err(back) = mailbox.try_send(ShardId(1), socket) {
            socket = back;
            mailbox.writable(ShardId(1)).await;
        }
        mailbox.flush();
    }
}

async fn take_over(env: SimEnv, mailbox: SimMailbox<Handover>) {
    loop {
        while let Some((_, socket)) = mailbox.try_receive() {
            env.tasks()
                .spawn(TaskClass::Foreground, serve(env.clone(), socket));
        }
        mailbox.readable().await;
    }
}

/// Asks one peer after the other, for ever.
async fn ask(env: SimEnv, peers: Rc<Vec<Address>>) {
    let mut prng = env.prng();
    loop {
        let peer = peers[prng.index(peers.len())];
        if let Ok(socket) = env.net().connect(peer).await {
            let (mut reader, writer) = env.net().adopt(socket);
            for _ in 0..prng.between(1, 20) {
                let mut request = [0; 64];
                prng.fill(&mut request);
                let before = env.clock().wall_ns();
                if send_all(&writer, &request).await.is_err() {
                    break;
                }
                let mut reply = [0; 64];
                if !matches!(receive_all(&mut reader, &mut reply).await, Ok(true)) {
                    break;
                }
                assert_eq!(request, reply, "asked at {before}");
            }
        }
        env.clock().sleep(Duration::from_micros(prng.below(5_000))).await;
    }
}

fn start(sim: &Sim, node: SimNodeId, peers: &Rc<Vec<Address>>) {
    let mut mailboxes = sim.mailboxes::<Handover>(node).into_iter();
    let env = |shard| sim.env(node, ShardId(shard));
    let (zero, one) = (
        mailboxes.next().expect("two shards"),
        mailboxes.next().expect("two shards"),
    );
    sim.spawn(Some(node), accept(env(0), zero));
    sim.spawn(Some(node), take_over(env(1), one));
    for shard in 0..SHARDS {
        sim.spawn(Some(node), ask(env(shard), peers.clone()));
    }
}

fn run(seed: u64) -> Report {
    let mut config = SimConfig::swarm(seed);
    // The workload fills about a megabyte a node.
    config.disk.capacity_bytes = config.disk.capacity_bytes.map(|bytes| bytes / 128);
    let mut sim = Sim::new(seed, config);
    let nodes: Vec<_> = (0..3).map(|_| sim.add_node(SHARDS)).collect();
    let peers = Rc::new(
        nodes
            .iter()
            .map(|node| sim.address(*node, PORT))
            .collect::<Vec<_>>(),
    );
    for node in &nodes {
        start(&sim, *node, &peers);
    }
    let mut prng = Prng::new(!seed);
    for _ in 0..12 {
        sim.run_for(Duration::from_millis(prng.below(3_000)));
        let node = nodes[prng.index(nodes.len())];
        if sim.is_up(node) {
            if prng.chance(0.7) {
                sim.crash(node);
            } else {
                sim.kill(node);
            }
        } else {
            sim.restart(node);
            start(&sim, node, &peers);
        }
    }
    sim.calm();
    sim.run_for(Duration::from_secs(1));
    sim.report()
}

/// How many seeds run twice: 20, or what `CORELANE_SEEDS` says.
fn seeds() -> u64 {
    std::env::var("CORELANE_SEEDS").map_or(20, |seeds| seeds.parse().expect("CORELANE_SEEDS is a number"))
}

#[test]
fn a_seed_gives_one_history() {
    let mut hashes = BTreeSet::new();
    let (mut events, mut now_ns) = (0, 0);
    for seed in 0..seeds() {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.faults, second.faults, "seed {seed}");
        assert_eq!(first.events, second.events, "seed {seed}");
        assert!(hashes.insert(first.hash), "seed {seed} repeats another");
        events += first.events;
        now_ns += first.now_ns;
    }
    assert!(
        events > 20_000,
        "{events} events in {now_ns} ns: the workload did nothing"
    );
}

/// A fault that never fires tests nothing.
#[test]
fn every_fault_fires_in_some_seed() {
    let mut missing: BTreeSet<Fault> = Fault::ALL.iter().copied().collect();
    // Placed by hand, never drawn.
    missing.remove(&Fault::DiskRule);
    missing.remove(&Fault::BitFlip);
    let mut seeds = 0;
    while !missing.is_empty() && seeds < 400 {
        let faults = run(1_000 + seeds).faults;
        missing.retain(|fault| !faults.contains_key(fault));
        seeds += 1;
    }
    assert!(missing.is_empty(), "in {seeds} seeds never seen: {missing:?}");
}
