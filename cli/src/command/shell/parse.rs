//! The shell's language: words, some of them quoted, and what they ask for. Pure.
//!
//! ```text
//!   put greeting "hello, \"world\"\n"
//!   scan user/*              every key that starts with `user/`
//!   get 'as it stands \n'    no escapes between single quotes
//! ```

use crate::bytes::{BadBytes, parse_escaped};

/// A command of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// Nothing was typed.
    Empty,
    Get {
        key: Vec<u8>,
    },
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Sets the key when it has no value.
    Add {
        key: Vec<u8>,
        delta: i64,
    },
    PutIfAbsent {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Sets the key when it has the expected value.
    Cas {
        key: Vec<u8>,
        expected: Vec<u8>,
        value: Vec<u8>,
    },
    Del {
        key: Vec<u8>,
    },
    /// Deletes all keys in a span.
    DelRange {
        start: Vec<u8>,
        end: Option<Vec<u8>>,
    },
    Scan {
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        reverse: bool,
        limit: u64,
    },
    Ranges,
    Split {
        key: Vec<u8>,
    },
    Move {
        range: u64,
        shard: u16,
    },
    Status,
    /// Switches the time after each answer on or off.
    Timing,
    /// Switches hexadecimal output on or off.
    Hex,
    Explain {
        code: String,
    },
    Help,
    Quit,
}

/// Name, arguments and meaning of each command, for help and completion.
pub(crate) const COMMANDS: &[(&str, &str, &str)] = &[
    ("get", "KEY", "print the value of a key"),
    ("put", "KEY VALUE", "set a key"),
    ("add", "KEY NUMBER", "add to the number that a key has"),
    ("putnew", "KEY VALUE", "set a key that has no value yet"),
    ("cas", "KEY OLD NEW", "set a key to NEW if its value is OLD"),
    ("del", "KEY", "delete a key"),
    (
        "delrange",
        "START [END] | PREFIX*",
        "delete every key from START up to, not including, END",
    ),
    (
        "scan",
        "[START [END] | PREFIX*] [limit N]",
        "list keys and values in order, 50 unless told",
    ),
    (
        "rscan",
        "[START [END] | PREFIX*] [limit N]",
        "the same from the last key backwards",
    ),
    ("ranges", "", "list the ranges and where they are"),
    ("split", "KEY", "split a range so that KEY starts a new one"),
    ("move", "RANGE SHARD", "move a range to another shard"),
    ("status", "", "how the node is"),
    ("timing", "", "switch the time after each answer on or off"),
    ("hex", "", "switch hexadecimal output on or off"),
    ("explain", "CODE", "what an error code means"),
    ("help", "", "this list"),
    ("quit", "", "leave; so does Ctrl-D"),
];

/// Rows that a scan of the shell shows unless told otherwise.
const SCAN_LIMIT: u64 = 50;

/// A word, and whether it was quoted: `"*"` is a key, `*` a wildcard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    bytes: Vec<u8>,
    quoted: bool,
}

/// Why a line is not a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError(pub(crate) String);

fn refuse<T>(why: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(why.into()))
}

/// Reads one line.
pub(crate) fn parse(line: &str) -> Result<Line, ParseError> {
    let mut words = words(line)?.into_iter();
    let Some(name) = words.next() else {
        return Ok(Line::Empty);
    };
    let name = String::from_utf8_lossy(&name.bytes).to_ascii_lowercase();
    let words: Vec<Word> = words.collect();
    let line = match (name.trim_start_matches('\\'), words.as_slice()) {
        ("get", [key]) => Line::Get {
            key: key.bytes.clone(),
        },
        ("put" | "set", [key, value]) => Line::Put {
            key: key.bytes.clone(),
            value: value.bytes.clone(),
        },
        ("add", [key, delta]) => Line::Add {
            key: key.bytes.clone(),
            delta: base::modification::parse(&delta.bytes)
                .or_else(|_| refuse("add wants a whole number, such as 5 or -5"))?,
        },
        ("putnew", [key, value]) => Line::PutIfAbsent {
            key: key.bytes.clone(),
            value: value.bytes.clone(),
        },
        ("cas", [key, old, new]) => Line::Cas {
            key: key.bytes.clone(),
            expected: old.bytes.clone(),
            value: new.bytes.clone(),
        },
        ("del" | "delete", [key]) => Line::Del {
            key: key.bytes.clone(),
        },
        ("delrange", [_, ..]) => {
            let (start, end) = span(&words)?;
            Line::DelRange { start, end }
        }
        ("scan" | "rscan", _) => scan(name.ends_with("rscan"), &words)?,
        ("ranges", []) => Line::Ranges,
        ("split", [key]) => Line::Split {
            key: key.bytes.clone(),
        },
        ("move", [range, shard]) => Line::Move {
            range: number(range, "r")?,
            shard: number(shard, "s")?,
        },
        ("status", []) => Line::Status,
        ("timing", []) => Line::Timing,
        ("hex", []) => Line::Hex,
        ("explain", [code]) => Line::Explain {
            code: String::from_utf8_lossy(&code.bytes).into_owned(),
        },
        ("help" | "?", []) => Line::Help,
        ("quit" | "exit" | "q", []) => Line::Quit,
        (other, _) => {
            return match COMMANDS.iter().find(|command| command.0 == other) {
                Some((name, arguments, _)) => refuse(format!("usage: {name} {arguments}")),
                None => refuse(format!("there is no command `{other}`; `help` lists them")),
            };
        }
    };
    Ok(line)
}

fn scan(reverse: bool, mut words: &[Word]) -> Result<Line, ParseError> {
    let mut limit = SCAN_LIMIT;
    if let [rest @ .., keyword, count] = words
        && !keyword.quoted
        && keyword.bytes.eq_ignore_ascii_case(b"limit")
    {
        limit = number(count, "")?;
        words = rest;
    }
    let (start, end) = span(words)?;
    Ok(Line::Scan {
        start,
        end,
        reverse,
        limit,
    })
}

/// `PREFIX*`, `START`, `START END` or nothing.
fn span(words: &[Word]) -> Result<(Vec<u8>, Option<Vec<u8>>), ParseError> {
    match words {
        [] => Ok((Vec::new(), None)),
        [Word { bytes, quoted: false }] if bytes.ends_with(b"*") => {
            let prefix = &bytes[..bytes.len() - 1];
            Ok((prefix.to_vec(), base::key::prefix_end(prefix)))
        }
        [start] => Ok((start.bytes.clone(), None)),
        [start, end] => Ok((start.bytes.clone(), Some(end.bytes.clone()))),
        _ => refuse("a span is PREFIX*, START, or START END"),
    }
}

fn number<T: std::str::FromStr>(word: &Word, prefix: &str) -> Result<T, ParseError> {
    let text = String::from_utf8_lossy(&word.bytes);
    let digits = text.strip_prefix(prefix).unwrap_or(&text);
    digits
        .parse()
        .map_err(|_| ParseError(format!("`{text}` is not a number here")))
}

/// Cuts a line into words at blanks; quotes hold a word together.
/// The words of a line, quotes and escapes taken away.
pub(crate) fn plain_words(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let words = words(line).map_err(|ParseError(why)| why)?;
    Ok(words.into_iter().map(|word| word.bytes).collect())
}

fn words(line: &str) -> Result<Vec<Word>, ParseError> {
    let bytes = line.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(&first) = bytes.get(at) {
        if first.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let quote = Some(first).filter(|&c| c == b'"' || c == b'\'');
        let start = at + usize::from(quote.is_some());
        let end = word_end(bytes, start, quote)?;
        let text = &bytes[start..end];
        // A single quote takes everything as it stands; a command like \timing keeps its backslash.
        let plain = quote == Some(b'\'') || (words.is_empty() && quote.is_none());
        let escaped = |BadBytes { what, at }| ParseError(format!("{what}, at column {}", start + at + 1));
        let bytes_of = if plain {
            text.to_vec()
        } else {
            parse_escaped(text).map_err(escaped)?
        };
        words.push(Word {
            bytes: bytes_of,
            quoted: quote.is_some(),
        });
        at = end + usize::from(quote.is_some());
        if bytes.get(at).is_some_and(|c| !c.is_ascii_whitespace()) {
            return refuse(format!(
                "a blank is missing behind the quote at column {}",
                at + 1
            ));
        }
    }
    Ok(words)
}

/// Where the word that starts at `start` ends: at a blank, or at its closing quote.
fn word_end(bytes: &[u8], start: usize, quote: Option<u8>) -> Result<usize, ParseError> {
    let mut at = start;
    loop {
        match (bytes.get(at), quote) {
            (None, None) => return Ok(at.min(bytes.len())),
            (None, Some(_)) => return refuse(format!("the quote at column {start} is never closed")),
            (Some(b'\\'), None | Some(b'"')) => at += 2,
            (Some(&c), Some(quote)) if c == quote => return Ok(at),
            (Some(c), None) if c.is_ascii_whitespace() => return Ok(at),
            (Some(_), _) => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(line: &str) -> String {
        parse(line).unwrap_err().0
    }

    #[test]
    fn words_may_be_quoted_and_escaped() {
        let put = |key: &str, value: &str| {
            Ok(Line::Put {
                key: key.into(),
                value: value.into(),
            })
        };
        assert_eq!(parse("put a b"), put("a", "b"));
        assert_eq!(parse(r#"  PUT  "a \"b\""  'c\n d' "#), put("a \"b\"", r"c\n d"));
        assert_eq!(parse(r"put a\ b \x41"), put("a b", "A"));
        assert_eq!(parse(""), Ok(Line::Empty));
        assert_eq!(parse(r#"put "" """#), put("", ""));
        assert_eq!(error("put 'a"), "the quote at column 5 is never closed");
        assert_eq!(
            error(r#"put "a"b c"#),
            "a blank is missing behind the quote at column 8"
        );
        assert_eq!(
            error(r"put a\q b"),
            "unknown escape (known: \\n \\t \\r \\0 \\\\ \\' \\\" \\xNN), at column 6"
        );
        assert!(parse("get a\\").is_err(), "a lone backslash");
    }

    #[test]
    fn spans_and_limits() {
        let scan = |start: &str, end: Option<&str>, limit| {
            Ok(Line::Scan {
                start: start.into(),
                end: end.map(Into::into),
                reverse: false,
                limit,
            })
        };
        assert_eq!(parse("scan"), scan("", None, 50));
        assert_eq!(parse("scan a*"), scan("a", Some("b"), 50));
        assert_eq!(
            parse("scan \"a*\""),
            scan("a*", None, 50),
            "a quoted star is a star"
        );
        assert_eq!(parse("scan a c limit 7"), scan("a", Some("c"), 7));
        assert_eq!(parse("scan limit 3"), scan("", None, 3));
        assert_eq!(error("scan a b c"), "a span is PREFIX*, START, or START END");
        assert_eq!(error("scan limit x"), "`x` is not a number here");
        assert!(matches!(parse("rscan *"), Ok(Line::Scan { reverse: true, .. })));
    }

    #[test]
    fn mistakes_are_answered_with_the_usage() {
        assert_eq!(error("put a"), "usage: put KEY VALUE");
        assert_eq!(error("fetch a"), "there is no command `fetch`; `help` lists them");
        assert_eq!(parse("move r12 s1"), Ok(Line::Move { range: 12, shard: 1 }));
        assert_eq!(parse("\\timing"), Ok(Line::Timing));
        assert_eq!(error("delrange"), "usage: delrange START [END] | PREFIX*");
    }

    #[test]
    fn every_listed_command_is_known() {
        for (name, _, _) in COMMANDS {
            if let Err(ParseError(why)) = parse(name) {
                assert!(why.starts_with("usage"), "{name}: {why}");
            }
        }
    }

    proptest! {
        #[test]
        fn shown_bytes_can_be_typed_again(key in proptest::collection::vec(any::<u8>(), 0..24)) {
            let typed = format!("get \"{}\"", crate::bytes::Show(&key).to_string().replace('"', "\\\""));
            prop_assert_eq!(parse(&typed), Ok(Line::Get { key }));
        }

        #[test]
        fn any_line_is_read_or_refused(line in ".{0,40}") {
            let _ = parse(&line);
        }
    }
}
