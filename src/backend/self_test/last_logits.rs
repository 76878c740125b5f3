//! Computes a step and returns what it reads.

use crate::backend::{ForwardBatch, LanguageModel, Reading, StepOutput};

/// The logits of the last sequence of a batch, which asks for all of them.
pub(super) fn last_logits(model: &mut dyn LanguageModel, batch: &ForwardBatch) -> Result<Vec<f32>, String> {
    let output = model.forward(batch, StepOutput::default());
    let output = output.map_err(|error| error.to_string())?;
    let row = match output.readings.last() {
        Some(Reading::Logits { row }) => output.row(*row, model.limits().vocab_size),
        Some(Reading::Candidates(_) | Reading::Probe(_) | Reading::Score(_) | Reading::NotFinite) | None => {
            None
        }
    };
    let row = row.ok_or("the step returned no logits that are numbers")?;
    Ok(row.to_vec())
}
