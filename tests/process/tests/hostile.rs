//! Hostile peers of a real node: each is closed under its name, memory stays bounded, and the node serves on.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use base::{Prng, RequestId};
use corelane::blocking::{Db, connect};
use corelane_process::process::{Node, Program};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use wire::Outbox;
use wire::request::{Echo, Hello};

/// More than the node's own time-outs (5 s for a hello, 10 s for a frame) on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// Connections that say nothing.
const SILENT: usize = 2000;
/// Peers of each other kind.
const EACH: u64 = 20;
/// What all hostile peers together may cost: about 8 KiB for each.
const GROWTH_MAX: u64 = 16 << 20;

struct Target {
    node: Node,
    db: Db,
    _scratch: tempfile::TempDir,
}

impl Target {
    fn start() -> Self {
        let scratch = tempfile::Builder::new()
            .prefix("corelane-process-")
            .tempdir()
            .unwrap();
        let program = Program {
            binary: env!("CARGO_BIN_EXE_process-node").into(),
            data: scratch.path().join("data"),
            listen: "127.0.0.1:0".to_owned(),
            options: vec!["--shards".to_owned(), "2".to_owned()],
        };
        let node = program.start().unwrap();
        let db = connect(&node.address).unwrap();
        Self {
            node,
            db,
            _scratch: scratch,
        }
    }

    fn peer(&self) -> TcpStream {
        let peer = TcpStream::connect(&self.node.address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.set_nodelay(true).unwrap();
        peer
    }

    /// Its memory, once it has prepared its first log segments and rests.
    fn memory_at_rest(&self) -> u64 {
        self.serves("first");
        let began = Instant::now();
        let mut last = self.node.resident_bytes().unwrap();
        loop {
            std::thread::sleep(Duration::from_millis(400));
            let now = self.node.resident_bytes().unwrap();
            if now.abs_diff(last) < 1 << 20 {
                return now;
            }
            assert!(began.elapsed() < PATIENCE, "memory never rests: {now} bytes");
            last = now;
        }
    }

    /// Connections closed so far under `name`, by all shards.
    fn closed(&self, name: &str) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&self.db.status().unwrap()).unwrap();
        let shards = status["shards"].as_array().unwrap();
        shards
            .iter()
            .filter_map(|shard| shard["closed"][name].as_u64())
            .sum()
    }

    /// Waits until all shards together have taken up so many connections beside our own.
    fn wait_for_connections(&self, count: u64) {
        let began = Instant::now();
        loop {
            let status: serde_json::Value = serde_json::from_str(&self.db.status().unwrap()).unwrap();
            let shards = status["shards"].as_array().unwrap();
            let open: u64 = shards.iter().filter_map(|s| s["connections"].as_u64()).sum();
            if open > count {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{open} connections of {count}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for(&self, name: &str, count: u64) {
        let began = Instant::now();
        while self.closed(name) < count {
            assert!(
                began.elapsed() < PATIENCE,
                "{name}: {} of {count}\n{}",
                self.closed(name),
                self.db.status().unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The node still does what it is for.
    fn serves(&self, round: &str) {
        self.db.put("canary", round).unwrap();
        assert_eq!(self.db.get("canary").unwrap().as_deref(), Some(round.as_bytes()));
    }
}

/// Reads until the node closes the connection; an error of the connection counts as that. Panics when nothing happens.
fn until_closed(mut peer: TcpStream) {
    let mut answer = Vec::new();
    if let Err(error) = peer.read_to_end(&mut answer) {
        let waited = matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        );
        assert!(!waited, "the connection stays open");
    }
}

fn hello() -> Vec<u8> {
    let mut outbox = Outbox::new();
    let hello = Hello {
        client: [7; 16],
        shard: None,
        version_min: 1,
        version_max: 1,
        app: "hostile",
    };
    outbox.push(RequestId(1), &hello).unwrap();
    outbox.bytes().to_vec()
}

/// A frame that the node would answer.
fn echo() -> Vec<u8> {
    let mut outbox = Outbox::new();
    outbox.push(RequestId(2), &Echo { payload: &[1; 100] }).unwrap();
    outbox.bytes().to_vec()
}

/// `frame` with the bytes at `at` replaced.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn bytes_that_are_no_frames_close_their_connection_under_a_name() {
    let target = Target::start();
    let after_hello = |bytes: Vec<u8>| [hello(), bytes].concat();
    let too_long = (u32::MAX - 15).to_le_bytes();
    let cases: [(&str, Vec<u8>); 9] = [
        ("bad_magic", b"GET / HTTP/1.1\r\nHost: corelane\r\n\r\n".to_vec()),
        ("unknown_version", with(hello(), 1, &[99])),
        ("unknown_kind", with(hello(), 2, &[0x7e])),
        ("unknown_flags", with(hello(), 3, &[0x80])),
        // Four gigabytes are announced, before and after the hello: not a byte is set aside for them.
        ("too_long", with(hello(), 4, &too_long)),
        ("too_long", after_hello(with(echo(), 4, &too_long))),
        ("bad_checksum", with(hello(), 12, &[0, 0, 0, 0])),
        ("hello_expected", echo()),
        ("hello_repeated", after_hello(hello())),
    ];
    let before = target.memory_at_rest();
    for (name, bytes) in &cases {
        let count = target.closed(name);
        for _ in 0..EACH {
            let mut peer = target.peer();
            peer.write_all(bytes).unwrap();
            until_closed(peer);
        }
        target.wait_for(name, count + EACH);
        target.serves(name);
    }
    let grown = target.node.resident_bytes().unwrap().saturating_sub(before);
    assert!(
        grown < GROWTH_MAX,
        "{grown} bytes more after {} hostile connections",
        9 * EACH
    );
    assert_eq!(target.node.terminate().unwrap(), 0);
}

#[test]
fn random_bytes_and_cut_frames_do_no_harm() {
    let target = Target::start();
    let before = target.memory_at_rest();
    let mut prng = Prng::new(11);
    for round in 0..200 {
        // Noise alone, noise behind a hello, a hello or an echo with some bytes changed.
        let mut bytes = match round % 4 {
            0 => Vec::new(),
            1 => hello(),
            2 => [hello(), echo()].concat(),
            _ => [hello(), echo(), echo()].concat(),
        };
        if round % 4 > 1 {
            for _ in 0..prng.between(1, 4) {
                let at = prng.index(bytes.len());
                bytes[at] ^= 1 << prng.below(8);
            }
        } else {
            let mut noise = vec![0; usize::try_from(prng.between(16, 20_000)).unwrap()];
            prng.fill(&mut noise);
            bytes.extend(noise);
        }
        let mut peer = target.peer();
        // The node may close before everything is written.
        let _ = peer.write_all(&bytes);
        let _ = peer.shutdown(Shutdown::Write);
        until_closed(peer);
    }
    target.serves("noise");

    // A frame that ends in the middle, at every byte of its header and some of its payload.
    let (cut, count) = (echo(), target.closed("peer_closed_mid_frame"));
    let lengths: Vec<usize> = (1..16).chain([17, 60, cut.len() - 1]).collect();
    for &length in &lengths {
        let mut peer = target.peer();
        peer.write_all(&[&hello(), &cut[..length]].concat()).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        until_closed(peer);
    }
    target.wait_for("peer_closed_mid_frame", count + lengths.len() as u64);
    target.serves("cut");
    let grown = target.node.resident_bytes().unwrap().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more");
    assert_eq!(target.node.terminate().unwrap(), 0);
}

#[test]
fn slow_and_silent_peers_are_timed_out_while_others_are_served() {
    let target = Target::start();
    let before = target.memory_at_rest();
    let silent: Vec<TcpStream> = (0..SILENT).map(|_| target.peer()).collect();
    // Slow from the first byte; slow after a hello, with a frame that never ends.
    let slow_hello: Vec<TcpStream> = (0..EACH).map(|_| target.peer()).collect();
    let slow_frame: Vec<TcpStream> = (0..EACH).map(|_| target.peer()).collect();
    let announced = with(echo(), 4, &(64_u32 << 20).to_le_bytes());
    for mut peer in &slow_frame {
        peer.write_all(&[hello(), announced.clone()].concat()).unwrap();
    }
    target.wait_for_connections(SILENT as u64 + 2 * EACH);
    let with_all = target.node.resident_bytes().unwrap().saturating_sub(before);
    assert!(
        with_all < GROWTH_MAX,
        "{with_all} bytes for {SILENT} silent connections and {EACH} that announce 64 MiB"
    );

    // One byte at a time, until the node has had enough.
    let (hello, began) = (hello(), Instant::now());
    let mut at = 0;
    while target.closed("frame_timeout") < EACH || target.closed("hello_timeout") < SILENT as u64 + EACH {
        assert!(began.elapsed() < PATIENCE, "{}", target.db.status().unwrap());
        for mut peer in &slow_hello {
            // Closed already, late in the loop.
            let _ = peer.write_all(&hello[at..=at]);
        }
        for mut peer in &slow_frame {
            let _ = peer.write_all(&[0]);
        }
        at = (at + 1).min(hello.len() - 2);
        target.serves("slow");
        std::thread::sleep(Duration::from_millis(400));
    }
    for peer in silent.into_iter().chain(slow_hello).chain(slow_frame) {
        until_closed(peer);
    }
    target.serves("alone again");
    assert_eq!(target.node.terminate().unwrap(), 0);
}
