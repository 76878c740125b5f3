//! Two runs on the same prompts, answer by answer.

use std::path::Path;

use serde::Serialize;

use super::{
    error::AnalysisError,
    load::{ComparableRun, LoadedRun},
    run::TextsInReport,
};
use crate::bench::{
    report::runs::{Side, TwoRuns},
    results::{RunFolder, RunInfo},
    scores::{
        comparable::{Comparability, Pairing, Purpose, comparability},
        compare::{Comparison, Flip, compare, flips},
        gate::Gates,
    },
    statistics::Bootstrap,
};

/// What changes from the first run to the second, by the verdicts of the primary guards.
pub struct RunComparison {
    /// Whether anything else than the target may change verdicts.
    pub comparable: Comparability,
    /// How many answers have a judged partner in the other run.
    pub pairing: Pairing,
    /// The figures.
    pub comparison: Comparison,
    /// Answers with another verdict.
    pub flips: Vec<Flip>,
    /// Why the second run does not pass; `None` without a gate.
    pub gate_broken: Option<Vec<String>>,
    folders: [RunFolder; 2],
    infos: [RunInfo; 2],
}

/// What `compare --json` writes.
#[derive(Serialize)]
struct Figures<'a> {
    comparable: &'a Comparability,
    pairing: Pairing,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate_broken: Option<&'a [String]>,
    #[serde(flatten)]
    comparison: &'a Comparison,
    flips: &'a [Flip],
}

/// Compares two complete runs, and holds the second against the gates.
///
/// # Errors
/// [`AnalysisError::Run`].
pub fn compare_runs(first: &Path, second: &Path, gates: &Gates) -> Result<RunComparison, AnalysisError> {
    let ComparableRun { run, facts } = ComparableRun::read(first).map_err(AnalysisError::Run)?;
    let (first, first_facts) = (run, facts);
    let ComparableRun { run, facts } = ComparableRun::read(second).map_err(AnalysisError::Run)?;
    let (second, second_facts) = (run, facts);
    let sides = [("the first run", &first_facts), ("the second run", &second_facts)];
    let comparable = comparability(&sides, Purpose::Targets);
    let (LoadedRun { table: ours, .. }, LoadedRun { table: theirs, .. }) = (&first, &second);
    let pairing = Pairing::of(ours, theirs);
    let comparison = compare(ours, theirs, Bootstrap::default());
    Ok(RunComparison {
        gate_broken: gates.broken(&comparison, &pairing, &comparable),
        flips: flips(ours, theirs),
        comparable,
        pairing,
        comparison,
        folders: [first.folder, second.folder],
        infos: [first.info, second.info],
    })
}

impl RunComparison {
    /// Every figure as JSON.
    ///
    /// # Errors
    /// [`AnalysisError::Figures`].
    pub fn figures(&self) -> Result<String, AnalysisError> {
        let figures = Figures {
            comparable: &self.comparable,
            pairing: self.pairing,
            gate_broken: self.gate_broken.as_deref(),
            comparison: &self.comparison,
            flips: &self.flips,
        };
        Ok(serde_json::to_string_pretty(&figures)? + "\n")
    }

    /// The page of the comparison.
    ///
    /// # Errors
    /// [`AnalysisError::Run`] when texts cannot be read, [`AnalysisError::Page`].
    pub fn page(self, with: TextsInReport) -> Result<String, AnalysisError> {
        let sides = self.infos.each_ref().map(Side::of);
        let figures = (self.comparison, self.flips);
        let mut page = TwoRuns::new(sides, figures, (self.comparable, self.pairing), self.gate_broken);
        if with == TextsInReport::With {
            page.add_texts(self.folders.each_ref())
                .map_err(AnalysisError::Run)?;
        }
        Ok(page.html()?)
    }
}
