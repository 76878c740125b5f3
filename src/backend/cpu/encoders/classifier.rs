//! An encoder with transformers' head for the classification of texts: the row of the first token, a hidden layer, and a logit for
//! each label. The hidden layer has tanh in XLM-R and RoBERTa (`RobertaClassificationHead`) and gelu in DeBERTa (`ContextPooler`).

use serde_json::Value;

use super::{
    bert_encoder::{self, Activations, Encoder, row_bytes},
    dense::Dense,
    info::EncoderInfo,
    relative_positions,
    tensor_reader::{Kept, TensorReader},
};
use crate::{
    backend::cpu::{compute::Compute, kernels::Output},
    model::{
        CONFIG, ClassifierConfig, ClassifierFamily, ConfigError, LoadFault, Positions, Tensors,
        WeightSummary,
        spec::{Pointwise, Precision, TokenKind},
    },
};

/// A resident classifier with its compute threads.
pub(super) struct Classifier {
    compute: Compute,
    encoder: Encoder,
    dense: Dense,
    /// What follows the hidden layer of the head.
    activation: Pointwise,
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
    let config = ClassifierConfig::from_json(json)?;
    let (family, encoder) = (config.family, config.encoder);
    Ok(EncoderInfo {
        architecture: format!("{} classifier", family.name()),
        vocab_size: encoder.vocab,
        window: encoder.window(),
        layers: encoder.layers,
        row_bytes: row_bytes(&encoder),
        derived_bytes: match &encoder.positions {
            Positions::Absolute { .. } => 0,
            Positions::Relative(relative) => relative_positions::derived_bytes(&encoder, relative),
        },
    })
}

/// What the names of XLM-R's and RoBERTa's tensors begin with.
const ROBERTA: &str = "roberta.";

/// What the names of DeBERTa's tensors begin with.
const DEBERTA: &str = "deberta.";

/// What the names of the encoder's tensors go on with.
const ENCODER: [&str; 2] = ["encoder.", "embeddings."];

/// What the names of the heads' tensors begin with. XLM-R and RoBERTa may have a pooler, which the head does not read; it is named
/// otherwise.
const HEADS: [&str; 2] = ["classifier.", "pooler."];

/// The name of an encoder's tensor without what all of them begin with; `None` for others.
fn of_encoder(tensor: &str) -> Option<&str> {
    let prefixes = [ROBERTA, DEBERTA].into_iter();
    let name = prefixes.filter_map(|prefix| tensor.strip_prefix(prefix)).next()?;
    ENCODER.iter().any(|part| name.starts_with(part)).then_some(name)
}

/// Whether a model must use the tensor.
fn is_part(tensor: &str) -> bool {
    // Some checkpoints of DeBERTa have the positions of its training, which nothing reads.
    let unread = "deberta.embeddings.position_embeddings.";
    let of_head = HEADS.iter().any(|head| tensor.starts_with(head));
    (of_head || of_encoder(tensor).is_some())
        && !tensor.starts_with(unread)
        && bert_encoder::kept(tensor) != Kept::Nothing
}

/// What the model keeps of a tensor in memory.
pub(super) fn kept(tensor: &str) -> Kept {
    let deberta = tensor.strip_prefix(DEBERTA);
    match is_part(tensor) && !deberta.is_some_and(relative_positions::is_source) {
        true => bert_encoder::kept(tensor),
        false => Kept::Nothing,
    }
}

/// The names of what a family's head consists of.
struct HeadNames {
    encoder: &'static str,
    dense: &'static str,
    activation: Pointwise,
    labels: &'static str,
}

impl HeadNames {
    fn of(family: ClassifierFamily) -> Self {
        match family {
            ClassifierFamily::XlmRoberta | ClassifierFamily::Roberta => Self {
                encoder: ROBERTA,
                dense: "classifier.dense",
                activation: Pointwise::Tanh,
                labels: "classifier.out_proj",
            },
            ClassifierFamily::Deberta => Self {
                encoder: DEBERTA,
                dense: "pooler.dense",
                activation: Pointwise::Gelu,
                labels: "classifier",
            },
        }
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
        let names = HeadNames::of(config.family);
        let mut reader = TensorReader::new(tensors, &mut compute, precision.products(TokenKind::Prompt));
        let encoder = Encoder::read(&mut reader, &config.encoder, names.encoder)?;
        let dense = Dense::read(&mut reader, names.dense, hidden, hidden)?;
        let labels = Dense::read(&mut reader, names.labels, config.labels.len(), hidden)?;
        let summary = reader.finish(is_part)?;
        let model = Self {
            compute,
            encoder,
            dense,
            activation: names.activation,
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
            activation,
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
        activation.apply(compute, &mut between);
        labels.apply(compute, &between, &mut logits, Output::Replace);
        let width = logits.len() / sequences.len().max(1);
        logits.chunks(width.max(1)).map(<[f32]>::to_vec).collect()
    }
}
