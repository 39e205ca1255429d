use super::*;
use crate::cluster::{Cluster, Member};
use base::limits::BLOCK_BYTES;
use base::{NodeId, Prng};
use env::Address;
use sim::{DiskImage, ImageEnv, ImageMachine};
use std::sync::Arc;
use storage::StorageConfig;

const SHARD: ShardId = ShardId(0);

fn config() -> NodeConfig {
    let member = |node| Member::new(NodeId(node), Address::from(([127, 0, 0, 1], 7400)));
    NodeConfig {
        cluster: Some(Arc::new(Cluster::new(1, NodeId(1), vec![member(1), member(2)]))),
        log: LogConfig {
            segment_bytes: 32 << 10,
            ..LogConfig::default()
        },
        ..NodeConfig::default()
    }
}

async fn recover(env: &ImageEnv) -> Result<Found<ImageEnv>, RecoverError> {
    let storage = Shared::new(env.clone(), StorageConfig::default());
    let groups = Groups::new(Prng::new(1), 0);
    recover_dir(env, &storage, &config(), &groups, SHARD).await
}

/// A disk on which a replica of range 7 has voted, often.
fn voted() -> DiskImage {
    let machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    let work = async {
        let Found { log, .. } = recover(&env).await?;
        for term in 1..5 {
            let seqno = log.append(&Record::HardState {
                range: RangeId(7),
                term: Term(term),
                vote: None,
                commit: Index::ZERO,
            });
            wait_durable(&log, seqno).await?;
        }
        log.close().await?;
        Ok::<_, RecoverError>(())
    };
    machine.block_on(work).expect("the disk is fine");
    machine.image()
}

#[test]
fn the_id_of_a_split_that_others_may_have_is_not_given_out_again() {
    // The leader crashed before the split was in its log, and after it was in those of others.
    let right = RangeId(3 * 1024 + 1);
    let mut machine = ImageMachine::new(&DiskImage::new());
    let env = machine.env();
    let propose = async {
        drop(recover(&env).await?);
        marker::create(&env, SHARD, right).await?;
        Ok::<_, RecoverError>(())
    };
    machine.block_on(propose).expect("the disk is fine");
    // Nor after the second start, which finds no marker any more.
    for _ in 0..3 {
        machine = ImageMachine::new(&machine.image());
        let found = machine
            .block_on(recover(&machine.env()))
            .expect("the disk is fine");
        assert!(found.range_max >= right, "{} would come next", found.range_max);
        assert!(!found.gone.contains_key(&right), "a split may make it yet");
    }
}

#[test]
fn ids_of_ranges_that_a_lost_log_may_have_had_are_not_given_out_again() {
    let mut image = voted();
    let is_segment = |file: &&str| {
        file.ends_with(".seg") && image.read(file).is_some_and(|bytes| bytes.len() > BLOCK_BYTES)
    };
    let segment = image.files().find(is_segment).expect("there is a log").to_owned();
    let bytes = image.read(&segment).expect("it was listed");
    let mut blocks = (0u64..).zip(bytes.chunks(BLOCK_BYTES));
    let batch = blocks.find(|(_, block)| block.starts_with(b"CLba"));
    let (at, _) = batch.expect("something was written");
    image.flip_bit(&segment, (at * BLOCK_BYTES as u64 + 70) * 8);
    let machine = ImageMachine::new(&image);
    let found = machine.block_on(recover(&machine.env())).expect("others have it");
    let lost = (found.range_max, found.gone.clone());
    assert!(lost.0 > RangeId(1 << 35), "{lost:?}");
    drop(found);
    // A later start knows as much.
    let again = ImageMachine::new(&machine.image());
    let found = again
        .block_on(recover(&again.env()))
        .expect("the log is a new one");
    assert_eq!((found.range_max, found.gone), lost);
}
