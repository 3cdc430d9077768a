//! A hub that refuses, and addresses where no hub is.

use std::time::{Duration, Instant};

use crate::hub::{Fault, Hub};
use crate::support::{Place, convnext, eva, refuse, succeed};

#[test]
fn closed_doors_are_told_apart() {
    let mut gated = eva();
    gated.gated = true;
    let (hub, place) = (Hub::new(vec![gated]), Place::new());
    hub.state().token = Some("hf_right");
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(
        said.contains("the hub wants a token: accept the repository's terms") && said.contains("HTTP 401"),
        "{said}"
    );
    let said = refuse(place.fetch(&hub, &["eva02-b-16"]).env("HF_TOKEN", "hf_wrong"));
    assert!(said.contains("the token's owner has no access") && said.contains("(HTTP 403"), "{said}");
    assert!(said.contains("you are not in the list") && !said.contains("hf_wrong"), "{said}");
    succeed(place.fetch(&hub, &["eva02-b-16"]).env("HF_TOKEN", "hf_right"));
}

#[test]
fn what_is_not_there_is_said() {
    let (hub, place) = (Hub::new(vec![convnext()]), Place::new());
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(said.contains("there is no such repository, or it is private: HF_TOKEN"), "{said}");
    hub.state().repositories[0].files[0].0 = "weights.h5";
    let said = refuse(&mut place.fetch(&hub, &["convnext-small"]));
    assert!(said.contains("has neither of model.safetensors, pytorch_model.bin"), "{said}");
}

#[test]
fn a_hub_says_when_to_come_back() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    hub.state().description_faults.push_back(Fault::Busy("100000"));
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(said.contains("the hub asks to come back in 100000 s: ") && said.contains("HF_TOKEN (HTTP 429)"), "{said}");
    hub.state().description_faults.push_back(Fault::Busy("2"));
    let begin = Instant::now();
    let output = place.fetch(&hub, &["eva02-b-16"]).output().unwrap();
    assert!(output.status.success() && begin.elapsed() >= Duration::from_secs(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("(HTTP 429); again in 2 s"));
}

#[test]
fn who_keeps_the_files_is_not_the_hub() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    let expired = Fault::Status(403, "", "Request has expired");
    hub.state().faults = [expired.clone()].into();
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    hub.state().faults = vec![expired; 5].into();
    let said = refuse(&mut Place::new().fetch(&hub, &["eva02-b-16"]));
    assert!(said.contains("localhost, where the hub keeps its files, does not give this one (HTTP 403)"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused_before_the_hub_is_asked() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    for (name, value, expected) in [
        ("HF_ENDPOINT", "http://me:secret@127.0.0.1", "HF_ENDPOINT: has a name or a password in it"),
        ("HF_TOKEN", "hf_\u{e9}", "the hub's login has characters that no token has"),
        ("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE: is set, so nothing is fetched"),
    ] {
        let said = refuse(place.fetch(&hub, &["eva02-b-16"]).env(name, value));
        assert!(said.contains(expected) && !said.contains("secret"), "{said}");
    }
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16", "--revision", "convnext-small=v9"]));
    assert!(said.contains("--revision convnext-small=v9: convnext-small is not among the models to fetch"), "{said}");
    let output = place.fetch(&hub, &["eva02-b-16", "--revision", "eva02-b-16=/etc/x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(hub.state().requests.is_empty());
}

#[test]
fn pages_and_silence_are_no_hub() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    hub.state().description_faults.push_back(Fault::Page);
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(said.contains("the hub answers with a web page"), "{said}");
    hub.state().description_faults.push_back(Fault::Status(503, "", ""));
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    for (endpoint, expected) in
        [("hub.example", "HF_ENDPOINT: is \"hub.example\""), ("http://127.0.0.1:1", "gave up after 5")]
    {
        let said = refuse(Place::new().fetch(&hub, &["eva02-b-16"]).env("HF_ENDPOINT", endpoint));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn redirections_have_an_end_and_do_not_leave_the_web() {
    for (target, expected) in [
        ("/timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k/nowhere", "no such repository"),
        ("file:///etc/passwd", "the hub redirects to \"file:///etc/passwd\""),
    ] {
        let (hub, place) = (Hub::new(vec![eva()]), Place::new());
        hub.state().redirect = Some(target.to_owned());
        let said = refuse(&mut place.fetch(&hub, &["eva02-b-16"]));
        assert!(said.contains(expected), "{said}");
    }
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    let commit = eva().commit;
    let round = format!("/{}/resolve/{commit}/open_clip_pytorch_model.bin", eva().name);
    hub.state().redirect = Some(round);
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert!(said.contains("is redirected more than 8 times"), "{said}");
}
