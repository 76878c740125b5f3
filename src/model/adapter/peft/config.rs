//! `adapter_config.json`.

use fancy_regex::Regex;
use serde_json::Value as Json;

use crate::model::{
    adapter::{
        contents::Scaling,
        error::AdapterError,
        module::{Module, unknown_module},
    },
    error::{ConfigError, FileError, FileProblem, KeyProblem},
};

/// The file's name in the adapter's folder.
pub(super) const CONFIG: &str = "adapter_config.json";

/// Values of `init_lora_weights` that leave the base as it is. The others change the base before training, and what is
/// saved belongs to that changed base.
const PLAIN_INITIALISATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Settings that change what an adapter computes in ways that are not implemented, each with what it stands for.
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

/// What an adapter's configuration says of how its tensors are applied.
pub(super) struct PeftConfig {
    rank: usize,
    /// Numerator of the scaling factor.
    alpha: f64,
    /// Whether the scaling factor is `alpha` over the rank's square root, not over the rank.
    rank_stabilised: bool,
    /// Patterns of modules with a rank of their own; the first that matches counts.
    ranks: Vec<(Regex, usize)>,
    /// The same for `alpha`.
    alphas: Vec<(Regex, f64)>,
    target: Target,
}

/// `target_modules`: the modules that the adapter changes.
enum Target {
    /// All linear layers: `all-linear`, or the key is missing.
    All,
    /// Those whose paths end in one of these.
    Ends(Vec<String>),
    /// Those whose whole paths match.
    Pattern(Regex),
}

fn invalid(key: impl Into<String>, problem: KeyProblem) -> FileError {
    ConfigError::from(problem.of(key)).of(CONFIG)
}

fn not_a(key: impl Into<String>, expected: impl Into<String>) -> FileError {
    let expected = expected.into();
    invalid(key, KeyProblem::NotA { expected })
}

fn bad_pattern(key: impl Into<String>, error: fancy_regex::Error) -> FileError {
    invalid(key, KeyProblem::Pattern(Box::new(error)))
}

impl PeftConfig {
    /// # Errors
    /// When a setting makes no sense, or asks for what would be computed wrongly; names the key.
    pub(super) fn read(json: &Json) -> Result<Self, AdapterError> {
        if !json.is_object() {
            return Err(FileProblem::NotAnObject.of(CONFIG).into());
        }
        refuse_unsupported(json)?;
        let alpha = json["lora_alpha"].as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| not_a("lora_alpha", NUMBER))?;
        let rank = rank(&json["r"]).ok_or_else(|| not_a("r", RANK))?;
        Ok(Self {
            rank,
            alpha,
            rank_stabilised: json["use_rslora"].as_bool().unwrap_or(false),
            ranks: patterns(json, "rank_pattern", RANK, self::rank)?,
            alphas: patterns(json, "alpha_pattern", NUMBER, Json::as_f64)?,
            target: Target::read(&json["target_modules"])?,
        })
    }

    /// Rank and scaling of the module with this path.
    pub(super) fn scaling(&self, path: &str) -> Result<(usize, Scaling), FileError> {
        let rank = first_match(&self.ranks, "rank_pattern", path)?.unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, "alpha_pattern", path)?.unwrap_or(self.alpha);
        let scaling = if self.rank_stabilised {
            Scaling::RankRoot(alpha)
        } else {
            Scaling::Rank(alpha)
        };
        Ok((rank, scaling))
    }

    /// Whether the adapter changes the module with this path.
    pub(super) fn targets(&self, path: &str) -> Result<bool, FileError> {
        match &self.target {
            Target::All => Ok(true),
            Target::Ends(ends) => Ok(ends.iter().any(|end| ends_in(path, end))),
            Target::Pattern(pattern) => pattern
                .is_match(path)
                .map_err(|error| bad_pattern("target_modules", error)),
        }
    }

    /// Checks that each target is the end of one of `paths`, the modules that there are tensors for.
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
                let module = end.clone();
                invalid("target_modules", KeyProblem::NoTensors { module }).into()
            } else {
                unknown_module(end)
            });
        }
        Ok(())
    }
}

impl Target {
    fn read(json: &Json) -> Result<Self, FileError> {
        const KEY: &str = "target_modules";
        match json {
            Json::Null => Ok(Self::All),
            Json::String(text) if text == "all-linear" => Ok(Self::All),
            Json::String(pattern) => {
                let whole = Regex::new(&format!("^(?:{pattern})$"));
                whole.map(Self::Pattern).map_err(|error| bad_pattern(KEY, error))
            }
            Json::Array(items) => {
                let ends = items.iter().map(|item| item.as_str().map(str::to_owned));
                let ends = ends.collect::<Option<_>>();
                ends.map(Self::Ends)
                    .ok_or_else(|| not_a(KEY, "a list of only texts"))
            }
            _ => Err(not_a(KEY, "a list of names or a pattern")),
        }
    }
}

/// Whether a path is, or ends in, these parts.
fn ends_in(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What `r` and the values of `rank_pattern` have to be.
const RANK: &str = "a whole number above 0";
/// What `lora_alpha` and the values of `alpha_pattern` have to be.
const NUMBER: &str = "a number";

fn rank(json: &Json) -> Option<usize> {
    let rank = usize::try_from(json.as_u64()?).ok()?;
    (rank > 0).then_some(rank)
}

/// A table from patterns to values, each of the type that `expected` says. A pattern stands for the end of a path, from a
/// dot on.
fn patterns<T>(
    json: &Json,
    key: &str,
    expected: &str,
    value: impl Fn(&Json) -> Option<T>,
) -> Result<Vec<(Regex, T)>, FileError> {
    let table = match &json[key] {
        Json::Null => return Ok(Vec::new()),
        Json::Object(table) => table,
        _ => return Err(not_a(key, "a table")),
    };
    let mut patterns = Vec::with_capacity(table.len());
    for (pattern, number) in table {
        let own_key = || format!("{key}.{pattern}");
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        let regex = regex.map_err(|error| bad_pattern(own_key(), error))?;
        let number = value(number).ok_or_else(|| not_a(own_key(), expected))?;
        patterns.push((regex, number));
    }
    Ok(patterns)
}

/// The value of the first pattern that matches the path.
fn first_match<T: Copy>(patterns: &[(Regex, T)], key: &str, path: &str) -> Result<Option<T>, FileError> {
    for (pattern, value) in patterns {
        let matches = pattern.is_match(path);
        if matches.map_err(|error| bad_pattern(key, error))? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn refuse_unsupported(json: &Json) -> Result<(), AdapterError> {
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
        Json::String(way) if !PLAIN_INITIALISATIONS.contains(&way.as_str()) => unsupported(format!(
            "init_lora_weights `{way}` (it changes the base; let PEFT convert the adapter to one of the original base)"
        )),
        _ => Ok(()),
    }
}
