//! A step's batch as the tensors that its operations need.

use candle_core::{Device, Tensor};

use super::{
    attention::{AttentionPiece, RowSpan, pieces_of},
    indices::indices,
    kv_cache::BLOCK_TOKENS,
    rotation::StepAngles,
};
use crate::{
    backend::{BatchSequence, ForwardBatch, Readout, decoder::ops::RowSet},
    model::spec::{ModelConfig, Rotation},
};

/// The rows of a step, and the batch that they come from.
pub(super) struct CandleStep<'a> {
    pub batch: &'a ForwardBatch,
    /// `None` where the device failed when the step began; the fault is kept.
    pub tensors: Option<StepTensors>,
}

/// The tensors that a step's operations share.
pub(super) struct StepTensors {
    /// Token of each row.
    pub tokens: Tensor,
    /// Position of each row.
    pub positions: Tensor,
    /// Slot of the KV pool of each row, once for each value of its keys.
    pub slots: Tensor,
    global: StepAngles,
    local: Option<StepAngles>,
    /// Indices of the rows that are read among all rows; `None` where all are read.
    pub read_rows: Option<Tensor>,
    adapted: Vec<AdaptedRows>,
    read_adapted: Vec<AdaptedRows>,
    plans: Vec<AttentionPlan>,
}

/// The rows of one adapter.
pub(super) struct AdaptedRows {
    /// Index of the adapter.
    pub adapter: usize,
    /// Indices of the rows.
    pub rows: Tensor,
}

/// How rows attend in the layers that have this window.
struct AttentionPlan {
    rows: RowSet,
    window: Option<usize>,
    pieces: Vec<AttentionPiece>,
}

impl CandleStep<'_> {
    /// The tensors of the step.
    pub(super) fn tensors(&self) -> candle_core::Result<&StepTensors> {
        let missing = || candle_core::Error::Msg("the step did not begin".to_owned());
        self.tensors.as_ref().ok_or_else(missing)
    }
}

impl StepTensors {
    /// Brings what the operations need of a batch to the device.
    pub(super) fn new(
        config: &ModelConfig,
        batch: &ForwardBatch,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let rows: Vec<(&BatchSequence, usize)> = batch
            .sequences
            .iter()
            .flat_map(|sequence| (0..sequence.new_tokens).map(move |new| (sequence, sequence.context + new)))
            .collect();
        let positions: Vec<usize> = rows.iter().map(|(_, position)| *position).collect();
        let mut slots = Vec::with_capacity(rows.len());
        for (sequence, position) in &rows {
            slots.push(slot(sequence, *position)?);
        }
        let width = config.sizes.kv_heads * config.sizes.head_dim;
        let slots = indices(&slots, device)?.unsqueeze(1)?;
        let (all, read) = spans(batch);
        let read_rows: Vec<usize> = last_rows(batch).collect();
        let local = config.local_rope.as_ref();
        Ok(Self {
            tokens: Tensor::from_slice(&batch.tokens, batch.tokens.len(), device)?,
            positions: indices(&positions, device)?,
            slots: slots.expand((rows.len(), width))?.contiguous()?,
            global: StepAngles::new(&config.rope, &positions, device)?,
            local: local
                .map(|rope| StepAngles::new(rope, &positions, device))
                .transpose()?,
            read_rows: match read_rows.len() == rows.len() {
                true => None,
                false => Some(indices(&read_rows, device)?),
            },
            adapted: adapted(&all, device)?,
            read_adapted: adapted(&read, device)?,
            plans: plans(config, [&all, &read], device)?,
        })
    }

    /// The angles for layers with this rotation; `None` for those that rotate nothing.
    pub(super) fn angles(&self, rotation: Rotation) -> Option<&StepAngles> {
        match rotation {
            Rotation::None => None,
            Rotation::Global => Some(&self.global),
            Rotation::Local => Some(self.local.as_ref().unwrap_or(&self.global)),
        }
    }

    /// The rows of each adapter.
    pub(super) fn adapted(&self, rows: RowSet) -> &[AdaptedRows] {
        match rows {
            RowSet::All => &self.adapted,
            RowSet::Read => &self.read_adapted,
        }
    }

    /// How these rows attend in layers with this window.
    pub(super) fn attention(
        &self,
        rows: RowSet,
        window: Option<usize>,
    ) -> candle_core::Result<&[AttentionPiece]> {
        let plan = self
            .plans
            .iter()
            .find(|plan| plan.rows == rows && plan.window == window);
        match plan {
            Some(plan) => Ok(&plan.pieces),
            None => candle_core::bail!("no layer has a window of {window:?} tokens"),
        }
    }
}

/// Where the keys and values of a sequence's token are stored.
fn slot(sequence: &BatchSequence, position: usize) -> candle_core::Result<usize> {
    match sequence.block_table.get(position / BLOCK_TOKENS) {
        Some(&block) => Ok(block as usize * BLOCK_TOKENS + position % BLOCK_TOKENS),
        None => candle_core::bail!("position {position} has no KV block"),
    }
}

/// The row of the last new token of each sequence that is read.
fn last_rows(batch: &ForwardBatch) -> impl Iterator<Item = usize> {
    let mut end = 0;
    batch.sequences.iter().filter_map(move |sequence| {
        end += sequence.new_tokens;
        (sequence.readout != Readout::None).then(|| end - 1)
    })
}

/// The rows of each sequence, among all rows and among those that are read.
fn spans(batch: &ForwardBatch) -> (Vec<RowSpan<'_>>, Vec<RowSpan<'_>>) {
    let (mut all, mut read) = (Vec::new(), Vec::new());
    let mut first_row = 0;
    for sequence in &batch.sequences {
        let span = RowSpan {
            sequence,
            first_row,
            rows: sequence.new_tokens,
            position: sequence.context,
        };
        first_row += sequence.new_tokens;
        if sequence.readout != Readout::None {
            read.push(RowSpan {
                first_row: read.len(),
                rows: 1,
                position: sequence.context + sequence.new_tokens - 1,
                ..span
            });
        }
        all.push(span);
    }
    (all, read)
}

fn adapted(spans: &[RowSpan<'_>], device: &Device) -> candle_core::Result<Vec<AdaptedRows>> {
    let mut groups: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for span in spans {
        if let Some(adapter) = span.sequence.adapter {
            let rows = groups.entry(adapter.0).or_default();
            rows.extend(span.first_row..span.first_row + span.rows);
        }
    }
    let group = |(adapter, rows): (usize, Vec<usize>)| {
        Ok(AdaptedRows {
            adapter,
            rows: indices(&rows, device)?,
        })
    };
    groups.into_iter().map(group).collect()
}

/// Plans for all rows and each window that layers have, and for the rows that are read in the last layer, which alone
/// computes those by themselves.
fn plans(
    config: &ModelConfig,
    [all, read]: [&[RowSpan<'_>]; 2],
    device: &Device,
) -> candle_core::Result<Vec<AttentionPlan>> {
    let heads = config.sizes.heads;
    let mut plans: Vec<AttentionPlan> = Vec::new();
    for layer in &config.layers {
        if plans.iter().all(|plan| plan.window != layer.window) {
            plans.push(AttentionPlan {
                rows: RowSet::All,
                window: layer.window,
                pieces: pieces_of(all, layer.window, heads, device)?,
            });
        }
    }
    if let Some(last) = config.layers.last() {
        plans.push(AttentionPlan {
            rows: RowSet::Read,
            window: last.window,
            pieces: pieces_of(read, last.window, heads, device)?,
        });
    }
    Ok(plans)
}
