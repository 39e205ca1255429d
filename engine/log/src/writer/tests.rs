use super::*;
use crate::batch::BatchHeader;
use crate::record::EntryKind;
use base::{Index, RangeId, ShardId, Term};

fn writer(flight: usize) -> Writer {
    let config = LogConfig {
        shard: ShardId(3),
        segment_bytes: 16 << 10,
        batch_bytes_max: 1,
        writes_in_flight_max: flight,
        write_min_bytes_when_busy: 1,
        ..LogConfig::default()
    };
    let (log_id, incarnation, checksum) = (77, 2, 5);
    let start = Start {
        log_id,
        incarnation,
        segment: 4,
        slot: 0,
        bytes: 16 << 10,
        last: Seqno(9),
        checksum,
    };
    Writer::new(config, &start)
}

/// Stages one record, which is a batch of its own.
fn stage(writer: &mut Writer, bytes: usize) -> Seqno {
    let (range, index, term) = (RangeId(1), Index(1), Term(1));
    let payload = vec![1; bytes];
    let record = Record::Entry {
        range,
        index,
        term,
        chain: 0,
        kind: EntryKind::Command,
        payload: &payload,
    };
    let (seqno, _) = writer.stage(
        &record,
        0,
        Note::Entries {
            range,
            first: index,
            last: index,
        },
    );
    writer.submit();
    seqno
}

fn write(writer: &mut Writer) -> Write {
    match writer.pick(1) {
        Pick::Write(write) => write,
        other => panic!("expected a write, got {other:?}"),
    }
}

#[test]
fn only_a_prefix_is_acknowledged() {
    let mut writer = writer(4);
    for n in 10..13 {
        assert_eq!(stage(&mut writer, 100), Seqno(n));
    }
    for n in 10..13 {
        assert_eq!(write(&mut writer).seqno, Seqno(n));
    }
    assert!(!writer.complete(Seqno(12)));
    assert_eq!(writer.persisted(), Seqno(9));
    assert!(writer.complete(Seqno(10)));
    assert_eq!(writer.persisted(), Seqno(10));
    assert!(writer.complete(Seqno(11)));
    assert_eq!(writer.persisted(), Seqno(12));
    assert!(writer.is_idle());
}

#[test]
fn the_window_is_bounded_and_counts_what_is_not_acknowledged() {
    let mut writer = writer(2);
    for _ in 0..3 {
        stage(&mut writer, 100);
    }
    let _ = (write(&mut writer), write(&mut writer));
    assert!(matches!(writer.pick(1), Pick::Idle));
    writer.complete(Seqno(11));
    assert!(
        matches!(writer.pick(1), Pick::Idle),
        "the second is complete, the first holds the window"
    );
    writer.complete(Seqno(10));
    assert_eq!(write(&mut writer).seqno, Seqno(12));
}

#[test]
fn nothing_moves_after_a_failure() {
    let mut writer = writer(4);
    stage(&mut writer, 100);
    stage(&mut writer, 100);
    let _ = (write(&mut writer), write(&mut writer));
    writer.fail();
    assert!(!writer.complete(Seqno(10)));
    assert_eq!(writer.persisted(), Seqno(9));
    stage(&mut writer, 100);
    assert!(matches!(writer.pick(1), Pick::Idle));
}

#[test]
fn a_batch_that_does_not_fit_begins_the_next_segment_in_the_same_write() {
    let mut writer = writer(4);
    stage(&mut writer, 9_000);
    stage(&mut writer, 100);
    let first = write(&mut writer);
    assert_eq!(
        (first.slot, first.offset, first.len, first.rotation),
        (0, 4096, 12_288, None)
    );
    match writer.pick(1) {
        Pick::NeedSegment(bytes) => assert_eq!(bytes, 8192),
        other => panic!("expected to wait for a slot, got {other:?}"),
    }
    writer.offer(Spare {
        slot: 6,
        bytes: 16 << 10,
    });
    let second = write(&mut writer);
    assert_eq!((second.slot, second.offset, second.len), (6, 0, 8192));
    let mut buffer = vec![0xff; 8192];
    second.fill(&mut buffer);
    let header = SegmentHeader::decode(&buffer).expect("the header comes first");
    let (batch, _) = BatchHeader::decode(&buffer[4096..]).expect("the batch follows");
    assert_eq!(
        (header.segment, header.shard, header.persisted),
        (5, ShardId(3), Seqno(9))
    );
    let link = Link {
        segment: 4,
        seqno: Seqno(10),
        checksum: batch.previous,
    };
    assert_eq!(header.predecessor, link);
    assert_eq!(
        (batch.seqno, batch.segment, batch.block, batch.incarnation),
        (Seqno(11), 5, 1, 2)
    );
    assert!(
        buffer[4096 + second.bytes.len()..].iter().all(|&byte| byte == 0),
        "padding is zero"
    );
}

#[test]
fn seals_are_wanted_until_two_state_that_the_last_records_are_durable() {
    let mut writer = writer(4);
    assert!(!writer.wants_seal());
    stage(&mut writer, 100);
    let _ = write(&mut writer);
    writer.complete(Seqno(10));
    assert!(writer.wants_seal());
    for seqno in 11..13 {
        assert!(writer.wants_seal());
        writer.stage_bare(BatchKind::Seal);
        assert_eq!(write(&mut writer).kind, BatchKind::Seal);
        writer.complete(Seqno(seqno));
    }
    assert!(!writer.wants_seal());
}
