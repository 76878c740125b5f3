//! GGUF files, for families that candle-transformers 0.11.1 has a quantized loader for. Weights are in bf16, so its products
//! are in f32.
//!
//! What it reads otherwise:
//! - Llama: the divisors of Llama 3's rotary frequencies (`rope_freqs.weight`) are not read. Both sides read a file without
//!   them.
//! - Qwen3: sines and cosines are in f16 unless the key `general.dtype` is 0, which no converter writes. The file has it.
//! - Gemma 3: gates go through SiLU, where the model has GELU. It is not compared.
//! - Gemma 2: its loader wants the norms of heads that only Gemma 3 has, so no file of the family can be loaded.
//! - Phi-3: an output layer is needed beside the embedding, heads are rotated whole, and LongRoPE is not known. Both sides
//!   read a file that is so.
//! - Mistral, Cohere and GPT-BigCode have no loader, or no file among the golden checkpoints.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Cursor,
    path::PathBuf,
};

use candle_core::{
    Device, Tensor,
    quantized::{
        QTensor,
        gguf_file::{self, Content, Value},
    },
};
use candle_transformers::models::{
    quantized_gemma3, quantized_llama, quantized_phi3, quantized_qwen2, quantized_qwen3,
};
use tempfile::TempDir;

use crate::{compare, distance, golden, input, last_row, open, ours, prompt};

/// Metadata and tensors of a GGUF file.
struct Contents {
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, QTensor>,
}

/// A GGUF file of a changed golden checkpoint.
struct Edited {
    _folder: TempDir,
    path: PathBuf,
}

impl Edited {
    fn new(name: &str, edit: impl FnOnce(&mut Contents)) -> Self {
        let mut file = File::open(golden(name).join("model.gguf")).unwrap();
        let content = Content::read(&mut file).unwrap();
        let tensors = content.tensor_infos.keys().map(|name| {
            let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            (name.clone(), tensor)
        });
        let mut contents = Contents {
            tensors: tensors.collect(),
            metadata: content.metadata,
        };
        edit(&mut contents);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let metadata: Vec<_> = contents
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<_> = contents
            .tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let mut out = File::create(&path).unwrap();
        gguf_file::write(&mut out, &metadata, &tensors).unwrap();
        Self {
            _folder: folder,
            path,
        }
    }

    /// Compares what `load` makes of the file; its model is loaded anew for each prompt, for there is no other way to forget.
    fn compare<M>(
        &self,
        load: impl Fn(Content, &mut Cursor<Vec<u8>>) -> candle_core::Result<M>,
        forward: impl Fn(&mut M, &Tensor) -> candle_core::Result<Tensor>,
    ) {
        let bytes = fs::read(&self.path).unwrap();
        compare(&self.path, |tokens| {
            let mut reader = Cursor::new(bytes.clone());
            let content = Content::read(&mut reader).unwrap();
            let mut model = load(content, &mut reader).unwrap();
            last_row(&forward(&mut model, &input(tokens)).unwrap())
        });
    }
}

#[test]
fn llama() {
    let file = Edited::new("llama3-rope-tied-bf16", |contents| {
        contents.tensors.remove("rope_freqs.weight").unwrap();
    });
    file.compare(
        |content, reader| quantized_llama::ModelWeights::from_gguf(content, reader, &Device::Cpu),
        |model, tokens| model.forward(tokens, 0),
    );
}

#[test]
fn qwen2() {
    Edited::new("qwen2", |_| {}).compare(
        |content, reader| quantized_qwen2::ModelWeights::from_gguf(content, reader, &Device::Cpu),
        |model, tokens| model.forward(tokens, 0),
    );
}

#[test]
fn qwen3() {
    let file = Edited::new("qwen3", |contents| {
        contents
            .metadata
            .insert("general.dtype".to_owned(), Value::U32(0));
    });
    file.compare(
        |content, reader| quantized_qwen3::ModelWeights::from_gguf(content, reader, &Device::Cpu),
        |model, tokens| model.forward(tokens, 0),
    );
}

/// At the first position nothing is rotated and no window counts, so what differs is the gate.
#[test]
fn gemma3_has_another_activation() {
    let path = golden("gemma3").join("model.gguf");
    let mut file = File::open(&path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut model = quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
    let tokens = prompt(1);
    let theirs = last_row(&model.forward(&input(&tokens), 0).unwrap());
    assert!(distance(&ours(&mut open(&path), &tokens), &theirs) > 0.1);
}

#[test]
fn phi3() {
    let file = Edited::new("phi3-longrope", |contents| {
        contents
            .tensors
            .retain(|name, _| !name.starts_with("rope_factors_"));
        contents
            .metadata
            .retain(|key, _| !key.starts_with("phi3.rope.scaling."));
        contents
            .metadata
            .insert("phi3.rope.dimension_count".to_owned(), Value::U32(32));
        let embedding = contents.tensors["token_embd.weight"]
            .dequantize(&Device::Cpu)
            .unwrap();
        let output = QTensor::quantize(&embedding, candle_core::quantized::GgmlDType::F32).unwrap();
        contents.tensors.insert("output.weight".to_owned(), output);
    });
    file.compare(
        |content, reader| quantized_phi3::ModelWeights::from_gguf(false, content, reader, &Device::Cpu),
        |model, tokens| model.forward(tokens, 0),
    );
}

#[test]
fn gemma2_cannot_be_loaded_for_want_of_norms_that_it_does_not_have() {
    let mut file = File::open(golden("gemma2").join("model.gguf")).unwrap();
    let content = Content::read(&mut file).unwrap();
    let error = quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).err();
    let error = error.expect("candle loads Gemma 2 now: compare it").to_string();
    assert!(error.contains("attn_q_norm"), "{error}");
}
