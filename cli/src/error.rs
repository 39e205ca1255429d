//! What a command says when it could not do its work, and the exit code it leaves.
//!
//! ```text
//!   error[C1101]: cannot read the input file
//!     cause: packages.tsv: No such file or directory
//!     help : name an existing file, or `-` for standard input
//! ```
//!
//! Invariants:
//! - Every error has a stable code that `corelane explain` knows.
//! - Colour appears only on a terminal, and never when `NO_COLOR` is set.

use serde_json::json;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// How a command ended, for the shell that called it. Numbers from 64 on are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// The key was not found.
    NotFound = 1,
    /// A condition did not hold, or the write met a conflict.
    Conflict = 2,
    /// The command line was wrong.
    Usage = 64,
    /// The input or the data on disk was wrong.
    Data = 65,
    /// No node answered.
    Unavailable = 69,
    /// A file of the caller's could not be read or written.
    Io = 74,
    /// Worth trying again: nothing was changed.
    Retry = 75,
    /// A write may or may not have happened, or the node broke the protocol.
    Unknown = 76,
    /// The machine or its configuration does not let a node start.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Codes of errors that only the command line meets; the node's and the client's are `wire::code`.
pub(crate) mod code {
    /// The command line was wrong.
    pub(crate) const USAGE: u16 = 1100;
    /// A local file could not be read or written.
    pub(crate) const LOCAL_FILE: u16 = 1101;
    /// An input line is not a record.
    pub(crate) const BAD_RECORD: u16 = 1102;
    /// A record does not fit the export format.
    pub(crate) const UNWRITABLE_RECORD: u16 = 1103;
    /// A checkpoint does not belong to this import.
    pub(crate) const CHECKPOINT: u16 = 1104;
    /// Bytes were not written as hexadecimal digits or escapes.
    pub(crate) const BAD_BYTES: u16 = 1105;
    /// The address listened at would be open to others.
    pub(crate) const NOT_LOOPBACK: u16 = 1106;
    /// An offline check found damage.
    pub(crate) const DAMAGE_FOUND: u16 = 1107;

    /// Name and explanation of each code above.
    pub(crate) const ALL: &[(u16, &str, &str)] = &[
        (
            USAGE,
            "usage",
            "The command line was not understood. `corelane COMMAND --help` shows its options with examples.",
        ),
        (
            LOCAL_FILE,
            "local-file",
            "A file or directory on this machine could not be read or written; nothing was changed on the node by that step. The cause says which file and what the system answered.",
        ),
        (
            BAD_RECORD,
            "bad-record",
            "A line of the input is not a record of the chosen format, for example a TSV line without a tab. The message names the line. Correct it, choose another `--format`, or skip such lines with `--bad-lines skip`.",
        ),
        (
            UNWRITABLE_RECORD,
            "unwritable-record",
            "A key or value holds bytes that the chosen export format cannot carry as they are, for example a line end in plain TSV. `--escape` writes them as `\\n`, `\\t`, `\\r`, exactly reversible; `--format jsonl` carries every byte.",
        ),
        (
            CHECKPOINT,
            "checkpoint",
            "The checkpoint beside the input was written for another input or with other options, so resuming would import the wrong lines. Remove it, or pass `--restart`, to import from the first line.",
        ),
        (
            BAD_BYTES,
            "bad-bytes",
            "A key or value was given in a form that does not stand for bytes. `--hex` wants pairs of hexadecimal digits; the shell and scripts read the escapes \\n \\t \\r \\0 \\\\ \\xNN.",
        ),
        (
            NOT_LOOPBACK,
            "not-loopback",
            "The node speaks without encryption or passwords so far. On an address other machines can reach, anyone there may read and write everything; `--insecure` says that this is intended.",
        ),
        (
            DAMAGE_FOUND,
            "damage-found",
            "An offline check found bytes that do not match their checksum. The report names file and offset. Keep a copy of the directory before anything else; a node refuses to serve damaged data.",
        ),
    ];
}

/// An error as a command reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    /// Stable number, printed as `Cnnnn`.
    pub(crate) code: u16,
    /// What could not be done: one sentence, no full stop.
    pub(crate) what: String,
    /// Why, when that is known beyond `what`.
    pub(crate) cause: Option<String>,
    /// What to do about it.
    pub(crate) help: Option<String>,
    /// What the process returns.
    pub(crate) exit: Exit,
}

impl CliError {
    /// An error with a code and a sentence.
    #[must_use]
    pub(crate) fn new(code: u16, exit: Exit, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            cause: None,
            help: None,
            exit,
        }
    }

    /// The command line was wrong.
    #[must_use]
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(code::USAGE, Exit::Usage, what)
    }

    /// A local file could not be read or written.
    #[must_use]
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(code::LOCAL_FILE, Exit::Io, what)
            .cause(format!("{}: {error}", path.display()))
            .help("check the name, the permissions and the free space")
    }

    /// Adds the cause.
    #[must_use]
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds the remedy.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The text for people, ending in a line end.
    #[must_use]
    pub(crate) fn render(&self, colour: bool) -> String {
        let (red, bold, plain) = if colour {
            ("\x1b[1;31m", "\x1b[1m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut out = format!(
            "{red}error[C{:04}]{plain}: {bold}{}{plain}\n",
            self.code, self.what
        );
        for (name, text) in [("cause", &self.cause), ("help ", &self.help)] {
            if let Some(text) = text {
                // Continuation lines stand under the first one.
                let _ = writeln!(out, "  {name}: {}", text.replace('\n', "\n         "));
            }
        }
        out
    }

    /// The value for programs.
    #[must_use]
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({ "error": {
            "code": format!("C{:04}", self.code), "what": self.what, "cause": self.cause, "help": self.help, "exit": self.exit as u8,
        } })
    }

    /// Says it on standard error, for people or (`--json`) for programs.
    pub(crate) fn report(&self, json: bool) {
        if json {
            eprintln!("{}", self.json());
        } else {
            eprint!("{}", self.render(colour_wanted(&std::io::stderr())));
        }
    }
}

/// Whether escape sequences for colour may go to `stream`.
#[must_use]
pub(crate) fn colour_wanted(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether a person watches standard error, so that a progress bar is welcome.
#[must_use]
pub(crate) fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// What a command returns.
pub(crate) type Outcome = Result<Exit, CliError>;

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn sample() -> CliError {
        CliError::file(
            "cannot read the input file",
            "no.tsv".as_ref(),
            &std::io::ErrorKind::NotFound.into(),
        )
        .help("look\nagain")
    }

    #[test]
    fn people_get_a_sentence_a_cause_and_a_remedy() {
        expect![[r#"
            error[C1101]: cannot read the input file
              cause: no.tsv: entity not found
              help : look
                     again
        "#]]
        .assert_eq(&sample().render(false));
        assert!(sample().render(true).contains("\x1b[1;31m"));
    }

    #[test]
    fn programs_get_the_same_as_json() {
        assert_eq!(sample().json()["error"]["code"], "C1101");
        assert_eq!(sample().json()["error"]["exit"], 74);
    }

    #[test]
    fn codes_are_unique_and_explained() {
        for pair in code::ALL.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].0, pair[1].0);
        }
        assert!(
            code::ALL
                .iter()
                .all(|(_, name, text)| !name.is_empty() && text.ends_with('.'))
        );
    }
}
