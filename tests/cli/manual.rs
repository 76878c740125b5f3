//! `man`: the pages say what `--help` says, and formatters find nothing wrong with them.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::support::{command, run};

/// Every page by its file name.
fn pages(folder: &Path) -> BTreeMap<String, String> {
    let outcome = run(command(folder).args(["-q", "man", "--to", "man/man1"]));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    let entries = fs::read_dir(folder.join("man/man1")).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn each_command_that_help_shows_has_a_page_with_its_flags() {
    let folder = tempfile::tempdir().unwrap();
    let pages = pages(folder.path());
    for (name, flag) in [
        ("babelward.1", "format"),
        ("babelward-serve.1", "listen"),
        ("babelward-bench-run.1", "shard"),
        ("babelward-keys-new.1", "tenant"),
        ("babelward-man.1", "to"),
    ] {
        let page = pages.get(name).unwrap_or_else(|| panic!("no page {name}"));
        assert!(page.contains(&format!("\\-\\-{flag}")), "{name} lacks --{flag}");
        let heads: Vec<_> = page.lines().filter(|line| line.starts_with(".SH ")).collect();
        assert_eq!(
            heads[..3],
            [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"],
            "{name}"
        );
    }
    assert!(!pages.keys().any(|name| name.contains("engine-bench")));
}

#[test]
fn the_same_program_writes_the_same_pages() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = folders.each_ref().map(|folder| pages(folder.path()));
    assert_eq!(first, second);
}

/// What groff complains of in a page; nothing where it is not installed.
fn complaints(page: &Path) -> String {
    let mut groff = Command::new("groff");
    groff.args(["-man", "-ww", "-z", "-Tutf8"]).arg(page);
    let output = groff.output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn groff_finds_nothing_wrong_with_a_page() {
    let folder = tempfile::tempdir().unwrap();
    for name in pages(folder.path()).keys() {
        let said = complaints(&folder.path().join("man/man1").join(name));
        assert_eq!(said, "", "{name}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let outcome = run(command(folder.path()).args(["man", "--to", "file/man1"]));
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("file/man1"), "{}", outcome.stderr);
}
