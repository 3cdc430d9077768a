//! `steps.csv` of a run: one line a step, appended. It follows the checkpoints: a run that goes on drops the lines that
//! came after the checkpoint it goes on from, and writes them again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::train::checkpoint::replace;

const NAME: &str = "steps.csv";
const HEADER: &str = "step,epoch,learning_rate,loss,gradient_norm,items";

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::train) struct Step {
    /// From 1.
    pub(in crate::train) step: u64,
    /// From 1.
    pub(in crate::train) epoch: u32,
    pub(in crate::train) learning_rate: f64,
    /// Mean squared error of the batch.
    pub(in crate::train) loss: f64,
    /// Before clipping; none where the step was left out.
    pub(in crate::train) gradient_norm: Option<f64>,
    /// Items that could be read.
    pub(in crate::train) items: usize,
}

/// The open file.
#[derive(Debug)]
pub(in crate::train) struct History {
    path: PathBuf,
    file: File,
}

impl History {
    /// Of the run in folder `run`, of which `done` steps are kept.
    pub(in crate::train) fn open(run: &Path, done: u64) -> anyhow::Result<Self> {
        let path = run.join(NAME);
        let mut text = format!("{HEADER}\n");
        for step in read(run)?.into_iter().filter(|step| step.step <= done) {
            text.push_str(&line(&step));
        }
        replace(&path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.with_context(|| format!("{}: cannot be written", path.display()))?;
        Ok(Self { path, file })
    }

    pub(in crate::train) fn append(&mut self, step: &Step) -> anyhow::Result<()> {
        let written = self.file.write_all(line(step).as_bytes());
        written.with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

/// All whole lines of the run in folder `run`; none where it has not begun.
pub(in crate::train) fn read(run: &Path) -> anyhow::Result<Vec<Step>> {
    let path = run.join(NAME);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.split_inclusive('\n').skip(1).filter_map(parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("{}: cannot be read", path.display())),
    }
}

/// Numbers are written so that reading gives the same ones, bit for bit.
fn line(step: &Step) -> String {
    let Step { step, epoch, learning_rate, loss, gradient_norm, items } = step;
    let norm = gradient_norm.map_or(String::new(), |norm| norm.to_string());
    format!("{step},{epoch},{learning_rate:e},{loss},{norm},{items}\n")
}

fn parse(line: &str) -> Option<Step> {
    let mut fields = line.strip_suffix('\n')?.split(',');
    let step = Step {
        step: fields.next()?.parse().ok()?,
        epoch: fields.next()?.parse().ok()?,
        learning_rate: fields.next()?.parse().ok()?,
        loss: fields.next()?.parse().ok()?,
        gradient_norm: fields.next()?.parse().ok(),
        items: fields.next()?.parse().ok()?,
    };
    Some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Step {
        let gradient_norm = (step != 2).then_some(1.0 / 3.0);
        Step { step, epoch: 1, learning_rate: 2e-5, loss: 0.1 + step as f64, gradient_norm, items: 4 }
    }

    #[test]
    fn lines_after_the_checkpoint_are_dropped_and_torn_ones_too() {
        let run = tempfile::tempdir().unwrap();
        let mut history = History::open(run.path(), 0).unwrap();
        (1..=5).for_each(|i| history.append(&step(i)).unwrap());
        let path = run.path().join(NAME);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("6,1,2e-5,0.");
        fs::write(&path, text).unwrap();
        assert_eq!(read(run.path()).unwrap().len(), 5);
        let mut history = History::open(run.path(), 3).unwrap();
        history.append(&step(4)).unwrap();
        assert_eq!(read(run.path()).unwrap(), (1..=4).map(step).collect::<Vec<_>>());
    }
}
