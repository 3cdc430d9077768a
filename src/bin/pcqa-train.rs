//! `pcqa-train`: looks at data sets, trains experts, makes and judges bundles.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use pcqa::model::Bundle;
use pcqa::train::{
    AblateArguments, CheckArguments, ConvertArguments, DistilArguments, EnsembleArguments, EvaluateArguments,
    FitArguments, Preset, ablate, assemble, check, convert, describe, distil, ensemble, evaluate, export, fetch, fit,
    initialise, pretrain, print, synth, try_out,
};

/// Takes labelled images and videos to the bundles that pcqa-server serves, and judges them.
///
/// Exits with 0 when done, 1 when something failed, 2 for wrong arguments.
#[derive(Parser)]
#[command(name = "pcqa-train", version, after_help = THE_WAY)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train an expert by the paper's recipe.
    Fit(FitArguments),
    /// Bundle trained experts, calibrated for serving.
    Ensemble(EnsembleArguments),
    /// Train an expert to say what an ensemble says.
    Distil(DistilArguments),
    /// Make one of the paper's ablation tables.
    Ablate(AblateArguments),
    /// Say what is in a data set and what is wrong with it.
    Check(CheckArguments),
    /// Score a labelled data set, and say how well the scores follow its opinions.
    Evaluate(EvaluateArguments),
    /// Assemble a bundle from weights with upstream's names and a description of them.
    #[command(after_help = DESCRIPTION)]
    Bundle {
        /// TOML file that describes the bundle; see below.
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
        /// Directory to write; it appears only when every network has been loaded and has scored.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Replace a bundle that is there already.
        #[arg(long)]
        force: bool,
    },
    /// Print what a bundle is, after looking at every number of it and scoring with it.
    Inspect {
        /// Directory of the bundle.
        #[arg(value_name = "DIR", required_unless_present = "demo", conflicts_with = "demo")]
        directory: Option<PathBuf>,
        /// The bundle that is compiled in.
        #[arg(long)]
        demo: bool,
    },
    /// Write the bundle that is compiled in to a directory, for runs that start from its networks.
    Export {
        /// Directory to write.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Replace a bundle that is there already.
        #[arg(long)]
        force: bool,
    },
    /// Write a bundle of made-up, untrained weights, to try and to measure the service with.
    Init {
        /// Sizes of the networks.
        #[arg(long, value_enum, default_value_t = Preset::Demo)]
        preset: Preset,
        /// Every seed gives other weights, the same seed always the same.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Directory to write.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Replace a bundle that is there already.
        #[arg(long)]
        force: bool,
    },
    /// Fetch public checkpoints to train from: text towers and backbones, from the Hugging Face hub.
    #[command(after_help = fetch::HELP)]
    Fetch(fetch::Arguments),
    /// Take one network out of a checkpoint that you have: a text tower or a backbone, as safetensors.
    Convert(ConvertArguments),
    /// Teach the networks of an untrained bundle to tell what prompts ask for and what scenes show.
    Pretrain(pretrain::Arguments),
    /// Render data with a known truth: pictures and clips for prompts, broken and labelled.
    #[command(after_help = synth::TRUTH)]
    Synth(synth::Arguments),
}

const THE_WAY: &str = r#"From data to a server, here on rendered scenes; a list of your own has the columns path, prompt and mos:

    pcqa-train synth --part train --images 400 --out scenes
    pcqa-train synth --part test --images 200 --out unseen
    pcqa-train check --data scenes
    pcqa-train init --out untrained
    echo 'bundle = "untrained"' > run.toml
    echo 'recipe = { epochs = 10, batch = 8, learning_rate = 1e-3 }' >> run.toml
    pcqa-train fit --data scenes --config run.toml --expert all --out runs
    pcqa-train ensemble --runs runs/* --out judge
    pcqa-train evaluate --data unseen --bundle judge
    pcqa-server --bundle judge

That takes minutes and shows the way; a judge takes more data and epochs, or weights that have seen some: `fit --help` says how a run starts from them. The help of every command says what it writes."#;

const DESCRIPTION: &str = r#"A description, with one image expert (paths are relative to it):

    schema = 1
    name = "my-judge"
    version = "1"
    trained = true
    licence = "Apache-2.0"
    provenance = "fine-tuned on ..."
    max_frames = 16               # most frames of a video, 1 to 64

    [mos]                         # mos = mean + std * z
    dataset = "AIGIQA-20K"
    mean = 2.93
    std = 0.71
    min = 1.0
    max = 5.0

    [text]
    tokenizer = "clip/tokenizer.json"
    context_length = 77
    l2_norm = true
    [[text.towers]]               # concatenated in this order
    name = "eva"
    weights = "eva02_large_patch14_clip_224/open_clip_model.safetensors"
    activation = "gelu"           # gelu | quick_gelu
    # heads = 12                  # default: width / 64

    [[experts]]
    name = "image_convnext"
    track = "image"               # image | video
    head = "heads/image_convnext.safetensors"
    input_size = 448
    mixer = "concat"              # concat | dot
    # temporal_activation = "relu"
    # adapter_activation = "none"
    # head_activation = "gelu"
    [experts.backbone]
    kind = "convnext"             # or efficientvit, eva02, resnet, vit
    weights = "convnext_small.fb_in22k_ft_in1k_384/model.safetensors"
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    # heads = 12                  # eva02 and vit only; default: width / 64
    # rope_reference = 16         # eva02 only; default: 16

    [[calibration]]               # one per expert and setting to be served
    expert = "image_convnext"
    tta = false
    input_size = 448
    dtypes = ["f32", "bf16"]
    mu = 0.05
    sigma = 0.5

The bundle gets its own copies of all files, under its own names, and their SHA-256."#;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pcqa-train: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Fit(arguments) => fit(&arguments),
        Command::Ensemble(arguments) => ensemble(&arguments),
        Command::Distil(arguments) => distil(&arguments),
        Command::Ablate(arguments) => ablate(&arguments),
        Command::Check(arguments) => {
            let (text, verdict) = check(&arguments)?;
            print(&text)?;
            verdict
        }
        Command::Bundle { spec, out, force } => show(&assemble(&spec, &out, force)?),
        Command::Inspect { directory: Some(directory), .. } => {
            let named = || directory.display().to_string();
            let bundle = Bundle::open(&directory).with_context(named)?;
            try_out(&bundle).with_context(named)?;
            show(&bundle)
        }
        Command::Inspect { directory: None, .. } => show(&Bundle::demo()?),
        Command::Export { out, force } => show(&export(&out, force)?),
        Command::Evaluate(arguments) => evaluate(&arguments),
        Command::Init { preset, seed, out, force } => show(&initialise(preset, seed, &out, force)?),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Convert(arguments) => Ok(print(&convert(&arguments)?)?),
        Command::Pretrain(arguments) => show(&pretrain::run(&arguments)?),
        Command::Synth(arguments) => Ok(print(&synth::run(&arguments)?)?),
    }
}

fn show(bundle: &Bundle) -> anyhow::Result<()> {
    Ok(print(&describe(bundle)?)?)
}
