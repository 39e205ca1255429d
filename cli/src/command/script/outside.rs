//! Operations outside of transactions.

use super::protocol::{Answer, Op};
use super::session::{append_to, condition_failed, done, member};
use crate::output::Object;
use base::key::Span;
use corelane::{Db, Error, Modified, Swap};
use serde_json::Value;

/// Does one, alone.
pub(super) async fn perform(db: &Db, op: Op) -> Result<Answer, Error> {
    Ok(match op {
        Op::Get { for_update: true, .. } => {
            Answer::invalid("`for_update` is for transactions: no lock outlives a request")
        }
        Op::Get { key, at: None, .. } => {
            let (value, ts) = db.get_versioned(&key).await?;
            done(member(Object::new(), "value", value.as_deref()).build(), ts)
        }
        Op::Get {
            key, at: Some(at), ..
        } => {
            let value = db.get_at(&key, at).await?;
            done(member(Object::new(), "value", value.as_deref()).build(), at)
        }
        Op::Put { key, value } => done(Object::new().build(), db.put(&key, &value).await?),
        Op::Delete { key } => done(Object::new().build(), db.delete(&key).await?),
        Op::Append { key, value } => append(db, &key, &value).await?,
        Op::Cas {
            key,
            from: Some(from),
            to,
        } => swapped(db.compare_and_put(&key, &from, &to).await?, Object::new()),
        Op::Add { key, delta, min, max } => match db.add_within(&key, delta, min..=max).await? {
            made @ Modified::Done { ts, .. } => done(Object::new().set("value", made.number()).build(), ts),
            Modified::Refused { found, ts } => condition_failed(found.as_deref(), Some(ts)),
        },
        Op::Cas { key, from: None, to } => swapped(db.put_if_absent(&key, &to).await?, Object::new()),
        Op::Scan {
            start,
            end,
            limit,
            reverse,
            at,
        } => {
            let mut scan = db.scan(Span::new(&start, end.as_deref())).limit(limit);
            if reverse {
                scan = scan.reverse();
            }
            if let Some(at) = at {
                scan = scan.at(at);
            }
            let mut rows = scan.rows();
            let mut found = Vec::new();
            while let Some(row) = rows.next().await? {
                found.push(
                    Object::new()
                        .bytes("key", &row.key, false)
                        .bytes("value", &row.value, false)
                        .ts(row.ts)
                        .build(),
                );
            }
            let result = Object::new().set("rows", Value::Array(found)).build();
            Answer::Ok {
                result,
                ts: rows.read_ts(),
            }
        }
        Op::Begin { .. } | Op::Commit | Op::Abort | Op::Outcome => {
            Answer::invalid("it is about transactions")
        }
    })
}

/// One read and one conditional write: when somebody was faster it fails, and nothing is tried again.
async fn append(db: &Db, key: &[u8], value: &[u8]) -> Result<Answer, Error> {
    let before = db.get(key).await?;
    let after = append_to(before.as_deref(), value);
    let swap = match before {
        Some(before) => db.compare_and_put(key, &before, &after).await?,
        None => db.put_if_absent(key, &after).await?,
    };
    Ok(swapped(swap, Object::new().bytes("value", &after, false)))
}

fn swapped(swap: Swap, result: Object) -> Answer {
    match swap {
        Swap::Written(ts) => done(result.build(), ts),
        Swap::Refused { found, ts } => condition_failed(found.as_deref(), Some(ts)),
    }
}
