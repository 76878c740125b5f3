//! The results of a run's items so far, in its journal. Memory holds only where in the journal each of them is.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{cells::Draw, error::RunError};
use crate::bench::{
    journal::{Journal, JournalOffset},
    results::{GuardOutcome, Label, ModelProvenance, Outcome, RunProvenance},
    settings::Controversial,
};

/// Name of the journal in the run's folder.
pub(super) const FILE: &str = "journal.jsonl";

/// Which of a run's models an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RunRole {
    Target,
    /// By its number in the settings.
    Guard(usize),
}

/// An entry of the journal. A later entry about the same thing replaces an earlier one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RunEntry {
    /// The first entry: digest of the plan, number of seeds and of guards.
    Run {
        plan: String,
        seeds: usize,
        guards: usize,
    },
    /// A model that answers or judges for the first time.
    Model {
        speaker: RunRole,
        model: ModelProvenance,
    },
    /// The target's answer; where the run asked for both at once, with the first guard's verdict.
    Item {
        slot: usize,
        spent: Spent,
        outcome: Outcome,
    },
    /// The verdict of one guard on an answer.
    Verdict {
        slot: usize,
        guard: usize,
        spent: Spent,
        outcome: GuardOutcome,
    },
}

/// What the run had cost when an entry was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spent {
    /// Seconds of work, over all sittings.
    pub(super) seconds: f64,
    /// Prompt tokens that the server took from its prefix cache.
    pub(super) cached_tokens: u64,
}

/// Where the result of a slot is in the journal.
#[derive(Debug, Clone, Copy)]
enum ItemEntry {
    None,
    /// The second value is how many verdicts the same entry holds.
    Answered(JournalOffset, usize),
    Failed(JournalOffset),
}

/// The numbers in which a journal and the run that opens it must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) plan: String,
    pub(super) items: usize,
    pub(super) seeds: usize,
    pub(super) guards: usize,
    /// What the label "controversial" counts as, for which cells are decided. A journal does not say it.
    pub(super) controversial: Controversial,
}

/// A run's journal and an index of it. A slot is one item with one seed: its number is the item's number in the plan times
/// the number of seeds, plus the number of the seed.
#[derive(Debug)]
pub(super) struct Store {
    journal: Journal,
    index: Index,
}

/// Where each result is in the journal.
#[derive(Debug)]
struct Index {
    shape: Shape,
    /// Whether the first entry is there.
    begun: bool,
    /// By slot.
    items: Vec<ItemEntry>,
    /// By guard and slot; true when the guard's judgement failed.
    verdicts: Vec<Vec<Option<(JournalOffset, bool)>>>,
    /// By slot.
    draws: Vec<Draw>,
    models: Vec<(RunRole, ModelProvenance)>,
    spent: Spent,
}

impl Index {
    fn new(shape: Shape) -> Self {
        let slots = shape.items * shape.seeds;
        Self {
            begun: false,
            items: vec![ItemEntry::None; slots],
            verdicts: vec![vec![None; slots]; shape.guards],
            draws: vec![Draw::Open; slots],
            models: Vec::new(),
            spent: Spent::default(),
            shape,
        }
    }

    fn add(&mut self, entry: &RunEntry, offset: JournalOffset) -> Result<(), String> {
        let unfit = || "the entry names an item or a guard that the run does not have".to_owned();
        match entry {
            RunEntry::Run { plan, seeds, guards } => {
                let found = (plan, *seeds, *guards);
                if found != (&self.shape.plan, self.shape.seeds, self.shape.guards) {
                    return Err("the journal belongs to a run with another plan".to_owned());
                }
                self.begun = true;
            }
            RunEntry::Model { speaker, model } => self.models.push((*speaker, model.clone())),
            RunEntry::Item { slot, spent, outcome } => {
                *self.items.get_mut(*slot).ok_or_else(unfit)? = match outcome {
                    Outcome::Answered(answer) => ItemEntry::Answered(offset, answer.verdicts.len()),
                    Outcome::Failed(_) | Outcome::Skipped(_) => ItemEntry::Failed(offset),
                };
                self.draws[*slot] = Draw::of(first_label(outcome), self.shape.controversial);
                self.spent = *spent;
            }
            RunEntry::Verdict {
                slot,
                guard,
                spent,
                outcome,
            } => {
                let of_guard = self.verdicts.get_mut(*guard).ok_or_else(unfit)?;
                let verdict = of_guard.get_mut(*slot).ok_or_else(unfit)?;
                *verdict = Some((offset, matches!(outcome, GuardOutcome::Failed(_))));
                self.spent = *spent;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Makes the journal of a new run.
    pub(super) fn create(path: &Path, shape: Shape) -> Result<Self, RunError> {
        let journal = Journal::create(path)?;
        let index = Index::new(shape);
        let mut store = Self { journal, index };
        store.begin()?;
        Ok(store)
    }

    /// Opens the journal of a run that was stopped.
    pub(super) fn open(path: &Path, shape: Shape) -> Result<Self, RunError> {
        let mut index = Index::new(shape);
        let journal = Journal::open(path, &mut |entry: RunEntry, offset| index.add(&entry, offset))?;
        let mut store = Self { journal, index };
        // The process was killed while it wrote the first entry.
        if !store.index.begun {
            store.begin()?;
        }
        Ok(store)
    }

    fn begin(&mut self) -> Result<(), RunError> {
        let shape = &self.index.shape;
        self.put(&RunEntry::Run {
            plan: shape.plan.clone(),
            seeds: shape.seeds,
            guards: shape.guards,
        })
    }

    fn put(&mut self, entry: &RunEntry) -> Result<(), RunError> {
        let offset = self.journal.append(entry)?;
        // The slots and guards of this run always fit its own index.
        let _ = self.index.add(entry, offset);
        Ok(())
    }

    /// Sets the seconds of work so far, and adds tokens from the prefix cache.
    pub(super) fn add_usage(&mut self, seconds: f64, cached_tokens: u64) {
        self.index.spent.seconds = seconds;
        self.index.spent.cached_tokens += cached_tokens;
    }

    /// What the run has cost so far.
    pub(super) fn spent(&self) -> Spent {
        self.index.spent
    }

    /// What the confidence sequence of its cell knows of a slot.
    pub(super) fn draw(&self, slot: usize) -> Draw {
        self.index.draws[slot]
    }

    /// Writes the result of a slot.
    pub(super) fn put_item(&mut self, slot: usize, outcome: Outcome) -> Result<(), RunError> {
        self.put(&RunEntry::Item {
            slot,
            spent: self.spent(),
            outcome,
        })
    }

    /// Writes a guard's verdict on a slot's answer.
    pub(super) fn put_verdict(
        &mut self,
        slot: usize,
        guard: usize,
        outcome: GuardOutcome,
    ) -> Result<(), RunError> {
        self.put(&RunEntry::Verdict {
            slot,
            guard,
            spent: self.spent(),
            outcome,
        })
    }

    /// Writes which model answered or judged. Results of other weights, another template or another arithmetic do not
    /// belong into the same run.
    pub(super) fn put_model(
        &mut self,
        speaker: RunRole,
        model: Option<ModelProvenance>,
    ) -> Result<(), RunError> {
        let Some(model) = model else { return Ok(()) };
        let mut before = self.index.models.iter().filter(|(who, _)| *who == speaker);
        let first = before.next().map(|(_, first)| first);
        if let Some(first) = first.filter(|first| first.identity() != model.identity()) {
            return Err(RunError::ModelChanged {
                was: Box::new(first.clone()),
                is: Box::new(model),
            });
        }
        if self.index.models.contains(&(speaker, model.clone())) {
            return Ok(());
        }
        self.put(&RunEntry::Model { speaker, model })
    }

    /// All models that answered or judged.
    pub(super) fn provenance(&self) -> RunProvenance {
        let mut provenance = RunProvenance::default();
        for (speaker, model) in &self.index.models {
            match speaker {
                RunRole::Target => provenance.targets.insert(model.clone()),
                RunRole::Guard(_) => provenance.guards.insert(model.clone()),
            };
        }
        provenance
    }

    /// Opens again what failed: judgements always, items only where `asks_items` says that the run can ask them.
    pub(super) fn forget_failures(&mut self, asks_items: bool) {
        for (item, draw) in self.index.items.iter_mut().zip(&mut self.index.draws) {
            if asks_items && matches!(item, ItemEntry::Failed(_)) {
                *item = ItemEntry::None;
                *draw = Draw::Open;
            }
        }
        for verdict in self.index.verdicts.iter_mut().flatten() {
            if matches!(verdict, Some((_, true))) {
                *verdict = None;
            }
        }
    }

    /// Slots without a result.
    pub(super) fn unasked(&self) -> impl Iterator<Item = usize> {
        let open = self.index.items.iter().enumerate();
        open.filter(|(_, item)| matches!(item, ItemEntry::None))
            .map(|(slot, _)| slot)
    }

    /// Slots with an answer that this guard has not judged.
    pub(super) fn unjudged(&self, guard: usize) -> impl Iterator<Item = usize> {
        let verdicts = &self.index.verdicts[guard];
        self.index
            .items
            .iter()
            .enumerate()
            .filter_map(move |(slot, item)| {
                let open = matches!(item, ItemEntry::Answered(_, inline) if *inline <= guard);
                (open && verdicts[slot].is_none()).then_some(slot)
            })
    }

    /// The result of a slot, with the verdicts of all guards that have judged it.
    pub(super) fn outcome(&self, slot: usize) -> Result<Option<Outcome>, RunError> {
        let offset = match self.index.items[slot] {
            ItemEntry::None => return Ok(None),
            ItemEntry::Answered(offset, _) | ItemEntry::Failed(offset) => offset,
        };
        let RunEntry::Item { mut outcome, .. } = self.journal.read(offset)? else {
            return Ok(None);
        };
        if let Outcome::Answered(answer) = &mut outcome {
            for verdicts in self.index.verdicts.iter().skip(answer.verdicts.len()) {
                let Some((offset, _)) = verdicts[slot] else { break };
                if let RunEntry::Verdict { outcome, .. } = self.journal.read(offset)? {
                    answer.verdicts.push(outcome);
                }
            }
        }
        Ok(Some(outcome))
    }

    /// Waits until the disk has every entry.
    pub(super) fn sync(&mut self) -> Result<(), RunError> {
        Ok(self.journal.sync()?)
    }
}

/// The label of the primary guard; `None` for a failure.
pub(super) fn first_label(outcome: &Outcome) -> Option<Label> {
    let Outcome::Answered(answer) = outcome else {
        return None;
    };
    match answer.verdicts.first()? {
        GuardOutcome::Judged(verdict) => Some(verdict.label),
        GuardOutcome::Failed(_) => None,
    }
}
