//! The shell on tokio: connections, retries and the public handle.

mod call;
mod connection;
mod db;
mod pool;
mod scan;
mod traffic;

pub use db::{Db, connect, connect_with};
pub use scan::{Rows, Scan};
