//! A bank whose tellers move money between accounts by transactions, while everything else goes wrong.
//!
//! The accounts lie before all other keys, in several ranges. Each transfer also counts up a number of its teller. What must hold:
//! - Whoever reads all accounts in one transaction, or at one timestamp, finds the same total.
//! - A teller finds its number as its last transfer left it: one that was answered counts, one that failed does not, and one of unknown
//!   outcome either did or did not, for ever.
//! - What they add to tills, by modifications and by transactions, adds up (`tills`).
//! - In calm weather everything ends, whatever tellers that died have left.

pub mod deaths;
mod link;
mod shots;
mod tills;

use crate::client::reply::Reply;
use base::api::ReadAt;
use base::{ClientId, Prng, Timestamp};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use env::Address;
use link::{Link, Queue};
use shots::{Transfer, Way};
use sim::SimEnv;
use std::rc::Rc;
use tills::Tills;
use txn::coordinator::Answer;
use txn::driver::Driver;
use txn::locks::Strength;
use txn::{Bytes, Isolation, Priority, TxnError, TxnId};
use wire::request;

/// Accounts.
const ACCOUNTS: usize = 12;
/// What each has at first.
const BALANCE: i64 = 100;
/// Who moves money.
pub const TELLERS: usize = 3;
/// Transactions of one teller.
const TRANSFERS_MAX: u64 = 400;

/// See the module.
#[derive(Debug)]
pub struct Bank {
    link: Rc<Link>,
    prng: RefCell<Prng>,
    /// Which transfers are one-shot, or by changes.
    shots: RefCell<Prng>,
    /// That a teller dies in the middle of a transaction, at each step of it.
    death: Cell<f64>,
    /// Tellers lock what they will write.
    locks: Cell<bool>,
    is_open: Cell<bool>,
    stopped: Cell<bool>,
    at_work: Cell<usize>,
    wrong: RefCell<Vec<String>>,
    committed: Cell<u64>,
    tills: RefCell<Tills>,
}

/// A teller as the bank knows it. One that died comes back with another session.
#[derive(Debug)]
struct Teller {
    number: usize,
    client: ClientId,
    seq: u64,
    /// The transfers that count for sure.
    count: u64,
    /// Whether one more may.
    maybe: bool,
}

/// How a step of a transaction ended.
enum Stop {
    /// It failed: nothing of it is visible.
    Failed,
    /// It may have happened.
    Unknown,
    /// The teller died.
    Died,
}

fn account(at: usize) -> Bytes {
    Bytes::from(format!("bank/{at:02}").as_bytes())
}

fn counter(teller: usize) -> Bytes {
    Bytes::from(format!("bank/{:02}/teller", (teller * 5) % ACCOUNTS).as_bytes())
}

fn number(value: Option<&Bytes>) -> Option<i64> {
    value.map_or(Some(0), |value| core::str::from_utf8(value).ok()?.parse().ok())
}

fn text(number: i64) -> Option<Bytes> {
    Some(Bytes::from(number.to_string().as_bytes()))
}

impl Bank {
    /// A bank at these nodes, whose clocks are off by so much at most.
    #[must_use]
    pub fn new(env: SimEnv, addresses: Vec<Address>, clock_bound_ns: u64, mut prng: Prng) -> Rc<Self> {
        let locks = prng.chance(0.6);
        // Of its own, so that a seed draws what it did without.
        let shots = Prng::new(prng.clone().next_u64() ^ 0x5_0075);
        Rc::new(Self {
            link: Link::new(env, addresses, clock_bound_ns, prng.fork()),
            prng: RefCell::new(prng),
            shots: RefCell::new(shots),
            death: Cell::new(0.004),
            locks: Cell::new(locks),
            is_open: Cell::new(false),
            stopped: Cell::new(false),
            at_work: Cell::new(TELLERS),
            wrong: RefCell::default(),
            committed: Cell::new(0),
            tills: RefCell::default(),
        })
    }

    /// No new transactions.
    pub fn stop(&self) {
        self.stopped.set(true);
        self.death.set(0.0);
        self.link.hang_up();
    }

    /// What was wrong so far.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.borrow().clone()
    }

    /// How many transfers were answered.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed.get()
    }

    /// Moves money until it is stopped.
    pub async fn work(self: Rc<Self>, at: usize) {
        let mut teller = Teller {
            number: at,
            client: self.session(),
            seq: 0,
            count: 0,
            maybe: false,
        };
        if at == 0 {
            self.open(&mut teller).await;
        }
        for _ in 0..TRANSFERS_MAX {
            let pause = self.prng.borrow_mut().between(0, 200);
            self.link.sleep(Duration::from_millis(pause)).await;
            if self.stopped.get() {
                break;
            }
            if !self.is_open.get() {
                continue;
            }
            let turn = self.prng.borrow_mut().below(10);
            match turn {
                0 | 1 => self.audit(&mut teller).await,
                2..=4 => self.use_till(&mut teller).await,
                _ => self.transfer(&mut teller).await,
            }
        }
        self.at_work.set(self.at_work.get() - 1);
    }

    fn session(&self) -> ClientId {
        let prng = &mut *self.prng.borrow_mut();
        ClientId(u128::from(prng.next_u64()) << 64 | u128::from(prng.next_u64()) | 1)
    }

    /// Fills the accounts, and asks for ranges of their own.
    async fn open(self: &Rc<Self>, teller: &mut Teller) {
        for at in [0, 3, 6, 9] {
            self.link.split(&account(at)).await;
        }
        while !self.stopped.get() {
            let mut txn = self.begin(teller, Isolation::Snapshot).await;
            for at in 0..ACCOUNTS {
                txn.driver.write(account(at), text(BALANCE));
            }
            // One that may have happened, or may still, is followed by one that does the same.
            match self.commit(txn).await {
                Ok(_) => {
                    self.is_open.set(true);
                    return;
                }
                Err(Stop::Died) => teller.client = self.session(),
                Err(Stop::Failed | Stop::Unknown) => {}
            }
        }
    }

    async fn begin(&self, teller: &mut Teller, isolation: Isolation) -> Txn {
        teller.seq += 1;
        let id = TxnId {
            client: teller.client,
            seq: teller.seq,
        };
        let seed = self.prng.borrow_mut().next_u64();
        Txn {
            driver: self.link.begin(id, (isolation, Priority::Normal), seed).await,
            queue: Queue::new(),
        }
    }

    fn isolation(&self) -> Isolation {
        match self.prng.borrow_mut().below(3) {
            0 => Isolation::Snapshot,
            1 => Isolation::Serializable,
            _ => Isolation::StrictSerializable,
        }
    }

    /// Drives a transaction until it answers.
    async fn run(self: &Rc<Self>, txn: &mut Txn) -> Result<Answer, Stop> {
        loop {
            if self.prng.borrow_mut().chance(self.death.get()) {
                base::sometimes!("system: a teller died in a transaction");
                return Err(Stop::Died);
            }
            if let Some(answer) = self.link.step(&mut txn.driver, &txn.queue) {
                return Ok(answer);
            }
            txn.queue.wait(&self.link, txn.driver.wake_at_ns()).await;
        }
    }

    async fn read(self: &Rc<Self>, txn: &mut Txn, keys: Vec<Bytes>) -> Result<Vec<i64>, Stop> {
        txn.driver.read(keys.clone());
        self.values(txn, keys).await
    }

    /// Reads what will be written, with or without locks. One that fails is seen to.
    async fn read_to_write(self: &Rc<Self>, mut txn: Txn, keys: Vec<Bytes>) -> Result<(Txn, Vec<i64>), Stop> {
        let locks = self.locks.get() && self.prng.borrow_mut().chance(0.8);
        if locks {
            let prng = &mut *self.prng.borrow_mut();
            let first = keys.iter().filter(|_| prng.chance(0.4)).cloned();
            let first: Vec<Bytes> = first.collect();
            // Those that share and then write want more than they have.
            let strength = match prng.chance(0.1) {
                true => Strength::Shared,
                false => Strength::Exclusive,
            };
            txn.driver.read_locked_in_turn(keys.clone(), &first, strength);
        } else {
            txn.driver.read(keys.clone());
        }
        match self.values(&mut txn, keys).await {
            Ok(numbers) => {
                base::sometimes!("system: a teller has locked its accounts", locks);
                base::sometimes!(
                    "system: a teller has locked an account that others wait for",
                    txn.driver.queues().iter().any(|(_, queue)| *queue > 0)
                );
                Ok((txn, numbers))
            }
            Err(stop) => {
                if let Stop::Failed = stop {
                    self.link.finish(txn.driver, txn.queue);
                }
                Err(stop)
            }
        }
    }

    async fn values(self: &Rc<Self>, txn: &mut Txn, keys: Vec<Bytes>) -> Result<Vec<i64>, Stop> {
        match self.run(txn).await? {
            Answer::Values(values) => {
                let numbers: Option<Vec<i64>> = values.iter().map(|value| number(value.as_ref())).collect();
                match numbers {
                    Some(numbers) => Ok(numbers),
                    None => {
                        self.say(&format!("{keys:?} have values that nobody wrote: {values:?}"));
                        Err(Stop::Failed)
                    }
                }
            }
            Answer::Failed(error) => Err(self.failed(&error)),
            other => {
                self.say(&format!("a read of {keys:?} was answered by {other:?}"));
                Err(Stop::Failed)
            }
        }
    }

    fn failed(&self, error: &TxnError) -> Stop {
        base::sometimes!(
            "system: a transaction met another one",
            matches!(error, TxnError::Conflict(_))
        );
        base::sometimes!(
            "system: a transaction was aborted",
            matches!(error, TxnError::Aborted)
        );
        base::sometimes!(
            "system: a transaction could not be refreshed",
            matches!(error, TxnError::CannotRefresh { .. })
        );
        Stop::Failed
    }

    /// Commits, at which timestamp, and leaves what is to be done afterwards to a task of its own.
    async fn commit(self: &Rc<Self>, mut txn: Txn) -> Result<Timestamp, Stop> {
        txn.driver.commit();
        let answer = match self.run(&mut txn).await {
            Ok(answer) => answer,
            Err(stop) => return Err(stop),
        };
        let ended = match answer {
            Answer::Committed { ts, .. } => {
                self.link.note_commit(ts);
                Ok(ts)
            }
            Answer::Failed(error) => Err(self.failed(&error)),
            Answer::Unknown => {
                base::sometimes!("system: the outcome of a transaction is unknown");
                Err(Stop::Unknown)
            }
            other => {
                self.say(&format!("a commit was answered by {other:?}"));
                Err(Stop::Unknown)
            }
        };
        // Now and then nobody is left who would.
        if !self.prng.borrow_mut().chance(10.0 * self.death.get()) {
            self.link.finish(txn.driver, txn.queue);
        }
        ended
    }

    async fn transfer(self: &Rc<Self>, teller: &mut Teller) {
        let (from, to, amount, isolation) = {
            let isolation = self.isolation();
            let prng = &mut *self.prng.borrow_mut();
            let from = prng.index(ACCOUNTS);
            let to = (from + 1 + prng.index(ACCOUNTS - 1)) % ACCOUNTS;
            let amount = i64::try_from(prng.between(1, 30)).expect("small");
            (from, to, amount, isolation)
        };
        let transfer = Transfer { from, to, amount };
        let ended = match self.way() {
            Way::Read => self.transfer_by_reads(teller, transfer, isolation).await,
            Way::Change => self.transfer_by_changes(teller, transfer, isolation).await,
            Way::OneShot => self.transfer_at_once(teller, transfer, isolation).await,
        };
        match ended {
            Ok(_) => {
                teller.count += 1;
                teller.maybe = false;
                self.committed.set(self.committed.get() + 1);
            }
            Err(Stop::Failed) => {}
            Err(Stop::Unknown) => teller.maybe = true,
            Err(Stop::Died) => {
                teller.client = self.session();
                teller.seq = 0;
            }
        }
    }

    /// A teller has seen how many of its transfers count.
    fn count(&self, teller: &mut Teller, count: u64, txn: &Txn) {
        let fits = count == teller.count || teller.maybe && count == teller.count + 1;
        if !fits {
            self.say(&format!(
                "teller {} has {} transfers, {} more, and finds {count} ({:?}, read at {})",
                teller.number,
                teller.count,
                if teller.maybe { "perhaps one" } else { "no" },
                txn.driver.who().id,
                txn.driver.read_ts(),
            ));
        }
        // What may have happened may still: until something else is written over what it has read.
        teller.maybe &= count == teller.count;
        teller.count = count;
    }

    async fn transfer_by_reads(
        self: &Rc<Self>,
        teller: &mut Teller,
        Transfer { from, to, amount }: Transfer,
        isolation: Isolation,
    ) -> Result<Timestamp, Stop> {
        let txn = self.begin(teller, isolation).await;
        let keys = vec![account(from), account(to), counter(teller.number)];
        let (mut txn, numbers) = self.read_to_write(txn, keys.clone()).await?;
        self.count(teller, u64::try_from(numbers[2]).unwrap_or(u64::MAX), &txn);
        if self.prng.borrow_mut().chance(0.3) {
            // What is laid early is there when the commit begins.
            txn.driver.write(keys[0].clone(), text(numbers[0] - amount));
            txn.driver.flush();
        }
        if self.prng.borrow_mut().chance(0.05) {
            txn.driver.roll_back();
            self.run(&mut txn).await?;
            self.link.finish(txn.driver, txn.queue);
            return Err(Stop::Failed);
        }
        txn.driver.write(keys[0].clone(), text(numbers[0] - amount));
        txn.driver.write(keys[1].clone(), text(numbers[1] + amount));
        txn.driver.write(keys[2].clone(), text(numbers[2] + 1));
        match self.commit(txn).await {
            Err(Stop::Died) => {
                teller.maybe = true;
                Err(Stop::Died)
            }
            other => other,
        }
    }

    /// Reads all accounts in one transaction, and then at its timestamp, of any node.
    async fn audit(self: &Rc<Self>, teller: &mut Teller) {
        let mut txn = self.begin(teller, self.isolation()).await;
        let keys: Vec<Bytes> = (0..ACCOUNTS).map(account).collect();
        let Ok(balances) = self.read(&mut txn, keys.clone()).await else {
            return;
        };
        let read_ts = txn.driver.read_ts();
        self.compare(&balances, &format!("a transaction at {read_ts}"));
        txn.driver.commit();
        let ended = self.run(&mut txn).await;
        self.link.finish(txn.driver, txn.queue);
        if ended.is_err() || self.stopped.get() {
            return;
        }
        let mut again = Vec::new();
        for key in &keys {
            match self.get_at(key, read_ts).await {
                Some(balance) => again.push(balance),
                None => return,
            }
        }
        if again != balances {
            self.say(&format!(
                "at {read_ts} a transaction saw {balances:?}, and reads see {again:?}"
            ));
        }
    }

    /// The balance at a timestamp; `None` when it is not to be had.
    async fn get_at(self: &Rc<Self>, key: &Bytes, read_ts: Timestamp) -> Option<i64> {
        let get = request::Get {
            key,
            at: ReadAt::At(read_ts).into(),
            deadline_ms: 2_000,
        };
        for _ in 0..20 {
            match self.link.ask_anybody(&get, key).await? {
                Reply::Value { value, .. } => return number(value.map(Bytes::from).as_ref()),
                Reply::Transact { answer, .. } => {
                    let Err((_, txn::Refusal::Conflict { conflict, seen })) = answer else {
                        self.say(&format!("a get was answered by {answer:?}"));
                        return None;
                    };
                    base::sometimes!("system: a get has met an intent");
                    self.link
                        .clear(seen, conflict.key, txn::request::Push::Above(read_ts))
                        .await;
                }
                // Too old by now, or a node that is about to stop.
                _ => return None,
            }
        }
        None
    }

    fn compare(&self, balances: &[i64], who: &str) {
        let total = i64::try_from(ACCOUNTS).expect("few") * BALANCE;
        if balances.iter().sum::<i64>() != total {
            self.say(&format!(
                "{who} finds {balances:?}, {} in all",
                balances.iter().sum::<i64>()
            ));
        }
    }

    fn say(&self, wrong: &str) {
        self.wrong.borrow_mut().push(format!("bank: {wrong}"));
    }

    /// In calm weather: all tellers end, and the total is right.
    pub async fn check(self: Rc<Self>) -> Vec<String> {
        while self.at_work.get() > 0 {
            self.link.sleep(Duration::from_millis(10)).await;
        }
        if !self.is_open.get() {
            return self.wrong();
        }
        let mut auditor = Teller {
            number: 0,
            client: self.session(),
            seq: 0,
            count: 0,
            maybe: false,
        };
        let keys: Vec<Bytes> = (0..ACCOUNTS).map(account).collect();
        loop {
            let mut txn = self.begin(&mut auditor, Isolation::Serializable).await;
            if let Ok(balances) = self.read(&mut txn, keys.clone()).await {
                self.compare(&balances, "whoever comes last");
                txn.driver.commit();
                let _answered = self.run(&mut txn).await;
                let tills = self.tills.borrow().check();
                tills.iter().for_each(|wrong| self.say(wrong));
                return self.wrong();
            }
            self.link.sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A transaction and the answers to what it has sent.
struct Txn {
    driver: Driver,
    queue: Rc<Queue>,
}
