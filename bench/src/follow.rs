//! What a loader does when leadership moves or a connection breaks: requests that were not done wait here, a thread asks who serves
//! what now, and they are sent to there.
//!
//! Latency counts from the first start all the while. A request that was sent and not answered may be done twice; those of a bench
//! may be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::BenchError;
use crate::config::Target;
use crate::connection::{Rerouted, Routes, reroute};
use crate::lane::{Context, InFlight, Scratch};

/// Between two questions who serves what.
const ASK_NS_MIN: u64 = 100_000_000;
/// Requests that connections have drawn for others at most.
const DRAWN_MAX: usize = 1024;
/// Longest sleep in a poll while an answer is awaited.
pub(crate) const FOLLOW_POLL: Duration = Duration::from_millis(1);

/// The requests that wait for new routes, and the thread that asks for these.
pub(crate) struct Follow {
    target: Target,
    pub(crate) again: VecDeque<InFlight>,
    /// What a connection has drawn that another one is to send.
    pub(crate) drawn: VecDeque<InFlight>,
    asking: Option<JoinHandle<Result<Rerouted, BenchError>>>,
    next_ns: u64,
}

impl Follow {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            again: VecDeque::new(),
            drawn: VecDeque::new(),
            asking: None,
            next_ns: 0,
        }
    }

    /// Whether something waits.
    pub(crate) fn is_busy(&self) -> bool {
        self.asking.is_some() || !self.again.is_empty()
    }

    /// Whether so much was drawn for others that it is to be sent first.
    pub(crate) fn is_full(&self) -> bool {
        self.drawn.len() >= DRAWN_MAX
    }

    /// Whether what was drawn for others is all that is under way.
    pub(crate) fn is_all(&self, in_flight: u64) -> bool {
        in_flight > 0 && self.drawn.len() as u64 == in_flight
    }

    /// The first of the requests that wait that belongs to `home`.
    pub(crate) fn next_for(
        &mut self,
        home: Option<u16>,
        context: &Context,
        scratch: &mut Scratch,
    ) -> Option<InFlight> {
        let mut belongs = |request: &InFlight| {
            let Some(record) = request.action.record() else {
                return true;
            };
            context.layout.key(record, &mut scratch.key);
            context.routes.owner(&scratch.key) == home
        };
        if let Some(at) = self.again.iter().position(&mut belongs) {
            return self.again.remove(at);
        }
        let at = self.drawn.iter().position(&mut belongs)?;
        self.drawn.remove(at)
    }

    /// Asks, unless that is being done or was done just now.
    pub(crate) fn ask(
        &mut self,
        now_ns: u64,
        routes: &Arc<Routes>,
        homes: Vec<Option<u16>>,
    ) -> Result<(), BenchError> {
        if self.asking.is_some() || now_ns < self.next_ns {
            return Ok(());
        }
        self.next_ns = now_ns + ASK_NS_MIN;
        let (target, routes) = (self.target.clone(), Arc::clone(routes));
        let thread = thread::Builder::new()
            .name("ask".to_owned())
            .spawn(move || reroute(&target, &routes, &homes, now_ns))
            .map_err(|source| BenchError::Local {
                operation: "start a thread",
                source,
            })?;
        self.asking = Some(thread);
        Ok(())
    }

    /// The answer, once. Where nobody leads yet there is none: it is asked for again.
    pub(crate) fn answer(&mut self) -> Option<Rerouted> {
        if !self.asking.as_ref()?.is_finished() {
            return None;
        }
        match self.asking.take()?.join() {
            Ok(rerouted) => rerouted.ok(),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
