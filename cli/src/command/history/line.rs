//! Operations and their ends as Jepsen operation maps, one line of EDN each.

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
    /// Read a list.
    ReadList { key: u32 },
    /// Add an element to the end of a list.
    Append { key: u32, element: u64 },
    /// Read all balances.
    ReadAll,
    /// Move money between accounts.
    Transfer { from: u32, to: u32, amount: u64 },
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was asked for.
    Nothing,
    /// The value of a register, if it has one.
    Value(Option<u64>),
    /// The elements of a list.
    List(Vec<u64>),
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

impl Op {
    fn function(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::ReadAll => "read",
            Self::Write { .. } => "write",
            Self::Cas { .. } => "cas",
            Self::ReadList { .. } | Self::Append { .. } => "txn",
            Self::Transfer { .. } => "transfer",
        }
    }

    fn value(&self, found: &Found) -> String {
        match (self, found) {
            (Self::Read { key }, Found::Value(Some(value))) => format!("[{key} {value}]"),
            (Self::Read { key }, _) => format!("[{key} nil]"),
            (Self::Write { key, value }, _) => format!("[{key} {value}]"),
            (Self::Cas { key, old, new }, _) => format!("[{key} [{old} {new}]]"),
            (Self::ReadList { key }, Found::List(list)) => {
                let elements: Vec<_> = list.iter().map(u64::to_string).collect();
                format!("[[:r {key} [{}]]]", elements.join(" "))
            }
            (Self::ReadList { key }, _) => format!("[[:r {key} nil]]"),
            (Self::Append { key, element }, _) => format!("[[:append {key} {element}]]"),
            (Self::ReadAll, Found::Balances(balances)) => {
                let entries: Vec<_> = balances
                    .iter()
                    .map(|(account, balance)| format!("{account} {balance}"))
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }
            (Self::ReadAll, _) => "nil".to_owned(),
            (Self::Transfer { from, to, amount }, _) => {
                format!("{{:from {from}, :to {to}, :amount {amount}}}")
            }
        }
    }
}

/// Text as an EDN string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
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
    lines: u64,
    counts: Counts,
    succeeded_ns: u64,
}

impl<W: Write> Recorder<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            lines: 0,
            counts: Counts::default(),
            succeeded_ns: 0,
        }
    }

    pub(crate) fn invoke(&mut self, process: u64, op: &Op, time_ns: u64) -> io::Result<()> {
        self.counts.begun += 1;
        self.line("invoke", process, op, &Found::Nothing, None, time_ns)
    }

    pub(crate) fn end(&mut self, process: u64, op: &Op, end: &End, time_ns: u64) -> io::Result<()> {
        let gap = time_ns.saturating_sub(self.succeeded_ns);
        self.counts.gap_ns_max = self.counts.gap_ns_max.max(gap);
        match end {
            End::Ok(found) => {
                self.counts.ok += 1;
                self.succeeded_ns = time_ns;
                self.line("ok", process, op, found, None, time_ns)
            }
            End::Fail(why) => {
                self.counts.fail += 1;
                self.line("fail", process, op, &Found::Nothing, Some(why), time_ns)
            }
            End::Info(why) => {
                self.counts.info += 1;
                self.line("info", process, op, &Found::Nothing, Some(why), time_ns)
            }
        }
    }

    fn line(
        &mut self,
        kind: &str,
        process: u64,
        op: &Op,
        found: &Found,
        error: Option<&str>,
        time_ns: u64,
    ) -> io::Result<()> {
        let mut line = format!(
            "{{:index {}, :type :{kind}, :process {process}, :f :{}, :value {}, :time {time_ns}",
            self.lines,
            op.function(),
            op.value(found),
        );
        if let Some(error) = error {
            // Writing to a string does not fail.
            let _ = write!(line, ", :error {}", quoted(error));
        }
        line.push_str("}\n");
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

    #[test]
    fn lines_are_operation_maps() {
        let mut out = Vec::new();
        let mut recorder = Recorder::new(&mut out);
        let ends = [
            (Op::Write { key: 5, value: 3 }, End::Ok(Found::Nothing)),
            (Op::Read { key: 5 }, End::Ok(Found::Value(Some(3)))),
            (Op::Read { key: 6 }, End::Ok(Found::Value(None))),
            (
                Op::Cas {
                    key: 5,
                    old: 3,
                    new: 4,
                },
                End::Fail("has \"7\"\n".to_owned()),
            ),
            (Op::Append { key: 1, element: 9 }, End::Info("lost".to_owned())),
            (Op::ReadList { key: 1 }, End::Ok(Found::List(vec![8, 9]))),
            (
                Op::Transfer {
                    from: 1,
                    to: 2,
                    amount: 3,
                },
                End::Ok(Found::Nothing),
            ),
            (Op::ReadAll, End::Ok(Found::Balances(vec![(0, 7), (1, 13)]))),
        ];
        for (at, (op, end)) in (0..).zip(&ends) {
            recorder.invoke(at, op, at * 10).unwrap();
            recorder.end(at, op, end, at * 10 + 5).unwrap();
        }
        let counts = recorder.finish().unwrap();
        assert_eq!((counts.begun, counts.ok, counts.fail, counts.info), (8, 6, 1, 1));
        assert_eq!(counts.gap_ns_max, 30, "from 25 to 55");
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
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
                "{:index 9, :type :info, :process 4, :f :txn, :value [[:append 1 9]], :time 45, :error \"lost\"}",
            ),
            (
                11,
                "{:index 11, :type :ok, :process 5, :f :txn, :value [[:r 1 [8 9]]], :time 55}",
            ),
            (
                13,
                "{:index 13, :type :ok, :process 6, :f :transfer, :value {:from 1, :to 2, :amount 3}, :time 65}",
            ),
            (
                15,
                "{:index 15, :type :ok, :process 7, :f :read, :value {0 7, 1 13}, :time 75}",
            ),
        ] {
            assert_eq!(lines[at], line);
        }
    }
}
