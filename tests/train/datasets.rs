//! Lists as they are distributed give the items that they name.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use pcqa::model::Track;
use pcqa::train::{Dataset, Format, ProblemKind};
use proptest::prelude::*;

use crate::support::{Cell, Folder, workbook};

/// What matters of every item: name, prompt, MOS and generator.
fn brief(dataset: &Dataset) -> Vec<(&str, &str, Option<f64>, Option<&str>)> {
    let items = dataset.items.iter();
    items.map(|item| (item.name.as_str(), item.prompt.as_str(), item.mos, item.generator.as_deref())).collect()
}

#[test]
fn aigiqa_20k() {
    let names =
        ["train/SDXL_Turbo_0000.png", "train/SDXL_Turbo_0002.png", "train/SD1.5_0001.png", "val/SD1.5_0001.png"];
    let folder = Folder::with(&[&names[..], &["train/SD1.5_0003.png"]].concat());
    let rows = [
        vec![Cell::Text("name"), Cell::Text("prompt"), Cell::Text("mos")],
        vec![Cell::Text("SDXL_Turbo_0000.png"), Cell::Text("a cat & a <dog>"), Cell::Number(3.6638868235)],
        vec![Cell::Text("SDXL_Turbo_0002.png"), Cell::Error, Cell::Number(1.0)],
        vec![Cell::Nothing, Cell::Nothing, Cell::Nothing],
        vec![Cell::Text("SD1.5_0001.png"), Cell::Text(" two \n lines "), Cell::Number(4.0)],
        vec![Cell::Text("SD1.5_0003.png"), Cell::Text("7 dwarfs"), Cell::Nothing],
        vec![Cell::Text("SDXL_Turbo_0002.png"), Cell::Text("a fox"), Cell::Number(2.5)],
    ];
    folder.add("info_train.xlsx", &workbook(&rows));
    let dataset = folder.read();
    assert_eq!((dataset.name.as_str(), dataset.format), ("AIGIQA-20K", Format::Aigiqa20k));
    let turbo = Some("SDXL_Turbo");
    let expected = [
        ("SDXL_Turbo_0000.png", "a cat & a <dog>", Some(3.6638868235), turbo),
        ("SD1.5_0001.png", "two \n lines", Some(4.0), Some("SD1.5")),
        ("SDXL_Turbo_0002.png", "a fox", Some(2.5), turbo),
    ];
    assert_eq!(brief(&dataset), expected);
    assert_eq!(dataset.items[1].path, folder.at("train/SD1.5_0001.png"), "the list is of this part");
    let problems: Vec<_> = dataset.problems.entries.iter().map(|problem| (problem.line, problem.kind)).collect();
    assert_eq!(problems, [(Some(3), ProblemKind::Row), (Some(6), ProblemKind::Mos)]);
}

#[test]
fn aigiqa_20k_without_a_header() {
    let folder = Folder::with(&["a_1.png", "a_2.png", "b_1.png", "b_2.png"]);
    let labelled = "a_1.png,\"cat, dog\",3.5\na_2.png,fox,1\nb_1.png,owl,2\nb_2.png,elk,2e0\n";
    folder.add("info.csv", labelled.as_bytes());
    let dataset = folder.read();
    let (a, b) = (Some("a"), Some("b"));
    let expected = [
        ("a_1.png", "cat, dog", Some(3.5), a),
        ("a_2.png", "fox", Some(1.0), a),
        ("b_1.png", "owl", Some(2.0), b),
        ("b_2.png", "elk", Some(2.0), b),
    ];
    assert_eq!(brief(&dataset), expected);
    folder.add("info.csv", b"a_1.png,cat\na_2.png,fox\n");
    assert_eq!(brief(&folder.read()), [("a_1.png", "cat", None, a), ("a_2.png", "fox", None, a)]);
}

#[test]
fn names_that_are_all_different_name_no_generator() {
    let folder = Folder::with(&["cat_1.png", "dog_1.png", "fox_1.png", "fox_2.png"]);
    folder.add("info.csv", b"name,prompt,mos\ncat_1.png,cat,1\ndog_1.png,dog,1\nfox_1.png,fox,1\n");
    assert!(folder.read().items.iter().all(|item| item.generator.is_none()));
    folder.add("info.csv", b"name,prompt,mos\ncat_1.png,cat,1\nfox_2.png,dog,1\nfox_1.png,fox,1\n");
    assert_eq!(folder.read().items[0].generator.as_deref(), Some("cat"));
}

#[test]
fn t2vqa_db() {
    let folder = Folder::with(&["videos/0001.mp4", "videos/0002.mp4", "videos/0003.gif"]);
    folder.add("info.txt", b"0001.mp4|a cat|56.5\r\n\r\n0002.mp4|left | right|8\r\n0003.gif|a dog|9e1\r\n");
    let dataset = folder.read();
    assert_eq!((dataset.name.as_str(), dataset.format), ("T2VQA-DB", Format::T2vqaDb));
    let expected = [
        ("0001.mp4", "a cat", Some(56.5), None),
        ("0002.mp4", "left | right", Some(8.0), None),
        ("0003.gif", "a dog", Some(90.0), None),
    ];
    assert_eq!(brief(&dataset), expected);
    assert!(dataset.items.iter().all(|item| item.track == Track::Video));

    folder.add("info.txt", b"0001.mp4|a cat\n0002.mp4|left | right\n");
    let dataset = folder.read();
    assert_eq!(brief(&dataset), [("0001.mp4", "a cat", None, None), ("0002.mp4", "left | right", None, None)]);
    assert_eq!(dataset.column, None);
}

#[test]
fn agiqa_3k() {
    let folder =
        Folder::with(&["sd1.5_lowstep_000.jpg", "sd1.5_normal_000.jpg", "glide_normal_1.jpg", "glide_normal_2.jpg"]);
    let list = b"name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n\
        sd1.5_lowstep_000.jpg,\"doesn\x92t rain, 4k\",4k,,,1.25,0.2,4.5,0.6\n\
        sd1.5_normal_000.jpg,caf\xe9,,,,2.5,0.2,3.5,0.6\n\
        glide_normal_1.jpg,cat,,,,2,0.2,3,0.6\nglide_normal_2.jpg,dog,,,,2,0.2,3,0.6\n";
    folder.add("data.csv", list);
    let dataset = folder.read();
    assert_eq!((dataset.name.as_str(), dataset.format), ("AGIQA-3K", Format::Agiqa3k));
    assert_eq!(dataset.column.as_deref(), Some("mos_quality"));
    assert_eq!(dataset.problems.notes, ["2 lines are not UTF-8, they are read as windows-1252"]);
    assert_eq!(brief(&dataset)[0], ("sd1.5_lowstep_000.jpg", "doesn’t rain, 4k", Some(1.25), Some("sd1.5")));
    assert_eq!(brief(&dataset)[1], ("sd1.5_normal_000.jpg", "café", Some(2.5), Some("sd1.5")));

    let mut arguments = folder.arguments();
    arguments.column = Some("mos_align".to_owned());
    let aligned = arguments.read().unwrap();
    assert_eq!(aligned.items.iter().map(|item| item.mos).collect::<Vec<_>>(), [4.5, 3.5, 3.0, 3.0].map(Some));
    arguments.column = Some("mos_beauty".to_owned());
    let refusal = format!("{:#}", arguments.read().unwrap_err());
    assert!(refusal.contains("no column `mos_beauty`") && refusal.contains("mos_quality, std_quality"), "{refusal}");
}

/// Path, prompt, MOS, generator and group.
type Listed = (&'static str, &'static str, Option<f64>, Option<&'static str>, Option<&'static str>);

const TABLE: [Listed; 3] = [
    ("images/a.png", "a cat", Some(3.25), Some("one"), Some("x")),
    ("images/b.png", "a \"dog\", running", None, Some("two"), None),
    ("clips/c.avi", "ein Fuchs läuft", Some(-1.5), None, Some("x")),
];

fn assert_is_table(list: &str, bytes: &[u8]) {
    let folder = Folder::with(&TABLE.map(|row| row.0));
    folder.add(list, bytes);
    let dataset = folder.read();
    let found: Vec<_> = dataset
        .items
        .iter()
        .map(|item| {
            let (generator, group) = (item.generator.as_deref(), item.group.as_deref());
            (item.name.as_str(), item.prompt.as_str(), item.mos, generator, group)
        })
        .collect();
    assert_eq!(found, TABLE, "{list}");
    assert_eq!(dataset.problems.summary(), None, "{list}");
    assert_eq!(dataset.format, Format::Table);
    let tracks: Vec<Track> = dataset.items.iter().map(|item| item.track).collect();
    assert_eq!(tracks, [Track::Image, Track::Image, Track::Video]);
}

#[test]
fn any_table() {
    let csv = "Group,truth,MOS,path,generator,prompt\nx,1,3.25,images/a.png,one,a cat\n\
        ,2,,images\\b.png,two,\"a \"\"dog\"\", running\"\nx,3,-1.5,./clips/c.avi,,ein Fuchs läuft\n";
    let folder = Folder::with(&TABLE.map(|row| row.0));
    folder.add("list.csv", csv.as_bytes());
    let dataset = folder.read();
    let paths: Vec<_> = dataset.items.iter().map(|item| item.path.clone()).collect();
    assert_eq!(paths, TABLE.map(|row| folder.at(row.0)));
    assert_is_table("info.csv", csv.replace("images\\b", "images/b").replace("./clips", "clips").as_bytes());

    let jsonl = "{\"path\": \"images/a.png\", \"prompt\": \"a cat\", \"mos\": 3.25, \"generator\": \"one\", \"group\": \"x\"}\n\n\
        {\"path\": \"images/b.png\", \"prompt\": \"a \\\"dog\\\", running\", \"mos\": null, \"generator\": \"two\"}\n\
        {\"path\": \"clips/c.avi\", \"prompt\": \"ein Fuchs läuft\", \"mos\": \"-1.5\", \"group\": \"x\", \"extra\": [1]}\n";
    assert_is_table("any.jsonl", jsonl.as_bytes());
    assert_is_table("data.parquet", &parquet());
}

/// The table in two row groups, compressed.
pub fn parquet() -> Vec<u8> {
    let schema = "message list {
        required binary path (UTF8); required binary prompt (UTF8); optional double mos;
        optional binary generator (UTF8); optional binary group (UTF8);
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties =
        WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).set_dictionary_enabled(true);
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).unwrap();
    for rows in TABLE.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let texts: [Vec<Option<&str>>; 4] = [
            rows.iter().map(|row| Some(row.0)).collect(),
            rows.iter().map(|row| Some(row.1)).collect(),
            rows.iter().map(|row| row.3).collect(),
            rows.iter().map(|row| row.4).collect(),
        ];
        let mut texts = texts.into_iter();
        for column in 0..5 {
            let mut writer = group.next_column().unwrap().unwrap();
            if column == 2 {
                let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.2.is_some())).collect();
                let values: Vec<f64> = rows.iter().filter_map(|row| row.2).collect();
                writer.typed::<DoubleType>().write_batch(&values, Some(&levels), None).unwrap();
            } else {
                let cells = texts.next().unwrap();
                let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
                let values: Vec<ByteArray> = cells.into_iter().flatten().map(ByteArray::from).collect();
                writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            }
            writer.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn names_may_lack_their_ending() {
    let folder = Folder::with(&["one.png", "deep/er/two.mp4"]);
    folder.add("info.csv", b"path,prompt\none,a cat\ntwo,a dog\n");
    let dataset = folder.read();
    let found: Vec<_> = dataset.items.iter().map(|item| (item.path.clone(), item.track)).collect();
    assert_eq!(found, [(folder.at("one.png"), Track::Image), (folder.at("deep/er/two.mp4"), Track::Video)]);
}

#[test]
fn a_list_is_found_or_asked_for() {
    let folder = Folder::with(&["a.png", "b.png"]);
    assert!(folder.refusal().contains("holds no list"), "{}", folder.refusal());
    folder.add("mine.csv", b"path,prompt\na.png,cat\n");
    assert_eq!(folder.read().items[0].name, "a.png");
    folder.add("yours.jsonl", b"{\"path\": \"b.png\", \"prompt\": \"dog\"}");
    let refusal = folder.refusal();
    assert!(refusal.contains("--list") && refusal.contains("mine.csv, yours.jsonl"), "{refusal}");
    let mut arguments = folder.arguments();
    arguments.list = Some("yours.jsonl".into());
    assert_eq!(arguments.read().unwrap().items[0].name, "b.png");
    arguments.data = folder.at("mine.csv");
    assert!(format!("{:#}", arguments.read().unwrap_err()).contains("is a list already"));
    arguments.list = None;
    assert_eq!(arguments.read().unwrap().items[0].name, "a.png");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a prompt holds, it comes out of a CSV file as it went in, and every row is an item or a problem.
    #[test]
    fn csv_keeps_every_prompt(prompts in proptest::collection::vec("\\PC{0,30}|[\"\n,|;\\\\ a]{0,12}", 1..20)) {
        let folder = Folder::with(&["a.png"]);
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["path", "prompt", "mos"]).unwrap();
        for (number, prompt) in prompts.iter().enumerate() {
            writer.write_record(["a.png", prompt, &number.to_string()]).unwrap();
        }
        folder.add("info.csv", &writer.into_inner().unwrap());
        let kept: Vec<&str> = prompts.iter().map(|prompt| prompt.trim()).filter(|prompt| !prompt.is_empty()).collect();
        match folder.arguments().read() {
            Err(_) => prop_assert!(kept.is_empty()),
            Ok(dataset) => {
                prop_assert_eq!(dataset.items.len() + dataset.problems.entries.len(), prompts.len());
                let distinct: std::collections::BTreeSet<&str> = kept.into_iter().collect();
                let found: std::collections::BTreeSet<&str> =
                    dataset.items.iter().map(|item| item.prompt.as_str()).collect();
                prop_assert_eq!(found, distinct);
            }
        }
    }
}
