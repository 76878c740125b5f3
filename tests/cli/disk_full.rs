//! Disks that are full behind downloads, standard output and the server's log.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::mpsc,
    thread,
};

use babelward::digest;

use crate::{
    common::golden,
    support::{Server, command, program, run},
};

/// A file on a disk that is always full.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// Serves one file over HTTP, with ranges, and reports the range of each request.
fn hub(content: Vec<u8>) -> (String, mpsc::Receiver<Option<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/weights", listener.local_addr().unwrap());
    let (sender, ranges) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut from = None;
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
                if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    from = range.trim_end_matches('-').parse().ok();
                }
            }
            let (start, len) = (from.unwrap_or(0), content.len());
            let head = match from {
                Some(_) => format!(
                    "206 Partial Content\r\nContent-Range: bytes {start}-{}/{len}",
                    len - 1
                ),
                None => "200 OK".to_owned(),
            };
            let head = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                len - start
            );
            // A client that stops reading closes the connection.
            let sent = (&stream).write_all(head.as_bytes());
            let _ = sent.and_then(|()| (&stream).write_all(&content[start..]));
            let _ = sender.send(from);
        }
    });
    (url, ranges)
}

#[test]
fn a_download_that_finds_no_room_is_gone_on_with_and_is_never_there_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let sha256 = digest::of_bytes(&content);
    let (url, ranges) = hub(content.clone());
    let target = folder.path().join("weights");
    let fetch = [
        "models", "fetch", "--to", "weights", "--sha256", &sha256, "--url", &url,
    ];
    let mut limited = program("sh", folder.path());
    limited.args([
        "-c",
        "trap '' XFSZ; exec \"$@\"",
        "sh",
        "prlimit",
        "--fsize=300000",
    ]);
    let stopped = run(limited.arg(env!("CARGO_BIN_EXE_babelward")).args(fetch));
    assert_eq!(stopped.code, 1, "{}", stopped.stderr);
    for part in ["weights.part", "File too large", "make room"] {
        assert!(
            stopped.stderr.contains(part),
            "`{part}` is not in: {}",
            stopped.stderr
        );
    }
    assert!(!target.exists());
    let done = run(command(folder.path()).args(fetch));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(fs::read(&target).unwrap(), content);
    let ranges: Vec<_> = ranges.try_iter().collect();
    assert!(
        ranges.contains(&Some(300_000)),
        "it goes on where it stopped: {ranges:?}"
    );
}

#[test]
fn standard_output_on_a_full_disk_is_an_error_and_messages_on_one_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let fields = ["config", "show"];
    let unwritten = run(command(folder.path()).args(fields).stdout(full()));
    assert_eq!(unwritten.code, 1, "{}", unwritten.stderr);
    assert!(unwritten.stderr.contains("No space left"), "{}", unwritten.stderr);
    assert!(unwritten.stderr.contains("make room"), "{}", unwritten.stderr);
    let silent = command(folder.path())
        .args(fields)
        .stderr(full())
        .output()
        .unwrap();
    assert_eq!(silent.status.code(), Some(0));
    // An error whose text cannot be read keeps its exit code.
    let wrong = command(folder.path())
        .args(["report", "nowhere"])
        .stderr(full())
        .output()
        .unwrap();
    let told = run(command(folder.path()).args(["report", "nowhere"]));
    assert_eq!(wrong.status.code(), Some(told.code));
}

#[test]
fn a_server_whose_log_is_on_a_full_disk_answers_and_drains() {
    let folder = tempfile::tempdir().unwrap();
    // No other test takes a port of this address meanwhile.
    let address = TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap();
    let listen = address.to_string();
    let model = format!("tiny={}", golden("tiny-chat").display());
    let mut serve = command(folder.path());
    serve.args([
        "serve",
        "--listen",
        &listen,
        "--kv-memory",
        "1MiB",
        "--metrics-listen",
        "off",
        "--log-level",
        "trace",
        "--model",
        &model,
    ]);
    let mut server = Server::silent(serve.stderr(full()));
    while TcpStream::connect(address).is_err() {
        assert!(server.is_running(), "the server has ended");
        thread::yield_now();
    }
    let url = format!("http://{address}");
    for _ in 0..3 {
        let short = ["generate", "hello", "--max-new-tokens", "4"];
        let outcome = run(command(folder.path()).args(["--server", &url]).args(short));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    }
    server.signal("TERM");
    let (status, _, _) = server.end();
    assert_eq!(status.code(), Some(0));
}
