//! `corelane del KEY`, or a span.

use crate::args::Global;
use crate::command::put;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, print};
use crate::session::Session;
use base::key::Span;
use clap::Args;
use corelane::Swap;
use std::ffi::OsString;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane del greeting
  corelane del --prefix session/
  corelane del --start a --end b                 every key from `a` up to, not including, `b`
  corelane del lock --if-equals me               exits with 2 when it has another value

A span that reaches over several ranges is deleted range by range. Deleting what is not there is no error.";

/// Delete a key, or a span of keys.
#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    /// The key
    #[arg(required_unless_present_any = ["prefix", "start", "end"], conflicts_with_all = ["prefix", "start", "end"])]
    key: Option<OsString>,
    /// Every key that starts with this
    #[arg(long, conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,
    /// Every key from here on
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,
    /// Every key before this one
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
    /// Only when the key has this value
    #[arg(long, value_name = "VALUE", requires = "key")]
    if_equals: Option<OsString>,
}

pub(crate) fn run(global: &Global, args: DelArgs) -> Outcome {
    let expected = global.bytes_if(args.if_equals)?;
    let prefix = global.bytes_if(args.prefix)?;
    let (start, end) = (global.bytes_if(args.start)?, global.bytes_if(args.end)?);
    let key = global.bytes_if(args.key)?;
    let session = Session::open(global)?;
    let Some(key) = key else {
        let span = match prefix {
            Some(prefix) if prefix.is_empty() => {
                return Err(CliError::usage("an empty prefix would delete everything"));
            }
            Some(prefix) => corelane::prefix(prefix),
            None => Span::new(&start.unwrap_or_default(), end.as_deref()),
        };
        session.wait(session.db.delete_range(span))?;
        if global.json {
            print(global, "", &Object::new().set("applied", true).build())?;
        }
        return Ok(Exit::Ok);
    };
    let swap = match expected {
        Some(expected) => session.wait(session.db.compare_and_delete(&key, &expected))?,
        None => Swap::Written(session.wait(session.db.delete(&key))?),
    };
    put::report(global, &key, &swap)
}
