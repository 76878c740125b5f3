//! Reading the results of a step: what each sequence asks for of its row of logits, and no more.

use std::sync::Arc;

use super::{
    arguments::{ReadLogitsArgs, RowReading},
    buffer::{Buffer, HostBuffer},
    driver::{DeviceAddress, DriverError, LaunchSize, PRODUCT_ROWS, Queue},
    inputs::{StepInputs, probe_tokens},
    kernels::Kernel,
    launch_sizes::rows_of,
    launcher::{HostRange, Launcher},
    scratch_sizes::ScratchSizes,
};
use crate::backend::{ForwardBatch, ProbeReading, Reading, Readout, StepOutput, decoder::ops::LogitScaling};

/// Threads of a block that reads a row of logits.
pub(super) const READ_THREADS: u32 = 512;

/// What a step reads, and where.
pub(super) struct StepReadout {
    logits: Buffer,
    readings: Buffer,
    probe_logits: Buffer,
    host_readings: HostBuffer,
    host_probe_logits: HostBuffer,
    /// Rows of logits; allocated when some are wanted for the first time.
    host_logits: Option<HostBuffer>,
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
            host_readings: HostBuffer::new(queue, sizes.readings)?,
            host_probe_logits: HostBuffer::new(queue, sizes.probe_logits)?,
            host_logits: None,
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
        let size = LaunchSize {
            threads: READ_THREADS,
            ..rows_of(rows)
        };
        launcher.launch(Kernel::ReadLogits, size, &argument);
    }

    /// Copies what the step reads to the host: of `reads` rows with `probe_tokens` tokens of probes.
    pub(super) fn download(&mut self, launcher: &mut Launcher, reads: usize, probe_tokens: usize) {
        let readings = HostRange {
            buffer: &mut self.host_readings,
            offset: 0,
            bytes: reads * size_of::<RowReading>(),
        };
        launcher.download(readings, &self.readings, 0);
        let probe_logits = HostRange {
            buffer: &mut self.host_probe_logits,
            offset: 0,
            bytes: probe_tokens * size_of::<f32>(),
        };
        launcher.download(probe_logits, &self.probe_logits, 0);
        let row_bytes = self.vocab * size_of::<f32>();
        let wanted = self
            .readouts
            .iter()
            .filter(|readout| **readout == Readout::Logits)
            .count();
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
        let rows = self.readouts.iter().enumerate();
        let rows = rows.filter(|(_, readout)| **readout == Readout::Logits);
        for (to, (row, _)) in rows.enumerate() {
            let range = HostRange {
                buffer: &mut *host,
                offset: to * row_bytes,
                bytes: row_bytes,
            };
            launcher.download(range, &self.logits, row * row_bytes);
        }
    }

    /// Fills the step's output with what was copied to the host.
    pub(super) fn read(&self, output: &mut StepOutput) {
        let readings = self.host_readings.part::<RowReading>(0, self.readouts.len());
        let mut probe = 0;
        let mut rows = 0;
        for (asked, found) in self.readouts.iter().zip(readings) {
            let tokens = probe_tokens(asked).len();
            let logits = self
                .host_probe_logits
                .part::<f32>(probe * size_of::<f32>(), tokens);
            probe += tokens;
            output.readings.push(match asked {
                // The sampler checks the row before it samples from it.
                Readout::Logits => {
                    rows += 1;
                    Reading::Logits { row: rows - 1 }
                }
                Readout::Probe { .. } if found.sound != 0 => Reading::Probe(ProbeReading {
                    most_likely: found.most_likely,
                    log_probabilities: logits
                        .iter()
                        .map(|logit| f64::from(*logit) - found.log_sum_exp)
                        .collect(),
                }),
                Readout::Probe { .. } | Readout::Score | Readout::None => Reading::NotFinite,
            });
        }
        if let Some(host) = &self.host_logits {
            output
                .logits
                .extend_from_slice(host.part::<f32>(0, rows * self.vocab));
        }
    }
}
