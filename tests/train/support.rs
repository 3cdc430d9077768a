//! Folders with media and lists in them.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};
use pcqa::model::Track;
use pcqa::train::{Dataset, DatasetArguments, Item};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A folder of a data set, gone when dropped.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with small pictures of these names.
    pub fn with(names: &[&str]) -> Self {
        let folder = Self::new();
        names.iter().for_each(|name| folder.add(name, b"a file that nobody opens"));
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn add(&self, name: &str, bytes: &[u8]) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn arguments(&self) -> DatasetArguments {
        DatasetArguments::new(self.path())
    }

    pub fn read(&self) -> Dataset {
        self.arguments().read().unwrap()
    }

    pub fn refusal(&self) -> String {
        format!("{:#}", self.arguments().read().unwrap_err())
    }
}

/// A PNG whose pixels follow from `seed`.
pub fn picture(seed: u32, width: u32, height: u32) -> Vec<u8> {
    let level = |x: u32, y: u32, c: u32| (x * 7 + y * 13 + c * 50 + seed * 31 + (x * y) % 11) as u8;
    let picture = RgbImage::from_fn(width, height, |x, y| Rgb([level(x, y, 0), level(x, y, 1), level(x, y, 2)]));
    let mut bytes = Vec::new();
    picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

/// An item that only splits look at.
pub fn item(name: &str, prompt: &str, generator: Option<&str>, group: Option<&str>) -> Item {
    Item {
        name: name.to_owned(),
        path: name.into(),
        prompt: prompt.to_owned(),
        mos: Some(3.0),
        generator: generator.map(str::to_owned),
        group: group.map(str::to_owned),
        track: Track::Image,
    }
}

/// A cell of a workbook.
pub enum Cell {
    Text(&'static str),
    Number(f64),
    Error,
    Nothing,
}

/// A workbook of one sheet as Excel writes it: texts apart from the sheet.
pub fn workbook(rows: &[Vec<Cell>]) -> Vec<u8> {
    let mut texts = Vec::new();
    let mut sheet = String::new();
    for (row, cells) in (1..).zip(rows) {
        sheet += &format!(r#"<row r="{row}">"#);
        for (column, cell) in ('A'..).zip(cells) {
            sheet += &match cell {
                Cell::Text(text) => {
                    texts.push(*text);
                    format!(r#"<c r="{column}{row}" t="s"><v>{}</v></c>"#, texts.len() - 1)
                }
                Cell::Number(number) => format!(r#"<c r="{column}{row}"><v>{number:?}</v></c>"#),
                Cell::Error => format!(r#"<c r="{column}{row}" t="e"><v>#NAME?</v></c>"#),
                Cell::Nothing => String::new(),
            };
        }
        sheet += "</row>";
    }
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let texts: String = texts.iter().map(|text| format!("<si><t>{}</t></si>", escape(text))).collect();
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    let office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let package = "http://schemas.openxmlformats.org/package/2006/relationships";
    let parts = [
        (
            "[Content_Types].xml",
            r#"<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>"#.to_owned(),
        ),
        (
            "_rels/.rels",
            format!(
                r#"<Relationships xmlns="{package}"><Relationship Id="rId1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>"#
            ),
        ),
        (
            "xl/workbook.xml",
            format!(
                r#"<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>"#
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            format!(
                r#"<Relationships xmlns="{package}"><Relationship Id="rId1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Type="{office}/sharedStrings" Target="sharedStrings.xml"/></Relationships>"#
            ),
        ),
        ("xl/sharedStrings.xml", format!(r#"<sst xmlns="{main}">{texts}</sst>"#)),
        (
            "xl/worksheets/sheet1.xml",
            format!(r#"<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData></worksheet>"#),
        ),
    ];
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, xml) in parts {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(xml.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}
