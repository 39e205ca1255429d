//! `corelane txn STATEMENT…`: a transaction of one request.

use crate::args::Global;
use crate::command::shell::parse::plain_words as words;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{Object, print, shown};
use crate::session::Session;
use base::Timestamp;
use clap::Args;
use corelane::{Error, Modification, OneShot, TxnOptions};
use serde_json::Value;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane txn 'add stock/shoes -3 min 0' 'add sold/shoes 3'    both, or neither when fewer than three are left
  corelane txn 'if lock absent' 'put lock me' 'get owner'        exits with 2 when somebody has the lock

Each statement is one argument, with the shell's quoting inside of it:
  put KEY VALUE, del KEY                    sets, removes
  add KEY NUMBER [min NUMBER] [max NUMBER]  changes a number, within bounds
  min KEY NUMBER, max KEY NUMBER            the lesser, the greater of it
  append KEY VALUE [most BYTES]             if it fits
  get KEY                                   prints what the key has afterwards
  if KEY is VALUE, if KEY absent, if KEY present, if KEY in NUMBER..NUMBER, if KEY at TIMESTAMP

All of it happens at one moment, or nothing does. Keys may be anywhere; a key is changed once. What was changed by
add, min, max and append is printed, and then what get asks for.";

/// Conditions and changes that happen together
#[derive(Debug, Args)]
pub(crate) struct TxnArgs {
    /// A change, or what has to hold: see below
    #[arg(required = true, value_name = "STATEMENT")]
    statements: Vec<String>,
}

pub(crate) fn run(global: &Global, args: &TxnArgs) -> Outcome {
    let mut shot = OneShot::new();
    let mut conditions = Vec::new();
    let mut gets = Vec::new();
    for statement in &args.statements {
        let wrong = |why: String| CliError::usage(format!("`{statement}`: {why}"));
        match add(&mut shot, statement).map_err(wrong)? {
            Added::Condition => conditions.push(statement),
            Added::Get(key) => gets.push(key),
            Added::Change => {}
        }
    }
    let session = Session::open(global)?;
    let options = TxnOptions::named("corelane txn");
    let ran = session.run(async { Ok(session.db.run_one_shot(&shot, &options).await) })?;
    let done = match ran {
        Err(Error::ConditionFailed { condition, found, ts }) => {
            let condition = usize::try_from(condition).ok().and_then(|at| conditions.get(at));
            let condition = condition.map_or("", |statement| statement.as_str());
            return refused(global, condition, found.as_deref(), ts);
        }
        Err(Error::OutOfBounds { key, found, ts, .. }) => {
            let statement = args.statements.iter().find(|statement| {
                let words = words(statement).unwrap_or_default();
                words.get(1) == Some(&key) && words[0] != b"if" && words[0] != b"get"
            });
            return refused(global, statement.map_or("", String::as_str), found.as_deref(), ts);
        }
        other => session.wait(async { other })?,
    };
    if global.json {
        let value = |key: &[u8], value: Option<&[u8]>| {
            let object = Object::new().bytes("key", key, global.hex);
            match value {
                Some(value) => object.bytes("value", value, global.hex),
                None => object.set("value", Value::Null),
            }
            .build()
        };
        let modified = done.modified.iter().map(|(key, made)| value(key, Some(made)));
        let got = gets.iter().zip(&done.values);
        let got = got.map(|(key, found)| value(key, found.as_deref()));
        let json = Object::new()
            .set("applied", true)
            .set("values", modified.chain(got).collect::<Vec<_>>())
            .ts(done.ts)
            .build();
        print(global, "", &json)?;
        return Ok(Exit::Ok);
    }
    for (key, made) in &done.modified {
        println!("{}\t{}", shown(global, key), shown(global, made));
    }
    for (key, found) in gets.iter().zip(&done.values) {
        match found {
            Some(found) => println!("{}\t{}", shown(global, key), shown(global, found)),
            None => println!("{}", shown(global, key)),
        }
    }
    Ok(Exit::Ok)
}

/// Nothing was done, because of this statement.
fn refused(global: &Global, statement: &str, found: Option<&[u8]>, ts: Timestamp) -> Outcome {
    if global.json {
        let json = Object::new().set("applied", false).set("statement", statement);
        let json = match found {
            Some(found) => json.bytes("found", found, global.hex),
            None => json.set("found", Value::Null),
        };
        print(global, "", &json.ts(ts).build())?;
    } else {
        let found = found.map_or("there is no value".to_owned(), |found| {
            format!("the value is {}", shown(global, found))
        });
        eprintln!("nothing done: `{statement}` does not hold, {found}");
    }
    Ok(Exit::Conflict)
}

/// What a statement is.
#[derive(Debug, PartialEq, Eq)]
enum Added {
    Condition,
    Change,
    Get(Vec<u8>),
}

/// Reads a statement. The error says what is wrong with it.
fn add(shot: &mut OneShot, statement: &str) -> Result<Added, String> {
    let all = words(statement)?;
    let all: Vec<&[u8]> = all.iter().map(|word| &**word).collect();
    let [name, key, rest @ ..] = &all[..] else {
        return Err("a statement is a word and a key".to_owned());
    };
    match (*name, rest) {
        (b"put", [value]) => drop(shot.put(key, value)),
        (b"del", []) => drop(shot.delete(key)),
        (b"add", [delta, bounds @ ..]) => {
            let (mut min, mut max) = (i64::MIN, i64::MAX);
            for pair in bounds.chunks(2) {
                match pair {
                    [b"min", bound] => min = number(bound)?,
                    [b"max", bound] => max = number(bound)?,
                    _ => return Err("behind the number come `min NUMBER` and `max NUMBER`".to_owned()),
                }
            }
            shot.add_within(key, number(delta)?, min..=max);
        }
        (b"min", [value]) => {
            let value = number(value)?;
            shot.modify(key, Modification::Min { value });
        }
        (b"max", [value]) => {
            let value = number(value)?;
            shot.modify(key, Modification::Max { value });
        }
        (b"append", [bytes]) => {
            let len_max = u32::MAX;
            shot.modify(key, Modification::Append { bytes, len_max });
        }
        (b"append", [bytes, b"most", most]) => {
            let len_max = number(most)?;
            shot.modify(key, Modification::Append { bytes, len_max });
        }
        (b"get", []) => {
            shot.get(key);
            return Ok(Added::Get(key.to_vec()));
        }
        (b"if", condition) => {
            match condition {
                [b"is", value] => shot.require(key, value),
                [b"absent"] => shot.require_absent(key),
                [b"present"] => shot.require_present(key),
                [b"in", bounds] => {
                    let bounds = text(bounds)?;
                    let (min, max) = bounds.split_once("..").ok_or("bounds are written 0..10")?;
                    shot.require_within(key, number(min.as_bytes())?..=number(max.as_bytes())?)
                }
                [b"at", ts] => {
                    let ts: Timestamp = text(ts)?.parse().map_err(|error| format!("{error}"))?;
                    shot.require_version(key, ts)
                }
                _ => {
                    return Err(
                        "a condition is `is VALUE`, `absent`, `present`, `in N..N` or `at TIMESTAMP`"
                            .to_owned(),
                    );
                }
            };
            return Ok(Added::Condition);
        }
        _ => return Err("there is no such statement; `corelane txn --help` lists them".to_owned()),
    }
    Ok(Added::Change)
}

fn text(word: &[u8]) -> Result<&str, String> {
    str::from_utf8(word).map_err(|_| "a number is text".to_owned())
}

fn number<N: core::str::FromStr>(word: &[u8]) -> Result<N, String> {
    let text = text(word)?;
    text.parse()
        .map_err(|_| format!("{text} is not a number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(statement: &str) -> OneShot {
        let mut shot = OneShot::new();
        add(&mut shot, statement).unwrap();
        shot
    }

    fn why(statement: &str) -> String {
        add(&mut OneShot::new(), statement).unwrap_err()
    }

    #[test]
    fn statements_are_read() {
        let like = |fill: fn(&mut OneShot) -> &mut OneShot| fill(&mut OneShot::new()).clone();
        assert_eq!(shot("put a 'b c'"), like(|shot| shot.put("a", "b c")));
        assert_eq!(shot("del a"), like(|shot| shot.delete("a")));
        assert_eq!(
            shot("add a -5 min 0"),
            like(|shot| shot.add_within("a", -5, 0..=i64::MAX))
        );
        assert_eq!(
            shot("add a 5 max 9 min 1"),
            like(|shot| shot.add_within("a", 5, 1..=9))
        );
        assert_eq!(shot("if a is 1"), like(|shot| shot.require("a", "1")));
        assert_eq!(
            shot("if a in -3..7"),
            like(|shot| shot.require_within("a", -3..=7))
        );
        let at = Timestamp::new(5_500_000_000, 0);
        let mut version = OneShot::new();
        version.require_version("a", at);
        assert_eq!(shot("if a at 5.5"), version);
        let mut get = OneShot::new();
        assert_eq!(add(&mut get, "get a"), Ok(Added::Get(b"a".to_vec())));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(why("put"), "a statement is a word and a key");
        assert_eq!(why("add a x"), "x is not a number that fits");
        assert_eq!(
            why("add a 1 least 0"),
            "behind the number come `min NUMBER` and `max NUMBER`"
        );
        assert_eq!(why("if a in 7"), "bounds are written 0..10");
        assert_eq!(
            why("jump a"),
            "there is no such statement; `corelane txn --help` lists them"
        );
        assert_eq!(why("put a 'b"), "the quote at column 7 is never closed");
    }
}
