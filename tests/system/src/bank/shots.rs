//! Transfers by one-shot transactions, and by changes within a transaction: nothing is read before, and no account is overdrawn by them.
//!
//! A one-shot transfer has the condition that its teller's number is as the last one left it. What is refused is checked: the condition
//! fails only when the transfer of unknown outcome before it has happened, and the bound only when too little is there.

use super::{Bank, Bytes, Stop, Teller, Txn, account, counter, number, text};
use base::Timestamp;
use std::rc::Rc;
use txn::change::{Change, Condition, Missed, Must, OneShot, Unmet};
use txn::coordinator::Answer;
use txn::{Isolation, TxnError};

/// How a transfer is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By reads and writes.
    Read,
    /// By changes.
    Change,
    /// In one request, or one round.
    OneShot,
}

/// What is moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) amount: i64,
}

impl Transfer {
    /// What becomes of the accounts, and of the teller's number.
    fn changes(self, teller: &Teller) -> Vec<(Bytes, Change)> {
        let add = |delta, min| {
            let max = i64::MAX;
            Change::Add { delta, min, max }
        };
        vec![
            (account(self.from), add(-self.amount, 0)),
            (account(self.to), add(self.amount, i64::MIN)),
            (counter(teller.number), add(1, 0)),
        ]
    }
}

impl Bank {
    /// How the next transfer is done.
    pub(super) fn way(&self) -> Way {
        match self.shots.borrow_mut().below(10) {
            0..3 => Way::OneShot,
            3 => Way::Change,
            _ => Way::Read,
        }
    }

    /// All of a transfer in one call.
    pub(super) async fn transfer_at_once(
        self: &Rc<Self>,
        teller: &mut Teller,
        transfer: Transfer,
        isolation: Isolation,
    ) -> Result<Timestamp, Stop> {
        let isolation = match isolation {
            Isolation::Snapshot => Isolation::Serializable,
            other => other,
        };
        let mut txn = self.begin(teller, isolation).await;
        let count = i64::try_from(teller.count).expect("few");
        let must = match text(count) {
            Some(value) if count > 0 => Must::Equal(value),
            _ => Must::Absent,
        };
        let counted = Condition {
            number: 0,
            key: counter(teller.number),
            must,
        };
        let shot = OneShot {
            conditions: vec![counted],
            changes: transfer.changes(teller),
        };
        // Now and then the teller knows nothing of a split.
        let blurs = self.shots.borrow_mut().chance(0.05);
        let is_near = |one: &[u8], other: &[u8]| blurs || self.link.place(one) == self.link.place(other);
        // Some think that others wait for what they change.
        let mut first: Vec<_> = shot.changes.iter().map(|(key, _)| key.clone()).collect();
        first.sort_unstable();
        first.retain(|_| count % 3 == 1);
        txn.driver.one_shot(shot, &first, is_near);
        let answer = self.run(&mut txn).await.inspect_err(|_| teller.maybe = true)?;
        let ended = match answer {
            Answer::Committed { ts, .. } => {
                base::sometimes!("system: a one-shot transfer was done");
                self.link.note_commit(ts);
                if let Some(made) = txn.driver.changed().remove(&counter(teller.number))
                    && number(made.as_ref()) != Some(count + 1)
                {
                    self.say(&format!(
                        "teller {} has made {made:?} of {count} transfers",
                        teller.number
                    ));
                }
                Ok(ts)
            }
            Answer::Failed(TxnError::Unmet(unmet)) => {
                self.refused(teller, transfer, &unmet);
                Err(Stop::Failed)
            }
            Answer::Failed(error) => Err(self.failed(&error)),
            Answer::Unknown => Err(Stop::Unknown),
            other => {
                self.say(&format!("a one-shot transfer was answered by {other:?}"));
                Err(Stop::Unknown)
            }
        };
        self.link.finish(txn.driver, txn.queue);
        ended
    }

    /// Whether that is right.
    fn refused(&self, teller: &mut Teller, transfer: Transfer, unmet: &Unmet) {
        let found = number(unmet.found.as_ref());
        let is_right = match (unmet.missed, found) {
            (Missed::Condition(0), Some(found)) => {
                let last = u64::try_from(found) == Ok(teller.count + 1);
                let is_right = teller.maybe && last && *unmet.key == *counter(teller.number);
                if is_right {
                    base::sometimes!("system: a condition tells that a transfer of unknown outcome was done");
                    teller.count += 1;
                    teller.maybe = false;
                }
                is_right
            }
            (Missed::Bounds, Some(found)) => {
                base::sometimes!("system: an account had too little");
                *unmet.key == *account(transfer.from) && found < transfer.amount
            }
            _ => false,
        };
        if !is_right {
            self.say(&format!("{teller:?} was refused {transfer:?}: {unmet:?}"));
        }
    }

    /// One change after the other.
    pub(super) async fn transfer_by_changes(
        self: &Rc<Self>,
        teller: &mut Teller,
        transfer: Transfer,
        isolation: Isolation,
    ) -> Result<Timestamp, Stop> {
        let mut txn = self.begin(teller, isolation).await;
        let mut made = 0;
        for (key, change) in transfer.changes(teller) {
            txn.driver.change(key, &change);
            match self.run(&mut txn).await? {
                Answer::Changed(value) => made = number(value.as_ref()).unwrap_or(i64::MIN),
                Answer::Unmet(unmet) => {
                    if unmet.missed != Missed::Bounds {
                        self.say(&format!("{transfer:?} was refused: {unmet:?}"));
                    }
                    self.refused(teller, transfer, &unmet);
                    return self.take_back(txn).await;
                }
                Answer::Failed(error) => {
                    self.link.finish(txn.driver, txn.queue);
                    return Err(self.failed(&error));
                }
                other => {
                    self.say(&format!("a change was answered by {other:?}"));
                    return Err(Stop::Unknown);
                }
            }
        }
        base::sometimes!("system: a transfer was done by changes");
        self.count(teller, u64::try_from(made - 1).unwrap_or(u64::MAX), &txn);
        match self.commit(txn).await {
            Err(Stop::Died) => {
                teller.maybe = true;
                Err(Stop::Died)
            }
            other => other,
        }
    }

    /// The transaction goes on after a change that did not fit, and is taken back.
    async fn take_back(self: &Rc<Self>, mut txn: Txn) -> Result<Timestamp, Stop> {
        txn.driver.roll_back();
        self.run(&mut txn).await?;
        self.link.finish(txn.driver, txn.queue);
        Err(Stop::Failed)
    }
}
