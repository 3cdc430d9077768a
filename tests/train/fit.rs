//! Runs of `pcqa-train fit` on a few made-up pictures: whether they learn, survive and end as promised.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::runs::{MATERIAL, Run, SHORT, refuse, stderr, succeed, train};

#[test]
fn an_expert_learns_what_can_be_seen() {
    let run = Run::new("fresh = true\n[recipe]\nepochs = 12\nbatch = 8\nlearning_rate = 3e-3\n");
    succeed(&mut run.begin(&[]));
    let losses = run.losses();
    assert_eq!(losses.len(), 12 * 4);
    let progress = fs::read_to_string(run.folder().join("best/progress.json")).unwrap();
    let progress: serde_json::Value = serde_json::from_str(&progress).unwrap();
    let best = progress["epochs"].as_array().unwrap().last().unwrap();
    assert!(best["srcc"].as_f64().unwrap() > 0.7, "{best}");
    for name in ["run.toml", "record.json", "split.csv", "held_out.csv", "report.html"] {
        assert!(run.folder().join(name).is_file(), "{name}");
    }
}

#[test]
fn a_run_is_the_same_every_time_and_another_with_another_seed() {
    let (one, same, other) = (Run::new(SHORT), Run::new(SHORT), Run::new(&format!("seed = 2\n{SHORT}")));
    succeed(&mut one.begin(&[]));
    succeed(&mut same.begin(&["--loaders", "3"]));
    succeed(&mut other.begin(&[]));
    assert_eq!(one.losses(), same.losses());
    assert_ne!(one.losses(), other.losses());
    let weights = |run: &Run| fs::read(run.folder().join("last/backbone.safetensors")).unwrap();
    assert!(weights(&one) == weights(&same));
}

#[test]
fn a_run_that_is_killed_goes_on_as_if_it_had_not_been() {
    let whole = Run::new(SHORT);
    succeed(&mut whole.begin(&[]));
    let expected = whole.losses();
    let killed = Run::new(SHORT);
    let mut child = killed.begin(&[]).spawn().unwrap();
    // Each time at another step, until one start reaches the end.
    let mut goals = (2..).step_by(5);
    loop {
        let goal = goals.next().unwrap();
        if kill_after(&mut child, &killed, goal) {
            break;
        }
        let seen = killed.losses();
        assert_eq!(seen[..], expected[..seen.len()]);
        if killed.folder().join("run.toml").exists() {
            child = killed.resume().spawn().unwrap();
        } else {
            child = killed.begin(&[]).spawn().unwrap();
        }
    }
    assert_eq!(killed.losses(), expected);
    for file in ["backbone.safetensors", "head.safetensors", "optimiser.safetensors", "progress.json"] {
        let read = |run: &Run| fs::read(run.folder().join("last").join(file)).unwrap();
        assert!(read(&killed) == read(&whole), "{file}");
    }
}

#[test]
fn a_run_that_is_told_to_stop_keeps_its_last_step() {
    // Long, so that it is not at its end before it is told; no checkpoint but those of epochs and the one of the stop.
    let settings = SHORT.replace("epochs = 3", "epochs = 12").replace("checkpoint_steps = 3", "checkpoint_steps = 0");
    let whole = Run::new(&settings);
    succeed(&mut whole.begin(&[]));
    for signal in [Signal::INT, Signal::TERM] {
        let stopped = Run::new(&settings);
        let child = stopped.begin(&[]).spawn().unwrap();
        while stopped.steps() < 2 {
            std::thread::sleep(Duration::from_millis(2));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ending = child.wait_with_output().unwrap();
        assert_eq!(ending.status.code(), Some(1));
        let (steps, said) = (stopped.losses().len(), stderr(&ending));
        assert!(said.contains(&format!("stopped by a signal after step {steps} of 108")), "{said}");
        succeed(&mut stopped.resume());
        assert_eq!(stopped.losses(), whole.losses());
    }
}

#[test]
fn half_precision_goes_on_with_its_loss_scale() {
    let settings = SHORT.replace("learning_rate", "precision = \"fp16\"\nlearning_rate");
    let whole = Run::new(&settings);
    succeed(&mut whole.begin(&[]));
    let killed = Run::new(&settings);
    let mut child = killed.begin(&[]).spawn().unwrap();
    if !kill_after(&mut child, &killed, 5) {
        succeed(&mut killed.resume());
    }
    assert_eq!(killed.losses(), whole.losses());
    let progress = |run: &Run| -> serde_json::Value {
        serde_json::from_slice(&fs::read(run.folder().join("last/progress.json")).unwrap()).unwrap()
    };
    assert_eq!(progress(&killed), progress(&whole));
    // A step may overflow, which halves the scale and is left out; most do not.
    let scale = &progress(&whole)["loss_scale"];
    let (scale, good) = (scale["scale"].as_f64().unwrap(), scale["good"].as_u64().unwrap());
    assert!((1024.0..=65536.0).contains(&scale) && good > 9, "{scale} {good}");
}

/// Kills `child` as soon as `run` has `steps` lines; true where it ended by itself first.
fn kill_after(child: &mut Child, run: &Run, steps: u64) -> bool {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        if run.steps() >= steps {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn parts_of_a_batch_add_up_to_the_batch() {
    // ConvNeXt has no batch norm, so that only rounding tells them apart.
    let whole = Run::new(SHORT);
    let parts = Run::new(&SHORT.replace("batch = 4", "batch = 4\nmicro_batch = 2"));
    succeed(&mut whole.begin(&[]));
    succeed(&mut parts.begin(&[]));
    let loss = |run: &Run| -> Vec<f64> {
        run.losses().iter().map(|(_, line)| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
    };
    let (whole, parts) = (loss(&whole), loss(&parts));
    assert_eq!(whole.len(), parts.len());
    for (whole, parts) in whole.iter().zip(&parts).take(5) {
        assert!((whole - parts).abs() < 1e-3 * whole.max(0.1), "{whole} {parts}");
    }
}

#[test]
fn a_finished_run_has_nothing_left_to_do() {
    let run = Run::new(SHORT);
    succeed(&mut run.begin(&[]));
    let losses = run.losses();
    succeed(&mut run.resume());
    assert_eq!(run.losses(), losses);
    let said = refuse(&mut run.begin(&[]));
    assert!(said.contains("holds a run already"), "{said}");
}

#[test]
fn a_run_is_not_mixed_with_its_data() {
    let data = MATERIAL.path("data");
    let run = Run::new(SHORT);
    let mut command = train(&["fit", "--expert", "image_convnext", "--data"]);
    command.arg(&data).arg("--config").arg(run.folder().with_file_name("settings.toml")).arg("--out").arg(&data);
    let said = refuse(&mut command);
    assert!(said.contains("is the folder of the data; a run needs one of its own"), "{said}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_leaves_its_checkpoints() {
    let run = Run::new(&SHORT.replace("1e-3", "1e30").replace("[keep]", "warmup = 0.0\n[keep]"));
    let said = refuse(&mut run.begin(&[]));
    assert!(said.contains("no finite number") && said.contains("recipe.learning_rate"), "{said}");
    assert!(run.losses().len() < 27);
}

#[test]
fn unreadable_items_are_left_out_up_to_a_share() {
    let data = tempfile::tempdir().unwrap();
    copy(Path::new(&MATERIAL.path("data")), data.path());
    fs::write(data.path().join("7.png"), b"not a picture").unwrap();
    let begin = |run: &Run| {
        let mut command = train(&["fit", "--expert", "image_convnext"]);
        command.arg("--data").arg(data.path()).arg("--config").arg(run.directory.path().join("settings.toml"));
        run.finish(command, &[])
    };
    let patient = Run::new(&format!("{SHORT}unreadable = 0.1\n"));
    let output = succeed(&mut begin(&patient));
    assert!(stderr(&output).contains("7.png"), "{}", stderr(&output));
    let strict = Run::new(&format!("{SHORT}unreadable = 0.0\n"));
    let said = refuse(&mut begin(&strict));
    assert!(said.contains("keep.unreadable") && said.contains("7.png"), "{said}");
}

#[test]
fn data_that_changed_under_a_run_is_refused() {
    let data = tempfile::tempdir().unwrap();
    copy(Path::new(&MATERIAL.path("data")), data.path());
    let run = Run::new(SHORT);
    let mut command = train(&["fit", "--expert", "image_convnext"]);
    command.arg("--data").arg(data.path()).arg("--config").arg(run.directory.path().join("settings.toml"));
    succeed(&mut run.finish(command, &[]));
    let list = data.path().join("info.csv");
    let text = fs::read_to_string(&list).unwrap().replacen("number 3", "number three", 1);
    fs::write(&list, text).unwrap();
    let said = refuse(&mut run.resume());
    assert!(said.contains("not what the run began with"), "{said}");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    for (settings, expected) in [
        ("[recipe]\nepochs = 0\n", "recipe.epochs: is 0, expected 1 to 100000"),
        ("[recipe]\nlearning_rate = -1.0\n", "recipe.learning_rate: is -1, expected more than 0"),
        ("[recipe]\nepoch = 3\n", "recipe"),
        ("[split]\nfolds = 5\n", "split.fold: is missing"),
        ("[split]\nheld_out = 1.0\n", "split.held_out: is 1, expected 0 to below 1"),
        ("[recipe]\nbatch = -3\n", "recipe.batch: invalid value: integer `-3`, expected a whole number, 1 to 65536"),
        ("[recipe]\nwarmup = \"a bit\"\n", "recipe.warmup: invalid type: string \"a bit\", expected a number, 0 to 1"),
        ("[recipe]\ntrain_text = 1\n", "recipe.train_text: invalid type: integer `1`, expected true or false"),
        ("seed = -1\n", "seed: invalid value: integer `-1`, expected a whole number, at least 0"),
        ("[augmentation]\nflip = 2.0\n", "augmentation.flip: 2 is not from 0 to 1"),
        ("device = \"tpu\"\n", "device"),
    ] {
        let run = Run::new(settings.strip_prefix("device").map_or(settings, |_| ""));
        if settings.starts_with("device") {
            let all = format!("bundle = {:?}\n{settings}", MATERIAL.path("bundle"));
            fs::write(run.directory.path().join("settings.toml"), all).unwrap();
        }
        let said = refuse(&mut run.begin(&[]));
        assert!(said.contains(expected), "{settings}: {said}");
        assert!(!run.folder().exists());
    }
}

#[test]
fn every_item_is_held_out_by_one_fold() {
    let mut held_out = Vec::new();
    for fold in ["0", "1", "2"] {
        let run = Run::new("[recipe]\nepochs = 1\nbatch = 16\n");
        succeed(&mut run.begin(&["--folds", "3", "--fold", fold]));
        let split = fs::read_to_string(run.folder().join("split.csv")).unwrap();
        let rows = split.lines().filter_map(|line| line.strip_suffix(",held_out"));
        held_out.extend(rows.map(|row| row.split(',').next().unwrap().to_owned()));
    }
    held_out.sort();
    held_out.dedup();
    assert_eq!(held_out.len(), 48);
}

#[test]
fn a_run_whose_weights_are_no_numbers_has_no_best_epoch() {
    let run = Run::new("[recipe]\nepochs = 1\nbatch = 64\nlearning_rate = 1e30\n");
    let said = refuse(&mut run.begin(&[]));
    assert!(said.contains("is no number"), "{said}");
    assert!(!run.folder().join("best").exists());
}

#[test]
fn more_folds_than_prompts_are_refused() {
    let run = Run::new("[recipe]\nepochs = 1\nbatch = 16\n");
    let said = refuse(&mut run.begin(&["--folds", "60", "--fold", "59"]));
    assert!(said.contains("split.folds: is 60"), "{said}");
    let said = refuse(&mut run.begin(&["--folds", "5"]));
    assert!(said.contains("fold 4, split by prompt, holds no image item out"), "{said}");
    assert_eq!(fs::read_dir(run.folder()).unwrap().count(), 0, "not one fold was trained");
}

#[test]
fn cross_validation_holds_every_part_out_and_sums_up() {
    let run = Run::new("[recipe]\nepochs = 1\nbatch = 16\n");
    let page = String::from_utf8(succeed(&mut run.begin(&["--folds", "3"])).stdout).unwrap();
    for fold in 0..3 {
        assert!(run.folder().join(format!("fold-{fold}/held_out.csv")).exists(), "fold {fold}");
        assert!(page.contains(&format!("fold {fold} ")), "{page}");
    }
    let items = |name: &str| -> String {
        let line = page.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{page}"));
        line.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!([items("mean of the folds"), items("all folds together")], ["48", "48"]);
    assert_eq!(["fold 0", "fold 1", "fold 2"].map(|name| items(name).parse::<u32>().unwrap()).iter().sum::<u32>(), 48);
    assert_eq!(items("floor: prompt"), "48");
    // Runs that are done stay as they are, and the table is the same.
    let again = String::from_utf8(succeed(&mut run.begin(&["--folds", "3"])).stdout).unwrap();
    let table = |page: &str| page[page.find("every part held out once").unwrap()..].to_owned();
    assert_eq!(table(&again), table(&page));
    let said = stderr(&succeed(&mut run.resume()));
    assert!(said.contains("3 runs are finished"), "{said}");
}

#[test]
fn a_run_goes_on_with_the_towers_that_it_began_with_alone() {
    let run = Run::new("[recipe]\nepochs = 1\nbatch = 16\n");
    let towers = run.directory.path().join("towers");
    let written = |seed: &str| {
        let mut init = train(&["init", "--seed", seed, "--force", "--out"]);
        succeed(init.arg(&towers));
    };
    written("2");
    let settings = run.directory.path().join("settings.toml");
    let all = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, all.replace(&MATERIAL.path("bundle"), &towers.to_string_lossy())).unwrap();
    succeed(&mut run.begin(&[]));
    succeed(&mut run.resume());
    written("3");
    let said = refuse(&mut run.resume());
    assert!(said.contains("is not the file that the run began with, whose SHA-256 is"), "{said}");
    let mut ensemble = train(&["ensemble", "--dtypes", "f32", "--runs"]);
    let said = refuse(ensemble.arg(run.folder()).arg("--out").arg(run.directory.path().join("ensemble")));
    assert!(said.contains("is not the text tower that the experts learnt with"), "{said}");
}

#[test]
fn items_that_all_belong_together_cannot_be_split() {
    let run = Run::new("[split]\nby = \"generator\"\n[recipe]\nepochs = 1\nbatch = 16\n");
    let said = refuse(&mut run.begin(&[]));
    assert!(said.contains("split.by: is generator, but all 48 items belong together by it"), "{said}");
    assert!(!run.folder().exists());
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn what_becomes_of_upstream_tensors_is_said() {
    let weights = Path::new(&MATERIAL.path("bundle")).join("backbone_image_convnext.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let classifier = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
    let own = file.iter().filter(|(key, _)| *key != "stages.0.blocks.0.gamma");
    let directory = tempfile::tempdir().unwrap();
    let upstream = directory.path().join("upstream.safetensors");
    let all: Vec<_> = own.chain([("head.fc.weight", classifier)]).collect();
    fs::write(&upstream, safetensors::serialize(all, None).unwrap()).unwrap();

    let run = Run::new(&format!(
        "[recipe]\nepochs = 1\nbatch = 16\n[[experts]]\nname = \"image_convnext\"\ntrack = \"image\"\nmixer = \"dot\"\n\
         input_size = 64\nlatent = 8\nhidden = 8\npretrained = {upstream:?}\n[experts.backbone]\nkind = \"convnext\"\n\
         weights = {weights:?}\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
    ));
    let said = stderr(&succeed(&mut run.begin(&[])));
    for part in ["1 ignored, 1 missing", "ignored head.fc.weight", "missing stages.0.blocks.0.gamma"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let head = fs::read(run.folder().join("last/head.safetensors")).unwrap();
    let head = SafeTensors::deserialize(&head).unwrap();
    assert_eq!(head.tensor("mlp.fc1.weight").unwrap().shape(), [8, 8]);
}
