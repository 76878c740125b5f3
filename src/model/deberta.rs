//! The configuration of a DeBERTa encoder of version 2 or 3 (arXiv 2006.03654, 2111.09543), by transformers' keys.

use serde::Deserialize;

use super::{
    encoder_config::{EncoderConfig, EncoderNorms, PositionProjections, Positions, RelativePositions},
    error::{KeyError, KeyProblem},
};

/// Longest sequence that is believed, in tokens. Attention keeps a table for each pair of a token and a distance.
const MOST_POSITIONS: usize = 8192;

/// The keys of an encoder in a `config.json`, under transformers' names. Where a key is missing, its value is transformers'.
#[derive(Deserialize)]
pub(super) struct DebertaFile {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    layer_norm_eps: f32,
    #[serde(default)]
    type_vocab_size: usize,
    #[serde(default)]
    relative_attention: bool,
    #[serde(default = "unset")]
    max_relative_positions: i64,
    #[serde(default = "unset")]
    position_buckets: i64,
    #[serde(default)]
    pos_att_type: PositionTerms,
    #[serde(default)]
    share_att_key: bool,
    #[serde(default)]
    norm_rel_ebd: Option<String>,
    #[serde(default = "yes")]
    position_biased_input: bool,
    #[serde(default)]
    conv_kernel_size: usize,
    #[serde(default)]
    embedding_size: Option<usize>,
    #[serde(default)]
    attention_head_size: Option<usize>,
    #[serde(default)]
    pooler_hidden_size: Option<usize>,
    #[serde(default)]
    pooler_hidden_act: Option<String>,
}

/// Which terms attention adds to the products of queries and keys: `c2p|p2c`, or a list of these.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum PositionTerms {
    #[default]
    None,
    Joined(String),
    Listed(Vec<String>),
}

/// What transformers takes for a number that is not given.
fn unset() -> i64 {
    -1
}

fn yes() -> bool {
    true
}

impl PositionTerms {
    /// The terms in the order of the alphabet.
    fn sorted(&self) -> Vec<String> {
        let mut terms: Vec<String> = match self {
            Self::None => Vec::new(),
            Self::Joined(terms) => terms.split('|').map(|term| term.trim().to_lowercase()).collect(),
            Self::Listed(terms) => terms.clone(),
        };
        terms.sort_unstable();
        terms
    }
}

impl DebertaFile {
    /// # Errors
    /// When no encoder can be made of it; names the key.
    pub(super) fn checked(self) -> Result<EncoderConfig, KeyError> {
        let supported = |key: &str, found: &str, known: &str| match found == known {
            true => Ok(()),
            false => Err(KeyProblem::unsupported_text(found, [known]).of(key)),
        };
        let breaks = |key: &str, found: &dyn ToString, rule: &str| {
            Err(KeyProblem::breaks(found.to_string(), rule).of(key))
        };
        supported("model_type", &self.model_type, "deberta-v2")?;
        supported("hidden_act", &self.hidden_act, "gelu")?;
        supported(
            "pooler_hidden_act",
            self.pooler_hidden_act.as_deref().unwrap_or("gelu"),
            "gelu",
        )?;
        supported("pos_att_type", &self.pos_att_type.sorted().join("|"), "c2p|p2c")?;
        if !self.relative_attention {
            return breaks("relative_attention", &false, "be true");
        }
        if self.position_biased_input {
            let rule = "be false, for no embeddings of positions are added to those of tokens";
            return breaks("position_biased_input", &true, rule);
        }
        if self.conv_kernel_size > 0 {
            let rule = "be absent or 0, for there are no convolutions";
            return breaks("conv_kernel_size", &self.conv_kernel_size, rule);
        }
        let head = self
            .hidden_size
            .checked_div(self.num_attention_heads)
            .unwrap_or(0);
        for (key, given, needed) in [
            ("embedding_size", self.embedding_size, self.hidden_size),
            ("pooler_hidden_size", self.pooler_hidden_size, self.hidden_size),
            ("attention_head_size", self.attention_head_size, head),
        ] {
            if let Some(found) = given.filter(|given| *given != needed) {
                return breaks(key, &found, &format!("be absent or {needed}"));
            }
        }
        if !(1..=MOST_POSITIONS).contains(&self.max_position_embeddings) {
            let rule = format!("be from 1 to {MOST_POSITIONS}");
            return breaks("max_position_embeddings", &self.max_position_embeddings, &rule);
        }
        let range = match usize::try_from(self.max_relative_positions) {
            Ok(range) if range > 0 => range,
            Ok(_) | Err(_) => self.max_position_embeddings,
        };
        // Another range than the file's would put distances into other buckets.
        if range > MOST_POSITIONS {
            let rule = format!("be at most {MOST_POSITIONS}");
            return breaks("max_relative_positions", &range, &rule);
        }
        let positions = RelativePositions {
            window: self.max_position_embeddings,
            range,
            buckets: usize::try_from(self.position_buckets)
                .ok()
                .filter(|buckets| *buckets > 0),
            projections: match self.share_att_key {
                true => PositionProjections::Shared,
                false => PositionProjections::Own,
            },
            normed: match self.norm_rel_ebd.as_deref() {
                None | Some("none") => false,
                Some("layer_norm") => true,
                Some(other) => {
                    let problem = KeyProblem::unsupported_text(other, ["none", "layer_norm"]);
                    return Err(problem.of("norm_rel_ebd"));
                }
            },
        };
        // Beyond the middle, buckets are by the logarithm of the distance over that of the range.
        if let Some(buckets) = positions.buckets
            && !(2..positions.range.saturating_mul(2) - 2).contains(&buckets)
        {
            let rule = format!(
                "be at least 2, and half of it less than the largest distance, {}",
                positions.range.saturating_sub(1)
            );
            return breaks("position_buckets", &buckets, &rule);
        }
        let config = EncoderConfig {
            norms: EncoderNorms::Post,
            vocab: self.vocab_size,
            hidden: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            ffn: self.intermediate_size,
            positions: Positions::Relative(positions),
            token_types: self.type_vocab_size,
            eps: self.layer_norm_eps,
        };
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What Microsoft's DeBERTa-v3 and mDeBERTa-v3 say, but for sizes.
    fn sound() -> Value {
        json!({
            "model_type": "deberta-v2", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 48, "hidden_act": "gelu", "layer_norm_eps": 1e-7,
            "max_position_embeddings": 512, "relative_attention": true, "position_buckets": 256,
            "norm_rel_ebd": "layer_norm", "share_att_key": true, "pos_att_type": "p2c|c2p",
            "max_relative_positions": -1, "position_biased_input": false, "type_vocab_size": 0
        })
    }

    fn checked(json: Value) -> Result<EncoderConfig, KeyError> {
        DebertaFile::deserialize(json).unwrap().checked()
    }

    fn relative(json: Value) -> RelativePositions {
        match checked(json).unwrap().positions {
            Positions::Relative(relative) => relative,
            Positions::Absolute { .. } => panic!("absolute"),
        }
    }

    #[test]
    fn published_settings_are_read_in_both_ways_of_writing_them() {
        let config = checked(sound()).unwrap();
        assert_eq!((config.window(), config.token_types), (512, 0));
        let mut listed = sound();
        listed["pos_att_type"] = json!(["p2c", "c2p"]);
        assert_eq!(checked(listed).unwrap(), config);
        let positions = relative(sound());
        assert_eq!(
            (positions.span(), positions.range, positions.normed),
            (256, 512, true)
        );
        let mut own = sound();
        own["share_att_key"] = json!(false);
        own["position_buckets"] = json!(-1);
        let own = relative(own);
        assert_eq!(own.projections, PositionProjections::Own);
        assert_eq!(own.span(), 512);
    }

    /// `tests/golden/classifiers/distances.json`.
    #[derive(Deserialize)]
    struct Distances {
        position_buckets: usize,
        max_relative_positions: usize,
        first_distance: isize,
        embeddings: Vec<usize>,
    }

    #[test]
    fn the_embedding_of_each_distance_is_that_of_transformers() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/classifiers/distances.json");
        let golden: Distances = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let positions = RelativePositions {
            range: golden.max_relative_positions,
            buckets: Some(golden.position_buckets),
            ..relative(sound())
        };
        assert_eq!(golden.embeddings.len(), 1023);
        for (distance, expected) in (golden.first_distance..).zip(golden.embeddings) {
            assert_eq!(positions.embedding(distance), expected, "{distance}");
        }
    }

    #[test]
    fn near_distances_have_embeddings_of_their_own_and_far_ones_share_them() {
        let positions = relative(sound());
        let of = |distance: isize| positions.embedding(distance);
        assert_eq!(
            (of(0), of(1), of(-1), of(128), of(-128)),
            (256, 257, 255, 384, 128)
        );
        assert_eq!((of(511), of(10_000), of(-10_000)), (511, 511, 0));
        for distance in 1..600 {
            assert!(of(distance) >= of(distance - 1) && of(-distance) <= of(1 - distance));
            assert!(
                of(distance) == 511 || of(distance) + of(-distance) == 512,
                "{distance}"
            );
        }
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (key, value) in [
            ("model_type", json!("deberta")),
            ("hidden_act", json!("relu")),
            ("pooler_hidden_act", json!("tanh")),
            ("pos_att_type", json!("c2p")),
            ("pos_att_type", json!([])),
            ("relative_attention", json!(false)),
            ("position_biased_input", json!(true)),
            ("conv_kernel_size", json!(3)),
            ("embedding_size", json!(16)),
            ("pooler_hidden_size", json!(16)),
            ("attention_head_size", json!(64)),
            ("max_position_embeddings", json!(0)),
            ("max_position_embeddings", json!(1_u64 << 40)),
            ("max_relative_positions", json!(MOST_POSITIONS + 1)),
            ("norm_rel_ebd", json!("rms")),
            ("position_buckets", json!(1)),
            ("position_buckets", json!(1022)),
            ("num_attention_heads", json!(0)),
            ("layer_norm_eps", json!(-1.0)),
        ] {
            let mut json = sound();
            json[key] = value;
            let error = checked(json).unwrap_err();
            assert_eq!(error.key, key, "{error}");
        }
    }
}
