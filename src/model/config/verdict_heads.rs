//! What `config.json` says of the heads of Qwen3Guard-Stream (the remote code `Qwen3ForGuardModel`).

use std::{collections::BTreeMap, path::Path};

use serde_json::Value as Json;

use crate::model::{
    classifier::numbered_labels,
    error::{ConfigError, KeyError, KeyProblem},
    json_file::{CONFIG, read_json},
    spec::{HeadLabels, RiskLevel, VerdictHeads},
};

/// The largest width that is believed.
const MOST_WIDTH: usize = 1 << 16;

impl VerdictHeads {
    /// The `architectures` of the folder of such a model.
    pub(crate) const ARCHITECTURE: &str = "Qwen3ForGuardModel";

    /// Whether the folder `path` has such a model; `false` also where nothing can be read.
    pub(crate) fn are_in(path: &Path) -> bool {
        read_json(path, CONFIG).is_ok_and(|json| Self::are_of(&json))
    }

    fn are_of(json: &Json) -> bool {
        json["architectures"][0].as_str() == Some(Self::ARCHITECTURE)
    }

    /// The heads that a configuration describes; `None` where it is one of another model.
    ///
    /// # Errors
    /// When they cannot be computed; names the key.
    pub(crate) fn from_json(json: &Json) -> Result<Option<Self>, ConfigError> {
        if !Self::are_of(json) {
            return Ok(None);
        }
        const INNER: &str = "guard_inner_size";
        let inner = json[INNER].as_u64().and_then(|width| usize::try_from(width).ok());
        let inner = inner.filter(|width| (1..=MOST_WIDTH).contains(width));
        let inner = inner.ok_or_else(|| {
            KeyProblem::breaks(&json[INNER], format!("be a whole number from 1 to {MOST_WIDTH}")).of(INNER)
        })?;
        Ok(Some(Self {
            inner,
            answer: head_labels(json, "response_risk_level_map", "response_category_map")?,
            request: head_labels(json, "query_risk_level_map", "query_category_map")?,
        }))
    }
}

fn head_labels(json: &Json, risks: &str, categories: &str) -> Result<HeadLabels, KeyError> {
    let named = |key: &str| {
        let map: Option<BTreeMap<String, String>> = serde_json::from_value(json[key].clone()).ok();
        numbered_labels(key, map.unwrap_or_default())
    };
    let levels = named(risks)?;
    let levels = levels.iter().map(|name| match name.as_str() {
        "Safe" => Ok(RiskLevel::Safe),
        "Unsafe" => Ok(RiskLevel::Unsafe),
        "Controversial" => Ok(RiskLevel::Controversial),
        other => {
            let known = ["Safe", "Unsafe", "Controversial"];
            Err(KeyProblem::unsupported_text(other, known).of(risks))
        }
    });
    let levels: Vec<RiskLevel> = levels.collect::<Result<_, _>>()?;
    if !(levels.contains(&RiskLevel::Safe) && levels.contains(&RiskLevel::Unsafe)) {
        let found = format!("a list of {} labels", levels.len());
        return Err(KeyProblem::breaks(found, "have both Safe and Unsafe").of(risks));
    }
    Ok(HeadLabels {
        risks: levels,
        categories: named(categories)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::spec::HeadSide;

    fn sound() -> Json {
        json!({
            "architectures": [VerdictHeads::ARCHITECTURE], "guard_inner_size": 512,
            "response_risk_level_map": {"0": "Safe", "1": "Unsafe", "2": "Controversial"},
            "response_category_map": {"0": "Violent", "1": "PII"},
            "query_risk_level_map": {"0": "Safe", "1": "Unsafe", "2": "Controversial"},
            "query_category_map": {"0": "Violent", "1": "PII", "2": "Jailbreak"},
        })
    }

    #[test]
    fn labels_are_those_of_the_file_and_other_models_have_no_heads() {
        let heads = VerdictHeads::from_json(&sound()).unwrap().unwrap();
        assert_eq!(heads.inner, 512);
        assert_eq!(
            heads.answer.risks,
            [RiskLevel::Safe, RiskLevel::Unsafe, RiskLevel::Controversial]
        );
        assert_eq!(heads.request.categories, ["Violent", "PII", "Jailbreak"]);
        assert_eq!(HeadSide::ALL.map(|side| heads.logits(side)), [0..5, 5..11]);
        let other = json!({"architectures": ["Qwen3ForCausalLM"]});
        assert_eq!(VerdictHeads::from_json(&other).unwrap(), None);
        assert_eq!(VerdictHeads::from_json(&json!({})).unwrap(), None);
    }

    #[test]
    fn every_wrong_value_is_named() {
        for (key, value, expected) in [
            ("guard_inner_size", json!(0), "guard_inner_size is 0"),
            ("guard_inner_size", json!("wide"), "guard_inner_size is \"wide\""),
            ("guard_inner_size", Json::Null, "guard_inner_size is null"),
            (
                "query_risk_level_map",
                json!({"0": "Safe", "1": "Low Risk"}),
                "query_risk_level_map is `Low Risk`",
            ),
            (
                "response_risk_level_map",
                json!({"0": "Unsafe", "1": "Controversial"}),
                "response_risk_level_map is",
            ),
            (
                "response_category_map",
                json!({"0": "PII"}),
                "response_category_map is",
            ),
            (
                "response_category_map",
                json!(["PII", "Violent"]),
                "response_category_map is",
            ),
            (
                "query_category_map",
                json!({"0": "a", "1": "a"}),
                "query_category_map is",
            ),
        ] {
            let mut json = sound();
            json[key] = value;
            let error = VerdictHeads::from_json(&json).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{key}: {error}");
        }
    }
}
