//! `corelane get KEY`.

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, Output, shown};
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

Exits with 1 when the key has no value.";

/// Print the value of a key.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key
    key: OsString,
    /// Exactly the value's bytes, without a line end behind them
    #[arg(long)]
    raw: bool,
    /// The value as it was at this time: seconds since 1970, as in `SECONDS.NANOS`
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
}

pub(crate) fn run(global: &Global, args: GetArgs) -> Outcome {
    let key = global.bytes(args.key)?;
    let session = Session::open(global)?;
    let value = match args.at {
        None => session.wait(session.db.get(&key))?,
        Some(ts) => session.wait(session.db.get_at(&key, ts))?,
    };
    let Some(value) = value else {
        if global.json {
            let mut out = Output::new();
            out.line(
                Object::new()
                    .bytes("key", &key, global.hex)
                    .set("value", serde_json::Value::Null)
                    .build(),
            )?;
            out.flush()?;
        } else {
            eprintln!("not found: {}", shown(global, &key));
        }
        return Ok(Exit::NotFound);
    };
    write_value(global, args.raw, &key, &value)?;
    Ok(Exit::Ok)
}

fn write_value(global: &Global, raw: bool, key: &[u8], value: &[u8]) -> Result<(), CliError> {
    let mut out = Output::new();
    if global.json {
        out.line(
            Object::new()
                .bytes("key", key, global.hex)
                .bytes("value", value, global.hex)
                .build(),
        )?;
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
