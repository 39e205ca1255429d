//! Real nodes in processes of their own.
//!
//! The simulator decides what a disk may do to us; here the operating system does it. A *campaign* puts writers on a node,
//! kills it with `kill -9` at random moments, starts it again and compares what it holds with what it acknowledged:
//!
//! ```text
//!   start ─► writers run ─► kill -9 ─► start ─► writers finish what was in flight ─► compare ─► writers run ─► kill -9 …
//!              │  ▲                      │                                                        │
//!              │  └── splits and moves   └── sometimes killed again while it recovers             └── `check` offline,
//!              └── each keeps a ledger of what it was told                                            another --shards
//! ```
//!
//! - `process` starts, kills and looks at a node.
//! - [`ledger`] is pure: what a writer was told, and whether the rows of the node agree with it.
//! - `writer` carries out what its ledger proposes.
//! - [`campaign`] is the loop above.
//!
//! *Rounds* do other things to a cluster of three: they kill, pause and cut nodes, and set their clocks, under a load that writes
//! a history of what clients were told, and check the history.
//!
//! - [`history`] is pure: the histories of `corelane bench register|append|bank`, and checkers of them.
//! - [`faketime`] sets the clocks of nodes.
//! - [`network`] keeps nodes apart, by network namespaces or by relays.
//! - [`rounds`] draws faults, brings them about, and has the checkers look.
//!
//! A `kill -9` loses nothing that the operating system was given, so this says nothing about disks that lie: that is the
//! simulator's part. It does test recovery as a whole, on the real log, through the real client's retries.

pub mod campaign;
pub mod faketime;
pub mod history;
pub mod ledger;
pub mod network;
pub mod process;
mod relay;
pub mod rounds;
mod writer;
