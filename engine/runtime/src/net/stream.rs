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
    /// The last receive got all there was.
    drained: bool,
}

/// The half that sends.
pub struct SocketWriter {
    connection: Rc<Connection>,
}

impl SocketReader {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            drained: false,
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
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, NetError> {
        let source = &self.connection.watched.source;
        let mut waits_first = self.drained;
        loop {
            if !core::mem::take(&mut waits_first) || source.has_hung_up() {
                match call::receive(source.raw_fd(), buf)? {
                    Some(bytes) => {
                        self.drained = bytes < buf.len();
                        return Ok(bytes);
                    }
                    None if source.is_broken() => {
                        return Err(NetError {
                            what: "receive",
                            kind: ErrorKind::Other,
                        });
                    }
                    None => {}
                }
            }
            poll_fn(|context| source.poll_input(context)).await;
        }
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
