//! corelane's own protocol: frames of crate `wire`, encoded straight into the send buffer and read where they arrived.
//!
//! Each connection is a client session of its own: its writes are numbered, and each tells the server below which number
//! all are answered, so that the server's table of sessions stays as small as it is with the real client.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base::{RequestId, limits};
use wire::convert::WriteIdV1;
use wire::reply::{ArchivedErrorReply, ArchivedHelloReply, ArchivedScanPage};
use wire::{Code, FrameReader, Message, Outbox, ReplyRef, decode_reply, request};

use super::{Answer, DISK_WRITE_BYTES, Driver, DriverError, Op, Sink};
use crate::BenchError;

/// Every request's deadline: longer than any stall that a run should show.
const DEADLINE_MS: u32 = 60_000;
/// How long a step of the preparation may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// One connection of the load.
pub(crate) struct CorelaneDriver {
    reader: FrameReader,
    outbox: Outbox,
    session: Session,
    /// Per slot: the scan's open rows, or the write's number.
    slots: Vec<InFlight>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Nothing,
    Read,
    Write { seq: u64 },
    Scan { wanted: u64, got: u64 },
}

/// Numbers of the writes of one session, and which of them are answered.
#[derive(Debug)]
struct Session {
    client: [u8; 16],
    /// The number of `answered[0]`: every number below it is answered.
    acked_below: u64,
    answered: VecDeque<bool>,
}

impl Session {
    fn new(client: [u8; 16]) -> Self {
        Self {
            client,
            acked_below: 1,
            answered: VecDeque::new(),
        }
    }

    fn next(&mut self) -> WriteIdV1 {
        let seq = self.acked_below + self.answered.len() as u64;
        self.answered.push_back(false);
        WriteIdV1 {
            client: self.client,
            seq,
            acked_below: self.acked_below,
        }
    }

    fn answer(&mut self, seq: u64) {
        let at = usize::try_from(seq - self.acked_below).expect("unanswered writes are few");
        self.answered[at] = true;
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.acked_below += 1;
        }
    }
}

impl Driver for CorelaneDriver {
    fn request(&mut self, slot: u32, op: &Op<'_>) -> Result<(), DriverError> {
        let id = RequestId(slot);
        let state = match *op {
            Op::Echo { payload } => {
                self.outbox.push(id, &request::Echo { payload })?;
                InFlight::Read
            }
            Op::Disk => {
                self.outbox.push(
                    id,
                    &request::DiskWrite {
                        bytes: DISK_WRITE_BYTES,
                        deadline_ms: DEADLINE_MS,
                    },
                )?;
                InFlight::Read
            }
            Op::Get { key } => {
                self.outbox.push(
                    id,
                    &request::Get {
                        key,
                        at: request::ReadAt::Newest,
                        deadline_ms: DEADLINE_MS,
                    },
                )?;
                InFlight::Read
            }
            Op::Put { key, value } => {
                let write = self.session.next();
                self.outbox.push(
                    id,
                    &request::Put {
                        id: write,
                        key,
                        value,
                        deadline_ms: DEADLINE_MS,
                    },
                )?;
                InFlight::Write { seq: write.seq }
            }
            Op::Scan { start, rows } => {
                self.scan(id, start, rows.into())?;
                InFlight::Scan {
                    wanted: rows.into(),
                    got: 0,
                }
            }
        };
        let at = slot as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, InFlight::Nothing);
        }
        self.slots[at] = state;
        Ok(())
    }

    fn outgoing(&self) -> &[u8] {
        self.outbox.bytes()
    }

    fn sent(&mut self, bytes: usize) {
        self.outbox.consume(bytes);
    }

    fn spare(&mut self) -> &mut [u8] {
        self.reader.spare()
    }

    fn filled(&mut self, bytes: usize, sink: &mut Sink<'_>) -> Result<(), DriverError> {
        self.reader.filled(bytes);
        // The rest of a scan is asked for after the frame that ended its range is let go.
        let mut rest: Option<(RequestId, Vec<u8>, u64)>;
        loop {
            rest = None;
            let Some(frame) = self.reader.next()? else {
                return Ok(());
            };
            let slot = frame.request.0;
            let state = self
                .slots
                .get_mut(slot as usize)
                .ok_or(DriverError::NotAsked { slot })?;
            if *state == InFlight::Nothing {
                return Err(DriverError::NotAsked { slot });
            }
            let answer = match decode_reply(&frame)? {
                ReplyRef::ScanPage(page) => match scan_page(state, page) {
                    Page::More => {
                        self.outbox
                            .push(frame.request, &request::ScanCredit { pages: 1 })?;
                        None
                    }
                    Page::Elsewhere(from, rows) => {
                        rest = Some((frame.request, from, rows));
                        None
                    }
                    Page::Done(rows) => Some(Answer::Rows(rows)),
                },
                ReplyRef::GetReply(reply) => Some(reply.value().map_or(Answer::Missing, Answer::Value)),
                ReplyRef::StaleReply(reply) => Some(reply.value().map_or(Answer::Missing, Answer::Value)),
                ReplyRef::EchoReply(reply) => Some(Answer::Value(&reply.payload)),
                ReplyRef::WriteReply(_) | ReplyRef::ModifyReply(_) | ReplyRef::DiskWriteReply(_) => {
                    Some(Answer::Done)
                }
                ReplyRef::ErrorReply(reply) => Some(refused(reply)),
                ReplyRef::TransactReply(_) => Some(Answer::Failed(IN_THE_WAY)),
                ReplyRef::HelloReply(_)
                | ReplyRef::ConditionFailed(_)
                | ReplyRef::RangeMapReply(_)
                | ReplyRef::SplitReply(_)
                | ReplyRef::MoveReply(_)
                | ReplyRef::MergeReply(_)
                | ReplyRef::PlaceReply(_)
                | ReplyRef::ExplainReply(_)
                | ReplyRef::StandReply(_)
                | ReplyRef::SetPolicyReply(_)
                | ReplyRef::PoliciesReply(_)
                | ReplyRef::StatusReply(_) => {
                    return Err(DriverError::Unexpected {
                        kind: frame.kind.name(),
                        slot,
                    });
                }
            };
            if let Some(answer) = answer {
                if let InFlight::Write { seq } = *state {
                    self.session.answer(seq);
                }
                *state = InFlight::Nothing;
                sink(slot, answer);
            }
            if let Some((id, from, rows)) = rest {
                self.scan(id, &from, rows)?;
            }
        }
    }
}

/// What a request is told that meets what a transaction has left: clearing it away is the client library's business.
const IN_THE_WAY: &str = "a transaction that has not ended is in the way; `corelane scan` clears away what a killed client has left";

/// A refusal: of this request for good, or here and now. A write of which a leader that has stepped down cannot say whether it was
/// done is done again.
fn refused<'a>(reply: &'a ArchivedErrorReply<'static>) -> Answer<'a> {
    let code = reply.code.to_native();
    let elsewhere = [
        Code::NotLeader,
        Code::WrongShard,
        Code::Unavailable,
        Code::Ambiguous,
    ];
    if elsewhere.into_iter().any(|known| known.number() == code) {
        Answer::Elsewhere(&reply.message)
    } else {
        Answer::Failed(&reply.message)
    }
}

/// What a page of a scan leads to.
enum Page {
    /// Another page of the same stream.
    More,
    /// The range ended: the rest begins at this key, and this many rows are missing.
    Elsewhere(Vec<u8>, u64),
    /// All rows, or all there are.
    Done(u64),
}

fn scan_page(state: &mut InFlight, page: &ArchivedScanPage<'static>) -> Page {
    let InFlight::Scan { wanted, got } = state else {
        return Page::Done(0);
    };
    *got += page.rows.len() as u64;
    if *got >= *wanted {
        return Page::Done(*got);
    }
    if !page.done {
        return Page::More;
    }
    match page.resume() {
        Some(from) => Page::Elsewhere(from.to_vec(), *wanted - *got),
        None => Page::Done(*got),
    }
}

impl CorelaneDriver {
    fn scan(&mut self, id: RequestId, start: &[u8], rows: u64) -> Result<(), DriverError> {
        let page_rows = u32::try_from(rows.clamp(1, limits::SCAN_ROWS_MAX as u64)).expect("a small limit");
        self.outbox.push(
            id,
            &request::Scan {
                start,
                end: None,
                reverse: false,
                at: request::ReadAt::Newest,
                rows_max: Some(rows),
                page_rows,
                page_bytes: u32::try_from(limits::SCAN_BYTES_MAX).expect("a small limit"),
                credit_pages: 1,
                deadline_ms: DEADLINE_MS,
            },
        )?;
        Ok(())
    }
}

/// A blocking connection: hello, then preparation steps, then it may become a [`CorelaneDriver`].
pub(crate) struct Admin {
    socket: TcpStream,
    address: SocketAddr,
    client: [u8; 16],
    reader: FrameReader,
    outbox: Outbox,
    /// Shards of the node, from the hello.
    pub(crate) shards: u16,
    /// The shard that serves this connection.
    pub(crate) shard: u16,
}

/// One range of a node's map.
pub(crate) struct RangeFacts {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) range: u64,
    /// The shard of the node that was asked.
    pub(crate) shard: u16,
    /// The node that leads it; none in a node that is alone, or when nobody is known to.
    pub(crate) leader: Option<u64>,
}

/// A node's range map, and the nodes of its cluster with their addresses; none in a node that is alone.
pub(crate) struct Map {
    pub(crate) ranges: Vec<RangeFacts>,
    pub(crate) nodes: Vec<(u64, SocketAddr)>,
}

impl Admin {
    /// Connects and says hello as session `client`, asking for `shard`.
    pub(crate) fn connect(
        socket: TcpStream,
        address: SocketAddr,
        client: u128,
        shard: Option<u16>,
    ) -> Result<Self, BenchError> {
        socket
            .set_read_timeout(Some(STEP_TIMEOUT))
            .map_err(|source| BenchError::Local {
                operation: "set a socket's time-out",
                source,
            })?;
        let mut admin = Self {
            socket,
            address,
            client: client.to_le_bytes(),
            reader: FrameReader::new(limits::FRAME_BYTES_MAX),
            outbox: Outbox::new(),
            shards: 0,
            shard: 0,
        };
        let version = u16::from(wire::frame::VERSION);
        let hello = request::Hello {
            client: admin.client,
            shard,
            version_min: version,
            version_max: version,
            app: "corelane bench",
        };
        let seen = |reply: &ArchivedHelloReply<'static>| (reply.shards.to_native(), reply.shard.to_native());
        (admin.shards, admin.shard) = admin.call("say hello", &hello, |reply| match reply {
            ReplyRef::HelloReply(hello) => Some(seen(hello)),
            _ => None,
        })?;
        Ok(admin)
    }

    /// Splits the key space at `keys` and spreads the parts over the shards, neighbours together.
    pub(crate) fn spread(&mut self, keys: &[Vec<u8>]) -> Result<(), BenchError> {
        for key in keys {
            self.split(key)?;
        }
        let parts = keys.len() + 1;
        let ranges = self.map()?.ranges;
        for RangeFacts {
            start, range, shard, ..
        } in ranges
        {
            // The part that the range starts in: ranges of others lie before the first key and stay.
            let Some(part) = keys.iter().position(|key| *key == start).map(|at| at + 1) else {
                continue;
            };
            let wanted =
                u16::try_from(part * usize::from(self.shards) / parts).expect("below the number of shards");
            if wanted != shard {
                let order = request::Move {
                    range,
                    shard: wanted,
                    deadline_ms: DEADLINE_MS,
                };
                self.call("move a range", &order, |reply| {
                    matches!(reply, ReplyRef::MoveReply(_)).then_some(())
                })?;
            }
        }
        Ok(())
    }

    /// Splits a range so that `key` starts one.
    pub(crate) fn split(&mut self, key: &[u8]) -> Result<(), BenchError> {
        let order = request::Split {
            key,
            deadline_ms: DEADLINE_MS,
        };
        self.call("split a range", &order, |reply| {
            matches!(reply, ReplyRef::SplitReply(_)).then_some(())
        })
    }

    /// Where the node was reached.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The range map, by start key.
    pub(crate) fn map(&mut self) -> Result<Map, BenchError> {
        let ask = request::RangeMap {
            deadline_ms: DEADLINE_MS,
        };
        self.call("give the range map", &ask, |reply| {
            let ReplyRef::RangeMapReply(map) = reply else {
                return None;
            };
            let ranges = map.ranges.iter().map(|entry| RangeFacts {
                start: entry.start.to_vec(),
                end: entry.end().map(Vec::from),
                range: entry.range.to_native(),
                shard: entry.shard.to_native(),
                leader: entry.leader.as_ref().map(|node| node.to_native()),
            });
            let nodes = map.nodes.iter();
            let nodes = nodes.map(|entry| Some((entry.node.to_native(), entry.address.parse().ok()?)));
            Some(Map {
                ranges: ranges.collect(),
                nodes: nodes.collect::<Option<_>>()?,
            })
        })
    }

    /// The node's status, as JSON.
    pub(crate) fn status(&mut self) -> Result<String, BenchError> {
        let ask = request::Status {
            replicas: false,
            deadline_ms: DEADLINE_MS,
        };
        self.call("tell its status", &ask, |reply| match reply {
            ReplyRef::StatusReply(status) => Some(status.json.to_string()),
            _ => None,
        })
    }

    /// The socket and the protocol on it, for the load.
    pub(crate) fn into_driver(self) -> (TcpStream, CorelaneDriver) {
        let Self {
            socket,
            client,
            reader,
            outbox,
            ..
        } = self;
        (
            socket,
            CorelaneDriver {
                reader,
                outbox,
                session: Session::new(client),
                slots: Vec::new(),
            },
        )
    }

    /// Sends `message` and waits for its answer, which `read` must recognise.
    fn call<M: Message, T>(
        &mut self,
        step: &'static str,
        message: &M,
        read: impl FnOnce(&ReplyRef<'_>) -> Option<T>,
    ) -> Result<T, BenchError> {
        let address = self.address;
        let connect = |source| BenchError::Connect { address, source };
        let refused = |message: String| BenchError::Refused {
            address,
            step,
            message,
        };
        self.outbox
            .push(RequestId(0), message)
            .map_err(|error| refused(error.to_string()))?;
        self.socket.write_all(self.outbox.bytes()).map_err(connect)?;
        self.outbox.clear();
        while self
            .reader
            .peek()
            .map_err(|error| refused(error.to_string()))?
            .is_none()
        {
            let received = self.socket.read(self.reader.spare()).map_err(connect)?;
            if received == 0 {
                return Err(connect(std::io::ErrorKind::UnexpectedEof.into()));
            }
            self.reader.filled(received);
        }
        let frame = self.reader.next().map_err(|error| refused(error.to_string()))?;
        let frame = frame.expect("a whole frame was seen just now");
        let reply = decode_reply(&frame).map_err(|error| refused(error.to_string()))?;
        if let ReplyRef::ErrorReply(error) = reply {
            return Err(refused(format!(
                "C{} {}",
                error.code.to_native(),
                &*error.message
            )));
        }
        read(&reply).ok_or_else(|| refused(format!("an unexpected answer, {}", frame.kind.name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::convert::Stamp;
    use wire::reply;

    const TS: Stamp = Stamp {
        wall_ns: 1,
        logical: 0,
    };

    fn driver() -> CorelaneDriver {
        CorelaneDriver {
            reader: FrameReader::new(limits::FRAME_BYTES_MAX),
            outbox: Outbox::new(),
            session: Session::new([7; 16]),
            slots: Vec::new(),
        }
    }

    fn feed(driver: &mut CorelaneDriver, bytes: &[u8]) -> Result<Vec<String>, DriverError> {
        let mut seen = Vec::new();
        for byte in bytes {
            driver.spare()[0] = *byte;
            driver.filled(1, &mut |slot, answer| seen.push(format!("{slot} {answer:?}")))?;
        }
        Ok(seen)
    }

    #[test]
    fn answers_find_their_slots_in_any_order() {
        let mut driver = driver();
        driver.request(0, &Op::Get { key: b"a" }).unwrap();
        driver
            .request(
                1,
                &Op::Put {
                    key: b"a",
                    value: b"1",
                },
            )
            .unwrap();
        driver.request(2, &Op::Get { key: b"b" }).unwrap();
        let mut replies = Outbox::new();
        replies.push(RequestId(1), &reply::WriteReply { ts: TS }).unwrap();
        replies
            .push(RequestId(2), &reply::GetReply { value: None, ts: TS })
            .unwrap();
        replies
            .push(
                RequestId(0),
                &reply::GetReply {
                    value: Some(b"x"),
                    ts: TS,
                },
            )
            .unwrap();
        let seen = feed(&mut driver, replies.bytes()).unwrap();
        assert_eq!(seen, ["1 Done", "2 Missing", "0 Value([120])"]);
        // The same answers again belong to nothing.
        assert_eq!(
            feed(&mut driver, replies.bytes()),
            Err(DriverError::NotAsked { slot: 1 })
        );
    }

    #[test]
    fn a_session_tells_below_which_number_all_is_answered() {
        let mut session = Session::new([0; 16]);
        let ids: Vec<u64> = (0..4).map(|_| session.next().seq).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        session.answer(3);
        assert_eq!(session.next().acked_below, 1);
        session.answer(1);
        session.answer(2);
        let id = session.next();
        assert_eq!((id.seq, id.acked_below), (6, 4));
    }

    #[test]
    fn a_scan_goes_on_in_the_next_range() {
        let mut driver = driver();
        driver.request(3, &Op::Scan { start: b"a", rows: 3 }).unwrap();
        let asked = driver.outgoing().len();
        let mut builder = wire::PageBuilder::new();
        builder.push(b"a", b"1", base::Timestamp::new(1, 0));
        builder.push(b"b", b"2", base::Timestamp::new(1, 0));
        let mut replies = Outbox::new();
        replies
            .push(
                RequestId(3),
                &builder.page(base::Timestamp::new(2, 0), Some(b"c"), true),
            )
            .unwrap();
        assert!(feed(&mut driver, replies.bytes()).unwrap().is_empty());
        assert!(driver.outgoing().len() > asked, "the rest was not asked for");
        replies.clear();
        builder.clear();
        builder.push(b"c", b"3", base::Timestamp::new(1, 0));
        replies
            .push(
                RequestId(3),
                &builder.page(base::Timestamp::new(2, 0), None, true),
            )
            .unwrap();
        assert_eq!(feed(&mut driver, replies.bytes()).unwrap(), ["3 Rows(3)"]);
    }
}
