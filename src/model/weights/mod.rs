//! Where weights come from: GGUF, safetensors (single or sharded), or made up for a shape.

mod dummy;
mod gguf;
mod safetensors;
mod source;

pub(crate) use self::{
    dummy::DummyWeights,
    gguf::GgufWeights,
    safetensors::{SafetensorsWeights, StoredTensor, read_folder, read_safetensors},
    source::{HeadTensor, LayerTensor, Tensor, TensorData, WeightSource},
};
