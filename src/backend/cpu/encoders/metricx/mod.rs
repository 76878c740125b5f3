//! MetricX without a reference (ACL Anthology 2023.wmt-1.63 and 2024.wmt-1.35): an mT5 encoder reads source
//! and translation as one text, and the score is one logit of the decoder's first token. It predicts an MQM error: 0 to
//! 25, lower is better. It follows `MT5ForRegression` of google-research/metricx.

mod layer;

use serde_json::Value;

use self::layer::{Activations, DecoderLayer, EncoderLayer, norm, row_bytes};
use super::{
    info::EncoderInfo,
    tensor_reader::{Kept, TensorReader},
};
use crate::{
    backend::cpu::{
        compute::Compute,
        kernels::{DenseSpan, DistanceBias, Linear, Norm, Output},
    },
    model::{
        CONFIG, ConfigError, LoadFault, Tensors, WeightSummary,
        estimator::MetricXConfig,
        spec::{Precision, TokenKind},
    },
};

/// The token that the decoder begins with, which is the one of padding.
const START_TOKEN: usize = 0;
/// The output projection.
const HEAD: &str = "lm_head.weight";
/// The encoder's biases by distance, which all of its layers use.
const ENCODER_BIASES: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
/// The largest error that a score can be.
const WORST: f32 = 25.0;

/// A resident MetricX model with its compute threads.
pub(super) struct MetricX {
    compute: Compute,
    config: MetricXConfig,
    embedding: Linear,
    encoder: Vec<EncoderLayer>,
    /// The biases of each head for distances up to the window, `[heads, 2 * window - 1]`.
    distance_bias: Vec<f32>,
    encoder_norm: Norm,
    /// The embedding of the decoder's only input.
    start: Vec<f32>,
    decoder: Vec<DecoderLayer>,
    decoder_norm: Norm,
    /// The row of the output projection whose logit is the score.
    head: Vec<f32>,
    /// Buffers of the encoder.
    activations: Activations,
    /// Buffers of the decoder.
    answers: Activations,
    /// The encoder's output, `[rows, hidden]`.
    encoded: Vec<f32>,
}

/// The sizes that the configuration says.
///
/// # Errors
/// When no model can be made of it; names the key.
pub(super) fn info(name: &str, json: &Value) -> Result<EncoderInfo, ConfigError> {
    let config = MetricXConfig::from_json(json)?;
    Ok(EncoderInfo {
        architecture: format!("{name} mt5"),
        vocab_size: config.vocab,
        window: config.window,
        layers: config.encoder_layers + config.decoder_layers,
        row_bytes: row_bytes(&config),
        derived_bytes: 0,
    })
}

/// What the model keeps of a tensor in memory. Of the output projection it keeps one row only, and of the decoder's attention to
/// its only token, the values are enough.
pub(super) fn kept(tensor: &str) -> Kept {
    if tensor == HEAD {
        return Kept::Row;
    }
    if tensor == ENCODER_BIASES {
        return Kept::Values;
    }
    let unread = [
        "SelfAttention.q.weight",
        "SelfAttention.k.weight",
        "relative_attention_bias.weight",
    ];
    let of_decoder =
        tensor.starts_with("decoder.block.") && !unread.iter().any(|part| tensor.ends_with(part));
    let whole = of_decoder
        || tensor.starts_with("encoder.block.")
        || [
            "shared.weight",
            "encoder.final_layer_norm.weight",
            "decoder.final_layer_norm.weight",
        ]
        .contains(&tensor);
    if whole { Kept::Whole } else { Kept::Nothing }
}

impl MetricX {
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
        let config = MetricXConfig::from_json(json).map_err(|error| error.of(CONFIG))?;
        let mut reader = TensorReader::new(tensors, &mut compute, precision.products(TokenKind::Prompt));
        let encoder = (0..config.encoder_layers).map(|index| EncoderLayer::read(&mut reader, &config, index));
        let encoder = encoder.collect::<Result<_, _>>()?;
        let decoder = (0..config.decoder_layers).map(|index| DecoderLayer::read(&mut reader, &config, index));
        let decoder = decoder.collect::<Result<_, _>>()?;
        let biases = reader.values(ENCODER_BIASES, &[config.buckets.count, config.heads])?;
        let embedding = reader.matrix("shared.weight", config.vocab, config.hidden)?;
        let mut start = vec![0.0; config.hidden];
        embedding.read_row(START_TOKEN, &mut start);
        let encoder_norm = norm(&mut reader, &config, "encoder.final_layer_norm")?;
        let decoder_norm = norm(&mut reader, &config, "decoder.final_layer_norm")?;
        let mut head = reader.row(HEAD, [config.vocab, config.hidden], config.score_token)?;
        if config.rescaled {
            let scale = 1.0 / (config.hidden as f32).sqrt();
            head.iter_mut().for_each(|weight| *weight *= scale);
        }
        let summary = reader.finish(|tensor| kept(tensor) != Kept::Nothing)?;
        let model = Self {
            compute,
            distance_bias: config.buckets.by_distance(&biases, config.heads, config.window),
            config,
            embedding,
            encoder,
            encoder_norm,
            start,
            decoder,
            decoder_norm,
            head,
            activations: Activations::default(),
            answers: Activations::default(),
            encoded: Vec::new(),
        };
        Ok((model, summary))
    }

    /// The predicted error of each sequence of tokens. Each sequence has at least one token and is no longer than the window,
    /// and its tokens are in the vocabulary.
    pub(super) fn score(&mut self, sequences: &[&[u32]]) -> Vec<f32> {
        self.encode(sequences);
        self.decode(sequences);
        let rows = self.answers.normed(&mut self.compute, &self.decoder_norm);
        let logit = |row: &[f32]| {
            row.iter()
                .zip(&self.head)
                .map(|(x, weight)| x * weight)
                .sum::<f32>()
        };
        rows.chunks_exact(self.config.hidden)
            .map(|row| logit(row).clamp(0.0, WORST))
            .collect()
    }

    /// Runs the encoder, whose output is written to `encoded`.
    fn encode(&mut self, sequences: &[&[u32]]) {
        let width = self.config.hidden;
        let a = &mut self.activations;
        a.hidden.resize(
            sequences.iter().map(|tokens| tokens.len()).sum::<usize>() * width,
            0.0,
        );
        let tokens = sequences.iter().copied().flatten();
        for (row, &token) in a.hidden.chunks_exact_mut(width).zip(tokens) {
            self.embedding.read_row(token as usize, row);
        }
        let spans = spans(sequences, |_, keys| keys);
        let bias = DistanceBias {
            values: &self.distance_bias,
            reach: self.config.window,
        };
        for layer in &self.encoder {
            layer.run(&mut self.compute, &spans, bias, a);
        }
        self.encoded.resize(a.hidden.len(), 0.0);
        self.encoder_norm
            .apply(&mut self.compute, &a.hidden, &mut self.encoded, Output::Replace);
    }

    /// Runs the decoder for the first token of each sequence.
    fn decode(&mut self, sequences: &[&[u32]]) {
        let a = &mut self.answers;
        a.hidden.clear();
        for _ in sequences {
            a.hidden.extend_from_slice(&self.start);
        }
        let spans = spans(sequences, |index, _| index..index + 1);
        for layer in &self.decoder {
            layer.run(&mut self.compute, &self.encoded, &spans, a);
        }
    }
}

/// The span of each sequence: its rows as keys, and the rows that `queries` makes of its index and those.
fn spans(
    sequences: &[&[u32]],
    queries: impl Fn(usize, std::ops::Range<usize>) -> std::ops::Range<usize>,
) -> Vec<DenseSpan> {
    let mut start = 0;
    let span = |(index, tokens): (usize, &&[u32])| {
        let keys = start..start + tokens.len();
        start = keys.end;
        DenseSpan {
            queries: queries(index, keys.clone()),
            keys,
        }
    };
    sequences.iter().enumerate().map(span).collect()
}
