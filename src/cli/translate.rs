//! `translate`: makes a prompt set in several languages from prompts in one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    CommandError, Connection, Exit, Format, Global,
    data_source::DataArgs,
    interrupt::interrupted,
    output::{counted, print_json, print_line, table, tell},
    progress::TranslationBars,
};
use crate::{
    bench::{
        taxonomy::Language,
        translation::{
            CandidateFile, Imported, Metric, ServedTranslator, TranslateOptions, Translated, Translation,
            flags::Flag,
            folder::{Task, TranslationFolder},
            select::By,
            served::{DEFAULT_TEMPLATE, PromptTemplate},
            summary::{MeanSd, TranslationSummary},
        },
    },
    errors::with_causes,
};

/// Prompts in one language to a prompt set in several.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Language to translate from
    #[arg(long, value_name = "LANGUAGE", default_value = "en")]
    from: Language,
    /// Languages to translate into, such as de,es,fr,it
    #[arg(long, value_name = "LANGUAGES", value_delimiter = ',', required = true)]
    to: Vec<Language>,
    /// Translate only the first rows, up to this many
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// A translator that is a served model; repeatable
    #[arg(long = "with", value_name = "NAME=MODEL")]
    with: Vec<ServedTranslator>,
    /// Translations from elsewhere: a file with id, language and text; repeatable. Without a name, rows have a column `translator`
    #[arg(long, value_name = "[NAME=]FILE")]
    candidates: Vec<CandidateFile>,
    /// Quality scores: a file with id, language, translator, and comet, metricx or human; repeatable
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
    /// Do not choose candidates with these flags, such as wrong_language,untranslated
    #[arg(long, value_name = "FLAGS", value_delimiter = ',')]
    reject: Vec<Flag>,
    /// Translate every candidate back with this served model and compare by chrF
    #[arg(long, value_name = "MODEL")]
    back_translate: Option<String>,
    /// Prompt for served models: a Jinja template with text, source_language and target_language
    #[arg(long, value_name = "FILE")]
    prompt: Option<PathBuf>,
    /// Most tokens of a translation
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Most requests that are open at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Folder for the results. With the folder of an earlier translation, its answers of served models are kept and only the rest
    /// is asked
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
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let to: Vec<Language> = Language::ALL
        .into_iter()
        .filter(|language| args.to.contains(language))
        .collect();
    if to.contains(&args.from) {
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
    let options = args.options()?;
    global.block_on(translate(&args, &to, &options, global))
}

async fn translate(
    args: &Args,
    to: &[Language],
    options: &TranslateOptions,
    global: &Global,
) -> anyhow::Result<Exit> {
    let mut source = args.data.dataset(global)?;
    source.rows.truncate(args.limit.unwrap_or(usize::MAX));
    let task = Task::new(&source, args.from, to)?;
    let folder = TranslationFolder::open(&args.out).with_context(|| args.out.display().to_string())?;
    let translation = Translation {
        task,
        options,
        folder: &folder,
    };
    let imported = Imported::read(&args.candidates, &args.scores)?;
    let client = match options.need_server() {
        true => Some(global.connect().await?),
        false => None,
    };
    let mut progress = TranslationBars::new(global.quiet);
    let gathered = tokio::select! {
        gathered = translation.gather(client.as_ref(), imported, &mut progress) => gathered?,
        () = interrupted() => {
            tell(format_args!("interrupted; the same command goes on from here"));
            return Ok(Exit::Interrupted);
        }
    };
    let Translated { summary, failures } = translation.conclude(gathered)?;
    print_summary(&summary, &args.out, global)?;
    if let Some(error) = &failures.first {
        let failed = counted(failures.count, "request", "requests");
        tell(format_args!(
            "{failed} failed, the first with: {}",
            with_causes(error)
        ));
        tell(format_args!("the same command tries them again"));
        return Ok(Exit::FailedItems);
    }
    if summary.complete.is_none() {
        tell(format_args!(
            "no candidate has a COMET score, so nothing was chosen. Score {}, and give the file to the same \
             command with --scores, name a served estimator with --quality, or choose by the translators' order \
             with --select order",
            folder.file("candidates.jsonl").display()
        ));
    }
    Ok(Exit::Done)
}

impl Args {
    fn options(&self) -> anyhow::Result<TranslateOptions> {
        Ok(TranslateOptions {
            served: self.with.clone(),
            back_translator: self.back_translate.clone(),
            estimators: self.quality.clone(),
            by: match self.select {
                Select::Quality => By::Quality {
                    threshold: self.threshold,
                    margin: self.tie_margin,
                },
                Select::Order => By::Order,
            },
            reject: self.reject.clone(),
            template: self.template()?,
            max_new_tokens: self.max_new_tokens,
            concurrency: usize::from(self.concurrency),
        })
    }

    fn template(&self) -> anyhow::Result<PromptTemplate> {
        let Some(path) = &self.prompt else {
            return PromptTemplate::new(DEFAULT_TEMPLATE).map_err(|error| CommandError::usage(error).into());
        };
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        PromptTemplate::new(&text).map_err(|error| {
            let message = format!("--prompt {}: {error}", path.display());
            CommandError::usage(message).into()
        })
    }
}

fn print_summary(summary: &TranslationSummary, out: &Path, global: &Global) -> anyhow::Result<()> {
    if global.format != Format::Human {
        return Ok(print_json(global.format, &serde_json::to_value(summary)?)?);
    }
    print_line(&summary_table(summary))?;
    if let (Some(complete), Some(excluded)) = (summary.complete, summary.excluded) {
        print_line(&format!(
            "\n{complete} of {} prompts are in {}; {} a good candidate in some language (excluded.jsonl)",
            summary.prompts,
            out.join("dataset.jsonl").display(),
            counted(excluded, "lacks", "lack")
        ))?;
    }
    Ok(())
}

/// Each translator in each language, then the chosen ones.
fn summary_table(summary: &TranslationSummary) -> String {
    let mean = |value: Option<&MeanSd>, digits: usize| match value {
        None => "-".to_owned(),
        Some(MeanSd { mean, sd: None, .. }) => format!("{mean:.digits$}"),
        Some(MeanSd {
            mean, sd: Some(sd), ..
        }) => format!("{mean:.digits$}±{sd:.digits$}"),
    };
    let decided = |figure: String| match summary.complete {
        Some(_) => figure,
        None => "-".to_owned(),
    };
    let header = [
        "language",
        "translator",
        "n",
        "COMET",
        "MetricX",
        "human",
        "back chrF",
        "excluded",
        "chosen",
        "flags",
    ];
    let mut rows = vec![header.map(ToOwned::to_owned).to_vec()];
    for own in &summary.translators {
        let share = 100.0 * own.excluded as f64 / own.candidates.max(1) as f64;
        let flags = own
            .flags
            .iter()
            .map(|(flag, count)| format!("{} {count}", flag.key()));
        rows.push(vec![
            own.language.code().to_owned(),
            own.translator.clone(),
            own.candidates.to_string(),
            mean(own.scores.get(&Metric::Comet), 2),
            mean(own.scores.get(&Metric::MetricX), 2),
            mean(own.scores.get(&Metric::Human), 2),
            mean(own.back_translation_chrf.as_ref(), 1),
            decided(format!("{share:.1}%")),
            decided(own.chosen.to_string()),
            flags.collect::<Vec<_>>().join(", "),
        ]);
    }
    for own in &summary.chosen {
        rows.push(vec![
            own.language.map_or("all", Language::code).to_owned(),
            "(chosen)".to_owned(),
            own.chosen.to_string(),
            mean(own.scores.get(&Metric::Comet), 2),
            mean(own.scores.get(&Metric::MetricX), 2),
            mean(own.scores.get(&Metric::Human), 2),
            String::new(),
            match own.left_out {
                0 => format!("{} without", own.without),
                left_out => format!("{} without, {left_out} left out", own.without),
            },
        ]);
    }
    table(&rows)
}
