//! How much a tablet has, and where the middle is.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]
#![allow(dead_code, reason = "fixtures are shared by several tests")]

mod fixtures;

use corelane_storage::{Extent, StorageConfig};
use fixtures::{Op, ROOT, World};
use sim::{DiskImage, ImageMachine};

fn key(number: u32) -> Vec<u8> {
    format!("key{number:06}").into_bytes()
}

#[test]
fn the_middle_halves_the_bytes_also_after_a_split() {
    let machine = ImageMachine::new(&DiskImage::new());
    let config = StorageConfig {
        block_bytes: 512,
        ..StorageConfig::default()
    };
    let mut world = machine.block_on(World::create(machine.env(), config));
    assert_eq!(world.tablets[&ROOT].extent(), Extent::default());
    // Two tables, of which the second has the later keys, and longer values: the middle is not that of the numbers.
    for (numbers, bytes) in [(0..4000, 100), (4000..8000, 300)] {
        for number in numbers {
            world.write(vec![Op::Put(key(number), vec![number.to_le_bytes()[0]; bytes])]);
        }
        world.freeze(ROOT);
        machine.block_on(world.flush(ROOT)).unwrap();
    }
    let whole = world.tablets[&ROOT].extent();
    let (tables, middle) = (world.tablets[&ROOT].stats().table_bytes, whole.middle.unwrap());
    assert!(
        whole.bytes <= tables && whole.bytes * 10 > tables * 8,
        "{} of {tables}",
        whole.bytes
    );
    assert!(
        key(4500) < middle.to_vec() && middle.to_vec() < key(6000),
        "{middle:?}"
    );

    let (left, right) = world.split(&middle);
    for range in [left, right] {
        let half = world.tablets[&range].extent();
        assert!(
            half.bytes * 10 > whole.bytes * 4 && half.bytes * 10 < whole.bytes * 6,
            "{} of {}",
            half.bytes,
            whole.bytes
        );
        let span = world.tablets[&range].span();
        let middle = half.middle.unwrap();
        assert!(
            span.contains(&middle) && middle != span.start,
            "{middle:?} in {span:?}"
        );
    }
}
