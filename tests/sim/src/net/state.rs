//! Links between nodes, listeners, and what a machine's end does to its connections: pure state.

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

/// A connection and which of its two ends.
pub(crate) type EndId = (u64, usize);

#[derive(Debug)]
pub(super) enum Cargo {
    Bytes(Vec<u8>),
    /// The sender has closed.
    Fin,
    /// The connection is broken.
    Reset,
    /// So many bytes were read: the window has room again.
    Room(usize),
}

#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) at: u64,
    pub(super) cargo: Cargo,
}

/// One end of a connection, with the pipe that leads to it.
#[derive(Debug)]
pub(super) struct End {
    pub(super) process: Process,
    /// Closed by its own side, or given up: what still arrives is answered by a reset.
    pub(super) is_closed: bool,
    /// No program holds it any more.
    pub(super) is_released: bool,
    /// The machine does not answer: what arrives here vanishes.
    pub(super) is_silent: bool,
    pub(super) error: Option<ErrorKind>,
    pub(super) saw_fin: bool,
    pub(super) inbox: VecDeque<u8>,
    /// On their way to here, in order.
    pub(super) parcels: VecDeque<Parcel>,
    /// When the next event for the pipe is due.
    pub(super) due_at: Option<u64>,
    /// Since when the front of the pipe cannot get through.
    pub(super) stalled_at: Option<u64>,
    pub(super) last_at: u64,
    pub(super) delay_ns: u64,
    /// Sent from here and not yet read there.
    pub(super) unread: usize,
    pub(super) window: usize,
    pub(super) is_drip: bool,
    pub(super) patience_ns: u64,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ends: [End; 2],
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
    pub(super) prng: Prng,
    pub(super) connections: BTreeMap<u64, Connection>,
    connection_next: u64,
    listeners: BTreeMap<(u32, u16), Vec<Listener>>,
    listener_next: u64,
    ports: Vec<u16>,
    is_up: Vec<bool>,
    /// Until when nothing gets from one node to another: `cut_until[from][to]`.
    pub(super) cut_until: Vec<Vec<u64>>,
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl End {
    pub(super) fn wake_both(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    pub(super) fn break_with(&mut self, kind: ErrorKind) {
        self.error.get_or_insert(kind);
        self.wake_both();
    }

    pub(super) fn room(&self) -> usize {
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
                let front_at = end.parcels.front().map(|front| front.at.max(now));
                if let Some(at) = front_at.filter(|at| end.due_at.is_none_or(|due_at| due_at > *at)) {
                    end.due_at = Some(at);
                    timeline.schedule(
                        at,
                        Event::Net {
                            connection: *id,
                            end: index,
                        },
                    );
                }
            }
        }
    }

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
            is_released: false,
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
            window: usize::try_from(window).expect("a window fits in memory"),
            is_drip,
            patience_ns: self.draw_patience(),
            reader: None,
            writer: None,
        }
    }

    /// Connections that drip, or are slow, are not from here on.
    pub(crate) fn calm(&mut self, config: NetConfig) {
        self.config = config;
        let delay_max = *self.config.delay_ns.end();
        let window = usize::try_from(*self.config.window_bytes.end()).expect("a window fits in memory");
        for end in self
            .connections
            .values_mut()
            .flat_map(|connection| &mut connection.ends)
        {
            end.is_drip = false;
            end.window = end.window.max(window);
            end.delay_ns = end.delay_ns.min(delay_max);
        }
    }

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
                (this.is_closed, this.is_released) = (true, true);
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
