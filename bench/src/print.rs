//! The figures as a table for people. Programs read the JSON.

use core::fmt::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::outcome::{Outcome, Series, Spread, Wanted};

/// The figures as a table, without colour.
#[must_use]
pub fn print(outcome: &Outcome) -> String {
    let mut out = String::new();
    for (target, per_second) in &outcome.loading {
        line(
            &mut out,
            format_args!("loaded {target}: {} puts/s", count(*per_second)),
        );
    }
    line(&mut out, format_args!("{}", table(&outcome.series)));
    for series in &outcome.series {
        remarks(&mut out, series);
    }
    if !outcome.ratios.is_empty() {
        line(&mut out, format_args!("\n{}", ratio_table(outcome)));
    }
    out
}

/// Every run, slice by slice.
#[must_use]
pub fn print_timeline(outcome: &Outcome) -> String {
    let mut out = String::new();
    for series in &outcome.series {
        for (number, run) in (1..).zip(&series.runs) {
            let name = format!("{} on {} ({})", series.workload, series.target, series.shape);
            line(&mut out, format_args!("\n{name}, run {number}:"));
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header(["at", "answers/s", "p50", "p99", "p99.9", "max"]);
            for point in &run.timeline {
                let latency = &point.latency;
                let times = [latency.p50_ns, latency.p99_ns, latency.p999_ns, latency.max_ns];
                let mut row = vec![format!("{:.2} s", point.at_s), count(point.per_second)];
                row.extend(times.map(|ns| time(as_float(ns))));
                let right = |text| Cell::new(text).set_alignment(CellAlignment::Right);
                table.add_row(row.into_iter().map(right));
            }
            line(&mut out, format_args!("{table}"));
        }
    }
    out
}

fn line(out: &mut String, text: core::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn table(series: &[Series]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "workload",
        "target",
        "load",
        "answers/s",
        "low – high",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "server µs",
        "loader µs",
        "writes",
    ]);
    for one in series {
        let rate = one.spread(|run| run.per_second);
        let at = |figure: fn(&crate::Latency) -> u64| one.spread(|run| as_float(figure(&run.latency))).median;
        let some = |spread: Option<Spread>, digits: usize| {
            spread.map_or_else(|| "–".to_owned(), |spread| format!("{:.digits$}", spread.median))
        };
        let numbers = [
            count(rate.median),
            format!("{} – {}", count(rate.low), count(rate.high)),
            time(at(|l| l.p50_ns)),
            time(at(|l| l.p90_ns)),
            time(at(|l| l.p99_ns)),
            time(at(|l| l.p999_ns)),
            time(at(|l| l.p9999_ns)),
            time(one.spread(|run| as_float(run.latency.max_ns)).high),
            some(one.spread_some(|run| run.server_cpu_us), 2),
            format!("{:.2}", one.spread(|run| run.loader_cpu_us).median),
            some(one.spread_some(|run| run.log_writes.or(run.device_writes)), 3),
        ];
        let mut row: Vec<Cell> = [&one.workload, &one.target, &one.shape]
            .into_iter()
            .map(Cell::new)
            .collect();
        row.extend(
            numbers
                .into_iter()
                .map(|text| Cell::new(text).set_alignment(CellAlignment::Right)),
        );
        table.add_row(row);
    }
    table
}

/// What makes figures suspect is said in words below the table.
fn remarks(out: &mut String, series: &Series) {
    let sum = |figure: fn(&crate::Run) -> u64| series.runs.iter().map(figure).sum::<u64>();
    let name = format!("{} on {} ({})", series.workload, series.target, series.shape);
    let failed = sum(|run| run.failed);
    if failed > 0 {
        let first = series
            .runs
            .iter()
            .find_map(|run| run.first_failure.as_deref())
            .unwrap_or("no reason given");
        line(
            out,
            format_args!("! {name}: {failed} requests failed, the first: {first}"),
        );
    }
    let missing = sum(|run| run.missing);
    if missing > 0 {
        line(out, format_args!("! {name}: {missing} reads found nothing"));
    }
    let stalls = sum(|run| run.stalls.unwrap_or(0));
    if stalls > 0 {
        line(
            out,
            format_args!(
                "! {name}: {stalls} loop turns of the server were too long (see its standard error)"
            ),
        );
    }
    let (redirected, reconnected) = (sum(|run| run.redirected), sum(|run| run.reconnected));
    if redirected + reconnected > 0 {
        line(
            out,
            format_args!(
                "{name}: {redirected} requests sent on to new leaders, {reconnected} connections opened anew"
            ),
        );
    }
    if let Some(retries) = series
        .spread_some(|run| run.retries)
        .filter(|retries| retries.high > 0.0)
    {
        let (attempts, conflicts) = (1.0 + retries.median, 100.0 * retries.median);
        line(
            out,
            format_args!("{name}: {attempts:.3} attempts per transaction, {conflicts:.1} conflicts per 100"),
        );
    }
    if let Some(rows) = series.spread_some(|run| run.beside_rows) {
        let rows = count(rows.median);
        line(out, format_args!("{name}: {rows} rows/s scanned beside"));
    }
    let lag = series.spread(|run| as_float(run.lag_p99_ns));
    let p50 = series.spread(|run| as_float(run.latency.p50_ns));
    if lag.high > p50.median {
        // Part of the latency is the loader's own lateness: it has no processor, or its connections are all full.
        let lag = time(lag.high);
        line(
            out,
            format_args!("! {name}: requests started up to {lag} (99th percentile) after they were due"),
        );
    }
    let overdue = sum(|run| run.overdue);
    if overdue > 0 {
        line(
            out,
            format_args!("! {name}: {overdue} requests were overdue or unanswered at the end of their run"),
        );
    }
}

fn ratio_table(outcome: &Outcome) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["ratio", "median", "low – high", "wanted"]);
    for ratio in &outcome.ratios {
        let Spread { median, low, high } = ratio.value;
        let wanted = ratio.wanted.map_or_else(String::new, |wanted| {
            let verdict = if wanted.is_met(median) { "met" } else { "MISSED" };
            match wanted {
                Wanted::AtLeast(bound) => format!("≥ {bound}: {verdict}"),
                Wanted::AtMost(bound) => format!("≤ {bound}: {verdict}"),
            }
        });
        table.add_row([
            ratio.name.clone(),
            format!("{median:.3}"),
            format!("{low:.3} – {high:.3}"),
            wanted,
        ]);
    }
    table
}

/// `1234567.0` as `1,234,567`.
pub(crate) fn count(value: f64) -> String {
    let whole = format!("{value:.0}");
    let mut out = String::with_capacity(whole.len() * 4 / 3);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Nanoseconds with three digits and a unit.
pub(crate) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.digits$} {unit}")
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1_234_567.4), "1,234,567");
        assert_eq!(count(999.0), "999");
        assert_eq!(time(950.0), "950 ns");
        assert_eq!(time(86_400.0), "86.4 µs");
        assert_eq!(time(1_234_000.0), "1.23 ms");
        assert_eq!(time(2e9), "2.00 s");
    }
}
