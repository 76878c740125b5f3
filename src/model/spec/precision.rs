//! How exactly a model is computed: how products of activations and weights are, and how keys and values are stored.

use std::str::FromStr;

/// The precision of a model, as settings and provenance name it. It stands for how products are computed for each kind of
/// token ([`Precision::products`]) and how keys and values are stored ([`Precision::kv_format`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Products in f32, keys and values in f32: exact to rounding, and the slowest.
    F32,
    /// Products in bf16, keys and values in bf16: the fastest for many rows where the device multiplies tiles of bf16,
    /// as slow as f32 elsewhere.
    Bf16,
    /// Products with quantised weights in integers, keys and values in f16.
    Int8,
    /// Tokens of prompts as in [`Precision::Bf16`], and products of generated tokens as in [`Precision::Int8`]: where the
    /// device multiplies tiles of bf16, each kind of token in the way that is the fastest for it.
    Mixed,
}

/// What a token of a sequence is. It is known from the token's position and the length of the prompt that the sequence was
/// submitted with, so it never changes, whatever else is computed and however often the token is computed again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    /// A token of the prompt.
    #[default]
    Prompt,
    /// A token that the model has written.
    Generated,
}

impl Precision {
    /// All precisions.
    pub const ALL: [Self; 4] = [Self::Mixed, Self::Int8, Self::Bf16, Self::F32];

    /// The name that settings and provenance use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Mixed => "mixed",
        }
    }

    /// How products of activations and weights are computed for tokens of this kind.
    pub fn products(self, kind: TokenKind) -> Products {
        match (self, kind) {
            (Self::F32, _) => Products::F32,
            (Self::Bf16, _) | (Self::Mixed, TokenKind::Prompt) => Products::Bf16,
            (Self::Int8, _) | (Self::Mixed, TokenKind::Generated) => Products::Int8,
        }
    }

    /// How keys and values are stored: as exactly as the products that they come from, and in one way for all tokens.
    pub fn kv_format(self) -> KvFormat {
        match self {
            Self::F32 => KvFormat::F32,
            Self::Bf16 | Self::Mixed => KvFormat::Bf16,
            Self::Int8 => KvFormat::F16,
        }
    }
}

impl FromStr for Precision {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|precision| precision.name() == text);
        named.ok_or("there are mixed, int8, bf16 and f32")
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
    /// The fastest precision of the device.
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

    /// The precision to compute in, when `best` is the device's fastest one.
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
                .map_err(|_| "there are auto, mixed, int8, bf16 and f32"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let only = Precision::ALL.map(PrecisionChoice::Only);
        for choice in [PrecisionChoice::Auto].into_iter().chain(only) {
            assert_eq!(choice.name().parse(), Ok(choice));
        }
        assert!("int4".parse::<PrecisionChoice>().unwrap_err().contains("auto"));
    }

    #[test]
    fn only_mixed_computes_the_kinds_of_tokens_in_two_ways() {
        for precision in Precision::ALL {
            let [prompt, generated] =
                [TokenKind::Prompt, TokenKind::Generated].map(|kind| precision.products(kind));
            assert_eq!(
                prompt != generated,
                precision == Precision::Mixed,
                "{precision:?}"
            );
        }
        assert_eq!(Precision::Mixed.products(TokenKind::Prompt), Products::Bf16);
        assert_eq!(Precision::Mixed.products(TokenKind::Generated), Products::Int8);
        assert_eq!(Precision::Mixed.kv_format(), Precision::Bf16.kv_format());
    }
}
