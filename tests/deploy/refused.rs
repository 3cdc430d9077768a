//! Values that cannot work are refused before anything is installed, by a message that names the value.

use std::path::Path;

use super::chart::{NEWEST, OLDEST, RELEASE, case, root, template, yaml_files};

/// Each file begins with `# refused: ` and what the message must say.
#[test]
fn bad_values_are_refused_by_name() {
    let files = yaml_files(&root().join("tests/deploy/refused"));
    assert!(files.len() >= 20, "too few bad values");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let says = text.lines().next().and_then(|line| line.strip_prefix("# refused: ")).unwrap();
        let message = match template(RELEASE, &path, NEWEST) {
            Ok(_) => panic!("{}: is taken", path.display()),
            Err(message) => message,
        };
        assert!(message.contains(says), "{}: {message}", path.display());
    }
}

#[test]
fn nothing_installs_unless_it_is_said_who_may_call() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().join("values.yaml");
    std::fs::write(&nothing, "{}\n").unwrap();
    let message = template(RELEASE, &nothing, NEWEST).unwrap_err();
    assert!(message.contains("/access/keysSecret/name"), "{message}");
}

#[test]
fn what_a_cluster_cannot_do_is_refused() {
    let images = case("image-volume");
    assert!(images.oldest() != OLDEST);
    let message = template(RELEASE, &images.values, OLDEST).unwrap_err();
    assert!(message.contains("bundle.source: is image"), "{message}");
    let too_old = template(RELEASE, &case("cpu").values, "1.30").unwrap_err();
    assert!(too_old.contains("kubeVersion"), "{too_old}");
}

/// Values that differ from these by nothing but what is wrong with them are taken.
#[test]
fn what_is_refused_is_nearly_right() {
    let base = Path::new("tests/deploy/refused/base.yml");
    template(RELEASE, &root().join(base), NEWEST).unwrap();
}
