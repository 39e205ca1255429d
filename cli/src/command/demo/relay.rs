//! The network between the nodes of a demonstration: a relay for each ordered pair of them, which can fall silent.
//!
//! ```text
//!   node 1 ── relay 1→2 ──► node 2          `cut 1 2`: both relays stop reading and writing;
//!   node 1 ◄── relay 2→1 ── node 2          connections stay open, new ones are accepted, nothing answers
//! ```
//!
//! That is what a partition looks like to both ends: nothing is refused.

use base::NodeId;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes taken from one end before they are given to the other.
const BUFFER_BYTES: usize = 64 << 10;

/// The way from one node to another.
#[derive(Debug)]
struct Relay {
    from: NodeId,
    to: NodeId,
    /// Where `from` finds it.
    address: SocketAddr,
    cut: watch::Sender<bool>,
}

/// All ways between nodes. They work until the process ends.
#[derive(Debug)]
pub(crate) struct Relays(Vec<Relay>);

impl Relays {
    /// Opens a relay for each ordered pair of `nodes`, and a thread that serves them.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub(crate) fn open(nodes: &[(NodeId, SocketAddr)]) -> io::Result<Self> {
        let mut relays = Vec::new();
        let mut served = Vec::new();
        for &(from, _) in nodes {
            for &(to, target) in nodes.iter().filter(|(to, _)| *to != from) {
                let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                listener.set_nonblocking(true)?;
                let (cut, is_cut) = watch::channel(false);
                relays.push(Relay {
                    from,
                    to,
                    address: listener.local_addr()?,
                    cut,
                });
                served.push((listener, target, is_cut));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new().name("relays".into()).spawn(move || {
            runtime.block_on(async {
                for (listener, target, is_cut) in served {
                    tokio::spawn(serve(listener, target, is_cut));
                }
                core::future::pending::<()>().await;
            });
        })?;
        Ok(Self(relays))
    }

    /// Where `from` finds `to`.
    pub(crate) fn address(&self, from: NodeId, to: NodeId) -> Option<SocketAddr> {
        let mut relays = self.0.iter();
        relays
            .find(|relay| (relay.from, relay.to) == (from, to))
            .map(|relay| relay.address)
    }

    /// Silences both ways between two nodes.
    pub(crate) fn cut(&self, one: NodeId, other: NodeId) {
        for relay in &self.0 {
            if [(one, other), (other, one)].contains(&(relay.from, relay.to)) {
                relay.cut.send_replace(true);
            }
        }
    }

    /// Ends all silences: what waited goes on.
    pub(crate) fn heal(&self) {
        for relay in &self.0 {
            relay.cut.send_replace(false);
        }
    }

    /// The pairs that are cut, each once.
    pub(crate) fn cuts(&self) -> Vec<(NodeId, NodeId)> {
        let cut = self.0.iter().filter(|relay| *relay.cut.borrow());
        cut.filter(|relay| relay.from < relay.to)
            .map(|relay| (relay.from, relay.to))
            .collect()
    }
}

async fn serve(listener: StdListener, target: SocketAddr, is_cut: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(carry(stream, target, is_cut.clone()));
            }
            // Too many files are open: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Carries one connection until either end is gone.
async fn carry(near: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    if is_cut.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    // A node that is not there refuses, and the other end sees its connection close.
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    // Only a matter of speed.
    let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    tokio::select! {
        _ = pump(&near, &far, is_cut.clone()) => {}
        _ = pump(&far, &near, is_cut.clone()) => {}
    }
}

/// Carries bytes one way; nothing moves while the way is cut. Returns when an end is gone.
async fn pump(from: &TcpStream, to: &TcpStream, mut is_cut: watch::Receiver<bool>) -> io::Result<()> {
    let over = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        is_cut.wait_for(|cut| !cut).await.map_err(over)?;
        tokio::select! {
            ready = from.readable() => ready?,
            _ = is_cut.changed() => continue,
        }
        let read = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            is_cut.wait_for(|cut| !cut).await.map_err(over)?;
            tokio::select! {
                ready = to.writable() => ready?,
                _ = is_cut.changed() => continue,
            }
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream as StdStream;

    #[test]
    fn a_cut_is_silent_both_ways_and_loses_nothing() {
        let target = StdListener::bind("127.0.0.1:0").unwrap();
        let (one, two) = (NodeId(1), NodeId(2));
        let nodes = [
            (one, "127.0.0.1:1".parse().unwrap()),
            (two, target.local_addr().unwrap()),
        ];
        let relays = Relays::open(&nodes).unwrap();
        let way = relays.address(one, two).unwrap();
        let mut near = StdStream::connect(way).unwrap();
        let (mut far, _) = target.accept().unwrap();
        let mut bytes = [0; 4];
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");

        relays.cut(two, one);
        assert_eq!(relays.cuts(), [(one, two)]);
        near.write_all(b"wait").unwrap();
        far.write_all(b"also").unwrap();
        let mut late = StdStream::connect(way).unwrap();
        late.write_all(b"late").unwrap();
        let short = Some(Duration::from_millis(100));
        far.set_read_timeout(short).unwrap();
        near.set_read_timeout(short).unwrap();
        assert_eq!(
            far.read(&mut bytes).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(
            near.read(&mut bytes).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );

        relays.heal();
        far.set_read_timeout(None).unwrap();
        near.set_read_timeout(None).unwrap();
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"wait");
        near.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"also");
        let (mut second, _) = target.accept().unwrap();
        second.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"late");
        drop(second);
        assert_eq!(
            late.read(&mut bytes).unwrap(),
            0,
            "the end of one is the end of both"
        );
    }
}
