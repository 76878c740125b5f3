//! `bench run`: one or more targets over a prompt set, or over the same prompts by several translators.

use std::path::PathBuf;

use super::{
    Patience,
    drive::{Job, Unfinished, begin, check_served, finish},
    drive_all, language, translators,
};
use crate::{
    bench::{
        dataset::Dataset,
        plan::{RowLimit, Selection},
        results::{GroupRun, RunFolder, RunGroup, folder_names},
        run::Failures,
        settings::{Overridden, Preset, PresetUse, Prompting, RunKind, RunSettings, Sampling, Shard, Until},
        taxonomy::{Category, Language},
    },
    cli::{
        CommandError, Connection, Exit, Global, data_source::DataArgs, policy::PolicyArgs, report::category,
    },
};

/// Sampling by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PresetArg {
    Paper,
    Greedy,
}

/// What to run.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The same prompts by several translators, such as opus-mt,deepl or `all`; --data is then a folder that `translate`
    /// made. One run for each, in a folder of its own; the report says how much of a language gap is translation
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "until")]
    translators: Vec<String>,
    /// Model that answers; the server's default when absent. Repeated: one run for each, in a folder of its own
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    target: Vec<String>,
    /// The target continues the prompt's raw text, as base models do, instead of answering in its chat template;
    /// with names only these targets do
    #[arg(long, value_name = "TARGETS", num_args = 0..=1, require_equals = true, value_delimiter = ',')]
    raw: Option<Vec<String>>,
    /// Model that judges; the server's default when absent. Repeated: each judges every answer, the first counts
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    guard: Vec<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Languages, such as en,de; all of the set when absent
    #[arg(long, value_delimiter = ',', value_parser = language)]
    languages: Vec<Language>,
    /// Categories, such as crime_tax; all when absent
    #[arg(long, value_delimiter = ',', value_parser = category)]
    categories: Vec<Category>,
    /// Take the first so many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// Sampling by name: `paper` is 200 tokens at temperature 1 (the paper prints no temperature), `greedy` is 200 tokens
    /// at temperature 0. The options that follow count instead where they are given
    #[arg(long, value_name = "paper|greedy")]
    preset: Option<PresetArg>,
    /// Most tokens of an answer; 200 when absent
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// 0 is greedy; 1 when absent
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// 1 is off, and what it is when absent
    #[arg(long)]
    top_p: Option<f64>,
    /// What the items' sampling seeds are made from; 0 when absent. Several, such as 0,1,2: every prompt is asked once
    /// with each
    #[arg(long, value_delimiter = ',')]
    seed: Vec<u64>,
    /// Ask no more of a language and category once the 95 % interval of its safe share is this narrow: ci=0.02 is
    /// two points to either side
    #[arg(long, value_name = "ci=WIDTH", value_parser = until)]
    until: Option<Until>,
    /// Take one part of the rows, such as 1/4; other machines take the others, `bench merge` puts them together
    #[arg(long, value_name = "I/N", conflicts_with = "until")]
    shard: Option<Shard>,
    /// Most items that are open at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) connection: Connection,
}

pub(super) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<Exit> {
    let settings = args.settings()?;
    if !args.translators.is_empty() {
        return run_translators(args, settings, global);
    }
    let dataset = args.data.dataset(global)?;
    let job = Job::open(args.out.as_deref(), "bench")?;
    // Connected first: without a server no run begins.
    if let [settings] = &settings[..] {
        return global.block_on(async {
            let client = global.connect().await?;
            check_served(&client, models_of(settings), &settings.policy).await?;
            let run = begin(job.folder(), &dataset, settings.clone())?;
            let unfinished = Unfinished::Resumable(job.folder().path());
            finish(&client, run, args.patience.retry_for, unfinished, global).await
        });
    }
    global.block_on(check_all(&settings, global))?;
    let members = settings.into_iter().map(|settings| Member {
        name: settings.target.clone(),
        translator: None,
        dataset: &dataset,
        settings,
    });
    let group = begin_all(job.folder(), members.collect())?;
    drive_all(job.folder(), &group, Failures::Keep, args.patience, global)
}

/// Every target over every translator's prompts. A run keeps one verdict for a prompt, language and seed, and its figures
/// stand for one set of prompts; so each translator has a run of its own, which is resumed, merged and judged again like any
/// other, and the study compares them.
fn run_translators(args: &RunArgs, settings: Vec<RunSettings>, global: &Global) -> anyhow::Result<Exit> {
    let sets = translators::sets(&args.data, &args.translators, global)?;
    let job = Job::open(args.out.as_deref(), "translators")?;
    global.block_on(check_all(&settings, global))?;
    let several = settings.len() > 1;
    let members = settings.iter().flat_map(|settings| {
        sets.iter().map(move |set| Member {
            name: match several {
                true => format!("{}-{}", settings.target, set.translator),
                false => set.translator.clone(),
            },
            translator: Some(set.translator.clone()),
            dataset: &set.dataset,
            settings: settings.clone(),
        })
    });
    let group = begin_all(job.folder(), members.collect())?;
    translators::keep_scores(&args.data, &sets, job.folder())?;
    drive_all(job.folder(), &group, Failures::Keep, args.patience, global)
}

/// A run that is made with others.
struct Member<'a> {
    /// What its folder is called after.
    name: String,
    translator: Option<String>,
    dataset: &'a Dataset,
    settings: RunSettings,
}

/// The models that a run is asked of.
fn models_of(settings: &RunSettings) -> impl Iterator<Item = &String> {
    std::iter::once(&settings.target).chain(&settings.guards)
}

async fn check_all(settings: &[RunSettings], global: &Global) -> anyhow::Result<()> {
    let client = global.connect().await?;
    for settings in settings {
        check_served(&client, models_of(settings), &settings.policy).await?;
    }
    Ok(())
}

/// Begins all runs before the first of them asks anything.
fn begin_all(folder: &RunFolder, members: Vec<Member<'_>>) -> anyhow::Result<RunGroup> {
    let names = folder_names(members.iter().map(|member| member.name.as_str()));
    let mut group = Vec::new();
    for (member, name) in members.into_iter().zip(names) {
        let target = member.settings.target.clone();
        let own = RunFolder::create(&folder.file(&name))?;
        begin(&own, member.dataset, member.settings).inspect_err(|_| own.remove_if_empty())?;
        group.push(GroupRun {
            target,
            translator: member.translator,
            folder: name,
        });
    }
    let group = RunGroup::new(group);
    group.write(folder)?;
    Ok(group)
}

impl RunArgs {
    /// One for each target.
    fn settings(&self) -> anyhow::Result<Vec<RunSettings>> {
        let mut seeds = self.seed.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() {
            seeds.push(0);
        }
        for (place, target) in self.target.iter().enumerate() {
            if self.target[..place].contains(target) {
                return Err(CommandError::usage(format!("--target {target} is given twice")).into());
            }
        }
        let raw = self.raw.as_deref().unwrap_or_default();
        if let Some(unknown) = raw.iter().find(|name| !self.target.contains(name)) {
            return Err(CommandError::usage(format!("--raw={unknown}: there is no such --target")).into());
        }
        let prompting = |target: &String| match &self.raw {
            Some(names) if names.is_empty() || names.contains(target) => Prompting::Raw,
            _ => Prompting::Template,
        };
        let policy = self.policy.choice()?;
        let of = |target: &String| RunSettings {
            kind: RunKind::Benchmark,
            target: target.clone(),
            prompting: prompting(target),
            guards: self.guard.clone(),
            policy: policy.clone(),
            selection: Selection {
                languages: self.languages.clone(),
                categories: self.categories.clone(),
                limit: self.limit.map_or(RowLimit::All, RowLimit::First),
            },
            sampling: Some(self.sampling()),
            preset: self.preset_use(),
            seeds: seeds.clone(),
            shard: self.shard,
            until: self.until,
            concurrency: usize::from(self.concurrency),
        };
        Ok(self.target.iter().map(of).collect())
    }

    fn preset(&self) -> Option<Preset> {
        self.preset.map(|preset| match preset {
            PresetArg::Paper => Preset::Paper,
            PresetArg::Greedy => Preset::Greedy,
        })
    }

    fn sampling(&self) -> Sampling {
        let named = self.preset().unwrap_or(Preset::Paper).sampling();
        Sampling {
            max_new_tokens: self.max_new_tokens.unwrap_or(named.max_new_tokens),
            temperature: self.temperature.unwrap_or(named.temperature),
            top_p: self.top_p.unwrap_or(named.top_p),
        }
    }

    fn preset_use(&self) -> Option<PresetUse> {
        let given = [
            (Overridden::MaxNewTokens, self.max_new_tokens.is_some()),
            (Overridden::Temperature, self.temperature.is_some()),
            (Overridden::TopP, self.top_p.is_some()),
            (Overridden::Seed, !self.seed.is_empty()),
        ];
        Some(PresetUse {
            name: self.preset()?,
            overridden: given
                .into_iter()
                .filter_map(|(one, given)| given.then_some(one))
                .collect(),
        })
    }
}

fn until(text: &str) -> Result<Until, String> {
    let width = text.strip_prefix("ci=").and_then(|width| width.parse().ok());
    match width {
        Some(half_width) if half_width > 0.0 && half_width < 0.5 => Ok(Until { half_width }),
        _ => Err("write ci= and a width between 0 and 0.5, such as ci=0.02".to_owned()),
    }
}
