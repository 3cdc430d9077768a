//! What a floor sees of an item, as a sparse row of numbers.

use std::collections::HashMap;

use super::Knows;
use crate::train::statistics::Judged;

/// One row for each item.
pub(super) struct Features {
    rows: Vec<Vec<(usize, f64)>>,
    columns: usize,
}

impl Features {
    /// A one for the generator; the prompt's different words and pairs of words, scaled to length one together, and the
    /// logarithm of its number of words.
    pub(super) fn new(judged: &[Judged], knows: Knows) -> Self {
        let mut vocabulary = HashMap::new();
        let mut column = |name: String| {
            let next = vocabulary.len();
            *vocabulary.entry(name).or_insert(next)
        };
        let row = |item: &Judged| {
            let mut row = Vec::new();
            if let Some(generator) = item.generator.as_ref().filter(|_| knows.generator) {
                row.push((column(format!("generator {generator}")), 1.0));
            }
            if knows.prompt {
                let words = words(&item.prompt);
                row.push((column("length".to_owned()), 0.25 * (1.0 + words.len() as f64).ln()));
                let pairs = words.windows(2).map(|pair| pair.join(" "));
                let mut grams: Vec<String> = words.iter().cloned().chain(pairs).collect();
                grams.sort_unstable();
                grams.dedup();
                let value = 1.0 / (grams.len() as f64).sqrt();
                row.extend(grams.into_iter().map(|gram| (column(format!("gram {gram}")), value)));
            }
            row
        };
        let rows = judged.iter().map(row).collect();
        Self { rows, columns: vocabulary.len() }
    }

    /// The columns of an item that are not zero.
    pub(super) fn row(&self, item: usize) -> &[(usize, f64)] {
        &self.rows[item]
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }
}

fn words(prompt: &str) -> Vec<String> {
    let words = prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}
