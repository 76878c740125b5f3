//! Several runs beside each other: `study.json` and `study.html`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    error::AnalysisError,
    load::{ComparableRun, runs_in},
};
use crate::{
    bench::{
        json_file::read_json,
        jurisdictions::Jurisdiction,
        report,
        results::{Origin, RunFolder, RunInfo},
        scores::{
            comparable::{NamedRun, Purpose, comparability},
            models::{DeclaredFacts, ModelFacts, PromptedModel},
            run_names::{RunTraits, distinct_names},
            study::Study,
            study_run::StudyRun,
        },
        statistics::Bootstrap,
        translation::{ScoreTable, import, sets::RUN_SCORES},
    },
    files,
};

/// Facts about the models of a study that the runs do not hold, such as their sizes, and the file that they come from.
#[derive(Debug, Default)]
pub struct KnownModels {
    file: Option<PathBuf>,
    declared: BTreeMap<String, DeclaredFacts>,
}

impl KnownModels {
    /// Reads a JSON object of model name to facts.
    ///
    /// # Errors
    /// [`AnalysisError::ModelsFile`].
    pub fn read(path: &Path) -> Result<Self, AnalysisError> {
        Ok(Self {
            declared: read_json(path)?,
            file: Some(path.to_owned()),
        })
    }
}

/// The runs of a study, and the files that add to them.
#[derive(Default)]
pub struct StudySources<'a> {
    /// Folders of complete runs.
    pub runs: &'a [PathBuf],
    /// Facts about their models.
    pub models: KnownModels,
    /// Files with quality scores of translations.
    pub quality: Vec<PathBuf>,
    /// Rules of jurisdictions to score by.
    pub jurisdictions: Vec<Jurisdiction>,
}

impl StudySources<'_> {
    /// Reads everything and compares the runs.
    ///
    /// # Errors
    /// [`AnalysisError`].
    pub fn study(&self) -> Result<Study, AnalysisError> {
        let mut scores = ScoreTable::new();
        for path in &self.quality {
            import::scores(path, &mut scores)?;
        }
        let runs: Vec<ComparableRun> = self
            .runs
            .iter()
            .map(|dir| ComparableRun::read(dir))
            .collect::<Result<_, _>>()
            .map_err(AnalysisError::Run)?;
        let models = target_names(self.runs, &runs);
        let traits = self.runs.iter().zip(&models).zip(&runs);
        let traits = traits.map(|((dir, model), one)| RunTraits {
            model: model.clone(),
            translators: Some(one.facts.translator_names()).filter(|names| !names.is_empty()),
            precision: one.facts.target_precision.clone(),
            guard: one.facts.guard.clone(),
            seeds: one.facts.seeds.clone(),
            folder: short_name(dir, self.runs),
        });
        let names = distinct_names(&traits.collect::<Vec<_>>());
        let prompted = models.iter().zip(&runs);
        let prompted = prompted.map(|(model, one)| PromptedModel {
            name: model,
            prompting: one.run.info.settings.prompting,
        });
        let of_models = ModelFacts::of_models(&prompted.collect::<Vec<_>>(), &self.models.declared);
        let of_models = of_models.map_err(|source| AnalysisError::Models {
            path: self.models.file.clone().unwrap_or_else(|| "--models".into()),
            source,
        })?;
        let mut study_runs = Vec::new();
        let mut facts = Vec::new();
        for (((one, name), model), of_model) in runs.into_iter().zip(names).zip(models).zip(of_models) {
            facts.push((name.clone(), one.facts));
            study_runs.push(StudyRun {
                name,
                model,
                facts: of_model,
                table: one.run.table,
            });
        }
        let study = Study::with_scores(&study_runs, &scores, Bootstrap::default())
            .with_jurisdictions(&study_runs, &self.jurisdictions);
        let purpose = match study.translation_effects.is_empty() {
            true => Purpose::Targets,
            false => Purpose::Translators,
        };
        let facts: Vec<_> = facts
            .iter()
            .map(|(name, facts)| NamedRun { name, facts })
            .collect();
        Ok(study.with_comparability(comparability(&facts, purpose)))
    }
}

/// Makes the study of the complete runs in a group's folder, and writes it there.
///
/// # Errors
/// [`AnalysisError`].
pub fn study_group(folder: &RunFolder) -> Result<Study, AnalysisError> {
    let scores = Some(folder.file(RUN_SCORES)).filter(|path| path.exists());
    let study = StudySources {
        runs: &runs_in(folder.path()),
        quality: scores.into_iter().collect(),
        ..StudySources::default()
    }
    .study()?;
    write_study(&study, folder.path())?;
    Ok(study)
}

/// Writes `study.json` and `study.html` into a folder, which is made where it does not exist.
///
/// # Errors
/// [`AnalysisError`].
pub fn write_study(study: &Study, out: &Path) -> Result<(), AnalysisError> {
    let failed = |source| AnalysisError::Write {
        path: out.to_owned(),
        source,
    };
    let write =
        |name: &str, text: String| files::write_whole(&out.join(name), text.as_bytes()).map_err(failed);
    fs::create_dir_all(out).map_err(failed)?;
    write("study.json", serde_json::to_string_pretty(study)? + "\n")?;
    write("study.html", report::study_html(study)?)
}

/// The name of each run's target. Runs of one imported file that names no model are of one unnamed model.
fn target_names(dirs: &[PathBuf], runs: &[ComparableRun]) -> Vec<String> {
    let infos: Vec<&RunInfo> = runs.iter().map(|one| &one.run.info).collect();
    let name = |(info, dir): (&&RunInfo, &PathBuf)| {
        let name = info.target().map(str::to_owned);
        let name = name.or_else(|| unnamed_model(info, &infos));
        name.unwrap_or_else(|| dir.display().to_string())
    };
    infos.iter().zip(dirs).map(name).collect()
}

/// What to call the model of an imported file that names none; with the file's digest where another file has the same name.
fn unnamed_model(info: &RunInfo, all: &[&RunInfo]) -> Option<String> {
    let Origin::Imported { file, digest } = &info.origin else {
        return None;
    };
    let same_name = |other: &&&RunInfo| {
        matches!(&other.origin, Origin::Imported { file: theirs, digest: their_digest }
            if theirs == file && their_digest != digest)
    };
    Some(match all.iter().find(same_name) {
        Some(_) => format!("unnamed model of {file} ({digest})"),
        None => format!("unnamed model of {file}"),
    })
}

/// The last part of a run's path, or the whole path where another run's path ends alike.
fn short_name(dir: &Path, dirs: &[PathBuf]) -> String {
    let same = dirs.iter().filter(|other| other.file_name() == dir.file_name());
    match dir.file_name() {
        Some(name) if same.count() == 1 => name.to_string_lossy().into_owned(),
        _ => dir.display().to_string(),
    }
}
