//! At least one message of every kind, with every option both ways.
#![allow(dead_code, reason = "each test uses its part")]

use base::RequestId;
use wire::convert::{Stamp, WriteIdV1};
use wire::outbox::encode_one;
use wire::request::Modification;
use wire::{Code, Message, PageBuilder, peer, reply, request};

/// A message's name and its frame.
pub(crate) type Sample = (&'static str, Vec<u8>);

fn frame<M: Message>(name: &'static str, message: &M) -> Sample {
    let bytes = encode_one(RequestId(0x0403_0201), message).expect("samples are short");
    (name, bytes.to_vec())
}

const STAMP: Stamp = Stamp {
    wall_ns: 0x1122_3344_5566_7788,
    logical: 7,
};
const ID: WriteIdV1 = WriteIdV1 {
    client: *b"session-session!",
    seq: 41,
    acked_below: 40,
};

/// Every message.
pub(crate) fn all() -> Vec<Sample> {
    [requests(), replies(), peers()].concat()
}

/// Every message between shards.
pub(crate) fn peers() -> Vec<Sample> {
    let address = peer::NodeAddress {
        ip: *b"an IPv6 address!",
        port: 7400,
    };
    let hello = peer::PeerHello {
        cluster: *b"cluster-cluster!",
        node: 1,
        shard: 2,
        to_node: 3,
        to_shard: 4,
        version_min: 1,
        version_max: 1,
        address,
        birth: 9,
    };
    let promise = peer::Promise {
        epoch: 5,
        until_ns: 6,
    };
    let asks = peer::Liveness {
        session: 1,
        heard: 0,
        clock_ns: 3,
        echo: None,
        ask: Some(promise),
        answer: None,
    };
    let echo = peer::Echo {
        clock_ns: 7,
        came_ns: 8,
    };
    let answers = |answer| peer::Liveness {
        heard: 2,
        echo: Some(echo),
        ask: None,
        answer: Some(answer),
        ..asks
    };
    let mark = peer::Mark { term: 9, index: 10 };
    let entry = |content| peer::Entry {
        term: 11,
        chain: 12,
        content,
    };
    let entries = [
        entry(peer::Content::Empty),
        entry(peer::Content::Command { payload: b"command" }),
        entry(peer::Content::Membership { members: b"members" }),
        entry(peer::Content::Header { checksum: 13 }),
    ];
    let bodies = [
        peer::Body::Vote {
            last: mark,
            pre: true,
            transfer: false,
        },
        peer::Body::VoteReply {
            pre: false,
            granted: true,
        },
        peer::Body::Append {
            prev: mark,
            entries: &entries,
            commit: 14,
        },
        peer::Body::Appended { matched: 15 },
        peer::Body::Refused {
            prev: 16,
            conflict: Some(mark),
            last: 17,
        },
        peer::Body::Refused {
            prev: 16,
            conflict: None,
            last: 17,
        },
        peer::Body::Heartbeat {
            commit: 18,
            round: 19,
        },
        peer::Body::HeartbeatReply {
            round: 20,
            rank: 21,
            support: Some(22),
        },
        peer::Body::HeartbeatReply {
            round: 20,
            rank: 21,
            support: None,
        },
        peer::Body::Read { token: 23 },
        peer::Body::ReadReply { token: 24, index: 25 },
        peer::Body::Snapshot {
            last: mark,
            chain: 26,
            members: b"members",
        },
        peer::Body::Campaign,
        peer::Body::Bound,
        peer::Body::Released,
    ];
    let messages = bodies.map(|body| peer::GroupMessage {
        range: 27,
        from: 28,
        to: 29,
        term: 30,
        body,
    });
    let train = |liveness, messages| peer::Train { liveness, messages };
    let transfer = |step| peer::Transfer {
        range: 31,
        from: 32,
        to: 33,
        last: mark,
        step,
    };
    let offer = peer::TransferStep::Offer {
        term: 34,
        chain: 35,
        members: b"members",
        description: b"description",
    };
    let piece = peer::TransferStep::Piece {
        file: 36,
        offset: 37,
        bytes: b"bytes",
    };
    let want = peer::TransferStep::Want { file: 38, offset: 39 };
    vec![
        frame("PeerHello", &hello),
        frame(
            "Roster",
            &peer::Roster {
                nodes: &[peer::RosterEntry {
                    node: 4,
                    address,
                    birth: 5,
                }],
            },
        ),
        frame(
            "Closed, next",
            &peer::Closed {
                series: STAMP,
                step: peer::ClosedStep::Next {
                    number: 3,
                    ranges: &[
                        peer::ClosedRange { range: 7, index: 41 },
                        peer::ClosedRange { range: 8, index: 0 },
                    ],
                    closed: Some(STAMP),
                },
            },
        ),
        frame(
            "Closed, more follows",
            &peer::Closed {
                series: STAMP,
                step: peer::ClosedStep::Next {
                    number: 0,
                    ranges: &[],
                    closed: None,
                },
            },
        ),
        frame(
            "Closed, again",
            &peer::Closed {
                series: STAMP,
                step: peer::ClosedStep::Again,
            },
        ),
        frame(
            "Newest, ask",
            &peer::Newest {
                asked: STAMP,
                step: peer::NewestStep::Ask {
                    start: b"key",
                    end: Some(b"kez"),
                },
            },
        ),
        frame(
            "Newest, ask to the end",
            &peer::Newest {
                asked: STAMP,
                step: peer::NewestStep::Ask {
                    start: b"",
                    end: None,
                },
            },
        ),
        frame(
            "Newest, share",
            &peer::Newest {
                asked: STAMP,
                step: peer::NewestStep::Share {
                    edges: 0x0123_4567_89ab_cdef,
                    newest: STAMP,
                },
            },
        ),
        frame("Train", &train(None, &messages)),
        frame("Train: asks", &train(Some(asks), &[])),
        frame(
            "Train: grants",
            &train(Some(answers(peer::Answer::Granted(promise))), &[]),
        ),
        frame(
            "Train: refuses",
            &train(Some(answers(peer::Answer::Refused { epoch: 5 })), &[]),
        ),
        frame("Transfer: offer", &transfer(offer)),
        frame("Transfer: want", &transfer(want)),
        frame("Transfer: piece", &transfer(piece)),
        frame(
            "Transfer: done",
            &transfer(peer::TransferStep::Done { installed: true }),
        ),
        frame("Transfer: gone", &transfer(peer::TransferStep::Gone)),
        frame("Transfer: removed", &transfer(peer::TransferStep::Removed)),
        frame("Transfer: damaged", &transfer(peer::TransferStep::Damaged)),
        frame("Transfer: settled", &transfer(peer::TransferStep::Settled)),
        frame("Transfer: yield", &transfer(peer::TransferStep::Yield)),
        frame(
            "Transfer: gather",
            &transfer(peer::TransferStep::Gather { right: 9, merge: 70 }),
        ),
        frame(
            "Transfer: gathered",
            &transfer(peer::TransferStep::Gathered { right: 9, merge: 70 }),
        ),
        frame(
            "Transfer: ask fate",
            &transfer(peer::TransferStep::AskFate { right: 9, merge: 70 }),
        ),
        frame(
            "Transfer: refused",
            &transfer(peer::TransferStep::Refused { merge: 70 }),
        ),
    ]
    .into_iter()
    .chain(placings())
    .collect()
}

/// A policy that has everything, and one that has nothing.
const WISH: peer::PolicyWish<'static> = peer::PolicyWish {
    replicas: 71,
    split_bytes: 72,
    constraints: "+region=eu,-zone=b",
    preferences: "+zone=a;+zone=c",
    group: "together",
};
const NO_WISH: peer::PolicyWish<'static> = peer::PolicyWish {
    replicas: 0,
    split_bytes: 0,
    constraints: "",
    preferences: "",
    group: "",
};

fn policy<'a>(prefix: &'a [u8], wish: Option<peer::PolicyWish<'a>>) -> peer::Policy<'a> {
    let version = 73;
    peer::Policy {
        prefix,
        version,
        wish,
    }
}

/// Every message of placers and of those that answer them.
fn placings() -> Vec<Sample> {
    let placing = |step| peer::Placing { term: 40, step };
    let standings = [peer::Standing {
        node: 41,
        state: 2,
        version: 42,
    }];
    let node = peer::NodeReport {
        locality: "region=eu",
        shards: 4,
        used_bytes: 43,
        free_bytes: Some(44),
        reads: 45,
        writes: 46,
        ailing: 2,
    };
    let replicas = [
        peer::ReplicaReport {
            node: 47,
            votes: true,
            up_to_date: false,
        },
        peer::ReplicaReport {
            node: 48,
            votes: false,
            up_to_date: true,
        },
    ];
    let led = peer::LedReport {
        term: 49,
        generation: 50,
        start: b"start",
        end: Some(b"the end"),
        replicas: &replicas,
        joint: false,
        order: 51,
        bytes: 52,
        reads: 53,
        writes: 54,
        middle: Some(b"middle"),
        hot: Some(peer::HotReport {
            key: b"hot",
            permille: 500,
            alone: true,
        }),
    };
    let bare = peer::LedReport {
        start: b"",
        end: None,
        joint: true,
        middle: None,
        hot: None,
        ..led
    };
    let range = |range, led, pinned| peer::RangeReport { range, pinned, led };
    let ranges = [
        range(55, Some(led), false),
        range(56, Some(bare), true),
        range(57, None, false),
    ];
    let report = |node, ranges| peer::PlacingStep::Report {
        number: 58,
        session: 59,
        after: 60,
        until: 61,
        last: 62,
        node,
        ranges,
        words: 69,
    };
    let order = |todo| {
        placing(peer::PlacingStep::Order {
            number: 63,
            range: 64,
            generation: 65,
            voters: &[1, 2, 3],
            todo,
        })
    };
    let survey = peer::PlacingStep::Survey {
        number: 66,
        session: 67,
        after: 68,
        words: 70,
    };
    let policies = [
        policy(b"eu/", Some(WISH)),
        policy(b"", Some(NO_WISH)),
        policy(b"us/", None),
    ];
    let words = |kept, policies| {
        placing(peer::PlacingStep::Words {
            kept,
            standings: &standings,
            policies,
        })
    };
    let unknown = peer::NodeReport {
        free_bytes: None,
        ..node
    };
    vec![
        frame("Placing: survey", &placing(survey)),
        frame("Placing: report", &placing(report(node, &ranges))),
        frame("Placing: an empty report", &placing(report(unknown, &[]))),
        frame(
            "Placing: replicas",
            &order(peer::Todo::Replicas { nodes: &[1, 2, 4] }),
        ),
        frame("Placing: leader", &order(peer::Todo::Leader { node: 2 })),
        frame("Placing: split", &order(peer::Todo::Split { key: b"middle" })),
        frame("Placing: merge", &order(peer::Todo::Merge { right: 9 })),
        frame("Placing: words", &words(false, &policies)),
        frame("Placing: words, kept", &words(true, &[])),
    ]
}

/// Every request.
pub(crate) fn requests() -> Vec<Sample> {
    let hello = request::Hello {
        client: ID.client,
        shard: Some(3),
        version_min: 1,
        version_max: 1,
        app: "import",
    };
    let scan = request::Scan {
        start: b"a",
        end: Some(b"b"),
        reverse: true,
        at: request::ReadAt::At { ts: STAMP },
        rows_max: Some(9),
        page_rows: 100,
        page_bytes: 4096,
        credit_pages: 4,
        deadline_ms: 5000,
    };
    let open_scan = request::Scan {
        end: None,
        reverse: false,
        at: request::ReadAt::Newest,
        rows_max: None,
        ..scan
    };
    let conditions = [
        request::Condition::Absent { key: b"new" },
        request::Condition::Equals {
            key: b"old",
            value: b"1",
        },
    ];
    let ops = [
        request::Op::Put {
            key: b"k",
            value: b"value",
        },
        request::Op::Delete { key: b"gone" },
        request::Op::DeleteRange {
            start: b"x",
            end: Some(b"y"),
        },
        request::Op::DeleteRange {
            start: b"z",
            end: None,
        },
    ];
    let write = request::Write {
        id: ID,
        conditions: &conditions,
        ops: &ops,
        deadline_ms: 5000,
    };
    let modify_by = |by| request::Modify {
        id: ID,
        key: b"key",
        by,
        deadline_ms: 5000,
    };
    let (delta, min, max) = (-5, 0, i64::MAX);
    let bounded = Modification::Add { delta, min, max };
    let (bytes, len_max) = (&b"more"[..], 256);
    let more = Modification::Append { bytes, len_max };
    vec![
        frame("Hello, for shard 3", &hello),
        frame(
            "Hello, for any shard",
            &request::Hello {
                shard: None,
                app: "",
                ..hello
            },
        ),
        frame(
            "Get, newest",
            &request::Get {
                key: b"key",
                at: request::ReadAt::Newest,
                deadline_ms: 5000,
            },
        ),
        frame(
            "Get, as of a timestamp",
            &request::Get {
                key: b"key",
                at: request::ReadAt::At { ts: STAMP },
                deadline_ms: 5000,
            },
        ),
        frame(
            "Get, as of an age",
            &request::Get {
                key: b"key",
                at: request::ReadAt::Ago { ms: 4500 },
                deadline_ms: 5000,
            },
        ),
        frame(
            "Get, no older than an age",
            &request::Get {
                key: b"key",
                at: request::ReadAt::Within { ms: 4500 },
                deadline_ms: 5000,
            },
        ),
        frame(
            "Put",
            &request::Put {
                id: ID,
                key: b"key",
                value: b"value",
                deadline_ms: 5000,
            },
        ),
        frame("Write, conditional", &write),
        frame(
            "Write, one delete",
            &request::Write {
                conditions: &[],
                ops: &ops[1..2],
                ..write
            },
        ),
        frame("Scan, bounded", &scan),
        frame("Scan, unbounded", &open_scan),
        frame("ScanCredit", &request::ScanCredit { pages: 2 }),
        frame("ScanCancel", &request::ScanCancel { reserved: 0 }),
        frame("RangeMap", &request::RangeMap { deadline_ms: 5000 }),
        frame(
            "Split",
            &request::Split {
                key: b"m",
                deadline_ms: 5000,
            },
        ),
        frame(
            "Move",
            &request::Move {
                range: 7,
                shard: 1,
                deadline_ms: 5000,
            },
        ),
        frame(
            "Place",
            &request::Place {
                range: 7,
                nodes: &[1, 2, 4],
                leader: Some(2),
                deadline_ms: 5000,
            },
        ),
        frame(
            "Merge",
            &request::Merge {
                range: 7,
                right: 9,
                deadline_ms: 5000,
            },
        ),
        frame(
            "Explain",
            &request::Explain {
                range: 7,
                deadline_ms: 5000,
            },
        ),
        frame(
            "Stand",
            &request::Stand {
                node: 4,
                state: 2,
                deadline_ms: 5000,
            },
        ),
        frame(
            "SetPolicy",
            &request::SetPolicy {
                prefix: b"eu/",
                wish: Some(WISH),
                deadline_ms: 5000,
            },
        ),
        frame(
            "SetPolicy: removed",
            &request::SetPolicy {
                prefix: b"",
                wish: None,
                deadline_ms: 5000,
            },
        ),
        frame("Policies", &request::Policies { deadline_ms: 5000 }),
        frame("Modify, a bounded sum", &modify_by(bounded)),
        frame("Modify, the lesser", &modify_by(Modification::Min { value: -7 })),
        frame("Modify, the greater", &modify_by(Modification::Max { value: 7 })),
        frame("Modify, appended bytes", &modify_by(more)),
        frame(
            "Transact",
            &request::Transact {
                batch: b"batch",
                deadline_ms: 5000,
            },
        ),
        frame(
            "Status",
            &request::Status {
                replicas: true,
                deadline_ms: 5000,
            },
        ),
        frame("Echo", &request::Echo { payload: b"ping" }),
        frame(
            "DiskWrite",
            &request::DiskWrite {
                bytes: 4096,
                deadline_ms: 5000,
            },
        ),
    ]
}

/// Every reply.
pub(crate) fn replies() -> Vec<Sample> {
    let limits = reply::Limits {
        key_bytes_max: 16 << 10,
        value_bytes_max: 16 << 20,
        batch_bytes_max: 64 << 20,
        batch_ops_max: 1 << 20,
        frame_bytes_max: 96 << 20,
        requests_max: 4096,
    };
    let hello = reply::HelloReply {
        node: 1,
        cluster: *b"cluster-cluster!",
        shards: 4,
        shard: 3,
        version: 1,
        range_map_version: 12,
        limits,
        server: "corelane 0.1.0",
    };
    let ranges = [
        reply::RangeEntry {
            range: 2,
            start: b"",
            end: Some(b"m"),
            shard: 0,
            generation: 1,
            leader: Some(2),
            nodes: &[1, 2, 4],
        },
        reply::RangeEntry {
            range: 3,
            start: b"m",
            end: None,
            shard: 1,
            generation: 5,
            leader: None,
            nodes: &[],
        },
    ];
    let alone = [reply::RangeEntry {
        range: 2,
        start: b"",
        end: None,
        shard: 0,
        generation: 1,
        leader: None,
        nodes: &[],
    }];
    let nodes = [
        reply::NodeEntry {
            node: 1,
            address: "127.0.0.1:7400",
        },
        reply::NodeEntry {
            node: 2,
            address: "[::1]:7400",
        },
    ];
    let mut page = PageBuilder::new();
    page.push(b"a", b"one", base::Timestamp::new(5, 0));
    page.push(b"bb", b"", base::Timestamp::new(6, 1));
    let at = base::Timestamp::new(9, 0);
    let later = Stamp { logical: 9, ..STAMP };
    let failed = reply::ConditionFailed {
        condition: 1,
        found: Some(b"2"),
        ts: STAMP,
    };
    let (ts, value) = (STAMP, Some(&b"41"[..]));
    let modified = reply::ModifyReply { ts, value };
    let error = reply::ErrorReply {
        retryable: true,
        retry_after_ms: 10,
        range_map_version: 12,
        range: Some(3),
        key: Some(b"key"),
        message: "the queue of shard 1 is full",
        ..reply::ErrorReply::new(Code::Overloaded)
    };
    let elsewhere = reply::ErrorReply {
        retryable: true,
        range: Some(3),
        leader: Some(2),
        message: "range r3 is led by n2 at 127.0.0.1:7402",
        ..reply::ErrorReply::new(Code::NotLeader)
    };
    vec![
        frame("HelloReply", &hello),
        frame(
            "GetReply, a value",
            &reply::GetReply {
                value: Some(b"value"),
                ts: STAMP,
            },
        ),
        frame(
            "GetReply, nothing",
            &reply::GetReply {
                value: None,
                ts: STAMP,
            },
        ),
        frame(
            "StaleReply, a value",
            &reply::StaleReply {
                value: Some(b"value"),
                ts: STAMP,
                read_ts: later,
            },
        ),
        frame(
            "StaleReply, nothing",
            &reply::StaleReply {
                value: None,
                ts: later,
                read_ts: later,
            },
        ),
        frame("WriteReply", &reply::WriteReply { ts: STAMP }),
        frame("ConditionFailed, another value", &failed),
        frame(
            "ConditionFailed, no value",
            &reply::ConditionFailed {
                found: None,
                ..failed
            },
        ),
        frame("ModifyReply", &modified),
        frame(
            "ModifyReply, to a retry",
            &reply::ModifyReply {
                value: None,
                ..modified
            },
        ),
        frame("ScanPage, in the middle", &page.page(at, Some(b"c"), false)),
        frame(
            "ScanPage, empty and last",
            &PageBuilder::new().page(at, None, true),
        ),
        frame(
            "RangeMapReply",
            &reply::RangeMapReply {
                version: 12,
                ranges: &ranges,
                nodes: &nodes,
            },
        ),
        frame(
            "RangeMapReply, of a node that is alone",
            &reply::RangeMapReply {
                version: 1,
                ranges: &alone,
                nodes: &[],
            },
        ),
        frame(
            "SplitReply",
            &reply::SplitReply {
                left: 2,
                right: 3,
                right_shard: 1,
                range_map_version: 13,
            },
        ),
        frame(
            "MergeReply",
            &reply::MergeReply {
                range: 7,
                absorbed: 9,
                range_map_version: 13,
            },
        ),
        frame(
            "PlaceReply",
            &reply::PlaceReply {
                range: 7,
                nodes: &[1, 2, 4],
                leader: 2,
            },
        ),
        frame(
            "ExplainReply",
            &reply::ExplainReply {
                text: "r7: all is well",
            },
        ),
        frame("StandReply", &reply::StandReply { node: 4 }),
        frame(
            "SetPolicyReply",
            &reply::SetPolicyReply {
                doubts: "no node satisfies +region=eu",
                before: Some(WISH),
            },
        ),
        frame(
            "SetPolicyReply: the first one",
            &reply::SetPolicyReply {
                doubts: "",
                before: None,
            },
        ),
        frame(
            "PoliciesReply",
            &reply::PoliciesReply {
                replicas: 3,
                split_bytes: 74,
                policies: &[policy(b"", Some(NO_WISH)), policy(b"eu/", Some(WISH))],
            },
        ),
        frame(
            "TransactReply",
            &reply::TransactReply {
                answer: b"answer",
                now: STAMP,
            },
        ),
        frame(
            "MoveReply",
            &reply::MoveReply {
                range: 3,
                shard: 0,
                range_map_version: 14,
            },
        ),
        frame(
            "StatusReply",
            &reply::StatusReply {
                json: "{\"shards\":4}",
            },
        ),
        frame("EchoReply", &reply::EchoReply { payload: b"ping" }),
        frame("DiskWriteReply", &reply::DiskWriteReply { bytes: 4096 }),
        frame("ErrorReply, with details", &error),
        frame("ErrorReply, led by another node", &elsewhere),
        frame("ErrorReply, bare", &reply::ErrorReply::new(Code::BadFrame)),
    ]
}
