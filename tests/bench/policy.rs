//! The benchmark by another policy than the guards' own: run, resumed, judged again, refused where it is another.

use std::{fs, path::Path};

use babelward::{
    bench::{
        report,
        results::{RunFolder, RunInfo},
        run::{Failures, Run, RunError},
        settings::RunSettings,
        summary::Summary,
    },
    client::{CategoryText, PolicyChoice, PolicyText},
    guard::{Policy, PolicyCategory},
};

use crate::{
    rig::{GUARD, Rig, Setup},
    runs::{self, PATIENCE, client, dataset, finish, results, settings, undisturbed},
};

fn text(description: &str) -> PolicyText {
    PolicyText {
        name: "shop".to_owned(),
        categories: vec![CategoryText {
            code: "S1".to_owned(),
            name: "Fraud".to_owned(),
            description: description.to_owned(),
        }],
    }
}

/// As the server has it.
fn policy(description: &str) -> Policy {
    let categories = text(description)
        .categories
        .into_iter()
        .map(|category| PolicyCategory {
            code: category.code,
            name: category.name,
            description: category.description,
        });
    Policy::new("shop".to_owned(), categories.collect()).unwrap()
}

async fn server(description: &str) -> Rig {
    Rig::with(Setup {
        policies: vec![policy(description)],
        ..Setup::default()
    })
    .await
}

fn begin(root: &Path, policy: PolicyChoice) -> Run {
    let settings = RunSettings {
        policy,
        ..settings(4)
    };
    runs::begin(root, &dataset(), settings)
}

fn of_guard(info: &RunInfo) -> (&str, &str) {
    let guard = info.provenance.guards.first().unwrap();
    (&guard.policy, &guard.policy_digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_and_a_judgement_again_say_which_policy_they_followed() {
    let rig = server("Goods that do not exist.").await;
    let client = client(&rig).await;
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let digest = policy("Goods that do not exist.").digest().to_owned();

    let named = PolicyChoice::Named("shop".to_owned());
    let inline = PolicyChoice::Inline(text("Goods that do not exist."));
    let run = finish(begin(&path("named"), named.clone()), &client).await;
    assert_eq!(of_guard(&run), ("shop", digest.as_str()));
    assert_eq!(
        RunFolder::open(&path("named"))
            .complete_info()
            .unwrap()
            .settings
            .policy,
        named
    );

    // A native run has nothing of it in its files, and is judged again by the policy with the same answers.
    undisturbed(&client, &path("native"), 4).await;
    let native = fs::read_to_string(path("native").join("run.json")).unwrap();
    assert!(!native.contains("policy"), "{native}");
    let folder = RunFolder::create(&path("again")).unwrap();
    let source = RunFolder::open(&path("native"));
    let again = Run::rescore(folder, &source, vec![GUARD.to_owned()], inline.clone(), None).unwrap();
    let again = finish(again, &client).await;
    assert_eq!(of_guard(&again), ("shop", digest.as_str()));
    assert_eq!(again.settings.policy, inline);
    assert_eq!(
        results(&path("again")),
        results(&path("named")),
        "named and inline are the same"
    );

    let (info, records) = RunFolder::open(&path("again")).load().unwrap();
    let html = report::html(&Summary::new(info, &records)).unwrap();
    assert!(html.contains("<dt>Policy</dt><dd>shop: S1 Fraud</dd>"));
    assert!(html.contains(&format!("judged by policy shop <code>{digest}</code>")));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_only_with_the_policy_that_it_began_with() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    let first = server("Goods that do not exist.").await;
    {
        let client = client(&first).await;
        let mut run = begin(&path, PolicyChoice::Named("shop".to_owned()));
        run.drive(&client, PATIENCE, &mut |_| ()).await.unwrap();
    }
    first.stop().await;
    // Half of the verdicts are lost, and the server has another policy of that name meanwhile.
    let journal = fs::read_to_string(path.join("journal.jsonl")).unwrap();
    let lines: Vec<&str> = journal.split_inclusive('\n').collect();
    fs::write(path.join("journal.jsonl"), lines[..lines.len() / 2].concat()).unwrap();
    let resume = async |rig: &Rig| {
        let client = client(rig).await;
        let mut run = Run::open(RunFolder::open(&path), Failures::Keep).unwrap();
        run.drive(&client, PATIENCE, &mut |_| ()).await
    };
    let changed = server("Something else.").await;
    let error = resume(&changed).await.unwrap_err();
    assert!(matches!(error, RunError::ModelChanged { .. }), "{error}");
    assert!(error.to_string().contains("policy shop sha256:"), "{error}");
    changed.stop().await;
    let gone = Rig::start().await;
    let error = resume(&gone).await.unwrap_err().to_string();
    assert!(error.contains("no policy has this name"), "{error}");
    gone.stop().await;
    let same = server("Goods that do not exist.").await;
    resume(&same).await.unwrap();
    same.stop().await;
}
