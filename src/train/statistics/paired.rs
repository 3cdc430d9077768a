//! Correlations of resampled pairs. A resample says how often each pair is in it, so that ties and order are found once
//! and every resample costs no sort.

use super::Logistic;

/// Pairs of finite numbers.
pub(super) struct Paired {
    x: Vec<f64>,
    y: Vec<f64>,
    x_levels: Levels,
    y_levels: Levels,
    /// Indices by ascending x.
    by_x: Vec<usize>,
}

/// Figures after a logistic curve.
#[derive(Clone, Copy)]
pub(super) struct Fitted {
    pub(super) plcc: Option<f64>,
    pub(super) rmse: f64,
}

impl Paired {
    /// None of lists of different lengths and of numbers that are not finite.
    pub(super) fn new(x: &[f64], y: &[f64]) -> Option<Self> {
        if x.len() != y.len() || x.iter().chain(y).any(|value| !value.is_finite()) {
            return None;
        }
        let (x_levels, by_x) = Levels::new(x);
        let (y_levels, _) = Levels::new(y);
        Some(Self { x: x.to_vec(), y: y.to_vec(), x_levels, y_levels, by_x })
    }

    pub(super) fn plcc(&self, weights: &[f64]) -> Option<f64> {
        correlation(&self.x, &self.y, weights)
    }

    pub(super) fn srcc(&self, weights: &[f64]) -> Option<f64> {
        correlation(&self.x_levels.ranks(weights), &self.y_levels.ranks(weights), weights)
    }

    pub(super) fn rmse(&self, weights: &[f64]) -> Option<f64> {
        rmse(&self.x, &self.y, weights)
    }

    /// The figures of x as y, through the curve that fits the resample, searched from `start`.
    pub(super) fn fitted(&self, start: Logistic, weights: &[f64]) -> Option<Fitted> {
        let curve = start.refit(&self.x, &self.y, weights)?;
        let x: Vec<f64> = self.x.iter().map(|&x| curve.apply(x)).collect();
        Some(Fitted { plcc: correlation(&x, &self.y, weights), rmse: rmse(&x, &self.y, weights)? })
    }

    /// tau-b: pairs of pairs in the same order less those in opposite order, over the geometric mean of the numbers
    /// that are not tied in x and in y.
    pub(super) fn krcc(&self, weights: &[f64]) -> Option<f64> {
        let mut seen = Sums::new(self.y_levels.count);
        let mut surplus = 0.0;
        for tied in self.by_x.chunk_by(|&a, &b| self.x_levels.of[a] == self.x_levels.of[b]) {
            for &i in tied {
                let below = seen.before(self.y_levels.of[i]);
                let above = seen.total - seen.before(self.y_levels.of[i] + 1);
                surplus += weights[i] * (below - above);
            }
            tied.iter().for_each(|&i| seen.add(self.y_levels.of[i], weights[i]));
        }
        let pairs = |count: f64| count * (count - 1.0) / 2.0;
        let untied = |levels: &Levels| pairs(seen.total) - levels.weights(weights).into_iter().map(pairs).sum::<f64>();
        let scale = (untied(&self.x_levels) * untied(&self.y_levels)).sqrt();
        (scale > 0.0).then(|| surplus / scale)
    }
}

/// The distinct values of a list, numbered from the lowest.
struct Levels {
    /// Of each item.
    of: Vec<usize>,
    count: usize,
}

impl Levels {
    /// And the indices by ascending value.
    fn new(values: &[f64]) -> (Self, Vec<usize>) {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
        let mut of = vec![0; values.len()];
        let mut count = 0;
        // Both zeros are one level, though they are ordered.
        for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
            tied.iter().for_each(|&i| of[i] = count);
            count += 1;
        }
        (Self { of, count }, order)
    }

    /// The sum of the weights at each level.
    fn weights(&self, weights: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.count];
        self.of.iter().zip(weights).for_each(|(&level, weight)| sums[level] += weight);
        sums
    }

    /// The mean rank of each item's level, but for a constant.
    fn ranks(&self, weights: &[f64]) -> Vec<f64> {
        let mut below = 0.0;
        let mut ranks = self.weights(weights);
        for rank in &mut ranks {
            let weight = *rank;
            *rank = below + weight / 2.0;
            below += weight;
        }
        self.of.iter().map(|&level| ranks[level]).collect()
    }
}

/// Sums over the first levels while weights come in (a Fenwick tree).
struct Sums {
    nodes: Vec<f64>,
    total: f64,
}

impl Sums {
    fn new(levels: usize) -> Self {
        Self { nodes: vec![0.0; levels + 1], total: 0.0 }
    }

    fn add(&mut self, level: usize, weight: f64) {
        self.total += weight;
        let mut node = level + 1;
        while let Some(sum) = self.nodes.get_mut(node) {
            *sum += weight;
            node += node & node.wrapping_neg();
        }
    }

    /// Of the levels below `level`.
    fn before(&self, level: usize) -> f64 {
        let mut sum = 0.0;
        let mut node = level;
        while node > 0 {
            sum += self.nodes[node];
            node &= node - 1;
        }
        sum
    }
}

/// Pearson's correlation of pairs of which each is there `weights[i]` times.
fn correlation(x: &[f64], y: &[f64], weights: &[f64]) -> Option<f64> {
    let total: f64 = weights.iter().sum();
    let mean = |values: &[f64]| values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / total;
    let (x_mean, y_mean) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for ((x, y), weight) in x.iter().zip(y).zip(weights) {
        let (x, y) = (x - x_mean, y - y_mean);
        xx += weight * x * x;
        yy += weight * y * y;
        xy += weight * x * y;
    }
    // A constant list's variance is the rounding of its mean.
    let is_constant = |squares: f64, mean: f64| squares <= total * (1e-13 * mean).powi(2);
    if total < 2.0 || is_constant(xx, x_mean) || is_constant(yy, y_mean) {
        return None;
    }
    Some(xy / (xx.sqrt() * yy.sqrt())).filter(|value| value.is_finite()).map(|value| value.clamp(-1.0, 1.0))
}

fn rmse(x: &[f64], y: &[f64], weights: &[f64]) -> Option<f64> {
    let total: f64 = weights.iter().sum();
    let squares: f64 = x.iter().zip(y).zip(weights).map(|((x, y), weight)| weight * (x - y).powi(2)).sum();
    Some((squares / total).sqrt()).filter(|value| value.is_finite())
}
