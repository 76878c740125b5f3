//! What the documents quote is what the program says: every command in a `console` block is run, against one server with
//! the real model, and its output compared. So is every request with curl, whose answer must be a verdict.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use fancy_regex::Regex;

use crate::{
    common::smollm2,
    support::{Server, program, run},
};

const DOCUMENTS: [&str; 2] = ["README.md", "docs/quickstart.md"];

/// Where requests with curl are.
const CURL_DOCUMENTS: [&str; 2] = ["README.md", "docs/http.md"];

/// The address of the HTTP port in the documents.
const HTTP_ADDRESS: &str = "127.0.0.1:8080";

/// By how much a score may differ: it is quoted with four digits, and processors round differently.
const SCORE_TOLERANCE: f64 = 0.005;

/// A command and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Quote {
    command: String,
    output: Vec<String>,
}

/// Commands begin with `$ `, and go on in the next line after a `\`; what follows is their output.
fn quotes(markdown: &str) -> Vec<Quote> {
    let mut quotes: Vec<Quote> = Vec::new();
    let mut inside = false;
    for line in markdown.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        match (line.strip_prefix("$ "), quotes.last_mut()) {
            (Some(command), _) => quotes.push(Quote {
                command: command.to_owned(),
                output: Vec::new(),
            }),
            (None, Some(last)) if last.output.is_empty() && last.command.ends_with('\\') => {
                last.command.push('\n');
                last.command.push_str(line);
            }
            (None, Some(last)) => last.output.push(line.to_owned()),
            (None, None) => panic!("output without a command: {line}"),
        }
    }
    quotes
}

/// Commands that are a block of their own, without their output, and begin with `curl `.
fn curls(markdown: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut block: Option<(&str, String)> = None;
    for line in markdown.lines() {
        match (line.strip_prefix("```"), block.take()) {
            (Some(kind), None) => block = Some((kind, String::new())),
            (Some(_), Some(("", text))) if text.starts_with("curl ") => commands.push(text),
            (None, Some((kind, text))) => block = Some((kind, text + line + "\n")),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    commands
}

/// Lines without what differs from run to run and from machine to machine.
fn steady(lines: &[String]) -> Vec<String> {
    let volatile = [
        (r" --server http://127\.0\.0\.1:\d+", ""),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"\d+(\.\d+)? tokens/s", "SPEED"),
        (r"\b\d+(\.\d+)? (ms|s)\b", "TIME"),
        (r"\b\d+(\.\d+)? (KiB|MiB|GiB)", "SIZE"),
        (r"\b\d+ cached", "N cached"),
        (r"(unsafe_score|label_mass) [\d.]+", "$1 SCORE"),
        (
            r"\b(mixed|int8|bf16|f32)( on [a-z0-9:]+( \([^)]*\))?)?",
            "PRECISION",
        ),
        // Columns are as wide as what stands in them.
        (r"  +", "  "),
    ];
    let volatile: Vec<_> = volatile
        .iter()
        .map(|(pattern, instead)| (Regex::new(pattern).unwrap(), *instead))
        .collect();
    let lines = lines.iter().map(|line| line.trim_end());
    // The log of the start, and what separates commands.
    let lines = lines.filter(|line| !line.is_empty() && !line.contains(" INFO "));
    // A machine with a card does not say that there is none.
    let lines = lines.filter(|line| !line.starts_with("  devices  "));
    lines
        .map(|line| {
            volatile.iter().fold(line.to_owned(), |line, (pattern, instead)| {
                pattern.replace_all(&line, *instead).into_owned()
            })
        })
        .collect()
}

/// Every score, in order.
fn scores(lines: &[String]) -> Vec<f64> {
    let pattern = Regex::new(r"(?:unsafe_score|label_mass) ([\d.]+)").unwrap();
    let text = lines.join("\n");
    let found = pattern.captures_iter(&text).map(|found| found.unwrap());
    found
        .map(|found| found.get(1).unwrap().as_str().parse().unwrap())
        .collect()
}

fn compare(document: &str, quote: &Quote, said: &[String]) {
    let place = format!("{document}: `{}` says\n{}\n", quote.command, said.join("\n"));
    assert_eq!(steady(&quote.output), steady(said), "{place}");
    let (quoted, found) = (scores(&quote.output), scores(said));
    assert_eq!(quoted.len(), found.len(), "{place}");
    for (quoted, found) in quoted.iter().zip(&found) {
        assert!((quoted - found).abs() <= SCORE_TOLERANCE, "{place}");
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// A folder like a clone after `cargo build --release --locked`, with the model fetched.
fn clone() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("target/release");
    let cache = folder.path().join("cache");
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(&cache).unwrap();
    symlink(env!("CARGO_BIN_EXE_babelward"), programs.join("babelward")).unwrap();
    let model = smollm2();
    symlink(&model, cache.join(model.file_name().unwrap())).unwrap();
    folder
}

/// A shell in which `babelward` is the program that was built.
fn shell(folder: &Path, line: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(folder.join("target/release")).chain(std::env::split_paths(&path));
    let mut shell = program("sh", folder);
    shell
        .args(["-c", line])
        .env("PATH", std::env::join_paths(paths).unwrap())
        .env("BABELWARD_CACHE", folder.join("cache"));
    shell
}

#[test]
fn quoted_outputs_are_what_the_program_says() {
    let folder = clone();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for document in DOCUMENTS {
        let quoted = quotes(&fs::read_to_string(root.join(document)).unwrap());
        assert!(!quoted.is_empty(), "{document} quotes nothing");
        all.extend(quoted.into_iter().map(|quote| (document, quote)));
    }
    let (serving, calling): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|(_, quote)| quote.command.contains("babelward serve "));

    // One server stands for all that the documents start: the last one's, on free ports, with less memory.
    let (_, last) = serving.last().unwrap();
    let line = format!(
        "exec {} --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --kv-memory 256MiB",
        last.command.replace(HTTP_ADDRESS, "127.0.0.1:0")
    );
    let mut server = Server::start(&mut shell(folder.path(), &line));
    let url = server.url("  gRPC");
    let http = server.url("  HTTP");
    server.wait_for("  try ");
    for (document, quote) in &serving {
        let same = |command: &str| {
            command
                .replace("./target/release/", "")
                .replace(" --precision int8", "")
        };
        assert_eq!(same(&quote.command), same(&last.command), "{document}");
        compare(document, quote, server.said());
    }
    for (document, quote) in &calling {
        let outcome = run(shell(folder.path(), &quote.command).env("BABELWARD_SERVER_URL", &url));
        compare(document, quote, &lines(&(outcome.stdout + &outcome.stderr)));
    }
    for document in CURL_DOCUMENTS {
        let commands = curls(&fs::read_to_string(root.join(document)).unwrap());
        assert!(!commands.is_empty(), "{document} has no request with curl");
        for command in commands {
            let here = command.replace(&format!("http://{HTTP_ADDRESS}"), &http);
            let answer = run(&mut shell(folder.path(), &here)).stdout;
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            let verdict = &answer["verdict"];
            assert_eq!(verdict["label"], "LABEL_SAFE", "{document}: {answer}");
            assert!(verdict["unsafeScore"].is_f64(), "{document}: {answer}");
        }
    }
}

#[test]
fn requests_are_blocks_of_their_own() {
    let markdown = "a\n```console\n$ curl w\n```\n```\ncurl x \\\n  y\n```\n```json\n{}\n```\n```\nls\n```\n";
    assert_eq!(curls(markdown), ["curl x \\\n  y\n"]);
}

#[test]
fn quotes_are_commands_with_their_output() {
    let markdown = "```console\n$ one \\\n  more\nout\n\n$ two\n```\n```\n$ not this\n```\n";
    let expected = [("one \\\n  more", vec!["out", ""]), ("two", vec![])];
    let expected = expected.map(|(command, output)| Quote {
        command: command.to_owned(),
        output: output.into_iter().map(str::to_owned).collect(),
    });
    assert_eq!(quotes(markdown), expected);
    let said = ["SAFE  unsafe_score 0.3351  9 tokens (0 cached)  1.5 ms  x  2.9 GiB".to_owned()];
    assert_eq!(
        steady(&said),
        ["SAFE  unsafe_score SCORE  9 tokens (N cached)  TIME  x  SIZE"]
    );
    assert_eq!(scores(&said), [0.3351]);
}
