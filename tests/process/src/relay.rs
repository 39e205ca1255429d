//! Ways between nodes that can fall silent, where network namespaces are not to be had.
//!
//! A relay is a port that hands bytes on. While it is cut it neither reads nor writes, and accepts connections without serving
//! them: nothing is refused, as on a network that drops everything. Two threads serve each connection until an end closes it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a cut may go unnoticed.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes taken from one end before they are given to the other.
const BUFFER_BYTES: usize = 64 << 10;

/// The way to one node from one other. It works until the process ends.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Relay {
    /// Opens a port that leads to `target`.
    pub(crate) fn open(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (is_cut, Ok(near)) = (is_cut.clone(), near) else {
                    continue;
                };
                std::thread::spawn(move || {
                    wait_for_heal(&is_cut);
                    // What goes wrong with a connection is seen by both ends as its close.
                    let _ = carry(&near, target, &is_cut);
                });
            }
        });
        Ok(Self { address, cut })
    }

    /// Falls silent, or speaks again: what waited goes on.
    pub(crate) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

fn wait_for_heal(is_cut: &AtomicBool) {
    while is_cut.load(Ordering::SeqCst) {
        std::thread::sleep(LOOK);
    }
}

fn carry(near: &TcpStream, target: SocketAddr, is_cut: &Arc<AtomicBool>) -> std::io::Result<()> {
    let far = TcpStream::connect(target)?;
    for stream in [near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    let (back_from, back_to, also) = (far.try_clone()?, near.try_clone()?, is_cut.clone());
    let back = std::thread::spawn(move || pump(&back_from, &back_to, &also));
    pump(near, &far, is_cut);
    // A pump does not panic.
    let _ = back.join();
    Ok(())
}

/// Carries bytes one way until an end is gone, and closes both then.
fn pump(mut from: &TcpStream, mut to: &TcpStream, is_cut: &AtomicBool) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        wait_for_heal(is_cut);
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                wait_for_heal(is_cut);
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    for stream in [from, to] {
        // Closed already when the other end was first.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_silent_and_loses_nothing() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::open(target.local_addr().unwrap()).unwrap();
        let mut near = TcpStream::connect(relay.address).unwrap();
        let (mut far, _) = target.accept().unwrap();
        let mut bytes = [0; 4];
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");
        relay.set_cut(true);
        std::thread::sleep(LOOK * 4);
        near.write_all(b"wait").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(far.read(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock);
        relay.set_cut(false);
        far.set_read_timeout(None).unwrap();
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"wait");
        drop(far);
        assert_eq!(
            near.read(&mut bytes).unwrap(),
            0,
            "the end of one is the end of both"
        );
    }
}
