//! The figures as one self-contained page: no script, no font, no address outside it.

use core::fmt::Write;

use crate::outcome::{Outcome, Run, Series};
use crate::print::{count, print, time};
use crate::svg::{Axis, Chart, Line, Scale, escape};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #d8dee4; --soft: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d; --soft: #8d96a0; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
pre { overflow-x: auto; font-size: 12px; line-height: 1.3; }
table { border-collapse: collapse; } td, th { padding: .15em .8em .15em 0; text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); }
text.x { text-anchor: middle; } text.y { text-anchor: end; }
.grid { stroke: var(--faint); stroke-width: 1; fill: none; } .line { fill: none; stroke: currentColor; stroke-width: 1.6; }
.dashed { stroke-dasharray: 5 3; } .legend span { margin-right: 1.2em; white-space: nowrap; font-size: 13px; }
.c0 { color: #2f6feb; } .c1 { color: #d1782b; } .c2 { color: #2da05a; } .c3 { color: #c8375d; }
.c4 { color: #8a5cd6; } .c5 { color: #12959f; } .c6 { color: #a08a1e; } .c7 { color: #7a7f87; }
";

/// The figures as one self-contained page with plots.
#[must_use]
pub fn report_html(outcome: &Outcome) -> String {
    let mut out = String::new();
    let mut put = |text: &str| out.push_str(text);
    put(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>corelane bench</title><style>",
    );
    put(STYLE);
    put("</style></head><body><h1>corelane bench</h1>");
    put("<h2>Figures</h2><pre>");
    put(&escape(&print(outcome)));
    put("</pre>");
    put(
        "<p>Latency counts from the intended start of a request. Percentiles and rates are medians over the runs, the ",
    );
    put(
        "maximum is that of all runs. CPU is user and system time of all threads per answer; device writes are those of ",
    );
    put("the whole machine. Plots show, for each series, the run of median throughput.</p>");
    let typical: Vec<(String, &Run)> = outcome
        .series
        .iter()
        .filter_map(|series| Some((name(series), series.typical()?)))
        .collect();
    put("<h2>Latency by percentile</h2>");
    put(&percentiles(&typical).render());
    put("<h2>Throughput over time</h2>");
    put(&throughput(&typical).render());
    for (name, run) in &typical {
        put(&format!("<h2>Latency over time: {}</h2>", escape(name)));
        put(&latency(run).render());
    }
    put("<h2>Settings</h2>");
    put(&facts(
        outcome
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    ));
    let machine = &outcome.machine;
    put("<h2>Machine</h2>");
    put(&facts(
        [
            ("processor", machine.cpu.clone()),
            ("processors", machine.cpus.to_string()),
            ("memory", format!("{} MiB", machine.memory_mib)),
            ("load before", machine.load.clone()),
            ("kernel", machine.kernel.clone()),
            ("began", format!("{} seconds after 1970", outcome.began_unix_s)),
        ]
        .into_iter(),
    ));
    put("</body></html>\n");
    out
}

fn name(series: &Series) -> String {
    format!("{} on {} ({})", series.workload, series.target, series.shape)
}

fn facts<'a>(rows: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut out = String::from("<table>");
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<tr><th>{}</th><td>{}</td></tr>",
            escape(name),
            escape(&value)
        );
    }
    out.push_str("</table>");
    out
}

const LATENCY: Axis = Axis {
    label: "latency",
    scale: Scale::Log,
    format: time,
};
const SECONDS: Axis = Axis {
    label: "seconds",
    scale: Scale::Linear,
    format: decimal,
};

/// The x axis is the distance to 100 %, so that every further nine takes the same width.
fn percentiles(runs: &[(String, &Run)]) -> Chart {
    let x = Axis {
        label: "percentile",
        scale: Scale::Log,
        format: percentile,
    };
    let lines = runs.iter().map(|(name, run)| {
        let points = run.curve.iter().filter(|point| point.0 < 100.0);
        Line {
            name: name.clone(),
            points: points
                .map(|&(percentile, ns)| (100.0 / (100.0 - percentile), as_float(ns)))
                .collect(),
        }
    });
    Chart {
        x,
        y: LATENCY,
        lines: lines.collect(),
    }
}

/// `1000.0` as `99.9`.
fn percentile(nines: f64) -> String {
    decimal(100.0 - 100.0 / nines)
}

/// Up to six decimals, without trailing zeros.
fn decimal(value: f64) -> String {
    let digits = format!("{value:.6}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn throughput(runs: &[(String, &Run)]) -> Chart {
    let lines = runs.iter().map(|(name, run)| Line {
        name: name.clone(),
        points: run
            .timeline
            .iter()
            .map(|point| (point.at_s, point.per_second))
            .collect(),
    });
    let y = Axis {
        label: "answers per second",
        scale: Scale::Linear,
        format: count,
    };
    Chart {
        x: SECONDS,
        y,
        lines: lines.collect(),
    }
}

fn latency(run: &Run) -> Chart {
    let line = |name: &str, figure: fn(&crate::Latency) -> u64| Line {
        name: name.to_owned(),
        points: run
            .timeline
            .iter()
            .map(|point| (point.at_s, as_float(figure(&point.latency))))
            .collect(),
    };
    let lines = vec![
        line("p50", |latency| latency.p50_ns),
        line("p99", |latency| latency.p99_ns),
        line("p99.9", |latency| latency.p999_ns),
        line("maximum", |latency| latency.max_ns),
    ];
    Chart {
        x: SECONDS,
        y: LATENCY,
        lines,
    }
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Latency, Point};
    use crate::{MachineFacts, Ratio, Spread, Wanted};

    fn outcome() -> Outcome {
        let latency = Latency {
            p50_ns: 50_000,
            p99_ns: 900_000,
            p999_ns: 1_000_000,
            max_ns: 7_000_000,
            ..Latency::default()
        };
        let point = |at_s| Point {
            at_s,
            per_second: 1000.0 * at_s,
            latency,
        };
        let run = Run {
            answers: 10,
            per_second: 1234.0,
            latency,
            timeline: vec![point(0.5), point(1.5)],
            curve: vec![(0.0, 40_000), (50.0, 50_000), (99.0, 900_000), (100.0, 7_000_000)],
            ..Run::default()
        };
        let series = |workload: &str| Series {
            workload: workload.into(),
            target: "redis://<script>".into(),
            shape: "2 × 64".into(),
            in_flight: 128,
            runs: vec![run.clone()],
        };
        Outcome {
            began_unix_s: 1,
            settings: vec![("records".into(), "a < b".into())],
            machine: MachineFacts {
                cpu: "A CPU".into(),
                ..MachineFacts::default()
            },
            loading: vec![],
            series: vec![series("get"), series("put")],
            ratios: vec![Ratio {
                name: "get / echo".into(),
                value: Spread {
                    median: 0.5,
                    low: 0.4,
                    high: 0.6,
                },
                wanted: Some(Wanted::AtLeast(0.6)),
            }],
        }
    }

    #[test]
    fn the_page_has_every_plot_and_needs_nothing_else() {
        let html = report_html(&outcome());
        // Percentiles and throughput for all, latency over time for each.
        assert_eq!(html.matches("<svg").count(), 4);
        assert_eq!(html.matches("<path class=\"line").count(), 2 + 2 + 4 + 4);
        for text in [
            "Latency by percentile",
            "Throughput over time",
            "99.9",
            "A CPU",
            "a &lt; b",
            "MISSED",
            "1,234",
        ] {
            assert!(html.contains(text), "{text} is missing");
        }
        for foreign in ["<script", "http://", "https://", "<link", "url("] {
            assert!(!html.contains(foreign), "{foreign} is in the page");
        }
    }

    #[test]
    fn every_nine_has_the_same_width() {
        let run = Run {
            curve: vec![(90.0, 1), (99.0, 1), (99.9, 1), (100.0, 9)],
            ..Run::default()
        };
        let chart = percentiles(&[("x".to_owned(), &run)]);
        let logs: Vec<f64> = chart.lines[0]
            .points
            .iter()
            .map(|point| point.0.log10())
            .collect();
        assert!(
            logs.iter()
                .zip([1.0, 2.0, 3.0])
                .all(|(a, b)| (a - b).abs() < 1e-9),
            "{logs:?}"
        );
        assert_eq!((chart.x.format)(10_000.0), "99.99");
        assert_eq!((chart.x.format)(1.0), "0");
        assert_eq!(decimal(0.1 + 0.2), "0.3");
    }
}
