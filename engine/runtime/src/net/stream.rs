//! The two halves of a connection.

use super::call;
use super::{Socket, Watched};
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::task::Poll;
use env::net::NetError;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

/// A connection, shared by its halves.
pub(super) struct Connection {
    watched: Watched,
    /// The last send was cut short and no event has come since.
    full: Cell<bool>,
}

impl Connection {
    pub(super) fn new(watched: Watched) -> Self {
        Self {
            watched,
            full: Cell::new(false),
        }
    }

    fn fd(&self) -> i32 {
        self.watched.source.raw_fd()
    }
}

/// The half that receives.
pub struct SocketReader {
    connection: Rc<Connection>,
    level: Level,
}

/// What is known of the bytes that wait in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// There may be some: a receive is worth it.
    Unknown,
    /// The last receive got all there was, or none has been tried: without an event there is nothing.
    Drained,
    /// A receive found nothing: only an event changes that, also after a hang-up.
    Dry,
}

/// The half that sends.
pub struct SocketWriter {
    connection: Rc<Connection>,
}

impl SocketReader {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            level: Level::Drained,
        }
    }

    /// A connection that no shard polls, from its two halves, which the caller then drops.
    pub(super) fn join(reader: &Self, writer: &SocketWriter) -> Socket {
        assert!(
            Rc::ptr_eq(&reader.connection, &writer.connection),
            "the halves belong to two connections"
        );
        // SAFETY: the descriptor is open: `reader` holds it.
        let fd = unsafe { BorrowedFd::borrow_raw(reader.connection.fd()) };
        // A duplicate, because the ring still polls the original until the halves are dropped and the kernel has let go.
        let fd: OwnedFd = fd
            .try_clone_to_owned()
            .expect("a process at its limit of descriptors does not move sockets");
        Socket(fd)
    }
}

impl env::Reader for SocketReader {
    fn try_read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, NetError> {
        let source = &self.connection.watched.source;
        if self.level != Level::Unknown && !source.take_input() {
            return Ok(None);
        }
        let received = call::receive(source.raw_fd(), buf)?;
        self.level = match received {
            Some(bytes) if bytes == buf.len() => Level::Unknown,
            Some(_) => Level::Drained,
            None if source.is_broken() => {
                return Err(NetError {
                    what: "receive",
                    kind: ErrorKind::Other,
                });
            }
            None => Level::Dry,
        };
        Ok(received)
    }

    async fn readable(&mut self) -> Result<(), NetError> {
        let source = &self.connection.watched.source;
        let waits = match self.level {
            Level::Unknown => false,
            Level::Drained => !source.has_hung_up(),
            Level::Dry => true,
        };
        if waits {
            poll_fn(|context| source.poll_input(context)).await;
        }
        self.level = Level::Unknown;
        Ok(())
    }
}

impl SocketWriter {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self { connection }
    }
}

impl env::Writer for SocketWriter {
    fn try_write(&self, bytes: &[u8]) -> Result<usize, NetError> {
        let sent = call::send(self.connection.fd(), bytes)?;
        self.connection.full.set(sent < bytes.len());
        Ok(sent)
    }

    fn writable(&self) -> impl Future<Output = Result<(), NetError>> {
        let connection = &self.connection;
        poll_fn(move |context| {
            if connection.full.get() && connection.watched.source.poll_output(context).is_pending() {
                return Poll::Pending;
            }
            connection.full.set(false);
            Poll::Ready(Ok(()))
        })
    }

    fn shutdown(&self) {
        call::shutdown(self.connection.fd());
    }
}
