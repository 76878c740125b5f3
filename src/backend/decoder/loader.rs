//! Reads and repacks the weights of a decoder.

use std::collections::HashSet;

use super::ops::{DecoderOps, NormParameters};
use crate::model::{
    LayerTensor, Tally, Tensor, TensorData, WeightSource,
    spec::{Biases, HeadNorms, ModelConfig, NormWeights},
};

/// Takes tensors out of a source, gives them to a device, and counts them. Errors name the tensor.
pub(super) struct Loader<'a, O> {
    pub config: &'a ModelConfig,
    ops: &'a mut O,
    source: &'a dyn WeightSource,
    taken: HashSet<String>,
    tally: Tally,
}

impl<'a, O: DecoderOps> Loader<'a, O> {
    pub(super) fn new(config: &'a ModelConfig, ops: &'a mut O, source: &'a dyn WeightSource) -> Self {
        Self {
            config,
            ops,
            source,
            taken: HashSet::new(),
            tally: Tally::default(),
        }
    }

    /// A matrix of `[rows, cols]`.
    pub(super) fn linear(&mut self, tensor: Tensor, rows: usize, cols: usize) -> Result<O::Linear, String> {
        self.side_by_side(&[(tensor, rows)], cols)
    }

    /// The matrices of one input side by side; the file may have them as one already.
    pub(super) fn joined(
        &mut self,
        whole: Tensor,
        parts: &[(Tensor, usize)],
        cols: usize,
    ) -> Result<O::Linear, String> {
        if self.find(whole)?.is_some() {
            let rows = parts.iter().map(|(_, rows)| rows).sum();
            self.linear(whole, rows, cols)
        } else {
            self.side_by_side(parts, cols)
        }
    }

    fn side_by_side(&mut self, parts: &[(Tensor, usize)], cols: usize) -> Result<O::Linear, String> {
        let mut found = Vec::with_capacity(parts.len());
        for &(tensor, _) in parts {
            found.push(self.take(tensor)?);
        }
        let mut matrices = Vec::with_capacity(parts.len());
        for (data, &(tensor, rows)) in found.iter().zip(parts) {
            matrices.push(data.matrix(rows, cols).map_err(|e| self.named(tensor, &e))?);
        }
        self.ops
            .linear(&matrices)
            .map_err(|error| match parts.get(error.part) {
                Some(&(tensor, _)) => self.named(tensor, &error.reason),
                None => error.reason,
            })
    }

    /// The biases of queries, keys and values, one after the other.
    pub(super) fn qkv_bias(&mut self, layer: usize) -> Result<O::Bias, String> {
        let sizes = self.config.sizes;
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        let whole = Tensor::Layer(layer, LayerTensor::QkvBias);
        if self.find(whole)?.is_some() {
            let bias = self.values(whole, &[queries + 2 * keys])?;
            return Ok(self.ops.bias(bias));
        }
        let mut bias = Vec::with_capacity(queries + 2 * keys);
        for (part, len) in [
            (LayerTensor::QueryBias, queries),
            (LayerTensor::KeyBias, keys),
            (LayerTensor::ValueBias, keys),
        ] {
            bias.extend(self.values(Tensor::Layer(layer, part), &[len])?);
        }
        Ok(self.ops.bias(bias))
    }

    /// The bias of a product of `width` outputs, or of a norm; `None` where the model has none.
    pub(super) fn bias(&mut self, tensor: Tensor, width: usize) -> Result<Option<O::Bias>, String> {
        let values = self.bias_values(tensor, width)?;
        Ok(values.map(|values| self.ops.bias(values)))
    }

    fn bias_values(&mut self, tensor: Tensor, width: usize) -> Result<Option<Vec<f32>>, String> {
        let biased = self.config.biases == Biases::All;
        biased.then(|| self.values(tensor, &[width])).transpose()
    }

    /// A norm of the residual stream's width.
    pub(super) fn norm(&mut self, tensor: Tensor, bias: Tensor) -> Result<O::Norm, String> {
        let width = self.config.sizes.hidden;
        let weight = self.norm_weights(tensor, &[width])?;
        let bias = self.bias_values(bias, width)?;
        Ok(self.norm_with(weight, bias))
    }

    /// A norm that no model has a bias for.
    pub(super) fn post_norm(&mut self, tensor: Tensor) -> Result<O::Norm, String> {
        let weight = self.norm_weights(tensor, &[self.config.sizes.hidden])?;
        Ok(self.norm_with(weight, None))
    }

    /// Embeddings of positions. The file has as many as the model was made for, of which a lower limit uses the first.
    pub(super) fn positions(&mut self) -> Result<O::Linear, String> {
        let width = self.config.sizes.hidden;
        let data = self.find(Tensor::Positions)?;
        let rows = data.and_then(|data| data.shape.first().copied()).unwrap_or(0);
        if rows < self.config.context_length {
            let needed = self.config.context_length;
            return Err(self.named(
                Tensor::Positions,
                &format!("{rows} rows for a window of {needed}"),
            ));
        }
        self.linear(Tensor::Positions, rows, width)
    }

    /// The norm of queries' and keys' heads: weights for each head, queries first.
    pub(super) fn head_norm(&mut self, layer: usize) -> Result<Option<O::Norm>, String> {
        let sizes = self.config.sizes;
        let mut weight = Vec::with_capacity((sizes.heads + sizes.kv_heads) * sizes.head_dim);
        for (part, heads) in [
            (LayerTensor::QueryNorm, sizes.heads),
            (LayerTensor::KeyNorm, sizes.kv_heads),
        ] {
            let tensor = Tensor::Layer(layer, part);
            match self.config.head_norms {
                HeadNorms::None => return Ok(None),
                HeadNorms::Shared => {
                    weight.extend(self.norm_weights(tensor, &[sizes.head_dim])?.repeat(heads));
                }
                HeadNorms::Own => weight.extend(self.norm_weights(tensor, &[heads, sizes.head_dim])?),
            }
        }
        Ok(Some(self.norm_with(weight, None)))
    }

    /// What was read. Tensors of layers that nothing asked
    /// for mean that the model is not what it was taken for; only biases that are all 0 change nothing.
    pub(super) fn finish(self) -> Result<Tally, String> {
        for name in self.source.layer_tensors() {
            if self.taken.contains(&name) || name.contains("rotary_emb.") {
                continue;
            }
            let data = self
                .source
                .named(&name)
                .map_err(|e| format!("tensor `{name}`: {e}"))?;
            let zero = data.filter(|_| name.ends_with(".bias")).is_some_and(|data| {
                let values = data.values(&data.shape);
                values.is_ok_and(|values| values.iter().all(|v| *v == 0.0))
            });
            if !zero {
                return Err(format!(
                    "tensor `{name}`: it is not part of a `{}` model of {} layers as this program knows it",
                    self.config.architecture,
                    self.config.layers.len()
                ));
            }
        }
        Ok(self.tally)
    }

    fn norm_with(&mut self, weight: Vec<f32>, bias: Option<Vec<f32>>) -> O::Norm {
        self.ops.norm_weights(NormParameters {
            kind: self.config.norm,
            eps: self.config.norm_eps,
            weight,
            bias,
        })
    }

    fn norm_weights(&mut self, tensor: Tensor, shape: &[usize]) -> Result<Vec<f32>, String> {
        let mut weight = self.values(tensor, shape)?;
        if self.config.norm_weights == NormWeights::LessOne {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    fn values(&mut self, tensor: Tensor, shape: &[usize]) -> Result<Vec<f32>, String> {
        let data = self.take(tensor)?;
        data.values(shape).map_err(|e| self.named(tensor, &e))
    }

    fn take(&mut self, tensor: Tensor) -> Result<TensorData<'a>, String> {
        let found = self.find(tensor)?;
        let data = found.ok_or_else(|| self.named(tensor, "it is missing"))?;
        self.tally.add(&data);
        self.taken.insert(self.source.name(tensor));
        Ok(data)
    }

    fn find(&self, tensor: Tensor) -> Result<Option<TensorData<'a>>, String> {
        self.source.tensor(tensor).map_err(|e| self.named(tensor, &e))
    }

    fn named(&self, tensor: Tensor, reason: &str) -> String {
        format!("tensor `{}`: {reason}", self.source.name(tensor))
    }
}
