//! What must hold for any bytes at all. Used by the tests beside this folder and, by path, by the fuzz targets.
#![allow(dead_code, reason = "each user takes its part")]

use base::RequestId;
use wire::frame::{HEADER_BYTES, Kind, frame_bytes};
use wire::peer::{
    ArchivedBody, ArchivedClosedRange, ArchivedClosedStep, ArchivedContent, ArchivedPlacingStep,
    ArchivedPolicy, ArchivedPolicyWish, ArchivedTodo, ArchivedTransferStep,
};
use wire::{
    Frame, FrameError, FrameReader, PeerRef, ReplyRef, RequestRef, decode_peer, decode_reply, decode_request,
};

/// The longest payload that the reader under test accepts.
const PAYLOAD_MAX: usize = 4096;

/// What a stream gave: its frames, and how it ended.
#[derive(Debug, PartialEq, Eq, Default)]
struct Outcome {
    frames: Vec<(Kind, RequestId, Vec<u8>)>,
    error: Option<FrameError>,
    unread: usize,
}

/// The first 16 bytes choose how the rest is cut into receives, and whether its checksums are repaired first. However it is cut, the same frames come out, each inside its
/// limits, and memory stays in proportion to what has arrived.
pub(crate) fn frames(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(16));
    let mut stream = stream.to_vec();
    if cuts.first().is_some_and(|first| first % 2 == 1) {
        repair(&mut stream);
    }
    let whole = read(&stream, &[]);
    let cut = read(&stream, cuts);
    assert_eq!(whole, cut, "the cuts {cuts:?} changed what a stream means");
}

fn read(stream: &[u8], cuts: &[u8]) -> Outcome {
    let mut reader = FrameReader::new(PAYLOAD_MAX);
    let mut outcome = Outcome::default();
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    loop {
        loop {
            match reader.next() {
                Ok(Some(frame)) => {
                    assert!(
                        frame.payload.len() <= PAYLOAD_MAX,
                        "{} bytes",
                        frame.payload.len()
                    );
                    assert_eq!(
                        frame.payload.as_ptr().align_offset(16),
                        0,
                        "payloads are read in place"
                    );
                    let _ = (decode_request(&frame), decode_reply(&frame), decode_peer(&frame));
                    outcome
                        .frames
                        .push((frame.kind, frame.request, frame.payload.to_vec()));
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.next(), Err(error), "an error stays");
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        if rest.is_empty() {
            outcome.unread = reader.unread().len();
            assert!(
                outcome.unread < frame_bytes(PAYLOAD_MAX),
                "{} bytes are no frame",
                outcome.unread
            );
            return outcome;
        }
        let want = cuts.next().map_or(usize::MAX, |cut| usize::from(*cut) + 1);
        let spare = reader.spare();
        assert!(!spare.is_empty(), "there is always room to receive");
        let bytes = want.min(spare.len()).min(rest.len());
        spare[..bytes].copy_from_slice(&rest[..bytes]);
        reader.filled(bytes);
        rest = &rest[bytes..];
        let max = (32 << 10) + 2 * frame_bytes(PAYLOAD_MAX);
        assert!(
            reader.memory_bytes() <= max,
            "{} bytes held",
            reader.memory_bytes()
        );
    }
}

/// Runs `f` on a frame whose kind is the first byte of `data` and whose payload, aligned as in a receive buffer, is the rest.
fn with_frame(data: &[u8], f: impl FnOnce(&Frame<'_>)) {
    let Some((&kind, payload)) = data.split_first() else {
        return;
    };
    let Some(kind) = Kind::from_byte(kind) else { return };
    let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(payload.len());
    aligned.extend_from_slice(payload);
    f(&Frame {
        kind,
        request: RequestId(1),
        payload: &aligned,
    });
}

/// Makes the checksums of a stream right, so that mutated streams get past them.
fn repair(stream: &mut [u8]) {
    let mut rest = stream;
    while rest.len() >= HEADER_BYTES {
        let (head, tail) = rest.split_at_mut(HEADER_BYTES);
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let total = frame_bytes(length) - HEADER_BYTES;
        if tail.len() < total {
            return;
        }
        let (body, next) = tail.split_at_mut(total);
        let crc = base::checksum::extend(base::checksum::crc32c(&head[..12]), &body[..length]);
        head[12..].copy_from_slice(&crc.to_le_bytes());
        body[length..].fill(0);
        rest = next;
    }
}

/// Any payload is a request or an error; whatever is a request can be read throughout.
pub(crate) fn requests(data: &[u8]) {
    with_frame(data, |frame| {
        if let Ok(request) = decode_request(frame) {
            assert!(!frame.kind.is_reply() && !frame.kind.is_peer());
            assert!(
                touch_request(&request) <= frame.payload.len() * 2 + 64,
                "bytes were counted twice"
            );
        }
    });
}

/// Any payload is a reply or an error; whatever is a reply can be read throughout.
pub(crate) fn replies(data: &[u8]) {
    with_frame(data, |frame| {
        if let Ok(reply) = decode_reply(frame) {
            assert!(frame.kind.is_reply());
            assert!(
                touch_reply(&reply) <= frame.payload.len() * 2 + 64,
                "bytes were counted twice"
            );
        }
    });
}

/// Any payload is a message between shards or an error; whatever is one can be read throughout.
pub(crate) fn peers(data: &[u8]) {
    with_frame(data, |frame| {
        if let Ok(message) = decode_peer(frame) {
            assert!(frame.kind.is_peer());
            assert!(
                touch_peer(&message) <= frame.payload.len() * 2 + 64,
                "bytes were counted twice"
            );
        }
    });
}

/// Any payload of the kind that its first byte says.
pub(crate) fn any(data: &[u8]) {
    requests(data);
    replies(data);
    peers(data);
}

fn sum(bytes: &[u8]) -> usize {
    let all: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    std::hint::black_box(all);
    bytes.len()
}

fn sum_of(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(0, sum)
}

/// Reads every byte that a request points to and says how many.
fn touch_request(request: &RequestRef<'_>) -> usize {
    use base::api::{Condition, WriteOp};
    match request {
        RequestRef::Hello(hello) => {
            std::hint::black_box((hello.client_id(), hello.shard_id()));
            sum(hello.app.as_bytes())
        }
        RequestRef::Get(get) => {
            std::hint::black_box(get.at());
            sum(&get.key)
        }
        RequestRef::Put(put) => sum(&put.key) + sum(&put.value),
        RequestRef::Write(write) => {
            let conditions = write.conditions().map(|condition| match condition {
                Condition::Absent { key } => sum(key),
                Condition::Equals { key, value } => sum(key) + sum(value),
            });
            let ops = write.ops().map(|op| match op {
                WriteOp::Put { key, value } => sum(key) + sum(value),
                WriteOp::Delete { key } => sum(key),
                WriteOp::DeleteRange { start, end } => sum(start) + sum_of(end),
            });
            conditions.sum::<usize>() + ops.sum::<usize>()
        }
        RequestRef::Modify(modify) => {
            let by = base::Modification::from(&modify.by);
            let bytes = match by {
                base::Modification::Append { bytes, .. } => bytes,
                _ => &[],
            };
            sum(&modify.key) + sum(bytes)
        }
        RequestRef::Scan(scan) => {
            std::hint::black_box((scan.at(), scan.rows_max(), scan.reverse));
            sum(&scan.start) + sum_of(scan.end())
        }
        RequestRef::Split(split) => sum(&split.key),
        RequestRef::SetPolicy(set) => sum(&set.prefix) + set.wish.as_ref().map_or(0, touch_wish),
        RequestRef::Echo(echo) => sum(&echo.payload),
        RequestRef::Place(place) => {
            std::hint::black_box(place.leader());
            place
                .nodes
                .iter()
                .map(|node| sum(&node.to_native().to_le_bytes()))
                .sum()
        }
        RequestRef::Transact(transact) => sum(&transact.batch),
        RequestRef::ScanCredit(_)
        | RequestRef::ScanCancel(_)
        | RequestRef::RangeMap(_)
        | RequestRef::Move(_)
        | RequestRef::Explain(_)
        | RequestRef::Merge(_)
        | RequestRef::Stand(_)
        | RequestRef::Policies(_)
        | RequestRef::Status(_)
        | RequestRef::DiskWrite(_) => 0,
    }
}

/// Reads every byte that a message between shards points to and says how many.
fn touch_peer(message: &PeerRef<'_>) -> usize {
    let train = match message {
        PeerRef::PeerHello(_) => return 0,
        PeerRef::Roster(roster) => {
            return roster.nodes.iter().map(|entry| sum(&entry.address.ip)).sum();
        }
        PeerRef::Train(train) => train,
        PeerRef::Placing(placing) => return touch_placing(&placing.step),
        PeerRef::Closed(closed) => {
            return match &closed.step {
                ArchivedClosedStep::Next { ranges, closed, .. } => {
                    std::hint::black_box(closed);
                    let bytes = |range: &ArchivedClosedRange| {
                        sum(&range.range.to_native().to_le_bytes())
                            + sum(&range.index.to_native().to_le_bytes())
                    };
                    ranges.iter().map(bytes).sum()
                }
                ArchivedClosedStep::Again => 0,
            };
        }
        PeerRef::Newest(newest) => {
            std::hint::black_box(&newest.asked);
            let (start, end) = newest.step.span().unwrap_or_default();
            return sum(start) + end.map_or(0, sum);
        }
        PeerRef::Transfer(transfer) => {
            return match &transfer.step {
                ArchivedTransferStep::Offer {
                    members, description, ..
                } => sum(members) + sum(description),
                ArchivedTransferStep::Piece { bytes, .. } => sum(bytes),
                ArchivedTransferStep::Want { .. }
                | ArchivedTransferStep::Done { .. }
                | ArchivedTransferStep::Gone
                | ArchivedTransferStep::Removed
                | ArchivedTransferStep::Damaged
                | ArchivedTransferStep::Settled
                | ArchivedTransferStep::Yield
                | ArchivedTransferStep::Gather { .. }
                | ArchivedTransferStep::Gathered { .. }
                | ArchivedTransferStep::AskFate { .. }
                | ArchivedTransferStep::Refused { .. } => 0,
            };
        }
    };
    std::hint::black_box(&train.liveness);
    let touch = |body: &ArchivedBody<'static>| match body {
        ArchivedBody::Append { entries, .. } => entries
            .iter()
            .map(|entry| match &entry.content {
                ArchivedContent::Command { payload } => sum(payload),
                ArchivedContent::Membership { members } => sum(members),
                ArchivedContent::Empty | ArchivedContent::Header { .. } => 0,
            })
            .sum(),
        ArchivedBody::Snapshot { members, .. } => sum(members),
        other => {
            std::hint::black_box(other);
            0
        }
    };
    train.messages.iter().map(|message| touch(&message.body)).sum()
}

fn touch_placing(step: &ArchivedPlacingStep<'static>) -> usize {
    match step {
        ArchivedPlacingStep::Survey { .. } => 0,
        ArchivedPlacingStep::Words {
            standings, policies, ..
        } => {
            let states = standings.iter().map(|standing| sum(&[standing.state]));
            states.sum::<usize>() + policies.iter().map(touch_policy).sum::<usize>()
        }
        ArchivedPlacingStep::Report { node, ranges, .. } => {
            let led = ranges.iter().filter_map(|range| range.led.as_ref());
            let touched = led.map(|led| {
                let replicas = led.replicas.iter().map(|replica| sum(&[replica.votes.into()]));
                let hot = led.hot.as_ref().map_or(0, |hot| sum(&hot.key));
                let keys = [led.end.as_deref(), led.middle.as_deref()];
                sum(&led.start) + keys.into_iter().map(sum_of).sum::<usize>() + hot + replicas.sum::<usize>()
            });
            sum(node.locality.as_bytes()) + touched.sum::<usize>()
        }
        ArchivedPlacingStep::Order { voters, todo, .. } => {
            let todo = match todo {
                ArchivedTodo::Replicas { nodes } => nodes.len() * 8,
                ArchivedTodo::Leader { .. } => 0,
                ArchivedTodo::Split { key } => sum(key),
                ArchivedTodo::Merge { .. } => 0,
            };
            voters.len() * 8 + todo
        }
    }
}

fn touch_wish(wish: &ArchivedPolicyWish<'static>) -> usize {
    let texts = [&wish.constraints, &wish.preferences, &wish.group];
    texts.into_iter().map(|text| sum(text.as_bytes())).sum()
}

fn touch_policy(policy: &ArchivedPolicy<'static>) -> usize {
    sum(&policy.prefix) + policy.wish.as_ref().map_or(0, touch_wish)
}

/// Reads every byte that a reply points to and says how many.
fn touch_reply(reply: &ReplyRef<'_>) -> usize {
    match reply {
        ReplyRef::HelloReply(hello) => sum(hello.server.as_bytes()),
        ReplyRef::GetReply(get) => sum_of(get.value()),
        ReplyRef::StaleReply(get) => {
            std::hint::black_box(get.read_ts.timestamp());
            sum_of(get.value())
        }
        ReplyRef::ConditionFailed(failed) => sum_of(failed.found()),
        ReplyRef::ModifyReply(reply) => sum_of(reply.value()),
        ReplyRef::ScanPage(page) => {
            let rows: usize = page.iter().map(|row| sum(row.key) + sum(row.value)).sum();
            assert_eq!(page.iter().count(), page.rows.len(), "every row can be read");
            assert_eq!(rows, page.data.len(), "rows cover the data");
            rows + sum_of(page.resume())
        }
        ReplyRef::RangeMapReply(map) => {
            let ranges = map.ranges.iter().map(|range| {
                std::hint::black_box((range.leader(), range.nodes().count()));
                sum(&range.start) + sum_of(range.end())
            });
            let nodes = map.nodes.iter().map(|node| sum(node.address.as_bytes()));
            ranges.sum::<usize>() + nodes.sum::<usize>()
        }
        ReplyRef::StatusReply(status) => sum(status.json.as_bytes()),
        ReplyRef::ExplainReply(explained) => sum(explained.text.as_bytes()),
        ReplyRef::SetPolicyReply(set) => {
            sum(set.doubts.as_bytes()) + set.before.as_ref().map_or(0, touch_wish)
        }
        ReplyRef::PoliciesReply(reply) => reply.policies.iter().map(touch_policy).sum(),
        ReplyRef::TransactReply(reply) => sum(&reply.answer),
        ReplyRef::EchoReply(echo) => sum(&echo.payload),
        ReplyRef::PlaceReply(place) => place
            .nodes
            .iter()
            .map(|node| sum(&node.to_native().to_le_bytes()))
            .sum(),
        ReplyRef::ErrorReply(error) => {
            std::hint::black_box((error.range(), error.leader()));
            sum(error.message.as_bytes()) + sum_of(error.key())
        }
        ReplyRef::WriteReply(_)
        | ReplyRef::SplitReply(_)
        | ReplyRef::MoveReply(_)
        | ReplyRef::MergeReply(_)
        | ReplyRef::StandReply(_)
        | ReplyRef::DiskWriteReply(_) => 0,
    }
}
