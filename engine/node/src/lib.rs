//! One node: shards, their event loops, and the ranges that they serve.
//!
//! ```text
//!   config, identity        what the node is told, who it is
//!   start ─► recover        from a data directory to running shards
//!   shard ─► state          the event loop of one shard, and what it holds
//!     write  read  scan     what requests become; scan_clock: at which timestamp several ranges are read
//!     transact              what requests of transactions become
//!     split  claims  moving ranges change online
//!     maintenance           flush, merge, clock bound
//!     gauge ─► ailing       whether the disk is full or slow, and what is done then
//!   route, range_map        which shard serves which keys
//!   local ─► replicate      a range's group, replica and tablet; what groups want written, sent and applied
//!   entry, dialect          what groups say, as it is in the log and on the wire
//!   cluster, roster, neighbours, letters, outlook
//!                           other nodes: who they are, what is said to them and to which shard, whether they live
//!   members, removal        who has a range's replicas changes online
//!   forget                  nodes that were removed from the cluster
//!   version                 what nodes may say while some are of an older build
//!   placer                  the cluster looks after its replicas by itself
//!   transfer                state for replicas that the log does not reach any more
//!   message                 what shards say to each other
//!   refusal, status         what clients are told
//! ```
//!
//! Generic over `env::Env`: the same code runs on the real machine and in the simulator.
//!
//! Invariants:
//! - A write is acknowledged only when its log entry is durable and applied.
//! - A range is served by one shard; its marker file says which, and is renamed when it moves.
//! - No timestamp is issued above the bound that the log has made durable.
//! - Nothing here names glommio, a file system or a socket.

mod ailing;
pub mod births;
mod claims;
mod closed;
pub mod cluster;
pub mod config;
mod contention;
mod damage;
mod damage_note;
mod dialect;
mod entry;
mod file;
mod forget;
mod gauge;
pub mod identity;
mod incarnation;
mod injuries;
mod letters;
mod local;
mod maintenance;
mod marker;
mod members;
mod merge;
pub mod message;
mod modify;
mod moving;
mod neighbours;
mod outlook;
mod placer;
mod queues;
pub mod range_map;
mod read;
mod recover;
pub mod refusal;
mod removal;
mod replicate;
pub mod roster;
mod route;
mod scan;
mod scan_clock;
mod scrub;
mod shard;
mod spilled;
mod split;
pub mod start;
mod state;
pub mod status;
mod strangers;
mod ticks;
mod transact;
mod transfer;
pub mod version;
mod waiting;
mod write;

pub use births::BirthsError;
pub use cluster::{Cluster, Member};
pub use config::NodeConfig;
pub use identity::Identity;
pub use incarnation::IncarnationError;
pub use message::ShardMessage;
pub use placement::{Config as PlacementConfig, Locality};
pub use placer::policy::PolicyError;
pub use placer::settings::Placement;
pub use placer::standing::StandingError;
pub use placer::words::WordsError;
pub use recover::{RecoverError, Replayed};
pub use refusal::Refusal;
pub use roster::RosterError;
pub use shard::Front;
pub use start::{NodeError, Ready, run_shard};
pub use version::Version;
