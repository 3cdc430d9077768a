//! Files of predictions: those of other systems, and what `--predict-to` writes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail, ensure};

use super::outcome::Outcome;
use super::system::{Kind, System};
use crate::train::dataset::Item;

/// `[NAME=]FILE` of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PredictionsFile {
    name: String,
    path: PathBuf,
}

impl FromStr for PredictionsFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) if !Path::new(text).exists() => (name.to_owned(), PathBuf::from(path)),
            _ => {
                let stem = Path::new(text).file_stem().unwrap_or_default();
                (stem.to_string_lossy().into_owned(), PathBuf::from(text))
            }
        };
        if name.is_empty() || path.as_os_str().is_empty() {
            return Err("expected FILE or NAME=FILE".to_owned());
        }
        Ok(Self { name, path })
    }
}

impl PredictionsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Names the line of a row that is no name and finite number, or whose name was there before.
    pub(super) fn read(&self) -> anyhow::Result<Predictions> {
        let shown = self.path.display();
        let bytes = fs::read(&self.path).with_context(|| format!("{shown}: cannot be read"))?;
        let scores = parse(&bytes).with_context(|| shown.to_string())?;
        Ok(Predictions { name: self.name.clone(), path: self.path.clone(), scores })
    }
}

/// Another system's predictions, by the names of items.
#[derive(Debug)]
pub(super) struct Predictions {
    name: String,
    path: PathBuf,
    scores: HashMap<String, f64>,
}

impl Predictions {
    /// The predictions for `items`.
    pub(super) fn system(&self, items: &[Item]) -> System {
        let predicted = items.iter().map(|item| Some(self.score(item)?.1)).collect();
        System { name: self.name.clone(), kind: Kind::Predictions, tta: None, predicted }
    }

    /// Says on stderr what fits nothing.
    ///
    /// # Errors
    /// When none of the predictions is for one of `items`, which are all of the data set.
    pub(super) fn check_use(&self, items: &[Item]) -> anyhow::Result<()> {
        let shown = self.path.display();
        let used: HashSet<&str> = items.iter().filter_map(|item| Some(self.score(item)?.0)).collect();
        if used.is_empty() {
            let (given, known) = (self.scores.keys().min(), items.first().map(|item| &item.name));
            bail!("{shown}: no prediction is for an item of the data: names are like {given:?}, items like {known:?}");
        }
        let without = items.iter().filter(|item| self.score(item).is_none()).count();
        if without > 0 {
            eprintln!("{shown}: has no prediction for {without} of {} items", items.len());
        }
        let unused = self.scores.len() - used.len();
        if unused > 0 {
            eprintln!("{shown}: {unused} of {} predictions are for no item of the data", self.scores.len());
        }
        Ok(())
    }

    /// By the item's whole name, else by the name of its file alone.
    fn score(&self, item: &Item) -> Option<(&str, f64)> {
        let file = Path::new(&item.name).file_name().and_then(|name| name.to_str());
        let names = [Some(item.name.as_str()), file];
        let (name, score) = names.into_iter().flatten().find_map(|name| self.scores.get_key_value(name))?;
        Some((name, *score))
    }
}

fn parse(bytes: &[u8]) -> anyhow::Result<HashMap<String, f64>> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let mut scores = HashMap::new();
    let (mut name_at, mut score_at) = (0, 1);
    for (row, record) in reader.records().enumerate() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let column = |title: &str| record.iter().position(|cell| unmarked(cell).eq_ignore_ascii_case(title));
        if row == 0
            && let (Some(name), Some(score)) = (column("name"), column("score"))
        {
            (name_at, score_at) = (name, score);
            continue;
        }
        let (Some(name), Some(score)) = (record.get(name_at), record.get(score_at)) else {
            bail!("line {line}: has {} columns, expected a name and a score", record.len());
        };
        let number: Option<f64> = score.parse().ok().filter(|number: &f64| number.is_finite());
        let Some(number) = number else {
            bail!("line {line}: score: {score:?} is not a finite number");
        };
        ensure!(
            scores.insert(unmarked(name).to_owned(), number).is_none(),
            "line {line}: name: {name:?} is there twice"
        );
    }
    ensure!(!scores.is_empty(), "holds no predictions");
    Ok(scores)
}

/// Without the byte order mark that spreadsheets begin a file with.
fn unmarked(cell: &str) -> &str {
    cell.trim_start_matches('\u{feff}').trim()
}

/// Writes the first system's scores of all tracks to `file`, which appears whole.
pub(super) fn write(file: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    let failed = || format!("{}: cannot be written", file.display());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["name", "score"])?;
    for track in &outcome.tracks {
        let Some(system) = track.systems.first() else { continue };
        for (item, score) in track.items.iter().zip(&system.predicted) {
            if let Some(score) = score {
                writer.write_record([item.name.as_str(), &score.to_string()])?;
            }
        }
    }
    let text = writer.into_inner()?;
    // A link keeps pointing where it does.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if fs::metadata(&file).is_ok_and(|found| !found.is_file()) {
        // A pipe or a device is written to, never replaced.
        return fs::write(&file, text).with_context(failed);
    }
    let partial = file.with_extension("partial");
    fs::write(&partial, text).and_then(|()| fs::rename(&partial, &file)).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Track;

    fn item(name: &str) -> Item {
        let path = name.into();
        let (mos, generator, group) = (None, None, None);
        Item { name: name.to_owned(), path, prompt: "p".to_owned(), mos, generator, group, track: Track::Image }
    }

    fn problem(text: &str) -> String {
        format!("{:#}", parse(text.as_bytes()).unwrap_err())
    }

    #[test]
    fn a_file_has_names_and_scores_with_or_without_a_header() {
        let expected = HashMap::from([("a.png".to_owned(), 1.5), ("b, c.png".to_owned(), -2.0)]);
        let with = "\u{feff}id,Score,name\n1,1.5,a.png\n2,-2,\"b, c.png\"\n";
        for text in ["a.png,1.5\n\"b, c.png\", -2\n", "name,score\r\na.png,1.5\r\n\"b, c.png\",-2", with] {
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_line_that_is_no_prediction_is_named() {
        assert_eq!(problem("a,1\nb\n"), "line 2: has 1 columns, expected a name and a score");
        assert_eq!(problem("name,score\na,good\n"), "line 2: score: \"good\" is not a finite number");
        assert_eq!(problem("a,1\nb,NaN\n"), "line 2: score: \"NaN\" is not a finite number");
        assert_eq!(problem("a,1\na,2\n"), "line 2: name: \"a\" is there twice");
        assert_eq!(problem("name,score\n"), "holds no predictions");
        assert!(problem("a,1\n\u{0}\u{fffd},\n").contains("line 2"));
    }

    #[test]
    fn items_are_found_by_name_or_by_file() {
        let scores = parse(b"train/a.png,1\nb.png,2\n").unwrap();
        let predictions = Predictions { name: "other".to_owned(), path: "other.csv".into(), scores };
        let items = ["train/a.png", "val/b.png", "a.png"].map(item);
        assert_eq!(predictions.system(&items).predicted, [Some(1.0), Some(2.0), None]);
        assert!(predictions.check_use(&items).is_ok());
        let error = predictions.check_use(&[item("c.png")]).unwrap_err();
        assert!(format!("{error}").contains("no prediction is for an item"), "{error}");
    }

    #[test]
    fn a_row_is_named_after_its_file_or_as_asked() {
        let named = |text: &str| text.parse::<PredictionsFile>().map(|file| (file.name, file.path));
        assert_eq!(named("out/stair.csv"), Ok(("stair".to_owned(), "out/stair.csv".into())));
        assert_eq!(named("StairIQA=out/s.csv"), Ok(("StairIQA".to_owned(), "out/s.csv".into())));
        assert!(named("=x").is_err() && named("x=").is_err() && named("").is_err());
    }
}
