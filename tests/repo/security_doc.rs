//! docs/security.md names a test for each threat, docs/reliability.md one for each fault, and the tests that they name are
//! there.

use std::{fs, path::Path};

const THREATS: &str = include_str!("../../docs/security.md");
const FAULTS: &str = include_str!("../../docs/reliability.md");

/// The tests that a text names, as a file and, quoted behind it, the name.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let quoted: Vec<_> = text.split('`').skip(1).step_by(2).collect();
    let pairs = quoted.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.filter(|(file, _)| file.ends_with(".rs")).collect()
}

#[test]
fn every_threat_has_a_test_that_exists() {
    check_rows(THREATS, "## Threats", 20);
}

#[test]
fn every_fault_has_a_test_that_exists() {
    check_rows(FAULTS, "## Faults", 12);
}

/// Checks the rows of the tables from this heading on, of which there are at least so many.
fn check_rows(document: &str, heading: &str, least: usize) {
    let begin = document.find(heading).unwrap();
    let rows = document[begin..].lines().filter(|line| line.starts_with("| "));
    // The first row is the table's head.
    let rows: Vec<_> = rows.skip(1).collect();
    assert!(rows.len() >= least, "{} rows", rows.len());
    for row in rows {
        let tests = named_tests(row);
        assert!(!tests.is_empty(), "no test is named in\n{row}");
        for (file, name) in tests {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
            let found = source.find(&format!("fn {name}("));
            let Some(position) = found else {
                panic!("{file} has no test {name}");
            };
            // Its attribute is in one of the lines before it; properties have theirs from a macro.
            let before: Vec<_> = source[..position].lines().rev().take(6).collect();
            let is_test = before
                .iter()
                .any(|line| line.contains("#[test]") || line.contains("#[tokio::test"));
            let is_property = source[..position].contains("proptest! {");
            assert!(is_test || is_property, "{name} in {file} is not a test");
        }
    }
}
