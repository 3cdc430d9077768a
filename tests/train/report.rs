//! The page that people look at: well-formed, self-contained, whatever the data hold.

use std::path::Path;

use pcqa::train::report::{Chart, Comparison, Report, Section, Series, Thumbnails, write};
use pcqa::train::statistics::{Judged, Metrics};
use roxmltree::{Document, ParsingOptions};

const HOSTILE: &str = "<script>alert('x')</script> & \"quotes\" \u{1} \u{ffff} é 猫";

fn thumbnails() -> Thumbnails {
    Thumbnails::new("/nonexistent/pcqa-decoder".into())
}

/// `count` items whose predictions follow their MOS, of four generators; every third one has a picture in `folder`.
fn judged(count: usize, folder: &Path) -> Vec<Judged> {
    let item = |i: usize| {
        let path = folder.join(format!("{i}.png"));
        if i.is_multiple_of(3) {
            image::RgbImage::from_pixel(300, 200, image::Rgb([i as u8, 90, 160])).save(&path).unwrap();
        }
        let mos = 1.0 + (i % 41) as f64 / 10.0;
        Judged {
            mos,
            predicted: 0.8 * mos + 0.3 * ((i * 7) % 11) as f64 / 11.0,
            prompt: format!("{HOSTILE} {}", i % 20),
            generator: Some(format!("{HOSTILE} {}", i % 4)),
            group: None,
            name: format!("{HOSTILE} {i}"),
            path,
        }
    };
    (0..count).map(item).collect()
}

fn written(report: &Report) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory.path().join("new/folder"), report, &mut thumbnails()).unwrap();
    std::fs::read_to_string(path).unwrap()
}

fn parsed(page: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}\n{page}"))
}

fn full(folder: &Path) -> Report {
    let judged = judged(60, folder);
    let rows = vec![
        ("ensemble".to_owned(), Metrics::new(&judged)),
        (HOSTILE.to_owned(), Metrics::without_intervals(&judged)),
        ("floor: prompt".to_owned(), Metrics::without_intervals(&judged[..9])),
        ("nothing".to_owned(), Metrics::new(&[])),
    ];
    let series = |label: &str, points| Series { label: label.to_owned(), points };
    let chart = Chart {
        title: HOSTILE.to_owned(),
        x_label: "step".to_owned(),
        is_log: true,
        series: vec![
            series("train", (0..200).map(|i| (f64::from(i), 1.0 / f64::from(1 + i))).collect()),
            series("held out", vec![(0.0, f64::NAN), (100.0, 0.5), (200.0, f64::INFINITY)]),
            series("none", Vec::new()),
        ],
    };
    Report {
        title: HOSTILE.to_owned(),
        facts: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
        charts: vec![chart, Chart::default()],
        comparison: Some(Comparison {
            labels: vec![HOSTILE],
            headings: vec![HOSTILE, ""],
            rows: vec![(vec![HOSTILE.to_owned()], vec![rows.first().map(|(_, metrics)| metrics.clone()), None])],
        }),
        sections: vec![Section { title: "Images".to_owned(), rows, judged }, Section::default()],
    }
}

#[test]
fn a_page_is_well_formed_and_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let page = written(&full(folder.path()));
    let document = parsed(&page);
    for node in document.descendants().filter(|node| node.is_element()) {
        let name = node.tag_name().name();
        assert!(!["script", "link", "iframe", "object"].contains(&name), "{name}");
        for attribute in node.attributes() {
            let is_allowed = match attribute.name() {
                "src" => attribute.value().starts_with("data:image/jpeg;base64,"),
                "href" | "style" | "onload" => false,
                "points" | "d" | "x" | "y" | "cx" | "width" => !attribute.value().contains("NaN"),
                _ => true,
            };
            assert!(is_allowed, "{name} {attribute:?}");
        }
    }
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("url(") && !page.contains("@import"));
    let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.iter().any(|text| text.contains("<script>alert('x')</script> & \"quotes\"")));
}

#[test]
fn every_part_is_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let report = full(folder.path());
    let page = written(&report);
    let document = parsed(&page);
    let with_class = |class: &str| {
        let has =
            |node: &roxmltree::Node| node.attribute("class").is_some_and(|all| all.split(' ').any(|c| c == class));
        document.descendants().filter(has).count()
    };
    let with_name = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
    let srcc = report.sections[0].rows[0].1.srcc.unwrap().value;
    assert!(page.contains(&format!("<b>{srcc:.3}</b>")));
    assert!(page.contains("–: not defined"));
    assert_eq!(with_class("mark"), 3, "a mark in the ranking for each system that has an SRCC");
    assert_eq!(with_class("bar"), 1, "an interval where there is one");
    assert_eq!(with_class("box"), 4, "a box for each generator");
    assert_eq!(with_class("card"), 12, "the worst items");
    let pictures = with_name("img");
    assert!((1..12).contains(&pictures) && pictures + with_class("nothing") == 12, "{pictures} pictures");
}

/// Dots say how many of the items they are.
#[test]
fn thousands_of_items_make_no_heavy_page() {
    let folder = tempfile::tempdir().unwrap();
    let few = judged(90, folder.path());
    let many: Vec<_> = few.iter().cycle().take(30_000).cloned().collect();
    let section = Section { judged: many, ..Section::default() };
    let page = written(&Report { sections: vec![section], ..Report::default() });
    assert!(page.contains(" of 30000 items are drawn"));
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = write(file.path(), &Report::default(), &mut thumbnails()).unwrap_err();
    assert!(format!("{error:#}").contains(&*file.path().to_string_lossy()), "{error:#}");
}
