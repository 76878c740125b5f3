use std::collections::BTreeSet;

use super::*;
use crate::bench::taxonomy::{Category, Language};

fn problems(text: &str) -> Vec<String> {
    match Dataset::parse("test", text) {
        Err(DatasetError::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn wide_and_long_rows_mean_the_same() {
    let wide = "\u{feff}{\"id\":7,\"category\":\"crime_tax\",\"en\":\"a\",\"it\":\"b\",\"note\":1}\r\n\n\
                {\"id\":\"x\",\"category\":\"hate_lgbtq+\",\"en\":\"c\",\"it\":\"d\",\"de\":null}\n";
    let long = r#"{"id":7,"language":"en","category":"crime_tax","prompt":"a"}
{"id":"x","language":"it","category":"hate_lgbtq+","prompt":"d"}
{"id":"x","language":"en","category":"hate_lgbtq+","prompt":"c"}
{"id":7,"language":"it","category":"crime_tax","prompt":"b"}"#;
    let wide = Dataset::parse("wide", wide).expect("valid");
    let long = Dataset::parse("long", long).expect("valid");
    assert_eq!(wide.rows, long.rows);
    assert_eq!(wide.languages, [Language::En, Language::It]);
    assert_eq!(wide.rows[0].prompts[&Language::It], "b");
    assert_ne!(wide.digest, long.digest);
}

#[test]
fn every_problem_is_listed_with_its_row_and_field() {
    let text = r#"{"id":1,"category":"crime_tax","en":"a","de":"b"}
{"id":-2,"category":"crime_taxes","en":" ","de":5}
[1]
{"id":1,"category":"crime_tax","en":"a","de":"b"}
{"id":3,"category":"crime_tax","en":"a"}
{"id":4,"category":"crime_tax"}
{"id":5,"language":"nl","prompt":"x"}
{"id":
"#;
    let found = problems(text);
    let expected = [
        "line 2, field `id`: must be a whole number or a text of 1 to 96 bytes",
        "line 2, field `category`: unknown category `crime_taxes` (did you mean `crime_tax`?)",
        "line 2, field `en`: is empty",
        "line 2, field `de`: must be a text",
        "line 3: is not a JSON object",
        "line 4, field `id`: 1 is used in line 1 already",
        "line 5, field `de`: id 3 has no prompt in German, other rows have",
        "line 6: has neither `language` and `prompt` nor a column en, de, es, fr or it",
        "line 7, field `category`: is missing",
        "line 7, field `language`: unknown language `nl` (known are en, de, es, fr, it)",
    ];
    assert_eq!(found[..expected.len()], expected);
    assert!(found[expected.len()].starts_with("line 8: is not JSON"));
    assert_eq!(found.len(), expected.len() + 1);
}

#[test]
fn long_rows_of_one_id_must_agree() {
    let text = r#"{"id":1,"language":"en","category":"crime_tax","prompt":"a"}
{"id":1,"language":"en","category":"crime_theft","prompt":"a"}"#;
    assert_eq!(
        problems(text),
        [
            "line 2, field `category`: is `crime_theft`, but line 1 has `crime_tax` for the same id",
            "line 2, field `language`: this id has a prompt in `en` already"
        ]
    );
}

#[test]
fn an_empty_file_is_no_set() {
    assert_eq!(problems("\n"), ["line 1: the file has no rows"]);
}

#[test]
fn the_bundled_set_covers_everything() {
    let set = Dataset::parse("demo", crate::bench::DEMO_PROMPTS).expect("valid");
    assert_eq!(set.languages, Language::ALL);
    assert!(set.rows.len() >= 64);
    let first: BTreeSet<_> = set
        .rows
        .iter()
        .take(Category::COUNT)
        .map(|row| row.category)
        .collect();
    assert_eq!(first.len(), Category::COUNT);
}
