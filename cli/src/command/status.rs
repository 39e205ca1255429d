//! `corelane status`: one verdict, then the figures.

use crate::args::Global;
use crate::error::{Exit, Outcome};
use crate::output::{grouped, print, table};
use crate::session::Session;
use clap::Args;
use serde_json::Value;
use std::fmt::Write as _;

/// What `--help` says below the options.
pub(crate) const HELP: &str = "\
Examples:
  corelane status
  corelane status --json
  corelane status --replicas     with a checksum of each replica, to compare between nodes

\"conflicts\" are those since the start of the node, most frequent prefixes of keys first: requests that met an unfinished write of
a transaction (they wait, and try again), and those of transactions that another one had overtaken (they run again).";

/// How the node is: one verdict, then the figures.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Also list each replica of the node with checksums of what it has; reads all its data
    #[arg(long)]
    replicas: bool,
}

pub(crate) fn run(global: &Global, args: &StatusArgs) -> Outcome {
    let session = Session::open(global)?;
    let text = if args.replicas {
        session.wait(session.db.status_with_replicas())?
    } else {
        session.wait(session.db.status())?
    };
    let status: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    print(global, render(&session.address, &status), &status)?;
    Ok(Exit::Ok)
}

/// The status for people: the verdict and what to do, what is simple, then each group, then tables.
pub(crate) fn render(address: &str, status: &Value) -> String {
    let Value::Object(fields) = status else {
        return format!("The node at {address} is available.\n{}", plain(status));
    };
    let verdict = match fields.get("verdict").and_then(Value::as_str) {
        None | Some("ok") => "is available".to_owned(),
        Some(verdict) => format!("needs attention: {verdict}"),
    };
    let mut out = format!("The node at {address} {verdict}.");
    if let Some(advice) = fields.get("advice").and_then(Value::as_str) {
        let _ = write!(out, "\n  help: {advice}");
    }
    out.push('\n');
    // What is simple first.
    let (groups, simple): (Vec<_>, Vec<_>) = fields
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "verdict" | "advice"))
        .partition(|(_, value)| value.is_object() || value.is_array());
    for (name, value) in simple.into_iter().chain(groups) {
        match value {
            Value::Object(_) => {
                let _ = write!(
                    out,
                    "\n\n{}\n{}",
                    spoken(name),
                    columns(std::slice::from_ref(value))
                );
            }
            Value::Array(rows) if name == "nodes" && !rows.is_empty() => {
                let _ = write!(out, "\n\nother nodes\n{}", members(rows));
            }
            Value::Array(rows) if name == "conflicts" && !rows.is_empty() => {
                let _ = write!(out, "\n\nconflicts by prefix of the keys\n{}", conflicts(rows));
            }
            Value::Array(rows) if name == "replicas" && !rows.is_empty() => {
                let _ = write!(out, "\n\nreplicas here\n{}", replicas(rows));
            }
            Value::Array(rows) if !rows.is_empty() && rows.iter().all(Value::is_object) => {
                let _ = write!(out, "\n\n{}\n{}", spoken(name), columns(rows));
            }
            // Identifiers are not counts: no separators.
            Value::Number(number) => {
                let _ = write!(out, "\n{:<24} {number}", spoken(name));
            }
            Value::Array(_) | Value::Null | Value::Bool(_) | Value::String(_) => {
                let _ = write!(out, "\n{:<24} {}", spoken(name), plain(value));
            }
        }
    }
    out
}

/// The other nodes of the cluster, one line each: their refusals are sentences.
fn members(rows: &[Value]) -> String {
    let row = |member: &Value| {
        let text = |name: &str| plain(&member[name]);
        vec![
            format!("  {}", text("node")),
            text("address"),
            text("answers"),
            text("supported_by_shards"),
            text("supports_shards"),
            text("speaks"),
            text("refusal"),
        ]
    };
    let header = [
        "  node",
        "address",
        "answers",
        "supported by us",
        "supports us",
        "speaks",
        "refuses",
    ];
    let text = table(&header, rows.iter().map(row)).to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// Where requests were in each other's way, one line for each prefix.
fn conflicts(rows: &[Value]) -> String {
    let row = |conflict: &Value| {
        let text = |name: &str| plain(&conflict[name]);
        let prefix = conflict["prefix"].as_str().unwrap_or_default();
        vec![
            format!("  {prefix}…"),
            text("met"),
            text("overtaken"),
            text("uncertain"),
        ]
    };
    let header = ["  keys", "met unfinished writes", "were too late", "or more by"];
    let text = table(&header, rows.iter().map(row)).to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// The replicas of the node, one line each. Checksums are no counts.
fn replicas(rows: &[Value]) -> String {
    let row = |replica: &Value| {
        let sum = |name: &str| match replica[name].as_u64() {
            Some(sum) => format!("{sum:08x}"),
            None => "-".to_owned(),
        };
        let nodes = |name: &str| {
            let nodes = replica[name].as_array().into_iter().flatten().map(plain);
            nodes.collect::<Vec<_>>().join(",")
        };
        vec![
            format!("  r{}", replica["range"]),
            plain(&replica["leads"]),
            nodes("voters"),
            nodes("learners"),
            plain(&replica["applied"]),
            sum("log"),
            sum("sessions"),
            sum("content"),
        ]
    };
    let header = [
        "  range", "leads", "voters", "learners", "applied", "log", "sessions", "content",
    ];
    let text = table(&header, rows.iter().map(row)).to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// Objects with the same fields side by side: one row per field, one column per object. Fields of a nested object get its
/// name before their own.
fn columns(rows: &[Value]) -> String {
    let rows: Vec<Vec<(String, String)>> = rows.iter().map(flattened).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut out = String::new();
    for name in names {
        let _ = write!(out, "  {name:<26}");
        for row in &rows {
            let value = row
                .iter()
                .find(|(other, _)| other == name)
                .map_or("-", |(_, value)| value);
            let _ = write!(out, " {value:>14}");
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out
}

/// The fields of an object and of the objects in it, simple ones first.
fn flattened(object: &Value) -> Vec<(String, String)> {
    let fields = || object.as_object().into_iter().flatten();
    let simple = fields()
        .filter(|(_, value)| !value.is_object())
        .map(|(name, value)| (spoken(name), plain(value)));
    let nested = fields()
        .filter(|(_, value)| value.is_object())
        .flat_map(|(group, value)| {
            let named = move |(name, value): (String, String)| (format!("{} {name}", spoken(group)), value);
            flattened(value).into_iter().map(named)
        });
    simple.chain(nested).collect()
}

fn spoken(name: &str) -> String {
    name.replace('_', " ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), grouped),
        Value::String(text) => crate::bytes::Show(text.as_bytes()).to_string(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn any_status_becomes_readable() {
        let status = serde_json::json!({
            "verdict": "1 range is damaged", "advice": "run `corelane check`", "version": "0.1.0", "node": 12345,
            "conflicts": [{"prefix": "stock/", "met": 1200, "overtaken": 7, "uncertain": 0}],
            "shards": [{"shard": 0, "log": {"entries": 4_321, "bytes": 5}}, {"shard": 1, "log": {"entries": 3}, "odd": true}],
        });
        expect![[r#"
            The node at here needs attention: 1 range is damaged.
              help: run `corelane check`

            node                     12345
            version                  0.1.0

            conflicts by prefix of the keys
              keys     met unfinished writes  were too late  or more by
              stock/…  1,200                  7              0

            shards
              shard                                   0              1
              log bytes                               5              -
              log entries                         4,321              3
              odd                                     -            yes"#]]
        .assert_eq(&render("here", &status));
        assert!(render("here", &Value::from("?")).ends_with('?'));
    }
}
