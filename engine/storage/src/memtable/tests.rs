//! The memtable against a map, and its corners by name.

use super::*;
use base::Prng;
use std::collections::BTreeMap;

fn hash(key: &[u8]) -> u32 {
    // Few bits, so that keys collide.
    key.iter()
        .fold(7u32, |h, &b| h.wrapping_mul(31).wrapping_add(u32::from(b)))
        & 0xf000_00ff
}

fn at(wall: u64) -> Timestamp {
    Timestamp::new(wall, 0)
}

fn put<'a>(key: &'a str, value: &'a str) -> WriteOp<'a> {
    WriteOp::Put {
        key: key.as_bytes(),
        value: value.as_bytes(),
    }
}

fn apply(memtable: &mut Memtable, ts: u64, ops: &[WriteOp<'_>]) {
    memtable.apply(at(ts), ops.iter().copied(), hash, None);
}

fn get(memtable: &Memtable, key: &str, ts: u64) -> Option<String> {
    let version = memtable.get(hash(key.as_bytes()), key.as_bytes(), at(ts))?;
    Some(if version.deleted {
        "-".into()
    } else {
        String::from_utf8_lossy(version.value).into_owned()
    })
}

#[test]
fn an_empty_memtable_is_small() {
    assert!(
        size_of::<Memtable>() + Memtable::new(0).bytes() < 512,
        "{}",
        size_of::<Memtable>()
    );
    let mut memtable = Memtable::new(0);
    apply(&mut memtable, 1, &[put("k", "v")]);
    assert!(memtable.bytes() < 3_072, "{}", memtable.bytes());
}

#[test]
fn later_operations_of_an_entry_win() {
    let mut memtable = Memtable::new(0);
    let all = WriteOp::DeleteRange {
        start: b"a",
        end: Some(b"z"),
    };
    apply(
        &mut memtable,
        5,
        &[
            put("a", "1"),
            put("a", "2"),
            put("b", "1"),
            all,
            put("c", "1"),
            put("b", "2"),
        ],
    );
    assert_eq!(get(&memtable, "a", 5).as_deref(), Some("-"));
    assert_eq!(get(&memtable, "b", 5).as_deref(), Some("2"));
    assert_eq!(get(&memtable, "c", 5).as_deref(), Some("1"));
    assert_eq!(memtable.tombstones().covering(b"c", at(9)), Some(at(5)));
    let mut nodes = Vec::new();
    memtable.nodes(From::AtOrAbove(b""), 9, &mut nodes);
    assert_eq!(
        nodes
            .iter()
            .map(|&n| memtable.node_versions(n).count())
            .collect::<Vec<_>>(),
        [1, 1, 1]
    );
}

#[test]
fn a_limit_hides_later_entries() {
    let mut memtable = Memtable::new(0);
    apply(&mut memtable, 5, &[put("a", "old")]);
    let limit = memtable.limit();
    apply(&mut memtable, 6, &[put("a", "new"), put("b", "new")]);
    let mut nodes = Vec::new();
    memtable.nodes(From::Above(b""), 9, &mut nodes);
    let seen: Vec<_> = nodes
        .iter()
        .map(|&n| memtable.node_version(n, at(9), limit).map(|v| v.value))
        .collect();
    assert_eq!(seen, [Some(&b"old"[..]), None]);
}

#[test]
#[should_panic(expected = "follows one at")]
fn a_timestamp_that_does_not_increase_is_a_broken_invariant() {
    let mut memtable = Memtable::new(0);
    apply(&mut memtable, 5, &[put("a", "1")]);
    apply(&mut memtable, 5, &[put("a", "2")]);
}

#[test]
fn random_writes_agree_with_a_map() {
    let mut prng = Prng::new(11);
    let mut memtable = Memtable::new(1);
    let mut model: BTreeMap<(Vec<u8>, u64), Option<Vec<u8>>> = BTreeMap::new();
    for ts in 1..3_000 {
        let key = format!("k{:03}", prng.below(400)).into_bytes();
        let value = (!prng.chance(0.2)).then(|| vec![b'v'; prng.index(60)]);
        let op = match &value {
            Some(value) => WriteOp::Put { key: &key, value },
            None => WriteOp::Delete { key: &key },
        };
        memtable.apply(at(ts), core::iter::once(op), hash, None);
        model.insert((key, ts), value);
    }
    for _ in 0..3_000 {
        let key = format!("k{:03}", prng.below(410)).into_bytes();
        let ts = prng.below(3_100);
        let expected = model.range((key.clone(), 0)..=(key.clone(), ts)).next_back();
        let expected =
            expected.map(|((_, ts), value)| (at(*ts), value.is_none(), value.clone().unwrap_or_default()));
        let found = memtable
            .get(hash(&key), &key, at(ts))
            .map(|v| (v.ts, v.deleted, v.value.to_vec()));
        assert_eq!(found, expected);
    }
    let mut keys: Vec<&Vec<u8>> = model.keys().map(|(key, _)| key).collect();
    keys.dedup();
    let mut nodes = Vec::new();
    memtable.nodes(From::Below(None), usize::MAX, &mut nodes);
    assert_eq!(
        nodes
            .iter()
            .rev()
            .map(|&n| memtable.key(n).to_vec())
            .collect::<Vec<_>>(),
        keys.into_iter().cloned().collect::<Vec<_>>()
    );
}
