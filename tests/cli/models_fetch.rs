//! `models fetch REPO`: a gated model of a hub of the test's own, and the server that its last line starts.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    process::Command,
    thread,
};

use babelward::digest;
use serde_json::{Value, json};

use crate::{
    common::golden,
    support::{Outcome, Server, command, run},
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of a tiny random model.
const FILES: [&str; 4] = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn file(name: &str) -> Vec<u8> {
    fs::read(golden("tiny-chat").join(name)).unwrap()
}

fn listing() -> Vec<u8> {
    let siblings = FILES.map(|name| {
        let bytes = file(name);
        let sha256 = digest::of_bytes(&bytes).trim_start_matches("sha256:").to_owned();
        let blob = digest::git_blob_of_file(&golden("tiny-chat").join(name)).unwrap();
        match name {
            "model.safetensors" => {
                json!({"rfilename": name, "size": bytes.len(), "lfs": {"sha256": sha256}})
            }
            _ => json!({"rfilename": name, "size": bytes.len(), "blobId": blob}),
        }
    });
    let card = json!({"license": "other", "license_name": "tiny-community"});
    json!({"sha": COMMIT, "gated": "manual", "cardData": card, "siblings": siblings})
        .to_string()
        .into_bytes()
}

/// A hub that lists a model for everybody, and gives it to those with the token.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            let path = first.split(' ').nth(1).unwrap().to_owned();
            let head: Vec<String> = lines
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let knows = head
                .iter()
                .any(|line| line.eq_ignore_ascii_case("authorization: bearer open-sesame"));
            let gated = ("403 Forbidden\r\nx-error-code: GatedRepo", Vec::new());
            let (status, body) = match path.strip_prefix(&format!("/someone/Tiny/resolve/{COMMIT}/")) {
                Some(name) if knows && FILES.contains(&name) => ("200 OK", file(name)),
                Some(_) => gated,
                None if path == "/api/models/someone/Tiny/revision/main?blobs=true" => ("200 OK", listing()),
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

fn fetch(folder: &Path) -> Command {
    let mut command = command(folder);
    command
        .env_remove("HF_TOKEN")
        .env_remove("HF_ENDPOINT")
        .env("BABELWARD_CACHE", folder.join("cache"))
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .args(["models", "fetch"]);
    command
}

#[test]
fn a_gated_model_is_fetched_with_a_token_and_its_last_line_serves_it() {
    let folder = tempfile::tempdir().unwrap();
    let url = hub();
    let refused = run(fetch(folder.path()).args(["someone/Tiny", "--endpoint", &url]));
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    for part in ["403", &format!("agree at {url}/someone/Tiny"), "--token-file"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }

    fs::write(folder.path().join("token"), "open-sesame\n").unwrap();
    let by_file = ["someone/Tiny", "--endpoint", &url, "--token-file", "token"];
    let Outcome { code, stdout, stderr } = run(fetch(folder.path()).args(by_file));
    assert_eq!(code, 0, "{stderr}");
    let model = folder.path().join("cache/someone--Tiny").join(COMMIT);
    assert_eq!(stdout, format!("{}\n", model.display()));
    for name in FILES {
        assert_eq!(fs::read(model.join(name)).unwrap(), file(name), "{name}");
    }
    for part in ["licence tiny-community", "look at each request"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(!stderr.contains("sesame"), "{stderr}");
    let line = stderr.lines().last().unwrap();
    let serve = format!(
        "serve --model tiny={} --http-listen 127.0.0.1:8080",
        model.display()
    );
    assert!(line.ends_with(&serve), "{line}");

    // No hub is asked for a commit that is known, and programs get everything at once.
    let pinned = [
        "someone/Tiny",
        "--revision",
        COMMIT,
        "--endpoint",
        "http://127.0.0.1:0",
        "--format",
        "json",
    ];
    let pinned = run(fetch(folder.path()).args(pinned));
    let told: Value = serde_json::from_str(&pinned.stdout).unwrap_or_else(|_| panic!("{}", pinned.stderr));
    let expected = json!([model.to_str(), "someone/Tiny", COMMIT, "tiny-community", "review"]);
    let fields = ["path", "repository", "commit", "licence", "gate"].map(|name| told[name].clone());
    assert_eq!(json!(fields), expected);
    assert!(told["serve"].as_str().unwrap().ends_with(&serve), "{told}");

    let words: Vec<&str> = serve.split(' ').collect();
    let ports = [
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "off",
        "--kv-memory",
        "1MiB",
    ];
    let mut served = command(folder.path());
    served
        .args(&words[..3])
        .args(ports)
        .args(["--http-listen", "127.0.0.1:0"]);
    let mut server = Server::start(&mut served);
    server.url("  HTTP");
}

#[test]
fn names_flags_and_folders_that_do_not_fit_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, part) in [
        (&["qwen3guard"][..], "granite-guardian-3.1-2b"),
        (&["someone/../m"], "OWNER/NAME"),
        (&["someone/m:../x"], "OWNER/NAME"),
        (&["someone/m", "--revision", "../x"], "branch"),
        (
            &["someone/m", "--endpoint", "huggingface.co"],
            "https://huggingface.co",
        ),
        (&["--to", "models"], "--sha256"),
        (&["--revision", "main"], "REPO"),
        (
            &["someone/m", "--url", "http://127.0.0.1:0/"],
            "cannot be used with",
        ),
    ] {
        let outcome = run(fetch(folder.path()).args(arguments));
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(part), "{arguments:?}: {}", outcome.stderr);
    }
    let missing = run(fetch(folder.path()).args(["someone/m", "--token-file", "none"]));
    assert_eq!(missing.code, 7, "{}", missing.stderr);
    assert!(missing.stderr.contains("--token-file none"), "{}", missing.stderr);
}
