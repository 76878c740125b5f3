//! Draws answers of a run for people to label.

use std::{collections::HashMap, path::Path};

use super::{
    error::LabelError,
    key::SampleKey,
    sheet::{self, SampledAnswer},
};
use crate::{
    bench::{
        analysis::LoadedRun,
        report::texts,
        results::RunFolder,
        scores::validation::{draw, item_name},
        taxonomy::Category,
    },
    files,
};

/// What to draw, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct SampleOptions<'a> {
    /// How many answers to draw.
    pub answers: usize,
    /// Categories that get more than their share of the sample.
    pub hard: &'a [Category],
    /// How many people label; each gets a sheet.
    pub annotators: u8,
    /// Seed of the draw.
    pub seed: u64,
}

/// Draws a sample of a run's answers and writes it into a new folder, with a sheet for each person. The verdicts are left out.
/// Returns how many answers were drawn: fewer than asked for where the run has not as many.
///
/// # Errors
/// [`LabelError`].
pub fn draw_sample(run: &Path, out: &Path, options: SampleOptions<'_>) -> Result<usize, LabelError> {
    let LoadedRun { folder, table, .. } = LoadedRun::read(run).map_err(LabelError::Run)?;
    let sample = draw(&table, options.hard, options.answers, options.seed);
    let drawn = &sample.drawn;
    if drawn.is_empty() {
        return Err(LabelError::NothingToDraw);
    }
    // By the answer's index in the results, its index in the sample.
    let order: HashMap<usize, usize> = drawn
        .iter()
        .enumerate()
        .map(|(index, drawn)| (drawn.item, index))
        .collect();
    let prompts = texts::prompts(&folder);
    let mut answers: Vec<Option<SampledAnswer>> = vec![None; drawn.len()];
    let mut key = SampleKey::new(&sample.strata);
    for (index, record) in folder.records().map_err(LabelError::Run)?.enumerate() {
        let record = record.map_err(LabelError::Run)?;
        let Some(&index) = order.get(&index) else {
            continue;
        };
        let answer = record.answer().and_then(|answer| answer.text.clone());
        let prompt = prompts.get(&(record.id.to_string(), record.language));
        let name = item_name(&record);
        answers[index] = Some(SampledAnswer {
            item: name.clone(),
            language: record.language,
            category: record.category,
            prompt: prompt.cloned().unwrap_or_default(),
            answer: answer.unwrap_or_default(),
        });
        key.insert(drawn[index].stratum, name);
    }
    // Only an empty folder is written into: the labels in the sheets of an older sample are never overwritten.
    RunFolder::create(out).map_err(LabelError::Out)?;
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        files::write_whole(&path, text.as_bytes()).map_err(|source| LabelError::Io { path, source })
    };
    let answers: Vec<SampledAnswer> = answers.into_iter().flatten().collect();
    write(sheet::SAMPLE, &sheet::sample_lines(&answers)?)?;
    let text = sheet::csv(&answers, &HashMap::new());
    for annotator in 1..=options.annotators {
        write(&format!("annotator-{annotator}.csv"), &text)?;
    }
    write("key.json", &(serde_json::to_string_pretty(&key)? + "\n"))?;
    Ok(drawn.len())
}
