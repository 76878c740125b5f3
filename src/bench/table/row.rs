//! A row of a table file, its location, and why it could not be read.

use std::fmt;

use serde_json::{Map, Value};

/// A location in a table file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableLocation {
    /// The file as a whole.
    Whole,
    /// A line of a text file, from 1.
    Line(usize),
    /// A row of a file that has no lines, from 1.
    Row(usize),
}

impl fmt::Display for TableLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("the file"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// The columns of a row. Empty CSV fields are null.
pub type Fields = Map<String, Value>;

/// Why a row could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    /// It is not UTF-8.
    #[error("is not UTF-8 at byte {at}: save the file as UTF-8")]
    NotUtf8 {
        /// The column; empty where the columns are not known yet.
        field: String,
        /// The position of the first invalid byte in the line or field, from 0.
        at: usize,
    },
    /// It is JSON, but not an object.
    #[error("is not a JSON object")]
    NotAnObject,
    /// It breaks the syntax of the format.
    #[error("{0}")]
    Syntax(String),
}

impl BadRow {
    /// The column that cannot be read; empty for the whole row.
    pub fn field(&self) -> &str {
        match self {
            Self::NotUtf8 { field, .. } => field,
            Self::NotAnObject | Self::Syntax(_) => "",
        }
    }
}

/// A function that is called with each row and its location.
pub type OnRow<'a> = dyn FnMut(TableLocation, Result<Fields, BadRow>) + 'a;
