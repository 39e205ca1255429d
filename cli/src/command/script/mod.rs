//! `corelane script`: operations as JSON lines, for test drivers and other programs.
//!
//! ```text
//!   stdin ─► parse ─┬─► session 0 ─┐
//!                   ├─► session 1 ─┼─► one line each on stdout, as they end
//!                   └─► …          ┘
//! ```
//!
//! Operations of one session run one after the other; sessions run beside each other, each with connections of its own.

mod protocol;

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome};
use crate::output::Object;
use crate::session;
use base::key::Span;
use clap::Args;
use corelane::{Db, Error, Swap};
use protocol::{Answer, Op, Request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use wire::Code;

/// Requests of one session that wait for those before them; more are not read.
const QUEUE: usize = 64;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  echo '{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}' | corelane script
  printf '%s\\n' '{\"s\":1,\"op\":\"get\",\"key\":\"a\"}' '{\"s\":2,\"op\":\"append\",\"key\":\"a\",\"value\":2}' | corelane script

Each answer has one of \"ok\" (it happened), \"fail\" (it definitely did not) and \"unknown\" (it may have).
Operations: get, put, delete, append, cas, scan. \"s\" names a session: its operations run in order; different sessions run
at once. \"id\" comes back with the answer, \"timeout_ms\" bounds one operation. Session i talks to the i-th --at, in turn.";

/// Run operations given as JSON lines, one answer per line.
#[derive(Debug, Args)]
pub(crate) struct ScriptArgs {
    /// Nodes for the sessions, in turn, instead of the one of --connect; may be given several times
    #[arg(long = "at", value_name = "ADDR")]
    at: Vec<String>,
}

pub(crate) fn run(global: &Global, args: ScriptArgs) -> Outcome {
    let runtime = session::runtime()?;
    let addresses = if args.at.is_empty() {
        vec![global.connect.clone()]
    } else {
        args.at
    };
    let (lines, received) = mpsc::channel(QUEUE);
    // Reading standard input blocks, so a thread of its own does it; it ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let local = LocalSet::new();
    local.block_on(&runtime, serve(global.clone(), addresses, received))?;
    Ok(Exit::Ok)
}

type Lines = mpsc::Receiver<std::io::Result<String>>;

async fn serve(global: Global, addresses: Vec<String>, mut lines: Lines) -> Result<(), CliError> {
    let addresses = Rc::new(addresses);
    let mut sessions: BTreeMap<u64, mpsc::Sender<Request>> = BTreeMap::new();
    let mut running = tokio::task::JoinSet::new();
    while let Some(line) = lines.recv().await {
        let line = line
            .map_err(|error| CliError::file("cannot read the script", "standard input".as_ref(), &error))?;
        if line.trim().is_empty() {
            continue;
        }
        match protocol::parse(&line) {
            Err(refusal) => answer(&protocol::refused(refusal)),
            Ok(request) => {
                let queue = sessions.entry(request.session).or_insert_with(|| {
                    let (queue, requests) = mpsc::channel(QUEUE);
                    running.spawn_local(run_session(
                        global.clone(),
                        addresses.clone(),
                        request.session,
                        requests,
                    ));
                    queue
                });
                // A session only ends when its queue is dropped.
                let _ = queue.send(request).await;
            }
        }
    }
    drop(sessions);
    while running.join_next().await.is_some() {}
    Ok(())
}

/// Prints one line at once: who reads it may wait for it before asking on.
fn answer(line: &Value) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        // Nobody reads the answers any more.
        std::process::exit(Exit::Ok as i32);
    }
}

async fn run_session(
    global: Global,
    addresses: Rc<Vec<String>>,
    session: u64,
    mut requests: mpsc::Receiver<Request>,
) {
    let at = usize::try_from(session).unwrap_or(0) % addresses.len();
    let mut connected: Option<Db> = None;
    while let Some(Request {
        session,
        id,
        timeout_ms,
        op,
    }) = requests.recv().await
    {
        let db = match connected.take() {
            Some(db) => Ok(db),
            None => connect(&global, &addresses[at]).await,
        };
        let reply = match db {
            Ok(db) => {
                let limit = timeout_ms.map_or(global.timeout, Duration::from_millis);
                let is_write = op.is_write();
                // The client's own deadline says more than a cut-off here, so this one comes second.
                let reply = match tokio::time::timeout(limit, perform(&db, op)).await {
                    Ok(Ok(reply)) => reply,
                    Ok(Err(error)) => failed(&error),
                    Err(_) if is_write => Answer::Unknown {
                        reason: reason(Code::Ambiguous, "no answer within the time-out"),
                    },
                    Err(_) => Answer::Fail {
                        reason: reason(Code::DeadlineExceeded, "no answer within the time-out"),
                        ts: None,
                    },
                };
                connected = Some(db);
                reply
            }
            // Nothing was sent.
            Err(error) => Answer::Fail {
                reason: reason(error.code(), &error.to_string()),
                ts: None,
            },
        };
        answer(&reply.line(session, id));
    }
}

async fn connect(global: &Global, address: &str) -> Result<Db, Error> {
    corelane::connect_with(address, session::options(global)).await
}

fn reason(code: Code, what: &str) -> Value {
    Object::new()
        .set("code", code.to_string())
        .set("what", what)
        .build()
}

/// An error as an answer: only an ambiguous write is unknown.
fn failed(error: &Error) -> Answer {
    let reason = reason(error.code(), &error.to_string());
    match error.code() {
        Code::Ambiguous => Answer::Unknown { reason },
        _ => Answer::Fail { reason, ts: None },
    }
}

fn done(result: Value, ts: base::Timestamp) -> Answer {
    Answer::Ok { result, ts: Some(ts) }
}

/// A value of the store as a JSON member.
fn member(object: Object, name: &str, value: Option<&[u8]>) -> Object {
    match value {
        Some(value) => object.bytes(name, value, false),
        None => object.set(name, Value::Null),
    }
}

async fn perform(db: &Db, op: Op) -> Result<Answer, Error> {
    Ok(match op {
        Op::Get { key, at: None } => {
            let (value, ts) = db.get_versioned(&key).await?;
            done(member(Object::new(), "value", value.as_deref()).build(), ts)
        }
        Op::Get { key, at: Some(at) } => {
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
    })
}

/// One read and one conditional write: when somebody was faster it fails, and nothing is tried again.
async fn append(db: &Db, key: &[u8], value: &[u8]) -> Result<Answer, Error> {
    let before = db.get(key).await?;
    let (after, swap) = match before {
        Some(before) if !before.is_empty() => {
            let after = [before.as_slice(), b",", value].concat();
            let swap = db.compare_and_put(key, &before, &after).await?;
            (after, swap)
        }
        Some(before) => (value.to_vec(), db.compare_and_put(key, &before, value).await?),
        None => (value.to_vec(), db.put_if_absent(key, value).await?),
    };
    Ok(swapped(swap, Object::new().bytes("value", &after, false)))
}

fn swapped(swap: Swap, result: Object) -> Answer {
    match swap {
        Swap::Written(ts) => done(result.build(), ts),
        Swap::Refused { found, ts } => {
            let code = Code::ConditionFailed;
            let reason = Object::new()
                .set("code", code.to_string())
                .set("what", code.summary());
            Answer::Fail {
                reason: member(reason, "found", found.as_deref()).build(),
                ts: Some(ts),
            }
        }
    }
}
