//! `corelane put KEY VALUE`.

use crate::args::Global;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, print, shown};
use crate::session::Session;
use clap::Args;
use corelane::Swap;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane put greeting 'hello, world'
  corelane put picture --file picture.png
  date | corelane put now -                      the value from standard input, line end included
  corelane put lock me --if-absent               exits with 2 when somebody has it
  corelane put greeting 'good bye' --if-equals 'hello, world'

The node has the value on disk when the command returns.";

/// Set a key to a value.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The key
    key: OsString,
    /// The value; `-` reads standard input
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<OsString>,
    /// Take the value from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only when the key has no value
    #[arg(long, conflicts_with = "if_equals")]
    if_absent: bool,
    /// Only when the key has this value
    #[arg(long, value_name = "VALUE")]
    if_equals: Option<OsString>,
}

pub(crate) fn run(global: &Global, args: PutArgs) -> Outcome {
    let key = global.bytes(args.key)?;
    let expected = global.bytes_if(args.if_equals)?;
    let value = match (args.value, args.file) {
        (_, Some(path)) => bounded(&path, std::fs::File::open(&path))?,
        (Some(value), None) if value == "-" => {
            bounded("standard input".as_ref(), Ok(std::io::stdin().lock()))?
        }
        (Some(value), None) => global.bytes(value)?,
        (None, None) => return Err(CliError::usage("a value is missing")),
    };
    let session = Session::open(global)?;
    let swap = match (&expected, args.if_absent) {
        (Some(expected), _) => session.wait(session.db.compare_and_put(&key, expected, &value))?,
        (None, true) => session.wait(session.db.put_if_absent(&key, &value))?,
        (None, false) => Swap::Written(session.wait(session.db.put(&key, &value))?),
    };
    report(global, &key, &swap)
}

/// All of a source, unless it is longer than a value may be.
fn bounded(path: &Path, source: std::io::Result<impl std::io::Read>) -> Result<Vec<u8>, CliError> {
    let limit = base::limits::VALUE_BYTES_MAX as u64;
    let mut value = Vec::new();
    let read = source.and_then(|source| source.take(limit + 1).read_to_end(&mut value));
    read.map_err(|error| CliError::file("cannot read the value", path, &error))?;
    if value.len() as u64 > limit {
        let code = wire::Code::ValueTooLong;
        return Err(CliError::new(
            code.number(),
            Exit::Usage,
            format!("{} is longer than a value may be", path.display()),
        )
        .help(code.help()));
    }
    Ok(value)
}

/// Reports a conditional write: what it did, or what stood in its way.
pub(crate) fn report(global: &Global, key: &[u8], swap: &Swap) -> Outcome {
    match swap {
        Swap::Written(ts) => {
            let json = Object::new()
                .bytes("key", key, global.hex)
                .set("applied", true)
                .ts(*ts)
                .build();
            if global.json {
                print(global, "", &json)?;
            }
            Ok(Exit::Ok)
        }
        Swap::Refused { found, ts } => {
            let mut json = Object::new()
                .bytes("key", key, global.hex)
                .set("applied", false)
                .ts(*ts);
            json = match found {
                Some(value) => json.bytes("found", value, global.hex),
                None => json.set("found", serde_json::Value::Null),
            };
            if global.json {
                print(global, "", &json.build())?;
            } else {
                let found = found.as_ref().map_or_else(
                    || "no value".to_owned(),
                    |value| format!("`{}`", shown(global, value)),
                );
                eprintln!("not written: {} has {found}", shown(global, key));
            }
            Ok(Exit::Conflict)
        }
    }
}
