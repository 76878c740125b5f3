//! Reads and repacks the weights of a decoder.

use std::collections::HashSet;

use super::ops::{DecoderOps, NormParameters};
use crate::model::{
    HeadTensor, LayerTensor, ParameterCounts, Tensor, TensorData, TensorError, TensorProblem, WeightSource,
    spec::{Biases, HeadNorms, HeadSide, ModelConfig, NormWeights},
};

/// Reads tensors from a source, loads them onto a device, and counts their parameters.
pub(super) struct Loader<'a, O> {
    pub config: &'a ModelConfig,
    ops: &'a mut O,
    source: &'a dyn WeightSource,
    /// Names of the tensors that were read.
    taken: HashSet<String>,
    parameters: ParameterCounts,
}

/// What a matrix is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MatrixUse {
    /// Products only.
    Product,
    /// Its rows are read one by one, too.
    Table,
}

impl<'a, O: DecoderOps> Loader<'a, O> {
    pub(super) fn new(config: &'a ModelConfig, ops: &'a mut O, source: &'a dyn WeightSource) -> Self {
        Self {
            config,
            ops,
            source,
            taken: HashSet::new(),
            parameters: ParameterCounts::default(),
        }
    }

    /// A matrix of `[rows, cols]`.
    pub(super) fn linear(
        &mut self,
        tensor: Tensor,
        rows: usize,
        cols: usize,
    ) -> Result<O::Linear, TensorError> {
        self.side_by_side(&[(tensor, rows)], cols, MatrixUse::Product)
    }

    /// What makes the rows that verdict heads read, those of the answer's side first: `[2 * inner, hidden]`.
    pub(super) fn verdict_rows(&mut self, inner: usize) -> Result<O::Linear, TensorError> {
        let parts = HeadSide::ALL.map(|side| (Tensor::Verdict(side, HeadTensor::Inner), inner));
        self.side_by_side(&parts, self.config.sizes.hidden, MatrixUse::Product)
    }

    /// A matrix of `[rows, cols]` whose rows are also read one by one.
    pub(super) fn table(
        &mut self,
        tensor: Tensor,
        rows: usize,
        cols: usize,
    ) -> Result<O::Linear, TensorError> {
        self.side_by_side(&[(tensor, rows)], cols, MatrixUse::Table)
    }

    /// Matrices with the same inputs side by side, each with its number of outputs; the file may have them as one tensor,
    /// `whole`, already.
    pub(super) fn joined(
        &mut self,
        whole: Tensor,
        parts: &[(Tensor, usize)],
        cols: usize,
    ) -> Result<O::Linear, TensorError> {
        if self.find(whole)?.is_some() {
            let rows = parts.iter().map(|(_, rows)| rows).sum();
            self.linear(whole, rows, cols)
        } else {
            self.side_by_side(parts, cols, MatrixUse::Product)
        }
    }

    fn side_by_side(
        &mut self,
        parts: &[(Tensor, usize)],
        cols: usize,
        purpose: MatrixUse,
    ) -> Result<O::Linear, TensorError> {
        let mut found = Vec::with_capacity(parts.len());
        for &(tensor, _) in parts {
            found.push(self.take(tensor)?);
        }
        let mut matrices = Vec::with_capacity(parts.len());
        for (data, &(tensor, rows)) in found.iter().zip(parts) {
            let matrix = data.matrix(rows, cols);
            matrices.push(matrix.map_err(|problem| self.error(tensor, problem))?);
        }
        let loaded = match (purpose, &matrices[..]) {
            (MatrixUse::Table, [matrix]) => self.ops.table(*matrix),
            (MatrixUse::Table | MatrixUse::Product, all) => self.ops.linear(all),
        };
        loaded.map_err(|error| {
            let tensor = parts.get(error.part).or(parts.last());
            let name = tensor.map(|&(tensor, _)| self.source.name(tensor));
            error.problem.of(name.unwrap_or_default())
        })
    }

    /// The biases of queries, keys and values, one after the other.
    pub(super) fn qkv_bias(&mut self, layer: usize) -> Result<O::Bias, TensorError> {
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
    pub(super) fn bias(&mut self, tensor: Tensor, width: usize) -> Result<Option<O::Bias>, TensorError> {
        let values = self.bias_values(tensor, width)?;
        Ok(values.map(|values| self.ops.bias(values)))
    }

    fn bias_values(&mut self, tensor: Tensor, width: usize) -> Result<Option<Vec<f32>>, TensorError> {
        let biased = self.config.biases == Biases::All;
        biased.then(|| self.values(tensor, &[width])).transpose()
    }

    /// A norm of the residual stream's width.
    pub(super) fn norm(&mut self, tensor: Tensor, bias: Tensor) -> Result<O::Norm, TensorError> {
        let width = self.config.sizes.hidden;
        let weight = self.norm_weights(tensor, &[width])?;
        let bias = self.bias_values(bias, width)?;
        Ok(self.norm_with(weight, bias))
    }

    /// A norm that no model has a bias for.
    pub(super) fn post_norm(&mut self, tensor: Tensor) -> Result<O::Norm, TensorError> {
        let weight = self.norm_weights(tensor, &[self.config.sizes.hidden])?;
        Ok(self.norm_with(weight, None))
    }

    /// Embeddings of positions. The file has one for each position that the model was made for; with a lower limit on the
    /// context window only the first ones are used.
    pub(super) fn positions(&mut self) -> Result<O::Linear, TensorError> {
        let width = self.config.sizes.hidden;
        let data = self.find(Tensor::Positions)?;
        let rows = data.and_then(|data| data.shape.first().copied()).unwrap_or(0);
        if rows < self.config.context_length {
            let too_few = TensorProblem::TooFewPositions {
                found: rows,
                needed: self.config.context_length,
            };
            return Err(self.error(Tensor::Positions, too_few));
        }
        self.table(Tensor::Positions, rows, width)
    }

    /// The norm of the heads of queries and keys, with weights for each head, queries first; `None` where the model has none.
    pub(super) fn head_norm(&mut self, layer: usize) -> Result<Option<O::Norm>, TensorError> {
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

    /// How many parameters were read.
    ///
    /// # Errors
    /// When the source has a tensor of a layer that was not read: then the model is not what its configuration says. Biases
    /// that are all 0 change nothing, and are let pass.
    pub(super) fn finish(self) -> Result<ParameterCounts, TensorError> {
        for name in self.source.layer_tensors() {
            if self.taken.contains(&name) || name.contains("rotary_emb.") {
                continue;
            }
            let data = match self.source.named(&name) {
                Ok(data) => data,
                Err(problem) => return Err(problem.of(name)),
            };
            let zero = data.filter(|_| name.ends_with(".bias")).is_some_and(|data| {
                let values = data.values(&data.shape);
                values.is_ok_and(|values| values.iter().all(|v| *v == 0.0))
            });
            if !zero {
                let unread = TensorProblem::NotOfTheDecoder {
                    architecture: self.config.architecture.clone(),
                    layers: self.config.layers.len(),
                };
                return Err(unread.of(name));
            }
        }
        Ok(self.parameters)
    }

    fn norm_with(&mut self, weight: Vec<f32>, bias: Option<Vec<f32>>) -> O::Norm {
        self.ops.norm_weights(NormParameters {
            kind: self.config.norm,
            eps: self.config.norm_eps,
            weight,
            bias,
        })
    }

    fn norm_weights(&mut self, tensor: Tensor, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let mut weight = self.values(tensor, shape)?;
        if self.config.norm_weights == NormWeights::LessOne {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    fn values(&mut self, tensor: Tensor, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let data = self.take(tensor)?;
        data.values(shape).map_err(|problem| self.error(tensor, problem))
    }

    /// Reads a tensor that the model has to have.
    fn take(&mut self, tensor: Tensor) -> Result<TensorData<'a>, TensorError> {
        let found = self.find(tensor)?;
        let data = found.ok_or_else(|| self.error(tensor, TensorProblem::Missing))?;
        self.parameters.add(&data);
        self.taken.insert(self.source.name(tensor));
        Ok(data)
    }

    fn find(&self, tensor: Tensor) -> Result<Option<TensorData<'a>>, TensorError> {
        let found = self.source.tensor(tensor);
        found.map_err(|problem| self.error(tensor, problem))
    }

    fn error(&self, tensor: Tensor, problem: TensorProblem) -> TensorError {
        problem.of(self.source.name(tensor))
    }
}
