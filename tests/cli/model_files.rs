//! Model files that are cut, replaced or removed while their models are served, evicted, and loaded again.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::Value;

use crate::{
    common::golden,
    support::{Outcome, Server, command, run},
};

const WEIGHTS: &str = "model.safetensors";

/// Copies a small model of the tests.
fn copy(folder: &Path, name: &str) {
    let copy = folder.join(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(golden("tiny-chat")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
}

/// A server with the models `a`, which is loaded at the start, and `b`, which requests load.
struct Fleet {
    folder: tempfile::TempDir,
    server: Server,
    url: String,
}

impl Fleet {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["a", "b"] {
            copy(path, name);
        }
        let config = "[models.a]\npath = \"a\"\n[models.b]\npath = \"b\"\nload = \"lazy\"\n";
        fs::write(path.join("babelward.toml"), config).unwrap();
        let arguments = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--kv-memory",
            "1MiB",
            "--allow-admin",
            "--metrics-listen",
            "off",
        ];
        let mut server = Server::start(command(path).args(arguments).args(["--config", "babelward.toml"]));
        let url = server.url("  gRPC");
        Self { folder, server, url }
    }

    fn weights(&self, model: &str) -> PathBuf {
        self.folder.path().join(model).join(WEIGHTS)
    }

    fn call(&self, arguments: &[&str]) -> Outcome {
        let mut command = command(self.folder.path());
        command.args(["--server", &self.url, "--format", "json"]);
        run(command.args(arguments))
    }

    fn generate(&self, model: &str) -> Outcome {
        let short = [
            "generate",
            "hello",
            "--seed",
            "7",
            "--max-new-tokens",
            "8",
            "--model",
        ];
        self.call(&[&short[..], &[model]].concat())
    }

    /// The text and the digest of an answer, which there must be.
    fn answer(&self, model: &str) -> (String, String) {
        let outcome = self.generate(model);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let digest = &value["started"]["provenance"]["model_digest"];
        (value["text"].to_string(), digest.to_string())
    }

    fn state(&self, model: &str) -> String {
        let outcome = self.call(&["models", "info", model]);
        let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
        value["state"].as_str().unwrap().to_owned()
    }

    /// The server is asked to end, and does so by itself: no signal has ended it.
    fn end(mut self) -> String {
        self.server.signal("TERM");
        let (status, said, _) = self.server.end();
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }
}

#[test]
fn a_model_in_memory_answers_the_same_after_its_file_is_cut_overwritten_and_removed() {
    let fleet = Fleet::start();
    let before = fleet.answer("a");
    let path = fleet.weights("a");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len / 2).unwrap();
    assert_eq!(fleet.answer("a"), before);
    file.write_all_at(&vec![0xff; len as usize], 0).unwrap();
    assert_eq!(fleet.answer("a"), before);
    fs::remove_file(&path).unwrap();
    assert_eq!(fleet.answer("a"), before);
    fleet.end();
}

#[test]
fn another_file_than_the_promised_one_is_loaded_for_an_operator_and_not_for_a_request() {
    let fleet = Fleet::start();
    let (elsewhere, first) = (fleet.answer("a"), fleet.answer("b"));
    assert_eq!(fleet.call(&["models", "unload", "b"]).code, 0);
    let path = fleet.weights("b");
    let whole = fs::read(&path).unwrap();
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 0x10;
    let next = path.with_extension("new");
    fs::write(&next, &other).unwrap();
    fs::rename(&next, &path).unwrap();

    for _ in 0..2 {
        let refused = fleet.generate("b");
        assert!(
            refused.code != 0 && refused.stderr.contains("MODEL_LOAD_FAILED"),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(fleet.state("b"), "STATE_FAILED");
    assert_eq!(fleet.answer("a"), elsewhere, "it fails alone");
    assert_eq!(
        fleet.call(&["models", "load", "b"]).code,
        0,
        "the operator accepts it"
    );
    let second = fleet.answer("b");
    assert_ne!(second.1, first.1);

    // From now on that file is promised, and the first one is the other.
    assert_eq!(fleet.call(&["models", "unload", "b"]).code, 0);
    assert_eq!(fleet.answer("b"), second);
    let said = fleet.end();
    assert!(
        said.contains("its files have changed since they were first loaded"),
        "{said}"
    );
}

#[test]
fn a_cut_file_is_an_error_of_its_model_until_the_file_is_back() {
    let fleet = Fleet::start();
    let elsewhere = fleet.answer("a");
    let path = fleet.weights("b");
    let whole = fs::read(&path).unwrap();
    for len in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let refused = fleet.call(&["models", "load", "b"]);
        assert!(
            refused.code != 0 && refused.stderr.contains("MODEL_LOAD_FAILED"),
            "{}",
            refused.stderr
        );
    }
    fs::remove_file(&path).unwrap();
    let refused = fleet.generate("b");
    assert!(
        refused.code != 0 && refused.stderr.contains("MODEL_LOAD_FAILED"),
        "{}",
        refused.stderr
    );
    assert_eq!(fleet.answer("a"), elsewhere);
    fs::write(&path, &whole).unwrap();
    assert_eq!(fleet.call(&["models", "load", "b"]).code, 0);
    fleet.answer("b");
    let said = fleet.end();
    let named = said
        .lines()
        .filter(|line| line.contains("could not be loaded") && line.contains(WEIGHTS));
    assert!(named.count() >= 5, "the log names the file: {said}");
}

/// Whatever a load sees of a file that is cut and written all the time, it ends with a model or an error.
#[test]
fn a_file_that_changes_while_it_is_loaded_ends_no_server() {
    let fleet = Fleet::start();
    let path = fleet.weights("b");
    let whole = fs::read(&path).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            while !done.load(Ordering::Acquire) {
                file.set_len(whole.len() as u64 / 3).unwrap();
                file.write_all_at(&whole, 0).unwrap();
            }
        });
        for _ in 0..10 {
            let loaded = fleet.call(&["models", "load", "b"]);
            assert!(
                loaded.code == 0 || loaded.stderr.contains("MODEL_LOAD_FAILED"),
                "{}",
                loaded.stderr
            );
            fleet.call(&["models", "unload", "b"]);
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(fleet.call(&["models", "load", "b"]).code, 0);
    fleet.answer("b");
    fleet.answer("a");
    fleet.end();
}
