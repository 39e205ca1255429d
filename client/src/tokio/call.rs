//! One call: tries until an answer, a refusal for good, or the deadline.

use super::connection::{Connection, SubmitError, Watch};
use super::part::push_for;
use super::pool::{NoConnection, Pool};
use crate::range_cache::{RangeCache, RangeInfo};
use crate::request::{Refusal, Reply, Request, Route};
use crate::retry::{Failure, Next, Retry};
use crate::routing::{Course, Routing, ServerId, Target, Trouble, Turn};
use crate::{Address, Error, Options};
use base::api::WriteId;
use base::{NodeId, RequestId, ShardId};
use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use wire::{Code, EncodeError};

/// Between two looks at the range map that nothing failed for.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn too_large(error: EncodeError) -> Error {
    let (bytes, max) = (u64::from(error.bytes), u64::from(error.max));
    Error::TooLarge {
        what: "a request (bytes)",
        code: Code::BatchTooLarge,
        bytes,
        max,
    }
}

/// The tries of one call, or of one page of a scan.
#[derive(Debug)]
pub(crate) struct Tries {
    started: Instant,
    deadline: Duration,
    retry: Retry,
    pub(crate) course: Course,
}

impl Tries {
    pub(crate) fn new(options: &Options, is_write: bool) -> Self {
        Self {
            started: Instant::now(),
            deadline: options.deadline,
            retry: Retry::new(options, is_write),
            course: Course::default(),
        }
    }

    /// Progress was made: all the time is there again.
    pub(crate) fn reset(&mut self) {
        self.started = Instant::now();
        self.retry.reset();
        self.course = Course::new(self.course.goes_near);
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.started + self.deadline
    }

    /// Whether time is left after a pause.
    pub(crate) fn has_time(&self, pause: Duration) -> bool {
        self.started.elapsed() + pause < self.deadline
    }

    pub(crate) fn server_deadline_ms(&self) -> u32 {
        self.retry.server_deadline_ms(self.started.elapsed())
    }
}

impl Pool {
    /// Performs `request`. The reply is not a refusal.
    pub(crate) async fn call(self: &Arc<Self>, request: &Request<'_>) -> Result<Reply, Error> {
        if let Some(limits) = self.limits() {
            limits.check(request)?;
        }
        let mut tries = Tries::new(&self.options, request.is_write());
        tries.course = Course::new(request.is_stale());
        let number = if request.is_write() {
            let waiting = tokio::time::timeout(self.options.deadline, self.begin_write());
            Some(waiting.await.map_err(|_| self.late())?)
        } else {
            None
        };
        let mut request = *request;
        loop {
            let id = number
                .as_ref()
                .map_or_else(WriteId::default, |number| number.id());
            let target = self.aim_near(request.route(), &mut tries.course);
            let asked = self.elapsed();
            let failure = match self.attempt(&request, &target, id, &mut tries).await {
                Ok(Reply::Refused(refusal)) => Failure::Refused(refusal),
                Ok(Reply::Transact { answer, now }) => {
                    self.answered(&target);
                    self.clock_seen(now, asked);
                    let push = push_for(request.reads_at(), now);
                    match self.clear_way(*answer, push, tries.deadline()).await? {
                        Some(failure) => failure,
                        None => {
                            request.read_at(now);
                            continue;
                        }
                    }
                }
                Ok(reply) => {
                    self.answered(&target);
                    if let Reply::RangeMap { map, nodes } = &reply {
                        self.map_seen(target.server, map.clone(), nodes.clone());
                    }
                    if let Reply::Split(_) | Reply::Moved(_) | Reply::Merged(_) = &reply {
                        self.catch_up(&target).await;
                    }
                    if matches!(reply, Reply::ConditionFailed { .. })
                        && let Some(error) = tries.retry.on_condition_failed()
                    {
                        return Err(error);
                    }
                    if let Reply::Written(ts) | Reply::Modified { ts, .. } = &reply {
                        self.saw(*ts);
                    }
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            self.after(failure, &target, &mut tries).await?;
        }
    }

    pub(crate) fn late(&self) -> Error {
        Error::DeadlineExceeded {
            after: self.options.deadline,
            last: None,
        }
    }

    /// After a failed try: learns from it, waits, and looks at the range map, as far as each helps the next one. The error is
    /// the call's.
    pub(crate) async fn after(
        self: &Arc<Self>,
        failure: Failure,
        target: &Target,
        tries: &mut Tries,
    ) -> Result<(), Error> {
        let turn = match &failure {
            Failure::Refused(refusal) => self.after_refusal(refusal, target, tries).await,
            Failure::NotSent(_) | Failure::Lost(_) => self.elsewhere(&mut tries.course),
            Failure::TimedOut => Turn::Pause,
        };
        let moved =
            matches!(&failure, Failure::Refused(refusal) if refusal.code == Code::WrongShard.number());
        let next = tries.retry.on_failure(
            failure,
            turn == Turn::AtOnce,
            tries.started.elapsed(),
            &mut self.prng(),
        );
        let (pause, version) = match next {
            Next::End(error) => return Err(error),
            Next::Again {
                pause,
                range_map_version,
            } => (pause, range_map_version),
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let is_home = self.routing().home() == target.server;
        let known = self.routing().map_version(target.server);
        // When this fails the next try fails too, and says why.
        if is_home && version > known {
            let is_enough = |routing: &Routing| routing.map_version(routing.home()) >= version;
            let _ = self.refresh_unless(is_enough, tries.deadline()).await;
        } else if moved {
            let _ = self
                .refresh_of(target, version.max(known + 1), tries.deadline())
                .await;
        }
        Ok(())
    }

    async fn after_refusal(self: &Arc<Self>, refusal: &Refusal, target: &Target, tries: &mut Tries) -> Turn {
        let code = Code::from_number(refusal.code);
        if code == Some(Code::ShuttingDown) {
            self.failed(target.server, Trouble::Broke);
            return self.elsewhere(&mut tries.course);
        }
        self.refused(target);
        if code != Some(Code::NotLeader) {
            if code == Some(Code::BatchSpansRanges) {
                self.route(|routing, _| routing.map_is_old(target.server));
            }
            tries.course.stay();
            return Turn::Pause;
        }
        let (range, leader) = (refusal.range, refusal.leader);
        let turn = self.route(|routing, now| routing.refused(target, range, leader, &mut tries.course, now));
        let Turn::Learn(node) = turn else {
            if let Turn::Probe(server) = turn {
                self.probe(server, target.shard);
            }
            if self.routing().is_news_of_range(target, range) {
                self.route(|routing, _| routing.range_was_news(target, range));
                self.refresh_soon();
            }
            return turn;
        };
        // When this fails, or nobody knows the node, the next server is asked.
        let _ = self
            .refresh_unless(|routing| routing.knows(node), tries.deadline())
            .await;
        self.route(|routing, now| {
            let leader = leader.filter(|leader| routing.knows(*leader));
            routing.refused(target, range, leader, &mut tries.course, now)
        })
    }

    pub(crate) async fn attempt(
        self: &Arc<Self>,
        request: &Request<'_>,
        target: &Target,
        id: WriteId,
        tries: &mut Tries,
    ) -> Result<Reply, Failure> {
        let deadline = tries.deadline();
        let connection = self.connect_for(target, deadline).await?;
        let (watch, begun) = (connection.watch(), Instant::now());
        let allowance = tries.course.allowance(target.server, self.options.try_timeout);
        let until = self.step_deadline(allowance, deadline);
        let permit = match tokio::time::timeout_at(until.into(), connection.room()).await {
            Ok(permit) => permit.map_err(Failure::NotSent)?,
            Err(_) if until < deadline => {
                let error = self.unanswered(&watch, begun, target, tries);
                return Err(Failure::NotSent(error));
            }
            Err(_) => return Err(Failure::NotSent(self.late())),
        };
        if let Err(error) = connection.info.limits.check(request) {
            return Ok(refuse(error));
        }
        let deadline_ms = tries.server_deadline_ms();
        let pending = connection.call(permit, |outbox, number| {
            request.encode(outbox, number, id, deadline_ms)
        });
        let pending = match pending {
            Ok(pending) => pending,
            Err(SubmitError::Closed(error)) => return Err(Failure::NotSent(error)),
            Err(SubmitError::Encode(error)) => return Ok(refuse(too_large(error))),
        };
        let until = if request.takes_long() { deadline } else { until };
        let sent = Instant::now();
        match tokio::time::timeout_at(until.into(), pending.wait()).await {
            Ok(Ok(reply)) => {
                if tries.course.goes_near {
                    self.took(target.server, sent.elapsed());
                }
                if connection.take_misrouted() {
                    self.was_misrouted(target.server);
                }
                Ok(reply)
            }
            Ok(Err(error)) => {
                self.failed(target.server, Trouble::Broke);
                Err(Failure::Lost(error))
            }
            Err(_) if until < deadline => Err(Failure::Lost(self.unanswered(&watch, begun, target, tries))),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    /// A try got no answer in the time that it has where other servers are known. A server that answered others meanwhile is
    /// slow, not gone: only this call goes elsewhere.
    pub(crate) fn unanswered(
        self: &Arc<Self>,
        watch: &Watch,
        begun: Instant,
        target: &Target,
        tries: &mut Tries,
    ) -> Error {
        tries.course.unanswered(target.server);
        let (error, is_silent) = watch.give_up(begun.elapsed());
        if is_silent {
            self.failed(target.server, Trouble::Silent);
        }
        error
    }

    /// There is no connection to a server, and perhaps that is its fault.
    fn not_connected(self: &Arc<Self>, server: ServerId, trouble: Option<Trouble>) {
        if let Some(trouble) = trouble {
            self.failed(server, trouble);
        }
    }

    /// The connection for one try.
    pub(crate) async fn connect_for(
        self: &Arc<Self>,
        target: &Target,
        deadline: Instant,
    ) -> Result<Arc<Connection>, Failure> {
        let NoConnection { error, trouble } =
            match self.connection(target.server, target.shard, deadline).await {
                Ok(connection) => return Ok(connection),
                Err(none) => none,
            };
        let Error::Server { code, retryable, .. } = error else {
            self.not_connected(target.server, trouble);
            return Err(Failure::NotSent(error));
        };
        if code == Code::NoSuchShard.number() {
            // The node was started again with fewer shards: the map of its earlier life routes nowhere.
            let version = self.routing().map_version(target.server) + 1;
            let _ = self.refresh_of(target, version, deadline).await;
        } else if !retryable && self.routing().servers() == 1 {
            return Err(Failure::Refused(Refusal::for_good(error, code)));
        } else {
            self.not_connected(target.server, trouble);
        }
        Err(Failure::NotSent(error))
    }

    /// As [`Self::aim`]. Where the nearest server is wanted, it is found out in the background how far those are that were never
    /// spoken to.
    pub(crate) fn aim_near(self: &Arc<Self>, route: Route<'_>, course: &mut Course) -> Target {
        let target = self.aim(route, course);
        for server in core::mem::take(&mut course.unknown) {
            self.probe(server, target.shard);
        }
        target
    }

    /// Finds out in the background whether a server that was silent is there again.
    fn probe(self: &Arc<Self>, server: ServerId, shard: ShardId) {
        if self.is_connecting(server) {
            return;
        }
        let (pool, deadline) = (self.clone(), Instant::now() + self.options.deadline);
        tokio::spawn(async move {
            // When this fails it is as before: the server is avoided until its time is over.
            if pool.connection(server, shard, deadline).await.is_ok() {
                pool.says_hello(server);
            }
        });
    }

    /// A server passed something on to another one of its shards.
    pub(crate) fn was_misrouted(self: &Arc<Self>, server: ServerId) {
        if !self.routing().is_old(server) {
            self.route(|routing, _| routing.map_is_old(server));
        }
        self.refresh_soon();
    }

    /// Asks for newer range maps in the background: requests are answered without them, only slower.
    pub(crate) fn refresh_soon(self: &Arc<Self>) {
        self.tell_soon(Vec::new());
    }

    /// Asks in the background whoever is to be asked for a range map besides `asked`, at most once at a time and not too often.
    fn tell_soon(self: &Arc<Self>, mut asked: Vec<ServerId>) {
        if self.refresh_planned.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + pool.options.deadline;
            while let Some(server) = pool.next_to_tell(&asked) {
                asked.push(server);
                let _one = pool.refreshing.lock().await;
                // When this fails, the next that is misrouted asks again.
                let _ = pool.take_ranges(server, ShardId(0), deadline).await;
            }
            tokio::time::sleep(REFRESH_PAUSE).await;
            pool.refresh_planned.store(false, Ordering::Relaxed);
        });
    }

    /// Asks home for its range map unless more maps than `seen` were seen by now.
    pub(crate) async fn refresh_beyond(self: &Arc<Self>, seen: u64, deadline: Instant) -> Result<(), Error> {
        self.refresh_unless(|routing| routing.maps_seen() > seen, deadline)
            .await
    }

    /// Asks the server of `target` for its range map unless the one that is known is at least as new as `version`.
    async fn refresh_of(
        self: &Arc<Self>,
        target: &Target,
        version: u64,
        deadline: Instant,
    ) -> Result<(), Error> {
        let _one = self.one_refresh(deadline).await?;
        if self.routing().map_version(target.server) >= version {
            return Ok(());
        }
        self.take_ranges(target.server, ShardId(0), deadline).await
    }

    /// The server of `target` has changed ranges: takes in its range map, and home's. A client that has none yet goes on without.
    async fn catch_up(self: &Arc<Self>, target: &Target) {
        let (home, seen) = {
            let routing = self.routing();
            (routing.home(), routing.maps_seen())
        };
        if seen == 0 {
            return;
        }
        let deadline = Instant::now() + self.options.deadline;
        if home != target.server {
            self.route(|routing, _| routing.map_is_old(target.server));
        }
        let _ = self.refresh_beyond(seen, deadline).await;
    }

    /// One call at a time asks for range maps.
    async fn one_refresh(&self, deadline: Instant) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        let one = tokio::time::timeout_at(deadline.into(), self.refreshing.lock());
        one.await.map_err(|_| self.late())
    }

    /// Asks home for its range map unless `enough` is known, then those whose maps are old, and in the background others for what these
    /// do not know. When home fails the next one is asked, each server once.
    async fn refresh_unless(
        self: &Arc<Self>,
        enough: impl Fn(&Routing) -> bool,
        deadline: Instant,
    ) -> Result<(), Error> {
        let _one = self.one_refresh(deadline).await?;
        if enough(&self.routing()) {
            return Ok(());
        }
        let mut course = Course::default();
        loop {
            let target = self.aim(Route::Home(ShardId(0)), &mut course);
            let error = match self.take_ranges(target.server, target.shard, deadline).await {
                Ok(()) => {
                    let mut asked = vec![target.server];
                    while let Some(server) = self.next_to_tell(&asked) {
                        if !self.routing().is_old(server) {
                            self.tell_soon(asked);
                            break;
                        }
                        asked.push(server);
                        // When this fails, what goes out again fails too.
                        let _ = self.take_ranges(server, ShardId(0), deadline).await;
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            if self.elsewhere(&mut course) != Turn::AtOnce || Instant::now() >= deadline {
                return Err(error);
            }
        }
    }

    /// All ranges, as home knows them now, and where it does not, as others do that answer.
    pub(crate) async fn all_ranges(self: &Arc<Self>) -> Result<Vec<RangeInfo>, Error> {
        let deadline = Instant::now() + self.options.deadline;
        self.refresh_beyond(self.maps_seen(), deadline).await?;
        let mut asked = vec![self.routing().home()];
        loop {
            let next = self.routing().next_beside_home(&asked, self.elapsed());
            let Some(server) = next else { break };
            asked.push(server);
            let _one = self.one_refresh(deadline).await?;
            // Ranges that only it has are missing.
            let _ = self.take_ranges(server, ShardId(0), deadline).await;
        }
        Ok(self.routing().ranges_of(&asked))
    }

    /// Who is to be asked for a range map next.
    fn next_to_tell(&self, asked: &[ServerId]) -> Option<ServerId> {
        self.routing().next_to_tell(asked, self.elapsed())
    }

    /// Asks a server for its range map, and takes it in.
    async fn take_ranges(
        self: &Arc<Self>,
        server: ServerId,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (map, nodes) = self.ask_for_ranges(server, shard, deadline).await?;
        self.says_hello(server);
        self.map_seen(server, map, nodes);
        Ok(())
    }

    async fn ask_for_ranges(
        self: &Arc<Self>,
        server: ServerId,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<(RangeCache, Vec<(NodeId, Address)>), Error> {
        let deadline = deadline.max(Instant::now() + Duration::from_millis(1));
        let connection = self.connection(server, shard, deadline);
        let connection = connection.await.map_err(|none| {
            self.not_connected(server, none.trouble);
            none.error
        })?;
        let (watch, begun) = (connection.watch(), Instant::now());
        let until = self.step_deadline(self.options.try_timeout, deadline);
        let Ok(answer) = tokio::time::timeout_at(until.into(), ask_for_ranges(&connection)).await else {
            if until == deadline {
                return Err(self.late());
            }
            let (error, is_silent) = watch.give_up(begun.elapsed());
            if is_silent {
                self.failed(server, Trouble::Silent);
            }
            return Err(error);
        };
        // Also one that refuses, or tells nonsense: the map is that of another server from here on.
        if answer.is_err() {
            self.failed(server, Trouble::Broke);
        }
        answer
    }

    /// Finds a server that answers, each asked once, and makes it home.
    pub(crate) async fn first_connection(self: &Arc<Self>, deadline: Instant) -> Result<(), Error> {
        let mut course = Course::default();
        let mut errors = Vec::new();
        loop {
            let target = self.aim(Route::Home(ShardId(0)), &mut course);
            match self.connection(target.server, target.shard, deadline).await {
                Ok(_) => {
                    self.says_hello(target.server);
                    return Ok(());
                }
                Err(none) => {
                    self.not_connected(target.server, none.trouble);
                    errors.push(none.error);
                }
            }
            if self.elsewhere(&mut course) != Turn::AtOnce {
                return Err(none_answers(errors));
            }
        }
    }
}

/// One error for several servers. A refusal tells more than that others could not be reached.
fn none_answers(mut errors: Vec<Error>) -> Error {
    let told = errors
        .iter()
        .position(|error| !matches!(error, Error::Unavailable { .. }));
    if let Some(at) = told {
        return errors.swap_remove(at);
    }
    let (mut addresses, mut causes) = (Vec::new(), Vec::new());
    for error in &errors {
        if let Error::Unavailable { address, cause } = error {
            addresses.push(address.as_str());
            causes.push(cause.as_str());
        }
    }
    Error::Unavailable {
        address: addresses.join(", "),
        cause: causes.join("; "),
    }
}

async fn ask_for_ranges(connection: &Connection) -> Result<(RangeCache, Vec<(NodeId, Address)>), Error> {
    let permit = connection.room().await?;
    let request = Request::RangeMap;
    let encode = |outbox: &mut wire::Outbox, number: RequestId| {
        request.encode(outbox, number, WriteId::default(), 1000)
    };
    let pending = connection.call(permit, encode).map_err(|error| match error {
        SubmitError::Closed(error) => error,
        SubmitError::Encode(error) => too_large(error),
    })?;
    match pending.wait().await? {
        Reply::RangeMap { map, nodes } => Ok((map, nodes)),
        other => Err(other.unexpected("a request for the range map")),
    }
}

/// A refusal by the client itself, for good.
fn refuse(error: Error) -> Reply {
    let code = error.code().number();
    Reply::Refused(Refusal::for_good(error, code))
}
