//! Files that the benchmark reads.

use std::path::Path;

use babelward::bench::{
    dataset::{Dataset, ReadOptions, Source, write_long},
    import::{Import, ImportOptions},
    journal::Journal,
};
use serde_json::Value;

use super::input::Folder;

/// Endings of names of tables. The first byte of an input chooses one.
const ENDINGS: [&str; 6] = ["jsonl", "json", "csv", "tsv", "parquet", "txt"];

/// A table of prompts or of verdicts. A set without errors is the same set when it is written and read again, and every error is
/// told in a whole sentence.
pub(crate) fn rows(input: &[u8]) {
    let Some((first, table)) = input.split_first() else {
        return;
    };
    let folder = Folder::new();
    let ending = ENDINGS[usize::from(*first) % ENDINGS.len()];
    let path = folder.write(&format!("rows.{ending}"), table);
    match Dataset::open(&Source::file(&path), ReadOptions::default()) {
        Ok(set) => {
            let mut written = Vec::new();
            write_long(&set, &mut written).expect("memory takes everything");
            let text = String::from_utf8(written).expect("JSON is UTF-8");
            if !set.rows.is_empty() {
                let again = Dataset::parse("again", &text).expect("a set that was just written");
                assert_eq!(again.rows, set.rows);
                assert_eq!(again.languages, set.languages);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match Import::read(&path, &ImportOptions::default()) {
        Ok(import) => assert!(
            import.models().windows(2).all(|pair| pair[0] < pair[1]),
            "models out of order"
        ),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A run's journal. What is opened keeps the bytes of its whole lines and nothing else; opened again, it has the same entries; and
/// what is appended to it is there afterwards.
pub(crate) fn journal(input: &[u8]) {
    let folder = Folder::new();
    let path = folder.write("journal.jsonl", input);
    let Some(entries) = open(&path) else {
        return;
    };
    let kept = std::fs::read(&path).expect("the journal is there");
    assert!(
        input.starts_with(&kept),
        "opening a journal only cuts its end off"
    );
    let lines = kept.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(entries.len(), lines, "each line that is kept is an entry");
    assert_eq!(open(&path).as_ref(), Some(&entries), "opened again");
    let mut journal =
        Journal::open(&path, &mut |_: Value, _| Ok(())).expect("a journal that was opened before");
    let added = Value::from("added");
    let at = journal.append(&added).expect("a line can be appended");
    assert_eq!(journal.read::<Value>(at).expect("the entry is there"), added);
    drop(journal);
    let more = open(&path).expect("a journal that was appended to");
    assert_eq!((more.len(), more.last()), (entries.len() + 1, Some(&added)));
}

/// The entries of a journal; `None` when it is damaged.
fn open(path: &Path) -> Option<Vec<Value>> {
    let mut entries = Vec::new();
    let opened = Journal::open(path, &mut |entry: Value, _| {
        entries.push(entry);
        Ok(())
    });
    opened.is_ok().then_some(entries)
}
