//! Accounts: what lies under their keys, and that transfers leave their total as it was.
//!
//! An account's key is that of the record of the same number with a sign behind it: accounts lie in the ranges of the records.
//! Its value is one of the record's, with the balance in bytes 8 to 16, little-endian.

use core::ops::Range;

use base::Prng;
use corelane::{Batch, Db, Error, TxnOptions};

use super::ground::Ground;
use crate::workload::Layout;

/// What an account has before the first transfer.
const OPENING: u64 = 1_000_000;
const SIGN: u8 = b'$';
const BALANCE: Range<usize> = 8..16;
/// Accounts that one batch opens.
const BATCH: usize = 100;
/// All keys of records and accounts: they begin with a hexadecimal digit.
pub(crate) const SPAN: Range<&str> = "0".."g";

/// The key of `account`.
pub(crate) fn key(layout: &Layout, account: u64) -> Vec<u8> {
    let mut key = Vec::new();
    layout.key(account, &mut key);
    key.push(SIGN);
    key
}

/// A value of `account` with `balance`.
pub(crate) fn value(layout: &Layout, account: u64, balance: u64, salt: u64) -> Vec<u8> {
    let mut value = Vec::new();
    layout.value(account, salt, &mut value);
    value[BALANCE].copy_from_slice(&balance.to_le_bytes());
    value
}

/// The balance in the value of `account`; `None` when it is none.
pub(crate) fn balance(layout: &Layout, account: u64, value: &[u8]) -> Option<u64> {
    layout.is_value_of(account, value).then(|| balance_in(value))?
}

fn balance_in(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.get(BALANCE)?.try_into().ok()?))
}

/// Opens every account.
pub(crate) async fn open(db: &Db, layout: &Layout, ground: &Ground, prng: &mut Prng) -> Result<(), Error> {
    for accounts in ground.ranges().iter().flat_map(|range| range.chunks(BATCH)) {
        let mut batch = Batch::new();
        for &account in accounts {
            batch.put(
                key(layout, account),
                value(layout, account, OPENING, prng.next_u64()),
            );
        }
        db.write_batch(&batch).await?;
    }
    Ok(())
}

/// How many accounts there are, and what they have together at one moment.
pub(crate) async fn total(db: &Db, layout: &Layout) -> Result<(u64, u64), Error> {
    db.transaction_with(&TxnOptions::named("total"), |txn| async move {
        let (mut accounts, mut total) = (0, 0u64);
        let mut scan = txn.scan(SPAN);
        while let Some(page) = scan.next_page().await? {
            for (key, value) in page {
                if layout.key_bytes() + 1 == key.len() && key.last() == Some(&SIGN) {
                    accounts += 1;
                    total = total.wrapping_add(balance_in(&value).unwrap_or(0));
                }
            }
        }
        Ok((accounts, total))
    })
    .await
}
