//! The kernels: their sources, how they are compiled, and their names.

/// The header that all sources include, and the name that they include it by.
pub const HEADER: (&str, &str) = ("device.cuh", include_str!("kernels/device.cuh"));

/// A source file, compiled to one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelFile {
    /// Operations on single rows.
    Rows,
    /// Attention over the paged cache, for heads of this size.
    Attention {
        /// Dimensions of a head.
        head: u32,
    },
    /// Updates of adapters.
    LowRank,
    /// Readouts of logits.
    Logits,
    /// Weights that stay packed.
    Packed,
    /// Made-up weights.
    Noise,
}

impl KernelFile {
    /// The name of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows.cu",
            Self::Attention { .. } => "attention.cu",
            Self::LowRank => "low_rank.cu",
            Self::Logits => "logits.cu",
            Self::Packed => "packed.cu",
            Self::Noise => "noise.cu",
        }
    }

    /// Its text.
    pub fn source(self) -> &'static str {
        match self {
            Self::Rows => include_str!("kernels/rows.cu"),
            Self::Attention { .. } => include_str!("kernels/attention.cu"),
            Self::LowRank => include_str!("kernels/low_rank.cu"),
            Self::Logits => include_str!("kernels/logits.cu"),
            Self::Packed => include_str!("kernels/packed.cu"),
            Self::Noise => include_str!("kernels/noise.cu"),
        }
    }

    /// The options that it is compiled with, beside the card's architecture. Products and sums are joined only where the
    /// source says so, or else the same sums would have other bits in other kernels.
    pub fn options(self) -> Vec<String> {
        let mut options = vec!["--std=c++17".to_owned(), "--fmad=false".to_owned()];
        if let Self::Attention { head } = self {
            options.push(format!("-DHEAD={head}"));
        }
        options
    }
}

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the sources say what each computes")]
pub enum Kernel {
    Embed,
    NormRows,
    NormHeads,
    RopeStore,
    Gate,
    Activate,
    AddBias,
    RoundRows,
    KeepRows,
    /// One block of threads goes through all segments of a tile's tokens.
    AttentionWhole {
        head: u32,
    },
    /// Each segment has a block of its own.
    AttentionSplit {
        head: u32,
    },
    /// Joins what [`Kernel::AttentionSplit`] computed.
    AttentionFold {
        head: u32,
    },
    LowRankDown,
    LowRankUp,
    ReadLogits,
    TopLogits,
    PackedProduct8,
    PackedProduct4,
    PackedExpand8,
    PackedExpand4,
    FillNoise,
}

impl Kernel {
    /// The file that it is in.
    pub fn file(self) -> KernelFile {
        match self {
            Self::Embed
            | Self::NormRows
            | Self::NormHeads
            | Self::RopeStore
            | Self::Gate
            | Self::Activate
            | Self::AddBias
            | Self::RoundRows
            | Self::KeepRows => KernelFile::Rows,
            Self::AttentionWhole { head } | Self::AttentionSplit { head } | Self::AttentionFold { head } => {
                KernelFile::Attention { head }
            }
            Self::LowRankDown | Self::LowRankUp => KernelFile::LowRank,
            Self::ReadLogits | Self::TopLogits => KernelFile::Logits,
            Self::PackedProduct8 | Self::PackedProduct4 | Self::PackedExpand8 | Self::PackedExpand4 => {
                KernelFile::Packed
            }
            Self::FillNoise => KernelFile::Noise,
        }
    }

    /// Its name in the compiled module.
    pub fn name(self) -> String {
        match self {
            Self::Embed => "embed".to_owned(),
            Self::NormRows => "norm_rows".to_owned(),
            Self::NormHeads => "norm_heads".to_owned(),
            Self::RopeStore => "rope_store".to_owned(),
            Self::Gate => "gate".to_owned(),
            Self::Activate => "activate".to_owned(),
            Self::AddBias => "add_bias".to_owned(),
            Self::RoundRows => "round_rows".to_owned(),
            Self::KeepRows => "keep_rows".to_owned(),
            Self::AttentionWhole { head } => format!("attention_whole_{head}"),
            Self::AttentionSplit { head } => format!("attention_split_{head}"),
            Self::AttentionFold { head } => format!("attention_fold_{head}"),
            Self::LowRankDown => "low_rank_down".to_owned(),
            Self::LowRankUp => "low_rank_up".to_owned(),
            Self::ReadLogits => "read_logits".to_owned(),
            Self::TopLogits => "top_logits".to_owned(),
            Self::PackedProduct8 => "packed_product_8".to_owned(),
            Self::PackedProduct4 => "packed_product_4".to_owned(),
            Self::PackedExpand8 => "packed_expand_8".to_owned(),
            Self::PackedExpand4 => "packed_expand_4".to_owned(),
            Self::FillNoise => "fill_noise".to_owned(),
        }
    }
}

/// Bytes of shared memory that a block of attention needs. As in `attention.cu`: a tile of queries, and two pairs of tiles of
/// keys and values.
pub fn attention_shared_bytes(head_dim: usize) -> u32 {
    let keys = if head_dim > 128 { 32 } else { 64 };
    ((64 + 4 * keys) * head_dim * size_of::<u16>()) as u32
}
