//! Operations of an open transaction.

use super::protocol::{Answer, Op};
use super::session::{append_to, condition_failed, member};
use crate::output::Object;
use base::key::Span;
use corelane::{Error, Txn};
use serde_json::Value;

/// Does one. What it wrote has no timestamp before the commit.
pub(super) async fn perform(txn: &Txn, op: Op) -> Result<Answer, Error> {
    let ok = |result: Object| Answer::Ok {
        result: result.build(),
        ts: None,
    };
    Ok(match op {
        Op::Get { at: Some(_), .. } | Op::Scan { at: Some(_), .. } => {
            Answer::invalid("`at` is for reads outside of transactions: a transaction has one snapshot")
        }
        Op::Scan { reverse: true, .. } => Answer::invalid("`reverse` is for scans outside of transactions"),
        Op::Get { key, for_update, .. } => {
            let value = if for_update {
                txn.get_for_update(&key).await?
            } else {
                txn.get(&key).await?
            };
            ok(member(Object::new(), "value", value.as_deref()))
        }
        Op::Put { key, value } => {
            txn.put(&key, &value).await?;
            ok(Object::new())
        }
        Op::Delete { key } => {
            txn.delete(&key).await?;
            ok(Object::new())
        }
        Op::Append { key, value } => {
            let after = append_to(txn.get(&key).await?.as_deref(), &value);
            txn.put(&key, &after).await?;
            ok(Object::new().bytes("value", &after, false))
        }
        Op::Cas { key, from, to } => {
            let found = txn.get(&key).await?;
            if found != from {
                return Ok(condition_failed(found.as_deref(), None));
            }
            txn.put(&key, &to).await?;
            ok(Object::new())
        }
        Op::Add { key, delta, min, max } => match txn.add_within(&key, delta, min..=max).await {
            Ok(sum) => ok(Object::new().set("value", sum)),
            // It goes on.
            Err(Error::OutOfBounds { found, .. }) => condition_failed(found.as_deref(), None),
            Err(error) => return Err(error),
        },
        Op::Scan {
            start, end, limit, ..
        } => {
            let scan = txn.scan(Span::new(&start, end.as_deref()));
            let rows = scan.limit(usize::try_from(limit).unwrap_or(usize::MAX));
            let row = |(key, value): (Vec<u8>, Vec<u8>)| {
                let row = Object::new().bytes("key", &key, false);
                row.bytes("value", &value, false).build()
            };
            let rows = rows.collect().await?.into_iter().map(row).collect();
            ok(Object::new().set("rows", Value::Array(rows)))
        }
        Op::Begin { .. } | Op::Commit | Op::Abort | Op::Outcome => Answer::invalid("a transaction is open"),
    })
}
