//! `corelane script`: operations as JSON lines, for test drivers and other programs.
//!
//! ```text
//!   stdin ─► parse ─┬─► session 0 ─┐
//!                   ├─► session 1 ─┼─► one line each on stdout, as they end
//!                   └─► …          ┘
//! ```
//!
//! Operations of one session run one after the other; sessions run beside each other, each with connections of its own and with a
//! transaction at most. What waits holds up its own session only, until 64 more operations of it have been given.

mod inside;
mod outside;
mod protocol;
mod session;

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome};
use crate::session as connection;
use clap::Args;
use protocol::{Line, Name};
use serde_json::Value;
use session::Step;
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::rc::Rc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

/// Requests of one session that wait for those before them; more are not read.
const QUEUE: usize = 64;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  echo '{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}' | corelane script
  printf '%s\\n' '{\"s\":1,\"op\":\"get\",\"key\":\"a\"}' '{\"s\":2,\"op\":\"append\",\"key\":\"a\",\"value\":2}' | corelane script

Each answer has one of \"ok\" (it happened), \"fail\" (it definitely did not) and \"unknown\" (it may have).
Operations: get, put, delete, append, cas, add, scan. \"s\" names a session: its operations run in order; different sessions run
at once. \"id\" comes back with the answer, \"timeout_ms\" bounds one operation. Session i talks to the i-th --at, in turn, and
sessions whose names are no numbers in the order in which they appear.

Transactions: {\"s\":1,\"op\":\"begin\",\"iso\":\"snapshot\"}, or \"serializable\" or \"strict\", then operations of that session, then
commit or abort. Nothing is tried again behind your back. \"for_update\":true reads what will be written. A transaction that
has failed says \"aborted\":true; of a commit that is \"unknown\", {\"op\":\"outcome\"} tells later. {\"op\":\"wait\"}, with \"s\" or
without, is not answered: the next line is read when the operations before it are.";

/// Run operations given as JSON lines, one answer per line.
#[derive(Debug, Args)]
pub(crate) struct ScriptArgs {
    /// Nodes for the sessions, in turn, instead of the one of --connect; may be given several times
    #[arg(long = "at", value_name = "ADDR")]
    at: Vec<String>,
}

pub(crate) fn run(global: &Global, args: ScriptArgs) -> Outcome {
    let runtime = connection::runtime()?;
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
    let global = Rc::new(global);
    let mut sessions: BTreeMap<Name, mpsc::Sender<Step>> = BTreeMap::new();
    let mut running = tokio::task::JoinSet::new();
    let mut texts = 0;
    while let Some(line) = lines.recv().await {
        let line = line
            .map_err(|error| CliError::file("cannot read the script", "standard input".as_ref(), &error))?;
        if line.trim().is_empty() {
            continue;
        }
        match protocol::parse(&line) {
            Err(refusal) => answer(&protocol::refused(refusal)),
            Ok(Line::Ask(request)) => {
                let name = request.session.clone();
                let queue = sessions.entry(name).or_insert_with_key(|name| {
                    let place = match name {
                        Name::Number(number) => usize::try_from(*number).unwrap_or(0),
                        Name::Text(_) => {
                            texts += 1;
                            texts - 1
                        }
                    };
                    let address = addresses[place % addresses.len()].clone();
                    let (queue, steps) = mpsc::channel(QUEUE);
                    running.spawn_local(session::run(global.clone(), address, name.clone(), steps));
                    queue
                });
                // A session only ends when its queue is dropped.
                let _ = queue.send(Step::Ask(request)).await;
            }
            Ok(Line::Wait(name)) => {
                let awaited = sessions
                    .iter()
                    .filter(|(known, _)| name.as_ref().is_none_or(|name| name == *known));
                for (_, queue) in awaited {
                    let (told, reached) = oneshot::channel();
                    let _ = queue.send(Step::Reached(told)).await;
                    let _ = reached.await;
                }
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
