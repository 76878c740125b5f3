//! Tensors of a Hugging Face folder by their own names, for models that are not decoders.

use std::{collections::HashMap, path::Path};

use super::{
    error::{FileError, TensorError, TensorProblem},
    weights::{StoredTensor, TensorData, read_folder},
};

/// The tensors of `model.safetensors`, or of the shards that its index names.
pub(crate) struct Tensors(HashMap<String, StoredTensor>);

impl Tensors {
    /// Reads the headers of the folder's files, and no tensor's elements.
    pub(crate) fn open(folder: &Path) -> Result<Self, FileError> {
        read_folder(folder).map(Self)
    }

    /// Names of all tensors, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The tensor of this name.
    pub(crate) fn get(&self, name: &str) -> Result<TensorData<'_>, TensorError> {
        let stored = self.0.get(name).ok_or(TensorProblem::Missing);
        stored
            .and_then(StoredTensor::data)
            .map_err(|problem| problem.of(name))
    }
}
