use std::path::PathBuf;

use super::*;
use crate::bench::{
    problem::Kind as _,
    results::{GuardOutcome, Label},
    taxonomy::Language,
};
use crate::bench::{
    results::{Origin, RunFolder},
    settings::{Controversial, Prompting},
};

struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(name: &str, text: &str) -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    File { folder, path }
}

fn read(name: &str, text: &str) -> Result<Import, ImportError> {
    Import::read(&file(name, text).path, &ImportOptions::default())
}

fn problems(name: &str, text: &str) -> Vec<String> {
    match read(name, text) {
        Err(ImportError::Invalid { problems, .. }) => problems
            .iter()
            .map(|problem| {
                assert!(!problem.kind.fix().is_empty());
                let id = problem.id.as_deref().unwrap_or("-");
                format!(
                    "{:?} {} id {id} `{}`",
                    problem.kind, problem.location, problem.field
                )
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_problem_is_told_by_row_and_field() {
    let text = concat!(
        "{\"id\":1,\"language\":\"en\",\"category\":\"crime_tax\",\"label\":\"safe\",\"unsafe_score\":0.1}\n",
        "{\"id\":2,\"language\":\"nl\",\"category\":\"crime_taxes\",\"label\":\"ok\",\"unsafe_score\":1.5}\n",
        "{\"language\":\"en\",\"category\":\"crime_tax\",\"label\":7}\n",
        "not json\n",
        "{\"id\":1,\"language\":\"en\",\"category\":\"crime_tax\",\"label\":\"unsafe\"}\n",
        "{\"id\":1,\"language\":\"de\",\"category\":\"crime_theft\",\"label\":\"safe\",\"seed\":3}\n",
        "{\"id\":3,\"language\":\"de\",\"category\":\"crime_theft\",\"seed\":\"x\",\"model\":\"m\",\"prompt\":7}\n",
    );
    let expected = [
        "UnknownLanguage line 2 id 2 `language`",
        "UnknownCategory line 2 id 2 `category`",
        "UnknownLabel line 2 id 2 `label`",
        "Score line 2 id 2 `unsafe_score`",
        "Schema line 3 id - `id`",
        "UnknownLabel line 3 id - `label`",
        "Unreadable line 4 id - ``",
        "Duplicate line 5 id 1 ``",
        "Schema line 6 id 1 `seed`",
        "Conflict line 6 id 1 `category`",
        "Schema line 7 id 3 `label`",
        "Schema line 7 id 3 `seed`",
        "Schema line 7 id 3 `prompt`",
    ];
    assert_eq!(problems("a.jsonl", text), expected);
    assert_eq!(problems("a.jsonl", ""), ["NoRows line 1 id - ``"]);
    let error = read("a.csv", "id,language,category,label\n1,en,crime_tax,maybe\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.csv has 1 problem:\n  line 2, field `label`: is none of safe, unsafe, controversial, undetermined\n\
         fix: write safe, unsafe, controversial or undetermined"
    );
}

#[test]
fn rows_that_contradict_each_other_are_refused() {
    let head = "id,language,category,label,guard,prompt,answer,translator\n";
    let row = |rest: &str| format!("1,en,crime_tax,{rest}\n");
    let text = head.to_owned()
        + &row("safe,a,p,x,t")
        + &row("safe,b,q,x,t")
        + &row("safe,c,p,y,t")
        + &row("safe,d,p,x,u")
        + &row("safe,,p,x,t");
    let expected = [
        "Conflict line 3 id 1 `prompt`",
        "Conflict line 4 id 1 `prompt`",
        "Conflict line 4 id 1 `answer`",
        "Conflict line 5 id 1 `translator`",
        "Schema line 6 id 1 `guard`",
    ];
    assert_eq!(problems("a.csv", &text), expected);
}

#[test]
fn models_guards_and_seeds_become_runs() {
    let mut text = "id,language,category,label,unsafe_score,model,guard,seed,prompt,answer\n".to_owned();
    for model in ["m/2", "m/1"] {
        for (id, language) in [(10, "de"), (2, "it"), (10, "en"), (2, "de"), (2, "en")] {
            for seed in [5, 1] {
                text += &format!("{id},{language},crime_tax,safe,,{model},g1,{seed},ask {id},say\n");
                if id == 2 {
                    text +=
                        &format!("{id},{language},crime_tax,unsafe,0.75,{model},g2,{seed},ask {id},say\n");
                }
            }
        }
    }
    let import = read("a.csv", &text).expect("valid");
    assert_eq!(import.models(), ["m/1", "m/2"]);
    // Two models, two seeds: id 10 has no Italian.
    let missing: Vec<String> = import.missing.iter().map(ToString::to_string).collect();
    assert_eq!(
        missing,
        ["m/1", "m/2"]
            .map(|model| format!("{model}: Italian lacks 2 of 4 (id 10 with seed 1, id 10 with seed 5)"))
    );
    let target = file("x", "");
    let folder = RunFolder::create(&target.folder.path().join("run")).expect("new");
    import.write(1, &folder).expect("written");
    let (info, records) = folder.load().expect("a run");
    assert_eq!(info.settings.target, "m/2");
    assert_eq!(info.settings.guards, ["g1", "g2"]);
    assert_eq!(info.settings.seeds, [1, 5]);
    assert_eq!((info.plan.items, info.plan.rows), (5, 2));
    assert_eq!(
        (info.settings.sampling, info.settings.prompting),
        (None, Prompting::Unknown)
    );
    assert!(
        matches!(&info.origin, Origin::Imported { file, digest } if file == "a.csv" && digest.starts_with("sha256:"))
    );
    assert_eq!(
        info.provenance.targets.first().map(|one| one.model.as_str()),
        Some("m/2")
    );
    let keys: Vec<_> = records
        .iter()
        .map(|record| (record.id.to_string(), record.language, record.seed))
        .collect();
    let key = |id: &str, language, seed| (id.to_owned(), language, seed);
    assert_eq!(keys[0], key("2", Language::En, 1));
    assert_eq!(keys[9], key("10", Language::De, 5));
    assert_eq!(keys.len(), 10);
    assert!(
        records
            .iter()
            .all(|record| record.item_seed.is_none() && record.prompt_digest.is_some())
    );
    let second = records[0].verdict(1).expect("judged");
    assert_eq!((second.label, second.unsafe_score), (Label::Unsafe, Some(0.75)));
    let answer = records[9].answer().expect("answered");
    assert_eq!(answer.text.as_deref(), Some("say"));
    assert!(matches!(answer.verdicts[1], GuardOutcome::Failed(_)));
    assert_eq!(folder.plan().expect("prompts").len(), 5);
}

#[test]
fn a_model_is_chosen_or_named() {
    let named = file(
        "a.csv",
        "id,language,category,label,model\n1,en,crime_tax,safe,m\n1,en,crime_tax,unsafe,n\n",
    );
    let options = |model: &str| ImportOptions {
        model: Some(model.to_owned()),
        guard: Some("g".to_owned()),
        translator: None,
        controversial: Controversial::default(),
    };
    let import = Import::read(&named.path, &options("n")).expect("valid");
    assert_eq!(import.models(), ["n"]);
    let error = Import::read(&named.path, &options("o")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.csv has no verdicts of the model `o`; it has `m`, `n`"
    );
    let nameless = file(
        "b.csv",
        "id,language,category,label\n1,en,crime_tax,undetermined\n",
    );
    let import = Import::read(&nameless.path, &options("o")).expect("valid");
    assert_eq!(import.models(), ["o"]);
    let folder = RunFolder::create(&named.folder.path().join("run")).expect("new");
    let info = import.write(0, &folder).expect("written");
    assert_eq!(info.settings.guards, ["g"]);
    assert!(!folder.file("plan.jsonl").exists(), "no prompt is known");
    let (_, records) = folder.load().expect("a run");
    assert_eq!(
        records[0].primary_verdict().map(|verdict| verdict.label),
        Some(Label::Undetermined)
    );
    assert_eq!(records[0].prompt_digest, None);
}
