//! LoRA adapters (arXiv 2106.09685): low-rank changes of a decoder's matrices, for some sequences of a batch.
//!
//! [`peft`] and [`gguf`] read what files have, in their own names and order, and [`dummy`] makes values up; here it is
//! checked against the base and brought into the base's order.

mod dummy;
mod error;
mod gguf;
mod module;
mod peft;

use std::{collections::BTreeMap, path::Path};

pub use self::error::AdapterError;
use self::module::Module;
pub(crate) use self::module::Site;
use super::{
    config::reorders_heads,
    spec::{LowRankPart, ModelConfig, Sizes},
    weights::TensorData,
};

/// What an adapter has to fit.
pub(crate) struct Base<'a> {
    pub config: &'a ModelConfig,
    /// As its file has them.
    pub heads: HeadOrder,
    /// `general.architecture`, when it is a GGUF file.
    pub gguf_architecture: Option<&'a str>,
}

/// The order of the rows of queries' and keys' heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadOrder {
    /// Hugging Face's: what is rotated together is half a head apart.
    Halves,
    /// llama.cpp's for some architectures: what is rotated together are neighbours.
    Neighbours,
}

impl HeadOrder {
    /// Of a GGUF file of this architecture, or of Hugging Face's tensors.
    pub(crate) fn of(gguf_architecture: Option<&str>) -> Self {
        match gguf_architecture {
            Some(architecture) if reorders_heads(architecture) => Self::Neighbours,
            _ => Self::Halves,
        }
    }
}

/// A file's adapter.
struct Contents {
    heads: HeadOrder,
    halves: Vec<Half>,
}

/// One of the two matrices of a change.
struct Half {
    /// The tensor's name.
    name: String,
    layer: usize,
    module: Module,
    side: Side,
    shape: Vec<usize>,
    /// None when only headers are read.
    values: Vec<f32>,
    /// As the configuration says, where it does.
    rank: Option<usize>,
    scaling: Scaling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
}

/// What a change is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scaling {
    /// This over the rank.
    Rank(f64),
    /// This over the rank's square root (arXiv 2312.03732).
    RankRoot(f64),
    /// Nothing.
    One,
}

impl Scaling {
    fn factor(self, rank: usize) -> f64 {
        match self {
            Self::Rank(alpha) => alpha / rank as f64,
            Self::RankRoot(alpha) => alpha / (rank as f64).sqrt(),
            Self::One => 1.0,
        }
    }
}

/// An adapter as its files have it, checked against its base and in the base's order of heads.
pub(crate) struct AdapterWeights {
    /// The largest rank of its updates.
    pub rank: usize,
    /// Number of its parameters.
    pub parameters: u64,
    /// For each layer and [`Site`], the updates of the product there. They do not overlap.
    pub layers: Vec<[Vec<LowRankPart>; Site::ALL.len()]>,
}

/// How much of an adapter's files is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Names and shapes: enough to know how much memory it will take.
    Headers,
    /// The values, too.
    Whole,
}

impl AdapterWeights {
    /// Reads a PEFT folder or a GGUF adapter, or makes up what `dummy:RANK` says.
    pub(crate) fn read(path: &Path, base: &Base<'_>, extent: Extent) -> Result<Self, AdapterError> {
        let dummy = path.to_str().and_then(|path| path.strip_prefix("dummy:"));
        let contents = match dummy {
            Some(rank) => dummy::read(rank, base, extent)?,
            None if path.is_dir() => peft::read(path, extent)?,
            None => gguf::read(path, base.gguf_architecture, extent)?,
        };
        let mut pairs: BTreeMap<(usize, Module), [Option<Half>; 2]> = BTreeMap::new();
        for half in contents.halves {
            let (pair, side) = ((half.layer, half.module), half.side as usize);
            pairs.entry(pair).or_default()[side] = Some(half);
        }
        let layers = base.config.layers.len();
        let mut changes = Self {
            rank: 0,
            parameters: 0,
            layers: (0..layers).map(|_| Default::default()).collect(),
        };
        for ((layer, module), pair) in pairs {
            let (a, mut b) = whole(pair)?;
            let Some(parts) = changes.layers.get_mut(layer) else {
                let reason = format!("tensor `{}`: the base has {layers} layers", a.name);
                return Err(AdapterError::Invalid(reason));
            };
            let sizes = base.config.sizes;
            let changed = module.outputs(sizes);
            let rank = rank_of(&a)?;
            a.expect_shape([rank, changed.inputs])?;
            b.expect_shape([changed.outputs, rank])?;
            b.scale(rank);
            for half in [&a, &b] {
                if half.values.iter().any(|value| !value.is_finite()) {
                    return Err(AdapterError::NotFinite(half.name.clone()));
                }
            }
            if contents.heads != base.heads && extent == Extent::Whole {
                b.values = reordered(b.values, rank, module, sizes, base.heads);
            }
            changes.rank = changes.rank.max(rank);
            changes.parameters += ((changed.inputs + changed.outputs) * rank) as u64;
            let part = LowRankPart {
                first_output: changed.first_output,
                outputs: changed.outputs,
                inputs: changed.inputs,
                rank,
                a: a.values,
                b: b.values,
            };
            let parts = &mut parts[changed.site as usize];
            let end = |part: &LowRankPart| part.first_output + part.outputs;
            let meets =
                |other: &LowRankPart| other.first_output < end(&part) && part.first_output < end(other);
            if parts.iter().any(meets) {
                let reason = format!("tensor `{}`: another one changes the same outputs", a.name);
                return Err(AdapterError::Invalid(reason));
            }
            parts.push(part);
        }
        if changes.parameters == 0 {
            return Err(AdapterError::Invalid("there are no tensors in it".into()));
        }
        Ok(changes)
    }
}

impl Extent {
    /// A tensor's values, when they are wanted.
    fn values(self, data: &TensorData<'_>) -> Result<Vec<f32>, String> {
        match self {
            Self::Headers => Ok(Vec::new()),
            Self::Whole => data.values(&data.shape),
        }
    }
}

impl Half {
    fn expect_shape(&self, expected: [usize; 2]) -> Result<(), AdapterError> {
        if self.shape == expected {
            return Ok(());
        }
        Err(AdapterError::Shape {
            tensor: self.name.clone(),
            found: self.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn scale(&mut self, rank: usize) {
        let factor = self.scaling.factor(rank) as f32;
        if factor != 1.0 {
            self.values.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

/// Both halves of a change.
fn whole(pair: [Option<Half>; 2]) -> Result<(Half, Half), AdapterError> {
    match pair {
        [Some(a), Some(b)] => Ok((a, b)),
        [Some(half), None] | [None, Some(half)] => {
            let names = [("lora_A", "lora_B"), ("lora_a", "lora_b")];
            let missing = names.into_iter().find_map(|(a, b)| {
                let (from, to) = if half.side == Side::A { (a, b) } else { (b, a) };
                half.name.contains(from).then(|| half.name.replace(from, to))
            });
            Err(AdapterError::MissingHalf {
                missing: missing.unwrap_or_default(),
                tensor: half.name,
            })
        }
        [None, None] => Err(AdapterError::Invalid("a change without tensors".into())),
    }
}

/// The rank that both halves must have: the configuration's, or else `a`'s.
fn rank_of(a: &Half) -> Result<usize, AdapterError> {
    let own = a.shape.first().copied().unwrap_or(0);
    match a.rank.unwrap_or(own) {
        0 => Err(AdapterError::Invalid(format!(
            "tensor `{}`: its rank is 0",
            a.name
        ))),
        rank => Ok(rank),
    }
}

/// The rows of `b` (`[outputs, rank]`), those of queries and keys in the other order.
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
