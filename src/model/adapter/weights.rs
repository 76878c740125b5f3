//! An adapter's matrices, checked against its base.

use std::{collections::BTreeMap, path::Path};

use super::{
    base::{Base, HeadOrder},
    contents::{Extent, LoraFactor, Side},
    dummy,
    error::AdapterError,
    gguf,
    module::{Module, Site},
    peft,
};
use crate::model::spec::{LowRankPart, Sizes};

/// An adapter as its files have it, checked against its base and in the base's order of heads.
pub(crate) struct AdapterWeights {
    /// The largest rank of its updates.
    pub rank: usize,
    /// Number of its parameters.
    pub parameters: u64,
    /// For each layer and [`Site`], the updates of the product there. They do not overlap.
    pub layers: Vec<[Vec<LowRankPart>; Site::ALL.len()]>,
}

impl AdapterWeights {
    /// Reads a PEFT folder or a GGUF adapter, or makes up what `dummy:RANK` says.
    ///
    /// # Errors
    /// When a file cannot be read or is no adapter of the base; names the tensor or key.
    pub(crate) fn read(path: &Path, base: &Base<'_>, extent: Extent) -> Result<Self, AdapterError> {
        let dummy = path.to_str().and_then(|path| path.strip_prefix("dummy:"));
        let contents = match dummy {
            Some(rank) => dummy::read(rank, base, extent)?,
            None if path.is_dir() => peft::read(path, extent)?,
            None => gguf::read(path, base.gguf_architecture, extent)?,
        };
        let mut pairs: BTreeMap<(usize, Module), [Option<LoraFactor>; 2]> = BTreeMap::new();
        for factor in contents.factors {
            let (pair, side) = ((factor.layer, factor.module), factor.side as usize);
            pairs.entry(pair).or_default()[side] = Some(factor);
        }
        let mut weights = Self {
            rank: 0,
            parameters: 0,
            layers: base.config.layers.iter().map(|_| Default::default()).collect(),
        };
        for pair in pairs.into_values() {
            let (a, mut b) = both(pair)?;
            let sizes = base.config.sizes;
            let changed = a.module.outputs(sizes);
            let rank = rank_of(&a)?;
            let layers = weights.layers.len();
            let Some(sites) = weights.layers.get_mut(a.layer) else {
                return Err(AdapterError::NoLayer {
                    tensor: a.name,
                    layers,
                });
            };
            a.expect_shape([rank, changed.inputs])?;
            b.expect_shape([changed.outputs, rank])?;
            b.scale(rank);
            a.expect_finite()?;
            b.expect_finite()?;
            if contents.heads != base.heads && extent == Extent::Whole {
                b.values = reordered(b.values, rank, b.module, sizes, base.heads);
            }
            let part = LowRankPart {
                first_output: changed.first_output,
                outputs: changed.outputs,
                inputs: changed.inputs,
                rank,
                a: a.values,
                b: b.values,
            };
            let parts = &mut sites[changed.site as usize];
            let end = |part: &LowRankPart| part.first_output + part.outputs;
            let overlaps =
                |other: &LowRankPart| other.first_output < end(&part) && part.first_output < end(other);
            if parts.iter().any(overlaps) {
                return Err(AdapterError::Overlap(a.name));
            }
            parts.push(part);
            weights.rank = weights.rank.max(rank);
            weights.parameters += ((changed.inputs + changed.outputs) * rank) as u64;
        }
        if weights.parameters == 0 {
            return Err(AdapterError::Empty);
        }
        Ok(weights)
    }
}

/// Both matrices of an update, `A` first.
fn both(pair: [Option<LoraFactor>; 2]) -> Result<(LoraFactor, LoraFactor), AdapterError> {
    match pair {
        [Some(a), Some(b)] => Ok((a, b)),
        [Some(factor), None] | [None, Some(factor)] => {
            let names = [("lora_A", "lora_B"), ("lora_a", "lora_b")];
            let missing = names.into_iter().find_map(|(a, b)| {
                let (from, to) = match factor.side {
                    Side::A => (a, b),
                    Side::B => (b, a),
                };
                factor.name.contains(from).then(|| factor.name.replace(from, to))
            });
            Err(AdapterError::MissingHalf {
                missing: missing.unwrap_or_default(),
                tensor: factor.name,
            })
        }
        [None, None] => Err(AdapterError::Empty),
    }
}

/// The rank that both matrices must have: the configuration's, or else that of `a`.
fn rank_of(a: &LoraFactor) -> Result<usize, AdapterError> {
    let own = a.shape.first().copied().unwrap_or(0);
    match a.rank.unwrap_or(own) {
        0 => Err(AdapterError::NoRank(a.name.clone())),
        rank => Ok(rank),
    }
}

/// The rows of `b` (`[outputs, rank]`), with those of queries and keys brought into the order `to`.
fn reordered(b: Vec<f32>, rank: usize, module: Module, sizes: Sizes, to: HeadOrder) -> Vec<f32> {
    let (heads, dim) = match module {
        Module::Query => (sizes.heads, sizes.head_dim),
        Module::Key => (sizes.kv_heads, sizes.head_dim),
        Module::Qkv => (sizes.heads + sizes.kv_heads, sizes.head_dim),
        _ => return b,
    };
    let mut out = b.clone();
    for head in 0..heads {
        for pair in 0..dim / 2 {
            for half in 0..2 {
                let (apart, together) = (half * (dim / 2) + pair, 2 * pair + half);
                let (from, to) = match to {
                    HeadOrder::Neighbours => (apart, together),
                    HeadOrder::Halves => (together, apart),
                };
                let row = |index: usize| (head * dim + index) * rank..(head * dim + index + 1) * rank;
                out[row(to)].copy_from_slice(&b[row(from)]);
            }
        }
    }
    out
}
