//! Weights of a Hugging Face folder: `model.safetensors`, or shards named by `model.safetensors.index.json`.

use std::{collections::BTreeMap, collections::HashMap, path::Path, sync::Arc};

use safetensors::{Dtype, tensor::Metadata};
use serde_json::Value as Json;

use super::source::{FileRange, HeadTensor, LayerTensor, Tensor, TensorBytes, TensorData, WeightSource};
use crate::{
    files::Pieces,
    model::{
        error::{FileError, FileProblem, KeyProblem, TensorProblem},
        json_file::read_json,
        spec::{HeadSide, NormPlacement, TensorFormat},
    },
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest header that is read; the safetensors library has the same limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// How a folder names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// The names of Llama, which most families follow.
    Llama,
    /// The names of GPT-2.
    Gpt,
}

/// What the names of GPT-2's tensors begin with.
const GPT_PREFIX: &str = "transformer.";

/// What the names of a decoder's tensors begin with, each with the name of the output projection: of a decoder by itself,
/// and of one inside of a model that also sees pictures (older and newer layout). The first that matches counts.
const PREFIXES: [(&str, &str); 3] = [
    ("model.", "lm_head.weight"),
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
];

pub(crate) struct SafetensorsWeights {
    tensors: HashMap<String, StoredTensor>,
    /// One of [`PREFIXES`], or [`GPT_PREFIX`].
    prefix: (&'static str, &'static str),
    naming: Naming,
    placement: NormPlacement,
}

/// A tensor in a file.
pub(crate) struct StoredTensor {
    file: Arc<Pieces>,
    offset: u64,
    len: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl SafetensorsWeights {
    /// Reads the headers of all files of the folder. What norms are called depends on where they stand.
    pub(crate) fn open(folder: &Path, placement: NormPlacement) -> Result<Self, FileError> {
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

/// The names of Qwen3Guard-Stream's heads.
fn head_name(side: HeadSide, part: HeadTensor) -> &'static str {
    match (side, part) {
        (HeadSide::Answer, HeadTensor::Inner) => "risk_level_category_pre.weight",
        (HeadSide::Answer, HeadTensor::InnerNorm) => "risk_level_category_layernorm.weight",
        (HeadSide::Answer, HeadTensor::Risk) => "risk_level_head.weight",
        (HeadSide::Answer, HeadTensor::Category) => "category_head.weight",
        (HeadSide::Request, HeadTensor::Inner) => "query_risk_level_category_pre.weight",
        (HeadSide::Request, HeadTensor::InnerNorm) => "query_risk_level_category_layernorm.weight",
        (HeadSide::Request, HeadTensor::Risk) => "query_risk_level_head.weight",
        (HeadSide::Request, HeadTensor::Category) => "query_category_head.weight",
    }
}

/// All tensors of a folder, by name.
pub(crate) fn read_folder(folder: &Path) -> Result<HashMap<String, StoredTensor>, FileError> {
    if !folder.join(INDEX).exists() {
        return read_safetensors(&folder.join(SINGLE)).map_err(|problem| problem.of(SINGLE));
    }
    let json = read_json(folder, INDEX)?;
    let mut tensors = HashMap::new();
    for (file, names) in shards(&json).map_err(|problem| problem.of(INDEX))? {
        let found = read_safetensors(&folder.join(file)).map_err(|problem| problem.of(file))?;
        if let Some(missing) = names.iter().find(|name| !found.contains_key(**name)) {
            let tensor = (*missing).to_owned();
            return Err(FileProblem::NotAsIndexed { tensor }.of(file));
        }
        tensors.extend(found);
    }
    Ok(tensors)
}

/// The tensors of each file that an index names.
fn shards(index: &Json) -> Result<BTreeMap<&str, Vec<&str>>, FileProblem> {
    let invalid = |key: &str, problem: KeyProblem| FileProblem::Config(problem.of(key).into());
    let map = index["weight_map"]
        .as_object()
        .ok_or_else(|| invalid("weight_map", KeyProblem::Missing))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let key = || format!("weight_map.{tensor}");
        let Some(file) = file.as_str() else {
            let expected = "a file name".to_owned();
            return Err(invalid(&key(), KeyProblem::NotA { expected }));
        };
        // A shard lies beside its index; a path that leads elsewhere is not a shard.
        if Path::new(file).components().count() != 1 || file == ".." {
            let found = file.to_owned();
            return Err(invalid(&key(), KeyProblem::NotAPlainFileName { found }));
        }
        shards.entry(file).or_default().push(tensor);
    }
    Ok(shards)
}

/// All tensors of one file, by name.
pub(crate) fn read_safetensors(path: &Path) -> Result<HashMap<String, StoredTensor>, FileProblem> {
    let file = Pieces::open(path).map_err(FileProblem::Read)?;
    let mut length = [0; 8];
    file.read_at(0, &mut length).map_err(FileProblem::HeaderRead)?;
    let bytes = u64::from_le_bytes(length);
    let data_start = bytes.checked_add(length.len() as u64);
    let data_start = data_start.filter(|start| *start <= file.len() && bytes <= MAX_HEADER_BYTES);
    let data_start = data_start.ok_or(FileProblem::HeaderLength { bytes })?;
    let mut header = vec![0; bytes as usize];
    file.read_at(length.len() as u64, &mut header)
        .map_err(FileProblem::HeaderRead)?;
    // The library checks that tensors lie side by side and have the bytes of their shapes.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(FileProblem::Header)?;
    if data_start.checked_add(metadata.data_len() as u64) != Some(file.len()) {
        return Err(FileProblem::Length {
            found: file.len(),
            data: metadata.data_len(),
            header: data_start,
        });
    }
    let file = Arc::new(file);
    let stored = |info: &safetensors::tensor::TensorInfo| StoredTensor {
        file: Arc::clone(&file),
        offset: data_start + info.data_offsets.0 as u64,
        len: info.data_offsets.1 - info.data_offsets.0,
        dtype: info.dtype,
        shape: info.shape.clone(),
    };
    let tensors = metadata.tensors().into_iter();
    Ok(tensors.map(|(name, info)| (name, stored(info))).collect())
}

impl WeightSource for SafetensorsWeights {
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, TensorProblem> {
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
            (Tensor::Verdict(side, part), _) => head_name(side, part).into(),
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

    fn named(&self, name: &str) -> Result<Option<TensorData<'_>>, TensorProblem> {
        self.tensors.get(name).map(StoredTensor::data).transpose()
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

/// The name of a tensor of a GPT-2 layer, below the layer's own. Parts that such models do not have get names that no
/// file has.
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

impl StoredTensor {
    /// The tensor with its elements, which stay in the file.
    pub(crate) fn data(&self) -> Result<TensorData<'_>, TensorProblem> {
        let format = match self.dtype {
            Dtype::F32 => TensorFormat::F32,
            Dtype::F16 => TensorFormat::F16,
            Dtype::BF16 => TensorFormat::Bf16,
            other => {
                let found = format!("{other:?}");
                return Err(TensorProblem::Type { found });
            }
        };
        Ok(TensorData {
            shape: self.shape.clone(),
            format,
            bytes: TensorBytes::Stored(FileRange {
                file: &self.file,
                offset: self.offset,
                len: self.len,
            }),
        })
    }
}
