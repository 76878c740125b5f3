//! `demo`: who judges depends on whether a hub answers, and everything says who it was.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use babelward::digest;
use serde_json::{Value, json};

use crate::{
    common::{golden, smollm2},
    support::{Outcome, command, run},
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REPOSITORY: &str = "Qwen/Qwen3Guard-Gen-0.6B";

/// The files of a tiny random model, which the hub gives as the guard's.
const FILES: [&str; 4] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn file(name: &str) -> Vec<u8> {
    fs::read(golden("tiny-chat").join(name)).unwrap()
}

fn listing(size_of_weights: u64) -> Vec<u8> {
    let siblings = FILES.map(|name| {
        let bytes = file(name);
        let sha256 = digest::of_bytes(&bytes).trim_start_matches("sha256:").to_owned();
        match name {
            "model.safetensors" => {
                let size = size_of_weights.max(bytes.len() as u64);
                json!({"rfilename": name, "size": size, "lfs": {"sha256": sha256}})
            }
            _ => json!({"rfilename": name, "size": bytes.len()}),
        }
    });
    json!({"sha": COMMIT, "siblings": siblings})
        .to_string()
        .into_bytes()
}

/// A hub that has the guard and nothing else, until the test ends. It states at least so many bytes of weights.
fn hub(size_of_weights: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            let path = first.split(' ').nth(1).unwrap().to_owned();
            let _head: Vec<String> = lines
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let of_guard = format!("/{REPOSITORY}/resolve/{COMMIT}/");
            let body = match path.strip_prefix(&of_guard) {
                Some(name) if FILES.contains(&name) => Some(file(name)),
                Some(_) => None,
                None if path == format!("/api/models/{REPOSITORY}/revision/main?blobs=true") => {
                    Some(listing(size_of_weights))
                }
                None => None,
            };
            let (status, body) = match body {
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            // The client may hang up in the middle: that is its right.
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    url
}

/// A folder with the demo's model in its cache, so that only the guard is asked of the hub.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let model = smollm2();
    std::os::unix::fs::symlink(&model, cache.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    home
}

fn demo(home: &Path, hub: &str) -> Command {
    let mut command = command(home);
    command
        .args(["demo", "--limit", "1", "--out", "out"])
        .env("BABELWARD_CACHE", home.join("cache"))
        .env("HF_ENDPOINT", hub)
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    command
}

fn settings(home: &Path) -> Value {
    let run: Value = serde_json::from_slice(&fs::read(home.join("out/run.json")).unwrap()).unwrap();
    run["settings"].clone()
}

fn report(home: &Path) -> String {
    fs::read_to_string(home.join("out/report.html")).unwrap()
}

/// CI's own check of a demo's folder, of five prompts.
fn checked(home: &Path) {
    let script: PathBuf = crate::common::repository(".ci/check_demo.py");
    let mut check = Command::new("python3");
    let check = check.arg(script).arg(home.join("out")).arg("5");
    let Outcome { code, stderr, .. } = run(check);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn where_a_hub_answers_its_guard_judges_and_everything_says_so() {
    let home = home();
    let done = run(&mut demo(home.path(), &hub(0)));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains("fetching qwen3guard-gen-0.6b once: "),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("qwen3guard-gen-0.6b judges"),
        "{}",
        done.stderr
    );
    assert!(!done.stdout.contains("not a safety judgement"), "{}", done.stdout);
    let settings = settings(home.path());
    assert_eq!(
        (&settings["kind"], &settings["guards"]),
        (&json!("demo"), &json!(["qwen3guard-gen-0.6b"]))
    );
    let report = report(home.path());
    assert!(report.contains("The guard was trained as a guard"));
    assert!(report.contains("qwen3guard-gen-0.6b") && !report.contains("Mechanism demo"));
    checked(home.path());
}

#[test]
fn where_no_hub_answers_the_small_model_stands_in_and_a_line_says_why() {
    let home = home();
    let done = run(&mut demo(home.path(), "http://127.0.0.1:9"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let why = "qwen3guard-gen-0.6b does not judge this time: ";
    let told: Vec<&str> = done.stderr.lines().filter(|line| line.contains(why)).collect();
    assert_eq!(told.len(), 1, "{}", done.stderr);
    assert!(told[0].contains("127.0.0.1:9"), "{}", told[0]);
    assert!(done.stdout.contains("not a safety judgement"), "{}", done.stdout);
    assert_eq!(settings(home.path())["kind"], "mechanism_demo");
    assert!(report(home.path()).contains("not a safety judgement"));
    checked(home.path());
}

#[test]
fn a_guard_that_is_asked_for_is_needed_and_one_that_memory_does_not_hold_is_not_fetched() {
    let home = home();
    let mut asked = demo(home.path(), "http://127.0.0.1:9");
    let done = run(asked.args(["--guard-model", "qwen3guard-gen-0.6b"]));
    assert_ne!(done.code, 0);
    assert!(
        done.stderr.contains("qwen3guard-gen-0.6b could not be fetched"),
        "{}",
        done.stderr
    );

    let other = self::home();
    let mut large = demo(other.path(), &hub(1 << 50));
    let done = run(large.args(["--guard-model", "qwen3guard-gen-0.6b"]));
    assert_ne!(done.code, 0);
    assert!(
        done.stderr.contains("of memory are free, and it needs 1024"),
        "{}",
        done.stderr
    );

    let unknown = run(demo(other.path(), "http://127.0.0.1:9").args(["--guard-model", "wildguard"]));
    assert_eq!(unknown.code, 2);
    assert!(
        unknown
            .stderr
            .contains("the demo's guards are qwen3guard-gen-0.6b and chat-demo"),
        "{}",
        unknown.stderr
    );
}
