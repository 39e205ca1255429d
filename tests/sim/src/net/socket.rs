//! `env::Net` on the simulated network.

use super::state::EndId;
use crate::executor::Postbox;
use crate::world::{Process, World};
use core::future::poll_fn;
use core::task::Poll;
use env::{Address, Listener, Net, NetError, Reader, Writer};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

/// The network as a shard sees it.
#[derive(Debug, Clone)]
pub struct SimNet {
    pub(crate) world: Rc<World>,
    pub(crate) process: Process,
}

/// Accepts connections.
#[derive(Debug)]
pub struct SimListener {
    net: SimNet,
    address: Address,
    id: u64,
}

/// An end of a connection that no shard has taken up. Closes the connection when dropped.
#[derive(Debug)]
pub struct SimSocket {
    connection: u64,
    end: usize,
    /// Where to say that it was dropped; none when it was taken up.
    postbox: Option<Arc<Postbox>>,
}

/// The half that receives.
#[derive(Debug)]
pub struct SimReader(Rc<Half>);

/// The half that sends.
#[derive(Debug)]
pub struct SimWriter(Rc<Half>);

/// An end that a shard has taken up; shared by its two halves.
#[derive(Debug)]
struct Half {
    net: SimNet,
    socket: std::cell::Cell<Option<EndId>>,
}

/// The address of a node.
pub(crate) fn ip_of(node: u32) -> Ipv4Addr {
    let [_, a, b, c] = (node + 1).to_be_bytes();
    Ipv4Addr::new(10, a, b, c)
}

/// The node that an address means, seen from a node.
fn node_at(address: Address, from: u32) -> Option<u32> {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => Some(from),
        IpAddr::V4(ip) => {
            let [net, a, b, c] = ip.octets();
            (net == 10)
                .then(|| u32::from_be_bytes([0, a, b, c]))
                .and_then(|number| number.checked_sub(1))
        }
        IpAddr::V6(ip) => (ip.is_loopback() || ip.is_unspecified()).then_some(from),
    }
}

impl SimSocket {
    pub(crate) fn new(connection: u64, end: usize, postbox: &Arc<Postbox>) -> Self {
        Self {
            connection,
            end,
            postbox: Some(postbox.clone()),
        }
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if let Some(postbox) = self.postbox.take() {
            postbox.with(|post| post.dropped_sockets.push((self.connection, self.end)));
        }
    }
}

impl Half {
    fn socket(&self) -> EndId {
        self.socket.get().expect("a half that was handed on is gone")
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some((connection, end)) = self.socket.get() {
            let core = &mut *self.net.world.core.borrow_mut();
            if core.is_alive(self.net.process) {
                core.net.close((connection, end), core.now, &mut core.timeline);
            }
        }
    }
}

fn error(what: &'static str) -> impl Fn(ErrorKind) -> NetError {
    move |kind| NetError { what, kind }
}

impl Net for SimNet {
    type Listener = SimListener;
    type Reader = SimReader;
    type Writer = SimWriter;
    type Socket = SimSocket;

    fn listen(&self, address: Address) -> Result<SimListener, NetError> {
        if node_at(address, self.process.node) != Some(self.process.node) {
            return Err(error("listen")(ErrorKind::AddrNotAvailable));
        }
        let core = &mut *self.world.core.borrow_mut();
        if !core.is_alive(self.process) {
            return Err(error("listen")(ErrorKind::BrokenPipe));
        }
        let (port, id) = core.net.listen(self.process, address.port());
        let address = Address::new(address.ip(), port);
        Ok(SimListener {
            net: self.clone(),
            address,
            id,
        })
    }

    async fn connect(&self, address: Address) -> Result<SimSocket, NetError> {
        let fail = error("connect");
        let from = self.process.node;
        let (to, there_ns, fails) = {
            let core = &mut *self.world.core.borrow_mut();
            let to = node_at(address, from).filter(|to| (*to as usize) < core.nodes.len());
            let to = to.ok_or_else(|| fail(ErrorKind::HostUnreachable))?;
            (
                to,
                core.net.draw_delay(from, to),
                core.net.draw_connect_error(&mut core.trace),
            )
        };
        self.world.timer(there_ns).await;
        let patience_ns = {
            let core = &mut *self.world.core.borrow_mut();
            let is_lost = fails || !core.net.is_connected(from, to, core.now);
            is_lost.then(|| core.net.draw_patience())
        };
        if let Some(patience_ns) = patience_ns {
            self.world.timer(patience_ns).await;
            return Err(fail(ErrorKind::TimedOut));
        }
        let connected = {
            let core = &mut *self.world.core.borrow_mut();
            core.net.connect(
                self.process,
                to,
                address.port(),
                &self.world.postbox,
                &mut core.trace,
            )
        };
        self.world.timer(there_ns).await;
        connected.map_err(fail)
    }

    fn adopt(&self, mut socket: SimSocket) -> (SimReader, SimWriter) {
        socket.postbox = None;
        let core = &mut *self.world.core.borrow_mut();
        if core.is_alive(self.process) {
            core.net.adopt((socket.connection, socket.end));
        }
        let socket = std::cell::Cell::new(Some((socket.connection, socket.end)));
        let half = Rc::new(Half {
            net: self.clone(),
            socket,
        });
        (SimReader(half.clone()), SimWriter(half))
    }

    fn detach(&self, reader: SimReader, writer: SimWriter) -> SimSocket {
        assert!(
            Rc::ptr_eq(&reader.0, &writer.0),
            "the halves belong to two connections"
        );
        let (connection, end) = reader.0.socket();
        reader.0.socket.set(None);
        SimSocket::new(connection, end, &self.world.postbox)
    }
}

impl Listener for SimListener {
    type Socket = SimSocket;

    async fn accept(&self) -> Result<SimSocket, NetError> {
        poll_fn(|context| {
            let core = &mut *self.net.world.core.borrow_mut();
            let node = self.net.process.node;
            match core
                .net
                .accept(node, self.address.port(), self.id, context.waker())
            {
                Some(socket) => Poll::Ready(Ok(socket)),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn address(&self) -> Address {
        self.address
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let unaccepted = {
            let core = &mut *self.net.world.core.borrow_mut();
            let node = self.net.process.node;
            core.is_alive(self.net.process)
                .then(|| core.net.unlisten(node, self.address.port(), self.id))
        };
        drop(unaccepted);
    }
}

impl Reader for SimReader {
    fn try_read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, NetError> {
        let of = self.0.socket();
        let net = &self.0.net;
        let core = &mut *net.world.core.borrow_mut();
        if !core.is_alive(net.process) {
            return Ok(None);
        }
        let read = core
            .net
            .try_read(of, buf, core.now, &mut core.timeline, &mut core.trace);
        read.map_err(error("read"))
    }

    async fn readable(&mut self) -> Result<(), NetError> {
        let of = self.0.socket();
        let net = &self.0.net;
        poll_fn(|context| {
            let core = &mut *net.world.core.borrow_mut();
            if core.is_alive(net.process) && core.net.is_readable(of, context.waker()) {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

impl Writer for SimWriter {
    fn try_write(&self, bytes: &[u8]) -> Result<usize, NetError> {
        let of = self.0.socket();
        let net = &self.0.net;
        let core = &mut *net.world.core.borrow_mut();
        if !core.is_alive(net.process) {
            return Err(error("write")(ErrorKind::BrokenPipe));
        }
        let written = core
            .net
            .try_write(of, bytes, core.now, &mut core.timeline, &mut core.trace);
        written.map_err(error("write"))
    }

    async fn writable(&self) -> Result<(), NetError> {
        let of = self.0.socket();
        let net = &self.0.net;
        poll_fn(|context| {
            let core = &mut *net.world.core.borrow_mut();
            if !core.is_alive(net.process) {
                return Poll::Pending;
            }
            let writable = core.net.writable(of, context.waker());
            writable.map_or(Poll::Pending, |writable| {
                Poll::Ready(writable.map_err(error("write")))
            })
        })
        .await
    }

    fn shutdown(&self) {
        let of = self.0.socket();
        let core = &mut *self.0.net.world.core.borrow_mut();
        if core.is_alive(self.0.net.process) {
            core.net.shutdown(of, core.now, &mut core.timeline);
        }
    }
}
