//! Taking and installing raft snapshots among flushes, merges, splits and reads of the same tablet, in any order of their
//! steps.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod fixtures;

use base::Prng;
use base::key::Span;
use corelane_storage::{ScanPage, Tablet, TabletSnapshot};
use fixtures::recorder::{Recorder, turn};
use fixtures::transfer::{check_every_ts, flush, follower, names, one_range, receive, send, writes};
use fixtures::{ROOT, World, small};
use sim::{DiskImage, ImageMachine};
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

type Racer<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls all in a random order until they are done.
fn race(prng: &mut Prng, mut racers: Vec<Racer<'_>>) {
    let context = &mut Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if racers.is_empty() {
            return;
        }
        let at = prng.index(racers.len());
        if let Poll::Ready(()) = racers[at].as_mut().poll(context) {
            drop(racers.swap_remove(at));
        }
    }
    panic!("{} wait for ever", racers.len());
}

/// The background work that a tablet may have.
fn work(tablet: &Tablet<Recorder>) -> Vec<Racer<'_>> {
    vec![
        Box::pin(async {
            tablet.complete_split().await.unwrap();
        }),
        Box::pin(async {
            tablet.flush().await.unwrap();
        }),
        Box::pin(async {
            if let Some(plan) = tablet.plan_full_merge() {
                tablet.merge(plan).await.unwrap();
            }
        }),
    ]
}

/// Reads a span at the world's timestamp, as the model says.
async fn check_reads(world: &World<Recorder>, span: &Span) {
    let tablet = &world.tablets[&ROOT];
    let page = ScanPage {
        span: span.clone(),
        read_ts: world.ts,
        reverse: false,
        rows_max: 1_000,
        bytes_max: usize::MAX,
    };
    for _ in 0..3 {
        let rows = tablet.scan_page(&page).await.unwrap();
        let found: Vec<_> = rows
            .iter()
            .map(|(key, value, ts)| (key.to_vec(), value.to_vec(), ts))
            .collect();
        assert!(found == world.model.scan(span, world.ts), "{found:?}");
        for key in world.model.0.keys().filter(|key| span.contains(key)) {
            let found = tablet.get(key, world.ts).await.unwrap();
            assert_eq!(found, world.model.get(key, world.ts));
        }
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut prng = Prng::new(seed);
    let from = ImageMachine::new(&DiskImage::new());
    let env = Recorder::slow(&from);
    let _ = env::Env::prng(&env);
    let mut world = from.block_on(World::create(env, small()));
    writes(&mut world, &mut prng, 8);
    flush(&from, &world, ROOT);
    writes(&mut world, &mut prng, 6);
    if prng.chance(0.5) {
        flush(&from, &world, ROOT);
    }
    world.write_nothing(ROOT);
    let flushed = prng.index(world.log.len());
    let mut entries = world.log.len();
    let splits = prng.chance(0.5);
    if splits {
        world.split(b"b");
    }
    if prng.chance(0.5) {
        entries = world.log.len();
    }
    if splits {
        from.block_on(world.tablets[&ROOT].complete_split()).unwrap();
    }
    writes(&mut world, &mut prng, 5);
    world.write_nothing(ROOT);
    flush(&from, &world, ROOT);
    writes(&mut world, &mut prng, 5);
    world.freeze(ROOT);

    // A snapshot at any moment of a flush and a merge.
    let taken: RefCell<Option<TabletSnapshot<Recorder>>> = RefCell::default();
    let mut racers = work(&world.tablets[&ROOT]);
    let moment = prng.below(12);
    racers.push(Box::pin(async {
        for _ in 0..moment {
            turn(true).await;
        }
        taken.replace(Some(world.tablets[&ROOT].snapshot().unwrap()));
    }));
    race(&mut prng, racers);
    let snapshot = taken.take().unwrap();

    let to = ImageMachine::new(&DiskImage::new());
    let mut behind = to.block_on(follower(Recorder::slow(&to), &world, flushed));
    flush(&to, &behind, ROOT);
    let nowhere = Recorder::new(&ImageMachine::new(&DiskImage::new()));
    let ahead = to.block_on(follower(nowhere, &world, entries));
    (behind.log, behind.model, behind.ts) = (ahead.log.clone(), ahead.model.clone(), ahead.ts);
    to.block_on(behind.replay());
    behind.freeze(ROOT);
    let span = snapshot.description().span().clone();
    let mut receiver = to.block_on(receive(&behind, &snapshot)).unwrap();
    to.block_on(send(&snapshot, &mut receiver, usize::MAX, usize::MAX))
        .unwrap();
    let mut racers = work(&behind.tablets[&ROOT]);
    racers.push(Box::pin(check_reads(&behind, &span)));
    racers.push(Box::pin(async {
        receiver.install().await.unwrap();
    }));
    race(&mut prng, racers);

    // The other side of a split that the receiver knew of is whole.
    for (&range, tablet) in behind.tablets.iter().filter(|(range, _)| **range != ROOT) {
        behind.freeze(range);
        to.block_on(tablet.flush()).unwrap();
        for key in ahead.model.0.keys().filter(|key| tablet.span().contains(key)) {
            let found = to.block_on(tablet.get(key, ahead.ts)).unwrap();
            assert_eq!(found, ahead.model.get(key, ahead.ts));
        }
    }
    let tablet = &behind.tablets[&ROOT];
    let files = snapshot.description().files().count();
    to.block_on(behind.shared.remove_obsolete());
    assert!(tablet.stats().tables <= files, "a merge may have come after");
    assert_eq!(names(&to.image(), ROOT).len(), 1 + tablet.stats().tables);
    let mut compared = one_range(&world, &behind, tablet);
    to.block_on(compared.replay());
    to.block_on(check_every_ts(&compared));
    compared.tablets.clear();
    drop(behind);
    let again = ImageMachine::new(&to.image());
    to.block_on(compared.restart(Recorder::new(&again))).unwrap();
    compared.tablets.retain(|&range, _| range == ROOT);
    again.block_on(check_every_ts(&compared));
}

#[test]
fn an_install_may_race_with_all_else() {
    for seed in 0..60 {
        run(seed);
    }
}
