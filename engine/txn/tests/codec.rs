//! The bytes of the codec: round trips of anything, frozen samples of everything, and hostile bytes, which end in an error in words.

mod exercise;
#[path = "codec/generators.rs"]
mod generators;
#[path = "codec/samples.rs"]
mod samples;

use base::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use core::fmt::Write;
use corelane_txn::codec::{
    CodecError, decode_answer, decode_batch, decode_intent, decode_record, each_mutation, encode_answer,
    encode_batch, encode_intent, encode_mutations, encode_record,
};
use corelane_txn::request::{Item, Reply, Request};
use corelane_txn::txn::Seq;
use corelane_txn::{Batch, Isolation, Keys, Mutation, Priority, Refusal, Status};
use exercise::{Kind, check};
use expect_test::{expect, expect_file};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn encoded<T: ?Sized>(encode: fn(&T, &mut Vec<u8>), value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out);
    out
}

/// No cut of `bytes` decodes, and neither does what is longer, where the whole is asked for.
fn is_exact(kind: Kind, bytes: &[u8]) {
    for len in 0..bytes.len() {
        assert!(check(kind, &bytes[..len]).is_err(), "{kind:?} cut at {len}");
    }
    let longer = [bytes, &[0]].concat();
    let taken = check(kind, &longer);
    match kind {
        Kind::Intent | Kind::Record => assert_eq!(taken, Ok(bytes.len())),
        Kind::Mutations | Kind::Batch | Kind::Answer => {
            let error = taken.expect_err("a byte too many");
            assert_eq!((error.why, error.at), ("is followed by more bytes", bytes.len()));
        }
    }
}

proptest! {
    #[test]
    fn mutations_round_trip(mutations in generators::mutations()) {
        let bytes = encoded(encode_mutations, &mutations[..]);
        is_exact(Kind::Mutations, &bytes);
        let mut each = Vec::new();
        prop_assert_eq!(each_mutation(&bytes, |mutation| each.push(mutation)), Ok(()));
        prop_assert_eq!(each, mutations);
    }

    #[test]
    fn intents_and_records_follow_each_other(
        intents in proptest::collection::vec(generators::intent(), 0..3),
        records in proptest::collection::vec(generators::record(), 0..3),
    ) {
        let mut bytes = Vec::new();
        for intent in &intents {
            encode_intent(intent, &mut bytes);
            is_exact(Kind::Intent, &encoded(encode_intent, intent));
        }
        for record in &records {
            encode_record(record, &mut bytes);
            is_exact(Kind::Record, &encoded(encode_record, record));
        }
        let mut rest = &bytes[..];
        for intent in intents {
            prop_assert_eq!(decode_intent(&mut rest), Ok(intent));
        }
        for record in records {
            prop_assert_eq!(decode_record(&mut rest), Ok(record));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn batches_round_trip(batch in generators::batch()) {
        let bytes = encoded(encode_batch, &batch);
        is_exact(Kind::Batch, &bytes);
        prop_assert_eq!(decode_batch(&bytes), Ok(batch));
    }

    #[test]
    fn answers_round_trip(answer in generators::answer()) {
        let bytes = encoded(encode_answer, &answer);
        is_exact(Kind::Answer, &bytes);
        prop_assert_eq!(decode_answer(&bytes), Ok(answer));
    }

    #[test]
    fn any_bytes_are_a_value_or_an_error(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
        exercise::decode(&bytes);
    }

    #[test]
    fn changed_bytes_are_a_value_or_an_error(
        batch in generators::batch(),
        answer in generators::answer(),
        mutations in generators::mutations(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (kind, mut bytes) in [
            (Kind::Batch, encoded(encode_batch, &batch)),
            (Kind::Answer, encoded(encode_answer, &answer)),
            (Kind::Mutations, encoded(encode_mutations, &mutations[..])),
        ] {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let _ = check(kind, &bytes);
        }
    }
}

fn dump(out: &mut String, value: &dyn core::fmt::Debug, bytes: &[u8]) {
    writeln!(out, "\n{value:?}").expect("a string takes everything");
    for line in bytes.chunks(32) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "  {}", hex.join(" ")).expect("a string takes everything");
    }
}

/// A difference means that logs, states and nodes are no longer understood: add a variant instead. Run with `UPDATE_EXPECT=1` to add a
/// sample; read the diff as carefully as code.
#[test]
fn every_variant_has_its_frozen_bytes() {
    let mut out =
        String::from("# One of each variant: mutations, an intent, headers, requests, replies, refusals.\n");
    for mutation in samples::mutations() {
        let bytes = encoded(encode_mutations, core::slice::from_ref(&mutation));
        dump(&mut out, &mutation, &bytes);
    }
    let intent = samples::intent();
    dump(&mut out, &intent, &encoded(encode_intent, &intent));
    for header in samples::headers() {
        let header = Some(header);
        let requests = Vec::new();
        let batch = Batch { header, requests };
        dump(&mut out, &batch.header, &encoded(encode_batch, &batch));
    }
    for request in samples::requests() {
        let batch = samples::plain(request);
        dump(&mut out, &batch.requests[0].1, &encoded(encode_batch, &batch));
    }
    for answer in samples::answers() {
        dump(&mut out, &answer, &encoded(encode_answer, &answer));
    }
    expect_file!["./golden/codec.txt"].assert_eq(&out);
}

/// What stands before a tag is the same in all samples of a kind; a tag that no sample has is unknown.
#[test]
fn every_tag_has_a_sample() {
    let mutations = samples::mutations().into_iter();
    let mutations = mutations.map(|mutation| encoded(encode_mutations, &[mutation][..]));
    let requests = samples::requests().into_iter();
    let requests = requests.map(|request| encoded(encode_batch, &samples::plain(request)));
    let answers: Vec<Vec<u8>> = samples::answers()
        .iter()
        .map(|answer| encoded(encode_answer, answer))
        .collect();
    let (replies, refusals) = answers.into_iter().partition(|bytes| bytes[0] == 1);
    for (kind, before, samples) in [
        (Kind::Mutations, &[1][..], mutations.collect()),
        (Kind::Batch, &[0, 1, 0], requests.collect()),
        (Kind::Answer, &[1, 1, 0], replies),
        (Kind::Answer, &[2, 0], refusals),
    ] {
        let samples: Vec<Vec<u8>> = samples;
        let tag = |bytes: &Vec<u8>| {
            assert!(bytes.starts_with(before));
            bytes[before.len()]
        };
        let tags: BTreeSet<u8> = samples.iter().map(tag).collect();
        for tag in 0..=u8::MAX {
            let bytes = [before, &[tag]].concat();
            let is_unknown = check(kind, &bytes).is_err_and(|error| error.why == "has an unknown tag");
            assert_eq!(is_unknown, !tags.contains(&tag), "{kind:?} {tag}");
        }
        for bytes in samples {
            is_exact(kind, &bytes);
        }
    }
}

fn error(kind: Kind, bytes: &[u8]) -> CodecError {
    check(kind, bytes).expect_err("it does not decode")
}

#[test]
fn errors_say_what_and_where() {
    let mut out = String::new();
    let mut say = |kind, bytes: &[u8]| {
        writeln!(out, "{}", error(kind, bytes)).expect("a string takes everything");
    };
    say(Kind::Batch, &[]);
    say(Kind::Batch, &[2]);
    say(Kind::Batch, &[0, 1, 0, 99]);
    say(Kind::Batch, &[0, 1, 0, 1, 5, b'k']);
    // Numbers: a longer form of 0, beyond 32 bits, beyond 64.
    say(Kind::Batch, &[0, 1, 0x80, 0]);
    say(Kind::Batch, &[0, 1, 0xff, 0xff, 0xff, 0xff, 0x10]);
    say(Kind::Batch, &[&[0][..], &[0xff; 9], &[2]].concat());
    say(Kind::Batch, &[&[0][..], &[0xff; 11]].concat());
    // A list that says more than there is.
    say(Kind::Mutations, &[0xff, 0xff, 0xff, 0xff, 0x0f, 4, 0]);
    say(Kind::Mutations, &[1, 4, 0, 0]);
    // A flag that is neither.
    say(Kind::Batch, &[0, 1, 0, 4, 1, b'k', 1, 0, 2]);
    say(Kind::Answer, &[2, 0, 15, 2, 0xc3, 0x28]);
    say(Kind::Answer, &[3]);
    say(Kind::Intent, &[0; 15]);
    expect![[r#"
        Batch.header, at byte 0, is cut short
        Batch.header, at byte 0, has an unknown tag
        Request, at byte 3, has an unknown tag
        Request::Get.key, at byte 4, is cut short
        Batch.requests, at byte 2, has a longer form
        Batch.requests, at byte 2, is too great
        Batch.requests, at byte 1, is too great
        Batch.requests, at byte 1, is too great
        Mutations, at byte 0, says more than there is
        Mutations, at byte 3, is followed by more bytes
        Request::Write.pipelined, at byte 8, has an unknown tag
        Refusal::Malformed.what, at byte 3, is no text
        Answer, at byte 0, has an unknown tag
        TxnId.client, at byte 0, is cut short
    "#]]
    .assert_eq(&out);
}

#[test]
fn keys_bounds_and_values_have_limits() {
    let fits = |batch: &Batch| decode_batch(&encoded(encode_batch, batch)).is_ok_and(|same| same == *batch);
    let bytes = |len: usize| vec![7; len].into();
    let write = |key, value| {
        samples::plain(Request::Write {
            key: bytes(key),
            seq: Seq(1),
            value: Some(bytes(value)),
            pipelined: false,
        })
    };
    assert!(fits(&write(KEY_BYTES_MAX, VALUE_BYTES_MAX)));
    assert!(!fits(&write(KEY_BYTES_MAX + 1, 0)));
    assert!(!fits(&write(0, VALUE_BYTES_MAX + 1)));
    let scan = |start, end| {
        samples::plain(Request::Scan {
            keys: Keys::Span(bytes(start), Some(bytes(end))),
            rows_max: 1,
        })
    };
    assert!(fits(&scan(KEY_BYTES_MAX + 1, KEY_BYTES_MAX + 1)));
    assert!(!fits(&scan(KEY_BYTES_MAX + 2, 0)));
    assert!(!fits(&scan(0, KEY_BYTES_MAX + 2)));
    // Nothing is reserved for a length that only says so.
    let long = [0, 1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let error = error(Kind::Batch, &long);
    assert_eq!((error.what, error.why), ("Request::Get.key", "is too long"));
}

/// What the documentation of the codec says about memory: elements of lists take at least two bytes, and not much more room than now.
#[test]
fn what_a_byte_becomes_is_bounded() {
    let sizes = [
        size_of::<(Item, Request)>(),
        size_of::<(Item, Reply)>(),
        size_of::<Mutation>(),
    ];
    assert!(sizes.iter().all(|size| *size <= 200), "{sizes:?}");
    let beat = encoded(encode_batch, &samples::plain(Request::Beat));
    assert_eq!(beat.len() - 2, 2, "item and tag");
}

#[test]
fn text_of_a_peer_is_text_here() {
    let what = String::from("said elsewhere").into();
    let answer = Err((1, Refusal::Malformed { what }));
    let decoded = decode_answer(&encoded(encode_answer, &answer)).expect("it was encoded");
    assert_eq!(decoded, answer);
    let (_, refusal) = decoded.expect_err("a refusal");
    assert_eq!(refusal.to_string(), "the request is malformed: said elsewhere");
}

/// The fuzz corpus: `fuzz/seeds/txn_codec/…`, written here when `UPDATE_EXPECT` is set.
#[test]
fn the_fuzz_seeds_are_complete_and_run() {
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/txn_codec");
    let mut expected = vec![
        (
            "mutations",
            Kind::Mutations,
            encoded(encode_mutations, &samples::mutations()[..]),
        ),
        ("intent", Kind::Intent, encoded(encode_intent, &samples::intent())),
        (
            "record",
            Kind::Record,
            encoded(encode_record, &samples::record(Status::Staging)),
        ),
        (
            "batch",
            Kind::Batch,
            encoded(encode_batch, &samples::all_requests()),
        ),
        (
            "replies",
            Kind::Answer,
            encoded(encode_answer, &samples::all_replies()),
        ),
    ];
    let header = Some(samples::header(Isolation::Snapshot, Priority::Low));
    let requests = vec![(1, Request::Beat)];
    let beat = Batch { header, requests };
    expected.push(("beat", Kind::Batch, encoded(encode_batch, &beat)));
    for refusal in samples::refusals() {
        let name = match refusal {
            Refusal::Conflict { .. } => "conflict",
            Refusal::Contradiction { .. } => "contradiction",
            _ => continue,
        };
        let bytes = encoded(encode_answer, &Err((1, refusal)));
        expected.push((name, Kind::Answer, bytes));
    }
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for (name, kind, bytes) in expected {
        let path = seeds.join(name);
        let place = Kind::ALL.iter().position(|known| *known == kind);
        let first = u8::try_from(place.expect("it is one of them")).expect("there are few");
        let seed = [&[first], &bytes[..]].concat();
        assert_eq!(check(kind, &bytes), Ok(bytes.len()));
        if update {
            std::fs::create_dir_all(&seeds).expect("writable");
            std::fs::write(&path, &seed).expect("writable");
        }
        let found = std::fs::read(&path).ok();
        assert_eq!(
            found,
            Some(seed),
            "{} is old: run with UPDATE_EXPECT=1",
            path.display()
        );
    }
    let files = std::fs::read_dir(seeds).expect("it is there");
    for file in files {
        exercise::decode(&std::fs::read(file.expect("readable").path()).expect("readable"));
    }
}
