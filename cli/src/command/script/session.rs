//! One session: its connections, and its transaction when one is open.

use super::protocol::{Answer, Name, Op, Request};
use super::{answer, inside, outside};
use crate::args::Global;
use crate::output::Object;
use crate::session as connection;
use base::Timestamp;
use corelane::{Conflict, Db, Did, Error, Party, Txn, TxnOptions, TxnOutcome, TxnRef};
use serde_json::Value;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use wire::Code;

/// What a session is given.
pub(super) enum Step {
    Ask(Request),
    /// Everything before this was answered.
    Reached(oneshot::Sender<()>),
}

/// What a session has.
#[derive(Default)]
struct Session {
    /// The transaction that is open, also one that has failed and was not ended yet.
    txn: Option<Txn>,
    /// The last one of which nobody knows whether it is committed.
    unknown: Option<TxnRef>,
}

/// Does the steps of a session until there will be no more, and takes back what was left open.
pub(super) async fn run(global: Rc<Global>, address: String, name: Name, mut steps: mpsc::Receiver<Step>) {
    let mut connected: Option<Db> = None;
    let mut session = Session::default();
    while let Some(step) = steps.recv().await {
        let Request {
            id, timeout_ms, op, ..
        } = match step {
            Step::Ask(request) => request,
            Step::Reached(told) => {
                // Who waits for it may have been ended.
                let _ = told.send(());
                continue;
            }
        };
        let db = match connected.take() {
            Some(db) => Ok(db),
            None => corelane::connect_with(&address, connection::options(&global)).await,
        };
        let reply = match db {
            Ok(db) => {
                let limit = timeout_ms.map_or(global.timeout, Duration::from_millis);
                let is_write = op.is_write();
                // The client's own deadline says more than a cut-off here, so this one comes second.
                let reply = match tokio::time::timeout(limit, session.perform(&db, &name, op)).await {
                    Ok(Ok(reply)) => reply,
                    Ok(Err(error)) => {
                        let is_aborted = session.txn.as_ref().is_some_and(|txn| txn.failure().is_some());
                        failed(&error, is_aborted)
                    }
                    Err(_) if is_write => Answer::Unknown {
                        reason: reason(Code::Ambiguous, "no answer within the time-out").build(),
                    },
                    Err(_) => Answer::Fail {
                        reason: reason(Code::DeadlineExceeded, "no answer within the time-out").build(),
                        ts: None,
                    },
                };
                connected = Some(db);
                reply
            }
            // Nothing was sent.
            Err(error) => failed(&error, false),
        };
        answer(&reply.line(&name, id));
    }
    if let Some(txn) = session.txn {
        // Should it not succeed, others clear it away.
        let _ = txn.rollback().await;
    }
    if let Some(db) = connected {
        // The same: what is not finished by then is finished by whoever meets it.
        let _ = tokio::time::timeout(global.timeout, db.settle()).await;
    }
}

impl Session {
    async fn perform(&mut self, db: &Db, name: &Name, op: Op) -> Result<Answer, Error> {
        match (op, &self.txn) {
            (Op::Outcome, _) => self.outcome(db).await,
            (Op::Begin { .. }, Some(_)) => {
                Ok(Answer::invalid("a transaction is open: commit or abort it first"))
            }
            (
                Op::Begin {
                    isolation,
                    name: given,
                },
                None,
            ) => {
                let given = given.unwrap_or_else(|| format!("session {name}"));
                let options = TxnOptions::named(given).isolation(isolation);
                self.txn = Some(db.begin_with(&options).await?);
                Ok(nothing_more())
            }
            (Op::Commit | Op::Abort, None) => Ok(Answer::invalid("no transaction is open: begin one first")),
            (Op::Commit, Some(_)) => self.commit().await,
            (Op::Abort, Some(_)) => self.abort().await,
            (op, Some(txn)) => inside::perform(txn, op).await,
            (op, None) => outside::perform(db, op).await,
        }
    }

    async fn commit(&mut self) -> Result<Answer, Error> {
        let Some(txn) = self.txn.take() else {
            return Err(Error::TransactionOver);
        };
        Ok(match txn.commit().await {
            Ok(ts) => done(Object::new().build(), ts),
            Err(error) => {
                if let Error::CommitUnknown { txn, .. } = &error {
                    self.unknown = Some(txn.clone());
                }
                failed(&error, txn.failure().is_some())
            }
        })
    }

    async fn abort(&mut self) -> Result<Answer, Error> {
        let Some(txn) = self.txn.take() else {
            return Err(Error::TransactionOver);
        };
        // Of one that has failed nothing is left to be taken back.
        if txn.failure().is_none() {
            txn.rollback().await?;
        }
        Ok(nothing_more())
    }

    async fn outcome(&self, db: &Db) -> Result<Answer, Error> {
        let Some(unknown) = &self.unknown else {
            return Ok(Answer::invalid(
                "no commit of this session had an unknown outcome",
            ));
        };
        let (word, ts) = match db.outcome(unknown).await? {
            TxnOutcome::Committed(ts) => ("committed", Some(ts)),
            TxnOutcome::Aborted => ("aborted", None),
            TxnOutcome::Forgotten => ("forgotten", None),
        };
        let result = Object::new().set("outcome", word).build();
        Ok(Answer::Ok { result, ts })
    }
}

fn nothing_more() -> Answer {
    Answer::Ok {
        result: Object::new().build(),
        ts: None,
    }
}

fn reason(code: Code, what: &str) -> Object {
    Object::new().set("code", code.to_string()).set("what", what)
}

/// An error as an answer: only writes and commits that may have happened are unknown.
fn failed(error: &Error, is_aborted: bool) -> Answer {
    let code = error.code();
    let mut reason = reason(code, &error.to_string());
    if let Error::Conflict(conflict) = error {
        reason = reason.set("conflict", met(conflict));
    }
    match code {
        Code::Ambiguous | Code::CommitUnknown => Answer::Unknown {
            reason: reason.build(),
        },
        _ => {
            if is_aborted {
                reason = reason.set("aborted", true);
            }
            Answer::Fail {
                reason: reason.build(),
                ts: None,
            }
        }
    }
}

/// Who met whom on which key.
fn met(conflict: &Conflict) -> Value {
    let party = |party: &Party| {
        let did = match party.did {
            Did::Read => "read",
            Did::Write => "write",
            Did::Committed(_) => "committed",
            Did::Locked => "locked",
        };
        let mut object = Object::new().set("did", did);
        if let Some(id) = &party.id {
            let age_ms = u64::try_from(party.age.as_millis()).unwrap_or(u64::MAX);
            object = object.set("txn", id.as_str()).set("name", party.name.as_str());
            object = object.set("age_ms", age_ms);
        }
        object.build()
    };
    Object::new()
        .bytes("key", &conflict.key, false)
        .set("ours", party(&conflict.ours))
        .set("theirs", party(&conflict.theirs))
        .build()
}

pub(super) fn done(result: Value, ts: Timestamp) -> Answer {
    Answer::Ok { result, ts: Some(ts) }
}

/// A value of the store as a JSON member.
pub(super) fn member(object: Object, name: &str, value: Option<&[u8]>) -> Object {
    match value {
        Some(value) => object.bytes(name, value, false),
        None => object.set(name, Value::Null),
    }
}

/// The value after an append: elements with commas between them.
pub(super) fn append_to(before: Option<&[u8]>, value: &[u8]) -> Vec<u8> {
    match before {
        Some(before) if !before.is_empty() => [before, b",", value].concat(),
        Some(_) | None => value.to_vec(),
    }
}

/// A `cas` whose key has another value.
pub(super) fn condition_failed(found: Option<&[u8]>, ts: Option<Timestamp>) -> Answer {
    let code = Code::ConditionFailed;
    let reason = reason(code, code.summary());
    Answer::Fail {
        reason: member(reason, "found", found).build(),
        ts,
    }
}
