//! Problems in a table file: in which row and field they are, and what to do about them.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::table::{BadRow, TableLocation};

/// An error message lists at most this many problems; the rest is counted.
const SHOWN_PROBLEMS: usize = 100;

/// How serious a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but somebody should look at the problem.
    Warning,
}

/// A kind of problem. Each kind of table file has a closed set of kinds.
pub trait Kind: Copy + Serialize {
    /// The kind of a row that cannot be read.
    const UNREADABLE: Self;
    /// The kind of bytes that are not UTF-8.
    const NOT_UTF8: Self;

    /// Whether the file can still be used.
    fn severity(self) -> Severity;

    /// What the user can do about it.
    fn fix(self) -> &'static str;
}

/// One problem in a table file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem<K> {
    /// The kind of problem.
    pub kind: K,
    /// The name of the file; empty when there is only one.
    pub file: String,
    /// The place in the file.
    pub location: TableLocation,
    /// The id of the row, where it has one.
    pub id: Option<String>,
    /// The column; empty when the problem is with the whole row.
    pub field: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

impl<K> fmt::Display for Problem<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}, ", self.file)?;
        }
        let Self {
            location, message, ..
        } = self;
        match self.field.as_str() {
            "" => write!(f, "{location}: {message}"),
            field => write!(f, "{location}, field `{field}`: {message}"),
        }
    }
}

impl<K: Kind> Serialize for Problem<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, row) = match self.location {
            TableLocation::Whole => (None, None),
            TableLocation::Line(line) => (Some(line), None),
            TableLocation::Row(row) => (None, Some(row)),
        };
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut map = serializer.serialize_map(Some(9))?;
        map.serialize_entry("severity", &self.kind.severity())?;
        map.serialize_entry("kind", &self.kind)?;
        map.serialize_entry("file", &text(&self.file))?;
        map.serialize_entry("line", &line)?;
        map.serialize_entry("row", &row)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("field", &text(&self.field))?;
        map.serialize_entry("message", &self.message)?;
        map.serialize_entry("fix", self.kind.fix())?;
        map.end()
    }
}

impl<K: Kind> Problem<K> {
    /// Makes a problem of the only file. An empty `field` means the whole row.
    pub fn new(kind: K, location: TableLocation, id: Option<String>, field: &str, message: String) -> Self {
        Self {
            kind,
            file: String::new(),
            location,
            id,
            field: field.to_owned(),
            message,
        }
    }

    /// Makes the problem of a row that could not be read.
    pub fn from_bad_row(location: TableLocation, bad: &BadRow) -> Self {
        let kind = match bad {
            BadRow::NotUtf8 { .. } => K::NOT_UTF8,
            BadRow::NotAnObject | BadRow::Syntax(_) => K::UNREADABLE,
        };
        Self::new(kind, location, None, bad.field(), bad.to_string())
    }
}

/// The first problems, one in each line. Where there are more, their number and `more_at`, which says where to see them.
pub fn list<K>(problems: &[Problem<K>], more_at: &str) -> String {
    let shown = problems.iter().take(SHOWN_PROBLEMS);
    let mut text: String = shown.map(|problem| format!("\n  {problem}")).collect();
    let more = problems.len().saturating_sub(SHOWN_PROBLEMS);
    if more > 0 {
        text.push_str(&format!("\n  and {more} more ({more_at})"));
    }
    text
}

/// The number of problems in words: `1 problem`, `2 problems`.
pub fn problem_count(problems: usize) -> String {
    match problems {
        1 => "1 problem".to_owned(),
        several => format!("{several} problems"),
    }
}
