//! A run that several machines share, put together: the bytes of a run that one of them made alone.

use std::{fs, path::Path};

use babelward::{
    bench::{
        merge::merge,
        results::{Origin, RunFolder},
        run::{Failures, Run},
        settings::{RunSettings, Sampling, Shard},
    },
    client::PolicyChoice,
};

use crate::{
    rig::{GUARD, Rig},
    runs::{client, complete, finish, results, settings, undisturbed},
};

fn sharded(index: u32, of: u32) -> RunSettings {
    RunSettings {
        shard: Some(Shard { index, of }),
        ..settings(4)
    }
}

/// Merges; what is refused is the error's text without the folder's own path.
fn merged(root: &Path, shards: &[&str], out: &str) -> Result<(), String> {
    let shards: Vec<_> = shards
        .iter()
        .map(|name| RunFolder::open(&root.join(name)))
        .collect();
    let folder = RunFolder::create(&root.join(out)).unwrap();
    match merge(&shards, &folder) {
        Ok(_) => Ok(()),
        Err(error) => {
            assert!(
                fs::read_dir(folder.path()).unwrap().next().is_none(),
                "nothing is left behind"
            );
            folder.remove_if_empty();
            Err(error.to_string().replace(&format!("{}/", root.display()), ""))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_shards_are_the_bytes_of_an_unsharded_run() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    undisturbed(&client, &path("whole"), 16).await;
    for of in [1, 2, 3, 5] {
        let names: Vec<_> = (1..=of).map(|index| format!("{index}-of-{of}")).collect();
        for (index, name) in names.iter().enumerate() {
            complete(&client, &path(name), sharded(index as u32 + 1, of)).await;
        }
        // In any order.
        let names: Vec<_> = names.iter().rev().map(String::as_str).collect();
        let out = format!("merged-{of}");
        merged(root.path(), &names, &out).unwrap();
        assert_eq!(results(&path(&out)), results(&path("whole")), "{of} shards");
        let plan = |name: &str| fs::read_to_string(path(name).join("plan.jsonl")).unwrap();
        assert_eq!(plan(&out), plan("whole"));
        let [info, whole] = [&out, "whole"].map(|name| RunFolder::open(&path(name)).complete_info().unwrap());
        assert_eq!((&info.plan, &info.provenance), (&whole.plan, &whole.provenance));
        assert!(whole.results_tree.is_some());
        assert_eq!(
            info.results_tree, whole.results_tree,
            "the root is that of the rows"
        );
        assert_eq!(info.origin, Origin::Merged { shards: of });
        assert_eq!(info.settings.shard, None);
        let resumed = Run::open(RunFolder::open(&path(&out)), Failures::AskAgain).unwrap_err();
        assert!(resumed.to_string().contains("resume its shards"), "{resumed}");
    }
    // It can be judged again like any other.
    let again = RunFolder::create(&path("again")).unwrap();
    let source = RunFolder::open(&path("merged-2"));
    let run = Run::rescore(again, &source, vec![GUARD.to_owned()], PolicyChoice::Native, None).unwrap();
    finish(run, &client).await;
    assert_eq!(results(&path("again")), results(&path("whole")));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_together_is_refused_and_named() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    undisturbed(&client, &path("whole"), 16).await;
    complete(&client, &path("a1"), sharded(1, 2)).await;
    complete(&client, &path("a2"), sharded(2, 2)).await;
    complete(&client, &path("of3"), sharded(2, 3)).await;
    let mut other = sharded(2, 2);
    other.sampling = other.sampling.map(|sampling| Sampling {
        temperature: 0.5,
        ..sampling
    });
    other.seeds = vec![3];
    complete(&client, &path("other"), other).await;
    let refused = |shards: &[&str]| merged(root.path(), shards, "out").unwrap_err();

    let error = refused(&["a2", "whole", "a2"]);
    for part in [
        "whole is not a shard",
        "a2 and a2 are both shard 2/2",
        "shard 1/2 is missing",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = refused(&["a1", "other"]);
    for part in [
        "other differs from a1 in the sampling",
        "other differs from a1 in the seeds",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = refused(&["a1", "of3"]);
    assert!(
        error.contains("of3 differs from a1 in the number of shards"),
        "{error}"
    );

    // Another model by the same name.
    let text = fs::read_to_string(path("a2").join("run.json")).unwrap();
    let mut info: serde_json::Value = serde_json::from_str(&text).unwrap();
    info["provenance"]["guards"][0]["adapter_digest"] = "sha256:00".into();
    fs::write(path("a2").join("run.json"), info.to_string()).unwrap();
    let error = refused(&["a1", "a2"]);
    assert!(
        error.contains("a2 differs from a1 in the models that judged"),
        "{error}"
    );

    info["status"] = "running".into();
    fs::write(path("a2").join("run.json"), info.to_string()).unwrap();
    let error = refused(&["a1", "a2"]);
    assert!(
        error.contains("a2 is not complete: go on with `babelward bench resume a2`"),
        "{error}"
    );
    fs::write(path("a2").join("run.json"), &text).unwrap();

    // A line is missing, and one is there twice.
    let lines = results(&path("a2"));
    let (first, rest) = lines.split_once('\n').unwrap();
    for (wrong, why) in [
        (rest.to_owned(), "results.jsonl is not that of shard 2/2"),
        (
            format!("{first}\n{lines}"),
            "does not come after the previous line",
        ),
        (lines[..lines.len() / 2].to_owned(), "results.jsonl, line"),
    ] {
        fs::write(path("a2").join("results.jsonl"), wrong).unwrap();
        let error = refused(&["a1", "a2"]);
        assert!(
            error.contains("a2/results.jsonl is not what the run wrote"),
            "{error}"
        );
        let mut info: serde_json::Value = serde_json::from_str(&text).unwrap();
        info["results_digest"].take();
        fs::write(path("a2").join("run.json"), info.to_string()).unwrap();
        let error = refused(&["a1", "a2"]);
        assert!(error.contains(why), "{why}: {error}");
        fs::write(path("a2").join("run.json"), &text).unwrap();
    }
    fs::write(path("a2").join("results.jsonl"), &lines).unwrap();
    fs::copy(path("a1").join("plan.jsonl"), path("a2").join("plan.jsonl")).unwrap();
    let error = refused(&["a1", "a2"]);
    assert!(error.contains("plan.jsonl is not that of shard"), "{error}");
    rig.stop().await;
}
