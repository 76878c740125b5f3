//! `kill -9` of the real client and of the real server, while a run goes on: `results.jsonl` is the same bytes as if
//! nothing had happened. Where a process is killed is decided by how long the journal is, not by time.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
};

use babelward::random::Random;

use crate::support::{Server, command, run};

const ROUNDS: u64 = 5;
const KILLS: usize = 6;

pub(crate) fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(path)
        .display()
        .to_string()
}

/// A server with a tiny random chat model in both roles (`tests/golden/tiny_chat.py`).
pub(crate) fn serve(folder: &Path, listen: &str) -> (Server, String) {
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
        "--guard-kind",
        "chat-demo",
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

/// How many items the server has answered.
fn answered(server: &mut Server) -> u64 {
    let url = server.url("  metrics");
    let mut connection = TcpStream::connect(address(&url).trim_end_matches("/metrics")).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    text.lines()
        .filter(|line| line.starts_with("babelward_items_total{") && line.contains("code=\"OK\""))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn the_client_shares_a_run_among_three_servers_and_loses_nothing_when_one_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let mut fleet: Vec<_> = (0..3).map(|_| serve(root.path(), "127.0.0.1:0")).collect();
    let (expected, length) = begin(root.path(), &fleet[0].1);
    let mut hits = 0;
    for round in 0..3 {
        let before: Vec<_> = fleet.iter_mut().map(|(server, _)| answered(server)).collect();
        let urls: Vec<_> = fleet.iter().map(|(_, url)| url.as_str()).collect();
        let urls = urls.join(",");
        let bench = Bench {
            root: root.path().to_owned(),
            concurrency: "12".to_owned(),
        };
        let out = format!("shared-{round}");
        let mut client = bench.spawn(&urls, &out);
        if bench.reaches(&mut client, &out, length / 2) {
            hits += 1;
            let shares = fleet.iter_mut().zip(before);
            let shares: Vec<_> = shares
                .map(|((server, _), before)| answered(server) - before)
                .collect();
            assert!(shares.iter().all(|share| *share > 0), "round {round}: {shares:?}");
            fleet[round].0.signal("KILL");
        }
        bench.finish(client, &urls, &out);
        assert_eq!(bench.results(&out), expected, "round {round}");
        // The next round has three servers again.
        fleet[round] = serve(root.path(), "127.0.0.1:0");
    }
    assert!(hits > 0, "nothing was ever killed");
}
