//! Listening: one socket per address and process, shared by the shards that ask for it.

use super::call::{self, net_error};
use super::{Socket, Watched};
use crate::reactor::Reactor;
use core::future::poll_fn;
use env::net::{Address, NetError};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The sockets on which this process listens. An entry dies with the last listener of its address.
static LISTENING: Mutex<Vec<(Address, Weak<OwnedFd>)>> = Mutex::new(Vec::new());

/// Accepts connections.
pub struct SocketListener {
    address: Address,
    watched: Watched,
    _shared: Arc<OwnedFd>,
}

/// The process's socket for `address`: bound now, or by another shard before.
fn shared(address: Address) -> Result<(Address, Arc<OwnedFd>), NetError> {
    let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    listening.retain(|(_, fd)| fd.strong_count() > 0);
    let known = listening
        .iter()
        .find(|(at, _)| *at == address)
        .and_then(|(_, fd)| fd.upgrade());
    if let Some(fd) = known {
        base::sometimes!("net: two shards share a listener");
        return Ok((address, fd));
    }
    let fd = Arc::new(call::listen(&address)?);
    let address = call::local_address(&fd)?;
    listening.push((address, Arc::downgrade(&fd)));
    Ok((address, fd))
}

impl SocketListener {
    pub(super) fn bind(reactor: Rc<Reactor>, address: Address) -> Result<Self, NetError> {
        let (address, shared) = shared(address)?;
        let fd = shared.try_clone().map_err(|error| net_error("listen", &error))?;
        Ok(Self {
            address,
            watched: Watched::new(reactor, fd),
            _shared: shared,
        })
    }
}

impl env::Listener for SocketListener {
    type Socket = Socket;

    async fn accept(&self) -> Result<Socket, NetError> {
        loop {
            if let Some(fd) = call::accept(self.watched.source.raw_fd())? {
                return Ok(Socket(fd));
            }
            poll_fn(|context| self.watched.source.poll_input(context)).await;
            if self.watched.source.is_broken() {
                return Err(NetError {
                    what: "accept",
                    kind: std::io::ErrorKind::Other,
                });
            }
        }
    }

    fn address(&self) -> Address {
        self.address
    }
}
