//! The benchmark's commands, as a person types them, against a server with a scripted model.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    commands::{babelward, json_file},
    rig::{BASE, GUARD, Rig, TARGET},
};

fn write_prompts(folder: &Path) {
    let lines = (1..=4).map(|id| {
        let mark = if id == 2 { "[unsafe]" } else { "" };
        let line = json!({"id": id, "category": "crime_tax", "en": format!("{mark} ask {id} [say fine]"),
            "de": format!("frage {id} [say gut]")});
        format!("{line}\n")
    });
    fs::write(folder.join("prompts.jsonl"), lines.collect::<String>()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_targets_are_runs_in_one_folder_and_are_resumed_as_a_whole() {
    let rig = Rig::start().await;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    write_prompts(root.path());
    let targets = [
        "--target",
        TARGET,
        "--target",
        BASE,
        "--raw=base",
        "--guard",
        GUARD,
    ];
    let more = [
        "--preset",
        "greedy",
        "--max-new-tokens",
        "8",
        "--seed",
        "4,2",
        "--out",
        "both",
    ];
    let outcome = babelward(
        &rig,
        root.path(),
        &[
            &["bench", "run", "--data", "prompts.jsonl"],
            &targets[..],
            &more[..],
        ]
        .concat(),
    );
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("all targets: babelward report both"),
        "{}",
        outcome.stdout
    );
    for (name, prompting) in [(TARGET, "template"), (BASE, "raw")] {
        let settings = &json_file(&path("both").join(name).join("run.json"))["settings"];
        assert_eq!(settings["prompting"], prompting);
        assert_eq!(
            settings["preset"],
            json!({"name": "greedy", "overridden": ["max_new_tokens", "seed"]})
        );
        assert_eq!(
            (
                &settings["temperature"],
                &settings["max_new_tokens"],
                &settings["seeds"]
            ),
            (&json!(0.0), &json!(8), &json!([2, 4]))
        );
    }
    let study = babelward(&rig, root.path(), &["report", "both", "--json", "-"]);
    let study: Value = serde_json::from_str(&study.stdout).unwrap();
    assert_eq!(study["standings"].as_array().unwrap().len(), 2);

    // The second target's run as one that was killed after its first answer leaves it.
    let base = path("both").join(BASE);
    let expected = fs::read_to_string(base.join("results.jsonl")).unwrap();
    let mut info = json_file(&base.join("run.json"));
    info["status"] = json!("running");
    fs::write(base.join("run.json"), info.to_string()).unwrap();
    let journal = fs::read_to_string(base.join("journal.jsonl")).unwrap();
    let kept: String = journal.lines().take(5).map(|line| format!("{line}\n")).collect();
    fs::write(base.join("journal.jsonl"), kept).unwrap();
    fs::remove_file(base.join("results.jsonl")).unwrap();
    let outcome = babelward(&rig, root.path(), &["bench", "resume", "both"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("both/tiny is complete"),
        "{}",
        outcome.stderr
    );
    assert_eq!(fs::read_to_string(base.join("results.jsonl")).unwrap(), expected);

    for wrong in [
        &["--target", TARGET, "--target", TARGET][..],
        &["--target", TARGET, "--raw=other"],
        &["--target", TARGET, "--shard", "5/4"],
        &["--target", TARGET, "--shard", "5/5"],
        &["--target", TARGET, "--shard", "1/2", "--until", "ci=0.1"],
    ] {
        let command = [
            &["bench", "run", "--data", "prompts.jsonl", "--out", "wrong"],
            wrong,
        ]
        .concat();
        let outcome = babelward(&rig, root.path(), &command);
        assert_eq!(outcome.code, 2, "{wrong:?}: {}", outcome.stderr);
        assert!(!path("wrong").exists(), "{wrong:?}");
    }
    let outcome = babelward(&rig, root.path(), &["bench", "resume", "."]);
    assert_eq!(outcome.code, 7);
    assert!(
        outcome.stderr.contains("neither run.json nor runs.json"),
        "{}",
        outcome.stderr
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_run_and_merged_and_the_paper_s_preset_is_the_default_s_sampling() {
    let rig = Rig::start().await;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    write_prompts(root.path());
    let bench = |more: &[&str]| {
        let fixed = [
            "bench",
            "run",
            "--data",
            "prompts.jsonl",
            "--target",
            TARGET,
            "--guard",
            GUARD,
        ];
        let outcome = babelward(&rig, root.path(), &[&fixed[..], more].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    };
    bench(&["--out", "whole"]);
    bench(&["--preset", "paper", "--shard", "1/3", "--out", "a"]);
    bench(&["--preset", "paper", "--shard", "2/3", "--out", "b"]);
    bench(&["--preset", "paper", "--shard", "3/3", "--out", "c"]);
    let [whole, shard] = ["whole", "a"].map(|name| json_file(&path(name).join("run.json")));
    for setting in ["max_new_tokens", "temperature", "top_p", "seeds"] {
        assert_eq!(
            whole["settings"][setting], shard["settings"][setting],
            "{setting}"
        );
    }
    assert_eq!(
        shard["settings"]["preset"],
        json!({"name": "paper", "overridden": []})
    );
    assert_eq!(shard["settings"]["shard"], json!({"index": 1, "of": 3}));
    let refused = babelward(&rig, root.path(), &["bench", "merge", "a", "c", "--out", "two"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("shard 2/3 is missing"),
        "{}",
        refused.stderr
    );
    assert!(!path("two").exists());
    let merged = babelward(
        &rig,
        root.path(),
        &["bench", "merge", "a", "c", "b", "--out", "all"],
    );
    assert_eq!(merged.code, 0, "{}", merged.stderr);
    let results = |name: &str| fs::read(path(name).join("results.jsonl")).unwrap();
    assert_eq!(results("all"), results("whole"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_what_the_server_does_not_have_does_not_begin() {
    let rig = Rig::start().await;
    let root = tempfile::tempdir().unwrap();
    write_prompts(root.path());
    let run = [
        "bench",
        "run",
        "--data",
        "prompts.jsonl",
        "--guard",
        GUARD,
        "--out",
        "run",
    ];
    for (more, code, part) in [
        (&["--target", "absent"][..], 2, "no model has the id `absent`"),
        (
            &["--target", TARGET, "--target", "absent"],
            2,
            "no model has the id `absent`",
        ),
        (
            &["--target", TARGET, "--guard", "absent"],
            2,
            "no model has the id `absent`",
        ),
        (
            &["--target", TARGET, "--policy", "absent"],
            2,
            "no policy `absent`",
        ),
    ] {
        let outcome = babelward(&rig, root.path(), &[&run, more].concat());
        assert_eq!(outcome.code, code, "{more:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(part), "{more:?}: {}", outcome.stderr);
        assert!(!root.path().join("run").exists(), "{more:?}");
    }
    let begun = babelward(
        &rig,
        root.path(),
        &[&run[..], &["--target", TARGET, "--limit", "1"]].concat(),
    );
    assert_eq!(begun.code, 0, "{}", begun.stderr);
    let rescore = ["bench", "rescore", "run", "--guard", "absent", "--out", "again"];
    let outcome = babelward(&rig, root.path(), &rescore);
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(!root.path().join("again").exists());
    rig.stop().await;
}
