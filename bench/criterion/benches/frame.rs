//! What a frame costs: encoding into a send buffer, and reading in place, for the messages of the hot paths.

use base::RequestId;
use corelane_bench_criterion::VALUE;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use wire::convert::{Stamp, WriteIdV1};
use wire::{FrameReader, Message, Outbox, decode_reply, decode_request, reply, request};

const KEY: &[u8] = b"0123456789abcdef";
/// Frames of one loop turn.
const BATCH: u32 = 64;
const TS: Stamp = Stamp {
    wall_ns: 1,
    logical: 2,
};

fn batch<M: Message>(message: &M) -> Vec<u8> {
    let mut outbox = Outbox::new();
    for request in 0..BATCH {
        outbox.push(RequestId(request), message).expect("it fits a frame");
    }
    outbox.bytes().to_vec()
}

fn encode<M: Message>(criterion: &mut Criterion, name: &str, message: &M) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(BATCH.into()));
    let mut outbox = Outbox::new();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            for request in 0..BATCH {
                outbox
                    .push(RequestId(request), black_box(message))
                    .expect("it fits a frame");
            }
            black_box(outbox.bytes());
            outbox.clear();
        });
    });
    group.finish();
}

fn decode<M: Message>(criterion: &mut Criterion, name: &str, message: &M) {
    let bytes = batch(message);
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH.into()));
    let mut reader = FrameReader::new(1 << 20);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            reader.extend(black_box(&bytes));
            while let Some(frame) = reader.next().expect("our own frames") {
                if frame.kind.is_reply() {
                    black_box(decode_reply(&frame).expect("our own reply"));
                } else {
                    black_box(decode_request(&frame).expect("our own request"));
                }
            }
        });
    });
    group.finish();
}

fn both<M: Message>(criterion: &mut Criterion, name: &str, message: &M) {
    encode(criterion, name, message);
    decode(criterion, name, message);
}

fn frames(criterion: &mut Criterion) {
    let id = WriteIdV1 {
        client: [7; 16],
        seq: 9,
        acked_below: 8,
    };
    both(
        criterion,
        "get",
        &request::Get {
            key: KEY,
            at: request::ReadAt::Newest,
            deadline_ms: 1000,
        },
    );
    both(
        criterion,
        "put of 100 B",
        &request::Put {
            id,
            key: KEY,
            value: &VALUE,
            deadline_ms: 1000,
        },
    );
    both(
        criterion,
        "get reply of 100 B",
        &reply::GetReply {
            value: Some(&VALUE),
            ts: TS,
        },
    );
    both(criterion, "write reply", &reply::WriteReply { ts: TS });
    both(
        criterion,
        "echo reply of 100 B",
        &reply::EchoReply { payload: &VALUE },
    );
}

criterion_group!(benches, frames);
criterion_main!(benches);
