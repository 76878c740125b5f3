//! Two runs on the same prompts, answer by answer.

use std::path::Path;

use serde::Serialize;

use super::{
    error::AnalysisError,
    load::{ComparableRun, LoadedRun},
    run::TextsInReport,
};
use crate::bench::{
    report::two_runs::{ComparedRun, TwoRunComparison, TwoRunReport},
    results::{RunFolder, RunInfo},
    scores::{
        comparable::{Comparability, NamedRun, Pairing, Purpose, comparability},
        compare::{ChangedVerdict, Comparison, changed_verdicts, compare},
        gate::Gates,
    },
    statistics::Bootstrap,
};

/// What changes from the first run to the second, by the verdicts of the primary guards.
pub struct RunComparison {
    /// Whether anything else than the target may change verdicts.
    pub comparable: Comparability,
    /// How many answers have a judged counterpart in the other run.
    pub pairing: Pairing,
    /// The figures.
    pub comparison: Comparison,
    /// The answers whose verdict differs between the runs.
    pub changed: Vec<ChangedVerdict>,
    /// Why the second run does not pass; `None` without a gate.
    pub violations: Option<Vec<String>>,
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
    flips: &'a [ChangedVerdict],
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
    let named = [("the first run", &first_facts), ("the second run", &second_facts)];
    let named = named.map(|(name, facts)| NamedRun { name, facts });
    let comparable = comparability(&named, Purpose::Targets);
    let (LoadedRun { table: of_first, .. }, LoadedRun { table: of_second, .. }) = (&first, &second);
    let pairing = Pairing::of(of_first, of_second);
    let comparison = compare(of_first, of_second, Bootstrap::default());
    Ok(RunComparison {
        violations: gates.violations(&comparison, &pairing, &comparable),
        changed: changed_verdicts(of_first, of_second),
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
            gate_broken: self.violations.as_deref(),
            comparison: &self.comparison,
            flips: &self.changed,
        };
        Ok(serde_json::to_string_pretty(&figures)? + "\n")
    }

    /// The page of the comparison.
    ///
    /// # Errors
    /// [`AnalysisError::Run`] when texts cannot be read, [`AnalysisError::Page`].
    pub fn page(self, with: TextsInReport) -> Result<String, AnalysisError> {
        let mut page = TwoRunReport::new(TwoRunComparison {
            runs: self.infos.each_ref().map(ComparedRun::of),
            comparison: self.comparison,
            changed: self.changed,
            comparability: self.comparable,
            pairing: self.pairing,
            violations: self.violations,
        });
        if with == TextsInReport::With {
            page.add_texts(self.folders.each_ref())
                .map_err(AnalysisError::Run)?;
        }
        Ok(page.html()?)
    }
}
