//! The range of an axis and where its marks stand.

/// A range of values, with round numbers to mark.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    ticks: Vec<f64>,
    digits: usize,
    is_log: bool,
}

impl Axis {
    /// Around all finite values, from tick to tick.
    pub(super) fn around(values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = range(values.into_iter().filter(|value| value.is_finite())).unwrap_or((0.0, 1.0));
        // A range that rounding would fill with equal ticks is one value.
        let (low, high) = match high - low > 1e-9 * low.abs().max(high.abs()) {
            true => (low, high),
            false => (low - 0.5 * low.abs().max(1e-3), high + 0.5 * high.abs().max(1e-3)),
        };
        let step = round_step((high - low) / 5.0);
        let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
        let ticks: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        Self { low: first as f64 * step, high: last as f64 * step, ticks, digits, is_log: false }
    }

    /// Around all values above zero, by their logarithm, from decade to decade.
    pub(super) fn decades(values: impl IntoIterator<Item = f64>) -> Self {
        let positive = values.into_iter().filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = range(positive).unwrap_or((0.1, 1.0));
        let first = low.log10().floor() as i32;
        let last = (high.log10().ceil() as i32).max(first + 1);
        let ticks = (first..=last).map(|decade| 10_f64.powi(decade)).collect();
        Self { low: 10_f64.powi(first), high: 10_f64.powi(last), ticks, digits: 0, is_log: true }
    }

    /// The values to mark, with their texts.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        self.ticks.iter().map(|&tick| (tick, self.text(tick)))
    }

    /// Where a value is: 0 at the low end, 1 at the high one. Values outside stand at the ends.
    pub(super) fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_log { value.max(f64::MIN_POSITIVE).log10() } else { value };
        ((scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))).clamp(0.0, 1.0)
    }

    fn text(&self, tick: f64) -> String {
        match self.is_log || tick.abs() >= 1e6 {
            true if !(1e-4..1e6).contains(&tick.abs()) => format!("{tick:e}"),
            true => format!("{tick}"),
            // Rounding has a zero of either sign.
            false => format!("{:.*}", self.digits, tick + 0.0),
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// The next of 1, 2, 5, 10, ... times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<String> {
        axis.ticks().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_hold_every_value() {
        assert_eq!(texts(&Axis::around([1.1, 4.7])), ["1", "2", "3", "4", "5"]);
        assert_eq!(texts(&Axis::around([-0.31, 0.18])), ["-0.4", "-0.3", "-0.2", "-0.1", "0.0", "0.1", "0.2"]);
        assert_eq!(texts(&Axis::decades([0.003, 7.0])), ["0.001", "0.01", "0.1", "1", "10"]);
        for values in
            [vec![], vec![3.0], vec![0.0, 0.0], vec![1e300, -1e300], vec![f64::NAN, 2.0], vec![1e-300, 2e-300]]
        {
            let axis = Axis::around(values.clone());
            assert!(axis.low < axis.high && (2..=14).contains(&axis.ticks.len()), "{values:?}: {axis:?}");
            assert!(values.iter().all(|&v| v.is_nan() || (axis.low..=axis.high).contains(&v)), "{values:?}: {axis:?}");
            let axis = Axis::decades(values);
            assert!(axis.low < axis.high);
        }
    }

    #[test]
    fn places_go_from_end_to_end() {
        let axis = Axis::around([1.0, 5.0]);
        assert_eq!([1.0, 3.0, 5.0, 9.0].map(|value| axis.place(value)), [0.0, 0.5, 1.0, 1.0]);
        let axis = Axis::decades([0.01, 1.0]);
        assert_eq!([0.01, 0.1, 1.0, -3.0].map(|value| axis.place(value)), [0.0, 0.5, 1.0, 0.0]);
    }
}
