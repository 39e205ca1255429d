//! etcd 3: `Put` and `Range` of `etcdserverpb.KV`, unary gRPC calls over one HTTP/2 connection.
//!
//! Reads are linearizable, as etcd's default is; on a single member that costs no round trip.

use super::buffer::{Incoming, Outgoing};
use super::http2::Http2;
use super::protobuf::{self, Field, Fields};
use super::{Answer, Driver, DriverError, Op, Sink};

const PATHS: [&str; 2] = ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"];
const PUT: usize = 0;
const RANGE: usize = 1;
/// A gRPC message is preceded by a compression flag and its length.
const MESSAGE_HEAD_BYTES: usize = 5;

/// One connection to etcd.
#[derive(Debug)]
pub(crate) struct EtcdDriver {
    incoming: Incoming,
    outgoing: Outgoing,
    http2: Http2,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Put,
    Get,
    Scan,
}

impl EtcdDriver {
    pub(crate) fn new(authority: &str) -> Self {
        let mut outgoing = Outgoing::default();
        let http2 = Http2::open(&PATHS, authority, &mut outgoing.bytes);
        Self {
            incoming: Incoming::default(),
            outgoing,
            http2,
            asked: Vec::new(),
        }
    }
}

impl Driver for EtcdDriver {
    fn request(&mut self, slot: u32, op: &Op<'_>) -> Result<(), DriverError> {
        let mut body = self.http2.body();
        body.extend_from_slice(&[0; MESSAGE_HEAD_BYTES]);
        let (path, asked) = match *op {
            Op::Put { key, value } => {
                protobuf::put_bytes(&mut body, 1, key);
                protobuf::put_bytes(&mut body, 2, value);
                (PUT, Asked::Put)
            }
            Op::Get { key } => {
                protobuf::put_bytes(&mut body, 1, key);
                (RANGE, Asked::Get)
            }
            Op::Scan { start, rows } => {
                protobuf::put_bytes(&mut body, 1, start);
                // A range end of one zero byte means "to the last key".
                protobuf::put_bytes(&mut body, 2, b"\0");
                protobuf::put_number(&mut body, 3, rows.into());
                (RANGE, Asked::Scan)
            }
            Op::Echo { .. } => return Err(DriverError::Unexpected { kind: "echo", slot }),
            Op::Disk => {
                return Err(DriverError::Unexpected {
                    kind: "disk write",
                    slot,
                });
            }
        };
        let length = u32::try_from(body.len() - MESSAGE_HEAD_BYTES).expect("keys and values are short");
        body[1..MESSAGE_HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        let at = slot as usize;
        if self.asked.len() <= at {
            self.asked.resize(at + 1, Asked::Put);
        }
        self.asked[at] = asked;
        self.http2.call(slot, path, body, &mut self.outgoing.bytes)?;
        Ok(())
    }

    fn outgoing(&self) -> &[u8] {
        self.outgoing.unsent()
    }

    fn sent(&mut self, bytes: usize) {
        self.outgoing.sent(bytes);
    }

    fn spare(&mut self) -> &mut [u8] {
        self.incoming.spare()
    }

    fn filled(&mut self, bytes: usize, sink: &mut Sink<'_>) -> Result<(), DriverError> {
        self.incoming.filled(bytes)?;
        let mut wrong = None;
        let asked = &self.asked;
        let mut respond = |slot: u32, body: Option<&[u8]>| match message(body) {
            None => sink(
                slot,
                Answer::Failed("etcd refused the call (the reason is in its gRPC trailers)"),
            ),
            Some(message) => match answer(asked[slot as usize], message) {
                Ok(answer) => sink(slot, answer),
                Err(error) => wrong = Some(error),
            },
        };
        let used = self
            .http2
            .receive(self.incoming.unread(), &mut self.outgoing.bytes, &mut respond)?;
        if let Some(error) = wrong {
            return Err(error.into());
        }
        self.incoming.consume(used);
        Ok(())
    }
}

/// The one message of a successful unary call.
fn message(body: Option<&[u8]>) -> Option<&[u8]> {
    let (head, message) = body?.split_first_chunk::<MESSAGE_HEAD_BYTES>()?;
    let [compressed, l0, l1, l2, l3] = *head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    (compressed == 0 && message.len() == length).then_some(message)
}

/// `RangeResponse`: key-values are field 2; a key-value's value is field 5.
fn answer(asked: Asked, message: &[u8]) -> Result<Answer<'_>, protobuf::ProtobufError> {
    let mut fields = Fields::new(message);
    let mut rows = 0;
    let mut value: Option<&[u8]> = None;
    while let Some((number, field)) = fields.next()? {
        if let (2, Field::Bytes(pair)) = (number, field) {
            rows += 1;
            if asked == Asked::Get {
                value = Some(&[]);
                let mut fields = Fields::new(pair);
                while let Some((number, field)) = fields.next()? {
                    if let (5, Field::Bytes(bytes)) = (number, field) {
                        value = Some(bytes);
                    }
                }
            }
        }
    }
    Ok(match asked {
        Asked::Put => Answer::Done,
        Asked::Get => value.map_or(Answer::Missing, Answer::Value),
        Asked::Scan => Answer::Rows(rows),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range_response(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        protobuf::put_bytes(&mut out, 1, b"");
        for (key, value) in pairs {
            let mut pair = Vec::new();
            protobuf::put_bytes(&mut pair, 1, key);
            protobuf::put_number(&mut pair, 4, 1);
            protobuf::put_bytes(&mut pair, 5, value);
            protobuf::put_bytes(&mut out, 2, &pair);
        }
        protobuf::put_number(&mut out, 4, pairs.len() as u64);
        out
    }

    #[test]
    fn range_responses_become_answers() {
        let none = range_response(&[]);
        let two = range_response(&[(b"a", b"1"), (b"b", b"2")]);
        assert_eq!(answer(Asked::Get, &none), Ok(Answer::Missing));
        assert_eq!(
            answer(Asked::Get, &range_response(&[(b"a", b"xyz")])),
            Ok(Answer::Value(b"xyz"))
        );
        assert_eq!(answer(Asked::Scan, &two), Ok(Answer::Rows(2)));
        assert_eq!(answer(Asked::Put, &none), Ok(Answer::Done));
        assert!(answer(Asked::Scan, &two[..two.len() - 1]).is_err());
    }

    #[test]
    fn a_call_without_a_message_has_failed() {
        assert_eq!(message(None), None);
        assert_eq!(message(Some(b"")), None);
        assert_eq!(message(Some(b"\0\0\0\0\x02ab")), Some(&b"ab"[..]));
        assert_eq!(message(Some(b"\0\0\0\0\x03ab")), None);
        assert_eq!(message(Some(b"\x01\0\0\0\x02ab")), None);
    }
}
