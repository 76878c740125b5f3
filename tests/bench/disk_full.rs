//! A disk that fills up while a run or a report is written: an error that names the file and what helps, nothing half-written
//! under a final name, and a run that goes on where it stopped. A limit on the size of files stands for the full disk, because
//! it needs neither a mount nor rights.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    kill::{repository, serve},
    support::{Outcome, command, program, run},
};

/// The program, which cannot write more than so many bytes into one file. The system's signal for that is ignored, so that
/// the program gets an error, as it does from a full disk.
fn with_room_for(bytes: u64, root: &Path) -> Command {
    let mut limited = program("sh", root);
    limited.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", "prlimit"]);
    limited.arg(format!("--fsize={bytes}"));
    limited.arg(env!("CARGO_BIN_EXE_babelward"));
    limited
}

struct Runs {
    root: tempfile::TempDir,
    url: String,
    _server: crate::support::Server,
}

impl Runs {
    fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (server, url) = serve(root.path(), "127.0.0.1:0");
        Self {
            root,
            url,
            _server: server,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Begins the run, or goes on with it.
    fn bench(&self, mut command: Command, name: &str) -> Outcome {
        command.args(["--server", &self.url, "-q", "bench"]);
        if self.out(name).join("run.json").exists() {
            command.args(["resume", name]);
        } else {
            let _ = fs::remove_dir_all(self.out(name));
            let data = repository("data/demo_prompts.jsonl");
            command.args([
                "run",
                "--data",
                &data,
                "--limit",
                "3",
                "--seed",
                "1,2",
                "--max-new-tokens",
                "8",
            ]);
            command.args(["--concurrency", "8", "--out", name]);
        }
        run(&mut command)
    }

    fn whole(&self, name: &str) -> Outcome {
        self.bench(command(self.root.path()), name)
    }

    fn results(&self, name: &str) -> String {
        fs::read_to_string(self.out(name).join("results.jsonl")).unwrap()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// An error that a person can act on: the file, what is wrong, and what helps.
fn assert_told(outcome: &Outcome, file: &str) {
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    for part in [file, "File too large", "make room"] {
        assert!(
            outcome.stderr.contains(part),
            "`{part}` is not in: {}",
            outcome.stderr
        );
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn a_run_whose_disk_fills_up_anywhere_goes_on_to_the_same_bytes() {
    let runs = Runs::start();
    let done = runs.whole("whole");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let expected = runs.results("whole");
    let journal = fs::metadata(runs.out("whole").join("journal.jsonl"))
        .unwrap()
        .len();
    let mut stopped_in_journal = 0;
    for (number, share) in [1, 30, 47, 63, 80, 99].into_iter().enumerate() {
        let name = format!("full-{number}");
        let room = journal * share / 100;
        for more in [0, 777] {
            let stopped = runs.bench(with_room_for(room + more, runs.root.path()), &name);
            let folder = runs.out(&name);
            // The journal, or another file of the run's folder.
            assert_told(&stopped, &name);
            if !folder.exists() {
                continue;
            }
            let there = names(&folder);
            assert!(!there.iter().any(|name| name.ends_with(".partial")), "{there:?}");
            assert!(!there.contains(&"results.jsonl".to_owned()), "{there:?}");
            if let Ok(written) = fs::read(folder.join("journal.jsonl")) {
                stopped_in_journal += 1;
                assert!(written.last().is_none_or(|last| *last == b'\n'), "a line is torn");
            }
        }
        let done = runs.whole(&name);
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert_eq!(runs.results(&name), expected, "{name}");
    }
    assert!(stopped_in_journal > 6, "{stopped_in_journal}");
}

#[test]
fn a_report_that_finds_no_room_leaves_the_old_one() {
    let runs = Runs::start();
    let done = runs.whole("whole");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let report = |mut command: Command| run(command.args(["report", "whole"]));
    let path = runs.out("whole").join("report.html");
    let first = report(command(runs.root.path()));
    assert_eq!(first.code, 0, "{}", first.stderr);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, "the old one").unwrap();
    let before = names(&runs.out("whole"));
    // There is room for all but the last byte.
    let stopped = report(with_room_for(whole.len() as u64 - 1, runs.root.path()));
    assert_told(&stopped, "report.html");
    assert_eq!(fs::read_to_string(&path).unwrap(), "the old one");
    assert_eq!(names(&runs.out("whole")), before);
    let again = report(command(runs.root.path()));
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!(fs::read(&path).unwrap().len(), whole.len());
}
