//! Models as their files describe them, free of any device: what a checkpoint says about its model ([`spec`], read by
//! `config`), where its tensors are (`weights`), and adapters. Backends load what is read here.

mod adapter;
mod census;
mod config;
pub mod estimator;
mod open;
pub mod spec;
mod tensors;
mod weights;

pub use self::{adapter::AdapterError, census::Census, open::LoadError};
pub(crate) use self::{
    adapter::{AdapterWeights, Base, Extent, HeadOrder, Site},
    census::Tally,
    open::{ModelFault, open_decoder, read_config},
    tensors::{Tensors, tensor_fault},
    weights::{LayerTensor, Tensor, TensorData, WeightSource},
};
