//! The two tasks of a connection: one sends what callers have appended, one receives and hands out.

use super::connection::{Shared, unavailable};
use crate::Error;
use crate::request::Reply;
use base::{RequestId, limits};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use wire::frame::FLAG_MISROUTED;
use wire::{FrameReader, Outbox, decode_reply};

/// Sends until the connection is closed.
pub(crate) struct Sender {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: OwnedWriteHalf,
    pub(crate) address: String,
}

impl Sender {
    pub(crate) async fn run(self) {
        if let Err(error) = self.send().await {
            self.shared.close(&unavailable(&self.address, &error.to_string()));
        }
    }

    async fn send(&self) -> std::io::Result<()> {
        let mut outbox = Outbox::new();
        loop {
            {
                let mut state = self.shared.lock();
                if state.closed.is_some() {
                    return Ok(());
                }
                core::mem::swap(&mut outbox, &mut state.outbox);
            }
            if outbox.is_empty() {
                self.shared.wake.notified().await;
                continue;
            }
            while !outbox.is_empty() {
                match self.writer.try_write(outbox.bytes()) {
                    Ok(bytes) => outbox.consume(bytes),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        self.writer.writable().await?;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Receives until the connection ends.
pub(crate) struct Receiver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: OwnedReadHalf,
    pub(crate) address: String,
}

impl Receiver {
    pub(crate) async fn run(self) {
        let error = self.receive().await;
        self.shared.close(&error);
    }

    async fn receive(&self) -> Error {
        let mut inbox = FrameReader::new(limits::FRAME_BYTES_MAX);
        let mut batch = Vec::new();
        loop {
            match self.reader.try_read(inbox.spare()) {
                Ok(0) => return unavailable(&self.address, "the server closed the connection"),
                Ok(bytes) => {
                    self.shared.heard.fetch_add(1, Ordering::Relaxed);
                    inbox.filled(bytes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if let Err(error) = self.reader.readable().await {
                        return unavailable(&self.address, &error.to_string());
                    }
                    continue;
                }
                Err(error) => return unavailable(&self.address, &error.to_string()),
            }
            // Replies are copied out before the lock is taken, so that callers do not wait for that.
            let cut = cut_frames(&mut inbox, &mut batch);
            if matches!(cut, Ok(true)) {
                self.shared.misrouted.store(true, Ordering::Relaxed);
            }
            let mut state = self.shared.lock();
            for (request, reply) in batch.drain(..) {
                if let Err(error) = state.deliver(request, reply) {
                    return error;
                }
            }
            drop(state);
            if let Err(error) = cut {
                return error;
            }
        }
    }
}

fn cut_frames(inbox: &mut FrameReader, batch: &mut Vec<(RequestId, Reply)>) -> Result<bool, Error> {
    let broken = |what: &dyn core::fmt::Display| Error::Protocol {
        what: what.to_string(),
    };
    let mut misrouted = false;
    while let Some((flags, frame)) = inbox.next_flagged().map_err(|error| broken(&error))? {
        let reply = decode_reply(&frame).map_err(|error| broken(&error))?;
        batch.push((frame.request, Reply::from_wire(&reply)?));
        misrouted |= flags & FLAG_MISROUTED != 0;
    }
    Ok(misrouted)
}
