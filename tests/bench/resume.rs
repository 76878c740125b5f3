//! A run that is stopped anywhere and resumed gives the bytes of one that nothing happened to; so does one whose
//! answers another guard judges again, in what both share.

use std::{fs, path::Path};

use babelward::{
    bench::{
        results::{Origin, RunFolder},
        run::{Failures, Run, RunError},
    },
    client::PolicyChoice,
    random::Random,
};

use crate::{
    rig::{GUARD, Rig},
    runs::{client, finish, results, undisturbed},
};

/// Places where a run is cut.
const CUTS: usize = 60;

/// A folder as a run leaves it that stopped after so many bytes of its journal.
fn stopped(whole: &Path, begun: &str, journal: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("run.json"), begun).unwrap();
    fs::copy(whole.join("plan.jsonl"), folder.path().join("plan.jsonl")).unwrap();
    fs::write(folder.path().join("journal.jsonl"), journal).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_stops_anywhere_is_resumed_to_the_same_bytes() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let (whole, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let begun = undisturbed(&client, whole.path(), 16).await;
    undisturbed(&client, other.path(), 1).await;
    let expected = results(whole.path());
    assert_eq!(expected.lines().count(), 5 * 2 * 2);
    let tree = |folder: &Path| RunFolder::open(folder).complete_info().unwrap().results_tree;
    let root = tree(whole.path());
    assert_eq!(root.as_ref().unwrap().rows, 5 * 2 * 2);
    assert_eq!(tree(other.path()), root);
    assert_eq!(results(other.path()), expected, "concurrency shows");

    let journal = fs::read(whole.path().join("journal.jsonl")).unwrap();
    let header = journal.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    let mut random = Random::new(1);
    for _ in 0..CUTS {
        let cut = header + random.below(journal.len() - header + 1);
        let folder = stopped(whole.path(), &begun, &journal[..cut]);
        let run = Run::open(RunFolder::open(folder.path()), Failures::Keep).unwrap();
        finish(run, &client).await;
        assert_eq!(results(folder.path()), expected, "cut after {cut} bytes");
        assert_eq!(tree(folder.path()), root, "cut after {cut} bytes");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_journal_is_refused_with_its_line_and_an_open_run_is_not_completed() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let whole = tempfile::tempdir().unwrap();
    let begun = undisturbed(&client, whole.path(), 4).await;
    let mut journal = fs::read(whole.path().join("journal.jsonl")).unwrap();
    let ends: Vec<_> = (0..journal.len()).filter(|&at| journal[at] == b'\n').collect();

    let open = stopped(whole.path(), &begun, &journal[..=ends[1]]);
    let run = Run::open(RunFolder::open(open.path()), Failures::Keep).unwrap();
    assert!(matches!(run.complete(None), Err(RunError::Folder(_))));
    assert!(!open.path().join("results.jsonl").exists());

    // The third line, changed by a bit.
    journal[ends[1] + 20] ^= 1;
    let folder = stopped(whole.path(), &begun, &journal);
    let error = Run::open(RunFolder::open(folder.path()), Failures::Keep).unwrap_err();
    assert!(error.to_string().contains("journal.jsonl, line 3"), "{error}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_judged_again_without_generating() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let (whole, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    undisturbed(&client, whole.path(), 16).await;
    let source = RunFolder::open(whole.path());
    let folder = RunFolder::create(again.path()).unwrap();
    let run = Run::rescore(
        folder.clone(),
        &source,
        vec![GUARD.to_owned()],
        PolicyChoice::Native,
        None,
    );
    let info = finish(run.unwrap(), &client).await;
    assert!(matches!(info.origin, Origin::Rescored { .. }));
    let ((_, before), (_, after)) = (source.load().unwrap(), folder.load().unwrap());
    assert_eq!(before, after, "the same guard says the same");
    rig.stop().await;
}
