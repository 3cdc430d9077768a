//! `pcqa-train ablate`: the paper's ablations on any data set, each a table in the paper's shape.
//!
//! What is trained for a table lies in `--out`, a run's folder for each cell, so that a command that was interrupted goes
//! on where it was, and so that no cell is trained twice.

mod bundled;
mod shape;
mod text;
mod trained;

use clap::{Args, Subcommand};

use self::bundled::Bundled;
use self::trained::Trained;

/// Varies one thing and shows what it is worth.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    ablation: Ablation,
}

#[derive(Debug, Subcommand)]
enum Ablation {
    /// Table 3: an expert with each text tower of the settings alone, frozen and learning too, then with two and with all of them
    Text(Trained),
    /// Table 4: every expert of the settings with both mixers
    Mixer(Trained),
    /// Table 5: every expert of a bundle without and with test-time augmentation
    Tta(Bundled),
    /// Table 6: every choice of a bundle's experts
    Ensemble(Bundled),
    /// Figure 4: every expert of the settings by its size, with a plot in --out
    Backbone(Trained),
    /// Figure 5: every expert of the settings at several sides, with a plot in --out
    Resolution {
        /// Sides in pixels, with commas between them
        #[arg(long, value_name = "PIXELS", value_delimiter = ',', default_values_t = [224, 336, 448, 560, 672],
              value_parser = clap::value_parser!(u32).range(1..=4096))]
        sides: Vec<u32>,
        #[command(flatten)]
        trained: Trained,
    },
}

/// Runs the command.
///
/// # Errors
///
/// As training and scoring have them.
pub fn ablate(arguments: &Arguments) -> anyhow::Result<()> {
    let comparison = match &arguments.ablation {
        Ablation::Text(trained) => text::text(trained)?,
        Ablation::Mixer(trained) => trained.mixers()?,
        Ablation::Backbone(trained) => trained.backbones()?,
        Ablation::Resolution { sides, trained } => trained.resolutions(sides)?,
        Ablation::Tta(bundled) => bundled.augmentation()?,
        Ablation::Ensemble(bundled) => bundled.choices()?,
    };
    Ok(super::print(&format!("{}\n", shape::table(&comparison)))?)
}
