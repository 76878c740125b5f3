//! The summary and the report of one run: `summary.json` and `report.html` in its folder.

use std::path::Path;

use super::{error::AnalysisError, load::LoadedRun};
use crate::bench::{
    labelling,
    report::{
        self,
        texts::{self, Disagreements},
    },
    results::RunFolder,
    scores::what_if::Filter,
    summary::{Options, Summary},
};

/// Whether the report shows prompts and answers, which may be harmful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextsInReport {
    /// Ids only.
    Without,
    /// Prompts and answers on which languages disagree.
    With,
}

/// What a report says, after it was written.
pub struct RunReport {
    /// The run's folder.
    pub folder: RunFolder,
    /// All figures.
    pub summary: Summary,
    /// Prompts on which languages disagree.
    pub disagreements: Disagreements,
}

impl RunReport {
    /// Every figure as JSON.
    ///
    /// # Errors
    /// [`AnalysisError::Figures`].
    pub fn figures(&self) -> Result<String, AnalysisError> {
        Ok(report::figures(&self.summary, Some(&self.disagreements))?)
    }
}

/// Writes the summary and the report of a complete run with default options, and returns the summary.
///
/// # Errors
/// [`AnalysisError`].
pub fn write_default_report(dir: &Path) -> Result<(RunFolder, Summary), AnalysisError> {
    let LoadedRun { folder, info, table } = LoadedRun::read(dir).map_err(AnalysisError::Run)?;
    let summary = Summary::of(info, &table, &Options::default());
    write(&folder, &summary, None)?;
    Ok((folder, summary))
}

/// Writes the summary and the report of a complete run. Labels in the run's folder are taken into account; those of `options`
/// are replaced.
///
/// # Errors
/// [`AnalysisError`].
pub fn report_run(dir: &Path, options: Options, with: TextsInReport) -> Result<RunReport, AnalysisError> {
    let LoadedRun { folder, info, table } = LoadedRun::read(dir).map_err(AnalysisError::Run)?;
    let guards = info.settings.guards.len();
    for filter in &options.filters {
        if let Filter::Guard(guard) = filter
            && *guard >= guards
        {
            return Err(AnalysisError::NoSuchGuard {
                guard: guard + 1,
                guards,
            });
        }
    }
    let options = Options {
        validation: labelling::of_folder(&folder, &table)?,
        ..options
    };
    let summary = Summary::of(info, &table, &options);
    let mut disagreements = texts::disagreements(&table);
    if with == TextsInReport::With {
        texts::add_texts(&folder, &mut disagreements).map_err(AnalysisError::Run)?;
    }
    write(&folder, &summary, Some(&disagreements))?;
    Ok(RunReport {
        folder,
        summary,
        disagreements,
    })
}

fn write(
    folder: &RunFolder,
    summary: &Summary,
    disagreements: Option<&Disagreements>,
) -> Result<(), AnalysisError> {
    let write = |name: &str, text: &str| folder.write(name, text).map_err(AnalysisError::WriteRun);
    write("summary.json", &report::figures(summary, disagreements)?)?;
    write("report.html", &report::html_with(summary, disagreements)?)
}
