//! Guards by their names, from a hub on this machine.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use super::{HubModel, Offer, Progress, tests::hub_only};
use crate::digest;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &[u8] = b"weights, weights, weights";

/// A hub that has one model, and the paths that it was asked for.
struct Hub {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What it says of the weights.
#[derive(Clone, Copy)]
enum Stated {
    Digest,
    OtherDigest,
    NoDigest,
}

fn listing(stated: Stated) -> String {
    let hex = |bytes: &[u8]| digest::of_bytes(bytes).trim_start_matches("sha256:").to_owned();
    let lfs = match stated {
        Stated::Digest => format!(r#", "lfs": {{"sha256": "{}"}}"#, hex(WEIGHTS)),
        Stated::OtherDigest => format!(r#", "lfs": {{"sha256": "{}"}}"#, hex(b"other")),
        Stated::NoDigest => String::new(),
    };
    let size = WEIGHTS.len();
    format!(
        r#"{{"sha": "{COMMIT}", "siblings": [
            {{"rfilename": "README.md", "size": 4}},
            {{"rfilename": "model.safetensors", "size": {size}{lfs}}},
            {{"rfilename": "onnx/model.safetensors", "size": {size}{lfs}}},
            {{"rfilename": "../config.json", "size": 2}},
            {{"rfilename": "config.json", "size": 2}}]}}"#
    )
}

impl Hub {
    /// Answers until the test ends; the first `broken` answers with weights end early.
    fn start(stated: Stated, broken: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            let mut broken = broken;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                let path = first.split(' ').nth(1).unwrap().to_owned();
                let mut from = 0;
                for line in lines.map(Result::unwrap).take_while(|line| !line.is_empty()) {
                    if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                        from = range.trim_end_matches('-').parse().unwrap();
                    }
                }
                let body = match path.rsplit('/').next().unwrap() {
                    "config.json" => b"{}".to_vec(),
                    "model.safetensors" => WEIGHTS.to_vec(),
                    "main?blobs=true" => listing(stated).into_bytes(),
                    other => panic!("{other}"),
                };
                let status = match from {
                    0 => "200 OK".to_owned(),
                    from => format!(
                        "206 Partial Content\r\ncontent-range: bytes {from}-{0}/{0}",
                        body.len()
                    ),
                };
                let rest = &body[from..];
                let cut = path.ends_with(".safetensors") && broken > 0;
                let sent = match cut {
                    true => {
                        broken -= 1;
                        &rest[..rest.len() / 2]
                    }
                    false => rest,
                };
                seen.lock().unwrap().push(format!("{path} from {from}"));
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    rest.len()
                );
                // The client may hang up in the middle: that is its right.
                let _ = stream.write_all(&[head.as_bytes(), sent].concat());
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn fetch(cache: &Path, hub: &Hub) -> Result<std::path::PathBuf, String> {
    let fetched = HubModel::Qwen3GuardGen06B.fetch_from(&hub_only(cache, &hub.url), Progress::Silent);
    fetched.map_err(|error| error.to_string())
}

#[test]
fn a_guard_is_fetched_once_goes_on_where_it_stopped_and_is_a_folder_of_its_commit() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start(Stated::Digest, 1);
    let folder = fetch(cache.path(), &hub).unwrap();
    let home = cache.path().join("Qwen--Qwen3Guard-Gen-0.6B");
    assert_eq!(folder, home.join(COMMIT));
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "listing.json", "model.safetensors"]);
    let file = |name: &str| format!("/Qwen/Qwen3Guard-Gen-0.6B/resolve/{COMMIT}/{name}");
    let listing = "/api/models/Qwen/Qwen3Guard-Gen-0.6B/revision/main?blobs=true from 0";
    assert_eq!(
        hub.asked(),
        [
            listing.to_owned(),
            format!("{} from 0", file("config.json")),
            format!("{} from 0", file("model.safetensors")),
            format!("{} from {}", file("model.safetensors"), WEIGHTS.len() / 2),
        ]
    );
    // The second time only the commit is asked for.
    assert_eq!(fetch(cache.path(), &hub).unwrap(), folder);
    assert_eq!(hub.asked(), [listing]);
}

#[test]
fn an_offer_says_what_would_be_fetched_and_fetches_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::start(Stated::Digest, 0);
    let sources = hub_only(cache.path(), &hub.url);
    let bytes = WEIGHTS.len() as u64 + 2;
    let offer = |missing_bytes| Offer { bytes, missing_bytes };
    let asked = || HubModel::Qwen3GuardGen06B.offer_of(&sources).unwrap();
    assert_eq!(asked(), offer(bytes));
    assert_eq!(hub.asked().len(), 1);
    let folder = fetch(cache.path(), &hub).unwrap();
    assert_eq!(asked(), offer(0));
    fs::remove_file(folder.join("config.json")).unwrap();
    assert_eq!(asked(), offer(2));
    let nowhere = hub_only(cache.path(), "http://127.0.0.1:9");
    let error = HubModel::Qwen3GuardGen06B.offer_of(&nowhere).unwrap_err();
    assert!(error.to_string().contains("qwen3guard-gen-0.6b"), "{error}");
}

#[test]
fn weights_that_are_not_what_the_hub_states_are_not_kept() {
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(cache.path(), &Hub::start(Stated::OtherDigest, 0)).unwrap_err();
    assert!(
        error.contains("qwen3guard-gen-0.6b") && error.contains("model.safetensors.part has the digest"),
        "{error}"
    );
    let folder = cache.path().join("Qwen--Qwen3Guard-Gen-0.6B").join(COMMIT);
    assert!(!folder.join("model.safetensors").exists());
    let other = tempfile::tempdir().unwrap();
    let error = fetch(other.path(), &Hub::start(Stated::NoDigest, 0)).unwrap_err();
    assert!(error.contains("no digest of model.safetensors"), "{error}");
}

#[test]
fn every_name_is_one_of_the_list_and_another_gets_the_list() {
    for model in HubModel::ALL {
        assert_eq!(model.name().parse(), Ok(model));
    }
    let error = "qwen3guard".parse::<HubModel>().unwrap_err();
    for model in HubModel::ALL {
        assert!(error.contains(model.name()), "{error}");
    }
}
