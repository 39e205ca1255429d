//! The network.
//!
//! Fault model. Connections are ordered byte streams, as TCP gives them, over links between pairs of nodes:
//! - *Must survive:* delay and jitter; loss (the stream stalls, later bytes wait behind); reads and writes of any size, down
//!   to single bytes (drip, short, small windows); resets at any moment, with data in flight lost; cuts of a pair of nodes,
//!   both ways or one way (the stream stalls; after the sender's patience it times out, and the other end is not told);
//!   half-open connections (a node is gone and its peer hears nothing until it sends and its patience ends, or until the
//!   node is back and answers with a reset); connection attempts that are refused or time out.
//! - *Never happens:* bytes changed, reordered or repeated within a connection.
//!
//! Node `i` has the address `10.0.0.(i+1)`; loopback and unspecified addresses mean the node itself. Ports are per node and
//! picked in order.

pub(crate) mod socket;
pub(crate) mod state;
mod stream;

pub use socket::{SimListener, SimNet, SimReader, SimSocket, SimWriter};
