//! Connections: ordered, reliable byte streams that may be cut at any time.

use core::fmt;
use core::future::Future;

/// Where to listen or connect: an IP address and port in text, `127.0.0.1:7400`.
pub type Address = std::net::SocketAddr;

/// A connection or listener failed; the connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {kind}")]
pub struct NetError {
    /// What was being done.
    pub what: &'static str,
    /// What the system said.
    pub kind: std::io::ErrorKind,
}

/// The network as a shard sees it.
pub trait Net: Clone + 'static {
    /// Accepts connections.
    type Listener: Listener<Socket = Self::Socket>;
    /// The half that receives.
    type Reader: Reader;
    /// The half that sends.
    type Writer: Writer;
    /// A connection that no shard has taken up yet; it may cross to another shard by mailbox.
    type Socket: Send + fmt::Debug + 'static;

    /// Listens at `address`; port 0 picks one. Several shards of a process may listen at the same address.
    ///
    /// # Errors
    /// `AddrInUse` when another process has it.
    fn listen(&self, address: Address) -> Result<Self::Listener, NetError>;

    /// Connects to `address`.
    fn connect(&self, address: Address) -> impl Future<Output = Result<Self::Socket, NetError>>;

    /// Takes up a connection on this shard.
    fn adopt(&self, socket: Self::Socket) -> (Self::Reader, Self::Writer);

    /// Puts the halves of one connection together again, to hand them to another shard. What was read stays read.
    fn detach(&self, reader: Self::Reader, writer: Self::Writer) -> Self::Socket;
}

/// Accepts connections.
pub trait Listener: 'static {
    /// What it accepts.
    type Socket;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = Result<Self::Socket, NetError>>;

    /// Where it listens, with the port that was picked.
    fn address(&self) -> Address;
}

/// The half of a connection that receives.
pub trait Reader: 'static {
    /// Receives what is there into `buf`, as much as fits, and says how much: zero means that the peer has closed its half,
    /// `None` that nothing is there yet. `buf` is not empty.
    ///
    /// # Errors
    /// When the connection is broken.
    fn try_read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, NetError>;

    /// Completes when [`Reader::try_read`] is worth another call.
    ///
    /// # Cancellation
    /// Safe.
    fn readable(&mut self) -> impl Future<Output = Result<(), NetError>>;

    /// Receives at least one byte into `buf` and says how many; zero means that the peer has closed its half. Whoever waits
    /// long, or for many, does it with [`Reader::readable`] and needs no buffer meanwhile.
    ///
    /// # Cancellation
    /// Safe: no byte is lost when the future is dropped before it completes.
    fn read(&mut self, buf: &mut [u8]) -> impl Future<Output = Result<usize, NetError>> {
        async {
            loop {
                if let Some(bytes) = self.try_read(buf)? {
                    return Ok(bytes);
                }
                self.readable().await?;
            }
        }
    }
}

/// The half of a connection that sends. Dropping both halves closes the connection.
pub trait Writer: 'static {
    /// Sends as much of `bytes` as fits without waiting, possibly nothing, and says how much.
    ///
    /// # Errors
    /// When the connection is broken.
    fn try_write(&self, bytes: &[u8]) -> Result<usize, NetError>;

    /// Completes when [`Writer::try_write`] is worth another call.
    fn writable(&self) -> impl Future<Output = Result<(), NetError>>;

    /// Closes the connection in both directions now: the reader sees its end.
    fn shutdown(&self);
}
