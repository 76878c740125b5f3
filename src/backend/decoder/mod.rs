//! The forward pass of all families of decoders, over packed, ragged batches. It follows a [`ModelConfig`], knows no family,
//! and computes with the operations of a device ([`ops`]).

pub(super) mod adapters;
pub(super) mod footprint;
#[cfg(any(feature = "cuda", feature = "candle"))]
pub(super) mod kind;
mod layer;
mod loader;
pub(super) mod ops;

use self::{
    layer::{Activations, Layer},
    loader::Loader,
    ops::{DecoderOps, Embedding, LogitScaling, Output, RowSet},
};
use super::{ForwardBatch, GeneratedTokens, LanguageModel, ModelLimits, Readout, StepError, StepOutput};
use crate::model::{Tensor, TensorError, WeightSource, WeightSummary, spec::ModelConfig};

/// A resident decoder.
pub(super) struct Decoder<O: DecoderOps> {
    limits: ModelLimits,
    ops: O,
    embedding: O::Linear,
    embedding_scale: f32,
    /// Embeddings of positions, in models with learned positions.
    positions: Option<O::Linear>,
    layers: Vec<Layer<O>>,
    head: Head<O>,
    activations: Activations<O>,
    /// Whether a step is under way.
    submitted: bool,
}

/// What makes logits of the residual stream: one for each token of the vocabulary, or, in a model with
/// [verdict heads](crate::model::VerdictHeads), the rows that those read.
struct Head<O: DecoderOps> {
    norm: O::Norm,
    /// `None` when the output layer is the embedding.
    output: Option<O::Linear>,
    scaling: LogitScaling,
}

impl<O: DecoderOps> Decoder<O> {
    /// Loads all weights.
    ///
    /// # Errors
    /// When a tensor is missing or wrong, or the model has one that is not part of it; names the tensor.
    pub(super) fn load(
        config: &ModelConfig,
        source: &dyn WeightSource,
        mut ops: O,
        limits: ModelLimits,
    ) -> Result<(Self, WeightSummary), TensorError> {
        let sizes = config.sizes;
        let mut loader = Loader::new(config, &mut ops, source);
        let mut layers = Vec::with_capacity(config.layers.len());
        for index in 0..config.layers.len() {
            layers.push(Layer::load(&mut loader, index)?);
        }
        let embedding = loader.table(Tensor::Embedding, sizes.vocab, sizes.hidden)?;
        let output = match &config.verdict_heads {
            Some(heads) => Some(loader.verdict_rows(heads.inner)?),
            None if config.tied_embeddings => None,
            None => Some(loader.linear(Tensor::Output, sizes.vocab, sizes.hidden)?),
        };
        let norm = loader.norm(Tensor::OutputNorm, Tensor::OutputNormBias)?;
        let positions = config.learned_positions.then(|| loader.positions()).transpose()?;
        let parameters = loader.finish()?;
        let summary = parameters.summary(ops.weight_bytes());
        let decoder = Self {
            limits,
            ops,
            embedding,
            embedding_scale: config.embedding_scale,
            positions,
            layers,
            head: Head {
                norm,
                output,
                scaling: LogitScaling {
                    scale: config.logit_scale,
                    soft_cap: config.logit_soft_cap,
                },
            },
            activations: Activations::default(),
            submitted: false,
        };
        Ok((decoder, summary))
    }

    /// Bytes of the KV pool, including blocks that were never used and so take no memory yet.
    pub(super) fn kv_bytes(&self) -> u64 {
        self.ops.kv_bytes()
    }
}

impl<O: DecoderOps> Decoder<O> {
    /// The device's operations and state.
    #[cfg(feature = "cuda")]
    pub(super) fn ops_mut(&mut self) -> &mut O {
        &mut self.ops
    }

    /// Calls the operations of a step, in which some rows are read or none.
    fn compute(&mut self, step: &O::Step<'_>, is_read: bool) {
        let (ops, a) = (&mut self.ops, &mut self.activations);
        let tables = Embedding {
            tokens: &self.embedding,
            scale: self.embedding_scale,
            positions: self.positions.as_ref(),
        };
        ops.embed(step, tables, &mut a.hidden);
        let Some((last, others)) = self.layers.split_last() else {
            return;
        };
        for layer in others {
            layer.store(ops, step, a);
            layer.run(ops, step, RowSet::All, a);
        }
        // The last layer has to write the keys and values of all rows to the cache, but computes the rest only for rows
        // that are read.
        last.store(ops, step, a);
        if !is_read {
            return;
        }
        a.keep_read_rows(ops, step);
        last.run(ops, step, RowSet::Read, a);
        ops.norm(&self.head.norm, &a.hidden, &mut a.normed, Output::Replace);
        let weights = self.head.output.as_ref().unwrap_or(&self.embedding);
        ops.read_logits(step, weights, &a.normed, self.head.scaling);
    }
}

impl<O: DecoderOps> LanguageModel for Decoder<O> {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn generated_tokens(&self) -> GeneratedTokens {
        self.ops.generated_tokens()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        self.submitted = false;
        batch.check(&self.limits, self.ops.adapters())?;
        if batch.sequences.iter().any(|s| s.readout == Readout::Score) {
            return Err(StepError::InvalidBatch(
                "a score was asked for, and decoders have logits only".into(),
            ));
        }
        let step = self.ops.begin(batch, output);
        self.compute(&step, batch.sequences.iter().any(|s| s.readout != Readout::None));
        self.ops.launch(&step);
        self.submitted = true;
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        match std::mem::take(&mut self.submitted) {
            true => self.ops.finish(),
            false => Err(StepError::NotSubmitted),
        }
    }
}
