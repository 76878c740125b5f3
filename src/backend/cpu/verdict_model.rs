//! A decoder with verdict heads: Qwen3Guard-Stream. The decoder's output layer makes the rows that the heads read, and the heads, of
//! some dozen logits, are computed here.
//!
//! To the engine it is a model whose next token is a label, with the indices of [`VerdictHeads::logits`] as tokens. Each head is a
//! distribution of its own.

use std::ops::Range;

use super::ops::CpuOps;
use crate::{
    backend::{
        ForwardBatch, GeneratedTokens, LanguageModel, ModelLimits, ProbeReading, Reading, Readout, StepError,
        StepOutput, argmax, decoder::Decoder, log_sum_exp, logprob, row_max,
    },
    model::{
        HeadTensor, Tensor, TensorError, TensorProblem, WeightSource,
        spec::{HeadSide, ModelConfig, VerdictHeads},
    },
};

/// The heads of one side.
struct SideHeads {
    norm: Vec<f32>,
    /// Risk levels, then categories: `[logits, inner]`.
    weights: Vec<f32>,
    /// Where the logits of its two heads stand in the row of all.
    heads: [Range<usize>; 2],
}

/// The weights of all heads.
pub(super) struct HeadWeights {
    inner: usize,
    eps: f32,
    /// In the order of [`HeadSide::ALL`].
    sides: [SideHeads; 2],
}

impl HeadWeights {
    /// Reads the heads that the configuration describes, beside the matrices that make their rows, which the decoder reads.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape; names the tensor.
    pub(super) fn read(
        config: &ModelConfig,
        heads: &VerdictHeads,
        source: &dyn WeightSource,
    ) -> Result<Self, TensorError> {
        let inner = heads.inner;
        let values = |tensor: Tensor, shape: &[usize]| {
            let data = source
                .tensor(tensor)
                .and_then(|data| data.ok_or(TensorProblem::Missing));
            let values = data.and_then(|data| data.values(shape));
            values.map_err(|problem| problem.of(source.name(tensor)))
        };
        let side = |side: HeadSide| {
            let labels = heads.side(side);
            let (risks, categories) = (labels.risks.len(), labels.categories.len());
            let part = |part: HeadTensor| Tensor::Verdict(side, part);
            let mut weights = values(part(HeadTensor::Risk), &[risks, inner])?;
            weights.extend(values(part(HeadTensor::Category), &[categories, inner])?);
            let logits = heads.logits(side);
            let between = logits.start + risks;
            Ok(SideHeads {
                norm: values(part(HeadTensor::InnerNorm), &[inner])?,
                weights,
                heads: [logits.start..between, between..logits.end],
            })
        };
        let [answer, request] = HeadSide::ALL.map(side);
        Ok(Self {
            inner,
            eps: config.norm_eps,
            sides: [answer?, request?],
        })
    }

    /// Number of weights.
    pub(super) fn values(&self) -> usize {
        let of_side = |side: &SideHeads| side.norm.len() + side.weights.len();
        self.sides.iter().map(of_side).sum()
    }

    /// The logits of all heads for one row of the decoder. All sums run in a fixed order.
    fn logits(&self, row: &[f32]) -> Vec<f32> {
        let mut logits = Vec::new();
        for (side, row) in self.sides.iter().zip(row.chunks_exact(self.inner)) {
            let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let scale = 1.0 / (squares / self.inner as f64 + f64::from(self.eps)).sqrt();
            let normed: Vec<f64> = row
                .iter()
                .zip(&side.norm)
                .map(|(x, weight)| f64::from(*x) * scale * f64::from(*weight))
                .collect();
            let product = |weights: &[f32]| {
                let terms = weights.iter().zip(&normed);
                terms.map(|(weight, x)| f64::from(*weight) * x).sum::<f64>() as f32
            };
            logits.extend(side.weights.chunks_exact(self.inner).map(product));
        }
        logits
    }

    /// The log-probabilities that a probe asks for, each over the logits of its head. The most likely label is that of the head of the
    /// first one.
    fn read_row(&self, tokens: &[u32], row: &[f32]) -> Reading {
        let logits = self.logits(row);
        let heads = || self.sides.iter().flat_map(|side| &side.heads);
        let mut most_likely = None;
        let mut log_probabilities = Vec::with_capacity(tokens.len());
        for &token in tokens {
            let index = token as usize;
            let Some(head) = heads().find(|head| head.contains(&index)) else {
                log_probabilities.push(f64::NEG_INFINITY);
                continue;
            };
            let of_head = &logits[head.clone()];
            let Some(max) = row_max(of_head) else {
                return Reading::NotFinite;
            };
            most_likely.get_or_insert(head.start as u32 + argmax(of_head, max));
            let place = (index - head.start) as u32;
            log_probabilities.push(logprob(of_head, log_sum_exp(of_head, max), place));
        }
        Reading::Probe(ProbeReading {
            most_likely: most_likely.unwrap_or_default(),
            log_probabilities,
        })
    }
}

/// A resident decoder with its heads.
pub(super) struct VerdictModel {
    decoder: Decoder<CpuOps>,
    heads: HeadWeights,
    /// The tokens that each probe of the step under way asks for, in the order of the batch.
    probes: Vec<Vec<u32>>,
}

impl VerdictModel {
    /// `decoder` was loaded with the configuration of the heads.
    pub(super) fn new(decoder: Decoder<CpuOps>, heads: HeadWeights) -> Self {
        Self {
            decoder,
            heads,
            probes: Vec::new(),
        }
    }
}

impl LanguageModel for VerdictModel {
    fn limits(&self) -> &ModelLimits {
        self.decoder.limits()
    }

    fn generated_tokens(&self) -> GeneratedTokens {
        self.decoder.generated_tokens()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        self.probes.clear();
        let mut rows = batch.clone();
        for sequence in &mut rows.sequences {
            match std::mem::take(&mut sequence.readout) {
                Readout::None => {}
                Readout::Probe { tokens } => {
                    self.probes.push(tokens);
                    sequence.readout = Readout::Logits;
                }
                Readout::Logits | Readout::Candidates { .. } | Readout::Score => {
                    return Err(StepError::InvalidBatch(
                        "verdict heads have probabilities of labels only".into(),
                    ));
                }
            }
        }
        self.decoder.submit(&rows, output)
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        let mut output = self.decoder.wait()?;
        let width = 2 * self.heads.inner;
        let readings = output.readings.iter().zip(&self.probes);
        output.readings = readings
            .map(|(reading, tokens)| match reading {
                Reading::Logits { row } => match output.row(*row, width) {
                    Some(row) => self.heads.read_row(tokens, row),
                    None => Reading::NotFinite,
                },
                other => other.clone(),
            })
            .collect();
        output.logits.clear();
        Ok(output)
    }
}
