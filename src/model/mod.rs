//! Models as their files describe them, free of any device: what a checkpoint says about its model ([`spec`], read by
//! `config`), where its tensors are (`weights`), and adapters. Backends load what is read here.

mod adapter;
mod config;
mod error;
pub mod estimator;
mod json_file;
mod load_error;
mod open;
pub mod spec;
mod tensors;
mod weight_summary;
mod weights;

pub use self::{
    adapter::AdapterError,
    error::{
        ConfigError, FileError, FileProblem, InvalidModel, KeyError, KeyProblem, TensorError, TensorProblem,
    },
    load_error::{LoadError, ResourceProblem},
};
pub(crate) use self::{
    adapter::{AdapterWeights, Base, Extent, HeadOrder, Site},
    json_file::{CONFIG, read_json},
    load_error::LoadFault,
    open::open_decoder,
    tensors::Tensors,
    weight_summary::{ParameterCounts, WeightSummary},
    weights::{LayerTensor, Tensor, TensorData, WeightSource},
};
