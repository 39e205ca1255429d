//! What the simulator promises, held against the simulator.

mod conformance;
mod crash;
mod determinism;
mod faults;
mod network;
