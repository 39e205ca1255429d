//! A few cycles of a campaign; `kill-loop` runs hundreds.

use corelane_process::campaign::Campaign;
use corelane_process::process::Program;

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let scratch = tempfile::Builder::new()
        .prefix("corelane-process-")
        .tempdir()
        .unwrap();
    let options = ["--memory", "1MiB", "--log-max", "2MiB"];
    let campaign = Campaign {
        program: Program {
            binary: env!("CARGO_BIN_EXE_process-node").into(),
            data: scratch.path().join("data"),
            listen: "127.0.0.1:0".to_owned(),
            options: options.map(str::to_owned).to_vec(),
        },
        seed: 7,
        cycles: 6,
        writers: 4,
        load_ms: (50, 600),
        ranges_max: Some(8),
        shards_max: 2,
        shards_every: 3,
        check_every: 3,
        early_kill_every: 2,
    };
    let summary = campaign.run(|_| ()).unwrap();
    let json = summary.json();
    assert_eq!(summary.violations(), [""; 0], "{json}");
    // The campaign did what it is for.
    assert_eq!((summary.cycles, summary.early_kills), (6, 3), "{json}");
    assert!(
        summary.acknowledged() > 100 && summary.rows > 100 && summary.checks >= 3,
        "{json}"
    );
    assert!(summary.ranges > 1, "{json}");
}
