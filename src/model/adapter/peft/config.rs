//! `adapter_config.json`.

use fancy_regex::Regex;
use serde_json::Value as Json;

use super::{
    super::{AdapterError, Module, Scaling},
    CONFIG, unknown,
};

/// Ways to begin training that leave the base as it is. The others change it: what is saved belongs to that
/// changed base.
const PLAIN_BEGINNINGS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Settings that would have to be computed, each with what it is.
const UNSUPPORTED: [(&str, &str); 14] = [
    ("use_dora", "DoRA"),
    ("lora_bias", "a trained bias"),
    ("fan_in_fan_out", "an adapter of transposed matrices"),
    ("modules_to_save", "an adapter with modules of its own"),
    ("trainable_token_indices", "an adapter with embeddings of its own"),
    ("target_parameters", "an adapter of single parameters"),
    ("layer_replication", "an adapter that repeats layers"),
    (
        "alora_invocation_tokens",
        "an adapter that begins amid a sequence",
    ),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("arrow_config", "Arrow"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
    ("megatron_config", "an adapter for Megatron"),
];

/// How an adapter is to be applied.
pub(super) struct PeftConfig {
    rank: usize,
    alpha: f64,
    rank_stabilised: bool,
    /// Modules with a rank of their own; the first that matches counts.
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    target: Target,
}

/// `target_modules`
enum Target {
    /// `all-linear`, or nothing said.
    All,
    /// Ends of modules' paths.
    Ends(Vec<String>),
    /// What a whole path must look like.
    Pattern(Regex),
}

fn invalid(reason: impl std::fmt::Display) -> AdapterError {
    AdapterError::Invalid(format!("{CONFIG}: {reason}"))
}

impl PeftConfig {
    pub(super) fn read(json: &Json) -> Result<Self, AdapterError> {
        refuse_unsupported(json)?;
        let number = |key: &str| json[key].as_f64().filter(|value| value.is_finite());
        let alpha = number("lora_alpha").ok_or_else(|| invalid("lora_alpha is not a number"))?;
        let rank = rank(&json["r"]).ok_or_else(|| invalid("r is not a whole number above 0"))?;
        Ok(Self {
            rank,
            alpha,
            rank_stabilised: json["use_rslora"].as_bool().unwrap_or(false),
            ranks: patterns(json, "rank_pattern", self::rank)?,
            alphas: patterns(json, "alpha_pattern", Json::as_f64)?,
            target: Target::read(&json["target_modules"])?,
        })
    }

    /// Rank and factor of the module with this path.
    pub(super) fn scaling(&self, path: &str) -> Result<(usize, Scaling), String> {
        let rank = first_match(&self.ranks, path)?.unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, path)?.unwrap_or(self.alpha);
        let scaling = if self.rank_stabilised {
            Scaling::RankRoot(alpha)
        } else {
            Scaling::Rank(alpha)
        };
        Ok((rank, scaling))
    }

    /// Whether the module with this path is to be changed.
    pub(super) fn targets(&self, path: &str) -> Result<bool, String> {
        match &self.target {
            Target::All => Ok(true),
            Target::Ends(ends) => Ok(ends.iter().any(|end| ends_in(path, end))),
            Target::Pattern(pattern) => pattern.is_match(path).map_err(|e| format!("target_modules: {e}")),
        }
    }

    /// Whether there is something for each of the targets, given the modules that there is something for.
    pub(super) fn expect_all_of(&self, paths: &[&str]) -> Result<(), AdapterError> {
        let Target::Ends(ends) = &self.target else {
            return Ok(());
        };
        for end in ends {
            if paths.iter().any(|path| ends_in(path, end)) {
                continue;
            }
            let name = |module: &Module| ends_in(end, module.hf_name()) || ends_in(module.hf_name(), end);
            return Err(if Module::ALL.iter().any(name) {
                invalid(format!(
                    "target_modules names `{end}`, but there are no tensors for it"
                ))
            } else {
                unknown(end)
            });
        }
        Ok(())
    }
}

impl Target {
    fn read(json: &Json) -> Result<Self, AdapterError> {
        match json {
            Json::Null => Ok(Self::All),
            Json::String(text) if text == "all-linear" => Ok(Self::All),
            Json::String(pattern) => {
                let whole = Regex::new(&format!("^(?:{pattern})$"));
                whole
                    .map(Self::Pattern)
                    .map_err(|e| invalid(format!("target_modules: {e}")))
            }
            Json::Array(items) => {
                let ends = items.iter().map(|item| item.as_str().map(str::to_owned));
                let ends = ends.collect::<Option<_>>();
                ends.map(Self::Ends)
                    .ok_or_else(|| invalid("target_modules has entries that are not text"))
            }
            _ => Err(invalid("target_modules is neither a list nor text")),
        }
    }
}

/// Whether a path is, or ends in, these parts.
fn ends_in(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn rank(json: &Json) -> Option<usize> {
    let rank = usize::try_from(json.as_u64()?).ok()?;
    (rank > 0).then_some(rank)
}

/// A table from patterns to values. A pattern stands for the end of a path, from a dot on.
fn patterns<T>(
    json: &Json,
    key: &str,
    value: impl Fn(&Json) -> Option<T>,
) -> Result<Vec<(Regex, T)>, AdapterError> {
    let table = match &json[key] {
        Json::Null => return Ok(Vec::new()),
        Json::Object(table) => table,
        _ => return Err(invalid(format!("{key} is not a table"))),
    };
    let entry = |(pattern, number): (&String, &Json)| {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        let regex = regex.map_err(|e| invalid(format!("{key}: {e}")))?;
        let number =
            value(number).ok_or_else(|| invalid(format!("{key}: `{pattern}` has no number that fits")))?;
        Ok((regex, number))
    };
    table.iter().map(entry).collect()
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], path: &str) -> Result<Option<T>, String> {
    for (pattern, value) in patterns {
        if pattern.is_match(path).map_err(|e| format!("its pattern: {e}"))? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn refuse_unsupported(json: &Json) -> Result<(), AdapterError> {
    if !json.is_object() {
        return Err(invalid("it is not an object"));
    }
    let unsupported = |what: String| Err(AdapterError::Unsupported(format!("{CONFIG}: {what}")));
    match json["peft_type"].as_str() {
        Some("LORA") => {}
        other => return unsupported(format!("peft_type `{}`", other.unwrap_or_default())),
    }
    for (key, what) in UNSUPPORTED {
        let is_set = match &json[key] {
            Json::Null | Json::Bool(false) => false,
            Json::Array(items) => !items.is_empty(),
            Json::Object(fields) => !fields.is_empty(),
            _ => true,
        };
        if is_set {
            return unsupported(format!("{key} ({what})"));
        }
    }
    match &json["bias"] {
        Json::Null => {}
        Json::String(bias) if bias == "none" => {}
        bias => return unsupported(format!("bias {bias} (a trained bias)")),
    }
    match &json["init_lora_weights"] {
        Json::String(way) if !PLAIN_BEGINNINGS.contains(&way.as_str()) => unsupported(format!(
            "init_lora_weights `{way}` (it changes the base; let PEFT convert the adapter to one of the original base)"
        )),
        _ => Ok(()),
    }
}
