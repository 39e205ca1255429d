//! The seam's own suite, on the simulator: calm, in drawn order, and under the faults that break no contract.

use base::ShardId;
use corelane_sim::{ImageEnv, ImageMachine, Sim, SimConfig, SimEnv, SimMailbox};
use env::Instant;
use env::conformance::{cases, mailbox_cases};

/// Long enough for anything but a hang.
const LIMIT: Instant = Instant(3_600_000_000_000);

fn configs(seed: u64) -> Vec<(&'static str, SimConfig)> {
    let mut rough = SimConfig::shuffled();
    rough.need_yield = 0.3;
    rough.clock.drift_ppm_max = 200;
    rough.clock.sleep_late = 0.1;
    rough.pause_every_ns = Some(50_000_000);
    rough.pause_ns = 1_000..=100_000_000;
    rough.disk.slow = 0.2;
    rough.net.jitter_ns = 3_000_000;
    rough.net.short_read = 0.3;
    rough.net.short_write = 0.3;
    rough.net.drip = 0.05;
    rough.net.loss = 0.01;
    rough.mailbox.delay = 0.3;
    rough.mailbox.spurious = 0.1;
    // The case with three shards hangs on rings that do not hold all that it sends.
    rough.mailbox.capacity = 500 + usize::try_from(seed).expect("small");
    vec![
        ("calm", SimConfig::calm()),
        ("shuffled", SimConfig::shuffled()),
        ("rough", rough),
    ]
}

#[test]
fn one_shard() {
    for seed in 0..4 {
        for (config_name, config) in configs(seed) {
            for (name, start) in cases::<SimEnv>() {
                let mut sim = Sim::new(seed, config.clone());
                let node = sim.add_node(1);
                let case = start(sim.env(node, ShardId(0)));
                sim.block_on_until(LIMIT, case)
                    .unwrap_or_else(|stuck| panic!("{name}, {config_name}, seed {seed}: {stuck}"));
            }
        }
    }
}

#[test]
fn rings() {
    for seed in 0..2 {
        for (config_name, config) in configs(seed) {
            for (name, start) in mailbox_cases::<SimEnv, SimMailbox<u64>>() {
                let mut sim = Sim::new(seed, config.clone());
                // The other cases let a third shard's farewell overtake what the second one waits for.
                let node = sim.add_node(if name.ends_with("every_shard_talks_to_every_other") {
                    3
                } else {
                    2
                });
                let mut ends = Vec::new();
                for (shard, mailbox) in (0..).map(ShardId).zip(sim.mailboxes::<u64>(node)) {
                    let case = start(sim.env(node, shard), mailbox);
                    let (sender, receiver) = env::sync::oneshot();
                    sim.spawn(Some(node), async move {
                        case.await;
                        sender.send(());
                    });
                    ends.push(receiver);
                }
                let all = async {
                    for end in ends {
                        end.await.expect("a case runs to its end");
                    }
                };
                sim.block_on_until(LIMIT, all)
                    .unwrap_or_else(|stuck| panic!("{name}, {config_name}, seed {seed}: {stuck}"));
            }
        }
    }
}

/// The small world of disk images has files, clocks and tasks, but no network.
#[test]
fn image_machine() {
    for (name, start) in cases::<ImageEnv>() {
        if name.starts_with("net::") {
            continue;
        }
        let machine = ImageMachine::new(&corelane_sim::DiskImage::new());
        machine.block_on(start(machine.env()));
    }
}
