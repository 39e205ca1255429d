//! Operations and their ends as Jepsen operation maps, one line of EDN or JSON each.

use std::fmt::Write as _;
use std::io::{self, Write};

/// What a client is about to do. Keys and accounts are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Read a register.
    Read { key: u32 },
    /// Set a register.
    Write { key: u32, value: u64 },
    /// Set a register that has the value `old`.
    Cas { key: u32, old: u64, new: u64 },
    /// Read lists and append to them, all at once.
    Txn(Vec<Micro>),
    /// Read all balances.
    ReadAll,
    /// Move money between accounts.
    Transfer { from: u32, to: u32, amount: u64 },
}

/// A step of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Micro {
    /// Read a list.
    Read { key: u32 },
    /// Add an element to the end of a list.
    Append { key: u32, element: u64 },
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was asked for.
    Nothing,
    /// The value of a register, if it has one.
    Value(Option<u64>),
    /// The elements of lists, of each read in turn.
    Lists(Vec<Vec<u64>>),
    /// Account and balance.
    Balances(Vec<(u32, u64)>),
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It happened.
    Ok(Found),
    /// It did not happen.
    Fail(String),
    /// It may have happened, or may yet.
    Info(String),
}

/// How lines are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One EDN map a line.
    Edn,
    /// One JSON object a line, keywords as strings.
    Json,
}

/// What is written, in either format.
enum Value {
    Nil,
    Int(u64),
    /// A keyword.
    Word(&'static str),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

fn int(number: u32) -> Value {
    Value::Int(u64::from(number))
}

fn ints(numbers: &[u64]) -> Value {
    Value::List(numbers.iter().copied().map(Value::Int).collect())
}

impl Op {
    /// Whether it changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        match self {
            Self::Read { .. } | Self::ReadAll => true,
            Self::Txn(micros) => micros.iter().all(|micro| matches!(micro, Micro::Read { .. })),
            Self::Write { .. } | Self::Cas { .. } | Self::Transfer { .. } => false,
        }
    }

    fn function(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::ReadAll => "read",
            Self::Write { .. } => "write",
            Self::Cas { .. } => "cas",
            Self::Txn(_) => "txn",
            Self::Transfer { .. } => "transfer",
        }
    }

    fn value(&self, found: &Found) -> Value {
        match (self, found) {
            (Self::Read { key }, Found::Value(Some(value))) => {
                Value::List(vec![int(*key), Value::Int(*value)])
            }
            (Self::Read { key }, _) => Value::List(vec![int(*key), Value::Nil]),
            (Self::Write { key, value }, _) => Value::List(vec![int(*key), Value::Int(*value)]),
            (Self::Cas { key, old, new }, _) => Value::List(vec![int(*key), ints(&[*old, *new])]),
            (Self::Txn(micros), found) => {
                let mut lists = match found {
                    Found::Lists(lists) => lists.iter(),
                    _ => [].iter(),
                };
                let step = |micro: &Micro| match micro {
                    Micro::Read { key } => {
                        let list = lists.next().map_or(Value::Nil, |list| ints(list));
                        Value::List(vec![Value::Word("r"), int(*key), list])
                    }
                    Micro::Append { key, element } => {
                        Value::List(vec![Value::Word("append"), int(*key), Value::Int(*element)])
                    }
                };
                Value::List(micros.iter().map(step).collect())
            }
            (Self::ReadAll, Found::Balances(balances)) => {
                let entry = |(account, balance): &(u32, u64)| (int(*account), Value::Int(*balance));
                Value::Map(balances.iter().map(entry).collect())
            }
            (Self::ReadAll, _) => Value::Nil,
            (Self::Transfer { from, to, amount }, _) => Value::Map(vec![
                (Value::Word("from"), int(*from)),
                (Value::Word("to"), int(*to)),
                (Value::Word("amount"), Value::Int(*amount)),
            ]),
        }
    }
}

impl Value {
    fn write(&self, format: Format, out: &mut String) {
        match (self, format) {
            (Self::Nil, Format::Edn) => out.push_str("nil"),
            (Self::Nil, Format::Json) => out.push_str("null"),
            // Writing to a string does not fail.
            (Self::Int(number), _) => drop(write!(out, "{number}")),
            (Self::Word(word), Format::Edn) => drop(write!(out, ":{word}")),
            (Self::Word(word), Format::Json) => quote(word, out),
            (Self::Text(text), _) => quote(text, out),
            (Self::List(values), _) => {
                out.push('[');
                for (at, value) in values.iter().enumerate() {
                    match format {
                        Format::Edn if at > 0 => out.push(' '),
                        Format::Json if at > 0 => out.push(','),
                        Format::Edn | Format::Json => {}
                    }
                    value.write(format, out);
                }
                out.push(']');
            }
            (Self::Map(entries), _) => {
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if at > 0 { ", " } else { "" });
                    match (format, key) {
                        // Every name is a string there.
                        (Format::Json, Self::Int(number)) => quote(&number.to_string(), out),
                        _ => key.write(format, out),
                    }
                    out.push_str(if format == Format::Json { ": " } else { " " });
                    value.write(format, out);
                }
                out.push('}');
            }
        }
    }
}

/// Text as a string of both formats.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// How many operations ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) begun: u64,
    pub(crate) ok: u64,
    pub(crate) fail: u64,
    pub(crate) info: u64,
    /// The longest time without a success, the start and the last end included.
    pub(crate) gap_ns_max: u64,
}

/// Writes lines and counts them. Times are nanoseconds since the start and do not fall.
pub(crate) struct Recorder<W: Write> {
    out: W,
    format: Format,
    lines: u64,
    counts: Counts,
    succeeded_ns: u64,
}

/// Whose operation it is, and what it is promised, if it is a transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By {
    pub(crate) process: u64,
    pub(crate) isolation: Option<&'static str>,
}

impl<W: Write> Recorder<W> {
    pub(crate) fn new(out: W, format: Format) -> Self {
        Self {
            out,
            format,
            lines: 0,
            counts: Counts::default(),
            succeeded_ns: 0,
        }
    }

    pub(crate) fn invoke(&mut self, by: By, op: &Op, time_ns: u64) -> io::Result<()> {
        self.counts.begun += 1;
        self.line("invoke", by, op, (&Found::Nothing, None), time_ns)
    }

    pub(crate) fn end(&mut self, by: By, op: &Op, end: &End, time_ns: u64) -> io::Result<()> {
        let gap = time_ns.saturating_sub(self.succeeded_ns);
        self.counts.gap_ns_max = self.counts.gap_ns_max.max(gap);
        match end {
            End::Ok(found) => {
                self.counts.ok += 1;
                self.succeeded_ns = time_ns;
                self.line("ok", by, op, (found, None), time_ns)
            }
            End::Fail(why) => {
                self.counts.fail += 1;
                self.line("fail", by, op, (&Found::Nothing, Some(why)), time_ns)
            }
            End::Info(why) => {
                self.counts.info += 1;
                self.line("info", by, op, (&Found::Nothing, Some(why)), time_ns)
            }
        }
    }

    fn line(
        &mut self,
        kind: &'static str,
        by: By,
        op: &Op,
        (found, error): (&Found, Option<&str>),
        time_ns: u64,
    ) -> io::Result<()> {
        let mut fields = vec![
            ("index", Value::Int(self.lines)),
            ("type", Value::Word(kind)),
            ("process", Value::Int(by.process)),
            ("f", Value::Word(op.function())),
            ("value", op.value(found)),
            ("time", Value::Int(time_ns)),
        ];
        let isolation = by
            .isolation
            .map(|isolation| ("isolation", Value::Word(isolation)));
        let error = error.map(|error| ("error", Value::Text(error.to_owned())));
        fields.extend(isolation.into_iter().chain(error));
        let mut line = String::new();
        let entries = fields.into_iter().map(|(name, value)| (Value::Word(name), value));
        Value::Map(entries.collect()).write(self.format, &mut line);
        line.push('\n');
        self.lines += 1;
        self.out.write_all(line.as_bytes())
    }

    /// Makes everything written visible.
    pub(crate) fn finish(&mut self) -> io::Result<Counts> {
        self.out.flush()?;
        Ok(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(format: Format) -> Vec<String> {
        let mut out = Vec::new();
        let mut recorder = Recorder::new(&mut out, format);
        let transfer = Op::Transfer {
            from: 1,
            to: 2,
            amount: 3,
        };
        let swap = Op::Cas {
            key: 5,
            old: 3,
            new: 4,
        };
        let append = Micro::Append { key: 1, element: 9 };
        let micros = vec![Micro::Read { key: 1 }, append, Micro::Read { key: 2 }];
        let ends = [
            (Op::Write { key: 5, value: 3 }, End::Ok(Found::Nothing)),
            (Op::Read { key: 5 }, End::Ok(Found::Value(Some(3)))),
            (Op::Read { key: 6 }, End::Ok(Found::Value(None))),
            (swap, End::Fail("has \"7\"\n".to_owned())),
            (Op::Txn(vec![append]), End::Info("lost".to_owned())),
            (
                Op::Txn(micros),
                End::Ok(Found::Lists(vec![vec![8, 9], Vec::new()])),
            ),
            (transfer, End::Ok(Found::Nothing)),
            (Op::ReadAll, End::Ok(Found::Balances(vec![(0, 7), (1, 13)]))),
        ];
        for (at, (op, end)) in (0..).zip(&ends) {
            let by = By {
                process: at,
                isolation: (at >= 4).then_some("strict"),
            };
            recorder.invoke(by, op, at * 10).unwrap();
            recorder.end(by, op, end, at * 10 + 5).unwrap();
        }
        let counts = recorder.finish().unwrap();
        assert_eq!((counts.begun, counts.ok, counts.fail, counts.info), (8, 6, 1, 1));
        assert_eq!(counts.gap_ns_max, 30, "from 25 to 55");
        let text = String::from_utf8(out).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_operation_maps() {
        let lines = lines(Format::Edn);
        for (at, line) in [
            (
                0,
                "{:index 0, :type :invoke, :process 0, :f :write, :value [5 3], :time 0}",
            ),
            (
                2,
                "{:index 2, :type :invoke, :process 1, :f :read, :value [5 nil], :time 10}",
            ),
            (
                3,
                "{:index 3, :type :ok, :process 1, :f :read, :value [5 3], :time 15}",
            ),
            (
                7,
                "{:index 7, :type :fail, :process 3, :f :cas, :value [5 [3 4]], :time 35, :error \"has \\\"7\\\" \"}",
            ),
            (
                9,
                "{:index 9, :type :info, :process 4, :f :txn, :value [[:append 1 9]], :time 45, :isolation :strict, \
                 :error \"lost\"}",
            ),
            (
                10,
                "{:index 10, :type :invoke, :process 5, :f :txn, :value [[:r 1 nil] [:append 1 9] [:r 2 nil]], :time 50, \
                 :isolation :strict}",
            ),
            (
                11,
                "{:index 11, :type :ok, :process 5, :f :txn, :value [[:r 1 [8 9]] [:append 1 9] [:r 2 []]], :time 55, \
                 :isolation :strict}",
            ),
            (
                13,
                "{:index 13, :type :ok, :process 6, :f :transfer, :value {:from 1, :to 2, :amount 3}, :time 65, \
                 :isolation :strict}",
            ),
            (
                15,
                "{:index 15, :type :ok, :process 7, :f :read, :value {0 7, 1 13}, :time 75, :isolation :strict}",
            ),
        ] {
            assert_eq!(lines[at], line);
        }
    }

    #[test]
    fn lines_are_json_too() {
        let lines = lines(Format::Json);
        let parsed: Vec<serde_json::Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let expected = serde_json::json!({
            "index": 11, "time": 55, "process": 5, "type": "ok", "f": "txn", "isolation": "strict",
            "value": [["r", 1, [8, 9]], ["append", 1, 9], ["r", 2, []]],
        });
        assert_eq!(parsed[11], expected);
        assert_eq!(parsed[10]["value"][0], serde_json::json!(["r", 1, null]));
        assert_eq!(parsed[7]["error"], "has \"7\" ");
        assert_eq!(parsed[15]["value"], serde_json::json!({"0": 7, "1": 13}));
    }
}
