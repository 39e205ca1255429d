//! What goes wrong is said in a sentence with a remedy, and leaves its exit code.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use common::{CORELANE, Ended, Node, corelane, finish, scratch};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::Command;

/// The error has this exit code and number, and says what to do.
#[track_caller]
fn told(ended: &Ended, exit: i32, code: &str) {
    assert_eq!(ended.code, exit, "{}{}", ended.out, ended.err);
    assert!(
        ended.error().starts_with(&format!("error[{code}]: ")),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("\n  help : "), "{}", ended.err);
    assert!(!ended.err.contains('\x1b'), "colour on a pipe: {:?}", ended.err);
}

fn start(data: &Path, options: &[&str]) -> Ended {
    let mut command = Command::new(CORELANE);
    command
        .args(["start", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .args(options);
    finish(command)
}

#[test]
fn a_port_that_is_taken() {
    let dir = scratch();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(CORELANE);
    command
        .args(["start", "--listen", &address, "--data"])
        .arg(dir.path());
    let ended = finish(command);
    told(&ended, 78, "C6003");
    assert!(ended.err.contains(&address));
}

#[test]
fn an_address_that_others_can_reach() {
    let dir = scratch();
    let mut command = Command::new(CORELANE);
    command
        .args(["start", "--listen", "0.0.0.0:0", "--data"])
        .arg(dir.path());
    told(&finish(command), 78, "C1106");
}

#[test]
fn a_data_directory_that_is_in_use() {
    let dir = scratch();
    let data = dir.path().join("data");
    let node = Node::start(&data);
    told(&start(&data, &[]), 78, "C6004");
    told(&corelane(&["check", data.to_str().unwrap()]), 78, "C6004");
    assert_eq!(node.terminate(), 0);
}

#[test]
fn a_data_directory_that_is_none() {
    let dir = scratch();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for data in [file.clone(), file.join("data")] {
        let ended = start(&data, &[]);
        told(&ended, 78, "C6005");
        let said = format!("{} is a file, not a directory", file.display());
        assert!(ended.err.contains(&said), "{}", ended.err);
    }
    told(
        &corelane(&["check", dir.path().join("nothing").to_str().unwrap()]),
        64,
        "C1100",
    );
    assert!(!dir.path().join("nothing").exists(), "looking makes no directory");
}

#[test]
fn a_setting_out_of_range() {
    let dir = scratch();
    told(&start(dir.path(), &["--shards", "0"]), 78, "C6007");
    assert_eq!(start(dir.path(), &["--shards", "many"]).code, 64);
}

#[test]
fn a_damaged_log_stops_the_start_and_the_check_names_the_place() {
    let dir = scratch();
    let data = dir.path().join("data");
    let mut node = Node::start(&data);
    for n in 0..20 {
        node.ok(&["put", &format!("key{n}"), "value"]);
    }
    node.kill();
    let check = || corelane(&["check", data.to_str().unwrap()]);
    assert_eq!(check().code, 0, "{}", check().out);
    let intact = corelane(&["debug", "log", data.to_str().unwrap()]);
    assert_eq!(intact.code, 0, "{}", intact.err);
    assert!(intact.out.contains("entry"), "{}", intact.out);

    // A byte of a batch in the middle of the log: acknowledged for certain, since others follow it.
    let batch = intact
        .out
        .lines()
        .filter(|line| line.trim_start().starts_with("batch"))
        .nth(5)
        .unwrap();
    let offset: u64 = batch
        .split(" at ")
        .nth(1)
        .unwrap()
        .split(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let segment = intact
        .out
        .lines()
        .find(|line| line.starts_with("segment"))
        .unwrap();
    let name = segment.split('(').nth(1).unwrap().split(',').next().unwrap();
    flip(&data.join(name), offset + 40);

    let found = check();
    told(&found, 65, "C1107");
    assert!(
        found.out.contains("DAMAGED") && found.out.contains(name),
        "{}",
        found.out
    );
    let refused = start(&data, &["--shards", "2"]);
    told(&refused, 78, "C4001");
    assert!(refused.err.contains(name), "{}", refused.err);
}

#[test]
fn a_data_directory_of_a_newer_build() {
    let dir = scratch();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // As `docs/formats.md` lays it out: a later version of the protocol between nodes is active than any build of today speaks.
    let mut identity = vec![0; 4096];
    identity[..8].copy_from_slice(b"CLNODEID");
    identity[8] = 2;
    identity[32] = 1;
    identity[40] = 1;
    identity[42] = 7;
    identity[50..52].copy_from_slice(&999_u16.to_le_bytes());
    let crc = base::checksum::crc32c(&identity[16..52]);
    identity[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(data.join("IDENTITY"), &identity).unwrap();
    let refused = start(&data, &["--shards", "1"]);
    told(&refused, 78, "C6010");
    assert!(
        refused
            .err
            .contains("start it with a build that speaks version 999"),
        "{}",
        refused.err
    );
    // What the build does not know it leaves alone.
    assert_eq!(std::fs::read(data.join("IDENTITY")).unwrap(), identity);
}

fn flip(path: &Path, offset: u64) {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

#[test]
fn a_node_that_is_not_there() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let ended = corelane(&["get", "k", "--connect", &free, "--timeout", "300ms"]);
    told(&ended, 69, "C3005");
    assert!(ended.err.contains("corelane start"), "{}", ended.err);
    let json = corelane(&["get", "k", "--connect", &free, "--timeout", "300ms", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(value["error"]["code"], "C3005");
    told(&corelane(&["get", "k", "--connect", "http://x"]), 64, "C1010");
}

#[test]
fn what_the_node_would_refuse() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    told(&node.run(&["put", "", "v"]), 64, "C1005");
    told(&node.run(&["get", &"k".repeat(20_000)]), 64, "C1002");
    told(&node.run(&["scan", "b", "a"]), 64, "C1006");
    let file = dir.path().join("big");
    std::fs::File::create(&file)
        .unwrap()
        .set_len((16 << 20) + 1)
        .unwrap();
    told(
        &node.run(&["put", "k", "--file", file.to_str().unwrap()]),
        64,
        "C1003",
    );
    told(&node.run(&["put", "k", "--file", "no/such/file"]), 74, "C1101");
}

#[test]
fn wrong_command_lines_leave_64() {
    for arguments in [
        &["nonsense"][..],
        &["get"],
        &["put", "k"],
        &["get", "k", "--at", "yesterday"],
        &["get", "k", "--timeout", "5"],
    ] {
        assert_eq!(corelane(arguments).code, 64, "{arguments:?}");
    }
}
