//! The server's side of connections: from sockets to frames and back, under limits.
//!
//! ```text
//!              ┌────────────── one task per connection ─────────────┐
//!   socket ───►│ FrameReader ─► Connection (pure) ─► Handler::on_… │   every frame of one receive, in one go
//!              └────────────────────────────────────────────────────┘
//!   socket ◄── flush: one try_write per connection and loop turn ◄── Outbox ◄── Transport::send
//!              └── what did not fit: a drain task that waits for room
//! ```
//!
//! [`connection`] decides (pure: phases, time-outs, windows), [`transport`] does (tasks over `env::Net`).
//!
//! Invariants:
//! - A peer that misbehaves loses its connection, and the reason is counted by name; nothing it sends makes the node panic.
//! - Memory per connection is bounded: a small receive buffer before the hello, one frame after it, and a window of requests
//!   that closes while replies wait to be sent.
//! - Frames of one connection reach the handler in order, and none after its close was reported.

pub mod config;
pub mod connection;
mod receiver;
mod slots;
pub mod transport;

pub use config::TransportConfig;
pub use connection::{CloseReason, ConnectionId};
pub use transport::{Counters, Handler, Handover, HelloAnswer, Transport};
