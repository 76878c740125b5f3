//! A run in its folder: its plan, what is known of each item, and its results once they are complete.

use std::{
    fs,
    io::ErrorKind,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    answers,
    cells::{Cells, Draw},
    error::RunError,
    store::{self, Shape, Store},
};
use crate::{
    bench::{
        plan::{Plan, PlanItem},
        results::{
            FORMAT, FolderError, GuardOutcome, ItemRecord, ModelProvenance, Origin, Outcome, PlanInfo,
            RunFolder, RunInfo, RunMeasurements, RunProvenance, RunStatus, SkipReason,
        },
        scores::result_table::JudgementStatus,
        settings::{Controversial, Counting, DatasetInfo, RunSettings},
        taxonomy::Language,
    },
    client::PolicyChoice,
    digest,
};

/// A run in its folder, which may be stopped at any time and opened again.
#[derive(Debug)]
pub struct Run {
    pub(super) folder: RunFolder,
    pub(super) info: RunInfo,
    plan: Plan,
    pub(super) store: Store,
    /// Present where `--until` may end cells early.
    pub(super) cells: Option<Cells>,
    /// When this sitting began.
    pub(super) began: Instant,
    /// Seconds of work in the sittings before this one.
    earlier_seconds: f64,
}

impl Run {
    /// Begins a run in an empty folder. `plan` is the whole plan; where the settings name a shard, the run takes that part
    /// of it.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn create(
        folder: RunFolder,
        plan: &Plan,
        settings: RunSettings,
        dataset: DatasetInfo,
    ) -> Result<Self, RunError> {
        let mut planned = plan.info();
        let plan = match settings.shard {
            Some(shard) => plan.shard(shard),
            None => plan.clone(),
        };
        (planned.items, planned.rows) = (plan.items.len(), plan.rows);
        let info = RunInfo {
            plan: planned,
            ..new_info(settings, dataset, Origin::Run)
        };
        Self::write_new(folder, plan, info, |_| Ok(()))
    }

    /// Begins a run that judges the answers of another run again and asks no target. Without `controversial`, that label counts as
    /// in the other run.
    ///
    /// # Errors
    /// [`RunError`]; [`RunError::NoTexts`] for answers that were imported without them.
    pub fn rescore(
        folder: RunFolder,
        source: &RunFolder,
        guards: Vec<String>,
        policy: PolicyChoice,
        controversial: Option<Controversial>,
    ) -> Result<Self, RunError> {
        let old = source.complete_info()?;
        let results_digest = match old.results_digest {
            Some(digest) => digest,
            None => {
                let path = source.file("results.jsonl");
                digest::of_file(&path).map_err(|source| FolderError::Io { path, source })?
            }
        };
        let imported = matches!(old.origin, Origin::Imported { .. });
        let prompts = match imported && !source.file("plan.jsonl").exists() {
            true => Vec::new(),
            false => source.plan()?,
        };
        if imported && prompts.len() < old.plan.items {
            return Err(RunError::NoPrompts(old.plan.items - prompts.len()));
        }
        let plan = Plan::of_items(prompts);
        let settings = RunSettings {
            guards,
            policy,
            controversial: controversial.unwrap_or(old.settings.controversial),
            ..old.settings
        };
        let info = RunInfo {
            plan: if imported { plan.info() } else { old.plan },
            stopped_cells: old.stopped_cells,
            ..new_info(settings, old.dataset, Origin::Rescored { results_digest })
        };
        let targets = old.provenance.targets;
        Self::write_new(folder, plan, info, |run| {
            for target in targets {
                run.store.put_model(store::RunRole::Target, Some(target))?;
            }
            run.copy_answers(source)
        })
    }

    /// Writes the files of a new run. `run.json` comes last: without it the folder is no run.
    fn write_new(
        folder: RunFolder,
        plan: Plan,
        info: RunInfo,
        fill: impl FnOnce(&mut Self) -> Result<(), RunError>,
    ) -> Result<Self, RunError> {
        folder.write_with("plan.jsonl", |file| {
            plan.lines().try_for_each(|line| file.write_all(line.as_bytes()))
        })?;
        let store = Store::create(&folder.file(store::FILE), shape(&info, &plan))?;
        let mut run = Self::assemble(folder, plan, info, store);
        fill(&mut run)?;
        run.store.sync()?;
        run.folder.write_info(&run.info)?;
        Ok(run)
    }

    /// Removes from a folder without `run.json` the files that a run writes before it, so that a run can begin there.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn remove_unbegun(folder: &RunFolder) -> Result<(), FolderError> {
        for name in [
            "plan.jsonl",
            "plan.jsonl.partial",
            store::FILE,
            "run.json.partial",
        ] {
            let path = folder.file(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(FolderError::Io { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Opens a run that was stopped, or a complete one whose failures are to be asked again.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn open(folder: RunFolder, failures: Failures) -> Result<Self, RunError> {
        let info = folder.info()?;
        let made_elsewhere = match info.origin {
            Origin::Run | Origin::Rescored { .. } => None,
            Origin::Imported { .. } => Some("imported"),
            Origin::Merged { .. } => Some("merged: resume its shards and merge them again"),
        };
        if let Some(how) = made_elsewhere {
            return Err(RunError::NothingToResume(folder.path().to_owned(), how));
        }
        let plan = Plan::of_items(folder.plan()?);
        let fits = plan.items.len() == info.plan.items
            && (info.settings.shard.is_some() || plan.info().digest == info.plan.digest);
        if !fits {
            return Err(RunError::OtherPlan(folder.file("plan.jsonl")));
        }
        let mut store = Store::open(&folder.file(store::FILE), shape(&info, &plan))?;
        if failures == Failures::AskAgain {
            // A run that judges the answers of another run asks no target.
            store.forget_failures(info.origin == Origin::Run);
        }
        Ok(Self::assemble(folder, plan, info, store))
    }

    fn assemble(folder: RunFolder, plan: Plan, info: RunInfo, store: Store) -> Self {
        let cells = info
            .settings
            .until
            .filter(|_| info.origin == Origin::Run)
            .map(|until| {
                let mut cells = Cells::new(&plan, &info.settings.seeds, until);
                for slot in 0..plan.items.len() * info.settings.seeds.len() {
                    cells.update(slot, store.draw(slot));
                }
                cells
            });
        Self {
            earlier_seconds: store.spent().seconds,
            folder,
            info,
            plan,
            store,
            cells,
            began: Instant::now(),
        }
    }

    /// Copies the answers of another run, without their verdicts, and its failed items.
    fn copy_answers(&mut self, source: &RunFolder) -> Result<(), RunError> {
        let mut records = source.records()?;
        let other = || RunError::OtherResults(source.file("results.jsonl"));
        let mut textless = 0;
        for slot in self.sorted_slots() {
            let record = records.next().ok_or_else(other)??;
            let (item, seed) = self.item(slot);
            if (&item.key, seed) != (&record.key(), record.seed) {
                return Err(other());
            }
            match record.outcome {
                Outcome::Answered(mut answer) => {
                    textless += usize::from(answer.text.is_none());
                    answer.verdicts.clear();
                    self.store.put_item(slot, Outcome::Answered(answer))?;
                }
                other => self.store.put_item(slot, other)?,
            }
        }
        match (records.next(), textless) {
            (Some(_), _) => Err(other()),
            (None, 0) => Ok(()),
            (None, textless) => Err(RunError::NoTexts(textless)),
        }
    }

    /// What `run.json` says of the run.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// The folder that the run is written to.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// What the label "controversial" counts as.
    pub fn controversial(&self) -> Controversial {
        self.info.settings.controversial
    }

    /// The language of each judgement that the run makes if no cell stops early: one per item, seed and guard.
    pub fn planned_judgements(&self) -> impl Iterator<Item = Language> {
        let each = self.info.settings.seeds.len() * self.info.settings.guards.len();
        let languages = self.plan.items.iter().map(|item| item.key.language);
        languages.flat_map(move |language| std::iter::repeat_n(language, each))
    }

    /// Language and result of each judgement that is recorded, failures and skipped items included.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn recorded_judgements(&self) -> Result<Vec<(Language, JudgementStatus)>, RunError> {
        let Counting {
            guards,
            controversial,
        } = self.info.settings.counting();
        let mut recorded = Vec::new();
        for slot in 0..self.slots() {
            let language = self.item(slot).0.key.language;
            match self.store.outcome(slot)? {
                None => {}
                Some(Outcome::Answered(answer)) => recorded.extend(answer.verdicts.iter().map(|verdict| {
                    let mark = match verdict {
                        GuardOutcome::Judged(verdict) => JudgementStatus::of(verdict.label, controversial),
                        GuardOutcome::Failed(_) => JudgementStatus::Failed,
                    };
                    (language, mark)
                })),
                Some(Outcome::Failed(_)) => {
                    recorded.extend(std::iter::repeat_n((language, JudgementStatus::Failed), guards))
                }
                Some(Outcome::Skipped(_)) => {
                    recorded.extend(std::iter::repeat_n((language, JudgementStatus::Skipped), guards))
                }
            }
        }
        Ok(recorded)
    }

    /// Writes the results. `stopped_because` says why items are open; these become failures with that reason.
    ///
    /// # Errors
    /// [`FolderError::Incomplete`] when items are open and no reason is given; others of [`RunError`].
    pub fn complete(mut self, stopped_because: Option<&str>) -> Result<RunInfo, RunError> {
        self.store.sync()?;
        self.info.status = RunStatus::Complete;
        self.info.provenance = self.store.provenance();
        let spent = self.store.spent();
        self.info.measured.wall_seconds = spent.seconds;
        self.info.measured.cached_prompt_tokens = spent.cached_tokens;
        self.info.measured.interrupted = None;
        if let Some(cells) = &self.cells {
            self.info.stopped_cells = cells.stopped();
        }
        let mut open = 0;
        let mut draws = vec![Draw::Open; self.slots()];
        let Counting {
            guards,
            controversial,
        } = self.info.settings.counting();
        let records = self.sorted_slots().into_iter().map(|slot| {
            let (item, seed) = self.item(slot);
            let outcome = match self.skips(slot) {
                true => Some(Outcome::Skipped(SkipReason::CellDecided)),
                false => self.store.outcome(slot)?,
            };
            let whole = match outcome {
                Some(Outcome::Answered(mut answer)) if answer.verdicts.len() < guards => {
                    open += 1;
                    let reason = stopped_because.ok_or_else(|| self.incomplete())?;
                    let failed = GuardOutcome::Failed(answers::not_asked(reason));
                    answer.verdicts.resize(guards, failed);
                    Outcome::Answered(answer)
                }
                Some(outcome) => outcome,
                None => {
                    open += 1;
                    Outcome::Failed(answers::not_asked(
                        stopped_because.ok_or_else(|| self.incomplete())?,
                    ))
                }
            };
            draws[slot] = Draw::of(store::first_label(&whole), controversial);
            Ok::<_, RunError>(ItemRecord::new(item, seed, whole))
        });
        let mut info = self.info.clone();
        info.set_results(self.folder.write_records(records)?);
        if let (None, Some(until)) = (&self.cells, info.settings.until) {
            // The verdicts of the other run decided which items were asked; the same items are judged here.
            let cells = Cells::new(&self.plan, &info.settings.seeds, until);
            info.stopped_cells = cells.rejudged(&info.stopped_cells, &draws);
        }
        if open > 0 {
            info.measured.interrupted = stopped_because.map(str::to_owned);
        }
        self.folder.write_info(&info)?;
        Ok(info)
    }

    fn incomplete(&self) -> FolderError {
        FolderError::Incomplete(self.folder.path().to_owned())
    }

    /// How many results the run has in the end: one per item and seed.
    fn slots(&self) -> usize {
        self.plan.items.len() * self.info.settings.seeds.len()
    }

    /// The item and the seed of a slot.
    pub(super) fn item(&self, slot: usize) -> (&PlanItem, u64) {
        let seeds = &self.info.settings.seeds;
        (&self.plan.items[slot / seeds.len()], seeds[slot % seeds.len()])
    }

    /// All slots in the order of `results.jsonl`.
    fn sorted_slots(&self) -> Vec<usize> {
        let mut slots: Vec<_> = (0..self.slots()).collect();
        slots.sort_by_key(|&slot| {
            let (item, seed) = self.item(slot);
            (&item.key, seed)
        });
        slots
    }

    /// Whether the slot is not asked because its cell has stopped.
    pub(super) fn skips(&self, slot: usize) -> bool {
        self.cells.as_ref().is_some_and(|cells| cells.skips(slot))
    }

    /// Records which model judged; an error if it judged by another policy than the run asked for.
    pub(super) fn record_guard(
        &mut self,
        guard: usize,
        model: Option<ModelProvenance>,
    ) -> Result<(), RunError> {
        let asked = self.info.settings.policy.name().unwrap_or_default();
        let followed = model.as_ref().map_or("", |model| model.policy.as_str());
        if asked != followed {
            return Err(RunError::PolicyIgnored {
                asked: asked.to_owned(),
                followed: followed.to_owned(),
            });
        }
        self.store.put_model(store::RunRole::Guard(guard), model)
    }

    /// Records the result of a slot.
    pub(super) fn record_item(&mut self, slot: usize, outcome: Outcome) -> Result<(), RunError> {
        self.store.put_item(slot, outcome)?;
        if let Some(cells) = &mut self.cells {
            cells.update(slot, self.store.draw(slot));
        }
        Ok(())
    }

    /// Adds the time of this sitting so far, and tokens that came from the prefix cache, to what the run has cost.
    pub(super) fn add_usage(&mut self, cached_tokens: u64) {
        let seconds = self.earlier_seconds + self.began.elapsed().as_secs_f64();
        self.store.add_usage(seconds, cached_tokens);
    }
}

/// What happens to failures when a run is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failures {
    /// They stay results.
    Keep,
    /// They are asked again.
    AskAgain,
}

/// What `run.json` says of a run that begins now.
pub(in crate::bench) fn new_info(settings: RunSettings, dataset: DatasetInfo, origin: Origin) -> RunInfo {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    RunInfo {
        format: FORMAT.to_owned(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        status: RunStatus::Running,
        origin,
        settings,
        dataset,
        plan: PlanInfo::default(),
        provenance: RunProvenance::default(),
        measured: RunMeasurements {
            started_unix: since_epoch.map_or(0, |since| since.as_secs()),
            ..RunMeasurements::default()
        },
        results_digest: None,
        results_tree: None,
        stopped_cells: Vec::new(),
    }
}

/// The numbers in which the run and its journal must agree.
fn shape(info: &RunInfo, plan: &Plan) -> Shape {
    Shape {
        plan: info.plan.digest.clone(),
        items: plan.items.len(),
        seeds: info.settings.seeds.len(),
        guards: info.settings.guards.len(),
        controversial: info.settings.controversial,
    }
}
