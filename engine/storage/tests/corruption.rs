//! Damage of every kind to tables and manifests: named or provably harmless, never served.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::key::Span;
use base::limits::BLOCK_BYTES;
use base::{Prng, RangeId, Timestamp};
use corelane_storage::{Compression, Corruption, Shared, StorageConfig, StorageError, Tablet};
use env::DiskOp;
use fixtures::{Op, ROOT, World, draw_ops, small};
use sim::{DiskImage, DiskRule, ImageMachine};
use std::io::ErrorKind;

fn config() -> StorageConfig {
    StorageConfig {
        compression: Compression::None,
        ..small()
    }
}

/// A tablet with a table of many blocks, another one, and a manifest of a few edits.
fn make(config: StorageConfig, writes: usize) -> (DiskImage, World<sim::ImageEnv>) {
    let machine = ImageMachine::new(&DiskImage::new());
    let mut world = machine.block_on(World::create(machine.env(), config));
    let mut prng = Prng::new(9);
    for _ in 0..2 {
        for _ in 0..writes {
            let mut ops = draw_ops(&mut prng, &Span::all());
            ops.push(Op::Put(b"k".to_vec(), vec![7; 5]));
            world.write(ops);
        }
        world.freeze(ROOT);
        machine.block_on(world.flush(ROOT)).unwrap();
    }
    world.tablets.clear();
    (machine.image(), world)
}

fn files(image: &DiskImage, suffix: &str) -> Vec<String> {
    image
        .files()
        .filter(|file| file.ends_with(suffix))
        .map(str::to_owned)
        .collect()
}

fn verify(image: &DiskImage) -> Result<Vec<String>, StorageError> {
    let machine = ImageMachine::new(image);
    let damages = machine.block_on(Tablet::verify(&machine.env(), ROOT))?;
    Ok(damages.into_iter().map(|damage| damage.file).collect())
}

#[test]
fn every_bit_flip_of_a_table_is_found_and_named() {
    let (image, _) = make(config(), 12);
    assert_eq!(verify(&image), Ok(Vec::new()));
    let table = files(&image, ".sst").remove(0);
    let bits = image.len_of(&table).unwrap() * 8;
    assert!(bits >= 32_768, "{bits} bits");
    for bit in 0..bits {
        let mut damaged = image.clone();
        damaged.flip_bit(&table, bit);
        assert_eq!(verify(&damaged), Ok(vec![table.clone()]), "bit {bit}");
    }
}

#[test]
fn a_read_of_a_damaged_table_is_right_or_an_error_that_names_it() {
    let (image, mut world) = make(config(), 12);
    let mut prng = Prng::new(4);
    let (mut refused, mut opened) = (0, 0);
    for table in files(&image, ".sst") {
        for _ in 0..400 {
            let mut damaged = image.clone();
            damaged.flip_bit(&table, prng.below(image.len_of(&table).unwrap() * 8));
            let machine = ImageMachine::new(&damaged);
            let named = |error: &StorageError| {
                assert!(
                    matches!(error, StorageError::Corruption(Corruption { file, .. }) if *file == table),
                    "{error}"
                );
            };
            if let Err(error) = machine.block_on(world.open_all(machine.env())) {
                named(&error);
                refused += 1;
                continue;
            }
            opened += 1;
            for key in world.model.0.keys() {
                match machine.block_on(world.tablets[&ROOT].get(key, world.ts)) {
                    Ok(found) => assert_eq!(found, world.model.get(key, world.ts)),
                    Err(error) => named(&error),
                }
            }
            world.tablets.clear();
        }
    }
    assert!(refused > 50 && opened > 50, "{refused} refused, {opened} opened");
}

#[test]
fn blocks_that_moved_or_are_lost_are_found() {
    let (image, _) = make(config(), 200);
    let tables = files(&image, ".sst");
    let blocks = image.len_of(&tables[0]).unwrap() / BLOCK_BYTES as u64;
    assert!(
        blocks >= 3 && tables.len() == 2,
        "{blocks} blocks, {} tables",
        tables.len()
    );
    for block in 0..blocks {
        let mut lost = image.clone();
        lost.zero_block(&tables[0], block);
        assert_eq!(verify(&lost), Ok(vec![tables[0].clone()]), "lost block {block}");
        let mut moved = image.clone();
        moved.swap_blocks(&tables[0], block, (block + 1) % blocks);
        assert_eq!(verify(&moved), Ok(vec![tables[0].clone()]), "moved block {block}");
        if block < image.len_of(&tables[1]).unwrap() / BLOCK_BYTES as u64 {
            let mut misdirected = image.clone();
            misdirected.copy_block(&image, (&tables[1], block), (&tables[0], block));
            assert_eq!(
                verify(&misdirected),
                Ok(vec![tables[0].clone()]),
                "misdirected block {block}"
            );
        }
    }
    let mut missing = image.clone();
    missing.remove(&tables[1]);
    assert_eq!(verify(&missing), Ok(vec![tables[1].clone()]));
    // A whole table in the place of another one.
    let mut replaced = image.clone();
    replaced.write(&tables[0], &image.read(&tables[1]).unwrap());
    assert_eq!(verify(&replaced), Ok(vec![tables[0].clone()]));
}

/// What a manifest that was damaged or cut may come back as: how many of its edits, or corruption.
fn edits(image: &DiskImage) -> Result<u64, StorageError> {
    let machine = ImageMachine::new(image);
    let shared = Shared::new(machine.env(), config());
    machine
        .block_on(Tablet::open(&shared, ROOT))
        .map(|tablet| tablet.flushed_index().0)
}

/// A manifest with an edit for each index from 5 on, and no tables.
fn make_manifest(edits: u64) -> (DiskImage, String, Vec<u8>) {
    let machine = ImageMachine::new(&DiskImage::new());
    let mut world = machine.block_on(World::create(machine.env(), config()));
    for _ in 0..edits {
        world.write_nothing(ROOT);
        world.freeze(ROOT);
        machine.block_on(world.flush(ROOT)).unwrap();
    }
    world.tablets.clear();
    let image = machine.image();
    let path = files(&image, "MANIFEST").remove(0);
    let bytes = image.read(&path).unwrap();
    (image, path, bytes)
}

#[test]
fn a_manifest_torn_at_every_byte_of_its_last_edit_comes_back_without_it() {
    let (mut image, path, bytes) = make_manifest(3);
    assert_eq!(edits(&image), Ok(8));
    // Before the last edit was acknowledged there was no seal behind it.
    let (start, end) = (bytes.len() - 2 * BLOCK_BYTES, bytes.len() - BLOCK_BYTES);
    let used = start + bytes[start..end].iter().rposition(|&b| b != 0).unwrap() + 1;
    for cut in start..=end {
        let mut torn = bytes[..cut].to_vec();
        torn.resize(end, 0);
        image.write(&path, &torn);
        assert_eq!(edits(&image), Ok(if cut < used { 7 } else { 8 }), "cut at {cut}");
    }
    // A torn seal takes nothing with it.
    for cut in end..bytes.len() {
        image.write(&path, &[&bytes[..cut], &vec![0; bytes.len() - cut][..]].concat());
        assert_eq!(edits(&image), Ok(8), "cut at {cut}");
    }
}

#[test]
fn a_torn_edit_does_not_come_back_when_the_manifest_goes_on() {
    let (mut image, path, bytes) = make_manifest(3);
    let mut torn = bytes[..bytes.len() - BLOCK_BYTES].to_vec();
    let last = torn.len() - BLOCK_BYTES + 60;
    torn[last] ^= 1;
    image.write(&path, &torn);
    let machine = ImageMachine::new(&image);
    let shared = Shared::new(machine.env(), config());
    let tablet = machine.block_on(Tablet::open(&shared, ROOT)).unwrap();
    assert_eq!(tablet.flushed_index().0, 7);
    drop(tablet);
    assert_eq!(edits(&machine.image()), Ok(7));
}

#[test]
fn every_bit_flip_of_an_acknowledged_manifest_is_named_or_harmless() {
    let (image, path, bytes) = make_manifest(1);
    let seal = (bytes.len() - BLOCK_BYTES) as u64 * 8;
    let (mut named, mut harmless) = (0u64, 0u64);
    for bit in 0..bytes.len() as u64 * 8 {
        let mut damaged = image.clone();
        damaged.flip_bit(&path, bit);
        match edits(&damaged) {
            Ok(index) => {
                assert_eq!(index, 6, "bit {bit}");
                harmless += 1;
            }
            Err(StorageError::Corruption(Corruption { file, .. })) => {
                assert_eq!(file, path, "bit {bit}");
                assert!(bit < seal, "bit {bit} of the last seal");
                named += 1;
            }
            Err(error) => panic!("bit {bit}: {error}"),
        }
    }
    assert_eq!((named, harmless), (seal, BLOCK_BYTES as u64 * 8));
}

#[test]
fn hostile_tables_and_manifests_do_not_panic() {
    let (image, world) = make(config(), 12);
    let mut prng = Prng::new(5);
    let paths: Vec<String> = image.files().map(str::to_owned).collect();
    for round in 0..2_000 {
        let mut hostile = image.clone();
        let path = &paths[round % paths.len()];
        let mut bytes = image.read(path).unwrap();
        match prng.below(3) {
            0 => bytes.truncate(prng.index(bytes.len())),
            1 => {
                let at = prng.index(bytes.len());
                prng.fill(&mut bytes[at..]);
            }
            _ => {
                let (from, to) = (prng.index(bytes.len()), prng.index(bytes.len()));
                let len = prng.index(bytes.len() - from.max(to)).min(5_000);
                bytes.copy_within(from..from + len, to);
            }
        }
        hostile.write(path, &bytes);
        let _ = verify(&hostile);
        let machine = ImageMachine::new(&hostile);
        let shared = Shared::new(machine.env(), config());
        if let Ok(tablet) = machine.block_on(Tablet::open(&shared, ROOT)) {
            for key in world.model.0.keys().take(20) {
                let _ = machine.block_on(tablet.get(key, Timestamp::MAX));
            }
        }
    }
}

#[test]
fn both_sides_of_a_split_that_is_given_up_are_read_until_they_go() {
    let machine = ImageMachine::new(&DiskImage::new());
    let mut world = machine.block_on(World::create(machine.env(), config()));
    let mut prng = Prng::new(11);
    for round in 0..60 {
        let mut ops = draw_ops(&mut prng, &Span::all());
        ops.push(Op::Put(vec![b'a' + round % 20], vec![round]));
        world.write(ops);
        if round == 30 {
            world.freeze(ROOT);
            machine.block_on(world.flush(ROOT)).unwrap();
        }
    }
    let (left, right) = world.split(b"j");
    assert!(world.tablets[&right].waits_for_split());
    // Bytes of the only table, as its block is about to be linked.
    let image = machine.image();
    let table = files(&image, ".sst").remove(0);
    machine.rule(
        DiskRule::nth(DiskOp::Read, 0, ErrorKind::Other)
            .on("tablets/10/")
            .onwards(),
    );
    let met = machine.block_on(world.tablets[&left].complete_split());
    assert!(
        matches!(met, Err(StorageError::Corruption(_))),
        "{met:?} of {table}"
    );
    world.tablets[&left].abandon_split();
    machine.block_on(world.check_all());
    for range in [left, right] {
        let refused = machine.block_on(world.tablets[&range].flush());
        assert_eq!(refused, Err(StorageError::Poisoned { range }));
        assert!(world.tablets[&range].snapshot().is_err(), "of {range}");
    }
    assert!(world.tablets[&left].is_held(), "the right side reads its tables");
    assert!(!world.tablets[&right].is_held());
    world.tablets.remove(&right);
    assert!(!world.tablets[&left].is_held());
}

#[test]
fn what_is_not_there_is_said_so() {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    let shared = Shared::new(env.clone(), config());
    let range = RangeId(77);
    let missing = Err(StorageError::NoSuchTablet { range });
    assert_eq!(
        machine.block_on(Tablet::open(&shared, range)).map(|_| ()),
        missing
    );
    assert_eq!(machine.block_on(Tablet::verify(&env, range)).map(|_| ()), missing);
    assert_eq!(machine.block_on(Tablet::list(&env)), Ok(Vec::new()));
    assert_eq!(machine.block_on(Tablet::destroy(&env, range)), Ok(()));
}
