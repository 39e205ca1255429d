//! Connections, from sockets to frames and back, under limits: the server's side of them, and those to other nodes' shards.
//!
//! ```text
//!              ┌────────────── one task per connection ─────────────┐
//!   socket ───►│ FrameReader ─► Connection (pure) ─► Handler::on_… │   every frame of one receive, in one go
//!              └────────────────────────────────────────────────────┘
//!   socket ◄── flush: one try_write per connection and loop turn ◄── Outbox ◄─┬─ Transport::send   to whom has dialled
//!              └── what did not fit: a drain task that waits for room          └─ Peers::send       to whom this side dials
//! ```
//!
//! [`connection`] decides (pure: phases, time-outs, windows), [`transport`] does (tasks over `env::Net`). [`peers`] dials:
//! two shards that talk to each other have a connection for each direction, and what is dialled there is received here as
//! any other connection.
//!
//! Invariants:
//! - A peer that misbehaves loses its connection, and the reason is counted by name; nothing it sends makes the node panic.
//! - Memory per connection is bounded: a small receive buffer before the hello, one frame after it, and a window of requests
//!   that closes while replies wait to be sent. Trains of peers are not answered and have no window.
//! - Frames of one connection reach the handler in order, and none after its close was reported.
//! - A connection is a client's or a peer's, as its first frame says, and the handler sees no frame of the other's kinds.

pub mod config;
pub mod connection;
mod egress;
pub mod peers;
mod receiver;
mod slots;
pub mod transport;

pub use config::TransportConfig;
pub use connection::{CloseReason, ConnectionId};
pub use peers::{PeerConfig, PeerCounters, Peers};
pub use transport::{Counters, Handler, Handover, HelloAnswer, Transport};
