//! Loads the configuration from all of its sources.

use std::{env, path::PathBuf};

use super::{
    Config, ConfigError,
    flags::FlagOverrides,
    layer,
    merged::{Values, merge},
    origin::{Entry, Origin},
    read,
};

const FILE_NAME: &str = "babelward.toml";

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
