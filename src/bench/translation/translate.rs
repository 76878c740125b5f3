//! Translates a prompt set: gathers candidates, translates them back, gathers scores, chooses, and writes the files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use super::{
    BackTranslation, Candidate, CandidateKey, Metric,
    chrf::chrf,
    error::TranslateError,
    estimate::Estimation,
    estimated::EstimatorInfo,
    failures::Failures,
    flags::{self, Flag, POOR_BACK_TRANSLATION},
    folder::{Task, TranslationFolder},
    imported::Imported,
    journal::Journal,
    progress::{IgnoredRows, TranslationProgress},
    select::{By, Rule, decide},
    served::{Answer, PromptTemplate, ServedModel},
    summary::{self, TranslationSummary},
    translator::ServedTranslator,
};
use crate::{
    bench::{dataset::PromptId, settings::DatasetInfo, taxonomy::Language},
    client::{Client, ClientError},
};

/// How to translate.
pub struct TranslateOptions {
    /// Translators that are models of the server.
    pub served: Vec<ServedTranslator>,
    /// Model that translates every candidate back.
    pub back_translator: Option<String>,
    /// Models that score every candidate.
    pub estimators: Vec<String>,
    /// What decides between candidates.
    pub by: By,
    /// Flags that no chosen candidate may have.
    pub reject: Vec<Flag>,
    /// What served models are asked.
    pub template: PromptTemplate,
    /// Most tokens of a translation.
    pub max_new_tokens: u32,
    /// Most requests that are open at a time.
    pub concurrency: usize,
}

impl TranslateOptions {
    /// Whether any of it needs a server.
    pub fn need_server(&self) -> bool {
        !self.served.is_empty() || self.back_translator.is_some() || !self.estimators.is_empty()
    }
}

/// Candidates and scores, before anything is chosen.
pub struct Gathered {
    candidates: Vec<Candidate>,
    /// Names, in the order that breaks ties.
    translators: Vec<String>,
    /// Served translators: name, model, digest of its weights.
    served: Vec<[String; 3]>,
    /// Estimators that gave scores.
    estimators: Vec<EstimatorInfo>,
    failures: Failures,
    /// Candidates from files that are of other prompts or languages.
    ignored: usize,
}

/// What a translation came to, after its files were written.
pub struct Translated {
    /// What `summary.json` says.
    pub summary: TranslationSummary,
    /// Requests that failed; the same translation again sends them again.
    pub failures: Failures,
}

/// A translation of a prompt set, from its candidates to its files.
pub struct Translation<'a> {
    /// Which prompts are translated from which language into which.
    pub task: Task<'a>,
    /// How they are translated.
    pub options: &'a TranslateOptions,
    /// Where the results are written.
    pub folder: &'a TranslationFolder,
}

impl Translation<'_> {
    /// Gathers all candidates and scores. `client` must be there where the options need a server. The future may be dropped at
    /// any time: what models have answered is in the folder, and is not asked again.
    ///
    /// # Errors
    /// [`TranslateError`]. Requests that fail are counted and no errors.
    pub async fn gather(
        &self,
        client: Option<&Client>,
        imported: Imported,
        progress: &mut dyn TranslationProgress,
    ) -> Result<Gathered, TranslateError> {
        let mut gathered = Gathered {
            candidates: Vec::new(),
            translators: Vec::new(),
            served: Vec::new(),
            estimators: Vec::new(),
            failures: Failures::default(),
            ignored: 0,
        };
        let Imported { texts, scores, named } = imported;
        if let Some(client) = client {
            self.translate(client, &mut gathered, progress).await?;
        }
        self.add_imported(texts, named, &mut gathered)?;
        if gathered.ignored > 0 {
            progress.ignored(IgnoredRows::Candidates(gathered.ignored));
        }
        if let (Some(client), Some(model)) = (client, &self.options.back_translator) {
            self.translate_back(client, model, &mut gathered, progress)
                .await?;
        }
        let mut used = 0;
        for candidate in &mut gathered.candidates {
            if let Some(scores) = scores.get(&candidate.key) {
                candidate.scores.clone_from(scores);
                used += 1;
            }
        }
        if scores.len() > used {
            progress.ignored(IgnoredRows::Scores(scores.len() - used));
        }
        if let Some(client) = client {
            self.score(client, &mut gathered, progress).await?;
        }
        gathered.candidates.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(gathered)
    }

    /// Lets the served translators translate.
    async fn translate(
        &self,
        client: &Client,
        gathered: &mut Gathered,
        progress: &mut dyn TranslationProgress,
    ) -> Result<(), TranslateError> {
        if self.options.served.is_empty() {
            return Ok(());
        }
        let mut journal = self.answer_journal()?;
        for ServedTranslator { name, model } in &self.options.served {
            let name = name.to_string();
            if gathered.translators.contains(&name) {
                return Err(TranslateError::ServedTwice(name));
            }
            let model = self.served_model(client, model).await?;
            gathered.translators.push(name.clone());
            let served = [name.clone(), model.model.clone(), model.digest.clone()];
            gathered.served.push(served);
            let mut keys = Vec::new();
            let mut prompts = Vec::new();
            for row in &self.task.source.rows {
                for &language in self.task.to {
                    let text = row.prompts.get(&self.task.from).map_or("", String::as_str);
                    prompts.push(self.prompt(text, self.task.from, language)?);
                    let key = CandidateKey {
                        id: row.id.clone(),
                        language,
                        translator: name.clone(),
                    };
                    keys.push((key, text));
                }
            }
            progress.begin(&name, prompts.len());
            let answers = self.answers(&model, &prompts, &mut journal, progress).await;
            progress.end();
            for ((key, source), answer) in keys.into_iter().zip(answers?) {
                match answer {
                    Ok(answer) => {
                        let mut candidate = candidate(key, source, answer.text);
                        let truncated = answer.truncated.then_some(Flag::Truncated);
                        candidate.flags.extend(truncated);
                        gathered.candidates.push(candidate);
                    }
                    Err(error) => gathered.failures.add(error),
                }
            }
        }
        Ok(())
    }

    /// Adds the candidates from files that are of the prompts and languages of this translation.
    fn add_imported(
        &self,
        texts: super::import::Texts,
        named: Vec<String>,
        gathered: &mut Gathered,
    ) -> Result<(), TranslateError> {
        let rows: BTreeMap<_, _> = self.task.source.rows.iter().map(|row| (&row.id, row)).collect();
        let mut names = BTreeSet::new();
        for (key, text) in texts {
            let row = rows.get(&key.id).filter(|_| self.task.to.contains(&key.language));
            let Some(source) = row.and_then(|row| row.prompts.get(&self.task.from)) else {
                gathered.ignored += 1;
                continue;
            };
            let mut served = self.options.served.iter();
            if served.any(|served| served.name.as_str() == key.translator) {
                return Err(TranslateError::ServedAndImported(key.translator));
            }
            names.insert(key.translator.clone());
            gathered.candidates.push(candidate(key, source, text));
        }
        // Those of the command line in its order, then those that only rows name.
        for name in named.into_iter().chain(names) {
            if !gathered.translators.contains(&name) {
                gathered.translators.push(name);
            }
        }
        Ok(())
    }

    /// Translates every candidate back into the language of the prompts, and flags those that come back too different.
    async fn translate_back(
        &self,
        client: &Client,
        model: &str,
        gathered: &mut Gathered,
        progress: &mut dyn TranslationProgress,
    ) -> Result<(), TranslateError> {
        let mut journal = self.answer_journal()?;
        let model = self.served_model(client, model).await?;
        let candidates: Vec<&mut Candidate> = gathered
            .candidates
            .iter_mut()
            .filter(|candidate| !candidate.flags.contains(&Flag::Empty))
            .collect();
        let prompts = candidates
            .iter()
            .map(|candidate| self.prompt(&candidate.text, candidate.key.language, self.task.from));
        let prompts: Vec<String> = prompts.collect::<Result<_, _>>()?;
        progress.begin("back", prompts.len());
        let answers = self.answers(&model, &prompts, &mut journal, progress).await;
        progress.end();
        for (candidate, answer) in candidates.into_iter().zip(answers?) {
            match answer {
                Ok(answer) => {
                    let chrf = chrf(&answer.text, &candidate.source);
                    let poor = chrf < POOR_BACK_TRANSLATION;
                    candidate.flags.extend(poor.then_some(Flag::PoorBackTranslation));
                    candidate.back_translation = Some(BackTranslation {
                        text: answer.text,
                        chrf,
                    });
                }
                Err(error) => gathered.failures.add(error),
            }
        }
        Ok(())
    }

    /// Lets the served estimators score the candidates.
    async fn score(
        &self,
        client: &Client,
        gathered: &mut Gathered,
        progress: &mut dyn TranslationProgress,
    ) -> Result<(), TranslateError> {
        if self.options.estimators.is_empty() {
            return Ok(());
        }
        let estimation = Estimation {
            client,
            folder: self.folder,
            concurrency: self.options.concurrency,
        };
        let mut journal = estimation.journal()?;
        let Gathered {
            candidates,
            estimators,
            failures,
            ..
        } = gathered;
        for name in &self.options.estimators {
            let info = estimation.score(name, candidates, &mut journal, failures, progress);
            estimators.push(info.await?);
        }
        Ok(())
    }

    fn answer_journal(&self) -> Result<Journal<Answer>, TranslateError> {
        let path = self.folder.file("served.jsonl");
        Journal::open(&path).map_err(|source| TranslateError::Io { path, source })
    }

    async fn served_model<'c>(
        &self,
        client: &'c Client,
        name: &str,
    ) -> Result<ServedModel<'c>, TranslateError> {
        let model = client.get_model(name).await;
        let model = model.map_err(|source| TranslateError::Model {
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        Ok(ServedModel {
            client,
            model: name.to_owned(),
            digest: model.digest,
            max_new_tokens: self.options.max_new_tokens,
        })
    }

    fn prompt(&self, text: &str, from: Language, to: Language) -> Result<String, TranslateError> {
        let rendered = self.options.template.render(text, from, to);
        rendered.map_err(TranslateError::Prompt)
    }

    async fn answers(
        &self,
        model: &ServedModel<'_>,
        prompts: &[String],
        journal: &mut Journal<Answer>,
        progress: &mut dyn TranslationProgress,
    ) -> Result<Vec<Result<Answer, ClientError>>, TranslateError> {
        let mut on_answer = |answered| progress.advance(answered);
        let answers = model.answer_all(prompts, journal, self.options.concurrency, &mut on_answer);
        answers.await.map_err(|source| TranslateError::Io {
            path: self.folder.file("served.jsonl"),
            source,
        })
    }

    /// Chooses candidates and writes all files. Where candidates are chosen by their quality and none has a score, nothing is
    /// chosen, so that somebody can score them first.
    ///
    /// # Errors
    /// [`TranslateError::Io`], [`TranslateError::Json`].
    pub fn conclude(&self, gathered: Gathered) -> Result<Translated, TranslateError> {
        let (options, task) = (self.options, &self.task);
        let rule = Rule {
            by: options.by,
            reject: options.reject.clone(),
            translators: gathered.translators,
        };
        let candidates = &gathered.candidates;
        let scored = candidates
            .iter()
            .any(|candidate| candidate.scores.contains_key(&Metric::Comet));
        let unscored = matches!(rule.by, By::Quality { .. }) && !scored;
        let decisions = decide(candidates, task.to, &rule);
        let chosen = (!unscored).then_some(decisions.as_slice());
        let io = self.io();
        self.folder.write_candidates(candidates, chosen).map_err(&io)?;
        self.folder.write_translators(task, candidates).map_err(&io)?;
        let written = match chosen {
            Some(decisions) => Some(
                self.folder
                    .write_dataset(task, candidates, decisions)
                    .map_err(&io)?,
            ),
            None => {
                self.folder.remove("dataset.jsonl").map_err(&io)?;
                self.folder.remove("excluded.jsonl").map_err(&io)?;
                None
            }
        };
        let ids: Vec<PromptId> = task.source.rows.iter().map(|row| row.id.clone()).collect();
        let summary = TranslationSummary {
            client_version: env!("CARGO_PKG_VERSION"),
            source: DatasetInfo::from(task.source),
            from: task.from,
            to: task.to.to_vec(),
            rule,
            served: gathered.served,
            quality: gathered.estimators,
            prompts: ids.len(),
            complete: written.map(|(complete, _)| complete),
            excluded: written.map(|(_, excluded)| excluded),
            failed: gathered.failures.count,
            ignored_candidates: gathered.ignored,
            translators: summary::by_translator(candidates, &decisions),
            chosen: match chosen {
                Some(decisions) => summary::of_chosen(&ids, task.to, candidates, decisions),
                None => Vec::new(),
            },
        };
        let text = serde_json::to_vec_pretty(&serde_json::to_value(&summary)?)?;
        self.folder.write("summary.json", &text).map_err(&io)?;
        Ok(Translated {
            summary,
            failures: gathered.failures,
        })
    }

    /// Names the folder in errors of its files.
    fn io(&self) -> impl Fn(io::Error) -> TranslateError {
        let path: PathBuf = self.folder.path().to_owned();
        move |source| TranslateError::Io {
            path: path.clone(),
            source,
        }
    }
}

fn candidate(key: CandidateKey, source: &str, text: String) -> Candidate {
    Candidate {
        flags: flags::of_text(source, &text, key.language),
        key,
        source: source.to_owned(),
        text,
        scores: BTreeMap::new(),
        back_translation: None,
    }
}
