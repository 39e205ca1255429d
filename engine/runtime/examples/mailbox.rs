//! What a message between two shards costs.
//!
//! `cargo run --release -p corelane-runtime --example mailbox`
//!
//! First the bare ring between two threads, then mailboxes between two shards: amortised ns per message at batch sizes 1 and
//! 64, and the round trip of one message between two shards that park in between.
#![expect(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use base::ShardId;
use corelane_runtime::mailbox::ring::ring;
use corelane_runtime::{GlommioEnv, RingMailbox, RuntimeConfig, run_shards};
use env::Mailbox as _;
use std::time::Instant;

const MESSAGES: u64 = 5_000_000;
const CAPACITY: usize = 1024;
const TRIPS: u64 = 20_000;

fn main() {
    for batch in [1, 64] {
        let mut rounds: Vec<u64> = (0..5).map(|_| bare(batch)).collect();
        rounds.sort_unstable();
        println!(
            "ring, batch {batch:>2}: {} ps per message (median of 5)",
            rounds[2]
        );
    }
    for batch in [1, 64] {
        shards(&format!("shards, batch {batch:>2}"), false, move |mailbox| {
            stream(mailbox, batch)
        });
    }
    shards("shards, round trip, parking", false, trips);
    shards("shards, round trip, spinning", true, trips);
}

/// Picoseconds per message.
fn bare(batch: u64) -> u64 {
    let (mut sender, mut receiver) = ring::<[u64; 4]>(CAPACITY);
    let start = Instant::now();
    let other = std::thread::spawn(move || {
        for message in 0..MESSAGES {
            while sender.stage([message; 4]).is_err() {
                sender.publish();
                std::hint::spin_loop();
            }
            if message % batch == batch - 1 {
                sender.publish();
            }
        }
        sender.publish();
    });
    for expected in 0..MESSAGES {
        loop {
            if let Some(message) = receiver.receive() {
                assert_eq!(message[0], expected);
                if receiver.release_due() {
                    receiver.release();
                }
                break;
            }
            receiver.release();
            std::hint::spin_loop();
        }
    }
    other.join().unwrap();
    u64::try_from(start.elapsed().as_nanos()).unwrap() * 1000 / MESSAGES
}

fn shards<F, Fut>(name: &str, dedicated: bool, run: F)
where
    F: Fn(RingMailbox<[u64; 4]>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = u64> + 'static,
{
    let config = RuntimeConfig {
        shards: 2,
        dedicated,
        ..RuntimeConfig::new(std::env::temp_dir())
    };
    let name = name.to_owned();
    run_shards(&config, move |_: GlommioEnv, mailbox: RingMailbox<[u64; 4]>| {
        let (name, run) = (name.clone(), run.clone());
        async move {
            let first = mailbox.shard() == ShardId(0);
            let start = Instant::now();
            let count = run(mailbox).await;
            if first {
                println!(
                    "{name}: {} ns",
                    u64::try_from(start.elapsed().as_nanos()).unwrap() / count
                );
            }
            Ok::<(), String>(())
        }
    })
    .unwrap();
}

async fn receive(mailbox: &RingMailbox<[u64; 4]>) -> [u64; 4] {
    loop {
        if let Some((_, message)) = mailbox.try_receive() {
            return message;
        }
        mailbox.readable().await;
    }
}

async fn send(mailbox: &RingMailbox<[u64; 4]>, to: ShardId, mut message: [u64; 4]) {
    while let Err(back) = mailbox.try_send(to, message) {
        message = back;
        mailbox.writable(to).await;
    }
}

/// Shard 0 sends, shard 1 receives and says when it has all.
async fn stream(mailbox: RingMailbox<[u64; 4]>, batch: u64) -> u64 {
    const COUNT: u64 = MESSAGES / 5;
    if mailbox.shard() == ShardId(0) {
        for message in 0..COUNT {
            send(&mailbox, ShardId(1), [message; 4]).await;
            if message % batch == batch - 1 {
                mailbox.flush();
            }
        }
        mailbox.flush();
        receive(&mailbox).await;
    } else {
        for expected in 0..COUNT {
            assert_eq!(receive(&mailbox).await[0], expected);
        }
        send(&mailbox, ShardId(0), [0; 4]).await;
        mailbox.flush();
    }
    COUNT
}

async fn trips(mailbox: RingMailbox<[u64; 4]>) -> u64 {
    let (own, other) = (mailbox.shard(), ShardId(1 - mailbox.shard().0));
    for trip in 0..TRIPS {
        if own == ShardId(0) {
            send(&mailbox, other, [trip; 4]).await;
            mailbox.flush();
        }
        assert_eq!(receive(&mailbox).await[0], trip);
        if own == ShardId(1) {
            send(&mailbox, other, [trip; 4]).await;
            mailbox.flush();
        }
    }
    TRIPS
}
