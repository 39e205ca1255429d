//! What a message between two shards costs: staging, publishing and receiving, in batches of 1 and 64.
//!
//! Both ends run on one thread here: the instructions without the cache misses of two cores. Across two cores the same
//! batches are timed by `across`, which streams messages from another thread.
#![allow(clippy::disallowed_methods, reason = "a second thread is what is measured")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runtime::mailbox::ring::{Receiver, ring};
use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::{Duration, Instant};

const CAPACITY: usize = 1024;

/// A message as large as those between shards: a few words.
type Message = [u64; 6];

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring, one thread");
    for batch in [1u64, 64] {
        let (mut sender, mut receiver) = ring::<Message>(CAPACITY);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("batch of {batch}"), |bencher| {
            bencher.iter(|| {
                for number in 0..batch {
                    sender
                        .stage(black_box([number; 6]))
                        .expect("the ring was emptied");
                }
                sender.publish();
                while let Some(message) = receiver.receive() {
                    black_box(message);
                }
                receiver.release();
            });
        });
    }
    group.finish();
}

/// Receives `count` messages; gives their sum, so that none can be left out.
fn drain(receiver: &mut Receiver<Message>, count: u64) -> u64 {
    let (mut seen, mut sum) = (0, 0u64);
    while seen < count {
        match receiver.receive() {
            Some(message) => {
                seen += 1;
                sum = sum.wrapping_add(message[0]);
            }
            None => {
                receiver.release();
                spin_loop();
            }
        }
    }
    sum
}

fn stream(batch: u64, count: u64) -> Duration {
    let (mut sender, mut receiver) = ring::<Message>(CAPACITY);
    let began = Instant::now();
    let consumer = thread::spawn(move || drain(&mut receiver, count));
    let mut sent = 0;
    while sent < count {
        let end = (sent + batch).min(count);
        while sent < end {
            match sender.stage([sent; 6]) {
                Ok(()) => sent += 1,
                Err(_) => {
                    sender.publish();
                    spin_loop();
                }
            }
        }
        sender.publish();
    }
    let sum = consumer.join().expect("the consumer counts and ends");
    assert_eq!(sum, (0..count).fold(0, u64::wrapping_add));
    began.elapsed()
}

fn across(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring, two threads");
    group.throughput(Throughput::Elements(1));
    for batch in [1u64, 64] {
        group.bench_function(format!("batch of {batch}"), |bencher| {
            bencher.iter_custom(|count| stream(batch, count));
        });
    }
    group.finish();
}

criterion_group!(benches, one_thread, across);
criterion_main!(benches);
