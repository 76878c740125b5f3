//! Which rows of a batch get which low-rank update.

use std::ops::Range;

/// Most rows that share one pass over an update's weights.
const ROWS_PER_TASK: usize = 24;

/// A row of a batch that gets an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UpdatedRow {
    /// Number of the update, which callers choose.
    pub update: usize,
    /// Index of the row in the batch.
    pub row: usize,
}

/// Neighbouring rows of a batch that get the same update, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRun {
    /// Number of the update, if the rows get one.
    pub update: Option<usize>,
    /// Number of rows.
    pub count: usize,
}

/// Which rows of a batch get which update; a row gets one at most.
#[derive(Debug, Default)]
pub struct RowGroups {
    /// Ascending, each row once.
    rows: Vec<UpdatedRow>,
    /// Parts of `rows` with the same update.
    tasks: Vec<Range<usize>>,
    /// Number of rows of the batch.
    batch: usize,
}

impl RowGroups {
    /// Whether no row gets an update.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sets the groups of a batch, which is given as neighbouring runs of rows.
    pub fn set(&mut self, runs: impl Iterator<Item = RowRun>) {
        self.rows.clear();
        self.tasks.clear();
        self.batch = 0;
        for RowRun { update, count } in runs {
            if let Some(update) = update {
                let rows = self.batch..self.batch + count;
                self.rows.extend(rows.map(|row| UpdatedRow { update, row }));
            }
            self.batch += count;
        }
        self.rows.sort_unstable();
        let mut start = 0;
        for group in self.rows.chunk_by(|a, b| a.update == b.update) {
            let end = start + group.len();
            while start < end {
                let next = end.min(start + ROWS_PER_TASK);
                self.tasks.push(start..next);
                start = next;
            }
        }
    }

    /// Number of rows of the batch.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Number of tasks.
    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The rows of a task, at least one. All have the same update.
    pub(super) fn rows_of(&self, task: usize) -> &[UpdatedRow] {
        &self.rows[self.tasks[task].clone()]
    }
}
