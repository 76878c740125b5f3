//! How a model is asked to compute, and what a processor is good at.

use super::{Isa, isa::IsaKind};
use crate::model::spec::Precision;

/// What a processor multiplies operands in bf16 with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bf16Products {
    /// Instructions for whole tiles: of all precisions the fastest for many rows.
    Tiles,
    /// Vectors of f32: as slow as f32.
    Vectors,
}

impl Bf16Products {
    /// What is best for a model that judges: its work is prompts, which are many rows.
    pub fn best_for_judging(self) -> Precision {
        match self {
            Self::Tiles => Precision::Bf16,
            Self::Vectors => Precision::Int8,
        }
    }

    /// What is best for a model that only answers: most of its work is a row of each sequence at a time.
    pub fn best_for_answering(self) -> Precision {
        Precision::Int8
    }
}

impl Isa {
    /// As provenance writes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            IsaKind::Amx => "amx",
            IsaKind::Avx512Vnni => "avx512-vnni",
            IsaKind::Avx512 => "avx512",
            IsaKind::Avx2 => "avx2",
            IsaKind::Portable => "portable",
        }
    }

    /// What products in bf16 are computed with.
    pub fn bf16_products(self) -> Bf16Products {
        match self.0 {
            IsaKind::Amx => Bf16Products::Tiles,
            IsaKind::Avx512Vnni | IsaKind::Avx512 | IsaKind::Avx2 | IsaKind::Portable => {
                Bf16Products::Vectors
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tiles_make_bf16_the_best_for_judging() {
        for isa in Isa::available() {
            let tiles = isa.name() == "amx";
            let best = if tiles { Precision::Bf16 } else { Precision::Int8 };
            assert_eq!(isa.bf16_products().best_for_judging(), best, "{}", isa.name());
            assert_eq!(isa.bf16_products().best_for_answering(), Precision::Int8);
        }
        assert_eq!(Isa::available().last().map(|isa| isa.name()), Some("portable"));
    }
}
