//! One connection: requests out, replies to the inbox of their request.

use super::reply::Reply;
use base::{ClientId, RequestId};
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use env::sync::Notify;
use env::{Address, Clock, Env, Net, Reader, TaskClass, Tasks, Writer};
use sim::{SimEnv, SimReader, SimWriter};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use wire::{Code, FrameReader, Message, Outbox, decode_reply, request};

/// What an inbox holds next.
#[derive(Debug)]
pub enum Next {
    /// A reply.
    Reply(Reply),
    /// Nothing will come: the connection has ended.
    Closed,
    /// Nothing came in time.
    TimedOut,
}

/// The replies to one request.
#[derive(Debug)]
pub struct Inbox {
    request: RequestId,
    replies: RefCell<VecDeque<Reply>>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Inbox {
    /// The request.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// The next reply, waiting for it.
    pub async fn next(&self, env: &SimEnv, patience: Duration) -> Next {
        let reply = async {
            loop {
                if let Some(reply) = self.replies.borrow_mut().pop_front() {
                    return Next::Reply(reply);
                }
                if self.closed.get() {
                    return Next::Closed;
                }
                self.changed.notified().await;
            }
        };
        within(env, patience, reply).await.unwrap_or(Next::TimedOut)
    }
}

/// A connection of a client.
#[derive(Debug)]
pub struct Connection {
    outbox: RefCell<Outbox>,
    inboxes: RefCell<BTreeMap<RequestId, Rc<Inbox>>>,
    last: Cell<u32>,
    dead: Cell<bool>,
    staged: Notify,
    writer: SimWriter,
}

impl Connection {
    /// Connects and says hello. Also says how many shards the node has.
    ///
    /// # Errors
    /// The code with which the node refused, or `None` when it could not be reached.
    pub async fn open(
        env: &SimEnv,
        address: Address,
        client: ClientId,
        shard: Option<u16>,
        patience: Duration,
    ) -> Result<(Rc<Self>, u16), Option<Code>> {
        let socket = within(env, patience, env.net().connect(address)).await;
        let Some(Ok(socket)) = socket else {
            return Err(None);
        };
        let (reader, writer) = env.net().adopt(socket);
        let connection = Rc::new(Self {
            outbox: RefCell::new(Outbox::new()),
            inboxes: RefCell::new(BTreeMap::new()),
            last: Cell::new(0),
            dead: Cell::new(false),
            staged: Notify::new(),
            writer,
        });
        env.tasks()
            .spawn(TaskClass::Foreground, connection.clone().receive(reader));
        env.tasks()
            .spawn(TaskClass::Foreground, connection.clone().transmit());
        let version = u16::from(wire::frame::VERSION);
        let inbox = connection.send(&request::Hello {
            client: client.0.to_le_bytes(),
            shard,
            version_min: version,
            version_max: version,
            app: "system",
        });
        let refused = match inbox.next(env, patience).await {
            Next::Reply(Reply::Hello(shards)) => return Ok((connection, shards)),
            Next::Reply(Reply::Refused { code, .. }) => Some(code),
            Next::Reply(_) | Next::Closed | Next::TimedOut => None,
        };
        connection.hang_up();
        Err(refused)
    }

    /// Sends a request; its replies come to the inbox.
    ///
    /// # Panics
    /// When the message does not fit a frame.
    pub fn send<M: Message>(&self, message: &M) -> Rc<Inbox> {
        self.last.set(self.last.get() + 1);
        let request = RequestId(self.last.get());
        let inbox = Rc::new(Inbox {
            request,
            replies: RefCell::default(),
            closed: Cell::new(self.dead.get()),
            changed: Notify::new(),
        });
        self.inboxes.borrow_mut().insert(request, inbox.clone());
        let pushed = self.outbox.borrow_mut().push(request, message);
        pushed.expect("the harness sends no oversized frame");
        self.staged.notify();
        inbox
    }

    /// Lets a scan send more pages.
    ///
    /// # Panics
    /// Never: a credit fits a frame.
    pub fn credit(&self, request: RequestId, pages: u32) {
        let pushed = self
            .outbox
            .borrow_mut()
            .push(request, &request::ScanCredit { pages });
        pushed.expect("a credit fits a frame");
        self.staged.notify();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Ends it.
    pub fn hang_up(&self) {
        self.writer.shutdown();
        self.dead.set(true);
        self.staged.notify();
        for inbox in core::mem::take(&mut *self.inboxes.borrow_mut()).into_values() {
            inbox.closed.set(true);
            inbox.changed.notify();
        }
    }

    async fn transmit(self: Rc<Self>) {
        while !self.dead.get() {
            let len = self.outbox.borrow().len();
            if len == 0 {
                self.staged.notified().await;
                continue;
            }
            let written = self.writer.try_write(self.outbox.borrow().bytes());
            match written {
                Ok(written) if written > 0 => self.outbox.borrow_mut().consume(written),
                Ok(_) => {
                    if self.writer.writable().await.is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        self.hang_up();
    }

    async fn receive(self: Rc<Self>, mut reader: SimReader) {
        let mut frames = FrameReader::new(base::limits::FRAME_BYTES_MAX);
        while !self.dead.get() {
            match reader.read(frames.spare()).await {
                Ok(received) if received > 0 => frames.filled(received),
                Ok(_) | Err(_) => break,
            }
            while let Some(frame) = frames.next().expect("the node sends frames") {
                let request = frame.request;
                let reply = decode_reply(&frame).expect("the node sends messages");
                let Some(reply) = Reply::from_wire(&reply) else {
                    panic!("the node sent an unknown error code: {reply:?}");
                };
                if request == RequestId(0) {
                    // The node closes the connection; what was asked is open.
                    continue;
                }
                if let Some(inbox) = self.inboxes.borrow().get(&request) {
                    inbox.replies.borrow_mut().push_back(reply);
                    inbox.changed.notify();
                }
            }
            // Inboxes that nobody else holds any more are of no use.
            self.inboxes
                .borrow_mut()
                .retain(|_, inbox| Rc::strong_count(inbox) > 1);
        }
        self.hang_up();
    }
}

/// What `future` gives, if it does in time.
pub async fn within<F: Future>(env: &SimEnv, patience: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut sleep = pin!(env.clock().sleep(patience));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}
