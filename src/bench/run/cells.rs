//! Stops asking a cell (the items of one language and category) before all of its items are asked: `--until`.
//!
//! Each cell's items have a random order that depends on the items alone. The confidence sequence draws items in that
//! order, and only as far as every item before has a result. So where a cell stops depends on the answers alone and not
//! on the order in which they arrived; answers beyond that point are not used.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::bench::{
    confidence::ConfidenceSequence,
    plan::Plan,
    results::{Label, StoppedCell},
    settings::{Controversial, Until},
    taxonomy::{Category, Language},
};

/// Prefix of the hashed text, so that no other hash of the same seeds gives the same order.
const ORDER_DOMAIN: &str = "babelward-cell-order-v1";

/// What the confidence sequence knows of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// The item has no result yet.
    Open,
    /// The primary guard judged the answer safe.
    Safe,
    /// The verdict is another one, or the item failed for good.
    NotSafe,
}

impl Draw {
    pub(super) fn of(label: Option<Label>, controversial: Controversial) -> Self {
        match label {
            Some(Label::Safe) => Self::Safe,
            Some(Label::Controversial) if controversial == Controversial::Safe => Self::Safe,
            Some(Label::Unsafe | Label::Controversial | Label::Undetermined) | None => Self::NotSafe,
        }
    }
}

#[derive(Debug)]
struct Cell {
    language: Language,
    category: Category,
    /// The cell's slots, in the order in which they are drawn.
    order: Vec<usize>,
    sequence: ConfidenceSequence,
    /// How many slots of the order have been drawn.
    drawn: usize,
    safe: usize,
    stopped: bool,
}

/// All cells of a run, and which of them have stopped.
#[derive(Debug)]
pub(super) struct Cells {
    until: Until,
    cells: Vec<Cell>,
    /// By slot: where it stands in which cell.
    positions: Vec<CellPosition>,
    /// By slot.
    draws: Vec<Draw>,
}

/// Where a slot stands in the random order of its cell.
#[derive(Debug, Clone, Copy, Default)]
struct CellPosition {
    cell: usize,
    position: usize,
}

/// A slot with the hash that decides where it stands in its cell's order.
type RankedSlot = (Vec<u8>, usize);

impl Cells {
    pub(super) fn new(plan: &Plan, seeds: &[u64], until: Until) -> Self {
        let mut slots: BTreeMap<(Language, Category), Vec<RankedSlot>> = BTreeMap::new();
        let with_seeds = plan
            .items
            .iter()
            .flat_map(|item| seeds.iter().map(move |&seed| (item, seed)));
        for (slot, (item, seed)) in with_seeds.enumerate() {
            let text = format!("{ORDER_DOMAIN}\0{}", item.seed(seed));
            let rank = Sha256::digest(text).to_vec();
            let cell = slots.entry((item.key.language, item.category)).or_default();
            cell.push((rank, slot));
        }
        let mut positions = vec![CellPosition::default(); plan.items.len() * seeds.len()];
        let mut cells = Vec::new();
        for ((language, category), mut ranked) in slots {
            ranked.sort();
            for (position, (_, slot)) in ranked.iter().enumerate() {
                let cell = cells.len();
                positions[*slot] = CellPosition { cell, position };
            }
            cells.push(Cell {
                language,
                category,
                sequence: ConfidenceSequence::new(ranked.len()),
                order: ranked.into_iter().map(|(_, slot)| slot).collect(),
                drawn: 0,
                safe: 0,
                stopped: false,
            });
        }
        Self {
            until,
            cells,
            draws: vec![Draw::Open; positions.len()],
            positions,
        }
    }

    /// What open slots are sorted by before they are sent: cells take turns, so that each of them is asked little more
    /// than it needs.
    pub(super) fn sending_rank(&self, slot: usize) -> (usize, usize) {
        let CellPosition { cell, position } = self.positions[slot];
        (position, cell)
    }

    /// Takes in the result of a slot, and draws as many slots of its cell as have results without a gap.
    pub(super) fn update(&mut self, slot: usize, draw: Draw) {
        self.draws[slot] = draw;
        let cell = &mut self.cells[self.positions[slot].cell];
        while !cell.stopped
            && let Some(&next) = cell.order.get(cell.drawn)
            && self.draws[next] != Draw::Open
        {
            let safe = self.draws[next] == Draw::Safe;
            cell.sequence.draw(safe);
            cell.drawn += 1;
            cell.safe += usize::from(safe);
            cell.stopped = cell.sequence.interval().half_width() <= self.until.half_width
                && cell.drawn < cell.order.len();
        }
    }

    /// Whether the slot's cell stopped before the slot was drawn.
    pub(super) fn skips(&self, slot: usize) -> bool {
        let CellPosition { cell, position } = self.positions[slot];
        let cell = &self.cells[cell];
        cell.stopped && position >= cell.drawn
    }

    /// The cells that stopped in another run, with the verdicts of this one on the same items in the same order. A
    /// confidence sequence holds whatever made the other run stop.
    pub(super) fn rejudged(&self, stopped: &[StoppedCell], draws: &[Draw]) -> Vec<StoppedCell> {
        let cell = |old: &StoppedCell| {
            let found = self.cells.iter();
            found
                .filter(|cell| (cell.language, cell.category) == (old.language, old.category))
                .map(|cell| {
                    let mut sequence = ConfidenceSequence::new(cell.order.len());
                    let judged = cell.order.iter().take(old.asked);
                    let safe: Vec<bool> = judged.map(|&slot| draws[slot] == Draw::Safe).collect();
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

    /// The cells that stopped, as `run.json` lists them.
    pub(super) fn stopped(&self) -> Vec<StoppedCell> {
        let stopped = self.cells.iter().filter(|cell| cell.stopped);
        stopped
            .map(|cell| StoppedCell {
                language: cell.language,
                category: cell.category,
                asked: cell.drawn,
                safe: cell.safe,
                safe_of_all: cell.sequence.interval(),
            })
            .collect()
    }
}
