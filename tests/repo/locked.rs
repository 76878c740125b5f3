//! Every command that we write down or run builds what Cargo.lock says: `--locked` refuses where cargo would change it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fancy_regex::Regex;

/// What has commands of cargo in it.
const ROOTS: [&str; 13] = [
    "README.md",
    "ARCHITECTURE.md",
    "Dockerfile",
    "compose.yaml",
    ".ci",
    "benches",
    "deploy",
    "docs",
    "fuzz/src",
    "fuzz/seeds.py",
    "k8s",
    "scripts",
    "tests",
];

/// The two commands of README's Set-up, which people type. They work with the Cargo.lock of a clone, and the first stage of
/// `.ci/supply-chain` fails where it is stale.
const TYPED: [&str; 2] = ["cargo run --release -- demo", "cargo test --release"];

/// Commands of cargo in a text that resolve dependencies and lack `--locked`. A command is what has flags or ends a line; in
/// prose, `cargo test` is a name.
fn unlocked(text: &str) -> Vec<String> {
    let space = r#"["']?,? +["']?"#;
    let command = format!(
        r#"(?m)\bcargo{space}(?:\+?[a-z]+{space}){{0,2}}(?:bench|build|check|clippy|install|metadata|run|rustc|test|tree)\b(?={space}["$-]|$)[^`\n]*"#
    );
    let command = Regex::new(&command).unwrap();
    // A command goes on after a backslash at the end of its line.
    let text = text.replace("\\\n", "");
    let found = command
        .find_iter(&text)
        .map(|found| found.unwrap().as_str().trim().to_owned());
    found
        .filter(|command| !command.contains("--locked") && !TYPED.contains(&command.as_str()))
        .collect()
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else {
        found.push(path.to_owned());
    }
}

#[test]
fn every_command_of_cargo_is_locked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for name in ROOTS {
        files(&root.join(name), &mut paths);
    }
    let mut broken = Vec::new();
    for path in paths {
        // This folder names commands to check them.
        if path.starts_with(root.join("tests/repo")) {
            continue;
        }
        // What is not text has no commands.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let name = path.strip_prefix(root).unwrap().display();
        broken.extend(
            unlocked(&text)
                .into_iter()
                .map(|command| format!("{name}: {command}")),
        );
    }
    assert!(broken.is_empty(), "without --locked:\n{}", broken.join("\n"));
}

#[test]
fn commands_without_the_flag_are_found() {
    for text in [
        "cargo build --release",
        "Build it with `cargo build --release` first.",
        "    cargo build \\\n    --release --bin x",
        "cargo test",
        "timeout 30m cargo test \"${select[@]}\"",
        "[\"cargo\", \"build\", \"--release\"]",
        "cargo +nightly miri test -p sanitize",
        "cargo install --path .",
    ] {
        assert_eq!(unlocked(text).len(), 1, "{text}");
    }
    for text in [
        "cargo build --release --locked",
        "so that `cargo test` never builds it",
        "    cargo build \\\n    --release --locked",
        "cargo run --release -- demo",
        "[\"cargo\", \"tree\", \"--locked\"]",
        "cargo fmt --check",
    ] {
        assert_eq!(unlocked(text), Vec::<String>::new(), "{text}");
    }
}
