//! `bench run`: runs a prompt set, or the same prompts by several translators, against one or more targets.

use std::path::{Path, PathBuf};

use super::{
    drive::{Patience, drive_group, drive_with},
    resume::go_on,
};
use crate::{
    bench::{
        run::{Failures, NewMember, NewRunFolder, OpenItems, Run, SittingOptions, begin_group, check_served},
        selection::{RowLimit, Selection},
        settings::{
            Controversial, Overridden, Preset, PresetUse, Prompting, RunKind, RunSettings, Sampling, Shard,
            Until,
        },
        taxonomy::{Category, Language},
        translation::{TranslatorChoice, sets::TranslatorSets},
    },
    cli::{CommandError, Connection, Exit, Global, data_source::DataArgs, output::tell, policy::PolicyArgs},
};

/// A sampling that has a name.
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
    /// Model that judges; the server's default when absent. Repeated: each judges every answer, and scores are the first one's
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    guard: Vec<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// What a guard's label "controversial" counts as in all figures: unsafe (strict) or safe (loose)
    #[arg(long, value_name = "LABEL", default_value = "unsafe")]
    controversial: Controversial,
    /// Languages, such as en,de; all of the set when absent
    #[arg(long, value_delimiter = ',')]
    languages: Vec<Language>,
    /// Categories, such as crime_tax; all when absent
    #[arg(long, value_delimiter = ',')]
    categories: Vec<Category>,
    /// Ask only the first rows, up to this many
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// Sampling by name: `paper` is 200 tokens at temperature 1 (the paper prints no temperature), `greedy` is 200 tokens
    /// at temperature 0. The options that follow count instead where they are given
    #[arg(long, value_name = "paper|greedy")]
    preset: Option<PresetArg>,
    /// Most tokens of an answer; 200 when absent
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Sampling temperature: 0 is greedy; 1 when absent
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Probability that the most likely tokens have together from which one is drawn; 1 (off) when absent
    #[arg(long)]
    top_p: Option<f64>,
    /// Seed from which the items' sampling seeds are made; 0 when absent. With several, such as 0,1,2, every prompt is asked once
    /// with each
    #[arg(long, value_delimiter = ',')]
    seed: Vec<u64>,
    /// Ask no more of a language and category once the 95 % interval of its share of safe answers is this narrow: ci=0.02 is
    /// two points to either side
    #[arg(long, value_name = "ci=WIDTH")]
    until: Option<Until>,
    /// Ask one part of the rows, such as 1/4; other machines ask the other parts, and `bench merge` puts them together. job/4
    /// takes the part from JOB_COMPLETION_INDEX, which an Indexed Job of Kubernetes sets to 0, 1, 2 or 3
    #[arg(long, value_name = "I/N", value_parser = shard, conflicts_with = "until")]
    shard: Option<Shard>,
    /// Most items that are open at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in --out if one with the same settings was begun there: for jobs that are started again after a failure
    #[arg(long, requires = "out", conflicts_with = "translators")]
    resume: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// A shard, or `job/N` for the one that an Indexed Job of Kubernetes gives to this process.
fn shard(text: &str) -> Result<Shard, String> {
    let Some(of) = text.strip_prefix("job/") else {
        return text.parse();
    };
    let index = std::env::var("JOB_COMPLETION_INDEX").unwrap_or_default();
    let Some(index) = index.parse::<u32>().ok().and_then(|index| index.checked_add(1)) else {
        return Err(
            "JOB_COMPLETION_INDEX, which an Indexed Job of Kubernetes sets, is not a number".to_owned(),
        );
    };
    format!("{index}/{of}").parse()
}

pub(super) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<Exit> {
    let settings = args.settings()?;
    if !args.translators.is_empty() {
        return run_translators(args, settings, global);
    }
    let dataset = args.data.dataset(global)?;
    if let (Some(out), true) = (&args.out, args.resume) {
        let [settings] = &settings[..] else {
            return Err(CommandError::usage("--resume goes with one --target").into());
        };
        if let Some(exit) = go_on(out, &dataset, settings, args.patience, global)? {
            return Ok(exit);
        }
    }
    let out = NewRunFolder::create(args.out.as_deref(), "bench")?;
    // Connected first: without a server no run begins.
    if let [settings] = &settings[..] {
        return global.block_on(async {
            let client = global.connect().await?;
            check_served(&client, settings.models(), &settings.policy).await?;
            let run = Run::begin(out.folder().clone(), &dataset, settings.clone())?;
            let options = SittingOptions {
                retry_for: args.patience.retry_for,
                open_items: OpenItems::Keep,
            };
            drive_with(&client, run, options, out.folder().path(), global).await
        });
    }
    global.block_on(check_all(&settings, global))?;
    let members = settings.into_iter().map(|settings| NewMember {
        name: settings.target.clone(),
        translator: None,
        dataset: &dataset,
        settings,
    });
    let group = begin_group(out.folder(), members.collect())?;
    drive_group(out.folder(), &group, Failures::Keep, args.patience, global)
}

/// Runs every target over every translator's prompts. A run keeps one verdict for a prompt, language and seed, and its figures
/// stand for one set of prompts; so each translator has a run of its own, which is resumed, merged and judged again like any
/// other, and the study compares them.
fn run_translators(args: &RunArgs, settings: Vec<RunSettings>, global: &Global) -> anyhow::Result<Exit> {
    let choice = TranslatorChoice::from_names(&args.translators);
    let options = args.data.read_options();
    let sets = TranslatorSets::read(Path::new(&args.data.data), &choice, options)?;
    for set in &sets.sets {
        args.data.mention_wrapper(&set.dataset, global);
    }
    if sets.left_out > 0 && !global.quiet {
        tell(format_args!(
            "babelward: {} of {} prompts are left out, because a translator lacks them",
            sets.left_out, sets.all_prompts
        ));
    }
    let out = NewRunFolder::create(args.out.as_deref(), "translators")?;
    global.block_on(check_all(&settings, global))?;
    let several = settings.len() > 1;
    let members = settings.iter().flat_map(|settings| {
        sets.sets.iter().map(move |set| NewMember {
            name: match several {
                true => format!("{}-{}", settings.target, set.translator),
                false => set.translator.clone(),
            },
            translator: Some(set.translator.clone()),
            dataset: &set.dataset,
            settings: settings.clone(),
        })
    });
    let group = begin_group(out.folder(), members.collect())?;
    sets.keep_scores(out.folder())?;
    drive_group(out.folder(), &group, Failures::Keep, args.patience, global)
}

/// Checks that the server has what all of the runs ask for.
async fn check_all(settings: &[RunSettings], global: &Global) -> anyhow::Result<()> {
    let client = global.connect().await?;
    for settings in settings {
        check_served(&client, settings.models(), &settings.policy).await?;
    }
    Ok(())
}

impl RunArgs {
    /// The settings of the run of each target.
    fn settings(&self) -> anyhow::Result<Vec<RunSettings>> {
        let mut seeds = self.seed.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() {
            seeds.push(0);
        }
        for (index, target) in self.target.iter().enumerate() {
            if self.target[..index].contains(target) {
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
        let of_target = |target: &String| RunSettings {
            kind: RunKind::Benchmark,
            target: target.clone(),
            prompting: prompting(target),
            guards: self.guard.clone(),
            policy: policy.clone(),
            controversial: self.controversial,
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
        Ok(self.target.iter().map(of_target).collect())
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
                .filter_map(|(setting, given)| given.then_some(setting))
                .collect(),
        })
    }
}
