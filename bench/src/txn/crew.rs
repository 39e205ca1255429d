//! Tasks that put or run transactions by the client library, each the next one when the last is over, on threads of their own.

use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::Prng;
use corelane::{Db, Error, OneShot, Options, Txn, TxnOptions};

use super::accounts;
use super::ground::Ground;
use crate::BenchError;
use crate::config::Target;
use crate::distribution::{ZIPF_EXPONENT, Zipf};
use crate::loader::{Findings, Shared, thread_cpu};
use crate::recorder::{Recorder, Window};
use crate::step::nanos;
use crate::workload::Layout;

/// What the tasks of a series do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A put outside of transactions.
    Put,
    /// A transaction that writes one record.
    OneWrite,
    /// A transaction that writes two records of one range.
    OneRange,
    /// A transaction that writes two records of ranges with different leaders, where there are several.
    TwoRange,
    /// A transaction that reads two accounts for update and writes both, each account alike.
    Uniform,
    /// A one-shot transaction that adds to two numbers of ranges with different leaders, and reads nothing.
    OneShot,
    /// As [`Self::Uniform`], few accounts getting most of the transfers.
    Zipf,
    /// As [`Self::OneShot`], few numbers getting most of them; both may be of one range.
    OneShotZipf,
    /// Outside of transactions, adds to a number that all tasks share, which must not become negative.
    Add,
}

/// The number that all add to. No record and no account has this key.
const HOT: &str = "hot";
/// What a number may be: they begin with nothing, and half of them are taken from.
const NUMBERS: RangeInclusive<i64> = -1_000_000_000..=i64::MAX;

impl Work {
    pub(crate) fn is_transfer(self) -> bool {
        match self {
            Self::Uniform | Self::Zipf => true,
            Self::Put
            | Self::OneWrite
            | Self::OneRange
            | Self::TwoRange
            | Self::OneShot
            | Self::OneShotZipf
            | Self::Add => false,
        }
    }
}

/// A handle and the runtime that its connections live on.
pub(crate) struct Client {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) db: Db,
}

impl Client {
    pub(crate) fn connect(target: &Target) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| BenchError::Local {
                operation: "start the client's runtime",
                source,
            })?;
        let options = Options {
            app: "bench txn".to_owned(),
            ..Options::default()
        };
        let address = format!("corelane://{}", target.address);
        let db = runtime
            .block_on(corelane::connect_with(&address, options))
            .map_err(client("connect"))?;
        Ok(Self { runtime, db })
    }
}

/// An error of the client library at a step around the measurement.
pub(crate) fn client(step: &'static str) -> impl Fn(Error) -> BenchError {
    move |source| BenchError::Client { step, source }
}

/// How long the end of a run waits for what is left to be done for its transactions.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The tasks of one thread.
pub(crate) struct Crew {
    pub(crate) client: Client,
    pub(crate) work: Work,
    pub(crate) tasks: u32,
    pub(crate) window: Window,
    pub(crate) layout: Layout,
    pub(crate) ground: Arc<Ground>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) seed: u64,
}

impl Crew {
    /// Runs the tasks until the end of the window. `began` is time zero of the run.
    pub(crate) fn run(self, began: Instant) -> Result<Findings, BenchError> {
        let Self { client, window, .. } = self;
        let recorder = Arc::new(Mutex::new(Recorder::new(window)));
        let cpu = client.runtime.block_on(async {
            let tasks: Vec<_> = (0..self.tasks)
                .map(|number| {
                    let seed = Prng::new(self.seed ^ u64::from(number) << 32).next_u64();
                    let worker = Worker {
                        db: client.db.clone(),
                        work: self.work,
                        layout: self.layout.clone(),
                        ground: Arc::clone(&self.ground),
                        zipf: Zipf::new(self.ground.count(), ZIPF_EXPONENT),
                        prng: Prng::new(seed),
                    };
                    let (recorder, shared) = (Arc::clone(&recorder), Arc::clone(&self.shared));
                    tokio::spawn(worker.run(began, window, recorder, shared))
                })
                .collect();
            let at = |ns| tokio::time::sleep_until((began + Duration::from_nanos(ns)).into());
            at(window.start_ns).await;
            let first = thread_cpu();
            at(window.end_ns).await;
            let cpu = thread_cpu().saturating_sub(first);
            for task in tasks {
                if let Err(error) = task.await
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            }
            // With nodes that do not answer any more it would take as long as they are asked.
            let _ = tokio::time::timeout(SETTLE_MAX, client.db.settle()).await;
            cpu
        });
        let recorder = Arc::into_inner(recorder).expect("its tasks have ended");
        let recorder = recorder.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Findings { recorder, cpu })
    }
}

/// One task.
struct Worker {
    db: Db,
    work: Work,
    layout: Layout,
    ground: Arc<Ground>,
    zipf: Zipf,
    prng: Prng,
}

impl Worker {
    async fn run(
        mut self,
        began: Instant,
        window: Window,
        recorder: Arc<Mutex<Recorder>>,
        shared: Arc<Shared>,
    ) {
        let now_ns = || nanos(began.elapsed());
        let mut start_ns = now_ns();
        while start_ns < window.end_ns && !shared.stop.load(Ordering::Relaxed) {
            let attempts = AtomicU64::new(0);
            let result = self.step(&attempts).await;
            let end_ns = now_ns();
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(()) => {
                    let retries = attempts.into_inner().saturating_sub(1);
                    recorder.committed(start_ns, end_ns, retries);
                }
                Err(error) => recorder.refused(&error.to_string()),
            }
            shared.answers.fetch_add(1, Ordering::Relaxed);
            start_ns = end_ns;
        }
    }

    /// One put or transaction.
    async fn step(&mut self, attempts: &AtomicU64) -> Result<(), Error> {
        let record = self.prng.below(self.ground.count());
        match self.work {
            Work::Put => {
                let (key, value) = self.pair(record);
                self.db.put(key, value).await.map(|_| ())
            }
            Work::Add => {
                let delta = if record.is_multiple_of(2) { 2 } else { -1 };
                self.db.add_within(HOT, delta, 0..=i64::MAX).await.map(|_| ())
            }
            Work::OneWrite => {
                let pairs = [self.pair(record)];
                self.write(&pairs, attempts).await
            }
            Work::OneRange => {
                let other = self.ground.near(record, &mut self.prng);
                let pairs = [self.pair(record), self.pair(other)];
                self.write(&pairs, attempts).await
            }
            Work::TwoRange => {
                let other = self.ground.far(record, &mut self.prng);
                let pairs = [self.pair(record), self.pair(other)];
                self.write(&pairs, attempts).await
            }
            Work::OneShot | Work::OneShotZipf => {
                let (from, to) = match self.work {
                    Work::OneShotZipf => self.two_accounts(),
                    _ => (record, self.ground.far(record, &mut self.prng)),
                };
                let [from, to] = [from, to].map(|record| self.number(record));
                let mut shot = OneShot::new();
                shot.add_within(from, -1, NUMBERS).add(to, 1);
                attempts.fetch_add(1, Ordering::Relaxed);
                let options = TxnOptions::default();
                self.db.run_one_shot(&shot, &options).await.map(|_| ())
            }
            Work::Uniform | Work::Zipf => {
                let (from, to) = self.two_accounts();
                let salt = self.prng.next_u64();
                let layout = &self.layout;
                self.db
                    .transaction(|txn| {
                        attempts.fetch_add(1, Ordering::Relaxed);
                        transfer(txn, layout, (from, to), salt)
                    })
                    .await
            }
        }
    }

    fn two_accounts(&mut self) -> (u64, u64) {
        let from = self.account();
        loop {
            let to = self.account();
            if to != from {
                return (from, to);
            }
        }
    }

    fn account(&mut self) -> u64 {
        if matches!(self.work, Work::Zipf | Work::OneShotZipf) {
            self.zipf.draw(&mut self.prng)
        } else {
            self.prng.below(self.ground.count())
        }
    }

    /// A number beside a record.
    fn number(&self, record: u64) -> Vec<u8> {
        let mut key = Vec::new();
        self.layout.key(record, &mut key);
        key.extend_from_slice(b"/n");
        key
    }

    fn pair(&mut self, record: u64) -> (Vec<u8>, Vec<u8>) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        self.layout.key(record, &mut key);
        self.layout.value(record, self.prng.next_u64(), &mut value);
        (key, value)
    }

    async fn write(&self, pairs: &[(Vec<u8>, Vec<u8>)], attempts: &AtomicU64) -> Result<(), Error> {
        self.db
            .transaction(|txn| {
                attempts.fetch_add(1, Ordering::Relaxed);
                async move {
                    for (key, value) in pairs {
                        txn.put(key, value).await?;
                    }
                    Ok(())
                }
            })
            .await
    }
}

/// Moves one unit; of an account that has nothing, none.
async fn transfer(txn: Txn, layout: &Layout, (from, to): (u64, u64), salt: u64) -> Result<(), Error> {
    let keys = [from, to].map(|account| accounts::key(layout, account));
    let values = txn.get_many_for_update(&keys).await?;
    let balance = |at: usize, account| {
        let value = values.get(at).and_then(Option::as_deref);
        value.and_then(|value| accounts::balance(layout, account, value))
    };
    let (Some(rich), Some(poor)) = (balance(0, from), balance(1, to)) else {
        return Err(Error::Protocol {
            what: format!("account {from} or {to} has no balance"),
        });
    };
    let moved = rich.min(1);
    let [from_key, to_key] = keys;
    txn.put(from_key, accounts::value(layout, from, rich - moved, salt))
        .await?;
    txn.put(to_key, accounts::value(layout, to, poor + moved, salt))
        .await
}

/// Reads all records and accounts at one moment, again and again, until it is told to end; gives the rows that it read.
pub(crate) fn scan(client: &Client, pause: Duration, end: &AtomicBool) -> Result<u64, Error> {
    let rows = AtomicU64::new(0);
    let options = TxnOptions::named("scan beside");
    let all = |txn: Txn| async {
        let txn = txn;
        let mut scan = txn.scan(accounts::SPAN);
        while !end.load(Ordering::Relaxed)
            && let Some(page) = scan.next_page().await?
        {
            rows.fetch_add(page.len() as u64, Ordering::Relaxed);
        }
        Ok::<_, Error>(())
    };
    client.runtime.block_on(async {
        while !end.load(Ordering::Relaxed) {
            client.db.transaction_with(&options, all).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(rows.load(Ordering::Relaxed))
    })
}
