//! The client half of HTTP/2, as far as unary gRPC calls need it, without I/O.
//!
//! ```text
//!   call k, stream 2k+1:   HEADERS (path …)  DATA (message) END_STREAM   ──►
//!                     ◄──  HEADERS           DATA (message)              HEADERS END_STREAM (trailers)
//! ```
//!
//! What is left out, and why that is sound here:
//! - Response headers are not decoded. A unary call that succeeds carries exactly one message and one that fails carries
//!   none, so the message itself tells; the reason of a failure stays unknown.
//! - Our own headers are the same for every call: sent once as literals into the peer's table, then as one byte each.
//! - Stream windows for sending: a request must fit the peer's initial window. Connection windows are kept both ways.
//!
//! Cost: about the loader CPU of RESP plus 40 bytes per call, far below what a general HTTP/2 client takes.
//! Source: RFC 9113 (frames), RFC 7541 (header table).

use std::collections::VecDeque;

use base::collections::FastMap;

use super::buffer::ANSWER_BYTES_MAX;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// Both sides' default and ours: no frame's payload is longer.
const FRAME_BYTES_MAX: usize = 16_384;
/// What a connection may send before the peer has said more.
const WINDOW_DEFAULT: i64 = 65_535;
/// What the peer may send us on the connection ahead of our credit.
const RECEIVE_WINDOW: u32 = 1 << 30;
/// Credit is returned in pieces of at least this.
const CREDIT_BYTES: u32 = 1 << 20;
/// The header table's size that we rely on: the default.
const TABLE_BYTES: u32 = 4096;
/// The first index of the header table's own entries.
const TABLE_FIRST: usize = 62;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The peer broke the protocol, or asks for something that is left out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Http2Error {
    /// A frame longer than we allowed.
    #[error("HTTP/2: a frame of {length} bytes")]
    FrameTooLong { length: usize },
    /// A frame of the wrong length or with impossible padding.
    #[error("HTTP/2: a malformed frame of type {kind}")]
    Malformed { kind: u8 },
    /// A push, which no server may send to us.
    #[error("HTTP/2: the server pushes")]
    Push,
    /// The server ends the connection.
    #[error("HTTP/2: the server goes away (error {code})")]
    GoAway { code: u32 },
    /// A setting that is not supported here.
    #[error("HTTP/2: setting {id} is {value}")]
    Setting { id: u16, value: u32 },
    /// A window past 2^31 - 1.
    #[error("HTTP/2: a window overflows")]
    Window,
    /// The request does not fit the peer's initial stream window.
    #[error("HTTP/2: a request of {bytes} bytes, the server's stream window is {window}")]
    RequestTooLong { bytes: usize, window: i64 },
    /// All stream numbers are used up.
    #[error("HTTP/2: no stream number is left on this connection")]
    StreamsUsed,
    /// A frame for a stream that is not open.
    #[error("HTTP/2: data for stream {stream}, which is not open")]
    Stream { stream: u32 },
    /// An answer longer than is kept.
    #[error("HTTP/2: an answer longer than {ANSWER_BYTES_MAX} bytes")]
    AnswerTooLong,
}

/// One header that every call carries.
#[derive(Debug)]
struct Header {
    /// The literal that adds it to the peer's table.
    literal: Vec<u8>,
    /// How many entries were added before it, once it has been.
    added: Option<usize>,
}

impl Header {
    fn named(name_index: u8, value: &str) -> Self {
        let mut literal = vec![0x40 | name_index];
        put_text(&mut literal, value);
        Self { literal, added: None }
    }

    fn new(name: &str, value: &str) -> Self {
        let mut literal = vec![0x40];
        put_text(&mut literal, name);
        put_text(&mut literal, value);
        Self { literal, added: None }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Lengths below 127 take one byte; all our texts are short.
    out.push(
        u8::try_from(text.len())
            .ok()
            .filter(|&length| length < 127)
            .expect("a short text"),
    );
    out.extend_from_slice(text.as_bytes());
}

#[derive(Debug)]
struct Call {
    slot: u32,
    body: Vec<u8>,
}

#[derive(Debug)]
struct Waiting {
    slot: u32,
    path: usize,
    body: Vec<u8>,
}

/// Where whole responses go: the slot, and the body unless the stream was reset.
pub(super) type Responses<'a> = dyn FnMut(u32, Option<&[u8]>) + 'a;

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Http2 {
    paths: Vec<Header>,
    common: Vec<Header>,
    table_entries: usize,
    next_stream: u32,
    calls: FastMap<u32, Call>,
    waiting: VecDeque<Waiting>,
    spare_bodies: Vec<Vec<u8>>,
    send_window: i64,
    stream_window: i64,
    streams_max: u32,
    owed_credit: u32,
}

impl Http2 {
    /// A connection for calls of `paths`; its first bytes go to `out`.
    pub(super) fn open(paths: &[&str], authority: &str, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        frame_head(out, 12, SETTINGS, 0, 0);
        // No push; streams may send as much as they like, the connection's window bounds them all.
        out.extend_from_slice(&[0, 2, 0, 0, 0, 0, 0, 4]);
        out.extend_from_slice(&RECEIVE_WINDOW.to_be_bytes());
        window_update(out, RECEIVE_WINDOW);
        Self {
            paths: paths.iter().map(|path| Header::named(4, path)).collect(),
            common: vec![
                Header::named(1, authority),
                Header::named(31, "application/grpc"),
                Header::new("te", "trailers"),
            ],
            table_entries: 0,
            next_stream: 1,
            calls: FastMap::default(),
            waiting: VecDeque::new(),
            spare_bodies: Vec::new(),
            send_window: WINDOW_DEFAULT,
            stream_window: WINDOW_DEFAULT,
            streams_max: u32::MAX,
            owed_credit: 0,
        }
    }

    /// Starts a call of the path with number `path`; it waits its turn when the peer's window or stream limit is used up.
    pub(super) fn call(
        &mut self,
        slot: u32,
        path: usize,
        body: Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Http2Error> {
        if i64::try_from(body.len()).is_ok_and(|bytes| bytes > self.stream_window) {
            return Err(Http2Error::RequestTooLong {
                bytes: body.len(),
                window: self.stream_window,
            });
        }
        self.waiting.push_back(Waiting { slot, path, body });
        self.start_waiting(out)
    }

    /// An empty buffer for the next call's body.
    pub(super) fn body(&mut self) -> Vec<u8> {
        self.spare_bodies.pop().unwrap_or_default()
    }

    fn start_waiting(&mut self, out: &mut Vec<u8>) -> Result<(), Http2Error> {
        while let Some(next) = self.waiting.front() {
            let bytes = i64::try_from(next.body.len()).map_err(|_| Http2Error::AnswerTooLong)?;
            let open = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
            if bytes > self.send_window || open >= self.streams_max {
                return Ok(());
            }
            let Waiting { slot, path, mut body } =
                self.waiting.pop_front().expect("the front was seen just now");
            let stream = self.next_stream;
            if stream > i32::MAX.unsigned_abs() {
                return Err(Http2Error::StreamsUsed);
            }
            self.next_stream += 2;
            self.send_window -= bytes;
            self.headers(stream, path, out);
            let mut chunks = body.chunks(FRAME_BYTES_MAX).peekable();
            while let Some(chunk) = chunks.next() {
                let flags = if chunks.peek().is_none() { END_STREAM } else { 0 };
                frame_head(out, chunk.len(), DATA, flags, stream);
                out.extend_from_slice(chunk);
            }
            body.clear();
            self.calls.insert(stream, Call { slot, body });
        }
        Ok(())
    }

    fn headers(&mut self, stream: u32, path: usize, out: &mut Vec<u8>) {
        let start = out.len();
        frame_head(out, 0, HEADERS, END_HEADERS, stream);
        // :method POST and :scheme http stand in the fixed table.
        out.extend_from_slice(&[0x83, 0x86]);
        for header in core::iter::once(&mut self.paths[path]).chain(&mut self.common) {
            if let Some(before) = header.added {
                let index = TABLE_FIRST + self.table_entries - 1 - before;
                out.push(
                    0x80 | u8::try_from(index)
                        .ok()
                        .filter(|&index| index < 127)
                        .expect("a few entries"),
                );
            } else {
                header.added = Some(self.table_entries);
                self.table_entries += 1;
                out.extend_from_slice(&header.literal);
            }
        }
        let length = u32::try_from(out.len() - start - FRAME_HEAD_BYTES).expect("headers are short");
        out[start..start + 3].copy_from_slice(&length.to_be_bytes()[1..]);
    }

    /// Takes in whole frames from the start of `input`; gives back how many bytes they were.
    pub(super) fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        responses: &mut Responses<'_>,
    ) -> Result<usize, Http2Error> {
        let mut used = 0;
        while let Some((head, rest)) = input[used..].split_first_chunk::<FRAME_HEAD_BYTES>() {
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            if length > FRAME_BYTES_MAX {
                return Err(Http2Error::FrameTooLong { length });
            }
            let Some(payload) = rest.get(..length) else { break };
            used += FRAME_HEAD_BYTES + length;
            let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
            self.frame(kind, flags, stream, payload, out, responses)?;
        }
        if self.owed_credit >= CREDIT_BYTES {
            window_update(out, core::mem::take(&mut self.owed_credit));
        }
        self.start_waiting(out)?;
        Ok(used)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
        responses: &mut Responses<'_>,
    ) -> Result<(), Http2Error> {
        match kind {
            DATA => {
                self.owed_credit += u32::try_from(payload.len()).expect("checked against the frame limit");
                let call = self.calls.get_mut(&stream).ok_or(Http2Error::Stream { stream })?;
                call.body.extend_from_slice(unpadded(flags, payload)?);
                if call.body.len() > ANSWER_BYTES_MAX {
                    return Err(Http2Error::AnswerTooLong);
                }
                if flags & END_STREAM != 0 {
                    self.finish(stream, true, responses)?;
                }
            }
            HEADERS if flags & END_STREAM != 0 => self.finish(stream, true, responses)?,
            RST_STREAM => self.finish(stream, false, responses)?,
            SETTINGS if flags & ACK == 0 => {
                self.settings(payload)?;
                frame_head(out, 0, SETTINGS, ACK, 0);
            }
            PUSH_PROMISE => return Err(Http2Error::Push),
            PING if flags & ACK == 0 => {
                if payload.len() != 8 {
                    return Err(Http2Error::Malformed { kind });
                }
                frame_head(out, 8, PING, ACK, 0);
                out.extend_from_slice(payload);
            }
            GOAWAY => {
                let code = payload
                    .get(4..8)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(u32::from_be_bytes);
                return Err(code.map_or(Http2Error::Malformed { kind }, |code| Http2Error::GoAway { code }));
            }
            WINDOW_UPDATE => {
                let bytes: [u8; 4] = payload.try_into().map_err(|_| Http2Error::Malformed { kind })?;
                if stream == 0 {
                    self.send_window += i64::from(u32::from_be_bytes(bytes) & 0x7fff_ffff);
                    if self.send_window > i64::from(i32::MAX) {
                        return Err(Http2Error::Window);
                    }
                }
            }
            // First headers, their continuations, acknowledgements, priorities, and types that must be ignored.
            _ => {}
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Http2Error> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Http2Error::Malformed { kind: SETTINGS });
        }
        for &[i0, i1, v0, v1, v2, v3] in entries {
            let (id, value) = (u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3]));
            match id {
                1 if value < TABLE_BYTES => return Err(Http2Error::Setting { id, value }),
                3 => self.streams_max = value,
                4 => self.stream_window = value.into(),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, stream: u32, whole: bool, responses: &mut Responses<'_>) -> Result<(), Http2Error> {
        let Call { slot, mut body } = self.calls.remove(&stream).ok_or(Http2Error::Stream { stream })?;
        responses(slot, whole.then_some(&body));
        body.clear();
        self.spare_bodies.push(body);
        Ok(())
    }
}

fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], Http2Error> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let malformed = Http2Error::Malformed { kind: DATA };
    let (&padding, rest) = payload.split_first().ok_or(malformed)?;
    rest.len()
        .checked_sub(padding.into())
        .map(|length| &rest[..length])
        .ok_or(malformed)
}

fn frame_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = u32::try_from(length).expect("frames are short");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn window_update(out: &mut Vec<u8>, bytes: u32) {
    frame_head(out, 4, WINDOW_UPDATE, 0, 0);
    out.extend_from_slice(&bytes.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened() -> Http2 {
        Http2::open(&["/a/B", "/a/C"], "localhost", &mut Vec::new())
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame_head(&mut out, payload.len(), kind, flags, stream);
        out.extend(payload);
        out
    }

    fn receive(http2: &mut Http2, input: &[u8]) -> Result<(Vec<String>, Vec<u8>), Http2Error> {
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        let used = http2.receive(input, &mut out, &mut |slot, body| {
            seen.push(format!("{slot} {body:?}"));
        })?;
        assert_eq!(used, input.len());
        Ok((seen, out))
    }

    #[test]
    fn the_second_call_refers_to_the_headers_of_the_first() {
        let mut http2 = opened();
        let mut first = Vec::new();
        http2.call(0, 0, b"xy".to_vec(), &mut first).unwrap();
        let mut second = Vec::new();
        http2.call(1, 0, b"xy".to_vec(), &mut second).unwrap();
        assert!(first.windows(4).any(|bytes| bytes == b"/a/B"));
        // Method, scheme, then path (oldest of four entries), authority, content type, te.
        let expected = [
            0,
            0,
            6,
            HEADERS,
            END_HEADERS,
            0,
            0,
            0,
            3,
            0x83,
            0x86,
            0xc1,
            0xc0,
            0xbf,
            0xbe,
        ];
        assert_eq!(second[..15], expected);
        assert_eq!(second[15..], *b"\0\0\x02\0\x01\0\0\0\x03xy");
        let mut other = Vec::new();
        http2.call(2, 1, Vec::from(*b"z"), &mut other).unwrap();
        // A fifth entry pushes the earlier ones one further.
        assert!(
            other.windows(3).any(|bytes| bytes == [0xc1, 0xc0, 0xbf]),
            "{other:02x?}"
        );
    }

    #[test]
    fn responses_are_put_together_per_stream() {
        let mut http2 = opened();
        for slot in [4, 5, 6] {
            http2.call(slot, 0, b"q".to_vec(), &mut Vec::new()).unwrap();
        }
        let mut input = frame(HEADERS, END_HEADERS, 1, b"");
        input.extend(frame(DATA, 0, 1, b"ab"));
        input.extend(frame(DATA, PADDED, 3, b"\x02cd\0\0"));
        input.extend(frame(DATA, 0, 1, b"c"));
        input.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, b""));
        input.extend(frame(RST_STREAM, 0, 5, &[0; 4]));
        input.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, b""));
        let (seen, _) = receive(&mut http2, &input).unwrap();
        assert_eq!(seen, ["5 Some([99, 100])", "6 None", "4 Some([97, 98, 99])"]);
    }

    #[test]
    fn calls_wait_for_window_and_stream_limit() {
        let mut http2 = opened();
        receive(&mut http2, &frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 2])).unwrap();
        let mut out = Vec::new();
        for slot in 0..4 {
            http2.call(slot, 0, vec![1; 30_000], &mut out).unwrap();
        }
        // The limit lets two through; the window of 65,535 bytes would have taken them as well.
        assert_eq!(http2.calls.len(), 2);
        let (_, more) = receive(&mut http2, &frame(DATA, END_STREAM, 1, b"r")).unwrap();
        assert!(more.is_empty(), "the window is used up");
        let (_, more) = receive(&mut http2, &frame(WINDOW_UPDATE, 0, 0, &60_000u32.to_be_bytes())).unwrap();
        assert!(more.len() > 30_000, "{} bytes", more.len());
    }

    #[test]
    fn hostile_frames_are_named() {
        let head = [1, 0, 0, DATA, 0, 0, 0, 0, 1];
        assert_eq!(
            receive(&mut opened(), &head),
            Err(Http2Error::FrameTooLong { length: 65_536 })
        );
        assert_eq!(
            receive(&mut opened(), &frame(DATA, 0, 9, b"x")),
            Err(Http2Error::Stream { stream: 9 })
        );
        assert_eq!(
            receive(&mut opened(), &frame(SETTINGS, 0, 0, b"1234567")),
            Err(Http2Error::Malformed { kind: 4 })
        );
        let gone = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]);
        assert_eq!(
            receive(&mut opened(), &gone),
            Err(Http2Error::GoAway { code: 11 })
        );
        let huge = frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes());
        assert_eq!(receive(&mut opened(), &huge), Err(Http2Error::Window));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_a_panic(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut http2 = opened();
            http2.call(0, 0, b"q".to_vec(), &mut Vec::new()).unwrap();
            if let Ok(used) = http2.receive(&input, &mut Vec::new(), &mut |_, _| {}) {
                prop_assert!(used <= input.len());
            }
        }
    }
}
