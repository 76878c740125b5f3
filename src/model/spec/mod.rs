//! What a model is, free of any device: its sizes and family, its activations, norms and rotary embedding, the shape
//! of its attention, the formats its tensors are stored in, how exactly it is to be computed, and the names of devices it may be computed on.
//!
//! Readers of files ([`crate::model`]) produce these types and backends ([`crate::backend`]) consume them. Nothing here
//! allocates device memory or runs arithmetic on activations.

mod activation;
mod attention;
mod decoder;
mod device;
mod family;
mod low_rank;
mod matrix_source;
mod noise;
mod norm;
mod precision;
mod rotary;
mod stored_bytes;
mod tensor_format;
mod verdict_heads;

#[cfg(feature = "cuda")]
pub(crate) use self::tensor_format::Group;
pub use self::{
    activation::{Activation, Pointwise},
    attention::{AttentionLayer, AttentionShape},
    device::{CandleDevice, DeviceChoice, DeviceName},
    low_rank::LowRankPart,
    matrix_source::{MatrixSource, RawElements},
    noise::Noise,
    norm::NormKind,
    precision::{KvFormat, Precision, PrecisionChoice, Products, TokenKind},
    rotary::{FactorsProblem, RopeStyle},
    stored_bytes::StoredBytes,
    tensor_format::{FormatError, TensorFormat},
    verdict_heads::{HeadLabels, HeadSide, RiskLevel, VerdictHeads},
};
pub(crate) use self::{
    decoder::{ModelConfig, Sizes},
    family::{Biases, Family, FeedForward, HeadNorms, NormPlacement, NormWeights, sliding_layers},
    matrix_source::dequantize,
    rotary::{Llama3Scaling, LongScaling, Rope, Rotation, Scaling, check_factors},
    tensor_format::Factor,
};
