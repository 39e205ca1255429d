//! Damage to a log that was closed in order: named by file and offset, or provably without effect.
//!
//! Since the seal states that everything was acknowledged, there is no third outcome: a recovery that succeeds must find
//! every record.

mod log_support;

use base::{Index, Prng, RangeId, Term};
use env::Clock;
use env::Env;
use log::verify::{Found, Report, verify};
use log::{EntryKind, LogConfig, Record};
use log_support::{DIR, Fold, Owned, Workload, config, open};
use sim::{DiskImage, ImageMachine};
use std::collections::BTreeMap;

/// A batch or a segment header on disk.
#[derive(Debug, Clone)]
struct Extent {
    file: String,
    offset: u64,
    bytes: u64,
}

/// Reads a log without changing it: what it says, and what its records add up to.
fn read(image: &DiskImage, extents: &mut Vec<Extent>) -> (Report, Fold) {
    let machine = ImageMachine::new(image);
    let mut fold = Fold::default();
    let mut file_now = String::new();
    let report = machine.block_on(verify(
        &machine.env(),
        DIR,
        config().shard,
        &mut |found| match found {
            Found::Segment { file, .. } => {
                file_now = file.to_owned();
                extents.push(Extent {
                    file: file_now.clone(),
                    offset: 0,
                    bytes: 4096,
                });
            }
            Found::Batch { offset, header } => {
                let bytes = (96 + u64::from(header.body_bytes)).next_multiple_of(4096);
                extents.push(Extent {
                    file: file_now.clone(),
                    offset,
                    bytes,
                });
            }
            Found::Record { record, .. } => fold.take(&Owned::of(record)),
        },
    ));
    (report.expect("the disk does not fail"), fold)
}

struct Sound {
    /// The same log earlier, before its slots were reused.
    old: DiskImage,
    image: DiskImage,
    fold: Fold,
    extents: Vec<Extent>,
}

/// A log with several segments, some in slots that were used before, closed in order.
fn sound(config: LogConfig, turns: u64) -> Sound {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    let payload_max = usize::try_from(config.segment_bytes / 16).expect("segments of tests are small");
    let mut workload = Workload::new(7, 1, 4);
    workload.payload_max = payload_max;
    let old = machine.block_on(async {
        let (log, _) = open(&env, config).await.expect("an empty disk is fine");
        workload
            .run(&env, &log, |_| {}, turns / 2)
            .await
            .expect("the disk does not fail");
        env.clock().sleep(core::time::Duration::from_millis(50)).await;
        let old = machine.image();
        workload
            .run(&env, &log, |_| {}, turns / 2)
            .await
            .expect("the disk does not fail");
        log.close().await.expect("the disk does not fail");
        old
    });
    let image = machine.image();
    let mut extents = Vec::new();
    let (report, fold) = read(&image, &mut extents);
    assert_eq!(report.damage, None);
    Sound {
        old,
        image,
        fold,
        extents,
    }
}

/// True when the damage was found, false when it had no effect; panics when it had.
fn is_detected(sound: &Sound, image: &DiskImage, what: &dyn Fn() -> String) -> bool {
    let (report, fold) = read(image, &mut Vec::new());
    match report.damage {
        Some(damage) => {
            assert!(
                image.files().any(|file| file == damage.file),
                "{}: no file {}",
                what(),
                damage.file
            );
            true
        }
        None => {
            assert!(
                fold == sound.fold,
                "{}: taken for a torn tail at {:?}",
                what(),
                report.end
            );
            false
        }
    }
}

#[test]
fn every_bit_flip_of_a_segment_is_named_or_without_effect() {
    let config = LogConfig {
        segment_bytes: 64 << 10,
        ..config()
    };
    let sound = sound(config, 60);
    let files: BTreeMap<&str, u64> = sound
        .image
        .files()
        .map(|f| (f, sound.image.len_of(f).unwrap_or(0)))
        .collect();
    // A full segment of the middle; the tests below go for all of them.
    let file = sound
        .extents
        .iter()
        .filter(|extent| extent.offset == 0)
        .nth(1)
        .expect("several segments")
        .file
        .clone();
    assert_eq!(files[&*file], 64 << 10);
    let (mut detected, mut harmless) = (0_u64, 0_u64);
    for bit in 0..(64 << 10) * 8_u64 {
        let mut image = sound.image.clone();
        image.flip_bit(&file, bit);
        let offset = bit / 8;
        let hit = sound
            .extents
            .iter()
            .find(|e| e.file == file && (e.offset..e.offset + e.bytes).contains(&offset));
        let (report, fold) = read(&image, &mut Vec::new());
        match (report.damage, hit) {
            (Some(damage), Some(hit)) => {
                assert_eq!(
                    (&damage.file, damage.offset),
                    (&hit.file, hit.offset),
                    "bit {bit}: {damage}"
                );
                detected += 1;
            }
            (Some(damage), None) => panic!("bit {bit} is not part of the log, yet {damage}"),
            (None, _) => {
                assert!(
                    fold == sound.fold,
                    "bit {bit} was taken for a torn tail at {:?}",
                    report.end
                );
                harmless += 1;
            }
        }
    }
    println!("{detected} flips named, {harmless} without effect (padding and the rest of the segment)");
    assert_eq!(detected + harmless, 524_288);
    // Headers and records are never without effect.
    let counted: u64 = sound
        .extents
        .iter()
        .filter(|extent| extent.file == file)
        .map(|_| 96 * 8)
        .sum();
    assert!(detected > counted, "{detected} of at least {counted}");
}

/// 10,000 times `damage`, and how many were detected.
fn ten_thousand(name: &str, seed: u64, damage: impl Fn(&Sound, &mut Prng, &mut DiskImage) -> String) -> u64 {
    let sound = sound(config(), 200);
    let mut prng = Prng::new(seed);
    let mut detected = 0;
    for n in 0..10_000 {
        let mut image = sound.image.clone();
        let what = damage(&sound, &mut prng, &mut image);
        detected += u64::from(is_detected(&sound, &image, &|| format!("{name} {n}: {what}")));
    }
    println!("{name}: {detected} of 10,000 detected, the others without effect");
    assert!(
        detected > 1_000,
        "{name}: only {detected} of 10,000 had an effect"
    );
    detected
}

fn any_extent<'s>(sound: &'s Sound, prng: &mut Prng) -> &'s Extent {
    &sound.extents[prng.index(sound.extents.len())]
}

/// Any block of any file, part of the log or not.
fn any_block(sound: &Sound, prng: &mut Prng) -> (String, u64) {
    let files: Vec<&str> = sound.image.files().collect();
    let file = files[prng.index(files.len())];
    (
        file.to_owned(),
        prng.below(sound.image.len_of(file).unwrap_or(4096) / 4096),
    )
}

/// Puts back what stood at an extent earlier; zeros, if there was nothing.
fn restore(sound: &Sound, image: &mut DiskImage, extent: &Extent) {
    for block in extent.offset / 4096..(extent.offset + extent.bytes) / 4096 {
        if sound
            .old
            .len_of(&extent.file)
            .is_some_and(|len| block * 4096 < len)
        {
            image.copy_block(&sound.old, (&extent.file, block), (&extent.file, block));
        } else {
            image.zero_block(&extent.file, block);
        }
    }
}

#[test]
fn zeroed_blocks() {
    ten_thousand("zeroed block", 1, |sound, prng, image| {
        let (file, block) = any_block(sound, prng);
        image.zero_block(&file, block);
        format!("block {block} of {file}")
    });
}

#[test]
fn lost_writes() {
    ten_thousand("lost write", 2, |sound, prng, image| {
        let extent = any_extent(sound, prng).clone();
        restore(sound, image, &extent);
        format!("{extent:?}")
    });
}

#[test]
fn stale_blocks() {
    ten_thousand("stale block", 3, |sound, prng, image| {
        let extent = any_extent(sound, prng);
        let block = extent.offset / 4096 + prng.below(extent.bytes / 4096);
        let one = Extent {
            file: extent.file.clone(),
            offset: block * 4096,
            bytes: 4096,
        };
        restore(sound, image, &one);
        format!("{one:?}")
    });
}

#[test]
fn misdirected_writes() {
    ten_thousand("misdirected write", 4, |sound, prng, image| {
        let extent = any_extent(sound, prng).clone();
        let (file, first) = any_block(sound, prng);
        restore(sound, image, &extent);
        let end = sound.image.len_of(&file).unwrap_or(0) / 4096;
        for (n, block) in (extent.offset / 4096..(extent.offset + extent.bytes) / 4096).enumerate() {
            if first + (n as u64) < end {
                image.copy_block(&sound.image, (&extent.file, block), (&file, first + n as u64));
            }
        }
        format!("{extent:?} to block {first} of {file}")
    });
}

#[test]
fn misdirected_reads() {
    ten_thousand("misdirected read", 5, |sound, prng, image| {
        let extent = any_extent(sound, prng);
        let to = extent.offset / 4096 + prng.below(extent.bytes / 4096);
        let (file, from) = any_block(sound, prng);
        image.copy_block(&sound.image, (&file, from), (&extent.file, to));
        format!("block {from} of {file} instead of block {to} of {}", extent.file)
    });
}

/// Two logs that differ in one batch: each is sound, a block of one in the other is not.
#[test]
fn a_batch_of_a_twin_does_not_pass() {
    let twin = |byte: u8| {
        let machine = ImageMachine::new(&DiskImage::new());
        let env = machine.env();
        machine.block_on(async {
            let (log, _) = open(&env, config()).await.expect("an empty disk is fine");
            for n in 1..=5_u64 {
                let payload = [if n == 3 { byte } else { 0 }; 100];
                // One range per entry, so that only the chain of batches can tell.
                let range = RangeId(n);
                log.append(&Record::Entry {
                    range,
                    index: Index(1),
                    term: Term(1),
                    chain: 0,
                    kind: EntryKind::Command,
                    payload: &payload,
                });
                log.submit();
                log.persisted_beyond(log.persisted())
                    .await
                    .expect("the disk does not fail");
            }
            log.close().await.expect("the disk does not fail");
        });
        machine.image()
    };
    let (one, other) = (twin(1), twin(2));
    let mut extents = Vec::new();
    let (report, _) = read(&one, &mut extents);
    assert_eq!(report.damage, None);
    // Header, opening, then the five.
    let third = &extents[4];
    let block = third.offset / 4096;
    let mut mixed = one.clone();
    mixed.copy_block(&other, (&third.file, block), (&third.file, block));
    assert_ne!(mixed, one, "the twins differ in that block");
    let (report, _) = read(&mixed, &mut Vec::new());
    let damage = report
        .damage
        .expect("a batch of another log in the chain is damage");
    assert_eq!(
        (damage.file, damage.offset),
        (third.file.clone(), third.offset + 4096)
    );
}
