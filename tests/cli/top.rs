//! `top`: the figures of real servers, also of one that goes away and returns.

use std::io::{BufRead as _, BufReader};

use serde_json::Value;

use crate::{
    authority::Authority,
    serve::{TLS_AND_KEYS, get, new_key, serve},
    support::{Server, command, run},
};

/// A server, and the addresses of its calls and metrics.
fn started(folder: &std::path::Path, arguments: &[&str]) -> (Server, String, String) {
    let mut server = Server::start(&mut serve(folder, arguments));
    let (url, metrics) = (server.url("  gRPC"), server.url("  metrics"));
    (server, url, metrics)
}

#[test]
fn one_frame_shows_what_servers_do_and_which_one_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, url, metrics) = started(folder.path(), &[]);
    for _ in 0..3 {
        let outcome = run(command(folder.path()).args(["classify", "hello", "--server", &url]));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
    let servers = format!("{url},http://127.0.0.1:1");
    let both = format!("{metrics},http://127.0.0.1:1");
    let once = [
        "top",
        "--once",
        "--interval",
        "50ms",
        "--server",
        &servers,
        "--metrics",
        &both,
    ];
    let outcome = run(command(folder.path()).args(once));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let frame = outcome.stdout;
    for part in [
        "SERVER",
        "SERVING      1/1    0       0",
        "UNREACHABLE  -      -       -",
        "smol   ready  cpu",
        "Classify",
        "verdicts of smol",
        "refused  nothing",
    ] {
        assert!(frame.contains(part), "`{part}` is not in\n{frame}");
    }
    assert!(!frame.contains('\x1b'), "{frame}");

    let outcome = run(command(folder.path()).args(once).args(["--format", "json"]));
    let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let [first, second] = &figures["servers"].as_array().unwrap()[..] else {
        panic!("{figures}");
    };
    assert_eq!(
        (&first["health"], &second["health"]),
        (&"SERVING".into(), &"UNREACHABLE".into())
    );
    assert_eq!(first["models"][0]["model"], "smol");
    assert_eq!(first["models"][0]["kv_usage"], 0.0);
    assert!(first["seconds"].as_f64().unwrap() > 0.0);
    let shares = first["verdicts"][0]["shares"].as_object().unwrap();
    let sum: f64 = shares.values().map(|share| share.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{shares:?}");
    let methods = first["methods"].as_array().unwrap();
    assert!(
        methods
            .iter()
            .any(|method| method["method"] == "babelward.v1.SafetyService/Classify")
    );
    assert_eq!(second["problems"].as_array().unwrap().len(), 2, "{second}");

    // What the routers read is there, without labels and for the server as a whole.
    let text = get(&metrics);
    for gauge in ["queue_depth", "running", "kv_usage_ratio"] {
        let line = format!("babelward_server_{gauge} 0");
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    let request = "gen_ai_server_request_duration_seconds_count{gen_ai_operation_name=\"classify\",\
                   gen_ai_provider_name=\"babelward\",gen_ai_request_model=\"smol\"} 3";
    assert!(
        text.lines().any(|found| found == request),
        "{request} is not in {text}"
    );
    server.signal("TERM");
    assert!(server.end().0.success());
}

#[test]
fn a_server_that_goes_away_and_returns_is_shown_so() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, url, metrics) = started(folder.path(), &[]);
    let mut top = command(folder.path());
    top.args([
        "top",
        "--format",
        "jsonl",
        "--interval",
        "50ms",
        "--server",
        &url,
        "--metrics",
        &metrics,
    ])
    .stdout(std::process::Stdio::piped())
    .stderr(std::process::Stdio::null());
    let mut top = top.spawn().unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let mut until = |health: &str| {
        for line in lines.by_ref() {
            let figures: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if figures["servers"][0]["health"] == health {
                return figures;
            }
        }
        panic!("top has ended");
    };
    until("SERVING");
    server.signal("TERM");
    assert!(server.end().0.success());
    let gone = until("UNREACHABLE");
    assert_eq!(gone["servers"][0]["models"], serde_json::json!([]));
    let place = |url: &str| {
        let rest = url.strip_prefix("http://").unwrap();
        rest.split('/').next().unwrap().to_owned()
    };
    let (listen, metrics_listen) = (place(&url), place(&metrics));
    // A later flag of the same name would be an error, so these are variables.
    let mut again = command(folder.path());
    let model = format!("smol={}", crate::common::smollm2().display());
    again
        .args([
            "serve",
            "--kv-memory",
            "256MiB",
            "--model",
            &model,
            "--guard",
            "smol",
            "--guard-kind",
            "chat-demo",
        ])
        .args(["--listen", &listen, "--metrics-listen", &metrics_listen]);
    let mut server = Server::start(&mut again);
    server.wait_for("  gRPC");
    let back = until("SERVING");
    assert_eq!(back["servers"][0]["models"][0]["state"], "ready");
    let id = top.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-s", "TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert!(top.wait().unwrap().success());
}

#[test]
fn what_cannot_be_shown_is_a_mistake_in_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&[], "say --once"),
        (&["--format", "json"], "say --once too"),
        (
            &["--once", "--metrics", "http://a,http://b"],
            "2 addresses for 1 server",
        ),
        (&["--once", "--server", "http://"], "no address of a server"),
    ];
    for (arguments, text) in cases {
        let outcome = run(command(folder.path()).arg("top").args(arguments));
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(text), "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn a_protected_server_tells_its_figures_to_those_who_may_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let trusted = authority.write(folder.path(), "ca.pem");
    authority.issue(&["127.0.0.1"]).write(folder.path(), "server");
    let (reader, caller) = (
        new_key(folder.path(), "operator", "metrics,classify"),
        new_key(folder.path(), "caller", "classify"),
    );
    let (_server, address, metrics) = started(folder.path(), &TLS_AND_KEYS);
    let top = |key: &str| {
        let outcome = run(command(folder.path()).env("BABELWARD_TOKEN", key).args([
            "top",
            "--once",
            "--interval",
            "10ms",
            "--server",
            &address,
            "--metrics",
            &metrics,
            "--ca-file",
            &trusted,
        ]));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    };
    let frame = top(&reader);
    assert!(
        frame.contains("connections") && !frame.contains("no metrics"),
        "{frame}"
    );
    let frame = top(&caller);
    assert!(
        frame.contains("smol   ready") && frame.contains("has the scope metrics"),
        "{frame}"
    );
    let frame = top("bw_wrong");
    assert!(
        frame.contains("  SERVING") && frame.contains("UNAUTHENTICATED") && !frame.contains("bw_wrong"),
        "{frame}"
    );
}
