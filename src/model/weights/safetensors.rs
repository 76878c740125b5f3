//! Weights of a Hugging Face folder: `model.safetensors`, or shards named by `model.safetensors.index.json`.

use std::{borrow::Cow, collections::BTreeMap, collections::HashMap, ops::Range, path::Path, sync::Arc};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::{LayerTensor, Tensor, TensorData, WeightSource};
use crate::{kernels::BlockFormat, mapped};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

pub(in crate::model) struct SafetensorsWeights {
    tensors: HashMap<String, Entry>,
}

struct Entry {
    map: Arc<Mmap>,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl SafetensorsWeights {
    /// Maps all files of the folder; errors name the file.
    pub(in crate::model) fn open(folder: &Path) -> Result<Self, String> {
        let mut tensors = HashMap::new();
        let index = folder.join(INDEX);
        if index.exists() {
            let text = std::fs::read_to_string(&index).map_err(|e| format!("{INDEX}: {e}"))?;
            let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{INDEX}: {e}"))?;
            let map = json["weight_map"]
                .as_object()
                .ok_or_else(|| format!("{INDEX}: weight_map is missing"))?;
            let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (tensor, file) in map {
                let file = file
                    .as_str()
                    .ok_or_else(|| format!("{INDEX}: weight_map.{tensor} is not a file name"))?;
                // A shard lives beside its index; a path that leads elsewhere is not a shard.
                if Path::new(file).components().count() != 1 || file == ".." {
                    return Err(format!("{INDEX}: `{file}` is not a plain file name"));
                }
                shards.entry(file).or_default().push(tensor);
            }
            for (file, names) in shards {
                let found = read_shard(&folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
                if let Some(missing) = names.iter().find(|name| !found.contains_key(**name)) {
                    return Err(format!(
                        "{file}: tensor `{missing}` is missing, although the index says it is there"
                    ));
                }
                tensors.extend(found);
            }
        } else {
            tensors = read_shard(&folder.join(SINGLE)).map_err(|e| format!("{SINGLE}: {e}"))?;
        }
        Ok(Self { tensors })
    }
}

fn read_shard(path: &Path) -> Result<HashMap<String, Entry>, String> {
    let map = mapped::map(path).map_err(|e| e.to_string())?;
    let file = SafeTensors::deserialize(&map).map_err(|e| e.to_string())?;
    let base = map.as_ptr() as usize;
    let mut entries = HashMap::new();
    for (name, view) in file.iter() {
        let start = view.data().as_ptr() as usize - base;
        let range = start..start + view.data().len();
        let entry = Entry {
            map: Arc::clone(&map),
            range,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
        };
        entries.insert(name.to_owned(), entry);
    }
    Ok(entries)
}

impl WeightSource for SafetensorsWeights {
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, String> {
        let Some(entry) = self.tensors.get(&self.name(tensor)) else {
            return Ok(None);
        };
        let format = match entry.dtype {
            Dtype::F32 => BlockFormat::F32,
            Dtype::F16 => BlockFormat::F16,
            Dtype::BF16 => BlockFormat::Bf16,
            other => return Err(format!("its type is {other:?}; F32, F16 and BF16 are supported")),
        };
        let bytes = Cow::Borrowed(&entry.map[entry.range.clone()]);
        Ok(Some(TensorData {
            shape: entry.shape.clone(),
            format,
            bytes,
        }))
    }

    fn name(&self, tensor: Tensor) -> String {
        match tensor {
            Tensor::Embedding => "model.embed_tokens.weight".into(),
            Tensor::OutputNorm => "model.norm.weight".into(),
            Tensor::Output => "lm_head.weight".into(),
            Tensor::RopeFactors => "rope_freqs.weight".into(),
            Tensor::Layer(layer, part) => {
                let part = match part {
                    LayerTensor::AttentionNorm => "input_layernorm",
                    LayerTensor::Query => "self_attn.q_proj",
                    LayerTensor::Key => "self_attn.k_proj",
                    LayerTensor::Value => "self_attn.v_proj",
                    LayerTensor::AttentionOutput => "self_attn.o_proj",
                    LayerTensor::FfnNorm => "post_attention_layernorm",
                    LayerTensor::Gate => "mlp.gate_proj",
                    LayerTensor::Up => "mlp.up_proj",
                    LayerTensor::Down => "mlp.down_proj",
                };
                format!("model.layers.{layer}.{part}.weight")
            }
        }
    }
}
