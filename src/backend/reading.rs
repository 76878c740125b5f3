//! What a readout asks for of a row of logits that is in the host's memory.

use super::{
    batch::Readout,
    output::{ProbeReading, Reading},
    row::{argmax, log_sum_exp, logprob, row_max},
};

/// What `readout` asks for of the row `logits`, which is row `row` of the step's logits; `None` when it asks for nothing.
///
/// A row of logits has no score: for [`Readout::Score`] it is [`Reading::NotFinite`]. Models that compute logits refuse
/// batches with such readouts.
pub fn read_row(readout: &Readout, row: usize, logits: &[f32]) -> Option<Reading> {
    match readout {
        Readout::None => None,
        // The sampler checks the row before it samples from it.
        Readout::Logits | Readout::Candidates { .. } => Some(Reading::Logits { row }),
        Readout::Score => Some(Reading::NotFinite),
        Readout::Probe { tokens } => Some(match row_max(logits) {
            None => Reading::NotFinite,
            Some(max) => {
                let log_probabilities = match tokens.is_empty() {
                    true => Vec::new(),
                    false => {
                        let log_sum_exp = log_sum_exp(logits, max);
                        let tokens = tokens.iter();
                        tokens.map(|&token| logprob(logits, log_sum_exp, token)).collect()
                    }
                };
                Reading::Probe(ProbeReading {
                    most_likely: argmax(logits, max),
                    log_probabilities,
                })
            }
        }),
    }
}
