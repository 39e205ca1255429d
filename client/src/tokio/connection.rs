//! One pipelined connection: callers append frames, one task sends what has gathered, one receives and hands out replies.
//!
//! ```text
//!   caller ─► outbox ─► sender task ─► socket
//!   caller ◄─ oneshot ◄─ receiver task ◄─ socket
//! ```
//!
//! Requests that callers append while a send is under way leave together in the next one.

use super::traffic::{Receiver, Sender};
use crate::request::{NodeInfo, Reply};
use crate::{Address, Error, Options};
use base::collections::FastMap;
use base::{ClientId, RequestId, ShardId};
use core::time::Duration;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use wire::frame::VERSION;
use wire::request::{APP_BYTES_MAX, Hello};
use wire::{EncodeError, Outbox};

/// A live connection to one shard.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// What the server said when the connection was made.
    pub(crate) info: NodeInfo,
    /// How long the server took to say so.
    pub(crate) hello_took: Duration,
    /// Room for unanswered requests.
    window: Arc<Semaphore>,
    tasks: [AbortHandle; 2],
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something waits to be sent, or the connection is closed.
    pub(crate) wake: Notify,
    /// The server had to pass a request on to another shard: the range map that this client has is old.
    pub(crate) misrouted: AtomicBool,
    /// How often something arrived.
    pub(crate) heard: AtomicU64,
    /// Where the server is.
    address: String,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) outbox: Outbox,
    waiting: FastMap<RequestId, Waiting>,
    next: u32,
    /// Why the connection is of no further use.
    pub(crate) closed: Option<Error>,
}

/// Who waits for the replies of a request.
#[derive(Debug)]
enum Waiting {
    /// One reply, for one call.
    Call(oneshot::Sender<Result<Reply, Error>>),
    /// Pages, for a scan. The channel has room for every page that the server has credit for.
    Scan(mpsc::Sender<Result<Reply, Error>>),
}

/// A call on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    reply: oneshot::Receiver<Result<Reply, Error>>,
    shared: Arc<Shared>,
    request: RequestId,
    _permit: OwnedSemaphorePermit,
}

/// A scan on its way.
#[derive(Debug)]
pub(crate) struct Stream {
    pages: mpsc::Receiver<Result<Reply, Error>>,
    shared: Arc<Shared>,
    request: RequestId,
    ended: bool,
}

/// Why a request could not be handed to the connection.
#[derive(Debug)]
pub(crate) enum SubmitError {
    /// The connection is closed; nothing was sent.
    Closed(Error),
    /// The request does not fit a frame.
    Encode(EncodeError),
}

impl Connection {
    /// Connects, says hello and waits for the answer, until `deadline`.
    pub(crate) async fn open(
        address: &Address,
        options: &Options,
        client: ClientId,
        shard: Option<ShardId>,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let Address { host, port } = address;
        let address = address.host_and_port();
        let late = || unavailable(&address, "no answer in time");
        let opening = Self::open_within(host, *port, &address, options, client, shard);
        tokio::time::timeout_at(deadline.into(), opening)
            .await
            .map_err(|_| late())?
    }

    async fn open_within(
        host: &str,
        port: u16,
        address: &str,
        options: &Options,
        client: ClientId,
        shard: Option<ShardId>,
    ) -> Result<Self, Error> {
        let failed = |error: std::io::Error| unavailable(address, &error.to_string());
        let socket = TcpStream::connect((host, port)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let (reader, writer) = socket.into_split();
        let state = State {
            outbox: Outbox::new(),
            waiting: FastMap::default(),
            next: 1,
            closed: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            misrouted: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            address: address.to_owned(),
        });
        let receiver = Receiver {
            shared: shared.clone(),
            reader,
            address: address.to_owned(),
        };
        let sender = Sender {
            shared: shared.clone(),
            writer,
            address: address.to_owned(),
        };
        let tasks = [
            tokio::spawn(receiver.run()).abort_handle(),
            tokio::spawn(sender.run()).abort_handle(),
        ];

        // From here on the guard ends both tasks when the hello fails or is cancelled.
        let guard = AbortOnDrop(Some(tasks));
        let app = cut_at_char(&options.app, APP_BYTES_MAX);
        let version = u16::from(VERSION);
        let hello = Hello {
            client: client.0.to_le_bytes(),
            shard: shard.map(|shard| shard.0),
            version_min: version,
            version_max: version,
            app,
        };
        let window = Arc::new(Semaphore::new(1));
        let permit = acquire(&window).await?;
        let said = Instant::now();
        let pending = submit(&shared, permit, |outbox, request| outbox.push(request, &hello));
        let pending = pending.map_err(|error| match error {
            SubmitError::Closed(error) => error,
            SubmitError::Encode(error) => Error::Protocol {
                what: error.to_string(),
            },
        })?;
        let info = match pending.wait().await? {
            Reply::Hello(info) => info,
            other => return Err(other.unexpected("a hello")),
        };
        let hello_took = said.elapsed();
        let requests = info.limits.requests.min(options.requests_max.clamp(1, 65_536));
        let window = Arc::new(Semaphore::new(requests));
        Ok(Self {
            shared,
            info,
            hello_took,
            window,
            tasks: guard.disarm(),
        })
    }

    /// Whether the connection is of no further use.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.lock().closed.is_some()
    }

    /// What a try watches.
    pub(crate) fn watch(&self) -> Watch {
        Watch::new(&self.shared)
    }

    /// Whether a request was passed on by the server since the last time this was asked.
    pub(crate) fn take_misrouted(&self) -> bool {
        self.shared.take_misrouted()
    }

    /// Waits for room for one more request.
    pub(crate) async fn room(&self) -> Result<OwnedSemaphorePermit, Error> {
        acquire(&self.window).await
    }

    /// Appends one request, to be sent at once.
    pub(crate) fn call(
        &self,
        permit: OwnedSemaphorePermit,
        encode: impl FnOnce(&mut Outbox, RequestId) -> Result<(), EncodeError>,
    ) -> Result<Pending, SubmitError> {
        submit(&self.shared, permit, encode)
    }

    /// Starts a scan that may have `credit_pages` pages under way.
    pub(crate) fn scan(
        &self,
        credit_pages: u32,
        encode: impl FnOnce(&mut Outbox, RequestId) -> Result<(), EncodeError>,
    ) -> Result<Stream, SubmitError> {
        // One place more than there is credit, for an error that ends the stream.
        let (sender, pages) = mpsc::channel(credit_pages as usize + 1);
        let request = self.shared.start(Waiting::Scan(sender), encode)?;
        Ok(Stream {
            pages,
            shared: self.shared.clone(),
            request,
            ended: false,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Calls that still wait hold `Shared`, not the connection: tell them, then end the tasks.
        self.shared.close(&Error::Closed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Pending {
    /// The reply, or why none will come. Dropped before that, the reply is ignored when it comes.
    pub(crate) async fn wait(mut self) -> Result<Reply, Error> {
        match (&mut self.reply).await {
            Ok(reply) => reply,
            Err(_) => Err(self.shared.lock().closed.clone().unwrap_or(Error::Closed)),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.request);
    }
}

impl Stream {
    /// The next page or refusal; an error when the connection ended.
    pub(crate) async fn next(&mut self) -> Result<Reply, Error> {
        let reply = match self.pages.recv().await {
            Some(reply) => reply,
            None => Err(self.shared.lock().closed.clone().unwrap_or(Error::Closed)),
        };
        self.ended = match &reply {
            Ok(Reply::Page(page)) => page.done,
            Ok(_) | Err(_) => true,
        };
        reply
    }

    /// What the wait for a page watches.
    pub(crate) fn watch(&self) -> Watch {
        Watch::new(&self.shared)
    }

    /// As [`Connection::take_misrouted`].
    pub(crate) fn take_misrouted(&self) -> bool {
        self.shared.take_misrouted()
    }

    /// Lets the server send `pages` more.
    pub(crate) fn credit(&self, pages: u32) {
        if !self.ended {
            self.shared
                .post(|outbox| outbox.push(self.request, &wire::request::ScanCredit { pages }));
        }
    }
}

/// A connection from the beginning of a try on: tells a server that is slow from one that says nothing at all.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    heard: u64,
}

impl Watch {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            heard: shared.heard.load(Ordering::Relaxed),
        }
    }

    /// No answer came within `waited`: why the try counts as lost, and whether nothing else came either. Then the connection is
    /// closed, so that the next one shows whether the server is there.
    pub(crate) fn give_up(&self, waited: Duration) -> (Error, bool) {
        let cause = format!("no answer within {} ms", waited.as_millis());
        let error = unavailable(&self.shared.address, &cause);
        let is_silent = self.shared.heard.load(Ordering::Relaxed) == self.heard;
        if is_silent {
            self.shared.close(&error);
        }
        (error, is_silent)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.lock().waiting.remove(&self.request);
            self.shared
                .post(|outbox| outbox.push(self.request, &wire::request::ScanCancel { reserved: 0 }));
        }
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; if one did, the state would still be whole between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_misrouted(&self) -> bool {
        // A plain read first: this is asked after every call, and nearly always false.
        self.misrouted.load(Ordering::Relaxed) && self.misrouted.swap(false, Ordering::Relaxed)
    }

    fn start(
        &self,
        waiting: Waiting,
        encode: impl FnOnce(&mut Outbox, RequestId) -> Result<(), EncodeError>,
    ) -> Result<RequestId, SubmitError> {
        let mut state = self.lock();
        if let Some(error) = &state.closed {
            return Err(SubmitError::Closed(error.clone()));
        }
        let request = state.number();
        encode(&mut state.outbox, request).map_err(SubmitError::Encode)?;
        state.waiting.insert(request, waiting);
        drop(state);
        self.wake.notify_one();
        Ok(request)
    }

    /// Appends a frame that is not answered; dropped when the connection is closed.
    fn post(&self, encode: impl FnOnce(&mut Outbox) -> Result<(), EncodeError>) {
        let mut state = self.lock();
        if state.closed.is_none() {
            // These frames are a few bytes long and always fit.
            let _ = encode(&mut state.outbox);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Closes the connection for all who use it. The first reason counts.
    pub(crate) fn close(&self, error: &Error) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.closed = Some(error.clone());
            // Dropping the senders wakes whoever waits.
            state.waiting = FastMap::default();
            state.outbox.clear();
        }
        drop(state);
        self.wake.notify_one();
    }
}

impl State {
    /// A number that no waiting request has. Zero is the server's, for errors of the connection.
    fn number(&mut self) -> RequestId {
        loop {
            let request = RequestId(self.next);
            self.next = self.next.wrapping_add(1);
            if request.0 != 0 && !self.waiting.contains_key(&request) {
                return request;
            }
        }
    }

    /// Hands a reply to whoever waits for it. Replies that nobody waits for any more are ignored.
    pub(crate) fn deliver(&mut self, request: RequestId, reply: Reply) -> Result<(), Error> {
        if request.0 == 0 {
            return Err(reply.unexpected("the connection"));
        }
        let last = !matches!(&reply, Reply::Page(page) if !page.done);
        let waiting = if last { self.waiting.remove(&request) } else { None };
        match (&waiting, self.waiting.get(&request)) {
            (Some(Waiting::Scan(pages)), _) | (None, Some(Waiting::Scan(pages))) => {
                if let Err(mpsc::error::TrySendError::Full(_)) = pages.try_send(Ok(reply)) {
                    return Err(Error::Protocol {
                        what: "more pages of a scan than there was credit for".to_owned(),
                    });
                }
                Ok(())
            }
            (None, Some(Waiting::Call(_))) => Err(Error::Protocol {
                what: "a page for a request that is not a scan".to_owned(),
            }),
            (Some(Waiting::Call(_)), _) => {
                if let Some(Waiting::Call(call)) = waiting {
                    // The caller may have given up meanwhile.
                    let _ = call.send(Ok(reply));
                }
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }
}

async fn acquire(window: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
    window.clone().acquire_owned().await.map_err(|_| Error::Closed)
}

fn submit(
    shared: &Arc<Shared>,
    permit: OwnedSemaphorePermit,
    encode: impl FnOnce(&mut Outbox, RequestId) -> Result<(), EncodeError>,
) -> Result<Pending, SubmitError> {
    let (sender, reply) = oneshot::channel();
    let request = shared.start(Waiting::Call(sender), encode)?;
    Ok(Pending {
        reply,
        shared: shared.clone(),
        request,
        _permit: permit,
    })
}

struct AbortOnDrop(Option<[AbortHandle; 2]>);

impl AbortOnDrop {
    fn disarm(mut self) -> [AbortHandle; 2] {
        self.0.take().expect("a guard is disarmed once")
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        for task in self.0.iter().flatten() {
            task.abort();
        }
    }
}

pub(crate) fn unavailable(address: &str, cause: &str) -> Error {
    Error::Unavailable {
        address: address.to_owned(),
        cause: cause.to_owned(),
    }
}

/// The longest start of `text` that has at most `bytes` bytes and ends between two characters.
fn cut_at_char(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    &text[..end]
}
