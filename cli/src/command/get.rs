//! `corelane get KEY`.

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, Output, shown};
use crate::past::PastArgs;
use crate::session::Session;
use base::Timestamp;
use clap::Args;
use std::ffi::OsString;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane get greeting
  corelane get --raw picture > picture.png
  corelane get greeting --at 1790000000.25
  corelane get greeting --stale 5s         as of 5 s ago, from the nearest node that has it

Exits with 1 when the key has no value.";

/// Print the value of a key.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key
    key: OsString,
    /// Exactly the value's bytes, without a line end behind them
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    past: PastArgs,
}

pub(crate) fn run(global: &Global, args: GetArgs) -> Outcome {
    let key = global.bytes(args.key)?;
    let session = Session::open(global)?;
    let db = &session.db;
    let mut read_ts = None;
    let value = match (args.past.at, args.past.staleness()) {
        (Some(ts), _) => session.wait(db.get_at(&key, ts))?,
        (None, Some(staleness)) => {
            let found = session.wait(db.get_stale(&key, staleness))?;
            read_ts = Some(found.read_ts);
            found.value
        }
        (None, None) => session.wait(db.get(&key))?,
    };
    let Some(value) = value else {
        if global.json {
            let mut out = Output::new();
            let found = Object::new()
                .bytes("key", &key, global.hex)
                .set("value", serde_json::Value::Null);
            out.line(with_read_ts(found, read_ts).build())?;
            out.flush()?;
        } else {
            eprintln!("not found: {}", shown(global, &key));
        }
        return Ok(Exit::NotFound);
    };
    write_value(global, args.raw, &key, &value, read_ts)?;
    Ok(Exit::Ok)
}

/// The moment that was read, where the node chose it.
fn with_read_ts(object: Object, read_ts: Option<Timestamp>) -> Object {
    match read_ts {
        Some(ts) => object.set("read_ts", ts.to_string()),
        None => object,
    }
}

fn write_value(
    global: &Global,
    raw: bool,
    key: &[u8],
    value: &[u8],
    read_ts: Option<Timestamp>,
) -> Result<(), CliError> {
    let mut out = Output::new();
    if global.json {
        let found = Object::new()
            .bytes("key", key, global.hex)
            .bytes("value", value, global.hex);
        out.line(with_read_ts(found, read_ts).build())?;
    } else if global.hex {
        out.line(shown(global, value))?;
    } else {
        out.bytes(value)?;
        if !raw {
            out.bytes(b"\n")?;
        }
    }
    out.flush()
}
