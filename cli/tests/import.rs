//! Import and export against a real node: byte for byte, and through crashes of either side.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;

use common::{Node, scratch, wait};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Lines as they come in real lists: sizes that differ, further tabs, characters of all kinds, a carriage return here and there.
fn sample_tsv(dir: &Path, lines: u32) -> PathBuf {
    let mut prng = base::Prng::new(7);
    let mut text = Vec::new();
    for n in 0..lines {
        let name = prng.next_u64();
        write!(
            text,
            "pkg-{name:016x}-{n}\t{}.{}\t",
            prng.below(20),
            prng.below(100)
        )
        .unwrap();
        let words = [
            "größe",
            "data\\n",
            "\"quoted\"",
            "a,b",
            "日本",
            "",
            "\\",
            "tab\there",
        ];
        for _ in 0..prng.below(8) {
            write!(text, "{} ", words[prng.index(words.len())]).unwrap();
        }
        text.extend_from_slice(if prng.chance(0.01) { b"\r\n" } else { b"\n" });
    }
    let path = dir.join("packages.tsv");
    fs::write(&path, text).unwrap();
    path
}

/// A real list, when the environment names one, else the sample.
fn real_tsv(dir: &Path, lines: u32) -> PathBuf {
    match std::env::var_os("CORELANE_TSV") {
        Some(path) => {
            let copy = dir.join("real.tsv");
            fs::copy(path, &copy).unwrap();
            copy
        }
        None => sample_tsv(dir, lines),
    }
}

fn sorted_lines(path: &Path) -> Vec<Vec<u8>> {
    let text = fs::read(path).unwrap();
    let mut lines: Vec<Vec<u8>> = text
        .split_inclusive(|&b| b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    lines.sort_unstable();
    lines
}

/// Exports everything and compares it with the file that was imported.
#[track_caller]
fn same_again(node: &Node, input: &Path, options: &[&str]) {
    let output = input.with_extension("out.tsv");
    let mut arguments = vec!["export", output.to_str().unwrap()];
    arguments.extend(options);
    node.ok(&arguments);
    let (before, after) = (sorted_lines(input), sorted_lines(&output));
    assert_eq!(before.len(), after.len(), "lines");
    let different = before.iter().zip(&after).find(|(a, b)| a != b);
    assert_eq!(different, None);
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_tsv_comes_back_byte_for_byte_and_all_shards_work() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let input = sample_tsv(dir.path(), 20_000);
    let said: Value = serde_json::from_str(&node.ok(&["import", path(&input), "--json"])).unwrap();
    assert_eq!(
        (said["records"].as_u64(), said["skipped"].as_u64()),
        (Some(20_000), Some(0))
    );
    same_again(&node, &input, &[]);
    assert!(
        !dir.path().join("packages.tsv.corelane-import").exists(),
        "a finished import leaves no checkpoint"
    );

    let status: Value = serde_json::from_str(&node.ok(&["status", "--json"])).unwrap();
    for shard in status["shards"].as_array().unwrap() {
        assert!(shard["counts"]["writes"].as_u64().unwrap() > 10, "{shard}");
    }
    // Again, with escapes: stored otherwise, written the same.
    node.ok(&["del", "--prefix", "pkg-"]);
    node.ok(&["import", path(&input), "--escape"]);
    same_again(&node, &input, &["--escape"]);
}

#[test]
fn an_import_survives_five_kills_of_the_server() {
    let dir = scratch();
    let mut node = Node::start(&dir.path().join("data"));
    let input = real_tsv(dir.path(), 200_000);
    let mut import = node
        .command(&["import", path(&input), "--timeout", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let checkpoint = dir.path().join(format!(
        "{}.corelane-import",
        input.file_name().unwrap().to_str().unwrap()
    ));
    let mut kills = 0;
    let mut last = 0;
    let began = Instant::now();
    while kills < 5 && import.try_wait().unwrap().is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "the import stands still"
        );
        // Each kill waits until the import has moved since the one before.
        let at = offset(&checkpoint);
        if at > last {
            last = at;
            node.kill_and_restart();
            kills += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        kills >= 3,
        "only {kills} kills before the import ended: more lines are needed"
    );
    let status = wait(&mut import);
    assert!(status.success(), "{status}");
    same_again(&node, &input, &[]);
}

fn offset(checkpoint: &Path) -> u64 {
    let text = fs::read(checkpoint).unwrap_or_default();
    serde_json::from_slice::<Value>(&text)
        .ok()
        .and_then(|value| value["offset"].as_u64())
        .unwrap_or(0)
}

#[test]
fn a_killed_import_goes_on_where_it_was() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let input = sample_tsv(dir.path(), 60_000);
    let checkpoint = dir.path().join("packages.tsv.corelane-import");
    let mut import = node
        .command(&["import", path(&input)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while offset(&checkpoint) == 0 {
        assert!(
            import.try_wait().unwrap().is_none(),
            "the import ended before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    import.kill().unwrap();
    import.wait().unwrap();
    let done = offset(&checkpoint);
    assert!(done > 0 && done < fs::metadata(&input).unwrap().len());

    // Another input under the same name is not taken for the rest of this one.
    let original = fs::read(&input).unwrap();
    let mut changed = original.clone();
    changed[10] ^= 1;
    fs::write(&input, &changed).unwrap();
    let refused = node.run(&["import", path(&input)]);
    assert_eq!(refused.code, 65);
    assert!(refused.err.starts_with("error[C1104]"), "{}", refused.err);
    fs::write(&input, &original).unwrap();

    let ended = node.run(&["import", path(&input), "--json"]);
    let said: Value = serde_json::from_str(&ended.out).unwrap();
    assert!(
        said["records"].as_u64().unwrap() < 60_000,
        "it began anew: {said}"
    );
    assert_eq!(said["records_in_all"].as_u64(), Some(60_000));
    same_again(&node, &input, &[]);
}

#[test]
fn a_server_that_stays_away_ends_the_import_with_75() {
    let dir = scratch();
    let mut node = Node::start(&dir.path().join("data"));
    let input = sample_tsv(dir.path(), 60_000);
    let checkpoint = dir.path().join("packages.tsv.corelane-import");
    let mut command: Command =
        node.command(&["import", path(&input), "--timeout", "2s", "--retry-for", "3s"]);
    let mut import = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while offset(&checkpoint) == 0 {
        assert!(
            import.try_wait().unwrap().is_none(),
            "the import ended before the server could be killed"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    node.kill();
    let output = import.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("it goes on where it stopped"), "{said}");
    node.kill_and_restart();
    node.ok(&["import", path(&input)]);
    same_again(&node, &input, &[]);
}

#[test]
fn columns_headers_prefixes_and_bad_lines() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let csv = dir.path().join("people.csv");
    fs::write(
        &csv,
        "name,id,city\n\"Doe, Jane\",7,Oslo\n\"Ann \"\"A\"\"\",8,\"Rio\nNorte\"\n",
    )
    .unwrap();
    node.ok(&["import", path(&csv), "--header", "--key", "id", "--prefix", "p/"]);
    assert_eq!(node.ok(&["get", "p/7"]), "\"Doe, Jane\",Oslo\n");
    assert_eq!(node.ok(&["get", "p/8"]), "\"Ann \"\"A\"\"\",\"Rio\nNorte\"\n");
    let out = dir.path().join("out.csv");
    node.ok(&["export", path(&out), "--prefix", "p/", "--strip-prefix"]);
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "7,\"Doe, Jane\",Oslo\n8,\"Ann \"\"A\"\"\",\"Rio\nNorte\"\n"
    );
    node.ok(&[
        "import",
        path(&csv),
        "--header",
        "--key",
        "2",
        "--value",
        "name",
        "--prefix",
        "n/",
        "--restart",
    ]);
    assert_eq!(node.ok(&["get", "n/7"]), "Doe, Jane\n");
    assert_eq!(
        node.run(&["import", path(&csv), "--key", "id"]).code,
        64,
        "a name needs a header"
    );

    let tsv = dir.path().join("odd.tsv");
    fs::write(&tsv, "a\t1\nno tab here\n\nb\t2\na\t3\n").unwrap();
    let refused = node.run(&["import", path(&tsv)]);
    assert_eq!(refused.code, 65);
    assert!(
        refused.err.contains("odd.tsv: line 2 is not a record"),
        "{}",
        refused.err
    );
    assert_eq!(
        node.ok(&["import", path(&tsv), "--check", "--bad-lines", "skip"])
            .trim_end(),
        format!("{}: 3 records, 1 lines skipped", path(&tsv))
    );
    node.ok(&["import", path(&tsv), "--bad-lines", "skip", "--restart"]);
    assert_eq!(node.ok(&["get", "a"]), "3\n", "the last line of a key wins");
}

#[test]
fn json_lines_carry_every_byte_and_pipes_work() {
    let dir = scratch();
    let node = Node::start(&dir.path().join("data"));
    let jsonl = "{\"key\":\"a\\tb\",\"value\":\"line\\nend\"}\n{\"key_hex\":\"ff\",\"value_hex\":\"00ff\"}\n";
    assert_eq!(
        node.feed(&["import", "-", "--format", "jsonl"], jsonl.as_bytes())
            .code,
        0
    );
    let exported = node.ok(&["export", "--format", "jsonl"]);
    assert_eq!(exported, jsonl);
    let refused = node.run(&["export"]);
    assert_eq!(refused.code, 65);
    assert!(
        refused.err.contains("--escape") && refused.err.contains("a\\tb"),
        "{}",
        refused.err
    );
    assert!(
        node.ok(&["export", "--escape", "--prefix", "a"])
            .starts_with("a\\tb\tline\\nend\n")
    );
}
