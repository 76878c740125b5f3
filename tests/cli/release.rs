//! `scripts/release`: what is in the archive, that it can be checked and made again, and that its parts work.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    common::repository,
    support::{program, run},
};

/// What the archive has besides manual pages.
const CONTENTS: [&str; 11] = [
    "bin/babelward",
    "lib/systemd/system/babelward.service",
    "share/babelward/demo_prompts.jsonl",
    "share/bash-completion/completions/babelward",
    "share/doc/babelward/CHANGELOG.md",
    "share/doc/babelward/LICENSE",
    "share/doc/babelward/README.md",
    "share/doc/babelward/babelward.cdx.json",
    "share/doc/babelward/babelward.toml",
    "share/doc/babelward/third-party-licences.txt",
    "share/fish/vendor_completions.d/babelward.fish",
];

const ZSH: &str = "share/zsh/site-functions/_babelward";

/// Packs the tests' own program; the archive's name without its endings.
fn release(out: &Path) -> String {
    let mut script = Command::new(repository("scripts/release"));
    script
        .args(["--binary", env!("CARGO_BIN_EXE_babelward"), "--out"])
        .arg(out)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    let outcome = run(&mut script);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let archives: Vec<String> = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".tar.gz").map(str::to_owned))
        .collect();
    assert_eq!(archives.len(), 1, "{archives:?}");
    archives.into_iter().next().unwrap()
}

fn done(command: &mut Command) -> String {
    let outcome = run(command);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    outcome.stdout
}

#[test]
fn an_archive_can_be_checked_is_the_same_each_time_and_its_parts_work() {
    let folder = tempfile::tempdir().unwrap();
    let outs = ["a", "b"].map(|name| folder.path().join(name));
    let [name, again] = outs.each_ref().map(|out| release(out));
    assert_eq!(name, again);
    let archive = format!("{name}.tar.gz");
    let [first, second] = outs.each_ref().map(|out| fs::read(out.join(&archive)).unwrap());
    assert!(first == second, "two runs give two archives");

    let out = &outs[0];
    let sums = done(
        Command::new("sha256sum")
            .args(["-c", "SHA256SUMS"])
            .current_dir(out),
    );
    assert_eq!(sums, format!("{archive}: OK\n"));

    // Everything belongs to user 0, and has the time of the commit.
    let mut list = Command::new("tar");
    list.args(["--list", "--verbose", "--numeric-owner", "--utc", "--file"]);
    for line in done(list.arg(&archive).current_dir(out)).lines() {
        assert!(
            line.contains(" 0/0 ") && line.contains("2023-11-14 22:13"),
            "{line}"
        );
    }

    done(
        Command::new("tar")
            .args(["--extract", "--file", &archive])
            .current_dir(out),
    );
    let root = out.join(&name);
    let mut found = files(&root, &root);
    found.retain(|place| !place.starts_with("share/man/man1/"));
    found.sort_unstable();
    assert_eq!(found, [&CONTENTS[..], &[ZSH]].concat());

    let released = root.join("bin/babelward");
    let version = done(program(released.to_str().unwrap(), folder.path()).arg("--version"));
    assert!(name.starts_with(&version.trim().replace(' ', "-")), "{version}");
    for (place, word) in [
        ("share/bash-completion/completions/babelward", "complete -F"),
        (ZSH, "#compdef babelward"),
        (
            "share/fish/vendor_completions.d/babelward.fish",
            "complete -c babelward",
        ),
        ("share/man/man1/babelward.1", ".TH babelward"),
        ("share/man/man1/babelward-serve.1", ".SH OPTIONS"),
        ("share/doc/babelward/third-party-licences.txt", "\nserde 1."),
        (
            "share/doc/babelward/third-party-licences.txt",
            "Permission is hereby granted",
        ),
    ] {
        let text = fs::read_to_string(root.join(place)).unwrap();
        assert!(text.contains(word), "{place} lacks {word}");
    }
    let bill = fs::read(root.join("share/doc/babelward/babelward.cdx.json")).unwrap();
    let bill: serde_json::Value = serde_json::from_slice(&bill).unwrap();
    assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(bill["metadata"]["component"]["name"], "babelward");
}

/// The files below a folder, by their paths in `root`.
fn files(folder: &Path, root: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| match path.is_dir() {
        true => files(&path, root),
        false => vec![path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()],
    };
    entries.flat_map(below).collect()
}

#[test]
fn a_program_of_another_version_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    let mut script = Command::new(repository("scripts/release"));
    // A program that says something else: it has no debug information to lose.
    let outcome = run(script
        .args(["--binary", "/bin/true", "--out"])
        .arg(folder.path())
        .env("SOURCE_DATE_EPOCH", "1700000000"));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("this tree is babelward"),
        "{}",
        outcome.stderr
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
