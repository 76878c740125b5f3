//! A PEFT folder in memory: to change one of the golden ones, or to make one up.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::golden;

/// A tensor of `tests/golden/adapters`, or one like it.
#[derive(Clone)]
pub struct File {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub struct AdapterFiles {
    pub config: Value,
    pub tensors: BTreeMap<String, File>,
}

/// Widths of a made-up adapter's base.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Of the residual stream, and of all queries.
    pub hidden: usize,
    /// Of all keys, and of all values.
    pub keys: usize,
}

impl AdapterFiles {
    /// A golden adapter.
    pub fn golden(name: &str) -> Self {
        let folder = golden("adapters").join(name);
        let config = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors.iter().map(|(name, view)| {
            let file = File {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            (name.to_owned(), file)
        });
        Self {
            config: serde_json::from_str(&config).unwrap(),
            tensors: tensors.collect(),
        }
    }

    /// An adapter of one rank for the queries and values of some layers; `salt` makes it differ from others.
    pub fn made_up(layers: usize, sizes: Sizes, rank: usize, salt: usize) -> Self {
        let Sizes { hidden, keys } = sizes;
        let mut files = Self {
            config: json!({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank,
                           "target_modules": ["q_proj", "v_proj"]}),
            tensors: BTreeMap::new(),
        };
        for layer in 0..layers {
            for (module, outputs) in [("q_proj", hidden), ("v_proj", keys)] {
                let module = format!("base_model.model.model.layers.{layer}.self_attn.{module}");
                for (half, shape) in [("lora_A", [rank, hidden]), ("lora_B", [outputs, rank])] {
                    let noise = |i: usize| ((i + 1) * (layer + 3) * (salt + 5) * 2_654_435_761 % 997) as f32;
                    let values = (0..shape[0] * shape[1]).map(|i| (noise(i) / 498.0 - 1.0) * 0.12);
                    let file = File {
                        dtype: Dtype::F32,
                        shape: shape.to_vec(),
                        bytes: values.flat_map(f32::to_le_bytes).collect(),
                    };
                    files.tensors.insert(format!("{module}.{half}.weight"), file);
                }
            }
        }
        files
    }

    /// Gives each part of a fused matrix a change of its own: some of its rows.
    pub fn split(&mut self, module: &str, parts: &[(&str, usize)]) {
        let (block, fused) = module.split_once('.').unwrap();
        let names: Vec<String> = self
            .tensors
            .keys()
            .filter(|name| name.contains(module))
            .cloned()
            .collect();
        assert!(!names.is_empty());
        for name in names {
            let whole = self.tensors.remove(&name).unwrap();
            let row_bytes = whole.bytes.len() / whole.shape[0];
            let mut first = 0;
            for (part, rows) in parts {
                let mut file = whole.clone();
                if name.contains("lora_B") {
                    file.shape[0] = *rows;
                    file.bytes = whole.bytes[first * row_bytes..(first + rows) * row_bytes].to_vec();
                    first += rows;
                }
                let name = name.replace(&format!("{block}.{fused}"), &format!("{block}.{part}"));
                self.tensors.insert(name, file);
            }
            assert!(first == 0 || first == whole.shape[0]);
        }
    }

    /// Writes the folder.
    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::to_string(&self.config).unwrap();
        std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
        let views = self.tensors.iter().map(|(name, file)| {
            let view = TensorView::new(file.dtype, file.shape.clone(), &file.bytes).unwrap();
            (name.clone(), view)
        });
        let path = folder.path().join("adapter_model.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        folder
    }
}
