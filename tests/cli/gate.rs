//! What gates and programs rely on: nothing passes that was not judged, and every error has one shape.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    client::scripted,
    support::{command, run, run_with_input},
};

/// A server that nobody has started.
const NOWHERE: &str = "http://127.0.0.1:1";

fn gate(folder: &Path, server: &str) -> Command {
    let mut command = command(folder);
    command.args(["classify", "--fail-on", "unsafe", "--server", server]);
    command
}

#[test]
fn a_gate_passes_nothing_that_was_not_judged() {
    let server = scripted();
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("f.txt", "unsafe a\n"),
        ("README", "unsafe a"),
        ("empty.txt", "\n"),
        ("empty.jsonl", "\n\n"),
        ("items.jsonl", "{\"text\": \"unsafe a\"}\n"),
        ("broken.jsonl", "{\"text\": \"safe a\"}\n{\"text\": \"wrong\"}\n"),
        (
            "open.jsonl",
            "{\"text\": \"safe a\"}\n{\"text\": \"undetermined\"}\n",
        ),
        ("safe.jsonl", "{\"text\": \"safe a\"}\n"),
    ];
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    fs::create_dir(folder.path().join("texts")).unwrap();
    let cases: [(&[&str], i32, &str); 20] = [
        // The name of a file is no text, and that of one which is missing neither.
        (&["f.txt"], 2, "--file f.txt"),
        (&["README"], 2, "--file README"),
        (&["texts"], 2, "is the name of a file or folder"),
        (&["missing.txt"], 2, "no file has it"),
        (&["answers/1"], 2, "no file has it"),
        (&["items.jsonl"], 2, "--items items.jsonl"),
        (&["--file", "items.jsonl"], 2, "--items items.jsonl"),
        (
            &["--prompt", "f.txt", "safe a"],
            2,
            "--prompt takes the words of a prompt",
        ),
        // Nothing is not safe.
        (&[""], 9, "empty"),
        (&["--text", " "], 9, "empty"),
        (&["--file", "empty.txt"], 9, "empty"),
        (&["--items", "empty.jsonl"], 9, "no items"),
        // What is named is judged.
        (&["--file", "f.txt"], 3, ""),
        (&["--items", "items.jsonl"], 3, "1 unsafe"),
        (&["--items", "broken.jsonl"], 5, "1 failed"),
        (&["--items", "open.jsonl"], 8, "1 undetermined"),
        (&["--items", "safe.jsonl"], 0, "1 safe"),
        (&["--text", "f.txt"], 0, ""),
        (&["--file", "missing.txt"], 7, "missing.txt"),
        (&["--file", "texts"], 7, "texts"),
    ];
    for (arguments, code, says) in cases {
        let outcome = run(gate(folder.path(), &server).args(arguments));
        assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{arguments:?}: {}", outcome.stderr);
    }
    let from_stdin: [(&[&str], &str, i32); 8] = [
        (&[], "", 9),
        (&["-"], "\n", 9),
        (&["--items", "-"], "", 9),
        (&["-"], "unsafe a\n", 3),
        (&[], "unsafe a\n", 3),
        (&["--file", "-"], "unsafe a\n", 3),
        (&["--items", "-"], "{\"text\": \"unsafe a\"}", 3),
        (&[], "safe a\n", 0),
    ];
    for (arguments, input, code) in from_stdin {
        let outcome = run_with_input(gate(folder.path(), &server).args(arguments), input);
        assert_eq!(outcome.code, code, "{arguments:?} {input:?}: {}", outcome.stderr);
    }
}

#[test]
fn the_other_commands_take_texts_from_the_same_places() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f.txt"), "words").unwrap();
    fs::write(folder.path().join("empty.txt"), "").unwrap();
    for subcommand in ["generate", "score"] {
        let cases: [(&[&str], i32, &str); 6] = [
            (&["f.txt"], 2, "--file f.txt"),
            (&["missing.txt"], 2, "no file has it"),
            (&["--file", "empty.txt"], 9, "empty"),
            (&["--file", "missing.txt"], 7, "missing.txt"),
            (&["--file", "f.txt"], 6, "babelward serve"),
            (&["--text", "f.txt"], 6, "babelward serve"),
        ];
        for (arguments, code, says) in cases {
            let outcome = run(command(folder.path())
                .args([subcommand, "--server", NOWHERE, "--timeout", "1s"])
                .args(arguments));
            assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(says), "{arguments:?}: {}", outcome.stderr);
        }
    }
}

#[test]
fn machines_get_every_error_as_one_json_object() {
    let server = scripted();
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, Option<&str>, &str); 6] = [
        (&["classify", "wrong"], 2, Some("INVALID_FIELDS"), "no"),
        (
            &["classify", "late", "--timeout", "50ms"],
            124,
            Some("DEADLINE"),
            "no answer",
        ),
        (&["classify", "missing.txt"], 2, None, "no file has it"),
        (
            &["classify", "a", "--server", NOWHERE],
            6,
            None,
            "no server answers",
        ),
        (&["classify", "a", "--no-such-flag"], 2, None, "--no-such-flag"),
        (
            &["serve", "--listen", "nowhere", "--threads", "many"],
            2,
            None,
            "2 problems",
        ),
    ];
    for (arguments, code, reason, says) in cases {
        for format in ["json", "jsonl"] {
            let outcome = run(command(folder.path())
                .env("BABELWARD_SERVER_URL", &server)
                .args(["--format", format])
                .args(arguments));
            assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
            assert_eq!(outcome.stdout, "", "{arguments:?}");
            assert_eq!(
                outcome.stderr.lines().count(),
                1,
                "{arguments:?}: {}",
                outcome.stderr
            );
            let told: Value = serde_json::from_str(&outcome.stderr).unwrap();
            let error = &told["error"];
            assert_eq!(error["exit_code"], code, "{told}");
            assert_eq!(error["reason"].as_str(), reason, "{told}");
            assert!(error["message"].as_str().unwrap().contains(says), "{told}");
            let fields = error["field_violations"].as_array().unwrap();
            assert_eq!(fields.len(), if says == "2 problems" { 2 } else { 0 }, "{told}");
        }
    }
}

#[test]
fn policies_are_listed() {
    let server = scripted();
    let folder = tempfile::tempdir().unwrap();
    let list = |format: &str| {
        let outcome =
            run(command(folder.path()).args(["policies", "ls", "--server", &server, "--format", format]));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    };
    assert_eq!(
        list("human"),
        "NAME  CATEGORIES            DIGEST\nshop  S1 Fraud, S2 Returns  sha256:1\n"
    );
    let json: Value = serde_json::from_str(&list("json")).unwrap();
    assert_eq!(json[0]["policy"]["name"], "shop");
    assert_eq!(json[0]["policy"]["categories"][1]["description"], "words");
    assert_eq!(json[0]["digest"], "sha256:1");
}
