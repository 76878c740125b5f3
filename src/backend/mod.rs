//! Devices: what loads models and computes their steps.
//!
//! The contract is small. A [`Backend`] says what its device is and can do ([`DeviceInfo`]), what a model would take there
//! ([`Footprint`]), and loads it ([`LoadedModel`]). A loaded [`LanguageModel`] computes one step at a time: a packed
//! [`ForwardBatch`] is submitted, and the [`StepOutput`] holds what the [`Readout`] of each sequence asks for. The engine and
//! the registry know nothing else of a device.
//!
//! [`decoder`] is the forward pass of all families of decoders, once, over the operations of a device. [`cpu`] is the host
//! processor; `cuda`, a feature that is on by default, is NVIDIA's cards; `candle`, another, computes on candle's tensors.

mod batch;
mod candidates;
#[cfg(feature = "candle")]
pub mod candle;
mod ceilings;
mod contract;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decoder;
mod device;
mod finding;
mod limits;
mod output;
mod reading;
mod row;
mod self_test;
pub mod speed;
mod step_error;

pub use self::{
    batch::{AdapterIndex, BatchSequence, ForwardBatch, Readout},
    candidates::{Candidate, CandidateFilter, Candidates, MOST_CANDIDATES},
    ceilings::{Ceilings, CeilingsError, ProductCeiling},
    contract::{
        Backend, BatchLimits, DecodeLaunch, Footprint, LanguageModel, LoadOptions, LoadedAdapter, LoadedModel,
    },
    device::{CostPrior, Determinism, DeviceInfo, DeviceMemory, Execution},
    finding::{DeviceFinding, FindingStatus},
    limits::{GeneratedTokens, ModelLimits, NULL_BLOCK},
    output::{ProbeReading, Reading, StepOutput},
    reading::read_row,
    row::{argmax, log_sum_exp, logprob, row_max},
    step_error::StepError,
};
