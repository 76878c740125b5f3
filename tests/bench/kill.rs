//! `kill -9` of the real client and of the real server, while a run goes on: `results.jsonl` is the same bytes as if
//! nothing had happened. Where a process is killed is decided by how long the journal is, not by time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
};

use babelward::random::Random;

use crate::support::{Server, command, run};

const ROUNDS: u64 = 5;
const KILLS: usize = 6;

fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(path)
        .display()
        .to_string()
}

/// A server with a tiny random chat model in both roles (`tests/golden/tiny_chat.py`).
fn serve(folder: &Path, listen: &str) -> (Server, String) {
    let model = format!("tiny={}", repository("tests/golden/tiny-chat"));
    let mut server = Server::start(command(folder).args([
        "serve",
        "--listen",
        listen,
        "--metrics-listen",
        "127.0.0.1:0",
        "--kv-memory",
        "64MiB",
        "--model",
        &model,
        "--guard",
        "tiny",
    ]));
    let url = server.url("  gRPC");
    (server, url)
}

/// What the server listens on, to listen there again.
fn address(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// The client in a process of its own.
struct Bench {
    root: PathBuf,
    concurrency: String,
}

impl Bench {
    fn command(&self, url: &str, args: &[&str]) -> std::process::Command {
        let mut command = command(&self.root);
        command.args(["--server", url, "-q", "bench"]).args(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Begins the run in this folder, or goes on with it.
    fn spawn(&self, url: &str, out: &str) -> Child {
        let begun = self.root.join(out).join("run.json").exists();
        let data = repository("data/demo_prompts.jsonl");
        let resume = ["resume", out];
        let begin = [
            "run",
            "--data",
            &data,
            "--limit",
            "6",
            "--seed",
            "1,2",
            "--max-new-tokens",
            "12",
            "--concurrency",
            &self.concurrency,
            "--out",
            out,
        ];
        if !begun {
            // Killed before there was a run.
            let _ = fs::remove_dir_all(self.root.join(out));
        }
        let args = if begun { &resume[..] } else { &begin[..] };
        self.command(url, args).spawn().unwrap()
    }

    /// Lets a client come to its end.
    fn finish(&self, mut client: Child, url: &str, out: &str) {
        let status = client.wait().unwrap();
        if !status.success() {
            let mut again = command(&self.root);
            let told = run(again.args(["--server", url, "bench", "resume", out]));
            panic!("{out}: {status}; resumed: {}", told.stderr);
        }
    }

    fn results(&self, out: &str) -> String {
        fs::read_to_string(self.root.join(out).join("results.jsonl")).unwrap()
    }

    fn journal(&self, out: &str) -> u64 {
        fs::metadata(self.root.join(out).join("journal.jsonl")).map_or(0, |journal| journal.len())
    }

    /// Waits until the journal has so many bytes; false when the client ends before.
    fn reaches(&self, client: &mut Child, out: &str, bytes: u64) -> bool {
        while self.journal(out) < bytes {
            if client.try_wait().unwrap().is_some() {
                return false;
            }
            thread::yield_now();
        }
        client.try_wait().unwrap().is_none()
    }
}

/// Ascending points in a journal of this length.
fn points(seed: u64, length: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    let mut points: Vec<_> = (0..KILLS).map(|_| random.bits() % length).collect();
    points.sort_unstable();
    points
}

fn begin(root: &Path, url: &str) -> (String, u64) {
    let bench = Bench {
        root: root.to_owned(),
        concurrency: "16".to_owned(),
    };
    let client = bench.spawn(url, "whole");
    bench.finish(client, url, "whole");
    let results = bench.results("whole");
    assert_eq!(results.lines().count(), 6 * 5 * 2);
    for label in ["safe", "unsafe", "undetermined"] {
        assert!(
            results.contains(&format!("\"label\":\"{label}\"")),
            "nothing is {label}"
        );
    }
    (results, bench.journal("whole"))
}

#[test]
fn a_client_that_is_killed_anywhere_is_resumed_to_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let (_server, url) = serve(root.path(), "127.0.0.1:0");
    let (expected, length) = begin(root.path(), &url);
    let mut hits = 0;
    for round in 0..ROUNDS {
        let bench = Bench {
            root: root.path().to_owned(),
            concurrency: (1 + 3 * round).to_string(),
        };
        let out = format!("round-{round}");
        let mut client = bench.spawn(&url, &out);
        for point in points(round + 1, length) {
            if bench.reaches(&mut client, &out, point) {
                hits += 1;
                client.kill().unwrap();
                client.wait().unwrap();
                client = bench.spawn(&url, &out);
            }
        }
        bench.finish(client, &url, &out);
        assert_eq!(bench.results(&out), expected, "round {round}");
    }
    assert!(hits > 0, "nothing was ever killed");
}

#[test]
fn a_server_that_is_killed_anywhere_is_waited_for_or_replaced() {
    let root = tempfile::tempdir().unwrap();
    let (mut server, mut url) = serve(root.path(), "127.0.0.1:0");
    let (expected, length) = begin(root.path(), &url);
    let mut hits = 0;
    for round in 0..ROUNDS {
        let bench = Bench {
            root: root.path().to_owned(),
            concurrency: (16 - 3 * round).to_string(),
        };
        let out = format!("round-{round}");
        let mut client = bench.spawn(&url, &out);
        for (kill, point) in points(100 + round, length).into_iter().enumerate() {
            if !bench.reaches(&mut client, &out, point) {
                continue;
            }
            hits += 1;
            server.signal("KILL");
            if kill % 2 == 0 {
                // On the same port: the client finds it by itself.
                let listen = address(&url).to_owned();
                drop(server);
                (server, url) = serve(root.path(), &listen);
            } else {
                // On another: the client is told by whoever resumes.
                client.kill().unwrap();
                client.wait().unwrap();
                drop(server);
                (server, url) = serve(root.path(), "127.0.0.1:0");
                client = bench.spawn(&url, &out);
            }
        }
        bench.finish(client, &url, &out);
        assert_eq!(bench.results(&out), expected, "round {round}");
    }
    assert!(hits > 0, "nothing was ever killed");
}
