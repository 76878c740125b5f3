//! Reads and repacks the tensors of an encoder by their own names, and counts them.

use std::collections::HashSet;

use crate::{
    backend::cpu::kernels::{Arena, Compute, Linear, PackedMatrix},
    model::{
        ParameterCounts, TensorData, TensorError, TensorProblem, Tensors, WeightSummary, spec::Products,
    },
};

/// What an encoder keeps of a tensor in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Nothing,
    /// One row of the matrix, as f32 values.
    Row,
    /// All elements, as f32 values.
    Values,
    /// The whole tensor: a matrix is repacked, a vector becomes f32 values.
    Whole,
}

/// Bytes that the tensors will take in memory of which so much is kept.
pub(super) fn resident_bytes(tensors: &Tensors, kept: impl Fn(&str) -> Kept) -> Result<u64, TensorError> {
    let mut bytes = 0u64;
    for name in tensors.names() {
        let kept = kept(name);
        if kept == Kept::Nothing {
            continue;
        }
        let data = tensors.get(name)?;
        bytes += match (kept, &data.shape[..]) {
            (Kept::Whole, &[rows, cols]) => PackedMatrix::bytes_for(data.format, rows, cols) as u64,
            (Kept::Row, &[_, cols]) => 4 * cols as u64,
            (_, shape) => 4 * shape.iter().product::<usize>() as u64,
        };
    }
    Ok(bytes)
}

/// Reads tensors and counts their parameters. All of its errors name the tensor.
pub(super) struct TensorReader<'a> {
    tensors: &'a Tensors,
    compute: &'a mut Compute,
    products: Products,
    arena: Arena,
    /// Names of the tensors that were read.
    taken: HashSet<String>,
    parameters: ParameterCounts,
    /// Bytes that the weights take in memory.
    bytes: u64,
}

impl<'a> TensorReader<'a> {
    /// A reader that repacks matrices on the threads of `compute`, for products that are computed as `products` says.
    pub(super) fn new(tensors: &'a Tensors, compute: &'a mut Compute, products: Products) -> Self {
        Self {
            tensors,
            compute,
            products,
            arena: Arena::default(),
            taken: HashSet::new(),
            parameters: ParameterCounts::default(),
            bytes: 0,
        }
    }

    /// A matrix of `[rows, cols]`.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, TensorError> {
        self.matrices(&[name], rows, cols)
    }

    /// Matrices of `[rows, cols]` each that have the same inputs, side by side.
    pub(super) fn matrices(
        &mut self,
        names: &[&str],
        rows: usize,
        cols: usize,
    ) -> Result<Linear, TensorError> {
        let mut packed = Vec::with_capacity(names.len());
        for name in names {
            let data = self.take(name)?;
            let matrix = data.matrix(rows, cols).map_err(|problem| problem.of(*name))?;
            let matrix = PackedMatrix::pack(&mut self.compute.pool, &mut self.arena, &matrix);
            packed.push(matrix.map_err(|error| TensorProblem::from(error).of(*name))?);
        }
        let linear = Linear::new(packed, self.products);
        self.bytes += linear.bytes() as u64;
        Ok(linear)
    }

    /// One row of a matrix of this shape, as f32 values. The other rows are not read.
    pub(super) fn row(&mut self, name: &str, shape: [usize; 2], row: usize) -> Result<Vec<f32>, TensorError> {
        let [rows, cols] = shape;
        let data = self.take(name)?;
        let matrix = data.matrix(rows, cols).map_err(|problem| problem.of(name))?;
        if row >= rows {
            return Err(TensorProblem::NoRow { row, rows }.of(name));
        }
        let mut values = vec![0.0; cols];
        let read = matrix.read_row(row, &mut values);
        read.map_err(|error| TensorProblem::Read(error).of(name))?;
        self.bytes += size_of_val(&values[..]) as u64;
        Ok(values)
    }

    /// A tensor of this shape, as f32 values.
    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let values = self.take(name)?.values(shape);
        let values = values.map_err(|problem| problem.of(name))?;
        self.bytes += size_of_val(&values[..]) as u64;
        Ok(values)
    }

    /// Computes what is derived of weights while they are read.
    pub(super) fn compute(&mut self) -> &mut Compute {
        self.compute
    }

    /// Counts weights of `dropped` bytes that were read and are not kept, and `kept` bytes that were derived of them.
    pub(super) fn replace(&mut self, dropped: u64, kept: u64) {
        self.bytes = self.bytes.saturating_sub(dropped).saturating_add(kept);
    }

    /// What the weights amount to that were read.
    ///
    /// # Errors
    /// When a tensor was not read that is part of the model according to `part_of_model`: then the model is not what its
    /// configuration says.
    pub(super) fn finish(self, part_of_model: impl Fn(&str) -> bool) -> Result<WeightSummary, TensorError> {
        let mut left: Vec<_> = self
            .tensors
            .names()
            .filter(|name| !self.taken.contains(*name))
            .collect();
        left.sort_unstable();
        if let Some(name) = left.into_iter().find(|name| part_of_model(name)) {
            return Err(TensorProblem::NotOfTheEncoder.of(name));
        }
        Ok(self.parameters.summary(self.bytes))
    }

    fn take(&mut self, name: &str) -> Result<TensorData<'a>, TensorError> {
        let data = self.tensors.get(name)?;
        self.parameters.add(&data);
        self.taken.insert(name.to_owned());
        Ok(data)
    }
}
