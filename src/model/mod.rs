//! Models as their files describe them, free of any device: what a checkpoint says about its model ([`spec`], read by
//! `config`), where its tensors are (`weights`), and adapters. Backends load what is read here.

mod adapter;
mod classifier;
mod config;
mod deberta;
mod encoder_config;
mod encoder_kind;
mod error;
pub mod estimator;
mod json_file;
mod load_error;
mod open;
pub mod spec;
mod tensors;
mod weight_summary;
mod weights;
mod xlm_roberta;

pub use self::{
    adapter::AdapterError,
    classifier::ClassifierFamily,
    encoder_kind::EncoderKind,
    error::{
        ConfigError, FileError, FileProblem, InvalidModel, KeyError, KeyProblem, TensorError, TensorProblem,
    },
    load_error::{LoadError, ResourceProblem},
    open::verdict_heads_of,
};
pub(crate) use self::{
    adapter::{AdapterWeights, Base, Extent, HeadOrder, Site},
    classifier::ClassifierConfig,
    encoder_config::{EncoderConfig, EncoderNorms, PositionProjections, Positions, RelativePositions},
    json_file::{CONFIG, read_json},
    load_error::LoadFault,
    open::open_decoder,
    tensors::Tensors,
    weight_summary::{ParameterCounts, WeightSummary},
    weights::{HeadTensor, LayerTensor, Tensor, TensorData, WeightSource},
};
