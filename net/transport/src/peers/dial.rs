//! The task behind an outgoing connection: it connects, listens for a refusal or the end, and clears up.

use super::{Inner, PAUSE_MAX, Peers, Route, RouteState};
use crate::connection::{CloseReason, Connection, ConnectionId};
use crate::slots::Link;
use crate::transport::{ReaderOf, Socket, WriterOf};
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use env::{Address, Clock, Env, Instant, Net, Reader};
use std::rc::Rc;
use wire::reply::ArchivedErrorReply;
use wire::{Code, Frame, FrameReader, Outbox, ReplyRef, WireError, decode_reply};

/// The longest payload that is listened to: enough for a refusal's words.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// Connects a route that is being dialled, and stays with it until its connection has ended.
pub(super) async fn dial<E: Env>(peers: Peers<E>, route: Rc<Route<WriterOf<E>>>, address: Address) {
    let inner = &peers.0;
    inner.counters.borrow_mut().dialled += 1;
    let connecting = inner.env.net().connect(address);
    let connected = within(inner.env.clock(), inner.config.frame_timeout, connecting).await;
    let until = Instant::default();
    let RouteState::Dialling(outbox) = route.state.replace(RouteState::Idle { until }) else {
        // The route was abandoned meanwhile, and with it the outbox; a socket closes when it is dropped.
        return;
    };
    let Some(Ok(socket)) = connected else {
        inner.counters.borrow_mut().failed += 1;
        inner.egress.lose(outbox.len());
        inner.rest(&route);
        return;
    };
    let (reader, link) = open(&peers, &route, socket, outbox);
    let since = inner.env.clock().now();
    let heard = listen::<E>(&route, &inner.unwelcome, reader).await;
    // Whoever shut the connection down from this side knows better why it ended than the socket does, save for a refusal.
    let reason = match link.ended.take() {
        Some(local) if heard != CloseReason::Refused => local,
        Some(_) | None => heard,
    };
    inner.egress.farewell(&link, None);
    let name = reason.name();
    *inner.counters.borrow_mut().closed.entry(name).or_insert(0) += 1;
    if inner.env.clock().now().since(since) >= PAUSE_MAX {
        route.pause.set(inner.config.reconnect);
        if reason != CloseReason::Refused {
            route.refusal.take();
        }
    }
    inner.rest(&route);
}

/// Takes up a fresh connection, with what was kept for it.
fn open<E: Env>(
    peers: &Peers<E>,
    route: &Route<WriterOf<E>>,
    socket: Socket<E>,
    outbox: Outbox,
) -> (ReaderOf<E>, Rc<Link<WriterOf<E>>>) {
    let inner = &peers.0;
    inner.counters.borrow_mut().connected += 1;
    let (reader, writer) = inner.env.net().adopt(socket);
    let since = inner.env.clock().now();
    let state = Connection::dialled(since);
    let link = Rc::new(Link::with_outbox(ConnectionId::NONE, writer, state, outbox));
    let open = RouteState::Open {
        link: link.clone(),
        since,
    };
    route.state.replace(open);
    inner.egress.appended(&link, 0);
    inner.egress.push_out(&link);
    peers.start_sweeping();
    (reader, link)
}

/// Waits for the connection's end, or for anything that ends it.
async fn listen<E: Env>(
    route: &Route<WriterOf<E>>,
    unwelcome: &Cell<Option<Code>>,
    mut reader: ReaderOf<E>,
) -> CloseReason {
    let mut inbox = FrameReader::new(REFUSAL_BYTES_MAX);
    loop {
        match inbox.next() {
            Ok(Some(frame)) => return hear(route, unwelcome, &frame),
            Ok(None) => {}
            Err(error) => return error.into(),
        }
        if let Err(error) = reader.readable().await {
            return error.into();
        }
        match reader.try_read(inbox.spare()) {
            Ok(Some(0)) if inbox.is_mid_frame() => return CloseReason::PeerClosedMidFrame,
            Ok(Some(0)) => return CloseReason::PeerClosed,
            Ok(Some(bytes)) => inbox.filled(bytes),
            Ok(None) => {}
            Err(error) => return error.into(),
        }
    }
}

/// Why a connection ends on which this frame came: nothing but a refusal may.
fn hear<W>(route: &Route<W>, unwelcome: &Cell<Option<Code>>, frame: &Frame<'_>) -> CloseReason {
    match decode_reply(frame) {
        Ok(ReplyRef::ErrorReply(error)) if frame.request.0 == 0 => {
            route.refusal.replace(Some(words_of(error)));
            if let Some(code @ (Code::NodeRemoved | Code::DirectoryReplaced | Code::BuildTooOld)) =
                Code::from_number(error.code.to_native())
            {
                unwelcome.set(Some(code));
            }
            CloseReason::Refused
        }
        Ok(_) => WireError::WrongDirection { kind: frame.kind }.into(),
        Err(error) => error.into(),
    }
}

/// `C6007: this node is of another cluster`.
fn words_of(error: &ArchivedErrorReply<'static>) -> String {
    let number = error.code.to_native();
    let summary = Code::from_number(number).map_or("refused", Code::summary);
    let words: &str = &error.message;
    format!("C{number:04}: {}", if words.is_empty() { summary } else { words })
}

impl<E: Env> Inner<E> {
    /// The route is not dialled again before a pause; the next one will be longer.
    fn rest(&self, route: &Route<WriterOf<E>>) {
        self.lost.borrow_mut().insert(route.node);
        let pause = route.pause.get();
        let longest = PAUSE_MAX.max(self.config.reconnect);
        route.pause.set((pause * 2).min(longest));
        let ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        let jittered = self.prng.borrow_mut().between(ns / 2, ns);
        let until = self.env.clock().now() + Duration::from_nanos(jittered);
        route.state.replace(RouteState::Idle { until });
    }
}

/// What `future` gives, unless it takes longer than `timeout`: then it is dropped.
async fn within<T>(clock: &impl Clock, timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut late = pin!(clock.sleep(timeout));
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => late.as_mut().poll(context).map(|()| None),
    })
    .await
}
