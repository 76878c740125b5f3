//! Merges the shards of a run, which were run on several machines. `results.jsonl` is the same bytes as if one machine had run
//! the whole plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    path::PathBuf,
};

use super::{
    plan::{ItemKey, Plan},
    results::{
        FolderError, ItemRecord, ModelProvenance, Origin, PlanInfo, Records, RunFolder, RunInfo,
        RunMeasurements, RunProvenance,
    },
    settings::{RunSettings, Shard},
};

/// Why shards cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The folders are not the shards of one run; everything that is wrong is listed.
    #[error("these are not the shards of one run:{}", list(.0))]
    Refused(Vec<Refusal>),
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(|refusal| format!("\n  {refusal}")).collect()
}

/// One reason why folders are not the shards of one run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The folder holds a whole run.
    #[error("{0} is not a shard")]
    NotAShard(PathBuf),
    /// The shard has not ended.
    #[error("{0} is not complete: go on with `babelward bench resume {0}`")]
    Unfinished(PathBuf),
    /// The shard belongs to another run than the first one.
    #[error("{folder} differs from {first} in {what}")]
    Differs {
        /// The folder of the shard.
        folder: PathBuf,
        /// The folder of the first shard.
        first: PathBuf,
        /// What differs.
        what: ShardAspect,
    },
    /// Two folders are the same shard.
    #[error("{first} and {second} are both shard {shard}")]
    Twice {
        /// The part of the rows that both have asked.
        shard: Shard,
        /// The first folder.
        first: PathBuf,
        /// The second folder.
        second: PathBuf,
    },
    /// No folder is this shard.
    #[error("shard {0} is missing")]
    Missing(Shard),
    /// The shard was run with `--until`; but whether a cell ends early depends on all of its items.
    #[error("{0} was run with --until, which a shard cannot decide")]
    Until(PathBuf),
    /// A file does not hold the items of the shard.
    #[error("{folder}: {name} is not that of shard {shard} of the plan")]
    OtherItems {
        /// The folder of the shard.
        folder: PathBuf,
        /// `plan.jsonl` or `results.jsonl`.
        name: &'static str,
        /// The shard whose items it should hold.
        shard: Shard,
    },
}

/// Something in which all shards of a run agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardAspect {
    /// The prompts and their order.
    Plan,
    /// The prompt set's file.
    Dataset,
    /// The id of the target, or how it is asked.
    Target,
    /// The ids of the guards, or their policy.
    Guards,
    /// Languages, categories and limit.
    Selection,
    /// Tokens, temperature, top-p.
    Sampling,
    /// Seeds of sampling.
    Seeds,
    /// How many shards there are.
    Shards,
    /// Whether answers were made, or judged again.
    Origin,
    /// Weights, adapter, tokenizer, template or arithmetic of the model that answered.
    TargetModel,
    /// The same of the models that judged.
    GuardModels,
}

impl fmt::Display for ShardAspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plan => "its plan",
            Self::Dataset => "its prompt set",
            Self::Target => "the target",
            Self::Guards => "the guards",
            Self::Selection => "languages, categories or limit",
            Self::Sampling => "the sampling",
            Self::Seeds => "the seeds",
            Self::Shards => "the number of shards",
            Self::Origin => "where its answers come from",
            Self::TargetModel => {
                "the model that answered (weights, adapter, tokenizer, template or arithmetic)"
            }
            Self::GuardModels => {
                "the models that judged (weights, adapter, tokenizer, template or arithmetic)"
            }
        })
    }
}

/// A complete shard.
struct Part {
    folder: RunFolder,
    info: RunInfo,
    shard: Shard,
}

/// Merges all shards of a run, given in any order, into an empty folder.
///
/// # Errors
/// [`MergeError`].
pub fn merge(folders: &[RunFolder], out: &RunFolder) -> Result<RunInfo, MergeError> {
    let parts = parts(folders)?;
    let plans: Vec<Plan> = parts
        .iter()
        .map(|part| Ok::<_, FolderError>(Plan::of_items(part.folder.plan()?)))
        .collect::<Result<_, _>>()?;
    let plan = Plan::unite(&plans);
    let whole = plan.info();
    let wrong: Vec<Refusal> = parts
        .iter()
        .zip(&plans)
        .filter(|(part, own)| part.info.plan.digest != whole.digest || plan.shard(part.shard) != **own)
        .map(|(part, _)| part.other_items("plan.jsonl"))
        .collect();
    if !wrong.is_empty() {
        return Err(MergeError::Refused(wrong));
    }
    let seeds = parts.first().map(|part| part.info.settings.seeds.clone());
    let written = out.write_records(Merged::new(&parts, &plan, &seeds.unwrap_or_default())?)?;
    out.write_with("plan.jsonl", |file| {
        plan.lines().try_for_each(|line| file.write_all(line.as_bytes()))
    })?;
    let mut info = info(&parts, whole);
    info.set_results(written);
    out.write_info(&info)?;
    Ok(info)
}

impl Part {
    fn other_items(&self, name: &'static str) -> Refusal {
        Refusal::OtherItems {
            folder: self.folder.path().to_owned(),
            name,
            shard: self.shard,
        }
    }
}

/// Reads the shards and sorts them; an error if one is missing or does not belong to the others.
fn parts(folders: &[RunFolder]) -> Result<Vec<Part>, MergeError> {
    let mut refusals = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    for folder in folders {
        let (info, unfinished) = match folder.complete_info() {
            Err(FolderError::Incomplete(_)) => (folder.info()?, true),
            info => (info?, false),
        };
        let path = || folder.path().to_owned();
        if info.settings.until.is_some() {
            refusals.push(Refusal::Until(path()));
        }
        let Some(shard) = info.settings.shard else {
            refusals.push(Refusal::NotAShard(path()));
            continue;
        };
        if unfinished {
            refusals.push(Refusal::Unfinished(path()));
        }
        let part = Part {
            folder: folder.clone(),
            info,
            shard,
        };
        if let Some(first) = parts.first() {
            refusals.extend(differences(&first.info, &part.info).map(|what| Refusal::Differs {
                folder: path(),
                first: first.folder.path().to_owned(),
                what,
            }));
        }
        parts.push(part);
    }
    parts.sort_by_key(|part| part.shard.index);
    refusals.extend(parts.windows(2).filter_map(|pair| match pair {
        [a, b] if a.shard == b.shard => Some(Refusal::Twice {
            shard: a.shard,
            first: a.folder.path().to_owned(),
            second: b.folder.path().to_owned(),
        }),
        _ => None,
    }));
    if let Some(of) = parts.first().map(|part| part.shard.of) {
        let there: BTreeSet<u32> = parts.iter().map(|part| part.shard.index).collect();
        let missing = (1..=of).filter(|index| !there.contains(index));
        refusals.extend(missing.map(|index| Refusal::Missing(Shard { index, of })));
    }
    match refusals.is_empty() {
        true => Ok(parts),
        false => Err(MergeError::Refused(refusals)),
    }
}

fn differences(first: &RunInfo, other: &RunInfo) -> impl Iterator<Item = ShardAspect> {
    let (a, b) = (&first.settings, &other.settings);
    let of = |settings: &RunSettings| settings.shard.map(|shard| shard.of);
    let kind = |info: &RunInfo| std::mem::discriminant(&info.origin);
    let models = |a: &BTreeSet<ModelProvenance>, b: &BTreeSet<ModelProvenance>| {
        // A shard in which every item failed knows no model.
        !a.is_empty() && !b.is_empty() && identities(a) != identities(b)
    };
    let (known, found) = (&first.provenance, &other.provenance);
    [
        (ShardAspect::Plan, first.plan.digest != other.plan.digest),
        (ShardAspect::Dataset, first.dataset != other.dataset),
        (
            ShardAspect::Target,
            (&a.target, a.prompting, a.kind) != (&b.target, b.prompting, b.kind),
        ),
        (
            ShardAspect::Guards,
            (&a.guards, &a.policy) != (&b.guards, &b.policy),
        ),
        (ShardAspect::Selection, a.selection != b.selection),
        (ShardAspect::Sampling, a.sampling != b.sampling),
        (ShardAspect::Seeds, a.seeds != b.seeds),
        (ShardAspect::Shards, of(a) != of(b)),
        (ShardAspect::Origin, kind(first) != kind(other)),
        (ShardAspect::TargetModel, models(&known.targets, &found.targets)),
        (ShardAspect::GuardModels, models(&known.guards, &found.guards)),
    ]
    .into_iter()
    .filter_map(|(aspect, differs)| differs.then_some(aspect))
}

/// By model id, what decides about the model's results.
fn identities(models: &BTreeSet<ModelProvenance>) -> BTreeMap<&str, BTreeSet<[&str; 8]>> {
    let mut found: BTreeMap<&str, BTreeSet<_>> = BTreeMap::new();
    for model in models {
        found.entry(&model.model).or_default().insert(model.identity());
    }
    found
}

fn info(parts: &[Part], plan: PlanInfo) -> RunInfo {
    let sum = |of: fn(&RunMeasurements) -> f64| parts.iter().map(|part| of(&part.info.measured)).sum::<f64>();
    let tokens = parts.iter().map(|part| part.info.measured.cached_prompt_tokens);
    let started = parts.iter().map(|part| part.info.measured.started_unix);
    let measured = RunMeasurements {
        started_unix: started.min().unwrap_or_default(),
        wall_seconds: sum(|measured| measured.wall_seconds),
        cached_prompt_tokens: tokens.sum(),
        interrupted: parts
            .iter()
            .find_map(|part| part.info.measured.interrupted.clone()),
    };
    let provenance = RunProvenance {
        targets: parts
            .iter()
            .flat_map(|part| part.info.provenance.targets.clone())
            .collect(),
        guards: parts
            .iter()
            .flat_map(|part| part.info.provenance.guards.clone())
            .collect(),
    };
    let first = &parts[0].info;
    RunInfo {
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        origin: Origin::Merged {
            shards: parts.len() as u32,
        },
        settings: RunSettings {
            shard: None,
            ..first.settings.clone()
        },
        plan,
        provenance,
        measured,
        ..first.clone()
    }
}

/// An item with a seed, and the index of the shard that has its record.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ExpectedRecord<'a> {
    key: &'a ItemKey,
    seed: u64,
    part: usize,
}

/// The records of all shards in the order of `results.jsonl`, each checked against the plan.
struct Merged<'a> {
    parts: &'a [Part],
    records: Vec<iter::Peekable<Records>>,
    /// The items that the plan expects, in the order of the results.
    expected: std::vec::IntoIter<ExpectedRecord<'a>>,
}

impl<'a> Merged<'a> {
    fn new(parts: &'a [Part], plan: &'a Plan, seeds: &[u64]) -> Result<Self, FolderError> {
        let mut expected = Vec::new();
        for (row, items) in plan.by_row().enumerate() {
            for item in items {
                expected.extend(seeds.iter().map(|&seed| ExpectedRecord {
                    key: &item.key,
                    seed,
                    part: row % parts.len(),
                }));
            }
        }
        expected.sort();
        let records = parts.iter().map(|part| Ok(part.folder.records()?.peekable()));
        Ok(Self {
            records: records.collect::<Result<_, FolderError>>()?,
            parts,
            expected: expected.into_iter(),
        })
    }

    fn step(&mut self) -> Result<Option<ItemRecord>, MergeError> {
        let Some(ExpectedRecord { key, seed, part }) = self.expected.next() else {
            // No shard may have a record beyond those of the plan.
            let left = self
                .records
                .iter_mut()
                .position(|records| records.peek().is_some());
            return match left {
                Some(part) => Err(self.other_items(part)),
                None => Ok(None),
            };
        };
        match self.records[part].next().transpose()? {
            Some(record) if (&record.key(), record.seed) == (key, seed) => Ok(Some(record)),
            _ => Err(self.other_items(part)),
        }
    }

    fn other_items(&self, part: usize) -> MergeError {
        MergeError::Refused(vec![self.parts[part].other_items("results.jsonl")])
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<ItemRecord, MergeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
