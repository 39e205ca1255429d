//! How nodes and bank are shown: text for people, JSON for programs. Pure.

use crate::command::demo::ledger::{Fault, Second};
use crate::command::demo::nodes::State;
use crate::command::demo::watch::Seen;
use crate::output::{Object, grouped, table};
use base::NodeId;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// A node.
#[derive(Debug)]
pub(crate) struct NodeView {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) state: State,
    /// `None`: it says nothing.
    pub(crate) seen: Option<Seen>,
}

/// The bank.
#[derive(Debug, Default)]
pub(crate) struct BankView {
    pub(crate) expected: u64,
    /// How long ago all accounts were read, and had that.
    pub(crate) audited: Option<Duration>,
    pub(crate) audits: u64,
    pub(crate) transfers: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    pub(crate) conflicts: u64,
    pub(crate) second: Second,
    /// How long no transfer has succeeded, now and at most.
    pub(crate) gap: Duration,
    pub(crate) longest: Duration,
    pub(crate) faults: Vec<Fault>,
    pub(crate) error: Option<String>,
}

/// A gap that people notice.
const GAP_SHOWN: Duration = Duration::from_millis(500);

/// The nodes: one line each, and what is cut.
pub(crate) fn nodes_text(nodes: &[NodeView], cuts: &[(NodeId, NodeId)]) -> String {
    let row = |node: &NodeView| {
        let seen = node.seen.as_ref().filter(|_| node.state == State::Up);
        let leads = |seen: &Seen| format!("{} of {}", seen.leads, seen.replicas);
        let supporters = |seen: &Seen| {
            let ids: Vec<_> = seen.supported_by.iter().map(u64::to_string).collect();
            if ids.is_empty() {
                "nobody".to_owned()
            } else {
                ids.join(" ")
            }
        };
        vec![
            node.id.0.to_string(),
            node.address.to_string(),
            word(node).to_owned(),
            seen.map_or_else(|| "-".to_owned(), leads),
            seen.map_or_else(|| "-".to_owned(), supporters),
        ]
    };
    let header = ["node", "address", "state", "leads", "supported by"];
    let text = table(&header, nodes.iter().map(row)).to_string();
    let mut out = String::new();
    for line in text.lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
    for node in nodes {
        if let State::Ended(status) = node.state {
            let id = node.id.0;
            let _ = writeln!(
                out,
                "node {id} has ended by itself ({status}): see node-{id}.log in the data"
            );
        }
    }
    for node in nodes {
        let seen = node.seen.as_ref().filter(|seen| seen.disk != "ok");
        if let Some(seen) = seen {
            let _ = writeln!(out, "node {}: its disk is {}", node.id.0, seen.disk);
        }
    }
    for (one, other) in cuts {
        let _ = writeln!(out, "cut: {} and {} do not hear each other", one.0, other.0);
    }
    out.truncate(out.trim_end().len());
    out
}

fn word(node: &NodeView) -> &'static str {
    match node.state {
        State::Up if node.seen.is_none() => "silent",
        state => state.word(),
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// The bank in one line.
pub(crate) fn bank_line(bank: &BankView) -> String {
    bank_lines(bank).join("; ")
}

/// The bank in two lines, which fit a terminal of 80 columns.
pub(crate) fn bank_lines(bank: &BankView) -> [String; 2] {
    let total = match bank.audited {
        Some(ago) if ago < Duration::from_secs(3) => {
            format!("total {}, as it must be", grouped(bank.expected))
        }
        Some(ago) => format!("total {} {} ago", grouped(bank.expected), seconds(ago)),
        None => "total not read yet".to_owned(),
    };
    let now = if bank.gap >= GAP_SHOWN {
        format!("no transfer for {}", seconds(bank.gap))
    } else {
        format!(
            "{} transfers/s, p50 {}, p99 {}",
            grouped(bank.second.transfers),
            ms(bank.second.p50),
            ms(bank.second.p99)
        )
    };
    [
        format!("bank: {total}; longest gap {}", seconds(bank.longest)),
        now,
    ]
}

/// The bank, with all that is known of it.
pub(crate) fn bank_text(bank: &BankView) -> String {
    let mut out = bank_line(bank);
    let _ = write!(
        out,
        "\n  {} transfers, {} failed, {} of unknown outcome, {} conflicts; {} audits",
        grouped(bank.transfers),
        grouped(bank.failed),
        grouped(bank.unknown),
        grouped(bank.conflicts),
        grouped(bank.audits)
    );
    for fault in &bank.faults {
        let _ = write!(out, "\n  {:<12} longest gap {}", fault.what, seconds(fault.gap));
    }
    if let Some(error) = bank.error.as_ref().filter(|_| bank.gap >= GAP_SHOWN) {
        let _ = write!(out, "\n  last error: {error}");
    }
    out
}

fn ms_value(time: Duration) -> Value {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

/// The nodes for programs.
pub(crate) fn nodes_json(nodes: &[NodeView], cuts: &[(NodeId, NodeId)]) -> Value {
    let node = |node: &NodeView| {
        let mut object = Object::new()
            .set("node", node.id.0)
            .set("address", node.address.to_string())
            .set("state", word(node));
        if let Some(seen) = &node.seen {
            object = object
                .set("leads", seen.leads)
                .set("replicas", seen.replicas)
                .set("supported_by", seen.supported_by.clone())
                .set("verdict", seen.verdict.clone())
                .set("disk", seen.disk.clone());
        }
        object.build()
    };
    let cuts: Vec<Value> = cuts
        .iter()
        .map(|(one, other)| vec![one.0, other.0].into())
        .collect();
    Object::new()
        .set("nodes", nodes.iter().map(node).collect::<Vec<_>>())
        .set("cut", cuts)
        .build()
}

/// The bank for programs.
pub(crate) fn bank_json(bank: &BankView) -> Value {
    let fault = |fault: &Fault| {
        Object::new()
            .set("command", fault.what.clone())
            .set("gap_ms", ms_value(fault.gap))
            .build()
    };
    Object::new()
        .set("total", bank.expected)
        .set("audits", bank.audits)
        .set("audited_ms_ago", bank.audited.map(ms_value))
        .set("transfers", bank.transfers)
        .set("failed", bank.failed)
        .set("unknown", bank.unknown)
        .set("conflicts", bank.conflicts)
        .set("transfers_per_second", bank.second.transfers)
        .set("gap_ms", ms_value(bank.gap))
        .set("gap_ms_max", ms_value(bank.longest))
        .set("faults", bank.faults.iter().map(fault).collect::<Vec<_>>())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn nodes_and_bank_read_well() {
        let node = |id: u64, state, seen| NodeView {
            id: NodeId(id),
            address: SocketAddr::from(([127, 0, 0, 1], 7300 + 100 * u16::try_from(id).unwrap())),
            state,
            seen,
        };
        let seen = |leads, supported_by: &[u64]| {
            Some(Seen {
                leads,
                replicas: 1,
                supported_by: supported_by.to_vec(),
                verdict: "ok".to_owned(),
                disk: if leads > 0 { "slow" } else { "ok" }.to_owned(),
            })
        };
        let nodes = [
            node(1, State::Up, seen(1, &[3])),
            node(2, State::Killed, seen(0, &[1, 3])),
            node(3, State::Up, seen(0, &[])),
            node(4, State::Up, None),
        ];
        expect![[r#"
            node  address         state   leads   supported by
            1     127.0.0.1:7400  up      1 of 1  3
            2     127.0.0.1:7500  killed  -       -
            3     127.0.0.1:7600  up      0 of 1  nobody
            4     127.0.0.1:7700  silent  -       -
            node 1: its disk is slow
            cut: 1 and 3 do not hear each other"#]]
        .assert_eq(&nodes_text(&nodes, &[(NodeId(1), NodeId(3))]));
        let mut bank = BankView {
            expected: 100_000,
            audited: Some(Duration::from_millis(300)),
            audits: 17,
            transfers: 12_345,
            failed: 2,
            second: Second {
                transfers: 812,
                p50: Duration::from_micros(3_210),
                p99: Duration::from_millis(9),
            },
            longest: Duration::from_millis(1_840),
            faults: vec![Fault {
                what: "kill 2".to_owned(),
                gap: Duration::from_millis(1_840),
            }],
            error: Some("no answer".to_owned()),
            ..BankView::default()
        };
        expect![[r#"
            bank: total 100,000, as it must be; longest gap 1.84 s; 812 transfers/s, p50 3.2 ms, p99 9.0 ms
              12,345 transfers, 2 failed, 0 of unknown outcome, 0 conflicts; 17 audits
              kill 2       longest gap 1.84 s"#]]
        .assert_eq(&bank_text(&bank));
        bank.gap = Duration::from_millis(700);
        bank.audited = Some(Duration::from_secs(4));
        expect![[r#"
            bank: total 100,000 4.00 s ago; longest gap 1.84 s; no transfer for 0.70 s
              12,345 transfers, 2 failed, 0 of unknown outcome, 0 conflicts; 17 audits
              kill 2       longest gap 1.84 s
              last error: no answer"#]]
        .assert_eq(&bank_text(&bank));
    }
}
