//! How fast a run is: `time cargo run --profile sim -p corelane-sim --example sim_speed [tasks|disk|net|images]`.
//!
//! Prints how many events a kind of work made; the shell's `time` says how long that took.

use base::ShardId;
use base::limits::BLOCK_BYTES;
use corelane_sim::{DiskImage, ImageMachine, Sim, SimConfig};
use env::{
    Address, Clock, Disk, DiskError, Env, File, Listener, Net, NetError, OpenMode, Reader, Tasks, Writer,
};
use std::time::Duration;

const ROUNDS: u64 = 200_000;

fn main() {
    let kind = std::env::args().nth(1).unwrap_or_else(|| "tasks".to_owned());
    let done = match kind.as_str() {
        "tasks" => tasks(),
        "disk" => disk(),
        "net" => net(),
        "images" => images(),
        other => panic!("tasks, disk, net or images, not {other}"),
    };
    println!("{kind}: {done}");
}

/// Sleeps and yields on eight tasks.
fn tasks() -> String {
    let mut sim = Sim::new(1, SimConfig::shuffled());
    let node = sim.add_node(1);
    for of in 0..8 {
        let env = sim.env(node, ShardId(0));
        sim.spawn(Some(node), async move {
            for round in 0..ROUNDS / 2 {
                env.clock()
                    .sleep(Duration::from_micros(1 + (of + round) % 7))
                    .await;
                env.tasks().yield_now().await;
            }
        });
    }
    sim.run_until_idle(env::Instant(u64::MAX));
    events(sim)
}

/// Durable 4 KiB writes over one segment, by four tasks.
fn disk() -> String {
    let mut sim = Sim::new(1, SimConfig::shuffled());
    let node = sim.add_node(1);
    for of in 0..4u64 {
        let env = sim.env(node, ShardId(0));
        let work = async move {
            let file = env
                .disk()
                .create(&format!("f{of}"), OpenMode::WriteDurable)
                .await?;
            let mut buf = env.disk().alloc(BLOCK_BYTES);
            for round in 0..ROUNDS / 4 {
                buf[..8].copy_from_slice(&(1 + round).to_le_bytes());
                let (result, back) = file.write_at(round % 16 * BLOCK_BYTES as u64, buf).await;
                result?;
                buf = back;
            }
            Ok::<(), DiskError>(())
        };
        sim.spawn(Some(node), async move { work.await.expect("a sound disk") });
    }
    sim.run_until_idle(env::Instant(u64::MAX));
    events(sim)
}

/// 64-byte requests and answers on four connections.
fn net() -> String {
    let mut sim = Sim::new(1, SimConfig::shuffled());
    let nodes = [sim.add_node(1), sim.add_node(1)];
    let address = sim.address(nodes[1], 7400);
    let server = sim.env(nodes[1], ShardId(0));
    let listener = server
        .net()
        .listen(Address::from(([0, 0, 0, 0], 7400)))
        .expect("a free port");
    sim.spawn(Some(nodes[1]), async move {
        while let Ok(socket) = listener.accept().await {
            let (mut reader, writer) = server.net().adopt(socket);
            server.tasks().spawn(env::TaskClass::Foreground, async move {
                let mut buf = [0; 64];
                while let Ok(count @ 1..) = reader.read(&mut buf).await {
                    if writer.try_write(&buf[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    for _ in 0..4 {
        let client = sim.env(nodes[0], ShardId(0));
        let work = async move {
            let (mut reader, writer) = client.net().adopt(client.net().connect(address).await?);
            for _ in 0..ROUNDS / 4 {
                let mut buf = [7; 64];
                writer.try_write(&buf)?;
                reader.read(&mut buf).await?;
            }
            Ok::<(), NetError>(())
        };
        sim.spawn(
            Some(nodes[0]),
            async move { work.await.expect("a sound network") },
        );
    }
    sim.run_until_idle(env::Instant(u64::MAX));
    events(sim)
}

fn events(sim: Sim) -> String {
    let report = sim.report();
    format!(
        "{} events in {} virtual ms, hash {:016x}",
        report.events,
        report.now_ns / 1_000_000,
        report.hash
    )
}

/// Opens an image of four small segments, reads it all and writes one block.
fn images() -> String {
    let mut image = DiskImage::new();
    for segment in 0..4 {
        let bytes: Vec<u8> = (0..4 * BLOCK_BYTES)
            .map(|at| u8::try_from(at % 251).expect("below 251"))
            .collect();
        image.write(&format!("wal/{segment}.seg"), &bytes);
    }
    let mut read = 0;
    for _ in 0..ROUNDS {
        let machine = ImageMachine::new(&image);
        let env = machine.env();
        read += machine.block_on(async {
            let disk = env.disk();
            let mut read = 0;
            for entry in disk.list("wal").await.expect("it exists") {
                let file = disk
                    .open(&format!("wal/{}", entry.name), OpenMode::Read)
                    .await
                    .expect("it exists");
                read += file
                    .read_at(0, 4 * BLOCK_BYTES)
                    .await
                    .expect("a sound disk")
                    .len();
            }
            let file = disk
                .open("wal/0.seg", OpenMode::WriteDurable)
                .await
                .expect("it exists");
            file.write_at(0, disk.alloc(BLOCK_BYTES))
                .await
                .0
                .expect("a sound disk");
            read
        });
    }
    format!("{ROUNDS} images, {read} bytes read")
}
