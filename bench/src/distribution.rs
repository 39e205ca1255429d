//! How records are picked: uniform, zipfian, latest. Seeded, and exact rather than approximated.
//!
//! Zipfian draws rank `k` of `n` with probability proportional to `1 / k^0.99`, by rejection-inversion: a draw inverts the
//! integral of a continuous hat over the discrete weights and rejects the little that lies between. It needs no table and
//! no sum over `n`, so `n` may grow while a run inserts records.
//!
//! Source: Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions", 1996;
//! the exponent is that of YCSB (Cooper et al., 2010).

use base::Prng;

/// YCSB's exponent.
pub(crate) const ZIPF_EXPONENT: f64 = 0.99;

/// Draws ranks with zipfian weights.
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    count: u64,
    exponent: f64,
    /// The hat's integral at its left end, `1.5`, less the weight of rank one.
    integral_low: f64,
    /// The hat's integral at its right end, `count + 0.5`.
    integral_high: f64,
    /// Draws closer to their rank than this are accepted without looking further.
    squeeze: f64,
}

impl Zipf {
    /// Ranks below `count`.
    ///
    /// # Panics
    /// When `count` is zero.
    pub(crate) fn new(count: u64, exponent: f64) -> Self {
        assert!(count > 0, "no rank to draw");
        let mut zipf = Self {
            count,
            exponent,
            integral_low: 0.0,
            integral_high: 0.0,
            squeeze: 0.0,
        };
        zipf.integral_low = zipf.integral(1.5) - 1.0;
        zipf.squeeze = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf.grow(count);
        zipf
    }

    /// Ranks below `count` from now on.
    pub(crate) fn grow(&mut self, count: u64) {
        self.count = count;
        self.integral_high = self.integral(as_float(count) + 0.5);
    }

    /// The number of ranks.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// A rank in `0..count`; 0 is the most frequent.
    pub(crate) fn draw(&self, prng: &mut Prng) -> u64 {
        loop {
            let area = self.integral_high + prng.unit() * (self.integral_low - self.integral_high);
            let x = self.inverse(area);
            let rank = x.round().clamp(1.0, as_float(self.count));
            if rank - x <= self.squeeze || area >= self.integral(rank + 0.5) - self.weight(rank) {
                return from_float(rank) - 1;
            }
        }
    }

    /// `x^-exponent`.
    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of [`Self::weight`], up to a constant.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        exp_minus_one_over((1.0 - self.exponent) * log) * log
    }

    /// The inverse of [`Self::integral`].
    fn inverse(&self, area: f64) -> f64 {
        let scaled = (area * (1.0 - self.exponent)).max(-1.0);
        (log_one_plus_over(scaled) * area).exp()
    }
}

/// `(e^x - 1) / x`, continued to 1 at zero.
fn exp_minus_one_over(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.exp_m1() / x
    } else {
        1.0 + x / 2.0
    }
}

/// `ln(1 + x) / x`, continued to 1 at zero.
fn log_one_plus_over(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.ln_1p() / x
    } else {
        1.0 - x / 2.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of records are far below 2^53")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 1..=count by the caller"
)]
fn from_float(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(zipf: &Zipf, draws: u64) -> Vec<f64> {
        let mut prng = Prng::new(7);
        let mut counts = vec![0u64; usize::try_from(zipf.count()).unwrap()];
        for _ in 0..draws {
            counts[usize::try_from(zipf.draw(&mut prng)).unwrap()] += 1;
        }
        counts
            .into_iter()
            .map(|count| as_float(count) / as_float(draws))
            .collect()
    }

    #[test]
    fn frequencies_follow_the_exponent() {
        for (count, exponent) in [
            (10u64, ZIPF_EXPONENT),
            (1000, ZIPF_EXPONENT),
            (50, 1.0),
            (50, 0.5),
        ] {
            let weights: Vec<f64> = (1..=count).map(|rank| as_float(rank).powf(-exponent)).collect();
            let total: f64 = weights.iter().sum();
            let seen = frequencies(&Zipf::new(count, exponent), 200_000);
            for rank in [0, 1, 2, 4, 9] {
                let expected = weights[rank] / total;
                let error = (seen[rank] - expected).abs();
                // Four standard deviations of a binomial share over 200,000 draws.
                let bound = 4.0 * (expected * (1.0 - expected) / 200_000.0).sqrt();
                assert!(
                    error < bound,
                    "rank {rank} of {count}: {} for {expected}",
                    seen[rank]
                );
            }
        }
    }

    #[test]
    fn one_rank_is_always_drawn_and_large_counts_stay_inside() {
        let mut prng = Prng::new(1);
        let one = Zipf::new(1, ZIPF_EXPONENT);
        assert!((0..100).all(|_| one.draw(&mut prng) == 0));
        let large = Zipf::new(1 << 40, ZIPF_EXPONENT);
        assert!((0..10_000).all(|_| large.draw(&mut prng) < 1 << 40));
    }

    #[test]
    fn growing_equals_starting_larger() {
        let mut grown = Zipf::new(10, ZIPF_EXPONENT);
        grown.grow(5000);
        let fresh = Zipf::new(5000, ZIPF_EXPONENT);
        let (mut a, mut b) = (Prng::new(3), Prng::new(3));
        for _ in 0..1000 {
            assert_eq!(grown.draw(&mut a), fresh.draw(&mut b));
        }
    }
}
