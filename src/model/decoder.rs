//! A decoder of the Llama family over packed, ragged batches (arXiv 2302.13971, 2407.21783).

use super::{
    BatchSequence, ForwardBatch, LanguageModel, ModelError, ModelLimits,
    config::ModelConfig,
    kv_cache::KvCache,
    weights::{LayerTensor, Tensor, WeightSource, vector},
};
use crate::kernels::{
    Activation, AttentionLayer, AttentionSpan, BLOCK_TOKENS, Fused, Isa, Norm, NormKind, Output,
    PackedMatrix, Precision, RopeAngles, ThreadPool, attention, gate, matmul, rope_and_store,
};

/// A resident decoder with its KV pool and compute threads.
pub(super) struct Decoder {
    config: ModelConfig,
    limits: ModelLimits,
    isa: Isa,
    pool: ThreadPool,
    embedding: Fused,
    layers: Vec<Layer>,
    output_norm: Norm,
    /// `None` when it is the embedding.
    output: Option<Fused>,
    cache: KvCache,
    buffers: Buffers,
}

struct Layer {
    attention_norm: Norm,
    qkv: Fused,
    attention_output: Fused,
    ffn_norm: Norm,
    gate_up: Fused,
    down: Fused,
}

/// Activations of a step; they grow to the largest batch and stay.
#[derive(Default)]
struct Buffers {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    gated: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    slots: Vec<usize>,
    last_rows: Vec<f32>,
}

impl Decoder {
    /// Reads and repacks all weights. Errors name the tensor.
    pub(super) fn new(
        mut config: ModelConfig,
        source: &dyn WeightSource,
        mut pool: ThreadPool,
        kv_blocks: usize,
        precision: Precision,
    ) -> Result<Self, String> {
        let c = &config;
        let (queries, keys) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let (hidden, ffn) = (c.hidden_size, c.ffn_size);
        let mut load = |parts: &[(Tensor, usize)], cols: usize| -> Result<Fused, String> {
            let mut packed = Vec::with_capacity(parts.len());
            for &(tensor, rows) in parts {
                let named = |reason: String| format!("tensor `{}`: {reason}", source.name(tensor));
                let data = source
                    .tensor(tensor)
                    .map_err(named)?
                    .ok_or_else(|| named("it is missing".into()))?;
                packed.push(PackedMatrix::pack(
                    &mut pool,
                    &data.matrix(rows, cols).map_err(named)?,
                ));
            }
            Ok(Fused::new(packed, precision))
        };
        let norm = |tensor| -> Result<Norm, String> {
            Ok(Norm {
                kind: NormKind::Rms,
                eps: c.rms_eps,
                weight: vector(source, tensor, hidden)?,
            })
        };
        let mut layers = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let tensor = |part| Tensor::Layer(index, part);
            let qkv = [
                (tensor(LayerTensor::Query), queries),
                (tensor(LayerTensor::Key), keys),
                (tensor(LayerTensor::Value), keys),
            ];
            let gate_up = [(tensor(LayerTensor::Gate), ffn), (tensor(LayerTensor::Up), ffn)];
            layers.push(Layer {
                attention_norm: norm(tensor(LayerTensor::AttentionNorm))?,
                qkv: load(&qkv, hidden)?,
                attention_output: load(&[(tensor(LayerTensor::AttentionOutput), hidden)], queries)?,
                ffn_norm: norm(tensor(LayerTensor::FfnNorm))?,
                gate_up: load(&gate_up, hidden)?,
                down: load(&[(tensor(LayerTensor::Down), hidden)], ffn)?,
            });
        }
        let embedding = load(&[(Tensor::Embedding, c.vocab_size)], hidden)?;
        let output = if c.tied_embeddings {
            None
        } else {
            Some(load(&[(Tensor::Output, c.vocab_size)], hidden)?)
        };
        let output_norm = norm(Tensor::OutputNorm)?;
        if source.tensor(Tensor::RopeFactors)?.is_some() {
            let factors = vector(source, Tensor::RopeFactors, c.head_dim / 2)?;
            if factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
                return Err(format!(
                    "tensor `{}` has a factor that is not positive",
                    source.name(Tensor::RopeFactors)
                ));
            }
            for (frequency, factor) in config.rope_frequencies.iter_mut().zip(factors) {
                *frequency /= factor;
            }
        }
        let cache = KvCache::new(&config, kv_blocks);
        let limits = ModelLimits {
            vocab_size: config.vocab_size,
            context_length: config.context_length.min(cache.tokens()),
            block_size: BLOCK_TOKENS,
            num_blocks: cache.blocks(),
        };
        let isa = Isa::detect();
        Ok(Self {
            config,
            limits,
            isa,
            pool,
            embedding,
            layers,
            output_norm,
            output,
            cache,
            buffers: Buffers::default(),
        })
    }

    /// Bytes of weights and KV pool.
    pub(super) fn resident_bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let matrices = layer.qkv.bytes()
                + layer.attention_output.bytes()
                + layer.gate_up.bytes()
                + layer.down.bytes();
            matrices + (layer.attention_norm.weight.len() + layer.ffn_norm.weight.len()) * size_of::<f32>()
        });
        let output = self.output.as_ref().map_or(0, Fused::bytes);
        layers.sum::<usize>() + self.embedding.bytes() + output + self.cache.bytes()
    }

    fn check(&self, batch: &ForwardBatch) -> Result<(), ModelError> {
        let invalid = |reason: String| Err(ModelError::InvalidBatch(reason));
        let counted: usize = batch.sequences.iter().map(|s| s.new_tokens).sum();
        if counted != batch.tokens.len() || batch.sequences.iter().any(|s| s.new_tokens == 0) {
            return invalid(format!(
                "{} tokens, but the sequences count {counted}",
                batch.tokens.len()
            ));
        }
        if let Some(token) = batch
            .tokens
            .iter()
            .find(|&&t| t as usize >= self.config.vocab_size)
        {
            return invalid(format!("token {token} is not in the vocabulary"));
        }
        for sequence in &batch.sequences {
            let blocks = (sequence.context + sequence.new_tokens).div_ceil(BLOCK_TOKENS);
            if sequence.block_table.len() < blocks {
                return invalid(format!("{} blocks for {blocks}", sequence.block_table.len()));
            }
            if sequence
                .block_table
                .iter()
                .any(|&b| b as usize >= self.cache.blocks())
            {
                return invalid("a block is outside the pool".into());
            }
        }
        Ok(())
    }

    /// Embeddings, KV slots and rotary angles of the batch's rows.
    fn prepare(&mut self, batch: &ForwardBatch) {
        let (rows, hidden) = (batch.tokens.len(), self.config.hidden_size);
        let b = &mut self.buffers;
        b.hidden.resize(rows * hidden, 0.0);
        for (&token, row) in batch.tokens.iter().zip(b.hidden.chunks_exact_mut(hidden)) {
            self.embedding.read_row(token as usize, row);
        }
        b.slots.clear();
        b.cos.clear();
        b.sin.clear();
        for sequence in &batch.sequences {
            for position in sequence.context..sequence.context + sequence.new_tokens {
                let block = sequence.block_table[position / BLOCK_TOKENS] as usize;
                b.slots.push(block * BLOCK_TOKENS + position % BLOCK_TOKENS);
                for frequency in &self.config.rope_frequencies {
                    // The angle is rounded to f32 as the reference does; its sine is then exact.
                    let angle = f64::from(position as f32 * frequency);
                    b.cos.push(angle.cos() as f32);
                    b.sin.push(angle.sin() as f32);
                }
            }
        }
    }

    fn run_layer(&mut self, index: usize, spans: &[AttentionSpan<'_>]) {
        let c = &self.config;
        let (rows, shape) = (self.buffers.slots.len(), c.attention_shape());
        let (layer, isa, pool, b) = (&self.layers[index], self.isa, &mut self.pool, &mut self.buffers);
        b.normed.resize(rows * c.hidden_size, 0.0);
        b.qkv.resize(rows * shape.qkv_width(), 0.0);
        b.attended.resize(rows * shape.heads * shape.head_dim, 0.0);
        b.gate_up.resize(rows * 2 * c.ffn_size, 0.0);
        b.gated.resize(rows * c.ffn_size, 0.0);

        layer
            .attention_norm
            .apply(pool, isa, &b.hidden, &mut b.normed, Output::Replace);
        matmul(pool, isa, &b.normed, &layer.qkv, &mut b.qkv, Output::Replace);
        let angles = RopeAngles {
            pairs: c.rope_frequencies.len(),
            cos: &b.cos,
            sin: &b.sin,
            style: c.rope_style,
        };
        rope_and_store(
            pool,
            isa,
            shape,
            &mut b.qkv,
            &b.slots,
            angles,
            self.cache.layer(index),
        );
        let attends = AttentionLayer {
            shape,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            soft_cap: None,
            window: None,
        };
        attention(
            pool,
            isa,
            attends,
            &b.qkv,
            spans,
            &self.cache.layer(index),
            &mut b.attended,
        );
        matmul(
            pool,
            isa,
            &b.attended,
            &layer.attention_output,
            &mut b.hidden,
            Output::Add,
        );

        layer
            .ffn_norm
            .apply(pool, isa, &b.hidden, &mut b.normed, Output::Replace);
        matmul(
            pool,
            isa,
            &b.normed,
            &layer.gate_up,
            &mut b.gate_up,
            Output::Replace,
        );
        gate(pool, isa, Activation::Silu, &b.gate_up, c.ffn_size, &mut b.gated);
        matmul(pool, isa, &b.gated, &layer.down, &mut b.hidden, Output::Add);
    }

    /// Norm and output projection of the rows whose logits are wanted.
    fn read_out(&mut self, sequences: &[BatchSequence], logits: &mut Vec<f32>) {
        let hidden = self.config.hidden_size;
        let b = &mut self.buffers;
        b.last_rows.clear();
        let mut end = 0;
        for sequence in sequences {
            end += sequence.new_tokens;
            if sequence.wants_logits {
                b.last_rows
                    .extend_from_slice(&b.hidden[(end - 1) * hidden..end * hidden]);
            }
        }
        let rows = b.last_rows.len() / hidden;
        logits.clear();
        logits.resize(rows * self.config.vocab_size, 0.0);
        if rows == 0 {
            return;
        }
        b.normed.resize(rows * hidden, 0.0);
        self.output_norm.apply(
            &mut self.pool,
            self.isa,
            &b.last_rows,
            &mut b.normed,
            Output::Replace,
        );
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        matmul(
            &mut self.pool,
            self.isa,
            &b.normed,
            output,
            logits,
            Output::Replace,
        );
    }
}

impl LanguageModel for Decoder {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Vec<f32>) -> Result<(), ModelError> {
        self.check(batch)?;
        self.prepare(batch);
        let mut first_row = 0;
        let mut spans = Vec::with_capacity(batch.sequences.len());
        for sequence in &batch.sequences {
            spans.push(AttentionSpan {
                first_row,
                rows: sequence.new_tokens,
                context: sequence.context,
                block_table: &sequence.block_table,
            });
            first_row += sequence.new_tokens;
        }
        for index in 0..self.layers.len() {
            self.run_layer(index, &spans);
        }
        self.read_out(&batch.sequences, logits);
        Ok(())
    }
}
