//! The chart and what Helm makes of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

/// The oldest version that the chart supports (Chart.yaml), and the newest whose schemas are installed.
pub const OLDEST: &str = "1.31";
pub const NEWEST: &str = "1.37";
/// The first that mounts images as volumes.
pub const WITH_IMAGE_VOLUMES: &str = "1.33";

pub const RELEASE: &str = "pcqa";
pub const NAMESPACE: &str = "scoring";

/// The chart's directory.
pub fn chart() -> PathBuf {
    root().join("deploy/helm/pcqa")
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that `deploy/setup/setup.sh deploy` installs.
pub fn tool(name: &str) -> Command {
    let path = root().join(".deploy/bin").join(name);
    assert!(path.exists(), "{}: is missing; run `deploy/setup/setup.sh deploy`", path.display());
    let mut command = Command::new(path);
    command.current_dir(root());
    command
}

/// What `command` printed, or what it complained of.
pub fn outcome(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if status.success() { Ok(text(stdout)) } else { Err(text(stderr)) }
}

/// `helm template` with `values` for a version of Kubernetes.
pub fn template(release: &str, values: &Path, kubernetes: &str) -> Result<String, String> {
    let mut helm = tool("helm");
    helm.args(["template", release, "--namespace", NAMESPACE, "--kube-version", kubernetes, "--values"]);
    outcome(helm.arg(values).arg(chart()))
}

/// What was rendered on the newest version, by release and values: many tests look at the same objects.
static RENDERED: LazyLock<Mutex<HashMap<(String, PathBuf), String>>> = LazyLock::new(Mutex::default);

/// One file of values that the chart must render.
pub struct Case {
    pub name: String,
    pub values: PathBuf,
}

/// Every file in the chart's ci directory.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = yaml_files(&chart().join("ci"))
        .into_iter()
        .map(|values| Case { name: values.file_stem().unwrap().to_string_lossy().into_owned(), values })
        .collect();
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(cases.len() >= 6, "too few values in ci");
    cases
}

/// The case called `name`.
pub fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

pub fn yaml_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

impl Case {
    /// The oldest version of Kubernetes that can do what it asks for.
    pub fn oldest(&self) -> &'static str {
        let values: Value = read_yaml(&self.values);
        if values.pointer("/bundle/source").is_some_and(|source| source == "image") {
            WITH_IMAGE_VOLUMES
        } else {
            OLDEST
        }
    }

    pub fn objects(&self) -> Objects {
        self.objects_of(RELEASE)
    }

    /// As a release of that name.
    pub fn objects_of(&self, release: &str) -> Objects {
        let key = (release.to_owned(), self.values.clone());
        let known = RENDERED.lock().unwrap().get(&key).cloned();
        let text = known.unwrap_or_else(|| {
            let text = template(release, &self.values, NEWEST).unwrap_or_else(|error| panic!("{}: {error}", self.name));
            RENDERED.lock().unwrap().insert(key, text.clone());
            text
        });
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        Objects(documents.into_iter().filter(|document| !document.is_null()).collect())
    }
}

pub fn read_yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What was rendered.
pub struct Objects(pub Vec<Value>);

impl Objects {
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The server's Deployment, where there is one.
    pub fn deployment(&self) -> Option<&Value> {
        let mut all = self.of("Deployment");
        let deployment = all.next();
        assert!(all.next().is_none(), "two Deployments");
        deployment
    }

    /// Every object that makes pods, with their template.
    pub fn templates(&self) -> Vec<(String, &Value)> {
        let makers = self.of("Deployment").chain(self.of("Job"));
        makers.map(|object| (shown(object), &object["spec"]["template"])).collect()
    }
}

/// Kind and name.
pub fn shown(object: &Value) -> String {
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("expected text: {value}"))
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Every container of a pod's template, those that begin it among them.
pub fn containers(template: &Value) -> Vec<&Value> {
    let spec = &template["spec"];
    list(&spec["initContainers"]).iter().chain(list(&spec["containers"])).collect()
}

/// The server's container.
pub fn server(deployment: &Value) -> &Value {
    let [container] = list(&deployment["spec"]["template"]["spec"]["containers"]) else { panic!("not one container") };
    container
}

/// A container's arguments.
pub fn arguments(container: &Value) -> Vec<&str> {
    list(&container["args"]).iter().map(text).collect()
}

/// The value of `--name=`.
pub fn argument<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    arguments(container).into_iter().find_map(|one| one.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='))
}

/// Whether all of `selector` stands among `labels`, and there is something in it.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(name, value)| labels[name] == *value)
}

/// Bytes of a quantity such as `12Gi`.
pub fn bytes(quantity: &Value) -> u64 {
    let quantity = text(quantity);
    let (number, unit) = quantity.split_at(quantity.find(|c: char| c.is_alphabetic()).unwrap_or(quantity.len()));
    let factor = match unit {
        "" => 1,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => panic!("unit of {quantity}"),
    };
    number.parse::<u64>().unwrap() * factor
}
