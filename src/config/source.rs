//! Where values come from, and what they are once all sources are merged.

use std::{env, fmt, path::PathBuf, str::FromStr};

use super::{
    Config, ConfigError, layer,
    merged::{Values, merge},
    read,
};
use crate::model::spec::PrecisionChoice;

const FILE_NAME: &str = "babelward.toml";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One effective value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key, as in the file.
    pub key: String,
    /// The value as it was written; absent for a key that is not set.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// `--model ID=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagModel {
    /// The model's id.
    pub id: String,
    /// Its file or folder.
    pub path: PathBuf,
}

impl FromStr for FlagModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((id, path)) if !id.is_empty() && !path.is_empty() => Ok(Self {
                id: id.to_owned(),
                path: PathBuf::from(path),
            }),
            _ => Err("write ID=PATH, such as smol=models/smol.gguf".to_owned()),
        }
    }
}

/// `--adapter ID=BASE:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagAdapter {
    /// What it is served as.
    pub id: String,
    /// The id of its base.
    pub base: String,
    /// Its folder or file.
    pub path: PathBuf,
}

impl FromStr for FlagAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('=')
            .and_then(|(id, rest)| Some((id, rest.split_once(':')?)));
        match parts {
            Some((id, (base, path))) if ![id, base, path].contains(&"") => Ok(Self {
                id: id.to_owned(),
                base: base.to_owned(),
                path: PathBuf::from(path),
            }),
            _ => Err("write ID=BASE:PATH, such as polite=smol:adapters/polite".to_owned()),
        }
    }
}

/// `--precision ID=PRECISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagPrecision {
    /// The id of a model; all that have none of their own when absent.
    pub id: Option<String>,
    /// As it was written.
    pub precision: String,
}

impl FromStr for FlagPrecision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, precision) = match text.rsplit_once('=') {
            Some((id, precision)) => (Some(id.to_owned()), precision),
            None => (None, text),
        };
        PrecisionChoice::from_str(precision)?;
        Ok(Self {
            id,
            precision: precision.to_owned(),
        })
    }
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct FlagOverrides {
    /// Flag, key and value.
    pub values: Vec<(&'static str, &'static str, String)>,
    /// `--model`: targets; the first is the default target.
    pub models: Vec<FlagModel>,
    /// `--adapter`: targets too, but never the default.
    pub adapters: Vec<FlagAdapter>,
    /// `--guard`: `ID=PATH`, a path, or the id of a configured model; the first is the default guard.
    pub guards: Vec<String>,
    /// `--precision`: of all models, or of one.
    pub precisions: Vec<FlagPrecision>,
}

/// Everything that a configuration is made from; nothing else is looked at.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `--config`: must exist.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Where `babelward.toml` is looked for when no file is named, in this order.
    pub folders: Vec<PathBuf>,
    /// The command line.
    pub flags: FlagOverrides,
}

impl Inputs {
    /// From this process's environment, working directory and user.
    pub fn of_process(file: Option<PathBuf>, flags: FlagOverrides) -> Self {
        let mut folders = vec![PathBuf::from(".")];
        folders.extend(dirs::config_dir().map(|dir| dir.join("babelward")));
        Self {
            file,
            env: env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            folders,
            flags,
        }
    }
}

/// A configuration and how it came about.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, or everything that is wrong with it.
    pub config: Result<Config, ConfigError>,
    /// Every known key with its effective value, also when the configuration is not valid.
    pub entries: Vec<Entry>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// Merges and validates. Wrong values, unknown keys and an unreadable file are told all at once in
/// [`Loaded::config`].
pub fn load(inputs: &Inputs) -> Loaded {
    let mut problems = Vec::new();
    let file = find_file(inputs);
    let variables = layer::from_env(&inputs.env, &mut problems);
    let mut merged = layer::defaults();
    if let Some((path, named_by)) = &file {
        merge(&mut merged, layer::from_file(path, named_by, &mut problems));
    }
    merge(&mut merged, variables);
    let below = layer::models_of(&merged);
    merge(
        &mut merged,
        layer::from_flags(&inputs.flags, &below, &mut problems),
    );

    let mut values = Values::collect(&merged, &mut problems);
    values.resolve_paths();
    let entries = values.entries();
    let config = read::config(&values, problems);
    Loaded {
        config,
        entries,
        file: file.map(|(path, _)| path),
    }
}

/// The file to read, and who named it (nobody: it was found).
fn find_file(inputs: &Inputs) -> Option<(PathBuf, Option<Origin>)> {
    if let Some(path) = &inputs.file {
        return Some((path.clone(), Some(Origin::Flag("--config"))));
    }
    let named = inputs.env.iter().find(|(name, _)| name == "BABELWARD_CONFIG");
    if let Some((name, value)) = named.filter(|(_, value)| !value.is_empty()) {
        return Some((PathBuf::from(value), Some(Origin::Env(name.clone()))));
    }
    let mut candidates = inputs.folders.iter().map(|folder| folder.join(FILE_NAME));
    candidates.find(|path| path.is_file()).map(|path| (path, None))
}
