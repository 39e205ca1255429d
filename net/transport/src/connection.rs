//! What is known of one connection, and what follows from it. Pure: time comes in as an argument.
//!
//! ```text
//!          a client's hello accepted
//!   Hello ─┬──────────────────────────► Open ──┐
//!     │ │  └──────────────────────────► Peer ──┴──► closed
//!     │ │  a peer's hello accepted      └── a connection that this side has dialled starts here
//!     │ │
//!     │ └── hello for another shard: the socket leaves this shard
//!     └── other frame, bad bytes, too slow: closed
//! ```

use crate::config::TransportConfig;
use core::fmt;
use core::time::Duration;
use env::{Instant, NetError};
use wire::{FrameError, WireError};

/// A connection of this shard. Never names two connections during the life of a process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ConnectionId {
    /// Names no connection of the table.
    pub(crate) const NONE: Self = Self {
        slot: u32::MAX,
        generation: 0,
    };
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}.{}", self.slot, self.generation)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it between two frames.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer closed it in the middle of a frame.
    #[error("closed by the peer in the middle of a frame")]
    PeerClosedMidFrame,
    /// The network failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The bytes were not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame's payload was not its message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The first frame was not a hello.
    #[error("the first frame was not a hello")]
    HelloExpected,
    /// A second hello came.
    #[error("a second hello")]
    HelloRepeated,
    /// The handler refused the hello.
    #[error("hello refused")]
    HelloRefused,
    /// The node that this side has dialled ended the connection with an error.
    #[error("refused by the peer")]
    Refused,
    /// No hello came in time.
    #[error("no hello in time")]
    HelloTimeout,
    /// A frame stayed incomplete for too long.
    #[error("a frame stayed incomplete for too long")]
    FrameTimeout,
    /// The peer did not read what it was sent.
    #[error("what was sent was not read in time")]
    SendTimeout,
    /// The shard has as many connections as it accepts.
    #[error("too many connections")]
    TooManyConnections,
    /// This side closed it.
    #[error("closed by this side")]
    Local,
}

impl CloseReason {
    /// A stable name for counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerClosedMidFrame => "peer_closed_mid_frame",
            Self::Net(_) => "net",
            Self::Frame(error) => error.name(),
            Self::Wire(error) => error.name(),
            Self::HelloExpected => "hello_expected",
            Self::HelloRepeated => "hello_repeated",
            Self::HelloRefused => "hello_refused",
            Self::Refused => "refused",
            Self::HelloTimeout => "hello_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::SendTimeout => "send_timeout",
            Self::TooManyConnections => "too_many_connections",
            Self::Local => "local",
        }
    }

    /// The code to tell the peer before closing, where telling helps.
    #[must_use]
    pub const fn code(&self) -> Option<wire::Code> {
        match self {
            Self::Frame(FrameError::UnknownVersion { .. }) => Some(wire::Code::VersionUnsupported),
            Self::Frame(_) => Some(wire::Code::BadFrame),
            Self::Wire(_) => Some(wire::Code::BadMessage),
            Self::HelloExpected | Self::HelloRepeated => Some(wire::Code::HelloExpected),
            Self::HelloTimeout | Self::FrameTimeout => Some(wire::Code::ConnectionTimedOut),
            Self::TooManyConnections => Some(wire::Code::TooManyConnections),
            Self::PeerClosed
            | Self::PeerClosedMidFrame
            | Self::Net(_)
            | Self::HelloRefused
            | Self::Refused
            | Self::SendTimeout
            | Self::Local => None,
        }
    }
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has to say hello.
    Hello,
    /// A client: it sends requests.
    Open,
    /// A shard of another node: trains go one way, from the side that dialled, and are not answered.
    Peer,
}

/// A connection starts with a window of so many requests, as if its replies had been large. The guess falls by an eighth
/// with each small reply, so that the window of an honest client is wide after a turn or two.
const WINDOW_START: usize = 16;

/// One connection's state machine.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    opened: Instant,
    /// Since when a frame has been incomplete, and how many of its bytes had arrived when last looked at.
    incomplete: Option<(Instant, usize)>,
    /// Since when what is to be sent has waited without any byte being sent.
    unsent: Option<Instant>,
    /// The connection is not being read until its window opens: it cannot complete its frame.
    paused: bool,
    /// Requests handed to the handler and not yet answered.
    requests: usize,
    /// Bytes waiting to be sent.
    outbox_bytes: usize,
    /// A slowly falling maximum of the sizes of replies: what the next one is expected to take at most.
    reply_bytes: usize,
}

impl Connection {
    /// A connection that was opened at `now`.
    #[must_use]
    pub fn new(now: Instant, config: &TransportConfig) -> Self {
        Self::begun(Phase::Hello, now, config.outbox_bytes_max / WINDOW_START)
    }

    /// A connection that this side has dialled at `now`: it starts with a hello of its own.
    #[must_use]
    pub fn dialled(now: Instant) -> Self {
        Self::begun(Phase::Peer, now, 1)
    }

    fn begun(phase: Phase, now: Instant, reply_bytes: usize) -> Self {
        Self {
            phase,
            opened: now,
            incomplete: None,
            unsent: None,
            paused: false,
            requests: 0,
            outbox_bytes: 0,
            reply_bytes,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The hello was accepted, and it is a client ([`Phase::Open`]) or another shard ([`Phase::Peer`]).
    ///
    /// # Panics
    /// When a hello was accepted before: the driver refuses a second one.
    pub fn on_hello(&mut self, phase: Phase) {
        assert_eq!(self.phase, Phase::Hello, "a hello is accepted once");
        assert_ne!(phase, Phase::Hello, "an accepted hello leads on");
        self.phase = phase;
    }

    /// A request was handed to the handler; `answered` says whether a reply will come.
    pub fn on_request(&mut self, answered: bool) {
        self.requests += usize::from(answered);
    }

    /// A reply of `bytes` was appended to the outbox; `last` when its request is done.
    pub fn on_reply(&mut self, bytes: usize, last: bool) {
        self.requests = self.requests.saturating_sub(usize::from(last));
        self.reply_bytes = bytes.max(self.reply_bytes - self.reply_bytes / 8).max(1);
    }

    /// The outbox has grown to `outbox_bytes`. `now` only counts when it was empty.
    pub fn on_appended(&mut self, outbox_bytes: usize, now: Instant) {
        if self.outbox_bytes == 0 {
            self.unsent = Some(now);
        }
        self.outbox_bytes = outbox_bytes;
    }

    /// Some bytes were sent and `outbox_bytes` are left.
    pub fn on_sent(&mut self, outbox_bytes: usize, now: Instant) {
        self.outbox_bytes = outbox_bytes;
        self.unsent = (outbox_bytes > 0).then_some(now);
    }

    /// After every whole frame of a receive was taken out, `unread` bytes of an incomplete one are left. `fresh` when they
    /// belong to another frame than last time.
    pub fn on_incomplete(&mut self, unread: usize, fresh: bool, now: Instant) {
        self.incomplete = match self.incomplete {
            _ if unread == 0 => None,
            Some((since, _)) if !fresh => Some((since, unread)),
            Some(_) | None => Some((now, unread)),
        };
    }

    /// Whether the next request may be handed over: replies are not piling up, and the window has room.
    ///
    /// The window shrinks with the size of recent replies, so that few requests cannot fetch gigabytes in one turn. It is a
    /// guess: what one window of requests really fetches is for the handler to bound.
    #[must_use]
    pub fn may_take(&self, config: &TransportConfig) -> bool {
        let window = (config.outbox_bytes_max / self.reply_bytes).clamp(1, config.requests_max);
        self.outbox_bytes < config.outbox_bytes_max && self.requests < window
    }

    /// The time-out that has passed at `now`, if any.
    #[must_use]
    pub fn expired(&self, now: Instant, config: &TransportConfig) -> Option<CloseReason> {
        if self.phase == Phase::Hello && now.since(self.opened) >= config.hello_timeout {
            return Some(CloseReason::HelloTimeout);
        }
        if let Some((since, bytes)) = self.incomplete
            && !self.paused
        {
            let earned_ms = (bytes as u64).saturating_mul(1000) / config.frame_rate_min;
            if now.since(since) >= config.frame_timeout + Duration::from_millis(earned_ms) {
                return Some(CloseReason::FrameTimeout);
            }
        }
        self.is_stuck(now, config.send_timeout)
            .then_some(CloseReason::SendTimeout)
    }

    /// Whether at `now` bytes have waited for `timeout` without any being sent.
    #[must_use]
    pub fn is_stuck(&self, now: Instant, timeout: Duration) -> bool {
        self.unsent.is_some_and(|since| now.since(since) >= timeout)
    }

    /// Reading stops until the window opens.
    pub fn on_paused(&mut self) {
        self.paused = true;
    }

    /// Reading goes on: an incomplete frame has its time again.
    pub fn on_resumed(&mut self, now: Instant) {
        self.paused = false;
        if let Some((since, _)) = &mut self.incomplete {
            *since = now;
        }
    }

    /// Whether the connection is not being read.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Requests under way.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests
    }
}

#[cfg(test)]
mod tests;
