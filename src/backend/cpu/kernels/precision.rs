//! Which precision suits a processor, and what its instruction set is called.

use super::isa::{Isa, IsaKind};
use crate::model::spec::Precision;

impl Isa {
    /// The instruction set's name in provenance, which results and reports carry.
    pub fn name(self) -> &'static str {
        match self.0 {
            IsaKind::Amx => "amx",
            IsaKind::Avx512Vnni => "avx512-vnni",
            IsaKind::Avx512 => "avx512",
            IsaKind::Avx2 => "avx2",
            IsaKind::Portable => "portable",
        }
    }

    /// The fastest precision on this instruction set, for prompts and for answers. Instructions for tiles of bf16 are the
    /// fastest for many rows, and integers for the few rows of a decode step. Where there are no tiles, bf16 is as slow as
    /// f32, and integers are the fastest for both.
    pub fn best_precision(self) -> Precision {
        match self.0 {
            IsaKind::Amx => Precision::Mixed,
            IsaKind::Avx512Vnni | IsaKind::Avx512 | IsaKind::Avx2 | IsaKind::Portable => Precision::Int8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_computed_in_bf16_only_where_there_are_tiles() {
        for isa in Isa::available() {
            let tiles = isa.name() == "amx";
            let best = if tiles { Precision::Mixed } else { Precision::Int8 };
            assert_eq!(isa.best_precision(), best, "{}", isa.name());
        }
        assert_eq!(Isa::available().last().map(|isa| isa.name()), Some("portable"));
    }
}
