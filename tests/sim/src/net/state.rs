//! Connections and the links below them: pure state.
//!
//! ```text
//!   end 0                                  end 1
//!   try_write ─► parcels on their way ───► inbox ─► read
//!       ▲            (one pipe per direction, in order)      │
//!       └──────────── room in the window ◄───────────────────┘
//! ```

use crate::config::{NetConfig, fires, within};
use crate::executor::Postbox;
use crate::net::socket::SimSocket;
use crate::timeline::{Event, Timeline};
use crate::trace::{Fault, Mark, Trace};
use crate::world::Process;
use base::Prng;
use core::task::Waker;
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;

/// Connections that wait for `accept`; more are refused.
pub(crate) const BACKLOG_MAX: usize = 128;
/// Ports that are picked start here.
const PORT_FIRST: u16 = 40_000;

#[derive(Debug)]
enum Cargo {
    Bytes(Vec<u8>),
    /// The sender has closed.
    Fin,
    /// The connection is broken.
    Reset,
}

#[derive(Debug)]
struct Parcel {
    at: u64,
    cargo: Cargo,
}

/// One end of a connection, with the pipe that leads to it.
#[derive(Debug)]
struct End {
    process: Process,
    /// Closed by its own side, or its process is gone.
    is_closed: bool,
    /// The machine does not answer: what arrives here vanishes.
    is_silent: bool,
    error: Option<ErrorKind>,
    saw_fin: bool,
    inbox: VecDeque<u8>,
    /// On their way to here, in order.
    parcels: VecDeque<Parcel>,
    /// When the next event for the pipe is due.
    due_at: Option<u64>,
    /// Since when the front of the pipe cannot get through.
    stalled_at: Option<u64>,
    last_at: u64,
    delay_ns: u64,
    /// Sent from here and not yet read there.
    unread: usize,
    /// Read there, but the news cannot get through.
    unread_news: usize,
    window: usize,
    is_drip: bool,
    patience_ns: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Connection {
    ends: [End; 2],
}

#[derive(Debug)]
struct Listener {
    id: u64,
    process: Process,
    queue: VecDeque<SimSocket>,
    waker: Option<Waker>,
}

/// The whole network.
#[derive(Debug)]
pub(crate) struct NetState {
    pub(crate) config: NetConfig,
    prng: Prng,
    connections: BTreeMap<u64, Connection>,
    connection_next: u64,
    listeners: BTreeMap<(u32, u16), Vec<Listener>>,
    listener_next: u64,
    ports: Vec<u16>,
    is_up: Vec<bool>,
    /// Until when nothing gets from one node to another: `cut_until[from][to]`.
    cut_until: Vec<Vec<u64>>,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl End {
    fn wake_both(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    fn break_with(&mut self, kind: ErrorKind) {
        self.error.get_or_insert(kind);
        self.wake_both();
    }

    fn room(&self) -> usize {
        self.window.saturating_sub(self.unread)
    }
}

impl NetState {
    pub(crate) fn new(config: NetConfig, prng: Prng) -> Self {
        Self {
            config,
            prng,
            connections: BTreeMap::new(),
            connection_next: 0,
            listeners: BTreeMap::new(),
            listener_next: 0,
            ports: Vec::new(),
            is_up: Vec::new(),
            cut_until: Vec::new(),
        }
    }

    pub(crate) fn add_node(&mut self) {
        self.ports.push(PORT_FIRST);
        self.is_up.push(true);
        for row in &mut self.cut_until {
            row.push(0);
        }
        self.cut_until.push(vec![0; self.is_up.len()]);
    }

    fn is_cut(&self, from: u32, to: u32, now: u64) -> bool {
        self.cut_until[from as usize][to as usize] > now
    }

    /// Whether both directions between two nodes work.
    pub(crate) fn is_connected(&self, a: u32, b: u32, now: u64) -> bool {
        self.is_up[b as usize] && !self.is_cut(a, b, now) && !self.is_cut(b, a, now)
    }

    /// Lets nothing get from one node to another until then.
    pub(crate) fn cut(&mut self, from: u32, to: u32, until: u64) {
        self.cut_until[from as usize][to as usize] = until;
    }

    /// Cuts a drawn pair of nodes, one way or both.
    pub(crate) fn cut_some(&mut self, now: u64, trace: &mut Trace) {
        let nodes = self.is_up.len();
        if nodes < 2 {
            return;
        }
        let a = self.prng.index(nodes);
        let b = (a + 1 + self.prng.index(nodes - 1)) % nodes;
        let until = now + within(&mut self.prng, &self.config.cut_ns);
        self.cut_until[a][b] = self.cut_until[a][b].max(until);
        if fires(&mut self.prng, self.config.cut_one_way) {
            trace.fault(Fault::NetCutOneWay);
        } else {
            trace.fault(Fault::NetCut);
            self.cut_until[b][a] = self.cut_until[b][a].max(until);
        }
    }

    /// Ends all cuts; what is stuck goes on now.
    pub(crate) fn heal(&mut self, now: u64, timeline: &mut Timeline) {
        for row in &mut self.cut_until {
            row.fill(0);
        }
        for (id, connection) in &mut self.connections {
            for (index, end) in connection.ends.iter_mut().enumerate() {
                if let Some(front) = end.parcels.front() {
                    plan(*id, index, end.due_at, front.at.max(now), timeline);
                    end.due_at = Some(end.due_at.map_or(u64::MAX, |due| due).min(front.at.max(now)));
                }
            }
        }
    }

    // ---- listeners ----

    /// The port it listens at, and the listener's id.
    pub(crate) fn listen(&mut self, process: Process, port: u16) -> (u16, u64) {
        let next = &mut self.ports[process.node()];
        let port = if port == 0 {
            *next += 1;
            *next - 1
        } else {
            port
        };
        self.listener_next += 1;
        let id = self.listener_next;
        let listener = Listener {
            id,
            process,
            queue: VecDeque::new(),
            waker: None,
        };
        self.listeners
            .entry((process.node, port))
            .or_default()
            .push(listener);
        (port, id)
    }

    pub(crate) fn unlisten(&mut self, node: u32, port: u16, id: u64) -> VecDeque<SimSocket> {
        let Some(listeners) = self.listeners.get_mut(&(node, port)) else {
            return VecDeque::new();
        };
        let position = listeners.iter().position(|listener| listener.id == id);
        let closed = position.map(|position| listeners.remove(position));
        if listeners.is_empty() {
            self.listeners.remove(&(node, port));
        }
        closed.map(|listener| listener.queue).unwrap_or_default()
    }

    pub(crate) fn accept(&mut self, node: u32, port: u16, id: u64, waker: &Waker) -> Option<SimSocket> {
        let listeners = self.listeners.get_mut(&(node, port))?;
        let listener = listeners.iter_mut().find(|listener| listener.id == id)?;
        let socket = listener.queue.pop_front();
        if socket.is_none() {
            listener.waker = Some(waker.clone());
        }
        socket
    }

    /// How long a packet takes from one node to another.
    pub(crate) fn draw_delay(&mut self, from: u32, to: u32) -> u64 {
        let range = if from == to {
            &self.config.loopback_ns
        } else {
            &self.config.delay_ns
        };
        within(&mut self.prng, range)
    }

    pub(crate) fn draw_patience(&mut self) -> u64 {
        within(&mut self.prng, &self.config.patience_ns)
    }

    pub(crate) fn draw_connect_error(&mut self, trace: &mut Trace) -> bool {
        let fails = fires(&mut self.prng, self.config.connect_error);
        if fails {
            trace.fault(Fault::NetConnectFailed);
        }
        fails
    }

    /// A connection reaches a node. Gives the client its end; the other end waits for `accept`.
    pub(crate) fn connect(
        &mut self,
        client: Process,
        node: u32,
        port: u16,
        postbox: &Arc<Postbox>,
        trace: &mut Trace,
    ) -> Result<SimSocket, ErrorKind> {
        let listeners = self
            .listeners
            .get(&(node, port))
            .filter(|listeners| !listeners.is_empty());
        let count = listeners.ok_or(ErrorKind::ConnectionRefused)?.len();
        let chosen = self.prng.index(count);
        let server = self.listeners[&(node, port)][chosen].process;
        let ends = [
            self.new_end(client, server, trace),
            self.new_end(server, client, trace),
        ];
        self.connection_next += 1;
        let id = self.connection_next;
        let listener = self
            .listeners
            .get_mut(&(node, port))
            .map(|listeners| &mut listeners[chosen]);
        let listener = listener.filter(|listener| listener.queue.len() < BACKLOG_MAX);
        let listener = listener.ok_or(ErrorKind::ConnectionRefused)?;
        listener.queue.push_back(SimSocket::new(id, 1, postbox));
        wake(&mut listener.waker);
        self.connections.insert(id, Connection { ends });
        trace.fold(Mark::NetOpen, id, u64::from(node));
        Ok(SimSocket::new(id, 0, postbox))
    }

    fn new_end(&mut self, process: Process, peer: Process, trace: &mut Trace) -> End {
        let window = within(&mut self.prng, &self.config.window_bytes);
        if window < 4096 {
            trace.fault(Fault::NetSmallWindow);
        }
        let is_drip = fires(&mut self.prng, self.config.drip);
        if is_drip {
            trace.fault(Fault::NetDrip);
        }
        End {
            process,
            is_closed: false,
            is_silent: false,
            error: None,
            saw_fin: false,
            inbox: VecDeque::new(),
            parcels: VecDeque::new(),
            due_at: None,
            stalled_at: None,
            last_at: 0,
            delay_ns: self.draw_delay(peer.node, process.node),
            unread: 0,
            unread_news: 0,
            window: usize::try_from(window).expect("a window fits in memory"),
            is_drip,
            patience_ns: self.draw_patience(),
            reader: None,
            writer: None,
        }
    }

    // ---- the ends ----

    /// The end that a program holds, unless the connection is gone.
    fn end(&mut self, id: u64, end: usize) -> Option<&mut End> {
        self.connections
            .get_mut(&id)
            .map(|connection| &mut connection.ends[end])
    }

    /// The process at an end changes hands within its node; whoever waited is forgotten.
    pub(crate) fn adopt(&mut self, id: u64, end: usize) {
        if let Some(end) = self.end(id, end) {
            end.reader = None;
            end.writer = None;
        }
    }

    pub(crate) fn read(
        &mut self,
        id: u64,
        end: usize,
        buf: &mut [u8],
        waker: &Waker,
        now: u64,
        trace: &mut Trace,
    ) -> Option<Result<usize, ErrorKind>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Some(Err(ErrorKind::ConnectionReset));
        };
        let [a, b] = &mut connection.ends;
        let (this, peer) = if end == 0 { (a, b) } else { (b, a) };
        let available = this.inbox.len().min(buf.len());
        if available == 0 && !buf.is_empty() {
            if let Some(kind) = this.error {
                return Some(Err(kind));
            }
            if this.saw_fin || this.is_closed {
                return Some(Ok(0));
            }
            this.reader = Some(waker.clone());
            return None;
        }
        let count = if this.is_drip {
            available.min(1)
        } else if available > 1 && fires(&mut self.prng, self.config.short_read) {
            trace.fault(Fault::NetShortRead);
            1 + self.prng.index(available)
        } else {
            available
        };
        for (to, from) in buf.iter_mut().zip(this.inbox.drain(..count)) {
            *to = from;
        }
        if self.cut_until[this.process.node()][peer.process.node()] > now {
            peer.unread_news += count;
        } else {
            let was_full = peer.room() == 0;
            peer.unread -= core::mem::take(&mut peer.unread_news) + count;
            if was_full {
                wake(&mut peer.writer);
            }
        }
        Some(Ok(count))
    }

    pub(crate) fn try_write(
        &mut self,
        id: u64,
        end: usize,
        bytes: &[u8],
        now: u64,
        timeline: &mut Timeline,
        trace: &mut Trace,
    ) -> Result<usize, ErrorKind> {
        let this = self.end(id, end).ok_or(ErrorKind::BrokenPipe)?;
        if let Some(kind) = this.error {
            return Err(kind);
        }
        if this.is_closed {
            return Err(ErrorKind::BrokenPipe);
        }
        let room = this.room().min(bytes.len());
        let count = if room > 1 && fires(&mut self.prng, self.config.short_write) {
            trace.fault(Fault::NetShortWrite);
            1 + self.prng.index(room)
        } else {
            room
        };
        if count == 0 {
            return Ok(0);
        }
        let bytes = &bytes[..count];
        trace.fold(
            Mark::NetSend,
            id * 2 + end as u64,
            u64::from(base::checksum::crc32c(bytes)),
        );
        if let Some(this) = self.end(id, end) {
            this.unread += count;
        }
        self.send(id, 1 - end, Cargo::Bytes(bytes.to_vec()), now, timeline, trace);
        Ok(count)
    }

    /// Whether `try_write` is worth a call.
    pub(crate) fn writable(&mut self, id: u64, end: usize, waker: &Waker) -> Option<Result<(), ErrorKind>> {
        let Some(this) = self.end(id, end) else {
            return Some(Err(ErrorKind::BrokenPipe));
        };
        match this.error {
            Some(kind) => Some(Err(kind)),
            None if this.is_closed => Some(Err(ErrorKind::BrokenPipe)),
            None if this.room() > 0 => Some(Ok(())),
            None => {
                this.writer = Some(waker.clone());
                None
            }
        }
    }

    /// A program closes its end. What it has not read makes the close a reset, as TCP does.
    pub(crate) fn close(&mut self, id: u64, end: usize, now: u64, timeline: &mut Timeline) {
        let Some(this) = self.end(id, end) else { return };
        if !this.is_closed {
            this.is_closed = true;
            let cargo = if this.inbox.is_empty() {
                Cargo::Fin
            } else {
                Cargo::Reset
            };
            this.wake_both();
            self.push(id, 1 - end, cargo, now, 0, timeline);
        }
        self.forget_if_over(id);
    }

    /// Both directions end; the connection stays until its halves are dropped.
    pub(crate) fn shutdown(&mut self, id: u64, end: usize, now: u64, timeline: &mut Timeline) {
        let Some(this) = self.end(id, end) else { return };
        if !this.is_closed {
            this.is_closed = true;
            this.wake_both();
            self.push(id, 1 - end, Cargo::Fin, now, 0, timeline);
        }
    }

    fn forget_if_over(&mut self, id: u64) {
        let is_over = |end: &End| end.is_closed && end.parcels.is_empty();
        if self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.ends.iter().all(is_over))
        {
            self.connections.remove(&id);
        }
    }

    // ---- on the way ----

    fn send(
        &mut self,
        id: u64,
        to: usize,
        cargo: Cargo,
        now: u64,
        timeline: &mut Timeline,
        trace: &mut Trace,
    ) {
        let mut late_ns = 0;
        if fires(&mut self.prng, self.config.loss) {
            trace.fault(Fault::NetLoss);
            late_ns = within(&mut self.prng, &self.config.loss_ns);
        }
        if fires(&mut self.prng, self.config.reset) {
            trace.fault(Fault::NetReset);
            self.push(id, to, Cargo::Reset, now, late_ns, timeline);
            self.push(id, 1 - to, Cargo::Reset, now, 0, timeline);
            return;
        }
        self.push(id, to, cargo, now, late_ns, timeline);
    }

    fn push(&mut self, id: u64, to: usize, cargo: Cargo, now: u64, late_ns: u64, timeline: &mut Timeline) {
        let jitter_ns = if self.config.jitter_ns > 0 {
            self.prng.below(self.config.jitter_ns)
        } else {
            0
        };
        let Some(end) = self.end(id, to) else { return };
        let at = (now + end.delay_ns + jitter_ns + late_ns).max(end.last_at);
        end.last_at = at;
        end.parcels.push_back(Parcel { at, cargo });
        if end.due_at.is_none() {
            end.due_at = Some(at);
            timeline.schedule(
                at,
                Event::Net {
                    connection: id,
                    end: to,
                },
            );
        }
    }

    /// The event that a pipe planned.
    pub(crate) fn arrive(
        &mut self,
        id: u64,
        to: usize,
        now: u64,
        timeline: &mut Timeline,
        trace: &mut Trace,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (from_node, to_node) = (
            connection.ends[1 - to].process.node,
            connection.ends[to].process.node,
        );
        let until = self.cut_until[from_node as usize][to_node as usize];
        let end = &mut connection.ends[to];
        if end.due_at != Some(now) {
            return;
        }
        end.due_at = None;
        if until > now || end.is_silent {
            let stalled_at = *end.stalled_at.get_or_insert(now);
            let patience_at = stalled_at + end.patience_ns;
            if patience_at <= now {
                return self.time_out(id, to, trace);
            }
            let again_at = if end.is_silent {
                patience_at
            } else {
                patience_at.min(until)
            };
            end.due_at = Some(again_at);
            timeline.schedule(
                again_at,
                Event::Net {
                    connection: id,
                    end: to,
                },
            );
            return;
        }
        end.stalled_at = None;
        while let Some(parcel) = end.parcels.pop_front_if(|parcel| parcel.at <= now) {
            trace.fold(Mark::NetDeliver, id * 2 + to as u64, parcel.at);
            match parcel.cargo {
                Cargo::Bytes(_) if end.is_closed => {
                    end.parcels.clear();
                    self.push(id, 1 - to, Cargo::Reset, now, 0, timeline);
                    return self.forget_if_over(id);
                }
                Cargo::Bytes(bytes) => {
                    end.inbox.extend(bytes);
                    wake(&mut end.reader);
                }
                Cargo::Fin => {
                    end.saw_fin = true;
                    wake(&mut end.reader);
                }
                Cargo::Reset => {
                    end.parcels.clear();
                    end.break_with(ErrorKind::ConnectionReset);
                }
            }
        }
        if let Some(front) = end.parcels.front() {
            let at = front.at;
            end.due_at = Some(at);
            timeline.schedule(
                at,
                Event::Net {
                    connection: id,
                    end: to,
                },
            );
        }
        self.forget_if_over(id);
    }

    /// What was sent to `to` was never acknowledged: the sender gives up, and the other side does not hear of it.
    fn time_out(&mut self, id: u64, to: usize, trace: &mut Trace) {
        trace.fault(Fault::NetTimeout);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ends[to].parcels.clear();
            let sender = &mut connection.ends[1 - to];
            sender.break_with(ErrorKind::TimedOut);
            sender.is_closed = true;
        }
        self.forget_if_over(id);
    }

    // ---- machines ----

    /// A node's process is gone: listeners with it, and each peer is told or not.
    pub(crate) fn stop(&mut self, node: u32, now: u64, timeline: &mut Timeline, trace: &mut Trace) {
        self.is_up[node as usize] = false;
        self.listeners.retain(|(of, _), _| *of != node);
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            for end in 0..2 {
                let Some(this) = self.end(id, end).filter(|this| this.process.node == node) else {
                    continue;
                };
                this.is_closed = true;
                this.inbox.clear();
                (this.reader, this.writer) = (None, None);
                if fires(&mut self.prng, self.config.half_open) {
                    trace.fault(Fault::NetHalfOpen);
                    if let Some(this) = self.end(id, end) {
                        this.is_silent = true;
                    }
                } else {
                    self.push(id, 1 - end, Cargo::Reset, now, 0, timeline);
                }
            }
            self.forget_if_over(id);
        }
    }

    /// A node runs again: what reaches its old connections is answered by a reset.
    pub(crate) fn started(&mut self, node: u32) {
        self.is_up[node as usize] = true;
        for connection in self.connections.values_mut() {
            for end in connection.ends.iter_mut().filter(|end| end.process.node == node) {
                end.is_silent = false;
            }
        }
    }
}

/// Schedules an earlier event for a pipe, if there is none as early.
fn plan(id: u64, end: usize, due_at: Option<u64>, at: u64, timeline: &mut Timeline) {
    if due_at.is_none_or(|due| due > at) {
        timeline.schedule(at, Event::Net { connection: id, end });
    }
}
