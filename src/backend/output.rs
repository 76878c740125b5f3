//! The output of a step.

use super::candidates::Candidates;

/// What a step read for the sequences whose [`Readout`](super::Readout) is not `None`. It is passed to each step and
/// returned with the results, so that its buffers are allocated once.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// Rows of logits, `[rows, vocabulary]`. [`Reading::Logits`] says which row is which sequence's; a device may leave
    /// other rows there.
    pub logits: Vec<f32>,
    /// One reading for each sequence whose readout is not `None`, in the order of the batch.
    pub readings: Vec<Reading>,
}

/// What was read from one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Row `row` of [`StepOutput::logits`].
    Logits {
        /// Index of the row.
        row: usize,
    },
    /// What [`Readout::Candidates`](super::Readout::Candidates) asks for.
    Candidates(Candidates),
    /// What [`Readout::Probe`](super::Readout::Probe) asks for.
    Probe(ProbeReading),
    /// The score of the sequence.
    Score(f32),
    /// Nothing can be read from the row, because it has a NaN or a positive infinity, or has nothing but negative
    /// infinities.
    NotFinite,
}

/// The part of the distribution of the next token that a probe asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReading {
    /// The most likely token; the lowest id where several are equally likely.
    pub most_likely: u32,
    /// Natural log-probabilities over the whole vocabulary, in the order of the probe's tokens.
    pub log_probabilities: Vec<f64>,
}

impl StepOutput {
    /// Removes what an earlier step read, and keeps the buffers.
    pub fn clear(&mut self) {
        self.logits.clear();
        self.readings.clear();
    }

    /// Row `row` of the logits, `width` wide; `None` when there is no such row.
    pub fn row(&self, row: usize, width: usize) -> Option<&[f32]> {
        let start = row.checked_mul(width)?;
        self.logits.get(start..start.checked_add(width)?)
    }
}
