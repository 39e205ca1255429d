//! Receiving on one connection: the hello, then frames until the end.

use crate::connection::{CloseReason, Phase};
use crate::slots::Link;
use crate::transport::{Handler, Handover, HelloAnswer, ReaderOf, Socket, Transport, WriterOf};
use base::ShardId;
use env::{Clock, Env, Net, Reader, Tasks};
use std::rc::Rc;
use wire::{Frame, FrameReader, Kind, PeerRef, RequestRef, WireError, decode_peer, decode_request};

/// The task that receives on one connection.
pub(crate) struct Receiver<E: Env, H> {
    pub(crate) transport: Transport<E, H>,
    pub(crate) link: Rc<Link<WriterOf<E>>>,
    pub(crate) reader: ReaderOf<E>,
    pub(crate) inbox: FrameReader,
}

impl<E: Env, H: Handler<Socket<E>>> Receiver<E, H> {
    pub(crate) async fn run(mut self, unread: Vec<u8>) {
        self.inbox.extend(&unread);
        drop(unread);
        let ended = match self.say_hello().await {
            Ok(HelloAnswer::Accept) => self.receive().await,
            Ok(HelloAnswer::Refuse) => CloseReason::HelloRefused,
            Ok(HelloAnswer::Handover(shard)) => return self.hand_over(shard),
            Err(reason) => reason,
        };
        // Whoever shut the connection down from this side knows better why it ended than the socket does.
        let reason = self.link.ended.take().unwrap_or(ended);
        let inner = &self.transport.0;
        inner.slots.borrow_mut().remove(self.link.id);
        self.transport.farewell(&self.link, &reason);
        if self.link.state.borrow().phase() != Phase::Hello {
            inner.handler.on_close(self.link.id, &reason);
        }
    }

    /// Receives the first frame and asks the handler what to do.
    async fn say_hello(&mut self) -> Result<HelloAnswer, CloseReason> {
        loop {
            if let Some(frame) = self.inbox.peek()? {
                let (answer, phase) = self.ask(&frame)?;
                if answer == HelloAnswer::Accept {
                    self.link.state.borrow_mut().on_hello(phase);
                    self.inbox.next()?;
                    self.inbox
                        .set_payload_max(self.transport.0.config.payload_bytes_max);
                }
                self.transport.flush();
                return Ok(answer);
            }
            self.fill().await?;
        }
    }

    /// Asks the handler what to do with a connection that starts with this frame, and says what it would become.
    fn ask(&self, frame: &Frame<'_>) -> Result<(HelloAnswer, Phase), CloseReason> {
        let handler = &self.transport.0.handler;
        match frame.kind {
            Kind::Hello => match decode_request(frame)? {
                RequestRef::Hello(hello) => {
                    Ok((handler.on_hello(self.link.id, frame.request, hello), Phase::Open))
                }
                _ => Err(CloseReason::HelloExpected),
            },
            Kind::PeerHello => match decode_peer(frame)? {
                PeerRef::PeerHello(hello) => Ok((handler.on_peer_hello(self.link.id, hello), Phase::Peer)),
                PeerRef::Train(_)
                | PeerRef::Transfer(_)
                | PeerRef::Roster(_)
                | PeerRef::Placing(_)
                | PeerRef::Closed(_)
                | PeerRef::Newest(_) => Err(CloseReason::HelloExpected),
            },
            _ => Err(CloseReason::HelloExpected),
        }
    }

    /// Receives and hands over frames until the connection ends.
    async fn receive(&mut self) -> CloseReason {
        loop {
            match self.take_frames() {
                Ok(true) => {}
                Ok(false) => {
                    self.wait_for_room().await;
                    if self.link.is_ended() {
                        return CloseReason::Local;
                    }
                    continue;
                }
                Err(reason) => return reason,
            }
            if self.transport.0.env.tasks().need_yield() {
                self.transport.0.env.tasks().yield_now().await;
            }
            if let Err(reason) = self.fill().await {
                return reason;
            }
        }
    }

    /// Hands over every whole frame that has arrived; false when the window closed before the last one.
    fn take_frames(&mut self) -> Result<bool, CloseReason> {
        let inner = &self.transport.0;
        let mut frames = 0;
        let mut error = None;
        let mut window_open = true;
        let phase = self.link.state.borrow().phase();
        loop {
            let stop = frames > 0 && base::misbehave!("transport: batch cut short");
            if stop || !self.link.state.borrow().may_take(&inner.config) {
                window_open = false;
                break;
            }
            let frame = match self.inbox.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(bad) => {
                    error = Some(CloseReason::Frame(bad));
                    break;
                }
            };
            frames += 1;
            if let Err(bad) = fits(frame.kind, phase) {
                error = Some(bad);
                break;
            }
            self.link.state.borrow_mut().on_request(is_answered(frame.kind));
            if let Err(bad) = inner.handler.on_frame(self.link.id, &frame) {
                error = Some(CloseReason::Wire(bad));
                break;
            }
        }
        if frames > 0 {
            inner.counters.borrow_mut().frames += frames;
            inner.handler.on_batch_end();
        }
        if let Some(error) = error {
            return Err(error);
        }
        let unread = self.inbox.unread().len();
        let fresh = frames > 0 || !window_open;
        self.link
            .state
            .borrow_mut()
            .on_incomplete(unread, fresh, inner.env.clock().now());
        Ok(window_open)
    }

    async fn wait_for_room(&self) {
        let inner = &self.transport.0;
        inner.counters.borrow_mut().paused += 1;
        base::sometimes!("transport: connection paused by back-pressure");
        self.link.state.borrow_mut().on_paused();
        while !self.link.is_ended() && !self.link.state.borrow().may_take(&inner.config) {
            self.link.room.notified().await;
        }
        self.link.state.borrow_mut().on_resumed(inner.env.clock().now());
    }

    /// Receives once. A connection that waits with nothing unread holds no buffer: the shard keeps a few for all.
    async fn fill(&mut self) -> Result<(), CloseReason> {
        let bytes = loop {
            let inner = &self.transport.0;
            if let Some(buffer) = self.inbox.take_buffer() {
                inner.keep_buffer(buffer);
            }
            self.reader.readable().await?;
            if !self.inbox.has_buffer()
                && let Some(buffer) = inner.buffers.borrow_mut().pop()
            {
                self.inbox.lend_buffer(buffer);
            }
            let mut room = self.inbox.spare();
            if base::misbehave!("transport: small receive") {
                room = room.split_at_mut(1).0;
            }
            match self.reader.try_read(room)? {
                Some(bytes) => break bytes,
                None => base::sometimes!("transport: woken to read nothing"),
            }
        };
        if bytes == 0 {
            let cut = self.inbox.is_mid_frame();
            return Err(if cut {
                CloseReason::PeerClosedMidFrame
            } else {
                CloseReason::PeerClosed
            });
        }
        self.inbox.filled(bytes);
        let mut counters = self.transport.0.counters.borrow_mut();
        counters.receives += 1;
        counters.received_bytes += bytes as u64;
        Ok(())
    }

    fn hand_over(self, shard: ShardId) {
        let inner = self.transport.0.clone();
        inner.slots.borrow_mut().remove(self.link.id);
        let unread = self.inbox.unread().to_vec();
        base::sometimes!(
            "transport: a connection left with requests behind its hello",
            unread.len() > 128
        );
        // Nothing was sent before the hello, so no drain task holds the link; a sweep never keeps one over a wait.
        let link = Rc::into_inner(self.link)
            .expect("a connection that was sent nothing is held by its receiver alone");
        inner.counters.borrow_mut().handed_over += 1;
        let socket = inner.env.net().detach(self.reader, link.writer);
        inner.handler.on_handover(shard, Handover { socket, unread });
    }
}

/// Whether a frame of this kind may come after the hello that led to `phase`.
fn fits(kind: Kind, phase: Phase) -> Result<(), CloseReason> {
    let is_peer = phase == Phase::Peer;
    let hello = if is_peer { Kind::PeerHello } else { Kind::Hello };
    if kind == hello {
        Err(CloseReason::HelloRepeated)
    } else if kind.is_peer() != is_peer {
        Err(WireError::WrongDirection { kind }.into())
    } else {
        Ok(())
    }
}

/// Whether a request of this kind is answered by a reply of its own. Trains are not: they never close the window.
fn is_answered(kind: Kind) -> bool {
    !kind.is_peer() && !matches!(kind, Kind::ScanCredit | Kind::ScanCancel)
}
