//! Rotary position embedding: its frequencies, and how they are scaled for long contexts.

use std::f64::consts::PI;

/// How a model pairs the dimensions of a head for rotary embedding (arXiv 2104.09864).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(0, 1), (2, 3), …`: the paper's, and GGUF's for the llama architecture.
    Interleaved,
    /// Halves `(0, d/2), (1, d/2 + 1), …`: Hugging Face checkpoints.
    Halves,
}

/// Which rotary frequencies a layer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// None: positions reach the layer through the causal order only (arXiv 2305.19466).
    None,
    /// Those that most layers use.
    Global,
    /// Those of the layers with a sliding window, in models where these have their own.
    Local,
}

/// Rotary embedding (arXiv 2104.09864) of a model's queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// How dimensions are paired.
    pub style: RopeStyle,
    /// Radians per position for each rotated pair of dimensions, scaling applied.
    pub frequencies: Vec<f32>,
    /// Factor on sines and cosines.
    pub magnitude: f32,
    /// Frequencies for context windows longer than the model was first trained with.
    pub long: Option<LongFrequencies>,
}

/// The second set of frequencies of LongRoPE (arXiv 2402.13753).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LongFrequencies {
    /// Context windows of more tokens than this use them.
    pub above: usize,
    pub frequencies: Vec<f32>,
}

impl Rope {
    /// Unscaled frequencies for `dims` dimensions, paired by halves.
    pub(crate) fn plain(theta: f64, dims: usize) -> Self {
        Self::new(RopeStyle::Halves, theta, dims, &Scaling::None)
    }

    /// The frequencies `theta^(-2i / dims)` of the `dims / 2` pairs, each changed by `scaling`.
    pub(crate) fn new(style: RopeStyle, theta: f64, dims: usize, scaling: &Scaling) -> Self {
        let base = |i: usize| theta.powf(-((2 * i) as f64) / dims as f64);
        let scaled = |factors: &[f64]| -> Vec<f32> {
            let factors = factors.iter().enumerate();
            factors.map(|(i, factor)| (base(i) / factor) as f32).collect()
        };
        let pairs = 0..dims / 2;
        let mut rope = Self {
            style,
            frequencies: Vec::new(),
            magnitude: 1.0,
            long: None,
        };
        rope.frequencies = match scaling {
            Scaling::None => pairs.map(|i| base(i) as f32).collect(),
            Scaling::Linear(factor) => pairs.map(|i| (base(i) / factor) as f32).collect(),
            Scaling::Llama3(scaling) => pairs.map(|i| scaling.apply(base(i)) as f32).collect(),
            Scaling::Divisors(factors) => scaled(factors),
            Scaling::Long(scaling) => {
                rope.magnitude = scaling.magnitude as f32;
                rope.long = Some(LongFrequencies {
                    above: scaling.original_context,
                    frequencies: scaled(&scaling.long),
                });
                scaled(&scaling.short)
            }
        };
        rope
    }

    /// Cosine and sine of the angle of each rotated pair of dimensions at a position.
    pub(crate) fn angles(&self, position: usize) -> impl Iterator<Item = (f32, f32)> {
        self.frequencies.iter().map(move |frequency| {
            // As in the reference, the angle is rounded to f32. Sine and cosine are computed in f64 and rounded once.
            let angle = f64::from(position as f32 * frequency);
            (
                angle.cos() as f32 * self.magnitude,
                angle.sin() as f32 * self.magnitude,
            )
        })
    }

    /// Settles which set of frequencies is used. It depends on the window that is served, not on a
    /// sequence's length: keys in the cache must fit whatever comes after them.
    pub(crate) fn choose(&mut self, context_length: usize) {
        if let Some(long) = self.long.take()
            && context_length > long.above
        {
            self.frequencies = long.frequencies;
        }
    }
}

/// How frequencies differ from the plain ones.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// All are divided by one factor (arXiv 2306.15595).
    Linear(f64),
    Llama3(Llama3Scaling),
    /// Each is divided by its own factor.
    Divisors(Vec<f64>),
    Long(LongScaling),
}

/// Llama 3.1's scaling: long wavelengths are stretched, short ones are kept, and those between are blended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Llama3Scaling {
    /// Divisor of the frequencies with long wavelengths.
    pub factor: f64,
    /// Wavelengths longer than the original context over this are stretched.
    pub low: f64,
    /// Wavelengths shorter than the original context over this are kept.
    pub high: f64,
    /// Context window of the first training, in tokens.
    pub original_context: f64,
}

impl Llama3Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * PI / frequency;
        if wavelength < self.original_context / self.high {
            frequency
        } else if wavelength > self.original_context / self.low {
            frequency / self.factor
        } else {
            let smooth = (self.original_context / wavelength - self.low) / (self.high - self.low);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

/// LongRoPE's scaling: a divisor for each pair, one set for context windows of the first training, one for longer ones.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LongScaling {
    pub short: Vec<f64>,
    pub long: Vec<f64>,
    /// Context window of the first training, in tokens.
    pub original_context: usize,
    /// Factor on sines and cosines.
    pub magnitude: f64,
}

impl LongScaling {
    /// The factor on sines and cosines when the file names none and context windows grow by `factor`. It sharpens attention,
    /// which spreads over more tokens.
    pub(crate) fn default_magnitude(factor: f64, original_context: usize) -> f64 {
        if factor <= 1.0 {
            1.0
        } else {
            (1.0 + factor.ln() / (original_context as f64).ln()).sqrt()
        }
    }
}

/// Why factors on rotary frequencies cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FactorsProblem {
    /// There is not one factor for each pair of dimensions that is rotated.
    #[error("has {found} factors for {pairs} rotated pairs of dimensions")]
    Count {
        /// Factors in the file.
        found: usize,
        /// Pairs of dimensions that the model rotates.
        pairs: usize,
    },
    /// A factor is 0 or below, infinite, or not a number.
    #[error("has a factor that is not a positive number")]
    NotPositive,
}

/// Checks factors on the frequencies of `pairs` pairs of dimensions.
pub(crate) fn check_factors(factors: &[f64], pairs: usize) -> Result<(), FactorsProblem> {
    if factors.len() != pairs {
        let found = factors.len();
        return Err(FactorsProblem::Count { found, pairs });
    }
    match factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
        true => Ok(()),
        false => Err(FactorsProblem::NotPositive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_frequencies_are_for_long_windows() {
        let scaling = Scaling::Long(LongScaling {
            short: vec![1.0, 2.0],
            long: vec![4.0, 8.0],
            original_context: 64,
            magnitude: 1.5,
        });
        let rope = Rope::new(RopeStyle::Halves, 100.0, 4, &scaling);
        let chosen = |context| {
            let mut rope = rope.clone();
            rope.choose(context);
            assert_eq!(rope.long, None);
            rope.frequencies
        };
        assert_eq!(chosen(64), [1.0, 0.05]);
        assert_eq!(chosen(65), [0.25, 0.0125]);
        assert_eq!(rope.magnitude, 1.5);
    }
}
