//! A few rounds of faults on a cluster of real processes; `fault-rounds` runs hundreds.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use corelane_process::faketime::FakeTime;
use serde_json::Value;
use std::process::Command;

/// Runs rounds to their end. What they sum up to.
fn rounds(options: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fault-rounds"));
    command
        .args(["--corelane", env!("CARGO_BIN_EXE_process-node")])
        .args(options);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn clients_see_no_anomaly_while_nodes_fail() {
    let summary = rounds(&["--seed", "1", "--first", "1", "--rounds", "3"]);
    assert_eq!(
        (&summary["verdict"], &summary["rounds"]),
        (&"ok".into(), &3.into())
    );
    let faults = serde_json::json!({"kill": 1, "cut one": 1, "pause": 1});
    assert_eq!(summary["faults"], faults, "each was seen");
    assert!(summary["ok"].as_u64().unwrap() > 100, "{summary}");
}

#[test]
fn relays_do_where_there_are_no_namespaces() {
    let summary = rounds(&[
        "--seed",
        "1",
        "--rounds",
        "1",
        "--workloads",
        "bank",
        "--network",
        "relays",
    ]);
    assert_eq!(
        (&summary["verdict"], &summary["rounds"]),
        (&"ok".into(), &1.into())
    );
}

#[test]
fn a_node_whose_clock_is_wrong_stops_itself() {
    if FakeTime::find().is_none() {
        println!("libfaketime is not installed here");
        return;
    }
    let append = ["--seed", "1", "--rounds", "1", "--workloads", "append"];
    for (faults, kind) in [("clock", "clock"), ("clock-beyond", "clock beyond")] {
        let summary = rounds(&[&append[..], &["--faults", faults]].concat());
        assert_eq!(summary["verdict"], "ok", "{summary}");
        assert_eq!(summary["faults"], serde_json::json!({ kind: 1 }), "each was seen");
    }
}
