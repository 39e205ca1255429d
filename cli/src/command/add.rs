//! `corelane add KEY NUMBER`.

use crate::args::Global;
use crate::error::{Exit, Outcome};
use crate::output::{Object, print, shown};
use crate::session::Session;
use clap::Args;
use corelane::Modified;
use std::ffi::OsString;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane add visits 1                          prints the sum; a key without a value counts as zero
  corelane add stock/shoes -3 --min 0            exits with 2 when fewer than three are left
  corelane add seats 1 --max 180

Numbers are decimal text of 64 bits with a sign, so `get` shows them. Additions to one key do not wait for each
other, and one that is repeated after a lost answer is not done twice.";

/// Add to the number that a key has.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The key
    key: OsString,
    /// What is added; may be negative
    #[arg(allow_negative_numbers = true, value_name = "NUMBER")]
    delta: i64,
    /// Only when the sum is not less
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, default_value_t = i64::MIN, hide_default_value = true)]
    min: i64,
    /// Only when the sum is not greater
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, default_value_t = i64::MAX, hide_default_value = true)]
    max: i64,
}

pub(crate) fn run(global: &Global, args: AddArgs) -> Outcome {
    let key = global.bytes(args.key)?;
    let session = Session::open(global)?;
    let done = session.wait(session.db.add_within(&key, args.delta, args.min..=args.max))?;
    let (ts, exit) = match &done {
        Modified::Done { ts, .. } => (*ts, Exit::Ok),
        Modified::Refused { ts, .. } => (*ts, Exit::Conflict),
    };
    let number = done.number();
    if global.json {
        let json = Object::new()
            .bytes("key", &key, global.hex)
            .set("applied", done.is_done())
            .set("number", number)
            .ts(ts)
            .build();
        print(global, "", &json)?;
    } else if done.is_done() {
        println!("{number}");
    } else {
        eprintln!(
            "not added: {} has {number}, and the sum would be out of bounds",
            shown(global, &key)
        );
    }
    Ok(exit)
}
