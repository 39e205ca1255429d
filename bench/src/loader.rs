//! One thread of the load generator: non-blocking sockets, one poll, one send and one receive per connection and turn.
//!
//! ```text
//!   turn:  poll ─► for each readable connection: receive, answers free their slots ─► refill slots ─► one send
//! ```
//!
//! Loader and server share the machine, so what the loader spends per request is taken from the server. There are no
//! tasks, no wakers and no allocation per request; a clock is read once per received batch and once per sent one.
//!
//! When leadership moves or a connection breaks, [`Follow`] says where requests go then.
//!
//! - Closed loop: a freed slot starts the next request at once, and its latency counts from there.
//! - Open loop: [`Schedule`] says when requests are due; latency counts from then, however late they are sent.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::Prng;
use rustix::event::epoll;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::BenchError;
use crate::config::Target;
use crate::connection::{Connection, Rerouted, Routes};
use crate::driver::Answer;
use crate::follow::{FOLLOW_POLL, Follow};
use crate::lane::{Context, InFlight, Lane, Scratch, Source, judge};
use crate::recorder::Recorder;
use crate::schedule::Schedule;
use crate::workload::{Action, Layout};

/// How long answers are waited for after the measured time.
const DRAIN: Duration = Duration::from_secs(5);
/// How long nothing but refusals comes, over all connections, until loading gives up: a cluster that has just been split into thousands
/// of ranges finds leaders for them first.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a load goes on while nothing is answered: a node that gets the state of a range shows no leader of it for as long.
const LOAD_SILENCE: Duration = Duration::from_secs(60);
/// Longest sleep in a poll, so that the end of a run is noticed.
const POLL_MAX: Duration = Duration::from_millis(20);

/// Counters that the progress bar reads while threads run, and the order to stop.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Answers so far.
    pub(crate) answers: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    /// One thread failed, so that the others need not go on.
    pub(crate) stop: AtomicBool,
    /// A thread has come to its end by itself.
    pub(crate) finished: AtomicBool,
}

/// What one thread does.
pub(crate) struct Assignment {
    pub(crate) address: SocketAddr,
    /// Connections with their numbers and sources.
    pub(crate) connections: Vec<(usize, Connection, Source)>,
    pub(crate) outstanding: u32,
    /// `None` is the closed loop.
    pub(crate) schedule: Option<Schedule>,
    pub(crate) recorder: Recorder,
    pub(crate) layout: Layout,
    pub(crate) routes: Arc<Routes>,
    /// The target to ask again when leadership moves or a connection breaks; without it, both are failures.
    pub(crate) follow: Option<Target>,
    pub(crate) shared: Arc<Shared>,
}

/// What one thread found.
pub(crate) struct Findings {
    pub(crate) recorder: Recorder,
    /// CPU time of the thread inside the measured window.
    pub(crate) cpu: Duration,
}

struct Loader {
    context: Context,
    lanes: Vec<Lane>,
    poll: rustix::fd::OwnedFd,
    scratch: Scratch,
    /// Where the open loop looks first for a free slot.
    turn: usize,
    in_flight: u64,
    refused_since_ns: Option<u64>,
    /// When something was answered last.
    answered_ns: u64,
    cpu_at_start: Option<Duration>,
    cpu_at_end: Option<Duration>,
    outstanding: u32,
    follow: Option<Follow>,
}

/// Runs one thread's share until its time or its records are over. `began` is time zero of the run.
pub(crate) fn drive(assignment: Assignment, began: Instant) -> Result<Findings, BenchError> {
    let shared = Arc::clone(&assignment.shared);
    let result = Loader::new(assignment, began).and_then(Loader::run);
    let flag = if result.is_ok() {
        &shared.finished
    } else {
        &shared.stop
    };
    flag.store(true, Ordering::Relaxed);
    result
}

fn local(operation: &'static str) -> impl Fn(rustix::io::Errno) -> BenchError {
    move |errno| BenchError::Local {
        operation,
        source: errno.into(),
    }
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

impl Loader {
    fn new(assignment: Assignment, began: Instant) -> Result<Self, BenchError> {
        let Assignment {
            address,
            connections,
            outstanding,
            schedule,
            recorder,
            layout,
            routes,
            follow,
            shared,
        } = assignment;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(local("create an epoll"))?;
        let mut lanes = Vec::with_capacity(connections.len());
        for (number, connection, source) in connections {
            let data = epoll::EventData::new_u64(lanes.len() as u64);
            epoll::add(&poll, &connection.socket, data, epoll::EventFlags::IN)
                .map_err(local("watch a socket"))?;
            lanes.push(Lane::new(number, connection, source, outstanding));
        }
        Ok(Self {
            context: Context {
                address,
                schedule,
                recorder,
                layout,
                routes,
                shared,
                began,
            },
            lanes,
            poll,
            scratch: Scratch::default(),
            turn: 0,
            in_flight: 0,
            refused_since_ns: None,
            answered_ns: 0,
            cpu_at_start: None,
            cpu_at_end: None,
            outstanding,
            follow: follow.map(Follow::new),
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.context.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn run(mut self) -> Result<Findings, BenchError> {
        if self.context.schedule.is_some() {
            // By default the kernel may sleep 50 µs too long, to save wake-ups. When it refuses, the lag shows it.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        let window = self.context.recorder.window();
        let drain_end_ns = window
            .end_ns
            .saturating_add(u64::try_from(DRAIN.as_nanos()).unwrap_or(u64::MAX));
        let mut events = Vec::with_capacity(self.lanes.len().clamp(1, 1024));
        for at in 0..self.lanes.len() {
            self.refill(at)?;
        }
        loop {
            let now_ns = self.now_ns();
            if now_ns >= window.start_ns && self.cpu_at_start.is_none() {
                self.cpu_at_start = Some(thread_cpu());
            }
            if now_ns >= window.end_ns && self.cpu_at_end.is_none() {
                self.cpu_at_end = Some(thread_cpu());
            }
            self.follow(now_ns)?;
            self.start_due(now_ns)?;
            if self
                .follow
                .as_ref()
                .is_some_and(|follow| !follow.drawn.is_empty())
            {
                for at in 0..self.lanes.len() {
                    self.refill(at)?;
                }
            }
            let waiting = self.context.schedule.as_ref().and_then(Schedule::next_ns);
            let starting = waiting.is_some()
                || (self.context.schedule.is_none()
                    && now_ns < window.end_ns
                    && (self.in_flight > 0 || self.waits_for_routes()));
            let finished = !starting && self.in_flight == 0;
            if finished || now_ns >= drain_end_ns || self.context.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            let loads = window.end_ns == u64::MAX;
            if loads && u128::from(now_ns.saturating_sub(self.answered_ns)) > LOAD_SILENCE.as_nanos() {
                let silence = LOAD_SILENCE.as_secs();
                let message =
                    format!("nothing was answered for {silence} s; `corelane status` says what is wrong");
                return Err(BenchError::Refused {
                    address: self.context.address,
                    step: "load the records",
                    message,
                });
            }
            self.poll(&mut events, waiting, now_ns)?;
            for event in events.drain(..) {
                let at = usize::try_from(event.data.u64()).expect("an index of ours");
                self.ready(at)?;
            }
        }
        self.leave_unanswered();
        let cpu_end = self.cpu_at_end.unwrap_or_else(thread_cpu);
        let cpu = cpu_end.saturating_sub(self.cpu_at_start.unwrap_or_default());
        Ok(Findings {
            recorder: self.context.recorder,
            cpu,
        })
    }

    /// Whether connections start nothing until it is known who serves their keys.
    fn waits_for_routes(&self) -> bool {
        self.follow.is_some() && self.lanes.iter().any(|lane| lane.paused || lane.lost)
    }

    /// Sleeps until a socket is ready or the next request is due.
    fn poll(
        &self,
        events: &mut Vec<epoll::Event>,
        due_ns: Option<u64>,
        now_ns: u64,
    ) -> Result<(), BenchError> {
        // A due request that found no free slot waits for an answer, not for the clock.
        let sleep_ns = due_ns.map_or(u64::MAX, |due| if due > now_ns { due - now_ns } else { u64::MAX });
        let longest = match &self.follow {
            Some(follow) if follow.is_busy() => FOLLOW_POLL,
            Some(_) | None => POLL_MAX,
        };
        let sleep = Duration::from_nanos(sleep_ns).min(longest);
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: sleep.subsec_nanos().into(),
        };
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(local("wait for sockets")(errno)),
        }
    }

    /// Open loop: starts what is due, on connections in turn; what finds no free slot stays due.
    fn start_due(&mut self, now_ns: u64) -> Result<(), BenchError> {
        if self.context.schedule.is_none() {
            return Ok(());
        }
        let mut started = false;
        let lanes = self.lanes.len();
        let mut full = 0;
        while full < lanes {
            let at = self.turn % lanes;
            self.turn = (self.turn + 1) % lanes;
            if !self.lanes[at].is_open() {
                full += 1;
                continue;
            }
            let Some(intended_ns) = self.context.schedule.as_mut().and_then(|s| s.take_due(now_ns)) else {
                break;
            };
            full = 0;
            started = true;
            self.context.recorder.lagged(now_ns - intended_ns);
            self.start(at, intended_ns)?;
        }
        if started {
            for at in 0..lanes {
                self.flush(at)?;
            }
        }
        Ok(())
    }

    /// Closed loop: fills the free slots of a connection; either loop: sends what waits.
    fn refill(&mut self, at: usize) -> Result<(), BenchError> {
        self.send_again(at)?;
        if self.context.schedule.is_none() && self.lanes[at].is_open() {
            let now_ns = self.now_ns();
            while now_ns < self.context.recorder.window().end_ns
                && self.lanes[at].is_open()
                && self.start(at, now_ns)?
            {}
        }
        self.flush(at)
    }

    /// Starts the next action of a connection; `false` when it has none left.
    fn start(&mut self, at: usize, intended_ns: u64) -> Result<bool, BenchError> {
        let Self {
            context: common,
            lanes,
            scratch,
            follow,
            ..
        } = self;
        let lane = &mut lanes[at];
        let loads = matches!(lane.source, Source::Load(_));
        if loads && follow.as_ref().is_some_and(Follow::is_full) {
            return Ok(false);
        }
        let Some(action) = lane.next_action(common, scratch) else {
            return Ok(false);
        };
        if let (true, Some(follow), Some(record)) = (loads, follow, action.record())
            && !common.serves(lane.home, record, scratch)
        {
            follow.drawn.push_back(InFlight {
                action,
                intended_ns,
                modifying: false,
            });
            self.in_flight += 1;
            return Ok(true);
        }
        let slot = lane.free.pop().expect("the caller saw a free slot");
        lane.slots[slot as usize] = Some(InFlight {
            action,
            intended_ns,
            modifying: false,
        });
        lane.send(common, scratch, slot, action, false)?;
        self.in_flight += 1;
        Ok(true)
    }

    fn flush(&mut self, at: usize) -> Result<(), BenchError> {
        let lane = &mut self.lanes[at];
        if lane.lost {
            return Ok(());
        }
        let mut blocked = false;
        while !lane.driver.outgoing().is_empty() {
            match lane.socket.write(lane.driver.outgoing()) {
                Ok(0) => return self.lose(at, "it takes no more bytes".to_owned()),
                Ok(sent) => {
                    lane.driver.sent(sent);
                    self.context
                        .shared
                        .bytes_sent
                        .fetch_add(sent as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.lose(at, error.to_string()),
            }
        }
        if blocked != lane.blocked {
            lane.blocked = blocked;
            let flags = if blocked {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            epoll::modify(
                &self.poll,
                &lane.socket,
                epoll::EventData::new_u64(at as u64),
                flags,
            )
            .map_err(local("watch a socket"))?;
        }
        Ok(())
    }

    /// Takes what was refused elsewhere and belongs here, before anything new.
    fn send_again(&mut self, at: usize) -> Result<(), BenchError> {
        let Self {
            context: common,
            lanes,
            scratch,
            follow,
            ..
        } = self;
        let (lane, Some(follow)) = (&mut lanes[at], follow) else {
            return Ok(());
        };
        while lane.takes()
            && let Some(request) = follow.next_for(lane.home, common, scratch)
        {
            let slot = lane.free.pop().expect("it takes one more");
            lane.slots[slot as usize] = Some(request);
            lane.send(common, scratch, slot, request.action, request.modifying)?;
        }
        Ok(())
    }

    /// A connection broke: what was in flight on it goes to another one, or to the one in its place.
    fn lose(&mut self, at: usize, reason: String) -> Result<(), BenchError> {
        if self.follow.is_none() {
            return Err(self.broken(at, reason));
        }
        self.take_back(at);
        let lane = &mut self.lanes[at];
        lane.lost = true;
        epoll::delete(&self.poll, &lane.socket).map_err(local("forget a socket"))
    }

    /// What is in flight on a connection is to be sent again.
    fn take_back(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let taken = lane.slots.iter_mut().filter_map(Option::take);
        if let Some(follow) = &mut self.follow {
            follow.again.extend(taken);
        }
        lane.free = (0..self.outstanding).rev().collect();
    }

    /// Asks who serves what when that has changed, and goes on there.
    fn follow(&mut self, now_ns: u64) -> Result<(), BenchError> {
        let Some(follow) = &mut self.follow else {
            return Ok(());
        };
        if let Some(rerouted) = follow.answer() {
            let Rerouted { routes, moved, more } = rerouted;
            self.context.routes = Arc::new(routes);
            for (at, connection) in moved {
                self.take_back(at);
                self.context.recorder.reconnected += 1;
                let data = epoll::EventData::new_u64(at as u64);
                epoll::add(&self.poll, &connection.socket, data, epoll::EventFlags::IN)
                    .map_err(local("watch a socket"))?;
                let lane = &mut self.lanes[at];
                // The old socket leaves the poll as it is closed.
                lane.socket = connection.socket;
                lane.driver = connection.driver;
                lane.home = connection.home;
                (lane.lost, lane.blocked) = (false, false);
            }
            for connection in more {
                let data = epoll::EventData::new_u64(self.lanes.len() as u64);
                epoll::add(&self.poll, &connection.socket, data, epoll::EventFlags::IN)
                    .map_err(local("watch a socket"))?;
                let number = self.lanes.len();
                let source = Source::Errands(Prng::new(now_ns));
                self.lanes
                    .push(Lane::new(number, connection, source, self.outstanding));
            }
            for at in 0..self.lanes.len() {
                self.lanes[at].paused = false;
                self.refill(at)?;
            }
        }
        let is_needed = self.waits_for_routes();
        if let Some(follow) = &mut self.follow
            // What is all that is left was drawn for a shard that no connection leads to.
            && (is_needed || !follow.again.is_empty() || follow.is_all(self.in_flight))
        {
            let homes = self.lanes.iter().map(|lane| lane.home.filter(|_| !lane.lost));
            follow.ask(now_ns, &self.context.routes, homes.collect())?;
        }
        Ok(())
    }

    fn broken(&self, at: usize, reason: String) -> BenchError {
        BenchError::Broken {
            connection: self.lanes[at].number,
            address: self.context.address,
            reason,
        }
    }

    /// A socket is ready: receives once, takes the answers, starts what follows, sends once.
    fn ready(&mut self, at: usize) -> Result<(), BenchError> {
        let lane = &mut self.lanes[at];
        if lane.lost {
            return Ok(());
        }
        let received = match lane.socket.read(lane.driver.spare()) {
            Ok(0) => return self.lose(at, "the server closed it".to_owned()),
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return self.lose(at, error.to_string()),
        };
        if received > 0 {
            self.context
                .shared
                .bytes_received
                .fetch_add(received as u64, Ordering::Relaxed);
            self.take_answers(at, received)?;
        }
        self.refill(at)
    }

    fn take_answers(&mut self, at: usize, received: usize) -> Result<(), BenchError> {
        let now_ns = self.now_ns();
        let Self {
            context: common,
            lanes,
            in_flight,
            refused_since_ns,
            answered_ns,
            follow,
            ..
        } = self;
        let Lane {
            driver,
            slots,
            free,
            source,
            paused,
            ..
        } = &mut lanes[at];
        let mut answers = 0u64;
        let mut modify = Vec::new();
        let mut not_asked = None;
        let result = driver.filled(received, &mut |slot, answer| {
            let Some(request) = slots.get_mut(slot as usize).and_then(Option::take) else {
                not_asked = Some(slot);
                return;
            };
            if let (Answer::Elsewhere(_), Some(follow)) = (answer, follow.as_mut()) {
                free.push(slot);
                *paused = true;
                common.recorder.redirected += 1;
                follow.again.push_back(request);
                return;
            }
            if let (Action::ReadModifyWrite { .. }, false) = (request.action, request.modifying) {
                slots[slot as usize] = Some(InFlight {
                    modifying: true,
                    ..request
                });
                judge(common, request.action, answer);
                modify.push((slot, request.action));
                return;
            }
            free.push(slot);
            answers += 1;
            let refused = judge(common, request.action, answer);
            if !refused {
                common.recorder.answered(request.intended_ns, now_ns);
            }
            let goes_again = source.settled(request.action, refused);
            *refused_since_ns = goes_again.then(|| refused_since_ns.unwrap_or(now_ns));
        });
        *in_flight -= answers;
        if answers > 0 {
            *answered_ns = now_ns;
        }
        common.shared.answers.fetch_add(answers, Ordering::Relaxed);
        if let Err(error) = result {
            return Err(self.broken(at, error.to_string()));
        }
        if let Some(slot) = not_asked {
            return Err(self.broken(at, format!("it answered request {slot}, which is not in flight")));
        }
        let patience_ns = LOAD_PATIENCE.as_nanos();
        if refused_since_ns.is_some_and(|since_ns| u128::from(now_ns.saturating_sub(since_ns)) > patience_ns)
        {
            let message = common.recorder.first_failure.take().unwrap_or_default();
            return Err(BenchError::Refused {
                address: common.address,
                step: "load the records",
                message,
            });
        }
        for (slot, action) in modify {
            self.lanes[at].send(&self.context, &mut self.scratch, slot, action, true)?;
        }
        Ok(())
    }

    /// What is still due or in flight has waited at least until now.
    fn leave_unanswered(&mut self) {
        let now_ns = self.now_ns();
        let common = &mut self.context;
        let again = self.follow.iter().flat_map(|follow| &follow.again);
        let in_flight = self.lanes.iter().flat_map(|lane| &lane.slots).flatten();
        for request in in_flight.chain(again) {
            common.recorder.unanswered(request.intended_ns, now_ns);
        }
        if let Some(schedule) = &mut common.schedule {
            while let Some(intended_ns) = schedule.take_due(now_ns) {
                common.recorder.unanswered(intended_ns, now_ns);
            }
        }
    }
}
