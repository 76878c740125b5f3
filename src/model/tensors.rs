//! Tensors of a Hugging Face folder by their own names, for models that are no decoders: they are read, repacked,
//! and counted.

use std::{collections::HashMap, path::Path};

use super::weights::{Entry, TensorData, read_folder};

/// The tensors of `model.safetensors`, or of shards named by its index.
pub(crate) struct Tensors(HashMap<String, Entry>);

impl Tensors {
    /// Reads the headers of the folder's files; errors name the file.
    pub(crate) fn open(folder: &Path) -> Result<Self, String> {
        read_folder(folder).map(Self)
    }

    /// Names of all tensors, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Result<TensorData<'_>, String> {
        let entry = self
            .0
            .get(name)
            .ok_or_else(|| tensor_fault(name, "it is missing"))?;
        entry.data().map_err(|error| tensor_fault(name, &error))
    }
}

pub(crate) fn tensor_fault(name: &str, reason: &str) -> String {
    format!("tensor `{name}`: {reason}")
}
