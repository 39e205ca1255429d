//! The bytes of every message, frozen: `tests/golden/v1.txt`.
//!
//! A difference means that deployed clients and servers no longer understand each other: add a new kind instead. Run with
//! `UPDATE_EXPECT=1` to add a message; read the diff as carefully as code.

extern crate corelane_wire as wire;

mod samples;

use core::fmt::Write;
use expect_test::expect_file;
use wire::{FrameReader, Kind, decode_peer, decode_reply, decode_request};

fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (at, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = line
            .iter()
            .map(|&byte| {
                if byte.is_ascii_graphic() {
                    char::from(byte)
                } else {
                    '.'
                }
            })
            .collect();
        writeln!(out, "  {:04x}  {:47}  {text}", at * 16, hex.join(" ")).expect("a string takes everything");
    }
    out
}

#[test]
fn every_message_has_its_frozen_bytes() {
    let mut out =
        String::from("# One frame per message, protocol version 1: 16 bytes of header, payload, padding.\n");
    for (name, bytes) in samples::all() {
        write!(out, "\n{name}\n{}", dump(&bytes)).expect("a string takes everything");
    }
    expect_file!["./golden/v1.txt"].assert_eq(&out);
}

#[test]
fn every_kind_has_a_sample_and_every_sample_decodes() {
    let mut seen = Vec::new();
    for (name, bytes) in samples::all() {
        let mut reader = FrameReader::new(bytes.len());
        reader.extend(&bytes);
        let frame = reader.next().unwrap().unwrap();
        assert_eq!(frame.request.0, 0x0403_0201);
        assert!(
            name.starts_with(frame.kind.name()),
            "{name} is a {:?}",
            frame.kind
        );
        let kind = if frame.kind.is_reply() {
            assert!(decode_request(&frame).is_err(), "{name} is not a request");
            decode_reply(&frame).unwrap().kind()
        } else if frame.kind.is_peer() {
            assert!(decode_request(&frame).is_err(), "{name} is not a request");
            decode_peer(&frame).unwrap().kind()
        } else {
            assert!(decode_peer(&frame).is_err(), "{name} is of a client");
            assert!(decode_reply(&frame).is_err(), "{name} is not a reply");
            decode_request(&frame).unwrap().kind()
        };
        assert_eq!(kind, frame.kind);
        seen.push(kind);
    }
    for kind in Kind::ALL {
        assert!(seen.contains(kind), "{kind:?} has no sample");
        assert_eq!(Kind::from_byte(kind.byte()), Some(*kind));
    }
}
