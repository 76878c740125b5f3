//! CometKiwi (arXiv 2209.06243): an XLM-R encoder reads translation and source together, and a feed-forward head
//! computes a score from the vector of the sentence. It follows `UnifiedMetric` of unbabel-comet, without references.

mod sentence;

use serde_json::Value;

use self::sentence::Mix;
use super::{
    bert_encoder::{self, Activations, Encoder, row_bytes},
    dense::Dense,
    info::EncoderInfo,
    tensor_reader::{Kept, TensorReader},
};
use crate::{
    backend::cpu::{compute::Compute, kernels::Output},
    model::{
        CONFIG, ConfigError, LoadFault, Tensors, WeightSummary,
        estimator::CometConfig,
        spec::{Pointwise, Precision, TokenKind},
    },
};

/// A resident CometKiwi model with its compute threads.
pub(super) struct CometKiwi {
    compute: Compute,
    encoder: Encoder,
    mix: Mix,
    /// The layers of the regression head, each with the function that follows it.
    head: Vec<(Dense, Option<Pointwise>)>,
    /// Width of the encoder's rows.
    hidden: usize,
    activations: Activations,
}

/// The sizes that the configuration says.
///
/// # Errors
/// When no model can be made of it; names the key.
pub(super) fn info(json: &Value) -> Result<EncoderInfo, ConfigError> {
    let config = CometConfig::from_json(json)?;
    Ok(EncoderInfo {
        architecture: config.architecture().to_owned(),
        vocab_size: config.encoder.vocab,
        window: config.encoder.window(),
        layers: config.encoder.layers,
        row_bytes: row_bytes(&config.encoder),
        derived_bytes: 0,
    })
}

/// What the names of the encoder's tensors begin with.
const ENCODER: &str = "encoder.model.";

/// What the names of tensors begin with that a model must use. Checkpoints have others, of its training.
const PARTS: [&str; 4] = [
    "encoder.model.encoder.",
    "encoder.model.embeddings.",
    "estimator.",
    "layerwise_attention.s",
];

fn is_part(tensor: &str) -> bool {
    PARTS.iter().any(|part| tensor.starts_with(part))
}

/// What the model keeps of a tensor in memory.
pub(super) fn kept(tensor: &str) -> Kept {
    match is_part(tensor) || tensor == "layerwise_attention.gamma" {
        true => bert_encoder::kept(tensor),
        false => Kept::Nothing,
    }
}

impl CometKiwi {
    /// Reads and repacks all weights.
    ///
    /// # Errors
    /// When the configuration or a tensor cannot be used; names the key or tensor.
    pub(super) fn read(
        json: &Value,
        tensors: &Tensors,
        mut compute: Compute,
        precision: Precision,
    ) -> Result<(Self, WeightSummary), LoadFault> {
        let config = CometConfig::from_json(json).map_err(|error| error.of(CONFIG))?;
        let mut reader = TensorReader::new(tensors, &mut compute, precision.products(TokenKind::Prompt));
        let encoder = Encoder::read(&mut reader, &config.encoder, ENCODER)?;
        let mix = Mix::read(&mut reader, config.sentence, &config.encoder)?;
        let mut head = Vec::new();
        let mut inputs = config.encoder.hidden;
        for (index, &outputs) in config.hidden_sizes.iter().enumerate() {
            // In the checkpoint, modules are counted: each layer is followed by its activation and by dropout.
            let layer = Dense::read(
                &mut reader,
                &format!("estimator.ff.{}", 3 * index),
                outputs,
                inputs,
            )?;
            head.push((layer, config.activation));
            inputs = outputs;
        }
        let name = format!("estimator.ff.{}", 3 * config.hidden_sizes.len());
        head.push((
            Dense::read(&mut reader, &name, 1, inputs)?,
            config.final_activation,
        ));
        let summary = reader.finish(is_part)?;
        let model = Self {
            compute,
            encoder,
            mix,
            head,
            hidden: config.encoder.hidden,
            activations: Activations::default(),
        };
        Ok((model, summary))
    }

    /// A score for each sequence of tokens. Each sequence has at least one token and is no longer than the window, and its
    /// tokens are in the vocabulary.
    pub(super) fn score(&mut self, sequences: &[&[u32]]) -> Vec<f32> {
        let Self {
            compute,
            encoder,
            mix,
            head,
            hidden,
            activations,
        } = self;
        let mut vectors = vec![0.0; sequences.len() * *hidden];
        encoder.run(compute, sequences, activations, |layer, rows, spans| {
            mix.add(layer, rows, spans, &mut vectors);
        });
        for (layer, activation) in head {
            let mut out = Vec::new();
            layer.apply(compute, &vectors, &mut out, Output::Replace);
            if let Some(activation) = activation {
                activation.apply(compute, &mut out);
            }
            vectors = out;
        }
        vectors
    }
}
