//! What `fit --help` says of settings and runs.

/// The settings can be copied from a terminal of 80 columns: no line of them is wrapped.
pub(super) const HELP: &str = r#"A settings file with all that it may say, the paper's values and what others may be (paths are relative to it):

    seed = 1
    bundle = "init"          # text towers and experts of a bundle;
                             # `pcqa-train init` writes an untrained one,
                             # `export` the one that is compiled in
    fresh = false            # true: draw all the experts' weights anew, by seed
    max_frames = 16          # most frames of a video, 1 to 64
    device = "auto"          # cpu | cuda | cuda:N | auto
    threads = 0              # CPU threads of one operation, up to 1024;
                             # 0: one per core

    [split]
    by = "prompt"            # what training and held-out items may not share:
                             # random (nothing) | prompt | generator | group
    held_out = 0.1           # share of the items, 0 to below 1
    # folds = 5              # instead: this many parts, at least 2,
    # fold = 0               # of which this one is held out, from 0

    [recipe]
    epochs = 50              # 1 to 100000
    batch = 16               # items of one step, 1 to 65536
    micro_batch = 0          # items on the device at once; 0: the whole batch
    learning_rate = 2e-5     # the highest, more than 0
    warmup = 0.05            # share of all steps, 0 to 1
    weight_decay = 1e-2      # 0 to below 1
    clip = 1.0               # longest gradient, more than 0
    precision = "auto"       # f32 | bf16 | fp16 | auto: bf16 on CUDA, else f32
    train_text = false       # true: the text towers too, only to compare

    [augmentation]
    flip = 0.5               # probability of a mirror image, 0 to 1
    crop_area = 0.85         # smallest share of the area, above 0 to 1
    crop_aspect = 1.05       # most change of width to height, 1 (none) to 2
    brightness = 0.05        # most change of the levels, 0 (none) to 1
    contrast = 0.05          # most change of their distances, 0 (none) to 1

    [keep]
    checkpoint_steps = 500   # beside the one after every epoch; 0: no others
    unreadable = 0.01        # most items, as a share, that may be unreadable

    # Instead of a bundle, or in place of a part of it: the sections [text] and
    # [[experts]] of a bundle's description (`pcqa-train bundle --help`), where
    # an expert may also have
    #   pretrained = "upstream.safetensors"   # replaces the tensors of
    #                                         # backbone.weights that it has
    #   latent = 1024                         # widths of a new head, where
    #   hidden = 1024                         # `head` is left out, 1 to 65536
    # A video expert may begin as an image expert, with its backbone and its
    # head: of a still clip it says at first nearly what that one says
    # of a frame.

    # A student: see `pcqa-train distil --help`
    # [teacher]
    # bundle = "ensemble"
    # share = 0.5            # of the teacher's z in the loss, 0 to 1
    # tta = true

Every epoch shuffles the items; those that do not fill a last batch sit it out, others in the next epoch. Its end judges the held-out items, and the best epoch is the one with the highest main score, (SRCC + PLCC) / 2, on them; where nothing is held out, it is the last one.

A run's folder has its settings with every default (run.toml), what it began with (record.json), who was trained on (split.csv), every step's loss (steps.csv), the best epoch's predictions (held_out.csv), checkpoints with the links `last` and `best`, event files for TensorBoard (events), and a page (report.html). Ctrl-C or SIGTERM ends a run after the step that is under way, with a checkpoint; a second one ends it at once. A run that was stopped or killed goes on with --resume and has the same losses as if it had not been. Of several experts (`--expert all`) or folds (`--folds`), the same command again goes on with what was begun, leaves what is finished as it is, and begins the rest."#;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::HELP;
    use crate::train::config::{Settings, TeacherSettings};

    /// The settings as they are copied.
    fn shown() -> String {
        HELP.lines().filter(|line| line.starts_with("    ")).map(|line| format!("{line}\n")).collect()
    }

    fn read(text: &str) -> (Settings, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("settings.toml");
        fs::write(&path, text).unwrap();
        let place = |name| path.with_file_name(name).to_string_lossy().into_owned();
        let mut settings = Settings::read(&path).unwrap();
        assert_eq!(settings.bundle.take(), Some(place("init")));
        (settings, place("ensemble"))
    }

    #[test]
    fn the_settings_shown_can_be_pasted_and_are_the_defaults() {
        assert!(shown().lines().all(|line| line.chars().count() <= 80), "{}", shown());
        assert_eq!(read(&shown()).0, Settings::default());
    }

    #[test]
    fn what_is_commented_out_can_be_said() {
        let mut text = shown();
        for line in ["folds =", "fold =", "[teacher]", "bundle = \"ens", "share =", "tta ="] {
            let hidden = format!("    # {line}");
            assert!(text.contains(&hidden), "{line}");
            text = text.replace(&hidden, line);
        }
        let (settings, ensemble) = read(&text);
        assert_eq!((settings.split.folds, settings.split.fold), (Some(5), Some(0)));
        let teacher = TeacherSettings { bundle: Some(ensemble), ..TeacherSettings::default() };
        assert_eq!(settings.teacher, Some(teacher));
    }
}
