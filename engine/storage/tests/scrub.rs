//! The scrub of an open tablet: it comes to its end whatever is written meanwhile, in pieces, and holds nothing between them.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::Prng;
use base::key::Span;
use corelane_storage::{Compression, Scrub, StorageConfig, StorageError};
use fixtures::{Op, ROOT, World, draw_ops, small};
use sim::{DiskImage, ImageEnv, ImageMachine};

fn config() -> StorageConfig {
    StorageConfig {
        compression: Compression::None,
        ..small()
    }
}

async fn flush_one(world: &mut World<ImageEnv>, prng: &mut Prng) {
    for _ in 0..40 {
        let mut ops = draw_ops(prng, &Span::all());
        ops.push(Op::Put(b"k".to_vec(), vec![7; 500]));
        world.write(ops);
    }
    world.freeze(ROOT);
    world.flush(ROOT).await.unwrap();
}

#[test]
fn it_ends_with_the_tables_that_were_there_when_it_began() {
    let machine = ImageMachine::new(&DiskImage::new());
    machine.block_on(async {
        let mut world = World::create(machine.env(), config()).await;
        let mut prng = Prng::new(3);
        for _ in 0..3 {
            flush_one(&mut world, &mut prng).await;
        }
        let scrub = Scrub::new(&machine.env());
        let (mut place, mut checked) = (None, 0);
        while let Some((next, mut check)) = scrub.next(&world.tablets[&ROOT], place).await.unwrap() {
            while !check.is_done() {
                check.go_on(u64::MAX).await.unwrap();
            }
            (place, checked) = (Some(next), checked + 1);
            // Faster than it reads.
            flush_one(&mut world, &mut prng).await;
        }
        assert_eq!(checked, 3);
    });
}

#[test]
fn a_table_is_read_in_pieces_also_when_its_tablet_has_gone() {
    let machine = ImageMachine::new(&DiskImage::new());
    machine.block_on(async {
        let mut world = World::create(machine.env(), config()).await;
        let mut prng = Prng::new(3);
        for _ in 0..4 {
            flush_one(&mut world, &mut prng).await;
        }
        let tablet = world.tablets[&ROOT].clone();
        tablet.merge(tablet.plan_full_merge().unwrap()).await.unwrap();
        let bytes = tablet.stats().table_bytes;
        let scrub = Scrub::new(&machine.env());
        let (_, mut check) = scrub.next(&tablet, None).await.unwrap().unwrap();
        let (mut pieces, mut sum) = (0, 0);
        while !check.is_done() {
            sum += check.go_on(1).await.unwrap();
            pieces += 1;
            if pieces == 1 {
                assert!(check.is_of(&tablet));
                assert!(tablet.is_held(), "by this test");
                tablet.merge(tablet.plan_full_merge().unwrap()).await.unwrap();
                assert!(!check.is_of(&tablet));
            }
        }
        assert!(pieces > 1, "{pieces} pieces");
        assert_eq!(sum, bytes);
        drop(tablet);
        assert!(!world.tablets[&ROOT].is_held(), "the scrub holds nothing");
    });
}

#[test]
fn damage_is_met_in_the_piece_that_has_it() {
    let machine = ImageMachine::new(&DiskImage::new());
    machine.block_on(async {
        let mut world = World::create(machine.env(), config()).await;
        let mut prng = Prng::new(3);
        flush_one(&mut world, &mut prng).await;
        world.tablets.clear();
    });
    let image = machine.image();
    let table = image
        .files()
        .find(|file| file.ends_with(".sst"))
        .unwrap()
        .to_owned();
    for bit in (0..image.len_of(&table).unwrap() * 8).step_by(1_009) {
        let mut damaged = image.clone();
        damaged.flip_bit(&table, bit);
        let machine = ImageMachine::new(&damaged);
        let met = machine.block_on(async {
            let shared = corelane_storage::Shared::new(machine.env(), config());
            let tablet = corelane_storage::Tablet::open(&shared, ROOT).await?;
            let scrub = Scrub::new(&machine.env());
            let Some((_, mut check)) = scrub.next(&tablet, None).await? else {
                return Ok(());
            };
            while !check.is_done() {
                check.go_on(1).await?;
            }
            Ok(())
        });
        assert!(
            matches!(&met, Err(StorageError::Corruption(found)) if found.file == table),
            "bit {bit}: {met:?}"
        );
    }
}
