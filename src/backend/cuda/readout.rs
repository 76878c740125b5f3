//! Reading the results of a step: what each sequence asks for of its row of logits, and no more.

use std::sync::Arc;

use super::{
    arguments::{ReadLogitsArgs, RowReading, TopLogit, TopLogitsArgs},
    buffer::{Buffer, HostBuffer},
    driver::{DeviceAddress, DriverError, PRODUCT_ROWS, Queue},
    inputs::{StepInputs, StepShape, probe_tokens},
    kernels::Kernel,
    launch_sizes::logit_rows,
    launcher::{HostRange, Launcher},
    scratch_sizes::ScratchSizes,
};
use crate::backend::{
    Candidate, CandidateFilter, Candidates, ForwardBatch, MOST_CANDIDATES, ProbeReading, Reading, Readout,
    StepOutput, decoder::ops::LogitScaling,
};

/// What a step reads, and where.
pub(super) struct StepReadout {
    logits: Buffer,
    readings: Buffer,
    probe_logits: Buffer,
    top_logits: Buffer,
    weights: Buffer,
    host_readings: HostBuffer,
    host_probe_logits: HostBuffer,
    host_top_logits: HostBuffer,
    host_weights: HostBuffer,
    /// Rows of logits; allocated when some are wanted for the first time.
    host_logits: Option<HostBuffer>,
    /// Which rows of the step under way these are.
    whole_rows: Vec<usize>,
    /// Of each row, the candidates that it asks for, where they contain all that can be drawn.
    candidates: Vec<Option<Candidates>>,
    /// What the step under way reads, in its order.
    readouts: Vec<Readout>,
    vocab: usize,
    /// Most rows that are read in a step.
    most_rows: usize,
}

impl StepReadout {
    pub(super) fn new(
        queue: &Arc<dyn Queue>,
        sizes: &ScratchSizes,
        vocab: usize,
        most_rows: usize,
    ) -> Result<Self, DriverError> {
        Ok(Self {
            logits: Buffer::new(queue, sizes.logits)?,
            readings: Buffer::new(queue, sizes.readings)?,
            probe_logits: Buffer::new(queue, sizes.probe_logits)?,
            top_logits: Buffer::new(queue, sizes.top_logits)?,
            weights: Buffer::new(queue, sizes.weights)?,
            host_readings: HostBuffer::new(queue, sizes.readings)?,
            host_probe_logits: HostBuffer::new(queue, sizes.probe_logits)?,
            host_top_logits: HostBuffer::new(queue, sizes.top_logits)?,
            host_weights: HostBuffer::new(queue, sizes.weights)?,
            host_logits: None,
            whole_rows: Vec::new(),
            candidates: Vec::new(),
            readouts: Vec::new(),
            vocab,
            most_rows,
        })
    }

    /// Begins a step, which reads what this batch asks for.
    pub(super) fn begin(&mut self, batch: &ForwardBatch) {
        let readouts = batch.sequences.iter().map(|sequence| &sequence.readout);
        self.readouts.clear();
        self.readouts
            .extend(readouts.filter(|readout| **readout != Readout::None).cloned());
    }

    /// Where logits are written.
    pub(super) fn logits(&self) -> DeviceAddress {
        self.logits.address()
    }

    /// Reads the logits of `rows` rows.
    pub(super) fn launch(
        &self,
        launcher: &mut Launcher,
        inputs: &StepInputs,
        rows: usize,
        scaling: LogitScaling,
    ) {
        let argument = ReadLogitsArgs {
            logits: self.logits.address(),
            probes: inputs.probes(),
            probe_tokens: inputs.tail(),
            readings: self.readings.address(),
            probe_logits: self.probe_logits.address(),
            vocab: self.vocab as u32,
            scale: scaling.scale,
            soft_cap: scaling.soft_cap.unwrap_or(0.0),
            padding: 0,
        };
        launcher.launch(Kernel::ReadLogits, logit_rows(rows), &argument);
    }

    /// Reads the largest logits where they are asked for, and copies what the step reads to the host.
    pub(super) fn download(&mut self, launcher: &mut Launcher, inputs: &StepInputs, shape: &StepShape) {
        let readings = HostRange {
            buffer: &mut self.host_readings,
            offset: 0,
            bytes: shape.reads * size_of::<RowReading>(),
        };
        launcher.download(readings, &self.readings, 0);
        let probe_logits = HostRange {
            buffer: &mut self.host_probe_logits,
            offset: 0,
            bytes: shape.probe_tokens * size_of::<f32>(),
        };
        launcher.download(probe_logits, &self.probe_logits, 0);
        if shape.candidates {
            self.read_top_logits(launcher, inputs, shape.reads);
        }
        let readouts = self.readouts.iter().enumerate();
        let whole = readouts.filter(|(_, readout)| **readout == Readout::Logits);
        self.whole_rows.clear();
        self.whole_rows.extend(whole.map(|(row, _)| row));
        self.download_rows(launcher);
    }

    /// Candidates that are read of a row.
    fn top_count(&self) -> usize {
        MOST_CANDIDATES.min(self.vocab)
    }

    fn read_top_logits(&mut self, launcher: &mut Launcher, inputs: &StepInputs, rows: usize) {
        let count = self.top_count();
        let argument = TopLogitsArgs {
            logits: self.logits.address(),
            inverse_temperatures: inputs.inverse_temperatures(),
            top: self.top_logits.address(),
            weights: self.weights.address(),
            vocab: self.vocab as u32,
            count: count as u32,
        };
        launcher.launch(Kernel::TopLogits, logit_rows(rows), &argument);
        let top = HostRange {
            buffer: &mut self.host_top_logits,
            offset: 0,
            bytes: rows * count * size_of::<TopLogit>(),
        };
        launcher.download(top, &self.top_logits, 0);
        let weights = HostRange {
            buffer: &mut self.host_weights,
            offset: 0,
            bytes: rows * size_of::<f64>(),
        };
        launcher.download(weights, &self.weights, 0);
    }

    /// Copies whole rows to the host.
    fn download_rows(&mut self, launcher: &mut Launcher) {
        let row_bytes = self.vocab * size_of::<f32>();
        let wanted = self.whole_rows.len();
        if wanted == 0 {
            return;
        }
        if self
            .host_logits
            .as_ref()
            .is_none_or(|buffer| buffer.bytes() < wanted * row_bytes)
        {
            let rows = wanted.next_multiple_of(PRODUCT_ROWS).min(self.most_rows);
            match HostBuffer::new(launcher.queue(), rows * row_bytes) {
                Ok(buffer) => self.host_logits = Some(buffer),
                Err(error) => return launcher.keep(Err(error)),
            }
        }
        let Some(host) = &mut self.host_logits else {
            return;
        };
        for (to, row) in self.whole_rows.iter().enumerate() {
            let range = HostRange {
                buffer: &mut *host,
                offset: to * row_bytes,
                bytes: row_bytes,
            };
            launcher.download(range, &self.logits, row * row_bytes);
        }
    }

    /// After the step was waited for: copies the rows whose candidates do not contain all that can be drawn.
    pub(super) fn fetch_rows(&mut self, launcher: &mut Launcher) -> Result<(), DriverError> {
        self.candidates.clear();
        let fetched = self.whole_rows.len();
        for row in 0..self.readouts.len() {
            let mut candidates = None;
            if let Readout::Candidates { filter } = self.readouts[row] {
                candidates = self.candidates_of(row, filter);
                if candidates.is_none() {
                    self.whole_rows.push(row);
                }
            }
            self.candidates.push(candidates);
        }
        if self.whole_rows.len() == fetched {
            return Ok(());
        }
        self.download_rows(launcher);
        launcher.wait()
    }

    /// The candidates of a row; `None` where they may not contain all that the filter keeps.
    fn candidates_of(&self, row: usize, filter: Option<CandidateFilter>) -> Option<Candidates> {
        let count = self.top_count();
        let top = self
            .host_top_logits
            .part::<TopLogit>(row * count * size_of::<TopLogit>(), count);
        let candidate = |top: &TopLogit| Candidate {
            id: top.token,
            logit: top.logit,
        };
        let candidates = Candidates {
            tokens: top.iter().map(candidate).collect(),
            log_sum_exp: self.host_readings.part::<RowReading>(0, row + 1)[row].log_sum_exp,
            weight: self.host_weights.part::<f64>(0, row + 1)[row],
        };
        let covers = filter.is_none_or(|filter| filter.is_covered_by(&candidates, self.vocab));
        covers.then_some(candidates)
    }

    /// Fills the step's output with what was copied to the host.
    pub(super) fn read(&mut self, output: &mut StepOutput) {
        let readings = self.host_readings.part::<RowReading>(0, self.readouts.len());
        let mut probe = 0;
        for (row, (asked, found)) in self.readouts.iter().zip(readings).enumerate() {
            let tokens = probe_tokens(asked).len();
            let logits = self
                .host_probe_logits
                .part::<f32>(probe * size_of::<f32>(), tokens);
            probe += tokens;
            let candidates = self.candidates.get_mut(row).and_then(Option::take);
            let whole = self.whole_rows.iter().position(|whole| *whole == row);
            output.readings.push(match (asked, candidates, whole) {
                // The sampler checks the row before it samples from it.
                (Readout::Logits, _, Some(row)) => Reading::Logits { row },
                (Readout::Candidates { .. }, Some(candidates), _) if found.sound != 0 => {
                    Reading::Candidates(candidates)
                }
                (Readout::Candidates { .. }, None, Some(row)) => Reading::Logits { row },
                (Readout::Probe { .. }, ..) if found.sound != 0 => Reading::Probe(ProbeReading {
                    most_likely: found.most_likely,
                    log_probabilities: logits
                        .iter()
                        .map(|logit| f64::from(*logit) - found.log_sum_exp)
                        .collect(),
                }),
                _ => Reading::NotFinite,
            });
        }
        if let Some(host) = &self.host_logits {
            output
                .logits
                .extend_from_slice(host.part::<f32>(0, self.whole_rows.len() * self.vocab));
        }
    }
}
