//! Writes a file of verdicts as runs: one per model, or one per model and translator.

use std::path::Path;

use super::{
    file::{Import, translators},
    options::ImportOptions,
    problem::{ImportError, MissingVerdicts},
};
use crate::bench::{
    analysis::{AnalysisError, write_default_report},
    results::{FolderError, GroupRun, RunFolder, RunGroup, folder_names},
    summary::Summary,
    translation::TranslatorChoice,
};

/// The verdicts of a file; where each translator gets runs of its own, read once for each of them.
pub struct ImportedRuns {
    imports: Vec<TranslatorImport>,
}

/// The verdicts on one translator's prompts; on all prompts where translators do not get runs of their own.
struct TranslatorImport {
    translator: Option<String>,
    import: Import,
}

/// One run of the file.
struct RunOfFile<'a> {
    import: &'a Import,
    /// Index of the model in the import.
    index: usize,
    model: &'a str,
    translator: Option<&'a str>,
}

/// A run that was imported and reported.
pub struct WrittenRun {
    /// Name of its model, of its translator, or both.
    pub title: String,
    /// Where it is.
    pub folder: RunFolder,
    /// What its report says.
    pub summary: Summary,
}

/// Why imported runs cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteRunsError {
    /// A folder cannot be written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A run cannot be reported.
    #[error(transparent)]
    Report(#[from] AnalysisError),
}

impl ImportedRuns {
    /// Reads a file; with `choice`, once for each of its translators.
    ///
    /// # Errors
    /// [`ImportError`]; [`ImportError::Translators`] when fewer than two translators are chosen, one twice, or one that the file
    /// does not have.
    pub fn read(
        path: &Path,
        options: &ImportOptions,
        choice: Option<&TranslatorChoice>,
    ) -> Result<Self, ImportError> {
        let Some(choice) = choice else {
            let import = Import::read(path, options)?;
            let imports = vec![TranslatorImport {
                translator: None,
                import,
            }];
            return Ok(Self { imports });
        };
        let known = translators(path)?;
        let names = choice.of(&known);
        let twice = |index: usize| names[..index].contains(&names[index]);
        let unknown = names.iter().any(|name| !known.contains(name));
        if names.len() < 2 || (0..names.len()).any(twice) || unknown {
            return Err(ImportError::Translators {
                known: known.join(", "),
            });
        }
        let read = |name: String| {
            let options = ImportOptions {
                translator: Some(name.clone()),
                ..options.clone()
            };
            Ok(TranslatorImport {
                import: Import::read(path, &options)?,
                translator: Some(name),
            })
        };
        let imports: Result<_, ImportError> = names.into_iter().map(read).collect();
        Ok(Self { imports: imports? })
    }

    /// Verdicts that some languages lack.
    pub fn missing(&self) -> Vec<&MissingVerdicts> {
        self.imports.iter().flat_map(|one| &one.import.missing).collect()
    }

    /// Writes and reports every run: into `out` itself where there is only one, and otherwise into folders below it.
    ///
    /// # Errors
    /// [`WriteRunsError`].
    pub fn write(&self, out: &Path) -> Result<Vec<WrittenRun>, WriteRunsError> {
        let runs: Vec<RunOfFile<'_>> = self.imports.iter().flat_map(TranslatorImport::runs).collect();
        if let [run] = &runs[..] {
            return Ok(vec![run.write(out)?]);
        }
        let folder = RunFolder::create(out)?;
        let titles: Vec<String> = runs.iter().map(RunOfFile::title).collect();
        let names = folder_names(titles.iter().map(String::as_str));
        let mut written = Vec::new();
        for (run, name) in runs.iter().zip(&names) {
            written.push(run.write(&out.join(name))?);
        }
        if runs.iter().any(|run| run.translator.is_some()) {
            let members = runs.iter().zip(names).map(|(run, folder)| GroupRun {
                target: run.model.to_owned(),
                translator: run.translator.map(str::to_owned),
                folder,
            });
            RunGroup::new(members.collect()).write(&folder)?;
        }
        Ok(written)
    }
}

impl TranslatorImport {
    fn runs(&self) -> Vec<RunOfFile<'_>> {
        let models = self.import.models().into_iter().enumerate();
        let run = |(index, model)| RunOfFile {
            import: &self.import,
            index,
            model,
            translator: self.translator.as_deref(),
        };
        models.map(run).collect()
    }
}

impl RunOfFile<'_> {
    fn title(&self) -> String {
        match self.translator {
            Some(translator) if self.import.models().len() > 1 => format!("{}-{translator}", self.model),
            Some(translator) => translator.to_owned(),
            None => self.model.to_owned(),
        }
    }

    fn write(&self, path: &Path) -> Result<WrittenRun, WriteRunsError> {
        let folder = RunFolder::create(path)?;
        self.import.write(self.index, &folder)?;
        let (folder, summary) = write_default_report(folder.path())?;
        Ok(WrittenRun {
            title: self.title(),
            folder,
            summary,
        })
    }
}
