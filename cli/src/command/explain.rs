//! `corelane explain CODE`: what an error code means and what to do.

use crate::args::Global;
use crate::error::{self, CliError, Exit, Outcome};
use crate::output::{Object, Output, print, table};
use clap::Args;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane explain C3001
  corelane explain";

/// Explain an error code, or list them all.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code: C3001, c3001 or 3001
    code: Option<String>,
}

pub(crate) fn run(global: &Global, args: &ExplainArgs) -> Outcome {
    let Some(code) = &args.code else {
        return list(global);
    };
    let (number, name, text) = find(code)?;
    let json = Object::new()
        .set("code", format!("C{number:04}"))
        .set("name", name)
        .set("text", text)
        .build();
    print(global, format_args!("C{number:04}: {name}\n\n{text}"), &json)?;
    Ok(Exit::Ok)
}

/// The explanation of a code, for people.
pub(crate) fn text(code: &str) -> Result<String, CliError> {
    let (number, name, text) = find(code)?;
    Ok(format!("C{number:04}: {name}\n{text}"))
}

fn find(code: &str) -> Result<(u16, &'static str, &'static str), CliError> {
    let digits = code.strip_prefix(['C', 'c']).unwrap_or(code);
    digits.parse().ok().and_then(lookup).ok_or_else(|| {
        CliError::usage(format!("there is no error code `{code}`")).help("`corelane explain` lists all codes")
    })
}

/// The number, name and text of a code, ours or the wire's.
fn lookup(number: u16) -> Option<(u16, &'static str, &'static str)> {
    all().into_iter().find(|entry| entry.0 == number)
}

fn all() -> Vec<(u16, &'static str, &'static str)> {
    let wire = wire::Code::ALL
        .iter()
        .map(|code| (code.number(), code.summary(), code.help()));
    let mut all: Vec<_> = wire.chain(error::code::ALL.iter().copied()).collect();
    all.sort_unstable();
    all
}

fn list(global: &Global) -> Outcome {
    let codes = all();
    if global.json {
        let mut out = Output::new();
        for (number, name, text) in codes {
            out.line(
                Object::new()
                    .set("code", format!("C{number:04}"))
                    .set("name", name)
                    .set("text", text)
                    .build(),
            )?;
        }
        out.flush()?;
    } else {
        let rows = codes
            .iter()
            .map(|(number, name, _)| vec![format!("C{number:04}"), (*name).to_owned()]);
        print(
            global,
            table(&["code", "meaning"], rows),
            &serde_json::Value::Null,
        )?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_command_line_and_of_the_wire_do_not_meet() {
        for pair in all().windows(2) {
            assert_ne!(pair[0].0, pair[1].0, "{} and {}", pair[0].1, pair[1].1);
        }
        assert!(lookup(error::code::BAD_RECORD).is_some());
        assert!(lookup(wire::Code::Overloaded.number()).is_some());
        assert_eq!(lookup(9999), None);
    }
}
