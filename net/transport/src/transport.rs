//! The driver: one task per connection that receives, one `flush` per loop turn that sends.

use crate::config::{ConfigError, TransportConfig};
use crate::connection::{CloseReason, Connection, ConnectionId};
use crate::egress::{Egress, sweep};
use crate::receiver::Receiver;
use crate::slots::{Link, Slots};
use base::{RequestId, ShardId};
use core::cell::{Cell, RefCell};
use env::{Clock, Env, Listener, Net, TaskClass, Tasks};
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::frame::{Frame, HELLO_BYTES_MAX};
use wire::peer::ArchivedPeerHello;
use wire::reply::ErrorReply;
use wire::request::ArchivedHello;
use wire::{FrameBuffer, FrameReader, Message, WireError};

pub(crate) type Socket<E> = <<E as Env>::Net as Net>::Socket;
pub(crate) type ReaderOf<E> = <<E as Env>::Net as Net>::Reader;
pub(crate) type WriterOf<E> = <<E as Env>::Net as Net>::Writer;

/// What to do with a connection that has said hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloAnswer {
    /// It stays. The handler has sent, or will send, the reply; to a shard of another node it sends nothing.
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
    /// The first frame of a client's connection. `request` is what the [`wire::reply::HelloReply`] must carry.
    fn on_hello(&self, id: ConnectionId, request: RequestId, hello: &ArchivedHello<'static>) -> HelloAnswer;

    /// The first frame of a connection that a shard of another node has dialled. It is not answered when it is accepted;
    /// before [`HelloAnswer::Refuse`] an [`ErrorReply`] with request 0 may be sent, which the other node keeps for its
    /// operator.
    fn on_peer_hello(&self, id: ConnectionId, hello: &ArchivedPeerHello) -> HelloAnswer;

    /// A later frame, of any kind but hello. After [`Self::on_hello`] it is not of a peer's kinds, after
    /// [`Self::on_peer_hello`] of no others.
    ///
    /// # Errors
    /// [`WireError`], usually from [`wire::decode_request`] or [`wire::decode_peer`], closes the connection and is counted.
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
    pub(crate) egress: Rc<Egress<E>>,
    pub(crate) counters: RefCell<Counters>,
    /// Memory to receive into that no connection uses now.
    pub(crate) buffers: RefCell<Vec<FrameBuffer>>,
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
            egress: Rc::new(Egress::new(env.clone())),
            env,
            config,
            handler,
            slots: RefCell::new(Slots::default()),
            counters: RefCell::default(),
            buffers: RefCell::default(),
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
            let state = Connection::new(inner.env.clock().now(), &inner.config);
            let link = Link::new(ConnectionId::NONE, writer, state);
            self.farewell(&link, &CloseReason::TooManyConnections);
            return;
        }
        let state = Connection::new(inner.env.clock().now(), &inner.config);
        let link = inner.slots.borrow_mut().insert(|id| Link::new(id, writer, state));
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
        self.appended(&link, before, reply.is_last());
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
        self.appended(&link, before, true);
        true
    }

    /// Notes a reply that was appended where `before` bytes waited.
    fn appended(&self, link: &Rc<Link<WriterOf<E>>>, before: usize, last: bool) {
        let bytes = self.0.egress.appended(link, before);
        link.state.borrow_mut().on_reply(bytes, last);
        self.0.counters.borrow_mut().replies += 1;
    }

    /// Sends what the touched connections have: one `try_write` each. The rest goes out as the peer makes room.
    pub fn flush(&self) {
        self.0.egress.flush();
    }

    /// Closes a connection once what it has been sent so far is gone or cannot go.
    pub fn close(&self, id: ConnectionId) {
        let Some(link) = self.0.slots.borrow().get(id) else {
            return;
        };
        self.0.egress.push_out(&link);
        link.end(CloseReason::Local);
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        let links = self.0.slots.borrow().all();
        for link in links {
            self.0.egress.push_out(&link);
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
        self.0.egress.unsent_bytes()
    }

    /// What the connections did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            sends: self.0.egress.sends(),
            sent_bytes: self.0.egress.sent_bytes(),
            ..self.0.counters.borrow().clone()
        }
    }

    /// Tells the peer why, as far as one send goes, and shuts the connection down.
    pub(crate) fn farewell(&self, link: &Link<WriterOf<E>>, reason: &CloseReason) {
        let name = reason.name();
        *self.0.counters.borrow_mut().closed.entry(name).or_insert(0) += 1;
        let message = reason.to_string();
        let words = reason.code().map(|code| ErrorReply {
            message: &message,
            retryable: *reason == CloseReason::TooManyConnections,
            ..ErrorReply::new(code)
        });
        self.0.egress.farewell(link, words.as_ref());
    }

    /// Looks at time-outs while there are connections.
    fn start_sweeping(&self) {
        if self.0.sweeping.replace(true) {
            return;
        }
        let inner = self.0.clone();
        self.0.env.tasks().spawn(TaskClass::Foreground, async move {
            sweep(
                &inner.env,
                inner.config.sweep_interval,
                || inner.slots.borrow().all(),
                |state, now| state.expired(now, &inner.config),
            )
            .await;
            inner.sweeping.set(false);
        });
    }
}
