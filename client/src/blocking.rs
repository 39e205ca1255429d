//! The client for programs without an asynchronous runtime: the same calls, waiting.
//!
//! ```no_run
//! let db = corelane::blocking::connect("corelane://127.0.0.1:7400")?;
//! db.put("greeting", "hello")?;
//! for row in db.scan("a".."z").rows() {
//!     let row = row?;
//!     println!("{} bytes", row.value.len());
//! }
//! # Ok::<(), corelane::Error>(())
//! ```
//!
//! A thread of its own runs the connections; calls of any thread are passed to it and waited for. They must not be made
//! from inside an asynchronous task, which would stop that task's thread.

mod snapshot;
mod txn;

pub use self::snapshot::Snapshot;
pub use self::txn::Txn;

use crate::tokio as shell;
use crate::{
    Address, Batch, Done, Error, KeySpan, Merged, Modified, Moved, NodeInfo, NodeUse, OneShot, Options, Page,
    Placed, Policies, Policy, PolicyChange, RangeInfo, Row, Split, StaleValue, Staleness, Swap, TxnOptions,
};
use base::{Modification, NodeId, RangeId, ShardId, Timestamp};
use core::future::Future;
use core::ops::RangeInclusive;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How long the end of the last handle waits for what is left to be done for transactions that are over.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// A database: a cheap handle that all threads may clone and share.
#[derive(Debug, Clone)]
pub struct Db {
    inner: shell::Db,
    background: Arc<Background>,
}

/// The thread that runs the connections. Ends when the last handle is dropped.
#[derive(Debug)]
struct Background {
    handle: Handle,
    /// What it runs, once that is connected.
    db: OnceLock<shell::Db>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start() -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Unavailable {
            address: "the client's own thread".to_owned(),
            cause: error.to_string(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // Either way, a message or a dropped sender, it is time to end.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new()
            .name("corelane-client".to_owned())
            .spawn(run)
            .map_err(failed)?;
        Ok(Self {
            handle,
            db: OnceLock::new(),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Waits for `future` on this thread. Its timers and sockets are driven by the background thread.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        struct Unpark(Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let _entered = self.handle.enter();
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => return value,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            // What is not finished by then is finished by whoever meets it.
            let _ = self.wait(async { tokio::time::timeout(SETTLE_MAX, db.settle()).await });
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its only work is to drive the runtime: it has no result.
            let _ = thread.join();
        }
    }
}

/// Connects to the server, or to the first that answers of several, at `address` with default options.
///
/// # Errors
/// As [`crate::connect`].
pub fn connect(address: &str) -> Result<Db, Error> {
    connect_with(address, Options::default())
}

/// Connects to the server, or to the first that answers of several, at `address` with `options`.
///
/// # Errors
/// As [`crate::connect`].
pub fn connect_with(address: &str, options: Options) -> Result<Db, Error> {
    let background = Arc::new(Background::start()?);
    let inner = background.wait(shell::connect_with(address, options))?;
    let _ = background.db.set(inner.clone());
    Ok(Db { inner, background })
}

macro_rules! waiting {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Db {
            $($(#[$doc])*
            ///
            /// # Errors
            /// See [`Error`].
            pub fn $name(&self, $($argument: $type),*) -> Result<$result, Error> {
                self.background.wait(self.inner.$name($($argument),*))
            })*
        }
    };
}

waiting! {
    /// The newest value of `key`.
    get(key: impl AsRef<[u8]>) -> Option<Vec<u8>>;
    /// The value that `key` had at `ts`.
    get_at(key: impl AsRef<[u8]>, ts: Timestamp) -> Option<Vec<u8>>;
    /// The value that `key` had a while ago, from the nearest node that has it; see [`Staleness`].
    get_stale(key: impl AsRef<[u8]>, staleness: Staleness) -> StaleValue;
    /// The newest value of `key` and when it was written; or no value and when that was so.
    get_versioned(key: impl AsRef<[u8]>) -> (Option<Vec<u8>>, Timestamp);
    /// Sets `key` to `value`, durably, and says at which timestamp.
    put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Timestamp;
    /// Removes `key`, whether it has a value or not.
    delete(key: impl AsRef<[u8]>) -> Timestamp;
    /// Removes every key of `span`; see [`crate::Db::delete_range`] for what is atomic.
    delete_range(span: impl KeySpan) -> ();
    /// Sets `key` to `value` if it has no value.
    put_if_absent(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Swap;
    /// Sets `key` to `value` if its value is `expected`.
    compare_and_put(key: impl AsRef<[u8]>, expected: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Swap;
    /// Removes `key` if its value is `expected`.
    compare_and_delete(key: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) -> Swap;
    /// Adds `delta` to the number that `key` has, and says the sum; see [`crate::Db::add`].
    add(key: impl AsRef<[u8]>, delta: i64) -> i64;
    /// As [`Self::add`], if the sum lies within `bounds`.
    add_within(key: impl AsRef<[u8]>, delta: i64, bounds: RangeInclusive<i64>) -> Modified;
    /// Changes the value of `key` by what it is; see [`crate::Db::modify`].
    modify(key: impl AsRef<[u8]>, by: Modification<'_>) -> Modified;
    /// Performs a batch, all of it or nothing.
    batch(fill: impl FnOnce(&mut Batch) -> &mut Batch) -> Timestamp;
    /// Performs a batch, all of it or nothing.
    write_batch(batch: &Batch) -> Timestamp;
    /// Conditions and changes of any keys, all of which happen or none; see [`crate::Db::one_shot`].
    one_shot(fill: impl FnOnce(&mut OneShot) -> &mut OneShot) -> Done;
    /// As [`Self::one_shot`], with options.
    run_one_shot(shot: &OneShot, options: &TxnOptions) -> Done;
    /// Splits the range that holds `key`, so that `key` starts a range.
    split(key: impl AsRef<[u8]>) -> Split;
    /// Moves a range to another shard of its node.
    move_range(range: RangeId, shard: ShardId) -> Moved;
    /// Merges a range with `right`, its right neighbour, whose keys it gets; see [`crate::Db::merge_range`].
    merge_range(range: RangeId, right: RangeId) -> Merged;
    /// Sees to it that the replicas of a range are on exactly these nodes; see [`crate::Db::place_range`].
    place_range(range: RangeId, nodes: &[NodeId], leader: Option<NodeId>) -> Placed;
    /// Why the replicas of a range are where they are; see [`crate::Db::explain_range`].
    explain_range(range: RangeId) -> Vec<String>;
    /// Says how a node of a cluster is meant to be used; see [`crate::Db::use_node`].
    use_node(node: NodeId, usage: NodeUse) -> ();
    /// Forgets a node of a cluster for good; see [`crate::Db::remove_node`].
    remove_node(node: NodeId) -> ();
    /// All policies of the cluster.
    policies() -> Policies;
    /// Says what is wished for the keys that begin with `prefix`; see [`crate::Db::set_policy`].
    set_policy(prefix: impl AsRef<[u8]>, policy: &Policy) -> PolicyChange;
    /// Wishes nothing for `prefix` any more; see [`crate::Db::remove_policy`].
    remove_policy(prefix: impl AsRef<[u8]>) -> PolicyChange;
    /// Every range, by start key, as the node knows them now.
    ranges() -> Vec<RangeInfo>;
    /// The nodes of the cluster and where clients reach them; none when the node is alone.
    nodes() -> Vec<(NodeId, Address)>;
    /// The node's status as a JSON object.
    status() -> String;
    /// As [`Self::status`], with each replica of the node; see [`crate::Db::status_with_replicas`].
    status_with_replicas() -> String;
    /// Sends `payload` to a shard and back: no storage is involved.
    echo(payload: impl AsRef<[u8]>) -> Vec<u8>;
    /// Writes raw bytes durably on the node's data device and forgets them.
    disk_write(bytes: u32) -> ();
}

impl Db {
    /// What the home node said about itself when a connection to it was made.
    #[must_use]
    pub fn node(&self) -> Option<NodeInfo> {
        self.inner.node()
    }

    /// Reads the rows of `span` as an iterator.
    pub fn scan(&self, span: impl KeySpan) -> Scan {
        Scan {
            inner: self.inner.scan(span),
            background: self.background.clone(),
        }
    }
}

/// A scan being described: end it with [`Scan::rows`].
#[derive(Debug)]
#[must_use = "a scan does nothing before its rows are asked for"]
pub struct Scan {
    inner: shell::Scan,
    background: Arc<Background>,
}

impl Scan {
    /// From the end of the span to its start.
    pub fn reverse(mut self) -> Self {
        self.inner = self.inner.reverse();
        self
    }

    /// At most `rows` rows.
    pub fn limit(mut self, rows: u64) -> Self {
        self.inner = self.inner.limit(rows);
        self
    }

    /// At most `rows` rows per page.
    pub fn page(mut self, rows: u32) -> Self {
        self.inner = self.inner.page(rows);
        self
    }

    /// As of `ts`, instead of now.
    pub fn at(mut self, ts: Timestamp) -> Self {
        self.inner = self.inner.at(ts);
        self
    }

    /// As of a while ago, from the nearest nodes that have the rows.
    pub fn stale(mut self, staleness: Staleness) -> Self {
        self.inner = self.inner.stale(staleness);
        self
    }

    /// The rows.
    pub fn rows(self) -> Rows {
        Rows {
            inner: self.inner.rows(),
            background: self.background,
            failed: false,
        }
    }
}

/// The rows of a scan, in order. Ends after the first error.
#[derive(Debug)]
pub struct Rows {
    inner: shell::Rows,
    background: Arc<Background>,
    failed: bool,
}

impl Rows {
    /// The next page of rows, never empty, or `None` after the last one: cheaper than rows one by one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn next_page(&mut self) -> Result<Option<Page>, Error> {
        self.background.wait(self.inner.next_page())
    }

    /// The timestamp that the scan reads at; known after the first row, or when chosen by [`Scan::at`].
    #[must_use]
    pub fn read_ts(&self) -> Option<Timestamp> {
        self.inner.read_ts()
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Result<Row, Error>> {
        if self.failed {
            return None;
        }
        let row = self.background.wait(self.inner.next());
        self.failed = row.is_err();
        row.transpose()
    }
}
