//! One file of verdicts, read and checked as a whole, and written as a run per model.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    collect::{Collector, ModelVerdicts},
    options::ImportOptions,
    problem::{ImportError, MissingVerdicts},
};
use crate::{
    bench::{
        dataset::PromptId,
        plan::{Plan, PlanItem},
        results::{
            FolderError, ModelProvenance, Origin, PlanInfo, RunFolder, RunInfo, RunMeasurements,
            RunProvenance, RunStatus,
        },
        run::new_info,
        selection::{RowLimit, Selection},
        settings::{Controversial, DatasetInfo, Prompting, RunKind, RunSettings},
        table::{self, TableError},
    },
    client::PolicyChoice,
    digest,
};

/// Names of the translators in a file of verdicts, in alphabetical order.
///
/// # Errors
/// [`ImportError::Table`].
pub fn translators(path: &Path) -> Result<Vec<String>, ImportError> {
    let mut names = BTreeSet::new();
    table::read(path, &mut |_, row| {
        let fields = row.unwrap_or_default();
        if let Some(name) = fields.get("translator").and_then(|name| name.as_str()) {
            names.insert(name.to_owned());
        }
    })?;
    names.retain(|name| !name.is_empty());
    Ok(names.into_iter().collect())
}

/// The verdicts of a file that has no errors.
#[derive(Debug)]
pub struct Import {
    file: String,
    digest: String,
    controversial: Controversial,
    models: Vec<ModelVerdicts>,
    /// Verdicts that some languages lack. They are in no run, and the file does not say why.
    pub missing: Vec<MissingVerdicts>,
}

impl Import {
    /// Reads a file: JSON lines, JSON, CSV, TSV or Parquet, one verdict per row.
    ///
    /// # Errors
    /// [`ImportError`] with every problem of the file.
    pub fn read(path: &Path, options: &ImportOptions) -> Result<Self, ImportError> {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let file = name.to_string_lossy().into_owned();
        let mut collector = Collector::new(options);
        table::read(path, &mut |place, row| collector.row(place, row))?;
        let digest = digest::of_file(path).map_err(|source| TableError::Io {
            path: PathBuf::from(path),
            source,
        })?;
        let collected = collector.finish();
        if !collected.problems.is_empty() {
            return Err(ImportError::Invalid {
                file,
                problems: collected.problems,
            });
        }
        let mut models = collected.models;
        if let Some(model) = &options.model {
            let names: Vec<_> = models
                .iter()
                .map(|verdicts| format!("`{}`", verdicts.model))
                .collect();
            models.retain(|verdicts| verdicts.model == *model);
            if models.is_empty() {
                return Err(ImportError::NoSuchModel {
                    file,
                    model: model.clone(),
                    known: names.join(", "),
                });
            }
        }
        let missing = models.iter().flat_map(ModelVerdicts::missing);
        let missing = missing.map(|verdicts| MissingVerdicts {
            translator: options.translator.clone(),
            ..verdicts
        });
        let missing = missing.collect();
        Ok(Self {
            file,
            digest,
            controversial: options.controversial,
            models,
            missing,
        })
    }

    /// Names of the models, in alphabetical order; empty where the file names none.
    pub fn models(&self) -> Vec<&str> {
        self.models
            .iter()
            .map(|verdicts| verdicts.model.as_str())
            .collect()
    }

    /// Writes one model's run into an empty folder.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn write(&self, model: usize, folder: &RunFolder) -> Result<RunInfo, FolderError> {
        let verdicts = &self.models[model];
        let prompts: Vec<&PlanItem> = verdicts.prompts().collect();
        if !prompts.is_empty() {
            folder.write_with("plan.jsonl", |file| {
                let mut lines = Plan::lines_of(prompts.iter().copied());
                lines.try_for_each(|line| file.write_all(line.as_bytes()))
            })?;
        }
        let written = folder.write_records::<FolderError>(verdicts.records().map(Ok))?;
        let mut info = self.info(verdicts);
        info.set_results(written);
        folder.write_info(&info)?;
        Ok(info)
    }

    fn info(&self, verdicts: &ModelVerdicts) -> RunInfo {
        let named = |name: &String| ModelProvenance {
            model: name.clone(),
            determinism: "UNSPECIFIED".to_owned(),
            ..ModelProvenance::default()
        };
        let is_named = |name: &&String| !name.is_empty();
        let ids: BTreeSet<&PromptId> = verdicts.keys().map(|key| &key.id).collect();
        let settings = RunSettings {
            kind: RunKind::Unknown,
            target: verdicts.model.clone(),
            prompting: Prompting::Unknown,
            guards: verdicts.guards.clone(),
            policy: PolicyChoice::Native,
            controversial: self.controversial,
            selection: Selection {
                languages: Vec::new(),
                categories: Vec::new(),
                limit: RowLimit::All,
            },
            sampling: None,
            preset: None,
            seeds: verdicts.seeds(),
            shard: None,
            until: None,
            concurrency: 0,
        };
        let origin = Origin::Imported {
            file: self.file.clone(),
            digest: self.digest.clone(),
        };
        RunInfo {
            status: RunStatus::Complete,
            plan: PlanInfo {
                digest: String::new(),
                items: verdicts.keys().count(),
                rows: ids.len(),
            },
            provenance: RunProvenance {
                targets: Some(&verdicts.model)
                    .filter(is_named)
                    .map(named)
                    .into_iter()
                    .collect(),
                guards: verdicts.guards.iter().filter(is_named).map(named).collect(),
            },
            measured: RunMeasurements::default(),
            ..new_info(settings, DatasetInfo::default(), origin)
        }
    }
}
