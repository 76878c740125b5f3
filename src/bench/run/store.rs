//! What is known of a run's items, kept in its journal. In memory there is only where to find it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{cells::Look, error::RunError};
use crate::bench::{
    journal::{Journal, Place},
    results::{GuardOutcome, Label, ModelProvenance, Outcome, RunProvenance},
};

/// Name of the journal in the run's folder.
pub(super) const FILE: &str = "journal.jsonl";

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Speaker {
    Target,
    Guard(usize),
}

/// A line of the journal. A later line about the same thing counts instead of an earlier one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    /// The first line: digest of the plan, number of seeds and of guards.
    Run {
        plan: String,
        seeds: usize,
        guards: usize,
    },
    /// A model that has not spoken before.
    Model {
        speaker: Speaker,
        model: ModelProvenance,
    },
    /// What the target said, in a run also what the first guard says of it.
    Item {
        slot: usize,
        spent: Spent,
        outcome: Outcome,
    },
    /// What a guard says.
    Verdict {
        slot: usize,
        guard: usize,
        spent: Spent,
        outcome: GuardOutcome,
    },
}

/// What the run had taken when a line was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spent {
    /// Seconds of work, all sittings together.
    pub(super) seconds: f64,
    /// Prompt tokens from the prefix cache.
    pub(super) cached_tokens: u64,
}

#[derive(Debug, Clone, Copy)]
enum Known {
    Nothing,
    /// And how many verdicts stand in the same line.
    Answered(Place, usize),
    Failed(Place),
}

/// What a run must be for its journal to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) plan: String,
    pub(super) items: usize,
    pub(super) seeds: usize,
    pub(super) guards: usize,
}

/// The journal and what is in it. Slots number the items: item of the plan times seeds, plus seed.
#[derive(Debug)]
pub(super) struct Store {
    journal: Journal,
    known: Knowledge,
}

#[derive(Debug)]
struct Knowledge {
    shape: Shape,
    begun: bool,
    items: Vec<Known>,
    /// By guard and slot; true when the guard failed.
    verdicts: Vec<Vec<Option<(Place, bool)>>>,
    looks: Vec<Look>,
    models: Vec<(Speaker, ModelProvenance)>,
    spent: Spent,
}

impl Knowledge {
    fn new(shape: Shape) -> Self {
        let slots = shape.items * shape.seeds;
        Self {
            begun: false,
            items: vec![Known::Nothing; slots],
            verdicts: vec![vec![None; slots]; shape.guards],
            looks: vec![Look::Open; slots],
            models: Vec::new(),
            spent: Spent::default(),
            shape,
        }
    }

    fn know(&mut self, entry: &Entry, place: Place) -> Result<(), String> {
        let foreign = || "the line does not fit the run's plan".to_owned();
        match entry {
            Entry::Run { plan, seeds, guards } => {
                let found = (plan, *seeds, *guards);
                if found != (&self.shape.plan, self.shape.seeds, self.shape.guards) {
                    return Err("the journal is another plan's".to_owned());
                }
                self.begun = true;
            }
            Entry::Model { speaker, model } => self.models.push((*speaker, model.clone())),
            Entry::Item { slot, spent, outcome } => {
                *self.items.get_mut(*slot).ok_or_else(foreign)? = match outcome {
                    Outcome::Answered(answer) => Known::Answered(place, answer.verdicts.len()),
                    Outcome::Failed(_) | Outcome::Skipped(_) => Known::Failed(place),
                };
                self.looks[*slot] = Look::of(first_label(outcome));
                self.spent = *spent;
            }
            Entry::Verdict {
                slot,
                guard,
                spent,
                outcome,
            } => {
                let of_guard = self.verdicts.get_mut(*guard).ok_or_else(foreign)?;
                let verdict = of_guard.get_mut(*slot).ok_or_else(foreign)?;
                *verdict = Some((place, matches!(outcome, GuardOutcome::Failed(_))));
                self.spent = *spent;
            }
        }
        Ok(())
    }
}

impl Store {
    /// For a new run.
    pub(super) fn create(path: &Path, shape: Shape) -> Result<Self, RunError> {
        let journal = Journal::create(path)?;
        let known = Knowledge::new(shape);
        let mut store = Self { journal, known };
        store.begin()?;
        Ok(store)
    }

    /// Of a run that was stopped.
    pub(super) fn open(path: &Path, shape: Shape) -> Result<Self, RunError> {
        let mut known = Knowledge::new(shape);
        let journal = Journal::open(path, &mut |entry: Entry, place| known.know(&entry, place))?;
        let mut store = Self { journal, known };
        // Killed while the first line was written.
        if !store.known.begun {
            store.begin()?;
        }
        Ok(store)
    }

    fn begin(&mut self) -> Result<(), RunError> {
        let shape = &self.known.shape;
        self.put(&Entry::Run {
            plan: shape.plan.clone(),
            seeds: shape.seeds,
            guards: shape.guards,
        })
    }

    fn put(&mut self, entry: &Entry) -> Result<(), RunError> {
        let place = self.journal.append(entry)?;
        // Our own slots and guards fit.
        let _ = self.known.know(entry, place);
        Ok(())
    }

    /// Takes note of what the run takes.
    pub(super) fn spend(&mut self, seconds: f64, cached_tokens: u64) {
        self.known.spent.seconds = seconds;
        self.known.spent.cached_tokens += cached_tokens;
    }

    /// What the run has taken so far.
    pub(super) fn spent(&self) -> Spent {
        self.known.spent
    }

    /// What is known of an item, as far as cells care.
    pub(super) fn look(&self, slot: usize) -> Look {
        self.known.looks[slot]
    }

    /// Keeps what became of an item.
    pub(super) fn put_item(&mut self, slot: usize, outcome: Outcome) -> Result<(), RunError> {
        self.put(&Entry::Item {
            slot,
            spent: self.spent(),
            outcome,
        })
    }

    /// Keeps what a guard says.
    pub(super) fn put_verdict(
        &mut self,
        slot: usize,
        guard: usize,
        outcome: GuardOutcome,
    ) -> Result<(), RunError> {
        self.put(&Entry::Verdict {
            slot,
            guard,
            spent: self.spent(),
            outcome,
        })
    }

    /// Keeps who spoke. Results of other weights, another template or another arithmetic do not belong into the
    /// same run.
    pub(super) fn put_model(
        &mut self,
        speaker: Speaker,
        model: Option<ModelProvenance>,
    ) -> Result<(), RunError> {
        let Some(model) = model else { return Ok(()) };
        let mut before = self.known.models.iter().filter(|(who, _)| *who == speaker);
        let first = before.next().map(|(_, first)| first);
        if let Some(first) = first.filter(|first| first.identity() != model.identity()) {
            return Err(RunError::ModelChanged {
                was: Box::new(first.clone()),
                is: Box::new(model),
            });
        }
        if self.known.models.contains(&(speaker, model.clone())) {
            return Ok(());
        }
        self.put(&Entry::Model { speaker, model })
    }

    /// Everybody who spoke.
    pub(super) fn provenance(&self) -> RunProvenance {
        let mut provenance = RunProvenance::default();
        for (speaker, model) in &self.known.models {
            match speaker {
                Speaker::Target => provenance.targets.insert(model.clone()),
                Speaker::Guard(_) => provenance.guards.insert(model.clone()),
            };
        }
        provenance
    }

    /// Answers whose judgement failed are open again, and so are items that failed if they can be asked.
    pub(super) fn forget_failures(&mut self, asks_items: bool) {
        for (known, look) in self.known.items.iter_mut().zip(&mut self.known.looks) {
            if asks_items && matches!(known, Known::Failed(_)) {
                *known = Known::Nothing;
                *look = Look::Open;
            }
        }
        for verdict in self.known.verdicts.iter_mut().flatten() {
            if matches!(verdict, Some((_, true))) {
                *verdict = None;
            }
        }
    }

    /// Slots of which nothing is known.
    pub(super) fn unasked(&self) -> impl Iterator<Item = usize> {
        let open = self.known.items.iter().enumerate();
        open.filter(|(_, known)| matches!(known, Known::Nothing))
            .map(|(slot, _)| slot)
    }

    /// Slots with an answer that this guard has not judged.
    pub(super) fn unjudged(&self, guard: usize) -> impl Iterator<Item = usize> {
        let verdicts = &self.known.verdicts[guard];
        self.known
            .items
            .iter()
            .enumerate()
            .filter_map(move |(slot, known)| {
                let open = matches!(known, Known::Answered(_, inline) if *inline <= guard);
                (open && verdicts[slot].is_none()).then_some(slot)
            })
    }

    /// What is known of an item, with the verdicts of all guards that have judged it.
    pub(super) fn outcome(&self, slot: usize) -> Result<Option<Outcome>, RunError> {
        let place = match self.known.items[slot] {
            Known::Nothing => return Ok(None),
            Known::Answered(place, _) | Known::Failed(place) => place,
        };
        let Entry::Item { mut outcome, .. } = self.journal.read(place)? else {
            return Ok(None);
        };
        if let Outcome::Answered(answer) = &mut outcome {
            for verdicts in self.known.verdicts.iter().skip(answer.verdicts.len()) {
                let Some((place, _)) = verdicts[slot] else { break };
                if let Entry::Verdict { outcome, .. } = self.journal.read(place)? {
                    answer.verdicts.push(outcome);
                }
            }
        }
        Ok(Some(outcome))
    }

    /// Waits until the disk has everything.
    pub(super) fn sync(&mut self) -> Result<(), RunError> {
        Ok(self.journal.sync()?)
    }
}

/// The primary guard's label.
pub(super) fn first_label(outcome: &Outcome) -> Option<Label> {
    let Outcome::Answered(answer) = outcome else {
        return None;
    };
    match answer.verdicts.first()? {
        GuardOutcome::Judged(verdict) => Some(verdict.label),
        GuardOutcome::Failed(_) => None,
    }
}
