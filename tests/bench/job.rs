//! A benchmark as an Indexed Job of Kubernetes: each process takes its shard from JOB_COMPLETION_INDEX, is started again with
//! the same command after a failure, and the shards are merged.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    kill::{repository, serve},
    support::{command, run},
};

/// What every process of the Job is started with.
fn bench(root: &Path, url: &str, args: &[&str]) -> Command {
    let mut command = command(root);
    command.args(["--server", url, "-q", "bench"]).args(args);
    command
}

/// What all runs here ask for.
fn settings(data: &str) -> Vec<&str> {
    ["run", "--data", data]
        .into_iter()
        .chain("--limit 16 --max-new-tokens 16".split(' '))
        .collect()
}

fn shard(root: &Path, url: &str, index: &str, more: &[&str]) -> Command {
    let data = repository("data/demo_prompts.jsonl");
    let out = format!("shard-{index}");
    let mut args = settings(&data);
    // Few at a time, so that the first answers come long before the last.
    args.extend("--concurrency 2 --shard job/2 --resume --out".split(' '));
    args.push(&out);
    args.extend(more);
    let mut command = bench(root, url, &args);
    command.env("JOB_COMPLETION_INDEX", index);
    command
}

fn results(root: &Path, folder: &str) -> String {
    fs::read_to_string(root.join(folder).join("results.jsonl")).unwrap()
}

#[test]
fn the_shards_of_an_indexed_job_are_started_again_and_merged_to_the_whole_run() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let (_server, url) = serve(root, "127.0.0.1:0");
    let data = repository("data/demo_prompts.jsonl");
    let mut whole = settings(&data);
    whole.extend(["--out", "whole"]);
    let done = run(&mut bench(root, &url, &whole));
    assert_eq!(done.code, 0, "{}", done.stderr);

    // Left by a start that was stopped before the run began.
    fs::create_dir(root.join("shard-0")).unwrap();
    for name in ["plan.jsonl", "journal.jsonl", "run.json.partial"] {
        fs::write(root.join("shard-0").join(name), "half a li").unwrap();
    }
    let mut client = shard(root, &url, "0", &[]);
    let mut client = client
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let journal = root.join("shard-0/journal.jsonl");
    while fs::metadata(&journal).map_or(0, |journal| journal.len()) < 5000 {
        assert!(client.try_wait().unwrap().is_none(), "the shard ended by itself");
        std::thread::yield_now();
    }
    // As Kubernetes ends a pod.
    let id = client.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", "TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(client.wait().unwrap().code(), Some(130));
    for index in ["0", "1"] {
        // The second time it is complete.
        for _ in 0..2 {
            let done = run(&mut shard(root, &url, index, &[]));
            assert_eq!(done.code, 0, "shard {index}: {}", done.stderr);
        }
    }
    // It calls no server.
    let merge = ["-q", "bench", "merge", "shard-0", "shard-1", "--out", "merged"];
    let done = run(command(root).args(merge));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(results(root, "merged"), results(root, "whole"));

    let done = run(&mut shard(root, &url, "0", &["--seed", "7"]));
    assert_eq!(done.code, 7, "{}", done.stderr);
    assert!(
        done.stderr
            .contains("--out shard-0: the run there has other prompts or other settings"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_shard_of_a_job_needs_the_jobs_index() {
    let root = tempfile::tempdir().unwrap();
    for (index, said) in [("", "JOB_COMPLETION_INDEX"), ("2", "such as 1/4")] {
        let done = run(&mut shard(root.path(), "http://127.0.0.1:9", index, &[]));
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains(said), "{}", done.stderr);
    }
}
