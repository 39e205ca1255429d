//! The quotients that a bench ends in.

use crate::config::Plan;
use crate::outcome::{Ratio, Run, Series, Spread, Wanted};
use crate::txn;

/// The ratios of a plan: those of the floor within each target, those between two targets series by series.
pub(crate) fn ratios(plan: Plan, series: &[Series]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    let mut targets: Vec<&str> = series.iter().map(|series| series.target.as_str()).collect();
    targets.dedup();
    if plan == Plan::Floor {
        for target in &targets {
            floor(target, series, &mut ratios);
        }
    }
    if plan == Plan::Txn {
        for target in &targets {
            transactions(target, series, &mut ratios);
        }
    }
    if let [first, second] = targets[..] {
        for a in series.iter().filter(|series| series.target == first) {
            let twin = |b: &&Series| b.target == second && b.workload == a.workload && b.shape == a.shape;
            if let Some(b) = series.iter().find(twin) {
                between(a, b, &mut ratios);
            }
        }
    }
    ratios
}

/// Quotients of neighbouring runs, then their median.
fn quotient(
    name: String,
    above: (&Series, fn(&Run) -> Option<f64>),
    below: (&Series, fn(&Run) -> Option<f64>),
    wanted: Option<Wanted>,
) -> Option<Ratio> {
    let quotients = above.0.runs.iter().zip(&below.0.runs).filter_map(|(a, b)| {
        let divisor = below.1(b).filter(|&divisor| divisor > 0.0)?;
        Some(above.1(a)? / divisor)
    });
    Some(Ratio {
        name,
        value: Spread::of(quotients)?,
        wanted,
    })
}

fn throughput(run: &Run) -> Option<f64> {
    Some(run.per_second)
}

fn server_cpu(run: &Run) -> Option<f64> {
    run.server_cpu_us
}

fn client_cpu(run: &Run) -> Option<f64> {
    Some(run.loader_cpu_us)
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
fn p50(run: &Run) -> Option<f64> {
    Some(run.latency.p50_ns as f64)
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
fn p99(run: &Run) -> Option<f64> {
    Some(run.latency.p99_ns as f64)
}

fn floor(target: &str, series: &[Series], ratios: &mut Vec<Ratio>) {
    let find = |workload: &str, is_single: bool| {
        series.iter().find(|series| {
            series.target == target && series.workload == workload && (series.shape == "1 × 1") == is_single
        })
    };
    let name = |what: &str| format!("{target}: {what}");
    if let Some(echo) = find("echo", false) {
        for (workload, bound) in [("get", 0.6), ("put", 0.3)] {
            let Some(above) = find(workload, false) else {
                continue;
            };
            let wanted = Some(Wanted::AtLeast(bound));
            let what = format!("{workload} / echo, throughput");
            ratios.extend(quotient(
                name(&what),
                (above, throughput),
                (echo, throughput),
                wanted,
            ));
            let what = format!("{workload} / echo, server CPU");
            ratios.extend(quotient(
                name(&what),
                (above, server_cpu),
                (echo, server_cpu),
                None,
            ));
        }
    }
    if let Some(put) = find("put", false) {
        // What the server counts is its own; the machine's counter has everyone's writes in it.
        let own = put
            .spread_some(|run| run.log_writes)
            .map(|value| ("log writes per put", value));
        let all = || {
            put.spread_some(|run| run.device_writes)
                .map(|value| ("writes of all devices per put", value))
        };
        if let Some((what, value)) = own.or_else(all) {
            ratios.push(Ratio {
                name: name(what),
                value,
                wanted: Some(Wanted::AtMost(0.125)),
            });
        }
    }
    if let (Some(put), Some(echo), Some(disk)) = (find("put", true), find("echo", true), find("disk", true)) {
        let runs = put.runs.iter().zip(&echo.runs).zip(&disk.runs);
        let quotients = runs.filter_map(|((put, echo), disk)| Some(p50(put)? / (p50(echo)? + p50(disk)?)));
        if let Some(value) = Spread::of(quotients.filter(|quotient| quotient.is_finite())) {
            let what = name("put p50 / (echo p50 + disk p50), one at a time");
            ratios.push(Ratio {
                name: what,
                value,
                wanted: Some(Wanted::AtMost(1.25)),
            });
        }
    }
}

/// What the project asks of transactions: latency of one task, throughput and CPU of many.
fn transactions(target: &str, series: &[Series], ratios: &mut Vec<Ratio>) {
    use Wanted::{AtLeast, AtMost};
    let find = |workload: &str, is_single: bool| {
        series.iter().find(|series| {
            series.target == target && series.workload == workload && (series.in_flight == 1) == is_single
        })
    };
    let mut add = |is_single: bool,
                   (above, below): (&str, &str),
                   what: &str,
                   figure: fn(&Run) -> Option<f64>,
                   wanted: Option<Wanted>| {
        if let (Some(a), Some(b)) = (find(above, is_single), find(below, is_single)) {
            let name = format!("{target}: {above} / {below}, {what} of {}", a.shape);
            ratios.extend(quotient(name, (a, figure), (b, figure), wanted));
        }
    };
    for (above, bound) in [
        (txn::ONE_WRITE, Some(1.1)),
        (txn::ONE_RANGE, Some(1.1)),
        (txn::TWO_RANGE, Some(1.25)),
        (txn::UNIFORM, None),
        (txn::ONE_SHOT, None),
    ] {
        add(true, (above, txn::PUT), "p50", p50, bound.map(AtMost));
    }
    for (above, throughput_bound, cpu_bound) in [
        (txn::ONE_WRITE, None, Some(1.3)),
        (txn::ONE_RANGE, None, Some(1.3)),
        (txn::TWO_RANGE, Some(0.35), None),
        (txn::UNIFORM, None, None),
        (txn::ONE_SHOT, None, None),
    ] {
        let pair = (above, txn::PUT);
        add(
            false,
            pair,
            "throughput",
            throughput,
            throughput_bound.map(AtLeast),
        );
        add(false, pair, "server CPU", server_cpu, cpu_bound.map(AtMost));
        add(false, pair, "client CPU", client_cpu, None);
    }
    let pair = (txn::ZIPF, txn::UNIFORM);
    add(false, pair, "throughput", throughput, Some(AtLeast(0.5)));
    let pair = (txn::ONE_SHOT_ZIPF, txn::ONE_SHOT);
    add(false, pair, "throughput", throughput, Some(AtLeast(0.5)));
    let pair = (txn::BESIDE_SCAN, txn::TWO_RANGE);
    add(false, pair, "throughput", throughput, Some(AtLeast(0.95)));
}

fn between(a: &Series, b: &Series, ratios: &mut Vec<Ratio>) {
    let name = |what: &str| {
        format!(
            "{} ({}): {} / {}, {what}",
            a.workload, a.shape, a.target, b.target
        )
    };
    ratios.extend(quotient(
        name("throughput"),
        (a, throughput),
        (b, throughput),
        None,
    ));
    ratios.extend(quotient(
        name("server CPU per answer"),
        (a, server_cpu),
        (b, server_cpu),
        None,
    ));
    ratios.extend(quotient(name("p50"), (a, p50), (b, p50), None));
    ratios.extend(quotient(name("p99"), (a, p99), (b, p99), None));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Latency;

    fn series(workload: &str, target: &str, shape: &str, runs: &[(f64, u64)]) -> Series {
        let runs = runs
            .iter()
            .map(|&(per_second, p50_ns)| Run {
                per_second,
                latency: Latency {
                    p50_ns,
                    p99_ns: p50_ns * 2,
                    ..Latency::default()
                },
                log_writes: Some(0.1),
                device_writes: Some(0.9),
                ..Run::default()
            })
            .collect();
        Series {
            workload: workload.into(),
            target: target.into(),
            shape: shape.into(),
            in_flight: 1,
            runs,
        }
    }

    fn value(ratios: &[Ratio], part: &str) -> f64 {
        let found = ratios.iter().find(|ratio| ratio.name.contains(part));
        found
            .unwrap_or_else(|| panic!("no {part} in {ratios:?}"))
            .value
            .median
    }

    #[test]
    fn the_floor_divides_runs_of_the_same_round() {
        let all = [
            series("echo", "a", "2 × 64", &[(100.0, 1), (200.0, 1), (400.0, 1)]),
            series("get", "a", "2 × 64", &[(70.0, 1), (140.0, 1), (280.0, 1)]),
            series("put", "a", "2 × 64", &[(25.0, 1), (60.0, 1), (160.0, 1)]),
            series("echo", "a", "1 × 1", &[(1.0, 50)]),
            series("disk", "a", "1 × 1", &[(1.0, 80)]),
            series("put", "a", "1 × 1", &[(1.0, 156)]),
        ];
        let ratios = ratios(Plan::Floor, &all);
        // The machine became four times faster on the way: the ratio did not.
        assert_eq!(value(&ratios, "get / echo, throughput"), 0.7);
        assert_eq!(value(&ratios, "put / echo, throughput"), 0.3);
        assert_eq!(value(&ratios, "one at a time"), 1.2);
        assert!(ratios.iter().all(|ratio| {
            ratio
                .wanted
                .is_none_or(|wanted| wanted.is_met(ratio.value.median))
        }));
    }

    #[test]
    fn two_targets_are_compared_shape_by_shape() {
        let all = [
            series("get", "a", "50 × 1", &[(300.0, 10), (330.0, 10)]),
            series("get", "b", "50 × 1", &[(100.0, 40), (110.0, 20)]),
        ];
        let ratios = ratios(Plan::Single(crate::Workload::Get), &all);
        assert_eq!(value(&ratios, "throughput"), 3.0);
        assert_eq!(value(&ratios, "p50"), 0.375);
        assert!(
            !ratios.iter().any(|ratio| ratio.name.contains("CPU")),
            "no CPU was seen"
        );
    }
}
