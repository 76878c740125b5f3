//! What a step returns.

/// What a step read, for the sequences whose [`Readout`](super::Readout) is not `None`. It is given to each step and
/// comes back with its results, so that its buffers are allocated once.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// Rows of logits, `[rows, vocabulary]`. Not every row has to be one that a sequence asked for.
    pub logits: Vec<f32>,
    /// One for each sequence that asked for something, in the order of the batch.
    pub readings: Vec<Reading>,
}

/// What was read of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Row `row` of [`StepOutput::logits`].
    Logits {
        /// Index of the row.
        row: usize,
    },
    /// What a probe asked for.
    Probe(ProbeReading),
    /// The sequence's score.
    Score(f32),
    /// Nothing can be read from the row: it has a value that is not a number or positive infinity, or all of it is
    /// negative infinity.
    NotFinite,
}

/// The distribution after a sequence, as far as a probe asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReading {
    /// The most likely token, the lowest id where several are.
    pub most_likely: u32,
    /// Natural log-probabilities over the whole vocabulary, in the order of the probe's tokens.
    pub log_probabilities: Vec<f64>,
}

impl StepOutput {
    /// Forgets what an earlier step read, and keeps the buffers.
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
