//! Connections: nonblocking system calls, and the shard's ring to wait.
//!
//! ```text
//!   read:   recv ── bytes ──────────────────────────► done
//!             └─ EAGAIN, or drained last time ─► wait for the poll ─► recv …
//!   write:  send ── as much as fits ─► done        (the caller waits for `writable` with the rest)
//! ```
//!
//! A read that got less than it asked for has drained the socket, so the next one waits first and saves a `recv` that would
//! say `EAGAIN`; after a hang-up it never waits first, since no further event will come.

mod call;
mod listener;
mod stream;

pub use listener::SocketListener;
pub use stream::{SocketReader, SocketWriter};

use crate::reactor::{Reactor, Source};
use call::net_error;
use core::fmt;
use core::future::poll_fn;
use env::net::{Address, NetError};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use stream::Connection;

/// A connection that no shard has taken up.
pub struct Socket(pub(crate) OwnedFd);

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.0.as_raw_fd())
    }
}

/// The network of one shard.
#[derive(Clone)]
pub struct TcpNet {
    reactor: Rc<Reactor>,
}

/// A descriptor that the shard's ring polls, for as long as this lives.
pub(crate) struct Watched {
    reactor: Rc<Reactor>,
    source: Rc<Source>,
}

impl Watched {
    fn new(reactor: Rc<Reactor>, fd: OwnedFd) -> Self {
        let source = Rc::new(Source::new(fd));
        reactor.watch(&source);
        Self { reactor, source }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.reactor.forget(&self.source);
    }
}

impl TcpNet {
    pub(crate) fn new(reactor: Rc<Reactor>) -> Self {
        Self { reactor }
    }
}

impl env::Net for TcpNet {
    type Listener = SocketListener;
    type Reader = SocketReader;
    type Writer = SocketWriter;
    type Socket = Socket;

    fn listen(&self, address: Address) -> Result<SocketListener, NetError> {
        SocketListener::bind(self.reactor.clone(), address)
    }

    async fn connect(&self, address: Address) -> Result<Socket, NetError> {
        let fd = call::stream_socket(&address)?;
        if call::connect(&fd, &address)? {
            return Ok(Socket(fd));
        }
        let twin = fd.try_clone().map_err(|error| net_error("connect", &error))?;
        let watched = Watched::new(self.reactor.clone(), twin);
        poll_fn(|context| watched.source.poll_output(context)).await;
        call::connected(&fd)?;
        Ok(Socket(fd))
    }

    fn adopt(&self, socket: Socket) -> (SocketReader, SocketWriter) {
        let connection = Rc::new(Connection::new(Watched::new(self.reactor.clone(), socket.0)));
        (
            SocketReader::new(connection.clone()),
            SocketWriter::new(connection),
        )
    }

    fn detach(&self, reader: SocketReader, writer: SocketWriter) -> Socket {
        SocketReader::join(&reader, &writer)
    }
}
