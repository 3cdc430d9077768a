//! The model card of a trained bundle: what it is for, what it learnt from, how good it is, and what it is not.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::calibrate::Line;
use super::ensemble::{Member, Test, other_scale};
use super::evaluate::TrackFigures;
use super::statistics::{Figure, Metrics};
use crate::model::{Manifest, Track};

/// Its file in the bundle, which the server leaves aside.
pub(super) const NAME: &str = "MODEL_CARD.md";

/// What the card says.
pub(super) struct Card<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) members: &'a [Member],
    /// Every system's figures, floors among them.
    pub(super) tracks: &'a [TrackFigures],
    /// From z to MOS, of each track alone.
    pub(super) fits: &'a BTreeMap<Track, Line>,
    pub(super) calibration_items: usize,
    /// The data set that the figures are of; None: the calibration's own items.
    pub(super) test: Option<&'a Test>,
    /// The track whose scale the bundle has, where it is not that of both.
    pub(super) scale: Option<Track>,
}

impl Card<'_> {
    /// The card in Markdown.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let manifest = self.manifest;
        let mos = &manifest.mos;
        writeln!(text, "# {} version {}\n", manifest.name, manifest.version)?;
        writeln!(
            text,
            "Scores how well an AI-generated image or video pleases people who know its prompt. A score is on the scale \
             of {}, {} to {}: MOS = {} + {} z, where z is the mean of the experts' normalised scores.\n",
            mos.dataset, mos.min, mos.max, mos.mean, mos.std
        )?;
        writeln!(text, "Licence: {}. {}.\n", manifest.licence, manifest.provenance)?;
        self.write_use(text)?;
        self.write_experts(text)?;
        self.write_figures(text)?;
        self.write_calibration(text)
    }

    fn write_use(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## Intended use\n")?;
        writeln!(
            text,
            "To rank and to filter generated media of the kinds, prompts and generators that it has learnt from. A score \
             is an estimate of a mean opinion, not of anybody's own; it says nothing of truth, safety or taste. Media of \
             other generators than those below, photographs, and prompts in other languages are outside of what was \
             measured. It must not decide about people.\n"
        )
    }

    fn write_experts(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## Experts and data\n")?;
        writeln!(
            text,
            "| expert | track | backbone | input | parameters | data set | trained on | held out | epoch |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
        for member in self.members {
            let (spec, record) = (&member.spec, &member.record);
            let epoch = member.epoch.as_ref().map_or("-".to_owned(), |epoch| epoch.epoch.to_string());
            writeln!(
                text,
                "| {} | {} | {} | {} | {:.2} M | {} | {} | {} | {epoch} of {} |",
                spec.name,
                spec.track.name(),
                spec.backbone.kind.name(),
                spec.input_size,
                record.parameters as f64 / 1e6,
                record.dataset,
                record.train_items,
                record.held_out_items,
                member.settings.recipe.epochs
            )?;
        }
        writeln!(text)?;
        for member in self.members {
            let by = format!("{:?}", member.settings.split.by).to_lowercase();
            let recipe = &member.settings.recipe;
            writeln!(
                text,
                "- {}: items {} (sha256), split by {by}, seed {}, AdamW {:e}, batch {}, {} epochs{}",
                member.spec.name,
                member.record.items_sha256,
                member.settings.seed,
                recipe.learning_rate,
                recipe.batch,
                recipe.epochs,
                member.record.teacher.as_ref().map_or(String::new(), |_| format!("; {}", member.record.sources()))
            )?;
        }
        writeln!(text)
    }

    fn write_figures(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## Figures\n")?;
        match self.test {
            Some(Test { name, prompts, known_prompts, .. }) => writeln!(
                text,
                "Measured on {name}, which nothing was trained, chosen or calibrated on; of its {prompts} prompts experts \
                 learnt {known_prompts} with other files."
            )?,
            None => writeln!(
                text,
                "Measured on the items that no expert was trained on. They are also those that the best epochs and the \
                 calibration were chosen by, so that these figures are somewhat too good."
            )?,
        }
        writeln!(
            text,
            "In brackets: 95 % intervals by bootstrap over prompts. Rows that start with `floor` use no pixel: what a \
             system adds to them is what it sees.\n"
        )?;
        for (track, rows) in self.tracks {
            let items = rows.first().map_or(0, |(_, metrics)| metrics.items);
            let prompts = rows.first().map_or(0, |(_, metrics)| metrics.prompts);
            writeln!(text, "### {}: {items} items, {prompts} prompts\n", title(*track))?;
            writeln!(text, "| system | {} |", Metrics::TITLES.join(" | "))?;
            writeln!(text, "|---|{}", "---|".repeat(Metrics::TITLES.len()))?;
            for (name, metrics) in rows {
                let cells = metrics.figures().map(shown);
                writeln!(text, "| {name} | {} |", cells.join(" | "))?;
            }
            writeln!(text)?;
            if let Some(sentence) = other_scale(self.scale, *track) {
                writeln!(text, "{sentence}\n")?;
            }
            if let Some(gaps) = Metrics::gaps(rows.iter().map(|(_, metrics)| metrics)) {
                writeln!(text, "A dash: {gaps}.\n")?;
            }
        }
        Ok(())
    }

    fn write_calibration(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## Calibration\n")?;
        writeln!(
            text,
            "mu and sigma of every expert, test-time augmentation and number format, and the line from z to MOS, are of \
             {} items that no expert was trained on.",
            self.calibration_items
        )?;
        for (track, line) in self.fits {
            writeln!(text, "Of {}s alone the line would be {} + {} z.", track.name(), line.mean, line.std)?;
        }
        Ok(())
    }
}

fn title(track: Track) -> &'static str {
    match track {
        Track::Image => "Images",
        Track::Video => "Videos",
    }
}

fn shown(figure: Option<Figure>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(Figure { value, interval: None }) => format!("{value:.3}"),
        Some(Figure { value, interval: Some([low, high]) }) => format!("{value:.3} [{low:.3}, {high:.3}]"),
    }
}
