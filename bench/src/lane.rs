//! One connection under load: its requests in flight, what it asks next, and whether an answer is right.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use base::Prng;

use crate::BenchError;
use crate::connection::{Connection, Routes};
use crate::driver::{Answer, Driver, Op};
use crate::loader::Shared;
use crate::recorder::Recorder;
use crate::schedule::Schedule;
use crate::workload::{Action, Layout, Mix};

/// Draws of an action whose key belongs on another connection before it is sent where it is not at home.
const REDRAWS_MAX: u32 = 64;

/// Where a connection's actions come from.
pub(crate) enum Source {
    /// A workload, until the time is over.
    Mix(Box<Mix>),
    /// The records of this connection, each once.
    Load(LoadCursor),
    /// None of its own: it takes what other connections could not do.
    Errands(Prng),
}

impl Source {
    /// An action has been answered; `true` when it will be drawn again because the server refused it.
    pub(crate) fn settled(&mut self, action: Action, refused: bool) -> bool {
        match (self, action) {
            (Self::Mix(mix), Action::Put { record }) => {
                if mix.inserts(action) {
                    mix.inserted(record);
                }
                false
            }
            (Self::Load(cursor), Action::Put { record }) if refused => {
                cursor.again.push(record);
                true
            }
            (Self::Mix(_) | Self::Load(_) | Self::Errands(_), _) => false,
        }
    }
}

/// Walks the records that one connection draws of those that are loaded: every so many, whichever connection they are sent by.
#[derive(Debug, Clone)]
pub(crate) struct LoadCursor {
    pub(crate) next: u64,
    pub(crate) step: u64,
    pub(crate) end: u64,
    /// Records that were refused and go again.
    pub(crate) again: Vec<u64>,
}

impl LoadCursor {
    fn next(&mut self) -> Option<u64> {
        let next = || {
            let record = self.next;
            self.next += self.step;
            (record < self.end).then_some(record)
        };
        self.again.pop().or_else(next)
    }
}

/// A request that has no answer yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) action: Action,
    pub(crate) intended_ns: u64,
    /// A read-modify-write whose read has answered.
    pub(crate) modifying: bool,
}

/// One connection under load.
pub(crate) struct Lane {
    pub(crate) number: usize,
    pub(crate) socket: std::net::TcpStream,
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) home: Option<u16>,
    pub(crate) source: Source,
    pub(crate) slots: Vec<Option<InFlight>>,
    pub(crate) free: Vec<u32>,
    /// The poll also asks for room to send.
    pub(crate) blocked: bool,
    /// Requests here were refused because others serve them now: it starts nothing until it is known who.
    pub(crate) paused: bool,
    /// The connection is gone; nothing is in flight on it.
    pub(crate) lost: bool,
}

/// Keys and values are laid out here; one set for the whole thread.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// What all connections of a thread share.
pub(crate) struct Context {
    pub(crate) address: SocketAddr,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) recorder: Recorder,
    pub(crate) layout: Layout,
    pub(crate) routes: Arc<Routes>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) began: Instant,
}

impl Context {
    /// Whether the record's key is served at `home`, as far as is known.
    pub(crate) fn serves(&self, home: Option<u16>, record: u64, scratch: &mut Scratch) -> bool {
        let Some(home) = home else { return true };
        self.layout.key(record, &mut scratch.key);
        let owner = self.routes.owner(&scratch.key);
        owner.is_none_or(|owner| owner == home)
    }
}

impl Lane {
    pub(crate) fn new(number: usize, connection: Connection, source: Source, outstanding: u32) -> Self {
        Self {
            number,
            socket: connection.socket,
            driver: connection.driver,
            home: connection.home,
            source,
            slots: vec![None; outstanding as usize],
            free: (0..outstanding).rev().collect(),
            blocked: false,
            paused: false,
            lost: false,
        }
    }

    /// Whether one more request can be sent.
    pub(crate) fn takes(&self) -> bool {
        !self.free.is_empty() && !self.paused && !self.lost
    }

    /// Whether it starts something of its own.
    pub(crate) fn is_open(&self) -> bool {
        self.takes() && !matches!(self.source, Source::Errands(_))
    }

    /// Draws until the key belongs on this connection: every connection then sees the workload's own distribution over the
    /// keys of its shard. What is loaded is drawn in order.
    pub(crate) fn next_action(&mut self, context: &Context, scratch: &mut Scratch) -> Option<Action> {
        let Lane { source, home, .. } = self;
        match source {
            Source::Load(cursor) => cursor.next().map(|record| Action::Put { record }),
            Source::Errands(_) => None,
            Source::Mix(mix) => {
                let mut action = mix.draw();
                for _ in 0..REDRAWS_MAX {
                    match action.record() {
                        Some(record) if !context.serves(*home, record, scratch) && !mix.inserts(action) => {
                            action = mix.draw();
                        }
                        Some(_) | None => break,
                    }
                }
                Some(action)
            }
        }
    }

    /// Encodes the request of an action; `modifying` is the second half of a read-modify-write.
    pub(crate) fn send(
        &mut self,
        context: &Context,
        scratch: &mut Scratch,
        slot: u32,
        action: Action,
        modifying: bool,
    ) -> Result<(), BenchError> {
        let Scratch { key, value } = scratch;
        if let Some(record) = action.record() {
            context.layout.key(record, key);
        }
        let op = match action {
            Action::Echo => Op::Echo {
                payload: context.layout.echo(),
            },
            Action::Disk => Op::Disk,
            Action::Get { .. } => Op::Get { key },
            Action::ReadModifyWrite { .. } if !modifying => Op::Get { key },
            Action::Put { record } | Action::ReadModifyWrite { record } => {
                let salt = match &mut self.source {
                    Source::Mix(mix) => mix.salt(),
                    Source::Load(_) => record,
                    Source::Errands(prng) => prng.next_u64(),
                };
                context.layout.value(record, salt, value);
                Op::Put { key, value }
            }
            Action::Scan { rows, .. } => Op::Scan { start: key, rows },
        };
        self.driver
            .request(slot, &op)
            .map_err(|error| BenchError::Broken {
                connection: self.number,
                address: context.address,
                reason: error.to_string(),
            })
    }
}

/// Looks at an answer; `true` when the server refused or the answer is wrong.
pub(crate) fn judge(context: &mut Context, action: Action, answer: Answer<'_>) -> bool {
    let recorder = &mut context.recorder;
    let expected_value = match action {
        Action::Get { record } | Action::ReadModifyWrite { record } => Some(record),
        Action::Echo | Action::Disk | Action::Put { .. } | Action::Scan { .. } => None,
    };
    match (answer, expected_value) {
        (Answer::Value(value), Some(record)) if !context.layout.is_value_of(record, value) => {
            recorder.refused(&format!(
                "wrong value of {} bytes for record {record}",
                value.len()
            ));
            true
        }
        (Answer::Failed(message) | Answer::Elsewhere(message), _) => {
            recorder.refused(message);
            true
        }
        (Answer::Missing, _) => {
            recorder.missing += 1;
            false
        }
        (Answer::Done | Answer::Value(_) | Answer::Rows(_), _) => false,
    }
}
