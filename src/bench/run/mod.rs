//! Sends a plan to a server and keeps what comes back, so that a run may be stopped at any moment, by anything,
//! and resumed: the results are the same bytes as if nothing had happened.

mod answers;
mod cells;
mod error;
mod store;
mod work;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::error::RunError;
use self::{
    cells::{Cells, Look},
    store::{Shape, Store},
    work::{Ask, Judge},
};
use super::{
    plan::{Plan, PlanItem},
    results::{
        FORMAT, FolderError, GuardOutcome, ItemRecord, Label, ModelProvenance, Origin, Outcome, RunFolder,
        RunInfo, RunMeasurements, RunProvenance, RunStatus, SkipReason,
    },
    scores::result_table::JudgementStatus,
    settings::{DatasetInfo, RunSettings},
    taxonomy::Language,
};
use crate::{
    client::{Client, PolicyChoice},
    digest,
};

/// What a run tells whoever watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchEvent {
    /// An item has ended, or a further guard's judgement of it.
    Ended {
        /// Its language.
        language: Language,
        /// Its verdict; `None` when it failed.
        label: Option<Label>,
        /// Tokens that were computed for it: prompts and texts of target and guard, less what was cached.
        computed_tokens: u64,
    },
}

/// A run in its folder.
#[derive(Debug)]
pub struct Run {
    folder: RunFolder,
    info: RunInfo,
    plan: Plan,
    store: Store,
    cells: Option<Cells>,
    began: Instant,
    /// Seconds of the sittings before this one.
    earlier: f64,
}

impl Run {
    /// Begins a run in an empty folder. `plan` is the whole plan; a shard of it is taken if the settings say so.
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
        Self::begin(folder, plan, info, |_| Ok(()))
    }

    /// Begins to judge the answers of a run again.
    ///
    /// # Errors
    /// [`RunError`]; [`RunError::NoTexts`] for answers that were imported without them.
    pub fn rescore(
        folder: RunFolder,
        source: &RunFolder,
        guards: Vec<String>,
        policy: PolicyChoice,
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
            ..old.settings
        };
        let info = RunInfo {
            plan: if imported { plan.info() } else { old.plan },
            stopped_cells: old.stopped_cells,
            ..new_info(settings, old.dataset, Origin::Rescored { results_digest })
        };
        let targets = old.provenance.targets;
        Self::begin(folder, plan, info, |run| {
            for target in targets {
                run.store.put_model(store::Speaker::Target, Some(target))?;
            }
            run.take_answers(source)
        })
    }

    /// The folder is a run's only when `run.json` is there, which is written last.
    fn begin(
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

    /// Goes on with a run that was stopped, or that is complete and has failures to ask again.
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
            // Answers of another run are not asked for again.
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
                    cells.know(slot, store.look(slot));
                }
                cells
            });
        Self {
            earlier: store.spent().seconds,
            folder,
            info,
            plan,
            store,
            cells,
            began: Instant::now(),
        }
    }

    /// Copies the answers of another run, without their verdicts, and its failures.
    fn take_answers(&mut self, source: &RunFolder) -> Result<(), RunError> {
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

    /// What was asked.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Its folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Judgements that the run makes in all, as far as no cell stops early: one for each item, seed and guard.
    pub fn planned(&self) -> impl Iterator<Item = Language> {
        let each = self.info.settings.seeds.len() * self.info.settings.guards.len();
        let languages = self.plan.items.iter().map(|item| item.key.language);
        languages.flat_map(move |language| std::iter::repeat_n(language, each))
    }

    /// Judgements that were made before this sitting, or will not be made.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn made(&self) -> Result<Vec<(Language, JudgementStatus)>, RunError> {
        let guards = self.info.settings.guards.len();
        let mut made = Vec::new();
        for slot in 0..self.slots() {
            let language = self.item(slot).0.key.language;
            match self.store.outcome(slot)? {
                None => {}
                Some(Outcome::Answered(answer)) => made.extend(answer.verdicts.iter().map(|verdict| {
                    let mark = match verdict {
                        GuardOutcome::Judged(verdict) => verdict.label.into(),
                        GuardOutcome::Failed(_) => JudgementStatus::Failed,
                    };
                    (language, mark)
                })),
                Some(Outcome::Failed(_)) => {
                    made.extend(std::iter::repeat_n((language, JudgementStatus::Failed), guards))
                }
                Some(Outcome::Skipped(_)) => {
                    made.extend(std::iter::repeat_n((language, JudgementStatus::Skipped), guards))
                }
            }
        }
        Ok(made)
    }

    /// Asks everything that is open and waits for it. May be dropped at any time. A server that does not answer
    /// is tried for `retry_for`.
    ///
    /// # Errors
    /// [`RunError`]; items that failed are results.
    pub async fn drive(
        &mut self,
        client: &Client,
        retry_for: Duration,
        on_event: &mut dyn FnMut(BenchEvent),
    ) -> Result<(), RunError> {
        self.began = Instant::now();
        if self.info.origin == Origin::Run {
            work::finish(&Ask, self, client, retry_for, on_event).await?;
        }
        for guard in 0..self.info.settings.guards.len() {
            work::finish(&Judge { guard }, self, client, retry_for, on_event).await?;
        }
        Ok(())
    }

    /// Writes the results. Items that were not asked are failures for the reason given, if there is one.
    ///
    /// # Errors
    /// [`FolderError::Incomplete`] when items are open and there is no reason for it; others of [`RunError`].
    pub fn complete(mut self, given_up: Option<&str>) -> Result<RunInfo, RunError> {
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
        let mut looks = vec![Look::Open; self.slots()];
        let guards = self.info.settings.guards.len();
        let records = self.sorted_slots().into_iter().map(|slot| {
            let (item, seed) = self.item(slot);
            let outcome = match self.skips(slot) {
                true => Some(Outcome::Skipped(SkipReason::CellDecided)),
                false => self.store.outcome(slot)?,
            };
            let whole = match outcome {
                Some(Outcome::Answered(mut answer)) if answer.verdicts.len() < guards => {
                    open += 1;
                    let reason = given_up.ok_or_else(|| self.incomplete())?;
                    let failed = GuardOutcome::Failed(work::not_asked(reason));
                    answer.verdicts.resize(guards, failed);
                    Outcome::Answered(answer)
                }
                Some(outcome) => outcome,
                None => {
                    open += 1;
                    Outcome::Failed(work::not_asked(given_up.ok_or_else(|| self.incomplete())?))
                }
            };
            looks[slot] = Look::of(store::first_label(&whole));
            Ok::<_, RunError>(ItemRecord::new(item, seed, whole))
        });
        let mut info = self.info.clone();
        info.results_digest = Some(self.folder.write_records(records)?);
        if let (None, Some(until)) = (&self.cells, info.settings.until) {
            // Which items were asked was decided by other verdicts; of these there are as many.
            let cells = Cells::new(&self.plan, &info.settings.seeds, until);
            info.stopped_cells = cells.told_again(&info.stopped_cells, &looks);
        }
        if open > 0 {
            info.measured.interrupted = given_up.map(str::to_owned);
        }
        self.folder.write_info(&info)?;
        Ok(info)
    }

    fn incomplete(&self) -> FolderError {
        FolderError::Incomplete(self.folder.path().to_owned())
    }

    fn slots(&self) -> usize {
        self.plan.items.len() * self.info.settings.seeds.len()
    }

    fn item(&self, slot: usize) -> (&PlanItem, u64) {
        let seeds = &self.info.settings.seeds;
        (&self.plan.items[slot / seeds.len()], seeds[slot % seeds.len()])
    }

    /// In the order of `results.jsonl`.
    fn sorted_slots(&self) -> Vec<usize> {
        let mut slots: Vec<_> = (0..self.slots()).collect();
        slots.sort_by_key(|&slot| {
            let (item, seed) = self.item(slot);
            (&item.key, seed)
        });
        slots
    }

    fn skips(&self, slot: usize) -> bool {
        self.cells.as_ref().is_some_and(|cells| cells.skips(slot))
    }

    /// Keeps who judged, if it did so by the policy that was asked for.
    fn put_guard(&mut self, guard: usize, model: Option<ModelProvenance>) -> Result<(), RunError> {
        let asked = self.info.settings.policy.name().unwrap_or_default();
        let followed = model.as_ref().map_or("", |model| model.policy.as_str());
        if asked != followed {
            return Err(RunError::PolicyIgnored {
                asked: asked.to_owned(),
                followed: followed.to_owned(),
            });
        }
        self.store.put_model(store::Speaker::Guard(guard), model)
    }

    fn put_item(&mut self, slot: usize, outcome: Outcome) -> Result<(), RunError> {
        self.store.put_item(slot, outcome)?;
        if let Some(cells) = &mut self.cells {
            cells.know(slot, self.store.look(slot));
        }
        Ok(())
    }

    fn spend(&mut self, cached_tokens: u64) {
        let seconds = self.earlier + self.began.elapsed().as_secs_f64();
        self.store.spend(seconds, cached_tokens);
    }
}

/// What to do about failures when a run is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failures {
    /// They are results.
    Keep,
    /// They are open again.
    AskAgain,
}

/// A run that begins now.
pub(super) fn new_info(settings: RunSettings, dataset: DatasetInfo, origin: Origin) -> RunInfo {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    RunInfo {
        format: FORMAT.to_owned(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        status: RunStatus::Running,
        origin,
        settings,
        dataset,
        plan: super::results::PlanInfo::default(),
        provenance: RunProvenance::default(),
        measured: RunMeasurements {
            started_unix: since_epoch.map_or(0, |since| since.as_secs()),
            ..RunMeasurements::default()
        },
        results_digest: None,
        stopped_cells: Vec::new(),
    }
}

fn shape(info: &RunInfo, plan: &Plan) -> Shape {
    Shape {
        plan: info.plan.digest.clone(),
        items: plan.items.len(),
        seeds: info.settings.seeds.len(),
        guards: info.settings.guards.len(),
    }
}
