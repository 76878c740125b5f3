//! `--data`, a file or a set on a Hugging Face hub, and the flags for reading it.

use std::path::{Path, PathBuf};

use super::{
    CommandError, Global,
    output::{counted, tell},
};
use crate::{
    bench::{
        dataset::{Dataset, ReadOptions, Source, Wrapper},
        taxonomy::Language,
    },
    fetch::{self, HubDataset, Progress},
};

/// What to do with ALERT's instruction wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WrapperArg {
    /// Ask the prompts as the data has them
    Keep,
    /// Ask what is inside
    Strip,
}

/// How to read a prompt set.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ReadArgs {
    /// What to do with ALERT's `### Instruction:` wrapper where prompts have it; kept when absent
    #[arg(long, value_name = "keep|strip")]
    wrapper: Option<WrapperArg>,
    /// Language of a set that has no column for it, such as ALERT's own files (en)
    #[arg(long, value_name = "LANGUAGE")]
    data_language: Option<Language>,
}

/// A prompt set.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DataArgs {
    /// Prompt set: a .jsonl, .json, .csv, .tsv or .parquet file, or a hub's OWNER/NAME[/FILE] such as felfri/M-ALERT
    #[arg(long, value_name = "FILE|HUB_ID")]
    pub(super) data: String,
    #[command(flatten)]
    read: ReadArgs,
}

impl DataArgs {
    /// Reads the set, and says that prompts have a wrapper if nobody said what to do with it.
    pub(super) fn dataset(&self, global: &Global) -> anyhow::Result<Dataset> {
        let source = source(&self.data, global)?;
        let dataset = Dataset::open(&source, self.read.options()).map_err(CommandError::invalid_data)?;
        self.mention_wrapper(&dataset, global);
        Ok(dataset)
    }

    /// How the set's files are read.
    pub(super) fn read_options(&self) -> ReadOptions {
        self.read.options()
    }

    /// Says that prompts have a wrapper, if nobody said what to do with it.
    pub(super) fn mention_wrapper(&self, dataset: &Dataset, global: &Global) {
        if self.read.wrapper.is_none() && dataset.wrapper.prompts > 0 && !global.quiet {
            tell(format_args!(
                "{} ALERT's instruction wrapper, and the target gets it with the prompt; --wrapper strip takes it off, \
                 --wrapper keep silences this",
                counted(dataset.wrapper.prompts, "prompt has", "prompts have")
            ));
        }
    }
}

impl ReadArgs {
    pub(super) fn options(&self) -> ReadOptions {
        ReadOptions {
            wrapper: match self.wrapper {
                Some(WrapperArg::Strip) => Wrapper::Strip,
                Some(WrapperArg::Keep) | None => Wrapper::Keep,
            },
            language: self.data_language,
        }
    }
}

/// The files behind a name: a file of this machine, or else a set on a hub, which is fetched.
pub(super) fn source(name: &str, global: &Global) -> anyhow::Result<Source> {
    let path = Path::new(name);
    let hub_name = name.strip_prefix("hf://");
    if hub_name.is_none() && (path.exists() || !looks_like_hub(name)) {
        return Ok(Source::file(path));
    }
    let wanted = HubDataset::parse(hub_name.unwrap_or(name))
        .map_err(|reason| CommandError::usage(format!("--data {name}: {reason}")))?;
    let fetched = fetch::dataset(&wanted, Progress::on_stderr(global.quiet))?;
    let files: Vec<PathBuf> = fetched.files;
    Ok(Source {
        name: fetched.name,
        files,
    })
}

/// Whether a name is of the form `OWNER/NAME`: two parts, and the second does not end like a file of prompts.
fn looks_like_hub(name: &str) -> bool {
    let endings = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt"];
    name.split('/').count() == 2
        && !name.starts_with(['.', '/', '~'])
        && !endings.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_id_is_told_from_a_path() {
        for hub in ["felfri/M-ALERT", "Babelscape/ALERT"] {
            assert!(looks_like_hub(hub));
        }
        for path in [
            "prompts",
            "data/prompts.jsonl",
            "./felfri/M-ALERT",
            "../a/b",
            "/a/b",
            "~/b",
            "a/b/c",
        ] {
            assert!(!looks_like_hub(path), "{path}");
        }
    }
}
