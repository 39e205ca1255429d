//! The driver: one task per connection that receives, one `flush` per loop turn that sends.

use crate::config::{ConfigError, TransportConfig};
use crate::connection::{CloseReason, ConnectionId};
use crate::receiver::Receiver;
use crate::slots::{Link, Slots};
use base::{RequestId, ShardId};
use core::cell::{Cell, RefCell};
use env::{Clock, Env, Listener, Net, TaskClass, Tasks, Writer};
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::frame::{Frame, HELLO_BYTES_MAX};
use wire::reply::ErrorReply;
use wire::request::ArchivedHello;
use wire::{FrameBuffer, FrameReader, Message, WireError};

pub(crate) type Socket<E> = <<E as Env>::Net as Net>::Socket;
pub(crate) type ReaderOf<E> = <<E as Env>::Net as Net>::Reader;
pub(crate) type WriterOf<E> = <<E as Env>::Net as Net>::Writer;

/// What to do with a connection that has said hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloAnswer {
    /// It stays. The handler has sent, or will send, the reply.
    Accept,
    /// It belongs to another shard of the node: [`Handler::on_handover`] follows, and the hello is read again there. The
    /// handler must not have sent anything.
    Handover(ShardId),
    /// It is closed, after what the handler has sent.
    Refuse,
}

/// A connection on its way to another shard: the socket, and what was received and not yet read, hello included.
#[derive(Debug)]
pub struct Handover<S> {
    /// The socket.
    pub socket: S,
    /// Bytes received.
    pub unread: Vec<u8>,
}

/// The shard behind the connections. Calls come from connection tasks and never overlap; none may wait.
pub trait Handler<S>: 'static {
    /// The first frame of a connection. `request` is what the [`wire::reply::HelloReply`] must carry.
    fn on_hello(&self, id: ConnectionId, request: RequestId, hello: &ArchivedHello<'static>) -> HelloAnswer;

    /// A later frame, of any kind but hello.
    ///
    /// # Errors
    /// [`WireError`], usually from [`wire::decode_request`], closes the connection and is counted.
    fn on_frame(&self, id: ConnectionId, frame: &Frame<'_>) -> Result<(), WireError>;

    /// Every whole frame of one receive has been handed over: the moment to run a loop turn, or to schedule one.
    fn on_batch_end(&self);

    /// A connection leaves for `shard`.
    fn on_handover(&self, shard: ShardId, handover: Handover<S>);

    /// A connection that had said hello is gone; what it asked for need not be answered.
    fn on_close(&self, id: ConnectionId, reason: &CloseReason);
}

/// What the connections of one shard did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections taken up, handed-over ones included.
    pub opened: u64,
    /// Connections that left for another shard.
    pub handed_over: u64,
    /// Closed connections by [`CloseReason::name`].
    pub closed: BTreeMap<&'static str, u64>,
    /// Failed accepts.
    pub accept_errors: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Receives: with `frames`, how many frames came at once.
    pub receives: u64,
    /// Frames handed to the handler.
    pub frames: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Sends: with `replies`, how many replies left at once.
    pub sends: u64,
    /// Replies appended.
    pub replies: u64,
    /// How often a connection was not read because its window was full.
    pub paused: u64,
}

/// All connections of one shard. Cheap to clone.
pub struct Transport<E: Env, H>(pub(crate) Rc<Inner<E, H>>);

impl<E: Env, H> Clone for Transport<E, H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) struct Inner<E: Env, H> {
    pub(crate) env: E,
    pub(crate) config: TransportConfig,
    pub(crate) handler: Rc<H>,
    pub(crate) slots: RefCell<Slots<WriterOf<E>>>,
    /// Connections with replies appended since the last flush.
    touched: RefCell<Vec<Rc<Link<WriterOf<E>>>>>,
    /// The list of the last flush, kept for its memory.
    flushing: RefCell<Vec<Rc<Link<WriterOf<E>>>>>,
    pub(crate) counters: RefCell<Counters>,
    /// Memory to receive into that no connection uses now.
    pub(crate) buffers: RefCell<Vec<FrameBuffer>>,
    /// Bytes of replies that wait to be sent, over all connections.
    unsent_bytes: Cell<usize>,
    /// Whether the task that looks at time-outs runs.
    sweeping: Cell<bool>,
}

/// Buffers kept for connections that have something to receive.
const BUFFERS_SPARE_MAX: usize = 16;

impl<E: Env, H> Inner<E, H> {
    pub(crate) fn keep_buffer(&self, buffer: FrameBuffer) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_SPARE_MAX {
            buffers.push(buffer);
        }
    }
}

impl<E: Env, H: Handler<Socket<E>>> Transport<E, H> {
    /// A transport without connections.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting is out of its range.
    pub fn new(env: E, config: TransportConfig, handler: Rc<H>) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self(Rc::new(Inner {
            env,
            config,
            handler,
            slots: RefCell::new(Slots::default()),
            touched: RefCell::default(),
            flushing: RefCell::default(),
            counters: RefCell::default(),
            buffers: RefCell::default(),
            unsent_bytes: Cell::new(0),
            sweeping: Cell::new(false),
        })))
    }

    /// Accepts connections until dropped. Failed accepts are counted, and waited out.
    ///
    /// # Cancellation
    /// Safe: connections that were accepted go on.
    pub async fn serve(&self, listener: <E::Net as Net>::Listener) {
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    self.accept(socket);
                    // A storm of connections must not keep the others waiting.
                    if self.0.env.tasks().need_yield() {
                        self.0.env.tasks().yield_now().await;
                    }
                }
                Err(_) => {
                    // Most likely no descriptors are left: trying again at once would only burn the processor.
                    self.0.counters.borrow_mut().accept_errors += 1;
                    self.0
                        .env
                        .clock()
                        .sleep(core::time::Duration::from_millis(50))
                        .await;
                }
            }
        }
    }

    /// Takes up a fresh connection.
    pub fn accept(&self, socket: Socket<E>) {
        self.adopt(Handover {
            socket,
            unread: Vec::new(),
        });
    }

    /// Takes up a connection that another shard hands over.
    pub fn adopt(&self, handover: Handover<Socket<E>>) {
        let inner = &self.0;
        let (reader, writer) = inner.env.net().adopt(handover.socket);
        inner.counters.borrow_mut().opened += 1;
        if inner.slots.borrow().len() >= inner.config.connections_max {
            let link = Link::new(
                ConnectionId {
                    slot: u32::MAX,
                    generation: 0,
                },
                writer,
                inner.env.clock().now(),
                &inner.config,
            );
            self.farewell(&link, &CloseReason::TooManyConnections);
            return;
        }
        let now = inner.env.clock().now();
        let link = inner
            .slots
            .borrow_mut()
            .insert(|id| Link::new(id, writer, now, &inner.config));
        let task = Receiver {
            transport: self.clone(),
            link,
            reader,
            inbox: FrameReader::new(HELLO_BYTES_MAX),
        };
        inner
            .env
            .tasks()
            .spawn(TaskClass::Foreground, task.run(handover.unread));
        self.start_sweeping();
    }

    /// Appends a reply, to be sent by the next [`Self::flush`]. False when the connection is gone or the reply does not fit a
    /// frame; in the second case the connection is closed, since the request would never be answered.
    pub fn send<M: Message>(&self, id: ConnectionId, request: RequestId, reply: &M) -> bool {
        self.send_flagged(id, request, 0, reply)
    }

    /// As [`Self::send`], with the frame's flags: [`wire::frame::FLAG_MISROUTED`] when the request was passed on from here.
    pub fn send_flagged<M: Message>(
        &self,
        id: ConnectionId,
        request: RequestId,
        flags: u8,
        reply: &M,
    ) -> bool {
        let Some(link) = self.0.slots.borrow().get(id) else {
            return false;
        };
        let mut outbox = link.outbox.borrow_mut();
        let before = outbox.len();
        if outbox.push_flagged(request, flags, reply).is_err() {
            drop(outbox);
            self.close(id);
            return false;
        }
        drop(outbox);
        self.appended(link, before, reply.is_last());
        true
    }

    /// Appends one reply that another shard has encoded: a whole frame. False when the connection is gone.
    pub fn send_frame(&self, id: ConnectionId, frame: &[u8]) -> bool {
        let Some(link) = self.0.slots.borrow().get(id) else {
            return false;
        };
        let mut outbox = link.outbox.borrow_mut();
        let before = outbox.len();
        outbox.push_frames(frame);
        drop(outbox);
        // Every page of a scan counts as its end: a window that is a little too wide does no harm, one that never opens
        // again would.
        self.appended(link, before, true);
        true
    }

    /// Notes a reply that was appended where `before` bytes waited.
    fn appended(&self, link: Rc<Link<WriterOf<E>>>, before: usize, last: bool) {
        let after = link.outbox.borrow().len();
        let now = if before == 0 {
            self.0.env.clock().now()
        } else {
            env::Instant::default()
        };
        link.state.borrow_mut().on_reply(after - before, last, after, now);
        self.0.unsent_bytes.update(|bytes| bytes + after - before);
        self.0.counters.borrow_mut().replies += 1;
        if !link.touched.replace(true) {
            self.0.touched.borrow_mut().push(link);
        }
    }

    /// Sends what the touched connections have: one `try_write` each. The rest goes out as the peer makes room.
    pub fn flush(&self) {
        let mut flushing = self.0.flushing.take();
        flushing.append(&mut self.0.touched.borrow_mut());
        for link in flushing.drain(..) {
            link.touched.set(false);
            self.push_out(&link);
        }
        self.0.flushing.replace(flushing);
    }

    /// Closes a connection once what it has been sent so far is gone or cannot go.
    pub fn close(&self, id: ConnectionId) {
        let Some(link) = self.0.slots.borrow().get(id) else {
            return;
        };
        self.push_out(&link);
        link.end(CloseReason::Local);
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        let links = self.0.slots.borrow().all();
        for link in links {
            self.push_out(&link);
            link.end(CloseReason::Local);
        }
    }

    /// How many connections are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.slots.borrow().len()
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of replies that wait to be sent, over all connections: what a handler adds to its memory budget.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.0.unsent_bytes.get()
    }

    /// What the connections did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.counters.borrow().clone()
    }

    /// One `try_write`; a task takes over when something is left.
    fn push_out(&self, link: &Rc<Link<WriterOf<E>>>) {
        if link.draining.get() || !self.write_some(link) {
            return;
        }
        link.draining.set(true);
        base::sometimes!("transport: a reply did not fit the socket");
        let (transport, link) = (self.clone(), link.clone());
        self.0.env.tasks().spawn(TaskClass::Foreground, async move {
            loop {
                if let Err(error) = link.writer.writable().await {
                    link.end(CloseReason::Net(error));
                    break;
                }
                if !transport.write_some(&link) {
                    break;
                }
            }
            link.draining.set(false);
        });
    }

    /// Writes once and says whether something is left.
    fn write_some(&self, link: &Link<WriterOf<E>>) -> bool {
        let mut outbox = link.outbox.borrow_mut();
        if outbox.is_empty() {
            return false;
        }
        let offered = outbox.bytes();
        let offered = if base::misbehave!("transport: short send") {
            &offered[..1]
        } else {
            offered
        };
        match link.writer.try_write(offered) {
            Ok(sent) => {
                outbox.consume(sent);
                self.0.unsent_bytes.update(|bytes| bytes - sent);
                let mut counters = self.0.counters.borrow_mut();
                counters.sends += 1;
                counters.sent_bytes += sent as u64;
                let left = outbox.len();
                if sent > 0 {
                    let now = if left > 0 {
                        self.0.env.clock().now()
                    } else {
                        env::Instant::default()
                    };
                    link.state.borrow_mut().on_sent(left, now);
                }
                let state = link.state.borrow();
                if state.is_paused() && state.may_take(&self.0.config) {
                    link.room.notify();
                }
                left > 0
            }
            Err(error) => {
                self.0.unsent_bytes.update(|bytes| bytes - outbox.len());
                outbox.clear();
                drop(outbox);
                link.end(CloseReason::Net(error));
                false
            }
        }
    }

    /// Tells the peer why, as far as one send goes, and shuts the connection down.
    pub(crate) fn farewell(&self, link: &Link<WriterOf<E>>, reason: &CloseReason) {
        let name = reason.name();
        *self.0.counters.borrow_mut().closed.entry(name).or_insert(0) += 1;
        let unsent = link.outbox.borrow().len();
        self.0.unsent_bytes.update(|bytes| bytes - unsent);
        if let Some(code) = reason.code() {
            let message = reason.to_string();
            let reply = ErrorReply {
                message: &message,
                retryable: *reason == CloseReason::TooManyConnections,
                ..ErrorReply::new(code)
            };
            let mut outbox = link.outbox.borrow_mut();
            if outbox.push(RequestId(0), &reply).is_ok() {
                // The connection ends either way: an error of this last send tells nothing new.
                let _ = link.writer.try_write(outbox.bytes());
            }
        }
        link.outbox.borrow_mut().clear();
        link.writer.shutdown();
    }

    /// Looks at time-outs while there are connections.
    fn start_sweeping(&self) {
        if self.0.sweeping.replace(true) {
            return;
        }
        let transport = self.clone();
        self.0.env.tasks().spawn(TaskClass::Foreground, async move {
            while !transport.is_empty() {
                transport
                    .0
                    .env
                    .clock()
                    .sleep(transport.0.config.sweep_interval)
                    .await;
                let now = transport.0.env.clock().now();
                let links = transport.0.slots.borrow().all();
                for link in links {
                    let expired = link.state.borrow().expired(now, &transport.0.config);
                    if let Some(reason) = expired {
                        link.end(reason);
                        if transport.0.env.tasks().need_yield() {
                            transport.0.env.tasks().yield_now().await;
                        }
                    }
                }
            }
            transport.0.sweeping.set(false);
        });
    }
}
