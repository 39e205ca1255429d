//! The clients: they pick operations, carry them out, and write down what they were told.

use super::line::{By, Counts, End, Format, Found, Micro, Op, Recorder};
use super::{HistoryArgs, Promise, Workload};
use crate::args::Global;
use crate::error::CliError;
use crate::session::{explain, options};
use base::Prng;
use corelane::{Db, Error, Isolation, Swap, Txn, TxnOptions, prefix};
use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, LineWriter};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What each account begins with.
const BALANCE: u64 = 100;
/// Tries to open the accounts whose outcome may stay unknown.
const OPENS_MAX: u32 = 5;
/// The most that one transfer moves.
const AMOUNT_MAX: u64 = 5;
/// Steps of a transaction of lists, at most.
const STEPS_MAX: u64 = 4;
/// How many of them are one of a pair that shows write skew.
const SKEW: f64 = 0.25;

/// What all clients share.
struct Shared {
    workload: Workload,
    keys: u32,
    prefix: String,
    began: Instant,
    until: Instant,
    /// Operations that may still be begun.
    left: Cell<u64>,
    /// Every value and element is written once, so that a reader knows whose it is.
    next_value: Cell<u64>,
    /// What each register was last seen to have: a compare-and-set of it has a chance.
    seen: RefCell<Vec<u64>>,
    recorder: RefCell<Recorder<LineWriter<File>>>,
}

/// One client.
struct Client {
    db: Db,
    shared: Rc<Shared>,
    prng: Prng,
    process: u64,
    /// Of its transactions.
    isolation: Isolation,
    /// Added to the process number after an unknown outcome: numbers are not used again.
    step: u64,
}

/// Connects, clears the keys, runs all clients to their end, and says how many operations ended how.
pub(super) async fn run(global: &Global, workload: Workload, args: &HistoryArgs) -> Result<Counts, CliError> {
    let file_error = |error: &io::Error| CliError::file("cannot write the history", &args.history, error);
    let file = File::create(&args.history).map_err(|error| file_error(&error))?;
    let mut dbs = Vec::new();
    for client in 0..args.clients as usize {
        let at = rotated(&global.connect, client);
        let db = corelane::connect_with(&at, options(global)).await;
        dbs.push(db.map_err(|error| explain(error, &at))?);
    }
    prepare(&dbs[0], workload, args)
        .await
        .map_err(|error| explain(error, &global.connect))?;
    let began = Instant::now();
    let shared = Rc::new(Shared {
        workload,
        keys: args.keys,
        prefix: args.prefix.clone(),
        began,
        until: began + args.duration,
        left: Cell::new(args.ops.unwrap_or(u64::MAX)),
        next_value: Cell::new(1),
        seen: RefCell::new(vec![0; args.keys as usize]),
        recorder: RefCell::new(Recorder::new(LineWriter::new(file), format(&args.history))),
    });
    let mut prng = Prng::new(args.seed);
    let pause = Duration::from_secs(1) * args.clients / args.rate;
    // Clients have the numbers below `last`, which is the last reader's.
    let last = u64::from(args.clients);
    let mut client = |process, db, isolation| Client {
        db,
        shared: shared.clone(),
        prng: prng.fork(),
        process,
        isolation,
        step: last + 1,
    };
    let mut reader = client(last, dbs[0].clone(), Isolation::StrictSerializable);
    let tasks: Vec<_> = (0..)
        .zip(dbs)
        .map(|(process, db)| {
            let isolation = args.isolation.of(process);
            tokio::task::spawn_local(client(process, db, isolation).run(pause))
        })
        .collect();
    for task in tasks {
        // A task that panics has ended the process, or has told why on standard error.
        let ended = task
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        ended.map_err(|error| file_error(&error))?;
    }
    if workload == Workload::Append {
        // What was appended last, and seen by nobody yet, is seen now.
        let all = Op::Txn((0..args.keys).map(|key| Micro::Read { key }).collect());
        reader.perform(&all).await.map_err(|error| file_error(&error))?;
    }
    let counts = shared.recorder.borrow_mut().finish();
    counts.map_err(|error| file_error(&error))
}

/// By what the file is called.
fn format(file: &Path) -> Format {
    match file.extension().and_then(OsStr::to_str) {
        Some("json" | "jsonl") => Format::Json,
        Some(_) | None => Format::Edn,
    }
}

/// The addresses with another one first, so that clients begin at different nodes.
fn rotated(addresses: &str, by: usize) -> String {
    let bare = addresses.strip_prefix("corelane://").unwrap_or(addresses);
    let mut parts: Vec<_> = bare.trim_end_matches('/').split(',').collect();
    let count = parts.len();
    parts.rotate_left(by % count);
    parts.join(",")
}

/// Removes what the keys held, spreads them over ranges, and opens the accounts.
async fn prepare(db: &Db, workload: Workload, args: &HistoryArgs) -> Result<(), Error> {
    db.delete_range(prefix(&args.prefix)).await?;
    let ranges = args.ranges.min(args.keys);
    for range in 1..ranges {
        let first = u64::from(range) * u64::from(args.keys) / u64::from(ranges);
        let first = u32::try_from(first).expect("below the number of keys");
        db.split(key_of(&args.prefix, first)).await?;
    }
    if workload == Workload::Bank {
        let mut tries = 1;
        // One of unknown outcome has ended when the next one has written the same keys.
        while let Err(error) = open_accounts(db, args).await {
            if !matches!(error, Error::CommitUnknown { .. }) || tries == OPENS_MAX {
                return Err(error);
            }
            tries += 1;
        }
    }
    Ok(())
}

/// Gives every account its balance.
async fn open_accounts(db: &Db, args: &HistoryArgs) -> Result<(), Error> {
    let opened = db.transaction(|txn| async move {
        for account in 0..args.keys {
            txn.put(key_of(&args.prefix, account), BALANCE.to_string())
                .await?;
        }
        Ok::<_, Error>(())
    });
    opened.await
}

fn key_of(prefix: &str, number: u32) -> String {
    format!("{prefix}{number:06}")
}

impl Client {
    async fn run(mut self, pause: Duration) -> io::Result<()> {
        let mut next = Instant::now() + pause.mul_f64(self.prng.unit());
        loop {
            sleep_until(next).await;
            let shared = self.shared.clone();
            if Instant::now() >= shared.until || shared.left.get() == 0 {
                return Ok(());
            }
            shared.left.set(shared.left.get() - 1);
            let op = self.pick();
            self.perform(&op).await?;
            // A slow operation is not made up for: the rate is a bound.
            next = (next + pause.mul_f64(0.5 + self.prng.unit())).max(Instant::now());
        }
    }

    /// Carries an operation out, and writes down how it began and ended.
    async fn perform(&mut self, op: &Op) -> io::Result<()> {
        let is_txn = self.shared.workload != Workload::Register;
        let by = By {
            process: self.process,
            isolation: is_txn.then_some(Promise::name(self.isolation)),
        };
        let begun = self
            .shared
            .recorder
            .borrow_mut()
            .invoke(by, op, self.shared.now_ns());
        begun?;
        let end = self.carry_out(op).await;
        if matches!(end, End::Info(_)) {
            self.process += self.step;
        }
        let now_ns = self.shared.now_ns();
        self.shared.recorder.borrow_mut().end(by, op, &end, now_ns)
    }

    fn pick(&mut self) -> Op {
        let keys = self.shared.keys;
        let key = |prng: &mut Prng| u32::try_from(prng.below(u64::from(keys))).expect("below a u32");
        match self.shared.workload {
            Workload::Register => {
                let key = key(&mut self.prng);
                match self.prng.below(4) {
                    0 | 1 => Op::Read { key },
                    2 => Op::Write {
                        key,
                        value: self.shared.value(),
                    },
                    _ => Op::Cas {
                        key,
                        old: self.shared.seen.borrow()[key as usize],
                        new: self.shared.value(),
                    },
                }
            }
            Workload::Append => Op::Txn(self.pick_steps()),
            Workload::Bank => {
                if self.prng.chance(0.5) {
                    return Op::ReadAll;
                }
                let from = key(&mut self.prng);
                let others = u32::try_from(self.prng.below(u64::from(keys - 1))).expect("below a u32");
                Op::Transfer {
                    from,
                    to: (from + 1 + others) % keys,
                    amount: self.prng.between(1, AMOUNT_MAX),
                }
            }
        }
    }

    fn pick_steps(&mut self) -> Vec<Micro> {
        let keys = u64::from(self.shared.keys);
        let key = |number: u64| u32::try_from(number % keys).expect("below a u32");
        let first = self.prng.below(keys);
        if keys > 1 && self.prng.chance(SKEW) {
            // Two of these, the other way round at the same time: each misses what the other writes, unless that is forbidden.
            let other = first + 1 + self.prng.below(keys - 1);
            let element = self.shared.value();
            return vec![
                Micro::Read { key: key(first) },
                Micro::Read { key: key(other) },
                Micro::Append {
                    key: key(first),
                    element,
                },
            ];
        }
        (0..self.prng.between(1, STEPS_MAX))
            .map(|_| {
                let key = key(self.prng.below(keys));
                if self.prng.chance(0.5) {
                    Micro::Read { key }
                } else {
                    Micro::Append {
                        key,
                        element: self.shared.value(),
                    }
                }
            })
            .collect()
    }

    async fn carry_out(&self, op: &Op) -> End {
        let done = match *op {
            Op::Read { key } => self.read(key).await,
            Op::Write { key, value } => {
                let put = self.db.put(self.key(key), value.to_string()).await;
                put.map(|_| self.shared.set_seen(key, value))
            }
            Op::Cas { key, old, new } => self.cas(key, old, new).await,
            Op::Txn(ref micros) => self.lists(micros).await,
            Op::ReadAll => self.balances().await,
            Op::Transfer { from, to, amount } => self.transfer(from, to, amount).await,
        };
        done.unwrap_or_else(|error| ended(op, &error))
    }

    fn key(&self, number: u32) -> String {
        key_of(&self.shared.prefix, number)
    }

    async fn number(&self, key: u32) -> Result<Option<u64>, Error> {
        let value = self.db.get(self.key(key)).await?;
        value.map(|bytes| number(&bytes)).transpose()
    }

    async fn read(&self, key: u32) -> Result<End, Error> {
        let found = self.number(key).await?;
        if let Some(value) = found {
            self.shared.set_seen(key, value);
        }
        Ok(End::Ok(Found::Value(found)))
    }

    async fn cas(&self, key: u32, old: u64, new: u64) -> Result<End, Error> {
        let swap = self
            .db
            .compare_and_put(self.key(key), old.to_string(), new.to_string())
            .await?;
        Ok(match swap {
            Swap::Written(_) => self.shared.set_seen(key, new),
            Swap::Refused { .. } => End::Fail("another value was there".to_owned()),
        })
    }

    fn options(&self) -> TxnOptions {
        TxnOptions::named(self.shared.workload.name()).isolation(self.isolation)
    }

    async fn lists(&self, micros: &[Micro]) -> Result<End, Error> {
        let run = |txn: Txn| async move {
            let mut lists = Vec::new();
            for micro in micros {
                match *micro {
                    Micro::Read { key } => lists.push(elements(txn.get(self.key(key)).await?.as_deref())?),
                    Micro::Append { key, element } => {
                        let key = self.key(key);
                        // Both ways to read what will be written.
                        let before = match element % 2 {
                            0 => txn.get(&key).await?,
                            _ => txn.get_for_update(&key).await?,
                        };
                        let after = match before {
                            None => element.to_string().into_bytes(),
                            Some(before) => [&before[..], format!(" {element}").as_bytes()].concat(),
                        };
                        txn.put(&key, after).await?;
                    }
                }
            }
            Ok::<_, Error>(lists)
        };
        let lists = self.db.transaction_with(&self.options(), run).await?;
        Ok(End::Ok(Found::Lists(lists)))
    }

    async fn balances(&self) -> Result<End, Error> {
        let run = |txn: Txn| async move { txn.scan(prefix(&self.shared.prefix)).collect().await };
        let rows = self.db.transaction_with(&self.options(), run).await?;
        let mut balances = Vec::new();
        for (key, value) in rows {
            let name = key.get(self.shared.prefix.len()..).unwrap_or_default();
            let account = u32::try_from(number(name)?).map_err(|_| foreign(name))?;
            balances.push((account, number(&value)?));
        }
        Ok(End::Ok(Found::Balances(balances)))
    }

    async fn transfer(&self, from: u32, to: u32, amount: u64) -> Result<End, Error> {
        let (from, to) = (self.key(from), self.key(to));
        let run = |txn: Txn| {
            let accounts = [from.clone(), to.clone()];
            async move {
                let found = match amount % 2 {
                    0 => txn.get_many(&accounts).await?,
                    _ => txn.get_many_for_update(&accounts).await?,
                };
                let [Some(payer), Some(payee)] = &found[..] else {
                    return Ok(Some("there is no such account"));
                };
                let (payer, payee) = (number(payer)?, number(payee)?);
                let Some(rest) = payer.checked_sub(amount) else {
                    return Ok(Some("not enough money"));
                };
                let [from, to] = accounts;
                txn.put(from, rest.to_string()).await?;
                txn.put(to, (payee + amount).to_string()).await?;
                Ok::<_, Error>(None)
            }
        };
        let refused = self.db.transaction_with(&self.options(), run).await?;
        Ok(refused.map_or(End::Ok(Found::Nothing), |why| End::Fail(why.to_owned())))
    }
}

impl Shared {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a run is shorter than 500 years")
    }

    fn value(&self) -> u64 {
        let value = self.next_value.get();
        self.next_value.set(value + 1);
        value
    }

    fn set_seen(&self, key: u32, value: u64) -> End {
        self.seen.borrow_mut()[key as usize] = value;
        End::Ok(Found::Nothing)
    }
}

/// What an error says about an operation.
fn ended(op: &Op, error: &Error) -> End {
    let text = error.to_string();
    let in_doubt = matches!(
        error,
        Error::Ambiguous { .. } | Error::CommitUnknown { .. } | Error::Protocol { .. } | Error::Closed
    );
    if in_doubt && !op.is_read() {
        End::Info(text)
    } else {
        End::Fail(text)
    }
}

/// The elements of a list as it stands.
fn elements(bytes: Option<&[u8]>) -> Result<Vec<u64>, Error> {
    let parts = bytes.unwrap_or_default().split(|byte| *byte == b' ');
    parts.filter(|part| !part.is_empty()).map(number).collect()
}

fn number(bytes: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| foreign(bytes))?;
    text.parse().map_err(|_| foreign(bytes))
}

/// Bytes that nobody here writes: the server returned what it was not given, or others write under the same prefix.
fn foreign(bytes: &[u8]) -> Error {
    Error::Protocol {
        what: format!(
            "{:?} is not a value of this workload; does another program write under the same --prefix?",
            String::from_utf8_lossy(bytes)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane::TxnRef;

    #[test]
    fn clients_begin_at_different_nodes() {
        assert_eq!(rotated("corelane://a:1,b:2,c:3/", 4), "b:2,c:3,a:1");
        assert_eq!(rotated("a:1", 3), "a:1");
    }

    #[test]
    fn only_unknown_outcomes_of_writes_are_unknown() {
        let lost = Error::Ambiguous {
            after: Duration::from_secs(1),
            cause: "lost".to_owned(),
        };
        let late = Error::DeadlineExceeded {
            after: Duration::from_secs(1),
            last: None,
        };
        let write = Op::Write { key: 1, value: 1 };
        assert!(matches!(ended(&write, &lost), End::Info(_)));
        assert!(matches!(ended(&write, &late), End::Fail(_)));
        assert!(matches!(ended(&Op::Read { key: 1 }, &lost), End::Fail(_)));
        let unknown = Error::CommitUnknown {
            txn: TxnRef {
                client: 1,
                number: 1,
                anchor: Vec::new(),
            },
            cause: "lost".to_owned(),
        };
        let read = Micro::Read { key: 1 };
        let append = Micro::Append { key: 1, element: 1 };
        assert!(matches!(
            ended(&Op::Txn(vec![read, append]), &unknown),
            End::Info(_)
        ));
        assert!(matches!(ended(&Op::Txn(vec![read]), &unknown), End::Fail(_)));
    }
}
