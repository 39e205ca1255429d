//! `corelane scan`.

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, Output, grouped, shown};
use crate::past::PastArgs;
use crate::session::{Session, explain};
use base::key::Span;
use clap::Args;
use std::ffi::OsString;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane scan                                  everything
  corelane scan user/ user0 --limit 20           from `user/` up to, not including, `user0`
  corelane scan --prefix user/ --reverse         the last ones first
  corelane scan --prefix user/ --count
  corelane scan --prefix user/ --stale 5s        as of 5 s ago, from the nearest nodes

Bytes that a terminal cannot show appear as \\xNN; `corelane export` writes them as they are.";

/// List keys and values in order, one `KEY <tab> VALUE` per line.
#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// The first key
    start: Option<OsString>,
    /// The first key that is not listed any more
    end: Option<OsString>,
    /// Every key that starts with this
    #[arg(long, conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,
    /// This many rows at most
    #[arg(long, short = 'n', value_name = "ROWS")]
    limit: Option<u64>,
    /// From the last key to the first
    #[arg(long)]
    reverse: bool,
    /// Keys only
    #[arg(long)]
    keys: bool,
    /// Only how many there are
    #[arg(long, conflicts_with = "keys")]
    count: bool,
    #[command(flatten)]
    past: PastArgs,
}

pub(crate) fn run(global: &Global, args: ScanArgs) -> Outcome {
    let span = span(global, args.prefix, args.start, args.end)?;
    let session = Session::open(global)?;
    let mut scan = session.db.scan(span);
    if args.reverse {
        scan = scan.reverse();
    }
    if let Some(limit) = args.limit {
        scan = scan.limit(limit);
    }
    scan = args.past.of(scan);
    let mut out = Output::new();
    let mut count: u64 = 0;
    session.run(async {
        let mut rows = scan.rows();
        while let Some(row) = rows
            .next()
            .await
            .map_err(|error| explain(error, &session.address))?
        {
            count += 1;
            if args.count {
                continue;
            }
            if global.json {
                let mut json = Object::new().bytes("key", &row.key, global.hex);
                if !args.keys {
                    json = json.bytes("value", &row.value, global.hex);
                }
                out.line(json.ts(row.ts).build())?;
            } else if args.keys {
                out.line(shown(global, &row.key))?;
            } else {
                out.line(format_args!(
                    "{}\t{}",
                    shown(global, &row.key),
                    shown(global, &row.value)
                ))?;
            }
        }
        Ok(())
    })?;
    match (args.count, global.json) {
        (true, true) => out.line(Object::new().set("count", count).build())?,
        (true, false) => out.line(grouped(count))?,
        (false, _) => {}
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// The span that a command line names.
pub(crate) fn span(
    global: &Global,
    prefix: Option<OsString>,
    start: Option<OsString>,
    end: Option<OsString>,
) -> Result<Span, CliError> {
    if let Some(prefix) = global.bytes_if(prefix)? {
        return Ok(corelane::prefix(prefix));
    }
    let start = global.bytes_if(start)?.unwrap_or_default();
    Ok(Span::new(&start, global.bytes_if(end)?.as_deref()))
}
