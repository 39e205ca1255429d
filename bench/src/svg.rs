//! Line charts as SVG text: axes, ticks, lines and a legend, nothing else. Colours come from the page's style sheet.
//!
//! ```text
//!   y label
//!   10 ms ┤        ╭──── line 0
//!    1 ms ┤  ──────╯
//!         └──┬─────┬─────   x label
//! ```

use core::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Lines have this many colours; later lines repeat them dashed.
pub(crate) const COLOURS: usize = 8;

/// How values become positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// Decades; values must be positive, others are left out.
    Log,
}

/// One axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) scale: Scale,
    /// How a tick is written.
    pub(crate) format: fn(f64) -> String,
}

/// One line: its name and its points, by rising x.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// The values between the ends of an axis, and where they lie.
#[derive(Debug, Clone, Copy)]
struct Extent {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Extent {
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let usable = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let (low, high) = usable.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        match scale {
            Scale::Linear => Self {
                scale,
                low: low.min(0.0),
                high: if high > 0.0 { high * 1.05 } else { 1.0 },
            },
            Scale::Log => {
                let low = 10f64.powf(low.log10().floor());
                Self {
                    scale,
                    low,
                    high: 10f64.powf(high.log10().ceil()).max(low * 10.0),
                }
            }
        }
    }

    /// Where `value` lies between the ends, 0 to 1; `None` when the scale has no place for it.
    fn place(self, value: f64) -> Option<f64> {
        match self.scale {
            Scale::Linear => Some((value - self.low) / (self.high - self.low)),
            Scale::Log if value > 0.0 => {
                Some((value.log10() - self.low.log10()) / (self.high.log10() - self.low.log10()))
            }
            Scale::Log => None,
        }
    }

    fn ticks(self) -> Vec<f64> {
        match self.scale {
            Scale::Log => {
                let decades = (self.high / self.low).log10().round();
                core::iter::successors(Some(0.0), |n| Some(n + 1.0))
                    .take_while(|n| *n <= decades)
                    .map(|n| self.low * 10f64.powf(n))
                    .collect()
            }
            Scale::Linear => {
                // Multiples, not sums: sums of steps drift and print as 0.6000000000000001.
                let step = round_step((self.high - self.low) / 6.0);
                let first = (self.low / step).ceil();
                core::iter::successors(Some(first), |n| Some(n + 1.0))
                    .map(|n| n * step)
                    .take_while(|at| *at <= self.high)
                    .collect()
            }
        }
    }
}

/// The next of 1, 2, 5 × a power of ten.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= rough)
        .unwrap_or(10.0);
    factor * power
}

impl Chart {
    /// The chart as one `<svg>` element and a legend after it.
    pub(crate) fn render(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Extent::of(self.x.scale, points().map(|point| point.0));
        let y = Extent::of(self.y.scale, points().map(|point| point.1));
        let mut out = String::new();
        let mut put = |text: core::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = out.write_fmt(text);
        };
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let across = |place: f64| LEFT + place * (right - LEFT);
        let up = |place: f64| bottom - place * (bottom - TOP);
        put(format_args!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">"
        ));
        for tick in y.ticks() {
            let Some(at) = y.place(tick).map(up) else { continue };
            let text = escape(&(self.y.format)(tick));
            put(format_args!(
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>"
            ));
            put(format_args!(
                "<text class=\"y\" x=\"{}\" y=\"{:.1}\">{text}</text>",
                LEFT - 6.0,
                at + 4.0
            ));
        }
        for tick in x.ticks() {
            let Some(at) = x.place(tick).map(across) else {
                continue;
            };
            let text = escape(&(self.x.format)(tick));
            put(format_args!(
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>"
            ));
            put(format_args!(
                "<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{text}</text>",
                bottom + 16.0
            ));
        }
        let middle = f64::midpoint(LEFT, right);
        put(format_args!(
            "<text class=\"x\" x=\"{middle}\" y=\"{}\">{}</text>",
            HEIGHT - 8.0,
            escape(self.x.label)
        ));
        let (label_x, label_y) = (14.0, f64::midpoint(TOP, bottom));
        let label = escape(self.y.label);
        put(format_args!(
            "<text class=\"x\" transform=\"translate({label_x} {label_y}) rotate(-90)\">{label}</text>"
        ));
        for (number, line) in self.lines.iter().enumerate() {
            let mut path = String::new();
            for &(px, py) in &line.points {
                let (Some(px), Some(py)) = (x.place(px), y.place(py)) else {
                    continue;
                };
                let order = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{order}{:.1} {:.1}", across(px), up(py));
            }
            put(format_args!(
                "<path class=\"line {}\" d=\"{path}\"><title>{}</title></path>",
                class(number),
                escape(&line.name)
            ));
        }
        put(format_args!("</svg><p class=\"legend\">"));
        for (number, line) in self.lines.iter().enumerate() {
            put(format_args!(
                "<span class=\"{}\">{}</span> ",
                class(number),
                escape(&line.name)
            ));
        }
        put(format_args!("</p>"));
        out
    }
}

fn class(number: usize) -> String {
    format!(
        "c{}{}",
        number % COLOURS,
        if number < COLOURS { "" } else { " dashed" }
    )
}

/// Text for the inside of an element or a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis {
            label: "label <x>",
            scale,
            format: |value| format!("{value}"),
        }
    }

    fn chart(scale: Scale, points: &[(f64, f64)]) -> String {
        let line = Line {
            name: "a & b".to_owned(),
            points: points.to_vec(),
        };
        Chart {
            x: axis(Scale::Linear),
            y: axis(scale),
            lines: vec![line],
        }
        .render()
    }

    #[test]
    fn a_chart_has_its_line_ticks_and_escaped_texts() {
        let svg = chart(Scale::Log, &[(0.0, 1.0), (5.0, 10.0), (10.0, 100.0)]);
        // Two decades from bottom to top; x is drawn up to 5 % past its largest value.
        assert!(svg.contains("d=\"M72.0 258.0L433.9 135.0L795.8 12.0\""), "{svg}");
        assert!(
            svg.contains(">100</text>") && svg.contains("a &amp; b") && svg.contains("label &lt;x&gt;"),
            "{svg}"
        );
    }

    #[test]
    fn empty_constant_and_impossible_values_still_draw() {
        for points in [
            &[][..],
            &[(1.0, 5.0)],
            &[(0.0, 0.0), (1.0, -1.0)],
            &[(f64::NAN, f64::INFINITY)],
        ] {
            for scale in [Scale::Linear, Scale::Log] {
                let svg = chart(scale, points);
                assert!(
                    svg.starts_with("<svg") && svg.matches("<path class=\"grid\"").count() >= 2,
                    "{svg}"
                );
            }
        }
    }

    #[test]
    fn steps_are_round() {
        for (rough, step) in [(0.7, 1.0), (1.2, 2.0), (3.0, 5.0), (6.0, 10.0), (130.0, 200.0)] {
            assert!((round_step(rough) - step).abs() < 1e-9, "{rough}");
        }
    }
}
