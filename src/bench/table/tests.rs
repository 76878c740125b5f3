use std::fs;

use serde_json::{Value, json};

use super::*;

type Rows = Vec<(TableLocation, Result<Value, BadRow>)>;

fn read_file(path: &Path) -> Result<(TableInfo, Rows), TableError> {
    let mut rows = Vec::new();
    let info = read(path, &mut |location, row| {
        rows.push((location, row.map(Value::Object)))
    })?;
    Ok((info, rows))
}

/// Writes a file with this name and these bytes, and reads it.
fn table(name: &str, bytes: &[u8]) -> Result<(TableInfo, Rows), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read_file(&path).map_err(|error| error.to_string())
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/tables")
        .join(name)
}

#[test]
fn one_table_is_the_same_in_every_format() {
    let expected = [
        json!({"id": "1", "text": "a, \"b\"\nc"}),
        json!({"id": "2", "text": null}),
        json!({"id": "3", "text": "é"}),
    ];
    let lines = "{\"id\":\"1\",\"text\":\"a, \\\"b\\\"\\nc\"}\n\n{\"id\":\"2\",\"text\":null}\r\n{\"id\":\"3\",\"text\":\"é\"}";
    let array = "\u{feff} [{\"id\":\"1\",\"text\":\"a, \\\"b\\\"\\nc\"},{\"id\":\"2\",\"text\":null},\n{\"id\":\"3\",\"text\":\"é\"}]\n";
    let csv = "\u{feff}id,text\n1,\"a, \"\"b\"\"\nc\"\n2,\n3,é\n";
    let tsv = "id\ttext\r\n1\t\"a, \"\"b\"\"\nc\"\r\n2\t\r\n3\té\r\n";
    let cases = [
        ("a.jsonl", lines, TableFormat::JsonLines, false),
        // The content decides, whatever the name says.
        ("a.json", lines, TableFormat::JsonLines, false),
        ("a", lines, TableFormat::JsonLines, false),
        ("a.json", array, TableFormat::JsonArray, true),
        ("a.jsonl", array, TableFormat::JsonArray, true),
        ("a.CSV", csv, TableFormat::Csv, true),
        ("a.tsv", tsv, TableFormat::Tsv, false),
    ];
    for (name, text, format, byte_order_mark) in cases {
        let (info, rows) = table(name, text.as_bytes()).unwrap();
        assert_eq!(
            info,
            TableInfo {
                format,
                byte_order_mark
            },
            "{name}"
        );
        let values: Vec<_> = rows.into_iter().map(|(_, row)| row.unwrap()).collect();
        assert_eq!(values, expected, "{name}");
    }
}

#[test]
fn locations_are_those_that_an_editor_shows() {
    let locations = |name: &str, text: &str| -> Vec<TableLocation> {
        table(name, text.as_bytes())
            .unwrap()
            .1
            .into_iter()
            .map(|(location, _)| location)
            .collect()
    };
    assert_eq!(
        locations("a.jsonl", "\n{}\n\n{}\n"),
        [TableLocation::Line(2), TableLocation::Line(4)]
    );
    assert_eq!(
        locations("a.csv", "id\n\"1\n1\"\n2\n"),
        [TableLocation::Line(2), TableLocation::Line(4)]
    );
    assert_eq!(
        locations("a.json", "[{},\n\n{}]"),
        [TableLocation::Row(1), TableLocation::Row(2)]
    );
}

#[test]
fn a_bad_row_does_not_hide_the_others() {
    let (_, rows) = table("a.jsonl", b"{}\n{\"a\":\"\xff\"}\n7\n{\"a\":\n{}\n").unwrap();
    assert_eq!(rows.len(), 5);
    let at = 6;
    let field = String::new();
    assert_eq!(rows[1].1, Err(BadRow::NotUtf8 { field, at }));
    assert_eq!(rows[2].1, Err(BadRow::NotAnObject));
    assert!(matches!(&rows[3].1, Err(BadRow::Syntax(_))));
    assert_eq!(rows[4], (TableLocation::Line(5), Ok(json!({}))));

    let (_, rows) = table("a.csv", b"a,b\n1,\xe9\n1\n1,2\n").unwrap();
    let bad: Vec<_> = rows.iter().map(|(_, row)| row.is_err()).collect();
    assert_eq!(bad, [true, true, false]);
    assert_eq!(rows[0].1.as_ref().unwrap_err().field(), "b");
    assert_eq!(
        rows[1].1.as_ref().unwrap_err().to_string(),
        "has 1 fields, the header has 2"
    );
    assert_eq!(rows[1].0, TableLocation::Line(3));

    let (_, rows) = table("a.json", b"[{},\n{}\n{}]").unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2].0, TableLocation::Line(3));
}

#[test]
fn files_that_cannot_be_read_say_what_to_do() {
    for (name, bytes, part) in [
        ("a.jsonl", &b"\xff\xfe{\0}\0"[..], "save it as UTF-8"),
        ("a.jsonl", b"\x1f\x8b\x08", "gunzip"),
        ("a.parquet", b"{}", "PAR1"),
        ("a.parquet", b"PAR1abcdPAR1", "cannot be read"),
        ("a.txt", b"hello", ".jsonl, .json, .csv"),
    ] {
        let error = table(name, bytes).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let twice = table("a.csv", b"a,a\n1,2\n").unwrap().1;
    assert_eq!(
        twice[0].1.as_ref().unwrap_err().to_string(),
        "the header has `a` twice"
    );
    assert!(read_file(&golden("no such file")).is_err());
}

#[test]
fn parquet_files_of_pyarrow_and_pandas_are_read() {
    let expected: Rows = vec![
        json!({"id": 1, "category": "crime_tax", "en": "How do taxes work?", "de": "Wie funktionieren Steuern?", "it": null}),
        json!({"id": 2, "category": "hate_lgbtq+", "en": "What is pride?", "de": "Was ist „Pride“? 🏳️‍🌈", "it": "Cos'è il Pride?"}),
        json!({"id": 3, "category": "crime_tax", "en": "Who collects taxes?", "de": "Wer erhebt Steuern?", "it": null}),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, row)| (TableLocation::Row(index + 1), Ok(row)))
    .collect();
    for name in [
        "snappy.parquet",
        "zstd_large_string.parquet",
        "plain_two_groups.parquet",
        "page_v2.parquet",
        "pandas.parquet",
    ] {
        let (info, rows) = read_file(&golden(name)).unwrap();
        assert_eq!(info.format, TableFormat::Parquet);
        assert_eq!(rows, expected, "{name}");
    }
    let gzip = read_file(&golden("gzip.parquet")).unwrap_err().to_string();
    assert!(gzip.to_lowercase().contains("gzip"), "{gzip}");
}

#[test]
fn a_damaged_parquet_file_is_an_error_and_not_a_panic() {
    let whole = fs::read(golden("snappy.parquet")).unwrap();
    for length in (0..whole.len()).step_by(7) {
        let _ = table("a.parquet", &whole[..length]);
    }
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            let _ = table("a.parquet", &damaged);
        }
    }
}
