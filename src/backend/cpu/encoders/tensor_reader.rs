//! Reads and repacks the tensors of an encoder by their own names, and counts them.

use std::collections::HashSet;

use crate::{
    backend::cpu::kernels::{Arena, Linear, PackedMatrix, ThreadPool},
    model::{Census, Tally, TensorData, Tensors, spec::Products, tensor_fault},
};

/// Bytes that those tensors will take that are `read`: matrices repacked, vectors as f32.
pub(super) fn resident_bytes(tensors: &Tensors, read: impl Fn(&str) -> bool) -> Result<u64, String> {
    let mut bytes = 0u64;
    for name in tensors.names().filter(|name| read(name)) {
        let data = tensors.get(name)?;
        bytes += match data.shape[..] {
            [rows, cols] => PackedMatrix::bytes_for(data.format, rows, cols) as u64,
            _ => 4 * data.shape.iter().product::<usize>() as u64,
        };
    }
    Ok(bytes)
}

/// Takes tensors, and counts what it took. Errors name the tensor.
pub(super) struct TensorReader<'a> {
    tensors: &'a Tensors,
    pool: &'a mut ThreadPool,
    products: Products,
    arena: Arena,
    taken: HashSet<String>,
    tally: Tally,
    bytes: u64,
}

impl<'a> TensorReader<'a> {
    /// Nothing is taken yet; matrices are repacked on `pool`, for products computed so.
    pub(super) fn new(tensors: &'a Tensors, pool: &'a mut ThreadPool, products: Products) -> Self {
        Self {
            tensors,
            pool,
            products,
            arena: Arena::default(),
            taken: HashSet::new(),
            tally: Tally::default(),
            bytes: 0,
        }
    }

    /// A matrix of `[rows, cols]`.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, String> {
        self.matrices(&[name], rows, cols)
    }

    /// Matrices of `[rows, cols]` each over the same input, side by side.
    pub(super) fn matrices(&mut self, names: &[&str], rows: usize, cols: usize) -> Result<Linear, String> {
        let mut packed = Vec::with_capacity(names.len());
        for name in names {
            let data = self.take(name)?;
            let matrix = data.matrix(rows, cols).map_err(|e| tensor_fault(name, &e))?;
            let matrix = PackedMatrix::pack(self.pool, &mut self.arena, &matrix);
            packed.push(matrix.map_err(|e| tensor_fault(name, &e.to_string()))?);
        }
        let linear = Linear::new(packed, self.products);
        self.bytes += linear.bytes() as u64;
        Ok(linear)
    }

    /// One row of a matrix of this shape as f32 values; the others stay where they are.
    pub(super) fn row(&mut self, name: &str, shape: [usize; 2], row: usize) -> Result<Vec<f32>, String> {
        let [rows, cols] = shape;
        let data = self.take(name)?;
        let matrix = data.matrix(rows, cols).map_err(|e| tensor_fault(name, &e))?;
        if row >= rows {
            return Err(tensor_fault(name, &format!("there is no row {row} of {rows}")));
        }
        let mut values = vec![0.0; cols];
        let read = matrix.read_row(row, &mut values);
        read.map_err(|error| tensor_fault(name, &format!("it could not be read: {error}")))?;
        self.bytes += size_of_val(&values[..]) as u64;
        Ok(values)
    }

    /// A tensor of this shape as f32 values.
    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let values = self
            .take(name)?
            .values(shape)
            .map_err(|e| tensor_fault(name, &e))?;
        self.bytes += size_of_val(&values[..]) as u64;
        Ok(values)
    }

    /// What was read.
    ///
    /// # Errors
    /// When a tensor is left that `part_of_model` says belongs to the model: then it is not what it was taken for.
    pub(super) fn finish(self, part_of_model: impl Fn(&str) -> bool) -> Result<Census, String> {
        let mut left: Vec<_> = self
            .tensors
            .names()
            .filter(|name| !self.taken.contains(*name))
            .collect();
        left.sort_unstable();
        if let Some(name) = left.into_iter().find(|name| part_of_model(name)) {
            return Err(tensor_fault(
                name,
                "it is not part of the model that config.json describes",
            ));
        }
        Ok(self.tally.census(self.bytes))
    }

    fn take(&mut self, name: &str) -> Result<TensorData<'a>, String> {
        let data = self.tensors.get(name)?;
        self.tally.add(&data);
        self.taken.insert(name.to_owned());
        Ok(data)
    }
}
