//! The folder that a translation is written to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Candidate, error::TranslateError, select::Decision};
use crate::{
    bench::{
        dataset::{Dataset, PromptId, Row, write_long},
        taxonomy::{Category, Language},
    },
    files,
};

/// Which prompts are translated from which language into which.
pub struct Task<'a> {
    /// The prompts.
    pub source: &'a Dataset,
    /// The language that is translated from.
    pub from: Language,
    /// The languages that are translated into.
    pub to: &'a [Language],
}

impl<'a> Task<'a> {
    /// # Errors
    /// [`TranslateError::NoSourceLanguage`] when the prompts are not in the language to translate from.
    pub fn new(source: &'a Dataset, from: Language, to: &'a [Language]) -> Result<Self, TranslateError> {
        if source.languages.contains(&from) {
            return Ok(Self { source, from, to });
        }
        let known: Vec<_> = source.languages.iter().map(|language| language.code()).collect();
        Err(TranslateError::NoSourceLanguage {
            from: from.name(),
            known: known.join(", "),
        })
    }
}

/// A candidate and whether it was chosen: one line of `candidates.jsonl`.
#[derive(Serialize)]
struct CandidateLine<'a> {
    #[serde(flatten)]
    candidate: &'a Candidate,
    #[serde(flatten)]
    decision: Option<&'a Decision>,
}

/// A prompt that is not in the translated set: one line of `excluded.jsonl`.
#[derive(Serialize)]
struct ExcludedLine<'a> {
    id: &'a PromptId,
    category: Category,
    /// Languages without a good candidate.
    without: Vec<Language>,
}

/// The folder of a translation. The journals `served.jsonl` and `quality.jsonl` are kept when the translation is made again;
/// all other files are written anew.
pub struct TranslationFolder {
    path: PathBuf,
}

impl TranslationFolder {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path.join("translators"))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a whole file or leaves the old one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        files::write_whole(&self.file(name), bytes)
    }

    /// Removes a file of an earlier translation that would contradict the others.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes `candidates.jsonl`: every candidate, with the decision about it where there is one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_candidates(
        &self,
        candidates: &[Candidate],
        decisions: Option<&[Decision]>,
    ) -> io::Result<()> {
        let mut lines = Vec::new();
        for (at, candidate) in candidates.iter().enumerate() {
            let decision = decisions.and_then(|decisions| decisions.get(at));
            serde_json::to_writer(&mut lines, &CandidateLine { candidate, decision })?;
            lines.push(b'\n');
        }
        self.write("candidates.jsonl", &lines)
    }

    /// Writes `dataset.jsonl`, the prompts that have a chosen candidate in every language, and `excluded.jsonl`, the others.
    /// Returns how many there are of each.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_dataset(
        &self,
        task: &Task<'_>,
        candidates: &[Candidate],
        decisions: &[Decision],
    ) -> io::Result<(usize, usize)> {
        let good = candidates
            .iter()
            .zip(decisions)
            .filter(|(_, decision)| decision.chosen || decision.left_out);
        let by_id = by_id(good.map(|(candidate, _)| candidate));
        let mut excluded = Vec::new();
        let mut rows = Vec::new();
        for row in &task.source.rows {
            let own = by_id.get(&row.id).map(Vec::as_slice).unwrap_or_default();
            let has = |language: &Language| own.iter().any(|candidate| candidate.key.language == *language);
            let without: Vec<Language> = task
                .to
                .iter()
                .copied()
                .filter(|language| !has(language))
                .collect();
            match without.is_empty() {
                true => rows.extend(translated(task, row, own)),
                false => {
                    let line = ExcludedLine {
                        id: &row.id,
                        category: row.category,
                        without,
                    };
                    serde_json::to_writer(&mut excluded, &line)?;
                    excluded.push(b'\n');
                }
            }
        }
        let count = (rows.len(), task.source.rows.len() - rows.len());
        self.write_rows("dataset.jsonl", task, rows)?;
        self.write("excluded.jsonl", &excluded)?;
        Ok(count)
    }

    /// Writes `translators/NAME.jsonl`: the prompts of each translator alone, whatever their scores. The same prompts by
    /// different translators show how much of a language gap comes from translation.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_translators(&self, task: &Task<'_>, candidates: &[Candidate]) -> io::Result<()> {
        let usable = candidates
            .iter()
            .filter(|candidate| !candidate.text.trim().is_empty());
        let mut by_translator: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
        for candidate in usable {
            by_translator
                .entry(&candidate.key.translator)
                .or_default()
                .push(candidate);
        }
        for (translator, own) in by_translator {
            let languages: BTreeSet<Language> = own.iter().map(|candidate| candidate.key.language).collect();
            let by_id = by_id(own.into_iter());
            let whole = |row: &&Row| by_id.get(&row.id).is_some_and(|own| own.len() == languages.len());
            let rows = task.source.rows.iter().filter(whole);
            let rows = rows.filter_map(|row| translated(task, row, by_id.get(&row.id)?));
            self.write_rows(&format!("translators/{translator}.jsonl"), task, rows.collect())?;
        }
        Ok(())
    }

    fn write_rows(&self, name: &str, task: &Task<'_>, rows: Vec<Row>) -> io::Result<()> {
        let set = Dataset {
            rows,
            ..task.source.clone()
        };
        let mut lines = Vec::new();
        write_long(&set, &mut lines)?;
        self.write(name, &lines)
    }
}

fn by_id<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> BTreeMap<PromptId, Vec<&'a Candidate>> {
    let mut by_id: BTreeMap<PromptId, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_id.entry(candidate.key.id.clone()).or_default().push(candidate);
    }
    by_id
}

/// A row of the translated set: the source prompt and these candidates.
fn translated(task: &Task<'_>, row: &Row, candidates: &[&Candidate]) -> Option<Row> {
    let source = row.prompts.get(&task.from)?;
    let texts = candidates.iter().map(|c| (c.key.language, c.text.clone()));
    Some(Row {
        id: row.id.clone(),
        category: row.category,
        prompts: texts.chain([(task.from, source.clone())]).collect(),
        attack_type: row.attack_type.clone(),
        translators: candidates
            .iter()
            .map(|c| (c.key.language, c.key.translator.clone()))
            .collect(),
    })
}
