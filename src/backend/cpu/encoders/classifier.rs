//! XLM-R with transformers' head for the classification of texts: the row of the first token, a hidden layer with tanh, and a
//! logit for each label (`XLMRobertaClassificationHead`).

use serde_json::Value;

use super::{
    info::EncoderInfo,
    tensor_reader::{Kept, TensorReader},
    xlm_roberta::{self, Activations, Dense, Encoder, row_bytes},
};
use crate::{
    backend::cpu::{compute::Compute, kernels::Output},
    model::{
        CONFIG, ClassifierConfig, ConfigError, LoadFault, Tensors, WeightSummary,
        spec::{Pointwise, Precision},
    },
};

/// A resident classifier with its compute threads.
pub(super) struct Classifier {
    compute: Compute,
    encoder: Encoder,
    dense: Dense,
    labels: Dense,
    /// Width of the encoder's rows.
    hidden: usize,
    /// Number of the encoder's layers.
    layers: usize,
    activations: Activations,
}

/// The sizes that the configuration says.
///
/// # Errors
/// When no model can be made of it; names the key.
pub(super) fn info(json: &Value) -> Result<EncoderInfo, ConfigError> {
    let ClassifierConfig { encoder, .. } = ClassifierConfig::from_json(json)?;
    Ok(EncoderInfo {
        architecture: "xlm-roberta classifier".to_owned(),
        vocab_size: encoder.vocab,
        window: encoder.window(),
        layers: encoder.layers,
        row_bytes: row_bytes(&encoder),
    })
}

/// What the names of the encoder's tensors begin with.
const ENCODER: &str = "roberta.";

/// What the names of tensors begin with that a model must use. Some checkpoints have a pooler, which the head does not read.
const PARTS: [&str; 3] = ["roberta.encoder.", "roberta.embeddings.", "classifier."];

fn is_part(tensor: &str) -> bool {
    kept(tensor) != Kept::Nothing
}

/// What the model keeps of a tensor in memory.
pub(super) fn kept(tensor: &str) -> Kept {
    match PARTS.iter().any(|part| tensor.starts_with(part)) {
        true => xlm_roberta::kept(tensor),
        false => Kept::Nothing,
    }
}

impl Classifier {
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
        let config = ClassifierConfig::from_json(json).map_err(|error| error.of(CONFIG))?;
        let hidden = config.encoder.hidden;
        let mut reader = TensorReader::new(tensors, &mut compute.pool, precision.products());
        let encoder = Encoder::read(&mut reader, &config.encoder, ENCODER)?;
        let dense = Dense::read(&mut reader, "classifier.dense", hidden, hidden)?;
        let labels = Dense::read(&mut reader, "classifier.out_proj", config.labels.len(), hidden)?;
        let summary = reader.finish(is_part)?;
        let model = Self {
            compute,
            encoder,
            dense,
            labels,
            hidden,
            layers: config.encoder.layers,
            activations: Activations::default(),
        };
        Ok((model, summary))
    }

    /// The logits of the labels for each sequence of tokens. Each sequence has at least one token and is no longer than the
    /// window, and its tokens are in the vocabulary.
    pub(super) fn logits(&mut self, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
        let Self {
            compute,
            encoder,
            dense,
            labels,
            hidden,
            layers,
            activations,
        } = self;
        let mut first = Vec::with_capacity(sequences.len() * *hidden);
        encoder.run(compute, sequences, activations, |layer, rows, spans| {
            if layer == *layers {
                for span in spans {
                    first.extend_from_slice(&rows[span.start * *hidden..][..*hidden]);
                }
            }
        });
        let (mut between, mut logits) = (Vec::new(), Vec::new());
        dense.apply(compute, &first, &mut between, Output::Replace);
        Pointwise::Tanh.apply(compute, &mut between);
        labels.apply(compute, &between, &mut logits, Output::Replace);
        let width = logits.len() / sequences.len().max(1);
        logits.chunks(width.max(1)).map(<[f32]>::to_vec).collect()
    }
}
