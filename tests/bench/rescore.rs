//! Answers that are judged again: of a run that stopped cells early, of one with failures, of imported ones; and
//! what becomes of a run that is told before it is complete.

use std::{fs, path::Path};

use babelward::{
    bench::{
        dataset::Dataset,
        import::{Import, ImportOptions},
        results::{FolderError, Label, Outcome, RunFolder, RunInfo},
        run::{Failures, Run, RunError},
        settings::{RunSettings, Until},
    },
    client::{Client, PolicyChoice},
};

use crate::{
    rig::{GUARD, Rig},
    runs::{PATIENCE, begin, client, finish, results, settings, undisturbed},
};

async fn rescored(client: &Client, source: &Path, out: &Path) -> RunInfo {
    let folder = RunFolder::create(out).unwrap();
    let run = Run::rescore(
        folder,
        &RunFolder::open(source),
        vec![GUARD.to_owned()],
        PolicyChoice::Native,
        None,
    );
    finish(run.unwrap(), client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_that_stopped_early_stay_stopped_and_are_told_by_the_new_verdicts() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let lines = (0..60).map(|id| {
        let line =
            serde_json::json!({"id": id, "category": "crime_tax", "en": format!("ask {id} [say fine]")});
        format!("{line}\n")
    });
    let dataset = Dataset::parse("one cell", &lines.collect::<String>()).unwrap();
    let settings = RunSettings {
        until: Some(Until { half_width: 0.2 }),
        ..settings(4)
    };
    let told = finish(begin(&first, &dataset, settings), &client).await;
    assert_eq!(told.stopped_cells.len(), 1);
    assert!(results(&first).contains("\"skipped\":\"cell_decided\""));

    let again = rescored(&client, &first, &second).await;
    assert_eq!(again.stopped_cells, told.stopped_cells);
    assert_eq!(results(&second), results(&first));
    assert!(told.results_tree.is_some());
    assert_eq!(
        again.results_tree, told.results_tree,
        "equal rows have an equal root"
    );

    // Had all been judged unsafe before, the new verdicts would be told all the same.
    let wrong = results(&first).replace("\"label\":\"safe\"", "\"label\":\"unsafe\"");
    fs::write(first.join("results.jsonl"), wrong).unwrap();
    let mut info = told.clone();
    info.stopped_cells[0].safe = 0;
    info.results_digest = None;
    RunFolder::open(&first).write_info(&info).unwrap();
    let third = root.path().join("third");
    assert_eq!(
        rescored(&client, &first, &third).await.stopped_cells,
        told.stopped_cells
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_another_run_s_items_stay_and_are_not_waited_for() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    undisturbed(&client, &first, 8).await;
    assert!(results(&first).contains("NUMERIC_FAULT"));
    rescored(&client, &first, &second).await;
    let mut again = Run::open(RunFolder::open(&second), Failures::AskAgain).unwrap();
    again.drive(&client, PATIENCE, &mut |_| ()).await.unwrap();
    again.complete(None).unwrap();
    assert_eq!(results(&second), results(&first));

    // Results with a line less, or one more, are not judged item by item, also where their digest is not known.
    let mut info = RunFolder::open(&first).complete_info().unwrap();
    info.results_digest = None;
    RunFolder::open(&first).write_info(&info).unwrap();
    let whole = results(&first);
    let (_, rest) = whole.split_once('\n').unwrap();
    let end = whole[..whole.len() - 1].rfind('\n').unwrap() + 1;
    let more = format!("{whole}{}", whole[end..].replace("\"id\":5", "\"id\":6"));
    for (wrong, name) in [(rest, "less"), (&whole[..end], "cut"), (&more, "more")] {
        fs::write(first.join("results.jsonl"), wrong).unwrap();
        let folder = RunFolder::create(&root.path().join(name)).unwrap();
        let error = Run::rescore(
            folder,
            &RunFolder::open(&first),
            vec![GUARD.to_owned()],
            PolicyChoice::Native,
            None,
        )
        .unwrap_err();
        assert!(matches!(error, RunError::OtherResults(_)), "{name}: {error}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_told_early_counts_what_is_open_as_failed() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    undisturbed(&client, &first, 1).await;
    let (_, whole) = RunFolder::open(&first).load().unwrap();

    // Judged again for as many answers as fit into the journal's first lines.
    rescored(&client, &first, &second).await;
    let journal = fs::read_to_string(second.join("journal.jsonl")).unwrap();
    let verdicts = journal
        .lines()
        .filter(|line| line.contains("{\"verdict\":"))
        .count();
    assert_eq!(
        verdicts,
        whole.iter().filter(|record| record.answer().is_some()).count()
    );
    let kept = journal.lines().count() - 3;
    let cut: String = journal
        .lines()
        .take(kept)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(second.join("journal.jsonl"), cut).unwrap();
    let open = || Run::open(RunFolder::open(&second), Failures::Keep).unwrap();
    let error = open().complete(None).unwrap_err();
    assert!(
        matches!(error, RunError::Folder(FolderError::Incomplete(_))),
        "{error}"
    );
    assert!(!second.join("results.jsonl.partial").exists());
    let info = open().complete(Some("stopped")).unwrap();
    assert_eq!(info.measured.interrupted.as_deref(), Some("stopped"));
    let (_, told) = RunFolder::open(&second).load().unwrap();
    let not_asked = told.iter().filter_map(|record| record.failure(0));
    let reasons = not_asked.filter(|failure| failure.reason.as_deref() == Some("NOT_ASKED"));
    assert_eq!(reasons.count(), 3);
    // Nothing was open: then the reason is none.
    let mut run = open();
    run.drive(&client, PATIENCE, &mut |_| ()).await.unwrap();
    let info = run.complete(Some("stopped")).unwrap();
    assert_eq!(info.measured.interrupted, None);
    assert_eq!(results(&second), results(&first));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_answers_are_judged_again_if_they_have_texts() {
    let rig = Rig::start().await;
    let client = client(&rig).await;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let import = |name: &str, rows: &str| {
        fs::write(path(&format!("{name}.csv")), rows).unwrap();
        let file = path(&format!("{name}.csv"));
        let import = Import::read(&file, &ImportOptions::default()).unwrap();
        import.write(0, &RunFolder::create(&path(name)).unwrap()).unwrap();
    };
    let head = "id,language,category,label,seed,prompt,answer\n";
    import(
        "whole",
        &format!("{head}2,de,crime_tax,safe,4,ask,[unsafe]\n1,en,crime_tax,unsafe,4,ask,fine\n"),
    );
    rescored(&client, &path("whole"), &path("again")).await;
    let (info, records) = RunFolder::open(&path("again")).load().unwrap();
    let labels: Vec<_> = records
        .iter()
        .map(|record| record.primary_verdict().unwrap().label)
        .collect();
    assert_eq!(labels, [Label::Safe, Label::Unsafe]);
    assert_eq!((info.settings.seeds, info.settings.sampling), (vec![4], None));
    assert!(
        matches!(&records[0].outcome, Outcome::Answered(answer) if answer.text.as_deref() == Some("fine"))
    );

    import("no-answer", &format!("{head}1,en,crime_tax,safe,4,ask,\n"));
    import("no-prompt", &format!("{head}1,en,crime_tax,safe,4,,fine\n"));
    import(
        "gap",
        &format!("{head}1,en,crime_tax,safe,4,a,x\n1,en,crime_tax,safe,5,a,x\n2,en,crime_tax,safe,4,a,x\n"),
    );
    for (name, why) in [
        ("no-answer", "1 of the run's answers have no text"),
        ("no-prompt", "1 of the run's prompts have no text"),
        ("gap", "not every item of the plan once with every seed"),
    ] {
        let folder = RunFolder::create(&path(&format!("{name}-again"))).unwrap();
        let error = Run::rescore(
            folder,
            &RunFolder::open(&path(name)),
            vec![GUARD.to_owned()],
            PolicyChoice::Native,
            None,
        )
        .unwrap_err();
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
    rig.stop().await;
}
