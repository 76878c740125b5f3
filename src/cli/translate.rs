//! `translate`: prompts in one language to a prompt set in several.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

mod quality;
mod tell;
mod work;

use super::{CommandError, Connection, Exit, Format, Global, data_source::DataArgs};
use crate::bench::{
    taxonomy::Language,
    translation::{
        flags::Flag,
        select::{By, Rule},
        served::{DEFAULT_TEMPLATE, PromptTemplate},
    },
};

/// Longest name of a translator.
const MAX_NAME: usize = 64;

/// Prompts in one language to a prompt set in several.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Language to translate from
    #[arg(long, value_name = "LANGUAGE", default_value = "en", value_parser = super::bench::language)]
    from: Language,
    /// Languages to translate into, such as de,es,fr,it
    #[arg(long, value_name = "LANGUAGES", value_delimiter = ',', required = true, value_parser = super::bench::language)]
    to: Vec<Language>,
    /// Take the first so many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// A translator that is a served model; repeatable
    #[arg(long = "with", value_name = "NAME=MODEL", value_parser = named)]
    with: Vec<(String, String)>,
    /// Translations made elsewhere: id, language, text; repeatable. Without a name, rows have a column `translator`
    #[arg(long, value_name = "[NAME=]FILE", value_parser = maybe_named)]
    candidates: Vec<(Option<String>, String)>,
    /// Quality scores: id, language, translator, and comet, metricx or human; repeatable
    #[arg(long, value_name = "FILE")]
    scores: Vec<PathBuf>,
    /// Score the candidates with this served quality estimator; repeatable, one per kind of score
    #[arg(long, value_name = "MODEL")]
    quality: Vec<String>,
    /// What decides between candidates
    #[arg(long, value_name = "quality|order", default_value = "quality")]
    select: Select,
    /// Least COMET score of a candidate that may be chosen (the paper's: 0.5)
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true)]
    threshold: f64,
    /// COMET scores that differ by no more than this are tied
    #[arg(long, value_name = "COMET", default_value_t = 0.0)]
    tie_margin: f64,
    /// Never choose candidates with these flags, such as wrong_language,untranslated
    #[arg(long, value_name = "FLAGS", value_delimiter = ',', value_parser = flag)]
    reject: Vec<Flag>,
    /// Translate every candidate back with this served model and compare by chrF
    #[arg(long, value_name = "MODEL")]
    back_translate: Option<String>,
    /// What served models are asked: a Jinja template with text, source_language and target_language
    #[arg(long, value_name = "FILE")]
    prompt: Option<PathBuf>,
    /// Most tokens of a translation
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Most requests that are open at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Folder for the results. The same folder again goes on where it was: served translations are kept
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    pub(super) connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Select {
    /// The best COMET at or above the threshold, then the best MetricX
    Quality,
    /// The first translator that has something: served ones first, as given
    Order,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let mut args = args;
    let order: Vec<Language> = Language::ALL
        .into_iter()
        .filter(|l| args.to.contains(l))
        .collect();
    args.to = order;
    if args.to.contains(&args.from) {
        let message = format!(
            "--to {}: that is the language to translate from",
            args.from.code()
        );
        return Err(CommandError::usage(message).into());
    }
    if args.with.is_empty() && args.candidates.is_empty() {
        let message = "no translator: name a served model with --with, or a file with --candidates";
        return Err(CommandError::usage(message).into());
    }
    if !args.threshold.is_finite() || !args.tie_margin.is_finite() || args.tie_margin < 0.0 {
        let message = "--threshold must be a number, --tie-margin a number from 0 on";
        return Err(CommandError::usage(message).into());
    }
    let template = template(&args)?;
    global.block_on(work::translate(&args, &template, global))
}

fn template(args: &Args) -> anyhow::Result<PromptTemplate> {
    let Some(path) = &args.prompt else {
        return PromptTemplate::new(DEFAULT_TEMPLATE).map_err(|error| CommandError::usage(error).into());
    };
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    PromptTemplate::new(&text).map_err(|error| {
        let message = format!("--prompt {}: {error}", path.display());
        CommandError::usage(message).into()
    })
}

impl Args {
    fn rule(&self, translators: Vec<String>) -> Rule {
        Rule {
            by: match self.select {
                Select::Quality => By::Quality {
                    threshold: self.threshold,
                    margin: self.tie_margin,
                },
                Select::Order => By::Order,
            },
            reject: self.reject.clone(),
            translators,
        }
    }
}

fn named(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !value.is_empty() => Ok((translator(name)?, value.to_owned())),
        _ => Err("write NAME=MODEL, such as smol=smol".to_owned()),
    }
}

fn maybe_named(text: &str) -> Result<(Option<String>, String), String> {
    match text.split_once('=') {
        Some((name, file)) => Ok((Some(translator(name)?), file.to_owned())),
        None => Ok((None, text.to_owned())),
    }
}

/// A name that can be a file's.
fn translator(name: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.chars().all(known) {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "`{name}` cannot name a translator: write 1 to {MAX_NAME} letters, digits, `.`, `_` and `-`"
        )),
    }
}

fn flag(key: &str) -> Result<Flag, String> {
    let found = Flag::ALL.into_iter().find(|flag| flag.key() == key);
    found.ok_or_else(|| format!("known flags are {}", Flag::ALL.map(Flag::key).join(", ")))
}
