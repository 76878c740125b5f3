//! Writes a prompt set as JSON lines, one prompt in one language per line.

use std::io;

use serde::Serialize;
use unicode_normalization::UnicodeNormalization as _;

use super::{Dataset, PromptId, Strata};
use crate::bench::taxonomy::{Category, Language};

#[derive(Serialize)]
struct LongRow<'a> {
    id: &'a PromptId,
    language: Language,
    category: Category,
    prompt: &'a str,
    #[serde(flatten)]
    strata: Strata,
}

/// Writes a set as long rows in the order of the set, and each prompt's languages in the order of tables. [`Dataset::parse`] reads
/// them back.
///
/// # Errors
/// Errors of the writer.
pub fn write_long(dataset: &Dataset, out: &mut dyn io::Write) -> io::Result<()> {
    for row in &dataset.rows {
        for (&language, prompt) in &row.prompts {
            let long = LongRow {
                id: &row.id,
                language,
                category: row.category,
                prompt,
                strata: row.strata(language),
            };
            serde_json::to_writer(&mut *out, &long)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

impl Dataset {
    /// The same set with all texts in Unicode's normal form C.
    #[must_use]
    pub fn into_nfc(mut self) -> Self {
        for prompt in self.rows.iter_mut().flat_map(|row| row.prompts.values_mut()) {
            *prompt = prompt.nfc().collect();
        }
        self
    }
}
