//! Downloads that go well: what a folder holds then, and what the hub was asked for it.

use std::fs;
use std::process::Command;

use safetensors::SafeTensors;

use crate::hub::{Hub, hex};
use crate::support::{CONVNEXT, DFN, EVA, Place, convnext, dfn, eva, refuse, succeed};

const ALL: [&str; 5] = ["convnext-small", "eva02-b-16", "dfn5b-vit-h-14", "--accept-licence", "dfn5b-vit-h-14"];

#[test]
fn a_folder_holds_weights_settings_and_where_they_came_from() {
    let (hub, place) = (Hub::new(vec![eva(), dfn(), convnext()]), Place::new());
    let said = succeed(&mut place.fetch(&hub, &ALL));
    for part in ["licence apache-2.0", "licence mit", "apple-sample-code-license, which restricts", "--expert all"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let record: toml::Table = place.read("out/fetched.toml").parse().unwrap();
    let models = record["models"].as_array().unwrap();
    assert_eq!(models.len(), 3);
    for model in models {
        let (repository, text) = (model["repository"].as_str().unwrap(), |key: &str| model[key].as_str().unwrap());
        let written = fs::read(place.at("out").join(text("written"))).unwrap();
        assert_eq!(text("written_sha256"), hex(&written));
        let known = [eva(), dfn(), convnext()].into_iter().find(|known| known.name == repository).unwrap();
        assert_eq!(text("commit"), known.commit);
        assert_eq!(text("sha256"), hex(&known.files.last().unwrap().1));
        assert!(place.blob(repository, text("sha256")).is_file());
        let snapshot = place.blob(repository, "").join("../snapshots").join(text("commit")).join(text("file"));
        assert_eq!(hex(&fs::read(snapshot).unwrap()), text("sha256"));
    }
    let tower = fs::read(place.at("out/text_eva02-b-16.safetensors")).unwrap();
    assert!(SafeTensors::deserialize(&tower).unwrap().tensor("text_projection").is_ok());
    let run: toml::Table = place.read("out/run.toml").parse().unwrap();
    let names = |list: &toml::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&run["text"]["towers"]), ["dfn5b-vit-h-14", "eva02-b-16"]);
    assert_eq!(names(&run["experts"]), ["image_convnext", "video_convnext"]);
    assert!(place.at("out/tokenizer.json").is_file());
    // Training takes the settings: what it lacks is data.
    let mut fit = Command::new(env!("CARGO_BIN_EXE_pcqa-train"));
    fit.args(["fit", "--expert", "image_convnext", "--data"]).arg(place.at("data")).arg("--config");
    let said = refuse(fit.arg(place.at("out/run.toml")).arg("--out").arg(place.at("run")));
    assert!(said.contains(&place.at("data").display().to_string()), "{said}");
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    let written = place.at("out/text_eva02-b-16.safetensors");
    let before = fs::read(&written).unwrap();
    let asked = hub.state().requests.len();
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert_eq!(hub.state().requests.len(), asked);
    // Broken, in another format: made again, of the download that is there, at the same commit.
    fs::write(&written, vec![0; before.len()]).unwrap();
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(fs::read(&written).unwrap() == before);
    succeed(&mut place.fetch(&hub, &["eva02-b-16", "--dtype", "bf16"]));
    assert!(fs::read(&written).unwrap().len() < before.len());
    assert_eq!(hub.content_requests().len(), 1);
    let pinned = format!("/revision/{}", eva().commit);
    assert!(hub.state().requests.last().unwrap().path.contains(&pinned));
}

#[test]
fn revisions_are_what_was_asked_for() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    succeed(&mut place.fetch(&hub, &["eva02-b-16", "--revision", "eva02-b-16=v1.0"]));
    assert!(hub.state().requests[0].path.contains("/revision/v1.0?"));
    assert!(place.read("out/fetched.toml").contains("revision = \"v1.0\""));
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16", "--revision", "eva02-b-16=v9"]));
    assert!(said.contains("there is no such revision (HTTP 404; the hub says: Invalid rev id"), "{said}");
}

#[test]
fn a_branch_is_looked_up_where_it_is_named() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    let moved = "b".repeat(40);
    hub.state().repositories[0].commit.clone_from(&moved);
    let said = succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(said.contains("eva02-b-16: is there") && place.read("out/fetched.toml").contains(&eva().commit), "{said}");
    succeed(&mut place.fetch(&hub, &["eva02-b-16", "--revision", "eva02-b-16=main"]));
    assert!(place.read("out/fetched.toml").contains(&format!("commit = \"{moved}\"")));
    let said = succeed(&mut place.fetch(&hub, &["eva02-b-16", "--revision", "eva02-b-16=main"]));
    assert!(said.contains("eva02-b-16: is there"), "{said}");
}

#[test]
fn settings_follow_what_is_fetched_until_somebody_changes_them() {
    let (hub, place) = (Hub::new(vec![eva(), dfn(), convnext()]), Place::new());
    succeed(&mut place.fetch(&hub, &["eva02-b-16", "convnext-small"]));
    assert!(!place.read("out/run.toml").contains("dfn5b"));
    let more = ["dfn5b-vit-h-14", "--accept-licence", "dfn5b-vit-h-14"];
    succeed(&mut place.fetch(&hub, &more));
    assert!(place.read("out/run.toml").contains("dfn5b"));
    let mine = place.read("out/run.toml").replace("dfn5b", "mine");
    fs::write(place.at("out/run.toml"), &mine).unwrap();
    let said = succeed(&mut place.fetch(&hub, &more));
    assert!(said.contains("run.toml: has been changed, and is kept as it is"), "{said}");
    assert_eq!(place.read("out/run.toml"), mine);
}

#[test]
fn two_at_once_fill_one_folder() {
    let (hub, place) = (Hub::new(vec![eva(), convnext()]), Place::new());
    let mut both = ["eva02-b-16", "convnext-small"].map(|model| place.fetch(&hub, &[model]).spawn().unwrap());
    assert!(both.iter_mut().all(|one| one.wait().unwrap().success()));
    let record = place.read("out/fetched.toml");
    assert!(record.contains("eva02-b-16") && record.contains("convnext-small"), "{record}");
    assert!(place.at("out/run.toml").is_file());
}

#[test]
fn files_of_others_are_not_overwritten() {
    let hub = Hub::new(vec![convnext()]);
    for name in ["tokenizer.json", "backbone_convnext-small.safetensors"] {
        let place = Place::new();
        fs::create_dir_all(place.at("out")).unwrap();
        fs::write(place.at("out").join(name), "mine").unwrap();
        let said = refuse(&mut place.fetch(&hub, &["convnext-small"]));
        assert!(said.contains(&format!("out/{name}: is there and was not fetched")), "{said}");
        assert_eq!(place.read(&format!("out/{name}")), "mine");
    }
    assert!(hub.content_requests().is_empty());
}

#[test]
fn a_reader_that_goes_away_takes_nothing_along() {
    let (hub, place) = (Hub::new(vec![eva(), convnext()]), Place::new());
    let mut fetching = place.fetch(&hub, &["eva02-b-16", "convnext-small"]).spawn().unwrap();
    drop(fetching.stdout.take());
    assert!(fetching.wait().unwrap().success());
    assert!(place.at("out/run.toml").is_file());
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let mut gated = eva();
    gated.gated = true;
    let hub = Hub::new(vec![gated]);
    hub.state().token = Some("hf_secret");
    let file = Place::new();
    fs::create_dir_all(file.at("home")).unwrap();
    fs::write(file.at("home/token"), "hf_secret\n").unwrap();
    succeed(&mut file.fetch(&hub, &["eva02-b-16"]));
    succeed(Place::new().fetch(&hub, &["eva02-b-16"]).env("HF_TOKEN", "hf_secret"));
    succeed(Place::new().fetch(&hub, &["eva02-b-16"]).env("HF_TOKEN_PATH", file.at("home/token")));
    let content = hub.content_requests();
    assert_eq!(content.len(), 3);
    assert!(content.iter().all(|request| request.authorization.is_none() && request.host.starts_with("localhost")));
    let others = hub.state().requests.clone().into_iter().filter(|request| !request.path.starts_with("/content/"));
    assert!(others.into_iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_secret")));
}

#[test]
fn a_mirror_may_send_digests_with_the_files_alone() {
    let mut bare = convnext();
    bare.digests = false;
    let (hub, place) = (Hub::new(vec![bare]), Place::new());
    succeed(&mut place.fetch(&hub, &["convnext-small"]));
    assert!(place.blob(CONVNEXT, &hex(&convnext().files[0].1)).is_file());
}

#[test]
fn restricting_licences_are_shown_and_must_be_accepted() {
    let (hub, place) = (Hub::new(vec![dfn(), eva()]), Place::new());
    let mut command = place.fetch(&hub, &["dfn5b-vit-h-14", "eva02-b-16"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("Research only.\nNo warranty."), "{shown}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("add --accept-licence dfn5b-vit-h-14"), "{said}");
    assert!(hub.content_requests().is_empty());
    // So must licences that are no longer what they were.
    hub.state().repositories[1].card = serde_json::json!({ "license": "cc-by-nc-4.0" });
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(said.contains("add --accept-licence eva02-b-16"), "{said}");
    succeed(&mut place.fetch(&hub, &["eva02-b-16", "--accept-licence", "eva02-b-16"]));
    assert!(place.read("out/fetched.toml").contains("licence = \"cc-by-nc-4.0\""));
    assert!(!place.blob(DFN, "").exists() && place.blob(EVA, "").exists());
}
