//! What must hold for a tablet with any bytes of its tables and its manifest changed. Used by the tests beside this folder and,
//! by path, by the fuzz target.
#![allow(dead_code, reason = "each user takes its part")]

use base::api::WriteOp;
use base::key::Span;
use base::{Index, RangeId, Timestamp};
use corelane_storage::{ScanPage, Shared, SnapshotDescription, StorageConfig, StorageError, Tablet};
use sim::{DiskImage, ImageMachine};
use std::cell::OnceCell;

const RANGE: RangeId = RangeId(1);
const KEYS: u32 = 60;

fn config() -> StorageConfig {
    StorageConfig {
        block_bytes: 256,
        ..StorageConfig::default()
    }
}

fn key(number: u32) -> Vec<u8> {
    format!("key{number:04}").into_bytes()
}

/// A tablet of two tables, with values that compress, deletes and a range delete.
fn sound() -> DiskImage {
    let machine = ImageMachine::new(&DiskImage::new());
    let shared = Shared::new(machine.env(), config());
    machine.block_on(async {
        let tablet = Tablet::create(&shared, RANGE, Span::all(), Index::ZERO, b"state".to_vec())
            .await
            .expect("an empty disk is fine");
        let mut index = Index::ZERO;
        for round in 0..2 {
            for number in 0..KEYS {
                let key = key(number * (round + 1));
                let value = vec![7; (number % 50) as usize];
                let op = match number % 7 {
                    5 => WriteOp::Delete { key: &key },
                    _ => WriteOp::Put {
                        key: &key,
                        value: &value,
                    },
                };
                index = index.next();
                tablet.apply(index, Timestamp::new(index.0, 3), core::iter::once(op));
            }
            index = index.next();
            let gone = WriteOp::DeleteRange {
                start: b"key0020",
                end: Some(b"key0024"),
            };
            tablet.apply(index, Timestamp::new(index.0, 3), core::iter::once(gone));
            tablet.freeze(b"state".to_vec(), false);
            tablet.flush().await.expect("the disk does not fail");
        }
    });
    machine.image()
}

/// Changes the sound tablet by a script. It is verified, opened and read, or refused in words.
pub(crate) fn patched(script: &[u8]) {
    thread_local! {
        static SOUND: OnceCell<DiskImage> = const { OnceCell::new() };
    }
    let mut image = SOUND.with(|image| image.get_or_init(sound).clone());
    image.patch(script);
    let machine = ImageMachine::new(&image);
    let env = machine.env();
    machine.block_on(async {
        // What is wrong, or that there is no tablet any more: either is an answer.
        let _ = Tablet::verify(&env, RANGE).await;
        let shared = Shared::new(env.clone(), config());
        let Ok(tablet) = Tablet::open(&shared, RANGE).await else {
            return;
        };
        for number in [0, 1, 21, KEYS, 2 * KEYS] {
            let _ = tablet.get(&key(number), Timestamp::MAX).await;
        }
        for reverse in [false, true] {
            read_all(&tablet, reverse).await;
        }
    });
}

async fn read_all<E: env::Env>(tablet: &Tablet<E>, reverse: bool) {
    let page = ScanPage {
        span: tablet.span(),
        read_ts: Timestamp::MAX,
        reverse,
        rows_max: 10_000,
        bytes_max: 1 << 20,
    };
    let found: Result<_, StorageError> = tablet.scan_page(&page).await;
    if let Ok(rows) = found {
        assert!(rows.len() <= 10_000);
    }
}

/// A description of a raft snapshot with any bytes behind its magic and a checksum that fits: refused in words, or it encodes to
/// exactly these bytes.
pub(crate) fn description(content: &[u8]) {
    let mut bytes = b"corelsnp".to_vec();
    bytes.extend_from_slice(&base::checksum::crc32c(content).to_le_bytes());
    bytes.extend_from_slice(content);
    if let Ok(description) = SnapshotDescription::decode(&bytes) {
        assert_eq!(description.encode(), bytes, "a description has one encoding");
        let files: u64 = description.files().map(|file| file.bytes).sum();
        std::hint::black_box((
            files,
            description.span(),
            description.index(),
            description.app_state().len(),
        ));
    }
}

/// The description of a sound tablet, without magic and checksum.
pub(crate) fn sound_description() -> Vec<u8> {
    let machine = ImageMachine::new(&sound());
    let shared = Shared::new(machine.env(), config());
    machine.block_on(async {
        let tablet = Tablet::open(&shared, RANGE).await.expect("it is sound");
        let snapshot = tablet.snapshot().expect("nothing is pending");
        snapshot.description().encode()[12..].to_vec()
    })
}
