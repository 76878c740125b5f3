//! Made-up adapters of all of a layer's matrices: for measuring speed without files.

use super::{
    base::Base,
    contents::{Contents, Extent, LoraFactor, Scaling, Side},
    error::AdapterError,
    module::Module,
};

/// The matrices that common trainers call all linear layers.
const MODULES: [Module; 7] = [
    Module::Query,
    Module::Key,
    Module::Value,
    Module::AttentionOutput,
    Module::Gate,
    Module::Up,
    Module::Down,
];

/// An adapter of the rank that `rank` spells. Its values are noise of a plausible size, always the same for a rank.
pub(super) fn read(rank: &str, base: &Base<'_>, extent: Extent) -> Result<Contents, AdapterError> {
    let number = rank.parse().ok().filter(|rank| (1..=1024).contains(rank));
    let rank: usize = number.ok_or_else(|| AdapterError::DummyRank(rank.to_owned()))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut factors = Vec::new();
    for layer in 0..base.config.layers.len() {
        for module in MODULES {
            let changed = module.outputs(base.config.sizes);
            for (side, shape) in [
                (Side::A, [rank, changed.inputs]),
                (Side::B, [changed.outputs, rank]),
            ] {
                // The update is small beside what the base computes, so that activations keep their size.
                let amplitude = 0.3 / (shape[1] as f32).sqrt();
                let mut noise = || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    amplitude * (state as i64 as f64 / i64::MAX as f64) as f32
                };
                factors.push(LoraFactor {
                    name: format!("dummy.{layer}.{module:?}.{side:?}"),
                    layer,
                    module,
                    side,
                    values: match extent {
                        Extent::Headers => Vec::new(),
                        Extent::Whole => std::iter::repeat_with(&mut noise)
                            .take(shape[0] * shape[1])
                            .collect(),
                    },
                    shape: shape.to_vec(),
                    rank: None,
                    scaling: Scaling::One,
                });
            }
        }
    }
    Ok(Contents {
        heads: base.heads,
        factors,
    })
}
