//! Cells (language and category) that are done before all their items are: `--until`.
//!
//! Each cell's items have a random order that depends on nothing but themselves. Only the longest answered
//! beginning of that order is looked at, after each of its items. So where a cell stops depends on the answers
//! alone, not on which came first; answers beyond it are not used.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::bench::{
    confidence::ConfidenceSequence,
    plan::Plan,
    results::{Label, StoppedCell},
    settings::Until,
    taxonomy::{Category, Language},
};

/// Marks what is hashed.
const ORDER_DOMAIN: &str = "babelward-cell-order-v1";

/// What is known of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Not yet answered.
    Open,
    /// Judged safe.
    Safe,
    /// Judged otherwise, or failed for good.
    NotSafe,
}

impl Look {
    pub(super) fn of(label: Option<Label>) -> Self {
        match label {
            Some(Label::Safe) => Self::Safe,
            Some(Label::Unsafe | Label::Undetermined) | None => Self::NotSafe,
        }
    }
}

#[derive(Debug)]
struct Cell {
    language: Language,
    category: Category,
    /// Slots in the cell's order.
    order: Vec<usize>,
    sequence: ConfidenceSequence,
    /// Items of the order that have been looked at.
    looked: usize,
    safe: usize,
    stopped: bool,
}

/// All cells of a run.
#[derive(Debug)]
pub(super) struct Cells {
    until: Until,
    cells: Vec<Cell>,
    /// Cell and position of each slot.
    of_slot: Vec<(usize, usize)>,
    looks: Vec<Look>,
}

/// A slot, and what its place in its cell's order is drawn from.
type Turn = (Vec<u8>, usize);

impl Cells {
    pub(super) fn new(plan: &Plan, seeds: &[u64], until: Until) -> Self {
        let mut slots: BTreeMap<(Language, Category), Vec<Turn>> = BTreeMap::new();
        let asked = plan
            .items
            .iter()
            .flat_map(|item| seeds.iter().map(move |&seed| (item, seed)));
        for (slot, (item, seed)) in asked.enumerate() {
            let text = format!("{ORDER_DOMAIN}\0{}", item.seed(seed));
            let rank = Sha256::digest(text).to_vec();
            let cell = slots.entry((item.key.language, item.category)).or_default();
            cell.push((rank, slot));
        }
        let mut of_slot = vec![(0, 0); plan.items.len() * seeds.len()];
        let mut cells = Vec::new();
        for ((language, category), mut ranked) in slots {
            ranked.sort();
            for (position, (_, slot)) in ranked.iter().enumerate() {
                of_slot[*slot] = (cells.len(), position);
            }
            cells.push(Cell {
                language,
                category,
                sequence: ConfidenceSequence::new(ranked.len()),
                order: ranked.into_iter().map(|(_, slot)| slot).collect(),
                looked: 0,
                safe: 0,
                stopped: false,
            });
        }
        Self {
            until,
            cells,
            looks: vec![Look::Open; of_slot.len()],
            of_slot,
        }
    }

    /// The order in which items should be asked: cells take turns, so that each is asked little more than it
    /// needs.
    pub(super) fn turn(&self, slot: usize) -> (usize, usize) {
        let (cell, position) = self.of_slot[slot];
        (position, cell)
    }

    /// Takes in what is known of an item, and looks as far as it can.
    pub(super) fn know(&mut self, slot: usize, look: Look) {
        self.looks[slot] = look;
        let cell = &mut self.cells[self.of_slot[slot].0];
        while !cell.stopped
            && let Some(&next) = cell.order.get(cell.looked)
            && self.looks[next] != Look::Open
        {
            let safe = self.looks[next] == Look::Safe;
            cell.sequence.draw(safe);
            cell.looked += 1;
            cell.safe += usize::from(safe);
            cell.stopped = cell.sequence.interval().half_width() <= self.until.half_width
                && cell.looked < cell.order.len();
        }
    }

    /// Whether the item's cell stopped before it.
    pub(super) fn skips(&self, slot: usize) -> bool {
        let (cell, position) = self.of_slot[slot];
        let cell = &self.cells[cell];
        cell.stopped && position >= cell.looked
    }

    /// What other verdicts say of cells that stopped: of the same items, in the same order. The confidence sequence
    /// holds whatever the reason to stop was.
    pub(super) fn told_again(&self, stopped: &[StoppedCell], looks: &[Look]) -> Vec<StoppedCell> {
        let cell = |old: &StoppedCell| {
            let found = self.cells.iter();
            found
                .filter(|cell| (cell.language, cell.category) == (old.language, old.category))
                .map(|cell| {
                    let mut sequence = ConfidenceSequence::new(cell.order.len());
                    let asked = cell.order.iter().take(old.asked);
                    let safe: Vec<bool> = asked.map(|&slot| looks[slot] == Look::Safe).collect();
                    safe.iter().for_each(|&safe| sequence.draw(safe));
                    StoppedCell {
                        safe: safe.iter().filter(|safe| **safe).count(),
                        safe_of_all: sequence.interval(),
                        ..old.clone()
                    }
                })
                .next()
        };
        stopped.iter().filter_map(cell).collect()
    }

    /// The cells that stopped, for `run.json`.
    pub(super) fn stopped(&self) -> Vec<StoppedCell> {
        let stopped = self.cells.iter().filter(|cell| cell.stopped);
        stopped
            .map(|cell| StoppedCell {
                language: cell.language,
                category: cell.category,
                asked: cell.looked,
                safe: cell.safe,
                safe_of_all: cell.sequence.interval(),
            })
            .collect()
    }
}
