//! Models by the names of their repositories, from hubs on this machine, some of which lie.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use super::{
    FetchedModel, Gate, ModelFetch, ModelForm, Progress, hub_fetch::Place, progress::Reporter,
    sources::NamedHub, tests::named_hub,
};
use crate::{digest, secret::Secret};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &[u8] = b"weights, weights, weights";
/// The hash of `{}` as git's blob.
const EMPTY_OBJECT: &str = "9e26dfeeb6e641a33dae4961196235bdb965b21b";

/// What a hub was asked.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    /// From which byte on.
    from: usize,
    token: Option<String>,
}

/// What it answers.
enum Answer {
    /// The whole content, or the part of it that was asked for.
    Content(Vec<u8>),
    /// The same, but the connection ends after so many bytes.
    Cut(Vec<u8>, usize),
    /// A status, with headers, and no body.
    Status(&'static str, String),
}

fn status(text: &'static str) -> Answer {
    Answer::Status(text, String::new())
}

/// A hub, and what it was asked.
struct Hub {
    url: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Hub {
    /// Answers at this address until the test ends.
    fn at(address: &str, mut answer: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                let mut request = Request {
                    path: first.split(' ').nth(1).unwrap().to_owned(),
                    from: 0,
                    token: None,
                };
                for line in lines.map(Result::unwrap).take_while(|line| !line.is_empty()) {
                    let (name, value) = line.split_once(": ").unwrap();
                    match name.to_ascii_lowercase().as_str() {
                        "range" => {
                            let from = value.trim_start_matches("bytes=").trim_end_matches('-');
                            request.from = from.parse().unwrap();
                        }
                        "authorization" => request.token = Some(value.to_owned()),
                        _ => {}
                    }
                }
                let bytes = response(&request, answer(&request));
                seen.lock().unwrap().push(request);
                // The client may hang up in the middle: that is its right.
                let _ = stream.write_all(&bytes);
            }
        });
        Self { url, asked }
    }

    fn start(answer: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        Self::at("127.0.0.1", answer)
    }

    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|request| request.path).collect()
    }

    fn with_token(&self) -> NamedHub {
        NamedHub {
            token: Some(Secret::new("open-sesame".to_owned())),
            ..named_hub(&self.url)
        }
    }
}

fn response(request: &Request, answer: Answer) -> Vec<u8> {
    let (head, body, sent) = match answer {
        Answer::Status(text, headers) => (format!("{text}\r\n{headers}"), Vec::new(), 0),
        Answer::Content(content) => ranged(request, content, usize::MAX),
        Answer::Cut(content, sent) => ranged(request, content, sent),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {head}content-length: {length}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), &body[..sent.min(length)]].concat()
}

fn ranged(request: &Request, content: Vec<u8>, sent: usize) -> (String, Vec<u8>, usize) {
    let (from, length) = (request.from, content.len());
    let head = match from {
        0 => "200 OK\r\n".to_owned(),
        _ => format!(
            "206 Partial Content\r\ncontent-range: bytes {from}-{}/{length}\r\n",
            length - 1
        ),
    };
    (head, content[from..].to_vec(), sent)
}

/// A large file of a repository, as a hub lists it.
fn large(name: &str, content: &[u8]) -> Value {
    let sha256 = digest::of_bytes(content);
    let lfs =
        json!({"sha256": sha256.trim_start_matches("sha256:"), "size": content.len(), "pointerSize": 130});
    json!({"rfilename": name, "size": content.len(), "blobId": "11".repeat(20), "lfs": lfs})
}

/// A file with an empty JSON object.
fn small(name: &str) -> Value {
    json!({"rfilename": name, "size": 2, "blobId": EMPTY_OBJECT})
}

fn listing(siblings: &[Value]) -> Vec<u8> {
    let card = json!({"license": "apache-2.0", "tags": ["safety"]});
    let listing = json!({"sha": COMMIT, "gated": false, "cardData": card, "siblings": siblings});
    listing.to_string().into_bytes()
}

/// A repository with two GGUF files.
fn ggufs() -> Vec<u8> {
    listing(&[large("m-Q4_0.gguf", WEIGHTS), large("m-Q8_0.gguf", b"other")])
}

fn is_listing(request: &Request) -> bool {
    request.path.starts_with("/api/")
}

/// A hub that has these weights for everybody.
fn honest() -> Hub {
    Hub::start(|request| match is_listing(request) {
        true => Answer::Content(ggufs()),
        false => Answer::Content(WEIGHTS.to_vec()),
    })
}

fn model(name: &str) -> ModelFetch {
    ModelFetch::new(name.parse().unwrap())
}

fn fetch_by(fetch: &ModelFetch, hub: &NamedHub, cache: &Path) -> Result<FetchedModel, String> {
    let place = Place {
        hub,
        cache: Some(cache),
    };
    let fetched = fetch.run_at(&place, &Reporter::new(Progress::Silent, "test"));
    fetched.map_err(|error| error.to_string())
}

fn fetch(name: &str, hub: &NamedHub, cache: &Path) -> Result<FetchedModel, String> {
    fetch_by(&model(name), hub, cache)
}

const LISTING: &str = "/api/models/someone/m/revision/main?blobs=true";

fn file_path(name: &str) -> String {
    format!("/someone/m/resolve/{COMMIT}/{name}")
}

#[test]
fn a_gguf_is_fetched_once_with_its_licence_and_is_there_when_no_hub_is() {
    let cache = tempfile::tempdir().unwrap();
    let hub = honest();
    let named = named_hub(&hub.url);
    let fetched = fetch("someone/m:q4_0", &named, cache.path()).unwrap();
    let folder = cache.path().join("someone--m").join(COMMIT);
    let path = folder.join("m-Q4_0.gguf");
    assert_eq!(fs::read(&path).unwrap(), WEIGHTS);
    let expected = FetchedModel {
        path: path.clone(),
        form: ModelForm::Gguf,
        commit: COMMIT.to_owned(),
        files: vec![path],
        bytes: WEIGHTS.len() as u64,
        licence: Some("apache-2.0".to_owned()),
        gate: Gate::Open,
    };
    assert_eq!(fetched, expected);
    assert_eq!(hub.paths(), [LISTING.to_owned(), file_path("m-Q4_0.gguf")]);
    assert_eq!(
        fetch("someone/m:q4_0", &named, cache.path()),
        Ok(expected.clone())
    );
    assert_eq!(hub.paths(), [LISTING]);

    // A commit that is known needs no hub, and a branch was that commit when there was one.
    let nowhere = named_hub("http://127.0.0.1:0");
    for revision in [COMMIT, "main"] {
        let pinned = ModelFetch {
            revision: revision.parse().unwrap(),
            ..model("someone/m:*Q4*")
        };
        assert_eq!(
            fetch_by(&pinned, &nowhere, cache.path()),
            Ok(expected.clone()),
            "{revision}"
        );
    }
    let other = ModelFetch {
        revision: "next".parse().unwrap(),
        ..model("someone/m:q4_0")
    };
    assert!(fetch_by(&other, &nowhere, cache.path()).is_err());
    assert!(
        fetch("someone/m:q8_0", &nowhere, cache.path()).is_err(),
        "this file was never there"
    );
}

#[test]
fn a_folder_has_the_shards_of_its_index_and_no_code() {
    let cache = tempfile::tempdir().unwrap();
    let index = r#"{"weight_map": {"a": "model-1-of-1.safetensors"}}"#;
    let files = listing(&[
        small("config.json"),
        large("model.safetensors.index.json", index.as_bytes()),
        large("model-1-of-1.safetensors", WEIGHTS),
        large("consolidated.safetensors", WEIGHTS),
        large("pytorch_model.bin", WEIGHTS),
        small("modeling_m.py"),
    ]);
    let hub = Hub::start(move |request| match request.path.rsplit('/').next().unwrap() {
        "config.json" => Answer::Content(b"{}".to_vec()),
        "model.safetensors.index.json" => Answer::Content(index.as_bytes().to_vec()),
        "model-1-of-1.safetensors" => Answer::Content(WEIGHTS.to_vec()),
        _ if is_listing(request) => Answer::Content(files.clone()),
        other => panic!("{other}"),
    });
    let fetched = fetch("someone/m", &named_hub(&hub.url), cache.path()).unwrap();
    assert_eq!(fetched.form, ModelForm::Folder);
    assert_eq!(fetched.path, cache.path().join("someone--m").join(COMMIT));
    let expected = [
        LISTING.to_owned(),
        file_path("config.json"),
        file_path("model.safetensors.index.json"),
        file_path("model-1-of-1.safetensors"),
    ];
    assert_eq!(hub.paths(), expected);
}

#[test]
fn a_token_goes_to_the_hub_and_not_to_where_the_hub_keeps_its_files() {
    let cache = tempfile::tempdir().unwrap();
    let storage = Hub::at("127.0.0.2", |_| Answer::Content(WEIGHTS.to_vec()));
    let elsewhere = format!("location: {}/storage\r\n", storage.url);
    let hub = Hub::start(move |request| match request.path.as_str() {
        _ if is_listing(request) => Answer::Content(ggufs()),
        "/here" => Answer::Status("302 Found", elsewhere.clone()),
        _ => Answer::Status("307 Temporary Redirect", "location: /here\r\n".to_owned()),
    });
    fetch("someone/m:Q4_0", &hub.with_token(), cache.path()).unwrap();
    let asked = hub.asked();
    assert_eq!(asked.len(), 3);
    for request in asked {
        assert_eq!(
            request.token.as_deref(),
            Some("Bearer open-sesame"),
            "{}",
            request.path
        );
    }
    let asked = storage.asked();
    assert_eq!((asked.len(), &asked[0].token), (1, &None));
}

#[test]
fn what_is_not_what_the_hub_states_is_not_kept() {
    let lying = |sibling: Value, content: &'static [u8]| {
        let cache = tempfile::tempdir().unwrap();
        let files = listing(&[sibling, large("model.safetensors", WEIGHTS)]);
        let hub = Hub::start(move |request| match is_listing(request) {
            true => Answer::Content(files.clone()),
            false => Answer::Content(content.to_vec()),
        });
        let error = fetch("someone/m", &named_hub(&hub.url), cache.path()).unwrap_err();
        let folder = cache.path().join("someone--m").join(COMMIT);
        let left: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(left, ["listing.json"], "{error}");
        error
    };
    let error = lying(small("config.json"), b"[]");
    assert!(error.contains("config.json.part has the digest"), "{error}");
    let error = lying(large("config.json", b"{}"), b"[]");
    assert!(
        error.contains("config.json.part has the digest sha256:"),
        "{error}"
    );
    let error = lying(small("config.json"), b"{}, and more");
    assert!(error.contains("more than the expected 2 bytes"), "{error}");
    let none = json!({"rfilename": "config.json", "size": 2, "lfs": {"sha256": "../../evil"}});
    let error = lying(none, b"{}");
    assert!(
        error.contains("config.json") && error.contains("is none"),
        "{error}"
    );
}

#[test]
fn a_download_that_broke_off_goes_on_in_the_next_run() {
    let cache = tempfile::tempdir().unwrap();
    let mut answers = 0;
    let hub = Hub::start(move |request| {
        if is_listing(request) {
            return Answer::Content(ggufs());
        }
        answers += 1;
        match answers {
            1 => Answer::Cut(WEIGHTS.to_vec(), 5),
            2..=4 => status("503 Service Unavailable\r\nretry-after: 0"),
            _ => Answer::Content(WEIGHTS.to_vec()),
        }
    });
    let named = named_hub(&hub.url);
    let error = fetch("someone/m:Q4_0", &named, cache.path()).unwrap_err();
    assert!(error.contains("503"), "{error}");
    let fetched = fetch("someone/m:Q4_0", &named, cache.path()).unwrap();
    assert_eq!(fs::read(fetched.path).unwrap(), WEIGHTS);
    let froms: Vec<_> = hub
        .asked()
        .iter()
        .filter(|request| !is_listing(request))
        .map(|request| request.from)
        .collect();
    assert_eq!(froms, [0, 5, 5, 5, 5]);
}

#[test]
fn names_that_lead_elsewhere_are_not_there() {
    let home = tempfile::tempdir().unwrap();
    let hostile = [
        "../evil.gguf",
        "/evil.gguf",
        "a/../../evil.gguf",
        "..\\evil.gguf",
        "evil\n.gguf",
    ];
    let siblings: Vec<_> = hostile.iter().map(|name| large(name, WEIGHTS)).collect();
    let files = listing(&siblings);
    let hub = Hub::start(move |_| Answer::Content(files.clone()));
    let cache = home.path().join("cache");
    let error = fetch("someone/m", &named_hub(&hub.url), &cache).unwrap_err();
    assert!(error.contains("neither a GGUF file"), "{error}");
    assert_eq!(hub.paths(), [LISTING]);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn descriptions_that_are_none_are_errors() {
    let described = |answer: fn() -> Answer| {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::start(move |_| answer());
        let error = fetch("someone/m", &named_hub(&hub.url), cache.path()).unwrap_err();
        assert!(
            hub.paths().len() <= 12,
            "redirects in a circle are followed for ever"
        );
        error
    };
    let huge = described(|| Answer::Content(vec![b' '; (32 << 20) + 1]));
    assert!(huge.contains("/api/models/"), "{huge}");
    let page = described(|| Answer::Content(b"<html>".to_vec()));
    assert!(page.contains("not a hub's description of a model"), "{page}");
    let commit = described(|| Answer::Content(br#"{"sha": "../../\u001b[2J", "siblings": []}"#.to_vec()));
    assert!(commit.contains("`../../?[2J` is not a commit"), "{commit}");
    let circle = described(|| Answer::Status("302 Found", "location: /api/again\r\n".to_owned()));
    assert!(circle.contains("/api/models/"), "{circle}");
    let deep = described(|| Answer::Content([b"{\"cardData\": ".to_vec(), vec![b'['; 100_000]].concat()));
    assert!(deep.contains("not a hub's description"), "{deep}");
}

#[test]
fn a_pinned_commit_is_that_commit() {
    let cache = tempfile::tempdir().unwrap();
    let hub = honest();
    let pinned = ModelFetch {
        revision: "ff".repeat(20).parse().unwrap(),
        ..model("someone/m:Q4_0")
    };
    let error = fetch_by(&pinned, &named_hub(&hub.url), cache.path()).unwrap_err();
    assert!(
        error.contains(&format!("answers with commit {COMMIT} instead")),
        "{error}"
    );
}

#[test]
fn a_refusal_says_why_and_what_to_do_and_never_the_token() {
    let told = |text: &'static str, code: &'static str, token: bool| {
        let cache = tempfile::tempdir().unwrap();
        let header = match code {
            "" => String::new(),
            _ => format!("x-error-code: {code}\r\n"),
        };
        // Hubs list the files of a repository whose files they do not give.
        let hub = Hub::start(move |request| match is_listing(request) && code == "GatedRepo" {
            true => Answer::Content(ggufs()),
            false => Answer::Status(text, header.clone()),
        });
        let named = match token {
            true => hub.with_token(),
            false => named_hub(&hub.url),
        };
        let error = fetch("someone/m:Q4_0", &named, cache.path()).unwrap_err();
        assert!(!error.contains("sesame"), "{error}");
        (error, format!("{}/someone/m", hub.url))
    };
    for text in ["401 Unauthorized", "403 Forbidden"] {
        let (error, page) = told(text, "GatedRepo", false);
        assert!(
            error.contains(&format!("agree at {page} with an account"))
                && error.contains("HF_TOKEN")
                && error.contains("--token-file"),
            "{error}"
        );
        let (error, page) = told(text, "GatedRepo", true);
        assert!(
            error.contains("account has no access yet") && error.contains(&page),
            "{error}"
        );
    }
    for (text, code, token, expected) in [
        ("401 Unauthorized", "RepoNotFound", false, "correct the name"),
        (
            "401 Unauthorized",
            "",
            true,
            "token of HF_TOKEN or --token-file is wrong",
        ),
        ("403 Forbidden", "", false, "agree to its terms"),
        ("404 Not Found", "", false, "no such model"),
        ("404 Not Found", "RepoNotFound", true, "no such repository"),
        ("404 Not Found", "RevisionNotFound", false, "no such revision"),
        ("410 Gone", "", false, "the hub answered 410 Gone"),
    ] {
        let (error, _) = told(text, code, token);
        assert!(error.contains(expected), "{text} {code}: {error}");
    }
}

#[test]
fn a_hub_that_asks_for_patience_is_asked_three_times() {
    let cache = tempfile::tempdir().unwrap();
    let busy = Hub::start(|_| Answer::Status("429 Too Many Requests", "retry-after: 0\r\n".to_owned()));
    let error = fetch("someone/m:Q4_0", &named_hub(&busy.url), cache.path()).unwrap_err();
    assert!(error.contains("wait some minutes"), "{error}");
    assert_eq!(busy.paths().len(), 3);
    let mut asked = 0;
    let hub = Hub::start(move |request| {
        asked += 1;
        match (asked, is_listing(request)) {
            (1 | 3, _) => status("429 Too Many Requests"),
            (_, true) => Answer::Content(ggufs()),
            (_, false) => Answer::Content(WEIGHTS.to_vec()),
        }
    });
    fetch("someone/m:Q4_0", &named_hub(&hub.url), cache.path()).unwrap();
    assert_eq!(hub.paths().len(), 4);
}

#[test]
fn a_disk_without_room_is_known_before_anything_comes() {
    let cache = tempfile::tempdir().unwrap();
    let mut file = large("m.gguf", WEIGHTS);
    file["size"] = json!(1_u64 << 62);
    let files = listing(&[file]);
    let hub = Hub::start(move |_| Answer::Content(files.clone()));
    let error = fetch("someone/m", &named_hub(&hub.url), cache.path()).unwrap_err();
    assert!(
        error.contains("4194304.0 TiB are needed") && error.contains("--to"),
        "{error}"
    );
    assert_eq!(hub.paths(), [LISTING]);
}

#[test]
fn a_folder_of_the_users_is_filled_and_compared_and_never_overwritten() {
    let home = tempfile::tempdir().unwrap();
    let hub = honest();
    let into = ModelFetch {
        to: Some(home.path().join("models/m")),
        ..model("someone/m:Q4_0")
    };
    let place = Place {
        hub: &named_hub(&hub.url),
        cache: None,
    };
    let run = || {
        let fetched = into.run_at(&place, &Reporter::new(Progress::Silent, "test"));
        fetched.map_err(|error| error.to_string())
    };
    let path = home.path().join("models/m/m-Q4_0.gguf");
    // This is no download of ours.
    let mine = home.path().join("models/m/m-Q4_0.gguf.part");
    fs::create_dir_all(home.path().join("models/m")).unwrap();
    fs::write(&mine, "mine").unwrap();
    assert_eq!(run().unwrap().path, path);
    assert_eq!(fs::read(&path).unwrap(), WEIGHTS);
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
    assert_eq!(hub.paths().len(), 2);
    run().unwrap();
    assert_eq!(hub.paths(), [LISTING]);
    let other = vec![b'x'; WEIGHTS.len()];
    fs::write(&path, &other).unwrap();
    let error = run().unwrap_err();
    assert!(
        error.contains("m-Q4_0.gguf is there with another content"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), other);
}

#[test]
fn a_file_of_the_cache_that_is_damaged_is_fetched_again() {
    let cache = tempfile::tempdir().unwrap();
    let hub = honest();
    let named = named_hub(&hub.url);
    let path = fetch("someone/m:Q4_0", &named, cache.path()).unwrap().path;
    fs::write(&path, "cut").unwrap();
    fetch("someone/m:Q4_0", &named, cache.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), WEIGHTS);
}
