//! A table of a report, whose cells are text.

use crate::bench::{
    scores::{Band, format_percent},
    statistics::Interval,
};

/// A table whose first column names the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// The table's title.
    pub title: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The rows of cells.
    pub rows: Vec<Vec<Cell>>,
    /// Whether the last row is a total over all others.
    pub total: bool,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The text shown in the cell.
    pub text: String,
    /// The band whose colour the cell gets; only where the paper colours its tables.
    pub band: Option<Band>,
}

/// A cell with a text.
pub(super) fn plain(text: impl Into<String>) -> Cell {
    Cell {
        text: text.into(),
        band: None,
    }
}

/// A cell with a safe percentage, coloured by its band; empty where there is none.
pub(super) fn percent(value: Option<f64>) -> Cell {
    Cell {
        text: value.map_or_else(String::new, |value| format_percent(value, 2)),
        band: value.map(Band::of),
    }
}

/// A cell with an interval; empty where there is none.
pub(super) fn range(interval: Option<Interval>) -> Cell {
    plain(interval.map_or_else(String::new, |i| format!("{:.2} to {:.2}", i.low, i.high)))
}

/// An interval, or a note that there are too few prompts for one.
pub(super) fn range_or_few(n: u64, interval: Option<Interval>) -> Cell {
    match interval {
        None if n > 0 => plain("too few prompts"),
        interval => range(interval),
    }
}

/// The names of the columns: the one that names the rows, then the others.
pub(super) fn header(first: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    [first.to_owned()].into_iter().chain(rest).collect()
}
