//! The steps of `translate`: candidates, the way back, scores, the choice, the files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context as _;
use serde_json::Value;

use super::{
    Args, CommandError, Exit, Format, Global,
    tell::{Summary, human, progress},
    translator,
};
use crate::{
    bench::{
        dataset::Dataset,
        settings::DatasetInfo,
        taxonomy::Language,
        translation::{
            BackTranslation, Candidate, CandidateKey, Metric, ScoreTable,
            chrf::chrf,
            estimated::EstimatorInfo,
            flags::{self, Flag, POOR_BACK_TRANSLATION},
            folder::{Task, TranslationFolder},
            import::{self, ImportError},
            journal::Journal,
            select::decide,
            served::{Answer, PromptTemplate, ServedModel},
            summary,
        },
    },
    cli::output::{counted, print_json, print_line},
    client::{Client, ClientError},
};

/// What has been gathered.
pub(super) struct Gathered {
    pub(super) candidates: Vec<Candidate>,
    /// In the order that breaks ties.
    translators: Vec<String>,
    served: Vec<[String; 3]>,
    /// Estimators that were asked.
    pub(super) quality: Vec<EstimatorInfo>,
    /// The first failure of each served model, and how many there are.
    pub(super) failures: Vec<ClientError>,
    pub(super) failed: usize,
    ignored: usize,
}

pub(super) async fn translate(
    args: &Args,
    template: &PromptTemplate,
    global: &Global,
) -> anyhow::Result<Exit> {
    let source = source(args, global)?;
    let folder = TranslationFolder::open(&args.out).with_context(|| args.out.display().to_string())?;
    let task = Task {
        source: &source,
        from: args.from,
        to: &args.to,
    };
    let work = Work {
        args,
        template,
        global,
        task: &task,
    };
    let gathered = tokio::select! {
        gathered = work.gather(&folder) => gathered?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted; the same command goes on from here");
            return Ok(Exit::Interrupted);
        }
    };
    work.conclude(gathered, &folder)
}

/// The prompts, which must be there in the source language.
fn source(args: &Args, global: &Global) -> anyhow::Result<Dataset> {
    let mut source = args.data.dataset(global)?;
    if !source.languages.contains(&args.from) {
        let has: Vec<_> = source.languages.iter().map(|language| language.code()).collect();
        let message = format!(
            "the set has no prompts in {}; it has {}",
            args.from.name(),
            has.join(", ")
        );
        return Err(CommandError::usage(message).into());
    }
    source.rows.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(source)
}

pub(super) struct Work<'a> {
    pub(super) args: &'a Args,
    template: &'a PromptTemplate,
    pub(super) global: &'a Global,
    task: &'a Task<'a>,
}

impl Work<'_> {
    async fn gather(&self, folder: &TranslationFolder) -> anyhow::Result<Gathered> {
        let mut gathered = Gathered {
            candidates: Vec::new(),
            translators: Vec::new(),
            served: Vec::new(),
            quality: Vec::new(),
            failures: Vec::new(),
            failed: 0,
            ignored: 0,
        };
        // Files first: what is wrong with them should not be told after an hour of translating.
        let mut imported = import::Texts::new();
        for (name, file) in &self.args.candidates {
            let more = import::candidates(Path::new(file), name.as_deref()).map_err(invalid)?;
            for (key, text) in more {
                translator(&key.translator)
                    .map_err(|e| CommandError::invalid_data(format!("{file}: {e}")))?;
                let message = format!("{file}: {} has translated {} before", key.translator, key.id);
                if imported.insert(key, text).is_some() {
                    return Err(CommandError::invalid_data(message).into());
                }
            }
        }
        let mut scores = ScoreTable::new();
        for file in &self.args.scores {
            import::scores(file, &mut scores).map_err(invalid)?;
        }
        self.served(folder, &mut gathered).await?;
        self.imported(imported, &mut gathered)?;
        if let Some(model) = &self.args.back_translate {
            let client = self.global.connect().await?;
            let mut journal = self.journal(folder)?;
            self.back(&client, model, &mut journal, &mut gathered).await?;
        }
        let mut used = 0;
        for candidate in &mut gathered.candidates {
            if let Some(scores) = scores.get(&candidate.key) {
                candidate.scores.clone_from(scores);
                used += 1;
            }
        }
        let ignored = scores.len() - used;
        if ignored > 0 {
            let ignored = counted(ignored, "score is", "scores are");
            eprintln!("{ignored} of other prompts, languages or translators and ignored");
        }
        self.quality(folder, &mut gathered).await?;
        gathered.candidates.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(gathered)
    }

    fn journal(&self, folder: &TranslationFolder) -> anyhow::Result<Journal<Answer>> {
        let path = folder.file("served.jsonl");
        Journal::open(&path).with_context(|| path.display().to_string())
    }

    async fn model<'c>(&self, client: &'c Client, name: &str) -> anyhow::Result<ServedModel<'c>> {
        let model = client
            .get_model(name)
            .await
            .with_context(|| format!("model `{name}`"))?;
        Ok(ServedModel {
            client,
            model: name.to_owned(),
            digest: model.digest,
            max_new_tokens: self.args.max_new_tokens,
        })
    }

    async fn served(&self, folder: &TranslationFolder, gathered: &mut Gathered) -> anyhow::Result<()> {
        if self.args.with.is_empty() {
            return Ok(());
        }
        let client = self.global.connect().await?;
        let mut journal = self.journal(folder)?;
        for (name, model) in &self.args.with {
            if gathered.translators.contains(name) {
                return Err(
                    CommandError::usage(format!("--with: the translator `{name}` is there twice")).into(),
                );
            }
            let model = self.model(&client, model).await?;
            gathered.translators.push(name.clone());
            gathered
                .served
                .push([name.clone(), model.model.clone(), model.digest.clone()]);
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
            let answers = self.answers(&model, name, &prompts, &mut journal).await?;
            for ((key, source), answer) in keys.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        let mut candidate = candidate(key, source, answer.text);
                        candidate
                            .flags
                            .extend(answer.truncated.then_some(Flag::Truncated));
                        gathered.candidates.push(candidate);
                    }
                    Err(error) => {
                        gathered.failures.extend((gathered.failed == 0).then_some(error));
                        gathered.failed += 1;
                    }
                }
            }
        }
        Ok(())
    }

    fn prompt(&self, text: &str, from: Language, to: Language) -> anyhow::Result<String> {
        let rendered = self.template.render(text, from, to);
        rendered.map_err(|error| CommandError::usage(format!("--prompt: {error}")).into())
    }

    async fn answers(
        &self,
        model: &ServedModel<'_>,
        name: &str,
        prompts: &[String],
        journal: &mut Journal<Answer>,
    ) -> anyhow::Result<Vec<Result<Answer, ClientError>>> {
        let bar = progress(name, prompts.len(), self.global.quiet);
        let mut on_answer = |done: usize| bar.set_position(done as u64);
        let concurrency = usize::from(self.args.concurrency);
        let answers = model
            .answer_all(prompts, journal, concurrency, &mut on_answer)
            .await;
        bar.finish_and_clear();
        answers.context("served.jsonl")
    }

    fn imported(&self, imported: import::Texts, gathered: &mut Gathered) -> anyhow::Result<()> {
        let rows: BTreeMap<_, _> = self.task.source.rows.iter().map(|row| (&row.id, row)).collect();
        let mut names = BTreeSet::new();
        for (key, text) in imported {
            let row = rows.get(&key.id).filter(|_| self.task.to.contains(&key.language));
            let Some(source) = row.and_then(|row| row.prompts.get(&self.task.from)) else {
                gathered.ignored += 1;
                continue;
            };
            if self.args.with.iter().any(|(name, _)| *name == key.translator) {
                let message = format!("the translator `{}` is a served one and a file's", key.translator);
                return Err(CommandError::usage(message).into());
            }
            names.insert(key.translator.clone());
            gathered.candidates.push(candidate(key, source, text));
        }
        if gathered.ignored > 0 {
            eprintln!(
                "{} of other prompts or languages and ignored",
                counted(gathered.ignored, "candidate is", "candidates are")
            );
        }
        // As given on the command line, then those that rows name.
        let given = self.args.candidates.iter().filter_map(|(name, _)| name.clone());
        for name in given.chain(names) {
            if !gathered.translators.contains(&name) {
                gathered.translators.push(name);
            }
        }
        Ok(())
    }

    async fn back(
        &self,
        client: &Client,
        model: &str,
        journal: &mut Journal<Answer>,
        gathered: &mut Gathered,
    ) -> anyhow::Result<()> {
        let model = self.model(client, model).await?;
        let candidates: Vec<&mut Candidate> = gathered
            .candidates
            .iter_mut()
            .filter(|candidate| !candidate.flags.contains(&Flag::Empty))
            .collect();
        let prompts = candidates
            .iter()
            .map(|candidate| self.prompt(&candidate.text, candidate.key.language, self.task.from));
        let prompts: Vec<String> = prompts.collect::<Result<_, _>>()?;
        let answers = self.answers(&model, "back", &prompts, journal).await?;
        for (candidate, answer) in candidates.into_iter().zip(answers) {
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
                Err(error) => {
                    gathered.failures.extend((gathered.failed == 0).then_some(error));
                    gathered.failed += 1;
                }
            }
        }
        Ok(())
    }

    /// Chooses, writes and tells.
    fn conclude(&self, gathered: Gathered, folder: &TranslationFolder) -> anyhow::Result<Exit> {
        let (args, task) = (self.args, self.task);
        let rule = args.rule(gathered.translators);
        let candidates = &gathered.candidates;
        let scored = candidates
            .iter()
            .any(|candidate| candidate.scores.contains_key(&Metric::Comet));
        let unscored = matches!(args.select, super::Select::Quality) && !scored;
        let decisions = decide(candidates, task.to, &rule);
        folder.write_candidates(candidates, (!unscored).then_some(decisions.as_slice()))?;
        folder.write_translators(task, candidates)?;
        let written = match unscored {
            false => Some(folder.write_dataset(task, candidates, &decisions)?),
            true => {
                folder.remove("dataset.jsonl")?;
                folder.remove("excluded.jsonl")?;
                None
            }
        };
        let ids: Vec<_> = task.source.rows.iter().map(|row| row.id.clone()).collect();
        let summary = Summary {
            client_version: env!("CARGO_PKG_VERSION"),
            source: DatasetInfo::from(task.source),
            from: task.from,
            to: task.to.to_vec(),
            rule,
            served: gathered.served,
            quality: gathered.quality,
            prompts: ids.len(),
            complete: written.map(|(complete, _)| complete),
            excluded: written.map(|(_, excluded)| excluded),
            failed: gathered.failed,
            ignored_candidates: gathered.ignored,
            translators: summary::by_translator(candidates, &decisions),
            chosen: match unscored {
                false => summary::of_chosen(&ids, task.to, candidates, &decisions),
                true => Vec::new(),
            },
        };
        let value = serde_json::to_value(&summary)?;
        folder.write("summary.json", &(serde_json::to_vec_pretty(&value)?))?;
        self.tell(&summary, &value)?;
        if let Some(error) = gathered.failures.first() {
            let failed = counted(gathered.failed, "request", "requests");
            eprintln!("{failed} failed, the first with: {error}");
            eprintln!("the same command tries them again");
            return Ok(Exit::FailedItems);
        }
        if unscored {
            eprintln!(
                "no candidate has a COMET score, so nothing was chosen. Score {}, and give the file to the same \
                 command with --scores, name a served estimator with --quality, or choose by the translators' order \
                 with --select order",
                folder.file("candidates.jsonl").display()
            );
        }
        Ok(Exit::Done)
    }

    fn tell(&self, summary: &Summary, value: &Value) -> anyhow::Result<()> {
        if self.global.format != Format::Human {
            print_json(self.global.format, value)?;
            return Ok(());
        }
        print_line(&human(summary))?;
        if let (Some(complete), Some(excluded)) = (summary.complete, summary.excluded) {
            print_line(&format!(
                "\n{complete} of {} prompts are in {}; {} a good candidate in some language (excluded.jsonl)",
                summary.prompts,
                self.args.out.join("dataset.jsonl").display(),
                counted(excluded, "lacks", "lack")
            ))?;
        }
        Ok(())
    }
}

fn invalid(error: ImportError) -> CommandError {
    CommandError::invalid_data(error)
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
