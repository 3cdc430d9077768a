//! Table 3: what the text encoders are worth.

use std::fs;

use anyhow::{Context, ensure};
use safetensors::SafeTensors;

use super::shape::floor_rows;
use super::trained::{Seen, Trained};
use crate::model::TextTowerSpec;
use crate::train::report::Comparison;

/// Endings of the keys of learnt positions, in all layouts of text towers.
const POSITIONS: [&str; 2] = ["positional_embedding", "position_embedding.weight"];

/// The first expert of the settings with each choice of the settings' towers.
pub(super) fn text(trained: &Trained) -> anyhow::Result<Comparison> {
    let settings = trained.settings()?;
    let expert = settings.experts.first().context("experts: is empty")?;
    let text = settings.text.as_ref().context("text: is missing")?;
    let (mut rows, mut seen) = (Vec::new(), Seen::new());
    for (places, learns) in choices(text.towers.len()) {
        let towers: Vec<TextTowerSpec> = places.iter().filter_map(|&place| text.towers.get(place)).cloned().collect();
        let names: Vec<&str> = towers.iter().map(|tower| tower.name.as_str()).collect();
        let how = if learns { "trainable" } else { "frozen" };
        let name = format!("{}-{}-{how}", expert.name, names.join("-"));
        let lengths = towers.iter().map(positions).collect::<anyhow::Result<Vec<_>>>()?;
        let length = lengths.into_iter().min().unwrap_or(text.context_length);
        let metrics = trained.cell(&settings, expert, &name, &mut seen, |settings, expert| {
            if let Some(text) = &mut settings.text {
                (text.towers, text.context_length) = (towers.clone(), length);
            }
            settings.recipe.train_text = learns;
            expert.head = None;
        })?;
        rows.push((vec![names.join(" + "), length.to_string(), how.to_owned()], vec![Some(metrics)]));
    }
    rows.extend(floor_rows(&seen, 3, 1));
    Ok(Comparison { labels: vec!["text encoder", "tokens", ""], headings: vec![""], rows })
}

/// Which of `count` towers, and whether they learn: each alone, learning and frozen; every two; all of them.
fn choices(count: usize) -> Vec<(Vec<usize>, bool)> {
    let mut rows: Vec<(Vec<usize>, bool)> =
        (0..count).flat_map(|tower| [true, false].map(|learns| (vec![tower], learns))).collect();
    for first in 0..count {
        rows.extend((first + 1..count).map(|second| (vec![first, second], false)));
    }
    if count > 2 {
        rows.push(((0..count).collect(), false));
    }
    rows
}

/// How many tokens the tower reads: 77 in CLIP, 248 in Long-CLIP.
fn positions(tower: &TextTowerSpec) -> anyhow::Result<usize> {
    let path = &tower.weights;
    let bytes = fs::read(path).with_context(|| format!("{path}: cannot be read"))?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{path}: is no safetensors file"))?;
    let found = file.iter().find(|(key, _)| !key.contains("vis") && POSITIONS.iter().any(|end| key.ends_with(end)));
    let length = found.and_then(|(_, view)| view.shape().first().copied()).unwrap_or(0);
    ensure!(length > 0, "{path}: has no learnt positions");
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::choices;

    #[test]
    fn three_towers_make_the_rows_of_the_paper() {
        let rows = choices(3);
        assert_eq!(rows.len(), 6 + 3 + 1);
        assert_eq!(rows.iter().filter(|(_, learns)| *learns).count(), 3);
        assert!(rows.contains(&(vec![0, 2], false)) && rows.contains(&(vec![0, 1, 2], false)));
        assert_eq!(choices(1), [(vec![0], true), (vec![0], false)]);
        assert_eq!(choices(2).len(), 5);
    }
}
