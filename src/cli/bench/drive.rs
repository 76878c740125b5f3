//! Drives runs: shows their progress, and prints what they come to.

use std::{path::Path, time::Duration};

use anyhow::Context as _;

use crate::{
    bench::{
        analysis::{study_group, write_default_report},
        results::{RunFolder, RunGroup, RunStatus},
        run::{EarlyEnd, Failures, OpenItems, Run, SittingEnd, SittingOptions, sit},
        settings::RunKind,
        summary::{self, Summary},
    },
    cli::{
        Exit, Global,
        arguments::time,
        interrupt::interrupted,
        output::{print_line, tell},
        progress::RunProgress,
        study_text::study_text,
    },
    client::Client,
};

/// How long to go on trying.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Patience {
    /// How long to go on trying while the server answers nothing, such as 5m; then the run stops, and can be resumed
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    pub(super) retry_for: Duration,
}

/// Drives a run that is resumed by `resume_with` when it ends early: its own folder, or that of the group it belongs to.
pub(super) fn drive(
    run: Run,
    resume_with: &Path,
    patience: Patience,
    global: &Global,
) -> anyhow::Result<Exit> {
    global.block_on(async {
        let client = global.connect().await?;
        let options = SittingOptions {
            retry_for: patience.retry_for,
            open_items: OpenItems::Keep,
        };
        drive_with(&client, run, options, resume_with, global).await
    })
}

/// Drives a run to its end or to Ctrl-C, and prints its results, or how to resume it.
pub(in crate::cli) async fn drive_with(
    client: &Client,
    run: Run,
    options: SittingOptions,
    resume_with: &Path,
    global: &Global,
) -> anyhow::Result<Exit> {
    let folder = run.folder().clone();
    let mut progress = RunProgress::new(run.planned_judgements(), run.controversial(), global.quiet);
    for (language, mark) in run.recorded_judgements()? {
        progress.add_earlier(language, mark);
    }
    let mut on_event = |event| progress.on_event(event);
    let end = sit(client, run, options, interrupted(), &mut on_event).await;
    progress.finish();
    match end? {
        SittingEnd::Complete => Ok(exit_of(&print_results(&folder)?)),
        SittingEnd::CompleteWithOpenItems(why) => {
            print_results(&folder)?;
            match why {
                EarlyEnd::Stopped => Ok(Exit::Interrupted),
                EarlyEnd::Failed(error) => Err(error).context("the run ended early; what was judged is kept"),
            }
        }
        SittingEnd::Resumable(why) => {
            let resume = format!(
                "what was judged is kept; go on with: babelward bench resume {}",
                resume_with.display()
            );
            match why {
                EarlyEnd::Stopped => {
                    tell(format_args!("babelward: {resume}"));
                    Ok(Exit::Interrupted)
                }
                EarlyEnd::Failed(error) => Err(error).context(resume),
            }
        }
    }
}

/// How a command ends that has brought a run to its end.
pub(super) fn exit_of(summary: &Summary) -> Exit {
    match summary.all_languages_micro.failed {
        0 => Exit::Done,
        _ => Exit::FailedItems,
    }
}

/// Drives the runs of a group one after the other. Complete runs stay as they are, unless their failures are to be asked again.
pub(super) fn drive_group(
    folder: &RunFolder,
    group: &RunGroup,
    failures: Failures,
    patience: Patience,
    global: &Global,
) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    for member in &group.runs {
        let own = RunFolder::open(&folder.file(&member.folder));
        if failures == Failures::Keep && own.info()?.status == RunStatus::Complete {
            tell(format_args!("babelward: {} is complete", own.path().display()));
            continue;
        }
        print_line(&format!("\n{}", member.title()))?;
        match drive(Run::open(own, failures)?, folder.path(), patience, global)? {
            Exit::Done => {}
            Exit::Interrupted => return Ok(Exit::Interrupted),
            other => exit = other,
        }
    }
    print_line("")?;
    print_study(folder)?;
    print_line(&format!(
        "\nall targets: babelward report {}",
        folder.path().display()
    ))?;
    Ok(exit)
}

/// Writes the study of a group's complete runs, and prints it.
pub(super) fn print_study(folder: &RunFolder) -> anyhow::Result<()> {
    let study = study_group(folder)?;
    Ok(print_line(&study_text(&study, Some(folder.path())))?)
}

/// Writes the summary and the report of a complete run, and prints its table.
pub(super) fn print_results(folder: &RunFolder) -> anyhow::Result<Summary> {
    let (folder, summary) = write_default_report(folder.path())?;
    print_line(&summary::text_table(&summary))?;
    let demo =
        summary.run.settings.kind == RunKind::MechanismDemo || summary.run.provenance.guard_is_target();
    if demo {
        print_line("These verdicts are a mechanism demo and not a safety judgement.\n")?;
    }
    if summary.run.settings.kind == RunKind::Demo {
        print_line("The guard judges in earnest; the few prompts and the small target are a demo.\n")?;
    }
    print_line(&format!(
        "report  {}\nresults {}",
        folder.file("report.html").display(),
        folder.file("results.jsonl").display()
    ))?;
    Ok(summary)
}
