//! Downloads that break, stall or lie.

use std::fs;

use crate::hub::{Fault, Hub, hex};
use crate::support::{EVA, Place, eva, refuse, succeed};

fn digest() -> String {
    hex(&eva().files[1].1)
}

fn fetch(faults: &[Fault]) -> (Hub, Place, Result<String, String>) {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    hub.state().faults = faults.iter().cloned().collect();
    let mut command = place.fetch(&hub, &["eva02-b-16"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let result = if output.status.success() { Ok(said) } else { Err(said) };
    (hub, place, result)
}

fn ranges(hub: &Hub) -> Vec<Option<String>> {
    hub.content_requests().into_iter().map(|request| request.range).collect()
}

fn range(start: usize) -> Option<String> {
    Some(format!("bytes={start}-"))
}

#[test]
fn a_download_goes_on_where_it_broke() {
    let (hub, place, result) = fetch(&[Fault::Break(1000), Fault::Break(500), Fault::Status(503, "", "")]);
    result.unwrap();
    assert_eq!(ranges(&hub), [None, range(1000), range(1500), range(1500)]);
    assert_eq!(hex(&fs::read(place.blob(EVA, &digest())).unwrap()), digest());
}

#[test]
fn a_download_goes_on_in_another_run() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    let part = place.blob(EVA, &digest()).with_extension("part");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, &eva().files[1].1[..2000]).unwrap();
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert_eq!(ranges(&hub), [range(2000)]);
    // What was there and does not go with the rest is worth one more download.
    let place = Place::new();
    let part = place.blob(EVA, &digest()).with_extension("part");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, vec![7; 2000]).unwrap();
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert_eq!(ranges(&hub)[1..], [range(2000), None]);
    // So is a file of the cache that is broken.
    fs::write(place.blob(EVA, &digest()), "broken").unwrap();
    fs::remove_dir_all(place.at("out")).unwrap();
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    assert_eq!(ranges(&hub).len(), 4);
}

#[test]
fn a_hub_that_knows_no_ranges_sends_all_again() {
    let (hub, place, result) = fetch(&[Fault::Break(1000), Fault::Whole]);
    result.unwrap();
    assert_eq!(ranges(&hub), [None, range(1000)]);
    assert_eq!(hex(&fs::read(place.blob(EVA, &digest())).unwrap()), digest());
}

#[test]
fn other_bytes_are_refused() {
    let length = eva().files[1].1.len();
    let cases = [
        (vec![Fault::Spoil], format!("expected {}; what came has been removed", digest())),
        (vec![Fault::Longer], format!("is longer than the {length} bytes that the hub says it has")),
        (vec![Fault::Shorter], format!("has {} bytes, expected {length}", length - 1)),
        (vec![Fault::Page], "the hub answers with a web page: is HF_ENDPOINT right".to_owned()),
        (vec![Fault::Break(100), Fault::Elsewhere], "asked for bytes 100 to the end of".to_owned()),
        (vec![Fault::Break(0); 5], "broke off 5 times in a row after 0 of".to_owned()),
        (
            [&[Fault::Break(1000)][..], &[500, 400, 500, 400].map(Fault::WholeUntil)].concat(),
            "broke off 5 times in a row after 400 of".to_owned(),
        ),
    ];
    for (faults, expected) in cases {
        let (_, place, result) = fetch(&faults);
        let said = result.unwrap_err();
        assert!(said.contains(&expected), "{expected}: {said}");
        assert!(!place.blob(EVA, &digest()).exists() && !place.at("out/text_eva02-b-16.safetensors").exists());
    }
}

#[test]
fn a_commit_that_changes_is_refused() {
    let (hub, place) = (Hub::new(vec![eva()]), Place::new());
    succeed(&mut place.fetch(&hub, &["eva02-b-16"]));
    hub.state().repositories[0].files[1].1.push(0);
    let said = refuse(&mut place.fetch(&hub, &["eva02-b-16", "--dtype", "bf16"]));
    assert!(said.contains("commits do not change, so one of the two is wrong"), "{said}");
}
