//! A run from its folder to what it says.

use std::{io::IsTerminal as _, path::Path, time::Duration};

use anyhow::Context as _;
use tonic::Code;

use crate::{
    bench::{
        dataset::Dataset,
        plan::Plan,
        progress::{RunProgress, View},
        results::RunFolder,
        run::Run,
        settings::{DatasetInfo, RunKind, RunSettings},
        summary::{self, Summary},
    },
    cli::{
        CommandError, Exit, Global,
        output::{counted, print_line},
        report,
    },
    client::{Client, ClientError, PolicyChoice},
    errors::with_causes,
};

/// The folder that a run will be written to; removed again when nothing comes of it.
pub(in crate::cli) struct Job {
    folder: RunFolder,
}

impl Job {
    /// Where it is.
    pub(in crate::cli) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// `out`, or the first free `runs/<name>-<n>`. Opened first, so that nobody waits for a run that then
    /// cannot be kept.
    pub(in crate::cli) fn open(out: Option<&Path>, name: &str) -> anyhow::Result<Self> {
        if let Some(path) = out {
            return Ok(Self {
                folder: RunFolder::create(path)?,
            });
        }
        for n in 1.. {
            let path = Path::new("runs").join(format!("{name}-{n}"));
            if !path.exists() {
                return Ok(Self {
                    folder: RunFolder::create(&path)?,
                });
            }
        }
        Err(CommandError::usage("no free folder under runs; name one with --out").into())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.folder.remove_if_empty();
    }
}

/// Refuses what the server does not have before there is a run that nobody could finish: models by their ids, and a
/// policy by its name.
pub(in crate::cli) async fn check_served(
    client: &Client,
    models: impl IntoIterator<Item = &String>,
    policy: &PolicyChoice,
) -> anyhow::Result<()> {
    for model in models.into_iter().filter(|model| !model.is_empty()) {
        match client.get_model(model).await {
            // A server without ModelService tells when it is asked for the first item.
            Err(ClientError::Rpc(error)) if error.code == Code::Unimplemented => {}
            found => drop(found?),
        }
    }
    let PolicyChoice::Named(name) = policy else {
        return Ok(());
    };
    let known = client.policies().await?.into_iter();
    let known: Vec<_> = known.filter_map(|known| Some(known.policy?.name)).collect();
    if known.contains(name) {
        return Ok(());
    }
    let known = match known.join(", ") {
        none if none.is_empty() => "it has none".to_owned(),
        known => format!("it has {known}"),
    };
    Err(CommandError::usage(format!("the server has no policy `{name}`; {known}")).into())
}

/// What becomes of a run that does not get to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Unfinished<'a> {
    /// Somebody goes on with this folder later.
    Resumable(&'a Path),
    /// It is told as it is: what is open has failed.
    Told,
}

/// A new run over a prompt set.
pub(in crate::cli) fn begin(
    folder: &RunFolder,
    dataset: &Dataset,
    settings: RunSettings,
) -> anyhow::Result<Run> {
    let plan = Plan::new(dataset, &settings.selection).map_err(CommandError::usage)?;
    if let Some(shard) = settings.shard.filter(|shard| shard.index as usize > plan.rows) {
        let message = format!(
            "shard {shard} is empty: the plan has {}",
            counted(plan.rows, "row", "rows")
        );
        return Err(CommandError::usage(message).into());
    }
    Ok(Run::create(
        folder.clone(),
        &plan,
        settings,
        DatasetInfo::from(dataset),
    )?)
}

/// Drives a run to its end or to Ctrl-C, and writes and prints what came of it.
pub(in crate::cli) async fn finish(
    client: &Client,
    mut run: Run,
    retry_for: Duration,
    unfinished: Unfinished<'_>,
    global: &Global,
) -> anyhow::Result<Exit> {
    let view = match (global.quiet, std::io::stderr().is_terminal()) {
        (true, _) => View::Silent,
        (false, true) => View::Bars,
        (false, false) => View::Lines,
    };
    let mut progress = RunProgress::new(run.planned(), view);
    for (language, mark) in run.made()? {
        progress.made(language, mark);
    }
    let folder = run.folder().clone();
    let mut on_event = |event| progress.on_event(event);
    let driven = tokio::select! {
        driven = run.drive(client, retry_for, &mut on_event) => Some(driven),
        _ = tokio::signal::ctrl_c() => None,
    };
    progress.finish();
    let given_up = match &driven {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(with_causes(error)),
        None => Some("stopped by the user".to_owned()),
    };
    let kept = match unfinished {
        Unfinished::Resumable(path) => Some(path),
        Unfinished::Told if run.made()?.is_empty() => Some(folder.path()),
        Unfinished::Told => None,
    };
    if let (Some(_), Some(path)) = (&given_up, kept) {
        let resume = format!(
            "what was judged is kept; go on with: babelward bench resume {}",
            path.display()
        );
        return match driven {
            Some(Err(error)) => Err(anyhow::Error::new(error).context(resume)),
            _ => {
                eprintln!("babelward: {resume}");
                Ok(Exit::Interrupted)
            }
        };
    }
    run.complete(given_up.as_deref())?;
    let summary = tell(&folder)?;
    Ok(match driven {
        None => Exit::Interrupted,
        Some(Err(error)) => return Err(error).context("the run ended early; what was judged is kept"),
        Some(Ok(())) if summary.all_languages_micro.failed > 0 => Exit::FailedItems,
        Some(Ok(())) => Exit::Done,
    })
}

/// Writes and prints what a complete run says.
pub(super) fn tell(folder: &RunFolder) -> anyhow::Result<Summary> {
    let (folder, summary) = report::renew(folder.path())?;
    print_line(&summary::text_table(&summary))?;
    let demo =
        summary.run.settings.kind == RunKind::MechanismDemo || summary.run.provenance.guard_is_target();
    if demo {
        print_line("These verdicts are a mechanism demo and not a safety judgement.\n")?;
    }
    print_line(&format!(
        "report  {}\nresults {}",
        folder.file("report.html").display(),
        folder.file("results.jsonl").display()
    ))?;
    Ok(summary)
}
