//! Slots with arbitrary content: recovery names damage or starts afresh, and never panics or allocates what is not there.

mod exercise;

use corelane_log::Log;
use exercise::{RECORDS, config, read, sound};
use proptest::prelude::*;
use sim::{DiskImage, ImageMachine};

/// Puts `fields` over the header at `offset` and makes its checksum fit again: what only an attacker can write.
fn forge(bytes: &mut [u8], offset: usize, fields: &[(usize, u64)]) {
    let header = &mut bytes[offset..offset + 96];
    for (at, value) in fields {
        // Past the version, which would rightly be refused.
        let at = 12 + at % (96 - 12 - 8) / 4 * 4;
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let checksum = base::checksum::crc32c(&header[8..]);
    header[4..8].copy_from_slice(&checksum.to_le_bytes());
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..10_u64,
        Just(u64::MAX),
        (0..10_u64).prop_map(|n| (1 << 62) - 1 - n)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn arbitrary_slots(blocks in proptest::collection::vec(any::<[u8; 32]>(), 1..6)) {
        let mut image = DiskImage::new();
        let mut bytes = Vec::new();
        for block in &blocks {
            bytes.extend(block.iter().cycle().take(4096));
        }
        image.write("wal/00000000.seg", &bytes);
        prop_assert_eq!(read(&image), Some((false, 0)));
    }

    #[test]
    fn forged_headers(
        file in 0..3_usize,
        block in 0..4_usize,
        fields in proptest::collection::vec((any::<usize>(), any_number()), 1..4),
    ) {
        let mut image = sound();
        let name = image.files().nth(file).expect("three slots at least").to_owned();
        let mut bytes = image.read(&name).expect("it is there");
        forge(&mut bytes, block * 4096, &fields);
        image.write(&name, &bytes);
        let (is_damaged, records) = read(&image).expect("the version was left alone");
        prop_assert!(records as u64 <= RECORDS);
        let machine = ImageMachine::new(&image);
        let opened = machine.block_on(Log::open(&machine.env(), "wal", config(), &mut |_, _| {}));
        prop_assert_eq!(opened.is_err(), is_damaged);
    }

    #[test]
    fn any_changes(script in proptest::collection::vec(any::<u8>(), 0..60)) {
        exercise::patched(&script);
    }
}

#[test]
fn the_sound_log_is_sound() {
    let image = sound();
    assert!(image.files().count() >= 3);
    assert_eq!(read(&image), Some((false, 12)));
}
