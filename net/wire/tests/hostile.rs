//! Any bytes at all: named errors, no panic, bounded memory. The bodies are those of the fuzz targets, and the seeds of
//! the fuzz corpus run here too.

extern crate corelane_wire as wire;

mod exercise;
mod samples;

use base::{Prng, RequestId};
use std::path::PathBuf;
use wire::frame::{HEADER_BYTES, frame_bytes};
use wire::{
    FrameError, FrameReader, Outbox, WireError, decode_peer, decode_reply, decode_request, reply, request,
};

#[test]
fn every_flipped_bit_of_every_message_is_noticed() {
    for (name, bytes) in samples::all() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new(1 << 20);
            reader.extend(&flipped);
            // A longer length makes the frame incomplete; everything else is an error at once.
            let longer = (4..8).contains(&(bit / 8)) && flipped > bytes;
            match reader.next() {
                Ok(None) => assert!(longer, "{name}: bit {bit} was taken for an incomplete frame"),
                Ok(Some(_)) => panic!("{name}: bit {bit} was not noticed"),
                Err(_) => {}
            }
        }
    }
}

#[test]
fn every_header_fault_has_its_name() {
    let (_, good) = samples::requests().remove(2);
    let fault = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let mut reader = FrameReader::new(1024);
        reader.extend(&bytes);
        reader.next().unwrap_err()
    };
    assert_eq!(fault(0, b'G'), FrameError::BadMagic { found: b'G' });
    assert_eq!(fault(1, 9), FrameError::UnknownVersion { found: 9 });
    assert_eq!(fault(2, 0x3f), FrameError::UnknownKind { found: 0x3f });
    assert_eq!(fault(3, 1), FrameError::UnknownFlags { found: 1 });
    assert_eq!(fault(7, 0x10).name(), "too_long");
    assert_eq!(fault(12, good[12] ^ 1).name(), "bad_checksum");
    assert_eq!(fault(HEADER_BYTES, good[HEADER_BYTES] ^ 1).name(), "bad_checksum");
    let (_, echo) = samples::requests()
        .into_iter()
        .find(|(name, _)| *name == "Echo")
        .unwrap();
    assert_ne!(usize::from(echo[4]) % 16, 0, "the sample has padding");
    let mut padded = echo;
    *padded.last_mut().unwrap() = 1;
    let mut reader = FrameReader::new(1024);
    reader.extend(&padded);
    assert_eq!(reader.next(), Err(FrameError::NonzeroPadding));
}

#[test]
fn flags_belong_to_replies_only() {
    let mut outbox = Outbox::new();
    outbox
        .push_flagged(
            RequestId(1),
            wire::frame::FLAG_MISROUTED,
            &reply::DiskWriteReply { bytes: 1 },
        )
        .unwrap();
    outbox
        .push_flagged(
            RequestId(2),
            wire::frame::FLAG_MISROUTED,
            &request::ScanCredit { pages: 1 },
        )
        .unwrap();
    let mut reader = FrameReader::new(1024);
    reader.extend(outbox.bytes());
    let (flags, frame) = reader.next_flagged().unwrap().unwrap();
    assert_eq!(
        (flags, frame.request),
        (wire::frame::FLAG_MISROUTED, RequestId(1))
    );
    assert_eq!(reader.next(), Err(FrameError::UnknownFlags { found: 1 }));
}

#[test]
fn every_truncation_is_an_incomplete_frame() {
    for (name, bytes) in samples::all() {
        for len in 0..bytes.len() {
            let mut reader = FrameReader::new(1 << 20);
            reader.extend(&bytes[..len]);
            assert_eq!(reader.next(), Ok(None), "{name} cut at {len}");
            assert_eq!(reader.is_mid_frame(), len > 0);
        }
    }
}

#[test]
fn an_announced_length_costs_nothing_until_its_bytes_arrive() {
    let payload = vec![1; 1 << 20];
    let mut outbox = Outbox::new();
    outbox
        .push(RequestId(1), &request::Echo { payload: &payload })
        .unwrap();
    let mut reader = FrameReader::new(base::limits::FRAME_BYTES_MAX);
    reader.extend(&outbox.bytes()[..HEADER_BYTES]);
    assert_eq!(reader.next(), Ok(None));
    assert!(reader.memory_bytes() <= 32 << 10, "{}", reader.memory_bytes());
    for chunk in outbox.bytes()[HEADER_BYTES..].chunks(4096) {
        reader.extend(chunk);
        let held = reader.unread().len();
        assert!(
            reader.memory_bytes() <= 3 * held + (32 << 10),
            "{} for {held}",
            reader.memory_bytes()
        );
    }
    assert!(reader.next().unwrap().is_some());
    // The next receive gives back what the long frame needed.
    let _ = reader.spare();
    assert!(reader.memory_bytes() <= 32 << 10, "{}", reader.memory_bytes());
    let mut small = FrameReader::new(1024);
    small.extend(&outbox.bytes()[..HEADER_BYTES]);
    assert_eq!(small.next().unwrap_err().name(), "too_long");
}

/// Payloads mutated in ways that a checksum would not notice: the archive's own checks must.
#[test]
fn mutated_payloads_are_errors_or_readable() {
    let mut prng = Prng::new(11);
    let mut refused = 0;
    for (_, bytes) in samples::all() {
        let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let mut data = vec![bytes[2]];
        data.extend_from_slice(&bytes[HEADER_BYTES..HEADER_BYTES + length]);
        for _ in 0..3000 {
            let mut mutated = data.clone();
            for _ in 0..prng.between(1, 4) {
                let at = prng.index(mutated.len());
                if at > 0 {
                    mutated[at] = prng.next_u64().to_le_bytes()[0];
                }
            }
            if prng.chance(0.1) {
                mutated.truncate(prng.index(mutated.len()) + 1);
            }
            exercise::any(&mutated);
            refused += usize::from(malformed(&mutated));
        }
    }
    assert!(
        refused > 10_000,
        "only {refused} mutations were refused: is anything checked?"
    );
}

fn malformed(data: &[u8]) -> bool {
    let mut aligned = rkyv::util::AlignedVec::<16>::new();
    aligned.extend_from_slice(&data[1..]);
    let kind = wire::Kind::from_byte(data[0]).expect("samples have a kind");
    let frame = wire::Frame {
        kind,
        request: RequestId(1),
        payload: &aligned,
    };
    let error = if kind.is_reply() {
        decode_reply(&frame).err()
    } else if kind.is_peer() {
        decode_peer(&frame).err()
    } else {
        decode_request(&frame).err()
    };
    match error {
        Some(WireError::Malformed { kind: named, bytes }) => {
            assert_eq!((named, bytes), (kind, aligned.len()));
            true
        }
        Some(WireError::WrongDirection { .. }) => panic!("{kind:?} was decoded as what it is"),
        None => false,
    }
}

#[test]
fn rows_that_do_not_add_up_are_refused() {
    let rows = [reply::RowHead {
        wall_ns: 1,
        logical: 0,
        key_bytes: 2,
        value_bytes: u32::MAX,
    }];
    let stamp = wire::convert::Stamp {
        wall_ns: 1,
        logical: 0,
    };
    for data in [&b"kk"[..], b"kkvalue", b""] {
        let page = reply::ScanPage {
            rows: &rows,
            data,
            resume: None,
            read_ts: stamp,
            done: true,
        };
        let bytes = wire::outbox::encode_one(RequestId(1), &page).unwrap();
        let mut reader = FrameReader::new(1024);
        reader.extend(&bytes);
        let frame = reader.next().unwrap().unwrap();
        assert_eq!(decode_reply(&frame).unwrap_err().name(), "malformed");
    }
}

/// Streams of good frames, damaged and cut at random.
#[test]
fn random_streams_mean_the_same_however_they_are_cut() {
    let mut prng = Prng::new(12);
    let samples = samples::all();
    for _ in 0..400 {
        let mut data = vec![0; 16];
        prng.fill(&mut data);
        for _ in 0..prng.between(0, 40) {
            data.extend_from_slice(&samples[prng.index(samples.len())].1);
        }
        for _ in 0..prng.below(3) {
            let at = prng.index(data.len());
            data[at] ^= 1 << prng.below(8);
        }
        data.truncate(data.len().saturating_sub(prng.index(frame_bytes(8))));
        exercise::frames(&data);
    }
}

/// The fuzz corpus: `fuzz/seeds/TARGET/…`, written here when `UPDATE_EXPECT` is set.
#[test]
fn the_fuzz_seeds_are_complete_and_run() {
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let mut expected = Vec::new();
    for (requests, list) in [
        ("wire_request", samples::requests()),
        ("wire_reply", samples::replies()),
        ("wire_peer", samples::peers()),
    ] {
        let mut stream = vec![3; 16];
        for (name, bytes) in list {
            let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
            let payload = [&bytes[2..3], &bytes[HEADER_BYTES..HEADER_BYTES + length]].concat();
            expected.push((seeds.join(requests).join(name), payload));
            stream.extend_from_slice(&bytes);
        }
        expected.push((seeds.join("wire_frame").join(requests), stream));
    }
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for (path, bytes) in expected {
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(
            std::fs::read(&path).ok(),
            Some(bytes),
            "{} is old: run with UPDATE_EXPECT=1",
            path.display()
        );
    }
    let mut runs = 0;
    for (target, run) in [
        ("wire_frame", exercise::frames as fn(&[u8])),
        ("wire_request", exercise::requests),
        ("wire_reply", exercise::replies),
        ("wire_peer", exercise::peers),
    ] {
        let mut files: Vec<_> = std::fs::read_dir(seeds.join(target))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            run(&std::fs::read(file).unwrap());
            runs += 1;
        }
    }
    assert!(runs >= 30, "{runs} seeds");
}
