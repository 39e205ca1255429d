//! A bank over the nodes: tellers move money between accounts, an auditor reads all of them in one snapshot.
//!
//! A transfer is one conditional batch of two keys: both are written if both are as they were read, or neither. Whatever
//! becomes of a transfer whose answer never came, the total is the same. All accounts are in one range, since a batch is
//! atomic within one.

use crate::command::demo::Stage;
use crate::command::demo::ledger::Ledger;
use base::Prng;
use corelane::{Batch, Db, Error, Options};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What each account has at first.
pub(crate) const OPENING: u64 = 1_000;
/// The most that is moved at once.
const AMOUNT_MAX: u64 = 100;
/// Transfers under way at once.
const TELLERS: u64 = 4;
/// How long a step of a transfer may take, retries included.
const STEP_MAX: Duration = Duration::from_secs(1);
/// How long a teller waits after an error, and the bank before it is open.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two audits.
const AUDIT_EVERY: Duration = Duration::from_secs(1);

/// The bank is not as it must be.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// What the accounts have together.
    Total(String),
    /// The data is of an earlier demonstration, with that many accounts.
    Accounts(u64),
}

fn account(number: u64) -> String {
    format!("bank/{number:05}")
}

/// Opens the bank: connects, and makes the accounts unless they are there.
pub(crate) async fn open(stage: &Stage) -> Result<Db, Wrong> {
    let options = Options {
        app: "corelane demo".to_owned(),
        deadline: STEP_MAX,
        ..Options::default()
    };
    loop {
        match corelane::connect_with(&stage.url, options.clone()).await {
            Ok(db) => {
                if make_accounts(stage, &db).await? {
                    return Ok(db);
                }
            }
            Err(error) => note(stage, &error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the accounts are there; what went wrong otherwise is noted.
async fn make_accounts(stage: &Stage, db: &Db) -> Result<bool, Wrong> {
    match read(db).await {
        Ok((0, _)) => {
            let mut batch = Batch::new();
            batch.require_absent(account(0));
            for number in 0..stage.accounts {
                batch.put(account(number), OPENING.to_string());
            }
            if let Err(error) = db.write_batch(&batch).await {
                note(stage, &error);
            }
            // Whether it happened is read.
            Ok(false)
        }
        Ok((count, _)) if count != stage.accounts => Err(Wrong::Accounts(count)),
        Ok(found) => judge(stage, found).map(|()| true),
        Err(error) => {
            note(stage, &error);
            Ok(false)
        }
    }
}

fn note(stage: &Stage, error: &Error) {
    stage.ledger().error = Some(error.to_string());
}

/// Moves money until the bank closes.
pub(crate) async fn run_tellers(stage: Arc<Stage>, db: Db) {
    let seed = std::process::id();
    let tellers: Vec<_> = (0..TELLERS)
        .map(|number| {
            let prng = Prng::new(u64::from(seed) << 8 | number);
            tokio::spawn(run_teller(stage.clone(), db.clone(), prng))
        })
        .collect();
    for teller in tellers {
        // A teller that panicked has said so.
        let _ = teller.await;
    }
}

async fn run_teller(stage: Arc<Stage>, db: Db, mut prng: Prng) {
    while stage.is_open() {
        let began = Instant::now();
        let moved = transfer(&db, stage.accounts, &mut prng).await;
        if !book_in(&stage, began, moved) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Writes down what became of a transfer. False when it is better to wait a little.
fn book_in(stage: &Stage, began: Instant, moved: Result<(), Error>) -> bool {
    let mut ledger = stage.ledger();
    let error = match moved {
        Ok(()) => {
            ledger.on_success(began, Instant::now());
            return true;
        }
        Err(Error::ConditionFailed { .. }) => {
            ledger.conflicts += 1;
            return true;
        }
        Err(error) => error,
    };
    if matches!(error, Error::Ambiguous { .. }) {
        ledger.unknown += 1;
    } else {
        ledger.failed += 1;
    }
    ledger.error = Some(error.to_string());
    false
}

/// Moves some money between two accounts.
async fn transfer(db: &Db, accounts: u64, prng: &mut Prng) -> Result<(), Error> {
    let from = prng.below(accounts);
    let to = (from + 1 + prng.below(accounts - 1)) % accounts;
    let (from, to) = (account(from), account(to));
    let (has, gets) = tokio::join!(db.get(&from), db.get(&to));
    let (has, gets) = (has?.unwrap_or_default(), gets?.unwrap_or_default());
    let amount = balance(&has).min(1 + prng.below(AMOUNT_MAX));
    let mut batch = Batch::new();
    batch.require(&from, &has).require(&to, &gets);
    batch
        .put(&from, (balance(&has) - amount).to_string())
        .put(&to, (balance(&gets) + amount).to_string());
    db.write_batch(&batch).await.map(|_| ())
}

/// What a value says; an account that is missing or holds no number has nothing, which the audit finds.
fn balance(value: &[u8]) -> u64 {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Reads all accounts at one timestamp: how many they are and what they have together.
async fn read(db: &Db) -> Result<(u64, u64), Error> {
    let mut rows = db.scan("bank/".."bank0").rows();
    let (mut count, mut total) = (0, 0u64);
    while let Some(row) = rows.next().await? {
        count += 1;
        total = total.saturating_add(balance(&row.value));
    }
    Ok((count, total))
}

/// Writes down that the total is right.
fn judge(stage: &Stage, (count, total): (u64, u64)) -> Result<(), Wrong> {
    let mut ledger = stage.ledger();
    if (count, total) != (stage.accounts, ledger.expected) {
        return Err(Wrong::Total(format!(
            "{count} accounts have {total} together; there must be {} with {}",
            stage.accounts, ledger.expected
        )));
    }
    ledger.audited = Some(Instant::now());
    ledger.audits += 1;
    Ok(())
}

/// Audits once, in `patience`. Whether the accounts could be read.
pub(crate) async fn audit(stage: &Stage, db: &Db, patience: Duration) -> Result<bool, Wrong> {
    let began = Instant::now();
    loop {
        match read(db).await {
            Ok(found) => return judge(stage, found).map(|()| true),
            Err(error) => note(stage, &error),
        }
        if began.elapsed() >= patience {
            return Ok(false);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Audits until the bank closes.
pub(crate) async fn run_auditor(stage: &Stage, db: &Db) -> Result<(), Wrong> {
    while stage.is_open() {
        audit(stage, db, Duration::ZERO).await?;
        tokio::time::sleep(AUDIT_EVERY).await;
    }
    Ok(())
}

/// What the bank has at first.
pub(crate) fn book(accounts: u64) -> Ledger {
    Ledger::new(accounts * OPENING)
}
