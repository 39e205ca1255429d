//! The clients: they pick operations, carry them out, and write down what they were told.

use super::line::{Counts, End, Found, Op, Recorder};
use super::{HistoryArgs, Workload};
use crate::args::Global;
use crate::error::CliError;
use crate::session::{explain, options};
use base::Prng;
use corelane::{Batch, Db, Error, Swap, prefix};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, LineWriter};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What each account begins with.
const BALANCE: u64 = 100;
/// The most that one transfer moves.
const AMOUNT_MAX: u64 = 5;
/// Times that an append reads the list anew because somebody wrote in between.
const APPEND_TRIES: u32 = 16;

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
        recorder: RefCell::new(Recorder::new(LineWriter::new(file))),
    });
    let mut prng = Prng::new(args.seed);
    let pause = Duration::from_secs(1) * args.clients / args.rate;
    let tasks: Vec<_> = (0..)
        .zip(dbs)
        .map(|(process, db)| {
            let client = Client {
                db,
                shared: shared.clone(),
                prng: prng.fork(),
                process,
                step: u64::from(args.clients),
            };
            tokio::task::spawn_local(client.run(pause))
        })
        .collect();
    for task in tasks {
        // A task that panics has ended the process, or has told why on standard error.
        let ended = task
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        ended.map_err(|error| file_error(&error))?;
    }
    let counts = shared.recorder.borrow_mut().finish();
    counts.map_err(|error| file_error(&error))
}

/// The addresses with another one first, so that clients begin at different nodes.
fn rotated(addresses: &str, by: usize) -> String {
    let bare = addresses.strip_prefix("corelane://").unwrap_or(addresses);
    let mut parts: Vec<_> = bare.trim_end_matches('/').split(',').collect();
    let count = parts.len();
    parts.rotate_left(by % count);
    parts.join(",")
}

/// Removes what the keys held, and opens the accounts.
async fn prepare(db: &Db, workload: Workload, args: &HistoryArgs) -> Result<(), Error> {
    db.delete_range(prefix(&args.prefix)).await?;
    if workload == Workload::Bank {
        let mut batch = Batch::new();
        for account in 0..args.keys {
            batch.put(key_of(&args.prefix, account), BALANCE.to_string());
        }
        db.write_batch(&batch).await?;
    }
    Ok(())
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
            let process = self.process;
            shared
                .recorder
                .borrow_mut()
                .invoke(process, &op, shared.now_ns())?;
            let end = self.carry_out(&op).await;
            shared
                .recorder
                .borrow_mut()
                .end(process, &op, &end, shared.now_ns())?;
            if matches!(end, End::Info(_)) {
                self.process += self.step;
            }
            // A slow operation is not made up for: the rate is a bound.
            next = (next + pause.mul_f64(0.5 + self.prng.unit())).max(Instant::now());
        }
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
            Workload::Append => {
                let key = key(&mut self.prng);
                if self.prng.chance(0.5) {
                    Op::ReadList { key }
                } else {
                    Op::Append {
                        key,
                        element: self.shared.value(),
                    }
                }
            }
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

    async fn carry_out(&self, op: &Op) -> End {
        let done = match *op {
            Op::Read { key } => self.read(key).await,
            Op::Write { key, value } => {
                let put = self.db.put(self.key(key), value.to_string()).await;
                put.map(|_| self.shared.set_seen(key, value))
            }
            Op::Cas { key, old, new } => self.cas(key, old, new).await,
            Op::ReadList { key } => self.list(key).await.map(|(found, _)| End::Ok(Found::List(found))),
            Op::Append { key, element } => self.append(key, element).await,
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

    /// The elements of a list, and its bytes as they stand.
    async fn list(&self, key: u32) -> Result<(Vec<u64>, Option<Vec<u8>>), Error> {
        let bytes = self.db.get(self.key(key)).await?;
        let parts = bytes.as_deref().unwrap_or_default().split(|byte| *byte == b' ');
        let elements = parts
            .filter(|part| !part.is_empty())
            .map(number)
            .collect::<Result<_, _>>()?;
        Ok((elements, bytes))
    }

    async fn append(&self, key: u32, element: u64) -> Result<End, Error> {
        for _ in 0..APPEND_TRIES {
            let (_, before) = self.list(key).await?;
            let swap = match &before {
                None => self.db.put_if_absent(self.key(key), element.to_string()).await?,
                Some(before) => {
                    let after = [before, format!(" {element}").as_bytes()].concat();
                    self.db.compare_and_put(self.key(key), before, after).await?
                }
            };
            if matches!(swap, Swap::Written(_)) {
                return Ok(End::Ok(Found::Nothing));
            }
        }
        Ok(End::Fail("others wrote in between every time".to_owned()))
    }

    async fn balances(&self) -> Result<End, Error> {
        let rows = self.db.scan(prefix(&self.shared.prefix)).rows().collect().await?;
        let mut balances = Vec::new();
        for row in rows {
            let name = row.key.get(self.shared.prefix.len()..).unwrap_or_default();
            let account = u32::try_from(number(name)?).map_err(|_| foreign(name))?;
            balances.push((account, number(&row.value)?));
        }
        Ok(End::Ok(Found::Balances(balances)))
    }

    async fn transfer(&self, from: u32, to: u32, amount: u64) -> Result<End, Error> {
        let (Some(payer), Some(payee)) = (self.number(from).await?, self.number(to).await?) else {
            return Ok(End::Fail("there is no such account".to_owned()));
        };
        let Some(rest) = payer.checked_sub(amount) else {
            return Ok(End::Fail("not enough money".to_owned()));
        };
        let (from, to) = (self.key(from), self.key(to));
        let mut batch = Batch::new();
        batch
            .require(&from, payer.to_string())
            .require(&to, payee.to_string())
            .put(&from, rest.to_string())
            .put(&to, (payee + amount).to_string());
        self.db.write_batch(&batch).await?;
        Ok(End::Ok(Found::Nothing))
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
    let is_read = matches!(op, Op::Read { .. } | Op::ReadList { .. } | Op::ReadAll);
    let in_doubt = matches!(
        error,
        Error::Ambiguous { .. } | Error::Protocol { .. } | Error::Closed
    );
    if in_doubt && !is_read {
        End::Info(text)
    } else {
        End::Fail(text)
    }
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
    }
}
