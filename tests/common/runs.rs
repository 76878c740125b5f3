//! Runs of a small planted set against a [`Rig`].

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{fs, path::Path, time::Duration};

use babelward::{
    bench::{
        dataset::Dataset,
        plan::Plan,
        results::{RunFolder, RunInfo},
        run::Run,
        selection::{RowLimit, Selection},
        settings::{Controversial, DatasetInfo, Prompting, RunKind, RunSettings, Sampling},
    },
    client::{Client, ClientOptions, PolicyChoice},
};

use crate::rig::{GUARD, Rig, TARGET};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Safe, unsafe, undetermined and failing items in two languages.
pub fn dataset() -> Dataset {
    let markers = ["", "[unsafe]", "[odd]", "[nan]", ""];
    let lines = markers.iter().enumerate().map(|(row, marker)| {
        let line = serde_json::json!({
            "id": row + 1, "category": "crime_tax",
            "en": format!("{marker} question {row} [say fine]"), "de": format!("Frage {row} {marker} [say gut]"),
        });
        format!("{line}\n")
    });
    Dataset::parse("planted", &lines.collect::<String>()).unwrap()
}

pub fn settings(concurrency: usize) -> RunSettings {
    RunSettings {
        kind: RunKind::MechanismDemo,
        target: TARGET.to_owned(),
        prompting: Prompting::Template,
        guards: vec![GUARD.to_owned()],
        policy: PolicyChoice::Native,
        controversial: Controversial::Unsafe,
        selection: Selection {
            languages: Vec::new(),
            categories: Vec::new(),
            limit: RowLimit::All,
        },
        sampling: Some(Sampling {
            max_new_tokens: 8,
            temperature: 1.0,
            top_p: 1.0,
        }),
        preset: None,
        seeds: vec![3, 7],
        shard: None,
        until: None,
        concurrency,
    }
}

pub async fn client(rig: &Rig) -> Client {
    let address = format!("http://{}", rig.address);
    Client::connect(&address, ClientOptions::default()).await.unwrap()
}

/// A complete run, and what its `run.json` was when it began.
pub async fn undisturbed(client: &Client, path: &Path, concurrency: usize) -> String {
    complete(client, path, settings(concurrency)).await
}

/// The same with other settings.
pub async fn complete(client: &Client, path: &Path, settings: RunSettings) -> String {
    let run = begin(path, &dataset(), settings);
    let begun = fs::read_to_string(path.join("run.json")).unwrap();
    finish(run, client).await;
    begun
}

/// A run of which nothing has been asked yet.
pub fn begin(path: &Path, dataset: &Dataset, settings: RunSettings) -> Run {
    let plan = Plan::new(dataset, &settings.selection).unwrap();
    let folder = RunFolder::create(path).unwrap();
    Run::create(folder, &plan, settings, DatasetInfo::from(dataset)).unwrap()
}

/// Asks for all that a run lacks, and completes it.
pub async fn finish(mut run: Run, client: &Client) -> RunInfo {
    run.drive(client, PATIENCE, &mut |_| ()).await.unwrap();
    run.complete(None).unwrap()
}

pub fn results(path: &Path) -> String {
    fs::read_to_string(path.join("results.jsonl")).unwrap()
}
