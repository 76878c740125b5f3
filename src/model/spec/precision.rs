//! How exactly a model is computed: how products of activations and weights are, and how keys and values are stored.

use std::str::FromStr;

/// The precision of a model, as settings and provenance name it. It stands for a pair: how products are computed
/// ([`Precision::products`]) and how keys and values are stored ([`Precision::kv_format`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Products in f32, keys and values in f32: exact to rounding, and the slowest.
    F32,
    /// Products in bf16, keys and values in bf16: the fastest for many rows where the device multiplies tiles of bf16,
    /// as slow as f32 elsewhere.
    Bf16,
    /// Products with quantised weights in integers, keys and values in f16.
    Int8,
}

impl Precision {
    /// The name that settings and provenance use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// How products of activations and weights are computed.
    pub fn products(self) -> Products {
        match self {
            Self::F32 => Products::F32,
            Self::Bf16 => Products::Bf16,
            Self::Int8 => Products::Int8,
        }
    }

    /// How keys and values are stored: as exactly as the products that they come from.
    pub fn kv_format(self) -> KvFormat {
        match self {
            Self::F32 => KvFormat::F32,
            Self::Bf16 => KvFormat::Bf16,
            Self::Int8 => KvFormat::F16,
        }
    }
}

impl FromStr for Precision {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err("there are int8, bf16 and f32"),
        }
    }
}

/// How products of activations and weights are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Products {
    /// Weights are expanded to f32 and multiplied with f32 activations.
    F32,
    /// Weights and activations are rounded to bf16, sums are f32.
    Bf16,
    /// With quantised weights: activations are rounded to eight bits per run of 32, and sums inside a run are exact
    /// integers. With float weights: as [`Products::F32`].
    Int8,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// As computed.
    F32,
    /// Rounded to f16 when they are stored; attention computes in f32.
    F16,
    /// Rounded to bf16, and so are queries and the numerators of softmax.
    Bf16,
}

/// The precision that a setting asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrecisionChoice {
    /// The device's best precision for the model's role.
    Auto,
    /// This precision, on every device.
    Only(Precision),
}

impl PrecisionChoice {
    /// The name that settings use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Only(precision) => precision.name(),
        }
    }

    /// The precision to compute in, when `best` is the device's best one for the model's role.
    pub fn or(self, best: Precision) -> Precision {
        match self {
            Self::Auto => best,
            Self::Only(precision) => precision,
        }
    }
}

impl FromStr for PrecisionChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Only)
                .map_err(|_| "there are auto, int8, bf16 and f32"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let only = [Precision::Int8, Precision::Bf16, Precision::F32].map(PrecisionChoice::Only);
        for choice in [PrecisionChoice::Auto].into_iter().chain(only) {
            assert_eq!(choice.name().parse(), Ok(choice));
        }
        assert!("int4".parse::<PrecisionChoice>().unwrap_err().contains("auto"));
    }
}
