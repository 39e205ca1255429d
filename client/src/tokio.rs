//! The shell on tokio: connections, retries and the public handle.

mod call;
mod connection;
mod db;
mod flights;
mod one_shot;
mod part;
mod pool;
mod scan;
mod snapshot;
mod traffic;
mod transaction;
mod txn;

pub use self::txn::{Savepoint, Txn, TxnScan};
pub use db::{Db, connect, connect_with};
pub use scan::{Rows, Scan};
pub use snapshot::Snapshot;
