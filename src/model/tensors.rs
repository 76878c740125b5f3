//! Tensors of a Hugging Face folder by their own names, for models that are no decoders: they are read, repacked,
//! and counted.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    census::{Census, Tally},
    weights::{Entry, TensorData, read_folder},
};
use crate::backend::cpu::kernels::{Arena, Linear, PackedMatrix, ThreadPool};
use crate::model::spec::Precision;

/// The tensors of `model.safetensors`, or of shards named by its index.
pub struct Tensors(HashMap<String, Entry>);

impl Tensors {
    /// Reads the headers of the folder's files; errors name the file.
    pub fn open(folder: &Path) -> Result<Self, String> {
        read_folder(folder).map(Self)
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Bytes that those tensors will take that are `read`: matrices repacked, vectors as f32.
    pub fn resident_bytes(&self, read: impl Fn(&str) -> bool) -> Result<u64, String> {
        let mut bytes = 0u64;
        for name in self.0.keys().filter(|name| read(name)) {
            let data = self.get(name)?;
            bytes += match data.shape[..] {
                [rows, cols] => PackedMatrix::bytes_for(data.format, rows, cols) as u64,
                _ => 4 * data.shape.iter().product::<usize>() as u64,
            };
        }
        Ok(bytes)
    }

    /// The first dimension of a tensor; `None` when there is no such tensor.
    pub fn rows(&self, name: &str) -> Option<usize> {
        self.0.get(name)?.shape().first().copied()
    }

    fn get(&self, name: &str) -> Result<TensorData<'_>, String> {
        let entry = self.0.get(name).ok_or_else(|| named(name, "it is missing"))?;
        entry.data().map_err(|error| named(name, &error))
    }
}

fn named(name: &str, reason: &str) -> String {
    format!("tensor `{name}`: {reason}")
}

/// Takes tensors, and counts what it took. Errors name the tensor.
pub struct TensorReader<'a> {
    tensors: &'a Tensors,
    pool: &'a mut ThreadPool,
    precision: Precision,
    arena: Arena,
    taken: HashSet<String>,
    tally: Tally,
    bytes: u64,
}

impl<'a> TensorReader<'a> {
    /// Nothing is taken yet; matrices are repacked on `pool`, for products of this precision.
    pub fn new(tensors: &'a Tensors, pool: &'a mut ThreadPool, precision: Precision) -> Self {
        Self {
            tensors,
            pool,
            precision,
            arena: Arena::default(),
            taken: HashSet::new(),
            tally: Tally::default(),
            bytes: 0,
        }
    }

    /// A matrix of `[rows, cols]`.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear, String> {
        self.matrices(&[name], rows, cols)
    }

    /// Matrices of `[rows, cols]` each over the same input, side by side.
    pub fn matrices(&mut self, names: &[&str], rows: usize, cols: usize) -> Result<Linear, String> {
        let mut packed = Vec::with_capacity(names.len());
        for name in names {
            let data = self.take(name)?;
            let matrix = data.matrix(rows, cols).map_err(|e| named(name, &e))?;
            let matrix = PackedMatrix::pack(self.pool, &mut self.arena, &matrix);
            packed.push(matrix.map_err(|e| named(name, &e.to_string()))?);
        }
        let fused = Linear::new(packed, self.precision.products());
        self.bytes += fused.bytes() as u64;
        Ok(fused)
    }

    /// One row of a matrix of this shape as f32 values; the others stay where they are.
    pub fn row(&mut self, name: &str, (rows, cols): (usize, usize), row: usize) -> Result<Vec<f32>, String> {
        let data = self.take(name)?;
        let matrix = data.matrix(rows, cols).map_err(|e| named(name, &e))?;
        if row >= rows {
            return Err(named(name, &format!("there is no row {row} of {rows}")));
        }
        let mut values = vec![0.0; cols];
        let read = matrix.read_row(row, &mut values);
        read.map_err(|error| named(name, &format!("it could not be read: {error}")))?;
        self.bytes += size_of_val(&values[..]) as u64;
        Ok(values)
    }

    /// A tensor of this shape as f32 values.
    pub fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let values = self.take(name)?.values(shape).map_err(|e| named(name, &e))?;
        self.bytes += size_of_val(&values[..]) as u64;
        Ok(values)
    }

    /// What was read.
    ///
    /// # Errors
    /// When a tensor is left that `part_of_model` says belongs to the model: then it is not what it was taken for.
    pub fn finish(self, part_of_model: impl Fn(&str) -> bool) -> Result<Census, String> {
        let mut left: Vec<_> = self
            .tensors
            .names()
            .filter(|name| !self.taken.contains(*name))
            .collect();
        left.sort_unstable();
        if let Some(name) = left.into_iter().find(|name| part_of_model(name)) {
            return Err(named(
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
