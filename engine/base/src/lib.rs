//! Vocabulary shared by every crate of corelane: ids, timestamps, clocks, limits, checksums, collections, probes.
//!
//! Nothing here performs I/O, reads a clock or draws randomness of its own: time and seeds come in as arguments.
//!
//! Invariants:
//! - No type in this crate depends on another crate of the workspace.
//! - No policy: a rule that only one crate follows lives in that crate.

pub mod api;
pub mod checksum;
pub mod collections;
pub mod hlc;
pub mod ids;
pub mod key;
pub mod limits;
pub mod modification;
pub mod prefetch;
pub mod prng;
pub mod probe;
pub mod timestamp;

pub use hlc::Hlc;
pub use ids::{ClientId, Index, NodeId, RangeId, ReplicaId, RequestId, Seqno, ShardId, Term};
pub use modification::{Modification, Unmodified};
pub use prng::Prng;
pub use timestamp::Timestamp;
