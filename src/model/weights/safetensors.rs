//! Weights of a Hugging Face folder: `model.safetensors`, or shards named by `model.safetensors.index.json`.

use std::{collections::BTreeMap, collections::HashMap, path::Path, sync::Arc};

use safetensors::{Dtype, tensor::Metadata};

use super::{LayerTensor, Part as FilePart, Tensor, TensorBytes, TensorData, WeightSource};
use crate::{
    files::Pieces,
    model::spec::TensorFormat,
    model::{open::read_json, spec::NormPlacement},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// As the safetensors library has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// How a folder names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// As Llama, which most families follow.
    Llama,
    /// As GPT-2.
    Gpt,
}

/// Below this GPT-2's tensors lie.
const GPT_PREFIX: &str = "transformer.";

/// Where the decoder's tensors lie, first match wins: by itself, or inside of a model that also sees pictures
/// (older and newer layout). With each the name of the output projection.
const PREFIXES: [(&str, &str); 3] = [
    ("model.", "lm_head.weight"),
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
];

pub(crate) struct SafetensorsWeights {
    tensors: HashMap<String, Entry>,
    /// One of [`PREFIXES`], or [`GPT_PREFIX`].
    prefix: (&'static str, &'static str),
    naming: Naming,
    placement: NormPlacement,
}

/// A tensor of a file.
pub(crate) struct Entry {
    file: Arc<Pieces>,
    offset: u64,
    len: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl SafetensorsWeights {
    /// Reads the headers of all files of the folder; errors name the file. What norms are called depends on where they stand.
    pub(crate) fn open(folder: &Path, placement: NormPlacement) -> Result<Self, String> {
        let tensors = read_folder(folder)?;
        let has_embedding =
            |(prefix, _): &(&str, &str)| tensors.contains_key(&format!("{prefix}embed_tokens.weight"));
        let (naming, prefix) = match tensors.contains_key(&format!("{GPT_PREFIX}wte.weight")) {
            true => (Naming::Gpt, (GPT_PREFIX, "lm_head.weight")),
            false => {
                let found = PREFIXES.into_iter().find(has_embedding);
                (Naming::Llama, found.unwrap_or(PREFIXES[0]))
            }
        };
        Ok(Self {
            tensors,
            prefix,
            naming,
            placement,
        })
    }
}

/// All tensors of a folder, by name; errors name the file.
pub(crate) fn read_folder(folder: &Path) -> Result<HashMap<String, Entry>, String> {
    let mut tensors = HashMap::new();
    let index = folder.join(INDEX);
    if index.exists() {
        let json = read_json(folder, INDEX)?;
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
            let found = read_safetensors(&folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
            if let Some(missing) = names.iter().find(|name| !found.contains_key(**name)) {
                return Err(format!(
                    "{file}: tensor `{missing}` is missing, although the index says it is there"
                ));
            }
            tensors.extend(found);
        }
    } else {
        tensors = read_safetensors(&folder.join(SINGLE)).map_err(|e| format!("{SINGLE}: {e}"))?;
    }
    Ok(tensors)
}

/// All tensors of one file, by name.
pub(crate) fn read_safetensors(path: &Path) -> Result<HashMap<String, Entry>, String> {
    let file = Pieces::open(path).map_err(|e| e.to_string())?;
    let read = |offset, out: &mut [u8]| {
        let read = file.read_at(offset, out);
        read.map_err(|error| format!("its header cannot be read: {error}"))
    };
    let mut length = [0; 8];
    read(0, &mut length)?;
    let header_bytes = u64::from_le_bytes(length);
    let data_start = header_bytes.checked_add(length.len() as u64);
    let data_start = data_start.filter(|start| *start <= file.len() && header_bytes <= MAX_HEADER_BYTES);
    let data_start =
        data_start.ok_or_else(|| format!("a header of {header_bytes} bytes is too long for this file"))?;
    let mut header = vec![0; header_bytes as usize];
    read(length.len() as u64, &mut header)?;
    // Which checks that tensors lie side by side and have the bytes of their shapes.
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| format!("its header is invalid: {error}"))?;
    if data_start.checked_add(metadata.data_len() as u64) != Some(file.len()) {
        return Err(format!(
            "it has {} bytes, and its header speaks of {} after the first {data_start} (is the download complete?)",
            file.len(),
            metadata.data_len()
        ));
    }
    let file = Arc::new(file);
    let entry = |info: &safetensors::tensor::TensorInfo| Entry {
        file: Arc::clone(&file),
        offset: data_start + info.data_offsets.0 as u64,
        len: info.data_offsets.1 - info.data_offsets.0,
        dtype: info.dtype,
        shape: info.shape.clone(),
    };
    let tensors = metadata.tensors();
    Ok(tensors
        .into_iter()
        .map(|(name, info)| (name, entry(info)))
        .collect())
}

impl WeightSource for SafetensorsWeights {
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, String> {
        self.named(&self.name(tensor))
    }

    fn name(&self, tensor: Tensor) -> String {
        let (prefix, output) = self.prefix;
        match (tensor, self.naming) {
            (Tensor::Output, _) => output.into(),
            (Tensor::Embedding, Naming::Llama) => format!("{prefix}embed_tokens.weight"),
            (Tensor::Embedding, Naming::Gpt) => format!("{prefix}wte.weight"),
            (Tensor::Positions, Naming::Llama) => format!("{prefix}embed_positions.weight"),
            (Tensor::Positions, Naming::Gpt) => format!("{prefix}wpe.weight"),
            (Tensor::OutputNorm, Naming::Llama) => format!("{prefix}norm.weight"),
            (Tensor::OutputNorm, Naming::Gpt) => format!("{prefix}ln_f.weight"),
            (Tensor::OutputNormBias, Naming::Llama) => format!("{prefix}norm.bias"),
            (Tensor::OutputNormBias, Naming::Gpt) => format!("{prefix}ln_f.bias"),
            (Tensor::Layer(layer, part), naming) => {
                format!("{}{layer}.{}", self.layers(), self.layer_name(part, naming))
            }
        }
    }

    fn layer_tensors(&self) -> Vec<String> {
        let layers = self.layers();
        let names = self.tensors.keys().filter(|name| name.starts_with(&layers));
        // Old files have the causal mask among the weights.
        let mask = |name: &str| {
            self.naming == Naming::Gpt
                && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"))
        };
        names.filter(|name| !mask(name)).cloned().collect()
    }

    fn named(&self, name: &str) -> Result<Option<TensorData<'_>>, String> {
        self.tensors.get(name).map(Entry::data).transpose()
    }
}

impl SafetensorsWeights {
    /// What the names of all layers begin with.
    fn layers(&self) -> String {
        let layers = match self.naming {
            Naming::Llama => "layers.",
            Naming::Gpt => "h.",
        };
        format!("{}{layers}", self.prefix.0)
    }

    fn layer_name(&self, part: LayerTensor, naming: Naming) -> &'static str {
        use LayerTensor as Part;
        if naming == Naming::Gpt {
            return gpt_name(part);
        }
        match (part, self.placement) {
            (Part::AttentionNorm, _) => "input_layernorm.weight",
            (Part::AttentionNormBias, _) => "input_layernorm.bias",
            (Part::Qkv, _) => "self_attn.qkv_proj.weight",
            (Part::Query, _) => "self_attn.q_proj.weight",
            (Part::Key, _) => "self_attn.k_proj.weight",
            (Part::Value, _) => "self_attn.v_proj.weight",
            (Part::QkvBias, _) => "self_attn.qkv_proj.bias",
            (Part::QueryBias, _) => "self_attn.q_proj.bias",
            (Part::KeyBias, _) => "self_attn.k_proj.bias",
            (Part::ValueBias, _) => "self_attn.v_proj.bias",
            (Part::QueryNorm, _) => "self_attn.q_norm.weight",
            (Part::KeyNorm, _) => "self_attn.k_norm.weight",
            (Part::AttentionOutput, _) => "self_attn.o_proj.weight",
            (Part::AttentionOutputBias, _) => "self_attn.o_proj.bias",
            // The norm that the Llama family has after attention stands before the feed-forward part.
            (Part::AttentionPostNorm, _) => "post_attention_layernorm.weight",
            (Part::FfnNorm, NormPlacement::PreAndPost) => "pre_feedforward_layernorm.weight",
            (Part::FfnNorm, NormPlacement::Pre | NormPlacement::Parallel) => {
                "post_attention_layernorm.weight"
            }
            (Part::FfnNormBias, _) => "post_attention_layernorm.bias",
            (Part::GateUp, _) => "mlp.gate_up_proj.weight",
            (Part::Gate, _) => "mlp.gate_proj.weight",
            (Part::Up, _) => "mlp.up_proj.weight",
            (Part::UpBias, _) => "mlp.up_proj.bias",
            (Part::Down, _) => "mlp.down_proj.weight",
            (Part::DownBias, _) => "mlp.down_proj.bias",
            (Part::FfnPostNorm, _) => "post_feedforward_layernorm.weight",
        }
    }
}

/// Below a layer of GPT-2's names; parts that such models do not have keep names that no file has.
fn gpt_name(part: LayerTensor) -> &'static str {
    use LayerTensor as Part;
    match part {
        Part::AttentionNorm => "ln_1.weight",
        Part::AttentionNormBias => "ln_1.bias",
        Part::Qkv => "attn.c_attn.weight",
        Part::QkvBias => "attn.c_attn.bias",
        Part::AttentionOutput => "attn.c_proj.weight",
        Part::AttentionOutputBias => "attn.c_proj.bias",
        Part::FfnNorm => "ln_2.weight",
        Part::FfnNormBias => "ln_2.bias",
        Part::Up => "mlp.c_fc.weight",
        Part::UpBias => "mlp.c_fc.bias",
        Part::Down => "mlp.c_proj.weight",
        Part::DownBias => "mlp.c_proj.bias",
        Part::Query => "attn.q.weight",
        Part::Key => "attn.k.weight",
        Part::Value => "attn.v.weight",
        Part::QueryBias => "attn.q.bias",
        Part::KeyBias => "attn.k.bias",
        Part::ValueBias => "attn.v.bias",
        Part::QueryNorm => "attn.q_norm.weight",
        Part::KeyNorm => "attn.k_norm.weight",
        Part::AttentionPostNorm => "attn.post_norm.weight",
        Part::GateUp => "mlp.gate_up.weight",
        Part::Gate => "mlp.gate.weight",
        Part::FfnPostNorm => "mlp.post_norm.weight",
    }
}

impl Entry {
    /// Its elements.
    pub(crate) fn data(&self) -> Result<TensorData<'_>, String> {
        let format = match self.dtype {
            Dtype::F32 => TensorFormat::F32,
            Dtype::F16 => TensorFormat::F16,
            Dtype::BF16 => TensorFormat::Bf16,
            other => return Err(format!("its type is {other:?}; F32, F16 and BF16 are supported")),
        };
        Ok(TensorData {
            shape: self.shape.clone(),
            format,
            bytes: TensorBytes::Stored(FilePart {
                file: &self.file,
                offset: self.offset,
                len: self.len,
            }),
        })
    }
}
