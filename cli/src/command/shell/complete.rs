//! What Tab offers: the names of commands, then keys that are in the store.

use super::parse::COMMANDS;
use crate::bytes::{Show, parse_escaped};
use crate::session::Session;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Result};
use std::rc::Rc;
use std::time::Duration;

/// Keys offered at once.
const KEYS_MAX: u64 = 50;
/// How long a person waits for Tab.
const PATIENCE: Duration = Duration::from_millis(500);

/// Completes lines of the shell.
pub(super) struct Helper {
    session: Rc<Session>,
}

impl Helper {
    pub(super) fn new(session: Rc<Session>) -> Self {
        Self { session }
    }

    /// Keys that start with `typed`, as they would be typed.
    fn keys(&self, typed: &str) -> Vec<String> {
        let Ok(prefix) = parse_escaped(typed.as_bytes()) else {
            return Vec::new();
        };
        let mut rows = self
            .session
            .db
            .scan(corelane::prefix(prefix))
            .limit(KEYS_MAX)
            .rows();
        let read = async {
            let mut keys = Vec::new();
            while let Ok(Some(row)) = rows.next().await {
                keys.push(typeable(&row.key));
            }
            Ok(keys)
        };
        // A node that does not answer offers nothing; the line can still be typed.
        let limited = async {
            let in_time = tokio::time::timeout(PATIENCE, read).await;
            in_time.unwrap_or_else(|_| Ok(Vec::new()))
        };
        self.session.run(limited).unwrap_or_default()
    }
}

/// A key as a bare word of the shell.
fn typeable(key: &[u8]) -> String {
    Show(key).to_string().replace(' ', "\\ ")
}

/// What of `line` is being typed: whether it is the command, and where its last word starts.
fn current_word(line: &str) -> (bool, usize) {
    let mut start = 0;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if c == ' ' && !escaped {
            start = at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    (line[..start].trim().is_empty(), start)
}

impl Completer for Helper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let line = &line[..pos];
        let (is_command, start) = current_word(line);
        let word = &line[start..];
        let found: Vec<String> = if is_command {
            COMMANDS
                .iter()
                .filter(|c| c.0.starts_with(word))
                .map(|c| format!("{} ", c.0))
                .collect()
        } else {
            self.keys(word)
        };
        Ok((
            start,
            found
                .into_iter()
                .map(|text| Pair {
                    display: text.clone(),
                    replacement: text,
                })
                .collect(),
        ))
    }
}

impl Hinter for Helper {
    type Hint = String;
}

impl Highlighter for Helper {}
impl Validator for Helper {}
impl rustyline::Helper for Helper {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_under_the_cursor() {
        assert_eq!(current_word("sca"), (true, 0));
        assert_eq!(current_word("get us"), (false, 4));
        assert_eq!(current_word(r"get a\ b"), (false, 4));
        assert_eq!(current_word(r"get a\\ b"), (false, 8));
        assert_eq!(current_word("  ge"), (true, 2));
    }

    #[test]
    fn offered_keys_can_be_read_back() {
        for key in [&b"a b"[..], b"\xff\n", b"\\"] {
            assert_eq!(parse_escaped(typeable(key).as_bytes()).unwrap(), key);
        }
    }
}
